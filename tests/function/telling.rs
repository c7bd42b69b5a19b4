//! What is told of a copy: lines of the log that can be queried, metrics, events on a bus, and a token that expires soon.

use std::time::Duration;

use serde_json::{Value, json};
use support::deployment::{DEAD_LETTER_QUEUE, JOB_QUEUE, WEBHOOK_SECRET};
use support::ghcr::Ghcr;
use support::http::Fault;
use support::webhook;

use crate::scenario::{REPOSITORY, Scenario, http_reply, small_image};

const BUS: &str = "images";
pub(crate) const JSON_LOG: (&str, &str) = ("AWS_LAMBDA_LOG_FORMAT", "JSON");
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Every line of the log, each of which must be a JSON object with a time and a level.
pub(crate) fn lines(scenario: &Scenario) -> Vec<Value> {
    let log = scenario.function.log();
    let line = |line: &str| -> Value {
        let value: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(
            value["timestamp"].is_string() && value["level"].is_string(),
            "{line}"
        );
        value
    };
    let lines: Vec<Value> = log.lines().map(line).collect();
    lines.iter().for_each(expect_embedded_metrics);
    lines
}

/// What the format asks of a line that has metrics. (Amazon CloudWatch user guide, "Specification: Embedded metric format")
fn expect_embedded_metrics(line: &Value) {
    let Some(about) = line.get("_aws") else {
        return;
    };
    assert!(about["Timestamp"].is_u64(), "{line}");
    let directives = about["CloudWatchMetrics"].as_array().expect("directives");
    for directive in directives {
        let is_text = |value: &Value, limit: usize| {
            value
                .as_str()
                .is_some_and(|text| (1..=limit).contains(&text.len()))
        };
        assert!(is_text(&directive["Namespace"], 1024), "{line}");
        let sets = directive["Dimensions"].as_array().expect("dimension sets");
        assert!(!sets.is_empty(), "{line}");
        for key in sets.iter().flat_map(|set| set.as_array().expect("a set")) {
            assert!(is_text(key, 250), "{line}");
            let target = &line[key.as_str().unwrap_or_default()];
            assert!(is_text(target, 1024), "{line}");
        }
        let metrics = directive["Metrics"].as_array().expect("metrics");
        assert!((1..=100).contains(&metrics.len()), "{line}");
        for metric in metrics {
            assert!(is_text(&metric["Name"], 1024), "{line}");
            let unit = metric["Unit"].as_str().unwrap_or("None");
            assert!(
                ["Count", "Bytes", "Seconds", "None"].contains(&unit),
                "{line}"
            );
            let target = &line[metric["Name"].as_str().unwrap_or_default()];
            let is_list = |values: &Vec<Value>| {
                (1..=100).contains(&values.len()) && values.iter().all(Value::is_number)
            };
            assert!(
                target.is_number() || target.as_array().is_some_and(is_list),
                "{line}"
            );
        }
    }
}

/// The metrics with this name, each with its dimensions and its values.
pub(crate) fn metrics(scenario: &Scenario, name: &str) -> Vec<(Value, Value)> {
    let of_line = |line: Value| {
        let directive = line.pointer("/_aws/CloudWatchMetrics/0")?.clone();
        assert_eq!(directive["Namespace"], "ghcr-to-ecr");
        let mut metrics = directive["Metrics"].as_array()?.iter();
        metrics.find(|metric| metric["Name"] == name)?;
        let mut dimensions = serde_json::Map::new();
        for dimension in ["Outcome", "Kind"] {
            if let Some(value) = line.get(dimension) {
                dimensions.insert(dimension.to_owned(), value.clone());
            }
        }
        Some((Value::Object(dimensions), line[name].clone()))
    };
    lines(scenario).into_iter().filter_map(of_line).collect()
}

pub(crate) fn delivery(tag: &str, digest: &str) -> Value {
    let body = webhook::package_event("acme", "api", tag, digest);
    webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET)
}

/// The events on the bus, as detail-type and detail.
pub(crate) fn events(scenario: &Scenario) -> Vec<(String, Value)> {
    let events = scenario.aws.events(BUS).into_iter();
    let event = |event: Value| {
        assert_eq!(event["source"], "ghcr-to-ecr");
        let detail_type = event["detail-type"].as_str().unwrap_or_default();
        (detail_type.to_owned(), event["detail"].clone())
    };
    events.map(event).collect()
}

pub(crate) async fn with_bus(environment: &[(&str, &str)]) -> Scenario {
    let all = [&[("EVENT_BUS", BUS), JSON_LOG], environment].concat();
    let scenario = Scenario::start_with_queue(&all).await;
    scenario.aws.create_event_bus(BUS);
    scenario
}

#[tokio::test]
async fn a_report_is_an_object_in_its_line_of_the_log() {
    let scenario = Scenario::start_with_queue(&[JSON_LOG]).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let event = delivery("1", &image.top);
    http_reply(&scenario, &event).await;
    scenario.process_queue().await;
    let lines = lines(&scenario);
    let copied: Vec<_> = lines
        .iter()
        .filter(|line| line["report"]["outcome"] == "copied")
        .collect();
    let [copied] = copied[..] else {
        panic!("expected one line for one image: {lines:?}");
    };
    assert_eq!(copied["level"], "INFO");
    assert_eq!(copied["message"], "copied");
    assert_eq!(copied["report"]["digest"], image.top.as_str());
    assert!(copied["report"]["bytes"]["copied"].is_u64(), "{copied}");
    assert_eq!(
        copied["delivery"], event["headers"]["x-github-delivery"],
        "{copied}"
    );
    assert!(
        copied["requestId"]
            .as_str()
            .is_some_and(|id| !id.is_empty()),
        "{copied}"
    );
}

#[tokio::test]
async fn metrics_count_images_by_outcome_and_kind() {
    let scenario = Scenario::start_with_queue(&[JSON_LOG]).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    http_reply(&scenario, &delivery("1", &image.top)).await;
    let queued = json!({"Outcome": "queued"});
    assert_eq!(metrics(&scenario, "Images"), [(queued.clone(), json!(1))]);
    assert_eq!(
        metrics(&scenario, "BytesCopied"),
        [],
        "nothing is copied yet"
    );

    scenario.process_queue().await;
    let copied = json!({"Outcome": "copied"});
    let images = metrics(&scenario, "Images");
    assert_eq!(images, [(queued, json!(1)), (copied, json!(1))]);
    let [(none, bytes)] = &metrics(&scenario, "BytesCopied")[..] else {
        panic!("expected one value");
    };
    assert_eq!((none, bytes.as_u64() > Some(1000)), (&json!({}), true));
    assert_eq!(metrics(&scenario, "Receives"), [(json!({}), json!([1.0]))]);
    for name in ["Seconds", "SecondsSincePush"] {
        let values = metrics(&scenario, name);
        let [(_, Value::Array(values))] = &values[..] else {
            panic!("{name}: {values:?}");
        };
        assert_eq!(values.len(), 1, "{name}");
    }
    assert_eq!(metrics(&scenario, "Failures"), []);
}

/// Whoever sends a request without a valid signature may be anybody.
#[tokio::test]
async fn a_stranger_raises_no_metric() {
    let scenario = Scenario::start_with_queue(&[JSON_LOG]).await;
    let body = webhook::package_event("acme", "api", "1", &small_image().top);
    let event = webhook::api_gateway_v2("package", &body, "another secret");
    assert_eq!(http_reply(&scenario, &event).await.0, 401);
    assert!(!scenario.function.log().contains("_aws"));
}

/// A scheduled run finds again what failed for good; it must hold no alarm on for ever.
#[tokio::test]
async fn a_failure_that_each_run_finds_again_is_counted_but_is_no_news() {
    let scenario = Scenario::start_with(&[JSON_LOG]).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    // A part of the image is gone at the source.
    let mut parts = image.manifests.iter().filter(|it| it.digest != image.top);
    let part = parts.next().expect("a part");
    scenario.ghcr.delete_manifest(REPOSITORY, &part.digest);
    let reply = scenario.invoke(&json!({"reconcile": true})).await.reply();
    assert_eq!(reply["outcome"], "failed", "{reply}");
    let images = metrics(&scenario, "Images");
    let failed = json!({"Outcome": "failed", "Kind": reply["error_kind"]});
    assert_eq!(images, [(failed, json!(1))], "{reply}");
    assert_eq!(metrics(&scenario, "Failures"), []);
    assert_eq!(metrics(&scenario, "CompletedRuns"), [(json!({}), json!(1))]);

    let (kind, _) = scenario.fail("1").await;
    let failures = metrics(&scenario, "Failures");
    assert_eq!(failures, [(json!({"Kind": kind}), json!(1))]);
}

/// A token that is no longer valid makes every run find nothing: each failure is one that the next run finds again, so that no other
/// metric tells of it.
#[tokio::test]
async fn a_run_that_is_refused_everything_does_not_count_as_completed() {
    let mut scenario = Scenario::start_with_queue(&[JSON_LOG]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    let run = json!({"reconcile": true});
    scenario.github.accept_tokens(&["another"]);
    let reply = scenario.invoke(&run).await.reply();
    assert_eq!(
        (&reply["outcome"], &reply["error_kind"]),
        (&json!("failed"), &json!("Denied"))
    );
    assert_eq!(metrics(&scenario, "CompletedRuns"), []);
    scenario.github.accept_tokens(&[Ghcr::TOKEN]);
    scenario.restart_with(&[JSON_LOG]).await;
    scenario.invoke(&run).await.reply();
    assert_eq!(metrics(&scenario, "CompletedRuns"), [(json!({}), json!(1))]);
}

/// GHCR can be late to show what GitHub's event announces: nobody is to be woken by what the next receive puts right.
#[tokio::test]
async fn a_tag_that_ghcr_shows_late_raises_no_alarm() {
    let scenario = Scenario::start_with_queue(&[JSON_LOG]).await;
    let image = small_image();
    http_reply(&scenario, &delivery("1", &image.top)).await;
    let batch = scenario.sqs.batch(JOB_QUEUE, 1);
    let reply = scenario.function.invoke(&batch).await.reply();
    scenario.sqs.settle(JOB_QUEUE, &batch, &reply);
    let failed = json!({"Outcome": "failed", "Kind": "NotFound"});
    let images = metrics(&scenario, "Images");
    assert!(images.contains(&(failed, json!(1))), "{images:?}");
    assert_eq!(metrics(&scenario, "Failures"), []);

    scenario.push(REPOSITORY, "1", &image);
    scenario.process_queue().await;
    scenario.assert_stored("late", "1", &image);
    assert_eq!(metrics(&scenario, "Failures"), []);
}

#[tokio::test]
async fn the_bus_is_told_of_what_was_copied_and_of_what_every_destination_has() {
    let rules = r#"[{"source":"acme/*","destination":["prod/{name}","test/{name}"]}]"#;
    let scenario = with_bus(&[("RULES", rules)]).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let event = delivery("1", &image.top);
    let id = event["headers"]["x-github-delivery"].clone();
    http_reply(&scenario, &event).await;

    // One of the repositories is missing, so not every destination has the image.
    scenario.process_queue().await;
    let told = events(&scenario);
    let types: Vec<_> = told.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(types, ["Image Copied", "Image Copy Failed"], "{told:?}");
    let (copied, failed) = (&told[0].1, &told[1].1);
    assert_eq!(copied["outcome"], "copied");
    assert_eq!(copied["digest"], image.top.as_str());
    assert_eq!(
        (&copied["delivery"], &copied["origin"]),
        (&id, &json!("webhook"))
    );
    assert_eq!(failed["error_kind"], "NotFound");
    assert_eq!(
        (&failed["delivery"], &failed["origin"]),
        (&id, &json!("webhook"))
    );

    // What is left of it is done from the dead-letter queue.
    scenario.ecr.create_repository("test/api");
    let [letter] = &scenario.sqs.messages(DEAD_LETTER_QUEUE)[..] else {
        panic!("expected one dead letter");
    };
    let mut job: Value = serde_json::from_str(&letter.body).expect("JSON");
    job["destination"] = json!(["prod/api", "test/api"]);
    scenario.sqs.send(JOB_QUEUE, "group", &job.to_string());
    scenario.process_queue().await;
    let told = events(&scenario).split_off(2);
    let types: Vec<_> = told.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(types, ["Image Copied", "Image Available"], "{told:?}");
    let available = &told[1].1;
    let host = scenario.ecr.server.host();
    assert_eq!(
        available["destinations"],
        json!([format!("{host}/prod/api:1"), format!("{host}/test/api:1")])
    );
    assert_eq!(available["digests"], json!([image.top, image.top]));
    assert_eq!(available["source_digest"], image.top.as_str());

    // What is up to date is no news.
    http_reply(&scenario, &event).await;
    scenario.process_queue().await;
    assert_eq!(events(&scenario).len(), 4);
}

/// What is tried again has not failed yet.
#[tokio::test]
async fn a_failure_is_told_when_the_job_is_given_up() {
    let scenario = with_bus(&[]).await;
    let unavailable = Fault::Status {
        status: 503,
        headers: Vec::new(),
        body: String::new(),
    };
    scenario.ghcr.server.fault("*", "", 1000, unavailable);
    let job = json!({"source": "ghcr.io/acme/api:1", "destination": "prod/api"});
    scenario.sqs.send(JOB_QUEUE, "group", &job.to_string());
    let batch = scenario.sqs.batch(JOB_QUEUE, 1);
    let reply = scenario.function.invoke(&batch).await.reply();
    scenario.sqs.settle(JOB_QUEUE, &batch, &reply);
    assert_ne!(reply, json!({"batchItemFailures": []}), "it is tried again");
    assert_eq!(events(&scenario), []);
    scenario.ghcr.server.clear_faults();
    scenario.process_queue().await;
    let told = events(&scenario);
    let [(detail_type, detail)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(detail_type, "Image Copy Failed");
    assert_eq!(
        (&detail["error_kind"], &detail["origin"]),
        (&json!("NotFound"), &json!("direct"))
    );
}

/// SQS gives it up, and tells nobody.
#[tokio::test]
async fn a_failure_of_the_last_receive_is_told() {
    let scenario = with_bus(&[]).await;
    let unavailable = Fault::Status {
        status: 503,
        headers: Vec::new(),
        body: String::new(),
    };
    scenario.ghcr.server.fault("*", "", 1_000_000, unavailable);
    scenario.push(REPOSITORY, "1", &small_image());
    let job = json!({"source": "ghcr.io/acme/api:1", "destination": "prod/api"});
    scenario.sqs.send(JOB_QUEUE, "group", &job.to_string());
    let mut batch = scenario.sqs.batch(JOB_QUEUE, 1);
    for (receive, count) in [(11, 0), (12, 1)] {
        batch["Records"][0]["attributes"]["ApproximateReceiveCount"] = json!(receive.to_string());
        let reply = scenario.function.invoke(&batch).await.reply();
        assert_ne!(reply, json!({"batchItemFailures": []}), "it comes back");
        assert_eq!(events(&scenario).len(), count, "receive {receive}");
    }
    let told = events(&scenario);
    let [(detail_type, detail)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(detail_type, "Image Copy Failed");
    assert_eq!(detail["error_kind"], "Transient");
}

#[tokio::test]
async fn a_dry_run_is_no_news() {
    let scenario = with_bus(&[]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    let event = json!({"source": "ghcr.io/acme/api:1", "dry_run": true});
    let reply = scenario.invoke(&event).await.reply();
    assert_eq!(reply["outcome"], "planned");
    assert_eq!(events(&scenario), []);
    assert_eq!(scenario.aws.calls("PutEvents"), 0);
}

/// The copy is what it is, whether or not somebody heard of it.
#[tokio::test]
async fn a_bus_that_takes_nothing_is_a_warning() {
    let scenario = with_bus(&[]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    scenario.aws.deny("PutEvents");
    let report = scenario.copy("1").await;
    assert_eq!(report["outcome"], "copied");
    let warnings = report["warnings"].to_string();
    assert!(
        warnings.contains("PutEvents") && warnings.contains("events:PutEvents"),
        "{warnings}"
    );

    // One that EventBridge fails for a moment is sent again, and no other.
    scenario.aws.allow_all();
    scenario.push(REPOSITORY, "2", &small_image());
    scenario.aws.fail_events(1);
    let report = scenario.copy("2").await;
    assert_eq!(report["warnings"], json!([]), "{report}");
    let told = events(&scenario);
    let mut types: Vec<_> = told.iter().map(|(name, _)| name.as_str()).collect();
    types.sort_unstable();
    assert_eq!(types, ["Image Available", "Image Copied"]);
}

#[tokio::test]
async fn a_token_that_expires_soon_is_told_by_log_metric_and_event() {
    let scenario = with_bus(&[]).await;
    scenario.github.expire_in(DAY * 5 + DAY / 2);
    scenario.push(REPOSITORY, "1", &small_image());
    let told = |scenario: &Scenario| {
        let of_token = |(name, _): &(String, Value)| name == "Token Expiring";
        let mut events = events(scenario);
        events.retain(of_token);
        events
    };
    for _ in 0..2 {
        scenario.invoke(&json!({"reconcile": true})).await.reply();
        let detail = json!({"secret": "ghcr-token", "days_left": 5});
        // Once a day.
        assert_eq!(told(&scenario), [("Token Expiring".to_owned(), detail)]);
    }
    assert_eq!(
        metrics(&scenario, "TokenDaysLeft")[0],
        (json!({}), json!(5))
    );
    let warns = |line: &Value| line["level"] == "WARN" && line["secret"] == "ghcr-token";
    assert!(lines(&scenario).iter().any(warns));
    assert!(!scenario.function.log().contains(Ghcr::TOKEN));
}

/// Nobody is told of it by a header any more, and it must not look as if all were well again.
#[tokio::test]
async fn a_token_that_github_does_not_accept_has_no_days_left() {
    let scenario = with_bus(&[]).await;
    scenario.github.accept_tokens(&["another"]);
    scenario.invoke(&json!({"reconcile": true})).await.reply();
    let detail = json!({"secret": "ghcr-token", "days_left": 0});
    let told = events(&scenario);
    assert_eq!(told, [("Token Expiring".to_owned(), detail)]);
    assert_eq!(metrics(&scenario, "TokenDaysLeft"), [(json!({}), json!(0))]);
    let says = |line: &Value| {
        let message = line["message"].as_str().unwrap_or_default();
        line["level"] == "WARN" && message.contains("has expired, or was revoked")
    };
    assert!(lines(&scenario).iter().any(says));
}

/// Where packages are named, nothing else asks GitHub's API.
#[tokio::test]
async fn a_scheduled_run_asks_when_each_token_expires() {
    let rules = r#"[{"source":"acme/api","destination":"prod/{name}"},
        {"source":"acme/other","destination":"prod/api:other","token_secret_id":"other"}]"#;
    let scenario = Scenario::start_with(&[("RULES", rules), JSON_LOG]).await;
    scenario.aws.put_secret("other", Ghcr::TOKEN);
    scenario.github.expire_in(DAY * 30 + DAY / 2);
    scenario.push(REPOSITORY, "1", &small_image());
    scenario
        .invoke(&json!({"reconcile": ["acme/api"]}))
        .await
        .reply();
    assert_eq!(scenario.github.server.count("GET", "/rate_limit"), 2);
    assert_eq!(
        metrics(&scenario, "TokenDaysLeft"),
        [(json!({}), json!(30))]
    );
    // A run over a part is not a run that finds what was missed.
    assert_eq!(metrics(&scenario, "CompletedRuns"), []);
    assert!(lines(&scenario).iter().all(|line| line["level"] != "WARN"));
}

/// The values of one metric in one document are a hundred at most.
#[tokio::test]
async fn a_run_of_many_copies_has_metrics_of_all() {
    let scenario = Scenario::start_with(&[JSON_LOG]).await;
    let image = small_image();
    for tag in 0..130 {
        scenario.push(REPOSITORY, &format!("{tag}"), &image);
    }
    let reply = scenario.invoke(&json!({"reconcile": true})).await.reply();
    assert_eq!(reply["outcome"], "copied", "{}", reply["outcome"]);
    let seconds = metrics(&scenario, "Seconds");
    let lengths: Vec<_> = seconds
        .iter()
        .map(|(_, values)| values.as_array().map(Vec::len))
        .collect();
    assert_eq!(lengths, [Some(100), Some(30)]);
    let images = metrics(&scenario, "Images");
    assert_eq!(images, [(json!({"Outcome": "copied"}), json!(130))]);
}

#[tokio::test]
async fn a_dry_run_over_several_images_says_what_they_come_to() {
    let rules = r#"[{"source":"acme/*","destination":["prod/{name}","test/{name}"]}]"#;
    let scenario = Scenario::start_with(&[("RULES", rules)]).await;
    scenario.ecr.create_repository("test/api");
    let image = small_image();
    let bytes: u64 = image.blobs.iter().map(|(_, blob)| blob.length()).sum();
    for tag in ["1", "2"] {
        scenario.push(REPOSITORY, tag, &image);
    }
    let event = json!({"reconcile": true, "dry_run": true});
    let reply = scenario.invoke(&event).await.reply();
    assert_eq!(reply["outcome"], "planned", "{reply}");
    // Two tags in two repositories, each of which stores a blob once.
    let sum = json!({"images": 4, "bytes": 2 * bytes, "monthly_usd": 0.01});
    assert_eq!(reply["sum"], sum);

    let event = json!({"source": "ghcr.io/acme/api:1", "destination": "prod/api", "dry_run": true});
    let reply = scenario.invoke(&event).await.reply();
    assert_eq!(reply.get("sum"), None, "one image has its own figures");
}
