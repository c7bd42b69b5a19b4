//! From what was seen of an image: the ordered list of what one destination lacks.
//!
//! This is pure: nothing is asked of a registry, and what comes out is plain data that can be printed. In this order a plan saves
//! work:
//! 1. the destination's tag has the source's digest: nothing to do;
//! 2. a manifest is at the destination: so is all that it refers to, for a registry refuses a manifest whose parts are missing;
//! 3. a blob is at the destination: it is not sent.
//!
//! With `force` the survey does not believe the first two, and looks at everything.

use std::cmp::Reverse;
use std::fmt;

use super::survey::Survey;
use crate::manifest::{Descriptor, Digest, Manifest};

/// What to do at one destination, in order.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The digest that the destination is to have under the tag.
    pub digest: Digest,
    /// The tag to write; without one the image arrives under its digest.
    pub tag: Option<String>,
    /// Blobs to copy, the largest first, so that the longest transfer starts earliest.
    pub blobs: Vec<Descriptor>,
    /// Manifests to push by digest, each after those that it refers to.
    pub manifests: Vec<Push>,
    /// The manifest to push last, under the tag; `None` if the destination has this digest there already.
    pub top: Option<Manifest>,
    /// What a person should know although it does not stop the copy.
    pub warnings: Vec<String>,
}

/// A manifest to push by its digest, and what has to be there before.
#[derive(Clone, Debug)]
pub struct Push {
    /// What to push.
    pub manifest: Manifest,
    /// Positions in [`Plan::blobs`].
    pub after_blobs: Vec<u32>,
    /// Positions in [`Plan::manifests`].
    pub after_manifests: Vec<u32>,
}

impl Plan {
    /// Makes the plan for the destination at position `destination`, which is to have the image under `tag`. `is_tagged` says that it
    /// has.
    pub fn new(survey: &Survey, destination: usize, tag: Option<&str>, is_tagged: bool) -> Self {
        let root = survey.root(destination);
        let top = &survey.manifests[root];
        let mut blobs: Vec<(Descriptor, usize)> = survey
            .blobs
            .iter()
            .enumerate()
            .filter(|(_, blob)| {
                !blob.is_left_out_at(destination) && blob.needed_by.contains(destination)
            })
            .filter(|(_, blob)| !blob.present_at.contains(destination))
            .map(|(position, blob)| (blob.descriptor, position))
            .collect();
        blobs.sort_unstable_by_key(|(blob, _)| (Reverse(blob.size), blob.digest));
        let mut blob_positions = vec![None; survey.blobs.len()];
        for (position, (_, seen_at)) in blobs.iter().enumerate() {
            blob_positions[*seen_at] = Some(position as u32);
        }
        let mut ordered = Ordered {
            survey,
            destination,
            blob_positions,
            positions: vec![None; survey.manifests.len()],
            is_visited: vec![false; survey.manifests.len()],
            pushes: Vec::new(),
        };
        ordered.is_visited[root] = true;
        for child in &top.manifests {
            ordered.visit(*child as usize);
        }
        let foreign = survey.blobs.iter();
        let foreign = foreign.filter(|blob| blob.is_left_out_at(destination));
        let foreign = foreign.count();
        let warnings = (foreign > 0).then(|| {
            format!("{foreign} foreign layers are left at their own URLs, as the source registry does not hold them")
        });
        Plan {
            digest: top.descriptor.digest,
            tag: tag.map(str::to_owned),
            blobs: blobs.into_iter().map(|(blob, _)| blob).collect(),
            manifests: ordered.pushes,
            top: top.manifest.clone().filter(|_| !is_tagged),
            warnings: warnings.into_iter().collect(),
        }
    }

    /// Whether there is nothing to do.
    pub fn is_current(&self) -> bool {
        self.blobs.is_empty() && self.manifests.is_empty() && self.top.is_none()
    }

    /// The digests of all that is sent before the top manifest.
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        let manifests = self.manifests.iter().map(|push| push.manifest.digest);
        self.blobs.iter().map(|blob| blob.digest).chain(manifests)
    }

    /// The bytes of all blobs to copy.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.size).sum()
    }

    /// The manifests to push, the top one included.
    pub fn pushes(&self) -> u64 {
        self.manifests.len() as u64 + u64::from(self.top.is_some())
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
        match (&self.top, &self.tag) {
            (Some(top), Some(tag)) => writeln!(formatter, "tag {tag} {}", top.digest),
            (Some(top), None) => writeln!(formatter, "manifest {}", top.digest),
            (None, _) => Ok(()),
        }
    }
}

/// The manifests below the top one that the destination lacks, each after those that it refers to.
struct Ordered<'a> {
    survey: &'a Survey,
    destination: usize,
    /// By position in the survey: the position in the plan.
    blob_positions: Vec<Option<u32>>,
    positions: Vec<Option<u32>>,
    is_visited: Vec<bool>,
    pushes: Vec<Push>,
}

impl Ordered<'_> {
    fn visit(&mut self, position: usize) {
        if std::mem::replace(&mut self.is_visited[position], true) {
            return;
        }
        let seen = &self.survey.manifests[position];
        // With `force` a manifest that is present is looked into, for the sake of what it refers to.
        let is_wanted = seen.needed_by.contains(self.destination);
        let Some(manifest) = seen.manifest.as_ref().filter(|_| is_wanted) else {
            return;
        };
        for child in &seen.manifests {
            self.visit(*child as usize);
        }
        if seen.present_at.contains(self.destination) {
            return;
        }
        let in_plan = |positions: &[Option<u32>], parts: &[u32]| -> Vec<u32> {
            parts
                .iter()
                .filter_map(|part| positions[*part as usize])
                .collect()
        };
        let push = Push {
            manifest: manifest.clone(),
            after_blobs: in_plan(&self.blob_positions, &seen.blobs),
            after_manifests: in_plan(&self.positions, &seen.manifests),
        };
        self.positions[position] = Some(self.pushes.len() as u32);
        self.pushes.push(push);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::survey::{Seen, SeenBlob};
    use super::*;
    use crate::copy::places::Places;

    const HERE: usize = 0;
    const THERE: usize = 1;

    fn manifest(text: &str) -> Manifest {
        Manifest {
            media_type: crate::manifest::MANIFEST_MEDIA_TYPES[0],
            digest: Digest::of(text.as_bytes()),
            bytes: Bytes::copy_from_slice(text.as_bytes()),
        }
    }

    fn places(present: &[usize]) -> Places {
        present
            .iter()
            .fold(Places::default(), |places, place| places.with(*place))
    }

    fn seen(text: &str, manifests: &[u32], blobs: &[u32], present: &[usize]) -> Seen {
        let manifest = manifest(text);
        Seen {
            descriptor: manifest.descriptor(),
            manifest: Some(manifest),
            manifests: manifests.to_vec(),
            blobs: blobs.to_vec(),
            needed_by: places(&[HERE, THERE]),
            present_at: places(present),
        }
    }

    fn blob(text: &str, present: &[usize]) -> SeenBlob {
        SeenBlob {
            descriptor: Descriptor {
                digest: Digest::of(text.as_bytes()),
                size: text.len() as u64,
            },
            needed_by: places(&[HERE, THERE]),
            present_at: places(present),
            ordinary_at: Places::default(),
            is_left_out: false,
        }
    }

    /// An index of two images that share a blob; the second destination has the first of them.
    fn survey() -> Survey {
        Survey {
            manifests: vec![
                seen("index", &[1, 2], &[], &[]),
                seen("first", &[], &[0, 1], &[THERE]),
                seen("second", &[], &[1, 2], &[]),
            ],
            blobs: vec![
                blob("a", &[THERE]),
                blob("shared", &[THERE]),
                blob("largest blob", &[]),
            ],
            roots: vec![(0, places(&[HERE, THERE]))],
        }
    }

    #[test]
    fn a_plan_has_what_its_destination_lacks_largest_blobs_and_children_first() {
        let survey = survey();
        let here = Plan::new(&survey, HERE, Some("1"), false);
        let sizes: Vec<u64> = here.blobs.iter().map(|blob| blob.size).collect();
        assert_eq!(
            (sizes, here.bytes(), here.pushes()),
            (vec![12, 6, 1], 19, 3)
        );
        assert_eq!(here.manifests[0].after_blobs, [2, 1]);
        assert_eq!(here.manifests[1].after_blobs, [1, 0]);
        let there = Plan::new(&survey, THERE, Some("1"), false);
        assert_eq!((there.blobs.len(), there.pushes()), (1, 2));
        assert_eq!(there.manifests[0].after_blobs, [0]);
        let lines: Vec<String> = there.to_string().lines().map(str::to_owned).collect();
        assert_eq!(lines[2], format!("tag 1 {}", Digest::of(b"index")));
    }

    #[test]
    fn nested_indexes_come_after_what_they_refer_to_and_nothing_comes_twice() {
        let mut survey = survey();
        survey.manifests.push(seen("nested", &[1, 2], &[], &[]));
        survey.manifests[0].manifests = vec![3, 2, 1];
        let plan = Plan::new(&survey, HERE, Some("1"), false);
        let order: Vec<Digest> = plan
            .manifests
            .iter()
            .map(|push| push.manifest.digest)
            .collect();
        let expected = ["first", "second", "nested"].map(|text| Digest::of(text.as_bytes()));
        assert_eq!(order, expected);
        assert_eq!(plan.manifests[2].after_manifests, [0, 1]);
    }

    #[test]
    fn where_everything_is_there_nothing_is_planned() {
        let mut survey = survey();
        for blob in &mut survey.blobs {
            blob.present_at = places(&[HERE]);
        }
        for seen in &mut survey.manifests[1..] {
            seen.present_at = places(&[HERE]);
        }
        assert!(Plan::new(&survey, HERE, Some("1"), true).is_current());
        let plan = Plan::new(&survey, HERE, None, false);
        assert_eq!(
            plan.to_string(),
            format!("manifest {}\n", Digest::of(b"index"))
        );
    }

    #[test]
    fn a_foreign_layer_that_the_source_does_not_hold_is_a_warning() {
        let mut survey = survey();
        survey.blobs[2].is_left_out = true;
        let plan = Plan::new(&survey, HERE, Some("1"), false);
        assert_eq!(plan.blobs.len(), 2);
        assert_eq!(plan.manifests[1].after_blobs, [0]);
        assert!(plan.warnings[0].starts_with("1 foreign layers"));
    }
}
