//! What a job leaves out of its rule's destinations: a scheduled run names only those that differ, and a dead letter only those that
//! failed. Whether every destination has an image can't be told from such a job alone.

use super::Copier;
use crate::copy::report::Report;
use crate::destination::{Destination, with_digest};
use crate::error::Result;
use crate::job::Job;
use crate::manifest::Digest;
use crate::retry::retry;
use crate::rules::Rules;

/// An image at a destination: its reference there, and its digest.
pub type Held = (String, Digest);

impl Copier {
    /// What the destinations have that the job leaves out; `None` if one of them lacks the image that the job has copied. A direct
    /// event names all that it is about.
    ///
    /// `reports` are the job's own, one for each of its destinations.
    ///
    /// # Errors
    /// What a destination refuses.
    pub async fn left_out(
        &self,
        job: &Job,
        rules: &Rules,
        reports: &[Report],
    ) -> Result<Option<Vec<Held>>> {
        let rule = rules.find(&job.source.package);
        let rule = rule.filter(|_| job.options.origin.is_some());
        let all = rule.and_then(|rule| rule.destinations(&job.source, None).ok());
        let all = all.unwrap_or_default();
        let is_of_rule = job.destinations.iter().all(|it| all.contains(it));
        let mut held = Vec::new();
        // A job that names others was made by other rules; and what has one tag for all stands for another image by right.
        let is_left_out = |it: &&Destination| {
            is_of_rule && !it.tag.is_one_for_all() && !job.destinations.contains(it)
        };
        for destination in all.iter().filter(is_left_out) {
            match self.held(job, destination, reports).await? {
                Some(it) => held.push(it),
                None => return Ok(None),
            }
        }
        Ok(Some(held))
    }

    /// What one of the destinations has, if it is the image: in the form that another one got, the same digest.
    async fn held(
        &self,
        job: &Job,
        destination: &Destination,
        reports: &[Report],
    ) -> Result<Option<Held>> {
        let figures = |report: &Report| report.figures.clone();
        let source_digest = reports.iter().find_map(|it| figures(it)?.source_digest);
        let tag = destination.tag.fill(&job.source.version).ok().flatten();
        let (Some(source_digest), Some(tag)) = (source_digest, tag) else {
            return Ok(None);
        };
        let tag = with_digest(&tag, &source_digest);
        let repository = self.registries.destination(destination).await?;
        let resolve = || repository.resolve(&tag);
        let Some(digest) = retry(repository.observer(), resolve).await? else {
            return Ok(None);
        };
        let alike = job.destinations.iter().zip(reports);
        let mut alike = alike.filter(|(other, _)| other.form == destination.form);
        let is_other =
            alike.any(|(_, report)| figures(report).and_then(|it| it.digest) != Some(digest));
        Ok((!is_other).then(|| (repository.reference(&tag), digest)))
    }
}
