//! The job queue, which is an SQS FIFO queue, and its dead-letter queue.
//!
//! A message that failed for a passing reason comes back after a while that grows; one that can never succeed goes to the
//! dead-letter queue with its reason. What becomes of a message is decided by the worker; here it is carried out.

mod attributes;

use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{MessageAttributeValue, SendMessageBatchRequestEntry};

pub use self::attributes::Attributes;
use super::error::{api_error, kind};
use crate::error::{Error, Kind, Result};
use crate::kept::Kept;
use crate::manifest::Digest;

/// The most that SQS takes in one call.
pub const BATCH_SIZE: usize = 10;

/// How long a failed message stays invisible: the first time, and at most. The queue's own visibility timeout is longer than
/// the function may run, and would hold up the whole message group for that long.
const FIRST_BACKOFF: Duration = Duration::from_secs(15);
const LONGEST_BACKOFF: Duration = Duration::from_secs(15 * 60);

/// The longest visibility timeout of SQS is twelve hours from the receive, and a longer one is refused; an hour of them is left for
/// the time that the message was worked on. (Amazon SQS developer guide, "Visibility timeout")
const LONGEST_INVISIBILITY: Duration = Duration::from_secs(11 * 60 * 60);

/// So often the entries of a batch are sent again that SQS failed for a moment, and so long before each time.
const ENTRY_RETRIES: u32 = 2;
const ENTRY_DELAY: Duration = Duration::from_millis(200);

/// The most bytes of a message with its attributes. (Amazon SQS developer guide, "Message quotas")
const MESSAGE_LIMIT: usize = 1024 * 1024;

/// The attribute of a renewed message that says when the first one was sent, in milliseconds since 1970 as SQS itself does.
pub const FIRST_SENT_AT: &str = "first_sent_at";

/// More bytes than that attribute has.
const FIRST_SENT_AT_FRAME: usize = 64;

/// As many bytes as names and types of a dead letter's attributes have, and the longest kind.
const ATTRIBUTES_FRAME: usize = "error".len() + "error_kind".len() + 2 * "String".len() + 9;

/// The most characters of an error that goes with a dead letter.
const LONGEST_ATTRIBUTE: usize = 2000;

/// The job queue, and where what can never succeed goes.
pub struct Queue {
    client: Client,
    url: String,
    dead_letter_url: Option<String>,
    receive_limit: Kept<Option<u32>>,
}

/// A message to send.
#[derive(Clone, Debug)]
pub struct Draft {
    /// A direct event.
    pub body: String,
    /// Messages of one group are processed one after the other.
    pub group: String,
}

/// A message as Lambda delivers it.
#[derive(Clone, Debug)]
pub struct Message {
    /// SQS's id for it, by which a failure is reported.
    pub id: String,
    /// What SQS needs to change its visibility.
    pub receipt_handle: String,
    /// A direct event.
    pub body: String,
    /// Messages of one group are processed one after the other.
    pub group: String,
    /// How often it was received, this time included.
    pub receive_count: u32,
    /// When it was sent, if SQS says so; if it was renewed, when the first of them was.
    pub sent_at: Option<SystemTime>,
}

impl Message {
    /// How long the message stays invisible after a failure: a while that doubles with each time it was received, with jitter, or
    /// as long as somebody asked not to be called.
    pub fn backoff(&self, retry_after: Option<Duration>) -> Duration {
        let doublings = self.receive_count.saturating_sub(1).min(16);
        let longest = (FIRST_BACKOFF * 2u32.pow(doublings))
            .min(LONGEST_BACKOFF)
            .as_secs();
        let seconds = longest / 2 + jitter(&self.receipt_handle, longest / 2);
        let asked_for = retry_after.unwrap_or_default().min(LONGEST_INVISIBILITY);
        Duration::from_secs(seconds).max(asked_for)
    }
}

impl Queue {
    /// The queue at `url`.
    pub fn new(configuration: &SdkConfig, url: String, dead_letter_url: Option<String>) -> Self {
        Queue {
            client: Client::new(configuration),
            url,
            dead_letter_url,
            receive_limit: Kept::default(),
        }
    }

    /// Sends messages. `nonce` tells one invocation from another: SQS takes the same message with the same nonce once in five minutes,
    /// so that a call that is repeated because its answer was lost does no harm, and a job that is asked for again is not dropped.
    ///
    /// Gives a result for each message, in their order.
    pub async fn send(&self, messages: &[Draft], nonce: &str) -> Vec<Result<()>> {
        let mut results = Vec::new();
        for batch in messages.chunks(BATCH_SIZE) {
            results.extend(self.send_entries(batch, nonce).await);
        }
        results
    }

    /// A batch that SQS takes may have entries that it fails for a moment. The SDK sends only whole calls again.
    async fn send_entries(&self, messages: &[Draft], nonce: &str) -> Vec<Result<()>> {
        let all = |error: Error| messages.iter().map(|_| Err(error.clone())).collect();
        // Boxed, as the SDK's futures are large, and in several others.
        let mut results: Vec<Result<()>> = match Box::pin(self.send_batch(messages, nonce)).await {
            Ok(results) => results,
            Err(error) => return all(error),
        };
        for round in 0..ENTRY_RETRIES {
            let is_left = |result: &Result<()>| matches!(result, Err(error) if error.kind() == Kind::Transient);
            let left: Vec<usize> = (0..messages.len())
                .filter(|position| is_left(&results[*position]))
                .collect();
            if left.is_empty() {
                break;
            }
            tokio::time::sleep(ENTRY_DELAY * 2u32.pow(round)).await;
            let drafts: Vec<Draft> = left
                .iter()
                .map(|position| messages[*position].clone())
                .collect();
            let Ok(again) = Box::pin(self.send_batch(&drafts, nonce)).await else {
                break;
            };
            for (position, result) in left.into_iter().zip(again) {
                results[position] = result;
            }
        }
        results
    }

    async fn send_batch(&self, messages: &[Draft], nonce: &str) -> Result<Vec<Result<()>>> {
        let entry = |(position, message): (usize, &Draft)| {
            SendMessageBatchRequestEntry::builder()
                .id(position.to_string())
                .message_body(&message.body)
                .message_group_id(&message.group)
                .message_deduplication_id(identifier(&[&message.body, nonce]))
                .build()
                .map_err(|error| Error::Internal(error.to_string()))
        };
        let entries: Vec<_> = messages
            .iter()
            .enumerate()
            .map(entry)
            .collect::<Result<_>>()?;
        let request = self.client.send_message_batch().queue_url(&self.url);
        let output = match request.set_entries(Some(entries)).send().await {
            Ok(output) => output,
            Err(error) => return Err(api_error("SendMessage", &self.url, &error, advice)),
        };
        let is_sent = |position: usize| {
            let position = position.to_string();
            if let Some(entry) = output.failed.iter().find(|entry| entry.id == position) {
                // Throttling counts as the sender's fault too. (async-aws/aws#1227)
                let kind = match entry.sender_fault {
                    true => kind(&entry.code, None),
                    false => Kind::Transient,
                };
                let message = entry.message.as_deref().unwrap_or_default();
                return Err(self.failure(kind, format!("{}: {message}", entry.code)));
            }
            match output.successful.iter().any(|entry| entry.id == position) {
                true => Ok(()),
                false => Err(self.failure(
                    Kind::Transient,
                    "the answer says nothing of the message".to_owned(),
                )),
            }
        };
        Ok((0..messages.len()).map(is_sent).collect())
    }

    fn failure(&self, kind: Kind, detail: String) -> Error {
        Error::Api {
            operation: "SendMessage",
            subject: self.url.clone(),
            kind,
            detail,
            advice: advice(kind),
            retry_after: None,
        }
    }

    /// Makes a message invisible for `delay`.
    ///
    /// # Errors
    /// [`Error::Api`]; the queue's own visibility timeout holds then.
    pub async fn postpone(&self, message: &Message, delay: Duration) -> Result<()> {
        let seconds = i32::try_from(delay.as_secs()).unwrap_or(i32::MAX);
        let request = self.client.change_message_visibility().queue_url(&self.url);
        let request = request.receipt_handle(&message.receipt_handle);
        match Box::pin(request.visibility_timeout(seconds).send()).await {
            Ok(_) => Ok(()),
            Err(error) => Err(api_error(
                "ChangeMessageVisibility",
                &self.url,
                &error,
                advice,
            )),
        }
    }

    /// Sends a message anew, with all its receives before it, behind what waits in its group: the rest of a copy that was cut off.
    /// Only for a copy that came further: one that does not must run out of receives.
    ///
    /// # Errors
    /// [`Error::Api`]; the message itself must come back then.
    pub async fn renew(&self, message: &Message) -> Result<()> {
        let count = message.receive_count.to_string();
        let request = self.client.send_message().queue_url(&self.url);
        let request = request
            .message_body(&message.body)
            .message_group_id(&message.group)
            .message_deduplication_id(identifier(&[&message.id, &count, "renewed"]));
        let has_room = message.body.len() + FIRST_SENT_AT_FRAME <= MESSAGE_LIMIT;
        let request = match message.sent_at.filter(|_| has_room) {
            Some(at) => {
                let since = at
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default();
                let text = since.as_millis().to_string();
                request.message_attributes(FIRST_SENT_AT, attribute(&text)?)
            }
            None => request,
        };
        match Box::pin(request.send()).await {
            Ok(_) => Ok(()),
            Err(error) => Err(api_error("SendMessage", &self.url, &error, advice)),
        }
    }

    /// Sends `body`, what is left of a message that can never succeed, to the dead-letter queue, with the reason in its attributes
    /// `error` and `error_kind`. Without such a queue it answers `false`, and the message must run out of receives.
    ///
    /// # Errors
    /// [`Error::Api`]; the message itself must come back then.
    pub async fn dead_letter(&self, message: &Message, body: &str, error: &Error) -> Result<bool> {
        let Some(url) = &self.dead_letter_url else {
            return Ok(false);
        };
        let room = MESSAGE_LIMIT.saturating_sub(body.len());
        let request = self.client.send_message().queue_url(url);
        let request = request
            .message_body(body)
            .message_group_id(&message.group)
            .message_deduplication_id(identifier(&[&message.id, "dead letter"]));
        let text = attribute_text(&error.to_string(), room.saturating_sub(ATTRIBUTES_FRAME));
        // Beside a body that takes all the room the reason is in the log alone.
        let request = match text.is_empty() {
            true => request,
            false => request
                .message_attributes("error", attribute(&text)?)
                .message_attributes("error_kind", attribute(&error.kind().to_string())?),
        };
        match Box::pin(request.send()).await {
            Ok(_) => Ok(true),
            Err(error) => Err(api_error("SendMessage", url, &error, advice)),
        }
    }
}

fn attribute(value: &str) -> Result<MessageAttributeValue> {
    MessageAttributeValue::builder()
        .data_type("String")
        .string_value(value)
        .build()
        .map_err(|error| Error::Internal(error.to_string()))
}

/// The text of an attribute: SQS refuses a message with characters that XML does not have, and a long one beside a long body.
/// (Amazon SQS API reference, `SendMessage`)
fn attribute_text(text: &str, room: usize) -> String {
    let mut bytes = 0;
    text.chars()
        .take(LONGEST_ATTRIBUTE)
        .take_while(|character| {
            // A control character becomes a space; no other one grows.
            bytes += character.len_utf8();
            bytes <= room
        })
        .map(|character| match character {
            '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
            character if character.is_control() => ' ',
            character => character,
        })
        .collect()
}

/// 64 characters that stand for texts of any length: a group or de-duplication id has at most 128, and not every character.
fn identifier(parts: &[&str]) -> String {
    Digest::of(parts.join("\n").as_bytes()).encoded()
}

/// A number from 0 to `limit` that differs from message to message; it need not be unpredictable.
fn jitter(seed: &str, limit: u64) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default().subsec_nanos();
    let digits = identifier(&[seed, &now.to_string()]);
    u64::from_str_radix(&digits[..8], 16).unwrap_or_default() % (limit + 1)
}

fn advice(kind: Kind) -> &'static str {
    match kind {
        Kind::Denied => {
            "allow the function's role sqs:SendMessage and sqs:ChangeMessageVisibility on the queue"
        }
        Kind::NotFound => "check JOB_QUEUE_URL and DEAD_LETTER_QUEUE_URL",
        _ => "",
    }
}
