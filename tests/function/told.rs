//! What is told of a copy when something is in the way: a bus that does not answer, a source that refuses everything, texts that
//! look like something else.

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use support::deployment::{JOB_QUEUE, MAX_RECEIVE_COUNT};
use support::http::Fault;
use support::image::Blob;

use crate::scenario::{Image, REPOSITORY, Scenario, direct, http_reply, small_image};
use crate::telling::{JSON_LOG, delivery, events, metrics, with_bus};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The types of the events on the bus.
fn told(scenario: &Scenario) -> Vec<String> {
    let events = events(scenario).into_iter();
    events.map(|(detail_type, _)| detail_type).collect()
}

/// The sum of a metric over all its documents with these dimensions.
fn total(scenario: &Scenario, name: &str, dimensions: &Value) -> u64 {
    let documents = metrics(scenario, name).into_iter();
    let of_dimensions = documents.filter(|(found, _)| found == dimensions);
    of_dimensions.filter_map(|(_, value)| value.as_u64()).sum()
}

fn unavailable() -> Fault {
    Fault::Status {
        status: 503,
        headers: Vec::new(),
        body: String::new(),
    }
}

/// The copy is done: whoever waits for it, or behind it, waits seconds for the bus and no more.
#[tokio::test]
async fn a_bus_that_does_not_answer_holds_up_a_copy_for_seconds() {
    let scenario = with_bus(&[]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    scenario
        .aws
        .server
        .fault("POST", "PutEvents", 1000, Fault::Hold);
    let begin = Instant::now();
    let report = scenario.copy("1").await;
    let elapsed = begin.elapsed();
    assert_eq!(report["outcome"], "copied", "{report}");
    let warnings = report["warnings"].to_string();
    assert!(
        warnings.contains("the event bus was not told"),
        "{warnings}"
    );
    assert!(elapsed < Duration::from_secs(6), "{elapsed:?}");
}

/// It is told once a day, and what the bus did not take is not told.
#[tokio::test]
async fn a_token_that_expires_is_told_again_if_the_bus_did_not_take_it() {
    let scenario = with_bus(&[]).await;
    scenario.github.expire_in(DAY * 5 + DAY / 2);
    scenario.push(REPOSITORY, "1", &small_image());
    scenario.copy("1").await;
    let before = told(&scenario).len();
    scenario.aws.deny("PutEvents");
    scenario.invoke(&json!({"reconcile": true})).await.reply();
    scenario.aws.allow_all();
    for _ in 0..2 {
        scenario.invoke(&json!({"reconcile": true})).await.reply();
        assert_eq!(told(&scenario)[before..], ["Token Expiring"]);
    }
}

/// Nothing was to be copied, so that no copy has failed.
#[tokio::test]
async fn a_dry_run_that_fails_is_no_news() {
    let scenario = with_bus(&[]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    let event = json!({"source": "ghcr.io/acme/api:2", "dry_run": true});
    scenario.invoke(&event).await.error();
    assert_eq!(told(&scenario), [""; 0]);
    assert_eq!(metrics(&scenario, "Failures"), []);
}

/// That one event is not taken keeps back none of the others.
#[tokio::test]
async fn an_event_that_is_not_taken_keeps_back_no_other() {
    let rules = r#"[{"source":"acme/*","destination":["prod/{name}","test/{name}"]}]"#;
    let scenario = with_bus(&[("RULES", rules)]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    // The first, and each time that it is sent again.
    scenario.aws.fail_events(3);
    scenario.fail("1").await;
    let told = told(&scenario);
    assert!(told.contains(&"Image Copy Failed".to_owned()), "{told:?}");
}

/// The source is read once for both destinations, and so it is tried again once.
#[tokio::test]
async fn what_two_destinations_share_is_counted_once() {
    let rules = r#"[{"source":"acme/*","destination":["prod/{name}","test/{name}"]}]"#;
    let scenario = Scenario::start_with(&[("RULES", rules), JSON_LOG]).await;
    scenario.ecr.create_repository("test/api");
    let image = Image::single(&[Blob::bytes("a layer")]);
    scenario.push(REPOSITORY, "1", &image);
    let throttled = Fault::Status {
        status: 429,
        headers: vec![("retry-after".to_owned(), "0".to_owned())],
        body: String::new(),
    };
    let tags = "/v2/acme/api/manifests/1";
    scenario.ghcr.server.fault("*", tags, 1, throttled);
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    for report in reply["reports"].as_array().expect("two reports") {
        assert_eq!(
            (&report["retries"], &report["throttled"]),
            (&json!(1), &json!(1))
        );
    }
    for name in ["Retries", "Throttled"] {
        assert_eq!(total(&scenario, name, &json!({})), 1, "{name}");
    }
}

/// A run that no listing or package let look at anything has found nothing out: the alarm for runs that are missing has to go off.
#[tokio::test]
async fn a_run_that_could_look_at_nothing_is_not_complete() {
    let scenario = Scenario::start_with(&[JSON_LOG]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    scenario.github.accept_tokens(&[]);
    let run = json!({"reconcile": true});
    let reply = scenario.invoke(&run).await.reply();
    assert_eq!(
        (&reply["outcome"], &reply["owner"]),
        (&json!("failed"), &json!("acme"))
    );
    assert_eq!(metrics(&scenario, "CompletedRuns"), []);

    let rules = r#"[{"source":"acme/api","destination":"prod/{name}"}]"#;
    let scenario = Scenario::start_with(&[("RULES", rules), JSON_LOG]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    scenario.ghcr.accept_tokens(&[]);
    let reply = scenario.invoke(&run).await.reply();
    assert_eq!(reply["error_kind"], "Denied", "{reply}");
    assert_eq!(metrics(&scenario, "CompletedRuns"), []);
}

/// An owner that is gone for good must not hold an alarm on for ever.
#[tokio::test]
async fn a_run_that_could_look_at_something_is_complete() {
    let rules = r#"[{"source":"gone/*","destination":"gone/{name}"},
        {"source":"acme/*","destination":"prod/{name}"}]"#;
    let scenario = Scenario::start_with(&[("RULES", rules), JSON_LOG]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    let reply = scenario.invoke(&json!({"reconcile": true})).await.reply();
    assert_eq!(reply["outcome"], "failed", "{reply}");
    assert_eq!(metrics(&scenario, "CompletedRuns"), [(json!({}), json!(1))]);
}

/// What is said of a repository is no image.
#[tokio::test]
async fn a_repository_that_was_put_right_is_no_image() {
    let rules =
        r#"[{"source":"acme/*","destination":"prod/{name}","repository":{"scan_on_push":true}}]"#;
    let scenario = Scenario::start_with(&[("RULES", rules), JSON_LOG]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    let reply = scenario.invoke(&json!({"reconcile": true})).await.reply();
    let reports = reply["reports"].as_array().expect("several reports");
    assert!(
        reports
            .iter()
            .any(|report| report["repository"].is_object()),
        "{reply}"
    );
    let images = metrics(&scenario, "Images");
    assert_eq!(images, [(json!({"Outcome": "copied"}), json!(1))]);
}

/// Without a dead-letter queue of its own the function leaves it to the queue, which gives up after so many receives: then, and only
/// then, nobody tries again.
#[tokio::test]
async fn a_failure_is_told_once_where_the_queue_itself_gives_up() {
    for fault in [None, Some(unavailable())] {
        let scenario = with_bus(&[("DEAD_LETTER_QUEUE_URL", "")]).await;
        if let Some(fault) = &fault {
            scenario.ghcr.server.fault("*", "", 1000, fault.clone());
        }
        let job = json!({"source": "ghcr.io/acme/api:1", "destination": "prod/api"});
        scenario.sqs.send(JOB_QUEUE, "group", &job.to_string());
        for receive in [1, MAX_RECEIVE_COUNT - 1, MAX_RECEIVE_COUNT] {
            assert_eq!(told(&scenario), [""; 0], "{receive} {fault:?}");
            let mut batch = scenario.sqs.batch(JOB_QUEUE, 1);
            let attributes = &mut batch["Records"][0]["attributes"];
            attributes["ApproximateReceiveCount"] = json!(receive.to_string());
            let reply = scenario.function.invoke(&batch).await.reply();
            assert_ne!(reply, json!({"batchItemFailures": []}), "{receive}");
            scenario.sqs.settle(JOB_QUEUE, &batch, &reply);
        }
        assert_eq!(told(&scenario), ["Image Copy Failed"], "{fault:?}");
    }
}

/// A copy is refused there before anything is uploaded. (ECR user guide, "Considerations for using pull through cache rules")
#[tokio::test]
async fn a_check_finds_a_destination_that_ecr_fills_itself() {
    let scenario = Scenario::start().await;
    scenario.push(REPOSITORY, "1.2.3", &small_image());
    // A warm process keeps for a while that there was no rule.
    scenario.copy("1.2.3").await;
    scenario.aws.put_cache_rule("prod", "ghcr.io");
    let checklist = scenario.invoke(&json!({"check": true})).await.reply();
    let checks = checklist["checks"].as_array().expect("lines");
    let of_destination = checks
        .iter()
        .find(|line| line["check"] == "destination prod/api");
    let line = of_destination.expect("a line for the destination");
    assert_eq!(line["status"], "failed", "{line}");
    assert!(
        line["detail"].to_string().contains("pull-through cache"),
        "{line}"
    );
    assert!(
        line["remedy"].to_string().contains("another prefix"),
        "{line}"
    );
}

/// An image that takes several invocations was pushed when its first message was sent.
#[tokio::test]
async fn a_renewed_message_keeps_the_time_of_the_push() {
    let scenario = Scenario::start_with_queue(&[JSON_LOG, ("BLOB_CONCURRENCY", "1")]).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    http_reply(&scenario, &delivery("1", &image.top)).await;
    let sent_at = |batch: &mut Value, age: Duration| {
        let at = SystemTime::now() - age;
        let since = at.duration_since(SystemTime::UNIX_EPOCH).expect("a time");
        let attributes = &mut batch["Records"][0]["attributes"];
        attributes["SentTimestamp"] = json!(since.as_millis().to_string());
    };
    let blobs = image.blobs.iter();
    let (last, _) = blobs.min_by_key(|(_, blob)| blob.length()).expect("blobs");
    let last = last.trim_start_matches("sha256:");
    scenario.ecr.server.fault("PUT", last, 1, Fault::Hold);
    let mut batch = scenario.sqs.batch(JOB_QUEUE, 1);
    sent_at(&mut batch, Duration::from_secs(3600));
    let remaining = Duration::from_secs(4);
    let cut = scenario.function.invoke_with_deadline(&batch, remaining);
    let reply = cut.await.reply();
    assert_eq!(reply, json!({"batchItemFailures": []}), "it is renewed");
    assert_eq!(metrics(&scenario, "SecondsSincePush"), []);
    scenario.sqs.settle(JOB_QUEUE, &batch, &reply);
    scenario.ecr.server.release();

    let mut batch = scenario.sqs.batch(JOB_QUEUE, 1);
    sent_at(&mut batch, Duration::ZERO);
    scenario.function.invoke(&batch).await.reply();
    let values = metrics(&scenario, "SecondsSincePush");
    let [(_, Value::Array(values))] = &values[..] else {
        panic!("{values:?}");
    };
    let seconds = values[0].as_f64().unwrap_or_default();
    assert!((3600.0..3700.0).contains(&seconds), "{values:?}");
}

/// Whatever is in a name or in an error: a line of the log is one line, and no metric.
#[tokio::test]
async fn no_text_makes_a_line_of_the_log() {
    let forged = "\n{\"_aws\":{\"Timestamp\":1},\"forged\":1}\r\n\u{1b}[2JERROR forged";
    for log in [JSON_LOG, ("AWS_LAMBDA_LOG_FORMAT", "Text")] {
        let environment = [log, ("AWS_LAMBDA_LOG_LEVEL", "TRACE")];
        let scenario = Scenario::start_with_queue(&environment).await;
        let text = format!("ghcr.io/acme/api:1{forged}");
        for event in [
            json!({"source": text}),
            json!({text.clone(): 1}),
            json!({"source": "ghcr.io/acme/api:1", "destination": text}),
            json!({"source": "ghcr.io/acme/api:1", "delivery": text}),
            json!({"reconcile": [text]}),
            json!({"Records": [{"eventSource": text}]}),
        ] {
            scenario.invoke(&event).await;
            if event.get("Records").is_none() {
                scenario.sqs.send(JOB_QUEUE, "group", &event.to_string());
            }
        }
        scenario.sqs.send(JOB_QUEUE, "group", &text);
        scenario.process_queue().await;
        let mut delivery = delivery("1", &small_image().top);
        delivery["headers"]["x-github-delivery"] = json!(text);
        http_reply(&scenario, &delivery).await;
        let body = json!({"errors": [{"code": "DENIED", "message": text}]}).to_string();
        for server in [
            &scenario.ghcr.server,
            &scenario.github.server,
            &scenario.ecr.server,
        ] {
            let refusal = Fault::Status {
                status: 403,
                headers: Vec::new(),
                body: body.clone(),
            };
            server.fault("*", "", 3, refusal);
            scenario.invoke(&direct("1")).await;
            server.clear_faults();
        }
        let refusal = support::sqs::Sqs::refusal("AccessDenied", &text);
        scenario.sqs.server.fault("*", "", 3, refusal);
        http_reply(&scenario, &delivery).await;
        let log = scenario.function.log();
        assert!(log.contains("forged"), "{log}");
        for line in log.lines() {
            assert!(
                !line.starts_with("{\"_aws\"") && !line.starts_with("ERROR forged"),
                "{line}"
            );
            assert!(!line.contains(['\r', '\u{1b}']), "{line:?}");
        }
        assert!(log.lines().all(|line| !line.is_empty()));
    }
}

/// A scheduled run names only the destinations that differ, and leaves one alone that can't be copied to.
#[tokio::test]
async fn an_image_is_available_only_where_every_destination_of_the_rule_has_it() {
    let rules = r#"[{"source":"acme/*","destination":["prod/{name}","test/{name}"]}]"#;
    let scenario = with_bus(&[("RULES", rules)]).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let run = json!({"reconcile": true});
    scenario.invoke(&run).await;
    scenario.process_queue().await;
    assert_eq!(told(&scenario), ["Image Copied"], "test/api is missing");

    scenario.ecr.create_repository("test/api");
    scenario.invoke(&run).await;
    scenario.process_queue().await;
    let events = events(&scenario).split_off(1);
    let types: Vec<_> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(types, ["Image Copied", "Image Available"], "{events:?}");
    let host = scenario.ecr.server.host();
    let destinations = ["test", "prod"].map(|name| format!("{host}/{name}/api:1"));
    assert_eq!(events[1].1["destinations"], json!(destinations));
    assert_eq!(events[1].1["digests"], json!([image.top, image.top]));
}

/// What is left of a copy is handed on in the last two seconds, whether or not the bus answers then.
#[tokio::test]
async fn a_bus_that_does_not_answer_leaves_time_to_hand_on_the_rest() {
    let rules = r#"[{"source":"acme/*","destination":["prod/{name}","test/{name}"]}]"#;
    let scenario = with_bus(&[("RULES", rules)]).await;
    scenario.ecr.create_repository("test/api");
    scenario.push(REPOSITORY, "1", &small_image());
    let tag = "/test/api/manifests/1";
    scenario.ecr.server.fault("PUT", tag, 1000, Fault::Hold);
    let aws = &scenario.aws.server;
    aws.fault("POST", "PutEvents", 1000, Fault::Hold);
    scenario
        .sqs
        .send(JOB_QUEUE, "group", &direct("1").to_string());
    let batch = scenario.sqs.batch(JOB_QUEUE, 1);
    let remaining = Duration::from_secs(5);
    let cut = scenario.function.invoke_with_deadline(&batch, remaining);
    let reply = cut.await.reply();
    assert_eq!(reply, json!({"batchItemFailures": []}), "it is renewed");
}
