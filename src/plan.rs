//! From a job and reads of both registries: the ordered list of what is missing at the destination.
//!
//! Nothing is changed here, and what comes out is plain data that can be printed. In this order a plan saves work:
//! 1. the destination's tag has the source's digest: nothing to do, after one request to each side;
//! 2. a manifest is at the destination: so is all that it refers to, for a registry refuses a manifest whose parts are missing;
//! 3. a blob is at the destination: it is not sent.
//!
//! With `force` the first two are not believed, and everything is looked at.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{TryStreamExt, future};
use tokio::time::Instant;

use crate::error::{Error, Kind, Result, Side};
use crate::job::Job;
use crate::manifest::{Descriptor, Digest, MANIFESTS_LIMIT, Manifest, References};
use crate::registry::Repository;
use crate::retry::retry;

/// How deep image indexes may nest. One level is what builders write.
const DEPTH_LIMIT: usize = 8;

/// How long a tag is waited for that an event announced and the registry does not show yet.
const ANNOUNCED_TAG_PATIENCE: Duration = Duration::from_secs(10);

/// What to do, in order.
#[derive(Debug)]
pub struct Plan {
    /// The digest that the destination's tag is to have.
    pub digest: Digest,
    /// The tag to write.
    pub tag: String,
    /// Blobs to copy, the largest first, so that the longest transfer starts earliest.
    pub blobs: Vec<Descriptor>,
    /// Manifests to push by digest, those that others refer to first.
    pub manifests: Vec<Push>,
    /// The manifest to push last, under the tag; `None` if the tag has this digest already.
    pub top: Option<Manifest>,
    /// What need not be copied.
    pub present: Present,
    /// What a person should know although it does not stop the copy.
    pub warnings: Vec<String>,
}

/// A manifest to push, and when.
#[derive(Debug)]
pub struct Push {
    /// What to push.
    pub manifest: Manifest,
    /// The blobs and manifests of the plan that it refers to: they have to be there before.
    pub after: Vec<Digest>,
}

/// What the destination has already, as far as it was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// Manifests; what they refer to is not counted.
    pub manifests: u64,
    /// Blobs of manifests that are missing.
    pub blobs: u64,
    /// Bytes of those blobs.
    pub bytes: u64,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_current(&self) -> bool {
        self.blobs.is_empty() && self.manifests.is_empty() && self.top.is_none()
    }

    /// The bytes of all blobs to copy.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.size).sum()
    }
}

/// One line for each step.
impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for blob in &self.blobs {
            writeln!(formatter, "blob {} {} bytes", blob.digest, blob.size)?;
        }
        for push in &self.manifests {
            writeln!(formatter, "manifest {}", push.manifest.digest)?;
        }
        if let Some(top) = &self.top {
            writeln!(formatter, "tag {} {}", self.tag, top.digest)?;
        }
        Ok(())
    }
}

/// Reads both registries and decides. At most `concurrency` requests are under way at once on each side.
///
/// # Errors
/// What the registries refuse, and images that can't be copied.
pub async fn build(
    job: &Job,
    source: &Repository,
    destination: &Repository,
    concurrency: usize,
) -> Result<Plan> {
    let tag = &job.destination.tag;
    let (announced, present) = future::try_join(
        announced_manifest(job, source),
        retry(|_| destination.resolve(tag)),
    )
    .await?;
    let (top, warnings) = announced;
    let is_tagged = present.as_ref() == Some(&top.digest);
    let mut plan = Plan {
        digest: top.digest.clone(),
        tag: tag.clone(),
        blobs: Vec::new(),
        manifests: Vec::new(),
        top: None,
        present: Present::default(),
        warnings,
    };
    if is_tagged && !job.force {
        plan.present.manifests = 1;
        return Ok(plan);
    }
    let survey = Survey {
        source,
        destination,
        force: job.force,
        concurrency,
    };
    let image = survey.walk(&top).await?;
    let (present, missing): (Vec<_>, Vec<_>) = image
        .blobs
        .values()
        .partition(|(_, is_present)| *is_present);
    plan.present = Present {
        manifests: image.present.len() as u64 + u64::from(is_tagged),
        blobs: present.len() as u64,
        bytes: present.iter().map(|(blob, _)| blob.size).sum(),
    };
    plan.blobs = missing.into_iter().map(|(blob, _)| blob.clone()).collect();
    plan.blobs
        .sort_by_key(|blob| (Reverse(blob.size), blob.digest.clone()));
    if image.foreign_layers > 0 {
        plan.warnings.push(format!(
            "{} foreign layers are left at their own URLs, where registries don't hold them",
            image.foreign_layers
        ));
    }
    plan.manifests = image.pushes(&top)?;
    plan.top = (!is_tagged).then_some(top);
    Ok(plan)
}

/// The manifest that the source's tag stands for now.
///
/// An event may come before the registry shows what it announces (read-after-push 404s at GHCR were reported from 2025-09 on),
/// or long after the tag has moved on. So the announced digest is waited for, a short while, and then the registry is believed.
async fn announced_manifest(job: &Job, source: &Repository) -> Result<(Manifest, Vec<String>)> {
    let tag_or_digest = job.source_tag_or_digest();
    let hint = job.hinted_digest();
    let until = Instant::now() + ANNOUNCED_TAG_PATIENCE;
    let mut delay = Duration::from_millis(250);
    loop {
        let result = retry(|_| source.fetch_manifest(tag_or_digest)).await;
        let is_as_announced = match (&result, &hint) {
            (Ok(manifest), Some(hint)) => manifest.digest == *hint,
            (Err(error), Some(_)) => error.kind() != Kind::NotFound,
            (_, None) => true,
        };
        if is_as_announced || Instant::now() + delay > until {
            let manifest = result?;
            let warning = hint.filter(|hint| *hint != manifest.digest).map(|hint| {
                format!(
                    "the event named {hint}, but tag {tag_or_digest} now has {}, which was copied",
                    manifest.digest
                )
            });
            return Ok((manifest, warning.into_iter().collect()));
        }
        tokio::time::sleep(delay).await;
        delay *= 2;
    }
}

/// One image, as far as it had to be looked at.
#[derive(Default)]
struct Image {
    /// Manifests that were looked into.
    manifests: HashMap<Digest, Manifest>,
    /// Manifests that the destination has. With `force` they are looked into all the same.
    present: HashSet<Digest>,
    /// Blobs, and whether the destination has them.
    blobs: HashMap<Digest, (Descriptor, bool)>,
    /// Layers that are left where they are.
    foreign_layers: usize,
}

impl Image {
    /// What has to be pushed below `top`, each manifest after those that it refers to.
    fn pushes(&self, top: &Manifest) -> Result<Vec<Push>> {
        let mut pushes = Vec::new();
        let mut seen = HashSet::from([&top.digest]);
        for child in top.references().map_err(Error::Internal)?.manifests {
            self.visit(&child.digest, &mut seen, &mut pushes)?;
        }
        Ok(pushes)
    }

    fn visit<'a>(
        &'a self,
        digest: &Digest,
        seen: &mut HashSet<&'a Digest>,
        pushes: &mut Vec<Push>,
    ) -> Result<()> {
        let Some(manifest) = self.manifests.get(digest) else {
            return Ok(());
        };
        if !seen.insert(&manifest.digest) {
            return Ok(());
        }
        let References {
            manifests, blobs, ..
        } = manifest.references().map_err(Error::Internal)?;
        for child in &manifests {
            self.visit(&child.digest, seen, pushes)?;
        }
        if self.present.contains(digest) {
            return Ok(());
        }
        let is_missing = |blob: &Descriptor| match self.blobs.get(&blob.digest) {
            Some((_, is_present)) => !is_present,
            None => false,
        };
        let manifests = manifests.into_iter();
        let manifests = manifests.filter(|child| !self.present.contains(&child.digest));
        let after = manifests.chain(blobs.into_iter().filter(is_missing));
        let after = after.map(|part| part.digest).collect();
        let manifest = manifest.clone();
        pushes.push(Push { manifest, after });
        Ok(())
    }
}

/// Reads of both registries.
struct Survey<'a> {
    source: &'a Repository,
    destination: &'a Repository,
    force: bool,
    concurrency: usize,
}

/// What manifests and blobs were said to have, in bytes.
#[derive(Default)]
struct Sizes {
    manifests: HashMap<Digest, u64>,
    blobs: HashMap<Digest, u64>,
}

/// A part of an image that is to be looked at.
enum Look {
    /// A manifest, so many levels below the top one.
    Manifest(Descriptor, usize),
    Blob(Digest),
}

/// What was seen of it.
enum Seen {
    /// Its bytes, if it has to be looked into, and whether the destination has it.
    Manifest(Digest, usize, Option<Manifest>, bool),
    /// Whether the destination has it.
    Blob(Digest, bool),
}

impl Survey<'_> {
    /// Walks from the top manifest to all that it reaches. Each part is looked at as soon as it is known: blobs of one manifest while
    /// another is still arriving.
    ///
    /// A cycle would need a manifest that contains its own digest; what claims to be one has other bytes than its digest says,
    /// and is refused when it is fetched.
    async fn walk(&self, top: &Manifest) -> Result<Image> {
        let mut image = Image::default();
        let mut sizes = Sizes::default();
        let mut bytes = top.bytes.len() as u64;
        let mut queue = VecDeque::new();
        let mut looks = FuturesUnordered::new();
        let mut arrived = Some((top.clone(), 0));
        loop {
            if let Some((manifest, depth)) = arrived.take() {
                let References {
                    manifests,
                    blobs,
                    foreign_layers,
                } = manifest
                    .references()
                    .map_err(|reason| self.content(&manifest.descriptor(), reason))?;
                if depth >= DEPTH_LIMIT && !manifests.is_empty() {
                    let reason = format!("its indexes nest deeper than {DEPTH_LIMIT}");
                    return Err(self.content(&top.descriptor(), reason));
                }
                for child in manifests {
                    if self.is_new(&mut sizes.manifests, &child)? {
                        bytes += child.size;
                        queue.push_back(Look::Manifest(child, depth + 1));
                    }
                }
                if bytes > MANIFESTS_LIMIT {
                    let reason =
                        format!("its manifests have more than {MANIFESTS_LIMIT} bytes together");
                    return Err(self.content(&top.descriptor(), reason));
                }
                for blob in blobs {
                    if self.is_new(&mut sizes.blobs, &blob)? {
                        queue.push_back(Look::Blob(blob.digest.clone()));
                        image.blobs.insert(blob.digest.clone(), (blob, false));
                    }
                }
                image.foreign_layers += foreign_layers;
                image.manifests.insert(manifest.digest.clone(), manifest);
            }
            while looks.len() < self.concurrency
                && let Some(look) = queue.pop_front()
            {
                looks.push(self.look(look));
            }
            match looks.try_next().await? {
                None => return Ok(image),
                Some(Seen::Blob(digest, is_present)) => {
                    if let Some((_, known)) = image.blobs.get_mut(&digest) {
                        *known = is_present;
                    }
                }
                Some(Seen::Manifest(digest, depth, manifest, is_present)) => {
                    if is_present {
                        image.present.insert(digest);
                    }
                    arrived = manifest.map(|manifest| (manifest, depth));
                }
            }
        }
    }

    async fn look(&self, look: Look) -> Result<Seen> {
        match look {
            Look::Manifest(child, depth) => {
                let (manifest, is_present) = self.manifest(&child).await?;
                Ok(Seen::Manifest(child.digest, depth, manifest, is_present))
            }
            Look::Blob(digest) => {
                let is_present = retry(|_| self.destination.has_blob(&digest)).await?;
                Ok(Seen::Blob(digest, is_present))
            }
        }
    }

    /// A manifest of an index: its bytes if it has to be looked into, and whether the destination has it.
    async fn manifest(&self, child: &Descriptor) -> Result<(Option<Manifest>, bool)> {
        let digest = child.digest.as_str();
        let (manifest, present) = future::try_join(
            retry(|_| self.source.fetch_manifest(digest)),
            retry(|_| self.destination.resolve(digest)),
        )
        .await?;
        let size = manifest.bytes.len() as u64;
        if size != child.size {
            let reason = format!("the manifest has {size} bytes instead of {}", child.size);
            return Err(self.content(child, reason));
        }
        let is_looked_into = present.is_none() || self.force;
        Ok((is_looked_into.then_some(manifest), present.is_some()))
    }

    /// Whether something is met for the first time. It has to have the same size every time.
    fn is_new(&self, sizes: &mut HashMap<Digest, u64>, descriptor: &Descriptor) -> Result<bool> {
        let Descriptor { digest, size, .. } = descriptor;
        match sizes.insert(digest.clone(), *size) {
            None => Ok(true),
            Some(other) if other == *size => Ok(false),
            Some(other) => {
                let reason =
                    format!("said to have {other} bytes in one place and {size} in another");
                Err(self.content(descriptor, reason))
            }
        }
    }

    fn content(&self, descriptor: &Descriptor, reason: String) -> Error {
        Error::Content {
            side: Side::Source,
            reference: self.source.reference(descriptor.digest.as_str()),
            reason,
        }
    }
}
