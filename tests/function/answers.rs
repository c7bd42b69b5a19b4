//! Answers that a registry may give and hardly ever does: pages that stand still, parts of blobs that are not what was asked for,
//! and dates in place of seconds.

use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use support::ghcr::RangeAnswer;
use support::http::{Fault, Server};
use support::image::Blob;

use crate::scenario::{Image, REPOSITORY, Scenario, small_image};

/// The storage's requests for one blob.
fn reads(scenario: &Scenario, digest: &str) -> usize {
    scenario.ghcr.storage.count("GET", digest)
}

fn largest(image: &Image) -> &str {
    let largest = image.blobs.iter().max_by_key(|(_, blob)| blob.length());
    largest.map(|(digest, _)| digest).expect("a blob")
}

/// A failure's page that stands still holds nothing up: the status is known, and the blob is tried again.
#[tokio::test]
async fn an_error_page_that_stands_still_does_not_hold_the_copy() {
    let server = |scenario: &Scenario, name: &str| -> Server {
        match name {
            "ghcr" => scenario.ghcr.server.clone(),
            "storage" => scenario.ghcr.storage.clone(),
            _ => scenario.ecr.server.clone(),
        }
    };
    let cases = [
        ("ghcr", "GET", "/blobs/"),
        ("storage", "GET", "/"),
        ("ecr", "POST", "/blobs/uploads/"),
        ("ecr", "PUT", "/blobs/uploads/"),
    ];
    let copies = cases.map(async |(name, method, path)| {
        let scenario = Scenario::with_image("1").await;
        let fault = Fault::StatusThenStall {
            status: 503,
            body: "<html>".to_owned(),
        };
        server(&scenario, name).fault(method, path, 1, fault);
        let deadline = Duration::from_secs(25);
        let outcome = scenario.copy_within("1", deadline);
        let report = outcome.await.reply();
        assert_eq!(report["outcome"], "copied", "{name} {method}: {report}");
        scenario.assert_stored(name, "1", &small_image());
    });
    futures_util::future::join_all(copies).await;
}

/// Where the refusal is final, it is told by its status within seconds.
#[tokio::test]
async fn a_final_refusal_whose_page_stands_still_is_told() {
    let scenario = Scenario::with_image("1").await;
    let fault = Fault::StatusThenStall {
        status: 403,
        body: r#"{"errors":["#.to_owned(),
    };
    scenario
        .ecr
        .server
        .fault("PUT", "/blobs/uploads/", 1000, fault);
    let deadline = Duration::from_secs(25);
    let outcome = scenario.copy_within("1", deadline);
    let (kind, message) = outcome.await.error();
    assert_eq!(kind, "Denied", "{message}");
    assert!(message.contains("push blob: 403"), "{message}");
}

/// A read that broke off is resumed with a range. Whatever part of the blob the source then sends, the right bytes arrive, in the
/// upload that was begun, and none is asked for twice without need.
#[tokio::test]
async fn a_resumed_read_takes_what_the_content_range_says() {
    let cases = [
        (RangeAnswer::Exact, 2),
        // The first 100,000 bytes, and then 948,576 in parts.
        (RangeAnswer::Shorter(70_000), 1 + 14),
        (RangeAnswer::Shifted(30_000), 2),
        (RangeAnswer::Shifted(1_000_000), 2),
        (RangeAnswer::Whole, 2),
    ];
    for (answer, requests) in cases {
        let scenario = Scenario::start().await;
        let image = Image::single(&[Blob::pseudorandom(7, 1024 * 1024)]);
        let layer = largest(&image);
        scenario.push(REPOSITORY, "1", &image);
        scenario.ghcr.set_range_answer(answer);
        let fault = Fault::DropBodyAfter(100_000);
        scenario.ghcr.storage.fault("GET", layer, 1, fault);
        let report = scenario.copy("1").await;
        assert_eq!(report["outcome"], "copied", "{answer:?}: {report}");
        scenario.assert_stored(&format!("{answer:?}"), "1", &image);
        assert_eq!(reads(&scenario, layer), requests, "{answer:?}");
        let ecr = &scenario.ecr.server;
        assert_eq!(ecr.count("PUT", "/blobs/uploads/"), image.blobs.len());
        assert_eq!(report["blobs"]["copied"], image.blobs.len());
    }
}

/// Without a `Content-Range` nobody knows which bytes came: none of them is sent on.
#[tokio::test]
async fn a_part_without_a_content_range_is_not_believed() {
    let scenario = Scenario::start().await;
    let image = Image::single(&[Blob::pseudorandom(7, 300_000)]);
    let layer = largest(&image);
    scenario.push(REPOSITORY, "1", &image);
    scenario
        .ghcr
        .set_range_answer(RangeAnswer::WithoutContentRange);
    let fault = Fault::DropBodyAfter(100_000);
    scenario.ghcr.storage.fault("GET", layer, 1, fault);
    let report = scenario.copy("1").await;
    assert_eq!(report["outcome"], "copied", "{report}");
    scenario.assert_stored("without", "1", &image);
    let uploads = scenario.ecr.uploads().into_iter();
    let mut broken = uploads.filter(|upload| upload.committed.is_none());
    // What came before the break, and no more.
    assert!(broken.all(|upload| upload.received_bytes <= 100_000));
}

/// `Retry-After` may be a date. (RFC 9110 section 10.2.3)
#[tokio::test]
async fn a_retry_after_that_is_a_date_is_waited_for() {
    let cases = [
        ("ghcr", "GET", "/manifests/1", 429),
        ("ecr", "POST", "/blobs/uploads/", 503),
    ];
    for (name, method, path, status) in cases {
        let scenario = Scenario::with_image("1").await;
        let at = SystemTime::now() + Duration::from_secs(4);
        let date = httpdate::fmt_http_date(at);
        let fault = Fault::Status {
            status,
            headers: vec![("retry-after".to_owned(), date.clone())],
            body: String::new(),
        };
        let server = match name {
            "ghcr" => &scenario.ghcr.server,
            _ => &scenario.ecr.server,
        };
        server.fault(method, path, 1, fault);
        let begin = Instant::now();
        let report = scenario.copy("1").await;
        assert_eq!(report["outcome"], "copied", "{name}");
        let waited = begin.elapsed();
        assert!(waited >= Duration::from_secs(3), "{name}: {waited:?}");
        assert_eq!(report["retries"], 1, "{name}");
        let throttled = (status == 429).then_some(1);
        assert_eq!(
            report.get("throttled"),
            throttled.map(|one| json!(one)).as_ref()
        );
    }
}
