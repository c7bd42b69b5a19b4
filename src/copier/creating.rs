//! A copy whose rule says that missing repositories are created.
//!
//! Where the rule names settings, a look goes before the first copy, since ECR itself may create a repository on push, and with
//! what it encrypts that can't be changed any more. Otherwise the copy finds out what is missing, which costs nothing where
//! nothing is.

use std::time::Instant;

use futures_util::future;

use super::Copier;
use crate::allowance::Allowance;
use crate::copy::report::{Outcome, Report};
use crate::copy::{Admission, Shared};
use crate::destination::Destination;
use crate::error::{Error, Kind, Result, Side};
use crate::job::{Job, Origin};
use crate::repositories::{self, key};
use crate::retry::retry;
use crate::rules::repository::RepositoryRule;
use crate::rules::{Rule, Rules};

/// What has become of one destination so far.
struct Slot<'a> {
    destination: &'a Destination,
    /// Whether the rule itself sends the package there, and not an event: only the rule's own repositories are created.
    is_ruled: bool,
    made: repositories::Outcome,
    /// None as long as there is something to copy.
    report: Option<Report>,
}

impl Copier {
    /// Makes the copy that a job asks for, and creates those of the rule's repositories that are missing. Gives a report for each
    /// destination.
    pub(super) async fn copy_creating(
        &self,
        job: &Job,
        rules: &Rules,
        shared: &Shared,
        (rule, repository): (&Rule, &RepositoryRule),
    ) -> Vec<Report> {
        let ruled = rule.destinations(&job.source, None).unwrap_or_default();
        let slot = |destination| Slot {
            destination,
            is_ruled: ruled.iter().any(|other| key(other) == key(destination)),
            made: repositories::Outcome::default(),
            report: None,
        };
        let mut slots: Vec<Slot<'_>> = job.destinations.iter().map(slot).collect();
        let began = Instant::now();
        if job.options.dry_run {
            self.fill(job, rules, shared, &mut slots).await;
            self.plan_creations(job, repository, shared, &mut slots)
                .await;
            return reports(slots);
        }
        if !repository.settings.is_empty() {
            let made = slots.iter().map(async |slot| {
                // Boxed, as it is large.
                let ahead = self.create_ahead(
                    job,
                    rules,
                    (rule, repository),
                    slot,
                    began,
                    shared.memory.allowance(),
                );
                let ahead = Box::pin(ahead);
                shared.deadline.bound(async { Ok(ahead.await) }).await
            });
            let made = future::join_all(made).await;
            for (slot, made) in slots.iter_mut().zip(made) {
                self.settle(job, slot, made);
            }
        }
        self.fill(job, rules, shared, &mut slots).await;
        let missing = |slot: &&mut Slot<'_>| {
            slot.is_ruled && slot.report.as_ref().is_some_and(is_repository_missing)
        };
        for slot in slots.iter_mut().filter(missing) {
            slot.report = None;
            let create = self.create(job, repository, slot.destination, began);
            let made = shared.deadline.bound(async { Ok(create.await) }).await;
            self.settle(job, slot, made);
        }
        self.fill(job, rules, shared, &mut slots).await;
        reports(slots)
    }

    /// Copies to the destinations that have no report yet.
    async fn fill(&self, job: &Job, rules: &Rules, shared: &Shared, slots: &mut [Slot<'_>]) {
        let mut open: Vec<&mut Slot<'_>> = slots
            .iter_mut()
            .filter(|slot| slot.report.is_none())
            .collect();
        if open.is_empty() {
            return;
        }
        let job = Job {
            destinations: open.iter().map(|slot| slot.destination.clone()).collect(),
            ..job.clone()
        };
        let reports = Box::pin(self.copy_to_existing(&job, rules, shared)).await;
        for (slot, report) in open.iter_mut().zip(reports) {
            slot.report = Some(report);
        }
    }

    /// Creates a repository before anything is pushed to it, if it is missing.
    async fn create_ahead(
        &self,
        job: &Job,
        rules: &Rules,
        (rule, repository): (&Rule, &RepositoryRule),
        slot: &Slot<'_>,
        began: Instant,
        allowance: Allowance,
    ) -> repositories::Outcome {
        if !slot.is_ruled {
            return repositories::Outcome::default();
        }
        let is_missing = self.repositories.is_missing(slot.destination).await;
        // What fails here fails in the copy too, or is found out by it.
        if !is_missing.unwrap_or_default() {
            return repositories::Outcome::default();
        }
        // None under a prefix whose repositories ECR fills itself.
        let destination = self.registries.destination(slot.destination).await;
        if let Ok(destination) = destination
            && destination.expect_no_upstream().await.is_err()
        {
            return repositories::Outcome::default();
        }
        // No repository for an image that is not there, can't be read, or is not to be copied.
        let source = self
            .registries
            .source(&job.source.package, rule.token_secret_id());
        let version = job.source.version.tag_or_digest();
        let Ok(Some(digest)) = source.resolve(&version).await else {
            return repositories::Outcome::default();
        };
        if let Some(gate) = self.gate(job, rules, &source)
            && !matches!(
                gate.admit(digest, &allowance).await,
                Ok(Admission::Admitted(_))
            )
        {
            return repositories::Outcome::default();
        }
        self.create(job, repository, slot.destination, began).await
    }

    async fn create(
        &self,
        job: &Job,
        repository: &RepositoryRule,
        destination: &Destination,
        began: Instant,
    ) -> repositories::Outcome {
        let mut made = self
            .repositories
            .create(destination, repository, began)
            .await;
        if made.error.is_none() {
            made.error = self.await_repository(job, destination).await.err();
        }
        made
    }

    /// Waits until the registry shows a repository that the API has created.
    async fn await_repository(&self, job: &Job, destination: &Destination) -> Result<()> {
        let repository = self.registries.destination(destination).await?;
        // Any tag will do: the refusal tells whether the repository is there.
        let tag = job.source.version.tag_or_digest();
        let is_shown = || async { repository.expect_exists(&tag).await.map_err(may_pass) };
        retry(repository.observer(), is_shown).await
    }

    /// Takes down what was made. Where that failed there is nothing to copy to.
    fn settle(&self, job: &Job, slot: &mut Slot<'_>, made: Result<repositories::Outcome>) {
        let mut made = made.unwrap_or_else(repositories::Outcome::failed);
        if let Some(error) = made.error.take() {
            let subject = self.subject(job, slot.destination);
            slot.report = Some(Report::failed(Some(subject), error));
        }
        // What was created before the copy stays told although the copy is made again.
        if made.report.is_some() || slot.made.report.is_none() {
            slot.made = made;
        }
    }

    /// Says which repositories would be created. A scheduled run has said it already, once for all tags.
    async fn plan_creations(
        &self,
        job: &Job,
        repository: &RepositoryRule,
        shared: &Shared,
        slots: &mut [Slot<'_>],
    ) {
        if job.options.origin == Some(Origin::Schedule) {
            return;
        }
        let is_planned = |slot: &&mut Slot<'_>| {
            let report = slot.report.as_ref();
            slot.is_ruled && report.is_some_and(|report| report.outcome == Outcome::Planned)
        };
        for slot in slots.iter_mut().filter(is_planned) {
            let plan = self.repositories.plan(slot.destination, repository);
            match shared.deadline.bound(plan).await {
                Ok(plan) => slot.made = plan,
                Err(error) => slot
                    .made
                    .warnings
                    .push(format!("whether the repository exists is unknown: {error}")),
            }
        }
    }
}

fn reports(slots: Vec<Slot<'_>>) -> Vec<Report> {
    let report = |slot: Slot<'_>| {
        let mut report = slot.report?;
        slot.made.attach(&mut report);
        Some(report)
    };
    slots.into_iter().filter_map(report).collect()
}

/// The destination's only way to say that something is not there that a push needs.
fn is_repository_missing(report: &Report) -> bool {
    let error = report.error.as_ref();
    error.is_some_and(|error| {
        (error.kind(), error.side()) == (Kind::NotFound, Some(Side::Destination))
    })
}

/// A repository that was created a moment ago and is not shown yet will be.
fn may_pass(error: Error) -> Error {
    match error {
        Error::Registry {
            side,
            operation,
            reference,
            kind: Kind::NotFound,
            detail,
            retry_after,
            ..
        } => Error::Registry {
            side,
            operation,
            reference,
            kind: Kind::Transient,
            detail,
            advice: "the repository was created a moment ago".to_owned(),
            retry_after,
        },
        other => other,
    }
}
