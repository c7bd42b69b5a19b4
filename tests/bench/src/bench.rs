//! How a case is measured: one contender after the other, in rounds, each on a fresh stage.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use support::aws::Aws;
use support::image::{Blob, Image};
use tokio::sync::OnceCell;

use crate::certificates::Certificates;
use crate::contender::{self, CURL_GET, CURL_PUT, FUNCTION, SKOPEO};
use crate::network;
use crate::registry::Storage;
use crate::results::Sample;
use crate::stage::{Network, Setting, Stage, Traffic};

const MEBIBYTE: u64 = 1024 * 1024;

/// Where there is memory for files, so that no disk is measured.
const MEMORY_FILES: &str = "/dev/shm";

/// A region away at the source, and nearby at the destination: round trips of 40 and 20 ms, and TCP windows as a kernel gives
/// them to long connections.
pub const NETWORK: Network = Network {
    source: network::Path {
        delay: Duration::from_millis(20),
        window: 2 * MEBIBYTE as usize,
        upload_rate: None,
    },
    destination: network::Path {
        delay: Duration::from_millis(10),
        window: 2 * MEBIBYTE as usize,
        upload_rate: None,
    },
};

/// A directory for everything that is made on the way. Removed when dropped.
pub struct Scratch {
    directory: PathBuf,
}

impl Scratch {
    fn create() -> Scratch {
        let shared = Path::new(MEMORY_FILES);
        let root = match shared.is_dir() {
            true => shared.to_owned(),
            false => std::env::temp_dir(),
        };
        let directory = root.join(format!("bench-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("create a scratch directory");
        Scratch { directory }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing more can be done about what stays.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// An image, and a registry's storage that has it as `acme/api:1`.
pub struct Large {
    // Before the scratch directory that it is in.
    pub storage: Storage,
    pub image: Image,
}

/// What all cases share.
pub struct Bench {
    /// The function.
    pub binary: PathBuf,
    pub rounds: usize,
    pub aws: Aws,
    pub certificates: Certificates,
    large: OnceCell<Large>,
    scratch: Scratch,
}

/// What one contender is asked to do, and what must have come of it.
pub struct Work {
    /// For the function.
    pub event: Value,
    /// The function's.
    pub outcome: &'static str,
    /// For skopeo; SOURCE and DESTINATION stand for hosts.
    pub skopeo: Vec<String>,
    /// Repository and tag at the destination, and the digest that it must have.
    pub tags: Vec<(&'static str, String, String)>,
}

impl Bench {
    /// Starts what all cases need.
    pub async fn start(binary: PathBuf, rounds: usize) -> Bench {
        let scratch = Scratch::create();
        Bench {
            binary,
            rounds,
            aws: contender::aws().await,
            certificates: Certificates::create(&scratch.directory),
            large: OnceCell::new(),
            scratch,
        }
    }

    /// The image of one GiB, made when it is first asked for.
    pub async fn large(&self) -> &Large {
        let make = async || {
            let image = Image::single(&large_layers(1));
            let storage = self.storage();
            storage.put_image("acme/api", "1", &image);
            Large { storage, image }
        };
        self.large.get_or_init(make).await
    }

    /// An empty one.
    pub fn storage(&self) -> Storage {
        Storage::create(&self.scratch.directory)
    }

    /// Measures the function and skopeo in turns, `rounds` times. Without `destination` each copy has an empty one.
    pub async fn compare(
        &self,
        variant: &'static str,
        setting: &Setting<'_>,
        destination: Option<&Storage>,
        rounds: usize,
        work: impl Fn(&'static str, usize) -> Work,
    ) -> Vec<Sample> {
        let mut samples = Vec::new();
        for round in 0..rounds {
            for contender in [FUNCTION, SKOPEO] {
                let work = work(contender, round);
                let sample = self
                    .measure(contender, setting, destination, &work, |_| {})
                    .await;
                samples.push(Sample { variant, ..sample });
            }
        }
        samples
    }

    /// Measures one contender once, and shows the stage to `look` before it is taken down. Panics if the copy failed.
    pub async fn measure(
        &self,
        contender: &'static str,
        setting: &Setting<'_>,
        destination: Option<&Storage>,
        work: &Work,
        look: impl FnOnce(&Stage),
    ) -> Sample {
        let fresh;
        let destination = match destination {
            Some(destination) => destination,
            None => {
                fresh = self.storage();
                &fresh
            }
        };
        let stage = Stage::open(setting, destination).await;
        let certificates = setting.certificates;
        let usage = match contender {
            FUNCTION => {
                contender::function(
                    &self.binary,
                    &self.aws,
                    &stage,
                    certificates,
                    &work.event,
                    work.outcome,
                )
                .await
            }
            _ => {
                contender::skopeo(&self.scratch.directory, &stage, certificates, &work.skopeo).await
            }
        };
        let (source, written) = (stage.source.read(), stage.destination.written(destination));
        look(&stage);
        stage.close().await;
        for (repository, tag, digest) in &work.tags {
            let found = destination.tag(repository, tag);
            assert_eq!(
                found.as_ref(),
                Some(digest),
                "{contender}: {repository}:{tag}"
            );
        }
        Sample {
            contender,
            variant: "",
            usage,
            source,
            destination: written,
        }
    }

    /// Measures curl as it reads all blobs of `acme/api:1`, and as it writes them.
    pub async fn floor(&self, setting: &Setting<'_>, image: &Image) -> [Sample; 2] {
        let scratch = &self.scratch.directory;
        let certificates = setting.certificates;
        let digests: Vec<&str> = image
            .blobs
            .iter()
            .map(|(digest, _)| digest.as_str())
            .collect();
        let files: Vec<(&str, PathBuf)> = digests
            .iter()
            .map(|digest| (*digest, setting.source.blob_file(digest)))
            .collect();
        let destination = self.storage();
        let stage = Stage::open(setting, &destination).await;
        let read = contender::curl_get(scratch, &stage, certificates, "acme/api", &digests).await;
        let written = contender::curl_put(scratch, &stage, certificates, "prod/api", &files).await;
        let (source, gained) = (stage.source.read(), stage.destination.written(&destination));
        stage.close().await;
        // On the wire of a network there are headers too.
        let missing = image.blob_bytes().saturating_sub(gained.bytes);
        assert_eq!(missing, 0, "bytes that curl has not written");
        let sample = |contender, usage| Sample {
            contender,
            variant: "",
            usage,
            source: Traffic::default(),
            destination: Traffic::default(),
        };
        [
            Sample {
                source,
                ..sample(CURL_GET, read)
            },
            Sample {
                destination: gained,
                ..sample(CURL_PUT, written)
            },
        ]
    }
}

/// Layers of `times` one GiB, in the order in which a builder would have written them: what an image is based on comes first.
pub fn large_layers(times: u64) -> Vec<Blob> {
    let sizes = [100, 8, 300, 4, 1, 600, 8, 2, 1];
    (0..)
        .zip(sizes)
        .map(|(seed, size)| Blob::pseudorandom(seed, times * size * MEBIBYTE))
        .collect()
}
