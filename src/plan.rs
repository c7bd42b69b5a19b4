//! From a job and reads of both registries: the ordered list of what is missing at the destination.
//!
//! Nothing is changed here, and what comes out is plain data that can be printed. In this order a plan saves work:
//! 1. the destination's tag has the source's digest: nothing to do, after one request to each side;
//! 2. a manifest is at the destination: so is all that it refers to, for a registry refuses a manifest whose parts are missing;
//! 3. a blob is at the destination: it is not sent.
//!
//! With `force` the first two are not believed, and everything is looked at.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, future, stream};
use tokio::time::Instant;

use crate::error::{Error, Kind, Result, Side};
use crate::job::Job;
use crate::manifest::{Descriptor, Digest, MANIFESTS_LIMIT, Manifest};
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
    pub manifests: Vec<Manifest>,
    /// The manifest to push last, under the tag; `None` if the tag has this digest already.
    pub top: Option<Manifest>,
    /// What need not be copied.
    pub present: Present,
    /// What a person should know although it does not stop the copy.
    pub warnings: Vec<String>,
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
        for manifest in &self.manifests {
            writeln!(formatter, "manifest {}", manifest.digest)?;
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
        retry(async |_| destination.resolve(tag).await),
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
        concurrency,
        force: job.force,
    };
    let graph = survey.manifests(top.clone()).await?;
    plan.present.manifests = graph.present.len() as u64 + u64::from(is_tagged);
    let (blobs, foreign_layers) = unique_blobs(source, &graph)?;
    plan.blobs = blobs;
    if foreign_layers > 0 {
        plan.warnings.push(format!(
            "{foreign_layers} foreign layers are left at their own URLs, where registries don't hold them"
        ));
    }
    survey.subtract_present_blobs(&mut plan).await?;
    plan.blobs.sort_by_key(|blob| std::cmp::Reverse(blob.size));
    let mut ordered = graph.children_first(&top)?;
    ordered.retain(|manifest| {
        manifest.digest != top.digest && !graph.present.contains(&manifest.digest)
    });
    plan.manifests = ordered;
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
        let result = retry(async |_| source.fetch_manifest(tag_or_digest).await).await;
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

/// The manifests of one image, as far as they had to be fetched.
struct Graph {
    fetched: HashMap<Digest, Manifest>,
    /// Those that the destination has. With `force` they are in `fetched` too.
    present: HashSet<Digest>,
}

impl Graph {
    /// All fetched manifests in an order in which each comes after those that it refers to.
    fn children_first(&self, top: &Manifest) -> Result<Vec<Manifest>> {
        let mut ordered = Vec::new();
        let mut seen = HashSet::new();
        self.visit(top, &mut seen, &mut ordered)?;
        Ok(ordered)
    }

    fn visit<'a>(
        &'a self,
        manifest: &'a Manifest,
        seen: &mut HashSet<&'a Digest>,
        ordered: &mut Vec<Manifest>,
    ) -> Result<()> {
        if !seen.insert(&manifest.digest) {
            return Ok(());
        }
        for child in manifest.references().map_err(Error::Internal)?.manifests {
            if let Some(child) = self.fetched.get(&child.digest) {
                self.visit(child, seen, ordered)?;
            }
        }
        ordered.push(manifest.clone());
        Ok(())
    }
}

/// Reads of both registries.
struct Survey<'a> {
    source: &'a Repository,
    destination: &'a Repository,
    concurrency: usize,
    force: bool,
}

impl Survey<'_> {
    /// Walks from the top manifest to those that it refers to, level by level.
    ///
    /// A cycle would need a manifest that contains its own digest; what claims to be one has other bytes than its digest says,
    /// and is refused when it is fetched.
    async fn manifests(&self, top: Manifest) -> Result<Graph> {
        let mut bytes = top.bytes.len() as u64;
        let mut level = vec![top.clone()];
        let top = top.descriptor();
        let mut graph = Graph {
            fetched: HashMap::new(),
            present: HashSet::new(),
        };
        let mut known: HashMap<Digest, u64> = HashMap::new();
        let mut depth = 0;
        while !level.is_empty() {
            let mut children = Vec::new();
            for manifest in level {
                for child in self.references(&manifest)?.manifests {
                    match known.insert(child.digest.clone(), child.size) {
                        None => children.push(child),
                        Some(size) => self.same_size(&child, size)?,
                    }
                }
                graph.fetched.insert(manifest.digest.clone(), manifest);
            }
            bytes += children.iter().map(|child| child.size).sum::<u64>();
            depth += 1;
            if bytes > MANIFESTS_LIMIT || (depth > DEPTH_LIMIT && !children.is_empty()) {
                return Err(self.content(
                    &top,
                    format!(
                        "its indexes nest deeper than {DEPTH_LIMIT}, or its manifests have more than {MANIFESTS_LIMIT} bytes together"
                    ),
                ));
            }
            let children: Vec<(Option<Manifest>, Option<Digest>)> = stream::iter(children)
                .map(|child| self.child(child))
                .buffer_unordered(self.concurrency)
                .try_collect()
                .await?;
            level = Vec::new();
            for (manifest, present) in children {
                graph.present.extend(present);
                level.extend(manifest);
            }
        }
        Ok(graph)
    }

    /// A manifest of an index: its bytes if it has to be looked into, and its digest if the destination has it.
    async fn child(&self, child: Descriptor) -> Result<(Option<Manifest>, Option<Digest>)> {
        let digest = child.digest.as_str();
        let (manifest, present) = future::try_join(
            retry(async |_| self.source.fetch_manifest(digest).await),
            retry(async |_| self.destination.resolve(digest).await),
        )
        .await?;
        let size = manifest.bytes.len() as u64;
        if size != child.size {
            let reason = format!("the manifest has {size} bytes instead of {}", child.size);
            return Err(self.content(&child, reason));
        }
        let is_looked_into = present.is_none() || self.force;
        Ok((is_looked_into.then_some(manifest), present))
    }

    async fn subtract_present_blobs(&self, plan: &mut Plan) -> Result<()> {
        let blobs = std::mem::take(&mut plan.blobs);
        let looked_at: Vec<(Descriptor, bool)> = stream::iter(blobs)
            .map(|blob| async move {
                let is_present =
                    retry(async |_| self.destination.has_blob(&blob.digest).await).await?;
                Ok::<_, Error>((blob, is_present))
            })
            .buffer_unordered(self.concurrency)
            .try_collect()
            .await?;
        for (blob, is_present) in looked_at {
            if is_present {
                plan.present.blobs += 1;
                plan.present.bytes += blob.size;
            } else {
                plan.blobs.push(blob);
            }
        }
        Ok(())
    }

    fn references(&self, manifest: &Manifest) -> Result<crate::manifest::References> {
        manifest
            .references()
            .map_err(|reason| self.content(&manifest.descriptor(), reason))
    }

    fn same_size(&self, descriptor: &Descriptor, size: u64) -> Result<()> {
        same_size(self.source, descriptor, size)
    }

    fn content(&self, descriptor: &Descriptor, reason: String) -> Error {
        content(self.source, descriptor, reason)
    }
}

/// Every blob of the fetched manifests once, however often it is referred to; and how many layers are left where they are.
fn unique_blobs(source: &Repository, graph: &Graph) -> Result<(Vec<Descriptor>, usize)> {
    let mut sizes: HashMap<Digest, u64> = HashMap::new();
    let mut blobs = Vec::new();
    let mut foreign_layers = 0;
    for manifest in graph.fetched.values() {
        let references = manifest
            .references()
            .map_err(|reason| content(source, &manifest.descriptor(), reason))?;
        foreign_layers += references.foreign_layers;
        for blob in references.blobs {
            match sizes.insert(blob.digest.clone(), blob.size) {
                None => blobs.push(blob),
                Some(size) => same_size(source, &blob, size)?,
            }
        }
    }
    Ok((blobs, foreign_layers))
}

fn same_size(source: &Repository, descriptor: &Descriptor, size: u64) -> Result<()> {
    if descriptor.size == size {
        return Ok(());
    }
    let reason = format!(
        "said to have {size} bytes in one place and {} in another",
        descriptor.size
    );
    Err(content(source, descriptor, reason))
}

fn content(source: &Repository, descriptor: &Descriptor, reason: String) -> Error {
    Error::Content {
        side: Side::Source,
        reference: source.reference(descriptor.digest.as_str()),
        reason,
    }
}
