//! Deletes at a destination what a rule has copied and the source no longer has, where the rule says `prune`.
//!
//! A tag that is gone by mistake is worse than one that stays, so in every doubt it stays: if the source's list is empty, if more
//! than half would go, if several packages share the repository, or if the tag was pushed within the last day.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::tags::Place;
use super::{REQUESTS, Run, to_place};
use crate::aws::images::{DELETED_TOGETHER, Image};
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

/// A tag of the destination, and the source's tags that it may stand for.
type Standing = (String, Vec<String>);

/// What is gone at the source.
#[derive(Debug, Default, PartialEq)]
struct Gone {
    /// The destination's tags to delete.
    tags: Vec<Standing>,
    /// How many of the destination's tags this rule writes.
    of: usize,
}

/// What was done at one destination, whatever came after.
#[derive(Debug, Default)]
struct Deleted {
    /// The tags that were deleted, or in a dry run would be.
    tags: Vec<String>,
    /// What to say of those that ECR keeps.
    warnings: Vec<String>,
}

impl Run<'_> {
    /// Deletes at every destination what is gone at the source, and reports it.
    pub(super) async fn prune(&self, pruned: &Pruned<'_>, places: &[Place], reports: &mut Reports) {
        if pruned.listed.is_empty() {
            return;
        }
        let mut named = HashSet::new();
        for place in places.iter().filter(|place| !place.is_refused()) {
            let mut deleted = Deleted::default();
            let work = self.prune_place(pruned, place, places, &mut deleted);
            let ended = self.deadline.bound(work).await;
            // What a dry run leaves is there for the next destination in the same repository.
            let is_new = |tag: &String| named.insert(place.repository.reference(tag));
            deleted.tags.retain(is_new);
            if ended.is_ok() && deleted.tags.is_empty() && deleted.warnings.is_empty() {
                continue;
            }
            let subject = to_place(pruned.package, &place.destination);
            let mut report = match ended {
                Err(error) => Report::failed(Some(subject), error),
                Ok(()) if self.dry_run => Report::repository(subject, Outcome::Planned),
                Ok(()) => Report::repository(subject, Outcome::Current),
            };
            report.pruned = deleted.tags;
            for warning in deleted.warnings {
                report.warn(warning);
            }
            reports.add(report);
        }
    }

    /// Notes in `deleted` what is done.
    async fn prune_place(
        &self,
        pruned: &Pruned<'_>,
        place: &Place,
        places: &[Place],
        deleted: &mut Deleted,
    ) -> Result<()> {
        let destination = &place.destination;
        let gone = self.gone_at(pruned, destination, places).await?;
        // The list may have been incomplete; the tags themselves tell.
        let gone = absent(pruned.source, &gone).await?;
        if self.dry_run {
            deleted.tags = gone.into_iter().map(|(tag, _)| tag).collect();
            return Ok(());
        }
        for together in gone.chunks(DELETED_TOGETHER) {
            // One may have come back meanwhile: there may have been many to look at, and to delete.
            let together = absent(pruned.source, together).await?;
            let tags: Vec<String> = together.into_iter().map(|(tag, _)| tag).collect();
            if tags.is_empty() {
                continue;
            }
            let repositories = &self.invocation.copier.repositories;
            let failures = repositories.delete_tags(destination, &tags).await?;
            let is_deleted = |tag: &String| failures.iter().all(|(failed, _)| failed != tag);
            deleted.tags.extend(tags.into_iter().filter(is_deleted));
            let warnings = failures.iter();
            let warnings =
                warnings.map(|(tag, reason)| format!("tag {tag} was not deleted: {reason}"));
            deleted.warnings.extend(warnings);
        }
        Ok(())
    }

    /// The tags of a destination that are gone by the source's list.
    ///
    /// # Errors
    /// [`Error::Rule`] if none of them may be deleted; what ECR refuses.
    async fn gone_at(
        &self,
        pruned: &Pruned<'_>,
        destination: &Destination,
        places: &[Place],
    ) -> Result<Vec<Standing>> {
        let is_own = destination.tag.source_tag("x").is_some() || destination.tag.follows_the_tag();
        if !is_own {
            return Ok(Vec::new());
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
        match gone.tags.len() * 2 > gone.of {
            true => Err(Error::Rule(format!(
                "{} of {} tags in {} are gone at the source, which is more than half, so none of them was deleted: if that is right, delete them by hand",
                gone.tags.len(),
                gone.of,
                destination.place()
            ))),
            false => Ok(gone.tags),
        }
    }
}

/// Those of `gone` whose tags the source itself does not have: one HEAD request for each.
async fn absent(source: &Repository, gone: &[Standing]) -> Result<Vec<Standing>> {
    let looks = gone.iter().map(async |standing| {
        for source_tag in &standing.1 {
            let resolve = || source.resolve(source_tag);
            if retry(source.observer(), resolve).await?.is_some() {
                return Ok(None);
            }
        }
        Ok(Some(standing.clone()))
    });
    let looks = stream::iter(looks).buffered(REQUESTS);
    looks
        .try_filter_map(async |standing| Ok(standing))
        .try_collect()
        .await
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
