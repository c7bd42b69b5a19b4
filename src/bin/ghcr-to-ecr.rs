//! Starts the laptop's command. Nothing is decided here.

use std::io;
use std::process::ExitCode;

use ghcr_to_ecr::command;
use tokio::runtime::Builder;

fn main() -> io::Result<ExitCode> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(command::run(std::env::args_os(), environment));
    // The operating system can't be told to give up the look-up of a name. After Ctrl-C nobody waits for it.
    runtime.shutdown_background();
    Ok(status)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the environment"
)]
fn environment(name: &str) -> Option<String> {
    // What is no text is shown to be wrong, not taken to be absent.
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}
