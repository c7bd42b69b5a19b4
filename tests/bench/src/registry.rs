//! A CNCF distribution registry (`docker-registry`, version 2) in a process of its own, and the directory that it keeps.

use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use support::image::Image;
use tokio::process::{Child, Command};

use crate::certificates::Certificates;

/// How long a registry may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(30);

/// What a registry holds, in the layout of distribution's filesystem driver (`registry/storage/paths.go`): images are laid there
/// and looked at without a registry, so that none has anything in its caches. Removed when dropped.
pub struct Storage {
    directory: PathBuf,
}

impl Storage {
    /// An empty one below `scratch`.
    pub fn create(scratch: &Path) -> Storage {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = scratch.join(format!("storage-{number}"));
        fs::create_dir_all(&directory).expect("create the storage");
        Storage { directory }
    }

    /// Lays an image down under `tag`, blobs that are there already left as they are.
    pub fn put_image(&self, repository: &str, tag: &str, image: &Image) {
        let root = self.repository(repository);
        for (digest, blob) in &image.blobs {
            self.write_blob(digest, blob.chunks(0..blob.length()));
            write_link(&root.join("_layers"), digest);
        }
        for manifest in &image.manifests {
            self.write_blob(&manifest.digest, [manifest.bytes.clone()]);
            write_link(&root.join("_manifests/revisions"), &manifest.digest);
        }
        let tag = root.join("_manifests/tags").join(tag);
        write_link(&tag.join("index"), &image.top);
        let current = tag.join("current");
        fs::create_dir_all(&current).expect("create the tag");
        fs::write(current.join("link"), &image.top).expect("write the tag");
    }

    /// The digest that a tag stands for.
    pub fn tag(&self, repository: &str, tag: &str) -> Option<String> {
        let tag = self
            .repository(repository)
            .join("_manifests/tags")
            .join(tag);
        fs::read_to_string(tag.join("current/link")).ok()
    }

    /// The file with a blob's or manifest's bytes.
    pub fn blob_file(&self, digest: &str) -> PathBuf {
        let (algorithm, hash) = digest.split_once(':').expect("algorithm and hash");
        let blobs = self.root().join("blobs").join(algorithm);
        blobs.join(&hash[..2]).join(hash).join("data")
    }

    /// Bytes of all blobs and manifests.
    pub fn bytes(&self) -> u64 {
        bytes_below(&self.root().join("blobs"))
    }

    fn write_blob(&self, digest: &str, chunks: impl IntoIterator<Item = bytes::Bytes>) {
        let path = self.blob_file(digest);
        if path.exists() {
            return;
        }
        fs::create_dir_all(path.parent().expect("a directory")).expect("create a blob");
        let mut file = File::create(path).expect("create a blob");
        for chunk in chunks {
            file.write_all(&chunk).expect("write a blob");
        }
    }

    fn repository(&self, name: &str) -> PathBuf {
        self.root().join("repositories").join(name)
    }

    fn root(&self) -> PathBuf {
        self.directory.join("docker/registry/v2")
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        // What stays behind is in a scratch directory.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn bytes_below(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    let bytes = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.expect("read a directory");
        let metadata = entry.metadata().expect("look at a file");
        match metadata.is_dir() {
            true => bytes_below(&entry.path()),
            false => metadata.len(),
        }
    };
    entries.map(bytes).sum()
}

fn write_link(directory: &Path, digest: &str) {
    let directory = directory.join(digest.replace(':', "/"));
    fs::create_dir_all(&directory).expect("create a link");
    fs::write(directory.join("link"), digest).expect("write a link");
}

/// One line of the access log.
#[derive(Clone, Debug, PartialEq)]
pub struct Access {
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Of the answer's body.
    pub bytes: u64,
}

/// A registry without authentication, on a free port of `127.0.0.1`. Killed when dropped.
pub struct Registry {
    address: SocketAddr,
    scheme: &'static str,
    log: PathBuf,
    process: Child,
}

impl Registry {
    /// Starts one over `storage`, and waits until it listens; with a certificate it speaks TLS.
    pub async fn start(storage: &Storage, certificates: Option<&Certificates>) -> Registry {
        let (configuration, log) = (
            storage.directory.join("config.yml"),
            storage.directory.join("log"),
        );
        let tls = certificates.map_or(String::new(), |files| {
            format!(
                "  tls:\n    certificate: {}\n    key: {}\n",
                files.certificate.display(),
                files.key.display()
            )
        });
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n{tls}",
            storage.directory.display()
        );
        fs::write(&configuration, text).expect("write the registry's configuration");
        let output = File::create(&log).expect("create the registry's log");
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("duplicate the log's descriptor"))
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .expect("start docker-registry; the Debian package of that name has it");
        let listening = async {
            loop {
                let text = fs::read_to_string(&log).expect("read the registry's log");
                match listening_address(&text) {
                    Some(address) => return address,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let address = tokio::time::timeout(START_LIMIT, listening).await;
        Registry {
            address: address.expect("docker-registry listens"),
            scheme: if certificates.is_some() {
                "https"
            } else {
                "http"
            },
            log,
            process,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// Every request that was answered so far.
    pub fn accesses(&self) -> Vec<Access> {
        let text = fs::read_to_string(&self.log).expect("read the registry's log");
        text.lines().filter_map(access).collect()
    }

    /// Kills it, and waits until it is gone.
    pub async fn stop(mut self) {
        self.process.kill().await.expect("kill the registry");
    }
}

fn listening_address(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once("msg=\"listening on ")?;
    let end = rest.find([',', '"'])?;
    rest[..end].parse().ok()
}

/// Reads a line in Apache's combined format; other lines are the registry's own.
fn access(line: &str) -> Option<Access> {
    let mut parts = line.strip_prefix("127.0.0.1 - ")?.split('"').skip(1);
    let (request, answer) = (parts.next()?, parts.next()?);
    let mut request = request.split(' ');
    Some(Access {
        method: request.next()?.to_owned(),
        path: request.next()?.to_owned(),
        bytes: answer.split_whitespace().nth(1)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_the_address_and_the_requests() {
        let own = r#"time="2026-11-21T10:17:16Z" level=info msg="listening on 127.0.0.1:37399" version=2.8.2"#;
        let tls = r#"time="2026-11-21T10:17:16Z" level=info msg="listening on 127.0.0.1:37399, tls" version=2.8.2"#;
        let address = SocketAddr::from(([127, 0, 0, 1], 37399));
        assert_eq!(listening_address(own), Some(address));
        assert_eq!(listening_address(tls), Some(address));
        assert_eq!(listening_address("level=warning"), None);
        let line = r#"127.0.0.1 - - [21/Nov/2026:10:17:17 +0000] "GET /v2/a/tags/list?n=9 HTTP/1.1" 200 25 "" "curl/7.88.1""#;
        let expected = Access {
            method: "GET".into(),
            path: "/v2/a/tags/list?n=9".into(),
            bytes: 25,
        };
        assert_eq!(access(line), Some(expected));
        assert_eq!(access(own), None);
    }
}
