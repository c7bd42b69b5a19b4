//! What is known before a byte moves: tags that an immutable repository keeps, and images that ECR does not store.

use std::path::Path;

use serde_json::{Value, json};
use support::deployment::{DEAD_LETTER_QUEUE, Deployment, JOB_QUEUE, WEBHOOK_SECRET};
use support::http::Fault;
use support::image::{self, Blob, Descriptor, ImageBuilder};
use support::webhook;

use crate::scenario::{
    BINARY, DESTINATION, Image, REPOSITORY, Scenario, direct, http_reply, small_image,
};

const DESCRIBE: &str = "DescribeRepositories";

/// An image of its own.
fn image(number: u64) -> Image {
    Image::single(&[Blob::pseudorandom(number, 2_000)])
}

/// The destination has `tag` with another image than the source.
fn diverge(scenario: &Scenario, repository: &str, tag: &str) {
    scenario.push(REPOSITORY, tag, &image(1));
    scenario.ecr.put_image(repository, tag, &image(2));
}

fn set_mutability(scenario: &Scenario, repository: &str, mode: &str, exclusions: &[&str]) {
    scenario.ecr.change_settings(repository, |settings| {
        settings.tag_mutability = mode.to_owned();
        settings.exclusions = exclusions.iter().map(ToString::to_string).collect();
    });
}

/// Neither was anything read of a blob, nor was an upload begun or anything written.
fn assert_nothing_moved(scenario: &Scenario, name: &str) {
    assert_eq!(scenario.ghcr.server.count("GET", "/blobs/"), 0, "{name}");
    assert_eq!(scenario.ecr.server.count("POST", "/"), 0, "{name}");
    assert_eq!(scenario.ecr.server.count("PUT", "/"), 0, "{name}");
}

fn reports(reply: &Value) -> Vec<Value> {
    match reply["reports"].as_array() {
        Some(reports) => reports.clone(),
        None => vec![reply.clone()],
    }
}

fn with_outcome(reply: &Value, outcome: &str) -> Vec<Value> {
    let mut reports = reports(reply);
    reports.retain(|report| report["outcome"] == outcome);
    reports
}

#[tokio::test]
async fn an_immutable_tag_with_another_digest_is_known_before_a_byte_moves() {
    for options in [
        json!({}),
        json!({"dry_run": true}),
        json!({"force": true}),
        json!({"destination": "prod/api"}),
    ] {
        let scenario = Scenario::start().await;
        diverge(&scenario, DESTINATION, "1.2.3");
        scenario.ecr.create_immutable_repository(DESTINATION);
        let mut event = direct("1.2.3");
        for (name, value) in options.as_object().expect("an object") {
            event[name] = value.clone();
        }
        let (kind, message) = scenario.invoke(&event).await.error();
        assert_eq!(kind, "Immutable", "{message}");
        for part in [
            "/prod/api:1.2.3: push manifest: it has sha256:",
            "the tag exists with another digest and the repository's tags are immutable",
            "let 1.2.3 move by the repository's exclusion filters (`aws ecr put-image-tag-mutability`)",
            "`prod/api:{tag}-{digest8}`",
        ] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert_nothing_moved(&scenario, &options.to_string());
        assert_eq!(scenario.aws.calls(DESCRIBE), 1);
        // One look at each registry, and the bytes of the manifest.
        assert_eq!(scenario.ecr.server.count("*", "/manifests/"), 1);
        assert_eq!(scenario.ghcr.server.count("*", "/manifests/"), 1);
    }
}

#[tokio::test]
async fn a_tag_that_is_absent_or_equal_costs_no_call() {
    let scenario = Scenario::start().await;
    scenario.ecr.create_immutable_repository(DESTINATION);
    scenario.push(REPOSITORY, "1", &image(1));
    for outcome in ["copied", "current"] {
        assert_eq!(scenario.copy("1").await["outcome"], outcome);
    }
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["outcome"], "current", "{reply}");
    assert_eq!(scenario.aws.calls(DESCRIBE), 0);
}

/// One call for a repository, however many of its tags move.
#[tokio::test]
async fn tags_that_move_in_a_mutable_repository_cost_one_call() {
    let scenario = Scenario::start().await;
    for tag in ["1", "2", "3"] {
        diverge(&scenario, DESTINATION, tag);
    }
    for tag in ["1", "2"] {
        assert_eq!(scenario.copy(tag).await["outcome"], "copied");
    }
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(with_outcome(&reply, "copied").len(), 1, "{reply}");
    assert_eq!(scenario.aws.calls(DESCRIBE), 1);
}

#[tokio::test]
async fn exclusion_filters_turn_the_mode_round() {
    for (mode, moves, keeps) in [
        ("IMMUTABLE_WITH_EXCLUSION", "latest-arm64", "1.2.3"),
        ("MUTABLE_WITH_EXCLUSION", "1.2.3", "latest-arm64"),
    ] {
        let scenario = Scenario::start().await;
        for tag in [moves, keeps] {
            diverge(&scenario, DESTINATION, tag);
        }
        set_mutability(&scenario, DESTINATION, mode, &["edge", "latest*"]);
        let (kind, message) = scenario.fail(keeps).await;
        assert_eq!(kind, "Immutable", "{mode}: {message}");
        assert_nothing_moved(&scenario, mode);
        let report = scenario.copy(moves).await;
        assert_eq!(report["outcome"], "copied", "{mode}: {report}");
        scenario.assert_stored(mode, moves, &image(1));
        assert_eq!(scenario.aws.calls(DESCRIBE), 1, "{mode}");
    }
}

/// Each digest has a tag of its own, so none ever moves.
#[tokio::test]
async fn a_moving_tag_goes_to_an_immutable_repository_under_the_digits_of_its_digest() {
    let rules = r#"[{"source":"acme/api","destination":"prod/api:{tag}-{digest8}"}]"#;
    let scenario = Scenario::start_with(&[("RULES", rules)]).await;
    scenario.ecr.create_immutable_repository(DESTINATION);
    for number in [1, 2, 1] {
        let image = image(number);
        scenario.push(REPOSITORY, "latest", &image);
        let report = scenario.copy("latest").await;
        assert_ne!(report["outcome"], "failed", "{report}");
        let tag = format!("latest-{}", &image.top[7..15]);
        scenario.assert_stored("by digest", &tag, &image);
        let again = scenario.invoke(&webhook::scheduler()).await.reply();
        assert_eq!(again["outcome"], "current", "{again}");
    }
    assert_eq!(scenario.aws.calls(DESCRIBE), 0);
}

/// Then the registry's refusal tells, at the end of the copy; and the right is not tried for each tag.
#[tokio::test]
async fn without_the_right_to_look_the_registry_says_it() {
    let scenario = Scenario::start().await;
    scenario.aws.deny(DESCRIBE);
    for tag in ["1", "2"] {
        diverge(&scenario, DESTINATION, tag);
    }
    scenario.ecr.create_immutable_repository(DESTINATION);
    for tag in ["1", "2"] {
        let (kind, message) = scenario.fail(tag).await;
        assert_eq!(kind, "Immutable", "{message}");
        for part in [
            "TAG_INVALID",
            &format!("let {tag} move by"),
            "{tag}-{digest8}",
        ] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert_eq!(
            scenario
                .ecr
                .server
                .count("PUT", &format!("/manifests/{tag}")),
            1,
            "never tried again"
        );
    }
    assert_eq!(scenario.aws.calls(DESCRIBE), 1);
    let scenario = Scenario::start().await;
    scenario.aws.deny(DESCRIBE);
    diverge(&scenario, DESTINATION, "1");
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
    assert_eq!(scenario.copy("1").await["outcome"], "current");
}

/// An outage of the ECR API holds up no copy.
#[tokio::test]
async fn where_the_look_fails_the_copy_goes_on() {
    for fault in [
        Fault::Hold,
        Fault::Status {
            status: 400,
            headers: Vec::new(),
            body: "<html>".to_owned(),
        },
    ] {
        let scenario = Scenario::start().await;
        for tag in ["1", "2"] {
            diverge(&scenario, DESTINATION, tag);
        }
        scenario.aws.server.fault("POST", DESCRIBE, 100, fault);
        for tag in ["1", "2"] {
            let report = scenario.copy(tag).await;
            assert_eq!(report["outcome"], "copied", "{report}");
        }
        scenario.aws.server.release();
    }
}

#[tokio::test]
async fn one_immutable_destination_stops_none_of_the_others() {
    let rules =
        r#"[{"source":"acme/api","destination":["prod/api","dr/api","prod/api:{tag}-{digest8}"]}]"#;
    let scenario = Scenario::start_with(&[("RULES", rules)]).await;
    diverge(&scenario, DESTINATION, "1");
    scenario.ecr.put_image("dr/api", "1", &image(2));
    scenario.ecr.create_immutable_repository(DESTINATION);
    let (kind, _) = scenario.fail("1").await;
    assert_eq!(kind, "Immutable");
    assert_eq!(scenario.ecr.repository("dr/api").tags["1"], image(1).top);
    let tag = format!("1-{}", &image(1).top[7..15]);
    scenario.assert_stored("another tag", &tag, &image(1));
    assert_eq!(scenario.ecr.repository(DESTINATION).tags["1"], image(2).top);
    assert_eq!(scenario.ecr.server.count("PUT", "prod/api/manifests/1"), 1);
    assert_eq!(scenario.aws.calls(DESCRIBE), 2, "one for each repository");
}

/// The ECR API of the Region and account that the destination names; another account may not let us look.
#[tokio::test]
async fn the_registry_that_is_named_is_asked() {
    let hosts = [
        "123456789012.dkr.ecr.us-east-1.amazonaws.com",
        "210987654321.dkr.ecr.us-east-1.amazonaws.com",
    ];
    let rules = json!([{"source": REPOSITORY, "destination": hosts.map(|host| format!("{host}/prod/api"))}]);
    let settings = [("RULES", &*rules.to_string())];
    let binary = Path::new(BINARY);
    let (deployment, registries) =
        Deployment::start_with_registries(binary, &hosts, &settings).await;
    deployment.push(REPOSITORY, "1", &image(1));
    for registry in &registries {
        registry.put_image(DESTINATION, "1", &image(2));
        registry.create_immutable_repository(DESTINATION);
    }
    let (kind, _) = deployment.function.invoke(&direct("1")).await.error();
    assert_eq!(kind, "Immutable");
    let [own, other] = [&registries[0].server, &registries[1].server];
    assert_eq!((own.count("POST", "/"), own.count("PUT", "/")), (0, 0));
    assert_eq!(
        other.count("PUT", "/manifests/1"),
        1,
        "its registry says it"
    );
    assert_eq!(deployment.aws.calls(DESCRIBE), 2);
    assert_eq!(deployment.ecr.server.requests().len(), 0);
}

/// One report of the run, and no job: none could do anything.
#[tokio::test]
async fn a_scheduled_run_reports_an_immutable_repository_once() {
    for has_queue in [true, false] {
        let scenario = match has_queue {
            true => Scenario::start_with_queue(&[]).await,
            false => Scenario::start().await,
        };
        for number in 1..=8 {
            diverge(&scenario, DESTINATION, &format!("1.{number}"));
        }
        scenario.push(REPOSITORY, "2", &small_image());
        scenario.ecr.create_immutable_repository(DESTINATION);
        for run in 0..2 {
            scenario.clear_requests();
            let reply = scenario.invoke(&webhook::scheduler()).await.reply();
            assert_eq!(reply["outcome"], "failed", "{reply}");
            let failed = with_outcome(&reply, "failed");
            let [report] = failed.as_slice() else {
                panic!("one report: {reply}")
            };
            assert_eq!(report["error_kind"], "Immutable", "{report}");
            assert_eq!(
                (&report["source"], &report["destination"]),
                (&json!(REPOSITORY), &json!(DESTINATION))
            );
            let error = report["error"].as_str().unwrap_or_default();
            for part in [
                "8 tags have other digests than at the source: 1.1, 1.2, 1.3, 1.4, 1.5 and 3 more",
                "let them move by the repository's exclusion filters",
                "`prod/api:{tag}-{digest8}`",
            ] {
                assert!(error.contains(part), "{part}: {error}");
            }
            for number in 1..=8 {
                let put = format!("/manifests/1.{number}");
                assert_eq!(scenario.ecr.server.count("PUT", &put), 0);
            }
            // The absent tag alone is handed over.
            let handed_over = match (has_queue, run) {
                (true, _) => with_outcome(&reply, "queued"),
                (false, 0) => with_outcome(&reply, "copied"),
                (false, _) => with_outcome(&reply, "current"),
            };
            assert_eq!(handed_over.len(), 1, "{reply}");
        }
        assert_eq!(scenario.aws.calls(DESCRIBE), 1, "for sixteen tags");
    }
}

#[tokio::test]
async fn packages_that_share_an_immutable_repository_are_one_report() {
    let rules = r#"[{"source":"acme/*","destination":"prod/api:{basename}-{tag}"}]"#;
    let scenario = Scenario::start_with_queue(&[("RULES", rules)]).await;
    for package in ["api", "web", "job"] {
        scenario.push(&format!("acme/{package}"), "1", &image(1));
        let tag = format!("{package}-1");
        scenario.ecr.put_image(DESTINATION, &tag, &image(2));
    }
    scenario.ecr.create_immutable_repository(DESTINATION);
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reports(&reply).len(), 1, "{reply}");
    let error = reply["error"].as_str().unwrap_or_default();
    assert!(
        error.contains("3 tags have other digests than at the source: api-1, job-1, web-1;"),
        "{error}"
    );
    assert_eq!(scenario.sqs.messages(JOB_QUEUE).len(), 0);
    assert_eq!(scenario.aws.calls(DESCRIBE), 1);
}

/// One dead letter that says why, and nothing comes back.
#[tokio::test]
async fn a_webhook_for_an_immutable_tag_is_given_up_at_once() {
    let scenario = Scenario::start_with_queue(&[]).await;
    diverge(&scenario, DESTINATION, "latest");
    scenario.ecr.create_immutable_repository(DESTINATION);
    let body = webhook::package_event("acme", "api", "latest", &image(1).top);
    let event = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
    let (status, _) = http_reply(&scenario, &event).await;
    assert_eq!(status, 202);
    assert_eq!(scenario.process_queue().await.len(), 1);
    let letters = scenario.sqs.messages(DEAD_LETTER_QUEUE);
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_nothing_moved(&scenario, "webhook");
}

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle+json;version=0.2";

/// A manifest of one layer that is said to be of this type and size.
fn with_layer(media_type: &str, size: u64) -> Image {
    let layer = Blob::bytes("a layer");
    let described = Descriptor {
        size,
        ..Descriptor::of_blob(media_type, &layer)
    };
    let image = ImageBuilder::oci().layer_described(described).build();
    image.with_blob(&layer.digest(), layer)
}

/// What ECR is known to refuse, and a part of the reason.
fn refused_images() -> [(&'static str, Image, &'static str); 7] {
    let cache = ImageBuilder::oci()
        .layer(image::OCI_LAYER_GZIP, Blob::pseudorandom(9, 500))
        .build();
    let cached = cache.blobs[0].0.clone();
    let index = json!({
        "schemaVersion": 2, "mediaType": image::OCI_INDEX,
        "manifests": [{"mediaType": image::OCI_LAYER_GZIP, "digest": cached, "size": 500}],
    });
    let artifact = ImageBuilder::artifact(BUNDLE);
    [
        (
            "no layers",
            ImageBuilder::oci().build(),
            "its `layers` are empty",
        ),
        (
            "no layers, Docker",
            ImageBuilder::docker().build(),
            "its `layers` are empty",
        ),
        (
            "a zero-byte blob",
            Image::single(&[Blob::bytes("")]),
            "has no bytes",
        ),
        (
            "a parameter in a layer's media type",
            with_layer(BUNDLE, 7),
            "the media type of layer sha256:",
        ),
        (
            "a parameter in the artifact's type",
            artifact
                .layer("application/json", Blob::bytes("{}"))
                .build(),
            "its `artifactType` \"application/vnd.dev.sigstore.bundle+json;version=0.2\"",
        ),
        (
            "a layer over 52,000 MiB",
            with_layer(image::OCI_LAYER_GZIP, 52_000 * 1024 * 1024 + 1),
            "ECR stores at most 54525952000",
        ),
        (
            "a cache",
            Image::raw(image::OCI_INDEX, index.to_string()).with(&cache),
            "a BuildKit cache does so, and ECR does not store it",
        ),
    ]
}

/// With the reason, also in a dry run, and also where it is only a part of an index.
#[tokio::test]
async fn what_ecr_refuses_is_found_before_anything_moves() {
    for (name, refused, reason) in refused_images() {
        let beside = Image::single(&[Blob::pseudorandom(3, 1_000)]);
        let index = Image::index(vec![
            beside.on("linux/amd64"),
            refused.clone().on("linux/arm64"),
        ]);
        for (form, image) in [("alone", &refused), ("in an index", &index)] {
            for dry_run in [false, true] {
                let name = format!("{name}, {form}, {dry_run}");
                let scenario = Scenario::start().await;
                scenario.push(REPOSITORY, "1", image);
                let mut event = direct("1");
                event["dry_run"] = json!(dry_run);
                let (kind, message) = scenario.invoke(&event).await.error();
                assert_eq!(kind, "Invalid", "{name}: {message}");
                assert!(message.contains(reason), "{name}: {message}");
                assert_nothing_moved(&scenario, &name);
            }
        }
    }
}

/// At the top and below it: the size that the index says is enough to know.
#[tokio::test]
async fn a_manifest_over_four_mebibytes_is_found_before_anything_moves() {
    let large = ImageBuilder::oci()
        .layer(image::OCI_LAYER_GZIP, Blob::pseudorandom(3, 1_000))
        .annotation("padding", &"x".repeat(4 * 1024 * 1024))
        .build();
    let index = Image::index(vec![large.clone().on("linux/amd64")]);
    for (name, image) in [("at the top", &large), ("in an index", &index)] {
        let scenario = Scenario::start().await;
        scenario.push(REPOSITORY, "1", image);
        let (kind, message) = scenario.fail("1").await;
        assert_eq!(kind, "Invalid", "{name}: {message}");
        assert!(message.contains("4194304"), "{name}: {message}");
        assert_nothing_moved(&scenario, name);
    }
}

/// Whoever writes them is told so before any registry is asked.
#[tokio::test]
async fn names_outside_ecrs_grammar_reach_no_registry() {
    let scenario = Scenario::with_image("1").await;
    let long = "x".repeat(257);
    for name in [
        "Prod/api",
        "prod//api",
        "prod/api-",
        "prod/a b",
        "p",
        "/api",
        &long,
    ] {
        let mut event = direct("1");
        event["destination"] = json!(name);
        let (kind, message) = scenario.invoke(&event).await.error();
        assert_eq!(kind, "Invalid", "{name}: {message}");
        assert!(message.contains("not a valid repository name"), "{message}");
    }
    let mut event = direct("1");
    event["destination"] = json!(format!("prod/api:{}", "x".repeat(129)));
    let (kind, message) = scenario.invoke(&event).await.error();
    assert_eq!(kind, "Invalid", "{message}");
    assert_eq!(scenario.ecr.server.requests().len(), 0);
    assert_eq!(scenario.ghcr.server.requests().len(), 0);
}
