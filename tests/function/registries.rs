//! Answers of the real services in the words that people have quoted, where the function once expected others.

use std::path::Path;

use serde_json::json;
use support::deployment::{RULES, WEBHOOK_SECRET};
use support::function::{Function, Outcome};
use support::ghcr::Ghcr;
use support::http::Fault;
use support::sqs::Sqs;
use support::webhook;

use crate::scenario::{
    BINARY, DESTINATION, Image, REPOSITORY, Scenario, direct, http_reply, layers, small_image,
};

/// ECR's own words where layers are missing: the code of an upload, and no exception's name. What vanished is sent again, in the same
/// invocation. (oras-project/oras-py#54; mapbox/ecs-conex#50)
#[tokio::test]
async fn a_missing_layer_is_recognised_in_ecrs_own_words() {
    let words = "Layers with digests '[sha256:0]' required for pushing image into repository with name 'prod/api' in the registry with id '123456789012' do not exist";
    for (status, code) in [
        (400, "BLOB_UPLOAD_UNKNOWN"),
        (404, "BLOB_UPLOAD_UNKNOWN"),
        (405, "UNSUPPORTED"),
    ] {
        let scenario = Scenario::start().await;
        let [a, b, _] = layers();
        let image = Image::single(&[a.clone(), b]);
        scenario.push(REPOSITORY, "1", &image);
        scenario.ecr.put_blob(DESTINATION, &a);
        let ecr = &scenario.ecr.server;
        let fault = Fault::Status {
            status,
            headers: vec![],
            body: json!({"errors": [{"code": code, "message": words}]}).to_string(),
        };
        ecr.fault("PUT", "/manifests/1", 1, fault);
        let report = scenario.copy("1").await;
        assert_eq!(report["outcome"], "copied", "{status} {code}: {report}");
        // The image was looked at once more, instead of the same manifest being pushed blindly.
        assert_eq!(ecr.count("HEAD", &a.digest()), 2, "{status} {code}");
    }
}

/// GHCR answers 403, not 401, to a bearer token that it does not accept. (CopilotKit/CopilotKit#5239, tried against the real registry)
/// So a token that was good before, and is refused so, has run out: another one is asked for, once.
#[tokio::test]
async fn a_bearer_token_that_ran_out_may_be_refused_with_403() {
    let scenario = Scenario::with_image("1").await;
    scenario.ghcr.forbid_unknown_bearers();
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
    scenario.ghcr.expire_tokens();
    assert_eq!(scenario.copy("1").await["outcome"], "current");
    let exchanges = scenario.ghcr.server.count("GET", "/token");
    assert_eq!(exchanges, 2);
}

/// The same in mid-copy, where several reads are refused at once.
#[tokio::test]
async fn reads_that_are_refused_together_share_another_bearer_token() {
    let scenario = Scenario::with_image("1").await;
    scenario.ghcr.forbid_unknown_bearers();
    let ecr = &scenario.ecr.server;
    ecr.fault("HEAD", "/blobs/", 1, Fault::Hold);
    let (report, ()) = tokio::join!(scenario.copy("1"), async {
        ecr.wait_for("HEAD", "/blobs/").await;
        scenario.ghcr.expire_tokens();
        ecr.release();
    });
    assert_eq!(report["outcome"], "copied", "{report}");
    scenario.assert_stored("403 in mid-copy", "1", &small_image());
}

/// A 403 to a token that was never good is believed at once.
#[tokio::test]
async fn a_refusal_of_a_new_bearer_token_is_believed() {
    let scenario = Scenario::with_image("1").await;
    let fault = Fault::Status {
        status: 403,
        headers: vec![],
        body: json!({"errors": [{"code": "DENIED", "message": "denied"}]}).to_string(),
    };
    let ghcr = &scenario.ghcr.server;
    ghcr.fault("GET", "/manifests/", 100, fault);
    assert_eq!(scenario.fail("1").await.0, "Denied");
    assert_eq!(ghcr.count("GET", "/manifests/"), 1);
    assert_eq!(ghcr.count("GET", "/token"), 1);
}

/// A key of KMS that is asked for too often, in the code that SQS sends and the SDK gives.
/// (SQS service model: the error `KmsThrottled` has the code `KMS.ThrottlingException`, and the status 400)
#[tokio::test]
async fn a_throttled_key_of_the_queue_may_pass() {
    let scenario = Scenario::start_with_queue(&[]).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let body = webhook::package_event("acme", "api", "1", &image.top);
    let delivery = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
    for (kind, status, expected) in [
        ("KmsThrottled", 503, "Transient"),
        ("KmsAccessDenied", 502, "Denied"),
    ] {
        let fault = Sqs::refusal(kind, "The key refuses.");
        scenario.sqs.server.fault("POST", "/", 100, fault);
        let (answered, report) = http_reply(&scenario, &delivery).await;
        assert_eq!(answered, status, "{kind}: {report}");
        assert_eq!(report["error_kind"], expected, "{kind}");
        scenario.sqs.server.clear_faults();
    }
    assert_eq!(http_reply(&scenario, &delivery).await.0, 202);
}

/// SQS counts throttling as the sender's fault, which must not make a single message of a batch a hopeless one.
/// (async-aws/aws#1227: `RequestThrottled`, type `Sender`)
#[tokio::test]
async fn a_throttled_entry_of_a_batch_may_pass() {
    let scenario = Scenario::start_with_queue(&[]).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let body = webhook::package_event("acme", "api", "1", &image.top);
    let delivery = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
    for kind in ["RequestThrottled", "KmsThrottled"] {
        scenario.sqs.fail_entries_with(kind, "acme/api", 100);
        let (status, report) = http_reply(&scenario, &delivery).await;
        assert_eq!(
            (status, &report["error_kind"]),
            (503, &json!("Transient")),
            "{report}"
        );
        scenario.sqs.fail_no_entries();
    }
    assert_eq!(http_reply(&scenario, &delivery).await.0, 202);
}

/// Secrets Manager's console leaves the field of a user name that nobody gave as an empty text. GHCR ignores the name, but there has to
/// be one.
#[tokio::test]
async fn an_empty_user_name_counts_as_none() {
    for username in ["", " "] {
        let scenario = Scenario::with_image("1").await;
        let secret = json!({"token": Ghcr::TOKEN, "username": username});
        scenario.aws.put_secret("ghcr-token", &secret.to_string());
        let report = scenario.copy("1").await;
        assert_eq!(report["outcome"], "copied", "{username:?}");
    }
}

/// People write a credential where none belongs. No setting takes one, and the error that says so is in the log.
#[tokio::test]
async fn a_credential_in_a_setting_stops_the_start_and_is_not_shown() {
    for (name, value) in [
        ("SOURCE_REGISTRY", "https://token:ghp_SECRET@ghcr.io"),
        ("SOURCE_REGISTRY", "token:ghp_SECRET@ghcr.io"),
        (
            "DESTINATION_REGISTRY",
            "https://AWS:ghp_SECRET@registry.example/path",
        ),
        ("GITHUB_API_URL", "https://ghp_SECRET@api.github.com"),
        // The token in place of the id of the secret that holds it.
        ("GHCR_TOKEN_SECRET_ID", "ghp_SECRET"),
        (
            "JOB_QUEUE_URL",
            "https://key:ghp_SECRET@sqs.example/123456789012/jobs.fifo",
        ),
    ] {
        // Should it start all the same, it reaches nobody.
        let nobody = ("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
        let environment = [("RULES", RULES), nobody, (name, value)];
        let function = Function::start(Path::new(BINARY), &environment).await;
        let outcome = function.invoke(&direct("1")).await;
        let is_stopped = matches!(outcome, Outcome::Exited { .. });
        assert!(is_stopped, "{name}={value}: {outcome:?}");
        let error = function.initialization_error().unwrap_or_default();
        let said = format!("{error}{}{outcome:?}", function.log());
        assert!(said.contains(&format!("setting {name} is ")), "{said}");
        assert!(!said.contains("ghp_SECRET"), "{said}");
    }
}

/// A call of AWS that reaches nobody says why, as one of a registry does: a name that is not found, an address that refuses, and a
/// certificate that is not trusted have different remedies.
#[tokio::test]
async fn a_call_of_aws_that_reaches_nobody_says_why() {
    let nobody = ("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
    let environment = [("RULES", RULES), nobody];
    let function = Function::start(Path::new(BINARY), &environment).await;
    let (kind, message) = function.invoke(&direct("1")).await.error();
    assert_eq!(kind, "Transient", "{message}");
    assert!(message.starts_with("GetAuthorizationToken "), "{message}");
    assert!(message.contains("Connection refused"), "{message}");
}
