//! The repositories of a package's destinations, put right once in a run.

use futures_util::{StreamExt, stream};

use super::ages::Ages;
use super::packages::Compared;
use super::tags::Place;
use super::{Run, to_place};
use crate::copy::report::{Outcome, Report};
use crate::reports::Reports;
use crate::repositories::key;

/// Repositories of one package that are looked at side by side. The ECR API's own quotas are generous, and each look is a few calls.
const REPOSITORIES: usize = 4;

impl Run<'_> {
    /// Creates those repositories that are missing, if the rule says so and one of `tags` is to be copied there, and puts right what
    /// differs from the rule. What agrees gives no report.
    pub(super) async fn put_right(
        &self,
        compared: &Compared<'_>,
        places: &[Place],
        (tags, ages): (&[String], &Ages<'_>),
        reports: &mut Reports,
    ) {
        let Some(rule) = compared.rule.repository() else {
            return;
        };
        if !rule.create && rule.settings.is_empty() {
            return;
        }
        let repositories = &self.invocation.copier.repositories;
        // Several packages may share a repository.
        let is_first = |place: &&Place| self.is_first_look(key(&place.destination));
        let outcomes = places.iter().filter(is_first).map(async |place| {
            let is_needed = async || {
                place.repository.expect_no_upstream().await?;
                Ok(ages.is_one_enough(tags).await)
            };
            let put_right =
                repositories.put_right(&place.destination, rule, self.dry_run, is_needed);
            // Boxed, as it is large.
            let put_right = Box::pin(put_right);
            let bounded = self.deadline.bound(async { Ok(put_right.await) });
            (place, bounded.await)
        });
        let mut outcomes = stream::iter(outcomes).buffered(REPOSITORIES);
        while let Some((place, outcome)) = outcomes.next().await {
            let subject = to_place(&compared.package, &place.destination);
            let outcome = match outcome {
                Ok(outcome) => outcome,
                Err(error) => {
                    reports.add(Report::failed(Some(subject), error));
                    continue;
                }
            };
            match (&outcome.error, outcome.exists) {
                // Every tag fails with it alike.
                (Some(error), Some(false)) => {
                    place.refuse(error.clone());
                    continue;
                }
                (None, Some(true)) if outcome.report.is_some() => place.is_made(),
                // All tags are too young. Another package may have one that is not; and should one of these be old enough a moment later,
                // its job creates the repository.
                (None, Some(false)) => {
                    self.look_again(&key(&place.destination));
                    place.is_made();
                }
                _ => {}
            }
            if outcome.is_silent() {
                continue;
            }
            let mut report = match &outcome.error {
                Some(error) => Report::failed(Some(subject), error.clone()),
                None if self.dry_run && outcome.report.is_some() => {
                    Report::repository(subject, Outcome::Planned)
                }
                None => Report::repository(subject, Outcome::Current),
            };
            outcome.attach(&mut report);
            reports.add(report);
        }
    }
}
