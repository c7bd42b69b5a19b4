//! The walk through an image's graph: what to look at next, and what follows from what was found. Nothing here speaks to a
//! registry.

use std::collections::{HashMap, VecDeque};

use super::{Seen, SeenBlob, Survey};
use crate::copy::places::{Failed, Places};
use crate::error::{Error, Result};
use crate::manifest::{Descriptor, Digest, Manifest, References};
use crate::registry::Repository;

/// How deep image indexes may nest. One level is what builders write.
const DEPTH_LIMIT: usize = 8;

/// A part of an image that is to be looked at.
pub(super) enum Look {
    /// Which of the destinations `at` have the manifest at this position?
    Manifest {
        position: u32,
        digest: Digest,
        at: Places,
    },
    /// The bytes of that manifest. If a destination that needs them has it, so that it is only to be looked into, that is at `has`.
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
pub(super) enum Found {
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
pub(super) struct Asked {
    pub(super) present: Places,
    pub(super) missing: Places,
    pub(super) failed: Vec<Failed>,
}

/// How far the walk has come.
pub(super) struct Walk<'a> {
    /// For the names of what can't be copied.
    source: &'a Repository,
    /// The destinations whose parts are all looked at, although a manifest is there.
    forced: Places,
    /// For each destination, those in the same repository.
    mates: Vec<Places>,
    survey: Survey,
    manifest_positions: HashMap<Digest, u32>,
    /// How far each manifest is looked at.
    nodes: Vec<Node>,
    blob_positions: HashMap<Digest, u32>,
    queue: VecDeque<Look>,
    failed: Vec<Failed>,
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

impl<'a> Walk<'a> {
    /// Begins at the top manifests, each with the destinations that are to have it and lack it.
    ///
    /// A cycle would need a manifest that contains its own digest; what claims to be one has other bytes than its digest says,
    /// and is refused when it is fetched.
    pub(super) fn new(
        source: &'a Repository,
        forced: Places,
        mates: Vec<Places>,
        roots: Vec<(Manifest, Places)>,
    ) -> Self {
        let all = roots
            .iter()
            .fold(Places::default(), |all, (_, at)| all.and(*at));
        let mut walk = Walk {
            source,
            forced,
            mates,
            survey: Survey::default(),
            manifest_positions: HashMap::new(),
            nodes: Vec::new(),
            blob_positions: HashMap::new(),
            queue: VecDeque::new(),
            failed: Vec::new(),
            alive: all,
        };
        for (root, at) in roots {
            let position = walk.survey.manifests.len() as u32;
            walk.manifest_positions.insert(root.digest, position);
            walk.nodes.push(Node {
                depth: 0,
                asked: at,
                waiting: None,
            });
            walk.survey.manifests.push(Seen {
                descriptor: root.descriptor(),
                manifest: Some(root),
                manifests: Vec::new(),
                blobs: Vec::new(),
                needed_by: at,
                present_at: Places::default(),
            });
            walk.survey.roots.push((position, at));
        }
        for (position, at) in walk.survey.roots.clone() {
            walk.look_into(position, at);
        }
        walk
    }

    /// What to look at next, at those destinations that have not failed.
    pub(super) fn next(&mut self) -> Option<Look> {
        let mut look = self.queue.pop_front()?;
        if let Look::Manifest { at, .. } | Look::Blob { at, .. } = &mut look {
            *at = at.among(self.alive);
        }
        Some(look)
    }

    /// Notes what a look has found, and what is to be looked at because of it.
    pub(super) fn found(&mut self, found: Found) {
        match found {
            Found::Manifest { position, asked } => self.found_manifest(position, asked),
            Found::Bytes { position, manifest } => self.found_bytes(position, manifest),
            Found::Blob {
                position,
                is_left_out,
                asked,
            } => {
                let blob = &mut self.survey.blobs[position as usize];
                blob.present_at = blob.present_at.and(asked.present);
                blob.is_left_out |= is_left_out;
                self.drop_out(asked.failed);
            }
        }
    }

    /// Whether every destination has failed.
    pub(super) fn is_abandoned(&self) -> bool {
        self.alive.is_empty()
    }

    /// What was seen, and the destinations that have failed.
    pub(super) fn end(mut self) -> (Survey, Vec<Failed>) {
        // What one destination has, all in its repository have: they were not asked again.
        for blob in &mut self.survey.blobs {
            let present = blob.present_at.iter();
            blob.present_at =
                present.fold(blob.present_at, |all, place| all.and(self.mates[place]));
        }
        (self.survey, self.failed)
    }

    fn found_manifest(&mut self, position: u32, asked: Asked) {
        let forced = asked.present.among(self.forced);
        let needed = asked.missing.and(forced);
        self.drop_out(asked.failed);
        let seen = &mut self.survey.manifests[position as usize];
        seen.present_at = seen.present_at.and(asked.present);
        seen.needed_by = seen.needed_by.and(needed);
        if needed.is_empty() {
            return;
        }
        let node = &mut self.nodes[position as usize];
        match node.waiting {
            _ if seen.manifest.is_some() => self.look_into(position, needed),
            Some(others) => node.waiting = Some(others.and(needed)),
            None => {
                node.waiting = Some(needed);
                let has = forced.iter().next();
                self.queue.push_front(Look::Bytes {
                    position,
                    descriptor: seen.descriptor,
                    has,
                });
            }
        }
    }

    fn found_bytes(&mut self, position: u32, manifest: Result<Manifest>) {
        let waiting = self.nodes[position as usize].waiting.take();
        let waiting = waiting.unwrap_or_default();
        match manifest {
            Ok(manifest) => {
                self.survey.manifests[position as usize].manifest = Some(manifest);
                self.look_into(position, waiting);
            }
            Err(error) => self.drop_out(waiting.each(&error)),
        }
    }

    /// Looks at what a manifest refers to, for the destinations `needed`: those that lack it. What can't be copied fails those.
    fn look_into(&mut self, position: u32, needed: Places) {
        let needed = needed.among(self.alive);
        if needed.is_empty() {
            return;
        }
        if let Err(error) = self.enqueue_parts(position, needed) {
            self.drop_out(needed.each(&error));
        }
    }

    fn enqueue_parts(&mut self, position: u32, needed: Places) -> Result<()> {
        let depth = self.nodes[position as usize].depth;
        let Some(manifest) = &self.survey.manifests[position as usize].manifest else {
            return Ok(());
        };
        let References {
            manifests,
            blobs,
            foreign_layers,
        } = manifest
            .references()
            .map_err(|reason| self.content(manifest.digest, reason))?;
        if depth >= DEPTH_LIMIT && !manifests.is_empty() {
            let digest = manifest.digest;
            return Err(self.content(
                digest,
                format!("its indexes nest deeper than {DEPTH_LIMIT}"),
            ));
        }
        let mut children = Vec::with_capacity(manifests.len());
        for child in manifests {
            children.push(self.enqueue_manifest(child, depth + 1, needed)?);
        }
        let mut parts = Vec::with_capacity(blobs.len() + foreign_layers.len());
        for blob in blobs {
            parts.push(self.enqueue_blob(blob, false, needed)?);
        }
        for layer in foreign_layers {
            parts.push(self.enqueue_blob(layer, true, needed)?);
        }
        let seen = &mut self.survey.manifests[position as usize];
        seen.manifests = children;
        seen.blobs = parts;
        Ok(())
    }

    /// The position of a manifest, which is new if it was not met before; those of the destinations `needed` that were not asked for
    /// it yet will be.
    fn enqueue_manifest(
        &mut self,
        descriptor: Descriptor,
        depth: usize,
        needed: Places,
    ) -> Result<u32> {
        let digest = descriptor.digest;
        let (seen, nodes) = (&mut self.survey.manifests, &mut self.nodes);
        let position = *self.manifest_positions.entry(digest).or_insert_with(|| {
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
        self.same_size(
            self.survey.manifests[position as usize].descriptor,
            descriptor,
        )?;
        if !self.deepen(position, depth) {
            return Err(self.too_deep());
        }
        let node = &mut self.nodes[position as usize];
        let at = needed.except(node.asked);
        node.asked = node.asked.and(at);
        if !at.is_empty() {
            self.queue.push_back(Look::Manifest {
                position,
                digest,
                at,
            });
        }
        Ok(position)
    }

    /// Notes that a manifest was met on a way of `depth` levels. Where that is a longer way than before, what it refers to is deeper,
    /// too. Says whether it all stays within the limit.
    fn deepen(&mut self, position: u32, depth: usize) -> bool {
        let mut met = vec![(position, depth)];
        while let Some((position, depth)) = met.pop() {
            let node = &mut self.nodes[position as usize];
            if depth <= node.depth {
                continue;
            }
            node.depth = depth;
            let children = &self.survey.manifests[position as usize].manifests;
            if depth >= DEPTH_LIMIT && !children.is_empty() {
                return false;
            }
            met.extend(children.iter().map(|child| (*child, depth + 1)));
        }
        true
    }

    fn too_deep(&self) -> Error {
        let top = self.survey.manifests[0].descriptor.digest;
        self.content(top, format!("its indexes nest deeper than {DEPTH_LIMIT}"))
    }

    /// The position of a blob, as for a manifest.
    fn enqueue_blob(
        &mut self,
        descriptor: Descriptor,
        is_foreign: bool,
        needed: Places,
    ) -> Result<u32> {
        let digest = descriptor.digest;
        let seen = &mut self.survey.blobs;
        let position = *self.blob_positions.entry(digest).or_insert_with(|| {
            seen.push(SeenBlob {
                descriptor,
                needed_by: Places::default(),
                present_at: Places::default(),
                ordinary_at: Places::default(),
                is_left_out: false,
            });
            seen.len() as u32 - 1
        });
        self.same_size(self.survey.blobs[position as usize].descriptor, descriptor)?;
        let seen = &mut self.survey.blobs[position as usize];
        if !is_foreign {
            seen.ordinary_at = seen.ordinary_at.and(needed);
        }
        let asked = seen.needed_by.iter();
        let asked = asked.fold(Places::default(), |all, place| all.and(self.mates[place]));
        let at = needed.except(asked);
        seen.needed_by = seen.needed_by.and(needed);
        if !at.is_empty() {
            self.queue.push_back(Look::Blob {
                position,
                digest,
                is_foreign,
                at,
            });
        }
        Ok(position)
    }

    /// What is met twice has to have the same size every time.
    fn same_size(&self, one: Descriptor, other: Descriptor) -> Result<()> {
        if one.size == other.size {
            return Ok(());
        }
        let reason = format!(
            "said to have {} bytes in one place and {} in another",
            one.size, other.size
        );
        Err(self.content(one.digest, reason))
    }

    fn content(&self, digest: Digest, reason: String) -> Error {
        self.source.not_copied(&digest.to_string(), reason)
    }

    fn drop_out(&mut self, failed: impl IntoIterator<Item = Failed>) {
        for (place, error) in failed {
            if self.alive.contains(place) {
                self.alive = self.alive.without(place);
                self.failed.push((place, error));
            }
        }
    }
}
