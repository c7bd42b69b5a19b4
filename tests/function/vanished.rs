//! Parts that vanish from the destination while an image is copied: ECR deletes layers that no image refers to, at a time of its
//! own, and people delete images. What vanished is sent again, and nobody is told that the repository is missing.

use serde_json::json;
use support::http::Fault;
use support::image::{Blob, Image};

use crate::scenario::{DESTINATION, REPOSITORY, Scenario, direct, layers, small_image};

fn committed(scenario: &Scenario, digest: &str) -> usize {
    let uploads = scenario.ecr.uploads().into_iter();
    let of_blob = uploads.filter(|upload| upload.committed.as_deref() == Some(digest));
    of_blob.count()
}

#[tokio::test]
async fn a_blob_that_vanishes_after_it_was_found_is_sent_after_all() {
    let scenario = Scenario::start().await;
    let [a, b, _] = layers();
    let (found, image) = (a.digest(), Image::single(&[a.clone(), b]));
    scenario.push(REPOSITORY, "1", &image);
    scenario.ecr.put_blob(DESTINATION, &a);
    let ecr = &scenario.ecr.server;
    ecr.fault("PUT", "/manifests/1", 1, Fault::Hold);
    let (report, ()) = tokio::join!(scenario.copy("1"), async {
        ecr.wait_for("PUT", "/manifests/1").await;
        scenario.ecr.delete_blob(DESTINATION, &found);
        ecr.release();
    });
    assert_eq!(report["outcome"], "copied", "{report}");
    scenario.assert_stored("sent after all", "1", &image);
    assert_eq!(committed(&scenario, &found), 1);
    assert_eq!(ecr.count("PUT", "/blobs/uploads/"), image.blobs.len());
    assert_eq!(report["blobs"]["copied"], image.blobs.len());
}

#[tokio::test]
async fn a_blob_that_vanishes_after_it_was_sent_is_sent_again() {
    let scenario = Scenario::with_image("1").await;
    let image = small_image();
    let (sent, _) = image.blobs[0].clone();
    let ecr = &scenario.ecr.server;
    // The child that refers to the blob is the first to notice.
    ecr.fault("PUT", "/manifests/", 100, Fault::Hold);
    let (report, ()) = tokio::join!(scenario.copy("1"), async {
        ecr.wait_for("PUT", "/manifests/").await;
        while committed(&scenario, &sent) == 0 {
            tokio::task::yield_now().await;
        }
        scenario.ecr.delete_blob(DESTINATION, &sent);
        ecr.release();
    });
    assert_eq!(report["outcome"], "copied", "{report}");
    scenario.assert_stored("sent again", "1", &image);
    assert_eq!(committed(&scenario, &sent), 2);
    assert_eq!(ecr.count("PUT", "/blobs/uploads/"), image.blobs.len() + 1);
    assert_eq!(report["blobs"]["copied"], image.blobs.len() + 1);
    assert_eq!(
        report["blobs"]["present"], 0,
        "what was sent is not counted as found"
    );
}

#[tokio::test]
async fn a_child_manifest_that_vanishes_is_pushed_again() {
    let scenario = Scenario::with_image("1").await;
    let image = small_image();
    let child = &image.manifests[0].digest;
    let ecr = &scenario.ecr.server;
    ecr.fault("PUT", "/manifests/1", 1, Fault::Hold);
    let (report, ()) = tokio::join!(scenario.copy("1"), async {
        ecr.wait_for("PUT", "/manifests/1").await;
        scenario.ecr.delete_manifest(DESTINATION, child);
        ecr.release();
    });
    assert_eq!(report["outcome"], "copied", "{report}");
    scenario.assert_stored("pushed again", "1", &image);
    assert_eq!(ecr.count("PUT", &format!("/manifests/{child}")), 2);
    assert_eq!(report["manifests"]["pushed"], image.manifests.len() + 1);
    assert_eq!(
        ecr.count("PUT", "/blobs/uploads/"),
        image.blobs.len(),
        "no blob again"
    );
}

/// Several tags of one event need the blob that vanished. Their common record of it does not outlive it: it is sent once more, for
/// all of them.
#[tokio::test]
async fn a_shared_blob_that_vanishes_is_sent_again_once_for_all_tags() {
    let scenario = Scenario::start().await;
    let shared = Blob::pseudorandom(1, 200_000);
    let tags = ["1", "2", "3"];
    let images: Vec<Image> = (2..)
        .zip(tags)
        .map(|(seed, _)| Image::single(&[shared.clone(), Blob::pseudorandom(seed, 1000)]))
        .collect();
    for (tag, image) in tags.iter().zip(&images) {
        scenario.push(REPOSITORY, tag, image);
    }
    let ecr = &scenario.ecr.server;
    ecr.fault("PUT", "/manifests/", 3, Fault::Hold);
    let event = json!({"image": format!("ghcr.io/{REPOSITORY}"), "tags": tags});
    let (outcome, ()) = tokio::join!(scenario.invoke(&event), async {
        for tag in tags {
            ecr.wait_for("PUT", &format!("/manifests/{tag}")).await;
        }
        scenario.ecr.delete_blob(DESTINATION, &shared.digest());
        ecr.release();
    });
    let reply = outcome.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    for (tag, image) in tags.iter().zip(&images) {
        scenario.assert_stored(tag, tag, image);
    }
    assert_eq!(committed(&scenario, &shared.digest()), 2);
}

/// In whatever words the registry says it, since neither ECR's status nor its code is documented.
#[tokio::test]
async fn a_missing_part_is_recognised_in_all_words() {
    for (status, code, message) in [
        (400, "MANIFEST_BLOB_UNKNOWN", ""),
        (404, "BLOB_UNKNOWN", "blob unknown to registry"),
        (404, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry"),
        (
            405,
            "UNSUPPORTED",
            "LayersNotFoundException: sha256:0 do not exist",
        ),
        (400, "", "ReferencedImagesNotFoundException"),
    ] {
        let scenario = Scenario::with_image("1").await;
        let fault = Fault::Status {
            status,
            headers: vec![],
            body: json!({"errors": [{"code": code, "message": message}]}).to_string(),
        };
        scenario.ecr.server.fault("PUT", "/manifests/1", 1, fault);
        assert_eq!(
            scenario.copy("1").await["outcome"],
            "copied",
            "{status} {code}"
        );
        scenario.assert_stored(code, "1", &small_image());
    }
}

/// Where looking and sending again does not help, the message says what happened, and it may pass.
#[tokio::test]
async fn a_part_that_vanishes_every_time_is_not_called_a_missing_repository() {
    let scenario = Scenario::with_image("1").await;
    let fault = Fault::Status {
        status: 404,
        headers: vec![],
        body: json!({"errors": [{"code": "BLOB_UNKNOWN", "message": "blob unknown"}]}).to_string(),
    };
    let ecr = &scenario.ecr.server;
    ecr.fault("PUT", "/manifests/1", usize::MAX, fault);
    let (kind, message) = scenario.fail("1").await;
    assert_eq!(kind, "Transient", "{message}");
    assert!(message.contains("BLOB_UNKNOWN"), "{message}");
    assert!(
        message.contains("vanished from the destination"),
        "{message}"
    );
    assert!(!message.contains("create-repository"), "{message}");
    scenario.assert_untouched("vanished", "1");
    let event = direct("1");
    ecr.clear_faults();
    assert_eq!(scenario.invoke(&event).await.reply()["outcome"], "copied");
}
