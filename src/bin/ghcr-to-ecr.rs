//! Starts the laptop's command. Nothing is decided here.

use std::process::ExitCode;

use ghcr_to_ecr::command;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    command::run(std::env::args_os(), environment).await
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the environment"
)]
fn environment(name: &str) -> Option<String> {
    // What is no text is shown to be wrong, not taken to be absent.
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}
