//! Much evidence, large, or malformed: anybody who may push can add to what is there.

use serde_json::{Value, json};
use support::http::Fault;
use support::image::Blob;
use support::sigstore::{Attestation, Authority, Key, PROVENANCE};

use super::{attested, put_bundle, refused, requiring};
use crate::scenario::{Image, REPOSITORY, Scenario, small_image};

const MIB: usize = 1024 * 1024;

/// As many are looked at in each place.
const LOOKED_AT: usize = 100;

fn assert_small(scenario: &Scenario) {
    let peak = scenario.function.peak_memory_bytes();
    println!("peak memory: {:.1} MiB", peak as f64 / MIB as f64);
    assert!(peak < 64 * MIB as u64, "{peak} bytes");
}

/// No bundle, of so many bytes.
fn padded(bytes: usize) -> Value {
    json!({"padding": "x".repeat(bytes)})
}

#[tokio::test]
async fn a_hundred_large_bundles_at_github_are_held_one_at_a_time() {
    let authority = Authority::new();
    let scenario = requiring(&attested(), &authority, false).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let put = |bundle: &Value| {
        let github = &scenario.github;
        github.put_attestation("acme", "api", &image.top, bundle);
    };
    let large = padded(MIB - 100);
    for _ in 0..LOOKED_AT + 20 {
        put(&large);
    }
    let message = refused(&scenario, "1").await;
    assert!(message.contains("it is no Sigstore bundle: "), "{message}");
    assert!(message.contains("(100 times)"), "{message}");
    let part = "GitHub lists more than the 100 that were looked at";
    assert!(message.contains(part), "{message}");
    assert_eq!(scenario.github.storage.count("GET", "/"), LOOKED_AT);
    assert_small(&scenario);
}

/// What comes after the one that counts is not even read.
#[tokio::test]
async fn the_first_that_counts_is_enough() {
    let authority = Authority::new();
    let scenario = requiring(&attested(), &authority, false).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let bundle = authority.attest(&Attestation::of(&image.top));
    for _ in 0..10 {
        let github = &scenario.github;
        github.put_attestation("acme", "api", &image.top, &bundle);
    }
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
    assert_eq!(scenario.github.storage.count("GET", "/"), 1);
}

/// One that can't be read keeps no good one from counting.
#[tokio::test]
async fn what_github_has_stored_wrongly_does_not_count_and_is_told() {
    let authority = Authority::new();
    let scenario = requiring(&attested(), &authority, false).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let bundle = authority.attest(&Attestation::of(&image.top));
    let (github, storage) = (&scenario.github, &scenario.github.storage);
    // Little to transfer, and much when it is decompressed.
    github.put_attestation("acme", "api", &image.top, &padded(64 * MIB));
    let message = refused(&scenario, "1").await;
    assert!(
        message.contains("a bundle has more than 1048576 bytes"),
        "{message}"
    );
    github.put_attestation("acme", "api", &image.top, &bundle);
    for (fault, part) in [
        (Fault::Truncate(100), "a bundle can't be decompressed"),
        (Fault::html(404), "GitHub's storage of bundles answers 404"),
    ] {
        storage.fault("GET", "/", usize::MAX, fault);
        let message = refused(&scenario, "1").await;
        assert!(message.contains(part), "{message}");
        assert!(!message.contains("sig="), "{message}");
        storage.clear_faults();
    }
    // The newest is the first of the list.
    storage.fault("GET", "/", 1, Fault::html(404));
    github.put_attestation("acme", "api", &image.top, &bundle);
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
    assert_small(&scenario);
}

#[tokio::test]
async fn of_a_thousand_attestations_in_the_registry_the_newest_are_looked_at() {
    let authority = Authority::new();
    let scenario = requiring(&attested(), &authority, false).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let key = Key::p256();
    let of_key = key.bundle(&image.top, PROVENANCE).to_string();
    let other = Image::sigstore_bundle(image.top_manifest(), of_key, PROVENANCE);
    scenario.ghcr.put_referrer(REPOSITORY, &image.top, &other);
    let other = other.top_manifest();
    let entry =
        json!({"mediaType": other.media_type, "digest": other.digest, "size": other.bytes.len()});
    let ghcr = &scenario.ghcr;
    ghcr.put_fallback(REPOSITORY, &image.top, &vec![entry; 1000]);
    scenario.clear_requests();
    let message = refused(&scenario, "1").await;
    assert!(message.contains("900 more were not looked at"), "{message}");
    let part = "there are 100 signatures and attestations of it";
    assert!(message.contains(part), "{message}");
    let manifests = scenario.ghcr.server.count("GET", "/manifests/");
    println!("{manifests} manifests were read");
    assert!(manifests <= LOOKED_AT + 3, "{manifests}");
    put_bundle(
        &scenario,
        &image,
        &authority.attest(&Attestation::of(&image.top)),
    );
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
}

#[tokio::test]
async fn an_index_of_four_mebibytes_passes_through_little_memory() {
    let authority = Authority::new();
    let scenario = requiring(&attested(), &authority, false).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let entries: Vec<Value> = (0..20_000)
        .map(|number| json!({"mediaType": media_type, "digest": format!("sha256:{number:064x}"), "size": 1}))
        .collect();
    scenario.ghcr.put_fallback(REPOSITORY, &image.top, &entries);
    let message = refused(&scenario, "1").await;
    assert!(
        message.contains("19900 more were not looked at"),
        "{message}"
    );
    assert!(message.len() < 2000, "{message}");
    assert_small(&scenario);
}

/// Neither size nor shape of what somebody has pushed there keeps the good one beside it from counting.
#[tokio::test]
async fn what_is_no_bundle_is_left_alone() {
    let authority = Authority::new();
    let scenario = requiring(&attested(), &authority, false).await;
    let sound = |image: &Image| authority.attest(&Attestation::of(&image.top)).to_string();
    type Make<'a> = Box<dyn Fn(&Image) -> String + 'a>;
    let cases: Vec<(Make<'_>, &str)> = vec![
        (
            Box::new(|_| padded(MIB).to_string()),
            "at most 1048576 are read",
        ),
        (
            Box::new(|_| "[".repeat(MIB / 2)),
            "it is no Sigstore bundle",
        ),
        (Box::new(|_| String::new()), "it is no Sigstore bundle"),
        (Box::new(|_| "{}".to_owned()), "it is no Sigstore bundle"),
        (Box::new(|_| "null".to_owned()), "it is no Sigstore bundle"),
        (
            // Which of the two would count?
            Box::new(|image| sound(image).replacen('{', r#"{"dsseEnvelope": {},"#, 1)),
            "it is no Sigstore bundle",
        ),
    ];
    for (number, (bundle, part)) in cases.iter().enumerate() {
        let tag = format!("t{number}");
        let image = Image::single(&[Blob::pseudorandom(number as u64, 3000)]);
        scenario.push(REPOSITORY, &tag, &image);
        let hostile = Image::sigstore_bundle(image.top_manifest(), bundle(&image), PROVENANCE);
        scenario.ghcr.put_referrer(REPOSITORY, &image.top, &hostile);
        let message = refused(&scenario, &tag).await;
        assert!(message.contains(part), "{number}: {message}");
        put_bundle(
            &scenario,
            &image,
            &authority.attest(&Attestation::of(&image.top)),
        );
        assert_eq!(scenario.copy(&tag).await["outcome"], "copied", "{number}");
    }
}
