//! Starts the process: logging, settings, clients, runtime loop. Nothing is decided here.

use ghcr_to_ecr::aws;
use ghcr_to_ecr::clients::Clients;
use ghcr_to_ecr::config::Settings;
use ghcr_to_ecr::error::Error;
use ghcr_to_ecr::handler::App;
use ghcr_to_ecr::logging::{JsonLines, TextLines, read_level};
use ghcr_to_ecr::metrics;
use ghcr_to_ecr::registry;
use lambda_runtime::tracing::subscriber::{
    filter::{LevelFilter, Targets},
    fmt::{self, format::JsonFields},
    prelude::*,
};
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    start_logging();
    let app = match start().await {
        Ok(app) => app,
        Err(error) => return refuse_to_start(error).await,
    };
    let handle = |event: LambdaEvent<Value>| app.handle(event);
    lambda_runtime::run(service_fn(handle)).await
}

async fn start() -> Result<App, Error> {
    let settings = Settings::read(environment)?;
    let http = registry::client()?;
    let configuration = aws::configuration(http.clone()).await;
    let clients = Clients::new(settings, http, &configuration).await?;
    Ok(App { clients })
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the environment"
)]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Logs to standard output as Lambda's logging controls say. Other crates are never asked for more than warnings: at their finest
/// level some would print headers and payloads.
fn start_logging() {
    let level = environment("AWS_LAMBDA_LOG_LEVEL").and_then(|level| read_level(&level));
    let levels = Targets::new()
        .with_default(level.map_or(LevelFilter::WARN, |level| level.min(LevelFilter::WARN)))
        .with_target("lambda_runtime", LevelFilter::INFO)
        .with_target("ghcr_to_ecr", level.unwrap_or(LevelFilter::INFO))
        .with_target(metrics::TARGET, LevelFilter::ERROR);
    let registry = lambda_runtime::tracing::subscriber::registry().with(levels);
    match environment("AWS_LAMBDA_LOG_FORMAT").as_deref() {
        Some("JSON") => {
            let lines = fmt::layer().fmt_fields(JsonFields::new());
            registry.with(lines.event_format(JsonLines)).init();
        }
        _ => {
            let lines = fmt::layer().with_ansi(false);
            registry
                .with(lines.event_format(TextLines::default()))
                .init();
        }
    }
}

/// Says through the runtime API why the function can't start, so that the person who invokes it sees the sentence and not only
/// `Runtime.ExitError`. (Lambda documentation, "Initialization error")
async fn refuse_to_start(error: Error) -> Result<(), lambda_runtime::Error> {
    lambda_runtime::tracing::error!(%error, "the function can't start");
    let diagnostic = Diagnostic {
        error_type: error.kind().to_string(),
        error_message: error.to_string(),
    };
    if let Some(api) = environment("AWS_LAMBDA_RUNTIME_API") {
        // Lambda's runtime API is on this machine.
        reqwest::Client::builder()
            .no_proxy()
            .build()?
            .post(format!("http://{api}/2018-06-01/runtime/init/error"))
            .header("Lambda-Runtime-Function-Error-Type", &diagnostic.error_type)
            .body(serde_json::to_string(&diagnostic)?)
            .send()
            .await?;
    }
    Err(diagnostic.error_message.into())
}
