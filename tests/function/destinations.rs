//! One image to several destinations: the source is read once, each destination goes its own way to the end, and one that fails
//! drops out alone.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use support::deployment::image_requests;
use support::function::Outcome;
use support::http::Fault;
use support::image::{Blob, Image};

use crate::scenario::{REPOSITORY, Scenario, difference, direct, layers, small_image};

const MIB: u64 = 1024 * 1024;

/// Where the rule sends the package, in its order.
const LIST: [&str; 3] = ["prod/api", "dr/api", "eu/api"];

/// The package goes to three repositories, which exist.
async fn start(environment: &[(&str, &str)]) -> Scenario {
    let rules = json!([{"source": REPOSITORY, "destination": LIST}]).to_string();
    let mut all = vec![("RULES", rules.as_str())];
    all.extend_from_slice(environment);
    let scenario = Scenario::start_with(&all).await;
    LIST.iter()
        .for_each(|name| scenario.ecr.create_repository(name));
    scenario
}

async fn with_image() -> Scenario {
    let scenario = start(&[]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    scenario
}

fn assert_stored(scenario: &Scenario, name: &str, tag: &str, image: &Image) {
    let difference = difference(&scenario.ecr.repository(name), tag, image);
    assert_eq!(difference, None, "{name}:{tag}");
}

fn reports(reply: &Value) -> &[Value] {
    let reports = reply["reports"].as_array();
    reports.unwrap_or_else(|| panic!("several reports: {reply}"))
}

/// How often each blob was read at the source's storage.
fn reads(scenario: &Scenario) -> BTreeMap<String, usize> {
    let mut reads = BTreeMap::new();
    for request in scenario.ghcr.storage.requests() {
        let digest = request
            .path
            .split(['/', '?'])
            .find(|part| part.starts_with("sha256:"));
        *reads
            .entry(digest.expect("a digest").to_owned())
            .or_default() += 1;
    }
    reads
}

fn once(image: &Image) -> BTreeMap<String, usize> {
    let blobs = image.blobs.iter();
    blobs.map(|(digest, _)| (digest.clone(), 1)).collect()
}

/// How often a blob was committed in a repository.
fn commits(scenario: &Scenario, name: &str, digest: &str) -> usize {
    let uploads = scenario.ecr.uploads().into_iter();
    uploads
        .filter(|it| it.repository == name && it.committed.as_deref() == Some(digest))
        .count()
}

#[tokio::test]
async fn a_list_reads_the_source_once_and_reports_each_destination_in_its_order() {
    let scenario = with_image().await;
    let image = small_image();
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let (count, manifests) = (image.blobs.len(), image.manifests.len());
    for (report, name) in reports(&reply).iter().zip(LIST) {
        assert_stored(&scenario, name, "1", &image);
        let destination = format!("{}/{name}:1", scenario.ecr.server.host());
        assert_eq!(report["destination"], destination);
        assert_eq!(report["outcome"], "copied");
        assert_eq!(report["digest"], image.top);
        assert_eq!(
            report["blobs"],
            json!({"copied": count, "mounted": 0, "present": 0})
        );
        assert_eq!(
            report["bytes"],
            json!({"copied": image.blob_bytes(), "present": 0})
        );
        assert_eq!(
            report["manifests"],
            json!({"pushed": manifests, "present": 0})
        );
        let requests = scenario.ecr.server.count("*", &format!("/v2/{name}/"));
        assert_eq!(report["requests"]["destination"], requests);
        assert_eq!(report.get("retries"), None);
    }
    assert_eq!(reports(&reply).len(), LIST.len());
    assert_eq!(reads(&scenario), once(&image), "each blob is read once");
    let ghcr = image_requests(&scenario.ghcr.server);
    let fetches = ghcr.iter().filter(|it| it.path.contains("/manifests/"));
    assert_eq!(fetches.count(), manifests, "and each manifest");

    scenario.clear_requests();
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "current");
    for report in reports(&reply) {
        assert_eq!(report["requests"], json!({"source": 1, "destination": 1}));
    }
    assert_eq!(image_requests(&scenario.ghcr.server).len(), 1);
    assert_eq!(scenario.ecr.server.requests().len(), LIST.len());
}

#[tokio::test]
async fn each_destination_is_asked_and_sent_only_what_it_may_lack() {
    let scenario = with_image().await;
    let image = small_image();
    let [_, whole, partly] = LIST;
    scenario.ecr.put_image(whole, "1", &image);
    let (_, present) = &image.blobs[0];
    scenario.ecr.put_blob(partly, present);
    let reply = scenario.copy("1").await;
    let outcomes: Vec<&Value> = reports(&reply).iter().map(|it| &it["outcome"]).collect();
    assert_eq!(outcomes, ["copied", "current", "copied"], "{reply}");
    let ecr = &scenario.ecr.server;
    assert_eq!(
        ecr.count("*", &format!("/v2/{whole}/")),
        1,
        "one look at the tag"
    );
    assert_eq!(reports(&reply)[2]["blobs"]["present"], 1);
    assert_eq!(reports(&reply)[2]["bytes"]["present"], present.length());
    assert_eq!(commits(&scenario, partly, &present.digest()), 0);
    for name in LIST {
        assert_stored(&scenario, name, "1", &image);
    }
    assert_eq!(reads(&scenario), once(&image));
}

#[tokio::test]
async fn a_direct_event_names_a_list() {
    let scenario = Scenario::with_image("1").await;
    scenario.ecr.create_repository("dr/api");
    let mut event = direct("1");
    let registry = scenario.ecr.server.host();
    event["destination"] = json!([
        "prod/api:first",
        format!("{registry}/dr/api"),
        "prod/api:second"
    ]);
    let reply = scenario.invoke(&event).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    for (report, reference) in
        reports(&reply)
            .iter()
            .zip(["prod/api:first", "dr/api:1", "prod/api:second"])
    {
        assert_eq!(report["destination"], format!("{registry}/{reference}"));
    }
    let image = small_image();
    for (name, tag) in [
        ("prod/api", "first"),
        ("dr/api", "1"),
        ("prod/api", "second"),
    ] {
        assert_stored(&scenario, name, tag, &image);
    }
    assert_eq!(reads(&scenario), once(&image));
    for (digest, _) in &image.blobs {
        assert_eq!(
            commits(&scenario, "prod/api", digest),
            1,
            "two tags of one repository"
        );
    }
}

/// Denied at any step, or not there at all: the others arrive, with one read of the source.
#[tokio::test]
async fn a_destination_that_fails_for_good_drops_out_alone() {
    let [first, failing, last] = LIST;
    let denied = || Fault::Status {
        status: 403,
        headers: vec![],
        body:
            json!({"errors": [{"code": "DENIED", "message": "not authorized to perform: ecr:x"}]})
                .to_string(),
    };
    let steps = [
        ("HEAD", "manifests/1"),
        ("HEAD", "blobs/"),
        ("POST", "blobs/uploads/"),
        ("PUT", "blobs/uploads/"),
        ("PUT", "manifests/sha256:"),
        ("PUT", "manifests/1"),
    ];
    for step in steps.map(Some).into_iter().chain([None]) {
        let scenario = with_image().await;
        let kind = match step {
            Some((method, path)) => {
                let path = format!("/v2/{failing}/{path}");
                scenario
                    .ecr
                    .server
                    .fault(method, &path, usize::MAX, denied());
                // A refused look is asked again by GET, which says why.
                if path.ends_with("manifests/1") {
                    scenario
                        .ecr
                        .server
                        .fault("GET", &path, usize::MAX, denied());
                }
                "Denied"
            }
            None => {
                scenario.ecr.delete_repository(failing);
                "NotFound"
            }
        };
        let (error_kind, message) = scenario.fail("1").await;
        assert_eq!(error_kind, kind, "{step:?}: {message}");
        assert!(message.contains(failing), "{step:?}: {message}");
        for name in [first, last] {
            assert_stored(&scenario, name, "1", &small_image());
        }
        if step.is_some() {
            let tags = scenario.ecr.repository(failing).tags;
            assert!(tags.is_empty(), "{step:?}: {tags:?}");
        }
        assert_eq!(reads(&scenario), once(&small_image()), "{step:?}");
    }
}

/// What passes is overcome: the destination that failed is tried again alone, and nobody else is sent anything twice.
#[tokio::test]
async fn a_destination_that_fails_for_a_moment_is_tried_again_alone_and_arrives() {
    let [first, failing, last] = LIST;
    let image = small_image();
    let largest = image.blobs.iter().max_by_key(|(_, blob)| blob.length());
    // A digest in a query is encoded.
    let largest = largest.expect("a blob").0.trim_start_matches("sha256:");
    let status = || Fault::Status {
        status: 500,
        headers: vec![],
        body: String::new(),
    };
    let cases = [
        ("HEAD", "manifests/1", status()),
        ("HEAD", "blobs/", status()),
        ("POST", "blobs/uploads/", status()),
        ("PUT", largest, status()),
        ("PUT", largest, Fault::DropRequestAfter(100_000)),
        ("PUT", largest, Fault::DropReply),
        ("PUT", "manifests/sha256:", status()),
        ("PUT", "manifests/1", status()),
    ];
    for (method, path, fault) in cases {
        let scenario = with_image().await;
        let name = format!("{method} {path} {fault:?}");
        let at = match path == largest {
            // The path of an upload begins with its repository, and ends with the digest.
            true => path.to_owned(),
            false => format!("/v2/{failing}/{path}"),
        };
        scenario.ecr.server.fault(method, &at, 1, fault);
        let reply = scenario.copy("1").await;
        assert_eq!(reply["outcome"], "copied", "{name}: {reply}");
        for repository in LIST {
            assert_stored(&scenario, repository, "1", &image);
            for (digest, _) in &image.blobs {
                assert_eq!(commits(&scenario, repository, digest), 1, "{name}");
            }
        }
        let retries: Vec<u64> = reports(&reply)
            .iter()
            .map(|report| report["retries"].as_u64().unwrap_or(0))
            .collect();
        assert_eq!(retries.iter().sum::<u64>(), 1, "{name}: {retries:?}");
        if path != largest {
            assert_eq!(retries, [0, 1, 0], "{name}: only its own report says so");
        }
        let _ = (first, last);
    }
}

/// A fault of the source is nobody's own: all destinations are tried again together, with one more read.
#[tokio::test]
async fn a_source_that_fails_is_read_again_once_for_all() {
    let scenario = with_image().await;
    let image = small_image();
    let (digest, _) = &image.blobs[0];
    let fault = Fault::Status {
        status: 500,
        headers: vec![],
        body: String::new(),
    };
    scenario.ghcr.storage.fault("GET", digest, 1, fault);
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let mut expected = once(&image);
    expected.insert(digest.clone(), 2);
    assert_eq!(reads(&scenario), expected);
}

/// One destination takes no byte of any upload. The others have their tags long before anybody gives it up, and are reported as
/// copied although the deadline cuts the rest.
#[tokio::test]
async fn a_destination_that_stands_still_keeps_nothing_from_the_others() {
    let scenario = start(&[]).await;
    let [a, b, _] = layers();
    let image = Image::single(&[a, b]);
    scenario.push(REPOSITORY, "1", &image);
    let [first, stalled, last] = LIST;
    // The sessions' paths hold the repository.
    let path = format!("/v2/{stalled}/blobs/uploads/");
    scenario
        .ecr
        .server
        .fault("PUT", &path, usize::MAX, Fault::Hold);
    let deadline = Duration::from_secs(6);
    let outcome = scenario.copy_within("1", deadline);
    let (kind, message) = outcome.await.error();
    assert_eq!(kind, "Deadline", "{message}");
    for name in [first, last] {
        assert_stored(&scenario, name, "1", &image);
        assert_reported(&scenario, name, "copied");
    }
    assert!(scenario.ecr.repository(stalled).tags.is_empty());
    assert_reported(&scenario, stalled, "deferred");

    scenario.ecr.server.release();
    let reply = scenario.copy("1").await;
    let outcomes: Vec<&Value> = reports(&reply).iter().map(|it| &it["outcome"]).collect();
    assert_eq!(outcomes, ["current", "copied", "current"]);
    assert_stored(&scenario, stalled, "1", &image);
}

/// The log has a report with this outcome for the destination.
fn assert_reported(scenario: &Scenario, name: &str, outcome: &str) {
    let log = scenario.function.log().replace('\\', "");
    let is_it = |line: &&str| {
        line.contains(&format!(r#""outcome":"{outcome}""#)) && line.contains(&format!("/{name}:1"))
    };
    assert!(
        log.lines().any(|line| is_it(&line)),
        "{name} {outcome}: {log}"
    );
}

/// More blobs than may be on their way at once: one destination that stands still is left behind after its first uploads are given
/// up, and does not take the others' turns again.
#[tokio::test]
async fn a_destination_that_stands_still_is_left_behind() {
    let scenario = start(&[("BLOB_CONCURRENCY", "2")]).await;
    let layers: Vec<Blob> = (1..=12)
        .map(|seed| Blob::pseudorandom(seed, 1000 + seed))
        .collect();
    let image = Image::single(&layers);
    scenario.push(REPOSITORY, "1", &image);
    let [first, stalled, last] = LIST;
    let path = format!("/v2/{stalled}/blobs/uploads/");
    scenario
        .ecr
        .server
        .fault("PUT", &path, usize::MAX, Fault::Hold);
    let event = direct("1");
    let copy = scenario
        .function
        .invoke_with_deadline(&event, Duration::from_secs(300));
    let others = async {
        for name in [first, last] {
            let path = format!("/v2/{name}/manifests/1");
            scenario.ecr.server.wait_for("PUT", &path).await;
        }
        // Six blobs at most were begun with it: two together, and one at a time alone.
        assert!(scenario.ecr.server.count("PUT", &path) <= 6);
        scenario.ecr.server.release();
    };
    let (outcome, ()) = tokio::join!(copy, others);
    assert_eq!(outcome.reply()["outcome"], "copied");
    for name in LIST {
        assert_stored(&scenario, name, "1", &image);
    }
}

/// A destination that refuses an upload at once, and reads no more of it, holds up nobody who still takes bytes.
#[tokio::test]
async fn an_upload_that_is_refused_early_does_not_hold_the_read() {
    let scenario = start(&[]).await;
    let image = Image::single(&[Blob::pseudorandom(1, 32 * MIB)]);
    scenario.push(REPOSITORY, "1", &image);
    let [first, failing, last] = LIST;
    let path = format!("/v2/{failing}/blobs/uploads/");
    scenario
        .ecr
        .server
        .fault("PUT", &path, usize::MAX, Fault::ResetRequestAfter(1));
    let deadline = Duration::from_secs(30);
    let outcome = scenario.copy_within("1", deadline);
    let (kind, message) = outcome.await.error();
    assert_eq!(kind, "Transient", "{message}");
    for name in [first, last] {
        assert_stored(&scenario, name, "1", &image);
    }
}

/// The slowest sets the pace: what it does not take waits at the source, not in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_destination_sets_the_pace_within_the_memory_bound() {
    let scenario = start(&[]).await;
    let layer = Blob::pseudorandom(1, 96 * MIB);
    let image = Image::single(std::slice::from_ref(&layer));
    scenario.push(REPOSITORY, "1", &image);
    let digest = layer.digest();
    let [_, slow, _] = LIST;
    let ecr = &scenario.ecr;
    let before = scenario.function.memory_bytes();
    let path = format!("/v2/{slow}/blobs/uploads/");
    ecr.server.fault("PUT", &path, 2, Fault::Hold);
    let (reply, ()) = tokio::join!(scenario.copy("1"), async {
        ecr.server.wait_for("PUT", &path).await;
        // Until the others get no more bytes.
        let received = || -> u64 {
            let uploads = ecr.uploads().into_iter();
            uploads.map(|upload| upload.received_bytes).sum()
        };
        let mut last = (received(), 0);
        while last.0 < MIB || last.1 < 10 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            last = match received() {
                now if now == last.0 => (now, last.1 + 1),
                now => (now, 0),
            };
        }
        let taken = received();
        assert!(
            taken < 2 * 48 * MIB,
            "{taken} bytes were taken by the others"
        );
        ecr.server.release();
    });
    assert_eq!(reply["outcome"], "copied", "{reply}");
    for name in LIST {
        assert_stored(&scenario, name, "1", &image);
    }
    assert_eq!(reads(&scenario)[&digest], 1);
    let peak = scenario.function.peak_memory_bytes();
    println!(
        "peak memory with a slow destination of three: {:.1} MiB",
        peak as f64 / MIB as f64
    );
    assert!(peak < 64 * MIB, "{peak} bytes, {before} before");
}

/// What is done when the deadline comes stays done at every destination, and the next invocation sends only the rest.
#[tokio::test]
async fn the_deadline_cuts_all_and_progress_is_kept() {
    let scenario = start(&[("BLOB_CONCURRENCY", "1")]).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let smallest = image.blobs.iter().min_by_key(|(_, blob)| blob.length());
    let (smallest, _) = smallest.expect("a blob");
    let encoded = smallest.trim_start_matches("sha256:");
    scenario.ecr.server.fault("PUT", encoded, 3, Fault::Hold);
    let deadline = Duration::from_secs(5);
    let outcome = scenario.copy_within("1", deadline);
    let (kind, message) = outcome.await.error();
    assert_eq!(kind, "Deadline", "{message}");
    for name in LIST {
        assert_reported(&scenario, name, "deferred");
        assert!(scenario.ecr.repository(name).tags.is_empty());
    }
    scenario.ecr.server.clear_faults();
    scenario.ecr.server.release();
    scenario.clear_requests();
    let reply = scenario.copy("1").await;
    for (report, name) in reports(&reply).iter().zip(LIST) {
        assert_eq!(report["blobs"]["copied"], 1, "{name}: {reply}");
        assert_stored(&scenario, name, "1", &image);
    }
    assert_eq!(reads(&scenario), BTreeMap::from([(smallest.clone(), 1)]));
}

/// What several tags of one event have in common goes once into each repository.
#[tokio::test]
async fn blobs_that_tags_share_are_sent_once_to_each_repository() {
    let scenario = start(&[]).await;
    let [shared, other, _] = layers();
    let tags: Vec<String> = (1..=4).map(|number| format!("t{number}")).collect();
    let images: Vec<Image> = (20..)
        .zip(&tags)
        .map(|(seed, _)| {
            let own = Blob::pseudorandom(seed, 5000);
            Image::single(&[shared.clone(), other.clone(), own])
        })
        .collect();
    for (tag, image) in tags.iter().zip(&images) {
        scenario.push(REPOSITORY, tag, image);
    }
    let event = json!({"image": format!("ghcr.io/{REPOSITORY}"), "tags": tags});
    let reply = scenario.invoke(&event).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    assert_eq!(reports(&reply).len(), tags.len() * LIST.len());
    for name in LIST {
        for (tag, image) in tags.iter().zip(&images) {
            assert_stored(&scenario, name, tag, image);
            for (digest, _) in &image.blobs {
                assert_eq!(commits(&scenario, name, digest), 1, "{name} {digest}");
            }
        }
    }
    for (digest, count) in reads(&scenario) {
        assert_eq!(count, 1, "{digest}");
    }
}

/// A part that vanished from one destination is sent there again, and to nobody else.
#[tokio::test]
async fn a_part_that_vanishes_from_one_destination_is_sent_there_alone() {
    let scenario = with_image().await;
    let image = small_image();
    let [_, losing, _] = LIST;
    let (lost, _) = &image.blobs[0];
    let ecr = &scenario.ecr;
    let path = format!("/v2/{losing}/manifests/");
    ecr.server.fault("PUT", &path, 100, Fault::Hold);
    let (reply, ()) = tokio::join!(scenario.copy("1"), async {
        ecr.server.wait_for("PUT", &path).await;
        while commits(&scenario, losing, lost) == 0 {
            tokio::task::yield_now().await;
        }
        ecr.delete_blob(losing, lost);
        ecr.server.release();
    });
    assert_eq!(reply["outcome"], "copied", "{reply}");
    for name in LIST {
        assert_stored(&scenario, name, "1", &image);
        let expected = if name == losing { 2 } else { 1 };
        assert_eq!(commits(&scenario, name, lost), expected, "{name}");
    }
}

/// A child that only one destination lacks, and that is gone at the source, is that destination's failure alone.
#[tokio::test]
async fn what_the_source_lost_fails_only_those_that_need_it() {
    let scenario = start(&[]).await;
    let [a, b, _] = layers();
    let lost = Image::of_platform("linux/amd64", &[a]);
    let other = Image::of_platform("linux/arm64", &[b]);
    let index = Image::index(vec![
        lost.clone().on("linux/amd64"),
        other.on("linux/arm64"),
    ]);
    scenario.push(REPOSITORY, "1", &index.clone().without(&lost.top));
    let [first, needing, last] = LIST;
    for name in [first, last] {
        scenario.ecr.put_untagged(name, &lost);
    }
    let (kind, message) = scenario.fail("1").await;
    assert_eq!(kind, "NotFound", "{message}");
    assert!(message.contains(&lost.top), "{message}");
    for name in [first, last] {
        assert_stored(&scenario, name, "1", &index);
    }
    assert!(scenario.ecr.repository(needing).tags.is_empty());
}

/// A queue's message with a list: a job that failed at one destination is received again, and only that one is left to do.
#[tokio::test]
async fn what_failed_at_one_destination_is_all_that_the_next_receive_does() {
    let scenario = with_image().await;
    let [_, failing, _] = LIST;
    let path = format!("/v2/{failing}/manifests/1");
    let fault = Fault::Status {
        status: 500,
        headers: vec![],
        body: String::new(),
    };
    scenario.ecr.server.fault("PUT", &path, 5, fault);
    let outcome = scenario.invoke(&direct("1")).await;
    assert!(matches!(outcome, Outcome::Error { .. }), "{outcome:?}");
    scenario.clear_requests();
    let reply = scenario.copy("1").await;
    let outcomes: Vec<&Value> = reports(&reply).iter().map(|it| &it["outcome"]).collect();
    assert_eq!(outcomes, ["current", "copied", "current"], "{reply}");
    assert_eq!(reads(&scenario), BTreeMap::new());
}
