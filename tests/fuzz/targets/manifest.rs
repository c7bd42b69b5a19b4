//! A manifest as a registry sends it: the `Content-Type` in the first line, and the bytes.
#![no_main]

use std::str;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use fuzz::{assert_one_line, split_line};
use ghcr_to_ecr::manifest::{BLOB_LIMIT, MANIFEST_LIMIT, MANIFEST_MEDIA_TYPES, Manifest};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let (content_type, bytes) = split_line(input);
    let content_type = str::from_utf8(content_type).ok();
    let manifest = match Manifest::new(Bytes::copy_from_slice(bytes), content_type) {
        Ok(manifest) => manifest,
        Err(reason) => return assert_one_line(&reason),
    };
    let descriptor = manifest.descriptor();
    assert!(MANIFEST_MEDIA_TYPES.contains(&manifest.media_type));
    assert_eq!(descriptor.size, bytes.len() as u64);
    let digits = digest(&SHA256, bytes);
    let digits = digits.as_ref().iter().map(|byte| format!("{byte:02x}"));
    let digest = format!("sha256:{}", digits.collect::<String>());
    assert_eq!(descriptor.digest.to_string(), digest);

    let references = match manifest.references() {
        Ok(references) => references,
        Err(reason) => return assert_one_line(&reason),
    };
    for child in &references.manifests {
        assert!(child.size <= MANIFEST_LIMIT);
    }
    for blob in references.blobs.iter().chain(&references.foreign_layers) {
        assert!((1..=BLOB_LIMIT).contains(&blob.size));
    }
    // No descriptor is left out.
    if let Ok(fields) = serde_json::from_slice::<Value>(bytes) {
        let count = |name: &str| fields[name].as_array().map_or(0, Vec::len) as u64;
        let blobs = (references.blobs.len() + references.foreign_layers.len()) as u64;
        let is_complete = references.manifests.len() as u64 == count("manifests") && blobs == 0
            || references.manifests.is_empty() && blobs == count("layers") + 1;
        assert!(is_complete, "{references:?}");
    }
});
