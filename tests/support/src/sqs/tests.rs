use super::*;
use crate::http::client::send;

const QUEUE: &str = "jobs.fifo";
const DEAD_LETTERS: &str = "dead-letters.fifo";

/// SQS with a queue that gives up on a message after it was received twice.
async fn queues() -> Sqs {
    let sqs = Sqs::start().await;
    let dead_letters = sqs.create_queue(DEAD_LETTERS);
    let url = sqs.create_queue_with_redrive(QUEUE, &dead_letters, 2);
    assert_eq!(url, format!("{}/123456789012/jobs.fifo", sqs.server.url()));
    sqs
}

/// Status and body of a call by somebody who may; `code` is what the header says of an error.
struct Answer {
    status: u16,
    code: String,
    body: Value,
}

async fn call(sqs: &Sqs, operation: &str, input: Value) -> Answer {
    let target = format!("AmazonSQS.{operation}");
    let signature = "AWS4-HMAC-SHA256 Credential=AKIA/20261121/eu-west-3/sqs/aws4_request, SignedHeaders=host, Signature=00";
    let headers = [
        ("content-type", CONTENT_TYPE),
        ("x-amz-target", &target),
        ("authorization", signature),
    ];
    call_with(sqs, &headers, input).await
}

async fn call_with(sqs: &Sqs, headers: &[(&str, &str)], input: Value) -> Answer {
    let answer = send("POST", &sqs.server.url(), headers, input.to_string()).await;
    let answer = answer.expect("an answer");
    let code = answer.headers().get("x-amzn-query-error");
    let code = code.map_or("", |code| code.to_str().expect("a text"));
    Answer {
        status: answer.status().as_u16(),
        code: code.trim_end_matches(";Sender").to_owned(),
        body: serde_json::from_slice(answer.body()).expect("JSON"),
    }
}

fn message(sqs: &Sqs, deduplication_id: &str) -> Value {
    json!({
        "QueueUrl": sqs.queue_url(QUEUE), "MessageBody": "{}", "MessageGroupId": "group",
        "MessageDeduplicationId": deduplication_id,
    })
}

/// `object` with another value for one name; null takes it away.
fn with(mut object: Value, name: &str, value: Value) -> Value {
    object[name] = value;
    object
}

/// The ids of the messages in a batch.
fn ids(batch: &Value) -> Vec<String> {
    let records = batch["Records"].as_array().expect("records").iter();
    let id = |record: &Value| record["messageId"].as_str().expect("an id").to_owned();
    records.map(id).collect()
}

fn all_failed(batch: &Value) -> Value {
    let failures: Vec<_> = ids(batch)
        .into_iter()
        .map(|id| json!({ "itemIdentifier": id }))
        .collect();
    json!({ "batchItemFailures": failures })
}

#[tokio::test]
async fn a_message_is_kept_as_it_was_sent_and_once() {
    let sqs = queues().await;
    let attribute = json!({"DataType": "String", "StringValue": "no such image"});
    let input = with(
        message(&sqs, "1"),
        "MessageAttributes",
        json!({"error": attribute}),
    );
    let first = call(&sqs, "SendMessage", input).await;
    assert_eq!(first.status, 200);
    let second = call(&sqs, "SendMessage", message(&sqs, "1")).await;
    assert_eq!((second.status, &second.body), (200, &first.body));
    let [kept] = sqs.messages(QUEUE).try_into().expect("one message");
    assert_eq!(first.body["MessageId"], kept.id);
    assert_eq!((kept.body.as_str(), kept.group.as_str()), ("{}", "group"));
    assert_eq!(
        (kept.deduplication_id.as_str(), kept.receive_count),
        ("1", 0)
    );
    assert_eq!(kept.attributes["error"], "no such image");

    // Deleted messages count too.
    sqs.settle(QUEUE, &sqs.batch(QUEUE, 1), &Value::Null);
    call(&sqs, "SendMessage", message(&sqs, "1")).await;
    assert!(sqs.messages(QUEUE).is_empty());
    sqs.forget_deduplication();
    call(&sqs, "SendMessage", message(&sqs, "1")).await;
    assert_eq!(sqs.messages(QUEUE).len(), 1);
    assert_eq!(sqs.calls("SendMessage"), 4);
}

#[tokio::test]
async fn a_message_that_sqs_would_refuse_is_refused() {
    let sqs = queues().await;
    let attribute = |value: Value| json!({ "error": value });
    let text = |value: &str| json!({"DataType": "String", "StringValue": value});
    for (name, value, code) in [
        ("QueueUrl", json!(null), "MissingParameter"),
        (
            "QueueUrl",
            json!("http://elsewhere/123456789012/jobs.fifo"),
            "InvalidAddress",
        ),
        (
            "QueueUrl",
            json!(sqs.queue_url("jobs")),
            "AWS.SimpleQueueService.NonExistentQueue",
        ),
        ("MessageBody", json!(""), "MissingParameter"),
        ("MessageBody", json!("a\u{0}b"), "InvalidMessageContents"),
        (
            "MessageBody",
            json!("x".repeat(SIZE_LIMIT + 1)),
            "InvalidParameterValue",
        ),
        ("MessageGroupId", json!(null), "MissingParameter"),
        ("MessageGroupId", json!("a b"), "InvalidParameterValue"),
        ("MessageGroupId", json!("é"), "InvalidParameterValue"),
        (
            "MessageDeduplicationId",
            json!(null),
            "InvalidParameterValue",
        ),
        (
            "MessageDeduplicationId",
            json!("x".repeat(129)),
            "InvalidParameterValue",
        ),
        ("DelaySeconds", json!(5), "InvalidParameterValue"),
        (
            "MessageAttributes",
            attribute(text("")),
            "InvalidParameterValue",
        ),
        (
            "MessageAttributes",
            attribute(text("\u{1}")),
            "InvalidMessageContents",
        ),
        (
            "MessageAttributes",
            attribute(json!({"StringValue": "x"})),
            "InvalidParameterValue",
        ),
        (
            "MessageAttributes",
            json!({"AWS.error": text("x")}),
            "InvalidParameterValue",
        ),
        (
            "MessageAttributes",
            json!({"an error": text("x")}),
            "InvalidParameterValue",
        ),
    ] {
        let answer = call(&sqs, "SendMessage", with(message(&sqs, "1"), name, value)).await;
        assert_eq!((answer.status, answer.code.as_str()), (400, code), "{name}");
        let kind = answer.body["__type"].as_str().expect("a type");
        assert!(kind.starts_with("com.amazonaws.sqs#"), "{kind}");
    }
    let longest = with(
        message(&sqs, "1"),
        "MessageBody",
        json!("x".repeat(SIZE_LIMIT)),
    );
    let longest = with(longest, "MessageGroupId", json!("!".repeat(128)));
    assert_eq!(call(&sqs, "SendMessage", longest).await.status, 200);
}

#[tokio::test]
async fn a_call_that_is_no_signed_call_of_sqs_is_refused() {
    let sqs = queues().await;
    let unknown = call(&sqs, "DeleteQueue", json!({})).await;
    assert_eq!(unknown.code, "UnknownOperationException");
    let target = ("x-amz-target", "AmazonSQS.SendMessage");
    let frame = [target, ("content-type", "application/x-amz-json-1.1")];
    let answer = call_with(&sqs, &frame, message(&sqs, "1")).await;
    assert_eq!(answer.code, "SerializationException");
    let frame = [target, ("content-type", CONTENT_TYPE)];
    let answer = call_with(&sqs, &frame, message(&sqs, "1")).await;
    assert_eq!(answer.code, "MissingAuthenticationTokenException");

    sqs.deny("SendMessage");
    for operation in ["SendMessage", "SendMessageBatch"] {
        let answer = call(&sqs, operation, message(&sqs, "1")).await;
        assert_eq!((answer.status, answer.code.as_str()), (403, "AccessDenied"));
        let text = answer.body["message"].as_str().expect("a message");
        assert!(
            text.contains(
                "sqs:sendmessage on resource: arn:aws:sqs:eu-west-3:123456789012:jobs.fifo"
            )
        );
    }
    sqs.server.fault("POST", "", 1, Sqs::throttling());
    let answer = call(&sqs, "ChangeMessageVisibility", json!({})).await;
    assert_eq!(
        (answer.status, answer.code.as_str()),
        (400, "RequestThrottled")
    );
    assert_eq!(sqs.calls("ChangeMessageVisibility"), 0);
}

#[tokio::test]
async fn a_batch_has_one_to_ten_entries_that_succeed_or_fail_alone() {
    let sqs = queues().await;
    let entry = |id: &str| {
        let mut entry = with(message(&sqs, id), "Id", json!(id));
        entry["MessageBody"] = json!(format!("body {id}"));
        entry
    };
    let batch = |entries: Vec<Value>| json!({"QueueUrl": sqs.queue_url(QUEUE), "Entries": entries});
    let numbered = |count: usize| {
        (0..count)
            .map(|number| entry(&number.to_string()))
            .collect()
    };
    let large = |id: &str| {
        with(
            entry(id),
            "MessageBody",
            json!("x".repeat(SIZE_LIMIT / 2 + 1)),
        )
    };
    for (entries, code) in [
        (vec![], "EmptyBatchRequest"),
        (numbered(11), "TooManyEntriesInBatchRequest"),
        (vec![entry("a"), entry("a")], "BatchEntryIdsNotDistinct"),
        (vec![entry("a.b")], "InvalidBatchEntryId"),
        (vec![large("a"), large("b")], "BatchRequestTooLong"),
    ] {
        let answer = call(&sqs, "SendMessageBatch", batch(entries)).await;
        assert_eq!(answer.code, format!("AWS.SimpleQueueService.{code}"));
    }
    assert!(sqs.messages(QUEUE).is_empty());

    sqs.fail_entries("body b", 1);
    let invalid = with(entry("c"), "MessageGroupId", json!("a b"));
    let entries = batch(vec![entry("a"), entry("b"), invalid]);
    let answer = call(&sqs, "SendMessageBatch", entries.clone()).await;
    assert_eq!(
        (answer.status, &answer.body["Successful"][0]["Id"]),
        (200, &json!("a"))
    );
    let failed = &answer.body["Failed"];
    assert_eq!(
        (&failed[0]["Id"], &failed[0]["SenderFault"]),
        (&json!("b"), &json!(false))
    );
    assert_eq!(
        (&failed[1]["Id"], &failed[1]["SenderFault"]),
        (&json!("c"), &json!(true))
    );
    call(&sqs, "SendMessageBatch", entries).await;
    let bodies: Vec<_> = sqs
        .messages(QUEUE)
        .into_iter()
        .map(|message| message.body)
        .collect();
    assert_eq!(bodies, ["body a", "body b"]);
    let full = call(&sqs, "SendMessageBatch", batch(numbered(10))).await;
    assert_eq!(full.body["Successful"].as_array().map(Vec::len), Some(10));
}

#[tokio::test]
async fn an_event_has_the_oldest_messages_of_groups_that_are_free() {
    let sqs = queues().await;
    let sent: Vec<_> = ["a", "a", "b", "a", "c"]
        .iter()
        .map(|group| sqs.send(QUEUE, group, "{}"))
        .collect();
    let first = sqs.batch(QUEUE, 3);
    assert_eq!(ids(&first), sent[..3]);
    let record = &first["Records"][0];
    assert_eq!(record["eventSource"], "aws:sqs");
    assert_eq!(
        record["eventSourceARN"],
        "arn:aws:sqs:eu-west-3:123456789012:jobs.fifo"
    );
    assert_eq!(record["attributes"]["MessageGroupId"], "a");
    assert_eq!(record["attributes"]["ApproximateReceiveCount"], "1");
    let second = sqs.batch(QUEUE, 10);
    assert_eq!(ids(&second), sent[4..], "a and b are busy");
    assert_eq!(sqs.batch(QUEUE, 10), json!({"Records": []}));

    let failure = json!({"batchItemFailures": [{"itemIdentifier": sent[1]}]});
    sqs.settle(QUEUE, &first, &failure);
    let third = sqs.batch(QUEUE, 10);
    assert_eq!(ids(&third), [sent[1].clone(), sent[3].clone()]);
    assert_eq!(
        third["Records"][0]["attributes"]["ApproximateReceiveCount"],
        "2"
    );
    assert_ne!(
        third["Records"][0]["receiptHandle"],
        first["Records"][1]["receiptHandle"]
    );
}

#[tokio::test]
async fn a_reply_deletes_or_returns_as_lambda_documents() {
    let sqs = queues().await;
    let failures = |items: Value| json!({ "batchItemFailures": items });
    for (reply, is_success) in [
        (json!(null), true),
        (json!({}), true),
        (failures(json!(null)), true),
        (failures(json!([])), true),
        (failures(json!([{"itemIdentifier": ""}])), false),
        (failures(json!([{"itemIdentifier": null}])), false),
        (failures(json!([{"messageId": "x"}])), false),
        (failures(json!([{"itemIdentifier": "x"}])), false),
        (failures(json!({})), false),
        (json!("done"), false),
    ] {
        let sent = [sqs.send(QUEUE, "a", "{}"), sqs.send(QUEUE, "b", "{}")];
        let batch = sqs.batch(QUEUE, 10);
        sqs.settle(QUEUE, &batch, &reply);
        let left: Vec<_> = sqs
            .messages(QUEUE)
            .into_iter()
            .map(|message| message.id)
            .collect();
        assert_eq!(left, if is_success { &[][..] } else { &sent }, "{reply}");
        sqs.settle(QUEUE, &sqs.batch(QUEUE, 10), &json!({}));
    }
}

#[tokio::test]
async fn a_message_received_too_often_becomes_a_dead_letter() {
    let sqs = queues().await;
    let sent = sqs.send(QUEUE, "a", "{}");
    let first = sqs.batch(QUEUE, 1);
    sqs.settle(QUEUE, &first, &all_failed(&first));
    assert_eq!(sqs.messages(QUEUE)[0].receive_count, 1);
    sqs.return_batch(QUEUE, &sqs.batch(QUEUE, 1));
    assert!(sqs.messages(QUEUE).is_empty());
    let [dead] = sqs.messages(DEAD_LETTERS).try_into().expect("one message");
    assert_eq!((dead.id, dead.receive_count), (sent, 2));
}

#[tokio::test]
async fn visibility_can_be_changed_while_a_message_is_in_flight() {
    let sqs = queues().await;
    sqs.send(QUEUE, "a", "{}");
    let batch = sqs.batch(QUEUE, 1);
    let input = json!({
        "QueueUrl": sqs.queue_url(QUEUE), "ReceiptHandle": batch["Records"][0]["receiptHandle"], "VisibilityTimeout": 30,
    });
    for (name, value, code) in [
        ("VisibilityTimeout", json!(43_201), "InvalidParameterValue"),
        ("VisibilityTimeout", json!(-1), "InvalidParameterValue"),
        ("VisibilityTimeout", json!(null), "MissingParameter"),
        ("ReceiptHandle", json!("x"), "ReceiptHandleIsInvalid"),
        (
            "QueueUrl",
            json!(sqs.queue_url(DEAD_LETTERS)),
            "ReceiptHandleIsInvalid",
        ),
    ] {
        let answer = call(
            &sqs,
            "ChangeMessageVisibility",
            with(input.clone(), name, value),
        )
        .await;
        assert_eq!((answer.status, answer.code.as_str()), (400, code));
    }
    assert_eq!(
        call(&sqs, "ChangeMessageVisibility", input.clone())
            .await
            .status,
        200
    );
    sqs.settle(QUEUE, &batch, &all_failed(&batch));
    assert_eq!(sqs.messages(QUEUE)[0].visibility_timeout, Some(30));
    let late = call(&sqs, "ChangeMessageVisibility", input).await;
    assert_eq!(late.code, "AWS.SimpleQueueService.MessageNotInflight");
    sqs.batch(QUEUE, 1);
    assert_eq!(sqs.messages(QUEUE)[0].visibility_timeout, None);
}

#[tokio::test]
#[should_panic(expected = "in flight")]
async fn a_batch_is_settled_once() {
    let sqs = queues().await;
    sqs.send(QUEUE, "a", "{}");
    let batch = sqs.batch(QUEUE, 1);
    sqs.settle(QUEUE, &batch, &all_failed(&batch));
    sqs.settle(QUEUE, &batch, &all_failed(&batch));
}
