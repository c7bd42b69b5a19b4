//! `DescribeImages` and `BatchDeleteImage` of the ECR API, on the images that the registries hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::ecr::{Ecr, Repository};
use crate::image::StoredManifest;

/// What was there before the test is so old.
const LONG_AGO: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Pages are small, so that a caller has to read on.
const PAGE: usize = 100;

pub(super) fn describe(registry: &Ecr, name: &str, input: &Value) -> Value {
    let repository = registry.repository(name);
    let filter = |name: &str| {
        input["filter"][name]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    // If none is named, active ones alone are returned.
    let expects_archived = filter("imageStatus") == "ARCHIVED";
    let mut images = Vec::new();
    for (digest, tags) in tags_by_digest(&repository) {
        let is_archived = repository.archived.contains(&digest);
        if is_archived == expects_archived {
            images.push(image(&repository, &digest, &tags, is_archived));
        }
    }
    let at: usize = input["nextToken"]
        .as_str()
        .map_or(0, |token| token.parse().expect("our own token"));
    let page: Vec<Value> = images.iter().skip(at).take(PAGE).cloned().collect();
    let mut output = json!({"imageDetails": page});
    if at + PAGE < images.len() {
        output["nextToken"] = json!((at + PAGE).to_string());
    }
    output
}

pub(super) fn delete(registry: &Ecr, name: &str, input: &Value) -> Value {
    let ids = input["imageIds"].as_array().cloned().unwrap_or_default();
    assert!((1..=100).contains(&ids.len()), "imageIds: 1 to 100");
    let (mut deleted, mut failures) = (Vec::new(), Vec::new());
    for id in ids {
        let tag = id["imageTag"].as_str().unwrap_or_default();
        if let Some(index) = referring(&registry.repository(name), tag) {
            failures.push(json!({
                "imageId": {"imageTag": tag},
                "failureCode": "ImageReferencedByManifestList",
                "failureReason": format!("Requested image referenced by manifest list: [{index}]"),
            }));
            continue;
        }
        match registry.delete_tag(name, tag) {
            Some(digest) => deleted.push(json!({"imageTag": tag, "imageDigest": digest})),
            None => failures.push(json!({
                "imageId": {"imageTag": tag},
                "failureCode": "ImageNotFound",
                "failureReason": "Requested image not found",
            })),
        }
    }
    json!({"imageIds": deleted, "failures": failures})
}

/// The index that keeps the image from being deleted with this tag, its last one. (ECR API reference, `ImageFailure`)
fn referring(repository: &Repository, tag: &str) -> Option<String> {
    let digest = repository.tags.get(tag)?;
    let tags = repository.tags.values().filter(|it| *it == digest);
    let refers = |(other, manifest): &(&String, &StoredManifest)| {
        *other != digest && String::from_utf8_lossy(&manifest.bytes).contains(digest.as_str())
    };
    let index = repository.manifests.iter().find(refers);
    index
        .map(|(other, _)| other.clone())
        .filter(|_| tags.count() == 1)
}

fn tags_by_digest(repository: &Repository) -> BTreeMap<String, BTreeSet<String>> {
    let mut tags: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (tag, digest) in &repository.tags {
        tags.entry(digest.clone()).or_default().insert(tag.clone());
    }
    tags
}

fn image(
    repository: &Repository,
    digest: &str,
    tags: &BTreeSet<String>,
    is_archived: bool,
) -> Value {
    let pushed_at = repository.pushed_at.get(digest).copied();
    let pushed_at = pushed_at.unwrap_or_else(|| SystemTime::now() - LONG_AGO);
    let seconds = pushed_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    json!({
        "imageDigest": digest,
        "imageTags": tags,
        "imagePushedAt": seconds.as_secs(),
        "imageStatus": if is_archived { "ARCHIVED" } else { "ACTIVE" },
    })
}
