//! What one invocation works with, and what it does with jobs: copies them at once, or enqueues them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};

use crate::aws::queue::{Draft, Queue};
use crate::copier::{Copier, Held};
use crate::copy::Shared;
use crate::copy::report::{Outcome, Report};
use crate::error::{Error, Kind};
use crate::job::Job;
use crate::publisher::{Publisher, is_complete};
use crate::rules::Rules;

/// Copies under way at once in one invocation. The blobs of all of them share one limit.
const COPIES: usize = 8;

/// How long it may take to see whether other destinations have an image that was copied: nothing but an event depends on it.
const LOOKING: Duration = Duration::from_secs(3);

/// One invocation's view of what lives across invocations, with its own deadline and limits.
pub struct Invocation<'a> {
    /// Carries out jobs.
    pub copier: &'a Copier,
    /// The rules in force.
    pub rules: Arc<Rules>,
    /// Without a queue, every job is copied in the invocation that asks for it.
    pub queue: Option<&'a Queue>,
    /// Tells the event bus, if there is one.
    pub publisher: Option<&'a Publisher>,
    /// Whether what fails now is tried again, so that a failure is no news yet.
    pub is_repeated: bool,
    /// What its copies share, its deadline among that.
    pub shared: Shared,
    /// Tells this invocation from every other one, a repetition of the same event included.
    pub nonce: String,
}

impl<'a> Invocation<'a> {
    /// The same, carried out by a copier with a lent token. Nothing is enqueued: the token is for this invocation alone.
    pub fn with_lent_token(self, copier: &'a Copier) -> Self {
        Invocation {
            copier,
            queue: None,
            ..self
        }
    }

    /// Copies several side by side; a failure stops none of the others.
    pub async fn copy_all(&self, jobs: Vec<Job>) -> Vec<Report> {
        let reports = stream::iter(&jobs)
            .map(|job| Box::pin(self.copy(job)))
            .buffered(COPIES);
        reports.concat().await
    }

    /// One copy, and those that follow from it.
    pub async fn copy(&self, job: &Job) -> Vec<Report> {
        let mut reports = self.copier.copy(job, &self.rules, &self.shared).await;
        self.publish(job, &mut reports).await;
        let is_cut = reports
            .iter()
            .any(|report| report.outcome == Outcome::Deferred);
        // A copy that is cut is resumed, and looks for the other tags then.
        if job.options.all_tags && !is_cut {
            let others = Box::pin(self.other_tags(job, &mut reports)).await;
            reports.extend(others);
        }
        reports
    }

    /// Tells the event bus what became of a job. What it does not take is a warning: the copy stays what it is.
    async fn publish(&self, job: &Job, reports: &mut [Report]) {
        let Some(publisher) = self.publisher else {
            return;
        };
        let others = match is_complete(job, reports) {
            true => self.left_out(job, reports).await,
            false => None,
        };
        let published = publisher.ended(job, reports, others.as_deref(), !self.is_repeated);
        let deadline = self.shared.deadline;
        if let Err(error) = deadline.bound_telling(published).await {
            tracing::warn!(%error, "the event bus was not told");
            if let Some(report) = reports.iter_mut().find(|it| it.figures.is_some()) {
                report.warn(format!("the event bus was not told: {error}"));
            }
        }
    }

    /// What the destinations have that a job leaves out; `None` if one lacks the image, or that can't be learnt.
    async fn left_out(&self, job: &Job, reports: &[Report]) -> Option<Vec<Held>> {
        let looked = self.copier.left_out(job, &self.rules, reports);
        let deadline = self.shared.deadline.within(LOOKING);
        let looked = deadline.bound(looked).await;
        looked.unwrap_or_else(|error| {
            tracing::warn!(%error, "whether every destination has the image is not known");
            None
        })
    }

    /// Tells the event bus what failed for good of the jobs of a message, which were asked for together.
    pub async fn publish_failed(&self, jobs: &[Job], reports: &[Report]) {
        let (Some(publisher), Some(job)) = (self.publisher, jobs.first()) else {
            return;
        };
        let published = publisher.failed(job, reports);
        if let Err(error) = self.shared.deadline.bound_telling(published).await {
            tracing::warn!(%error, "the event bus was not told");
        }
    }

    /// The other tags of what was copied: also where the tag that was named is excluded, failed or stands for something else by now.
    /// If GitHub can't be asked for them, a copy of the named tag gets a warning, as a scheduled run finds the others. Without
    /// such a copy nothing of the push has arrived, so it is a failure.
    async fn other_tags(&self, job: &Job, reports: &mut Vec<Report>) -> Vec<Report> {
        let copied = reports
            .iter()
            .filter_map(|report| report.figures.as_ref()?.source_digest)
            .next();
        let found = self.copier.other_tags(job, &self.rules, copied);
        match self.shared.deadline.bound(found).await {
            Ok(others) if job.options.dry_run => Box::pin(self.copy_all(others)).await,
            Ok(others) => Box::pin(self.enqueue(others)).await,
            Err(error) => {
                // A scheduled run follows the rules, not what somebody asked for.
                let promise = match job.options.origin {
                    Some(_) => ", a scheduled run will find them",
                    None => "",
                };
                let is_done =
                    |report: &&mut Report| report.figures.is_some() && report.error.is_none();
                match reports.iter_mut().find(is_done) {
                    // The look is all that is left, and the next invocation has time for it.
                    _ if error.kind() == Kind::Deadline => {
                        let subject = reports.first().and_then(|report| report.subject.clone());
                        reports.push(Report::failed(subject, error));
                    }
                    Some(report) => report.warn(format!(
                        "the other tags of this digest could not be learnt{promise}: {error}"
                    )),
                    // Nothing came of the push: what may pass is tried again, and anything else is told with the reason.
                    None if error.kind().may_pass() => {
                        let subject = reports.first().and_then(|report| report.subject.clone());
                        reports.push(Report::failed(subject, error));
                    }
                    None => {
                        let text =
                            format!("the other tags of this digest could not be learnt: {error}");
                        match reports.first_mut() {
                            Some(Report {
                                reason: Some(reason),
                                ..
                            }) => reason.push_str(&format!("; {text}")),
                            Some(report) => report.warn(text),
                            None => {}
                        }
                    }
                }
                Vec::new()
            }
        }
    }

    /// To the queue, or without one, at once.
    pub async fn enqueue(&self, jobs: Vec<Job>) -> Vec<Report> {
        let Some(queue) = self.queue else {
            return self.copy_all(jobs).await;
        };
        if jobs.is_empty() {
            return Vec::new();
        }
        let draft = |job: &Job| Draft {
            body: job.message(),
            group: job.group(),
        };
        let drafts: Vec<Draft> = jobs.iter().map(draft).collect();
        let sent = self
            .shared
            .deadline
            .bound(async { Ok(queue.send(&drafts, &self.nonce).await) });
        let results = sent
            .await
            .unwrap_or_else(|error: Error| jobs.iter().map(|_| Err(error.clone())).collect());
        let reports = jobs.iter().zip(results).flat_map(|(job, result)| {
            job.destinations.iter().map(move |destination| {
                let subject = self.copier.subject(job, destination);
                match &result {
                    Ok(()) => Report::queued(subject),
                    Err(error) => Report::failed(Some(subject), error.clone()),
                }
            })
        });
        reports.collect()
    }
}
