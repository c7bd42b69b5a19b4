//! Amazon SQS with FIFO queues, and the event source mapping with which Lambda polls them.
//!
//! There is no clock: duplicates are recognised until [`Sqs::forget_deduplication`], and a message that becomes visible again can be
//! received at once, with its visibility timeout recorded. SQS speaks AWS JSON 1.0, and names its errors twice: in `__type`, and in
//! a header as its older protocol did, which SDKs prefer. MD5 sums are left out, since the SDK for Rust ignores them.
//! (Amazon SQS API reference; AWS Lambda developer guide, "Using Lambda with Amazon SQS")

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::http::request::Parts;
use serde_json::{Value, json};

use crate::aws::{denial, frame_error, header};
use crate::function::{ACCOUNT, REGION};
use crate::http::{self, Fault, Reply, Server, lock};

const CONTENT_TYPE: &str = "application/x-amz-json-1.0";

/// The most bytes of a message with its attributes, and of all the messages of one batch.
const SIZE_LIMIT: usize = 1024 * 1024;

/// The most entries of a batch, in either direction.
const BATCH_LIMIT: usize = 10;

/// The longest visibility timeout, in seconds.
const VISIBILITY_LIMIT: i64 = 43_200;

/// All queues of one account. Methods take a queue's name or its URL.
#[derive(Clone)]
pub struct Sqs {
    /// URL, request log and faults; the URL is the one for `AWS_ENDPOINT_URL_SQS`.
    pub server: Server,
    state: Arc<Mutex<State>>,
}

/// A message in a queue, visible or in flight.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub id: String,
    pub body: String,
    pub group: String,
    pub deduplication_id: String,
    /// The message attributes; all are strings.
    pub attributes: BTreeMap<String, String>,
    pub receive_count: u32,
    /// In seconds, as set by `ChangeMessageVisibility` since the message was last received.
    pub visibility_timeout: Option<i32>,
    sequence_number: String,
    sent_at: SystemTime,
    /// From the last receive; `None` unless the message is in flight.
    receipt_handle: Option<String>,
}

#[derive(Default)]
struct State {
    url: String,
    queues: BTreeMap<String, Queue>,
    denied: BTreeSet<String>,
    /// Parts of bodies, how many more batch entries with each will fail, and with which error.
    failing: Vec<(String, usize, &'static str)>,
    /// Messages accepted so far; makes each unique.
    issued: u64,
}

#[derive(Default)]
struct Queue {
    /// Oldest first.
    messages: Vec<Message>,
    /// Message id and sequence number by deduplication id.
    accepted: BTreeMap<String, (String, String)>,
    /// The dead-letter queue, and after how many receives a message is moved to it.
    redrive: Option<(String, u32)>,
    /// In seconds; half a minute where nothing was set.
    visibility_timeout: Option<u32>,
}

/// A message to be sent.
struct Draft {
    body: String,
    group: String,
    deduplication_id: String,
    attributes: BTreeMap<String, String>,
}

struct Refusal {
    kind: &'static str,
    message: String,
}

impl Sqs {
    /// Starts without queues.
    pub async fn start() -> Sqs {
        let state = Arc::new(Mutex::new(State::default()));
        let server = {
            let state = state.clone();
            Server::start(move |request| {
                let state = state.clone();
                async move {
                    let (head, body) = request.into_parts();
                    // A fault may have cut the body short, and then the answer is not sent.
                    let body = body.bytes().await.unwrap_or_default();
                    answer(&head, &body, &mut lock(&state))
                }
            })
            .await
        };
        lock(&state).url = server.url();
        Sqs { server, state }
    }

    /// Creates a FIFO queue, whose name ends in `.fifo`, and returns its URL.
    pub(crate) fn create_queue(&self, name: &str) -> String {
        assert!(
            name.ends_with(".fifo") && name.len() <= 80,
            "the name of a FIFO queue has at most 80 characters and ends in .fifo: {name:?}"
        );
        self.state().queues.entry(name.to_owned()).or_default();
        self.queue_url(name)
    }

    /// As [`Sqs::create_queue`]. A message that fails after `max_receive_count` receives is moved to the queue `dead_letter_name`,
    /// which must exist.
    pub(crate) fn create_queue_with_redrive(
        &self,
        name: &str,
        dead_letter_name: &str,
        max_receive_count: u32,
    ) -> String {
        let url = self.create_queue(name);
        let mut state = self.state();
        let dead_letter_name = last_segment(dead_letter_name).to_owned();
        state.queue(&dead_letter_name);
        let queue = state.queue(name);
        queue.redrive = Some((dead_letter_name, max_receive_count));
        queue.visibility_timeout = Some(1800);
        url
    }

    /// Sets a queue's visibility timeout, in seconds. Messages don't heed it; see the module.
    pub fn set_visibility_timeout(&self, queue: &str, seconds: u32) {
        self.state().queue(queue).visibility_timeout = Some(seconds);
    }

    /// From now on the queue has no dead-letter queue.
    pub fn remove_redrive(&self, queue: &str) {
        self.state().queue(queue).redrive = None;
    }

    /// The URL of a queue, whether it exists or not.
    pub fn queue_url(&self, name: &str) -> String {
        format!("{}/{ACCOUNT}/{name}", self.server.url())
    }

    /// Sends a message without a request, and so without permissions or faults, and returns its id.
    pub fn send(&self, queue: &str, group: &str, body: &str) -> String {
        let mut state = self.state();
        let draft = Draft {
            body: body.to_owned(),
            group: group.to_owned(),
            deduplication_id: format!("test-{}", state.issued),
            attributes: BTreeMap::new(),
        };
        state.send(last_segment(queue), draft).0
    }

    /// The messages in the queue, in flight or not, oldest first.
    pub fn messages(&self, queue: &str) -> Vec<Message> {
        self.state().queue(queue).messages.clone()
    }

    /// Receives up to `size` (1 to 10) of the oldest messages, as Lambda does, and returns the event with them.
    /// `Records` is empty if there is nothing to receive; then Lambda would not invoke the function.
    ///
    /// While a message is in flight, which is until [`Sqs::settle`], no other message of its group can be received.
    pub fn batch(&self, queue: &str, size: usize) -> Value {
        assert!(
            (1..=BATCH_LIMIT).contains(&size),
            "a batch from a FIFO queue has 1 to {BATCH_LIMIT} messages"
        );
        let arn = arn(last_segment(queue));
        let mut state = self.state();
        let messages = &mut state.queue(queue).messages;
        let busy: BTreeSet<String> = messages
            .iter()
            .filter(|message| message.receipt_handle.is_some())
            .map(|message| message.group.clone())
            .collect();
        let records: Vec<Value> = messages
            .iter_mut()
            .filter(|message| !busy.contains(&message.group))
            .take(size)
            .map(|message| message.receive(&arn))
            .collect();
        json!({ "Records": records })
    }

    /// Does with a batch what Lambda does when the function has replied and partial batch responses are enabled: deletes the
    /// messages that are not in `batchItemFailures`, and makes the others visible again. An identifier that is empty, missing or
    /// not of this batch fails the whole batch. An empty, null or missing list is a success.
    /// (AWS Lambda developer guide, "Handling errors for an SQS event source in Lambda")
    pub fn settle(&self, queue: &str, batch: &Value, reply: &Value) {
        let failed = failed_items(batch, reply);
        self.finish(queue, batch, |id| {
            failed.as_ref().is_none_or(|failed| failed.contains(id))
        });
    }

    /// Does with a batch what Lambda does when the invocation failed: makes all messages visible again.
    pub(crate) fn return_batch(&self, queue: &str, batch: &Value) {
        self.finish(queue, batch, |_| true);
    }

    /// Accepts duplicates as new messages from now on, as after the deduplication interval of five minutes.
    pub fn forget_deduplication(&self) {
        for queue in self.state().queues.values_mut() {
            queue.accepted.clear();
        }
    }

    /// From now on the caller has no permission for `action`: `SendMessage`, which includes `SendMessageBatch`,
    /// `ChangeMessageVisibility` or `GetQueueAttributes`.
    pub fn deny(&self, action: &str) {
        self.state().denied.insert(action.to_owned());
    }

    /// Fails the next `times` entries of batches whose body contains `body_part`; the other entries are accepted.
    pub fn fail_entries(&self, body_part: &str, times: usize) {
        self.fail_entries_with("InternalError", body_part, times);
    }

    /// As [`Sqs::fail_entries`], with the error `kind` of the service's model.
    pub fn fail_entries_with(&self, kind: &'static str, body_part: &str, times: usize) {
        let script = (body_part.to_owned(), times, kind);
        self.state().failing.push(script);
    }

    /// From now on no entry fails.
    pub fn fail_no_entries(&self) {
        self.state().failing.clear();
    }

    /// The answer to a caller that sends too many requests.
    pub fn throttling() -> Fault {
        Sqs::refusal("RequestThrottled", "Request is throttled.")
    }

    /// A refusal with the error `kind` of the service's model, such as `KmsThrottled`.
    pub fn refusal(kind: &str, message: &str) -> Fault {
        let (headers, body) = error(kind, message);
        Fault::Status {
            status: 400,
            headers: headers
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            body,
        }
    }

    fn finish(&self, queue: &str, batch: &Value, failed: impl Fn(&str) -> bool) {
        let mut state = self.state();
        let records = batch["Records"].as_array().expect("a batch");
        for record in records {
            let queue = state.queue(queue);
            let position = queue
                .messages
                .iter()
                .position(|message| {
                    record["messageId"] == message.id
                        && message.receipt_handle.as_deref() == record["receiptHandle"].as_str()
                })
                .expect("a batch of this queue that is in flight");
            let message = &mut queue.messages[position];
            message.receipt_handle = None;
            if !failed(&message.id) {
                queue.messages.remove(position);
                continue;
            }
            let received = message.receive_count;
            if let Some((dead_letters, limit)) = queue.redrive.clone()
                && received >= limit
            {
                let message = queue.messages.remove(position);
                state.queue(&dead_letters).messages.push(message);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Message {
    /// Puts the message in flight, and returns its record in the event.
    fn receive(&mut self, queue_arn: &str) -> Value {
        self.receive_count += 1;
        self.visibility_timeout = None;
        let receipt_handle = format!("AQEB/{}/{}==", self.id, self.receive_count);
        let attributes: BTreeMap<_, _> = self
            .attributes
            .iter()
            .map(|(name, value)| {
                let value = json!({
                    "stringValue": value, "stringListValues": [], "binaryListValues": [], "dataType": "String",
                });
                (name, value)
            })
            .collect();
        let sent_at = self.sent_at.duration_since(UNIX_EPOCH);
        let sent_at = sent_at.expect("a time after 1970").as_millis();
        let record = json!({
            "messageId": self.id,
            "receiptHandle": receipt_handle,
            "body": self.body,
            "attributes": {
                "ApproximateReceiveCount": self.receive_count.to_string(),
                "SentTimestamp": sent_at.to_string(),
                "SequenceNumber": self.sequence_number,
                "MessageGroupId": self.group,
                "SenderId": "AROAIWPX5BD2BHG722MW4:ghcr-to-ecr",
                "MessageDeduplicationId": self.deduplication_id,
                "ApproximateFirstReceiveTimestamp": (sent_at + 1).to_string(),
            },
            "messageAttributes": attributes,
            "eventSource": "aws:sqs",
            "eventSourceARN": queue_arn,
            "awsRegion": REGION,
        });
        self.receipt_handle = Some(receipt_handle);
        record
    }
}

/// The ids of the messages that failed according to a reply; `None` if it fails the whole batch.
fn failed_items<'a>(batch: &Value, reply: &'a Value) -> Option<BTreeSet<&'a str>> {
    if !(reply.is_null() || reply.is_object()) {
        return None;
    }
    let failures = match &reply["batchItemFailures"] {
        Value::Null => return Some(BTreeSet::new()),
        failures => failures.as_array()?,
    };
    let sent = batch["Records"].as_array().expect("a batch");
    let known = |id: &&str| sent.iter().any(|record| record["messageId"] == *id);
    failures
        .iter()
        .map(|failure| failure["itemIdentifier"].as_str().filter(known))
        .collect()
}

fn arn(queue: &str) -> String {
    format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}")
}

/// The name of a queue, from its name or URL.
fn last_segment(queue: &str) -> &str {
    queue.rsplit('/').next().unwrap_or(queue)
}

fn answer(head: &Parts, body: &Bytes, state: &mut State) -> Reply {
    let target = header(head, "x-amz-target");
    let operation = match target.strip_prefix("AmazonSQS.") {
        Some(
            operation @ ("SendMessage"
            | "SendMessageBatch"
            | "ChangeMessageVisibility"
            | "GetQueueAttributes"),
        ) => operation,
        _ => {
            let message = format!("The operation {target:?} is not known");
            return refused(&refusal("UnknownOperationException", message));
        }
    };
    if let Some((kind, message)) = frame_error(head, "sqs", CONTENT_TYPE) {
        return refused(&refusal(kind, message));
    }
    let Ok(input) = serde_json::from_slice::<Value>(body) else {
        return refused(&refusal("SerializationException", "the body is not JSON"));
    };
    match state.call(operation, &input) {
        Ok(output) => {
            let headers = [("content-type", CONTENT_TYPE.to_owned())];
            http::reply(200, &headers, output.to_string())
        }
        Err(refusal) => refused(&refusal),
    }
}

impl State {
    fn call(&mut self, operation: &str, input: &Value) -> Result<Value, Refusal> {
        let url = text(input, "QueueUrl")?;
        let Some(queue) = url.strip_prefix(&format!("{}/{ACCOUNT}/", self.url)) else {
            let message = format!("The address {url} is not valid for this endpoint.");
            return Err(refusal("InvalidAddress", message));
        };
        // IAM has no actions for batches.
        let action = operation.trim_end_matches("Batch");
        if self.denied.contains(action) {
            let action = format!("sqs:{}", action.to_lowercase());
            return Err(refusal("AccessDenied", denial(&action, &arn(queue))));
        }
        if !self.queues.contains_key(queue) {
            let message = "The specified queue does not exist.";
            return Err(refusal("QueueDoesNotExist", message));
        }
        match operation {
            "SendMessage" => {
                let (id, sequence_number) = self.send(queue, Draft::of(input)?);
                Ok(json!({ "MessageId": id, "SequenceNumber": sequence_number }))
            }
            "SendMessageBatch" => self.send_batch(queue, input),
            "GetQueueAttributes" => self.attributes(queue, input),
            _ => self.change_visibility(queue, input),
        }
    }

    /// Returns message id and sequence number; those of the earlier message if this is a duplicate.
    fn send(&mut self, queue: &str, draft: Draft) -> (String, String) {
        let number = self.issued + 1;
        let queue = self.queue(queue);
        if let Some(earlier) = queue.accepted.get(&draft.deduplication_id) {
            return earlier.clone();
        }
        let id = format!("5fea7756-0ea4-451a-a703-{number:012}");
        let sequence_number = (18_849_496_460_467_696_128 + 256 * u128::from(number)).to_string();
        let accepted = (id.clone(), sequence_number.clone());
        queue
            .accepted
            .insert(draft.deduplication_id.clone(), accepted.clone());
        queue.messages.push(Message {
            id,
            body: draft.body,
            group: draft.group,
            deduplication_id: draft.deduplication_id,
            attributes: draft.attributes,
            receive_count: 0,
            visibility_timeout: None,
            sequence_number,
            sent_at: SystemTime::now(),
            receipt_handle: None,
        });
        self.issued = number;
        accepted
    }

    fn send_batch(&mut self, queue: &str, input: &Value) -> Result<Value, Refusal> {
        let entries = input["Entries"].as_array().map_or(&[][..], Vec::as_slice);
        if entries.is_empty() {
            let message =
                "There should be at least one SendMessageBatchRequestEntry in the request.";
            return Err(refusal("EmptyBatchRequest", message));
        }
        if entries.len() > BATCH_LIMIT {
            let message = format!(
                "Maximum number of entries per request are {BATCH_LIMIT}. You have sent {}.",
                entries.len()
            );
            return Err(refusal("TooManyEntriesInBatchRequest", message));
        }
        let mut ids = BTreeSet::new();
        for entry in entries {
            let id = text(entry, "Id")?;
            let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            if id.len() > 80 || !id.bytes().all(is_allowed) {
                let message = "A batch entry id can only contain alphanumeric characters, hyphens and underscores. \
                               It can be at most 80 letters long.";
                return Err(refusal("InvalidBatchEntryId", message));
            }
            if !ids.insert(id) {
                let message = format!("Id {id} repeated.");
                return Err(refusal("BatchEntryIdsNotDistinct", message));
            }
        }
        let drafts: Vec<_> = entries.iter().map(Draft::of).collect();
        let size: usize = drafts.iter().flatten().map(Draft::size).sum();
        if size > SIZE_LIMIT {
            let message = format!(
                "Batch requests cannot be longer than {SIZE_LIMIT} bytes. You have sent {size} bytes."
            );
            return Err(refusal("BatchRequestTooLong", message));
        }

        let (mut successful, mut failed) = (Vec::new(), Vec::new());
        for (id, draft) in entries.iter().map(|entry| &entry["Id"]).zip(drafts) {
            let failure = draft.as_ref().ok().and_then(|it| self.failure(&it.body));
            match (draft, failure) {
                // All but a fault of the service counts as the sender's, throttling too.
                (_, Some(kind)) => failed.push(json!({
                    "Id": id, "SenderFault": kind != "InternalError", "Code": query_code(kind),
                    "Message": "We encountered an internal error. Please try again.",
                })),
                (Ok(draft), None) => {
                    let (message_id, sequence_number) = self.send(queue, draft);
                    successful.push(json!({
                        "Id": id, "MessageId": message_id, "SequenceNumber": sequence_number,
                    }));
                }
                (Err(Refusal { kind, message }), None) => failed.push(json!({
                    "Id": id, "SenderFault": true, "Code": query_code(kind), "Message": message,
                })),
            }
        }
        Ok(json!({ "Successful": successful, "Failed": failed }))
    }

    /// The error with which an entry with this body is to fail.
    fn failure(&mut self, body: &str) -> Option<&'static str> {
        let mut scripts = self.failing.iter_mut();
        let (_, times, kind) =
            scripts.find(|(part, times, _)| *times > 0 && body.contains(part.as_str()))?;
        *times -= 1;
        Some(*kind)
    }

    /// Those that are asked for, of the few that are known here. All values are texts.
    fn attributes(&mut self, queue: &str, input: &Value) -> Result<Value, Refusal> {
        let known = [
            "All",
            "QueueArn",
            "VisibilityTimeout",
            "RedrivePolicy",
            "FifoQueue",
        ];
        let names = input["AttributeNames"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
        if let Some(name) = names.iter().find(|name| !known.contains(name)) {
            let message = format!("Unknown Attribute {name}.");
            return Err(refusal("InvalidAttributeName", message));
        }
        let Queue {
            redrive,
            visibility_timeout,
            ..
        } = self.queue(queue);
        let redrive = redrive.as_ref().map(|(dead_letters, count)| {
            json!({"deadLetterTargetArn": arn(dead_letters), "maxReceiveCount": count}).to_string()
        });
        let values = [
            ("QueueArn", Some(arn(queue))),
            (
                "VisibilityTimeout",
                Some(visibility_timeout.unwrap_or(30).to_string()),
            ),
            ("RedrivePolicy", redrive),
            ("FifoQueue", Some("true".to_owned())),
        ];
        let is_asked_for = |name: &str| names.contains(&"All") || names.contains(&name);
        let attributes: BTreeMap<&str, String> = values
            .into_iter()
            .filter(|(name, _)| is_asked_for(name))
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
        Ok(match attributes.is_empty() {
            true => json!({}),
            false => json!({ "Attributes": attributes }),
        })
    }

    fn change_visibility(&mut self, queue: &str, input: &Value) -> Result<Value, Refusal> {
        let receipt_handle = text(input, "ReceiptHandle")?;
        let seconds = match &input["VisibilityTimeout"] {
            Value::Null => return Err(missing("VisibilityTimeout")),
            value => value
                .as_i64()
                .filter(|seconds| (0..=VISIBILITY_LIMIT).contains(seconds)),
        };
        let Some(seconds) = seconds.and_then(|seconds| i32::try_from(seconds).ok()) else {
            let value = &input["VisibilityTimeout"];
            let reason = format!("Must be between 0 and {VISIBILITY_LIMIT}, if provided.");
            return Err(invalid("VisibilityTimeout", &value.to_string(), &reason));
        };
        let id = receipt_handle
            .strip_prefix("AQEB/")
            .and_then(|rest| rest.split_once('/'))
            .map(|(id, _)| id);
        let messages = &mut self.queue(queue).messages;
        let Some(message) = messages
            .iter_mut()
            .find(|message| Some(message.id.as_str()) == id)
        else {
            let message = format!(
                "The input receipt handle \"{receipt_handle}\" is not a valid receipt handle."
            );
            return Err(refusal("ReceiptHandleIsInvalid", message));
        };
        if message.receipt_handle.as_deref() != Some(receipt_handle) {
            let message = "The message referred to isn't in flight.";
            return Err(refusal("MessageNotInflight", message));
        }
        message.visibility_timeout = Some(seconds);
        Ok(json!({}))
    }

    /// A queue that the test created, by name or URL.
    fn queue(&mut self, queue: &str) -> &mut Queue {
        self.queues
            .get_mut(last_segment(queue))
            .unwrap_or_else(|| panic!("there is no queue {queue:?}"))
    }
}

impl Draft {
    fn of(input: &Value) -> Result<Draft, Refusal> {
        let body = text(input, "MessageBody")?.to_owned();
        let group = identifier(input, "MessageGroupId")?.to_owned();
        if input["MessageDeduplicationId"].is_null() {
            let message = "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided explicitly";
            return Err(refusal("InvalidParameterValue", message));
        }
        let deduplication_id = identifier(input, "MessageDeduplicationId")?.to_owned();
        if !matches!(input["DelaySeconds"].as_i64(), None | Some(0)) {
            let reason = "The request include parameter that is not valid for this queue type";
            let value = input["DelaySeconds"].to_string();
            return Err(invalid("DelaySeconds", &value, reason));
        }
        let attributes = match &input["MessageAttributes"] {
            Value::Object(attributes) => attributes
                .iter()
                .map(|(name, attribute)| attribute_of(name, attribute))
                .collect::<Result<BTreeMap<_, _>, _>>()?,
            _ => BTreeMap::new(),
        };
        if attributes.len() > 10 {
            let message = format!(
                "Number of message attributes [{}] exceeds the allowed maximum [10].",
                attributes.len()
            );
            return Err(refusal("InvalidParameterValue", message));
        }
        let draft = Draft {
            body,
            group,
            deduplication_id,
            attributes,
        };
        if !draft.body.chars().all(is_allowed)
            || !draft
                .attributes
                .values()
                .all(|value| value.chars().all(is_allowed))
        {
            let message = "The message contains characters outside the allowed set.";
            return Err(refusal("InvalidMessageContents", message));
        }
        if draft.size() > SIZE_LIMIT {
            let message = format!(
                "One or more parameters are invalid. Reason: Message must be shorter than {SIZE_LIMIT} bytes."
            );
            return Err(refusal("InvalidParameterValue", message));
        }
        Ok(draft)
    }

    /// Bytes of the body, and of the names, types and values of the attributes.
    fn size(&self) -> usize {
        let attributes = self.attributes.iter();
        let attribute_bytes: usize = attributes
            .map(|(name, value)| name.len() + "String".len() + value.len())
            .sum();
        self.body.len() + attribute_bytes
    }
}

/// Name and value of an attribute, which must be a string.
fn attribute_of(name: &str, attribute: &Value) -> Result<(String, String), Refusal> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let lower = name.to_lowercase();
    if !(1..=256).contains(&name.len())
        || !name.bytes().all(is_allowed)
        || name.starts_with('.')
        || name.ends_with('.')
        || name.contains("..")
        || lower.starts_with("aws.")
        || lower.starts_with("amazon.")
    {
        let message = format!("Message (user) attribute name '{name}' is invalid.");
        return Err(refusal("InvalidParameterValue", message));
    }
    let value = attribute["StringValue"].as_str().unwrap_or_default();
    if attribute["DataType"] != "String" || value.is_empty() {
        let message = format!(
            "The message attribute '{name}' must contain a non-empty value of type 'String'."
        );
        return Err(refusal("InvalidParameterValue", message));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Whether SQS allows this character in a message: those of XML.
fn is_allowed(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..)
}

/// A field that must be a text, and not empty.
fn text<'a>(input: &'a Value, name: &str) -> Result<&'a str, Refusal> {
    input[name]
        .as_str()
        .filter(|text| !text.is_empty())
        .ok_or_else(|| missing(name))
}

/// A field with the id of a group or for deduplication.
fn identifier<'a>(input: &'a Value, name: &str) -> Result<&'a str, Refusal> {
    let value = text(input, name)?;
    if value.len() > 128 || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        let reason = format!(
            "{name} can only include alphanumeric and punctuation characters. 1 to 128 in length."
        );
        return Err(invalid(name, value, &reason));
    }
    Ok(value)
}

fn missing(name: &str) -> Refusal {
    let message = format!("The request must contain the parameter {name}.");
    refusal("MissingParameter", message)
}

fn invalid(name: &str, value: &str, reason: &str) -> Refusal {
    let message = format!("Value {value} for parameter {name} is invalid. Reason: {reason}");
    refusal("InvalidParameterValue", message)
}

fn refusal(kind: &'static str, message: impl Into<String>) -> Refusal {
    let message = message.into();
    Refusal { kind, message }
}

fn refused(refusal: &Refusal) -> Reply {
    let status = if refusal.kind == "AccessDenied" {
        403
    } else {
        400
    };
    let (headers, body) = error(refusal.kind, &refusal.message);
    http::reply(status, &headers, body)
}

fn error(kind: &str, message: &str) -> ([(&'static str, String); 2], String) {
    let headers = [
        ("content-type", CONTENT_TYPE.to_owned()),
        ("x-amzn-query-error", format!("{};Sender", query_code(kind))),
    ];
    let body = json!({ "__type": format!("com.amazonaws.sqs#{kind}"), "message": message });
    (headers, body.to_string())
}

/// An error's code in the older protocol.
fn query_code(kind: &str) -> String {
    match kind {
        "QueueDoesNotExist" => "AWS.SimpleQueueService.NonExistentQueue".to_owned(),
        "EmptyBatchRequest"
        | "TooManyEntriesInBatchRequest"
        | "BatchEntryIdsNotDistinct"
        | "InvalidBatchEntryId"
        | "BatchRequestTooLong"
        | "MessageNotInflight" => format!("AWS.SimpleQueueService.{kind}"),
        "KmsThrottled" => "KMS.ThrottlingException".to_owned(),
        "KmsAccessDenied" => "KMS.AccessDeniedException".to_owned(),
        "KmsDisabled" => "KMS.DisabledException".to_owned(),
        _ => kind.to_owned(),
    }
}
