//! When AWS or GitHub fails: nothing is lost, nothing is given up too early, and no call outlives the invocation.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use support::deployment::{DEAD_LETTER_QUEUE, JOB_QUEUE, MAX_RECEIVE_COUNT, WEBHOOK_SECRET};
use support::function::Outcome;
use support::http::{Fault, Server};
use support::webhook;

use crate::scenario::{REPOSITORY, Scenario, direct, http_reply, small_image};

/// GitHub gives up on a delivery after ten seconds. (GitHub documentation, "Handling webhook deliveries")
const GITHUB_PATIENCE: Duration = Duration::from_secs(10);

fn delivery(tag: &str) -> Value {
    let body = webhook::package_event("acme", "api", tag, &small_image().top);
    webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET)
}

/// A scenario with a queue and one image that was pushed as `1`.
async fn scenario() -> Scenario {
    let scenario = Scenario::start_with_queue(&[]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    scenario
}

/// What a load balancer of AWS answers when the service behind it fails is a page of HTML.
#[tokio::test]
async fn a_page_of_html_from_aws_is_answered_503_to_the_webhook() {
    let calls = ["GetSecretValue", "SendMessageBatch"];
    join_all(calls.map(async |call| {
        let scenario = scenario().await;
        for server in [&scenario.aws.server, &scenario.sqs.server] {
            server.fault("POST", call, usize::MAX, Fault::html(503));
        }
        let (status, report) = http_reply(&scenario, &delivery("1")).await;
        assert_eq!(
            (status, &report["error_kind"]),
            (503, &json!("Transient")),
            "{call}: {report}"
        );
        for server in [&scenario.aws.server, &scenario.sqs.server] {
            server.clear_faults();
        }
        assert_eq!(http_reply(&scenario, &delivery("1")).await.0, 202, "{call}");
    }))
    .await;
}

#[tokio::test]
async fn a_message_comes_back_after_a_page_of_html_from_aws_or_github() {
    let calls = [
        "GetSecretValue",
        "GetAuthorizationToken",
        "SendMessageBatch",
        "/orgs/",
    ];
    join_all(calls.map(async |call| {
        let rules =
            r#"[{"source":"acme/*","destination":"prod/{name}","tags":{"exclude":["pr-*"]}}]"#;
        let scenario = Scenario::start_with_queue(&[("RULES", rules)]).await;
        let image = small_image();
        // Of a push whose named tag is excluded, so that its other tags are all that it is about.
        for tag in ["1", "pr-7"] {
            scenario.push(REPOSITORY, tag, &image);
        }
        let body = json!({
            "source": format!("ghcr.io/acme/api:pr-7@{}", image.top), "destination": "prod/api",
            "all_tags": true, "origin": "webhook",
        });
        let body = match call {
            "GetAuthorizationToken" => json!({"source": "ghcr.io/acme/api:1"}),
            _ => body,
        };
        scenario.sqs.send(JOB_QUEUE, "group", &body.to_string());
        let servers = [
            &scenario.aws.server,
            &scenario.sqs.server,
            &scenario.github.server,
        ];
        for server in servers {
            server.fault("*", call, usize::MAX, Fault::html(502));
        }
        let batch = scenario.sqs.batch(JOB_QUEUE, 1);
        let reply = scenario.invoke(&batch).await.reply();
        let failures = reply["batchItemFailures"].as_array().map_or(0, Vec::len);
        assert_eq!(failures, 1, "{call}: {}", scenario.function.log());
        scenario.sqs.settle(JOB_QUEUE, &batch, &reply);
        servers.into_iter().for_each(Server::clear_faults);
        scenario.process_queue().await;
        scenario.assert_stored(call, "1", &image);
        assert_eq!(scenario.sqs.messages(DEAD_LETTER_QUEUE).len(), 0, "{call}");
    }))
    .await;
}

/// Before GitHub gives up, and with time to spare for the way back.
#[tokio::test]
async fn a_stalled_service_is_answered_503_before_github_gives_up() {
    let calls = ["GetSecretValue", "SendMessageBatch"];
    join_all(calls.map(async |call| {
        let scenario = scenario().await;
        for server in [&scenario.aws.server, &scenario.sqs.server] {
            server.fault("POST", call, usize::MAX, Fault::Hold);
        }
        assert!(scenario.function.ready().await);
        let begin = Instant::now();
        let timeout = Duration::from_secs(25);
        let outcome = scenario
            .function
            .invoke_with_deadline(&delivery("1"), timeout)
            .await;
        let reply = outcome.reply();
        assert_eq!(reply["statusCode"], 503, "{call}: {reply}");
        let elapsed = begin.elapsed();
        assert!(elapsed < GITHUB_PATIENCE, "{call}: {elapsed:?}");
        for server in [&scenario.aws.server, &scenario.sqs.server] {
            server.release();
        }
        assert_eq!(http_reply(&scenario, &delivery("1")).await.0, 202, "{call}");
    }))
    .await;
}

/// Lambda kills what has not answered by the deadline, without a word.
#[tokio::test]
async fn no_stalled_call_outlives_the_deadline() {
    let sqs = json!({"source": "ghcr.io/acme/api:1", "all_tags": true}).to_string();
    let detail: Value = serde_json::from_str(&webhook::package_event(
        "acme",
        "api",
        "1",
        &small_image().top,
    ))
    .expect("JSON");
    let bus = webhook::eventbridge("github.com", "package", detail);
    let all_tags = json!({"source": "ghcr.io/acme/api:1", "all_tags": true});
    let (aws, api) = (["GetSecretValue", "GetAuthorizationToken"], "/packages/");
    let mut cases: Vec<(&str, Value, bool)> = Vec::new();
    for call in [aws[0], aws[1], api, "/token", "/manifests/"] {
        cases.push((call, delivery("1"), false));
        cases.push((call, all_tags.clone(), false));
        cases.push((call, Value::String(sqs.clone()), true));
    }
    for call in [aws[0], "/packages", "SendMessageBatch", "tags/list"] {
        cases.push((call, json!({"reconcile": true}), true));
    }
    cases.push(("SendMessageBatch", bus.clone(), true));
    cases.push(("SendMessageBatch", Value::String(sqs.clone()), true));
    cases.push((aws[1], bus, false));
    // Few at a time: each is a process, and the start of one counts against its deadline.
    for cases in cases.chunks(6) {
        join_all(
            cases
                .iter()
                .map(|(call, event, has_queue)| stalls(call, event, *has_queue)),
        )
        .await;
    }
}

/// An invocation during which `call` of any server stalls ends with an answer or an error of its own.
async fn stalls(call: &str, event: &Value, has_queue: bool) {
    let scenario = match has_queue {
        true => Scenario::start_with_queue(&[]).await,
        false => Scenario::start().await,
    };
    for tag in ["1", "2"] {
        scenario.push(REPOSITORY, tag, &small_image());
    }
    let servers = [
        &scenario.aws.server,
        &scenario.sqs.server,
        &scenario.github.server,
        &scenario.ghcr.server,
        &scenario.ecr.server,
    ];
    let event = match event {
        Value::String(body) => {
            scenario.sqs.send(JOB_QUEUE, "group", body);
            scenario.sqs.batch(JOB_QUEUE, 1)
        }
        event => event.clone(),
    };
    assert!(scenario.function.ready().await);
    for server in servers {
        server.fault("*", call, usize::MAX, Fault::Hold);
    }
    let timeout = Duration::from_secs(5);
    let outcome = scenario
        .function
        .invoke_with_deadline(&event, timeout)
        .await;
    let is_told = matches!(outcome, Outcome::Reply(_) | Outcome::Error { .. });
    assert!(is_told, "{call} {event}: {outcome:?}");
    let count = |server: &&Server| server.count("*", call);
    assert!(
        servers.iter().map(count).sum::<usize>() > 0,
        "{call} was not called by {event}"
    );
}

/// Not even the calls that decide about a message, after a copy that is done or has failed.
#[tokio::test]
async fn a_stalled_queue_does_not_hold_the_worker_beyond_its_deadline() {
    let calls = [
        (
            "ChangeMessageVisibility",
            r#"{"source": "ghcr.io/acme/api:1", "destination": "prod/api"}"#,
        ),
        ("SendMessage", "not JSON, and so a dead letter"),
    ];
    join_all(calls.map(async |(call, body)| {
        let scenario = Scenario::start_with_queue(&[]).await;
        let damaged = Fault::Status {
            status: 503,
            headers: vec![],
            body: String::new(),
        };
        scenario.ghcr.server.fault("GET", "/", usize::MAX, damaged);
        scenario
            .sqs
            .server
            .fault("POST", call, usize::MAX, Fault::Hold);
        let id = scenario.sqs.send(JOB_QUEUE, "group", body);
        let batch = scenario.sqs.batch(JOB_QUEUE, 1);
        assert!(scenario.function.ready().await);
        let timeout = Duration::from_secs(6);
        let reply = scenario
            .function
            .invoke_with_deadline(&batch, timeout)
            .await
            .reply();
        assert_eq!(
            reply,
            json!({"batchItemFailures": [{"itemIdentifier": id}]}),
            "{call}"
        );
        assert!(scenario.sqs.server.count("POST", call) > 0, "{call}");
    }))
    .await;
}

/// An outage of half an hour passes before the queue gives a message up.
#[tokio::test]
async fn the_waits_between_receives_span_half_an_hour() {
    let scenario = scenario().await;
    // An answer that can't be understood is not tried again by the SDK, so this takes no time.
    let damaged = Fault::Status {
        status: 200,
        headers: vec![],
        body: "{".to_owned(),
    };
    scenario
        .aws
        .server
        .fault("POST", "GetAuthorizationToken", usize::MAX, damaged);
    scenario
        .sqs
        .send(JOB_QUEUE, "group", &direct("1").to_string());
    let mut batch = scenario.sqs.batch(JOB_QUEUE, 1);
    let mut waits = Vec::new();
    for receive in 1..MAX_RECEIVE_COUNT {
        batch["Records"][0]["attributes"]["ApproximateReceiveCount"] = json!(receive.to_string());
        let reply = scenario.invoke(&batch).await.reply();
        assert_eq!(reply["batchItemFailures"].as_array().map(Vec::len), Some(1));
        let wait = scenario.sqs.messages(JOB_QUEUE)[0].visibility_timeout;
        waits.push(wait.expect("backed off"));
    }
    assert!(waits[0] <= 15, "{waits:?}");
    assert!(waits.iter().sum::<i32>() >= 30 * 60, "{waits:?}");
}

/// Lambda ends a start after ten seconds, and nobody is told why. So the start does not wait for what may pass; the first
/// invocation does.
#[tokio::test]
async fn a_start_does_not_wait_for_rules_that_can_not_be_read_for_the_moment() {
    let rules = r#"[{"source":"acme/*","destination":"prod/{name}"}]"#;
    for fault in [Fault::Hold, Fault::html(503)] {
        let mut scenario = scenario().await;
        scenario.aws.put_secret("rules", rules);
        scenario
            .aws
            .server
            .fault("POST", "GetSecretValue", usize::MAX, fault);
        let begin = Instant::now();
        scenario.restart_with(&[("RULES", "secret:rules")]).await;
        assert!(
            scenario.function.ready().await,
            "{}",
            scenario.function.log()
        );
        assert!(
            begin.elapsed() < Duration::from_secs(9),
            "{:?}",
            begin.elapsed()
        );
        // Until they can be read, what the queue brings comes back.
        scenario
            .sqs
            .send(JOB_QUEUE, "group", &direct("1").to_string());
        let batch = scenario.sqs.batch(JOB_QUEUE, 1);
        let timeout = Duration::from_secs(5);
        let function = &scenario.function;
        let reply = function.invoke_with_deadline(&batch, timeout).await.reply();
        assert_eq!(reply["batchItemFailures"].as_array().map(Vec::len), Some(1));
        scenario.sqs.settle(JOB_QUEUE, &batch, &reply);
        scenario.aws.server.release();
        scenario.aws.server.clear_faults();
        scenario.process_queue().await;
        scenario.assert_stored("in the end", "1", &small_image());
        assert_eq!(scenario.sqs.messages(DEAD_LETTER_QUEUE).len(), 0);
    }
}
