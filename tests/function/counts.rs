//! What a report says was done is what was done, and nothing is done twice without need.

use serde_json::{Value, json};
use support::aws::in_twelve_hours;
use support::deployment::image_requests;
use support::http::Fault;
use support::image::{self, Blob, Descriptor};

use crate::scenario::{DESTINATION, Image, REPOSITORY, Scenario, direct, layers, small_image};

fn assert_is_whole(report: &Value, image: &Image) {
    assert_eq!(report["outcome"], "copied", "{report}");
    let count = image.blobs.len();
    assert_eq!(
        report["blobs"],
        json!({"copied": count, "mounted": 0, "present": 0})
    );
    assert_eq!(
        report["bytes"],
        json!({"copied": image.blob_bytes(), "present": 0})
    );
    let manifests = image.manifests.len();
    assert_eq!(
        report["manifests"],
        json!({"pushed": manifests, "present": 0})
    );
}

/// A bearer token that expires in the middle of a copy: what is sent again with a new one is not done twice.
#[tokio::test]
async fn counts_add_up_after_the_sources_token_was_renewed() {
    for path in ["/blobs/", "/manifests/sha256:"] {
        let scenario = Scenario::with_image("1").await;
        let ghcr = &scenario.ghcr.server;
        ghcr.fault("GET", path, 1, Fault::Hold);
        let (report, ()) = tokio::join!(scenario.copy("1"), async {
            ghcr.wait_for("GET", path).await;
            scenario.ghcr.expire_tokens();
            ghcr.release();
        });
        assert_is_whole(&report, &small_image());
        let reads = image_requests(ghcr).len() + scenario.ghcr.storage.requests().len();
        assert_eq!(report["requests"]["source"], reads, "{path}");
        let writes = scenario.ecr.server.requests().len();
        assert_eq!(report["requests"]["destination"], writes, "{path}");
        assert_eq!(report.get("retries"), None, "{path}: {report}");
    }
}

/// ECR's authorization that expires before a blob is committed: the blob is sent again, and counted once.
#[tokio::test]
async fn counts_add_up_after_the_destinations_authorization_was_renewed() {
    for (method, path, retries) in [
        ("PUT", "/manifests/1", None),
        ("HEAD", "/blobs/", None),
        ("POST", "/blobs/uploads/", None),
    ] {
        let scenario = Scenario::with_image("1").await;
        let ecr = &scenario.ecr.server;
        ecr.fault(method, path, 1, Fault::Hold);
        let (report, ()) = tokio::join!(scenario.copy("1"), async {
            ecr.wait_for(method, path).await;
            scenario.ecr.renew_password("another");
            let url = scenario.ecr.server.url();
            scenario.aws.authorize("another", &url, in_twelve_hours());
            ecr.release();
        });
        assert_is_whole(&report, &small_image());
        assert_eq!(
            report.get("retries"),
            retries.as_ref(),
            "{method} {path}: {report}"
        );
        let accepted = ecr.requests().into_iter();
        let accepted = accepted.filter(|request| request.status != 403).count();
        assert_eq!(
            report["requests"]["destination"], accepted,
            "{method} {path}"
        );
        scenario.assert_stored(path, "1", &small_image());
    }
}

/// They are there only if there were any.
#[tokio::test]
async fn retries_and_throttles_are_counted_where_they_happen() {
    let scenario = Scenario::with_image("1").await;
    let report = scenario.copy("1").await;
    assert_eq!(
        (report.get("retries"), report.get("throttled")),
        (None, None)
    );

    let scenario = Scenario::with_image("1").await;
    let status = |status| Fault::Status {
        status,
        headers: vec![],
        body: String::new(),
    };
    let (ghcr, ecr) = (&scenario.ghcr.server, &scenario.ecr.server);
    ghcr.fault("GET", "/manifests/sha256:", 1, status(429));
    ecr.fault("PUT", "/manifests/1", 1, status(500));
    ecr.fault("POST", "/blobs/uploads/", 1, status(503));
    let report = scenario.copy("1").await;
    assert_is_whole(&report, &small_image());
    assert_eq!(
        (&report["retries"], &report["throttled"]),
        (&json!(3), &json!(1))
    );
    let writes = ecr.requests().len();
    assert_eq!(report["requests"]["destination"], writes);
    let reads = image_requests(ghcr).len() + scenario.ghcr.storage.requests().len();
    assert_eq!(report["requests"]["source"], reads);
}

/// Eight tags of one event need a blob that the source can't give, or gives wrong: one of them finds out for all.
#[tokio::test]
async fn a_broken_blob_that_many_tags_share_is_tried_by_one_of_them() {
    let shared = Blob::pseudorandom(1, 50_000);
    let digest = shared.digest();
    let wrong = Blob::pseudorandom(9, 50_000);
    let tags: Vec<String> = (1..=8).map(|number| number.to_string()).collect();
    let image = |seed| Image::single(&[shared.clone(), Blob::pseudorandom(seed, 1000)]);
    for (is_missing, kind, reads) in [(true, "NotFound", 1), (false, "Invalid", 2)] {
        let scenario = Scenario::start().await;
        for (seed, tag) in (10..).zip(&tags) {
            let image = match is_missing {
                true => image(seed).without(&digest),
                false => image(seed).with_blob(&digest, wrong.clone()),
            };
            scenario.push(REPOSITORY, tag, &image);
        }
        let event = json!({"image": format!("ghcr.io/{REPOSITORY}"), "tags": tags});
        let (error_kind, message) = scenario.invoke(&event).await.error();
        assert_eq!(error_kind, kind, "{message}");
        assert!(message.contains(&digest), "{message}");
        let log = scenario.function.log().replace('\\', "");
        for tag in &tags {
            scenario.assert_untouched(tag, tag);
            let reported = format!(r#"/{REPOSITORY}:{tag}","destination""#);
            assert!(log.contains(&reported), "{tag} has a report: {log}");
        }
        assert_eq!(
            scenario
                .ghcr
                .server
                .count("GET", &format!("/blobs/{digest}")),
            reads
        );
    }
}

/// Also where it is not the blob but the source that fails, for longer than it is worth to try.
#[tokio::test]
async fn a_blob_that_the_source_never_sends_whole_is_not_tried_by_each_tag_in_turn() {
    let scenario = Scenario::start().await;
    let shared = Blob::pseudorandom(1, 50_000);
    let tags: Vec<String> = (1..=8).map(|number| number.to_string()).collect();
    for (seed, tag) in (10..).zip(&tags) {
        let image = Image::single(&[shared.clone(), Blob::pseudorandom(seed, 1000)]);
        scenario.push(REPOSITORY, tag, &image);
    }
    let fault = Fault::Status {
        status: 500,
        headers: vec![],
        body: String::new(),
    };
    let path = format!("/blobs/{}", shared.digest());
    scenario.ghcr.server.fault("GET", &path, usize::MAX, fault);
    let event = json!({"image": format!("ghcr.io/{REPOSITORY}"), "tags": tags});
    let (kind, message) = scenario.invoke(&event).await.error();
    assert_eq!(kind, "Transient", "{message}");
    assert_eq!(
        scenario.ghcr.server.count("GET", &path),
        5,
        "one blob's tries"
    );
}

/// BuildKit's cache is an index of layers. ECR stores no such thing, so to push it again would change nothing.
/// (moby/buildkit#2251, aws/containers-roadmap#876)
#[tokio::test]
async fn a_buildkit_cache_index_is_told_what_it_is() {
    let scenario = Scenario::start().await;
    let [a, b, config] = layers();
    let cache_config = "application/vnd.buildkit.cacheconfig.v0";
    let children = [
        Descriptor::of_blob(image::OCI_LAYER_GZIP, &a),
        Descriptor::of_blob(image::OCI_LAYER_GZIP, &b),
        Descriptor::of_blob(cache_config, &config),
    ];
    let cache = [a, b, config].into_iter().fold(
        Image::index_of(image::OCI_INDEX, &children),
        |image, blob| image.with_blob(&blob.digest(), blob),
    );
    scenario.push(REPOSITORY, "buildcache", &cache);
    let (kind, message) = scenario.fail("buildcache").await;
    assert_eq!(kind, "Invalid", "{message}");
    for part in [
        "BuildKit cache",
        "ECR does not store",
        "exclude the tag",
        "image-manifest=true",
    ] {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
    assert!(!message.contains("push it again"), "{message}");
    assert_eq!(scenario.ecr.server.count("POST", ""), 0);
}

/// Clean-up jobs delete untagged children at GHCR. One that ECR has is not fetched, so it is not missed.
#[tokio::test]
async fn a_child_that_the_destination_has_may_be_gone_at_the_source() {
    let scenario = Scenario::start().await;
    let [a, b, c] = layers();
    let old = Image::of_platform("linux/amd64", &[a, b]);
    let new = Image::of_platform("linux/arm64", &[c]);
    let index = Image::index(vec![old.clone().on("linux/amd64"), new.on("linux/arm64")]);
    scenario.push(REPOSITORY, "1", &index.clone().without(&old.top));
    scenario.ecr.put_untagged(DESTINATION, &old);
    let report = scenario.copy("1").await;
    assert_eq!(report["outcome"], "copied", "{report}");
    assert_eq!(report["manifests"], json!({"pushed": 2, "present": 1}));
    scenario.assert_stored("with the old child", "1", &index);
    assert_eq!(
        scenario
            .ghcr
            .server
            .count("*", &format!("/manifests/{}", old.top)),
        0
    );

    // To look at everything again does not fail for it either: its parts are known at the destination.
    let layer = old.blobs[0].0.as_str();
    scenario.ecr.delete_blob(DESTINATION, layer);
    let mut event = direct("1");
    event["force"] = json!(true);
    let report = scenario.invoke(&event).await.reply();
    assert_eq!(report["outcome"], "copied", "{report}");
    assert_eq!(report["blobs"]["copied"], 1);
    scenario.assert_stored("healed", "1", &index);
}
