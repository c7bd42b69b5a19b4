//! Repositories that ECR fills itself, by a rule of its pull-through cache: known before anything is uploaded, and asked about only
//! where something is to be.

use std::path::Path;

use serde_json::{Value, json};
use support::deployment::{DEAD_LETTER_QUEUE, Deployment, JOB_QUEUE, WEBHOOK_SECRET};
use support::http::Fault;
use support::image::Blob;
use support::webhook;

use crate::scenario::{
    BINARY, DESTINATION, Image, REPOSITORY, Scenario, direct, http_reply, small_image,
};

const CACHE_RULES: &str = "DescribePullThroughCacheRules";

/// Beneath the prefix `prod`, as [`DESTINATION`] is.
async fn filled_by_ecr(settings: &[(&str, &str)]) -> Scenario {
    let scenario = Scenario::start_with(settings).await;
    put_rules(&scenario);
    scenario.push(REPOSITORY, "1", &small_image());
    scenario
}

/// The one that matters is on the last of three pages.
fn put_rules(scenario: &Scenario) {
    scenario.aws.put_cache_rule("ROOT", "public.ecr.aws");
    scenario.aws.put_cache_rule("quay", "quay.io");
    scenario.aws.put_cache_rule("prod", "ghcr.io");
}

fn assert_no_upload(scenario: &Scenario, name: &str) {
    assert_eq!(scenario.ghcr.server.count("GET", "/blobs/"), 0, "{name}");
    assert_eq!(scenario.ecr.server.count("POST", "/"), 0, "{name}");
    assert_eq!(scenario.ecr.server.count("PUT", "/"), 0, "{name}");
}

fn assert_told(message: &str) {
    for part in [
        "/prod/api: start upload: nothing can be pushed there, as ECR fills the repositories under prod/ from ghcr.io",
        "name a repository with another prefix as the destination",
        "`aws ecr delete-pull-through-cache-rule --ecr-repository-prefix prod`",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

fn failed(reply: &Value) -> Vec<Value> {
    let mut reports = match reply["reports"].as_array() {
        Some(reports) => reports.clone(),
        None => vec![reply.clone()],
    };
    reports.retain(|report| report["outcome"] == "failed");
    reports
}

#[tokio::test]
async fn such_a_repository_is_refused_before_any_upload_starts() {
    for options in [
        json!({}),
        json!({"dry_run": true}),
        json!({"destination": "prod/api:other"}),
    ] {
        let scenario = filled_by_ecr(&[]).await;
        let mut event = direct("1");
        for (name, value) in options.as_object().expect("an object") {
            event[name] = value.clone();
        }
        let (kind, message) = scenario.invoke(&event).await.error();
        assert_eq!(kind, "Invalid", "{message}");
        assert_told(&message);
        assert_no_upload(&scenario, &options.to_string());
        assert_eq!(scenario.aws.calls(CACHE_RULES), 3, "a page each");
    }
}

/// An image that is up to date costs what it always does, by every trigger, wherever it is; so does one whose every part is there.
#[tokio::test]
async fn where_nothing_is_to_be_pushed_nothing_is_asked() {
    let scenario = filled_by_ecr(&[]).await;
    scenario.ecr.put_image(DESTINATION, "1", &small_image());
    assert_eq!(scenario.copy("1").await["outcome"], "current");
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["outcome"], "current", "{reply}");
    assert_eq!(scenario.aws.calls(CACHE_RULES), 0);
    let mut event = direct("1");
    event["force"] = json!(true);
    let report = scenario.invoke(&event).await.reply();
    assert_eq!(report["outcome"], "current", "{report}");
    assert_no_upload(&scenario, "force");
}

/// A whole component of the name is compared, and `ROOT` forbids nothing; the rules are read once for all of it.
#[tokio::test]
async fn other_prefixes_and_root_stop_no_copy_and_are_kept() {
    let scenario = Scenario::start().await;
    for (prefix, upstream) in [("ROOT", "public.ecr.aws"), ("pro", "quay.io")] {
        scenario.aws.put_cache_rule(prefix, upstream);
    }
    scenario.aws.put_cache_rule("prod/api", "ghcr.io");
    for tag in ["1", "2"] {
        let image = Image::single(&[Blob::bytes(tag)]);
        scenario.push(REPOSITORY, tag, &image);
        let report = scenario.copy(tag).await;
        assert_eq!(report["outcome"], "copied", "{report}");
        scenario.assert_stored("another prefix", tag, &image);
    }
    assert_eq!(
        scenario.aws.calls(CACHE_RULES),
        3,
        "a page each, for two copies"
    );
}

#[tokio::test]
async fn without_the_right_to_look_the_copy_is_tried() {
    let scenario = filled_by_ecr(&[]).await;
    scenario.aws.deny(CACHE_RULES);
    for tag in ["1", "2"] {
        scenario.push(REPOSITORY, tag, &Image::single(&[Blob::bytes(tag)]));
        let report = scenario.copy(tag).await;
        assert_eq!(report["outcome"], "copied", "{report}");
        assert_eq!(report["warnings"], json!([]), "{report}");
    }
    assert_eq!(scenario.aws.calls(CACHE_RULES), 1);
}

/// An outage of the ECR API holds up no copy.
#[tokio::test]
async fn where_the_look_fails_the_copy_goes_on() {
    for fault in [
        Fault::Hold,
        Fault::Status {
            status: 400,
            headers: Vec::new(),
            body: "<html>".to_owned(),
        },
    ] {
        let scenario = Scenario::with_image("1").await;
        scenario.aws.server.fault("POST", CACHE_RULES, 100, fault);
        let report = scenario.copy("1").await;
        assert_eq!(report["outcome"], "copied", "{report}");
        scenario.aws.server.release();
    }
}

#[tokio::test]
async fn one_such_destination_stops_none_of_the_others() {
    let rules = r#"[{"source":"acme/api","destination":["prod/api","dr/api"]}]"#;
    let scenario = filled_by_ecr(&[("RULES", rules)]).await;
    scenario.ecr.create_repository("dr/api");
    let (kind, message) = scenario.fail("1").await;
    assert_eq!(kind, "Invalid");
    assert_told(&message);
    assert_eq!(
        scenario.ecr.repository("dr/api").tags["1"],
        small_image().top
    );
    scenario.assert_untouched("filled by ECR", "1");
    assert_eq!(scenario.ecr.server.count("POST", "prod/api/"), 0);
}

/// Each Region has rules of its own; another account may not let us look.
#[tokio::test]
async fn the_registry_that_is_named_is_asked_once() {
    let hosts = [
        "123456789012.dkr.ecr.us-east-1.amazonaws.com",
        "210987654321.dkr.ecr.us-east-1.amazonaws.com",
    ];
    let destinations = hosts.map(|host| ["a", "b"].map(|name| format!("{host}/prod/{name}")));
    let rules = json!([{"source": REPOSITORY, "destination": destinations.concat()}]).to_string();
    let settings = [("RULES", &*rules)];
    let binary = Path::new(BINARY);
    let (deployment, registries) =
        Deployment::start_with_registries(binary, &hosts, &settings).await;
    for registry in &registries {
        registry.create_repository("prod/a");
        registry.create_repository("prod/b");
    }
    deployment.aws.put_cache_rule("prod/", "ghcr.io");
    deployment.push(REPOSITORY, "1", &small_image());
    let (kind, message) = deployment.function.invoke(&direct("1")).await.error();
    assert_eq!(kind, "Invalid", "{message}");
    for name in ["prod/a", "prod/b"] {
        assert_eq!(registries[0].repository(name).tags.get("1"), None);
        assert_eq!(registries[1].repository(name).tags["1"], small_image().top);
    }
    assert_eq!(deployment.aws.calls(CACHE_RULES), 2, "one for each");
}

/// One report of the run, and no job: none could do anything.
#[tokio::test]
async fn a_scheduled_run_reports_such_a_destination_once() {
    for has_queue in [true, false] {
        let scenario = match has_queue {
            true => Scenario::start_with_queue(&[]).await,
            false => Scenario::start().await,
        };
        put_rules(&scenario);
        for number in 1..=8 {
            let image = Image::single(&[Blob::pseudorandom(number, 2_000)]);
            scenario.push(REPOSITORY, &format!("1.{number}"), &image);
        }
        let reply = scenario.invoke(&webhook::scheduler()).await.reply();
        let failed = failed(&reply);
        let [report] = failed.as_slice() else {
            panic!("one report: {reply}")
        };
        assert_eq!(report["error_kind"], "Invalid", "{report}");
        assert_told(report["error"].as_str().unwrap_or_default());
        assert_no_upload(&scenario, "a scheduled run");
        if has_queue {
            assert_eq!(scenario.sqs.messages(JOB_QUEUE).len(), 0);
        }
    }
}

/// Not even one that its rule says to create.
#[tokio::test]
async fn no_repository_is_created_under_such_a_prefix() {
    for settings in [
        json!({"create": true}),
        json!({"create": true, "scan_on_push": true}),
    ] {
        let rules = json!([
            {"source": REPOSITORY, "destination": "cache/api", "repository": settings}
        ])
        .to_string();
        let scenario = Scenario::start_with(&[("RULES", &*rules)]).await;
        scenario.aws.put_cache_rule("cache", "ghcr.io");
        scenario.push(REPOSITORY, "1", &small_image());
        let mut planned = direct("1");
        planned["dry_run"] = json!(true);
        for event in [direct("1"), planned] {
            let (kind, message) = scenario.invoke(&event).await.error();
            assert_eq!(kind, "Invalid", "{event}: {message}");
        }
        let reply = scenario.invoke(&webhook::scheduler()).await.reply();
        assert_eq!(failed(&reply).len(), 1, "{reply}");
        assert_eq!(scenario.aws.calls("CreateRepository"), 0, "{settings}");
    }
}

/// One dead letter that says why, and nothing comes back.
#[tokio::test]
async fn a_webhook_for_such_a_repository_is_given_up_at_once() {
    let scenario = Scenario::start_with_queue(&[]).await;
    put_rules(&scenario);
    scenario.push(REPOSITORY, "1", &small_image());
    let body = webhook::package_event("acme", "api", "1", &small_image().top);
    let event = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
    let (status, _) = http_reply(&scenario, &event).await;
    assert_eq!(status, 202);
    assert_eq!(scenario.process_queue().await.len(), 1);
    let letters = scenario.sqs.messages(DEAD_LETTER_QUEUE);
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].attributes["error_kind"], "Invalid");
}
