//! In which form and under which tags an image arrives: some of its platforms, one of them by itself, tags made of the source's tag
//! and digest; and that what is up to date is known in every form.

use serde_json::{Value, json};
use support::deployment::{JOB_QUEUE, WEBHOOK_SECRET, image_requests};
use support::http::Server;
use support::image::{Blob, Image};
use support::webhook;

use crate::scenario::{REPOSITORY, Scenario, difference, direct, http_reply, layers};

/// `linux/amd64`, `linux/arm64` and `linux/arm/v7`, each with an attestation.
fn image() -> Image {
    let [a, b, c] = layers();
    Image::buildx(&[
        ("linux/amd64", &[a.clone(), b]),
        ("linux/arm64", &[a, c]),
        ("linux/arm/v7", &[Blob::pseudorandom(7, 5_000)]),
    ])
}

/// The manifest for `platform` by itself.
fn child(platform: &str) -> Image {
    let [a, b, c] = layers();
    match platform {
        "linux/amd64" => Image::of_platform(platform, &[a, b]),
        "linux/arm64" => Image::of_platform(platform, &[a, c]),
        _ => Image::of_platform(platform, &[Blob::pseudorandom(7, 5_000)]),
    }
}

async fn start(destination: Value) -> Scenario {
    start_with(json!({"source": REPOSITORY, "destination": destination})).await
}

async fn start_with(rule: Value) -> Scenario {
    let rules = json!([rule]).to_string();
    let scenario = Scenario::start_with(&[("RULES", &rules)]).await;
    ["lambda/api", "edge/api", "dr/api"]
        .iter()
        .for_each(|name| scenario.ecr.create_repository(name));
    scenario.push(REPOSITORY, "1", &image());
    scenario
}

fn reports(reply: &Value) -> Vec<Value> {
    match reply["reports"].as_array() {
        Some(reports) => reports.clone(),
        None => vec![reply.clone()],
    }
}

/// What a repository has under a tag.
fn stored(scenario: &Scenario, name: &str, tag: &str) -> Value {
    let repository = scenario.ecr.repository(name);
    let digest = repository
        .tags
        .get(tag)
        .unwrap_or_else(|| panic!("{name}:{tag} in {:?}", repository.tags));
    assert!(repository.missing_from(digest).is_empty());
    serde_json::from_slice(&repository.manifests[digest].bytes).expect("JSON")
}

fn digests(index: &Value) -> Vec<&str> {
    let entries = index["manifests"].as_array().expect("an index");
    entries
        .iter()
        .map(|entry| entry["digest"].as_str().expect("a digest"))
        .collect()
}

fn count(server: &Server, method: &str, part: &str) -> usize {
    let requests = image_requests(server).into_iter();
    requests
        .filter(|it| it.method == method && it.path.contains(part))
        .count()
}

/// Copied once more, each report is `current` after one request to each registry.
async fn assert_current(scenario: &Scenario, event: &Value) {
    scenario.clear_requests();
    let reply = scenario.invoke(event).await.reply();
    assert_eq!(reply["outcome"], "current", "{reply}");
    for report in reports(&reply) {
        assert_eq!(
            report["requests"],
            json!({"source": 1, "destination": 1}),
            "{report}"
        );
    }
    assert_eq!(image_requests(&scenario.ghcr.server).len(), 1);
}

#[tokio::test]
async fn a_subset_of_platforms_keeps_their_digests_and_their_attestations() {
    let rule = json!({"source": REPOSITORY, "destination": "prod/api", "platforms": ["linux/arm64", "linux/arm"]});
    let scenario = start_with(rule).await;
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let index = stored(&scenario, "prod/api", "1");
    let attested = |platform| child(platform).attestation().image.top;
    let expected = [
        child("linux/arm64").top,
        child("linux/arm/v7").top,
        attested("linux/arm64"),
        attested("linux/arm/v7"),
    ];
    assert_eq!(digests(&index), expected);
    assert_eq!(index["mediaType"], support::image::OCI_INDEX);
    let repository = scenario.ecr.repository("prod/api");
    assert_eq!(reply["digest"], repository.tags["1"]);
    assert_eq!(reply["source_digest"], image().top);
    assert_ne!(reply["digest"], reply["source_digest"]);
    assert_eq!(repository.manifests.len(), 5, "and nothing of the rest");
    assert_eq!(reply["warnings"], json!([]));
    assert_current(&scenario, &direct("1")).await;
}

#[tokio::test]
async fn one_platform_is_its_own_manifest_under_the_tag() {
    let scenario = start(json!({"to": "lambda/api", "platform": "linux/arm64"})).await;
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let expected = child("linux/arm64");
    let repository = scenario.ecr.repository("lambda/api");
    assert_eq!(difference(&repository, "1", &expected), None);
    assert_eq!(repository.manifests.len(), 1);
    assert_eq!(
        (&reply["digest"], &reply["source_digest"]),
        (&json!(expected.top), &json!(image().top))
    );
    assert_current(&scenario, &direct("1")).await;
}

#[tokio::test]
async fn every_form_comes_from_one_read() {
    let scenario = start(json!([
        "prod/api",
        {"to": "lambda/api", "platform": "linux/arm64"},
        {"to": "edge/api", "platforms": ["linux/amd64"]},
    ]))
    .await;
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let whole = image();
    assert_eq!(
        difference(&scenario.ecr.repository("prod/api"), "1", &whole),
        None
    );
    let one = child("linux/arm64");
    assert_eq!(
        difference(&scenario.ecr.repository("lambda/api"), "1", &one),
        None
    );
    assert_eq!(digests(&stored(&scenario, "edge/api", "1")).len(), 2);
    let storage = scenario.ghcr.storage.requests();
    assert_eq!(storage.len(), whole.blobs.len(), "each blob is read once");
    let manifests = count(&scenario.ghcr.server, "GET", "/manifests/");
    assert_eq!(manifests, whole.manifests.len(), "and each manifest");
    assert_current(&scenario, &direct("1")).await;
}

#[tokio::test]
async fn an_events_wish_beats_the_destinations_and_that_beats_the_rules() {
    let scenario = start_with(json!({
        "source": REPOSITORY, "platforms": ["linux/amd64"],
        "destination": ["prod/api", {"to": "lambda/api", "platform": "linux/arm64"}],
    }))
    .await;
    scenario.copy("1").await;
    assert_eq!(
        digests(&stored(&scenario, "prod/api", "1")).len(),
        2,
        "the rule's"
    );
    let lambda = scenario.ecr.repository("lambda/api");
    assert_eq!(
        lambda.tags["1"],
        child("linux/arm64").top,
        "the destination's"
    );

    let event = json!({"source": "ghcr.io/acme/api:1", "platform": "linux/arm/v7"});
    let reply = scenario.invoke(&event).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    for name in ["prod/api", "lambda/api"] {
        assert_eq!(
            scenario.ecr.repository(name).tags["1"],
            child("linux/arm/v7").top,
            "{name}"
        );
    }
    let event = json!({"source": "ghcr.io/acme/api:1", "destination": {"to": "dr/api:x", "platforms": ["linux/arm64"]}});
    let reply = scenario.invoke(&event).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    assert_eq!(digests(&stored(&scenario, "dr/api", "x")).len(), 2);
}

#[tokio::test]
async fn a_platform_that_the_image_lacks_is_named_with_those_that_it_has() {
    let scenario =
        start(json!(["prod/api", {"to": "lambda/api", "platform": "linux/s390x"}])).await;
    let (kind, message) = scenario.fail("1").await;
    assert_eq!(kind, "Invalid", "{message}");
    assert!(
        message.contains(
            "no image for linux/s390x in it, only for linux/amd64, linux/arm64, linux/arm/v7"
        ),
        "{message}"
    );
    assert_eq!(
        difference(&scenario.ecr.repository("prod/api"), "1", &image()),
        None,
        "the other one"
    );
    assert!(scenario.ecr.repository("lambda/api").tags.is_empty());

    // Nor is it enqueued by a scheduled run, which says it once more.
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    let outcomes: Vec<Value> = reports(&reply)
        .iter()
        .map(|it| it["outcome"].clone())
        .collect();
    assert_eq!(outcomes, ["current", "failed"], "{reply}");

    let scenario =
        start(json!({"to": "edge/api", "platforms": ["linux/arm64", "linux/s390x"]})).await;
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let warning = reply["warnings"][0].as_str().expect("a warning");
    assert!(warning.contains("not built for linux/s390x"), "{warning}");
}

#[tokio::test]
async fn a_single_manifest_is_copied_as_it_is_where_it_is_for_the_platform() {
    let scenario = start(json!([
        {"to": "lambda/api", "platform": "linux/arm64"},
        {"to": "edge/api", "platforms": ["linux/amd64", "linux/arm64"]},
        {"to": "dr/api", "platform": "linux/amd64"},
    ]))
    .await;
    let single = child("linux/arm64");
    scenario.push(REPOSITORY, "2", &single);
    let outcome = scenario.invoke(&direct("2")).await;
    let (kind, message) = outcome.error();
    assert_eq!(kind, "Invalid", "{message}");
    assert!(
        message.contains("dr/api:2") || message.contains("only for linux/arm64"),
        "{message}"
    );
    for name in ["lambda/api", "edge/api"] {
        assert_eq!(
            difference(&scenario.ecr.repository(name), "2", &single),
            None,
            "{name}"
        );
    }
    assert!(scenario.ecr.repository("dr/api").tags.is_empty());
}

#[tokio::test]
async fn a_thousand_tags_in_two_forms_are_compared_with_one_request_to_each_registry() {
    let scenario =
        start(json!(["prod/api", {"to": "lambda/api", "platform": "linux/arm64"}])).await;
    let image = image();
    for number in 0..1000 {
        scenario
            .ghcr
            .put_image(REPOSITORY, &format!("t{number}"), &image);
    }
    scenario.copy("1").await;
    for number in 0..1000 {
        let tag = format!("t{number}");
        scenario.ecr.put_tag("prod/api", &tag, &image.top);
        scenario
            .ecr
            .put_tag("lambda/api", &tag, &child("linux/arm64").top);
    }
    scenario.clear_requests();
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["outcome"], "current", "{}", reply["outcome"]);
    assert_eq!(count(&scenario.ghcr.server, "GET", "/manifests/"), 1001);
    assert_eq!(count(&scenario.ghcr.server, "HEAD", "/manifests/"), 0);
    assert_eq!(count(&scenario.ecr.server, "HEAD", "/manifests/"), 2002);
    assert_eq!(
        scenario.ecr.server.requests().len(),
        2002,
        "and nothing else"
    );
}

/// The same image under a second tag of one repository costs one more `PutImage`, with a look before and one after it.
#[tokio::test]
async fn a_second_tag_in_one_repository_costs_one_more_put_and_nothing_else() {
    let mut counts = Vec::new();
    for destination in [
        json!(["prod/api"]),
        json!(["prod/api", "prod/api:{tag}-{digest8}"]),
    ] {
        let scenario = start(destination).await;
        let reply = scenario.copy("1").await;
        assert_eq!(reply["outcome"], "copied", "{reply}");
        let server = &scenario.ecr.server;
        counts.push([
            count(server, "PUT", "/manifests/"),
            count(server, "HEAD", "/manifests/"),
            count(server, "HEAD", "/blobs/"),
            count(server, "POST", "/blobs/"),
            count(server, "PUT", "/blobs/"),
            image_requests(&scenario.ghcr.server).len() + scenario.ghcr.storage.requests().len(),
        ]);
    }
    let [put, head, rest @ ..] = counts[0];
    assert_eq!(counts[1][..2], [put + 1, head + 2]);
    assert_eq!(counts[1][2..], rest);
}

#[tokio::test]
async fn an_image_that_its_tag_leaves_stays_reachable_under_its_digest() {
    let scenario = start(json!(["prod/api", "prod/api:{tag}-{digest8}"])).await;
    let first = image();
    let second = child("linux/amd64");
    for image in [&first, &second] {
        scenario.push(REPOSITORY, "latest", image);
        let reply = scenario.copy("latest").await;
        assert_eq!(reply["outcome"], "copied", "{reply}");
        let kept = format!("latest-{}", &image.top[7..15]);
        let reference = format!("{}/prod/api:{kept}", scenario.ecr.server.host());
        assert_eq!(reports(&reply)[1]["destination"], reference);
    }
    let repository = scenario.ecr.repository("prod/api");
    let kept = |image: &Image| format!("latest-{}", &image.top[7..15]);
    assert_eq!(difference(&repository, &kept(&first), &first), None);
    for tag in ["latest".to_owned(), kept(&second)] {
        assert_eq!(difference(&repository, &tag, &second), None, "{tag}");
    }
    assert_current(&scenario, &direct("latest")).await;
}

#[tokio::test]
async fn an_immutable_repository_mirrors_a_moving_tag_by_digests() {
    let scenario = start(json!("lock/api:{tag}-{digest8}")).await;
    scenario.ecr.create_immutable_repository("lock/api");
    let images = [image(), child("linux/amd64")];
    for image in &images {
        scenario.push(REPOSITORY, "latest", image);
        let reply = scenario.invoke(&webhook::scheduler()).await.reply();
        let outcomes: Vec<Value> = reports(&reply)
            .iter()
            .map(|it| it["outcome"].clone())
            .collect();
        assert!(outcomes.contains(&json!("copied")), "{reply}");
        assert!(!outcomes.contains(&json!("failed")), "{reply}");
    }
    let tags = scenario.ecr.repository("lock/api").tags;
    let kept = images
        .iter()
        .filter(|image| tags.contains_key(&format!("latest-{}", &image.top[7..15])));
    assert_eq!(kept.count(), 2, "{tags:?}");
}

/// What a webhook enqueues says form and tag; so do the jobs for the other tags, unless the destination has one tag for all.
#[tokio::test]
async fn forms_and_tags_go_through_the_queue() {
    let destination = json!([
        "prod/api:stable",
        {"to": "lambda/api", "platform": "linux/arm64"},
        {"to": "edge/api:{tag}-{digest8}", "platforms": ["linux/amd64", "linux/arm/v7"]},
    ]);
    let rules = json!([{"source": REPOSITORY, "destination": destination}]).to_string();
    let scenario = Scenario::start_with_queue(&[("RULES", &rules)]).await;
    ["lambda/api", "edge/api"]
        .iter()
        .for_each(|name| scenario.ecr.create_repository(name));
    let image = image();
    scenario.push(REPOSITORY, "1.0", &image);
    scenario.push(REPOSITORY, "1", &image);
    let body = webhook::package_event("acme", "api", "1.0", &image.top);
    let event = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
    assert_eq!(http_reply(&scenario, &event).await.0, 202);
    let messages = scenario.sqs.messages(JOB_QUEUE);
    let body: Value = serde_json::from_str(&messages[0].body).expect("JSON");
    assert_eq!(body["destination"], destination);
    scenario.process_queue().await;
    let stable = scenario.ecr.repository("prod/api").tags;
    assert_eq!(stable.keys().collect::<Vec<_>>(), ["stable"]);
    for tag in ["1.0", "1"] {
        assert_eq!(
            scenario.ecr.repository("lambda/api").tags[tag],
            child("linux/arm64").top
        );
        let kept = format!("{tag}-{}", &image.top[7..15]);
        assert_eq!(digests(&stored(&scenario, "edge/api", &kept)).len(), 4);
    }
}

#[tokio::test]
async fn a_forced_copy_heals_what_was_rewritten_and_a_dry_run_names_it() {
    let scenario = start(json!({"to": "edge/api", "platforms": ["linux/arm64"]})).await;
    let planned = scenario
        .invoke(&json!({"source": "ghcr.io/acme/api:1", "dry_run": true}))
        .await
        .reply();
    assert_eq!(planned["outcome"], "planned", "{planned}");
    scenario.copy("1").await;
    let digest = scenario.ecr.repository("edge/api").tags["1"].clone();
    assert_eq!(planned["digest"], digest);
    scenario
        .ecr
        .delete_manifest("edge/api", &child("linux/arm64").top);
    let reply = scenario
        .invoke(&json!({"source": "ghcr.io/acme/api:1", "force": true}))
        .await
        .reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    assert_eq!(reply["digest"], digest);
    stored(&scenario, "edge/api", "1");
}
