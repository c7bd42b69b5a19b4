//! Messages of SQS, as Lambda's event source mapping delivers them, and the reply that says which of them failed.

use std::time::{Duration, SystemTime};

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use serde_json::Value;

use crate::aws::queue::{FIRST_SENT_AT, Message};
use crate::error::{Error, Result};

/// The messages of a batch. Their bodies are parsed later, so that one that can't be parsed fails alone.
pub(super) fn read(payload: Value) -> Result<Vec<Message>> {
    let but = |reason: &str| Error::Event(format!("`Records`, but {reason}"));
    let event: SqsEvent =
        serde_json::from_value(payload).map_err(|error| but(&error.to_string()))?;
    event
        .records
        .into_iter()
        .map(|record| {
            if record.event_source.as_deref() != Some("aws:sqs") {
                return Err(but("not every `eventSource` is `aws:sqs`"));
            }
            message(record).ok_or_else(|| but("one has no `messageId` or `receiptHandle`"))
        })
        .collect()
}

fn message(record: SqsMessage) -> Option<Message> {
    let attribute = |name: &str| record.attributes.get(name).cloned();
    let first_sent_at = record.message_attributes.get(FIRST_SENT_AT);
    let first_sent_at = first_sent_at.and_then(|value| value.string_value.clone());
    let id = record.message_id.clone().filter(|id| !id.is_empty())?;
    Some(Message {
        // A standard queue has no groups: each message is one.
        group: attribute("MessageGroupId").unwrap_or_else(|| id.clone()),
        receive_count: attribute("ApproximateReceiveCount")
            .and_then(|count| count.parse().ok())
            .unwrap_or(1),
        sent_at: first_sent_at
            .or_else(|| attribute("SentTimestamp"))
            .and_then(|at| sent_at(&at)),
        receipt_handle: record.receipt_handle?,
        body: record.body.unwrap_or_default(),
        id,
    })
}

/// SQS counts in milliseconds since 1970. (Amazon SQS API reference, `ReceiveMessage`)
fn sent_at(milliseconds: &str) -> Option<SystemTime> {
    let since = Duration::from_millis(milliseconds.parse().ok()?);
    SystemTime::UNIX_EPOCH.checked_add(since)
}

/// The reply that lets Lambda delete all messages of the batch but those with these ids.
///
/// # Errors
/// [`Error::Internal`] if it can't be written.
pub fn batch_reply(failed: Vec<String>) -> Result<Value> {
    let mut response = SqsBatchResponse::default();
    for id in failed {
        response.add_failure(id);
    }
    serde_json::to_value(response).map_err(|error| Error::Internal(error.to_string()))
}
