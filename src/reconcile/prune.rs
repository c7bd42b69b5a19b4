//! Deletes at a destination what a rule has copied and the source no longer has, where the rule says `prune`.
//!
//! A tag that is gone by mistake is worse than one that stays, so in every doubt it stays: if the source's list is empty, if more
//! than half would go, if several packages share the repository, or if the tag was pushed within the last day.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use super::tags::Place;
use super::{Run, to_place};
use crate::aws::images::Image;
use crate::copy::report::{Outcome, Report};
use crate::destination::Destination;
use crate::error::{Error, Result};
use crate::registry::Repository;
use crate::reports::Reports;
use crate::retry::retry;
use crate::rules::Rule;

/// What was pushed within this time stays: the list of the source may be older.
const SETTLED: Duration = Duration::from_secs(24 * 60 * 60);

/// A package whose tags were all compared.
pub(super) struct Pruned<'a> {
    pub(super) rule: &'a Rule,
    pub(super) package: &'a str,
    pub(super) source: &'a Repository,
    /// Every tag at the source.
    pub(super) listed: &'a HashSet<String>,
}

/// What is gone at the source.
#[derive(Debug, Default, PartialEq)]
struct Gone {
    /// The destination's tags to delete, each with the source's tags that it may stand for.
    tags: Vec<(String, Vec<String>)>,
    /// How many of the destination's tags this rule writes.
    of: usize,
}

impl Run<'_> {
    /// Deletes at every destination what is gone at the source, and reports it.
    pub(super) async fn prune(&self, pruned: &Pruned<'_>, places: &[Place], reports: &mut Reports) {
        if pruned.listed.is_empty() {
            return;
        }
        for place in places.iter().filter(|place| !place.is_refused()) {
            let subject = to_place(pruned.package, &place.destination);
            match self
                .deadline
                .bound(self.prune_place(pruned, place, places))
                .await
            {
                Ok((tags, warnings)) if tags.is_empty() && warnings.is_empty() => {}
                Ok((tags, warnings)) => {
                    let outcome = match self.dry_run {
                        true => Outcome::Planned,
                        false => Outcome::Current,
                    };
                    let mut report = Report::repository(subject, outcome);
                    report.pruned = tags;
                    for warning in warnings {
                        report.warn(warning);
                    }
                    reports.add(report);
                }
                Err(error) => reports.add(Report::failed(Some(subject), error)),
            }
        }
    }

    /// Gives the tags that were deleted, or in a dry run would be, and what to say of those that ECR keeps.
    async fn prune_place(
        &self,
        pruned: &Pruned<'_>,
        place: &Place,
        places: &[Place],
    ) -> Result<(Vec<String>, Vec<String>)> {
        let destination = &place.destination;
        let is_own = destination.tag.source_tag("x").is_some() || destination.tag.follows_the_tag();
        if !is_own {
            return Ok((Vec::new(), Vec::new()));
        }
        if self.invocation.rules.is_shared(destination, pruned.package) {
            return Err(Error::Rule(format!(
                "nothing is pruned in {}: several packages may share it; give each a repository of its own, or leave `prune` out",
                destination.place()
            )));
        }
        let repositories = &self.invocation.copier.repositories;
        let images = repositories.tagged(destination).await?;
        // One registry can be written in several ways, so that only the names are compared.
        let same_repository = places.iter().map(|place| &place.destination);
        let same_repository =
            same_repository.filter(|other| other.repository == destination.repository);
        let siblings: Vec<&Destination> = same_repository.collect();
        let now = SystemTime::now();
        let gone = gone(pruned, destination, &siblings, &images, now);
        if gone.tags.len() * 2 > gone.of {
            return Err(Error::Rule(format!(
                "{} of {} tags in {} are gone at the source, which is more than half, so none of them was deleted: if that is right, delete them by hand",
                gone.tags.len(),
                gone.of,
                destination.place()
            )));
        }
        let mut tags = Vec::new();
        for (tag, source_tags) in gone.tags {
            // The list may have been incomplete; the tags themselves tell.
            let mut is_gone = true;
            for source_tag in &source_tags {
                let resolve = || pruned.source.resolve(source_tag);
                is_gone &= retry(pruned.source.observer(), resolve).await?.is_none();
            }
            if is_gone {
                tags.push(tag);
            }
        }
        if self.dry_run || tags.is_empty() {
            return Ok((tags, Vec::new()));
        }
        let failures = repositories.delete_tags(destination, &tags).await?;
        tags.retain(|tag| !failures.iter().any(|(failed, _)| failed == tag));
        let warnings = failures.iter();
        let warnings = warnings.map(|(tag, reason)| format!("tag {tag} was not deleted: {reason}"));
        Ok((tags, warnings.collect()))
    }
}

/// The tags of a destination that stand for tags that are gone. One that may stand for another tag by the pattern of another
/// destination in the same repository is gone only if that is, too.
fn gone(
    pruned: &Pruned<'_>,
    destination: &Destination,
    siblings: &[&Destination],
    images: &[Image],
    now: SystemTime,
) -> Gone {
    let is_listed = |tag: &String| pruned.listed.contains(tag);
    let mut gone = Gone::default();
    for image in images {
        let age = image.pushed_at.and_then(|at| now.duration_since(at).ok());
        let is_settled = age.is_some_and(|age| age > SETTLED);
        for tag in &image.tags {
            let Some(source_tag) = destination.tag.source_tag(tag) else {
                continue;
            };
            // What an excluded tag left behind may look like a tag that the rule admits.
            let left_behind = siblings.iter().filter(|other| other.tag.needs_digest());
            let mut left_behind = left_behind.filter_map(|other| other.tag.source_tag(tag));
            let is_refused = |tag: String| pruned.rule.refusal(&tag).is_some();
            if is_refused(source_tag) || left_behind.any(is_refused) {
                continue;
            }
            gone.of += 1;
            let sources = siblings
                .iter()
                .filter_map(|other| other.tag.source_tag(tag));
            let sources: Vec<String> = sources.collect();
            let is_constant = siblings.iter().any(|other| other.tag.is_constant(tag));
            if is_settled && !is_constant && !sources.iter().any(is_listed) {
                gone.tags.push((tag.clone(), sources));
            }
        }
    }
    gone
}
