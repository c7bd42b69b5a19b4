//! The AWS APIs: secrets, the authorization for ECR's registries, its repositories, the job queue, and the event bus.

mod connector;
pub mod ecr;
mod error;
pub mod events;
#[cfg(feature = "cli")]
pub mod identity;
pub mod images;
pub mod pull_through_cache;
pub mod queue;
pub mod repositories;
pub mod secrets;

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::timeout::TimeoutConfig;

pub use aws_config::SdkConfig;

pub use self::connector::http_client;

/// How long one try of a call may take, and all its tries. The calls are small; one that stalls is better made anew.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
const OPERATION_TIMEOUT: Duration = Duration::from_secs(20);

/// Reads the configuration that Lambda provides in the environment. Calls are sent by `http`, the client of the registries.
///
/// The behaviour is pinned, so that an update of the SDK changes retries and time-outs only when this line does.
pub async fn configuration(http: reqwest::Client) -> SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT)
        .build();
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http_client(http))
        .timeout_config(timeouts)
        .load()
        .await
}
