//! GitHub's published payloads, replayed, and what may be wrong with a payload, field by field.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
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

/// Package URLs, times, and the name of the source code's repository are not read; and what is no SHA-256 digest is no hint.
#[tokio::test]
async fn fields_that_are_not_read_change_nothing() {
    let scenario = Scenario::start().await;
    let image = small_image();
    scenario.push("acme/api", "1", &image);
    let body = webhook::package_event("acme", "api", "1", &image.top);
    let version = "/package/package_version";
    let metadata = "/package/package_version/container_metadata";
    let digests = [
        format!("{version}/version"),
        format!("{metadata}/tag/digest"),
        format!("{metadata}/manifest/digest"),
    ];
    let cases = [
        (
            vec![format!("{version}/package_url")],
            json!("ghcr.io/Acme/OTHER:"),
        ),
        (vec![format!("{version}/package_url")], Value::Null),
        (
            vec![
                "/package/created_at".to_owned(),
                "/package/updated_at".to_owned(),
            ],
            json!("0001-01-01T00:00:00Z"),
        ),
        (
            vec!["/repository/full_name".to_owned()],
            json!("evil/other"),
        ),
        (digests.to_vec(), json!(format!("sha1:{}", "0".repeat(40)))),
        (
            digests.to_vec(),
            json!(format!("sha512:{}", "0".repeat(128))),
        ),
    ];
    for (pointers, value) in cases {
        let mut payload: Value = serde_json::from_str(&body).expect("JSON");
        for pointer in &pointers {
            *payload.pointer_mut(pointer).expect("a field") = value.clone();
        }
        let event = webhook::api_gateway_v2("package", &payload.to_string(), WEBHOOK_SECRET);
        let (status, report) = http_reply(&scenario, &event).await;
        assert_eq!(status, 200, "{pointers:?} = {value}: {report}");
        assert_eq!(
            report["digest"], image.top,
            "{pointers:?} = {value}: {report}"
        );
        assert_eq!(
            report["warnings"],
            json!([]),
            "{pointers:?} = {value}: {report}"
        );
    }
    assert_eq!(scenario.ecr.repository("prod/api").tags.len(), 1);
}

/// A manifest inside an image index has an event too. Its version is a digest, which is never taken for a tag.
#[tokio::test]
async fn an_event_without_a_tag_is_ignored() {
    let scenario = Scenario::start().await;
    let body = webhook::package_event("acme", "api", "1", &small_image().top);
    for tag in [
        json!({"name": ""}),
        json!({"name": null}),
        json!({}),
        Value::Null,
    ] {
        let mut payload: Value = serde_json::from_str(&body).expect("JSON");
        payload["package"]["package_version"]["container_metadata"]["tag"] = tag.clone();
        let event = webhook::api_gateway_v2("package", &payload.to_string(), WEBHOOK_SECRET);
        let (status, report) = http_reply(&scenario, &event).await;
        assert_eq!(
            (status, &report["outcome"]),
            (200, &json!("ignored")),
            "{tag}"
        );
        let reason = report["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("untagged"), "{tag}: {report}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_are_a_bad_request() {
    let scenario = Scenario::start().await;
    let body = [0xff, 0xfe, b'{'];
    let mut event = webhook::in_base64(webhook::api_gateway_v2("package", "", WEBHOOK_SECRET));
    event["body"] = json!(STANDARD.encode(body));
    event["headers"]["x-hub-signature-256"] = json!(webhook::sign(WEBHOOK_SECRET, &body));
    let (status, report) = http_reply(&scenario, &event).await;
    assert_eq!(
        (status, &report["error_kind"]),
        (400, &json!("Invalid")),
        "{report}"
    );
}

/// Some gateways pass on header names as they were sent, in any case, and only in lists.
#[tokio::test]
async fn headers_are_found_in_any_case_and_in_lists() {
    let scenario = Scenario::start().await;
    let mut event = webhook::api_gateway_v1("ping", "{}", WEBHOOK_SECRET);
    let lists = event["multiValueHeaders"]
        .as_object()
        .expect("headers")
        .clone();
    let lists = lists
        .into_iter()
        .map(|(name, values)| (name.to_uppercase(), values));
    event["multiValueHeaders"] = Value::Object(lists.collect());
    event["headers"] = Value::Null;
    let (status, report) = http_reply(&scenario, &event).await;
    assert_eq!(
        (status, &report["reason"]),
        (200, &json!("pong")),
        "{report}"
    );
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
