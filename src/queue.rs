//! Jobs to and from the SQS FIFO queue.
//!
//! Jobs with the same references share a message group, so that one tag is never written by two copies at once. A message that
//! has failed comes back after a while that grows; one that can never succeed goes to the dead-letter queue with its reason.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{MessageAttributeValue, SendMessageBatchRequestEntry};
use serde_json::{Value, json};

use crate::error::{Error, Kind, Result};
use crate::job::{Job, on_host};
use crate::manifest::Digest;
use crate::sdk::api_error;

/// The most that SQS takes in one call.
const BATCH_SIZE: usize = 10;

/// How long a failed message stays out of sight: the first time, and at most. The queue's own visibility timeout is as long as the
/// function may run, and would hold up the whole message group for that long.
const FIRST_BACKOFF: Duration = Duration::from_secs(15);
const LONGEST_BACKOFF: Duration = Duration::from_secs(15 * 60);

/// The job queue, and where what can never succeed goes.
pub struct Queue {
    client: Client,
    url: String,
    dead_letter_url: Option<String>,
}

/// A message as Lambda hands it over.
#[derive(Clone, Debug)]
pub struct Message {
    /// SQS's id of it, by which a failure is reported.
    pub id: String,
    /// What it is changed by.
    pub receipt_handle: String,
    /// A direct event.
    pub body: String,
    /// Messages of one group are worked off one after the other.
    pub group: String,
    /// How often it was received, this time included.
    pub receive_count: u32,
}

impl Queue {
    /// The queue at `url`.
    pub fn new(configuration: &SdkConfig, url: String, dead_letter_url: Option<String>) -> Self {
        Queue {
            client: Client::new(configuration),
            url,
            dead_letter_url,
        }
    }

    /// Hands jobs over. `cause` tells one delivery from another: the same job for the same cause is taken once in five minutes.
    ///
    /// Gives a result for each job, in their order.
    pub async fn send(&self, jobs: &[Job], cause: &str) -> Vec<Result<()>> {
        let mut results = Vec::new();
        for batch in jobs.chunks(BATCH_SIZE) {
            results.extend(self.send_batch(batch, cause).await);
        }
        results
    }

    async fn send_batch(&self, jobs: &[Job], cause: &str) -> Vec<Result<()>> {
        let entry = |(position, job): (usize, &Job)| {
            SendMessageBatchRequestEntry::builder()
                .id(position.to_string())
                .message_body(body(job).to_string())
                .message_group_id(group(job))
                .message_deduplication_id(identifier(&[&body(job).to_string(), cause]))
                .build()
                .map_err(|error| Error::Internal(error.to_string()))
        };
        let entries: Result<Vec<_>> = jobs.iter().enumerate().map(entry).collect();
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => return jobs.iter().map(|_| Err(error.clone())).collect(),
        };
        let request = self.client.send_message_batch().queue_url(&self.url);
        let output = match request.set_entries(Some(entries)).send().await {
            Ok(output) => output,
            Err(error) => {
                let failed = |_| Err(api_error("SendMessage", &self.url, &error, advice));
                return jobs.iter().map(failed).collect();
            }
        };
        let failure = |position: usize| {
            let entry = output
                .failed
                .iter()
                .find(|entry| entry.id == position.to_string());
            match entry {
                None => Ok(()),
                Some(entry) => Err(Error::Api {
                    operation: "SendMessage",
                    subject: self.url.clone(),
                    kind: if entry.sender_fault {
                        Kind::Invalid
                    } else {
                        Kind::Transient
                    },
                    detail: format!(
                        "{}: {}",
                        entry.code,
                        entry.message.as_deref().unwrap_or_default()
                    ),
                    advice: "",
                }),
            }
        };
        (0..jobs.len()).map(failure).collect()
    }

    /// Puts a message out of sight for a while that doubles with each time it was received, with jitter.
    ///
    /// # Errors
    /// [`Error::Api`]; the queue's own visibility timeout holds then.
    pub async fn back_off(&self, message: &Message) -> Result<()> {
        let doublings = message.receive_count.saturating_sub(1).min(16);
        let longest = (FIRST_BACKOFF * 2u32.pow(doublings)).min(LONGEST_BACKOFF);
        let seconds =
            longest.as_secs() / 2 + jitter(&message.receipt_handle, longest.as_secs() / 2);
        let request = self.client.change_message_visibility().queue_url(&self.url);
        let request = request.receipt_handle(&message.receipt_handle);
        match request.visibility_timeout(seconds as i32).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(api_error(
                "ChangeMessageVisibility",
                &self.url,
                &error,
                advice,
            )),
        }
    }

    /// Sends the rest of a copy that was cut off as a message of its own, behind what waits in its group. Only for a copy that came
    /// further: one that does not must run out of tries.
    ///
    /// # Errors
    /// [`Error::Api`]; the message itself must come back then.
    pub async fn continue_later(&self, message: &Message) -> Result<()> {
        let count = message.receive_count.to_string();
        let request = self.client.send_message().queue_url(&self.url);
        let request = request
            .message_body(&message.body)
            .message_group_id(&message.group)
            .message_deduplication_id(identifier(&[&message.id, &count, "continued"]));
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(api_error("SendMessage", &self.url, &error, advice)),
        }
    }

    /// Moves a message that can never succeed to the dead-letter queue, with the reason in its attributes `error` and
    /// `error_kind`. Without such a queue it says so with `false`, and the message must run out of tries.
    ///
    /// # Errors
    /// [`Error::Api`]; the message itself must come back then.
    pub async fn give_up(&self, message: &Message, error: &Error) -> Result<bool> {
        let Some(url) = &self.dead_letter_url else {
            return Ok(false);
        };
        let attribute = |value: String| {
            MessageAttributeValue::builder()
                .data_type("String")
                .string_value(value)
                .build()
                .map_err(|error| Error::Internal(error.to_string()))
        };
        let request = self.client.send_message().queue_url(url);
        let request = request
            .message_body(&message.body)
            .message_group_id(&message.group)
            .message_deduplication_id(identifier(&[&message.id, "given up"]))
            .message_attributes("error", attribute(error.to_string())?)
            .message_attributes("error_kind", attribute(error.kind().to_string())?);
        match request.send().await {
            Ok(_) => Ok(true),
            Err(error) => Err(api_error("SendMessage", url, &error, advice)),
        }
    }
}

/// The direct event that stands for a job, in which `ghcr.io` is the configured source registry, whatever its host is. The token is found through the rule again; nothing secret is in a message.
fn body(job: &Job) -> Value {
    let mut body = json!({
        "source": on_host(&job.source, "ghcr.io").to_string(),
        "destination": job.destination.to_string(),
    });
    for (name, value) in [("all_tags", job.all_tags), ("force", job.force)] {
        if value {
            body[name] = json!(true);
        }
    }
    body
}

/// One tag of one package to one tag of one repository. A digest beside the tag does not count.
fn group(job: &Job) -> String {
    let source = format!("{}:{}", job.source.repository(), job.source_tag_or_digest());
    identifier(&[&source, &job.destination.to_string()])
}

/// 64 characters that stand for texts of any length: a group or de-duplication id has at most 128, and not every character.
fn identifier(parts: &[&str]) -> String {
    let digest = Digest::of(parts.join("\n").as_bytes());
    digest.as_str().trim_start_matches("sha256:").to_owned()
}

/// A number from 0 to `limit` that differs from message to message; it need not be unpredictable.
fn jitter(seed: &str, limit: u64) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
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
