//! A year of scheduled runs, a day in each turn, with all that happens in a year: afterwards ECR has what GHCR has, the queues hold
//! what they should, and the metrics that alarms are made of told of what was new, and of nothing else.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::deployment::{DEAD_LETTER_QUEUE, JOB_QUEUE, WEBHOOK_SECRET};
use support::function::Outcome;
use support::ghcr::Ghcr;
use support::http::{Fault, Server};
use support::image::Blob;
use support::webhook;

use crate::scenario::{Image, Scenario, difference, http_reply};

const DAYS: u64 = 365;
const BUS: &str = "images";
const RULES: &str = r#"[
    {"source": "acme/locked", "destination": "locked"},
    {"source": "acme/**", "destination": "prod/{name}", "tags": {"exclude": ["pr-*"]}, "repository": {"create": true}}
]"#;
const SETTINGS: [(&str, &str); 3] = [
    ("RULES", RULES),
    ("EVENT_BUS", BUS),
    ("AWS_LAMBDA_LOG_FORMAT", "JSON"),
];

const PACKAGES: [&str; 4] = ["api", "web", "tools/cli", "gone"];
/// Tags move among so many.
const TAGS: u64 = 3;

/// For an invocation that meets a service that fails; the function keeps two seconds of it back.
const SHORT: Duration = Duration::from_millis(2800);

/// The last process is warm by then, and lives to the end of the year.
const LAST_RESTART: u64 = 200;
const WARM: u64 = 240;
const MEMORY_GROWTH_LIMIT_BYTES: u64 = 4 * 1024 * 1024;

/// What goes wrong on a day.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    /// GHCR or GitHub's API fails.
    Outage(&'static str),
    Throttling,
    SecretsOutage,
    /// A new token while the old one holds, and then without the old one.
    NewToken,
    OldTokenRevoked,
    /// The old one ends before the new one is in Secrets Manager.
    TokenExpired,
    PackageDeleted,
    RepositoryDeleted,
    TagOverwritten,
    TagFreed,
    Hang,
    Redrive,
    /// The delivery of a push comes after that of the next one.
    OutOfOrder,
}

const CALENDAR: [(u64, Trouble); 20] = [
    (12, Trouble::Throttling),
    (20, Trouble::Outage("ghcr")),
    (33, Trouble::TagOverwritten),
    (40, Trouble::SecretsOutage),
    (55, Trouble::OutOfOrder),
    (60, Trouble::NewToken),
    (62, Trouble::OldTokenRevoked),
    (80, Trouble::Redrive),
    (90, Trouble::TagFreed),
    (92, Trouble::Redrive),
    (100, Trouble::PackageDeleted),
    (120, Trouble::Hang),
    (150, Trouble::TokenExpired),
    (170, Trouble::Outage("github")),
    (199, Trouble::Redrive),
    (230, Trouble::RepositoryDeleted),
    (250, Trouble::TagOverwritten),
    (270, Trouble::Outage("ecr")),
    (300, Trouble::Throttling),
    (320, Trouble::Hang),
];

/// What the metrics of some invocations come to.
#[derive(Debug, Default)]
struct Counted {
    failures: BTreeMap<String, u64>,
    completed_runs: u64,
    copied: u64,
}

struct Year {
    scenario: Scenario,
    random: u64,
    pushes: u64,
    tokens: u64,
    /// What ECR has to have, by package and tag.
    expected: BTreeMap<(String, String), Image>,
    /// The tag of the immutable repository that has another image at GHCR.
    conflict: Option<Image>,
    /// How much of the log has been read.
    read: usize,
    copied: u64,
    invocations: u64,
}

impl Year {
    async fn start() -> Year {
        let scenario = Scenario::start_with_queue(&SETTINGS).await;
        scenario.aws.create_event_bus(BUS);
        scenario.ecr.create_immutable_repository("locked");
        let mut year = Year {
            scenario,
            random: 1,
            pushes: 0,
            tokens: 0,
            expected: BTreeMap::new(),
            conflict: None,
            read: 0,
            copied: 0,
            invocations: 0,
        };
        let image = year.image();
        year.scenario.push("acme/locked", "1", &image);
        year.expected
            .insert(("locked".to_owned(), "1".to_owned()), image);
        year
    }

    /// A number below `limit`; see the soak test.
    fn random(&mut self, limit: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % limit
    }

    fn image(&mut self) -> Image {
        self.pushes += 1;
        Image::single(&[
            Blob::bytes("all share it"),
            Blob::pseudorandom(self.pushes, 2000),
        ])
    }

    /// Pushes of a day, and the deliveries that come on it: some are lost, and some come twice.
    async fn push(&mut self, day: u64) {
        let mut deliveries = Vec::new();
        let first = self.random(PACKAGES.len() as u64);
        for number in first..first + self.random(3) {
            let package = PACKAGES[number as usize % PACKAGES.len()];
            if package == "gone" && day >= 100 {
                continue;
            }
            let tag = format!("v{}", self.random(TAGS));
            let image = self.image();
            let repository = format!("acme/{package}");
            self.scenario.push(&repository, &tag, &image);
            let excluded = format!("pr-{}", self.random(3));
            self.scenario.push(&repository, &excluded, &image);
            let body = webhook::package_event("acme", package, &tag, &image.top);
            let delivery = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
            self.expected.insert((package.to_owned(), tag), image);
            match self.random(10) {
                0..3 => {}
                3..5 => deliveries.extend([delivery.clone(), delivery]),
                _ => deliveries.push(delivery),
            }
        }
        // The last comes first.
        for delivery in deliveries.iter().rev() {
            self.invocations += 1;
            let (status, body) = http_reply(&self.scenario, delivery).await;
            assert!(matches!(status, 200 | 202), "{body}");
        }
    }

    async fn run(&mut self, time: Option<Duration>) -> Outcome {
        self.invocations += 1;
        let (function, event) = (&self.scenario.function, webhook::scheduler());
        match time {
            Some(time) => function.invoke_with_deadline(&event, time).await,
            None => function.invoke(&event).await,
        }
    }

    /// Brings the function what is in the queue, once.
    async fn deliver(&mut self, time: Duration) {
        let batch = self.scenario.sqs.batch(JOB_QUEUE, 10);
        self.invocations += 1;
        let function = &self.scenario.function;
        let outcome = function.invoke_with_deadline(&batch, time).await;
        let reply = outcome.reply();
        self.scenario.sqs.settle(JOB_QUEUE, &batch, &reply);
    }

    async fn work_off(&mut self) {
        for _ in 0..40 {
            if self.scenario.sqs.messages(JOB_QUEUE).is_empty() {
                return;
            }
            self.deliver(Duration::from_secs(60)).await;
        }
        let left = self.scenario.sqs.messages(JOB_QUEUE);
        panic!("the queue does not empty: {left:?}");
    }

    /// What the invocations since the last call have counted.
    fn counted(&mut self) -> Counted {
        let log = self.scenario.function.log();
        let new = log[self.read..].to_owned();
        self.read = log.len();
        let mut counted = Counted::default();
        for line in new.lines().filter(|line| line.contains("\"_aws\"")) {
            let line: Value = serde_json::from_str(line).expect("JSON");
            if let Some(count) = line["Failures"].as_u64() {
                let kind = line["Kind"].as_str().unwrap_or_default().to_owned();
                *counted.failures.entry(kind).or_default() += count;
            }
            counted.completed_runs += line["CompletedRuns"].as_u64().unwrap_or(0);
            if line["Outcome"] == "copied" {
                counted.copied += line["Images"].as_u64().unwrap_or(0);
            }
        }
        self.copied += counted.copied;
        counted
    }

    async fn restart(&mut self) {
        self.counted();
        self.scenario.restart_with(&SETTINGS).await;
        self.read = 0;
    }

    fn server(&self, name: &str) -> &Server {
        match name {
            "ghcr" => &self.scenario.ghcr.server,
            "github" => &self.scenario.github.server,
            "ecr" => &self.scenario.ecr.server,
            _ => &self.scenario.aws.server,
        }
    }

    /// A day on which a service does not work.
    async fn outage(&mut self, name: &str, call: &str) -> Counted {
        let image = self.image();
        self.scenario.push("acme/api", "v0", &image);
        self.expected
            .insert(("api".to_owned(), "v0".to_owned()), image);
        let job = json!({"source": "ghcr.io/acme/api:v0", "destination": "prod/api"});
        self.scenario.sqs.send(JOB_QUEUE, "v0", &job.to_string());
        self.server(name)
            .fault("*", call, usize::MAX, Fault::html(503));
        let outcome = self.run(Some(SHORT)).await;
        let told = matches!(outcome, Outcome::Error { .. } | Outcome::Reply(_));
        assert!(told, "{name}: {outcome:?}");
        self.deliver(SHORT).await;
        self.server(name).clear_faults();
        self.counted()
    }

    fn take_token(&mut self, overlaps: bool) {
        let old = self.token();
        self.tokens += 1;
        let new = self.token();
        let both = [new.as_str(), old.as_str()];
        let accepted = if overlaps { &both[..] } else { &both[..1] };
        self.scenario.ghcr.accept_tokens(accepted);
        self.scenario.github.accept_tokens(accepted);
    }

    fn token(&self) -> String {
        match self.tokens {
            0 => Ghcr::TOKEN.to_owned(),
            number => format!("ghp_support{number}"),
        }
    }

    fn letters(&self) -> Vec<Value> {
        let letters = self.scenario.sqs.messages(DEAD_LETTER_QUEUE).into_iter();
        letters
            .map(|letter| serde_json::from_str(&letter.body).expect("JSON"))
            .collect()
    }

    /// As an operator does by SQS's own redrive.
    fn redrive(&mut self) {
        let sqs = &self.scenario.sqs;
        sqs.forget_deduplication();
        loop {
            let batch = sqs.batch(DEAD_LETTER_QUEUE, 10);
            let records = batch["Records"].as_array().cloned().unwrap_or_default();
            if records.is_empty() {
                return;
            }
            for record in &records {
                let group = record["attributes"]["MessageGroupId"].as_str();
                let body = record["body"].as_str().unwrap_or_default();
                sqs.send(JOB_QUEUE, group.unwrap_or("group"), body);
            }
            let none = json!({"batchItemFailures": []});
            sqs.settle(DEAD_LETTER_QUEUE, &batch, &none);
        }
    }

    async fn trouble(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Outage(name) => {
                let counted = self.outage(name, "").await;
                let passing = |kind: &String| kind == "Transient";
                assert!(counted.failures.keys().all(passing), "{name}: {counted:?}");
            }
            Trouble::SecretsOutage => {
                self.restart().await;
                let counted = self.outage("aws", "GetSecretValue").await;
                assert_eq!(counted.completed_runs, 0, "{counted:?}");
            }
            Trouble::Throttling => {
                let image = self.image();
                self.scenario.push("acme/web", "v0", &image);
                self.expected
                    .insert(("web".to_owned(), "v0".to_owned()), image);
                let refusal = Fault::Status {
                    status: 429,
                    headers: Vec::new(),
                    body: r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"Rate exceeded"}]}"#
                        .to_owned(),
                };
                self.server("ecr").fault("PUT", "/manifests/", 2, refusal);
            }
            Trouble::NewToken => {
                self.take_token(true);
                let token = self.token();
                self.scenario.aws.put_secret("ghcr-token", &token);
            }
            Trouble::OldTokenRevoked => {
                // What was given by the old token ends with it.
                let token = self.token();
                self.scenario.ghcr.accept_tokens(&[&token]);
                self.scenario.github.accept_tokens(&[&token]);
                self.scenario.ghcr.expire_tokens();
            }
            Trouble::TokenExpired => {
                self.take_token(false);
                self.scenario.ghcr.expire_tokens();
                let outcome = self.run(None).await;
                let counted = self.counted();
                assert_eq!(counted.completed_runs, 0, "{outcome:?} {counted:?}");
                let pushed = &self.expected[&("api".to_owned(), "v0".to_owned())];
                let body = webhook::package_event("acme", "api", "v0", &pushed.top);
                let delivery = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
                http_reply(&self.scenario, &delivery).await;
                self.work_off().await;
                let counted = self.counted();
                assert_eq!(counted.failures.get("Denied"), Some(&1), "{counted:?}");
                let token = self.token();
                self.scenario.aws.put_secret("ghcr-token", &token);
                self.restart().await;
            }
            Trouble::PackageDeleted => {
                self.scenario.ghcr.delete_package("acme/gone");
                self.scenario.github.delete_package("acme", "gone");
            }
            Trouble::RepositoryDeleted => self.scenario.ecr.delete_repository("prod/web"),
            Trouble::TagOverwritten => self.overwrite_locked().await,
            Trouble::TagFreed => {
                self.scenario.ecr.delete_tag("locked", "1");
                let image = self.conflict.take().expect("a conflict");
                self.expected
                    .insert(("locked".to_owned(), "1".to_owned()), image);
            }
            Trouble::Hang => self.hang().await,
            Trouble::OutOfOrder => self.swap_deliveries().await,
            Trouble::Redrive => {
                let count = self.letters().len();
                self.redrive();
                self.work_off().await;
                let (left, counted) = (self.letters().len(), self.counted());
                let is_known = |letter: &Value| letter["destination"] == "locked";
                assert!(self.letters().iter().all(is_known) && left <= count);
                let news: u64 = counted.failures.values().sum();
                assert_eq!(
                    news, left as u64,
                    "{counted:?}: what comes back is told again"
                );
            }
        }
    }

    /// GHCR's tag moves, and the immutable one can't follow: that is told once.
    async fn overwrite_locked(&mut self) {
        let image = self.image();
        self.scenario.push("acme/locked", "1", &image);
        let body = webhook::package_event("acme", "locked", "1", &image.top);
        let delivery = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
        self.conflict = Some(image);
        http_reply(&self.scenario, &delivery).await;
        self.work_off().await;
        let counted = self.counted();
        assert_eq!(counted.failures, [("Immutable".to_owned(), 1)].into());
    }

    /// The late one waits a while for its tag to be so again, and then takes the registry's word.
    async fn swap_deliveries(&mut self) {
        let images = [self.image(), self.image()];
        for image in &images {
            self.scenario.push("acme/api", "v2", image);
        }
        for image in images.iter().rev() {
            let body = webhook::package_event("acme", "api", "v2", &image.top);
            let delivery = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
            http_reply(&self.scenario, &delivery).await;
            self.work_off().await;
        }
        let [_, image] = images;
        let repository = self.scenario.ecr.repository("prod/api");
        assert_eq!(difference(&repository, "v2", &image), None);
        self.expected
            .insert(("api".to_owned(), "v2".to_owned()), image);
        assert_eq!(self.counted().failures, BTreeMap::new());
    }

    /// ECR takes a manifest and does not answer, until the function has no time left.
    async fn hang(&mut self) {
        let image = self.image();
        self.scenario.push("acme/api", "v1", &image);
        self.expected
            .insert(("api".to_owned(), "v1".to_owned()), image);
        let job = json!({"source": "ghcr.io/acme/api:v1", "destination": "prod/api"});
        self.scenario.sqs.send(JOB_QUEUE, "v1", &job.to_string());
        self.server("ecr")
            .fault("PUT", "/manifests/", 100, Fault::Hold);
        self.deliver(SHORT).await;
        self.server("ecr").clear_faults();
        self.scenario.ecr.server.release();
        assert_eq!(self.scenario.sqs.messages(JOB_QUEUE).len(), 1);
        self.counted();
    }

    /// A day without news, whatever happened before and however long a failure persists.
    async fn day(&mut self, day: u64) {
        self.scenario.sqs.forget_deduplication();
        self.push(day).await;
        let outcome = self.run(None).await;
        assert!(
            matches!(outcome, Outcome::Reply(_)),
            "day {day}: {outcome:?}"
        );
        self.work_off().await;
        let counted = self.counted();
        assert_eq!(counted.completed_runs, 1, "day {day}");
        assert_eq!(counted.failures, BTreeMap::new(), "day {day}");
        self.expect_equal(day);
        self.scenario.clear_requests();
    }

    fn expect_equal(&self, day: u64) {
        let mut repositories = BTreeMap::new();
        for ((package, tag), image) in &self.expected {
            let name = match package.as_str() {
                "locked" => "locked".to_owned(),
                package => format!("prod/{package}"),
            };
            let stored = || self.scenario.ecr.repository(&name);
            let repository = repositories.entry(package).or_insert_with(stored);
            let difference = difference(repository, tag, image);
            assert_eq!(difference, None, "day {day}: {package}:{tag}");
        }
        let mut tags = repositories.values().flat_map(|it| it.tags.keys());
        assert!(tags.all(|tag| !tag.starts_with("pr-")), "day {day}");
    }
}

#[tokio::test]
async fn a_year_ends_with_everything_as_it_should_be() {
    let begin = Instant::now();
    let mut year = Year::start().await;
    let mut warm = 0;
    for day in 1..=DAYS {
        for (_, trouble) in CALENDAR.iter().filter(|(at, _)| *at == day) {
            year.trouble(*trouble).await;
        }
        if day % 40 == 0 && day <= LAST_RESTART {
            year.restart().await;
        }
        year.day(day).await;
        if day == WARM {
            warm = year.scenario.function.memory_bytes();
        }
    }
    let grown = year.scenario.function.memory_bytes().saturating_sub(warm);
    println!(
        "{DAYS} days in {:.1} s: {} pushes, {} invocations, {} copies; {warm} bytes resident on day {WARM}, {grown} more at the end",
        begin.elapsed().as_secs_f64(),
        year.pushes,
        year.invocations,
        year.copied
    );
    assert!(grown < MEMORY_GROWTH_LIMIT_BYTES, "{grown} bytes");
    assert_eq!(year.scenario.sqs.messages(JOB_QUEUE), []);
    // Of the tag that is overwritten still.
    let letters = year.letters();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0]["destination"], "locked");
    let events = year.scenario.aws.events(BUS);
    let of_copies = events
        .iter()
        .filter(|event| event["detail-type"] == "Image Copied");
    assert_eq!(of_copies.count() as u64, year.copied);
    let writes = year.scenario.ecr.tag_writes();
    assert!(writes.iter().all(|write| write.missing.is_empty()));
    // Those that hung were written, and were found current by the next invocation.
    let hangs = CALENDAR
        .iter()
        .filter(|(_, it)| *it == Trouble::Hang)
        .count();
    let unseen = writes.len() - year.copied as usize;
    assert!(unseen <= hangs, "{unseen}");
}
