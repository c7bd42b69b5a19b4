//! Metrics in CloudWatch's embedded metric format: what an invocation's reports come to, as lines of the log.
//!
//! They need no call and no right. A metric with another set of dimensions is another metric, and each is paid for; so there are
//! few, with `Outcome` and `Kind` at most. (Amazon CloudWatch user guide, "Specification: Embedded metric format")

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use crate::copy::report::{Figures, Outcome, Report, Subject};
use crate::error::{Error, Kind};

/// The namespace of all metrics.
pub const NAMESPACE: &str = "ghcr-to-ecr";

/// The target and the field of the log events that hold metrics. No level of the log silences them.
pub const TARGET: &str = "metrics";
/// See [`TARGET`].
pub const FIELD: &str = "metrics";

/// The most values of a metric in one document.
const VALUES: usize = 100;

/// What is counted during one invocation.
#[derive(Debug, Default)]
pub struct Metrics {
    images: BTreeMap<(Outcome, Option<Kind>), u64>,
    failures: BTreeMap<Kind, u64>,
    copies: u64,
    bytes_copied: u64,
    bytes_present: u64,
    blobs_copied: u64,
    blobs_present: u64,
    blobs_mounted: u64,
    verified: u64,
    unsigned: u64,
    retries: u64,
    throttled: u64,
    seconds: Vec<f64>,
    seconds_since_push: Vec<f64>,
    receives: Vec<f64>,
    completed_runs: u64,
}

impl Metrics {
    /// Counts a report. `is_news` says of which kinds a failure is news; `announced_at` is when the function learnt of the push that
    /// the report is about.
    ///
    /// What is about no image is counted nowhere: whoever is refused for a bad signature may be anybody, and raises no alarm.
    pub fn count(
        &mut self,
        report: &Report,
        is_news: impl Fn(Kind) -> bool,
        announced_at: Option<SystemTime>,
    ) {
        let kind = report.error.as_ref().map(|error| error.kind());
        if let Some(kind) = kind.filter(|_| report.subject.is_some())
            && report.outcome == Outcome::Failed
            && is_news(kind)
        {
            *self.failures.entry(kind).or_default() += 1;
        }
        let is_of_images = match report.subject {
            Some(Subject::Copy { .. } | Subject::Image { .. }) => true,
            // What fails for a place fails for each image that would go there.
            Some(Subject::Place { .. }) => report.error.is_some(),
            _ => false,
        };
        if !is_of_images {
            return;
        }
        *self.images.entry((report.outcome, kind)).or_default() += 1;
        if matches!(report.error, Some(Error::Unsigned { .. })) {
            self.unsigned += 1;
        }
        let is_copy = !matches!(report.outcome, Outcome::Queued | Outcome::Planned);
        let Some(figures) = report.figures.as_ref().filter(|_| is_copy) else {
            return;
        };
        self.count_figures(figures);
        if report.outcome == Outcome::Copied {
            self.seconds.push(figures.elapsed_ms as f64 / 1000.0);
            let since = announced_at.and_then(|at| SystemTime::now().duration_since(at).ok());
            self.seconds_since_push
                .extend(since.map(|since| since.as_secs_f64()));
        }
    }

    fn count_figures(&mut self, figures: &Figures) {
        self.copies += 1;
        self.bytes_copied += figures.bytes.copied;
        self.bytes_present += figures.bytes.present;
        self.blobs_copied += figures.blobs.copied;
        self.blobs_present += figures.blobs.present;
        self.blobs_mounted += figures.blobs.mounted;
        self.verified += u64::from(figures.verified.is_some());
        self.retries += figures.retries.saturating_sub(figures.shared.retries);
        self.throttled += figures.throttled.saturating_sub(figures.shared.throttled);
    }

    /// Counts a message that was received so often.
    pub fn received(&mut self, receive_count: u32) {
        self.receives.push(f64::from(receive_count));
    }

    /// Counts a scheduled run that got to its end, whatever it found; but it must have been able to look.
    pub fn completed_run(&mut self) {
        self.completed_runs += 1;
    }

    /// One document for each set of dimensions, with nothing in it that was not counted. `token_expires_at` is when the first of the
    /// tokens expires.
    pub fn documents(&self, now: SystemTime, token_expires_at: Option<SystemTime>) -> Vec<String> {
        let mut documents = Vec::new();
        for ((outcome, kind), count) in &self.images {
            let mut document = Document::new(&[&["Outcome"]]);
            document.member("Outcome", json!(outcome));
            if let Some(kind) = kind {
                document = Document::new(&[&["Outcome"], &["Outcome", "Kind"]]);
                document.member("Outcome", json!(outcome));
                document.member("Kind", json!(kind));
            }
            document.metric("Images", "Count", json!(count));
            documents.push(document.text(now));
        }
        for (kind, count) in &self.failures {
            let mut document = Document::new(&[&["Kind"]]);
            document.member("Kind", json!(kind));
            document.metric("Failures", "Count", json!(count));
            documents.push(document.text(now));
        }
        documents.extend(self.totals(now, token_expires_at));
        documents
    }

    /// Everything without dimensions.
    fn totals(&self, now: SystemTime, token_expires_at: Option<SystemTime>) -> Vec<String> {
        let mut first = Document::new(&[&[]]);
        if self.copies > 0 {
            first.metric("BytesCopied", "Bytes", json!(self.bytes_copied));
            first.metric("BytesPresent", "Bytes", json!(self.bytes_present));
            for (name, count) in [
                ("BlobsCopied", self.blobs_copied),
                ("BlobsPresent", self.blobs_present),
                ("BlobsMounted", self.blobs_mounted),
                ("Retries", self.retries),
                ("Throttled", self.throttled),
            ] {
                first.metric(name, "Count", json!(count));
            }
        }
        for (name, count) in [("Verified", self.verified), ("Unsigned", self.unsigned)] {
            if count > 0 {
                first.metric(name, "Count", json!(count));
            }
        }
        if self.completed_runs > 0 {
            first.metric("CompletedRuns", "Count", json!(self.completed_runs));
        }
        if let Some(expires_at) = token_expires_at {
            first.metric("TokenDaysLeft", "None", json!(days_left(expires_at, now)));
        }
        let mut documents = vec![first];
        for (name, unit, values) in [
            ("Seconds", "Seconds", &self.seconds),
            ("SecondsSincePush", "Seconds", &self.seconds_since_push),
            ("Receives", "Count", &self.receives),
        ] {
            for (position, values) in values.chunks(VALUES).enumerate() {
                if position == documents.len() {
                    documents.push(Document::new(&[&[]]));
                }
                documents[position].metric(name, unit, json!(values));
            }
        }
        let documents = documents.into_iter();
        let with_metrics = documents.filter(|document| !document.metrics.is_empty());
        with_metrics.map(|document| document.text(now)).collect()
    }
}

/// Whole days until `at`; none once it is past.
pub fn days_left(at: SystemTime, now: SystemTime) -> u64 {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let left = at.duration_since(now).unwrap_or_default();
    left.as_secs() / DAY.as_secs()
}

/// A document of the embedded metric format.
struct Document {
    dimensions: Value,
    metrics: Vec<Value>,
    members: Map<String, Value>,
}

impl Document {
    fn new(dimensions: &[&[&str]]) -> Self {
        Document {
            dimensions: json!(dimensions),
            metrics: Vec::new(),
            members: Map::new(),
        }
    }

    fn member(&mut self, name: &str, value: Value) {
        self.members.insert(name.to_owned(), value);
    }

    fn metric(&mut self, name: &str, unit: &str, value: Value) {
        self.metrics.push(json!({"Name": name, "Unit": unit}));
        self.member(name, value);
    }

    fn text(mut self, now: SystemTime) -> String {
        let now = now.duration_since(SystemTime::UNIX_EPOCH);
        let about = json!({
            "Timestamp": now.unwrap_or_default().as_millis() as u64,
            "CloudWatchMetrics": [{
                "Namespace": NAMESPACE,
                "Dimensions": self.dimensions,
                "Metrics": self.metrics,
            }],
        });
        self.member("_aws", about);
        Value::Object(self.members).to_string()
    }
}
