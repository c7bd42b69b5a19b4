use super::*;
use crate::sigstore::{BUNDLE, IMAGE_SIGNATURE, Key};

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

#[test]
fn a_bundle_refers_to_its_image_and_a_cosign_image_has_a_layer_for_each_signature() {
    let image = Image::single(&[Blob::bytes("a")]);
    let key = Key::p256();
    let bundle = key.bundle(&image.top, IMAGE_SIGNATURE).to_string();
    let referrer = Image::sigstore_bundle(image.top_manifest(), bundle.clone(), IMAGE_SIGNATURE);
    let manifest = json_of(&referrer);
    assert_eq!(manifest["artifactType"], BUNDLE);
    assert_eq!(manifest["subject"]["digest"], image.top);
    assert_eq!(manifest["config"]["mediaType"], OCI_EMPTY);
    assert_eq!(manifest["layers"][0]["mediaType"], BUNDLE);
    assert_eq!(manifest["layers"][0]["digest"], digest(bundle.as_bytes()));

    let signatures = [key.sign_payload(&image.top), key.sign_payload(&image.top)];
    let manifest = json_of(&Image::cosign_signatures(&signatures));
    for (layer, (payload, signature)) in signatures.iter().enumerate() {
        let layer = &manifest["layers"][layer];
        let annotation = &layer["annotations"]["dev.cosignproject.cosign/signature"];
        assert_eq!(layer["digest"], digest(payload));
        assert_eq!(annotation, signature);
    }
}

fn json_of(image: &Image) -> serde_json::Value {
    serde_json::from_slice(&image.top_manifest().bytes).expect("JSON")
}
