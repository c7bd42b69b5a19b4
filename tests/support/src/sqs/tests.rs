use super::*;
use crate::http::client::send;

const QUEUE: &str = "jobs.fifo";
const DEAD_LETTERS: &str = "dead-letters.fifo";

const VALUE: &str = "InvalidParameterValue";
const CONTENTS: &str = "InvalidMessageContents";

/// SQS with a queue that moves a message to the dead-letter queue after two receives.
async fn queues() -> Sqs {
    let sqs = Sqs::start().await;
    sqs.create_queue(DEAD_LETTERS);
    sqs.create_queue_with_redrive(QUEUE, DEAD_LETTERS, 2);
    sqs
}

/// The error code, empty if there is none, and the body of the answer to a signed call.
async fn call(sqs: &Sqs, operation: &str, input: Value) -> (String, Value) {
    let scope = "AKIA/20261121/eu-west-3/sqs/aws4_request";
    let signature = format!("AWS4-HMAC-SHA256 Credential={scope}, Signature=0");
    let target = format!("AmazonSQS.{operation}");
    let headers = [
        ("content-type", CONTENT_TYPE),
        ("x-amz-target", &target),
        ("authorization", &signature),
    ];
    let url = sqs.server.url();
    let answer = send("POST", &url, &headers, input.to_string());
    let answer = answer.await.expect("an answer");
    let code = answer.header("x-amzn-query-error");
    let code = code.rsplit('.').next().unwrap_or_default();
    (code.trim_end_matches(";Sender").to_owned(), answer.json())
}

/// A message for the queue, with another value for one field.
fn message(sqs: &Sqs, field: &str, value: Value) -> Value {
    let mut message = json!({
        "QueueUrl": sqs.queue_url(QUEUE), "MessageBody": "{}", "MessageGroupId": "group", "MessageDeduplicationId": "1",
    });
    message[field] = value;
    message
}

/// The ids of the messages in a batch.
fn ids(batch: &Value) -> Vec<&str> {
    let records = batch["Records"].as_array().expect("records");
    records
        .iter()
        .filter_map(|record| record["messageId"].as_str())
        .collect()
}

#[tokio::test]
async fn a_duplicate_is_accepted_and_not_enqueued_even_after_the_first_was_deleted() {
    let sqs = queues().await;
    let message = message(&sqs, "x", json!(null));
    let send = async || call(&sqs, "SendMessage", message.clone()).await.1;
    assert_eq!(send().await["MessageId"], send().await["MessageId"]);
    sqs.settle(QUEUE, &sqs.batch(QUEUE, 1), &Value::Null);
    send().await;
    assert!(sqs.messages(QUEUE).is_empty());
    sqs.forget_deduplication();
    send().await;
    assert_eq!(sqs.messages(QUEUE).len(), 1);
}

#[tokio::test]
async fn messages_and_batches_that_sqs_would_refuse_are_refused() {
    let sqs = queues().await;
    let attribute = |name: &str, value: &str| {
        let value = json!({"DataType": "String", "StringValue": value});
        json!({name: value})
    };
    let long = |length: usize| json!("x".repeat(length));
    for (name, value, code) in [
        ("QueueUrl", json!("http://x/jobs.fifo"), "InvalidAddress"),
        ("QueueUrl", json!(sqs.queue_url("x")), "NonExistentQueue"),
        ("MessageBody", json!("\u{0}"), CONTENTS),
        ("MessageBody", long(SIZE_LIMIT + 1), VALUE),
        ("MessageGroupId", json!("a b"), VALUE),
        ("MessageDeduplicationId", json!(null), VALUE),
        ("MessageDeduplicationId", long(129), VALUE),
        ("MessageAttributes", attribute("error", ""), VALUE),
        ("MessageAttributes", attribute("error", "\u{1}"), CONTENTS),
        ("MessageAttributes", attribute("AWS.error", "x"), VALUE),
    ] {
        let refused = call(&sqs, "SendMessage", message(&sqs, name, value)).await;
        assert_eq!(refused.0, code, "{name}");
    }
    for (entries, code) in [
        (0, "EmptyBatchRequest"),
        (2, "BatchEntryIdsNotDistinct"),
        (11, "TooManyEntriesInBatchRequest"),
    ] {
        let entries = vec![message(&sqs, "Id", json!("1")); entries];
        let batch = json!({"QueueUrl": sqs.queue_url(QUEUE), "Entries": entries});
        assert_eq!(call(&sqs, "SendMessageBatch", batch).await.0, code);
    }
}

#[tokio::test]
async fn an_event_has_the_oldest_messages_of_groups_that_are_not_in_flight() {
    let sqs = queues().await;
    let sent = ["a", "a", "b", "a", "c"].map(|group| sqs.send(QUEUE, group, "{}"));
    let first = sqs.batch(QUEUE, 3);
    assert_eq!(ids(&first), sent[..3]);
    assert_eq!(ids(&sqs.batch(QUEUE, 10)), sent[4..]);
    let failure = json!({"batchItemFailures": [{"itemIdentifier": sent[1]}]});
    sqs.settle(QUEUE, &first, &failure);
    let again = sqs.batch(QUEUE, 10);
    assert_eq!(ids(&again), [&sent[1], &sent[3]]);
    sqs.return_batch(QUEUE, &again);
    let dead = sqs.messages(DEAD_LETTERS);
    assert_eq!((dead.len(), &dead[0].id), (1, &sent[1]));
}

#[tokio::test]
async fn a_reply_deletes_messages_or_returns_them_as_lambda_documents() {
    let sqs = queues().await;
    let items = |items: Value| json!({ "batchItemFailures": items });
    for (reply, is_success) in [
        (json!(null), true),
        (items(json!(null)), true),
        (items(json!([{"itemIdentifier": ""}])), false),
        (items(json!([{"messageId": "x"}])), false),
        (items(json!([{"itemIdentifier": "x"}])), false),
        (items(json!({})), false),
        (json!("done"), false),
    ] {
        let sent = ["a", "b"].map(|group| sqs.send(QUEUE, group, "{}"));
        sqs.settle(QUEUE, &sqs.batch(QUEUE, 10), &reply);
        let left = sqs.batch(QUEUE, 10);
        let expected = if is_success { &[][..] } else { &sent };
        assert_eq!(ids(&left), expected, "{reply}");
        sqs.settle(QUEUE, &left, &Value::Null);
    }
}
