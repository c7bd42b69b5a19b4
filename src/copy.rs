//! The engine: one image, from its source to every destination. It knows nothing of Lambda, of settings or of AWS's APIs.
//!
//! Look, decide, act: the source's tag and the destinations' are compared; where they differ, a survey shows what the image is
//! made of and what each destination has of it; a plan for each destination says what to do; and one transfer carries out all
//! plans. Counts are made by the repositories' observers, so a report can be written whenever the work ends.

mod blob;
mod carry;
pub mod estimate;
mod fanout;
pub mod form;
mod look;
mod mount;
pub mod places;
pub mod plan;
mod progress;
mod push;
pub mod report;
mod sending;
pub mod survey;
mod transfer;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures_util::future::{self, BoxFuture};

pub use self::carry::Shared;
use self::form::Arrival;
pub use self::look::{ANNOUNCED_TAG_PATIENCE, announced_top};
use self::places::{Failed, Places};
use self::plan::Plan;
use self::progress::End;
use self::report::{Figures, Outcome, Report, Subject};
use self::survey::{Survey, Surveyor};
use self::transfer::Transfer;
use crate::allowance::Allowance;
use crate::error::{Error, Result};
use crate::manifest::{Digest, Manifest};
use crate::observer::Happened;
use crate::platform::Form;
use crate::reference::Version;
use crate::registry::Repository;
use crate::verification::Verified;

/// How often a copy starts over, as the source's tag moved under it or the destination lost a part.
const ROUNDS: usize = 3;

/// How long a destination that misses a part is left alone before it is asked again: it may only be late to show what was pushed.
const LOST_PARTS_PAUSE: Duration = Duration::from_millis(500);

/// Once a destination has said what it has, the others have so long to say it. One that stands still has a round of its own, later,
/// so that it keeps nothing from the others.
const LATENESS: Duration = Duration::from_secs(2);

/// One image to copy, with the repositories at hand.
pub struct Copy<'a> {
    /// Where it is read.
    pub source: Repository,
    /// Which image of the source.
    pub version: &'a Version,
    /// Where it goes: at most 64.
    pub destinations: Vec<Repository>,
    /// What it is to be at each destination.
    pub targets: Vec<Target>,
    /// Plan only; change nothing.
    pub dry_run: bool,
    /// Look at every blob and manifest although the top digest is equal.
    pub force: bool,
    /// The manifest that this one has to refer to, if it is copied for that.
    pub subject: Option<Digest>,
    /// Says of a digest at the source why it is not to be copied, if it is not: asked before a destination that lacks it gets
    /// anything.
    pub gate: Option<Box<dyn Gate + 'a>>,
}

/// Decides whether the image with a digest at the source is copied.
pub trait Gate: Send + Sync {
    /// Looks at it. What is held of manifests meanwhile is taken from `allowance`.
    ///
    /// # Errors
    /// Why it is not copied, or can't be decided on.
    fn admit<'a>(
        &'a self,
        digest: Digest,
        allowance: &'a Allowance,
    ) -> BoxFuture<'a, Result<Admission>>;
}

/// What a gate says of an image.
#[derive(Clone, Debug)]
pub enum Admission {
    /// It is copied. By whom it is signed, if anything was required.
    Admitted(Option<Verified>),
    /// It is not, for this reason.
    Ignored(String),
}

/// What an image is to be at one destination.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its tag, in which the digits of the source's digest are still to be filled in; without one it arrives under its digest.
    pub tag: Option<String>,
    /// Its form.
    pub form: Form,
}

/// What is known of the copy to one destination.
#[derive(Default)]
struct Track {
    source_digest: Option<Digest>,
    /// With the digits filled in.
    tag: Option<String>,
    arrival: Option<Arrival>,
    warnings: Vec<String>,
    /// Of a dry run.
    planned: Option<Plan>,
    end: Option<Result<Outcome>>,
    /// Why it is ignored.
    reason: Option<String>,
    /// By whom it is signed.
    verified: Option<Verified>,
    /// Why nothing can be pushed there, which ends it if something is to be.
    refusal: Option<Error>,
    /// How often what it lacks was sent.
    transfers: usize,
    /// Whether it was counted what the destination has of the image.
    is_counted: bool,
    /// What was sent of an image that the source's tag no longer stands for; the next one may share it.
    sent: HashSet<Digest>,
}

impl Copy<'_> {
    /// Makes the copy, and gives a report for each destination in their order. What is done when the deadline comes stays done.
    pub async fn run(&self, shared: &Shared) -> Vec<Report> {
        let begin = Instant::now();
        let tracks = self.targets.iter().map(|target| Track {
            tag: target.tag.clone(),
            ..Track::default()
        });
        let mut tracks: Vec<Track> = tracks.collect();
        let rounds = shared
            .deadline
            .bound(self.rounds(&mut tracks, shared))
            .await;
        let elapsed_ms = begin.elapsed().as_millis() as u64;
        let mut reports = Vec::new();
        for (mut track, destination) in tracks.into_iter().zip(&self.destinations) {
            let unfinished = || rounds.as_ref().err().cloned();
            let left_out = || Error::Internal("a destination was left out".to_owned());
            let result = track.end.take();
            let result = result.unwrap_or_else(|| Err(unfinished().unwrap_or_else(left_out)));
            let subject = Subject::Copy {
                source: self.source.reference(&self.version.tag_or_digest()),
                destination: self.at(destination, &track),
            };
            let counts = destination.observer().counts();
            let is_first = reports.is_empty();
            let mut figures =
                Figures::of_several(self.source.observer().counts(), counts, is_first);
            figures.digest = track.arrival.map(|arrival| arrival.digest);
            figures.source_digest = track.source_digest;
            figures.verified = track.verified;
            figures.warnings = track.warnings;
            figures.elapsed_ms = elapsed_ms;
            if let Some(plan) = &track.planned {
                figures.planned(plan);
            }
            let mut report = Report::copy(subject, result, figures);
            report.reason = track.reason;
            reports.push(report);
        }
        reports
    }

    /// The reference at a destination.
    fn at(&self, destination: &Repository, track: &Track) -> String {
        match (&track.tag, &track.arrival) {
            (Some(tag), _) => destination.reference(tag),
            (None, Some(arrival)) => destination.reference(&arrival.digest.to_string()),
            (None, None) => destination.reference(&self.version.tag_or_digest()),
        }
    }

    /// Copies to all destinations. Those that were overtaken by a move of the source's tag, lost a part of the image, or were late to
    /// say what they have are copied to once more.
    async fn rounds(&self, tracks: &mut [Track], shared: &Shared) -> Result<()> {
        let mut forced = match self.force {
            true => Places::first(tracks.len()),
            false => Places::default(),
        };
        // What was announced is waited for once.
        let mut patience = ANNOUNCED_TAG_PATIENCE;
        let mut round = 0;
        while !left(tracks).is_empty() {
            round += 1;
            let lateness = match round <= ROUNDS {
                true => LATENESS,
                false => Duration::MAX,
            };
            let lost_parts = self
                .round(tracks, patience, lateness, forced, shared)
                .await?;
            forced = forced.and(lost_parts);
            patience = Duration::ZERO;
            if !lost_parts.is_empty() {
                tokio::time::sleep(LOST_PARTS_PAUSE).await;
            }
        }
        Ok(())
    }

    /// One look, decision and act for the destinations that have no end yet. Gives those that lost a part meanwhile.
    async fn round(
        &self,
        tracks: &mut [Track],
        patience: Duration,
        lateness: Duration,
        forced: Places,
        shared: &Shared,
    ) -> Result<Places> {
        let allowance = shared.memory.allowance();
        let resolved_at = Instant::now();
        let (top, warning, tagged) = self.look(tracks, patience, lateness, &allowance).await?;
        for place in left(tracks).iter() {
            tracks[place].warnings = warning.clone().into_iter().collect();
        }
        let (differs, is_tagged) = self.compare(tracks, &tagged, forced);
        if self
            .is_refused(tracks, differs, &top.digest, &allowance)
            .await
        {
            return Ok(Places::default());
        }
        let differs = self.movable(tracks, differs, &tagged).await;
        let roots = self.roots(tracks, differs, &top, &allowance).await;
        if roots.is_empty() {
            return Ok(Places::default());
        }
        let surveyor = Surveyor {
            source: &self.source,
            destinations: &self.destinations,
            forced,
            concurrency: shared.concurrency,
            lateness,
            allowance: &allowance,
        };
        let (survey, failed) = self.survey(tracks, &surveyor, roots).await;
        let mut surveyed = differs;
        for (place, failure) in failed {
            surveyed = surveyed.without(place);
            let refusal = tracks[place].refusal.take();
            // One that was late has another round.
            tracks[place].end = refusal.or(failure).map(Err);
        }
        let holders = &shared.carriage.holders;
        holders.note_survey(&survey, &self.destinations, &complete(tracks));
        let plans = self.plans(tracks, &survey, surveyed, is_tagged, shared);
        // The plans hold all that is needed of it.
        drop(survey);
        let transfer = Transfer {
            source: &self.source,
            version: self.version,
            source_digest: top.digest,
            resolved_at,
            destinations: &self.destinations,
            plans: &plans,
            shared,
        };
        Ok(self.transfer(tracks, transfer).await)
    }

    /// What the image is made of, and what the destinations have of it. Beside that, they are asked whether anything can be pushed there.
    async fn survey(
        &self,
        tracks: &mut [Track],
        surveyor: &Surveyor<'_>,
        roots: Vec<(Manifest, Places)>,
    ) -> (Survey, Vec<Failed>) {
        let at = roots
            .iter()
            .fold(Places::default(), |at, (_, more)| at.and(*more));
        let looks = at.iter().map(async |place| {
            let refusal = self.destinations[place].expect_no_upstream().await;
            (place, refusal.err())
        });
        let (surveyed, refusals) =
            future::join(surveyor.survey(roots), future::join_all(looks)).await;
        for (place, refusal) in refusals {
            tracks[place].refusal = refusal;
        }
        surveyed
    }

    /// A plan for each destination that lacks something. Ends those that lack nothing, those to which nothing can be pushed, and a dry
    /// run.
    fn plans(
        &self,
        tracks: &mut [Track],
        survey: &Survey,
        differs: Places,
        is_tagged: Places,
        shared: &Shared,
    ) -> Vec<(usize, Plan)> {
        let mut plans = Vec::new();
        for place in differs.iter() {
            let track = &mut tracks[place];
            if track.end.is_some() {
                continue;
            }
            let plan = Plan::new(
                survey,
                place,
                track.tag.as_deref(),
                is_tagged.contains(place),
            );
            track.warnings.extend(plan.warnings.clone());
            // What was sent in the last round is no longer missing, and was counted then.
            if !std::mem::replace(&mut track.is_counted, true) {
                self.count_present(place, survey, &track.sent);
            }
            if plan.is_current() {
                track.end = Some(Ok(Outcome::Current));
            } else if let Some(refusal) = track.refusal.take() {
                track.end = Some(Err(refusal));
            } else if self.dry_run {
                let repository = self.destinations[place].prefix();
                shared.estimate.add(repository, &plan);
                track.end = Some(Ok(Outcome::Planned));
                track.planned = Some(plan);
            } else {
                plans.push((place, plan));
            }
        }
        plans
    }

    /// Carries out the plans, and says what became of them. Gives the destinations that lost a part meanwhile.
    async fn transfer(&self, tracks: &mut [Track], transfer: Transfer<'_>) -> Places {
        let (plans, shared) = (transfer.plans, transfer.shared);
        let mut lost_parts = Places::default();
        let ended = |position: usize, end: End| {
            let (place, plan) = &plans[position];
            let (place, destination) = (*place, &self.destinations[*place]);
            let track = &mut tracks[place];
            track.transfers += 1;
            let is_last = track.transfers == ROUNDS;
            track.end = match end {
                End::Copied => Some(Ok(Outcome::Copied)),
                End::Overtaken if is_last => Some(Err(self.source.not_as_written(
                    &self.version.tag_or_digest(),
                    "the tag moved again and again while it was copied".to_owned(),
                ))),
                End::Overtaken => {
                    destination.observer().looks_again();
                    track.is_counted = false;
                    track.sent.extend(plan.digests());
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
        lost_parts
    }

    /// What the survey found at a destination.
    fn count_present(&self, place: usize, survey: &Survey, sent: &HashSet<Digest>) {
        let observer = self.destinations[place].observer();
        let root = survey.root(place);
        let is_found = |digest| !sent.contains(digest);
        for (position, manifest) in survey.manifests.iter().enumerate() {
            let is_present = position != root && manifest.present_at.contains(place);
            if is_present && is_found(&manifest.descriptor.digest) {
                observer.saw(Happened::ManifestPresent);
            }
        }
        for blob in &survey.blobs {
            if blob.present_at.contains(place) && is_found(&blob.descriptor.digest) {
                observer.saw(Happened::BlobPresent(blob.descriptor.size));
            }
        }
    }
}

/// The destinations that have the whole image, and its digest there.
fn complete(tracks: &[Track]) -> Vec<(usize, Digest)> {
    let has_all = |track: &Track| matches!(track.end, Some(Ok(Outcome::Current | Outcome::Copied)));
    let complete = tracks.iter().enumerate();
    let complete = complete.filter(|(_, track)| has_all(track));
    complete
        .filter_map(|(place, track)| Some((place, track.arrival.as_ref()?.digest)))
        .collect()
}

/// The destinations without an end.
fn left(tracks: &[Track]) -> Places {
    let open = tracks
        .iter()
        .enumerate()
        .filter(|(_, track)| track.end.is_none());
    open.fold(Places::default(), |places, (place, _)| places.with(place))
}
