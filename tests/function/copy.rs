//! Whole invocations of the real binary between strict local servers: what is copied, and what it costs.

use crate::scenario::{Image, REPOSITORY, Scenario, direct, layers};
use serde_json::json;
use support::deployment::image_requests;
use support::image::{self, Blob, Child, Descriptor, ImageBuilder};

/// What an image may look like, each by a name.
fn images() -> Vec<(&'static str, Image)> {
    let [a, b, c] = layers();
    let single = Image::single(&[a.clone(), b.clone()]);
    let amd64 = Image::of_platform("linux/amd64", &[a.clone(), b.clone()]);
    let arm64 = Image::of_platform("linux/arm64", &[a.clone(), c.clone()]);
    let layer_types = ImageBuilder::oci()
        .layer(image::OCI_LAYER_ZSTD, a.clone())
        .layer(image::OCI_LAYER, b.clone())
        .layer("application/x.unheard-of+thing", c.clone())
        .build();
    let foreign = ImageBuilder::docker()
        .layer_described(Descriptor {
            urls: vec!["https://example.com/base.tar.gz".to_owned()],
            ..Descriptor::of_blob(image::DOCKER_FOREIGN_LAYER, &Blob::bytes("not here"))
        })
        .layer(image::DOCKER_LAYER_GZIP, a.clone())
        .build();
    let artifact = ImageBuilder::artifact("application/vnd.example.sbom")
        .layer("application/spdx+json", b.clone())
        .build();
    vec![
        ("a single manifest", single.clone()),
        ("a Docker manifest", Image::docker(&[a.clone(), b.clone()])),
        (
            "two platforms with attestations",
            Image::buildx(&[
                ("linux/amd64", &[a.clone(), b.clone()]),
                ("linux/arm64", &[a.clone(), c.clone()]),
            ]),
        ),
        (
            "a Docker manifest list",
            Image::docker_list(vec![
                Image::docker(std::slice::from_ref(&a)).on("linux/amd64"),
                Image::docker(std::slice::from_ref(&b)).on("linux/arm64"),
            ]),
        ),
        (
            "an index in an index, and one of its manifests beside it",
            Image::index(vec![
                amd64.clone().on("linux/amd64"),
                Child::from(Image::index(vec![
                    amd64.clone().on("linux/amd64"),
                    arm64.on("linux/arm64"),
                ])),
            ]),
        ),
        (
            "one manifest twice",
            Image::index(vec![
                amd64.clone().on("linux/amd64"),
                amd64.on("linux/amd64"),
            ]),
        ),
        (
            "one layer twice",
            Image::single(&[a.clone(), b.clone(), a.clone()]),
        ),
        ("zstd, uncompressed and unknown layers", layer_types),
        ("a foreign layer", foreign),
        ("an artifact with an empty config", artifact),
    ]
}

#[tokio::test]
async fn every_kind_of_image_arrives_byte_for_byte() {
    let scenario = Scenario::start().await;
    for (position, (name, image)) in images().into_iter().enumerate() {
        let tag = format!("t{position}");
        scenario.ghcr.put_image(REPOSITORY, &tag, &image);
        let report = scenario.copy(&tag).await;
        assert_eq!(report["outcome"], "copied", "{name}: {report}");
        assert_eq!(report["digest"], image.top, "{name}");
        assert_eq!(report["source_digest"], image.top, "{name}");
        scenario.assert_stored(name, &tag, &image);
        let is_warned = report["warnings"][0]
            .as_str()
            .is_some_and(|it| it.contains("1 foreign layers"));
        assert_eq!(is_warned, name == "a foreign layer", "{name}: {report}");
    }
    let incomplete = scenario
        .ecr
        .tag_writes()
        .into_iter()
        .find(|write| !write.missing.is_empty());
    assert_eq!(incomplete, None, "a tag stood for something incomplete");
}

#[tokio::test]
async fn a_copy_costs_what_it_must_and_says_so() {
    let scenario = Scenario::start().await;
    let [a, b, c] = layers();
    let image = Image::buildx(&[("linux/amd64", &[a.clone(), b]), ("linux/arm64", &[a, c])]);
    scenario.ghcr.put_image(REPOSITORY, "1", &image);
    let report = scenario.copy("1").await;
    let (manifests, blobs) = (image.manifests.len() as u64, image.blobs.len() as u64);
    assert_eq!(
        report["manifests"],
        json!({"pushed": manifests, "present": 0})
    );
    assert_eq!(
        report["blobs"],
        json!({"copied": blobs, "mounted": 0, "present": 0})
    );
    assert_eq!(
        report["bytes"],
        json!({"copied": image.blob_bytes(), "present": 0})
    );
    assert_eq!(report["warnings"], json!([]));

    let ecr = &scenario.ecr.server;
    assert_eq!(
        ecr.count("HEAD", "/blobs/") as u64,
        blobs,
        "existence once for each blob"
    );
    assert_eq!(ecr.count("POST", "/blobs/uploads/") as u64, blobs);
    assert_eq!(ecr.count("PUT", "/blobs/uploads/") as u64, blobs);
    assert_eq!(ecr.count("PATCH", "") as u64, 0);
    assert_eq!(ecr.count("PUT", "/manifests/") as u64, manifests);
    assert_eq!(
        ecr.total_request_body_bytes(),
        image.blob_bytes()
            + image
                .manifests
                .iter()
                .map(|it| it.bytes.len() as u64)
                .sum::<u64>()
    );
    // The tag before and after the copy, and each child manifest once.
    assert_eq!(ecr.count("HEAD", "/manifests/") as u64, manifests - 1 + 2);
    assert_eq!(report["requests"]["destination"], ecr.requests().len());
    // Each manifest once, and each blob at the registry and at its storage.
    assert_eq!(report["requests"]["source"], manifests + 2 * blobs);
}

#[tokio::test]
async fn an_image_that_is_up_to_date_costs_one_request_to_each_registry() {
    let scenario = Scenario::with_image("1").await;
    scenario.copy("1").await;
    scenario.clear_requests();
    let report = scenario.copy("1").await;
    assert_eq!(report["outcome"], "current");
    assert_eq!(report["requests"], json!({"source": 1, "destination": 1}));
    assert_eq!(scenario.ecr.server.requests().len(), 1);
    assert_eq!(image_requests(&scenario.ghcr.server).len(), 1);
    assert_eq!(
        scenario.aws.server.requests().len(),
        0,
        "credentials are kept between invocations"
    );
}

/// An expiry in the past is what stand-ins for AWS send. It must neither loop nor be kept.
#[tokio::test]
async fn an_authorization_that_is_said_to_have_expired_is_used_once() {
    let scenario = Scenario::with_image("1").await;
    scenario.aws.authorize(
        support::ecr::Ecr::PASSWORD,
        &scenario.ecr.server.url(),
        std::time::UNIX_EPOCH,
    );
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
    assert_eq!(scenario.copy("1").await["outcome"], "current");
    assert_eq!(scenario.aws.calls("GetAuthorizationToken"), 2);
}

#[tokio::test]
async fn blobs_that_are_there_are_not_sent() {
    let scenario = Scenario::start().await;
    let [a, b, c] = layers();
    let (old, new) = (
        Image::single(&[a.clone(), b.clone()]),
        Image::single(&[a.clone(), b.clone(), c]),
    );
    scenario.ghcr.put_image(REPOSITORY, "1", &old);
    scenario.ghcr.put_image(REPOSITORY, "2", &new);
    scenario.copy("1").await;
    scenario.clear_requests();
    let report = scenario.copy("2").await;
    assert_eq!(report["blobs"]["present"], 2);
    assert_eq!(report["bytes"]["present"], a.length() + b.length());
    assert_eq!(
        scenario.ecr.server.count("PUT", "/blobs/uploads/"),
        new.blobs.len() - 2
    );
}

#[tokio::test]
async fn a_tag_that_moved_is_followed() {
    let scenario = Scenario::start().await;
    let [a, b, _] = layers();
    let (old, new) = (Image::single(&[a]), Image::single(&[b]));
    scenario.ghcr.put_image(REPOSITORY, "latest", &old);
    scenario.copy("latest").await;
    scenario.ghcr.put_image(REPOSITORY, "latest", &new);
    assert_eq!(scenario.copy("latest").await["digest"], new.top);
    scenario.assert_stored("moved", "latest", &new);
}

#[tokio::test]
async fn a_source_with_a_digest_alone_is_exactly_that() {
    let scenario = Scenario::start().await;
    let [a, b, _] = layers();
    let (old, new) = (Image::single(&[a]), Image::single(&[b]));
    scenario.ghcr.put_image(REPOSITORY, "latest", &old);
    scenario.ghcr.put_image(REPOSITORY, "latest", &new);
    let source = format!("ghcr.io/{REPOSITORY}@{}", old.top);
    let event = json!({"source": source, "destination": "prod/api:stable"});
    assert_eq!(scenario.invoke(&event).await.reply()["outcome"], "copied");
    scenario.assert_stored("by digest", "stable", &old);
}

#[tokio::test]
async fn a_dry_run_shows_the_plan_and_changes_nothing() {
    let scenario = Scenario::start().await;
    let [a, b, _] = layers();
    let image = Image::single(&[a, b]);
    scenario.ghcr.put_image(REPOSITORY, "1", &image);
    let mut event = direct("1");
    event["dry_run"] = json!(true);
    let report = scenario.invoke(&event).await.reply();
    assert_eq!(report["outcome"], "planned");
    assert_eq!(report["bytes"]["copied"], image.blob_bytes());
    let plan: Vec<&str> = report["plan"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|line| line.as_str())
        .collect();
    assert_eq!(plan.len(), image.blobs.len() + 1);
    assert_eq!(plan.last(), Some(&format!("tag 1 {}", image.top).as_str()));
    let sizes: Vec<u64> = plan
        .iter()
        .filter_map(|line| line.split(' ').nth(2)?.parse().ok())
        .collect();
    assert!(
        sizes.is_sorted_by(|a, b| a >= b),
        "the largest first: {plan:?}"
    );
    assert!(
        scenario
            .ecr
            .server
            .requests()
            .iter()
            .all(|request| request.method == "HEAD")
    );
}

#[tokio::test]
async fn force_heals_an_image_whose_parts_were_deleted() {
    let scenario = Scenario::start().await;
    let [a, b, c] = layers();
    let image = Image::buildx(&[("linux/amd64", &[a, b]), ("linux/arm64", &[c])]);
    scenario.ghcr.put_image(REPOSITORY, "1", &image);
    scenario.copy("1").await;
    let (blob, child) = (&image.blobs[0].0, &image.manifests[0].digest);
    scenario.ecr.delete_blob("prod/api", blob);
    scenario.ecr.delete_manifest("prod/api", child);
    assert_eq!(
        scenario.copy("1").await["outcome"],
        "current",
        "the digest is equal"
    );
    let mut event = direct("1");
    event["force"] = json!(true);
    let report = scenario.invoke(&event).await.reply();
    assert_eq!(report["outcome"], "copied");
    assert_eq!(
        (&report["blobs"]["copied"], &report["manifests"]["pushed"]),
        (&json!(1), &json!(1))
    );
    scenario.assert_stored("healed", "1", &image);
    assert_eq!(scenario.invoke(&event).await.reply()["outcome"], "current");
}

#[tokio::test]
async fn several_tags_of_one_image_cost_its_bytes_once() {
    let scenario = Scenario::start().await;
    let [a, b, _] = layers();
    let image = Image::single(&[a, b]);
    for tag in ["1", "1.2", "latest"] {
        scenario.ghcr.put_image(REPOSITORY, tag, &image);
    }
    let event =
        json!({"image": "ghcr.io/acme/api", "tags": ["1", "1.2", "latest"], "digest": image.top});
    let reply = scenario.invoke(&event).await.reply();
    assert_eq!(reply["outcome"], "copied");
    assert_eq!(reply["reports"].as_array().unwrap().len(), 3);
    assert_eq!(
        scenario.ecr.server.count("PUT", "/blobs/uploads/"),
        image.blobs.len()
    );
    for tag in ["1", "1.2", "latest"] {
        scenario.assert_stored("one of several", tag, &image);
    }
}

#[tokio::test]
async fn a_public_image_needs_no_token() {
    let scenario = Scenario::start_with(&[("GHCR_TOKEN_SECRET_ID", "")]).await;
    let [a, _, _] = layers();
    let image = Image::single(&[a]);
    scenario.ghcr.put_image(REPOSITORY, "1", &image);
    scenario.ghcr.set_public(REPOSITORY, true);
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
    let token = scenario
        .ghcr
        .server
        .requests()
        .into_iter()
        .find(|request| request.path.starts_with("/token"))
        .unwrap();
    assert!(!token.headers.contains_key("authorization"));
}
