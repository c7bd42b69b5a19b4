//! Signatures and attestations: what refers to an image, brought to where the image is.
//!
//! GHCR has no referrers API, so clients keep an index of an image's OCI referrers under a fallback tag, `sha256-<digits>`, and cosign
//! keeps what it writes under tags of its own, `sha256-<digits>.sig` and the like. One list of the package's tags tells which of them
//! there are, whatever number of manifests the image has; a registry that has the API is asked through it, too.
//!
//! OCI referrers are copied by digest, as their `subject` makes the destination list them; what is under cosign's tags is copied under
//! the same tags. The fallback tag itself is not copied: ECR has the API. Each is a copy of its own by the engine, after that of the
//! image, which is complete without it: what the destination refuses is a warning, and what may pass a failure of the job.

mod brought;
mod known;
mod parts;

use std::borrow::Cow;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, future, stream};

use self::brought::{Brought, Trouble};
pub use self::known::ReferrerTags;
use self::known::{Known, Listed, What};
use crate::copy::places::Places;
use crate::copy::report::{Figures, Outcome, Report, Subject};
use crate::copy::{Copy, Shared, Target};
use crate::error::{Error, Result};
use crate::manifest::Digest;
use crate::platform::Form;
use crate::reference::{ReferrerTag, Version};
use crate::registry::Repository;
use crate::retry::retry;

/// So many referrers are brought for one image, those of its children included. Hardly an image has ten; an index under a fallback
/// tag has room for tens of thousands, and anybody who may push can fill it.
const REFERRERS_LIMIT: usize = 500;

/// How far referrers of referrers are followed: a signature of an SBOM of an image is the second level.
const DEPTH_LIMIT: usize = 3;

/// So long the referrers API has to show that it is there. GHCR's answer in its place comes from a web site.
const API_PATIENCE: Duration = Duration::from_secs(5);

/// So long one of several destinations has to say whether it has what is referred to.
const LATENESS: Duration = Duration::from_secs(5);

/// Indexes that are read at once, each of up to 4 MiB.
const READS: usize = 4;

/// Looks under way at once.
const LOOKS: usize = 16;

/// So many looks are made ready at a time.
const LOOKS_TOGETHER: usize = 512;

/// Copies under way at once, and the destinations of all of them together: each is a connection, and a process on Lambda may have 1,024
/// files open. (AWS Lambda developer guide, "Lambda quotas")
const COPIES: usize = 4;
const COPIES_TO_DESTINATIONS: usize = 64;

/// What refers to the images of one package, from the source to some destinations.
pub struct Referrers<'a> {
    /// Where they are read, observed by an observer of its own.
    pub source: Repository,
    /// Where they go, each observed by an observer of its own: at most 64.
    pub destinations: Vec<Repository>,
    /// Plan only; change nothing.
    pub dry_run: bool,
    /// Look at every blob and manifest although the digest is equal.
    pub force: bool,
    /// The limits and the deadline of the invocation.
    pub shared: &'a Shared,
}

/// A manifest whose referrers are brought to the destinations `at`, which have it or, in a dry run, would get it.
struct Referred {
    digest: Digest,
    at: Places,
}

/// Something that refers to a manifest.
struct Found {
    subject: Digest,
    what: What,
    /// What the source has under the tag, once that is known.
    digest: Option<Digest>,
    /// The destinations that are to have it.
    at: Places,
    /// Those of them that have it.
    present: Places,
}

impl Referrers<'_> {
    /// Brings what refers to an image that was copied, or found to be current, in these forms; and adds to its reports what came of
    /// that. A destination whose copy failed is left alone: the job is done again, or there is nothing to refer to.
    pub async fn of_image(&self, forms: &[Form], reports: &mut [Report]) {
        let begin = Instant::now();
        let arrived = |report: &Report| match report.outcome {
            Outcome::Copied | Outcome::Current | Outcome::Planned => {
                report.figures.as_ref()?.source_digest
            }
            _ => None,
        };
        let tops: Vec<Option<Digest>> = reports.iter().map(arrived).collect();
        if tops.iter().all(Option::is_none) {
            return;
        }
        let mut brought = self.nothing_yet();
        let work = self.bring_of_images(&tops, forms, &mut brought);
        // Boxed, as it is large.
        let ended = self.shared.deadline.bound(Box::pin(work)).await;
        for (place, (mut brought, report)) in brought.into_iter().zip(reports).enumerate() {
            if tops[place].is_some() {
                brought.end(&ended);
                self.account(place, brought, report, begin.elapsed());
            }
        }
    }

    /// Brings what refers to the manifest that `tag` is made of, since something was pushed under that tag. Gives a report for each
    /// destination; one that does not have the manifest is left alone.
    ///
    /// A tag that was announced is waited for, and that it is not there is an error: GHCR can be late to show it.
    pub async fn of_tag(
        &self,
        tag: ReferrerTag,
        announced: Option<Digest>,
        source: &str,
    ) -> Vec<Report> {
        self.of_manifest(tag.subject, source, async |brought| {
            let tags = self.list(brought).await?;
            Ok(Known::by_tags(Cow::Owned(tags.with(tag, announced))))
        })
        .await
    }

    /// As [`Referrers::of_tag`] for a manifest of which something is under `tags`, which are known.
    pub async fn of_subject(
        &self,
        subject: Digest,
        tags: &ReferrerTags,
        source: &str,
    ) -> Vec<Report> {
        let known = Known::by_tags(Cow::Borrowed(tags));
        self.of_manifest(subject, source, async |_| Ok(known)).await
    }

    async fn of_manifest<'k>(
        &self,
        subject: Digest,
        source: &str,
        known: impl AsyncFnOnce(&mut [Brought]) -> Result<Known<'k>>,
    ) -> Vec<Report> {
        let begin = Instant::now();
        let mut looked: Vec<Option<Result<Option<Digest>>>> = vec![None; self.destinations.len()];
        let mut brought = self.nothing_yet();
        let work = async {
            looked = self.resolved(&subject).await;
            let has = |looked: &Option<_>| matches!(looked, Some(Ok(Some(_))));
            let at = looked.iter().enumerate().filter(|(_, looked)| has(looked));
            let at = at.fold(Places::default(), |at, (place, _)| at.with(place));
            let at = self.each_repository_once(at);
            if at.is_empty() {
                return Ok(());
            }
            let known = known(&mut brought).await?;
            let subjects = vec![Referred {
                digest: subject,
                at,
            }];
            self.bring(subjects, &known, &mut brought).await;
            Ok(())
        };
        let ended = self.shared.deadline.bound(Box::pin(work)).await;
        let mut reports = Vec::new();
        for (place, (mut brought, looked)) in brought.into_iter().zip(looked).enumerate() {
            let destination = self.destinations[place].reference(&subject.to_string());
            let about = Subject::Copy {
                source: source.to_owned(),
                destination: destination.clone(),
            };
            let has = match looked {
                Some(Ok(None)) => {
                    let reason = format!(
                        "{destination} is not there, and this refers to it: it comes with its image, if that is copied"
                    );
                    reports.push(Report::ignored(Some(about), reason));
                    continue;
                }
                Some(Err(error)) => Err(error),
                Some(Ok(Some(_))) => Ok(Outcome::Current),
                None => Err(ended.clone().err().unwrap_or(Error::Deadline)),
            };
            let mut report = Report::copy(about, has, Figures::default());
            if report.error.is_none() {
                brought.end(&ended);
            }
            self.account(place, brought, &mut report, begin.elapsed());
            reports.push(report);
        }
        reports
    }

    /// Which destinations have a manifest. Of several, one that stands still is left to the next try of the job, so that it keeps
    /// nothing from the others.
    async fn resolved(&self, digest: &Digest) -> Vec<Option<Result<Option<Digest>>>> {
        let digest = digest.to_string();
        let looks = self.destinations.iter().map(async |destination| {
            let look = retry(destination.observer(), || destination.resolve(&digest));
            let looked = match self.destinations.len() {
                1 => look.await,
                _ => {
                    let looked = tokio::time::timeout(LATENESS, look).await;
                    looked.unwrap_or_else(|_| Err(destination.late(&digest)))
                }
            };
            Some(looked)
        });
        future::join_all(looks).await
    }

    async fn bring_of_images(
        &self,
        tops: &[Option<Digest>],
        forms: &[Form],
        brought: &mut [Brought],
    ) -> Result<()> {
        let Some(first) = tops.iter().flatten().next() else {
            return Ok(());
        };
        // The answer tells only whether there is the API: GHCR's refusal of it says nothing of the image, and is never tried again.
        let asked = tokio::time::timeout(API_PATIENCE, self.source.referrers(first));
        let (tags, api) = future::join(self.list(brought), asked).await;
        let known = Known {
            tags: Cow::Owned(tags?),
            has_api: matches!(api, Ok(Ok(Some(_)))),
        };
        if known.is_empty() {
            return Ok(());
        }
        let mut images: Vec<(Digest, Places)> = Vec::new();
        for (place, top) in tops.iter().enumerate() {
            let Some(top) = top else { continue };
            match images.iter_mut().find(|(digest, _)| digest == top) {
                Some((_, at)) => *at = at.with(place),
                None => images.push((*top, Places::default().with(place))),
            }
        }
        for (top, at) in images {
            let subjects = self.referred(top, at, forms, &known, brought).await;
            self.bring(subjects, &known, brought).await;
        }
        Ok(())
    }

    /// The tags of signatures and attestations that the package has. That they can't be learnt for good is a warning.
    async fn list(&self, brought: &mut [Brought]) -> Result<ReferrerTags> {
        let listed = retry(self.source.observer(), || self.source.tags()).await;
        match listed {
            Ok(tags) => Ok(ReferrerTags::among(&tags)),
            Err(error) if error.kind().may_pass() => Err(error),
            Err(error) => {
                let warning = format!("signatures and attestations can't be looked for: {error}");
                brought
                    .iter_mut()
                    .for_each(|brought| brought.warn(warning.clone()));
                Ok(ReferrerTags::default())
            }
        }
    }

    /// Brings what refers to `subjects`, and what refers to that. Each manifest is a subject once, so a circle of lists has an end.
    async fn bring(&self, subjects: Vec<Referred>, known: &Known<'_>, brought: &mut [Brought]) {
        let mut met: HashSet<Digest> = subjects.iter().map(|subject| subject.digest).collect();
        let (mut subjects, mut room) = (subjects, REFERRERS_LIMIT);
        for _ in 0..DEPTH_LIMIT {
            let mut found = self.find(&subjects, known, &mut room, brought).await;
            self.look(&mut found, brought).await;
            self.copy_all(&mut found, brought).await;
            let referred = found.into_iter().filter_map(|found| {
                let digest = found.digest.filter(|digest| known.may_have(digest))?;
                let is_new = !found.present.is_empty() && met.insert(digest);
                is_new.then_some(Referred {
                    digest,
                    at: found.present,
                })
            });
            subjects = referred.collect();
            if subjects.is_empty() {
                return;
            }
        }
    }

    /// What refers to each of `subjects`, as far as there is `room`.
    async fn find(
        &self,
        subjects: &[Referred],
        known: &Known<'_>,
        room: &mut usize,
        brought: &mut [Brought],
    ) -> Vec<Found> {
        // What is read of one index is given back when the next is read, so all of them share one allowance.
        let allowance = self.shared.memory.allowance();
        let looks: Vec<_> = subjects
            .iter()
            .take(*room)
            .map(|subject| known.listed(&self.source, subject.digest, &allowance))
            .collect();
        let mut looks = stream::iter(looks).buffered(READS);
        let mut found = Vec::new();
        let mut left_out = vec![0; brought.len()];
        for subject in subjects {
            let Some(Listed { what, troubles }) = looks.next().await else {
                subject.at.iter().for_each(|place| left_out[place] += 1);
                continue;
            };
            for place in subject.at.iter() {
                let troubles = troubles.iter().cloned();
                troubles.for_each(|trouble| brought[place].trouble(trouble));
            }
            // The last ones of a list are the newest.
            let excess = what.len().saturating_sub(*room);
            *room -= what.len() - excess;
            subject
                .at
                .iter()
                .for_each(|place| left_out[place] += excess);
            found.extend(what.into_iter().skip(excess).map(|what| Found {
                subject: subject.digest,
                digest: what.digest(),
                what,
                at: subject.at,
                present: Places::default(),
            }));
        }
        for (brought, left_out) in brought.iter_mut().zip(left_out) {
            if left_out > 0 {
                brought.warn(format!(
                    "{left_out} signatures and attestations are left out: at most {REFERRERS_LIMIT} are copied with an image, the newest of each list"
                ));
            }
        }
        found
    }

    /// Which destinations have what is known by its digest: one HEAD request for each. What is under a tag is compared when it is copied.
    async fn look(&self, found: &mut [Found], brought: &mut [Brought]) {
        if self.force {
            return;
        }
        let mut looks = Vec::new();
        for (position, found) in found.iter().enumerate() {
            if let What::Manifest(digest) = &found.what {
                looks.extend(found.at.iter().map(|place| (position, place, *digest)));
            }
        }
        // A look that has not begun is as large as one under way, and there may be thousands.
        for together in looks.chunks(LOOKS_TOGETHER) {
            let looks = together.iter().map(async |(position, place, digest)| {
                let destination = &self.destinations[*place];
                let digest = digest.to_string();
                let resolve = || destination.resolve(&digest);
                let looked = retry(destination.observer(), resolve).await;
                (*position, *place, looked)
            });
            let looks: Vec<_> = looks.collect();
            let mut looks = stream::iter(looks).buffer_unordered(LOOKS);
            while let Some((position, place, looked)) = looks.next().await {
                let found = &mut found[position];
                match looked {
                    Ok(Some(_)) => found.present = found.present.with(place),
                    Ok(None) => {}
                    Err(error) => {
                        found.at = found.at.without(place);
                        brought[place].trouble(found.failure(error));
                    }
                }
            }
        }
    }

    /// Copies each to the destinations that lack it.
    async fn copy_all(&self, found: &mut [Found], brought: &mut [Brought]) {
        let copies: Vec<_> = found
            .iter()
            .map(|found| Box::pin(self.copy(found)))
            .collect();
        let at_once = COPIES_TO_DESTINATIONS / self.destinations.len().max(1);
        let mut copies = stream::iter(copies).buffered(at_once.clamp(1, COPIES));
        let (mut arrived, mut position) = (Vec::new(), 0);
        // What has come is noted at once: the deadline may cut the rest.
        while let Some(reports) = copies.next().await {
            for (place, report) in reports {
                match report.error.clone() {
                    Some(error) => brought[place].trouble(found[position].failure(error)),
                    None => {
                        brought[place].arrived(&report);
                        let digest = report.figures.and_then(|figures| figures.source_digest);
                        arrived.push((position, place, digest));
                    }
                }
            }
            position += 1;
        }
        drop(copies);
        for (position, place, digest) in arrived {
            let found = &mut found[position];
            found.present = found.present.with(place);
            found.digest = found.digest.or(digest);
        }
    }

    async fn copy(&self, found: &Found) -> Vec<(usize, Report)> {
        let places: Vec<usize> = found.at.except(found.present).iter().collect();
        if places.is_empty() {
            return Vec::new();
        }
        let version = found.what.version();
        let target = Target {
            tag: version.tag().map(str::to_owned),
            form: Form::Whole,
        };
        let copy = Copy {
            source: self.source.clone(),
            version: &version,
            destinations: places
                .iter()
                .map(|place| self.destinations[*place].clone())
                .collect(),
            targets: vec![target; places.len()],
            dry_run: self.dry_run,
            force: self.force,
            // cosign's own manifests say by their tag alone what they are about.
            subject: matches!(version, Version::Digest(_)).then_some(found.subject),
            gate: None,
        };
        let reports = copy.run(self.shared).await;
        places.into_iter().zip(reports).collect()
    }

    fn nothing_yet(&self) -> Vec<Brought> {
        self.destinations
            .iter()
            .map(|_| Brought::default())
            .collect()
    }

    /// The first of `places` that is in the same repository as `place`. What refers to an image is in a repository once, whatever
    /// number of tags the image has there.
    fn first_of_repository(&self, place: usize, places: Places) -> usize {
        let name = self.destinations[place].prefix();
        let mut same = places
            .iter()
            .filter(|other| self.destinations[*other].prefix() == name);
        same.next().unwrap_or(place)
    }

    fn each_repository_once(&self, places: Places) -> Places {
        let firsts = places
            .iter()
            .map(|place| self.first_of_repository(place, places));
        firsts.fold(Places::default(), Places::with)
    }

    /// Adds to the report of a destination what was brought there, and what that took.
    fn account(&self, place: usize, brought: Brought, report: &mut Report, elapsed: Duration) {
        let counts = self.destinations[place].observer().counts();
        let at_source = self.source.observer().counts();
        let figures = Figures::of_several(at_source, counts, place == 0);
        brought.add_to(report, figures, elapsed);
    }
}

impl Found {
    fn failure(&self, error: Error) -> Trouble {
        Trouble::Failure {
            what: format!("{} of {}", self.what.name(), self.subject),
            is_announced: self.what.is_announced(),
            error,
        }
    }
}
