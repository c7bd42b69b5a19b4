use std::ops::Range;

use super::*;

fn json(image: &Image) -> serde_json::Value {
    serde_json::from_slice(&image.top_manifest().bytes).unwrap()
}

fn read(blob: &Blob, range: Range<u64>) -> Vec<u8> {
    blob.chunks(range)
        .flat_map(|chunk| chunk.to_vec())
        .collect()
}

#[test]
fn digests_are_sha256() {
    let of_nothing = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(digest(b""), of_nothing);
    assert_eq!(Blob::bytes("").digest(), of_nothing);
    assert_eq!(Blob::pseudorandom(1, 0).digest(), of_nothing);
}

#[test]
fn pseudorandom_bytes_are_the_same_however_they_are_read() {
    const BLOCK: u64 = 1 << 20;
    let length = 2 * BLOCK + 4099;
    let blob = Blob::pseudorandom(7, length);
    let whole = read(&blob, 0..length);
    assert_eq!(
        (whole.len() as u64, digest(&whole)),
        (length, blob.digest())
    );
    for range in [
        0..1,
        5..5,
        3..4097,
        BLOCK - 1..BLOCK + 1,
        BLOCK..2 * BLOCK,
        9..length,
        length - 1..length,
    ] {
        assert_eq!(
            read(&blob, range.clone()),
            whole[range.start as usize..range.end as usize],
            "{range:?}"
        );
    }
    assert_ne!(whole[..4096], whole[BLOCK as usize..BLOCK as usize + 4096]);
    assert_ne!(blob.digest(), Blob::pseudorandom(8, length).digest());
}

#[test]
fn serialising_a_manifest_again_changes_its_digest() {
    let image = Image::buildx(&[
        ("linux/amd64", &[Blob::bytes("a")]),
        ("linux/arm64/v8", &[Blob::bytes("b")]),
    ]);
    for manifest in &image.manifests {
        let value: serde_json::Value = serde_json::from_slice(&manifest.bytes).unwrap();
        assert_eq!(value["mediaType"], manifest.media_type);
        assert_eq!(digest(&manifest.bytes), manifest.digest);
        assert_ne!(digest(value.to_string().as_bytes()), manifest.digest);
        assert_ne!(
            digest(serde_json::to_string_pretty(&value).unwrap().as_bytes()),
            manifest.digest
        );
    }
}

#[test]
fn a_buildx_index_lists_images_and_then_their_attestations() {
    let image = Image::buildx(&[
        ("linux/amd64", &[Blob::bytes("a")]),
        ("linux/arm64", &[Blob::bytes("b")]),
    ]);
    let index = json(&image);
    let entries = index["manifests"].as_array().unwrap();
    let architectures: Vec<_> = entries
        .iter()
        .map(|entry| &entry["platform"]["architecture"])
        .collect();
    assert_eq!(architectures, ["amd64", "arm64", "unknown", "unknown"]);
    for (image, attestation) in [(0, 2), (1, 3)] {
        assert_eq!(
            entries[attestation]["annotations"]["vnd.docker.reference.digest"],
            entries[image]["digest"]
        );
        assert_eq!(
            entries[attestation]["annotations"]["vnd.docker.reference.type"],
            "attestation-manifest"
        );
    }
    assert_eq!((image.manifests.len(), image.blobs.len()), (5, 8));
    assert_eq!(image.manifests.last().unwrap().digest, image.top);
}

#[test]
fn equal_parts_are_stored_once_and_listed_each_time() {
    let child = Image::docker(&[Blob::bytes("same"), Blob::bytes("same")]);
    assert_eq!(
        (
            json(&child)["layers"].as_array().unwrap().len(),
            child.blobs.len()
        ),
        (2, 2)
    );
    let list = Image::docker_list(vec![
        child.clone().on("linux/amd64"),
        child.on("linux/arm/v7"),
    ]);
    assert_eq!(
        (
            json(&list)["manifests"].as_array().unwrap().len(),
            list.manifests.len()
        ),
        (2, 2)
    );
    assert_eq!(json(&list)["manifests"][1]["platform"]["variant"], "v7");
}

#[test]
fn indexes_nest() {
    let inner = Image::index(vec![Image::single(&[Blob::bytes("a")]).on("linux/amd64")]);
    let outer = Image::index(vec![inner.clone().into()]);
    assert_eq!(json(&outer)["manifests"][0]["mediaType"], OCI_INDEX);
    assert_eq!(outer.manifests.len(), 3);
    assert_eq!(outer.manifests[1].digest, inner.top);
}

#[test]
fn artifacts_have_an_empty_config_and_a_subject() {
    let image = Image::single(&[Blob::bytes("a")]);
    let signature = ImageBuilder::artifact("application/vnd.example.signature")
        .layer("application/octet-stream", Blob::bytes("signed"))
        .subject(&image)
        .annotation("quote", "\"")
        .build();
    let manifest = json(&signature);
    assert_eq!(manifest["config"]["digest"], digest(b"{}"));
    assert_eq!(manifest["config"]["mediaType"], OCI_EMPTY);
    assert_eq!(manifest["subject"]["digest"], image.top);
    assert_eq!(manifest["annotations"]["quote"], "\"");
}

#[test]
fn images_can_be_broken_on_purpose() {
    let foreign = Descriptor {
        urls: vec!["https://example.com/layer".into()],
        ..Descriptor::of_blob(DOCKER_FOREIGN_LAYER, &Blob::bytes("elsewhere"))
    };
    let image = ImageBuilder::docker()
        .layer_described(foreign.clone())
        .build();
    assert_eq!(
        json(&image)["layers"][0]["urls"][0],
        "https://example.com/layer"
    );
    assert_eq!(image.blobs.len(), 1);

    let rewritten = image.clone().rewritten("\"size\": 9", "\"size\": 8");
    assert_eq!(json(&rewritten)["layers"][0]["size"], 8);
    assert_ne!(rewritten.top, image.top);

    let lying = image
        .clone()
        .with_manifest_bytes(&image.top, "{}")
        .with_blob(&foreign.digest, Blob::bytes("x"));
    assert_eq!(&lying.top_manifest().bytes[..], b"{}");
    assert_eq!(lying.blobs.len(), 2);
    assert!(lying.without(&image.top).manifests.is_empty());
}
