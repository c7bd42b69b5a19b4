//! What there is before anything is decided: the source's top manifest, what each destination is to get of it, and what it has.

use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, future};

use super::form::{self, Arrival, PlatformFields, Root};
use super::places::Places;
use super::report::Outcome;
use super::{Admission, Copy, Track, left};
use crate::allowance::Allowance;
use crate::destination::{needs_digest, with_digest};
use crate::error::{Kind, Result};
use crate::manifest::{Descriptor, Digest, Manifest};
use crate::observer::Happened;
use crate::platform::{Form, Platform};
use crate::reference::Version;
use crate::registry::Repository;
use crate::retry::retry;

/// How long a tag is waited for that an event announced and the registry does not show yet.
pub const ANNOUNCED_TAG_PATIENCE: Duration = Duration::from_secs(10);

/// The most bytes that an image's configuration may have, where it is read to learn the platform. Ordinary ones have some kilobytes.
const CONFIGURATION_LIMIT: u64 = 4 * 1024 * 1024;

/// What a destination has now: the digest, if there is one.
type Tagged = Vec<(usize, Result<Option<Digest>>)>;

impl Copy<'_> {
    /// The source's top manifest, what each destination is to get of it, and what it has. Destinations are asked while the source
    /// answers, except for those whose tag or digest follows from the answer.
    pub(super) async fn look(
        &self,
        tracks: &mut [Track],
        patience: Duration,
        lateness: Duration,
        allowance: &Allowance,
    ) -> Result<(Manifest, Option<String>, Tagged)> {
        let at = left(tracks);
        let late = self.need_digest(at);
        let version = self.version.tag_or_digest();
        let name = |place: usize| {
            self.targets[place]
                .tag
                .clone()
                .unwrap_or_else(|| version.clone())
        };
        let looks = future::join(
            announced_top(&self.source, self.version, patience, allowance),
            self.tagged(at.except(late), lateness, name),
        );
        let (top, mut tagged) = looks.await;
        let (top, warning) = top?;
        self.expect_subject(&top)?;
        for place in at.iter() {
            let track = &mut tracks[place];
            track.source_digest = Some(top.digest);
            track.tag = self.tag(place, &top.digest);
            let arrival = match self.arrival(place, &top) {
                Ok(arrival) => self.held(arrival, tracks, allowance).await,
                Err(error) => Err(error),
            };
            match arrival {
                Ok(arrival) => tracks[place].arrival = Some(arrival),
                Err(error) => tracks[place].end = Some(Err(error)),
            }
        }
        let name = |place: usize| {
            let digest = tracks[place].arrival.as_ref().map(|arrival| arrival.digest);
            let digest = digest.unwrap_or(top.digest).to_string();
            tracks[place].tag.clone().unwrap_or(digest)
        };
        let late = late.among(left(tracks));
        tagged.extend(self.tagged(late, lateness, name).await);
        Ok((top, warning, tagged))
    }

    /// Ends what is up to date. Gives the destinations that are not, or whose parts are looked at all the same, and those of them
    /// that have the tag.
    pub(super) fn compare(
        &self,
        tracks: &mut [Track],
        tagged: &Tagged,
        forced: Places,
    ) -> (Places, Places) {
        let (mut differs, mut is_tagged) = (Places::default(), Places::default());
        for (place, digest) in tagged {
            let (place, track) = (*place, &mut tracks[*place]);
            let expected = track.arrival.as_ref().map(|arrival| arrival.digest);
            match digest {
                _ if track.end.is_some() => {}
                Err(error) => track.end = Some(Err(error.clone())),
                Ok(digest) if *digest == expected => {
                    if !track.is_counted {
                        let observer = self.destinations[place].observer();
                        observer.saw(Happened::ManifestPresent);
                    }
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

    /// The top manifests of the destinations that lack something; those that get the same one are together. Ends those for which there
    /// is none.
    pub(super) async fn roots(
        &self,
        tracks: &mut [Track],
        differs: Places,
        top: &Manifest,
        allowance: &Allowance,
    ) -> Vec<(Manifest, Places)> {
        let mut roots: Vec<(Manifest, Places)> = Vec::new();
        for place in differs.iter() {
            let track = &mut tracks[place];
            let Some(arrival) = &track.arrival else {
                continue;
            };
            track.warnings.extend(arrival.warning.clone());
            let is_same = |(root, _): &&mut (Manifest, Places)| root.digest == arrival.digest;
            if let Some((_, places)) = roots.iter_mut().find(is_same)
                && !matches!(arrival.root, Root::SameIfMatching(_))
            {
                *places = places.with(place);
                continue;
            }
            let form = &self.targets[place].form;
            match self.root(arrival, form, top, allowance).await {
                Err(error) => track.end = Some(Err(error)),
                Ok(root) => match roots
                    .iter_mut()
                    .find(|(other, _)| other.digest == root.digest)
                {
                    Some((_, places)) => *places = places.with(place),
                    None => roots.push((root, Places::default().with(place))),
                },
            }
        }
        roots
    }

    /// The destinations whose tag, or digest, is known only when the source's is.
    fn need_digest(&self, at: Places) -> Places {
        let needs = |place: &usize| match &self.targets[*place].tag {
            Some(tag) => needs_digest(tag),
            None => self.targets[*place].form != Form::Whole,
        };
        at.iter()
            .filter(needs)
            .fold(Places::default(), Places::with)
    }

    /// The tag at a destination, of an image that has `digest` at the source.
    fn tag(&self, place: usize, digest: &Digest) -> Option<String> {
        let tag = self.targets[place].tag.as_deref()?;
        Some(with_digest(tag, digest))
    }

    /// What the destinations have under `name`, which is asked of each. Those that are late are left out.
    async fn tagged(
        &self,
        at: Places,
        lateness: Duration,
        name: impl Fn(usize) -> String,
    ) -> Tagged {
        let looks = at.iter().map(async |place| {
            let destination = &self.destinations[place];
            let name = name(place);
            let resolve = || destination.resolve(&name);
            (place, retry(destination.observer(), resolve).await)
        });
        in_time(looks, lateness).await
    }

    /// Ends those of the destinations `at` if the image is not to be copied. Says whether it did.
    pub(super) async fn is_refused(
        &self,
        tracks: &mut [Track],
        at: Places,
        digest: &Digest,
        allowance: &Allowance,
    ) -> bool {
        let Some(gate) = self.gate.as_ref().filter(|_| !at.is_empty()) else {
            return false;
        };
        let admission = gate.admit(*digest, allowance).await;
        for place in at.iter() {
            let track = &mut tracks[place];
            match &admission {
                Ok(Admission::Admitted(verified)) => track.verified = verified.clone(),
                Ok(Admission::Ignored(reason)) => {
                    track.end = Some(Ok(Outcome::Ignored));
                    track.reason = Some(reason.clone());
                }
                Err(error) => track.end = Some(Err(error.clone())),
            }
        }
        !matches!(admission, Ok(Admission::Admitted(_)))
    }

    /// Those of the destinations `at` whose tag is not known to keep another digest; the others end, before a byte moves. Only those
    /// are asked about whose tag has another one. What is not known, the registry says when the tag is written.
    pub(super) async fn movable(
        &self,
        tracks: &mut [Track],
        at: Places,
        tagged: &Tagged,
    ) -> Places {
        let looks = tagged.iter().filter_map(|(place, stored)| {
            let track = &tracks[*place];
            let expected = track.arrival.as_ref()?.digest;
            let (Ok(Some(stored)), Some(tag)) = (stored, &track.tag) else {
                return None;
            };
            let destination = &self.destinations[*place];
            let is_other = at.contains(*place) && *stored != expected;
            is_other.then_some(async move {
                let is_kept = destination.keeps(tag).await;
                is_kept.then(|| (*place, destination.immutable_tag(tag, stored)))
            })
        });
        let immutable = future::join_all(looks).await;
        let immutable = immutable.into_iter().flatten();
        immutable.fold(at, |at, (place, error)| {
            tracks[place].end = Some(Err(error));
            at.without(place)
        })
    }

    /// What a destination is to get of the image.
    ///
    /// # Errors
    /// [`Error::Content`] if none of the image's platforms is asked for.
    fn arrival(&self, place: usize, top: &Manifest) -> Result<Arrival> {
        let arrival = form::arrival(top, &self.targets[place].form);
        arrival.map_err(|reason| self.source.not_copied(&top.digest.to_string(), reason))
    }

    /// The same arrival. An index that was rewritten is held once for all destinations that get it, and counts among what the copy
    /// may hold: it may be as large as the source's own.
    ///
    /// # Errors
    /// [`Error::Content`] if the copy would hold too much.
    async fn held(
        &self,
        arrival: Arrival,
        tracks: &[Track],
        allowance: &Allowance,
    ) -> Result<Arrival> {
        let Root::Rewritten(manifest) = &arrival.root else {
            return Ok(arrival);
        };
        let held = tracks.iter().find_map(|track| match &track.arrival {
            Some(Arrival {
                root: Root::Rewritten(other),
                ..
            }) if other.digest == manifest.digest => Some(other.clone()),
            _ => None,
        });
        if let Some(held) = held {
            let root = Root::Rewritten(held);
            return Ok(Arrival { root, ..arrival });
        }
        let length = manifest.bytes.len() as u64;
        let taken = allowance.take(length).await;
        taken.map_err(|reason| {
            allowance.give_back(length);
            let digest = manifest.digest.to_string();
            self.source.not_copied(&digest, reason)
        })?;
        Ok(arrival)
    }

    /// The bytes of a destination's top manifest.
    ///
    /// # Errors
    /// What the source refuses; [`Error::Content`] if the image is for another platform than is asked for.
    async fn root(
        &self,
        arrival: &Arrival,
        form: &Form,
        top: &Manifest,
        allowance: &Allowance,
    ) -> Result<Manifest> {
        match &arrival.root {
            Root::Same => Ok(top.clone()),
            Root::SameIfMatching(configuration) => {
                let offered = self.platform(configuration).await?;
                form::expect_match(&offered, form)
                    .map_err(|reason| self.source.not_copied(&top.digest.to_string(), reason))?;
                Ok(top.clone())
            }
            Root::Rewritten(manifest) => Ok(manifest.clone()),
            Root::Child(child) => {
                let fetch = || self.source.fetch_described(child, allowance);
                let child = retry(self.source.observer(), fetch).await?;
                match child.is_index() {
                    true => Err(self.source.not_copied(
                        &child.digest.to_string(),
                        "it is an index within the index, and not the manifest of one platform: build the image without nested indexes".to_owned(),
                    )),
                    false => Ok(child),
                }
            }
        }
    }

    /// The platform that an image is for, by its configuration.
    async fn platform(&self, configuration: &Descriptor) -> Result<Platform> {
        let fetch = || {
            self.source
                .fetch_small_blob(configuration, CONFIGURATION_LIMIT)
        };
        let bytes = retry(self.source.observer(), fetch).await?;
        let fields: PlatformFields = serde_json::from_slice(&bytes).map_err(|error| {
            self.source.not_copied(
                &configuration.digest.to_string(),
                format!("not an image's configuration: {error}"),
            )
        })?;
        Ok(fields.into())
    }

    /// Checks that the source's manifest refers to what it is copied for.
    ///
    /// # Errors
    /// [`Error::Content`] says what it refers to instead.
    fn expect_subject(&self, top: &Manifest) -> Result<()> {
        let Some(expected) = self.subject else {
            return Ok(());
        };
        let reason = match top.subject() {
            Ok(Some(subject)) if subject == expected => return Ok(()),
            Ok(Some(subject)) => format!("its subject is {subject}, not {expected}"),
            Ok(None) => format!("it has no subject, though it is listed for {expected}"),
            Err(reason) => reason,
        };
        Err(self.source.not_copied(&top.digest.to_string(), reason))
    }
}

/// The manifest that the source's tag stands for now, and a warning if it is not the one that was announced.
///
/// An event may come before the registry shows what it announces (read-after-push 404s at GHCR were reported from 2025-09 on),
/// or long after the tag has moved on. So the announced digest is waited for, for as long as
/// `patience` lasts, and then the registry is believed.
pub async fn announced_top(
    source: &Repository,
    version: &Version,
    patience: Duration,
    allowance: &Allowance,
) -> Result<(Manifest, Option<String>)> {
    let announced = version.announced();
    let version = version.tag_or_digest();
    let until = Instant::now() + patience;
    let mut delay = Duration::from_millis(250);
    loop {
        let fetch = || source.fetch_manifest(&version, allowance);
        let result = retry(source.observer(), fetch).await;
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

/// Awaits all of them; once one is done, the others have so long, and are left out after that.
pub(super) async fn in_time<T>(
    looks: impl Iterator<Item = impl Future<Output = T>>,
    lateness: Duration,
) -> Vec<T> {
    let mut looks: FuturesUnordered<_> = looks.collect();
    let mut done: Vec<T> = looks.next().await.into_iter().collect();
    let others = async {
        while let Some(look) = looks.next().await {
            done.push(look);
        }
    };
    // Whether all are done or the time is over, `done` has those that are.
    _ = tokio::time::timeout(lateness, others).await;
    done
}
