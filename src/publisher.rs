//! What is told to the event bus: each image that was copied or that failed, each that every destination has now, and a token that
//! expires soon.
//!
//! A failure that is tried again is no news yet; so a failed copy of a message is told when the message is given up.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::aws::events::{Draft, EventBus};
use crate::copy::report::{Outcome, Report, Subject};
use crate::error::Result;
use crate::job::{Job, Origin};
use crate::manifest::Digest;

/// How long the bus may take. What it is told of is done already, and somebody may be waiting behind it.
const PATIENCE: Duration = Duration::from_secs(3);

/// A token that expires is told of so often by one process.
const TOKEN_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// Publishes reports on one bus.
pub struct Publisher {
    bus: EventBus,
    /// When the bus took that each token expires, by its secret's id.
    tokens: Mutex<HashMap<String, Instant>>,
}

/// A report, and what led to it.
#[derive(Serialize)]
struct Detail<'a> {
    #[serde(flatten)]
    report: &'a Report,
    #[serde(flatten)]
    cause: Cause<'a>,
}

/// An image that every destination of a job has.
#[derive(Serialize)]
struct Available<'a> {
    source: &'a str,
    source_digest: Digest,
    destinations: Vec<&'a str>,
    /// What each of the destinations has, in their order.
    digests: Vec<Digest>,
    #[serde(flatten)]
    cause: Cause<'a>,
}

/// Who asked for a job.
#[derive(Serialize)]
struct Cause<'a> {
    /// `direct` for whoever invoked the function or sent the message.
    origin: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery: Option<&'a str>,
}

#[derive(Serialize)]
struct Expiring<'a> {
    secret: &'a str,
    days_left: u64,
}

impl Publisher {
    /// Publishes on `bus`.
    pub fn new(bus: EventBus) -> Self {
        Publisher {
            bus,
            tokens: Mutex::default(),
        }
    }

    /// The bus.
    pub fn bus(&self) -> &EventBus {
        &self.bus
    }

    /// Tells which destinations of a job have got the image, and that all have it now, if they do; and if `is_final`, which failed.
    ///
    /// `others` are the references and digests at the destinations that the job leaves out; `None` unless the job [`is_complete`] and
    /// they all have the image.
    ///
    /// # Errors
    /// What EventBridge refuses, or that it did not answer in time.
    pub async fn ended(
        &self,
        job: &Job,
        reports: &[Report],
        others: Option<&[(String, Digest)]>,
        is_final: bool,
    ) -> Result<()> {
        let mut drafts = copied(job, reports);
        drafts.extend(others.and_then(|others| available(job, reports, others)));
        if is_final {
            drafts.extend(failed(job, reports, |it| it.outcome == Outcome::Failed));
        }
        self.put(drafts).await
    }

    /// Tells which copies of a job failed or were cut off, once nobody tries them again.
    ///
    /// # Errors
    /// What EventBridge refuses, or that it did not answer in time.
    pub async fn failed(&self, job: &Job, reports: &[Report]) -> Result<()> {
        self.put(failed(job, reports, |it| it.error.is_some()))
            .await
    }

    /// Tells that a token expires soon, once a day.
    ///
    /// # Errors
    /// What EventBridge refuses.
    pub async fn token_expires(&self, secret: &str, days_left: u64) -> Result<()> {
        let told_at = self.tokens().get(secret).copied();
        if told_at.is_some_and(|at| at.elapsed() < TOKEN_INTERVAL) {
            return Ok(());
        }
        let detail = Expiring { secret, days_left };
        self.put(vec![draft("Token Expiring", &detail)]).await?;
        self.tokens().insert(secret.to_owned(), Instant::now());
        Ok(())
    }

    fn tokens(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn put(&self, drafts: Vec<Draft>) -> Result<()> {
        if drafts.is_empty() {
            return Ok(());
        }
        let put = tokio::time::timeout(PATIENCE, self.bus.put(&drafts)).await;
        put.unwrap_or_else(|_| Err(self.bus.unanswered()))
    }
}

/// A dry run copies nothing, so that nothing of it can fail; and signatures alone are no image.
fn is_news(job: &Job) -> bool {
    !job.options.dry_run && job.referrer_tag().is_none()
}

fn copied(job: &Job, reports: &[Report]) -> Vec<Draft> {
    if !is_news(job) {
        return Vec::new();
    }
    let is_copied = |report: &&Report| report.outcome == Outcome::Copied;
    let copied = reports.iter().filter(is_copied);
    copied
        .map(|report| detail("Image Copied", job, report))
        .collect()
}

fn failed(job: &Job, reports: &[Report], is_failed: impl Fn(&Report) -> bool) -> Vec<Draft> {
    if !is_news(job) {
        return Vec::new();
    }
    let failed = reports.iter().filter(|report| is_failed(report));
    failed
        .map(|report| detail("Image Copy Failed", job, report))
        .collect()
}

/// Whether a job has copied its image, and all of its own destinations have it now.
pub fn is_complete(job: &Job, reports: &[Report]) -> bool {
    let has_it = |report: &Report| matches!(report.outcome, Outcome::Copied | Outcome::Current);
    let is_new = reports.iter().any(|it| it.outcome == Outcome::Copied);
    let is_each_told = reports.len() == job.destinations.len();
    is_news(job) && is_new && is_each_told && reports.iter().all(has_it)
}

/// The image of a complete job, which every destination has now.
fn available(job: &Job, reports: &[Report], others: &[(String, Digest)]) -> Option<Draft> {
    let mut available = Available {
        source: "",
        source_digest: reports.first()?.figures.as_ref()?.source_digest?,
        destinations: Vec::new(),
        digests: Vec::new(),
        cause: cause(job),
    };
    for report in reports {
        let Some(Subject::Copy {
            source,
            destination,
        }) = &report.subject
        else {
            return None;
        };
        available.source = source;
        available.destinations.push(destination);
        available.digests.push(report.figures.as_ref()?.digest?);
    }
    for (destination, digest) in others {
        available.destinations.push(destination);
        available.digests.push(*digest);
    }
    Some(draft("Image Available", &available))
}

fn detail(detail_type: &'static str, job: &Job, report: &Report) -> Draft {
    let draft_of = |report: &Report| {
        let cause = cause(job);
        draft(detail_type, &Detail { report, cause })
    };
    let whole = draft_of(report);
    if whole.detail.len() <= EventBus::DETAIL_LIMIT {
        return whole;
    }
    // Warnings may be many; the log has them all.
    let mut shorter = report.clone();
    shorter.pruned.clear();
    if let Some(figures) = &mut shorter.figures {
        figures.plan.clear();
        figures.warnings.clear();
        figures
            .warnings
            .push("the warnings have no room in an event; the log has them".to_owned());
    }
    draft_of(&shorter)
}

fn draft(detail_type: &'static str, detail: &impl Serialize) -> Draft {
    Draft {
        detail_type,
        // Texts and numbers alone: this can't fail.
        detail: serde_json::to_string(detail).unwrap_or_default(),
    }
}

fn cause(job: &Job) -> Cause<'_> {
    Cause {
        origin: match job.options.origin {
            None => "direct",
            Some(Origin::Webhook) => "webhook",
            Some(Origin::Bus) => "bus",
            Some(Origin::Schedule) => "schedule",
        },
        delivery: job.options.delivery.as_deref(),
    }
}
