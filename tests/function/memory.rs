//! Memory for images whose manifests are large: it is bounded for the process, not for the image. Content is bounded by how it
//! streams (see `measurements`); manifests are held until they are pushed.

use std::time::Duration;

use serde_json::json;
use support::function::Function;
use support::image::{self, Blob, Child, Descriptor, Image, ImageBuilder};

use crate::scenario::{REPOSITORY, Scenario, direct};

const MIB: u64 = 1024 * 1024;

fn assert_small(name: &str, function: &Function) {
    let peak = function.peak_memory_bytes();
    println!("peak memory, {name}: {:.1} MiB", peak as f64 / MIB as f64);
    assert!(peak < 64 * MIB, "{name}: {peak} bytes");
}

/// An index of four manifests that list `layers` layers in all, of which `distinct` are different. None of them exists.
fn many_layers(layers: u64, distinct: u64) -> Image {
    let children = (0..4).map(|child| {
        let config = Blob::bytes(format!(r#"{{"child":{child}}}"#));
        let config = Descriptor::of_blob(image::OCI_CONFIG, &config);
        let numbers = (0..layers / 4).map(|number| (child * layers / 4 + number) % distinct);
        let listed: Vec<Descriptor> = numbers
            .map(|number| Descriptor {
                media_type: "application/x".to_owned(),
                digest: format!("sha256:{number:064x}"),
                size: 1,
                ..Descriptor::default()
            })
            .collect();
        Child::from(Image::manifest_of(image::OCI_MANIFEST, &config, &listed))
    });
    Image::index(children.collect())
}

/// Manifests of 13 MiB together, in an index of four, with little else.
fn thirteen_mebibytes(seed: u64) -> Image {
    let children = (0..4).map(|child| {
        let padding = format!("{seed}{child}").repeat(13 * MIB as usize / 4 / 2);
        let builder = ImageBuilder::oci().annotation("padding", &padding);
        let layer = Blob::pseudorandom(seed, 1000);
        Child::from(builder.layer(image::OCI_LAYER_GZIP, layer).build())
    });
    Image::index(children.collect())
}

/// The looks at the layers come within the deadline or not; memory is the same.
async fn looks_at(name: &str, image: &Image, deadline: Duration) {
    let scenario = Scenario::start().await;
    scenario.push(REPOSITORY, "1", image);
    for dry_run in [true, false] {
        let mut event = direct("1");
        event["dry_run"] = json!(dry_run);
        let outcome = scenario.function.invoke_with_deadline(&event, deadline);
        let outcome = outcome.await;
        let name = format!("{name}, dry run: {dry_run}");
        match dry_run {
            true => {
                let report = outcome.reply();
                assert_eq!(report["outcome"], "planned", "{name}: {report}");
                let blobs = image_blobs(image);
                assert_eq!(report["blobs"]["copied"], blobs, "{name}");
                assert_eq!(report["manifests"]["pushed"], 5, "{name}");
            }
            // The layers don't exist.
            false => assert_eq!(outcome.error().0, "NotFound", "{name}"),
        }
        assert_small(&name, &scenario.function);
    }
    scenario.assert_untouched(name, "1");
}

/// Different digests that the manifests of an index refer to.
fn image_blobs(image: &Image) -> usize {
    let mut digests = std::collections::BTreeSet::new();
    for manifest in &image.manifests {
        let text = std::str::from_utf8(&manifest.bytes).expect("JSON");
        let digests_of = text.split('"').filter(|it| it.starts_with("sha256:"));
        digests.extend(digests_of.map(str::to_owned));
    }
    digests.len() - (image.manifests.len() - 1)
}

#[tokio::test]
async fn an_index_that_lists_120_000_layers_passes_through_little_memory() {
    let image = many_layers(120_000, 2_000);
    looks_at("120,000 layers", &image, Duration::from_secs(120)).await;
}

/// As above, with each layer another one. To ask for each takes two minutes, as ECR answers a thousand in a second.
#[tokio::test]
#[ignore = "takes five minutes"]
async fn an_index_of_120_000_different_layers_passes_through_little_memory() {
    let image = many_layers(120_000, 120_000);
    looks_at("120,000 different layers", &image, Duration::from_secs(600)).await;
}

#[tokio::test]
async fn eight_tags_of_13_mib_of_manifests_each_pass_through_little_memory() {
    let scenario = Scenario::start().await;
    let tags: Vec<String> = (1..=8).map(|number| number.to_string()).collect();
    let images: Vec<Image> = (1..=8).map(thirteen_mebibytes).collect();
    for (tag, image) in tags.iter().zip(&images) {
        scenario.push(REPOSITORY, tag, image);
    }
    let event = json!({"image": format!("ghcr.io/{REPOSITORY}"), "tags": tags});
    let outcome = scenario
        .function
        .invoke_with_deadline(&event, Duration::from_secs(120));
    let reply = outcome.await.reply();
    assert_eq!(reply["outcome"], "copied", "{}", reply["outcome"]);
    for (tag, image) in tags.iter().zip(&images) {
        scenario.assert_stored(tag, tag, image);
    }
    assert_small("eight tags of 13 MiB", &scenario.function);
}

/// The same to three destinations: manifests are held once for all of them.
#[tokio::test]
async fn large_manifests_are_held_once_for_all_destinations() {
    let scenario = Scenario::start().await;
    let image = thirteen_mebibytes(1);
    scenario.push(REPOSITORY, "1", &image);
    let names = ["prod/api", "dr/api", "eu/api"];
    for name in names {
        scenario.ecr.create_repository(name);
    }
    let mut event = direct("1");
    event["destination"] = json!(names);
    let reply = scenario.invoke(&event).await.reply();
    assert_eq!(reply["outcome"], "copied");
    for name in names {
        let stored = scenario.ecr.repository(name);
        assert_eq!(
            crate::scenario::difference(&stored, "1", &image),
            None,
            "{name}"
        );
    }
    assert_small("13 MiB to three destinations", &scenario.function);
}
