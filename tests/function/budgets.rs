//! ECR's request rates: many manifests at once, and hardly any of them refused for coming too soon.

use std::time::Instant;

use serde_json::{Value, json};
use support::image::{Blob, Image};

use crate::scenario::{DESTINATION, REPOSITORY, Scenario};

/// An index of `platforms` images, each with a manifest and a layer of its own; `number` makes it another one.
fn index(number: u64, platforms: u64) -> Image {
    let children = (0..platforms).map(|position| {
        let layer = Blob::pseudorandom(100 * number + position, 500);
        Image::single(&[layer]).on("linux/amd64")
    });
    Image::index(children.collect())
}

/// One event for `tags` tags, each an index of `platforms` images: all must arrive whole. Returns how many `PutImage` were refused.
async fn throttled(scenario: &Scenario, tags: u64, platforms: u64) -> u64 {
    let images: Vec<_> = (0..tags)
        .map(|number| (format!("t{number}"), index(number, platforms)))
        .collect();
    for (tag, image) in &images {
        scenario.ghcr.put_image(REPOSITORY, tag, image);
    }
    let tags: Vec<&String> = images.iter().map(|(tag, _)| tag).collect();
    let event = json!({"image": format!("ghcr.io/{REPOSITORY}"), "tags": tags});
    let begin = Instant::now();
    let reply = scenario.invoke(&event).await.reply();
    let reports = reply["reports"].as_array().expect("a report for each tag");
    let outcomes: Vec<&Value> = reports.iter().map(|report| &report["outcome"]).collect();
    assert_eq!(outcomes, vec!["copied"; images.len()]);
    for (tag, image) in &images {
        scenario.assert_stored(tag, tag, image);
    }
    let manifests = scenario.ecr.repository(DESTINATION).manifests.len() as u64;
    assert_eq!(manifests, images.len() as u64 * (platforms + 1));
    let refused = scenario.ecr.throttled("PutImage");
    println!(
        "{manifests} PutImage in {:.1} s, {refused} more were refused",
        begin.elapsed().as_secs_f64()
    );
    refused
}

/// 110 manifests, where ECR takes ten per second.
#[tokio::test]
async fn ten_indexes_at_once_keep_within_the_quota() {
    let scenario = Scenario::start().await;
    scenario.ecr.set_default_quotas();
    let refused = throttled(&scenario, 10, 10).await;
    assert!(refused <= 10, "{refused} PutImage were refused");
    for action in [
        "BatchCheckLayerAvailability",
        "BatchGetImage",
        "CompleteLayerUpload",
        "InitiateLayerUpload",
        "UploadLayerPart",
    ] {
        let refused = scenario.ecr.throttled(action);
        assert!(refused <= 10, "{refused} {action} were refused");
    }
}

/// As when other processes of the same account use most of the quota: what is refused is no failure.
#[tokio::test]
async fn a_quota_that_others_use_too_slows_copies_down_and_fails_none() {
    let scenario = Scenario::start().await;
    scenario.ecr.set_quota("PutImage", 3);
    let refused = throttled(&scenario, 5, 4).await;
    assert!(refused > 0, "the quota was not felt");
}
