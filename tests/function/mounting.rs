//! Blobs that a registry has in another repository already: mounted where it does that, and at no cost where it does not.

use std::path::Path;

use serde_json::{Value, json};
use support::deployment::{Deployment, JOB_QUEUE};
use support::http::Fault;
use support::image::Blob;

use crate::scenario::{
    BINARY, DESTINATION, Image, REPOSITORY, Scenario, difference, direct, small_image,
};

const RULES: &str = r#"[{"source":"acme/api","destination":["prod/api","dr/api"]},
                        {"source":"acme/*","destination":"prod/{name}"}]"#;

/// With a second repository, and blob mounting as the account setting says.
async fn start(is_enabled: bool) -> Scenario {
    let scenario = Scenario::start_with_queue(&[("RULES", RULES)]).await;
    for name in ["dr/api", "prod/web"] {
        scenario.ecr.create_repository(name);
    }
    scenario.ecr.set_blob_mounting(is_enabled);
    scenario
}

/// The report on a repository.
fn report(reply: &Value, repository: &str) -> Value {
    let mut reports = reply["reports"].as_array().expect("reports").iter();
    let is_on = |report: &&Value| {
        let destination = report["destination"].as_str().unwrap_or_default();
        destination.contains(&format!("/{repository}:"))
    };
    reports.find(is_on).expect("a report").clone()
}

/// POST requests that ask to mount a blob, all POST requests, and PUT requests of blobs, to a repository.
fn requests(scenario: &Scenario, repository: &str) -> (usize, usize, usize) {
    let server = &scenario.ecr.server;
    let uploads = format!("/v2/{repository}/blobs/uploads/");
    (
        server.count("POST", &format!("{uploads}?mount=")),
        server.count("POST", &uploads),
        server.count("PUT", &uploads),
    )
}

fn assert_whole(scenario: &Scenario, repository: &str, tag: &str, image: &Image) {
    let stored = scenario.ecr.repository(repository);
    assert_eq!(difference(&stored, tag, image), None, "{repository}");
}

#[tokio::test]
async fn what_another_destination_has_is_mounted() {
    let scenario = start(true).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    scenario.ecr.put_image(DESTINATION, "1", &image);
    let reply = scenario.copy("1").await;
    assert_eq!(report(&reply, DESTINATION)["outcome"], "current", "{reply}");
    let copied = report(&reply, "dr/api");
    assert_eq!(copied["outcome"], "copied", "{reply}");
    let blobs = image.blobs.len();
    assert_eq!(
        copied["blobs"],
        json!({"copied": 0, "mounted": blobs, "present": 0})
    );
    assert_eq!(copied["bytes"], json!({"copied": 0, "present": 0}));
    assert_eq!(requests(&scenario, "dr/api"), (blobs, blobs, 0));
    assert_eq!(scenario.ghcr.server.count("GET", "/blobs/"), 0);
    assert_whole(&scenario, "dr/api", "1", &image);
    let mounts = scenario.ecr.mounts();
    assert!(mounts.iter().all(|mount| mount.from == DESTINATION));
}

/// The answer to the request is the upload session that would have been asked for anyway.
#[tokio::test]
async fn a_declined_mount_costs_no_request() {
    let scenario = start(false).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    scenario.ecr.put_image(DESTINATION, "1", &image);
    let blobs = image.blobs.len();
    let reply = scenario.copy("1").await;
    let copied = report(&reply, "dr/api");
    assert_eq!(
        copied["blobs"],
        json!({"copied": blobs, "mounted": 0, "present": 0})
    );
    assert_eq!(requests(&scenario, "dr/api"), (blobs, blobs, blobs));
    assert_eq!(scenario.ghcr.server.count("GET", "/blobs/"), blobs);
    assert_whole(&scenario, "dr/api", "1", &image);
}

/// Nothing waits for what is still on its way: each blob is read once, and sent to both.
#[tokio::test]
async fn two_destinations_that_lack_a_blob_get_it_side_by_side() {
    let scenario = start(true).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let reply = scenario.copy("1").await;
    let blobs = image.blobs.len();
    for repository in [DESTINATION, "dr/api"] {
        let report = report(&reply, repository);
        assert_eq!(
            report["blobs"],
            json!({"copied": blobs, "mounted": 0, "present": 0})
        );
        assert_eq!(requests(&scenario, repository), (0, blobs, blobs));
        assert_whole(&scenario, repository, "1", &image);
    }
    assert_eq!(scenario.ghcr.server.count("GET", "/blobs/"), blobs);
}

/// ECR does not mount what no manifest refers to, what is encrypted otherwise, or what the caller may not read.
#[tokio::test]
async fn what_ecr_does_not_mount_is_sent() {
    for reason in ["uncommitted", "encryption", "permission"] {
        let scenario = start(true).await;
        let image = small_image();
        scenario.push(REPOSITORY, "1", &image);
        match reason {
            "uncommitted" => {
                for (_, blob) in &image.blobs {
                    scenario.ecr.put_blob(DESTINATION, blob);
                }
                let manifests = format!("{DESTINATION}/manifests/");
                let server = &scenario.ecr.server;
                server.fault("PUT", &manifests, 1000, Fault::Hold);
            }
            "encryption" => {
                scenario.ecr.put_image(DESTINATION, "1", &image);
                let encrypt = |settings: &mut support::ecr::Settings| {
                    settings.encryption = "KMS".to_owned();
                };
                scenario.ecr.change_settings("dr/api", encrypt);
            }
            _ => {
                scenario.ecr.put_image(DESTINATION, "1", &image);
                scenario.ecr.deny("GetDownloadUrlForLayer");
            }
        }
        let (reply, ()) = tokio::join!(scenario.copy("1"), async {
            let server = &scenario.ecr.server;
            server.wait_for("PUT", "dr/api/manifests/1").await;
            server.release();
        });
        let copied = report(&reply, "dr/api");
        let blobs = image.blobs.len();
        assert_eq!(
            copied["blobs"],
            json!({"copied": blobs, "mounted": 0, "present": 0}),
            "{reason}: {reply}"
        );
        assert_eq!(
            requests(&scenario, "dr/api"),
            (blobs, blobs, blobs),
            "{reason}"
        );
        assert_whole(&scenario, "dr/api", "1", &image);
    }
}

/// Another job of the same invocation has copied the shared layer.
#[tokio::test]
async fn what_another_job_has_brought_is_mounted() {
    let scenario = start(true).await;
    let [base, own] = [Blob::pseudorandom(1, 50_000), Blob::pseudorandom(2, 5_000)];
    let api = Image::single(std::slice::from_ref(&base));
    let web = Image::single(&[base.clone(), own]);
    scenario.push(REPOSITORY, "1", &api);
    scenario.push("acme/web", "1", &web);
    for package in ["api", "web"] {
        let body = json!({
            "source": format!("ghcr.io/acme/{package}:1"), "destination": format!("prod/{package}"),
        });
        scenario.sqs.send(JOB_QUEUE, package, &body.to_string());
    }
    let batch = scenario.sqs.batch(JOB_QUEUE, 2);
    let reply = scenario.invoke(&batch).await.reply();
    assert_eq!(reply["batchItemFailures"], json!([]), "{reply}");
    assert_whole(&scenario, DESTINATION, "1", &api);
    assert_whole(&scenario, "prod/web", "1", &web);
    let mounts = scenario.ecr.mounts();
    let [mount] = mounts.as_slice() else {
        panic!("one blob is shared: {mounts:?}")
    };
    assert_eq!(
        (
            &mount.digest,
            mount.from.as_str(),
            mount.repository.as_str()
        ),
        (&base.digest(), DESTINATION, "prod/web")
    );
    let reads = format!("/blobs/{}", base.digest());
    assert_eq!(scenario.ghcr.server.count("GET", &reads), 1);
    assert_eq!(requests(&scenario, "prod/web"), (1, 3, 2));
}

/// A registry that does not know the request is asked once, and then as it always was.
#[tokio::test]
async fn a_registry_that_refuses_to_mount_is_not_asked_again() {
    let scenario = start(true).await;
    let image = Image::single(&[Blob::pseudorandom(1, 50_000)]);
    scenario.push(REPOSITORY, "1", &image);
    scenario.push(REPOSITORY, "2", &small_image());
    for (tag, image) in [("1", &image), ("2", &small_image())] {
        scenario.ecr.put_image(DESTINATION, tag, image);
    }
    let refusal = Fault::Status {
        status: 405,
        headers: Vec::new(),
        body: r#"{"errors":[{"code":"UNSUPPORTED","message":"no"}]}"#.to_owned(),
    };
    scenario.ecr.server.fault("POST", "?mount=", 1000, refusal);
    let event = json!({"image": "ghcr.io/acme/api", "tags": ["1", "2"]});
    let reply = scenario.invoke(&event).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let (mounts, posts, puts) = requests(&scenario, "dr/api");
    let blobs = image.blobs.len() + small_image().blobs.len();
    assert_eq!((posts, puts), (blobs + mounts, blobs));
    // Those that were under way when the first refusal came, and none after it.
    assert!(mounts <= 6, "{mounts}");
    assert_whole(&scenario, "dr/api", "2", &small_image());
}

/// A mount that passes for one and brings nothing: the image is not left broken, and not mounted again.
#[tokio::test]
async fn a_blob_that_was_said_to_be_mounted_and_is_not_there_is_sent() {
    let scenario = start(true).await;
    let image = Image::single(&[Blob::pseudorandom(1, 50_000)]);
    scenario.push(REPOSITORY, "1", &image);
    scenario.ecr.put_image(DESTINATION, "1", &image);
    let mounted = Fault::Status {
        status: 201,
        headers: Vec::new(),
        body: String::new(),
    };
    scenario.ecr.server.fault("POST", "?mount=", 1000, mounted);
    let reply = scenario.copy("1").await;
    assert_eq!(report(&reply, "dr/api")["outcome"], "copied", "{reply}");
    assert_whole(&scenario, "dr/api", "1", &image);
    let blobs = image.blobs.len();
    assert_eq!(requests(&scenario, "dr/api"), (blobs, 2 * blobs, blobs));
}

#[tokio::test]
async fn a_dry_run_mounts_nothing() {
    let scenario = start(true).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    scenario.ecr.put_image(DESTINATION, "1", &image);
    let mut event = direct("1");
    event["dry_run"] = json!(true);
    scenario.invoke(&event).await.reply();
    assert_eq!(requests(&scenario, "dr/api"), (0, 0, 0));
    assert_eq!(scenario.ecr.mounts(), []);
}

/// A repository of another registry has it, which is of no use.
#[tokio::test]
async fn nothing_is_mounted_from_another_registry() {
    let host = "210987654321.dkr.ecr.us-east-1.amazonaws.com";
    let rules =
        json!([{"source": REPOSITORY, "destination": [DESTINATION, format!("{host}/dr/api")]}]);
    let settings = [("RULES", &*rules.to_string())];
    let binary = Path::new(BINARY);
    let (deployment, registries) =
        Deployment::start_with_registries(binary, &[host], &settings).await;
    let image = small_image();
    deployment.push(REPOSITORY, "1", &image);
    deployment.ecr.put_image(DESTINATION, "1", &image);
    registries[0].create_repository("dr/api");
    registries[0].set_blob_mounting(true);
    let reply = deployment.function.invoke(&direct("1")).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    assert_eq!(registries[0].server.count("POST", "?mount="), 0);
    assert_eq!(registries[0].mounts(), []);
}

/// Neither kind of request would find it.
#[tokio::test]
async fn a_missing_repository_is_not_asked_twice_for_each_blob() {
    let scenario = start(true).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    scenario.ecr.put_image(DESTINATION, "1", &image);
    scenario.ecr.delete_repository("dr/api");
    let (kind, message) = scenario.fail("1").await;
    assert_eq!(kind, "NotFound", "{message}");
    assert!(
        message.contains("create-repository --repository-name dr/api"),
        "{message}"
    );
    let (mounts, posts, _) = requests(&scenario, "dr/api");
    assert!(posts > 0 && mounts == posts, "{mounts} of {posts}");
}
