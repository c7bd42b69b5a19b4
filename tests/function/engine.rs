//! What the engine does when several troubles meet: a tag that moves while the destination asks for patience, destinations that
//! differ in what they lack, and what a failed copy leaves to the next one.

use std::time::Duration;

use serde_json::{Value, json};
use support::function::Outcome;
use support::http::Fault;
use support::image::{self, Blob, Child, Descriptor, Image, ImageBuilder};

use crate::scenario::{DESTINATION, REPOSITORY, Scenario, difference, direct, layers, small_image};

/// Where the rule sends the package, in its order.
const LIST: [&str; 3] = ["prod/api", "dr/api", "eu/api"];

/// The package goes to three repositories, which exist.
async fn start_with_list(environment: &[(&str, &str)]) -> Scenario {
    let rules = json!([{"source": REPOSITORY, "destination": LIST}]).to_string();
    let mut all = vec![("RULES", rules.as_str())];
    all.extend_from_slice(environment);
    let scenario = Scenario::start_with(&all).await;
    LIST.iter()
        .for_each(|name| scenario.ecr.create_repository(name));
    scenario
}

fn forced(tag: &str) -> Value {
    let mut event = direct(tag);
    event["force"] = json!(true);
    event
}

fn status(status: u16) -> Fault {
    Fault::Status {
        status,
        headers: vec![],
        body: String::new(),
    }
}

fn part_missing() -> Fault {
    Fault::Status {
        status: 404,
        headers: vec![],
        body: json!({"errors": [{"code": "BLOB_UNKNOWN", "message": "blob unknown"}]}).to_string(),
    }
}

fn reports(reply: &Value) -> &[Value] {
    let reports = reply["reports"].as_array();
    reports.unwrap_or_else(|| panic!("several reports: {reply}"))
}

/// The destination asks for patience when the tag is to be written, and meanwhile another copy writes the newer image: what was
/// true of the source's tag before that wait is no reason to write it afterwards.
#[tokio::test]
async fn a_tag_does_not_move_back_although_its_push_had_to_wait() {
    let scenario = Scenario::start().await;
    let [a, b, _] = layers();
    let (old, new) = (Image::single(&[a]), Image::single(&[b]));
    scenario.push(REPOSITORY, "latest", &old);
    let server = &scenario.ecr.server;
    let patience = Fault::Status {
        status: 429,
        headers: vec![("retry-after".to_owned(), "3".to_owned())],
        body: String::new(),
    };
    server.fault("PUT", "/manifests/latest", 1, patience);
    let (reply, ()) = tokio::join!(scenario.copy("latest"), async {
        server.wait_for("PUT", "/manifests/latest").await;
        scenario.push(REPOSITORY, "latest", &new);
        scenario.ecr.put_image(DESTINATION, "latest", &new);
    });
    let writes = scenario.ecr.tag_writes().into_iter();
    let is_old = |digest: &String| *digest == old.top;
    assert!(
        !writes
            .map(|write| write.digest)
            .any(|digest| is_old(&digest)),
        "{reply}"
    );
    scenario.assert_stored("the newer image", "latest", &new);
}

/// The same, where the wait is this process's own: a hundred manifests of another image have their turn before the tag.
#[tokio::test]
async fn a_tag_does_not_move_back_although_it_waited_for_its_turn() {
    let scenario = Scenario::start().await;
    let children: Vec<Child> = (1..=60)
        .map(|seed| Image::single(&[Blob::pseudorandom(seed, 100)]).into())
        .collect();
    let index = Image::index(children);
    for (_, blob) in &index.blobs {
        scenario.ecr.put_blob(DESTINATION, blob);
    }
    let [a, b, _] = layers();
    let (old, new) = (Image::single(&[a]), Image::single(&[b]));
    scenario.push(REPOSITORY, "index", &index);
    scenario.push(REPOSITORY, "latest", &old);
    let server = &scenario.ecr.server;
    server.fault("PUT", "/blobs/uploads/", 2, Fault::Hold);
    let event = json!({"image": format!("ghcr.io/{REPOSITORY}"), "tags": ["index", "latest"]});
    let (outcome, ()) = tokio::join!(scenario.invoke(&event), async {
        // All children ask for a turn at once, so the others are in line when these have had theirs.
        while server.count("PUT", "/manifests/sha256:") < 10 {
            tokio::task::yield_now().await;
        }
        while server.count("PUT", "/blobs/uploads/") < 2 {
            tokio::task::yield_now().await;
        }
        server.release();
        let committed = || {
            let uploads = scenario.ecr.uploads().into_iter();
            uploads.filter(|upload| upload.committed.is_some()).count()
        };
        while committed() < 2 {
            tokio::task::yield_now().await;
        }
        // What comes next for the old image is its tag.
        while server.count("PUT", "/manifests/sha256:") < 15 {
            tokio::task::yield_now().await;
        }
        scenario.push(REPOSITORY, "latest", &new);
        scenario.ecr.put_image(DESTINATION, "latest", &new);
    });
    let writes = scenario.ecr.tag_writes();
    assert!(
        !writes.iter().any(|write| write.digest == old.top),
        "{outcome:?}"
    );
    scenario.assert_stored("the newer image", "latest", &new);
}

/// The event's digest is not what the tag has. The warning is as true after a second look as after the first.
#[tokio::test]
async fn a_second_look_does_not_lose_the_warning_about_the_announced_digest() {
    let scenario = Scenario::with_image("1").await;
    let other = Image::single(&[Blob::bytes("another image")]).top;
    let ecr = &scenario.ecr.server;
    ecr.fault("PUT", "/manifests/1", 1, part_missing());
    let event = json!({"source": format!("ghcr.io/{REPOSITORY}:1@{other}")});
    let report = scenario.invoke(&event).await.reply();
    assert_eq!(report["outcome"], "copied", "{report}");
    assert!(report["warnings"].to_string().contains(&other), "{report}");
}

/// The top manifest is there once, however often it is looked at.
#[tokio::test]
async fn a_second_look_does_not_count_the_top_manifest_again() {
    let scenario = Scenario::with_image("1").await;
    let image = small_image();
    scenario.ecr.put_image(DESTINATION, "1", &image);
    let child = &image.manifests[0].digest;
    scenario.ecr.delete_manifest(DESTINATION, child);
    let path = format!("/manifests/{child}");
    scenario.ecr.server.fault("PUT", &path, 1, part_missing());
    let report = scenario.invoke(&forced("1")).await.reply();
    assert_eq!(report["outcome"], "copied", "{report}");
    let present = image.manifests.len() - 1;
    assert_eq!(
        report["manifests"],
        json!({"pushed": 1, "present": present})
    );
}

/// Clean-up has deleted a child at the source. A destination that has it is healed, as it would be alone, although another one of
/// the list lacks the child.
#[tokio::test]
async fn force_heals_a_destination_although_another_one_lacks_what_the_source_lost() {
    let scenario = start_with_list(&[]).await;
    let [a, b, _] = layers();
    let old = Image::of_platform("linux/amd64", &[a]);
    let new = Image::of_platform("linux/arm64", &[b]);
    let index = Image::index(vec![old.clone().on("linux/amd64"), new.on("linux/arm64")]);
    scenario.push(REPOSITORY, "1", &index.clone().without(&old.top));
    let [_, damaged, _] = LIST;
    scenario.ecr.put_image(damaged, "1", &index);
    scenario.ecr.delete_blob(damaged, &old.blobs[0].0);
    let outcome = scenario.invoke(&forced("1")).await;
    let repository = scenario.ecr.repository(damaged);
    assert_eq!(difference(&repository, "1", &index), None, "{outcome:?}");
}

/// Two destinations fail at the same blob, and both are tried again: both reports say so.
#[tokio::test]
async fn each_destination_that_is_tried_again_says_so() {
    let scenario = start_with_list(&[("BLOB_CONCURRENCY", "1")]).await;
    let [a, _, _] = layers();
    scenario.push(REPOSITORY, "1", &Image::single(&[a]));
    let [first, second, _] = LIST;
    for name in [first, second] {
        let path = format!("/v2/{name}/blobs/uploads/");
        scenario.ecr.server.fault("POST", &path, 1, status(500));
    }
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let retries: Vec<u64> = reports(&reply)
        .iter()
        .map(|report| report["retries"].as_u64().unwrap_or(0))
        .collect();
    assert_eq!(retries, [1, 1, 0], "{reply}");
}

/// One destination does not answer when it is asked what it has. The others need not wait for it.
#[tokio::test]
async fn a_destination_that_does_not_say_what_it_has_keeps_nothing_from_the_others() {
    let mut held_up = Vec::new();
    for path in ["manifests/1", "manifests/sha256:", "blobs/"] {
        let scenario = start_with_list(&[]).await;
        let image = small_image();
        scenario.push(REPOSITORY, "1", &image);
        let [first, silent, last] = LIST;
        let at = format!("/v2/{silent}/{path}");
        let ecr = &scenario.ecr.server;
        ecr.fault("HEAD", &at, usize::MAX, Fault::Hold);
        scenario.copy_within("1", Duration::from_secs(6)).await;
        for name in [first, last] {
            let repository = scenario.ecr.repository(name);
            if difference(&repository, "1", &image).is_some() {
                held_up.push((path, name));
            }
        }
    }
    assert_eq!(held_up, []);
}

/// A foreign layer that the source does not hold is left out where it is missing. A destination that has it needs no warning.
#[tokio::test]
async fn a_foreign_layer_is_a_warning_only_where_it_is_left_out() {
    let scenario = start_with_list(&[]).await;
    let layer = Blob::pseudorandom(2, 2000);
    let image = ImageBuilder::oci()
        .layer(image::OCI_LAYER_GZIP, Blob::pseudorandom(1, 1000))
        .layer_described(Descriptor {
            urls: vec!["https://example.com/layer".to_owned()],
            ..Descriptor::of_blob(image::DOCKER_FOREIGN_LAYER, &layer)
        })
        .build();
    scenario.push(REPOSITORY, "1", &image);
    let [_, having, _] = LIST;
    scenario.ecr.put_blob(having, &layer);
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let warnings: Vec<usize> = reports(&reply)
        .iter()
        .map(|report| report["warnings"].as_array().map_or(0, Vec::len))
        .collect();
    assert_eq!(warnings, [1, 0, 1], "{reply}");
}

/// A blob is an ordinary layer of one image and a foreign one of another, and the source does not hold it: the ordinary one is
/// missing at the source, and nothing vanished from the destination.
#[tokio::test]
async fn a_layer_that_is_foreign_elsewhere_is_missed_where_it_is_ordinary() {
    let layer = Blob::pseudorandom(2, 2000);
    let image_with = |media_type, seed| {
        ImageBuilder::oci()
            .layer(image::OCI_LAYER_GZIP, Blob::pseudorandom(seed, 1000))
            .layer_described(Descriptor::of_blob(media_type, &layer))
            .build()
    };
    let foreign = image_with(image::DOCKER_FOREIGN_LAYER, 10);
    let ordinary = image_with(image::OCI_LAYER_GZIP, 11);
    for children in [
        [foreign.clone(), ordinary.clone()],
        [ordinary.clone(), foreign.clone()],
    ] {
        let scenario = Scenario::start().await;
        let index = Image::index(children.map(Child::from).into_iter().collect());
        scenario.push(REPOSITORY, "1", &index);
        let (kind, message) = scenario.fail("1").await;
        assert_eq!(kind, "NotFound", "{message}");
        assert!(message.contains(&layer.digest()), "{message}");
        scenario.assert_untouched("missing", "1");
    }
}

/// However the indexes are met: a short way to each of them does not shorten the long one. Thousands of such levels would end the
/// process, as a plan is made by recursion.
#[tokio::test]
async fn indexes_that_nest_deeply_are_refused_although_the_top_lists_each() {
    let [a, _, _] = layers();
    let mut nested = vec![Image::single(&[a])];
    for _ in 0..12 {
        let inner = nested.last().expect("an image").clone();
        nested.push(Image::index(vec![Child::from(inner)]));
    }
    let inmost_last = nested.iter().rev().cloned().collect();
    for images in [nested, inmost_last] {
        let scenario = Scenario::start().await;
        let top = Image::index(images.into_iter().map(Child::from).collect());
        scenario.push(REPOSITORY, "1", &top);
        let (kind, message) = scenario.fail("1").await;
        assert_eq!(kind, "Invalid", "{message}");
        assert!(message.contains("nest deeper than"), "{message}");
        scenario.assert_untouched("nested", "1");
    }
}

/// A copy that was overtaken has sent a layer that the new image has, too. It was sent by this copy, and so was not there before.
#[tokio::test]
async fn what_an_overtaken_copy_sent_is_not_counted_as_found() {
    let scenario = Scenario::start().await;
    let [shared, b, c] = layers();
    let old = Image::single(&[shared.clone(), b]);
    let new = Image::single(&[shared, c]);
    scenario.push(REPOSITORY, "latest", &old);
    let server = &scenario.ecr.server;
    let patience = Fault::Status {
        status: 429,
        headers: vec![("retry-after".to_owned(), "3".to_owned())],
        body: String::new(),
    };
    server.fault("POST", "/blobs/uploads/", 3, patience);
    let (report, ()) = tokio::join!(scenario.copy("latest"), async {
        server.wait_for("POST", "/blobs/uploads/").await;
        scenario.push(REPOSITORY, "latest", &new);
    });
    assert_eq!(report["digest"], new.top, "{report}");
    assert_eq!(report["blobs"]["present"], 0, "{report}");
}

/// A hundred manifests wait for their turn within ECR's quota when the copy fails. What they no longer need is not kept from the
/// next copy in the same process.
#[tokio::test]
async fn a_failed_copy_leaves_its_turns_to_the_next_one() {
    let scenario = Scenario::start().await;
    let children: Vec<Child> = (1..=100)
        .map(|seed| Image::single(&[Blob::pseudorandom(seed, 100)]).into())
        .collect();
    let index = Image::index(children);
    for (_, blob) in &index.blobs {
        scenario.ecr.put_blob(DESTINATION, blob);
    }
    scenario.push(REPOSITORY, "1", &index);
    scenario.push(REPOSITORY, "2", &Image::single(&[Blob::bytes("small")]));
    let ecr = &scenario.ecr.server;
    ecr.fault("PUT", "/manifests/sha256:", 1, status(403));
    let (kind, message) = scenario.fail("1").await;
    assert_eq!(kind, "Denied", "{message}");
    let outcome = scenario.copy_within("2", Duration::from_secs(7)).await;
    assert!(
        matches!(&outcome, Outcome::Reply(report) if report["outcome"] == "copied"),
        "{outcome:?}"
    );
}
