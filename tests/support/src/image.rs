//! Deterministic images in memory.
//!
//! Manifests have the white space and the key order of Docker's tools, which `serde_json` would not produce: a client that parses one
//! and serialises it again gets another digest.

mod blob;
mod described;
mod signed;
#[cfg(test)]
mod tests;

pub use blob::{Blob, digest, finish};
pub use signed::Signer;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::json;

// Media types: OCI image specification 1.1 and Docker image manifest version 2, schema 2.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
pub const DOCKER_FOREIGN_LAYER: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
/// What buildx wraps provenance and SBOM attestations in.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";

/// What the attestations here attest to.
const PROVENANCE: &str = "https://slsa.dev/provenance/v0.2";

/// The exact bytes of a manifest or index.
#[derive(Clone, Debug)]
pub struct StoredManifest {
    pub media_type: String,
    pub digest: String,
    pub bytes: Bytes,
}

impl StoredManifest {
    /// A manifest with its true digest.
    pub fn new(media_type: &str, bytes: impl Into<Bytes>) -> StoredManifest {
        let bytes = bytes.into();
        StoredManifest {
            media_type: media_type.into(),
            digest: digest(&bytes),
            bytes,
        }
    }
}

/// Everything that a tag reaches and a registry stores.
#[derive(Clone, Debug)]
pub struct Image {
    /// Children before their parents, the top one last.
    pub manifests: Vec<StoredManifest>,
    /// By digest, each once.
    pub blobs: Vec<(String, Blob)>,
    /// Digest of the top manifest.
    pub top: String,
}

/// An entry of an index.
#[derive(Clone, Debug)]
pub struct Child {
    pub image: Image,
    /// `os/architecture` or `os/architecture/variant`.
    pub platform: Option<String>,
    pub annotations: Vec<(String, String)>,
}

impl From<Image> for Child {
    fn from(image: Image) -> Child {
        Child {
            image,
            platform: None,
            annotations: Vec::new(),
        }
    }
}

impl Image {
    /// An OCI image for `linux/amd64` with gzip layers.
    pub fn single(layers: &[Blob]) -> Image {
        layers
            .iter()
            .cloned()
            .fold(ImageBuilder::oci(), |image, layer| {
                image.layer(OCI_LAYER_GZIP, layer)
            })
            .build()
    }

    /// A Docker image (version 2, schema 2) for `linux/amd64`.
    pub fn docker(layers: &[Blob]) -> Image {
        layers
            .iter()
            .cloned()
            .fold(ImageBuilder::docker(), |image, layer| {
                image.layer(DOCKER_LAYER_GZIP, layer)
            })
            .build()
    }

    /// An OCI image whose config says `platform`, with gzip layers.
    pub fn of_platform(platform: &str, layers: &[Blob]) -> Image {
        let builder = ImageBuilder::oci().platform(platform);
        layers
            .iter()
            .cloned()
            .fold(builder, |image, layer| image.layer(OCI_LAYER_GZIP, layer))
            .build()
    }

    /// An OCI index. A child may be an index itself, or listed twice.
    pub fn index(children: Vec<Child>) -> Image {
        Image::parent(OCI_INDEX, children)
    }

    /// A Docker manifest list.
    pub fn docker_list(children: Vec<Child>) -> Image {
        Image::parent(DOCKER_LIST, children)
    }

    /// What `docker buildx build --provenance` pushes: an OCI index with an image for each platform and then
    /// an attestation for each image.
    pub fn buildx(platforms: &[(&str, &[Blob])]) -> Image {
        let images: Vec<_> = platforms
            .iter()
            .map(|(platform, layers)| Image::of_platform(platform, layers))
            .collect();
        let attestations: Vec<_> = images.iter().map(Image::attestation).collect();
        let images = images
            .into_iter()
            .zip(platforms)
            .map(|(image, (platform, _))| image.on(platform));
        Image::index(images.chain(attestations).collect())
    }

    /// The index entry that buildx writes for an attestation of this image.
    pub fn attestation(&self) -> Child {
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v0.1",
            "predicateType": PROVENANCE,
            "subject": [{ "name": "image", "digest": { "sha256": self.top.trim_start_matches("sha256:") } }],
            "predicate": {},
        });
        let annotations = vec![("in-toto.io/predicate-type".into(), PROVENANCE.into())];
        let image = ImageBuilder::oci()
            .platform("unknown/unknown")
            .layer_annotated(IN_TOTO, Blob::bytes(statement.to_string()), annotations)
            .build();
        Child {
            annotations: vec![
                ("vnd.docker.reference.digest".into(), self.top.clone()),
                (
                    "vnd.docker.reference.type".into(),
                    "attestation-manifest".into(),
                ),
            ],
            ..image.on("unknown/unknown")
        }
    }

    /// This image as an index entry for `platform`, which the entry alone says; the config is as it was built.
    pub fn on(self, platform: &str) -> Child {
        Child {
            platform: Some(platform.into()),
            ..Child::from(self)
        }
    }

    /// A manifest of any bytes and media type, without what it refers to; see [`Image::with_blob`] and [`Image::with`].
    pub fn raw(media_type: &str, bytes: impl Into<Bytes>) -> Image {
        let manifest = StoredManifest::new(media_type, bytes);
        Image {
            top: manifest.digest.clone(),
            manifests: vec![manifest],
            blobs: Vec::new(),
        }
    }

    /// Adds the manifests and blobs of another image before this one's top manifest, which stays the top.
    pub fn with(mut self, other: &Image) -> Image {
        let own = std::mem::take(&mut self.manifests);
        for manifest in other.manifests.iter().cloned().chain(own) {
            self.manifests.retain(|kept| kept.digest != manifest.digest);
            self.manifests.push(manifest);
        }
        let replaced: BTreeSet<_> = other.blobs.iter().map(|(digest, _)| digest).collect();
        self.blobs.retain(|(digest, _)| !replaced.contains(digest));
        self.blobs.extend(other.blobs.iter().cloned());
        self
    }

    /// Serves `blob` under `digest`, even if that is not its digest, instead of what was there.
    pub fn with_blob(mut self, digest: &str, blob: Blob) -> Image {
        self.blobs.retain(|(kept, _)| kept != digest);
        self.blobs.push((digest.into(), blob));
        self
    }

    /// Serves `bytes` as the manifest with `digest`, even if that is not their digest.
    pub fn with_manifest_bytes(mut self, digest: &str, bytes: impl Into<Bytes>) -> Image {
        let manifest = self
            .manifests
            .iter_mut()
            .find(|manifest| manifest.digest == digest);
        manifest.expect("a manifest of this image").bytes = bytes.into();
        self
    }

    /// Removes the manifest or blob with `digest`, and keeps what refers to it.
    pub fn without(mut self, digest: &str) -> Image {
        self.manifests.retain(|manifest| manifest.digest != digest);
        self.blobs.retain(|(kept, _)| kept != digest);
        self
    }

    /// Replaces text in the top manifest, such as a descriptor's size or digest, and so changes the top digest.
    pub fn rewritten(mut self, from: &str, to: &str) -> Image {
        let old = self.manifests.pop().expect("a top manifest");
        let text = std::str::from_utf8(&old.bytes).expect("JSON text");
        assert!(text.contains(from), "`{from}` is not in {text}");
        let new = StoredManifest::new(&old.media_type, text.replace(from, to));
        self.top = new.digest.clone();
        self.manifests.push(new);
        self
    }

    /// The stored manifest with this digest.
    pub fn manifest(&self, digest: &str) -> &StoredManifest {
        self.manifests
            .iter()
            .find(|manifest| manifest.digest == digest)
            .expect("a manifest of this image")
    }

    /// The stored manifest that [`Image::top`] names.
    pub fn top_manifest(&self) -> &StoredManifest {
        self.manifest(&self.top)
    }

    /// The size of all blobs in bytes, each counted once.
    pub fn blob_bytes(&self) -> u64 {
        self.blobs.iter().map(|(_, blob)| blob.length()).sum()
    }

    fn parent(media_type: &str, children: Vec<Child>) -> Image {
        let entries: Vec<_> = children
            .iter()
            .map(|child| child.descriptor().json())
            .collect();
        let fields = [
            ("mediaType", text(media_type)),
            ("schemaVersion", "2".into()),
            (
                "manifests",
                format!("[\n      {}\n   ]", entries.join(",\n      ")),
            ),
        ];
        children
            .iter()
            .fold(Image::raw(media_type, document(&fields)), |image, child| {
                image.with(&child.image)
            })
    }
}

impl Child {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            platform: self.platform.clone(),
            annotations: self.annotations.clone(),
            ..Descriptor::of_manifest(self.image.top_manifest())
        }
    }
}

/// How a manifest refers to a blob or another manifest. It need not be true.
#[derive(Clone, Debug, Default)]
pub struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    /// Where a foreign layer can be fetched, if the registry does not have it.
    pub urls: Vec<String>,
    /// `os/architecture` or `os/architecture/variant`.
    pub platform: Option<String>,
    pub annotations: Vec<(String, String)>,
}

impl Descriptor {
    /// A true descriptor of a config or layer.
    pub fn of_blob(media_type: &str, blob: &Blob) -> Descriptor {
        Descriptor {
            media_type: media_type.into(),
            digest: blob.digest(),
            size: blob.length(),
            ..Descriptor::default()
        }
    }

    /// A true descriptor of a manifest or index.
    pub fn of_manifest(manifest: &StoredManifest) -> Descriptor {
        Descriptor {
            media_type: manifest.media_type.clone(),
            digest: manifest.digest.clone(),
            size: manifest.bytes.len() as u64,
            ..Descriptor::default()
        }
    }

    fn json(&self) -> String {
        let mut fields = vec![
            format!(r#""mediaType": {}"#, text(&self.media_type)),
            format!(r#""digest": {}"#, text(&self.digest)),
            format!(r#""size": {}"#, self.size),
        ];
        if !self.urls.is_empty() {
            let urls: Vec<_> = self.urls.iter().map(|url| text(url)).collect();
            fields.push(format!(r#""urls": [{}]"#, urls.join(", ")));
        }
        if let Some(platform) = &self.platform {
            let parts = platform.split('/').zip(["os", "architecture", "variant"]);
            let parts: Vec<_> = parts
                .map(|(value, name)| format!("{}: {}", text(name), text(value)))
                .collect();
            fields.push(format!(r#""platform": {{ {} }}"#, parts.join(", ")));
        }
        if !self.annotations.is_empty() {
            fields.push(format!(r#""annotations": {}"#, map(&self.annotations)));
        }
        format!("{{ {} }}", fields.join(", "))
    }
}

/// Builds a single manifest with its blobs.
#[derive(Clone, Debug)]
pub struct ImageBuilder {
    media_type: &'static str,
    config_media_type: String,
    /// By default a config that fits the platform and the layers.
    config: Option<Blob>,
    platform: String,
    layers: Vec<Descriptor>,
    blobs: BTreeMap<String, Blob>,
    artifact_type: Option<String>,
    subject: Option<Descriptor>,
    annotations: Vec<(String, String)>,
}

impl ImageBuilder {
    /// An OCI image manifest without layers yet.
    pub fn oci() -> ImageBuilder {
        ImageBuilder::new(OCI_MANIFEST, OCI_CONFIG)
    }

    /// A Docker image manifest (version 2, schema 2) without layers yet.
    pub fn docker() -> ImageBuilder {
        ImageBuilder::new(DOCKER_MANIFEST, DOCKER_CONFIG)
    }

    /// An OCI artifact: `artifactType`, and `{}` for a config.
    pub fn artifact(artifact_type: &str) -> ImageBuilder {
        let builder =
            ImageBuilder::new(OCI_MANIFEST, OCI_EMPTY).config(OCI_EMPTY, Blob::bytes("{}"));
        ImageBuilder {
            artifact_type: Some(artifact_type.into()),
            ..builder
        }
    }

    fn new(media_type: &'static str, config_media_type: &str) -> ImageBuilder {
        ImageBuilder {
            media_type,
            config_media_type: config_media_type.into(),
            config: None,
            platform: "linux/amd64".into(),
            layers: Vec::new(),
            blobs: BTreeMap::new(),
            artifact_type: None,
            subject: None,
            annotations: Vec::new(),
        }
    }

    /// The platform in the config, `linux/amd64` by default.
    pub fn platform(mut self, platform: &str) -> ImageBuilder {
        self.platform = platform.into();
        self
    }

    /// This config instead of one that fits the platform and the layers.
    pub fn config(mut self, media_type: &str, blob: Blob) -> ImageBuilder {
        self.config_media_type = media_type.into();
        self.config = Some(blob);
        self
    }

    /// A layer with its blob. Equal blobs are stored once and listed each time.
    pub fn layer(self, media_type: &str, blob: Blob) -> ImageBuilder {
        self.layer_annotated(media_type, blob, Vec::new())
    }

    /// A layer with its blob, and annotations on its descriptor.
    pub fn layer_annotated(
        mut self,
        media_type: &str,
        blob: Blob,
        annotations: Vec<(String, String)>,
    ) -> ImageBuilder {
        let descriptor = Descriptor {
            annotations,
            ..Descriptor::of_blob(media_type, &blob)
        };
        self.blobs.insert(descriptor.digest.clone(), blob);
        self.layer_described(descriptor)
    }

    /// A layer that is listed and not stored: a foreign layer, or a descriptor that is wrong on purpose.
    pub fn layer_described(mut self, descriptor: Descriptor) -> ImageBuilder {
        self.layers.push(descriptor);
        self
    }

    /// The manifest that this one refers to.
    pub fn subject(mut self, subject: &StoredManifest) -> ImageBuilder {
        self.subject = Some(Descriptor::of_manifest(subject));
        self
    }

    /// An annotation of the manifest.
    pub fn annotation(mut self, name: &str, value: &str) -> ImageBuilder {
        self.annotations.push((name.into(), value.into()));
        self
    }

    /// The manifest, the config and the layers that were given with their blobs.
    pub fn build(mut self) -> Image {
        let config = self.config.take().unwrap_or_else(|| self.default_config());
        let config_descriptor = Descriptor::of_blob(&self.config_media_type, &config);
        let layers: Vec<_> = self.layers.iter().map(Descriptor::json).collect();
        let mut fields = vec![
            ("schemaVersion", "2".to_owned()),
            ("mediaType", text(self.media_type)),
            ("config", config_descriptor.json()),
            (
                "layers",
                format!("[\n      {}\n   ]", layers.join(",\n      ")),
            ),
        ];
        if let Some(artifact_type) = &self.artifact_type {
            fields.insert(1, ("artifactType", text(artifact_type)));
        }
        if let Some(subject) = &self.subject {
            fields.push(("subject", subject.json()));
        }
        if !self.annotations.is_empty() {
            fields.push(("annotations", map(&self.annotations)));
        }
        self.blobs.insert(config_descriptor.digest, config);
        Image {
            blobs: self.blobs.into_iter().collect(),
            ..Image::raw(self.media_type, document(&fields))
        }
    }

    fn default_config(&self) -> Blob {
        let parts = self
            .platform
            .split('/')
            .zip(["os", "architecture", "variant"]);
        let platform: String = parts
            .map(|(value, name)| format!("{}:{},", text(name), text(value)))
            .collect();
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|layer| text(&layer.digest))
            .collect();
        Blob::bytes(format!(
            r#"{{{platform}"config":{{"Entrypoint":["/app"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            layers.join(","),
        ))
    }
}

/// A JSON document as Docker's tools format it: indented by three spaces, with the fields in this order.
fn document(fields: &[(&str, String)]) -> String {
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!("   {}: {value}", text(name)))
        .collect();
    format!("{{\n{}\n}}", fields.join(",\n"))
}

fn map(entries: &[(String, String)]) -> String {
    let entries: Vec<_> = entries
        .iter()
        .map(|(name, value)| format!("{}: {}", text(name), text(value)))
        .collect();
    format!("{{ {} }}", entries.join(", "))
}

/// A JSON string.
fn text(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}
