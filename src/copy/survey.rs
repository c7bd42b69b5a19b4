//! What an image consists of, and what of it each destination has.
//!
//! The source's graph is walked once, from the top manifest down. Every destination is asked about each manifest and each blob
//! as soon as that is met, so looks overlap with manifests that still arrive. What a destination has is not looked into for it,
//! and a manifest that every destination has is not read from the source at all. Nothing is changed, and nothing is decided:
//! a [`Plan`](super::plan::Plan) is made from what was seen.

mod walk;

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use self::walk::{Asked, Found, Look, Walk};
use super::look::in_time;
use super::places::{Failed, Places};
use crate::allowance::Allowance;
use crate::error::{Kind, Result};
use crate::manifest::{Descriptor, Digest, Manifest};
use crate::registry::Repository;
use crate::retry::retry;

/// One image, as far as it had to be looked at. Parts refer to each other by position.
#[derive(Debug, Default)]
pub struct Survey {
    /// Manifests.
    pub manifests: Vec<Seen>,
    /// Configs and layers.
    pub blobs: Vec<SeenBlob>,
    /// The top manifests, and which destinations have which.
    pub roots: Vec<(u32, Places)>,
}

impl Survey {
    /// The position of the top manifest of a destination.
    pub fn root(&self, place: usize) -> usize {
        let of_place = |(_, places): &&(u32, Places)| places.contains(place);
        let root = self.roots.iter().find(of_place);
        root.map_or(0, |(position, _)| *position as usize)
    }
}

/// A manifest, and where it is.
#[derive(Debug)]
pub struct Seen {
    /// What its parent says of it.
    pub descriptor: Descriptor,
    /// Its bytes, if a destination lacks it.
    pub manifest: Option<Manifest>,
    /// The manifests that it refers to.
    pub manifests: Vec<u32>,
    /// The blobs that it refers to.
    pub blobs: Vec<u32>,
    /// The destinations that lack it, or whose parts of it are looked at all the same.
    pub needed_by: Places,
    /// The destinations that have it.
    pub present_at: Places,
}

/// A blob, and where it is.
#[derive(Debug)]
pub struct SeenBlob {
    /// What manifests say of it.
    pub descriptor: Descriptor,
    /// The destinations of which a manifest needs it.
    pub needed_by: Places,
    /// The destinations that have it.
    pub present_at: Places,
    /// The destinations of which a manifest needs it as a layer of an ordinary type, or as a config.
    pub ordinary_at: Places,
    /// A foreign layer that the source does not hold.
    pub is_left_out: bool,
}

impl SeenBlob {
    /// Whether a destination does without it: it is a foreign layer there and nothing else, and neither side has it.
    pub fn is_left_out_at(&self, place: usize) -> bool {
        self.is_left_out
            && self.needed_by.contains(place)
            && !self.ordinary_at.contains(place)
            && !self.present_at.contains(place)
    }
}

/// Reads of the source and of the destinations.
pub struct Surveyor<'a> {
    /// Where the image is read.
    pub source: &'a Repository,
    /// All destinations of the copy.
    pub destinations: &'a [Repository],
    /// Those of them whose parts are all looked at, although a manifest is there.
    pub forced: Places,
    /// How many looks are under way at once.
    pub concurrency: usize,
    /// How long a destination may take to answer once another one has.
    pub lateness: Duration,
    /// What the manifests may take.
    pub allowance: &'a Allowance,
}

impl Surveyor<'_> {
    /// Walks from the top manifests to all that the destinations may lack that are to have them. A destination that can't be asked is
    /// given with its error, and so is one that needs something that the source does not give or that can't be copied; one that
    /// was late to answer is given without an error. They hold up none of the others.
    pub async fn survey(&self, roots: Vec<(Manifest, Places)>) -> (Survey, Vec<Failed>) {
        let mut walk = Walk::new(self.source, self.forced, self.mates(), roots);
        let mut looks = FuturesUnordered::new();
        // Each turn starts as many looks as may be under way, and takes the result of the one that is done first. A manifest that
        // somebody lacks is fetched next, and adds its own parts to the walk, which ends when no look is left.
        loop {
            while looks.len() < self.concurrency
                && let Some(look) = walk.next()
            {
                looks.push(self.look(look));
            }
            if walk.is_abandoned() {
                return walk.end();
            }
            match looks.next().await {
                Some(found) => walk.found(found),
                None => return walk.end(),
            }
        }
    }

    async fn look(&self, look: Look) -> Found {
        match look {
            Look::Manifest {
                position,
                digest,
                at,
            } => {
                let digest = digest.to_string();
                let has = async |destination: &Repository| {
                    Ok(destination.resolve(&digest).await?.is_some())
                };
                Found::Manifest {
                    position,
                    asked: self.ask(at, has).await,
                }
            }
            Look::Bytes {
                position,
                descriptor,
                has,
            } => Found::Bytes {
                position,
                manifest: self.fetch(descriptor, has).await,
            },
            Look::Blob {
                position,
                digest,
                is_foreign,
                at,
            } => self.look_at_blob(position, digest, is_foreign, at).await,
        }
    }

    async fn look_at_blob(
        &self,
        position: u32,
        digest: Digest,
        is_foreign: bool,
        at: Places,
    ) -> Found {
        let has = async |destination: &Repository| destination.has_blob(&digest).await;
        let mut asked = self.ask(at, has).await;
        // The source may hold a foreign layer all the same; only what it does not hold is left at its URLs.
        let is_held = match is_foreign && !asked.missing.is_empty() {
            true => retry(self.source.observer(), || self.source.has_blob(&digest)).await,
            false => Ok(true),
        };
        if let Err(error) = &is_held {
            asked.failed.extend(asked.missing.each(error));
        }
        Found::Blob {
            position,
            is_left_out: matches!(is_held, Ok(false)),
            asked,
        }
    }

    /// Asks each destination whether it has something; of those in one repository, one for all.
    async fn ask(&self, at: Places, has: impl AsyncFn(&Repository) -> Result<bool>) -> Asked {
        let mates = self.mates();
        let is_first = |place: &usize| mates[*place].among(at).iter().next() == Some(*place);
        let answers = at.iter().filter(is_first).map(async |place| {
            let destination = &self.destinations[place];
            let answer = retry(destination.observer(), || has(destination)).await;
            (mates[place].among(at), answer)
        });
        let mut asked = Asked::default();
        let mut late = at;
        for (places, answer) in in_time(answers, self.lateness).await {
            late = late.except(places);
            match answer {
                Ok(true) => asked.present = asked.present.and(places),
                Ok(false) => asked.missing = asked.missing.and(places),
                Err(error) => asked.failed.extend(places.each(&error)),
            }
        }
        asked.failed.extend(late.iter().map(|place| (place, None)));
        asked
    }

    /// For each destination, those in the same repository, itself included.
    fn mates(&self) -> Vec<Places> {
        let names: Vec<String> = self.destinations.iter().map(Repository::prefix).collect();
        let mates = |name: &String| {
            let same = names.iter().enumerate().filter(|(_, other)| *other == name);
            same.fold(Places::default(), |mates, (place, _)| mates.with(place))
        };
        names.iter().map(mates).collect()
    }

    /// The bytes of a manifest below the top one. Where clean-up has deleted it at the source, the destination `has` gives it as
    /// well, so that one that lacks it keeps none of the others from being healed.
    async fn fetch(&self, child: Descriptor, has: Option<usize>) -> Result<Manifest> {
        let fetch = async |repository: &Repository| {
            let fetch = || repository.fetch_described(&child, self.allowance);
            retry(repository.observer(), fetch).await
        };
        match (fetch(self.source).await, has) {
            (Err(error), Some(place)) if error.kind() == Kind::NotFound => {
                fetch(&self.destinations[place]).await
            }
            (result, _) => result,
        }
    }
}
