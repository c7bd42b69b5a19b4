//! What an image consists of, and what of it each destination has.
//!
//! The source's graph is walked once, from the top manifest down. Every destination is asked about each manifest and each blob
//! as soon as that is met, so looks overlap with manifests that still arrive. What a destination has is not looked into for it,
//! and a manifest that every destination has is not read from the source at all. Nothing is changed, and nothing is decided:
//! a [`Plan`](super::plan::Plan) is made from what was seen.

use std::collections::{HashMap, VecDeque};

use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, future};

use crate::allowance::Allowance;
use crate::error::{Error, Kind, Result, Side};
use crate::manifest::{Descriptor, Digest, Manifest, References};
use crate::registry::Repository;
use crate::retry::retry;

/// How deep image indexes may nest. One level is what builders write.
const DEPTH_LIMIT: usize = 8;

/// Some of a copy's destinations, by their positions: at most 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places(u64);

impl Places {
    /// Those of the first `count` positions.
    pub fn first(count: usize) -> Self {
        (0..count).fold(Places::default(), Places::with)
    }

    /// These and one more.
    pub fn with(self, place: usize) -> Self {
        Places(self.0 | 1 << place)
    }

    /// These without one.
    pub fn without(self, place: usize) -> Self {
        Places(self.0 & !(1 << place))
    }

    /// These and those.
    pub fn and(self, others: Places) -> Self {
        Places(self.0 | others.0)
    }

    /// These, but not those.
    pub fn except(self, others: Places) -> Self {
        Places(self.0 & !others.0)
    }

    /// Those that are also in `others`.
    pub fn among(self, others: Places) -> Self {
        Places(self.0 & others.0)
    }

    /// Whether `place` is one of them.
    pub fn contains(self, place: usize) -> bool {
        self.0 & 1 << place != 0
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their positions.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..u64::BITS as usize).filter(move |place| self.contains(*place))
    }
}

/// One image, as far as it had to be looked at. Parts refer to each other by position.
#[derive(Debug, Default)]
pub struct Survey {
    /// Manifests; the first is the top one.
    pub manifests: Vec<Seen>,
    /// Configs and layers.
    pub blobs: Vec<SeenBlob>,
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
    /// A foreign layer that the source does not hold.
    pub is_left_out: bool,
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
    /// What the manifests may take.
    pub allowance: &'a Allowance,
}

/// A part of an image that is to be looked at.
enum Look {
    /// Which of the destinations `at` have the manifest at this position?
    Manifest {
        position: u32,
        digest: Digest,
        at: Places,
    },
    /// The bytes of that manifest. If all destinations that need them have it, one of those is at `has`.
    Bytes {
        position: u32,
        descriptor: Descriptor,
        has: Option<usize>,
    },
    /// Which of the destinations `at` have the blob at this position?
    Blob {
        position: u32,
        digest: Digest,
        is_foreign: bool,
        at: Places,
    },
}

/// What was seen of it.
enum Found {
    Manifest {
        position: u32,
        asked: Asked,
    },
    Bytes {
        position: u32,
        manifest: Result<Manifest>,
    },
    Blob {
        position: u32,
        is_left_out: bool,
        asked: Asked,
    },
}

/// What the destinations answered.
#[derive(Default)]
struct Asked {
    present: Places,
    missing: Places,
    failed: Vec<(usize, Error)>,
}

/// The state of a walk.
struct Walk {
    survey: Survey,
    manifest_positions: HashMap<Digest, u32>,
    /// How far each manifest is looked at.
    nodes: Vec<Node>,
    blob_positions: HashMap<Digest, u32>,
    queue: VecDeque<Look>,
    failed: Vec<(usize, Error)>,
    /// The destinations that have not failed.
    alive: Places,
}

/// How far a manifest is looked at.
struct Node {
    /// Levels below the top one.
    depth: usize,
    /// The destinations that were asked for it.
    asked: Places,
    /// Those that wait for its bytes, once somebody needs them.
    waiting: Option<Places>,
}

impl Surveyor<'_> {
    /// Walks from the top manifest to all that the destinations `at` may lack. A destination that can't be asked is given with its
    /// error, and so is one that needs something that the source does not give or that can't be copied; they hold up none of the
    /// others.
    ///
    /// A cycle would need a manifest that contains its own digest; what claims to be one has other bytes than its digest says,
    /// and is refused when it is fetched.
    pub async fn survey(&self, top: Manifest, at: Places) -> (Survey, Vec<(usize, Error)>) {
        let top_descriptor = top.descriptor();
        let mut walk = Walk {
            survey: Survey::default(),
            manifest_positions: HashMap::from([(top.digest, 0)]),
            nodes: vec![Node {
                depth: 0,
                asked: at,
                waiting: None,
            }],
            blob_positions: HashMap::new(),
            queue: VecDeque::new(),
            failed: Vec::new(),
            alive: at,
        };
        walk.survey.manifests.push(Seen {
            descriptor: top_descriptor,
            manifest: Some(top),
            manifests: Vec::new(),
            blobs: Vec::new(),
            needed_by: at,
            present_at: Places::default(),
        });
        self.look_into(&mut walk, 0, at);
        let mut looks = FuturesUnordered::new();
        // Each turn starts as many looks as may be under way, and takes the result of the one that is done first. A manifest that
        // somebody lacks is fetched next, and puts its own parts at the end of the queue, so the walk goes on until both queue and
        // looks are empty.
        loop {
            while looks.len() < self.concurrency
                && let Some(look) = walk.queue.pop_front()
            {
                looks.push(self.look(look, walk.alive));
            }
            if walk.alive.is_empty() {
                return (walk.survey, walk.failed);
            }
            let Some(found) = looks.next().await else {
                return (walk.survey, walk.failed);
            };
            match found {
                Found::Blob {
                    position,
                    is_left_out,
                    asked,
                } => {
                    let blob = &mut walk.survey.blobs[position as usize];
                    blob.present_at = blob.present_at.and(asked.present);
                    blob.is_left_out |= is_left_out;
                    walk.drop_out(asked.failed);
                }
                Found::Manifest { position, asked } => {
                    let forced = asked.present.among(self.forced);
                    let needed = asked.missing.and(forced);
                    let seen = &mut walk.survey.manifests[position as usize];
                    seen.present_at = seen.present_at.and(asked.present);
                    seen.needed_by = seen.needed_by.and(needed);
                    let descriptor = seen.descriptor;
                    let is_read = seen.manifest.is_some();
                    walk.drop_out(asked.failed);
                    if needed.is_empty() {
                        continue;
                    }
                    let node = &mut walk.nodes[position as usize];
                    match node.waiting {
                        _ if is_read => self.look_into(&mut walk, position, needed),
                        Some(others) => node.waiting = Some(others.and(needed)),
                        None => {
                            node.waiting = Some(needed);
                            let has = forced.iter().next().filter(|_| asked.missing.is_empty());
                            walk.queue.push_front(Look::Bytes {
                                position,
                                descriptor,
                                has,
                            });
                        }
                    }
                }
                Found::Bytes { position, manifest } => {
                    let waiting = walk.nodes[position as usize].waiting.take();
                    let waiting = waiting.unwrap_or_default();
                    match manifest {
                        Ok(manifest) => {
                            walk.survey.manifests[position as usize].manifest = Some(manifest);
                            self.look_into(&mut walk, position, waiting);
                        }
                        Err(error) => walk.drop_out(all(waiting, &error)),
                    }
                }
            }
        }
    }

    /// Looks at what a manifest refers to, for the destinations `needed`. What can't be copied fails those.
    fn look_into(&self, walk: &mut Walk, position: u32, needed: Places) {
        let needed = needed.among(walk.alive);
        if needed.is_empty() {
            return;
        }
        if let Err(error) = self.enqueue_parts(walk, position, needed) {
            walk.drop_out(all(needed, &error));
        }
    }

    /// Puts what a manifest refers to into the queue, to be looked at for the destinations `needed`: those that lack the manifest.
    fn enqueue_parts(&self, walk: &mut Walk, position: u32, needed: Places) -> Result<()> {
        let depth = walk.nodes[position as usize].depth;
        let seen = &walk.survey.manifests[position as usize];
        let Some(manifest) = seen.manifest.as_ref() else {
            return Ok(());
        };
        let of_manifest = |reason| self.content(manifest.digest, reason);
        let References {
            manifests,
            blobs,
            foreign_layers,
        } = manifest.references().map_err(of_manifest)?;
        if depth >= DEPTH_LIMIT && !manifests.is_empty() {
            let top = walk.survey.manifests[0].descriptor.digest;
            return Err(self.content(top, format!("its indexes nest deeper than {DEPTH_LIMIT}")));
        }
        let mut children = Vec::with_capacity(manifests.len());
        for child in manifests {
            let position = walk
                .manifest(child, depth + 1)
                .map_err(|reason| self.content(child.digest, reason))?;
            children.push(position);
            let node = &mut walk.nodes[position as usize];
            let at = needed.except(node.asked);
            if !at.is_empty() {
                node.asked = node.asked.and(at);
                walk.queue.push_back(Look::Manifest {
                    position,
                    digest: child.digest,
                    at,
                });
            }
        }
        let mut parts = Vec::with_capacity(blobs.len() + foreign_layers.len());
        let foreign_layers = foreign_layers.into_iter().map(|blob| (blob, true));
        for (blob, is_foreign) in blobs
            .into_iter()
            .map(|blob| (blob, false))
            .chain(foreign_layers)
        {
            let position = walk
                .blob(blob)
                .map_err(|reason| self.content(blob.digest, reason))?;
            parts.push(position);
            let seen = &mut walk.survey.blobs[position as usize];
            let at = needed.except(seen.needed_by);
            if !at.is_empty() {
                seen.needed_by = seen.needed_by.and(at);
                walk.queue.push_back(Look::Blob {
                    position,
                    digest: blob.digest,
                    is_foreign,
                    at,
                });
            }
        }
        let seen = &mut walk.survey.manifests[position as usize];
        seen.manifests = children;
        seen.blobs = parts;
        Ok(())
    }

    async fn look(&self, look: Look, alive: Places) -> Found {
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
                    asked: self.ask(at.among(alive), has).await,
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
            } => {
                let mut asked = self
                    .ask(at.among(alive), async |destination| {
                        destination.has_blob(&digest).await
                    })
                    .await;
                let is_held = match is_foreign && !asked.missing.is_empty() {
                    true => retry(self.source.observer(), || self.source.has_blob(&digest)).await,
                    false => Ok(true),
                };
                let is_left_out = match is_held {
                    Ok(is_held) => !is_held,
                    Err(error) => {
                        asked.failed.extend(all(asked.missing, &error));
                        false
                    }
                };
                Found::Blob {
                    position,
                    is_left_out,
                    asked,
                }
            }
        }
    }

    /// Asks each destination whether it has something.
    async fn ask(&self, at: Places, has: impl AsyncFn(&Repository) -> Result<bool>) -> Asked {
        let answers = at.iter().map(async |place| {
            let destination = &self.destinations[place];
            (
                place,
                retry(destination.observer(), || has(destination)).await,
            )
        });
        let mut asked = Asked::default();
        for (place, answer) in future::join_all(answers).await {
            match answer {
                Ok(true) => asked.present = asked.present.with(place),
                Ok(false) => asked.missing = asked.missing.with(place),
                Err(error) => asked.failed.push((place, error)),
            }
        }
        asked
    }

    /// The bytes of a manifest below the top one. Where all that need it have it, so that it is only to be looked into, and clean-up
    /// has deleted it at the source, the destination `has` gives it as well.
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

    fn content(&self, digest: Digest, reason: String) -> Error {
        Error::Content {
            side: Side::Source,
            reference: self.source.reference(&digest.to_string()),
            reason,
        }
    }
}

impl Walk {
    /// The position of a manifest, which is new if it was not met before.
    fn manifest(&mut self, descriptor: Descriptor, depth: usize) -> Result<u32, String> {
        let (seen, nodes) = (&mut self.survey.manifests, &mut self.nodes);
        let position = *self
            .manifest_positions
            .entry(descriptor.digest)
            .or_insert_with(|| {
                nodes.push(Node {
                    depth,
                    asked: Places::default(),
                    waiting: None,
                });
                seen.push(Seen {
                    descriptor,
                    manifest: None,
                    manifests: Vec::new(),
                    blobs: Vec::new(),
                    needed_by: Places::default(),
                    present_at: Places::default(),
                });
                seen.len() as u32 - 1
            });
        same_size(seen[position as usize].descriptor, descriptor)?;
        Ok(position)
    }

    /// The position of a blob, which is new if it was not met before.
    fn blob(&mut self, descriptor: Descriptor) -> Result<u32, String> {
        let seen = &mut self.survey.blobs;
        let position = *self
            .blob_positions
            .entry(descriptor.digest)
            .or_insert_with(|| {
                seen.push(SeenBlob {
                    descriptor,
                    needed_by: Places::default(),
                    present_at: Places::default(),
                    is_left_out: false,
                });
                seen.len() as u32 - 1
            });
        same_size(seen[position as usize].descriptor, descriptor)?;
        Ok(position)
    }

    fn drop_out(&mut self, failed: impl IntoIterator<Item = (usize, Error)>) {
        for (place, error) in failed {
            if self.alive.contains(place) {
                self.alive = self.alive.without(place);
                self.failed.push((place, error));
            }
        }
    }
}

/// The same error for each of them.
fn all(places: Places, error: &Error) -> impl Iterator<Item = (usize, Error)> {
    places.iter().map(|place| (place, error.clone()))
}

/// What is met twice has to have the same size every time.
fn same_size(one: Descriptor, other: Descriptor) -> Result<(), String> {
    match one.size == other.size {
        true => Ok(()),
        false => Err(format!(
            "said to have {} bytes in one place and {} in another",
            one.size, other.size
        )),
    }
}
