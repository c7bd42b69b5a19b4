//! Copies that are cut off, and connections that break: what is done stays done, and the tag never stands for half an image.

use std::time::Duration;

use serde_json::json;
use support::function::Outcome;
use support::ghcr::RangeAnswer;
use support::http::Fault;
use support::image::Blob;

use crate::scenario::{Image, REPOSITORY, Scenario, direct, layers, small_image};

/// Killed while one blob is on its way and the others are done; the next invocation sends only that one.
#[tokio::test]
async fn a_killed_copy_goes_on_with_what_is_missing() {
    let mut scenario = Scenario::start_with(&[("BLOB_CONCURRENCY", "1")]).await;
    let image = small_image();
    scenario.ghcr.put_image(REPOSITORY, "1", &image);
    // With one blob in flight at a time, and the largest first, all others are done when the smallest is sent.
    let (last, _) = image
        .blobs
        .iter()
        .min_by_key(|(_, blob)| blob.length())
        .expect("blobs");
    let encoded = last.trim_start_matches("sha256:");
    scenario.ecr.server.fault("PUT", encoded, 1, Fault::Hold);
    let event = direct("1");
    let (outcome, ()) = tokio::join!(scenario.invoke(&event), async {
        scenario.ecr.server.wait_for("PUT", encoded).await;
        scenario.function.kill().await;
    });
    assert!(matches!(outcome, Outcome::Exited { .. }), "{outcome:?}");
    scenario.assert_untouched("killed", "1");
    scenario.ecr.server.clear_faults();
    scenario.clear_requests();

    scenario.restart_with(&[]).await;
    let report = scenario.copy("1").await;
    assert_eq!(report["outcome"], "copied");
    assert_eq!(report["blobs"]["copied"], 1);
    assert_eq!(scenario.ecr.server.count("PUT", "/blobs/uploads/"), 1);
    scenario.assert_stored("continued", "1", &image);
    assert!(
        scenario
            .ecr
            .tag_writes()
            .iter()
            .all(|write| write.missing.is_empty())
    );
}

/// Killed before the top manifest: all blobs and children are there, and only the tag is written.
#[tokio::test]
async fn a_copy_that_lacks_its_tag_only_gets_the_tag() {
    let mut scenario = Scenario::with_image("1").await;
    scenario
        .ecr
        .server
        .fault("PUT", "/manifests/1", 1, Fault::Hold);
    let event = direct("1");
    tokio::join!(scenario.invoke(&event), async {
        scenario.ecr.server.wait_for("PUT", "/manifests/1").await;
        scenario.function.kill().await;
    });
    scenario.assert_untouched("killed", "1");
    scenario.ecr.server.clear_faults();
    scenario.restart_with(&[]).await;
    let report = scenario.copy("1").await;
    let children = small_image().manifests.len() - 1;
    assert_eq!(
        report["manifests"],
        json!({"pushed": 1, "present": children})
    );
    assert_eq!(report["blobs"]["copied"], 0);
    scenario.assert_stored("tagged", "1", &small_image());
}

/// The function answers before Lambda's deadline, and the next invocation resumes.
#[tokio::test]
async fn a_deadline_defers_the_copy() {
    let scenario = Scenario::with_image("1").await;
    scenario
        .ecr
        .server
        .fault("PUT", "/manifests/1", 1, Fault::Hold);
    let outcome = scenario
        .function
        .invoke_with_deadline(&direct("1"), Duration::from_secs(4))
        .await;
    let (kind, message) = outcome.error();
    assert_eq!(kind, "Deadline");
    assert!(
        message.contains("the next invocation resumes from there"),
        "{message}"
    );
    assert!(scenario.function.log().contains("deferred"));
    scenario.assert_untouched("deferred", "1");
    scenario.ecr.server.release();
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
    scenario.assert_stored("continued", "1", &small_image());
}

/// How long a config of a few bytes takes says nothing of a layer: what is larger is begun all the same.
#[tokio::test]
async fn small_blobs_do_not_make_a_large_one_look_too_slow_to_begin() {
    let scenario = Scenario::start_with(&[("BLOB_CONCURRENCY", "1")]).await;
    let [_, _, little] = layers();
    let large = Image::single(&[Blob::pseudorandom(1, 20_000_000)]);
    scenario.push(REPOSITORY, "small", &Image::single(&[little]));
    scenario.push(REPOSITORY, "large", &large);
    let event = json!({"image": format!("ghcr.io/{REPOSITORY}"), "tags": ["small", "large"]});
    let deadline = Duration::from_secs(20);
    let outcome = scenario.function.invoke_with_deadline(&event, deadline);
    let reply = outcome.await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    scenario.assert_stored("large", "large", &large);
}

/// Each of these happens once and is overcome in the same invocation.
#[tokio::test]
async fn passing_faults_are_overcome() {
    let status = |status: u16, body: &str| Fault::Status {
        status,
        headers: vec![],
        body: body.to_owned(),
    };
    let page = "<html>This page is taking too long to load</html>";
    let throttled = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"Rate exceeded"}]}"#;
    let hint = Fault::Status {
        status: 429,
        headers: vec![("retry-after".to_owned(), "0".to_owned())],
        body: r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"retry-after: 985.86µs, allowed: 44000/minute"}]}"#.to_owned(),
    };
    let cases = [
        ("ghcr", "GET", "/token", status(503, page)),
        ("ghcr", "GET", "/manifests/1", hint),
        (
            "ghcr",
            "GET",
            "/manifests/sha256:",
            Fault::DropBodyAfter(10),
        ),
        ("ghcr", "GET", "/blobs/", status(502, "")),
        ("storage", "GET", "/", Fault::DropBodyAfter(5)),
        ("storage", "GET", "/", Fault::CorruptByte(3)),
        (
            "storage",
            "GET",
            "/",
            status(403, "<Error><Code>AuthenticationFailed</Code></Error>"),
        ),
        ("ecr", "HEAD", "/manifests/1", status(500, "")),
        ("ecr", "HEAD", "/blobs/", status(429, "")),
        ("ecr", "POST", "/blobs/uploads/", status(429, throttled)),
        ("ecr", "PUT", "/blobs/uploads/", Fault::DropRequestAfter(1)),
        ("ecr", "PUT", "/blobs/uploads/", Fault::DropReply),
        ("ecr", "PUT", "/blobs/uploads/", status(500, "")),
        ("ecr", "PUT", "/manifests/sha256:", status(429, throttled)),
        ("ecr", "PUT", "/manifests/1", Fault::DropReply),
    ];
    for (side, method, path, fault) in cases {
        let scenario = Scenario::with_image("1").await;
        let server = match side {
            "ghcr" => &scenario.ghcr.server,
            "storage" => &scenario.ghcr.storage,
            _ => &scenario.ecr.server,
        };
        let name = format!("{side} {method} {path} {fault:?}");
        server.fault(method, path, 1, fault);
        assert_eq!(scenario.copy("1").await["outcome"], "copied", "{name}");
        scenario.assert_stored(&name, "1", &small_image());
    }
}

/// When a source breaks off in mid-blob, the read is resumed where it stopped, and the destination does not notice.
#[tokio::test]
async fn a_broken_source_is_read_on_into_the_same_upload() {
    for (ignores_ranges, answer) in [(false, RangeAnswer::Exact), (true, RangeAnswer::Whole)] {
        let scenario = Scenario::start().await;
        let image = Image::single(&[Blob::pseudorandom(7, 300_000)]);
        scenario.push(REPOSITORY, "1", &image);
        scenario.ghcr.set_range_answer(answer);
        let (layer, _) = image
            .blobs
            .iter()
            .max_by_key(|(_, blob)| blob.length())
            .expect("a layer");
        // From a server that ignores ranges, the first bytes come again, and break off again later.
        let ends = match ignores_ranges {
            false => [100_000, 50_000],
            true => [100_000, 150_000],
        };
        for end in ends {
            let fault = Fault::DropBodyAfter(end);
            scenario.ghcr.storage.fault("GET", layer, 1, fault);
        }
        let report = scenario.copy("1").await;
        assert_eq!(report["outcome"], "copied");
        scenario.assert_stored("read on", "1", &image);
        let reads = scenario.ghcr.storage.requests().into_iter();
        let ranges: Vec<Option<String>> = reads
            .filter(|request| request.path.contains(layer.as_str()))
            .map(|request| request.headers.get("range").cloned())
            .collect();
        let range = |text: &str| Some(text.to_owned());
        let expected = [
            None,
            range("bytes=100000-299999"),
            range("bytes=150000-299999"),
        ];
        assert_eq!(ranges, expected);
        let ecr = &scenario.ecr.server;
        assert_eq!(ecr.count("POST", "/blobs/uploads/"), image.blobs.len());
        assert_eq!(ecr.count("PUT", "/blobs/uploads/"), image.blobs.len());
        let manifest = image.manifests[0].bytes.len() as u64;
        let sent = image.blob_bytes() + manifest;
        assert_eq!(ecr.total_request_body_bytes(), sent);
    }
}

/// A fault that does not pass ends the invocation after five tries; the error names the right side, and the tag has not moved.
#[tokio::test]
async fn lasting_faults_are_reported() {
    let scenario = Scenario::start().await;
    let [a, b, _] = layers();
    let (old, new) = (Image::single(&[a]), Image::single(&[b]));
    scenario.ghcr.put_image(REPOSITORY, "1", &old);
    scenario.copy("1").await;
    scenario.ghcr.put_image(REPOSITORY, "1", &new);
    scenario
        .ghcr
        .storage
        .fault("GET", "/", 1000, Fault::DropBodyAfter(1));
    let (kind, message) = scenario.fail("1").await;
    assert_eq!(kind, "Transient");
    assert!(
        message.starts_with("source ") && message.contains("fetch blob: "),
        "{message}"
    );
    let tries = scenario
        .ghcr
        .storage
        .requests()
        .into_iter()
        .map(|request| request.path);
    assert!(tries.count() >= 5, "a fresh read for each try");
    scenario.assert_stored("as it was", "1", &old);
}

/// The tag is read back: if somebody else has written it meanwhile, the copy is not reported as a success.
#[tokio::test]
async fn a_tag_that_is_not_what_was_written_is_no_success() {
    let scenario = Scenario::with_image("1").await;
    let other = Image::single(&layers()).top;
    scenario
        .ecr
        .server
        .fault("PUT", "/manifests/1", 1, Fault::Hold);
    let (failure, ()) = tokio::join!(scenario.fail("1"), async {
        scenario.ecr.server.wait_for("PUT", "/manifests/1").await;
        let headers = vec![("docker-content-digest".to_owned(), other.clone())];
        let answer = Fault::Status {
            status: 200,
            headers,
            body: String::new(),
        };
        scenario
            .ecr
            .server
            .fault("HEAD", "/manifests/1", usize::MAX, answer);
        scenario.ecr.server.release();
    });
    let (kind, message) = failure;
    assert_eq!(kind, "Transient");
    assert!(
        message.contains(&other) && message.contains("read back after the copy"),
        "{message}"
    );
}
