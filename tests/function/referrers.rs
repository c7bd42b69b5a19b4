//! Signatures and attestations: found by GHCR's fallback tag and cosign's tags, brought to where their image is, in each signer's layout.

use std::time::Duration;

use serde_json::{Value, json};
use support::deployment::{JOB_QUEUE, WEBHOOK_SECRET, image_requests};
use support::function::Outcome;
use support::ghcr::{ReferrersAnswer, fallback_tag};
use support::http::{Fault, Server};
use support::image::{Blob, OCI_INDEX, OCI_MANIFEST, Signer, StoredManifest};
use support::webhook;

use crate::scenario::{
    DESTINATION, Image, REPOSITORY, Scenario, direct, http_reply, layers, small_image,
};

/// The index of [`small_image`].
fn index() -> StoredManifest {
    small_image().top_manifest().clone()
}

/// The manifest of one of its platforms.
fn child(platform: &str) -> StoredManifest {
    let [a, b, c] = layers();
    let layers = match platform {
        "linux/amd64" => [a, b],
        _ => [a, c],
    };
    Image::of_platform(platform, &layers).top_manifest().clone()
}

fn rules(more: &Value) -> String {
    let mut rule = json!({"source": REPOSITORY, "destination": DESTINATION, "referrers": true});
    let more = more.as_object().expect("an object").clone();
    rule.as_object_mut().expect("an object").extend(more);
    json!([rule]).to_string()
}

/// The rule asks for referrers, with `more` fields; `acme/api:1` is [`small_image`].
async fn start_with(more: Value) -> Scenario {
    let scenario = Scenario::start_with(&[("RULES", &rules(&more))]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    scenario
}

async fn start() -> Scenario {
    start_with(json!({})).await
}

async fn start_with_queue(more: Value) -> Scenario {
    let scenario = Scenario::start_with_queue(&[("RULES", &rules(&more))]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    scenario
}

/// Signs `subject` at the source, as the signer does.
fn sign(scenario: &Scenario, signer: Signer, subject: &StoredManifest) -> Image {
    let signature = signer.sign(subject);
    match signer.tag(&subject.digest) {
        Some(tag) => scenario.ghcr.put_image(REPOSITORY, &tag, &signature),
        None => scenario
            .ghcr
            .put_referrer(REPOSITORY, &subject.digest, &signature),
    }
    signature
}

/// The signature is in a repository, whole and byte for byte, where who verifies it looks: under its tag, or in the list of referrers.
async fn assert_found(
    scenario: &Scenario,
    name: &str,
    (signer, signature): (Signer, &Image),
    subject: &StoredManifest,
) {
    let repository = scenario.ecr.repository(name);
    let stored = repository.manifests.get(&signature.top);
    let stored = stored.unwrap_or_else(|| panic!("{signer:?} is not in {name}"));
    assert_eq!(stored.bytes, signature.top_manifest().bytes);
    assert_eq!(
        repository.missing_from(&signature.top),
        Vec::<String>::new()
    );
    match signer.tag(&subject.digest) {
        Some(tag) => assert_eq!(repository.tags.get(&tag), Some(&signature.top), "{tag}"),
        None => {
            let referrers = scenario.ecr.referrers(name, &subject.digest).await;
            assert!(referrers.contains(&signature.top), "{referrers:?}");
        }
    }
    let fallback = fallback_tag(&subject.digest);
    assert_eq!(repository.tags.get(&fallback), None, "the fallback tag");
}

fn assert_missing(scenario: &Scenario, name: &str, signature: &Image) {
    let manifests = scenario.ecr.repository(name).manifests;
    assert!(!manifests.contains_key(&signature.top), "{signature:?}");
}

fn reports(reply: &Value) -> Vec<Value> {
    match reply["reports"].as_array() {
        Some(reports) => reports.clone(),
        None => vec![reply.clone()],
    }
}

fn referrers(copied: u64, refused: u64) -> Value {
    json!({"copied": copied, "refused": refused})
}

fn warnings(report: &Value) -> Vec<&str> {
    let warnings = report["warnings"].as_array().expect("warnings");
    warnings.iter().filter_map(Value::as_str).collect()
}

/// Method and the last part of the path of each request.
fn looks(server: &Server) -> Vec<String> {
    let requests = image_requests(server).into_iter();
    let mut looks: Vec<String> = requests
        .map(|it| {
            let path = it.path.split('?').next().unwrap_or_default().to_owned();
            let parts: Vec<&str> = path.rsplitn(3, '/').collect();
            format!("{} {}/{}", it.method, parts[1], parts[0])
        })
        .collect();
    looks.sort();
    looks
}

fn delivery(tag: &str, digest: &str) -> Value {
    let body = webhook::package_event("acme", "api", tag, digest);
    webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET)
}

/// The reports that the worker logged.
async fn work_off(scenario: &Scenario) {
    for outcome in scenario.process_queue().await {
        assert_eq!(outcome.reply(), json!({"batchItemFailures": []}));
    }
}

/// Copied with its image, found at the destination, and current after that.
async fn comes_along(signers: &[Signer]) {
    let scenario = start().await;
    let index = index();
    let mut signatures = Vec::new();
    for signer in signers {
        signatures.push((*signer, sign(&scenario, *signer, &index)));
    }
    let reply = scenario.copy("1").await;
    let count = signers.len() as u64;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    assert_eq!(reply["referrers"], referrers(count, 0), "{reply}");
    assert_eq!(reply["warnings"], json!([]));
    assert_eq!(
        reply["manifests"],
        json!({"pushed": small_image().manifests.len(), "present": 0}),
        "the image's own"
    );
    scenario.assert_stored("the image", "1", &small_image());
    for (signer, signature) in &signatures {
        assert_found(&scenario, DESTINATION, (*signer, signature), &index).await;
    }
    scenario.clear_requests();
    let reply = scenario.copy("1").await;
    assert_eq!(
        (&reply["outcome"], &reply["referrers"]),
        (&json!("current"), &referrers(0, 0)),
        "{reply}"
    );
    assert_eq!(scenario.ecr.server.count("PUT", "/v2/"), 0);
}

#[tokio::test]
async fn signatures_attestations_and_sboms_of_cosign_2_come_along_under_their_tags() {
    comes_along(&[
        Signer::Cosign2Signature,
        Signer::Cosign2Attestation,
        Signer::Cosign2Sbom,
    ])
    .await;
}

#[tokio::test]
async fn bundles_of_cosign_3_come_along_as_referrers() {
    comes_along(&[Signer::Cosign3]).await;
}

#[tokio::test]
async fn attestations_of_githubs_attest_action_come_along_as_referrers() {
    comes_along(&[Signer::GitHub]).await;
}

#[tokio::test]
async fn signatures_of_notation_come_along_as_referrers() {
    comes_along(&[Signer::Notation, Signer::NotationEarlier]).await;
}

#[tokio::test]
async fn all_layouts_of_one_image_come_along_together() {
    comes_along(&Signer::ALL).await;
}

#[tokio::test]
async fn without_the_rules_wish_nothing_more_is_asked_or_copied() {
    let scenario = start_with(json!({"referrers": false})).await;
    let index = index();
    let signatures = Signer::ALL.map(|signer| sign(&scenario, signer, &index));
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    assert_eq!(reply["referrers"], referrers(0, 0));
    for signature in &signatures {
        assert_missing(&scenario, DESTINATION, signature);
    }
    scenario.clear_requests();
    let reply = scenario.copy("1").await;
    assert_eq!(reply["requests"], json!({"source": 1, "destination": 1}));
    assert_eq!(looks(&scenario.ghcr.server), ["GET manifests/1"]);
    assert_eq!(looks(&scenario.ecr.server), ["HEAD manifests/1"]);
    let tag = Signer::Cosign2Signature.tag(&index.digest).expect("a tag");
    let event = delivery(&tag, &signatures[0].top);
    let (status, report) = http_reply(&scenario, &event).await;
    assert_eq!((status, &report["outcome"]), (200, &json!("ignored")));
}

/// The cost that the README states.
#[tokio::test]
async fn what_is_up_to_date_costs_a_list_and_a_look_at_each() {
    let scenario = start().await;
    let index = index();
    scenario.copy("1").await;
    scenario.clear_requests();
    let reply = scenario.copy("1").await;
    assert_eq!(reply["requests"], json!({"source": 3, "destination": 1}));
    let of_top = format!("GET referrers/{}", index.digest);
    assert_eq!(
        looks(&scenario.ghcr.server),
        ["GET manifests/1", of_top.as_str(), "GET tags/list"],
        "without any signature"
    );

    let attestation = sign(&scenario, Signer::GitHub, &index);
    sign(&scenario, Signer::Cosign2Signature, &index);
    let tag = Signer::Cosign2Signature.tag(&index.digest).expect("a tag");
    scenario.copy("1").await;
    scenario.clear_requests();
    let reply = scenario.copy("1").await;
    assert_eq!(reply["requests"], json!({"source": 5, "destination": 3}));
    let fallback = format!("GET manifests/{}", fallback_tag(&index.digest));
    let mut expected = vec![
        "GET manifests/1".to_owned(),
        fallback,
        format!("GET manifests/{tag}"),
        of_top,
        "GET tags/list".to_owned(),
    ];
    expected.sort();
    assert_eq!(looks(&scenario.ghcr.server), expected);
    let mut expected = [
        "HEAD manifests/1".to_owned(),
        format!("HEAD manifests/{}", attestation.top),
        format!("HEAD manifests/{tag}"),
    ];
    expected.sort();
    assert_eq!(looks(&scenario.ecr.server), expected);
    assert_eq!(scenario.ghcr.storage.requests().len(), 0);

    // Where the package has signatures of anything else, the index is read to learn whether that is a child of it.
    let other = Image::single(&[Blob::bytes("other")]);
    scenario.push(REPOSITORY, "2", &other);
    sign(
        &scenario,
        Signer::Cosign2Signature,
        &other.top_manifest().clone(),
    );
    scenario.clear_requests();
    let reply = scenario.copy("1").await;
    assert_eq!(reply["requests"], json!({"source": 6, "destination": 3}));
}

/// Nobody knows how long GHCR's web site takes to answer what is no question to it.
#[tokio::test]
async fn a_referrers_endpoint_that_stands_still_is_given_up_soon() {
    let scenario = start().await;
    let endpoint = &scenario.ghcr.server;
    endpoint.fault("GET", "/referrers/", 1, Fault::Hold);
    sign(&scenario, Signer::GitHub, &index());
    let begin = std::time::Instant::now();
    let reply = scenario.copy("1").await;
    assert_eq!(reply["referrers"], referrers(1, 0), "{reply}");
    assert!(begin.elapsed() < Duration::from_secs(20));
}

/// What is not compared before the deadline is counted, and the next run begins elsewhere.
#[tokio::test]
async fn a_run_that_meets_its_deadline_says_what_signatures_it_left() {
    let scenario = start().await;
    scenario.copy("1").await;
    let index = index();
    sign(&scenario, Signer::GitHub, &index);
    let look = format!("/manifests/{}", index.digest);
    scenario.ecr.server.fault("HEAD", &look, 1, Fault::Hold);
    let event = webhook::scheduler();
    let remaining = Duration::from_secs(6);
    let outcome = scenario.function.invoke_with_deadline(&event, remaining);
    let (kind, message) = outcome.await.error();
    assert_eq!(kind, "Deadline", "{message}");
    let left = "the signatures of 1 of 1 manifests were not compared in this run";
    assert!(scenario.function.log().contains(left));
}

#[tokio::test]
async fn whatever_the_referrers_endpoint_answers_the_fallback_tag_is_read() {
    for answer in [
        ReferrersAnswer::Redirect,
        ReferrersAnswer::NotFound,
        ReferrersAnswer::TooManyRequests,
        ReferrersAnswer::Empty,
    ] {
        let scenario = start().await;
        scenario.ghcr.set_referrers_answer(answer);
        let signature = sign(&scenario, Signer::GitHub, &index());
        let reply = scenario.copy("1").await;
        assert_eq!(reply["referrers"], referrers(1, 0), "{answer:?}: {reply}");
        assert_found(
            &scenario,
            DESTINATION,
            (Signer::GitHub, &signature),
            &index(),
        )
        .await;
        let storage = scenario.ghcr.storage.requests();
        let to_web_site = storage.iter().filter(|it| it.path.starts_with("/-/"));
        assert_eq!(to_web_site.count(), 0, "the redirect is not followed");
    }
}

#[tokio::test]
async fn where_the_registry_has_the_api_no_fallback_tag_is_needed() {
    let scenario = start().await;
    scenario.ghcr.set_referrers_answer(ReferrersAnswer::Listed);
    let (index, arm64) = (index(), child("linux/arm64"));
    let mut signatures = Vec::new();
    for subject in [index, arm64] {
        let signature = Signer::Notation.sign(&subject);
        scenario.ghcr.put_untagged(REPOSITORY, &signature);
        signatures.push((subject, signature));
    }
    let reply = scenario.copy("1").await;
    assert_eq!(reply["referrers"], referrers(2, 0), "{reply}");
    for (subject, signature) in &signatures {
        let found = (Signer::Notation, signature);
        assert_found(&scenario, DESTINATION, found, subject).await;
    }
}

#[tokio::test]
async fn children_of_an_index_have_signatures_of_their_own() {
    let scenario = start().await;
    let subjects = [index(), child("linux/amd64"), child("linux/arm64")];
    let mut signatures = Vec::new();
    for subject in subjects {
        for signer in [Signer::Cosign2Signature, Signer::Cosign3] {
            signatures.push((
                subject.clone(),
                signer,
                sign(&scenario, signer, &subject.clone()),
            ));
        }
    }
    // Of another image in the same package.
    let other = Image::single(&[Blob::bytes("other")]);
    scenario.push(REPOSITORY, "2", &other);
    let others = sign(&scenario, Signer::Cosign3, other.top_manifest());
    let reply = scenario.copy("1").await;
    assert_eq!(reply["referrers"], referrers(6, 0), "{reply}");
    for (subject, signer, signature) in &signatures {
        assert_found(&scenario, DESTINATION, (*signer, signature), subject).await;
    }
    assert_missing(&scenario, DESTINATION, &others);
}

#[tokio::test]
async fn a_signature_of_an_sbom_comes_along_too() {
    let scenario = start().await;
    let sbom = sign(&scenario, Signer::Cosign2Sbom, &index());
    let signature = sign(&scenario, Signer::Notation, sbom.top_manifest());
    let reply = scenario.copy("1").await;
    assert_eq!(reply["referrers"], referrers(2, 0), "{reply}");
    let found = (Signer::Notation, &signature);
    assert_found(&scenario, DESTINATION, found, sbom.top_manifest()).await;
}

#[tokio::test]
async fn one_that_ecr_refuses_is_a_warning_that_names_it() {
    let scenario = start_with_queue(json!({})).await;
    let index = index();
    let refused = Image::refused_referrer(&index);
    scenario
        .ghcr
        .put_referrer(REPOSITORY, &index.digest, &refused);
    let signature = sign(&scenario, Signer::GitHub, &index);
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    assert_eq!(reply["referrers"], referrers(1, 1), "{reply}");
    let warnings = warnings(&reply);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains(&refused.top), "{warnings:?}");
    assert!(
        warnings[0].contains("ECR does not store such media types"),
        "{warnings:?}"
    );
    scenario.assert_stored("the image", "1", &small_image());
    let found = (Signer::GitHub, &signature);
    assert_found(&scenario, DESTINATION, found, &index).await;

    // A run reports it, and enqueues nothing for it.
    for _ in 0..2 {
        let reply = scenario.invoke(&webhook::scheduler()).await.reply();
        assert_eq!(reply["outcome"], "current", "{reply}");
        let refusals = reports(&reply);
        let refusals = refusals
            .iter()
            .filter(|it| it["referrers"] == referrers(0, 1));
        assert_eq!(refusals.count(), 1, "{reply}");
        assert_eq!(scenario.sqs.messages(JOB_QUEUE).len(), 0);
    }
}

#[tokio::test]
async fn a_signature_that_grows_is_refused_by_an_immutable_repository() {
    let scenario = start_with(json!({"destination": "lock/api"})).await;
    scenario.ecr.create_immutable_repository("lock/api");
    let index = index();
    let first = sign(&scenario, Signer::Cosign2Signature, &index);
    let reply = scenario.copy("1").await;
    assert_eq!(reply["referrers"], referrers(1, 0), "{reply}");
    let tag = Signer::Cosign2Signature.tag(&index.digest).expect("a tag");
    let second = Signer::Cosign2Attestation.sign(&index);
    scenario.ghcr.put_image(REPOSITORY, &tag, &second);
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "current", "{reply}");
    assert_eq!(reply["referrers"], referrers(0, 1), "{reply}");
    let warning = &warnings(&reply)[0];
    assert!(warning.contains("immutable"), "{warning}");
    // A tag of its own for each digest would not be found by cosign.
    assert!(
        warning.contains("exclude `sha256-*`") && !warning.contains("{digest8}"),
        "{warning}"
    );
    assert_eq!(scenario.ecr.repository("lock/api").tags[&tag], first.top);
}

#[tokio::test]
async fn late_signatures_come_by_their_own_events() {
    let scenario = start_with_queue(json!({"destination": "prod/api:{tag}-{digest8}"})).await;
    let index = index();
    scenario.copy("1").await;
    for signer in [Signer::Cosign2Signature, Signer::GitHub] {
        let signature = sign(&scenario, signer, &index);
        let tag = signer.tag(&index.digest);
        let tag = tag.unwrap_or_else(|| fallback_tag(&index.digest));
        // Of the fallback tag, the digest is that of the index.
        let digest = match signer {
            Signer::GitHub => scenario.ghcr.put_fallback(
                REPOSITORY,
                &index.digest,
                &[json!({"mediaType": OCI_MANIFEST, "digest": signature.top, "size": 1})],
            ),
            _ => signature.top.clone(),
        };
        let (status, report) = http_reply(&scenario, &delivery(&tag, &digest)).await;
        assert_eq!(
            (status, &report["outcome"]),
            (202, &json!("queued")),
            "{report}"
        );
        let messages = scenario.sqs.messages(JOB_QUEUE);
        let body: Value = serde_json::from_str(&messages[0].body).expect("JSON");
        assert_eq!(
            (&body["source"], &body["destination"], &body["referrers"]),
            (
                &json!(format!("ghcr.io/acme/api:{tag}@{digest}")),
                &json!("prod/api"),
                &json!(true)
            )
        );
        work_off(&scenario).await;
        assert_found(&scenario, DESTINATION, (signer, &signature), &index).await;
        let log = scenario.function.log();
        assert!(log.contains(r#""referrers":{"copied":1,"#), "{log}");
    }
}

#[tokio::test]
async fn a_signatures_event_waits_for_a_tag_that_the_source_shows_late() {
    let scenario = start().await;
    let index = index();
    scenario.copy("1").await;
    let fallback = fallback_tag(&index.digest);
    scenario.ghcr.lag_reads(REPOSITORY, &fallback, 2);
    let signature = sign(&scenario, Signer::GitHub, &index);
    let entry = json!({"mediaType": OCI_MANIFEST, "digest": signature.top, "size": 1});
    let digest = scenario
        .ghcr
        .put_fallback(REPOSITORY, &index.digest, &[entry]);
    let (status, report) = http_reply(&scenario, &delivery(&fallback, &digest)).await;
    assert_eq!(
        (status, &report["outcome"]),
        (200, &json!("copied")),
        "{report}"
    );
    assert_eq!(report["referrers"], referrers(1, 0));
    let found = (Signer::GitHub, &signature);
    assert_found(&scenario, DESTINATION, found, &index).await;

    // One that never shows is a failure, as it is for images.
    let tag = Signer::Cosign2Signature.tag(&index.digest).expect("a tag");
    let (status, report) = http_reply(&scenario, &delivery(&tag, &signature.top)).await;
    assert_eq!(status, 502, "{report}");
    assert_eq!(report["error_kind"], "NotFound", "{report}");
}

#[tokio::test]
async fn a_signature_of_an_image_that_is_not_there_is_ignored_with_the_reason() {
    let scenario = start_with(json!({"destination": ["prod/api", "dr/api"]})).await;
    scenario.ecr.create_repository("dr/api");
    let index = index();
    let signature = sign(&scenario, Signer::Cosign2Signature, &index);
    let tag = Signer::Cosign2Signature.tag(&index.digest).expect("a tag");
    scenario.ecr.put_image("dr/api", "1", &small_image());
    let (_, reply) = http_reply(&scenario, &delivery(&tag, &signature.top)).await;
    let reports = reports(&reply);
    let outcomes: Vec<&Value> = reports.iter().map(|it| &it["outcome"]).collect();
    assert_eq!(outcomes, ["ignored", "copied"], "{reply}");
    let reason = reports[0]["reason"].as_str().expect("a reason");
    assert!(reason.contains(&index.digest), "{reason}");
    assert_missing(&scenario, DESTINATION, &signature);
    let found = (Signer::Cosign2Signature, &signature);
    assert_found(&scenario, "dr/api", found, &index).await;
}

#[tokio::test]
async fn late_signatures_come_with_the_next_scheduled_run() {
    let scenario = start_with_queue(json!({})).await;
    let (index, arm64) = (index(), child("linux/arm64"));
    let not_there = Image::single(&[Blob::bytes("untagged")]);
    scenario.copy("1").await;
    scenario.clear_requests();
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["outcome"], "current", "{reply}");
    assert_eq!(
        looks(&scenario.ghcr.server),
        ["GET tags/list", "HEAD manifests/1"],
        "without a signature in the package, nothing more is asked"
    );
    assert_eq!(looks(&scenario.ecr.server), ["HEAD manifests/1"]);

    let signatures = [
        (
            Signer::GitHub,
            sign(&scenario, Signer::GitHub, &index),
            &index,
        ),
        (
            Signer::Cosign2Signature,
            sign(&scenario, Signer::Cosign2Signature, &arm64),
            &arm64,
        ),
    ];
    scenario.ghcr.put_untagged(REPOSITORY, &not_there);
    let others = sign(&scenario, Signer::Cosign3, not_there.top_manifest());
    let dry_run = json!({"reconcile": true, "dry_run": true});
    let reply = scenario.invoke(&dry_run).await.reply();
    assert_eq!(reply["outcome"], "planned", "{reply}");
    assert_missing(&scenario, DESTINATION, &signatures[0].1);

    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    assert_eq!(scenario.sqs.messages(JOB_QUEUE).len(), 0);
    for (signer, signature, subject) in &signatures {
        assert_found(&scenario, DESTINATION, (*signer, signature), subject).await;
    }
    assert_missing(&scenario, DESTINATION, &others);
    let reports = reports(&reply);
    let copied = reports.iter().filter(|it| it["outcome"] == "copied");
    let copied: Vec<&Value> = copied.map(|it| &it["referrers"]).collect();
    assert_eq!(copied, [&referrers(1, 0), &referrers(1, 0)], "{reply}");

    scenario.clear_requests();
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["outcome"], "current", "{reply}");
    // For each manifest that tags are made of, a look whether it is there; then one at each signature.
    assert_eq!(image_requests(&scenario.ghcr.server).len(), 2 + 2);
    assert_eq!(image_requests(&scenario.ecr.server).len(), 1 + 3 + 2);
}

#[tokio::test]
async fn an_image_that_a_run_enqueues_brings_its_signatures() {
    let scenario = start_with_queue(json!({})).await;
    let signature = sign(&scenario, Signer::GitHub, &index());
    scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(scenario.sqs.messages(JOB_QUEUE).len(), 1);
    work_off(&scenario).await;
    scenario.assert_stored("the image", "1", &small_image());
    let found = (Signer::GitHub, &signature);
    assert_found(&scenario, DESTINATION, found, &index()).await;
}

#[tokio::test]
async fn signatures_of_a_rewritten_index_are_left_out_with_a_warning() {
    let destination = json!([
        {"to": "edge/api", "platforms": ["linux/arm64"]},
        {"to": "lambda/api", "platform": "linux/arm64"},
        "prod/api",
    ]);
    let scenario = start_with(json!({"destination": destination})).await;
    ["edge/api", "lambda/api"]
        .iter()
        .for_each(|name| scenario.ecr.create_repository(name));
    let (index, amd64, arm64) = (index(), child("linux/amd64"), child("linux/arm64"));
    let of_index = sign(&scenario, Signer::GitHub, &index);
    let of_amd64 = sign(&scenario, Signer::Cosign2Signature, &amd64);
    let of_arm64 = sign(&scenario, Signer::Cosign3, &arm64);
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let reports = reports(&reply);
    for (name, report) in ["edge/api", "lambda/api"].iter().zip(&reports) {
        assert_eq!(report["referrers"], referrers(1, 0), "{name}: {report}");
        let warnings = warnings(report);
        assert!(warnings[0].contains(&index.digest), "{name}: {warnings:?}");
        assert!(warnings[0].contains("another form"), "{name}: {warnings:?}");
        assert_missing(&scenario, name, &of_index);
        assert_missing(&scenario, name, &of_amd64);
        assert_found(&scenario, name, (Signer::Cosign3, &of_arm64), &arm64).await;
    }
    assert_eq!(reports[2]["referrers"], referrers(3, 0), "{reply}");
    assert_eq!(reports[2]["warnings"], json!([]));
    assert_found(&scenario, DESTINATION, (Signer::GitHub, &of_index), &index).await;
}

#[tokio::test]
async fn several_destinations_get_signatures_from_one_read() {
    let destination = json!(["prod/api", "dr/api", "prod/api:{tag}-{digest8}"]);
    let scenario = start_with(json!({"destination": destination})).await;
    scenario.ecr.create_repository("dr/api");
    let index = index();
    let signatures = Signer::ALL.map(|signer| (signer, sign(&scenario, signer, &index)));
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let counts: Vec<Value> = reports(&reply)
        .iter()
        .map(|it| it["referrers"].clone())
        .collect();
    let all = referrers(Signer::ALL.len() as u64, 0);
    let once = [all.clone(), all, referrers(0, 0)];
    assert_eq!(counts, once, "{reply}");
    let storage = scenario.ghcr.storage.requests().len();
    let mut blobs: Vec<&String> = signatures
        .iter()
        .flat_map(|(_, image)| &image.blobs)
        .map(|(digest, _)| digest)
        .collect();
    blobs.sort();
    blobs.dedup();
    assert_eq!(storage, blobs.len() + small_image().blobs.len());
    for name in ["prod/api", "dr/api"] {
        for (signer, signature) in &signatures {
            assert_found(&scenario, name, (*signer, signature), &index).await;
        }
    }
}

#[tokio::test]
async fn one_destination_that_refuses_or_fails_keeps_nothing_from_the_others() {
    let scenario = start_with(json!({"destination": ["prod/api", "dr/api"]})).await;
    scenario.ecr.create_repository("dr/api");
    let index = index();
    let signature = sign(&scenario, Signer::GitHub, &index);
    let put = format!("/v2/dr/api/manifests/{}", signature.top);
    let refusal = Fault::Status {
        status: 405,
        headers: Vec::new(),
        body: r#"{"errors":[{"code":"UNSUPPORTED","message":"Invalid parameter"}]}"#.to_owned(),
    };
    scenario.ecr.server.fault("PUT", &put, 1, refusal);
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let reports = reports(&reply);
    assert_eq!(reports[0]["referrers"], referrers(1, 0), "{reply}");
    assert_eq!(reports[1]["referrers"], referrers(0, 1), "{reply}");
    let found = (Signer::GitHub, &signature);
    assert_found(&scenario, "prod/api", found, &index).await;

    // What may pass is a failure of the job, which is done again; the image is there.
    scenario
        .ecr
        .server
        .fault("PUT", &put, usize::MAX, Fault::html(503));
    let (kind, message) = scenario.fail("1").await;
    assert_eq!(kind, "Transient", "{message}");
    assert!(message.contains(&signature.top), "{message}");
    scenario.ecr.server.clear_faults();
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    assert_found(&scenario, "dr/api", found, &index).await;
}

#[tokio::test]
async fn a_destination_that_stands_still_keeps_no_signature_from_the_others() {
    let scenario = start_with(json!({"destination": ["dr/api", "prod/api"]})).await;
    for name in ["dr/api", "prod/api"] {
        scenario.ecr.put_image(name, "1", &small_image());
    }
    let index = index();
    let signature = sign(&scenario, Signer::Cosign2Signature, &index);
    let tag = Signer::Cosign2Signature.tag(&index.digest).expect("a tag");
    let server = &scenario.ecr.server;
    server.fault("HEAD", "/v2/dr/api/", usize::MAX, Fault::Hold);
    let (status, reply) = http_reply(&scenario, &delivery(&tag, &signature.top)).await;
    let reports = reports(&reply);
    assert_eq!(
        (status, &reports[0]["error_kind"]),
        (503, &json!("Transient")),
        "{reply}"
    );
    assert_eq!(reports[1]["referrers"], referrers(1, 0), "{reply}");
    let found = (Signer::Cosign2Signature, &signature);
    assert_found(&scenario, "prod/api", found, &index).await;
}

#[tokio::test]
async fn a_deadline_among_the_signatures_leaves_the_image_and_is_resumed() {
    let scenario = start_with_queue(json!({})).await;
    let index = index();
    let first = sign(&scenario, Signer::GitHub, &index);
    let held = sign(&scenario, Signer::Notation, &index);
    let put = format!("/manifests/{}", held.top);
    scenario.ecr.server.fault("PUT", &put, 1, Fault::Hold);
    let outcome = scenario.copy_within("1", Duration::from_secs(5)).await;
    let (kind, message) = outcome.error();
    assert_eq!(kind, "Deadline", "{message}");
    scenario.assert_stored("the image", "1", &small_image());
    assert_found(&scenario, DESTINATION, (Signer::GitHub, &first), &index).await;

    scenario.ecr.server.clear_faults();
    scenario.ecr.server.release();
    let reply = scenario.copy("1").await;
    assert_ne!(reply["outcome"], "failed", "{reply}");
    assert_found(&scenario, DESTINATION, (Signer::Notation, &held), &index).await;
}

/// Of an image that is up to date, what was copied of its signatures is progress too.
#[tokio::test]
async fn a_job_that_is_cut_among_the_signatures_goes_on_as_a_new_message() {
    let scenario = start_with_queue(json!({})).await;
    let index = index();
    scenario.copy("1").await;
    let first = sign(&scenario, Signer::GitHub, &index);
    let held = sign(&scenario, Signer::Notation, &index);
    let put = format!("/manifests/{}", held.top);
    scenario.ecr.server.fault("PUT", &put, 1, Fault::Hold);
    let body = direct("1").to_string();
    scenario.sqs.send(JOB_QUEUE, "group", &body);
    let batch = scenario.sqs.batch(JOB_QUEUE, 1);
    let remaining = Duration::from_secs(4);
    let cut = scenario.function.invoke_with_deadline(&batch, remaining);
    let reply = cut.await.reply();
    assert_eq!(reply, json!({"batchItemFailures": []}));
    scenario.sqs.settle(JOB_QUEUE, &batch, &reply);
    assert_found(&scenario, DESTINATION, (Signer::GitHub, &first), &index).await;
    let messages = scenario.sqs.messages(JOB_QUEUE);
    let receives: Vec<u32> = messages.iter().map(|it| it.receive_count).collect();
    assert_eq!(receives, [0], "a new message, with all its receives");
    scenario.ecr.server.release();
    work_off(&scenario).await;
    assert_found(&scenario, DESTINATION, (Signer::Notation, &held), &index).await;
}

#[tokio::test]
async fn a_dry_run_plans_signatures_and_changes_nothing() {
    let scenario = start().await;
    let index = index();
    let signature = sign(&scenario, Signer::GitHub, &index);
    let cosign = sign(&scenario, Signer::Cosign2Signature, &index);
    let event = json!({"source": "ghcr.io/acme/api:1", "dry_run": true});
    let check = |reply: &Value| {
        assert_eq!(reply["outcome"], "planned", "{reply}");
        assert_eq!(reply["referrers"], referrers(2, 0), "{reply}");
        let plan = reply["plan"].to_string();
        assert!(plan.contains(&signature.top), "{plan}");
        assert!(plan.contains(&cosign.top), "{plan}");
    };
    check(&scenario.invoke(&event).await.reply());
    assert!(scenario.ecr.repository(DESTINATION).manifests.is_empty());
    assert_eq!(scenario.ecr.server.count("PUT", "/v2/"), 0);

    // Of an image that is there already, too.
    scenario.ecr.put_image(DESTINATION, "1", &small_image());
    check(&scenario.invoke(&event).await.reply());
    assert_missing(&scenario, DESTINATION, &signature);
}

/// With a `destination`, an event takes no wish from a rule; it may have one of its own.
#[tokio::test]
async fn a_direct_event_that_names_its_destination_asks_for_signatures_itself() {
    let scenario = start().await;
    let signature = sign(&scenario, Signer::GitHub, &index());
    let mut event = json!({"source": "ghcr.io/acme/api:1", "destination": "prod/api"});
    let reply = scenario.invoke(&event).await.reply();
    assert_eq!(reply["referrers"], referrers(0, 0), "{reply}");
    assert_missing(&scenario, DESTINATION, &signature);
    event["referrers"] = json!(true);
    let reply = scenario.invoke(&event).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    assert_eq!(reply["referrers"], referrers(1, 0), "{reply}");
    let found = (Signer::GitHub, &signature);
    assert_found(&scenario, DESTINATION, found, &index()).await;
}

/// An event that follows the rule and names a signature's own tag is understood as GitHub's event for it is.
#[tokio::test]
async fn a_direct_event_may_name_a_signatures_own_tag() {
    let scenario = start_with(json!({"destination": "prod/api:stable"})).await;
    let index = index();
    scenario.copy("1").await;
    let signature = sign(&scenario, Signer::Cosign2Signature, &index);
    let tag = Signer::Cosign2Signature.tag(&index.digest).expect("a tag");
    let reply = scenario.copy(&tag).await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    assert_eq!(reply["referrers"], referrers(1, 0), "{reply}");
    let found = (Signer::Cosign2Signature, &signature);
    assert_found(&scenario, DESTINATION, found, &index).await;
    let tags = scenario.ecr.repository(DESTINATION).tags;
    assert_eq!(tags["stable"], index.digest, "the image's own tag stays");
    assert_eq!(tags.len(), 2, "{tags:?}");
}

/// At each request, to either registry, a server fault of a moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_a_moment_at_any_request_is_overcome() {
    let index = index();
    let prepared = async || {
        let scenario = start().await;
        scenario.ecr.put_image(DESTINATION, "1", &small_image());
        let signers = [Signer::GitHub, Signer::Cosign2Signature];
        let signatures = signers.map(|signer| (signer, sign(&scenario, signer, &index)));
        (scenario, signatures)
    };
    let (scenario, _) = prepared().await;
    scenario.copy("1").await;
    let servers = |scenario: &Scenario| {
        let (ghcr, ecr) = (&scenario.ghcr, &scenario.ecr.server);
        [ghcr.server.clone(), ghcr.storage.clone(), ecr.clone()]
    };
    let counts = servers(&scenario).map(|server| server.requests().len());
    assert!(counts.iter().sum::<usize>() > 25, "{counts:?}");
    for (server, count) in counts.into_iter().enumerate() {
        for position in 0..count {
            let (scenario, signatures) = prepared().await;
            let name = format!("request {position} to server {server}");
            servers(&scenario)[server].fault_at(position, 1, Fault::html(503));
            let reply = scenario.copy("1").await;
            assert_eq!(reply["referrers"], referrers(2, 0), "{name}: {reply}");
            for (signer, signature) in &signatures {
                assert_found(&scenario, DESTINATION, (*signer, signature), &index).await;
            }
        }
    }
}

#[tokio::test]
async fn entries_that_clean_up_has_deleted_are_named_and_stop_nothing() {
    let scenario = start().await;
    let index = index();
    let gone = sign(&scenario, Signer::Notation, &index);
    let signature = sign(&scenario, Signer::GitHub, &index);
    scenario.ghcr.delete_manifest(REPOSITORY, &gone.top);
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    assert_eq!(reply["referrers"], referrers(1, 0), "{reply}");
    let warnings = warnings(&reply);
    assert!(warnings[0].contains(&gone.top), "{warnings:?}");
    let found = (Signer::GitHub, &signature);
    assert_found(&scenario, DESTINATION, found, &index).await;
}

#[tokio::test]
async fn an_index_of_referrers_can_lie_and_nothing_but_referrers_is_copied() {
    let scenario = start().await;
    let index = index();
    // Something else than a referrer, a referrer of something else, and other bytes than the digest says.
    let other = Image::single(&[Blob::bytes("no referrer")]);
    let of_other = Signer::Notation.sign(other.top_manifest());
    let signed = Signer::Notation.sign(&index);
    let damaged = signed.clone().with_manifest_bytes(
        &signed.top,
        r#"{"schemaVersion":2,"layers":[],"config":{}}"#,
    );
    let good = Signer::GitHub.sign(&index);
    for image in [&other, &of_other, &damaged, &good] {
        scenario.ghcr.put_untagged(REPOSITORY, image);
    }
    let mut entries: Vec<Value> = [&other.top, &of_other.top, &signed.top, &good.top]
        .iter()
        .map(|digest| json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": 7}))
        .collect();
    entries.push(json!({"digest": "sha512:00", "size": 7}));
    // Its own image, and the index itself as far as that is possible.
    entries.push(json!({"mediaType": OCI_INDEX, "digest": index.digest, "size": 7}));
    scenario
        .ghcr
        .put_fallback(REPOSITORY, &index.digest, &entries);
    // A circle: what refers to the image is said to be referred to by the image.
    let back = json!({"mediaType": OCI_INDEX, "digest": index.digest, "size": 7});
    scenario
        .ghcr
        .put_fallback(REPOSITORY, &good.top, std::slice::from_ref(&back));
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    assert_eq!(reply["referrers"], referrers(1, 3), "{reply}");
    let warnings = warnings(&reply).join("\n");
    for expected in [
        "it has no subject",
        &format!("its subject is {}", other.top),
        "entries have no digest",
        &signed.top,
    ] {
        assert!(warnings.contains(expected), "{expected}: {warnings}");
    }
    for image in [&other, &of_other, &signed] {
        assert_missing(&scenario, DESTINATION, image);
    }
    assert_found(&scenario, DESTINATION, (Signer::GitHub, &good), &index).await;
}

#[tokio::test]
async fn an_index_of_thousands_of_referrers_is_bounded() {
    let scenario = start().await;
    let index = index();
    let newest = sign(&scenario, Signer::GitHub, &index);
    let entry = |digest: &str| json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": 7});
    let made_up = |number: u64| entry(&Blob::bytes(number.to_string()).digest());
    let mut entries: Vec<Value> = (0..20_000).map(made_up).collect();
    entries.push(entry(&newest.top));
    scenario
        .ghcr
        .put_fallback(REPOSITORY, &index.digest, &entries);
    scenario.clear_requests();
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    assert_eq!(reply["referrers"], referrers(1, 0));
    let warnings = warnings(&reply);
    assert!(warnings.len() <= 21, "{}", warnings.len());
    let left_out = "19501 signatures and attestations are left out: at most 500";
    assert!(warnings[0].contains(left_out), "{}", warnings[0]);
    assert!(scenario.ghcr.server.requests().len() < 600);
    assert_found(&scenario, DESTINATION, (Signer::GitHub, &newest), &index).await;
    let peak = scenario.function.peak_memory_bytes();
    assert!(peak < 64 * 1024 * 1024, "{peak}");

    // One that is larger than any manifest may be.
    let entries: Vec<Value> = (0..40_000).map(made_up).collect();
    scenario
        .ghcr
        .put_fallback(REPOSITORY, &index.digest, &entries);
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "current", "{reply}");
    let warning = reply["warnings"][0].as_str().expect("a warning");
    assert!(warning.contains("more than 4194304 bytes"), "{warning}");
}

#[tokio::test]
async fn what_is_under_the_fallback_tag_and_no_index_is_a_warning() {
    let scenario = start().await;
    let index = index();
    let fallback = fallback_tag(&index.digest);
    let no_index = Image::single(&[Blob::bytes("no index")]);
    scenario.ghcr.put_image(REPOSITORY, &fallback, &no_index);
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    assert!(warnings(&reply)[0].contains("not an image index"));
    assert_missing(&scenario, DESTINATION, &no_index);
}

#[tokio::test]
async fn tags_that_can_not_be_listed_fail_the_job_only_if_that_may_pass() {
    let scenario = start().await;
    let signature = sign(&scenario, Signer::GitHub, &index());
    let list = scenario.ghcr.server.clone();
    list.fault("GET", "/tags/list", usize::MAX, Fault::html(503));
    let (kind, message) = scenario.fail("1").await;
    assert_eq!(kind, "Transient", "{message}");
    scenario.assert_stored("the image", "1", &small_image());
    list.clear_faults();
    list.fault("GET", "/tags/list", usize::MAX, Fault::html(400));
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "current", "{reply}");
    assert!(
        warnings(&reply)[0].contains("can't be looked for"),
        "{reply}"
    );
    list.clear_faults();
    let reply = scenario.copy("1").await;
    assert_eq!(reply["referrers"], referrers(1, 0), "{reply}");
    assert_missing_nowhere(&scenario, &signature);
}

fn assert_missing_nowhere(scenario: &Scenario, signature: &Image) {
    let repository = scenario.ecr.repository(DESTINATION);
    assert!(repository.manifests.contains_key(&signature.top));
}

#[tokio::test]
async fn force_heals_a_signature_whose_blob_was_deleted() {
    let scenario = start().await;
    let signature = sign(&scenario, Signer::GitHub, &index());
    scenario.copy("1").await;
    let (blob, _) = &signature.blobs[0];
    scenario.ecr.delete_blob(DESTINATION, blob);
    assert_eq!(scenario.copy("1").await["outcome"], "current");
    let mut event = direct("1");
    event["force"] = json!(true);
    let outcome = scenario.invoke(&event).await;
    assert!(matches!(outcome, Outcome::Reply(_)), "{outcome:?}");
    let found = (Signer::GitHub, &signature);
    assert_found(&scenario, DESTINATION, found, &index()).await;
}
