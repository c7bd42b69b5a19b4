//! One process, many invocations of every kind, above all those that fail: they leave nothing behind.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::deployment::{DEAD_LETTER_QUEUE, JOB_QUEUE, WEBHOOK_SECRET};
use support::function::Outcome;
use support::http::Fault;
use support::image::Blob;
use support::webhook;

use crate::scenario::{Image, REPOSITORY, Scenario, direct, http_reply, small_image};

/// Invocations until the allocator, the connections and what is kept of credentials have settled.
const WARM_UP: usize = 100;

/// All invocations.
const INVOCATIONS: usize = 500;

/// What memory may grow by after the warm-up. An invocation that leaves behind no more than its event and its report, some ten
/// kilobytes, would already need it all; where nothing is left behind, the allocator alone makes it go up and down by less.
const MEMORY_GROWTH_LIMIT_BYTES: u64 = 4 * 1024 * 1024;

/// How many more connections may stay open, idle, than after the warm-up: as many as were in flight at once in between, of which
/// the busiest copies have a few more than others. The rarest kind of step comes more often than that.
const OPEN_FILES_VARIATION: usize = 8;

#[derive(Clone, Copy, Debug)]
enum Step {
    New,
    Current,
    PartlyPresent,
    DryRun,
    MissingTag,
    Damaged,
    Denied,
    BrokenOff,
    ServerError,
    CutShort,
    Ignored,
    BadSignature,
    Junk,
    Webhook,
    Batch,
}

/// How often each kind of step comes. Those that make the function wait, for another try or for the deadline, are few.
const STEPS: [(Step, u64); 15] = [
    (Step::New, 10),
    (Step::Current, 8),
    (Step::PartlyPresent, 10),
    (Step::DryRun, 8),
    (Step::MissingTag, 8),
    (Step::Damaged, 10),
    (Step::Denied, 8),
    (Step::BrokenOff, 3),
    (Step::ServerError, 3),
    (Step::CutShort, 3),
    (Step::Ignored, 6),
    (Step::BadSignature, 6),
    (Step::Junk, 6),
    (Step::Webhook, 6),
    (Step::Batch, 5),
];

/// What a process holds.
#[derive(Debug)]
struct Held {
    memory_bytes: u64,
    open_files: usize,
    threads: u64,
}

struct Soak {
    scenario: Scenario,
    random: u64,
    images: u64,
    invocations: usize,
}

impl Soak {
    /// A number below `limit`, by a linear congruential generator (Knuth's MMIX), so that each run is the same.
    fn random(&mut self, limit: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % limit
    }

    fn step(&mut self) -> Step {
        let mut lot = self.random(STEPS.iter().map(|(_, weight)| weight).sum());
        for (step, weight) in STEPS {
            match lot.checked_sub(weight) {
                Some(rest) => lot = rest,
                None => return step,
            }
        }
        Step::New
    }

    /// A tag and an image that were not there before, with a layer of their own beside one that all share.
    fn image(&mut self) -> (String, Image) {
        self.images += 1;
        let length = 1 + self.random(200_000);
        let layers = [
            Blob::bytes("the layer that all share"),
            Blob::pseudorandom(self.images, length),
        ];
        (format!("t{}", self.images), Image::single(&layers))
    }

    fn push(&mut self) -> String {
        let (tag, image) = self.image();
        self.scenario.push(REPOSITORY, &tag, &image);
        tag
    }

    async fn invoke(&mut self, event: &Value) -> Outcome {
        self.invocations += 1;
        self.scenario.invoke(event).await
    }

    async fn copies(&mut self, tag: &str) {
        let report = self.invoke(&direct(tag)).await.reply();
        assert_eq!(report["outcome"], "copied", "{report}");
    }

    async fn fails(&mut self, event: &Value, kind: &str) {
        let (actual, message) = self.invoke(event).await.error();
        assert_eq!(actual, kind, "{message}");
    }

    async fn answers(&mut self, event: &Value, status: i64) {
        self.invocations += 1;
        let (actual, body) = http_reply(&self.scenario, event).await;
        assert_eq!(actual, status, "{body}");
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::New => {
                let tag = self.push();
                self.copies(&tag).await;
            }
            Step::Current => {
                let report = self.invoke(&direct("base")).await.reply();
                assert_eq!(report["outcome"], "current");
            }
            Step::PartlyPresent => {
                let (tag, image) = self.image();
                let parts = small_image();
                let children = vec![image.on("linux/amd64"), parts.into()];
                self.scenario
                    .push(REPOSITORY, &tag, &Image::index(children));
                self.copies(&tag).await;
            }
            Step::DryRun => {
                let mut event = direct(&self.push());
                event["dry_run"] = json!(true);
                let report = self.invoke(&event).await.reply();
                assert_eq!(report["outcome"], "planned");
            }
            Step::MissingTag => self.fails(&direct("missing"), "NotFound").await,
            Step::Damaged => {
                let (tag, image) = self.image();
                let is_own = |blob: &Blob| matches!(blob, Blob::Pseudorandom { .. });
                let own = image.blobs.iter().find(|(_, blob)| is_own(blob));
                let (digest, blob) = own.expect("a layer of its own").clone();
                let longer = Blob::pseudorandom(1, blob.length() + 1);
                let damaged = image.with_blob(&digest, longer);
                self.scenario.ghcr.put_image("acme/damaged", &tag, &damaged);
                let source = format!("ghcr.io/acme/damaged:{tag}");
                let event = json!({"source": source, "destination": "prod/damaged"});
                self.fails(&event, "Invalid").await;
            }
            Step::Denied => {
                let tag = self.push();
                let denied = Fault::Status {
                    status: 403,
                    headers: vec![],
                    body: r#"{"errors":[{"code":"DENIED","message":"no"}]}"#.to_owned(),
                };
                let ecr = &self.scenario.ecr.server;
                ecr.fault("PUT", "/manifests/", 2, denied);
                self.fails(&direct(&tag), "Denied").await;
            }
            Step::BrokenOff => {
                let tag = self.push();
                let storage = &self.scenario.ghcr.storage;
                storage.fault("GET", "/", 1, Fault::DropBodyAfter(1));
                self.copies(&tag).await;
            }
            Step::ServerError => {
                let tag = self.push();
                let ecr = &self.scenario.ecr.server;
                ecr.fault("POST", "/blobs/uploads/", 1, Fault::DropReply);
                self.copies(&tag).await;
            }
            Step::CutShort => {
                let tag = self.push();
                let ecr = &self.scenario.ecr.server;
                ecr.fault("PUT", "/manifests/", 1, Fault::Hold);
                // The function keeps two seconds back.
                let remaining = Duration::from_millis(2100);
                self.invocations += 1;
                let function = &self.scenario.function;
                let outcome = function
                    .invoke_with_deadline(&direct(&tag), remaining)
                    .await;
                assert_eq!(outcome.error().0, "Deadline");
                self.scenario.ecr.server.release();
            }
            Step::Ignored => {
                let event = webhook::api_gateway_v2("push", "{}", WEBHOOK_SECRET);
                self.answers(&event, 200).await;
            }
            Step::BadSignature => {
                let event = webhook::api_gateway_v2("package", "{}", "another secret");
                self.answers(&event, 401).await;
            }
            Step::Junk => {
                let junk = json!({"junk": "x".repeat(20_000)});
                self.fails(&junk, "Invalid").await;
            }
            Step::Webhook => {
                let (tag, image) = self.image();
                self.scenario.push(REPOSITORY, &tag, &image);
                let body = webhook::package_event("acme", "api", &tag, &image.top);
                let event = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
                self.answers(&event, 202).await;
                self.work_off().await;
                self.scenario.assert_stored("processed", &tag, &image);
            }
            Step::Batch => {
                let bodies = [
                    direct(&self.push()),
                    direct("base"),
                    direct("missing"),
                    json!({"junk": true}),
                ];
                for (group, body) in bodies.iter().enumerate() {
                    let sqs = &self.scenario.sqs;
                    sqs.send(JOB_QUEUE, &group.to_string(), &body.to_string());
                }
                self.work_off().await;
            }
        }
    }

    /// Everything in the queue in one batch, none of which comes back.
    async fn work_off(&mut self) {
        let batch = self.scenario.sqs.batch(JOB_QUEUE, 10);
        let reply = self.invoke(&batch).await.reply();
        assert_eq!(reply, json!({"batchItemFailures": []}));
        self.scenario.sqs.settle(JOB_QUEUE, &batch, &reply);
        let dead = self.scenario.sqs.batch(DEAD_LETTER_QUEUE, 10);
        let none = json!({"batchItemFailures": []});
        self.scenario.sqs.settle(DEAD_LETTER_QUEUE, &dead, &none);
    }

    async fn run(&mut self, until: usize) {
        while self.invocations < until {
            let step = self.step();
            self.take(step).await;
            self.scenario.ecr.server.clear_faults();
            self.scenario.ghcr.storage.clear_faults();
            self.scenario.clear_requests();
        }
    }

    fn held(&self) -> Held {
        let function = &self.scenario.function;
        Held {
            memory_bytes: function.memory_bytes(),
            open_files: function.open_files(),
            threads: function.threads(),
        }
    }
}

#[tokio::test]
async fn five_hundred_invocations_leave_nothing_behind() {
    let scenario = Scenario::start_with_queue(&[]).await;
    scenario.ecr.create_repository("prod/damaged");
    scenario.push(REPOSITORY, "base", &small_image());
    let mut soak = Soak {
        scenario,
        random: 1,
        images: 0,
        invocations: 0,
    };
    let begin = Instant::now();
    soak.copies("base").await;
    soak.run(WARM_UP).await;
    let warm = soak.held();
    soak.run(INVOCATIONS).await;
    let end = soak.held();
    println!(
        "{} invocations in {:.1} s: {warm:?} after {WARM_UP}, {end:?} at the end",
        soak.invocations,
        begin.elapsed().as_secs_f64()
    );
    let growth = end.memory_bytes.saturating_sub(warm.memory_bytes);
    assert!(growth < MEMORY_GROWTH_LIMIT_BYTES, "{growth} bytes");
    assert!(end.threads <= warm.threads, "{end:?}");
    let open_files = warm.open_files + OPEN_FILES_VARIATION;
    assert!(end.open_files <= open_files, "{end:?} after {warm:?}");
}
