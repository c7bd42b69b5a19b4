//! What people get wrong, and what they are told: kind and message of each failure. The runbook's table of messages quotes them.

use serde_json::{Value, json};
use support::function::{Function, Outcome};
use support::http::Fault;
use support::image::{self, Blob, ImageBuilder};

use crate::scenario::{BINARY, Image, REPOSITORY, Scenario, direct, layers, small_image};

/// The kind and all the parts of the message.
fn assert_failure((kind, message): (String, String), expected_kind: &str, parts: &[&str]) {
    assert_eq!(kind, expected_kind, "{message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[tokio::test]
async fn a_wrong_token() {
    let scenario = Scenario::with_image("1").await;
    scenario.ghcr.accept_tokens(&["another"]);
    let parts = [
        "source ",
        "acme/api:1: authorize: 40",
        "the GHCR token is expired, revoked, lacks read:packages or is not authorised for the organisation's SSO",
    ];
    assert_failure(scenario.fail("1").await, "Denied", &parts);
}

#[tokio::test]
async fn no_token_for_a_private_package() {
    let scenario = Scenario::start_with(&[("GHCR_TOKEN_SECRET_ID", "")]).await;
    scenario.ghcr.put_image(REPOSITORY, "1", &small_image());
    let parts =
        ["the package is private or missing, and no token is configured: set GHCR_TOKEN_SECRET_ID"];
    assert_failure(scenario.fail("1").await, "Denied", &parts);
}

#[tokio::test]
async fn a_missing_tag() {
    let scenario = Scenario::with_image("1").await;
    let parts = [
        "source ",
        "acme/api:2: fetch manifest: 404 MANIFEST_UNKNOWN",
        "there is no such tag or digest in the package",
    ];
    assert_failure(scenario.fail("2").await, "NotFound", &parts);
}

#[tokio::test]
async fn a_missing_repository() {
    let scenario = Scenario::with_image("1").await;
    let event = json!({"source": "ghcr.io/acme/api:1", "destination": "prod/forgotten"});
    let parts = [
        "destination ",
        "prod/forgotten",
        "404 NAME_UNKNOWN",
        "aws ecr create-repository --repository-name prod/forgotten",
    ];
    assert_failure(scenario.invoke(&event).await.error(), "NotFound", &parts);
}

#[tokio::test]
async fn a_denied_push() {
    for action in [
        "InitiateLayerUpload",
        "CompleteLayerUpload",
        "PutImage",
        "BatchCheckLayerAvailability",
    ] {
        let scenario = Scenario::with_image("1").await;
        scenario.ecr.deny(action);
        let failure = scenario.fail("1").await;
        // The answer to a HEAD request has no body, and so no words of ECR's own.
        let words = if action.starts_with("Batch") {
            "403"
        } else {
            "is not authorized to perform: ecr:"
        };
        assert_failure(
            failure,
            "Denied",
            &[
                words,
                "allow the function's role to push to repository prod/api",
            ],
        );
        scenario.assert_untouched(action, "1");
    }
}

#[tokio::test]
async fn an_immutable_tag() {
    let scenario = Scenario::with_image("1").await;
    scenario.ecr.create_immutable_repository("prod/api");
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
    assert_eq!(
        scenario.copy("1").await["outcome"],
        "current",
        "the same digest is not pushed again"
    );
    scenario
        .ghcr
        .put_image(REPOSITORY, "1", &Image::single(&layers()));
    // Without the right to look, the registry tells.
    scenario.aws.deny("DescribeRepositories");
    let parts = [
        "push manifest: ",
        "TAG_INVALID",
        "the tag exists with another digest and the repository's tags are immutable",
    ];
    assert_failure(scenario.fail("1").await, "Immutable", &parts);
}

#[tokio::test]
async fn a_missing_or_unreadable_secret() {
    let scenario = Scenario::start_with(&[("GHCR_TOKEN_SECRET_ID", "forgotten")]).await;
    assert_failure(
        scenario.fail("1").await,
        "NotFound",
        &[
            "GetSecretValue forgotten",
            "create the secret in this account and Region",
        ],
    );
    let scenario = Scenario::start().await;
    scenario.aws.fail_decryption("ghcr-token");
    assert_failure(
        scenario.fail("1").await,
        "Denied",
        &["GetSecretValue ghcr-token", "kms:Decrypt"],
    );
    let scenario = Scenario::start().await;
    scenario
        .aws
        .put_secret("ghcr-token", r#"{"tokn": "ghp_support"}"#);
    assert_failure(
        scenario.fail("1").await,
        "Invalid",
        &["GetSecretValue ghcr-token: the secret has no text field `token`"],
    );
}

#[tokio::test]
async fn a_missing_permission_for_the_authorization() {
    let scenario = Scenario::with_image("1").await;
    scenario.aws.deny("GetAuthorizationToken");
    assert_failure(
        scenario.fail("1").await,
        "Denied",
        &[
            "GetAuthorizationToken eu-west-3",
            "ecr:GetAuthorizationToken on *",
        ],
    );
}

#[tokio::test]
async fn events_that_are_none() {
    let scenario = Scenario::start().await;
    let cases: [(Value, &str); 19] = [
        (json!({}), "neither an HTTP request (`requestContext`)"),
        (json!(null), "neither an HTTP request"),
        (json!("ghcr.io/acme/api:1"), "neither an HTTP request"),
        (
            json!({"sources": "ghcr.io/acme/api:1"}),
            "neither an HTTP request",
        ),
        (
            json!({"source": "ghcr.io/acme/api:1", "dryrun": true}),
            "unknown field `dryrun`",
        ),
        (json!({"source": "acme/api:1"}), "names no registry"),
        (
            json!({"source": "ghcr.io/acme/api"}),
            "neither a tag nor a digest",
        ),
        (
            json!({"source": "docker.io/acme/api:1"}),
            "only read from ghcr.io",
        ),
        (
            json!({"source": "ghcr.io/acme/api:1", "destination": "Prod/Api"}),
            "destination \"Prod/Api\"",
        ),
        (
            json!({"source": "ghcr.io/acme/api:1", "platform": "amd64"}),
            "expected `os/architecture`",
        ),
        (
            json!({"source": "ghcr.io/acme/api:1", "platform": "a/b", "platforms": ["a/b"]}),
            "name one of the two",
        ),
        (
            json!({"source": "ghcr.io/acme/api:1", "token": 7}),
            "`token` is not GitHub's token",
        ),
        (
            json!({"image": "ghcr.io/acme/api", "tags": []}),
            "`tags` is empty",
        ),
        (
            json!({"image": "ghcr.io/acme/api", "tags": ["1", "2"], "destination": "prod/api:stable"}),
            "leave the tag out",
        ),
        (
            json!({"Records": [{"eventSource": "aws:sns"}]}),
            "not every `eventSource` is `aws:sqs`",
        ),
        (
            json!({"Records": [{"eventSource": "aws:sqs", "messageId": ""}]}),
            "no `messageId`",
        ),
        (
            json!({"source": "github.com", "detail-type": "package", "detail": "{"}),
            "`detail` is not JSON",
        ),
        (json!({"reconcile": "acme/*"}), "`true` or a list of globs"),
        (
            json!({"reconcile": true, "dryrun": true}),
            "unknown field `dryrun`",
        ),
    ];
    for (event, part) in cases {
        assert_failure(scenario.invoke(&event).await.error(), "Invalid", &[part]);
    }
    let event = json!({"source": "ghcr.io/other/api:1"});
    assert_failure(
        scenario.invoke(&event).await.error(),
        "Invalid",
        &["no rule matches other/api", "RULES"],
    );
    let requests = scenario.ghcr.server.requests().len() + scenario.ecr.server.requests().len();
    assert_eq!(requests, 0);
}

/// A process that can't start reports the reason through the Runtime API, where the caller sees it, and ends.
#[tokio::test]
async fn settings_that_are_malformed() {
    let rules =
        r#"[{"source":"acme/*","destination":"{name}"},{"source":"acme/*","destinaton":"x"}]"#;
    let cases = [
        ("RULES", rules, "rule 1: unknown field `destinaton`"),
        ("RULES", "[{", "not a JSON array of rules"),
        ("RULES", "", "is required"),
        (
            "BLOB_CONCURRENCY",
            "six",
            "setting BLOB_CONCURRENCY is \"six\": expected a whole number from 1 to 64",
        ),
        (
            "SOURCE_REGISTRY",
            "ftp://ghcr.io",
            "setting SOURCE_REGISTRY is \"ftp://ghcr.io\"",
        ),
        (
            "DESTINATION_REGISTRY",
            "https://host/path",
            "setting DESTINATION_REGISTRY",
        ),
        (
            "GITHUB_API_URL",
            "api.github.com",
            "setting GITHUB_API_URL is \"api.github.com\"",
        ),
    ];
    for (name, value, part) in cases {
        let mut environment = vec![("RULES", r#"[{"source":"acme/*","destination":"{name}"}]"#)];
        environment.retain(|(key, _)| *key != name);
        environment.push((name, value));
        let function = Function::start(std::path::Path::new(BINARY), &environment).await;
        let outcome = function.invoke(&direct("1")).await;
        assert!(
            matches!(outcome, Outcome::Exited { .. }),
            "{name}={value}: {outcome:?}"
        );
        let error = function
            .initialization_error()
            .expect("told through the Runtime API");
        assert_eq!(error["errorType"], "Invalid");
        let message = error["errorMessage"].as_str().unwrap_or_default();
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

/// Images that are not what they say, or that nobody could store. None of them moves the tag.
#[tokio::test]
async fn images_that_are_refused() {
    let [a, b, _] = layers();
    let good = Image::single(&[a.clone(), b.clone()]);
    let (layer, _) = good
        .blobs
        .iter()
        .find(|(_, blob)| blob.length() == b.length())
        .expect("a layer");
    let child = Image::of_platform("linux/amd64", std::slice::from_ref(&a));
    let index = Image::index(vec![child.clone().on("linux/amd64")]);
    // An index that claims to contain itself: nobody can know its own digest, so its bytes have another.
    let claimed = format!("sha256:{}", "5".repeat(64));
    let cycle = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{claimed}","size":500}}]}}"#,
        image::OCI_INDEX
    );
    let mut cyclic = Image::raw(image::OCI_INDEX, cycle.clone());
    cyclic.manifests.push(image::StoredManifest {
        media_type: image::OCI_INDEX.to_owned(),
        digest: claimed,
        bytes: cycle.into(),
    });
    let mut deep = child.clone();
    for _ in 0..12 {
        deep = Image::index(vec![deep.into()]);
    }
    let huge = format!(
        r#"{{"schemaVersion":2,"config":{{}},"layers":[],"x":"{}"}}"#,
        "x".repeat(5_000_000)
    );
    let empty = ImageBuilder::oci()
        .layer(image::OCI_LAYER, Blob::bytes(""))
        .build();
    let cases: Vec<(&str, Image, &str)> = vec![
        (
            "a blob with other bytes",
            good.clone()
                .with_blob(layer, Blob::pseudorandom(9, b.length())),
            "the bytes of the blob have digest",
        ),
        (
            "a blob that is longer",
            good.clone()
                .with_blob(layer, Blob::pseudorandom(9, b.length() + 1)),
            "bytes instead of 40000",
        ),
        (
            "a blob that is shorter",
            good.clone()
                .with_blob(layer, Blob::pseudorandom(9, b.length() - 1)),
            "bytes instead of 40000",
        ),
        (
            "a manifest with other bytes",
            index
                .clone()
                .with_manifest_bytes(&child.top, good.top_manifest().bytes.clone()),
            "the bytes of the manifest have digest",
        ),
        (
            "a manifest of another size",
            index
                .clone()
                .rewritten(&format!("{}", child.top_manifest().bytes.len()), "77"),
            "bytes instead of 77",
        ),
        ("a cycle", cyclic, "the bytes of the manifest have digest"),
        ("indexes without end", deep, "nest deeper than 8"),
        (
            "an oversize manifest",
            Image::raw(image::OCI_MANIFEST, huge),
            "more than 4194304 bytes",
        ),
        ("an empty layer", empty, "which ECR does not store"),
        (
            "a digest of another kind",
            good.clone()
                .rewritten(layer, &format!("sha512:{}", "0".repeat(128))),
            "is not a digest",
        ),
        (
            "no manifest at all",
            Image::raw(image::OCI_MANIFEST, "<html>"),
            "not a manifest",
        ),
    ];
    let endless = child.top_manifest().bytes.len().to_string();
    let two = Image::index(vec![
        child.clone().on("linux/amd64"),
        good.clone().on("linux/arm64"),
    ]);
    let sizes = [
        (
            "manifests of sizes that overflow",
            two.clone().rewritten(
                &format!("\"size\": {endless}"),
                &format!("\"size\": {}", u64::MAX),
            ),
            "ECR stores at most 4194304",
        ),
        (
            "a blob that no registry stores",
            good.clone().rewritten("40000", &u64::MAX.to_string()),
            "ECR stores at most 54525952000",
        ),
    ];
    let cases: Vec<_> = cases.into_iter().chain(sizes).collect();
    let scenario = Scenario::start().await;
    for (position, (name, image, part)) in cases.into_iter().enumerate() {
        let tag = format!("t{position}");
        scenario.ghcr.put_image(REPOSITORY, &tag, &image);
        let (kind, message) = scenario.fail(&tag).await;
        assert_eq!(kind, "Invalid", "{name}: {message}");
        assert!(
            message.contains(part),
            "{name}: {part:?} is not in: {message}"
        );
        assert!(message.starts_with("source "), "{name}: {message}");
        scenario.assert_untouched(name, &tag);
    }
}

/// Parts that are gone at the source: the message names the part and says whose fault it is.
#[tokio::test]
async fn images_whose_parts_are_missing_at_the_source() {
    let image = small_image();
    let blob = &image.blobs[0].0;
    let child = &image.manifests[0].digest;
    for (gone, advice) in [
        (blob, "the image is damaged at the source"),
        (child, "the index is damaged at the source"),
    ] {
        let scenario = Scenario::start().await;
        scenario
            .ghcr
            .put_image(REPOSITORY, "1", &image.clone().without(gone));
        assert_failure(scenario.fail("1").await, "NotFound", &[gone, advice]);
        scenario.assert_untouched("missing", "1");
    }
}

/// Answers that are no registry's: an HTML page, an empty body, half an envelope.
#[tokio::test]
async fn errors_without_an_envelope() {
    let scenario = Scenario::with_image("1").await;
    for body in [
        "<html>This page is taking too long to load</html>",
        "",
        r#"{"errors":["#,
        r#"{"errors":[]}"#,
    ] {
        let fault = Fault::Status {
            status: 400,
            headers: vec![],
            body: body.to_owned(),
        };
        scenario.ghcr.server.fault("GET", "/manifests/", 1, fault);
        assert_failure(
            scenario.fail("1").await,
            "Invalid",
            &["fetch manifest: 400"],
        );
    }
}

/// ECR refuses an expired authorization with 403, not 401; where a new one is no better, the message says what is wrong.
#[tokio::test]
async fn an_authorization_that_stays_expired() {
    let scenario = Scenario::with_image("1").await;
    scenario.ecr.renew_password("known to nobody");
    scenario
        .ghcr
        .put_image(REPOSITORY, "1", &Image::single(&layers()));
    let failure = scenario.fail("1").await;
    let parts = [
        "destination ",
        "403",
        "has expired",
        "the ECR authorization token is no longer valid",
    ];
    assert_failure(failure, "Denied", &parts);
    let calls = scenario.aws.calls("GetAuthorizationToken");
    assert_eq!(calls, 2, "asked for anew once, and not in a loop");
}
