//! What registry clients are known to trip over, each met at the wire. Some of them are those of `oci_client::Client`.

use crate::scenario::{Image, REPOSITORY, Scenario, layers, small_image};
use support::deployment::image_requests;
use support::ecr::UploadLocation;
use support::ghcr::Ghcr;
use support::http::{Fault, Server};

/// ECR answers a manifest PUT without `Location`; a client that needs it, and cuts a tag off the URL, panics on a digest.
#[tokio::test]
async fn manifests_are_pushed_by_digest_without_a_location() {
    let scenario = Scenario::with_image("1").await;
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
    let pushes = scenario.ecr.server.count("PUT", "/manifests/sha256:");
    assert_eq!(pushes, small_image().manifests.len() - 1);
}

/// A warm process uses the token that replaced the old one in Secrets Manager, once GHCR refuses the old one.
#[tokio::test]
async fn the_first_credential_does_not_win() {
    let scenario = Scenario::with_image("1").await;
    scenario.copy("1").await;
    scenario.ghcr.put_image(REPOSITORY, "2", &small_image());
    scenario.ghcr.accept_tokens(&["ghp_new"]);
    scenario.ghcr.expire_tokens();
    scenario.aws.put_secret("ghcr-token", "ghp_new");
    assert_eq!(scenario.copy("2").await["outcome"], "copied");
    assert_eq!(
        scenario.aws.calls("GetSecretValue"),
        2,
        "once at first, and once after the refusal"
    );
}

/// Refusals can't be made to cause a flood of calls: a secret is read again at most once a minute.
#[tokio::test]
async fn a_refused_secret_is_read_again_but_not_each_time() {
    let scenario = Scenario::with_image("1").await;
    scenario.ghcr.accept_tokens(&[]);
    for _ in 0..5 {
        assert_eq!(scenario.fail("1").await.0, "Denied");
    }
    assert_eq!(scenario.aws.calls("GetSecretValue"), 2);
}

/// The same for ECR: an authorization that is refused as expired, long before its time, is requested again.
#[tokio::test]
async fn an_expired_authorization_is_replaced() {
    let scenario = Scenario::with_image("1").await;
    scenario.copy("1").await;
    scenario
        .ghcr
        .put_image(REPOSITORY, "1", &Image::single(&layers()));
    scenario.ecr.renew_password("renewed");
    let expiry = support::aws::in_twelve_hours();
    scenario
        .aws
        .authorize("renewed", &scenario.ecr.server.url(), expiry);
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
    assert_eq!(scenario.aws.calls("GetAuthorizationToken"), 2);
}

/// A token that is refused must not become an anonymous request: that would hide the reason, and the rotation that is due.
#[tokio::test]
async fn a_refused_token_is_an_error_even_for_a_public_image() {
    let scenario = Scenario::with_image("1").await;
    scenario.ghcr.set_public(REPOSITORY, true);
    scenario.aws.put_secret("ghcr-token", "ghp_wrong");
    let (kind, message) = scenario.fail("1").await;
    assert_eq!(kind, "Denied");
    assert!(
        message.contains("the GHCR token is expired, revoked, lacks read:packages"),
        "{message}"
    );
    assert_eq!(image_requests(&scenario.ghcr.server).len(), 0);
}

/// The local images have their fields in an unusual order and odd spaces, so that bytes written anew would have another digest.
#[tokio::test]
async fn manifests_keep_their_bytes() {
    let scenario = Scenario::with_image("1").await;
    scenario.copy("1").await;
    for manifest in small_image().manifests {
        let value: serde_json::Value = serde_json::from_slice(&manifest.bytes).unwrap();
        assert_ne!(
            serde_json::to_vec(&value).unwrap(),
            manifest.bytes,
            "the fixture must not be canonical"
        );
    }
    scenario.assert_stored("bytes", "1", &small_image());
}

#[tokio::test]
async fn every_form_of_upload_location_is_followed() {
    let scenario = Scenario::start().await;
    let forms = [
        UploadLocation::Absolute,
        UploadLocation::Relative,
        UploadLocation::WithQuery,
    ];
    for (form, layer) in forms.into_iter().zip(layers()) {
        scenario.ecr.set_upload_location(form);
        let image = Image::single(&[layer]);
        scenario.ghcr.put_image(REPOSITORY, "1", &image);
        assert_eq!(scenario.copy("1").await["outcome"], "copied", "{form:?}");
    }
}

/// A bearer token that runs out in mid-copy is exchanged once more; a new one is refused only if the credential is.
#[tokio::test]
async fn a_bearer_token_is_renewed_in_mid_copy() {
    let scenario = Scenario::with_image("1").await;
    scenario
        .ecr
        .server
        .fault("POST", "/blobs/uploads/", 1, Fault::Hold);
    let copy = scenario.copy("1");
    let expire = async {
        scenario
            .ecr
            .server
            .wait_for("POST", "/blobs/uploads/")
            .await;
        scenario.ghcr.expire_tokens();
        scenario.ghcr.expire_signatures();
        scenario.ecr.server.release();
    };
    let (report, ()) = tokio::join!(copy, expire);
    assert_eq!(report["outcome"], "copied");
    scenario.assert_stored("renewed", "1", &small_image());
}

/// The credential is for the registry's own host.
#[tokio::test]
async fn no_credential_is_sent_to_a_realm_elsewhere() {
    let scenario = Scenario::with_image("1").await;
    let elsewhere =
        Server::start(|_| async { support::http::json(200, &serde_json::json!({"token": "x"})) })
            .await;
    scenario
        .ghcr
        .set_realm(&format!("{}/token", elsewhere.url()));
    let (kind, message) = scenario.fail("1").await;
    assert_eq!(kind, "Denied");
    assert!(message.contains("another host"), "{message}");
    assert_eq!(elsewhere.requests().len(), 0);
}

/// Nor is it sent along a redirect, to the storage or wherever else.
#[tokio::test]
async fn no_credential_follows_a_redirect() {
    let scenario = Scenario::with_image("1").await;
    scenario.copy("1").await;
    let storage = scenario.ghcr.storage.requests();
    assert!(!storage.is_empty());
    assert!(
        storage
            .iter()
            .all(|request| !request.headers.contains_key("authorization"))
    );
}

#[tokio::test]
async fn a_redirect_without_end_is_given_up() {
    let scenario = Scenario::with_image("1").await;
    scenario
        .ghcr
        .set_redirect(&format!("{}/v2/loop", scenario.ghcr.storage.url()));
    let location = vec![("location".to_owned(), "/v2/loop".to_owned())];
    let fault = Fault::Status {
        status: 307,
        headers: location,
        body: String::new(),
    };
    scenario.ghcr.storage.fault("GET", "/v2/loop", 1000, fault);
    let (kind, message) = scenario.fail("1").await;
    assert_eq!(kind, "Invalid");
    assert!(message.contains("redirected without end"), "{message}");
}

/// The header is optional; what the tag stands for is then computed from the bytes.
#[tokio::test]
async fn a_missing_content_digest_is_made_up_for() {
    let scenario = Scenario::with_image("1").await;
    for method in ["GET", "HEAD", "PUT"] {
        for server in [&scenario.ghcr.server, &scenario.ecr.server] {
            server.fault(
                method,
                "/manifests/",
                1000,
                Fault::OmitHeader("docker-content-digest"),
            );
        }
    }
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
    assert_eq!(scenario.copy("1").await["outcome"], "current");
    scenario.assert_stored("without header", "1", &small_image());
}

/// No log, reply or error shows a secret, at the finest level, in success and in failure.
#[tokio::test]
async fn nothing_secret_is_printed() {
    let scenario =
        Scenario::start_with(&[("AWS_LAMBDA_LOG_LEVEL", "TRACE"), ("RUST_LOG", "trace")]).await;
    scenario.ghcr.put_image(REPOSITORY, "1", &small_image());
    let fault = Fault::DropBodyAfter(1);
    scenario.ghcr.storage.fault("GET", "/", 2, fault);
    let mut printed = vec![scenario.copy("1").await.to_string()];
    scenario.ghcr.storage.fault(
        "GET",
        "/",
        100,
        Fault::Status {
            status: 500,
            headers: vec![],
            body: "no".to_owned(),
        },
    );
    scenario.ghcr.put_image(
        REPOSITORY,
        "2",
        &Image::single(&[
            layers()[0].clone(),
            layers()[1].clone(),
            support::image::Blob::bytes("more"),
        ]),
    );
    printed.push(scenario.fail("2").await.1);
    scenario.ghcr.accept_tokens(&[]);
    scenario.ghcr.expire_tokens();
    printed.push(scenario.fail("2").await.1);
    printed.push(scenario.function.log());
    let printed = printed.concat();
    assert!(
        printed.contains("resuming the read"),
        "the level is in force"
    );
    let secrets = [
        Ghcr::TOKEN,
        support::ecr::Ecr::PASSWORD,
        "sig=",
        "Bearer ",
        "Basic ",
        "wJalrXUtnFEMI",
    ];
    for secret in secrets {
        assert!(!printed.contains(secret), "{secret} was printed");
    }
}
