//! Every way to a destination leads through the gate: forms, lists of destinations, repositories that are created, tags that move,
//! signatures' own events, digests.

use serde_json::{Value, json};
use support::deployment::{DEAD_LETTER_QUEUE, JOB_QUEUE, WEBHOOK_SECRET};
use support::http::Fault;
use support::image::Blob;
use support::sigstore::{Attestation, Authority, Key};
use support::webhook;

use super::{attested, put_bundle, put_signatures, requiring};
use crate::scenario::{DESTINATION, Image, REPOSITORY, Scenario, direct, http_reply, small_image};

/// A scenario whose one rule has `require` and these other fields.
async fn ruled(rule: &Value, authority: &Authority, with_queue: bool) -> Scenario {
    let mut rule = rule.clone();
    rule["source"] = json!("acme/*");
    rule["require"] = attested();
    let (rules, root) = (json!([rule]).to_string(), authority.trusted_root());
    let settings = [("RULES", rules.as_str()), ("TRUSTED_ROOT", &root)];
    match with_queue {
        true => Scenario::start_with_queue(&settings).await,
        false => Scenario::start_with(&settings).await,
    }
}

fn attest(scenario: &Scenario, authority: &Authority, image: &Image) {
    let bundle = authority.attest(&Attestation::of(&image.top));
    put_bundle(scenario, image, &bundle);
}

/// The push of an attestation of `image`, as GitHub tells of it, and all that follows from it.
async fn wake(scenario: &Scenario, image: &Image) {
    let tag = image.top.replace(':', "-");
    let body = webhook::package_event("acme", "api", &tag, &image.top);
    let event = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
    assert_eq!(http_reply(scenario, &event).await.0, 202);
    scenario.process_queue().await;
}

#[tokio::test]
async fn what_was_verified_is_what_is_copied_although_the_tag_moves_meanwhile() {
    let authority = Authority::new();
    let scenario = requiring(&attested(), &authority, false).await;
    let [signed, unsigned] = [1, 2].map(|seed| Image::single(&[Blob::pseudorandom(seed, 3000)]));
    scenario.push(REPOSITORY, "1", &signed);
    attest(&scenario, &authority, &signed);
    let ghcr = &scenario.ghcr.server;
    let evidence = format!("/manifests/{}", signed.top.replace(':', "-"));
    ghcr.fault("GET", &evidence, 1, Fault::Hold);
    let (report, ()) = tokio::join!(scenario.copy("1"), async {
        ghcr.wait_for("GET", &evidence).await;
        scenario.push(REPOSITORY, "1", &unsigned);
        ghcr.release();
    });
    assert_eq!(report["outcome"], "copied", "{report}");
    assert_eq!(report["source_digest"], signed.top, "{report}");
    scenario.assert_stored("moved", "1", &signed);
    let repository = scenario.ecr.repository(DESTINATION);
    assert!(!repository.manifests.contains_key(&unsigned.top));
    // And what the tag has now has its own verdict.
    let (kind, _) = scenario.fail("1").await;
    assert_eq!(kind, "Denied");
    scenario.assert_stored("still", "1", &signed);
}

#[tokio::test]
async fn every_form_and_destination_has_the_verdict_on_the_sources_own_digest() {
    let authority = Authority::new();
    let destinations = json!([
        "prod/{name}",
        {"to": "prod/{name}:{tag}-arm", "platform": "linux/arm64"},
        {"to": "prod/{name}:{tag}-{digest8}", "platforms": ["linux/amd64"]},
    ]);
    let scenario = ruled(&json!({"destination": destinations}), &authority, false).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    // Signatures of the parts are none of the whole.
    for child in &image.manifests {
        if child.digest != image.top {
            let bundle = authority.attest(&Attestation::of(&child.digest));
            let github = &scenario.github;
            github.put_attestation("acme", "api", &child.digest, &bundle);
        }
    }
    let (kind, message) = scenario.fail("1").await;
    assert_eq!(kind, "Denied", "{message}");
    let repository = scenario.ecr.repository(DESTINATION);
    assert!(repository.tags.is_empty() && repository.blobs.is_empty());
    attest(&scenario, &authority, &image);
    scenario.clear_requests();
    let reply = scenario.copy("1").await;
    let reports = reply["reports"].as_array().expect("reports");
    assert_eq!(reports.len(), 3, "{reply}");
    for report in reports {
        assert_eq!(report["outcome"], "copied", "{report}");
        assert_eq!(report["verified"]["by"], "attestation", "{report}");
    }
    let tag = image.top.replace(':', "-");
    assert_eq!(scenario.ghcr.server.count("GET", &tag), 1);
    assert_eq!(scenario.ecr.repository(DESTINATION).tags.len(), 3);
}

#[tokio::test]
async fn no_repository_is_created_for_what_is_not_signed() {
    let authority = Authority::new();
    for repository in [
        json!({"create": true}),
        json!({"create": true, "scan_on_push": true}),
    ] {
        let rule = json!({"destination": "new/{name}", "repository": repository});
        let scenario = ruled(&rule, &authority, false).await;
        let image = small_image();
        scenario.push(REPOSITORY, "1", &image);
        let (kind, message) = scenario.fail("1").await;
        assert_eq!(kind, "Denied", "{message}");
        let is_created = || {
            let mut calls = scenario.aws.repository_calls().into_iter();
            calls.any(|(operation, _)| operation == "CreateRepository")
        };
        assert!(!is_created());
        attest(&scenario, &authority, &image);
        let report = scenario.copy("1").await;
        assert_eq!(report["outcome"], "copied", "{report}");
        assert_eq!(report["verified"]["by"], "attestation", "{report}");
        assert!(is_created());
    }
}

/// Only a digest is named: there is no tag that could have been verified in its place.
#[tokio::test]
async fn a_digest_alone_is_asked_for_as_well() {
    let authority = Authority::new();
    let scenario = requiring(&attested(), &authority, false).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let event = json!({"source": format!("ghcr.io/{REPOSITORY}@{}", image.top)});
    let (kind, message) = scenario.invoke(&event).await.error();
    assert_eq!(kind, "Denied", "{message}");
    // A part of a signed image is signed by nobody.
    attest(&scenario, &authority, &image);
    let child = image.manifests.iter().find(|it| it.digest != image.top);
    let part =
        json!({"source": format!("ghcr.io/{REPOSITORY}@{}", child.expect("a child").digest)});
    let (kind, message) = scenario.invoke(&part).await.error();
    assert_eq!(kind, "Denied", "{message}");
    assert!(scenario.ecr.repository(DESTINATION).manifests.is_empty());
    let report = scenario.invoke(&event).await.reply();
    assert_eq!(report["outcome"], "copied", "{report}");
}

/// What is under a signature's tag can be an image, pushed by somebody who can't sign.
#[tokio::test]
async fn an_image_under_a_signatures_tag_is_no_way_around() {
    let authority = Authority::new();
    let rule = json!({"destination": "prod/{name}", "referrers": true});
    let scenario = ruled(&rule, &authority, true).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let tag = format!("{}.sig", image.top.replace(':', "-"));
    scenario.push(REPOSITORY, &tag, &image);
    // Its subject was not copied, so nothing is.
    let body = webhook::package_event("acme", "api", &tag, &image.top);
    let event = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
    assert_eq!(http_reply(&scenario, &event).await.0, 202);
    let batch = scenario.sqs.batch(JOB_QUEUE, 10);
    scenario.invoke(&batch).await.reply();
    assert!(scenario.ecr.repository(DESTINATION).manifests.is_empty());
    // Nor is it by name.
    let mut event = direct(&tag);
    event["destination"] = json!("prod/api:1");
    let (kind, message) = scenario.invoke(&event).await.error();
    assert_eq!(kind, "Denied", "{message}");
    assert!(scenario.ecr.repository(DESTINATION).manifests.is_empty());
}

/// The push of an attestation wakes what the rule admits, and brings the attestation too where referrers come along.
#[tokio::test]
async fn what_wakes_an_image_follows_the_rules_filters() {
    let authority = Authority::new();
    for referrers in [false, true] {
        let rule = json!({"destination": "prod/{name}", "referrers": referrers,
            "tags": {"exclude": ["pr-*"]}});
        let scenario = ruled(&rule, &authority, true).await;
        let image = small_image();
        for tag in ["pr-1", "1"] {
            scenario.push(REPOSITORY, tag, &image);
        }
        let (owner, tags) = ("acme", ["pr-1", "1"]);
        scenario.github.put_version(owner, "api", &image.top, &tags);
        attest(&scenario, &authority, &image);
        wake(&scenario, &image).await;
        scenario.assert_stored("woken", "1", &image);
        scenario.assert_untouched("excluded", "pr-1");
        let repository = scenario.ecr.repository(DESTINATION);
        let refers = repository.manifests.len() > image.manifests.len();
        assert_eq!(refers, referrers, "{:?}", repository.tags);
        let dead = scenario.sqs.messages(DEAD_LETTER_QUEUE);
        assert!(dead.is_empty(), "{dead:?}");
    }
}

/// cosign's own tag wakes too.
#[tokio::test]
async fn the_push_of_a_cosign_signature_wakes_the_job() {
    let (authority, key) = (Authority::new(), Key::p256());
    let require = json!({"cosign_key": key.pem()});
    let scenario = requiring(&require, &authority, true).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    put_signatures(&scenario, &image, &[key.sign_payload(&image.top)]);
    let tag = format!("{}.sig", image.top.replace(':', "-"));
    let body = webhook::package_event("acme", "api", &tag, &image.top);
    let event = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
    assert_eq!(http_reply(&scenario, &event).await.0, 202);
    scenario.process_queue().await;
    scenario.assert_stored("woken", "1", &image);
    let repository = scenario.ecr.repository(DESTINATION);
    assert_eq!(repository.tags.len(), 1, "{:?}", repository.tags);
}

/// What a scheduled run finds unsigned, and pushed long ago, is refused by each run, and fills no queue.
#[tokio::test]
async fn a_scheduled_run_neither_copies_nor_dead_letters_what_is_not_signed() {
    let authority = Authority::new();
    let scenario = requiring(&attested(), &authority, true).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let long_ago = Some("2021-01-01T00:00:00Z");
    let github = &scenario.github;
    github.set_created_at("acme", "api", &image.top, long_ago);
    scenario.invoke(&json!({"reconcile": true})).await.reply();
    scenario.process_queue().await;
    scenario.assert_untouched("unsigned", "1");
    assert!(scenario.sqs.messages(DEAD_LETTER_QUEUE).is_empty());
    attest(&scenario, &authority, &image);
    scenario.invoke(&json!({"reconcile": true})).await.reply();
    scenario.process_queue().await;
    scenario.assert_stored("signed", "1", &image);
}

/// A dry run says whether an image would pass.
#[tokio::test]
async fn a_dry_run_has_the_verdict() {
    let authority = Authority::new();
    let scenario = requiring(&attested(), &authority, false).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let mut event = direct("1");
    event["dry_run"] = json!(true);
    let (kind, message) = scenario.invoke(&event).await.error();
    assert_eq!(kind, "Denied", "{message}");
    attest(&scenario, &authority, &image);
    let report = scenario.invoke(&event).await.reply();
    assert_eq!(report["outcome"], "planned", "{report}");
    assert_eq!(report["verified"]["by"], "attestation", "{report}");
    scenario.assert_untouched("planned", "1");
}
