//! Webhooks: what is copied, what is ignored with which reason, and what is refused.

use serde_json::{Value, json};
use support::deployment::WEBHOOK_SECRET;
use support::webhook::{self, Shape};

use crate::scenario::{Image, REPOSITORY, Scenario, http_reply as reply, layers, small_image};

fn published(tag: &str, digest: &str) -> String {
    webhook::package_event("acme", "api", tag, digest)
}

#[tokio::test]
async fn a_signed_webhook_copies_and_says_what() {
    let scenario = Scenario::with_image("1.2.3").await;
    let image = small_image();
    let body = published("1.2.3", &image.top);
    let event = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
    let (status, report) = reply(&scenario, &event).await;
    assert_eq!(
        (status, &report["outcome"]),
        (200, &json!("copied")),
        "{report}"
    );
    assert_eq!(report["digest"], image.top);
    scenario.assert_stored("webhook", "1.2.3", &image);
    // Redelivered, and through the other kinds of HTTP front.
    let events = [
        event.clone(),
        webhook::in_base64(event),
        webhook::api_gateway_v1("package", &body, WEBHOOK_SECRET),
        webhook::api_gateway_v2("registry_package", &body, WEBHOOK_SECRET),
    ];
    for event in events {
        let (status, report) = reply(&scenario, &event).await;
        assert_eq!(
            (status, &report["outcome"]),
            (200, &json!("current")),
            "{event}"
        );
    }
}

#[tokio::test]
async fn every_shape_of_payload_is_understood() {
    let rules = r#"[{"source":"acme/**","destination":"prod/{basename}"}]"#;
    let scenario = Scenario::start_with(&[("RULES", rules)]).await;
    let image = small_image();
    // The owner keeps its capitals in a payload, and a package's name may hold slashes.
    let shapes = [
        (Shape::Index, "api"),
        (Shape::Index, "group/api"),
        (Shape::RegistryPackage, "api"),
        (Shape::Organization, "api"),
        (Shape::Untagged, "api"),
    ];
    for (position, (shape, name)) in shapes.into_iter().enumerate() {
        let tag = format!("t{position}");
        scenario
            .ghcr
            .put_image(&format!("acme/{name}"), &tag, &image);
        let body = webhook::package_event_of(shape, "Acme", name, &tag, &image.top);
        let event = webhook::api_gateway_v2(webhook::event_name(shape), &body, WEBHOOK_SECRET);
        let (status, report) = reply(&scenario, &event).await;
        assert_eq!(status, 200, "{shape:?}: {report}");
        if shape == Shape::Untagged {
            assert_eq!(report["outcome"], "ignored");
            scenario.assert_untouched("untagged", &tag);
        } else {
            assert_eq!(report["outcome"], "copied", "{shape:?}: {report}");
            scenario.assert_stored("shape", &tag, &image);
        }
    }
}

#[tokio::test]
async fn what_is_not_to_be_copied_is_ignored_with_the_reason() {
    let rules = r#"[{"source":"acme/*","destination":"prod/{name}","tags":{"exclude":["pr-*"]}}]"#;
    let scenario = Scenario::start_with(&[("RULES", rules)]).await;
    let digest = small_image().top;
    let body = published("1", &digest);
    let changed = |from: &str, to: &str| {
        assert!(body.contains(from), "{from} is not in the payload");
        body.replace(from, to)
    };
    let mut npm: Value = serde_json::from_str(&body).expect("JSON");
    for path in [
        "/package/package_type",
        "/package/ecosystem",
        "/package/registry/type",
    ] {
        if let Some(value) = npm.pointer_mut(path) {
            *value = json!("npm");
        }
    }
    let mut without_action: Value = serde_json::from_str(&body).expect("JSON");
    without_action["action"] = Value::Null;
    let cases = [
        ("ping", r#"{"zen":"Half measures are as bad as nothing at all.","hook":{"events":["package"]}}"#.to_owned(), "pong"),
        ("ping", r#"{"hook":{"events":["push"]}}"#.to_owned(), "choose the event Packages"),
        ("push", "{}".to_owned(), "not about packages"),
        ("package", changed("\"published\"", "\"deleted\""), "neither published nor updated"),
        ("package", without_action.to_string(), "neither published nor updated"),
        ("package", npm.to_string(), "\"npm\" is not a container"),
        ("package", published("", &digest), "untagged"),
        ("package", published(&digest.replace(':', "-"), &digest), "a signature or an attestation"),
        ("package", published("pr-7", &digest), "the rule excludes tag pr-7"),
        ("package", webhook::package_event("evil", "api", "1", &digest), "no rule matches evil/api"),
    ];
    for (name, body, part) in cases {
        let (status, report) = reply(
            &scenario,
            &webhook::api_gateway_v2(name, &body, WEBHOOK_SECRET),
        )
        .await;
        assert_eq!(
            (status, &report["outcome"]),
            (200, &json!("ignored")),
            "{part}: {report}"
        );
        assert!(
            report["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains(part)),
            "{part}: {report}"
        );
    }
    assert_eq!(
        scenario.ghcr.server.requests().len() + scenario.ecr.server.requests().len(),
        0
    );
}

#[tokio::test]
async fn what_is_not_signed_is_refused_and_reaches_nothing() {
    let scenario = Scenario::with_image("1").await;
    let body = published("1", &small_image().top);
    let good = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
    let without = |name: &str| {
        let mut event = good.clone();
        event["headers"]
            .as_object_mut()
            .expect("headers")
            .remove(name);
        event
    };
    let with = |pointer: &str, value: Value| {
        let mut event = good.clone();
        *event.pointer_mut(pointer).expect("a field of the event") = value;
        event
    };
    let mut broken_base64 = with("/body", json!("*** no base64 ***"));
    broken_base64["isBase64Encoded"] = json!(true);
    let cases = [
        (
            "another secret",
            webhook::api_gateway_v2("package", &body, "another"),
        ),
        ("no signature", without("x-hub-signature-256")),
        (
            "another body",
            with("/body", json!(body.replace("published", "updated"))),
        ),
        ("no body", with("/body", Value::Null)),
        (
            "SHA-1 alone",
            with("/headers/x-hub-signature-256", json!("sha1=0000")),
        ),
        ("a broken encoding", broken_base64),
        (
            "a header that is no header",
            with("/headers/x-hub-signature-256", json!("\u{0}é")),
        ),
        ("headers that are none", with("/headers", json!([1, 2]))),
        // What looks like another trigger inside an HTTP body stays an HTTP body.
        (
            "a direct event",
            with("/body", json!(r#"{"source":"ghcr.io/acme/api:1"}"#)),
        ),
    ];
    for (name, event) in cases {
        let (status, report) = reply(&scenario, &event).await;
        assert_eq!(
            (status, &report["error_kind"]),
            (401, &json!("Denied")),
            "{name}: {report}"
        );
    }
    let direct = webhook::api_gateway_v2(
        "package",
        r#"{"source":"ghcr.io/acme/api:1"}"#,
        WEBHOOK_SECRET,
    );
    assert_eq!(
        reply(&scenario, &direct).await.0,
        200,
        "signed, but no `action`: ignored"
    );
    assert_eq!(
        scenario.ghcr.server.requests().len() + scenario.ecr.server.requests().len(),
        0
    );
    scenario.assert_untouched("unsigned", "1");
}

#[tokio::test]
async fn without_a_webhook_secret_every_request_is_refused() {
    let scenario = Scenario::start_with(&[("WEBHOOK_SECRET_ID", "")]).await;
    let body = published("1", &small_image().top);
    for secret in ["", WEBHOOK_SECRET] {
        let (status, _) = reply(
            &scenario,
            &webhook::api_gateway_v2("package", &body, secret),
        )
        .await;
        assert_eq!(status, 401);
    }
    assert_eq!(scenario.aws.calls("GetSecretValue"), 0);
}

#[tokio::test]
async fn a_delivery_that_can_not_be_understood_is_a_bad_request() {
    let scenario = Scenario::start().await;
    let digest = small_image().top;
    let mut nameless: Value = serde_json::from_str(&published("1", &digest)).expect("JSON");
    nameless["package"]["name"] = Value::Null;
    let cases = [
        ("not JSON".to_owned(), "not JSON"),
        (
            r#"{"action":"published"}"#.to_owned(),
            "neither `package` nor `registry_package`",
        ),
        (nameless.to_string(), "names no package"),
        (published("a tag", &digest), "not a valid tag"),
        (
            webhook::package_event("acme", "../api", "1", &digest),
            "not a valid package name",
        ),
    ];
    for (body, part) in cases {
        let (status, report) = reply(
            &scenario,
            &webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET),
        )
        .await;
        assert_eq!(
            (status, &report["error_kind"]),
            (400, &json!("Invalid")),
            "{part}: {report}"
        );
        assert!(
            report["error"]
                .as_str()
                .is_some_and(|error| error.contains(part)),
            "{part}: {report}"
        );
    }
    let mut headless = webhook::api_gateway_v2("package", "{}", WEBHOOK_SECRET);
    headless["headers"]
        .as_object_mut()
        .expect("headers")
        .remove("x-github-event");
    assert_eq!(reply(&scenario, &headless).await.0, 400);
}

#[tokio::test]
async fn a_failed_copy_is_our_fault_not_the_senders() {
    let scenario = Scenario::start().await;
    let body = published("1", "");
    let event = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
    let (status, report) = reply(&scenario, &event).await;
    assert_eq!(
        (status, &report["outcome"]),
        (502, &json!("failed")),
        "{report}"
    );
}

/// The registry may not show yet what an event announces.
#[tokio::test]
async fn an_announced_tag_is_waited_for() {
    let scenario = Scenario::start().await;
    let [a, b, _] = layers();
    let (old, new) = (Image::single(&[a]), Image::single(&[b]));
    scenario.push(REPOSITORY, "latest", &old);
    let event = webhook::api_gateway_v2("package", &published("latest", &new.top), WEBHOOK_SECRET);
    let push = async {
        scenario
            .ghcr
            .server
            .wait_for("GET", "/manifests/latest")
            .await;
        scenario.push(REPOSITORY, "latest", &new);
    };
    let ((status, report), ()) = tokio::join!(reply(&scenario, &event), push);
    assert_eq!((status, &report["digest"]), (200, &json!(new.top)));
    assert_eq!(report["warnings"], json!([]));
}

/// A secret is rotated: what is signed with the previous version is accepted still, with the next one at once.
#[tokio::test]
async fn a_rotated_webhook_secret_is_accepted_on_both_sides_of_the_rotation() {
    let scenario = Scenario::start().await;
    let ping = |secret: &str| webhook::api_gateway_v2("ping", "{}", secret);
    assert_eq!(reply(&scenario, &ping(WEBHOOK_SECRET)).await.0, 200);
    scenario.aws.put_secret("webhook-secret", "the next secret");
    assert_eq!(
        reply(&scenario, &ping("the next secret")).await.0,
        200,
        "read again when it did not match"
    );
    assert_eq!(
        reply(&scenario, &ping(WEBHOOK_SECRET)).await.0,
        200,
        "still signed with the previous one"
    );
    assert_eq!(reply(&scenario, &ping("a third secret")).await.0, 401);
}
