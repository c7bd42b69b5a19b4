//! What an image is made of: digests, descriptors, and manifests as the exact bytes that were fetched.
//!
//! Nothing here speaks to a registry, and nothing is ever written back from a parsed form:
//! a manifest is its bytes, and what is parsed of it serves only to find what it refers to.
//!
//! What ECR is known to refuse is refused here, before anything moves, with the reason. Every destination follows these rules, a
//! plain registry in ECR's place included, so that an image that is tested there can go to ECR.

mod entries;

use std::borrow::Cow;
use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use oci_client::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE, IMAGE_DOCKER_CONFIG_MEDIA_TYPE,
    IMAGE_LAYER_NONDISTRIBUTABLE_GZIP_MEDIA_TYPE, IMAGE_LAYER_NONDISTRIBUTABLE_MEDIA_TYPE,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE,
};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::entries::{Entries, IndexEntry};

/// The media types of manifests, all of which are offered in `Accept`: GHCR answers 404 to a request that leaves out the
/// stored one, and ECR may convert what is asked for by tag.
pub const MANIFEST_MEDIA_TYPES: [&str; 4] = [
    OCI_IMAGE_INDEX_MEDIA_TYPE,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE,
    IMAGE_MANIFEST_MEDIA_TYPE,
];

/// Layers of Windows and the like. A registry need not hold them, and some do.
/// (image-spec v1.1 layer.md, "Non-Distributable Layers"; Docker's image manifest version 2, schema 2)
const FOREIGN_LAYER_MEDIA_TYPES: [&str; 4] = [
    IMAGE_LAYER_NONDISTRIBUTABLE_MEDIA_TYPE,
    IMAGE_LAYER_NONDISTRIBUTABLE_GZIP_MEDIA_TYPE,
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// The largest manifest that is read or written, in bytes. ECR's limit for `PutImage`, and what the distribution
/// specification asks registries to accept at least.
pub const MANIFEST_LIMIT: u64 = 4 * 1024 * 1024;

/// The most bytes that all manifests of one image may have together, since they are held in memory until they are pushed.
/// Ordinary images need some tens of kilobytes.
pub const MANIFESTS_LIMIT: u64 = 16 * 1024 * 1024;

/// The largest blob that ECR stores, in bytes: 52,000 MiB. (ECR user guide, "Service quotas")
pub const BLOB_LIMIT: u64 = 52_000 * 1024 * 1024;

/// A SHA-256 digest. Its text is the registered form: `sha256:` and 64 lower-case hexadecimal digits.
///
/// It is the only algorithm that ECR stores, so others are refused when they are met.
/// (image-spec v1.1 descriptor.md, "Registered algorithms")
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Accepts `text` if it is a digest in the registered form.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            let text: String = text.chars().take(100).collect();
            format!(
                "{text:?} is not a digest: expected `sha256:` and 64 lower-case hexadecimal digits"
            )
        };
        let encoded = text.strip_prefix("sha256:").ok_or_else(wrong)?;
        let (pairs, rest) = encoded.as_bytes().as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte =
                hexadecimal(*high).ok_or_else(wrong)? << 4 | hexadecimal(*low).ok_or_else(wrong)?;
        }
        Ok(Digest(bytes))
    }

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Hasher::of(bytes).finish()
    }

    /// The 64 hexadecimal digits, without the algorithm.
    pub fn encoded(&self) -> String {
        use fmt::Write;
        self.0
            .iter()
            .fold(String::with_capacity(64), |mut text, byte| {
                // Writing to a string does not fail.
                _ = write!(text, "{byte:02x}");
                text
            })
    }
}

fn hexadecimal(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sha256:{}", self.encoded())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Computes a [`Digest`] of bytes that pass by.
pub struct Hasher(Context);

impl Default for Hasher {
    fn default() -> Self {
        Hasher(Context::new(&SHA256))
    }
}

impl Hasher {
    /// One that has seen `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes that were added.
    pub fn finish(self) -> Digest {
        let mut bytes = [0; 32];
        // SHA-256 gives 32 bytes.
        bytes.copy_from_slice(self.0.finish().as_ref());
        Digest(bytes)
    }
}

/// What a manifest says of something that it refers to: as much of it as copying needs. (image-spec v1.1 descriptor.md)
///
/// `oci_client`'s descriptors are not used: they own four texts and a map each, and an image may have 100,000 of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The digest of what is described.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// A manifest or an image index: its bytes as fetched, and what they hash to.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// One of [`MANIFEST_MEDIA_TYPES`].
    pub media_type: &'static str,
    /// The digest of `bytes`, computed here.
    pub digest: Digest,
    /// The bytes as fetched.
    pub bytes: Bytes,
}

/// What a manifest refers to directly, in its own order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Manifests of an image index.
    pub manifests: Vec<Descriptor>,
    /// Config and layers of an image manifest.
    pub blobs: Vec<Descriptor>,
    /// Layers that a registry need not hold, by their media type: one that has them not leaves them at their own URLs.
    /// (image-spec v1.1 layer.md, "Non-Distributable Layers")
    pub foreign_layers: Vec<Descriptor>,
}

/// The few fields that matter for finding what a manifest refers to. All may be absent; the rest is ignored. Each list is
/// turned into descriptors while it is read, so that nothing but those is held of it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    manifests: Option<Vec<Entry>>,
    config: Option<Entry>,
    layers: Option<Vec<Entry>>,
    #[serde(borrow)]
    artifact_type: Option<Cow<'a, str>>,
}

/// A descriptor as it is written, and what its media type says of it.
struct Entry {
    digest: Result<Digest, String>,
    size: u64,
    nature: Nature,
    has_parameter: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Nature {
    Manifest,
    ForeignLayer,
    ImageConfiguration,
    Other,
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Fields<'a> {
            #[serde(borrow, default)]
            media_type: Cow<'a, str>,
            #[serde(borrow)]
            digest: Cow<'a, str>,
            size: u64,
        }
        let fields = Fields::deserialize(deserializer)?;
        let nature = match &*fields.media_type {
            "" => Nature::Manifest,
            media_type if MANIFEST_MEDIA_TYPES.contains(&media_type) => Nature::Manifest,
            media_type if FOREIGN_LAYER_MEDIA_TYPES.contains(&media_type) => Nature::ForeignLayer,
            IMAGE_CONFIG_MEDIA_TYPE | IMAGE_DOCKER_CONFIG_MEDIA_TYPE => Nature::ImageConfiguration,
            _ => Nature::Other,
        };
        Ok(Entry {
            digest: Digest::parse(&fields.digest),
            size: fields.size,
            nature,
            has_parameter: has_parameter(&fields.media_type),
        })
    }
}

impl Entry {
    fn descriptor(self) -> Result<Descriptor, String> {
        Ok(Descriptor {
            digest: self.digest?,
            size: self.size,
        })
    }
}

impl Manifest {
    /// Takes the bytes of a response together with its `Content-Type`.
    ///
    /// The kind is decided by `content_type`, else by the `mediaType` field, else by the shape: OCI manifests may leave
    /// `mediaType` out. (image-spec v1.1 manifest.md)
    ///
    /// # Errors
    /// Says why these bytes are not a manifest that can be copied.
    pub fn new(bytes: Bytes, content_type: Option<&str>) -> Result<Self, String> {
        let shape: Shape<'_> = read(&bytes)?;
        let content_type = content_type
            .and_then(|value| value.split(';').next())
            .map(str::trim);
        let by_shape = match (&shape.manifests, &shape.layers) {
            (Some(_), None) => Some(OCI_IMAGE_INDEX_MEDIA_TYPE),
            (None, Some(_)) => Some(OCI_IMAGE_MEDIA_TYPE),
            _ => None,
        };
        let media_type = [content_type, shape.media_type.as_deref(), by_shape]
            .into_iter()
            .flatten()
            .find_map(|candidate| MANIFEST_MEDIA_TYPES.into_iter().find(|known| *known == candidate))
            .ok_or_else(|| {
                format!(
                    "media type {:?} is neither that of an image manifest nor that of an image index",
                    content_type.or(shape.media_type.as_deref()).unwrap_or("")
                )
            })?;
        let digest = Digest::of(&bytes);
        Ok(Manifest {
            media_type,
            digest,
            bytes,
        })
    }

    /// Whether it is an image index, or Docker's manifest list, and not the manifest of one image.
    pub fn is_index(&self) -> bool {
        [OCI_IMAGE_INDEX_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE].contains(&self.media_type)
    }

    /// What these bytes are known as.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            digest: self.digest,
            size: self.bytes.len() as u64,
        }
    }

    /// The configuration of the image that this is the manifest of; `None` for other artifacts.
    ///
    /// # Errors
    /// Says what is wrong with its descriptor.
    pub fn image_configuration(&self) -> Result<Option<Descriptor>, String> {
        #[derive(Deserialize)]
        struct Fields {
            config: Option<Entry>,
        }
        let fields: Fields = read(&self.bytes)?;
        match fields.config {
            Some(entry) if entry.nature == Nature::ImageConfiguration => blob(entry).map(Some),
            _ => Ok(None),
        }
    }

    /// The manifest that this one is about, if it is a signature, an attestation or the like. (image-spec v1.1 manifest.md, `subject`)
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn subject(&self) -> Result<Option<Digest>, String> {
        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(borrow)]
            subject: Option<Subject<'a>>,
        }
        #[derive(Deserialize)]
        struct Subject<'a> {
            #[serde(borrow)]
            digest: Cow<'a, str>,
        }
        let fields: Fields<'_> = read(&self.bytes)?;
        let subject = fields.subject.map(|subject| Digest::parse(&subject.digest));
        subject.transpose()
    }

    /// What the manifest refers to directly.
    ///
    /// # Errors
    /// Says which descriptor can't be copied, and why.
    pub fn references(&self) -> Result<References, String> {
        let fields: Fields<'_> = read(&self.bytes)?;
        let mut references = References::default();
        if self.is_index() {
            let entries = fields
                .manifests
                .ok_or("an image index without `manifests`")?;
            references.manifests.reserve_exact(entries.len());
            for entry in entries {
                references.manifests.push(child(entry)?);
            }
            return Ok(references);
        }
        let config = fields.config.ok_or("an image manifest without `config`")?;
        let layers = fields.layers.ok_or("an image manifest without `layers`")?;
        // ECR: "Image has to have at least 1 layer". (werf/werf#2544, moby/buildkit#4331)
        if layers.is_empty() {
            return Err(
                "its `layers` are empty, and ECR stores no image without a layer".to_owned(),
            );
        }
        if let Some(media_type) = fields.artifact_type.filter(|it| has_parameter(it)) {
            let media_type: String = media_type.chars().take(100).collect();
            return Err(with_parameter(&format!(
                "its `artifactType` {media_type:?}"
            )));
        }
        if let Some(layer) = layers.iter().find(|layer| layer.has_parameter) {
            let digest = layer.digest.clone()?;
            return Err(with_parameter(&format!("the media type of layer {digest}")));
        }
        references.blobs.reserve_exact(layers.len() + 1);
        for entry in std::iter::once(config).chain(layers) {
            let is_foreign = entry.nature == Nature::ForeignLayer;
            let descriptor = blob(entry)?;
            match is_foreign {
                true => references.foreign_layers.push(descriptor),
                false => references.blobs.push(descriptor),
            }
        }
        Ok(references)
    }
}

/// What tells an index from a manifest, without a look at the entries of their lists.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape<'a> {
    #[serde(borrow)]
    media_type: Option<Cow<'a, str>>,
    manifests: Option<Vec<IgnoredAny>>,
    layers: Option<Vec<IgnoredAny>>,
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("not a manifest: {error}"))
}

/// Such as `;version=0.2`. (RFC 6838 section 4.3)
fn has_parameter(media_type: &str) -> bool {
    media_type.contains(';')
}

/// ECR refuses the manifest, where `artifactType` or a layer's media type is one. (aws/containers-roadmap#2306)
fn with_parameter(what: &str) -> String {
    format!("{what} has a parameter (`;…`), and ECR does not store such media types")
}

fn child(entry: Entry) -> Result<Descriptor, String> {
    // BuildKit's cache is an index of layers, unless it was exported with `image-manifest=true`. ECR stores no such index.
    // (moby/buildkit#2251, aws/containers-roadmap#876)
    if entry.nature != Nature::Manifest {
        let listed = entry.descriptor()?.digest;
        return Err(format!(
            "the index lists {listed}, which is not a manifest: a BuildKit cache does so, and ECR does not store it; exclude the tag in the rule, or export the cache with `image-manifest=true`"
        ));
    }
    let child = entry.descriptor()?;
    if child.size > MANIFEST_LIMIT {
        return Err(format!(
            "manifest {} is said to have {} bytes, and ECR stores at most {MANIFEST_LIMIT}",
            child.digest, child.size
        ));
    }
    Ok(child)
}

/// ECR refuses blobs without a byte with a server fault (`EmptyUploadException`), which would look as if trying again could help.
/// (aws/containers-roadmap#1074)
fn blob(entry: Entry) -> Result<Descriptor, String> {
    let blob = entry.descriptor()?;
    if blob.size == 0 {
        return Err(format!(
            "blob {} has no bytes, which ECR does not store; build the image without empty layers",
            blob.digest
        ));
    }
    if blob.size > BLOB_LIMIT {
        return Err(format!(
            "blob {} is said to have {} bytes, and ECR stores at most {BLOB_LIMIT}",
            blob.digest, blob.size
        ));
    }
    Ok(blob)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    fn manifest(text: &str, content_type: Option<&str>) -> Result<Manifest, String> {
        Manifest::new(Bytes::copy_from_slice(text.as_bytes()), content_type)
    }

    #[test]
    fn a_digest_is_sha256_in_lower_case() {
        assert_eq!(Digest::of(b"{}").to_string(), EMPTY);
        assert!(Digest::parse(EMPTY).is_ok());
        for text in [
            "",
            "sha256:",
            "sha512:44",
            &EMPTY.to_uppercase(),
            &EMPTY[..70],
            &EMPTY.replace("sha256", "SHA256"),
        ] {
            assert!(Digest::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_kind_comes_from_content_type_then_field_then_shape() {
        let index = format!(r#"{{"manifests":[{{"digest":"{EMPTY}","size":2,"platform":{{}}}}]}}"#);
        assert_eq!(
            manifest(&index, None).unwrap().media_type,
            OCI_IMAGE_INDEX_MEDIA_TYPE
        );
        let list = Some("application/vnd.docker.distribution.manifest.list.v2+json; charset=utf-8");
        assert_eq!(
            manifest(&index, list).unwrap().media_type,
            IMAGE_MANIFEST_LIST_MEDIA_TYPE
        );
        let field = format!(r#"{{"mediaType":"{IMAGE_MANIFEST_MEDIA_TYPE}","layers":[]}}"#);
        assert_eq!(
            manifest(&field, Some("application/json"))
                .unwrap()
                .media_type,
            IMAGE_MANIFEST_MEDIA_TYPE
        );
        for text in ["", "[]", "null", "{}", "<html>", r#"{"schemaVersion":1}"#] {
            assert!(manifest(text, Some("text/html")).is_err(), "{text}");
        }
    }

    #[test]
    fn the_media_type_says_which_layers_are_foreign_and_empty_blobs_are_refused() {
        let text = |layer: &str| {
            format!(
                r#"{{"config":{{"digest":"{EMPTY}","size":2}},"layers":[{{"digest":"{EMPTY}",{layer}}}]}}"#
            )
        };
        let counts = |layer: &str| {
            let references = manifest(&text(layer), None).unwrap().references().unwrap();
            (references.blobs.len(), references.foreign_layers.len())
        };
        assert_eq!(
            counts(r#""size":9,"urls":["https://example.com/a"]"#),
            (2, 0)
        );
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        assert_eq!(
            counts(&format!(r#""size":9,"mediaType":"{foreign}""#)),
            (1, 1)
        );
        for layer in [r#""size":0"#, r#""size":-1"#, r#""size":"2""#] {
            let result = manifest(&text(layer), None).and_then(|manifest| manifest.references());
            assert!(result.is_err(), "{layer}");
        }
    }

    #[test]
    fn what_ecr_does_not_store_is_refused_with_the_reason() {
        let config = format!(r#""config":{{"digest":"{EMPTY}","size":2}}"#);
        let layer = |fields: &str| format!(r#""layers":[{{"digest":"{EMPTY}",{fields}}}]"#);
        let bundle = "application/vnd.dev.sigstore.bundle+json;version=0.2";
        let text = |fields: &[&str]| format!("{{{config},{}}}", fields.join(","));
        for (fields, expected) in [
            (vec![r#""layers":[]"#.to_owned()], "its `layers` are empty"),
            (vec![layer(r#""size":0"#)], "has no bytes"),
            (
                vec![layer(&format!(r#""size":{}"#, BLOB_LIMIT + 1))],
                "at most 54525952000",
            ),
            (
                vec![layer(&format!(r#""size":2,"mediaType":"{bundle}""#))],
                "the media type of layer sha256:44136fa355b3",
            ),
            (
                vec![
                    layer(r#""size":2"#),
                    format!(r#""artifactType":"{bundle}""#),
                ],
                "its `artifactType` \"application/vnd.dev.sigstore.bundle+json;version=0.2\"",
            ),
        ] {
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            let manifest = manifest(&text(&fields), None).unwrap();
            let error = manifest.references().unwrap_err();
            assert!(error.contains(expected), "{error}");
            assert!(error.contains("ECR"), "{error}");
        }
        let largest = layer(&format!(r#""size":{BLOB_LIMIT}"#));
        let artifact = r#""artifactType":"application/vnd.dev.sigstore.bundle.v0.3+json""#;
        let stored = manifest(&text(&[&largest, artifact]), None).unwrap();
        assert!(stored.references().is_ok());
    }

    #[test]
    fn an_index_of_layers_is_a_cache_and_no_image() {
        let text = format!(
            r#"{{"manifests":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{EMPTY}","size":2}}]}}"#
        );
        let error = manifest(&text, None).unwrap().references().unwrap_err();
        assert!(error.contains("BuildKit cache"), "{error}");
    }
}
