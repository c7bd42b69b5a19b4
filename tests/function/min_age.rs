//! `tags.min_age`: by GitHub's own time of the version, and by nothing that the image says of itself.

use std::time::Duration;

use serde_json::{Value, json};
use support::deployment::{DEAD_LETTER_QUEUE, JOB_QUEUE, WEBHOOK_SECRET};
use support::github::ago;
use support::http::Fault;
use support::image::{self, Blob, ImageBuilder};
use support::webhook;

use crate::scenario::{DESTINATION, Image, REPOSITORY, Scenario, http_reply};

const RULES: &str = r#"[{"source":"acme/*","destination":"prod/{name}","tags":{"min_age":"24h"}}]"#;

const HOUR: Duration = Duration::from_secs(60 * 60);
const YOUNG: Duration = HOUR;
const OLD: Duration = Duration::from_secs(25 * 60 * 60);

const LIST: &str = "/packages/container/api/versions";

/// An image of its own, which says of itself that it is very old.
fn image(number: u64) -> Image {
    ImageBuilder::oci()
        .layer(image::OCI_LAYER_GZIP, Blob::pseudorandom(number, 2_000))
        .annotation("org.opencontainers.image.created", "2001-01-01T00:00:00Z")
        .build()
}

async fn start(rules: &str, has_queue: bool) -> Scenario {
    match has_queue {
        true => Scenario::start_with_queue(&[("RULES", rules)]).await,
        false => Scenario::start_with(&[("RULES", rules)]).await,
    }
}

fn push(scenario: &Scenario, tag: &str, image: &Image, age: Duration) {
    scenario.push(REPOSITORY, tag, image);
    let created_at = ago(age);
    let github = &scenario.github;
    github.set_created_at("acme", "api", &image.top, Some(&created_at));
}

fn delivery(tag: &str, image: &Image) -> Value {
    let body = webhook::package_event("acme", "api", tag, &image.top);
    webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET)
}

fn reports(reply: &Value) -> Vec<Value> {
    match reply["reports"].as_array() {
        Some(reports) => reports.clone(),
        None => vec![reply.clone()],
    }
}

/// The tags of the reports with an outcome.
fn tags(reply: &Value, outcome: &str) -> Vec<String> {
    let reports = reports(reply).into_iter();
    let of_outcome = reports.filter(|report| report["outcome"] == outcome);
    let mut tags: Vec<String> = of_outcome
        .map(|report| {
            let source = report["source"].as_str().unwrap_or_default();
            source.rsplit(':').next().unwrap_or_default().to_owned()
        })
        .collect();
    tags.sort();
    tags
}

fn assert_nothing_moved(scenario: &Scenario, name: &str) {
    assert_eq!(scenario.ghcr.server.count("GET", "/blobs/"), 0, "{name}");
    assert_eq!(scenario.ecr.server.count("POST", "/"), 0, "{name}");
    assert_eq!(scenario.ecr.server.count("PUT", "/"), 0, "{name}");
}

async fn reconcile(scenario: &Scenario) -> Value {
    scenario.invoke(&webhook::scheduler()).await.reply()
}

#[tokio::test]
async fn a_webhook_for_a_young_version_is_ignored_with_that_reason() {
    let scenario = start(RULES, false).await;
    push(&scenario, "1", &image(1), YOUNG);
    let (status, report) = http_reply(&scenario, &delivery("1", &image(1))).await;
    assert_eq!((status, &report["outcome"]), (200, &json!("ignored")));
    let reason = report["reason"].as_str().unwrap_or_default();
    for part in [
        "by GitHub's time the version is 1 h old",
        "tags.min_age is 24h",
    ] {
        assert!(reason.contains(part), "{reason}");
    }
    assert_nothing_moved(&scenario, "young");
    scenario.assert_untouched("young", "1");
}

/// The version is old, and the tag was put on it just now.
#[tokio::test]
async fn a_webhook_for_an_old_version_is_copied() {
    let scenario = start(RULES, false).await;
    push(&scenario, "stable", &image(1), OLD);
    let (status, report) = http_reply(&scenario, &delivery("stable", &image(1))).await;
    assert_eq!((status, &report["outcome"]), (200, &json!("copied")));
    scenario.assert_stored("old", "stable", &image(1));
}

/// The webhook's reply does not wait for GitHub's list; the worker asks for it.
#[tokio::test]
async fn with_a_queue_the_worker_decides() {
    let scenario = start(RULES, true).await;
    push(&scenario, "1", &image(1), YOUNG);
    push(&scenario, "2", &image(2), OLD);
    for (tag, number) in [("1", 1), ("2", 2)] {
        let (status, _) = http_reply(&scenario, &delivery(tag, &image(number))).await;
        assert_eq!(status, 202);
    }
    assert_eq!(scenario.github.server.count("GET", LIST), 0);
    scenario.process_queue().await;
    scenario.assert_untouched("young", "1");
    scenario.assert_stored("old", "2", &image(2));
    assert_eq!(scenario.sqs.messages(DEAD_LETTER_QUEUE).len(), 0);
    let log = scenario.function.log();
    assert!(log.contains("tags.min_age is 24h"), "{log}");
}

/// What counts is what would be copied, not what an old event names.
#[tokio::test]
async fn a_tag_that_has_moved_to_a_young_version_is_ignored() {
    let scenario = start(RULES, false).await;
    push(&scenario, "latest", &image(1), OLD);
    push(&scenario, "latest", &image(2), YOUNG);
    let (_, report) = http_reply(&scenario, &delivery("latest", &image(1))).await;
    assert_eq!(report["outcome"], "ignored", "{report}");
    assert_nothing_moved(&scenario, "moved");
}

#[tokio::test]
async fn a_version_whose_time_is_not_known_is_ignored() {
    let unknown = "GitHub's time of the version can't be learnt: ";
    let cases = [
        ("no time", "it does not list the version with a time"),
        ("the zero time", "it does not list the version with a time"),
        ("not listed", "it does not list the version with a time"),
        ("no token", "no token is configured"),
        ("no such package", "404"),
        ("an outage", "list versions acme/api"),
        ("a rate limit", "rate limit"),
    ];
    for (name, expected) in cases {
        let settings = [("RULES", RULES), ("GHCR_TOKEN_SECRET_ID", "")];
        let settings = match name {
            "no token" => &settings[..],
            _ => &settings[..1],
        };
        let scenario = Scenario::start_with(settings).await;
        let image = image(1);
        push(&scenario, "1", &image, OLD);
        let github = &scenario.github;
        match name {
            "no time" => github.set_created_at("acme", "api", &image.top, None),
            "the zero time" => {
                let zero = Some("0001-01-01T00:00:00Z");
                github.set_created_at("acme", "api", &image.top, zero);
            }
            "not listed" => {
                let other = self::image(2);
                scenario.ghcr.put_image(REPOSITORY, "1", &other);
            }
            "no token" => scenario.ghcr.set_public(REPOSITORY, true),
            "no such package" => github.server.fault("GET", LIST, 100, Fault::html(404)),
            "an outage" => github.server.fault("GET", LIST, 100, Fault::html(502)),
            _ => github.exhaust_rate_limit(),
        }
        let (status, report) = http_reply(&scenario, &delivery("1", &image)).await;
        assert_eq!(
            (status, &report["outcome"]),
            (200, &json!("ignored")),
            "{name}: {report}"
        );
        let reason = report["reason"].as_str().unwrap_or_default();
        assert!(reason.contains(unknown), "{name}: {reason}");
        assert!(reason.contains(expected), "{name}: {reason}");
        assert_nothing_moved(&scenario, name);
    }
}

/// As with all filters of tags, whoever names an image is not asked for its age.
#[tokio::test]
async fn a_direct_event_is_not_asked_for_the_age() {
    let scenario = start(RULES, false).await;
    push(&scenario, "1", &image(1), YOUNG);
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
    assert_eq!(scenario.github.server.requests().len(), 0);
}

#[tokio::test]
async fn what_is_up_to_date_is_not_asked_for_its_age() {
    let scenario = start(RULES, false).await;
    for number in 1..=3 {
        let tag = number.to_string();
        push(&scenario, &tag, &image(number), YOUNG);
        scenario.ecr.put_image(DESTINATION, &tag, &image(number));
    }
    scenario.clear_requests();
    let event = json!({"reconcile": ["acme/api"]});
    let reply = scenario.invoke(&event).await.reply();
    assert_eq!(reply["outcome"], "current", "{reply}");
    assert_eq!(scenario.github.server.count("GET", LIST), 0);
    assert_eq!(scenario.ghcr.server.count("*", "/manifests/"), 3);
}

/// One page for fifty tags, also of the copies that follow.
#[tokio::test]
async fn a_scheduled_run_lists_the_versions_once() {
    let scenario = start(RULES, false).await;
    for number in 0..50 {
        let age = if number % 2 == 0 { OLD } else { YOUNG };
        push(&scenario, &format!("t{number:02}"), &image(number), age);
    }
    for run in ["copied", "current"] {
        scenario.clear_requests();
        let reply = reconcile(&scenario).await;
        let old: Vec<String> = (0..25).map(|half| format!("t{:02}", 2 * half)).collect();
        let young: Vec<String> = (0..25)
            .map(|half| format!("t{:02}", 2 * half + 1))
            .collect();
        assert_eq!(tags(&reply, run), old, "{reply}");
        assert_eq!(tags(&reply, "ignored"), young, "{reply}");
        let lists = scenario.github.server.count("GET", LIST);
        match run {
            "copied" => assert_eq!(
                lists, 1,
                "for twenty-five copies and as many young versions"
            ),
            _ => assert!(lists <= 1, "{lists}"),
        }
    }
}

/// With a queue as well, where each job is asked once more in the end.
#[tokio::test]
async fn jobs_of_a_scheduled_run_need_no_list_each() {
    let scenario = start(RULES, true).await;
    for number in 0..10 {
        push(&scenario, &format!("t{number}"), &image(number), OLD);
    }
    let reply = reconcile(&scenario).await;
    assert_eq!(tags(&reply, "queued").len(), 10, "{reply}");
    assert_eq!(scenario.sqs.messages(JOB_QUEUE).len(), 10);
    scenario.process_queue().await;
    assert_eq!(scenario.ecr.repository(DESTINATION).tags.len(), 10);
    assert_eq!(scenario.github.server.count("GET", LIST), 1);
}

/// Only as far as the versions are that are asked for, each page once.
#[tokio::test]
async fn a_long_list_is_read_as_far_as_needed() {
    let scenario = start(RULES, false).await;
    scenario.github.set_page_limit(10);
    for number in 0..35 {
        let tag = format!("t{number:02}");
        push(&scenario, &tag, &image(number), OLD);
        if number != 12 && number != 30 {
            scenario.ecr.put_image(DESTINATION, &tag, &image(number));
        }
    }
    let reply = reconcile(&scenario).await;
    assert_eq!(tags(&reply, "copied"), ["t12", "t30"], "{reply}");
    // The newest are first: the thirty-fifth down to the sixth are on three pages.
    assert_eq!(scenario.github.server.count("GET", "/versions?"), 3);
}

/// What fails for all tags alike is said once, and asked once.
#[tokio::test]
async fn a_list_that_can_not_be_read_is_one_report_of_a_run() {
    let rules = RULES.replace("acme/*", REPOSITORY);
    let scenario = start(&rules, true).await;
    for number in 1..=7 {
        push(&scenario, &format!("t{number}"), &image(number), OLD);
    }
    scenario.github.accept_tokens(&[]);
    let reply = reconcile(&scenario).await;
    assert_eq!(reports(&reply).len(), 1, "{reply}");
    assert_eq!(
        (&reply["outcome"], &reply["package"]),
        (&json!("ignored"), &json!(REPOSITORY))
    );
    let reason = reply["reason"].as_str().unwrap_or_default();
    for part in [
        "tags.min_age is 24h, and GitHub's time of the version can't be learnt: list versions acme/api",
        "not copied: t1, t2, t3, t4, t5 and 2 more",
    ] {
        assert!(reason.contains(part), "{reason}");
    }
    assert_eq!(scenario.github.server.count("GET", LIST), 1);
    assert_eq!(scenario.sqs.messages(JOB_QUEUE).len(), 0);
}

/// The newest of those that are old enough, not the newest of all.
#[tokio::test]
async fn newest_counts_what_is_old_enough() {
    let rules =
        r#"[{"source":"acme/*","destination":"prod/{name}","tags":{"newest":2,"min_age":"24h"}}]"#;
    let scenario = start(rules, false).await;
    for (number, age) in [(1, OLD), (2, OLD), (3, OLD), (4, YOUNG), (5, YOUNG)] {
        push(&scenario, &number.to_string(), &image(number), age);
    }
    let reply = reconcile(&scenario).await;
    assert_eq!(tags(&reply, "copied"), ["2", "3"], "{reply}");
    assert_eq!(tags(&reply, "ignored"), ["4", "5"], "{reply}");
    assert_eq!(scenario.github.server.count("GET", LIST), 1);
}

/// Not by a run either, nor in the words of a dry one; as soon as one tag is old enough, be it another package's, there is a reason.
#[tokio::test]
async fn a_scheduled_run_creates_no_repository_for_what_is_too_young() {
    let rules = r#"[{"source":"acme/*","destination":"new/all:{basename}-{tag}","tags":{"min_age":"24h"},
                     "repository":{"create":true,"scan_on_push":true}}]"#;
    for has_queue in [true, false] {
        let scenario = start(rules, has_queue).await;
        for number in 1..=3 {
            push(&scenario, &number.to_string(), &image(number), YOUNG);
        }
        for dry_run in [true, false] {
            let event = json!({"reconcile": true, "dry_run": dry_run});
            let reply = scenario.invoke(&event).await.reply();
            assert_eq!(tags(&reply, "ignored"), ["1", "2", "3"], "{reply}");
            assert_eq!(reports(&reply).len(), 3, "{reply}");
            assert_eq!(scenario.aws.calls("CreateRepository"), 0);
        }
        let old = image(9);
        scenario.push("acme/web", "1", &old);
        let created_at = ago(OLD);
        scenario
            .github
            .set_created_at("acme", "web", &old.top, Some(&created_at));
        let reply = reconcile(&scenario).await;
        assert!(reply.to_string().contains(r#""created""#), "{reply}");
        assert_eq!(scenario.aws.calls("CreateRepository"), 1);
        if has_queue {
            scenario.process_queue().await;
        }
        let stored = scenario.ecr.repository("new/all").tags;
        assert_eq!(stored.into_keys().collect::<Vec<_>>(), ["web-1"]);
    }
}

#[tokio::test]
async fn a_mistake_stops_the_start() {
    for wrong in [json!("1 day"), json!(24), json!("0h")] {
        let rules =
            json!([{"source": "acme/*", "destination": "{name}", "tags": {"min_age": wrong}}]);
        let scenario = Scenario::start_with(&[("RULES", &rules.to_string())]).await;
        assert!(!scenario.function.ready().await);
        let error = scenario.function.initialization_error();
        let message = error.expect("an error")["errorMessage"].to_string();
        for part in ["setting RULES", "rule 0: tags.min_age", "24h"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
