//! The engine: one image, from its source to every destination. It knows nothing of Lambda, of settings or of AWS's APIs.
//!
//! Look, decide, act: the source's tag and the destinations' are compared; where they differ, a survey shows what the image is
//! made of and what each destination has of it; a plan for each destination says what to do; and one transfer carries out all
//! plans. Counts are made by the repositories' observers, so a report can be written whenever the work ends.

mod blob;
mod carry;
mod fanout;
pub mod places;
pub mod plan;
mod progress;
mod push;
pub mod report;
mod sending;
pub mod survey;
mod transfer;

use std::time::{Duration, Instant};

use futures_util::future;

pub use self::carry::Shared;
use self::places::Places;
use self::plan::Plan;
use self::progress::End;
use self::report::{Figures, Outcome, Report, Subject};
use self::survey::{Survey, Surveyor};
use self::transfer::Transfer;
use crate::allowance::Allowance;
use crate::error::{Error, Kind, Result};
use crate::manifest::{Digest, Manifest};
use crate::observer::Happened;
use crate::reference::Version;
use crate::registry::Repository;
use crate::retry::retry;

/// How long a tag is waited for that an event announced and the registry does not show yet.
const ANNOUNCED_TAG_PATIENCE: Duration = Duration::from_secs(10);

/// How often a copy starts over, as the source's tag moved under it or the destination lost a part.
const ROUNDS: usize = 3;

/// One image to copy, with the repositories at hand.
pub struct Copy<'a> {
    /// Where it is read.
    pub source: Repository,
    /// Which image of the source.
    pub version: &'a Version,
    /// Where it goes: at most 64.
    pub destinations: Vec<Repository>,
    /// The tag at each destination; without one the image arrives under its digest.
    pub tags: Vec<Option<String>>,
    /// Plan only; change nothing.
    pub dry_run: bool,
    /// Look at every blob and manifest although the top digest is equal.
    pub force: bool,
}

/// What is known of the copy to one destination.
#[derive(Default)]
struct Track {
    digest: Option<Digest>,
    warnings: Vec<String>,
    /// Of a dry run.
    planned: Option<Plan>,
    end: Option<Result<Outcome>>,
    /// Whether it was counted what the destination has of the image.
    is_counted: bool,
}

impl Copy<'_> {
    /// Makes the copy, and gives a report for each destination in their order. What is done when the deadline comes stays done.
    pub async fn run(&self, shared: &Shared) -> Vec<Report> {
        let begin = Instant::now();
        let mut tracks: Vec<Track> = self.tags.iter().map(|_| Track::default()).collect();
        let rounds = shared
            .deadline
            .bound(self.rounds(&mut tracks, shared))
            .await;
        let elapsed_ms = begin.elapsed().as_millis() as u64;
        let mut reports = Vec::new();
        for ((track, destination), tag) in
            tracks.into_iter().zip(&self.destinations).zip(&self.tags)
        {
            let result =
                track.end.unwrap_or_else(|| {
                    Err(rounds.as_ref().err().cloned().unwrap_or_else(|| {
                        Error::Internal("a destination was left out".to_owned())
                    }))
                });
            let source = self.source.observer().counts();
            let mut figures = Figures::of(source, destination.observer().counts());
            figures.digest = track.digest;
            figures.source_digest = track.digest;
            figures.warnings = track.warnings;
            figures.elapsed_ms = elapsed_ms;
            if let Some(plan) = &track.planned {
                figures.planned(plan);
            }
            let subject = Subject::Copy {
                source: self.source.reference(&self.version.tag_or_digest()),
                destination: self.at(destination, tag.as_deref(), track.digest),
            };
            reports.push(Report::copy(subject, result, figures));
        }
        reports
    }

    /// The reference at a destination.
    fn at(&self, destination: &Repository, tag: Option<&str>, digest: Option<Digest>) -> String {
        match (tag, digest) {
            (Some(tag), _) => destination.reference(tag),
            (None, Some(digest)) => destination.reference(&digest.to_string()),
            (None, None) => destination.reference(&self.version.tag_or_digest()),
        }
    }

    /// Copies to all destinations. Those that were overtaken by a move of the source's tag, or lost a part of the image, are copied
    /// to once more.
    async fn rounds(&self, tracks: &mut [Track], shared: &Shared) -> Result<()> {
        let mut forced = match self.force {
            true => Places::first(tracks.len()),
            false => Places::default(),
        };
        let mut announced = self.version.announced();
        for round in 1..=ROUNDS {
            let is_last = round == ROUNDS;
            let lost_parts = self
                .round(tracks, announced.take(), forced, is_last, shared)
                .await?;
            forced = forced.and(lost_parts);
            if left(tracks).is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// One look, decision and act for the destinations that have no end yet. Gives those that lost a part meanwhile.
    async fn round(
        &self,
        tracks: &mut [Track],
        announced: Option<Digest>,
        forced: Places,
        is_last: bool,
        shared: &Shared,
    ) -> Result<Places> {
        let allowance = shared.memory.allowance();
        let resolved_at = Instant::now();
        let at = left(tracks);
        let looks = future::join(self.top(announced, &allowance), self.tagged(at));
        let (top, tagged) = looks.await;
        let (top, warning) = top?;

        let (differs, is_tagged) = self.compare(tracks, tagged, &top, warning, forced);
        if differs.is_empty() {
            return Ok(Places::default());
        }

        let surveyor = Surveyor {
            source: &self.source,
            destinations: &self.destinations,
            forced,
            concurrency: shared.concurrency,
            allowance: &allowance,
        };
        let (survey, failed) = surveyor.survey(top, differs).await;
        for (place, error) in failed {
            tracks[place].end = Some(Err(error));
        }
        let plans = self.plans(tracks, &survey, differs, is_tagged);
        // The plans hold all that is needed of it.
        drop(survey);
        self.transfer(tracks, &plans, resolved_at, is_last, shared)
            .await
    }

    /// Ends what is up to date. Gives the destinations that are not, or whose parts are looked at all the same, and those of them
    /// that have the tag.
    fn compare(
        &self,
        tracks: &mut [Track],
        tagged: Vec<(usize, Result<Option<Digest>>)>,
        top: &Manifest,
        warning: Option<String>,
        forced: Places,
    ) -> (Places, Places) {
        let (mut differs, mut is_tagged) = (Places::default(), Places::default());
        for (place, digest) in tagged {
            let track = &mut tracks[place];
            track.digest = Some(top.digest);
            track.warnings = warning.clone().into_iter().collect();
            match digest {
                Err(error) => track.end = Some(Err(error)),
                Ok(digest) if digest == Some(top.digest) => {
                    let observer = self.destinations[place].observer();
                    observer.saw(Happened::ManifestPresent);
                    match forced.contains(place) {
                        true => (is_tagged, differs) = (is_tagged.with(place), differs.with(place)),
                        false => track.end = Some(Ok(Outcome::Current)),
                    }
                }
                Ok(_) => differs = differs.with(place),
            }
        }
        (differs, is_tagged)
    }

    /// A plan for each destination that lacks something. Ends those that lack nothing, and a dry run.
    fn plans(
        &self,
        tracks: &mut [Track],
        survey: &Survey,
        differs: Places,
        is_tagged: Places,
    ) -> Vec<(usize, Plan)> {
        let mut plans = Vec::new();
        for place in differs.iter() {
            let track = &mut tracks[place];
            if track.end.is_some() {
                continue;
            }
            let tag = self.tags[place].as_deref();
            let plan = Plan::new(survey, place, tag, is_tagged.contains(place));
            track.warnings.extend(plan.warnings.clone());
            // What was sent in the last round is no longer missing, and was counted then.
            if !std::mem::replace(&mut track.is_counted, true) {
                self.count_present(place, survey);
            }
            if plan.is_current() {
                track.end = Some(Ok(Outcome::Current));
            } else if self.dry_run {
                track.end = Some(Ok(Outcome::Planned));
                track.planned = Some(plan);
            } else {
                plans.push((place, plan));
            }
        }
        plans
    }

    /// Carries out the plans, and says what became of them.
    async fn transfer(
        &self,
        tracks: &mut [Track],
        plans: &[(usize, Plan)],
        resolved_at: Instant,
        is_last: bool,
        shared: &Shared,
    ) -> Result<Places> {
        let transfer = Transfer {
            source: &self.source,
            version: self.version,
            resolved_at,
            destinations: &self.destinations,
            plans,
            shared,
        };
        let mut lost_parts = Places::default();
        let ended = |position: usize, end: End| {
            let (place, _) = plans[position];
            let destination = &self.destinations[place];
            tracks[place].end = match end {
                End::Copied => Some(Ok(Outcome::Copied)),
                End::Overtaken if is_last => Some(Err(self.source.not_as_written(
                    &self.version.tag_or_digest(),
                    "the tag moved again and again while it was copied".to_owned(),
                ))),
                End::Overtaken => {
                    destination.observer().looks_again();
                    tracks[place].is_counted = false;
                    None
                }
                End::Failed(Error::PartMissing { .. }) if !is_last => {
                    shared.carriage.forget(&destination.prefix());
                    lost_parts = lost_parts.with(place);
                    None
                }
                End::Failed(error) => Some(Err(error)),
            };
        };
        // Boxed, as it is large.
        Box::pin(transfer.run(ended)).await;
        Ok(lost_parts)
    }

    /// What each destination has under its tag, or of the very digest.
    async fn tagged(&self, at: Places) -> Vec<(usize, Result<Option<Digest>>)> {
        let version = self.version.tag_or_digest();
        let looks = at.iter().map(async |place| {
            let destination = &self.destinations[place];
            let tag = self.tags[place].as_deref().unwrap_or(&version);
            (
                place,
                retry(destination.observer(), || destination.resolve(tag)).await,
            )
        });
        future::join_all(looks).await
    }

    /// What the survey found at a destination.
    fn count_present(&self, place: usize, survey: &Survey) {
        let observer = self.destinations[place].observer();
        for manifest in survey.manifests.iter().skip(1) {
            if manifest.present_at.contains(place) {
                observer.saw(Happened::ManifestPresent);
            }
        }
        for blob in &survey.blobs {
            if blob.present_at.contains(place) {
                observer.saw(Happened::BlobPresent(blob.descriptor.size));
            }
        }
    }

    /// The manifest that the source's tag stands for now, and a warning if it is not the one that was announced.
    ///
    /// An event may come before the registry shows what it announces (read-after-push 404s at GHCR were reported from 2025-09 on),
    /// or long after the tag has moved on. So the announced digest is waited for, a short while, and then the registry is believed.
    async fn top(
        &self,
        announced: Option<Digest>,
        allowance: &Allowance,
    ) -> Result<(Manifest, Option<String>)> {
        let version = self.version.tag_or_digest();
        let until = Instant::now() + ANNOUNCED_TAG_PATIENCE;
        let mut delay = Duration::from_millis(250);
        loop {
            let fetch = || self.source.fetch_manifest(&version, allowance);
            let result = retry(self.source.observer(), fetch).await;
            let is_as_announced = match (&result, announced) {
                (Ok(manifest), Some(announced)) => manifest.digest == announced,
                (Err(error), Some(_)) => error.kind() != Kind::NotFound,
                (_, None) => true,
            };
            if is_as_announced || Instant::now() + delay > until {
                let manifest = result?;
                let announced = announced.filter(|announced| *announced != manifest.digest);
                let warning = announced.map(|announced| {
                    format!(
                        "the event named {announced}, but tag {version} now has {}, which was copied",
                        manifest.digest
                    )
                });
                return Ok((manifest, warning));
            }
            if let Ok(manifest) = result {
                allowance.give_back(manifest.bytes.len() as u64);
            }
            tokio::time::sleep(delay).await;
            delay *= 2;
        }
    }
}

/// The destinations without an end.
fn left(tracks: &[Track]) -> Places {
    let open = tracks
        .iter()
        .enumerate()
        .filter(|(_, track)| track.end.is_none());
    open.fold(Places::default(), |places, (place, _)| places.with(place))
}
