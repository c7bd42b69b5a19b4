//! The event bus that is told of images: one of Amazon EventBridge.
//!
//! What is told is decided elsewhere; here it is sent.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;

use super::error::{api_error, kind, quoted};
use crate::error::{Error, Kind, Result};

/// The most events of one call. (Amazon EventBridge API reference, `PutEvents`)
const BATCH_SIZE: usize = 10;

/// The most bytes of the events in one call; EventBridge takes 256 KB at least, names and types included. (Amazon EventBridge user
/// guide, "Calculating PutEvents event entry size")
const BATCH_BYTES: usize = 240 * 1024;

/// So often the events are sent again that EventBridge failed for a moment, and so long before each time.
const RETRIES: u32 = 2;
const DELAY: Duration = Duration::from_millis(200);

/// What the function calls itself as the `source` of an event.
pub const SOURCE: &str = "ghcr-to-ecr";

/// An event to send.
#[derive(Clone, Debug)]
pub struct Draft {
    /// What happened.
    pub detail_type: &'static str,
    /// A JSON object.
    pub detail: String,
}

impl Draft {
    fn len(&self) -> usize {
        SOURCE.len() + self.detail_type.len() + self.detail.len()
    }
}

/// One bus.
pub struct EventBus {
    client: Client,
    /// Its name or ARN.
    name: String,
}

impl EventBus {
    /// The bus with this name or ARN. Nothing is asked for yet.
    pub fn new(configuration: &SdkConfig, name: String) -> Self {
        EventBus {
            client: Client::new(configuration),
            name,
        }
    }

    /// The longest `detail` of an event, in bytes.
    pub const DETAIL_LIMIT: usize = BATCH_BYTES - 64;

    /// Sends events. A bus that does not exist takes them all the same, and forgets them; see [`EventBus::expect_exists`].
    /// `PutEvents`
    ///
    /// # Errors
    /// [`Error::Api`] for the first that could not be sent; the others are.
    pub async fn put(&self, drafts: &[Draft]) -> Result<()> {
        let mut result = Ok(());
        let mut rest = drafts;
        while !rest.is_empty() {
            let mut bytes = 0;
            let count = rest
                .iter()
                .take(BATCH_SIZE)
                .take_while(|draft| {
                    bytes += draft.len();
                    bytes <= BATCH_BYTES
                })
                .count();
            let (batch, others) = rest.split_at(count.max(1));
            rest = others;
            result = result.and(self.put_batch(batch).await);
        }
        result
    }

    /// That EventBridge did not answer within the time that the caller had for it. Events may have been taken all the same.
    pub fn unanswered(&self) -> Error {
        Error::Api {
            operation: "PutEvents",
            subject: self.name.clone(),
            kind: Kind::Transient,
            detail: "no answer in time".to_owned(),
            advice: "",
            retry_after: None,
        }
    }

    /// A call that EventBridge answers may have events that it fails for a moment. The SDK sends only whole calls again.
    async fn put_batch(&self, drafts: &[Draft]) -> Result<()> {
        let mut left: Vec<&Draft> = drafts.iter().collect();
        let mut tries = 0;
        loop {
            let entries = left.iter().map(|draft| {
                PutEventsRequestEntry::builder()
                    .event_bus_name(&self.name)
                    .source(SOURCE)
                    .detail_type(draft.detail_type)
                    .detail(&draft.detail)
                    .build()
            });
            let request = self
                .client
                .put_events()
                .set_entries(Some(entries.collect()));
            let output = Box::pin(request.send())
                .await
                .map_err(|error| api_error("PutEvents", &self.name, &error, advice))?;
            let results = output.entries.unwrap_or_default();
            let failed: Vec<_> = left
                .iter()
                .zip(&results)
                .filter(|(_, result)| result.error_code.is_some())
                .collect();
            let Some((_, first)) = failed.first() else {
                return Ok(());
            };
            let code = first.error_code.clone().unwrap_or_default();
            let kind = kind(&code, None);
            let may_pass = kind == Kind::Transient;
            if !may_pass || tries == RETRIES {
                return Err(Error::Api {
                    operation: "PutEvents",
                    subject: self.name.clone(),
                    kind,
                    detail: quoted(&code, first.error_message.as_deref()),
                    advice: advice(kind),
                    retry_after: None,
                });
            }
            left = failed.iter().map(|(draft, _)| **draft).collect();
            tries += 1;
            tokio::time::sleep(DELAY).await;
        }
    }

    /// `DescribeEventBus`
    ///
    /// # Errors
    /// [`Error::Api`]: the bus does not exist, or the role may not look at it.
    pub async fn expect_exists(&self) -> Result<()> {
        let request = self.client.describe_event_bus().name(&self.name);
        let described = Box::pin(request.send()).await;
        described
            .map(|_| ())
            .map_err(|error| api_error("DescribeEventBus", &self.name, &error, advice))
    }
}

fn advice(kind: Kind) -> &'static str {
    match kind {
        Kind::Denied => {
            "allow the function's role events:PutEvents and events:DescribeEventBus on the bus"
        }
        Kind::NotFound => "check EVENT_BUS",
        _ => "",
    }
}
