//! Jobs through the queue: answered at once, copied by the worker, tried again or given up, and never lost.

use std::time::Duration;

use serde_json::{Value, json};
use support::deployment::{DEAD_LETTER_QUEUE, JOB_QUEUE, WEBHOOK_SECRET};
use support::function::Outcome;
use support::http::Fault;
use support::webhook;

use crate::scenario::{Image, REPOSITORY, Scenario, http_reply, layers, small_image};

fn delivery(tag: &str, digest: &str) -> Value {
    let body = webhook::package_event("acme", "api", tag, digest);
    webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET)
}

/// The outcomes of the worker's invocations, each of which must have been answered.
async fn work_off(scenario: &Scenario) -> Vec<Value> {
    scenario
        .process_queue()
        .await
        .into_iter()
        .map(Outcome::reply)
        .collect()
}

#[tokio::test]
async fn a_webhook_is_answered_at_once_and_copied_by_the_worker() {
    let scenario = Scenario::start_with_queue(&[]).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let event = delivery("1", &image.top);
    let (status, report) = http_reply(&scenario, &event).await;
    assert_eq!(
        (status, &report["outcome"]),
        (202, &json!("queued")),
        "{report}"
    );
    assert_eq!(
        scenario.ghcr.server.requests().len() + scenario.ecr.server.requests().len(),
        0
    );
    let messages = scenario.sqs.messages(JOB_QUEUE);
    assert_eq!(messages.len(), 1);
    let body: Value = serde_json::from_str(&messages[0].body).expect("JSON");
    // Not the registry's own host, which may be one that no reference can name.
    let source = format!("ghcr.io/acme/api:1@{}", image.top);
    assert_eq!(
        body,
        json!({
            "source": source, "destination": "prod/api", "all_tags": true,
            "origin": "webhook", "delivery": event["headers"]["x-github-delivery"],
        })
    );
    assert_eq!(
        work_off(&scenario).await,
        [json!({"batchItemFailures": []})]
    );
    scenario.assert_stored("worker", "1", &image);

    // Redelivered, it is done again, and harmless.
    assert_eq!(http_reply(&scenario, &event).await.0, 202);
    assert_eq!(scenario.sqs.messages(JOB_QUEUE).len(), 1);
    scenario.clear_requests();
    work_off(&scenario).await;
    assert_eq!(scenario.ecr.server.requests().len(), 1, "up to date");
}

#[tokio::test]
async fn without_a_place_in_the_queue_there_is_no_promise() {
    let scenario = Scenario::start_with_queue(&[]).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    scenario
        .sqs
        .server
        .fault("POST", "/", 100, support::sqs::Sqs::throttling());
    let (status, report) = http_reply(&scenario, &delivery("1", &image.top)).await;
    assert_eq!(
        (status, &report["outcome"]),
        (503, &json!("failed")),
        "{report}"
    );
    scenario.sqs.server.clear_faults();
    // The first time and each time that it is sent again.
    scenario.sqs.fail_entries("acme/api", 3);
    assert_eq!(
        http_reply(&scenario, &delivery("1", &image.top)).await.0,
        503
    );
    assert_eq!(
        http_reply(&scenario, &delivery("1", &image.top)).await.0,
        202
    );
}

/// GitHub names one of several tags that were pushed together; the others follow, each as a message of its own.
#[tokio::test]
async fn all_tags_of_a_push_are_copied() {
    let rules = r#"[{"source":"acme/*","destination":"prod/{name}","tags":{"exclude":["pr-*"]}}]"#;
    for queue in [true, false] {
        let scenario = match queue {
            true => Scenario::start_with_queue(&[("RULES", rules)]).await,
            false => Scenario::start_with(&[("RULES", rules)]).await,
        };
        let image = small_image();
        for tag in ["sha-1234567", "1.2.3", "latest", "pr-7"] {
            scenario.push(REPOSITORY, tag, &image);
        }
        let (status, _) = http_reply(&scenario, &delivery("latest", &image.top)).await;
        assert_eq!(status, if queue { 202 } else { 200 });
        if queue {
            assert_eq!(work_off(&scenario).await.len(), 3);
        }
        let tags = scenario.ecr.repository("prod/api").tags;
        let tags: Vec<&str> = tags.keys().map(String::as_str).collect();
        assert_eq!(tags, ["1.2.3", "latest", "sha-1234567"]);
        assert_eq!(
            scenario.ecr.server.count("PUT", "/blobs/uploads/"),
            image.blobs.len()
        );
    }
}

/// The list of tags is a help, no condition.
#[tokio::test]
async fn a_copy_does_not_need_githubs_api() {
    let scenario = Scenario::start().await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    scenario.github.exhaust_rate_limit();
    let (status, report) = http_reply(&scenario, &delivery("1", &image.top)).await;
    assert_eq!((status, &report["outcome"]), (200, &json!("copied")));
    let warning = report["warnings"][0].as_str().unwrap_or_default();
    assert!(
        warning.contains("could not be learnt") && warning.contains("rate limit"),
        "{warning}"
    );
}

#[tokio::test]
async fn what_can_never_succeed_goes_to_the_dead_letter_queue_with_its_reason() {
    let scenario = Scenario::start_with_queue(&[]).await;
    let missing = json!({"source": "ghcr.io/acme/api:missing", "destination": "prod/api"});
    let cases = [
        ("no JSON".to_owned(), "Invalid", "the message is not JSON"),
        (
            r#"{"source":"ghcr.io/acme/api:1","tag":"x"}"#.to_owned(),
            "Invalid",
            "unknown field `tag`",
        ),
        // SQS refuses messages with such a character, which the error quotes.
        (
            r#"{"source":"ghcr.io/acme/api:1","\uffff\ufffe":1}"#.to_owned(),
            "Invalid",
            "unknown field `",
        ),
        (
            format!(
                r#"{{"source":"ghcr.io/acme/api:1","{}":1}}"#,
                "long".repeat(200_000)
            ),
            "Invalid",
            "unknown field `longlong",
        ),
        (missing.to_string(), "NotFound", "there is no such"),
    ];
    scenario.ghcr.put_image(REPOSITORY, "1", &small_image());
    for (position, (body, _, _)) in cases.iter().enumerate() {
        scenario
            .sqs
            .send(JOB_QUEUE, &format!("group{position}"), body);
    }
    let replies = work_off(&scenario).await;
    assert_eq!(
        replies,
        vec![json!({"batchItemFailures": []}); 5],
        "each once"
    );
    for ((body, kind, part), letter) in cases.iter().zip(scenario.sqs.messages(DEAD_LETTER_QUEUE)) {
        assert_eq!(letter.body, *body);
        assert_eq!(letter.attributes["error_kind"], *kind);
        assert!(
            letter.attributes["error"].contains(part),
            "{:?}",
            letter.attributes
        );
    }
    assert_eq!(scenario.sqs.messages(DEAD_LETTER_QUEUE).len(), 5);
}

/// What may pass comes back after a while that grows, until the queue itself gives up.
#[tokio::test]
async fn what_may_succeed_later_comes_back_and_in_the_end_is_given_up() {
    let scenario = Scenario::start_with_queue(&[]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    let fault = Fault::Status {
        status: 503,
        headers: vec![],
        body: String::new(),
    };
    scenario
        .ecr
        .server
        .fault("POST", "/blobs/uploads/", 1_000_000, fault);
    let body = json!({"source": "ghcr.io/acme/api:1"}).to_string();
    let id = scenario.sqs.send(JOB_QUEUE, "group", &body);
    let mut waits = Vec::new();
    for _ in 0..2 {
        let batch = scenario.sqs.batch(JOB_QUEUE, 1);
        let reply = scenario.invoke(&batch).await.reply();
        assert_eq!(
            reply,
            json!({"batchItemFailures": [{"itemIdentifier": id}]})
        );
        waits.push(
            scenario.sqs.messages(JOB_QUEUE)[0]
                .visibility_timeout
                .expect("backed off"),
        );
        scenario.sqs.settle(JOB_QUEUE, &batch, &reply);
    }
    assert!(
        (7..=15).contains(&waits[0]) && (15..=30).contains(&waits[1]),
        "{waits:?}"
    );
    scenario.ecr.server.clear_faults();
    work_off(&scenario).await;
    scenario.assert_stored("third time", "1", &small_image());
}

/// A failure holds back those behind it in its group, and nobody else.
#[tokio::test]
async fn a_failure_holds_back_its_group_alone() {
    let scenario = Scenario::start_with_queue(&[("DEAD_LETTER_QUEUE_URL", "")]).await;
    let image = small_image();
    for tag in ["1", "2", "3"] {
        scenario.push(REPOSITORY, tag, &image);
    }
    let body = |tag: &str| json!({"source": format!("ghcr.io/acme/api:{tag}")}).to_string();
    let first = scenario.sqs.send(JOB_QUEUE, "a", &body("missing"));
    let behind = scenario.sqs.send(JOB_QUEUE, "a", &body("1"));
    scenario.sqs.send(JOB_QUEUE, "b", &body("2"));
    let batch = scenario.sqs.batch(JOB_QUEUE, 10);
    let reply = scenario.invoke(&batch).await.reply();
    assert_eq!(
        reply,
        json!({"batchItemFailures": [{"itemIdentifier": first}, {"itemIdentifier": behind}]})
    );
    scenario.assert_untouched("behind the failure", "1");
    scenario.assert_stored("another group", "2", &image);
}

/// A copy that is cut by the deadline goes on as a message of its own for as long as it gets further.
#[tokio::test]
async fn a_cut_copy_goes_on_until_it_is_done() {
    let scenario = Scenario::start_with_queue(&[("BLOB_CONCURRENCY", "1")]).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let (last, _) = image
        .blobs
        .iter()
        .min_by_key(|(_, blob)| blob.length())
        .expect("blobs");
    scenario
        .ecr
        .server
        .fault("PUT", last.trim_start_matches("sha256:"), 1, Fault::Hold);
    scenario.sqs.send(
        JOB_QUEUE,
        "group",
        &json!({"source": "ghcr.io/acme/api:1"}).to_string(),
    );
    let batch = scenario.sqs.batch(JOB_QUEUE, 1);
    let reply = scenario
        .function
        .invoke_with_deadline(&batch, Duration::from_secs(4))
        .await
        .reply();
    assert_eq!(
        reply,
        json!({"batchItemFailures": []}),
        "handed on as a new message"
    );
    scenario.sqs.settle(JOB_QUEUE, &batch, &reply);
    let sent_at_first = scenario
        .ecr
        .uploads()
        .iter()
        .filter(|upload| upload.committed.is_some())
        .count();
    assert_eq!(sent_at_first, image.blobs.len() - 1);
    let messages = scenario.sqs.messages(JOB_QUEUE);
    assert_eq!(
        (messages.len(), messages[0].receive_count),
        (1, 0),
        "a fresh message, with all its tries"
    );
    scenario.ecr.server.release();
    assert_eq!(work_off(&scenario).await.len(), 1);
    scenario.assert_stored("continued", "1", &image);
    let sent: u64 = scenario
        .ecr
        .uploads()
        .iter()
        .filter(|upload| upload.committed.is_some())
        .map(|upload| upload.received_bytes)
        .sum();
    assert_eq!(
        sent,
        image.blob_bytes(),
        "both runs together sent the image once"
    );
}

/// One that gets no further runs out of tries.
#[tokio::test]
async fn a_copy_without_progress_ends_in_the_dead_letter_queue() {
    let scenario = Scenario::start_with_queue(&[]).await;
    scenario.push(REPOSITORY, "1", &Image::single(&layers()[..1]));
    scenario
        .ecr
        .server
        .fault("PUT", "/blobs/uploads/", 1000, Fault::Hold);
    scenario.sqs.send(
        JOB_QUEUE,
        "group",
        &json!({"source": "ghcr.io/acme/api:1"}).to_string(),
    );
    for _ in 0..support::deployment::MAX_RECEIVE_COUNT {
        let batch = scenario.sqs.batch(JOB_QUEUE, 1);
        let reply = scenario
            .function
            .invoke_with_deadline(&batch, Duration::from_millis(2500))
            .await
            .reply();
        scenario.sqs.settle(JOB_QUEUE, &batch, &reply);
    }
    assert_eq!(scenario.sqs.messages(JOB_QUEUE).len(), 0);
    assert_eq!(scenario.sqs.messages(DEAD_LETTER_QUEUE).len(), 1);
}

/// Nobody without the queue's permission gets a 202.
#[tokio::test]
async fn a_missing_permission_is_named() {
    let scenario = Scenario::start_with_queue(&[]).await;
    scenario.sqs.deny("SendMessage");
    let (status, report) = http_reply(&scenario, &delivery("1", &small_image().top)).await;
    assert_eq!(status, 502);
    assert!(
        report["error"]
            .as_str()
            .is_some_and(|error| error.contains("sqs:SendMessage")),
        "{report}"
    );
}

/// One tag is one group, whatever its digest, so that two copies never write it at once; another tag is another group.
#[tokio::test]
async fn a_tag_is_a_message_group() {
    let scenario = Scenario::start_with_queue(&[]).await;
    let other = Image::single(&layers());
    for (tag, digest) in [
        ("1", &small_image().top),
        ("1", &other.top),
        ("2", &other.top),
    ] {
        assert_eq!(http_reply(&scenario, &delivery(tag, digest)).await.0, 202);
    }
    let groups: Vec<String> = scenario
        .sqs
        .messages(JOB_QUEUE)
        .into_iter()
        .map(|message| message.group)
        .collect();
    assert_eq!(groups.len(), 3);
    assert_eq!(groups[0], groups[1]);
    assert_ne!(groups[1], groups[2]);
}

/// A message with several copies is not given up while one of them may still succeed.
#[tokio::test]
async fn a_message_is_not_given_up_while_one_copy_may_succeed() {
    let rules = r#"[{"source":"acme/*","destination":["gone/{name}","prod/{name}"]}]"#;
    let scenario = Scenario::start_with_queue(&[("RULES", rules)]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    let fault = Fault::Status {
        status: 503,
        headers: vec![],
        body: String::new(),
    };
    scenario
        .ecr
        .server
        .fault("POST", "/v2/prod/api/blobs/uploads/", 1_000_000, fault);
    let body = json!({"source": "ghcr.io/acme/api:1"}).to_string();
    let id = scenario.sqs.send(JOB_QUEUE, "group", &body);
    let batch = scenario.sqs.batch(JOB_QUEUE, 1);
    let reply = scenario.invoke(&batch).await.reply();
    assert_eq!(
        reply,
        json!({"batchItemFailures": [{"itemIdentifier": id}]})
    );
    scenario.sqs.settle(JOB_QUEUE, &batch, &reply);
    assert_eq!(scenario.sqs.messages(DEAD_LETTER_QUEUE).len(), 0);
    scenario.ecr.server.clear_faults();
    work_off(&scenario).await;
    scenario.assert_stored("the one that could", "1", &small_image());
    assert_eq!(
        scenario.sqs.messages(DEAD_LETTER_QUEUE)[0].attributes["error_kind"],
        "NotFound"
    );
}

/// With batches of several messages: were those behind a failure left to the queue's own visibility timeout, they would hold up
/// their group for much longer than the failure does.
#[tokio::test]
async fn what_is_behind_a_failure_in_its_group_comes_back_with_it() {
    let scenario = Scenario::start_with_queue(&[]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    let damaged = Fault::Status {
        status: 200,
        headers: vec![],
        body: "{".to_owned(),
    };
    let server = &scenario.aws.server;
    server.fault("POST", "GetAuthorizationToken", usize::MAX, damaged);
    let body = json!({"source": "ghcr.io/acme/api:1"}).to_string();
    let ids = [1, 2, 3].map(|_| scenario.sqs.send(JOB_QUEUE, "a", &body));
    let batch = scenario.sqs.batch(JOB_QUEUE, 10);
    let reply = scenario.invoke(&batch).await.reply();
    let failures = ids.map(|id| json!({"itemIdentifier": id}));
    assert_eq!(reply, json!({"batchItemFailures": failures}));
    let messages = scenario.sqs.messages(JOB_QUEUE);
    let waits: Vec<i32> = messages
        .iter()
        .map(|message| message.visibility_timeout.expect("backed off"))
        .collect();
    assert!(waits.iter().all(|wait| *wait <= 15), "{waits:?}");
    scenario.sqs.settle(JOB_QUEUE, &batch, &reply);
    server.clear_faults();
    work_off(&scenario).await;
    scenario.assert_stored("in the end", "1", &small_image());
}

#[tokio::test]
async fn a_job_that_sqs_refuses_is_named_among_several() {
    let scenario = Scenario::start_with_queue(&[]).await;
    for tag in ["1", "2", "3"] {
        scenario.push(REPOSITORY, tag, &small_image());
    }
    scenario.sqs.fail_entries("acme/api:2", usize::MAX);
    let event = json!({"source": "ghcr.io/acme/api:1", "all_tags": true});
    let (kind, _) = scenario.invoke(&event).await.error();
    assert_eq!(kind, "Transient");
    let log = scenario.function.log();
    let line = log
        .lines()
        .find(|line| line.contains("InternalError"))
        .expect("the refusal");
    let (source, destination) = (format!("{}/acme/api:2", scenario.ghcr.host()), "prod/api:2");
    assert!(
        line.contains(&source) && line.contains(destination),
        "{line}"
    );
    assert_eq!(scenario.sqs.messages(JOB_QUEUE).len(), 1, "the third tag");
}
