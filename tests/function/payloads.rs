//! GitHub's published payloads, replayed, and what may be wrong with a payload, field by field.

use serde_json::{Value, json};
use support::deployment::WEBHOOK_SECRET;
use support::webhook;

use crate::scenario::{Scenario, http_reply, small_image};

#[tokio::test]
async fn githubs_published_payloads_are_understood() {
    let cases = [
        (
            "ping",
            include_str!("../payloads/ping.payload.json"),
            "pong",
        ),
        (
            "ping",
            include_str!("../payloads/ping.with-app_id.payload.json"),
            "pong",
        ),
        (
            "ping",
            include_str!("../payloads/ping.with-organization.payload.json"),
            "pong",
        ),
        (
            "package",
            include_str!("../payloads/package.published.npm.json"),
            "is not a container",
        ),
        (
            "package",
            include_str!("../payloads/package.published.docker.json"),
            "untagged",
        ),
        (
            "registry_package",
            include_str!("../payloads/registry_package.published.docker.json"),
            "untagged",
        ),
    ];
    let scenario = Scenario::start().await;
    for (name, body, part) in cases {
        for event in [
            webhook::api_gateway_v2(name, body, WEBHOOK_SECRET),
            webhook::api_gateway_v1(name, body, WEBHOOK_SECRET),
            webhook::in_base64(webhook::api_gateway_v2(name, body, WEBHOOK_SECRET)),
        ] {
            let (status, report) = http_reply(&scenario, &event).await;
            assert_eq!(
                (status, &report["outcome"]),
                (200, &json!("ignored")),
                "{name}: {report}"
            );
            assert!(
                report["reason"]
                    .as_str()
                    .is_some_and(|reason| reason.contains(part)),
                "{part}: {report}"
            );
        }
    }
}

/// Every pointer of a JSON value, the whole included.
fn pointers(value: &Value, prefix: &str, found: &mut Vec<String>) {
    found.push(prefix.to_owned());
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.replace('~', "~0").replace('/', "~1"), value))
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(position, value)| (position.to_string(), value))
            .collect(),
        _ => Vec::new(),
    };
    for (name, child) in children {
        pointers(child, &format!("{prefix}/{name}"), found);
    }
}

/// Any field may be absent, null or of another type: the answer is a copy, a reason or a clear refusal, and the process lives on.
#[tokio::test]
async fn any_field_may_be_of_any_type() {
    let scenario = Scenario::start().await;
    let image = small_image();
    scenario.push("acme/api", "1", &image);
    let payload: Value =
        serde_json::from_str(&webhook::package_event("acme", "api", "1", &image.top))
            .expect("JSON");
    let mut all = Vec::new();
    pointers(&payload, "", &mut all);
    assert!(all.len() > 60, "{}", all.len());
    for pointer in all {
        for other in [
            json!(null),
            json!(""),
            json!(7),
            json!([]),
            json!({}),
            json!([{"x": null}]),
        ] {
            let mut changed = payload.clone();
            *changed.pointer_mut(&pointer).expect("a field") = other.clone();
            let event = webhook::api_gateway_v2("package", &changed.to_string(), WEBHOOK_SECRET);
            let (status, report) = http_reply(&scenario, &event).await;
            let outcome = report["outcome"].as_str().unwrap_or_default();
            let is_sound = match status {
                200 => ["copied", "current", "ignored"].contains(&outcome),
                400 => report["error"]
                    .as_str()
                    .is_some_and(|error| error.starts_with("event not understood: ")),
                _ => false,
            };
            assert!(is_sound, "{pointer} = {other}: {status} {report}");
        }
    }
    scenario.assert_stored("after all that", "1", &image);
    assert_eq!(
        scenario.ecr.repository("prod/api").tags.len(),
        1,
        "nothing else was written"
    );
}
