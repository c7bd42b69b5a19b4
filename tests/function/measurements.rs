//! Figures: bounds that are asserted, and times that are only printed (`cargo test --test function measurements -- --nocapture`).

use std::time::Instant;

use support::deployment::WEBHOOK_SECRET;
use support::image::{Blob, Image};
use support::webhook;

use crate::scenario::{REPOSITORY, Scenario, http_reply, small_image};

const MIB: u64 = 1024 * 1024;

/// One GiB, in one large layer and many small ones, through the real binary: peak resident memory (`VmHWM`) under 64 MiB, and at
/// the destination one HEAD, one POST and one PUT for each blob.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_passes_through_little_memory() {
    let scenario = Scenario::start().await;
    let sizes = [600, 300, 100, 8, 8, 4, 2, 1, 1].map(|size| size * MIB);
    let layers: Vec<Blob> = (0..)
        .zip(sizes)
        .map(|(seed, size)| Blob::pseudorandom(seed, size))
        .collect();
    let image = Image::single(&layers);
    assert_eq!(sizes.iter().sum::<u64>(), 1024 * MIB);
    scenario.ghcr.put_image(REPOSITORY, "1", &image);
    let report = scenario.copy("1").await;
    assert_eq!(report["outcome"], "copied");
    assert_eq!(report["bytes"]["copied"], image.blob_bytes());
    scenario.assert_stored("large", "1", &image);
    let blobs = image.blobs.len();
    for (method, path) in [
        ("HEAD", "/blobs/"),
        ("POST", "/blobs/uploads/"),
        ("PUT", "/blobs/uploads/"),
    ] {
        assert_eq!(
            scenario.ecr.server.count(method, path),
            blobs,
            "{method} {path}"
        );
    }
    let peak = scenario.function.peak_memory_bytes();
    println!("peak memory for 1 GiB: {:.1} MiB", peak as f64 / MIB as f64);
    assert!(peak < 64 * MIB, "{peak} bytes");
}

/// From the start of the process to the 202 of its first webhook: settings, clients, the secret, the queue. GitHub waits ten seconds.
#[tokio::test]
async fn a_cold_start_is_far_from_githubs_patience() {
    let mut scenario = Scenario::start_with_queue(&[]).await;
    let body = webhook::package_event("acme", "api", "1", &small_image().top);
    let event = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
    let begin = Instant::now();
    scenario.restart_with(&[]).await;
    assert_eq!(http_reply(&scenario, &event).await.0, 202);
    println!(
        "process start to the first 202: {} ms",
        begin.elapsed().as_millis()
    );
}
