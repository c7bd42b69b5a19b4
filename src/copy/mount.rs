//! Which repository of a registry is known to have a blob, so that another one can get it from there without its bytes.
//!
//! Only what this invocation has seen counts, and nothing is asked for the sake of it. The knowledge may be wrong, and a registry need
//! not mount: then it opens an upload session with the same answer, so that trying costs nothing. ECR mounts where the account has
//! `BLOB_MOUNTING` enabled, and only what a manifest of the other repository refers to. (ECR user guide, "Blob mounting";
//! distribution-spec v1.1, "Mounting a blob from another repository")

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::places::Places;
use super::survey::Survey;
use crate::manifest::Digest;
use crate::registry::Repository;

/// The blobs of so many are remembered, some 50 bytes each.
const BLOBS_LIMIT: usize = 50_000;

/// What the copies of one invocation know of the blobs in the registries.
#[derive(Default)]
pub(super) struct Holders(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Hosts and repositories that are named below by their position.
    hosts: Vec<Host>,
    repositories: Vec<String>,
    /// By host: the first repository that was known to have a blob.
    holders: HashMap<(usize, Digest), usize>,
    /// By their prefix: those that have lost a part of an image. What they need is sent to them.
    distrusted: HashSet<String>,
}

struct Host {
    name: String,
    answer: Answer,
}

/// What the last request to mount a blob came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Answer {
    /// Mounted, or nothing is known yet.
    #[default]
    Mounts,
    /// An upload session.
    Declines,
    /// An error, which cost a request.
    Refuses,
}

/// A repository to mount a blob from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mount {
    /// Its name, on the same host.
    pub(super) from: String,
    /// Whether the answer is worth waiting for before the blob is read from the source.
    pub(super) is_likely: bool,
}

/// How a blob came to a destination.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Came {
    /// Its bytes were sent.
    Sent,
    /// From another repository.
    Mounted,
    /// Its bytes were sent, as the registry refused the very request to mount it.
    SentAfterRefusal,
}

impl Holders {
    /// A repository has the blob.
    pub(super) fn note(&self, repository: &Repository, blob: &Digest) {
        let mut known = self.known();
        if known.holders.len() >= BLOBS_LIMIT {
            return;
        }
        let host = known.host(repository.host());
        let name = known.repository(repository.name());
        known.holders.entry((host, *blob)).or_insert(name);
    }

    /// From where the blob may be mounted into a repository.
    pub(super) fn mount(&self, into: &Repository, blob: &Digest) -> Option<Mount> {
        let mut known = self.known();
        let host = known.host(into.host());
        let answer = known.hosts[host].answer;
        let holder = known.holders.get(&(host, *blob))?;
        let from = known.repositories[*holder].clone();
        let is_tried = answer != Answer::Refuses
            && from != into.name()
            && !known.distrusted.contains(&into.prefix());
        is_tried.then_some(Mount {
            from,
            is_likely: answer == Answer::Mounts,
        })
    }

    /// Notes what a registry has answered to a request to mount a blob.
    pub(super) fn answered(&self, by: &Repository, came: Came) {
        let mut known = self.known();
        let host = known.host(by.host());
        known.hosts[host].answer = match came {
            Came::Mounted => Answer::Mounts,
            Came::Sent => Answer::Declines,
            Came::SentAfterRefusal => Answer::Refuses,
        };
    }

    /// The repository whose references begin with `prefix` has lost a part of an image.
    pub(super) fn distrust(&self, prefix: &str) {
        let mut known = self.known();
        known.distrusted.insert(prefix.to_owned());
        let Known {
            hosts,
            repositories,
            holders,
            ..
        } = &mut *known;
        holders.retain(|(host, _), holder| {
            format!("{}/{}@", hosts[*host].name, repositories[*holder]) != prefix
        });
    }

    /// Notes which destinations have the blobs of an image: by what the survey saw, and where a manifest is, for so is all that it
    /// refers to. `complete` has the digests of the images that some of them have as a whole.
    pub(super) fn note_survey(
        &self,
        survey: &Survey,
        destinations: &[Repository],
        complete: &[(usize, Digest)],
    ) {
        let mut held: Vec<Places> = survey.manifests.iter().map(|it| it.present_at).collect();
        for (root, _) in &survey.roots {
            let root = *root as usize;
            let digest = survey.manifests[root].descriptor.digest;
            let have_it = complete.iter().filter(|(_, other)| *other == digest);
            held[root] = have_it.fold(held[root], |places, (place, _)| places.with(*place));
        }
        // A manifest may come before those that refer to it; indexes nest only a few levels deep.
        loop {
            let before = held.clone();
            for (position, manifest) in survey.manifests.iter().enumerate() {
                for child in &manifest.manifests {
                    held[*child as usize] = held[*child as usize].and(held[position]);
                }
            }
            if held == before {
                break;
            }
        }
        let mut blobs: Vec<Places> = survey.blobs.iter().map(|it| it.present_at).collect();
        for (position, manifest) in survey.manifests.iter().enumerate() {
            for blob in &manifest.blobs {
                blobs[*blob as usize] = blobs[*blob as usize].and(held[position]);
            }
        }
        for (places, blob) in blobs.into_iter().zip(&survey.blobs) {
            for place in places.iter() {
                self.note(&destinations[place], &blob.descriptor.digest);
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn host(&mut self, name: &str) -> usize {
        let known = self.hosts.iter().position(|host| host.name == name);
        known.unwrap_or_else(|| {
            self.hosts.push(Host {
                name: name.to_owned(),
                answer: Answer::default(),
            });
            self.hosts.len() - 1
        })
    }

    fn repository(&mut self, name: &str) -> usize {
        let known = self.repositories.iter().position(|known| known == name);
        known.unwrap_or_else(|| {
            self.repositories.push(name.to_owned());
            self.repositories.len() - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::copy::survey::{Seen, SeenBlob};
    use crate::endpoint::Endpoint;
    use crate::error::Error;
    use crate::manifest::{Descriptor, MANIFEST_MEDIA_TYPES, Manifest};
    use crate::redaction::KnownSecrets;

    fn repository(host: &str, name: &str) -> Repository {
        let nothing = Arc::new(|_| {
            let error = Error::Internal("no request is made".to_owned());
            Box::pin(std::future::ready(Err(error))) as _
        });
        let http = crate::registry::client().unwrap();
        let endpoint = Endpoint::parse(host).unwrap();
        let (budget, known_secrets) = (Arc::default(), KnownSecrets::default());
        Repository::destination(http, endpoint, name, nothing, budget, known_secrets)
    }

    fn from(holders: &Holders, into: &Repository, blob: &Digest) -> Option<String> {
        holders.mount(into, blob).map(|mount| mount.from)
    }

    #[test]
    fn a_blob_comes_from_another_repository_of_the_same_host() {
        let holders = Holders::default();
        let [api, web] = ["prod/api", "prod/web"].map(|name| repository("a.example", name));
        let elsewhere = repository("b.example", "prod/web");
        let blob = Digest::of(b"blob");
        assert_eq!(holders.mount(&web, &blob), None);
        holders.note(&api, &blob);
        let mount = Mount {
            from: "prod/api".to_owned(),
            is_likely: true,
        };
        assert_eq!(holders.mount(&web, &blob), Some(mount));
        assert_eq!(holders.mount(&api, &blob), None, "it has it already");
        assert_eq!(holders.mount(&elsewhere, &blob), None);
        assert_eq!(holders.mount(&web, &Digest::of(b"other")), None);
    }

    #[test]
    fn what_a_registry_answers_is_remembered() {
        let holders = Holders::default();
        let [api, web] = ["prod/api", "prod/web"].map(|name| repository("a.example", name));
        let blob = Digest::of(b"blob");
        holders.note(&api, &blob);
        for (came, is_likely) in [(Came::Sent, false), (Came::Mounted, true)] {
            holders.answered(&web, came);
            let mount = holders.mount(&web, &blob).unwrap();
            assert_eq!(mount.is_likely, is_likely, "{came:?}");
        }
        holders.answered(&web, Came::SentAfterRefusal);
        assert_eq!(holders.mount(&web, &blob), None);
    }

    #[test]
    fn a_repository_that_lost_a_part_neither_gives_nor_gets() {
        let holders = Holders::default();
        let [api, web] = ["prod/api", "prod/web"].map(|name| repository("a.example", name));
        let [one, two] = [Digest::of(b"one"), Digest::of(b"two")];
        holders.note(&api, &one);
        holders.note(&web, &two);
        holders.distrust(&web.prefix());
        assert_eq!(holders.mount(&api, &two), None);
        assert_eq!(holders.mount(&web, &one), None);
        let job = repository("a.example", "prod/job");
        assert_eq!(from(&holders, &job, &one).as_deref(), Some("prod/api"));
    }

    /// An index of one image of two blobs. The first destination is up to date; the second has the second blob; the third has nothing.
    #[test]
    fn where_a_manifest_is_there_is_all_that_it_refers_to() {
        let manifest = |text: &str| Manifest {
            media_type: MANIFEST_MEDIA_TYPES[0],
            digest: Digest::of(text.as_bytes()),
            bytes: Bytes::copy_from_slice(text.as_bytes()),
        };
        let seen = |text: &str, manifests: &[u32], blobs: &[u32]| Seen {
            descriptor: manifest(text).descriptor(),
            manifest: Some(manifest(text)),
            manifests: manifests.to_vec(),
            blobs: blobs.to_vec(),
            needed_by: Places::default().with(2),
            present_at: Places::default(),
        };
        let blob = |text: &str, present_at: Places| SeenBlob {
            descriptor: Descriptor {
                digest: Digest::of(text.as_bytes()),
                size: 1,
            },
            needed_by: Places::default().with(2),
            present_at,
            ordinary_at: Places::default(),
            is_left_out: false,
        };
        let survey = Survey {
            manifests: vec![seen("index", &[1], &[]), seen("image", &[], &[0, 1])],
            blobs: vec![
                blob("one", Places::default()),
                blob("two", Places::default().with(1)),
            ],
            roots: vec![(0, Places::default().with(1).with(2))],
        };
        let places = ["aa", "bb", "cc"].map(|name| repository("a.example", name));
        let [one, two] = [Digest::of(b"one"), Digest::of(b"two")];
        let holders = Holders::default();
        holders.note_survey(&survey, &places, &[]);
        assert_eq!(from(&holders, &places[2], &one), None);
        assert_eq!(from(&holders, &places[2], &two).as_deref(), Some("bb"));
        let holders = Holders::default();
        holders.note_survey(&survey, &places, &[(0, manifest("index").digest)]);
        for blob in [one, two] {
            assert_eq!(from(&holders, &places[2], &blob).as_deref(), Some("aa"));
        }
        let holders = Holders::default();
        holders.note_survey(&survey, &places, &[(0, manifest("another").digest)]);
        assert_eq!(from(&holders, &places[2], &one), None);
    }
}
