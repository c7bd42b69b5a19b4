//! What does not count, each with the sentence that says why.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use support::ghcr::Ghcr;
use support::image::Blob;
use support::sigstore::{Attestation, Authority, IMAGE_SIGNATURE, Key, flipped};

use super::{attested, put_bundle, put_signatures, refused, requiring};
use crate::scenario::{Image, REPOSITORY, Scenario, small_image};

/// A part of a bundle that proves something.
const ENTRY: &str = "/verificationMaterial/tlogEntries/0";

fn without(mut bundle: Value, parent: &str, name: &str) -> Value {
    let parent = bundle.pointer_mut(parent).and_then(Value::as_object_mut);
    let removed = parent.expect("an object").remove(name);
    assert!(removed.is_some(), "the bundle has no {name}");
    bundle
}

/// Who signed is as required in each: only what proves it is wrong.
#[tokio::test]
async fn every_proof_that_is_changed_or_missing_is_refused() {
    let (with_log, with_timestamps) = (Authority::new(), Authority::without_log());
    let hour_ago = || SystemTime::now() - Duration::from_secs(60 * 60);
    let recorded = |top: &str, at: SystemTime| Attestation {
        signed_at: hour_ago(),
        recorded_at: Some(at),
        ..Attestation::of(top)
    };
    let (early, late) = (Duration::from_secs(60), Duration::from_secs(11 * 60));
    let of_log = |top: &str| with_log.attest(&Attestation::of(top));
    let of_timestamp = |top: &str| with_timestamps.attest(&Attestation::of(top));
    let entry = |name: &str| format!("{ENTRY}/{name}");
    type Make<'a> = Box<dyn Fn(&str) -> Value + 'a>;
    let cases: Vec<(&str, &Authority, Make<'_>, &str)> = vec![
        (
            "a changed promise of the log",
            &with_log,
            Box::new(|top| {
                let promise = entry("inclusionPromise/signedEntryTimestamp");
                flipped(&of_log(top), &promise)
            }),
            "no trusted root vouches for it",
        ),
        (
            "a changed proof of inclusion",
            &with_log,
            Box::new(|top| flipped(&of_log(top), &entry("inclusionProof/hashes/0"))),
            "inclusion proof",
        ),
        (
            "a changed checkpoint",
            &with_log,
            Box::new(|top| flipped(&of_log(top), &entry("inclusionProof/checkpoint/envelope"))),
            "checkpoint",
        ),
        (
            "a changed entry",
            &with_log,
            Box::new(|top| flipped(&of_log(top), &entry("canonicalizedBody"))),
            "",
        ),
        (
            "no entry of the log",
            &with_log,
            Box::new(|top| without(of_log(top), "/verificationMaterial", "tlogEntries")),
            "",
        ),
        (
            "no proof of inclusion",
            &with_log,
            Box::new(|top| without(of_log(top), ENTRY, "inclusionProof")),
            "inclusion proof",
        ),
        (
            "the entry of another attestation",
            &with_log,
            Box::new(|top| {
                let mut bundle = of_log(top);
                let other = of_log(top);
                bundle["verificationMaterial"]["tlogEntries"] =
                    other["verificationMaterial"]["tlogEntries"].clone();
                bundle
            }),
            "",
        ),
        (
            "a certificate that had not begun when the log took the signature",
            &with_log,
            Box::new(|top| with_log.attest(&recorded(top, hour_ago() - early))),
            "certificate",
        ),
        (
            "a certificate that had expired when the log took the signature",
            &with_log,
            Box::new(|top| with_log.attest(&recorded(top, hour_ago() + late))),
            "certificate",
        ),
        (
            "a changed certificate",
            &with_log,
            Box::new(|top| flipped(&of_log(top), "/verificationMaterial/certificate/rawBytes")),
            "",
        ),
        (
            "a changed timestamp",
            &with_timestamps,
            Box::new(|top| {
                let timestamp = "/verificationMaterial/timestampVerificationData/rfc3161Timestamps/0/signedTimestamp";
                flipped(&of_timestamp(top), timestamp)
            }),
            "timestamp",
        ),
        (
            "no timestamp",
            &with_timestamps,
            Box::new(|top| {
                without(
                    of_timestamp(top),
                    "/verificationMaterial",
                    "timestampVerificationData",
                )
            }),
            "",
        ),
        (
            "a certificate that had expired when it was timestamped",
            &with_timestamps,
            Box::new(|top| with_timestamps.attest(&recorded(top, hour_ago() + late))),
            "certificate",
        ),
        (
            "the other instance",
            &with_timestamps,
            Box::new(|top| of_log(top)),
            "no trusted root vouches for it",
        ),
    ];
    let scenarios = [
        requiring(&attested(), &with_log, false).await,
        requiring(&attested(), &with_timestamps, false).await,
    ];
    for (number, (name, authority, bundle, part)) in cases.iter().enumerate() {
        let scenario = &scenarios[usize::from(std::ptr::eq(*authority, &with_timestamps))];
        let tag = format!("t{number}");
        let image = Image::single(&[Blob::pseudorandom(number as u64, 3000)]);
        scenario.push(REPOSITORY, &tag, &image);
        put_bundle(scenario, &image, &bundle(&image.top));
        let message = refused(scenario, &tag).await;
        let (_, reason) = message.split_once("attestation of it: ").expect(&message);
        println!("{name}: {reason}");
        assert!(reason.contains(part), "{name}: {message}");
        put_bundle(
            scenario,
            &image,
            &authority.attest(&Attestation::of(&image.top)),
        );
        assert_eq!(scenario.copy(&tag).await["outcome"], "copied", "{name}");
    }
}

/// Names that are nearly the required ones.
#[tokio::test]
async fn a_workflow_is_its_file_in_its_repository_whatever_else_is_in_its_name() {
    let authority = Authority::new();
    let cases = [
        // The home of an organisation's common workflows.
        ("acme/.github", ".github/workflows/release.yml", None, true),
        ("acme/api", ".github/workflows/release.yml", None, true),
        (
            "acme/api",
            ".github/workflows/release.yml",
            Some("acme/api/.github/workflows/release.yml@b6e4ea0a1f3c2d5e8f9a7b6c5d4e3f2a1b0c9d8e"),
            true,
        ),
        (
            "acme/api",
            ".github/workflows/release.yml",
            Some("acme/api/.github/workflows/release.yml@refs/heads/a@b"),
            true,
        ),
        (
            "acme/api",
            ".github/workflows/release.yml",
            Some("acme/api/.github/workflows/release.yml@x.yml@refs/heads/main"),
            false,
        ),
        (
            "acme/api",
            ".github/workflows/release.yml",
            Some(
                "acme/api/.github/workflows/x.yml@refs/heads/.github/workflows/release.yml@refs/heads/main",
            ),
            false,
        ),
        (
            "acme/api",
            "Acme/Shared/.github/workflows/Build.yml",
            Some("acme/shared/.github/workflows/Build.yml@refs/heads/main"),
            true,
        ),
        (
            "acme/api",
            "Acme/Shared/.github/workflows/Build.yml",
            Some("acme/shared-evil/.github/workflows/Build.yml@refs/heads/main"),
            false,
        ),
        (
            "acme/api",
            "acme/.github/.github/workflows/build.yml",
            Some("acme/.github/.github/workflows/build.yml@refs/heads/main"),
            true,
        ),
    ];
    for (number, (repository, workflow, signer, is_accepted)) in cases.into_iter().enumerate() {
        let require = json!({"attestation": {"workflow": workflow}});
        let scenario = requiring(&require, &authority, false).await;
        let image = Image::single(&[Blob::pseudorandom(number as u64, 3000)]);
        scenario.push(REPOSITORY, "1", &image);
        let attestation = Attestation {
            repository: repository.to_owned(),
            signer: signer.map(str::to_owned),
            ..Attestation::of(&image.top)
        };
        put_bundle(&scenario, &image, &authority.attest(&attestation));
        match is_accepted {
            true => assert_eq!(scenario.copy("1").await["outcome"], "copied", "{number}"),
            false => {
                let message = refused(&scenario, "1").await;
                assert!(message.contains("its workflow is "), "{message}");
            }
        }
    }
}

/// An enterprise may have its name in the issuer's address; nobody else may be called nearly so.
#[tokio::test]
async fn an_enterprises_own_issuer_is_githubs() {
    let authority = Authority::new();
    let scenario = requiring(&attested(), &authority, false).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let githubs = "https://token.actions.githubusercontent.com";
    for issuer in [format!("{githubs}.evil.example"), format!("{githubs}@evil")] {
        let attestation = Attestation {
            issuer: issuer.clone(),
            ..Attestation::of(&image.top)
        };
        put_bundle(&scenario, &image, &authority.attest(&attestation));
        let message = refused(&scenario, "1").await;
        assert!(
            message.contains(&format!("its issuer is {issuer}")),
            "{message}"
        );
    }
    let attestation = Attestation {
        issuer: format!("{githubs}/acme-inc"),
        ..Attestation::of(&image.top)
    };
    put_bundle(&scenario, &image, &authority.attest(&attestation));
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
}

/// A name in a certificate without the claim that it is made of, or with another one, is no workflow's.
#[tokio::test]
async fn the_certificates_name_and_its_claims_have_to_agree() {
    let authority = Authority::new();
    let require = json!({"attestation": {"workflow": ".github/workflows/release.yml"}});
    let scenario = requiring(&require, &authority, false).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let release = "https://github.com/acme/api/.github/workflows/release.yml@refs/heads/main";
    for (claims, identity) in [
        (vec![(9, None)], None),
        (vec![], Some("https://github.com/evil/x".to_owned())),
        (
            vec![(9, Some("https://github.com/evil/x".to_owned()))],
            Some(release.to_owned()),
        ),
        (vec![(12, None)], None),
        (
            vec![(
                12,
                Some("https://github.com.evil.example/acme/api".to_owned()),
            )],
            None,
        ),
    ] {
        let attestation = Attestation {
            claims,
            identity,
            ..Attestation::of(&image.top)
        };
        put_bundle(&scenario, &image, &authority.attest(&attestation));
        refused(&scenario, "1").await;
    }
}

/// What another one has signed, as it should, moved beside this image.
#[tokio::test]
async fn real_evidence_about_something_else_is_about_another_image() {
    let predicate = "https://schemas.conda.org/attestations-publish-1.schema.json";
    let require = json!({"attestation": {"repository": "prefix-dev/*", "predicate": predicate}});
    let rules = json!([{"source": "acme/*", "destination": "prod/{name}", "require": require}]);
    let scenario = Scenario::start_with(&[("RULES", &rules.to_string())]).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let bundle = include_str!("../../payloads/sigstore/package.json");
    put_bundle(
        &scenario,
        &image,
        &serde_json::from_str(bundle).expect("JSON"),
    );
    let message = refused(&scenario, "1").await;
    assert!(
        message.contains(": it is about another image;"),
        "{message}"
    );
}

/// Foreign text is on one line, and short.
#[tokio::test]
async fn a_hostile_name_can_not_write_lines_of_its_own() {
    let authority = Authority::new();
    let scenario = requiring(&attested(), &authority, false).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let hostile = format!("x\n{{\"level\":\"INFO\"}}\r\u{1b}[31m{}", "y".repeat(5000));
    let attestation = Attestation {
        predicate_type: hostile,
        ..Attestation::of(&image.top)
    };
    put_bundle(&scenario, &image, &authority.attest(&attestation));
    let key = Key::p256();
    put_signatures(&scenario, &image, &[key.sign_payload(&image.top)]);
    let message = refused(&scenario, "1").await;
    assert!(!message.contains(char::is_control), "{message}");
    assert!(message.len() < 1500, "{message}");
}

/// A key's attestation is no attestation of GitHub's, nor is a signature of a workflow one of the key.
#[tokio::test]
async fn one_kind_of_evidence_is_not_taken_for_another() {
    let authority = Authority::new();
    let key = Key::p256();
    let image = small_image();
    let provenance = "https://slsa.dev/provenance/v1";
    for (require, bundle, part) in [
        (
            attested(),
            key.bundle(&image.top, provenance),
            "it is signed with a key, and an attestation has a certificate",
        ),
        (
            attested(),
            authority.record_key(&key, &image.top, provenance),
            "it is signed with a key, and an attestation has a certificate",
        ),
        (
            json!({"cosign_key": key.pem()}),
            authority.attest(&Attestation {
                predicate_type: IMAGE_SIGNATURE.to_owned(),
                ..Attestation::of(&image.top)
            }),
            "it is signed with a certificate, and not with a key",
        ),
    ] {
        let scenario = requiring(&require, &authority, false).await;
        scenario.push(REPOSITORY, "1", &image);
        put_bundle(&scenario, &image, &bundle);
        let message = refused(&scenario, "1").await;
        assert!(message.contains(part), "{message}");
    }
}

/// GitHub's API shows nothing of a private repository to a token without the right scope, as if nothing were there.
#[tokio::test]
async fn a_token_that_does_not_see_the_attestations_is_told_of() {
    let authority = Authority::new();
    let scenario = requiring(&attested(), &authority, false).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let bundle = authority.attest(&Attestation::of(&image.top));
    let github = &scenario.github;
    github.put_attestation("acme", "api", &image.top, &bundle);
    github.set_repository_private("acme", "api", true);
    github.set_scopes(Some("read:packages"));
    let message = refused(&scenario, "1").await;
    assert!(message.contains("the scope `repo`"), "{message}");
    assert!(message.contains("`attestations: read`"), "{message}");
    assert!(!message.contains(Ghcr::TOKEN), "{message}");
    github.set_scopes(Some("read:packages, repo"));
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
}
