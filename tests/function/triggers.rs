//! What the triggers owe to whoever is on the other side: no part of a push is lost on the way, and nothing is passed over in silence.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use support::deployment::{DEAD_LETTER_QUEUE, JOB_QUEUE, WEBHOOK_SECRET};
use support::function::{Function, Outcome};
use support::http::Fault;
use support::webhook;

use crate::scenario::{BINARY, Image, REPOSITORY, Scenario, direct, http_reply, small_image};

const TWO_DESTINATIONS: &str = r#"[{"source":"acme/*","destination":["prod/{name}","other/{name}"],"tags":{"exclude":["pr-*"]}}]"#;

fn delivery(tag: &str, image: &Image) -> Value {
    let body = webhook::package_event("acme", "api", tag, &image.top);
    webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET)
}

fn push(scenario: &Scenario, tags: &[&str], image: &Image) {
    for tag in tags {
        scenario.push(REPOSITORY, tag, image);
    }
}

/// The answer of SQS to a caller without the permission to send a batch.
fn denied() -> Fault {
    Fault::Status {
        status: 403,
        headers: vec![(
            "x-amzn-query-error".to_owned(),
            "AccessDenied;Sender".to_owned(),
        )],
        body: json!({"__type": "com.amazonaws.sqs#AccessDenied", "message": "no"}).to_string(),
    }
}

fn destinations(body: &str) -> Vec<String> {
    let body: Value = serde_json::from_str(body).expect("JSON");
    match &body["destination"] {
        Value::Array(several) => several
            .iter()
            .map(|one| one.as_str().unwrap_or_default().to_owned())
            .collect(),
        one => vec![one.as_str().unwrap_or_default().to_owned()],
    }
}

/// A job that is sent back from the dead-letter queue has to do all that is left, and the other tags are left at every destination.
#[tokio::test]
async fn a_dead_letter_keeps_the_destinations_that_its_other_tags_need() {
    for (tag, immutable) in [("pr-7", false), ("latest", true)] {
        let scenario = Scenario::start_with_queue(&[("RULES", TWO_DESTINATIONS)]).await;
        scenario.ecr.create_repository("other/api");
        let image = small_image();
        if immutable {
            let old = Image::single(&[support::image::Blob::bytes("old")]);
            scenario.ecr.put_image("other/api", tag, &old);
            scenario.ecr.create_immutable_repository("other/api");
        }
        push(&scenario, &["1.2.3", tag], &image);
        assert_eq!(http_reply(&scenario, &delivery(tag, &image)).await.0, 202);
        let server = &scenario.sqs.server;
        server.fault("POST", "SendMessageBatch", usize::MAX, denied());
        let batch = scenario.sqs.batch(JOB_QUEUE, 1);
        let reply = scenario.invoke(&batch).await.reply();
        assert_eq!(reply, json!({"batchItemFailures": []}), "{tag}");
        let letters = scenario.sqs.messages(DEAD_LETTER_QUEUE);
        assert_eq!(
            destinations(&letters[0].body),
            ["prod/api", "other/api"],
            "{tag}"
        );
    }
}

/// One bad moment of GitHub's API, and the tags that only it knows of would wait for a schedule, if there is one.
#[tokio::test]
async fn a_moments_fault_of_githubs_api_does_not_lose_the_other_tags() {
    for has_queue in [true, false] {
        let scenario = match has_queue {
            true => Scenario::start_with_queue(&[]).await,
            false => Scenario::start().await,
        };
        let image = small_image();
        push(&scenario, &["1.2.3", "latest"], &image);
        scenario
            .github
            .server
            .fault("GET", "/", 1, Fault::html(502));
        http_reply(&scenario, &delivery("latest", &image)).await;
        if has_queue {
            scenario.process_queue().await;
        }
        scenario.assert_stored("named", "latest", &image);
        scenario.assert_stored("other", "1.2.3", &image);
    }
}

/// Without a token GitHub tells nobody the other tags, and whoever asked for them must not take the silence for success.
#[tokio::test]
async fn other_tags_that_can_not_be_asked_for_are_no_silent_success() {
    let scenario = Scenario::start_with(&[("GHCR_TOKEN_SECRET_ID", "")]).await;
    push(&scenario, &["1.2.3", "latest"], &small_image());
    scenario.ghcr.set_public(REPOSITORY, true);
    let mut event = direct("latest");
    event["all_tags"] = json!(true);
    let report = scenario.invoke(&event).await.reply();
    assert_eq!(report["outcome"], "copied", "{report}");
    let warning = report["warnings"][0].as_str().unwrap_or_default();
    assert!(warning.contains("GHCR_TOKEN_SECRET_ID"), "{report}");
}

/// SQS may take a batch and yet fail an entry of it for a moment. GitHub delivers nothing again by itself.
#[tokio::test]
async fn an_entry_that_sqs_fails_for_a_moment_is_sent_again() {
    let scenario = Scenario::start_with_queue(&[]).await;
    let image = small_image();
    push(&scenario, &["1"], &image);
    scenario.sqs.fail_entries("acme/api", 1);
    let (status, report) = http_reply(&scenario, &delivery("1", &image)).await;
    assert_eq!(status, 202, "{report}");
    assert_eq!(scenario.sqs.messages(JOB_QUEUE).len(), 1);
}

/// The limit of twelve hours counts from the receive, so a wait of the whole twelve hours is refused and the message comes back at
/// once. (Amazon SQS API reference, `ChangeMessageVisibility`)
#[tokio::test]
async fn the_longest_wait_leaves_room_for_the_time_since_the_receive() {
    let scenario = Scenario::start_with_queue(&[("RULES", TWO_DESTINATIONS)]).await;
    let image = small_image();
    push(&scenario, &["pr-7", "1"], &image);
    assert_eq!(
        http_reply(&scenario, &delivery("pr-7", &image)).await.0,
        202
    );
    let tomorrow = SystemTime::now() + Duration::from_secs(24 * 60 * 60);
    scenario.github.exhaust_rate_limit_until(tomorrow, 403);
    let batch = scenario.sqs.batch(JOB_QUEUE, 1);
    let reply = scenario.invoke(&batch).await.reply();
    assert_ne!(reply, json!({"batchItemFailures": []}));
    let wait = scenario.sqs.messages(JOB_QUEUE)[0].visibility_timeout;
    let wait = wait.expect("put off");
    // A function may run for 900 seconds before it puts its message off.
    assert!((39_000..=43_200 - 900).contains(&wait), "{wait}");
}

/// De-duplication and message groups are FIFO queues' alone: a standard one would refuse every job.
#[tokio::test]
async fn the_url_of_a_standard_queue_stops_the_start() {
    let rules = r#"[{"source":"acme/*","destination":"prod/{name}"}]"#;
    for name in ["JOB_QUEUE_URL", "DEAD_LETTER_QUEUE_URL"] {
        for value in [
            "https://sqs.eu-west-3.amazonaws.com/123456789012/jobs",
            "https://sqs.eu-west-3.amazonaws.com/",
        ] {
            let environment = [("RULES", rules), (name, value)];
            let function = Function::start(Path::new(BINARY), &environment).await;
            let outcome = function.invoke(&direct("1")).await;
            assert!(
                matches!(outcome, Outcome::Exited { .. }),
                "{name}={value}: {outcome:?}"
            );
            let error = function.initialization_error().unwrap_or_default();
            let message = error["errorMessage"].as_str().unwrap_or_default();
            let begin = format!("setting {name} is {value:?}");
            assert!(
                message.contains(&begin) && message.contains(".fifo"),
                "{message}"
            );
        }
    }
}

/// Two messages of one tag may carry different lists of destinations, as a schedule names only those that differ.
#[tokio::test]
async fn one_tag_is_never_handed_out_twice_at_a_time() {
    let scenario = Scenario::start_with_queue(&[("RULES", TWO_DESTINATIONS)]).await;
    scenario.ecr.create_repository("other/api");
    let image = small_image();
    push(&scenario, &["1"], &image);
    scenario.ecr.put_image("prod/api", "1", &image);
    assert_eq!(http_reply(&scenario, &delivery("1", &image)).await.0, 202);
    scenario.invoke(&webhook::scheduler()).await.reply();
    let messages = scenario.sqs.messages(JOB_QUEUE);
    assert_eq!(destinations(&messages[0].body), ["prod/api", "other/api"]);
    assert_eq!(destinations(&messages[1].body), ["other/api"]);
    assert_eq!(messages[0].group, messages[1].group);
}

/// The log tells what became of each message.
#[tokio::test]
async fn a_message_that_is_held_back_is_named_in_the_log() {
    let scenario = Scenario::start_with_queue(&[]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    let unavailable = Fault::Status {
        status: 503,
        headers: vec![],
        body: String::new(),
    };
    let server = &scenario.ecr.server;
    server.fault("POST", "/blobs/uploads/", usize::MAX, unavailable);
    let body = direct("1").to_string();
    let ids = [1, 2].map(|_| scenario.sqs.send(JOB_QUEUE, "a", &body));
    let batch = scenario.sqs.batch(JOB_QUEUE, 10);
    let reply = scenario.invoke(&batch).await.reply();
    assert_eq!(reply["batchItemFailures"][1]["itemIdentifier"], ids[1]);
    let log = scenario.function.log();
    assert!(log.contains(&ids[1]), "{log}");
}

/// Whatever other senders put on the bus is none of the function's business, in whatever form it is.
#[tokio::test]
async fn an_event_of_another_source_is_ignored_before_it_is_read() {
    let scenario = Scenario::start().await;
    let event = webhook::eventbridge("com.example", "package", json!("no JSON"));
    let report = scenario.invoke(&event).await.reply();
    assert_eq!(report["outcome"], "ignored", "{report}");
    let reason = report["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("com.example"), "{reason}");
}

#[tokio::test]
async fn a_run_for_no_packages_at_all_is_malformed() {
    let scenario = Scenario::start().await;
    let (kind, message) = scenario.invoke(&json!({"reconcile": []})).await.error();
    assert_eq!(kind, "Invalid");
    assert!(message.contains("list of globs"), "{message}");
}

/// Lambda takes no reply of more than 6 MB, and the body of an HTTP reply is a text inside it, in which every quotation mark counts
/// twice.
#[tokio::test]
async fn an_http_reply_stays_under_lambdas_limit_however_much_is_escaped() {
    let scenario = Scenario::start().await;
    let tag = "\"".repeat(1_100_000);
    let body = webhook::package_event("acme", "api", &tag, &small_image().top);
    let event = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
    let reply = scenario.invoke(&event).await.reply();
    assert_eq!(reply["statusCode"], 400);
    assert!(
        reply.to_string().len() <= 6_291_556,
        "{}",
        reply.to_string().len()
    );
}

/// The words of AWS name account, role and secret: that is for the log, and not for whoever finds the address.
#[tokio::test]
async fn who_has_signed_nothing_is_told_nothing_of_the_account() {
    let scenario = Scenario::start().await;
    scenario.aws.deny("GetSecretValue");
    let event = webhook::api_gateway_v2("package", "{}", "another secret");
    let (status, report) = http_reply(&scenario, &event).await;
    assert_eq!(status, 502, "{report}");
    let said = report.to_string();
    for part in ["arn:", "assumed-role", "webhook-secret"] {
        assert!(!said.contains(part), "{part}: {said}");
    }
    let log = scenario.function.log();
    assert!(log.contains("webhook-secret"), "{log}");
}

/// A schedule follows the rules, and knows nothing of the destination that a person has named.
#[tokio::test]
async fn no_scheduled_run_is_promised_to_whoever_names_the_destination() {
    let scenario = Scenario::start().await;
    scenario.ecr.create_repository("elsewhere/api");
    push(&scenario, &["1.2.3", "latest"], &small_image());
    scenario.github.exhaust_rate_limit();
    let event = json!({"source": "ghcr.io/acme/api:latest", "destination": "elsewhere/api", "all_tags": true});
    let report = scenario.invoke(&event).await.reply();
    let warning = report["warnings"][0].as_str().unwrap_or_default();
    assert!(warning.contains("could not be learnt"), "{report}");
    assert!(
        !warning.contains("a scheduled run will find them"),
        "{warning}"
    );
}

/// A job that can never succeed would come back from there for ever, each time as a new message.
#[tokio::test]
async fn the_job_queue_is_no_dead_letter_queue() {
    let queue = "https://sqs.eu-west-3.amazonaws.com/123456789012/jobs.fifo";
    let rules = r#"[{"source":"acme/*","destination":"prod/{name}"}]"#;
    let environment = [
        ("RULES", rules),
        ("JOB_QUEUE_URL", queue),
        ("DEAD_LETTER_QUEUE_URL", queue),
    ];
    refuses_to_start(&environment, "DEAD_LETTER_QUEUE_URL").await;
}

/// It is used along with the job queue alone, and what is set must not be left aside in silence.
#[tokio::test]
async fn a_dead_letter_queue_without_a_job_queue_stops_the_start() {
    let queue = "https://sqs.eu-west-3.amazonaws.com/123456789012/dead.fifo";
    let rules = r#"[{"source":"acme/*","destination":"prod/{name}"}]"#;
    let environment = [("RULES", rules), ("DEAD_LETTER_QUEUE_URL", queue)];
    refuses_to_start(&environment, "JOB_QUEUE_URL").await;
}

async fn refuses_to_start(environment: &[(&str, &str)], named: &str) {
    let function = Function::start(Path::new(BINARY), environment).await;
    let outcome = function.invoke(&direct("1")).await;
    assert!(matches!(outcome, Outcome::Exited { .. }), "{outcome:?}");
    let error = function.initialization_error().unwrap_or_default();
    let message = error["errorMessage"].as_str().unwrap_or_default();
    assert!(
        message.contains("setting DEAD_LETTER_QUEUE_URL is") && message.contains(named),
        "{message}"
    );
}

/// Body and attributes have a mebibyte together, and a body may take all of it.
#[tokio::test]
async fn a_message_as_large_as_sqs_takes_is_dead_lettered_too() {
    for free in [1000, 40, 0] {
        let scenario = Scenario::start_with_queue(&[]).await;
        let frame = r#"{"source":"ghcr.io/acme/api:1","":1}"#.len();
        let field = "x".repeat(1024 * 1024 - free - frame);
        let body = format!(r#"{{"source":"ghcr.io/acme/api:1","{field}":1}}"#);
        scenario.sqs.send(JOB_QUEUE, "group", &body);
        let batch = scenario.sqs.batch(JOB_QUEUE, 1);
        let reply = scenario.invoke(&batch).await.reply();
        assert_eq!(reply, json!({"batchItemFailures": []}), "{free}");
        assert_eq!(scenario.sqs.messages(DEAD_LETTER_QUEUE)[0].body, body);
    }
}

/// What comes back because no time is left for it is named in the log, too.
#[tokio::test]
async fn a_message_that_finds_no_time_is_named_in_the_log() {
    let scenario = Scenario::start_with_queue(&[]).await;
    let id = scenario.sqs.send(JOB_QUEUE, "a", &direct("1").to_string());
    let batch = scenario.sqs.batch(JOB_QUEUE, 1);
    assert!(scenario.function.ready().await);
    let moment = Duration::from_millis(1500);
    let outcome = scenario.function.invoke_with_deadline(&batch, moment).await;
    assert_eq!(
        outcome.reply()["batchItemFailures"][0]["itemIdentifier"],
        id
    );
    let log = scenario.function.log();
    assert!(log.contains(&id), "{log}");
}

/// Right after a rotation the new secret is the current one, whatever becomes of the look for the previous one.
#[tokio::test]
async fn the_new_secret_is_read_although_the_previous_one_can_not_be() {
    let scenario = Scenario::start_with_queue(&[]).await;
    let image = small_image();
    push(&scenario, &["1"], &image);
    assert_eq!(http_reply(&scenario, &delivery("1", &image)).await.0, 202);
    scenario.aws.put_secret("webhook-secret", "the next");
    // As often as the SDK tries.
    scenario
        .aws
        .server
        .fault("POST", "GetSecretValue", 3, Fault::html(503));
    let body = webhook::package_event("acme", "api", "1", &image.top);
    let event = webhook::api_gateway_v2("package", &body, "the next");
    let (status, report) = http_reply(&scenario, &event).await;
    assert_eq!(status, 202, "{report}");
}

/// A large image may take all the time there is. Then the look for its other tags is what is left, and the next receive has time.
#[tokio::test]
async fn other_tags_that_the_deadline_cut_are_looked_for_again() {
    let scenario = Scenario::start_with_queue(&[]).await;
    let image = small_image();
    push(&scenario, &["1.2.3", "latest"], &image);
    assert_eq!(
        http_reply(&scenario, &delivery("latest", &image)).await.0,
        202
    );
    scenario.github.server.fault("GET", "/", 1, Fault::Hold);
    assert!(scenario.function.ready().await);
    let batch = scenario.sqs.batch(JOB_QUEUE, 1);
    let time = Duration::from_secs(6);
    let outcome = scenario.function.invoke_with_deadline(&batch, time).await;
    scenario.sqs.settle(JOB_QUEUE, &batch, &outcome.reply());
    scenario.assert_stored("named", "latest", &image);
    scenario.github.server.release();
    scenario.process_queue().await;
    scenario.assert_stored("other", "1.2.3", &image);
}
