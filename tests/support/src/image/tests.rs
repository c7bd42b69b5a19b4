use super::*;

/// So the digest shows when a copier parses a manifest and serialises it again.
#[test]
fn serialising_a_manifest_again_changes_its_digest() {
    let image = Image::buildx(&[("linux/amd64", &[Blob::bytes("a")])]);
    assert_eq!((image.manifests.len(), image.blobs.len()), (3, 4));
    for manifest in &image.manifests {
        let value: serde_json::Value = serde_json::from_slice(&manifest.bytes).expect("JSON");
        let pretty = serde_json::to_vec_pretty(&value).expect("JSON");
        for serialised in [value.to_string().into_bytes(), pretty] {
            assert_ne!(digest(&serialised), manifest.digest);
        }
    }
}
