//! Layers that a registry need not hold. Their media type says so, not their `urls`; and those that GHCR holds are copied.
//! (image-spec v1.1 layer.md, "Non-Distributable Layers"; ECR user guide, on Windows foreign layers)

use serde_json::json;
use support::image::{self, Blob, Descriptor, Image, ImageBuilder};

use crate::scenario::{DESTINATION, REPOSITORY, Scenario};

const NON_DISTRIBUTABLE: [&str; 4] = [
    image::DOCKER_FOREIGN_LAYER,
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
];

/// An image with an ordinary layer and one of this type that has `urls`.
fn with_urls(media_type: &str, layer: &Blob) -> Image {
    let descriptor = Descriptor {
        urls: vec!["https://example.com/layer".to_owned()],
        ..Descriptor::of_blob(media_type, layer)
    };
    ImageBuilder::oci()
        .layer(image::OCI_LAYER_GZIP, Blob::pseudorandom(1, 1000))
        .layer_described(descriptor)
        .build()
}

fn holds(scenario: &Scenario, layer: &Blob) -> bool {
    let stored = scenario.ecr.repository(DESTINATION);
    stored.blobs.contains_key(&layer.digest())
}

#[tokio::test]
async fn a_layer_with_urls_is_copied_like_any_other() {
    let scenario = Scenario::start().await;
    let layer = Blob::pseudorandom(2, 2000);
    for media_type in [image::OCI_LAYER_GZIP, image::DOCKER_LAYER_GZIP] {
        let image = with_urls(media_type, &layer).with_blob(&layer.digest(), layer.clone());
        scenario.push(REPOSITORY, "1", &image);
        let report = scenario.copy("1").await;
        assert_eq!(report["outcome"], "copied", "{report}");
        assert_eq!(report["warnings"], json!([]));
        scenario.assert_stored(media_type, "1", &image);
        assert!(holds(&scenario, &layer));
    }
}

/// It is not left out in silence, nor with a tag that nobody can pull.
#[tokio::test]
async fn an_ordinary_layer_with_urls_that_the_source_does_not_hold_fails_the_copy() {
    let scenario = Scenario::start().await;
    let layer = Blob::pseudorandom(2, 2000);
    scenario.push(REPOSITORY, "1", &with_urls(image::OCI_LAYER_GZIP, &layer));
    let (kind, message) = scenario.fail("1").await;
    assert_eq!(kind, "NotFound", "{message}");
    assert!(message.contains(&layer.digest()), "{message}");
    scenario.assert_untouched("missing", "1");
}

#[tokio::test]
async fn a_non_distributable_layer_that_the_source_holds_is_copied() {
    for media_type in NON_DISTRIBUTABLE {
        let scenario = Scenario::start().await;
        let layer = Blob::pseudorandom(2, 2000);
        let image = with_urls(media_type, &layer).with_blob(&layer.digest(), layer.clone());
        scenario.push(REPOSITORY, "1", &image);
        let report = scenario.copy("1").await;
        assert_eq!(report["outcome"], "copied", "{media_type}: {report}");
        assert_eq!(report["warnings"], json!([]), "{media_type}");
        assert_eq!(report["blobs"]["copied"], image.blobs.len());
        scenario.assert_stored(media_type, "1", &image);
        assert!(holds(&scenario, &layer), "{media_type}");
    }
}

/// ECR takes the manifest without it, and whoever pulls fetches it from its own URLs.
#[tokio::test]
async fn a_non_distributable_layer_that_the_source_does_not_hold_is_left_out_with_a_warning() {
    for media_type in NON_DISTRIBUTABLE {
        let scenario = Scenario::start().await;
        let layer = Blob::pseudorandom(2, 2000);
        let image = with_urls(media_type, &layer);
        scenario.push(REPOSITORY, "1", &image);
        let report = scenario.copy("1").await;
        assert_eq!(report["outcome"], "copied", "{media_type}: {report}");
        let warnings = report["warnings"].as_array().expect("warnings");
        let [warning] = warnings.as_slice() else {
            panic!("one warning: {warnings:?}")
        };
        let warning = warning.as_str().unwrap_or_default();
        assert!(warning.contains("1 foreign layer"), "{warning}");
        assert!(
            warning.contains("the source registry does not hold"),
            "{warning}"
        );
        scenario.assert_stored(media_type, "1", &image);
        assert_eq!(scenario.copy("1").await["outcome"], "current");
    }
}

/// What the destination has already is not asked for at the source.
#[tokio::test]
async fn a_non_distributable_layer_that_the_destination_has_is_no_warning() {
    let scenario = Scenario::start().await;
    let layer = Blob::pseudorandom(2, 2000);
    let image = with_urls(image::DOCKER_FOREIGN_LAYER, &layer);
    scenario.push(REPOSITORY, "1", &image);
    scenario.ecr.put_blob(DESTINATION, &layer);
    let report = scenario.copy("1").await;
    assert_eq!(report["outcome"], "copied", "{report}");
    assert_eq!(report["warnings"], json!([]));
    assert_eq!(scenario.ghcr.server.count("*", &layer.digest()), 0);
}
