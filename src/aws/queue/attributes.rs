//! How the queues are set up, which nobody needs to know to use them.

use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::Value;

use super::Queue;
use crate::aws::error::api_error;
use crate::error::{Kind, Result};
use crate::kept::Freshness;

/// How long the limit of receives is kept, and how long it is that it could not be learnt.
const LIFETIME: Duration = Duration::from_secs(5 * 60);
const SHORT_LIFETIME: Duration = Duration::from_secs(60);

/// How a queue is set up, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// How long a message that was received stays invisible.
    pub visibility_timeout: Duration,
    /// After how many receives a message is moved to the dead-letter queue; `None` if the queue has none.
    pub max_receive_count: Option<u32>,
}

impl Queue {
    /// The URL of the job queue.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The URL of the dead-letter queue, if there is a setting of it.
    pub fn dead_letter_url(&self) -> Option<&str> {
        self.dead_letter_url.as_deref()
    }

    /// After how many receives SQS gives up a message of the job queue; `None` if it does not, or if that can't be learnt. It is kept
    /// for some minutes.
    pub async fn receive_limit(&self) -> Option<u32> {
        let read = async || match self.attributes(&self.url).await {
            Ok(attributes) => Ok((attributes.max_receive_count, LIFETIME)),
            Err(error) => {
                tracing::info!(%error, "after how many receives the queue gives up is not known");
                Ok((None, SHORT_LIFETIME))
            }
        };
        let limit = self.receive_limit.get(Freshness::Kept, read).await;
        limit.ok().flatten()
    }

    /// How the queue at `url` is set up. `GetQueueAttributes`
    ///
    /// # Errors
    /// [`crate::error::Error::Api`]: the queue does not exist, or the role may not look at it.
    pub async fn attributes(&self, url: &str) -> Result<Attributes> {
        let request = self
            .client
            .get_queue_attributes()
            .queue_url(url)
            .attribute_names(QueueAttributeName::VisibilityTimeout)
            .attribute_names(QueueAttributeName::RedrivePolicy);
        // Boxed, as the SDK's futures are large.
        let output = Box::pin(request.send())
            .await
            .map_err(|error| api_error("GetQueueAttributes", url, &error, advice))?;
        let attributes = output.attributes.unwrap_or_default();
        let text = |name| attributes.get(&name).map(String::as_str);
        let seconds = text(QueueAttributeName::VisibilityTimeout)
            .and_then(|seconds| seconds.parse().ok())
            .unwrap_or_default();
        Ok(Attributes {
            visibility_timeout: Duration::from_secs(seconds),
            max_receive_count: text(QueueAttributeName::RedrivePolicy).and_then(max_receive_count),
        })
    }
}

/// SQS keeps the policy as it was written, with the number as a number or as a text.
fn max_receive_count(policy: &str) -> Option<u32> {
    let policy: Value = serde_json::from_str(policy).ok()?;
    let count = &policy["maxReceiveCount"];
    let number = count.as_u64().and_then(|number| number.try_into().ok());
    number.or_else(|| count.as_str()?.parse().ok())
}

fn advice(kind: Kind) -> &'static str {
    match kind {
        Kind::Denied => "allow the function's role sqs:GetQueueAttributes on the queue",
        Kind::NotFound => "check JOB_QUEUE_URL and DEAD_LETTER_QUEUE_URL",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_a_number_or_a_text() {
        for policy in [r#"{"maxReceiveCount":12}"#, r#"{"maxReceiveCount":"12"}"#] {
            assert_eq!(max_receive_count(policy), Some(12), "{policy}");
        }
        for policy in ["", "{}", r#"{"maxReceiveCount":"many"}"#] {
            assert_eq!(max_receive_count(policy), None, "{policy}");
        }
    }
}
