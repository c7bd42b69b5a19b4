//! The signatures and attestations of a package's images, where its rule asks for them: those that came after their image, and those
//! whose own event was lost.
//!
//! They are brought in the run itself and not enqueued. Nothing but a try tells whether ECR accepts one, and nothing remembers
//! that it did not: so one that is refused costs each run a request, and no message.

use futures_util::{StreamExt, stream};

use super::tags::Place;
use super::{REQUESTS, Run};
use crate::copy::report::{Outcome, Report, Subject};
use crate::manifest::Digest;
use crate::referrers::{ReferrerTags, Referrers};
use crate::registry::Repository;
use crate::reports::Reports;

impl Run<'_> {
    /// Brings what is under `tags` to the destinations that have what it refers to: one HEAD request to each destination for each
    /// manifest that tags are made of, and none if there is no such tag.
    pub(super) async fn compare_signatures(
        &self,
        source: &Repository,
        places: &[Place],
        tags: &ReferrerTags,
        reports: &mut Reports,
    ) {
        let mut destinations: Vec<&Repository> = Vec::new();
        for place in places.iter().filter(|place| !place.is_refused()) {
            let name = place.repository.prefix();
            if destinations.iter().all(|other| other.prefix() != name) {
                destinations.push(&place.repository);
            }
        }
        let mut subjects: Vec<Digest> = tags.subjects().collect();
        if destinations.is_empty() || subjects.is_empty() {
            return;
        }
        let start = self.elsewhere(subjects.len());
        subjects.rotate_left(start);
        let at_once = (REQUESTS / (destinations.len() + 1)).clamp(1, 8);
        let looks = subjects.iter().map(async |subject| {
            let destinations = destinations.iter().copied().cloned();
            let referrers = Referrers {
                source: source.clone().observed(),
                destinations: destinations.map(Repository::observed).collect(),
                dry_run: self.dry_run,
                force: false,
                shared: &self.invocation.shared,
            };
            let name = source.reference(&subject.to_string());
            Box::pin(referrers.of_subject(*subject, tags, &name)).await
        });
        let mut looks = stream::iter(looks).buffer_unordered(at_once);
        let mut left = subjects.len();
        loop {
            match self.deadline.bound(async { Ok(looks.next().await) }).await {
                Ok(Some(brought)) => {
                    left -= 1;
                    // Most packages have signatures of images that the rule leaves out, or that were copied when it was another.
                    let is_about = |report: &Report| report.outcome != Outcome::Ignored;
                    reports.extend(brought.into_iter().filter(is_about));
                }
                Ok(None) => return,
                Err(error) => {
                    let subject = subjects.first().map(|subject| Subject::Image {
                        source: source.reference(&subject.to_string()),
                    });
                    let mut report = Report::failed(subject, error);
                    report.reason = Some(format!(
                        "the signatures of {left} of {} manifests were not compared in this run",
                        subjects.len()
                    ));
                    return reports.add(report);
                }
            }
        }
    }
}
