//! The reports of one invocation: each is logged and counted when it comes, and kept for the reply as far as that has room.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::ser::{Error as _, SerializeMap};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::copy::estimate::Sum;
use crate::copy::report::{Outcome, Report, Subject};
use crate::error::{Error, Kind};
use crate::job::{Job, Origin};
use crate::metrics::{self, Metrics};

/// Lambda takes no reply of more than 6 MB (6,291,556 bytes); what is left out of it is counted. Images that are up to date may
/// take the smaller part, so that there is room for what happened. (AWS Lambda developer guide, "Lambda quotas")
const REPLY_LIMIT: usize = 5_500_000;
const CURRENT_LIMIT: usize = 2_000_000;

/// Collects reports, and knows what stands for all of them.
#[derive(Default)]
pub struct Reports {
    kept: Vec<Line>,
    bytes: usize,
    counts: BTreeMap<Outcome, u64>,
    left_out: BTreeMap<Outcome, u64>,
    /// The error of the first report with the first outcome.
    error: Option<(Outcome, Error)>,
    passing_error: Option<Error>,
    metrics: Metrics,
    /// Whether a package, or an owner's list of packages, was refused, and whether there was anything else.
    was_refused: bool,
    saw_anything: bool,
    cause: Cause,
    sum: Option<Sum>,
}

/// What led to a report.
#[derive(Clone, Debug, Default)]
pub struct Cause {
    /// What made the function enqueue the job; `None` if somebody asked for it directly.
    pub origin: Option<Origin>,
    /// GitHub's id of the delivery.
    pub delivery: Option<String>,
    /// When the function learnt of the push.
    pub announced_at: Option<SystemTime>,
    /// Nothing is to be copied, only planned.
    pub dry_run: bool,
    /// Whether the message comes back, whatever failed.
    pub is_tried_again: bool,
}

impl Cause {
    /// What led to the jobs of a message that was sent at `sent_at`.
    pub fn of(jobs: &[Job], sent_at: Option<SystemTime>) -> Self {
        let Some(options) = jobs.first().map(|job| &job.options) else {
            return Cause::default();
        };
        let is_push = matches!(options.origin, Some(Origin::Webhook | Origin::Bus));
        Cause {
            origin: options.origin,
            delivery: options.delivery.clone(),
            announced_at: sent_at.filter(|_| is_push),
            dry_run: options.dry_run,
            is_tried_again: false,
        }
    }

    /// Whether it is news that something failed for a reason of this kind. A dry run leaves no image behind; and what failed for good is
    /// reported again by the next scheduled run, or when its message comes back.
    fn is_news(&self, kind: Kind) -> bool {
        let is_found_again = self.is_tried_again || self.origin == Some(Origin::Schedule);
        !self.dry_run && (kind.may_pass() || !is_found_again)
    }
}

impl Reports {
    /// Says what leads to the reports that are added from now on.
    pub fn caused_by(&mut self, cause: Cause) {
        self.cause = cause;
    }

    /// Logs and counts a report, and keeps it for the reply.
    pub fn add(&mut self, report: Report) {
        let cause = &self.cause;
        let is_news = |kind| cause.is_news(kind);
        self.metrics.count(&report, is_news, cause.announced_at);
        *self.counts.entry(report.outcome).or_default() += 1;
        match is_refused_package(&report) {
            true => self.was_refused = true,
            false => self.saw_anything = true,
        }
        let line = serde_json::to_string(&report).unwrap_or_default();
        // A scheduled run may find very many of these.
        let is_quiet = report.outcome == Outcome::Current && !report.tells_more();
        let (delivery, outcome) = (self.cause.delivery.as_deref(), report.outcome.name());
        match report.outcome {
            Outcome::Failed | Outcome::Deferred => {
                tracing::error!(delivery, report = %line, "{outcome}");
            }
            _ if is_quiet && self.counts[&Outcome::Current] > 1 => {
                tracing::debug!(delivery, report = %line, "{outcome}");
            }
            _ => tracing::info!(delivery, report = %line, "{outcome}"),
        }
        let limit = match is_quiet {
            true => CURRENT_LIMIT,
            false => REPLY_LIMIT,
        };
        // The body of an HTTP reply is a text inside the reply, in which each of these takes one byte more.
        let escaped = line.bytes().filter(|byte| matches!(byte, b'"' | b'\\'));
        let length = line.len() + escaped.count() + 1;
        match self.bytes + length <= limit {
            true => {
                self.bytes += length;
                self.kept.push(Line(line.into_boxed_str()));
            }
            false => *self.left_out.entry(report.outcome).or_default() += 1,
        }
        if let Some(error) = report.error {
            if error.kind().may_pass() && self.passing_error.is_none() {
                self.passing_error = Some(error.clone());
            }
            if self
                .error
                .as_ref()
                .is_none_or(|(outcome, _)| report.outcome < *outcome)
            {
                self.error = Some((report.outcome, error));
            }
        }
    }

    /// Adds several.
    pub fn extend(&mut self, reports: impl IntoIterator<Item = Report>) {
        reports.into_iter().for_each(|report| self.add(report));
    }

    /// Logs how often each outcome came up, as images that are up to date have no lines of their own.
    pub fn log_counts(&self) {
        let counts = serde_json::to_string(&self.counts).unwrap_or_default();
        tracing::info!(%counts, "the run has ended");
    }

    /// Logs the metrics of the invocation. `token_expires_at` is when the first of the GitHub tokens expires.
    pub fn log_metrics(&self, token_expires_at: Option<SystemTime>) {
        for document in self.metrics.documents(SystemTime::now(), token_expires_at) {
            tracing::error!(target: metrics::TARGET, metrics = %document);
        }
    }

    /// Counts a message that was received so often.
    pub fn received(&mut self, receive_count: u32) {
        self.metrics.received(receive_count);
    }

    /// Counts a scheduled run that got to its end. One that was refused everything, as with a token that is no longer valid, has
    /// found nothing out: each of its failures is one that the next run finds again, so nothing else would tell of it.
    pub fn completed_run(&mut self) {
        if self.saw_anything || !self.was_refused {
            self.metrics.completed_run();
        }
    }

    /// Says what all that a dry run would copy comes to.
    pub fn add_up(&mut self, sum: Option<Sum>) {
        self.sum = sum;
    }

    /// Whether one ended so.
    pub fn has(&self, outcome: Outcome) -> bool {
        self.counts.contains_key(&outcome)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The first that occurs, in the order of [`Outcome`].
    pub fn outcome(&self) -> Outcome {
        self.counts
            .keys()
            .next()
            .copied()
            .unwrap_or(Outcome::Ignored)
    }

    /// The error that stands for all.
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref().map(|(_, error)| error)
    }

    /// The first error that may pass if the same is done again.
    pub fn passing_error(&self) -> Option<&Error> {
        self.passing_error.as_ref()
    }

    /// The result for a caller that gets failures as function errors: the reports, or the error that stands for all.
    ///
    /// # Errors
    /// The error of the first failed report, else of the first deferred one.
    pub fn result(self) -> Result<Self, Error> {
        match self.error {
            Some((_, error)) => Err(error),
            None => Ok(self),
        }
    }
}

fn is_refused_package(report: &Report) -> bool {
    let is_whole = matches!(
        report.subject,
        Some(Subject::Package { .. } | Subject::Rule { .. } | Subject::Owner { .. })
    );
    let kind = report.error.as_ref().map(Error::kind);
    is_whole && kind == Some(Kind::Denied)
}

/// One report as it is, several under the outcome that stands for all; after those of a dry run, what they come to.
impl Serialize for Reports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let ([report], true) = (self.kept.as_slice(), self.left_out.is_empty()) {
            return report.serialize(serializer);
        }
        let mut body = serializer.serialize_map(None)?;
        body.serialize_entry("outcome", &self.outcome())?;
        body.serialize_entry("reports", &self.kept)?;
        if !self.left_out.is_empty() {
            body.serialize_entry("left_out", &self.left_out)?;
        }
        if let Some(sum) = &self.sum {
            body.serialize_entry("sum", sum)?;
        }
        body.end()
    }
}

/// A report as JSON text, which takes a tenth of the memory that its values do. They are there for one report at a time.
struct Line(Box<str>);

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let report: Value = serde_json::from_str(&self.0).map_err(S::Error::custom)?;
        report.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_has_an_end_and_counts_what_it_leaves_out() {
        let mut reports = Reports::default();
        for number in 0..60_000 {
            let subject = Subject::package(&format!("acme/{number:0100}"));
            reports.add(Report::ignored(Some(subject), "x".repeat(100)));
        }
        let body = serde_json::to_value(&reports).unwrap_or_default();
        let kept = body["reports"].as_array().map_or(0, Vec::len) as u64;
        assert_eq!(
            kept + body["left_out"]["ignored"].as_u64().unwrap_or(0),
            60_000
        );
        assert!((4_900_000..6_000_000).contains(&body.to_string().len()));
    }
}
