//! What the features do to each other: ages, tags for whatever was pushed last, repositories to create, signatures, many destinations.

use std::time::Duration;

use serde_json::{Value, json};
use support::deployment::WEBHOOK_SECRET;
use support::github::ago;
use support::http::Fault;
use support::image::{Blob, OCI_MANIFEST};
use support::webhook;

use crate::scenario::{
    DESTINATION, Image, REPOSITORY, Scenario, difference, direct, http_reply, small_image,
};

const YOUNG: Duration = Duration::from_secs(60 * 60);
const OLD: Duration = Duration::from_secs(25 * 60 * 60);

/// An image of its own.
fn image(name: &str) -> Image {
    Image::single(&[Blob::bytes(name.to_owned())])
}

async fn start(destination: &Value, more: &[(&str, Value)]) -> Scenario {
    let mut rule =
        json!({"source": REPOSITORY, "destination": destination, "tags": {"min_age": "24h"}});
    for (name, value) in more {
        rule[*name] = value.clone();
    }
    Scenario::start_with(&[("RULES", &json!([rule]).to_string())]).await
}

fn push(scenario: &Scenario, tag: &str, age: Duration) {
    let image = image(tag);
    scenario.push(REPOSITORY, tag, &image);
    let github = &scenario.github;
    github.set_created_at("acme", "api", &image.top, Some(&ago(age)));
}

fn stable(scenario: &Scenario) -> Option<String> {
    let repository = scenario.ecr.repository(DESTINATION);
    repository.tags.get("stable").cloned()
}

async fn reconcile(scenario: &Scenario) -> Value {
    scenario.invoke(&webhook::scheduler()).await.reply()
}

/// Where something is pushed each day, the newest is always too young.
#[tokio::test]
async fn a_tag_for_whatever_was_pushed_last_gets_the_newest_that_is_old_enough() {
    for destination in [
        json!("prod/api:stable"),
        json!(["prod/api:stable", "prod/api"]),
    ] {
        let scenario = start(&destination, &[]).await;
        for (tag, age) in [("v1", OLD), ("v2", OLD), ("v3", YOUNG), ("v4", YOUNG)] {
            push(&scenario, tag, age);
        }
        let reply = reconcile(&scenario).await;
        assert_eq!(stable(&scenario), Some(image("v2").top), "{reply}");
        for young in ["v3", "v4"] {
            let of_source = format!("acme/api:{young}\"");
            assert!(reply.to_string().contains(&of_source), "{reply}");
            scenario.assert_untouched("young", young);
        }
        let writes = scenario.ecr.tag_writes().len();
        let again = reconcile(&scenario).await;
        assert_eq!(stable(&scenario), Some(image("v2").top), "{again}");
        assert_eq!(scenario.ecr.tag_writes().len(), writes, "{again}");
        assert_eq!(scenario.github.server.count("GET", "/versions?"), 1);
    }
}

/// Who asks for a young image gets it, and no run takes it back.
#[tokio::test]
async fn a_young_image_that_somebody_asked_for_stays_under_a_tag_for_whatever_was_pushed_last() {
    for tags in [
        json!({"min_age": "24h"}),
        json!({"min_age": "24h", "newest": 2}),
    ] {
        let scenario = start(&json!("prod/api:stable"), &[("tags", tags)]).await;
        for (tag, age) in [("v1", OLD), ("v2", OLD), ("v3", YOUNG), ("v4", YOUNG)] {
            push(&scenario, tag, age);
        }
        assert_eq!(scenario.copy("v3").await["outcome"], "copied");
        let reply = reconcile(&scenario).await;
        assert_eq!(stable(&scenario), Some(image("v3").top), "{reply}");
        assert_eq!(scenario.ecr.tag_writes().len(), 1, "{reply}");
    }
}

#[tokio::test]
async fn no_repository_is_created_for_an_image_that_is_too_young() {
    for repository in [
        json!({"create": true}),
        json!({"create": true, "scan_on_push": true}),
    ] {
        let more = [("repository", repository)];
        let scenario = start(&json!("new/api"), &more).await;
        push(&scenario, "v1", OLD);
        push(&scenario, "v2", YOUNG);
        for (tag, outcome, exists) in [("v2", "ignored", false), ("v1", "copied", true)] {
            let body = webhook::package_event("acme", "api", tag, &image(tag).top);
            let event = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
            let (_, report) = http_reply(&scenario, &event).await;
            assert_eq!(report["outcome"], outcome, "{report}");
            assert_eq!(
                scenario.ecr.settings("new/api").is_some(),
                exists,
                "{report}"
            );
        }
    }
}

/// Thousands of looks are made, and few at a time.
#[tokio::test]
async fn many_signatures_to_many_destinations_pass_through_little_memory() {
    let names: Vec<String> = (0..64).map(|number| format!("prod/api-{number}")).collect();
    let rules = json!([{"source": REPOSITORY, "destination": names, "referrers": true}]);
    let scenario = Scenario::start_with(&[("RULES", &rules.to_string())]).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    for name in &names {
        scenario.ecr.put_image(name, "1", &image);
    }
    let entry = |number: u64| {
        let digest = Blob::bytes(number.to_string()).digest();
        json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": 7})
    };
    let entries: Vec<Value> = (0..500).map(entry).collect();
    let ghcr = &scenario.ghcr;
    ghcr.put_fallback(REPOSITORY, &image.top, &entries);
    let within = Duration::from_secs(12);
    let outcome = scenario
        .function
        .invoke_with_deadline(&direct("1"), within)
        .await;
    let peak = scenario.function.peak_memory_bytes();
    assert!(peak < 64 * 1024 * 1024, "{peak} bytes: {outcome:?}");
}

/// It may be gone from where it was seen; a registry should then open an upload session, and some say so instead.
#[tokio::test]
async fn a_blob_that_is_not_where_it_was_seen_is_sent() {
    let rules = json!([{"source": REPOSITORY, "destination": ["prod/api", "dr/api"]}]);
    let scenario = Scenario::start_with(&[("RULES", &rules.to_string())]).await;
    scenario.ecr.create_repository("dr/api");
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    scenario.ecr.put_image(DESTINATION, "1", &image);
    let unknown = Fault::Status {
        status: 404,
        headers: Vec::new(),
        body: r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}"#
            .to_owned(),
    };
    scenario.ecr.server.fault("POST", "?mount=", 1000, unknown);
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let stored = scenario.ecr.repository("dr/api");
    assert_eq!(difference(&stored, "1", &image), None);
}
