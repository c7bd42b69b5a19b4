//! What an image is made of: digests, descriptors, and manifests as the exact bytes that were fetched.
//!
//! Nothing here speaks to a registry, and nothing is ever written back from a parsed form:
//! a manifest is its bytes, and what is parsed of it serves only to find what it refers to.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use oci_client::manifest::{
    IMAGE_LAYER_NONDISTRIBUTABLE_GZIP_MEDIA_TYPE, IMAGE_LAYER_NONDISTRIBUTABLE_MEDIA_TYPE,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE,
};
use serde::{Deserialize, Serialize};

/// The media types of manifests, all of which are offered in `Accept`: GHCR answers 404 to a request that leaves out the
/// stored one, and ECR may convert what is asked for by tag.
pub const MANIFEST_MEDIA_TYPES: [&str; 4] = [
    OCI_IMAGE_INDEX_MEDIA_TYPE,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE,
    IMAGE_MANIFEST_MEDIA_TYPE,
];

/// The largest manifest that is read or written, in bytes. ECR's limit for `PutImage`, and what the distribution
/// specification asks registries to accept at least.
pub const MANIFEST_LIMIT: u64 = 4 * 1024 * 1024;

/// The most bytes that all manifests of one image may have together, since they are held in memory until they are pushed.
/// Ordinary images need some tens of kilobytes.
pub const MANIFESTS_LIMIT: u64 = 16 * 1024 * 1024;

/// The largest blob that ECR stores, in bytes: 52,000 MiB. (ECR user guide, "Service quotas")
pub const BLOB_LIMIT: u64 = 52_000 * 1024 * 1024;

/// A SHA-256 digest in its registered form: `sha256:` and 64 lower-case hexadecimal digits.
///
/// It is the only algorithm that ECR stores, so others are refused when they are met.
/// (image-spec v1.1 descriptor.md, "Registered algorithms")
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Digest(String);

impl Digest {
    /// Accepts `text` if it is a digest in the registered form.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let valid = text.strip_prefix("sha256:").is_some_and(|encoded| {
            encoded.len() == 64
                && encoded
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        });
        if valid {
            Ok(Digest(text.to_owned()))
        } else {
            Err(format!(
                "{text:?} is no digest: `sha256:` and 64 lower-case hexadecimal digits are wanted"
            ))
        }
    }

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The digest as text, algorithm included.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
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
    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes that were added.
    pub fn finish(self) -> Digest {
        let mut text = String::from("sha256:");
        for byte in self.0.finish().as_ref() {
            text.push_str(&format!("{byte:02x}"));
        }
        Digest(text)
    }
}

/// What a manifest says of something that it refers to. (image-spec v1.1 descriptor.md)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The media type of what is described; copied content is never interpreted by it.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// A manifest or an image index: its bytes as fetched, and what they hash to.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// One of [`MANIFEST_MEDIA_TYPES`].
    pub media_type: String,
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
    /// Layers that registries are not asked to hold: they stay at their own URLs.
    pub foreign_layers: usize,
}

/// The few fields that matter for finding what a manifest refers to. All may be absent; the rest is ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    media_type: Option<String>,
    manifests: Option<Vec<DescriptorFields>>,
    config: Option<DescriptorFields>,
    layers: Option<Vec<DescriptorFields>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DescriptorFields {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    urls: Option<Vec<String>>,
}

impl Manifest {
    /// Takes the bytes of a response together with its `Content-Type`.
    ///
    /// The kind is decided by `content_type`, else by the `mediaType` field, else by the shape: OCI manifests may leave
    /// `mediaType` out. (image-spec v1.1 manifest.md)
    ///
    /// # Errors
    /// Says why these bytes are no manifest that can be copied.
    pub fn new(bytes: Bytes, content_type: Option<&str>) -> Result<Self, String> {
        let fields = fields(&bytes)?;
        let content_type = content_type
            .and_then(|value| value.split(';').next())
            .map(str::trim);
        let by_shape = match (&fields.manifests, &fields.layers) {
            (Some(_), None) => Some(OCI_IMAGE_INDEX_MEDIA_TYPE),
            (None, Some(_)) => Some(OCI_IMAGE_MEDIA_TYPE),
            _ => None,
        };
        let media_type = [content_type, fields.media_type.as_deref(), by_shape]
            .into_iter()
            .flatten()
            .find(|candidate| MANIFEST_MEDIA_TYPES.contains(candidate))
            .ok_or_else(|| {
                format!(
                    "media type {:?} is none of an image manifest or an image index",
                    content_type.or(fields.media_type.as_deref()).unwrap_or("")
                )
            })?;
        let media_type = media_type.to_owned();
        let digest = Digest::of(&bytes);
        Ok(Manifest {
            media_type,
            digest,
            bytes,
        })
    }

    /// What these bytes are known as.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest.clone(),
            size: self.bytes.len() as u64,
        }
    }

    /// What the manifest refers to directly.
    ///
    /// # Errors
    /// Says which descriptor can't be copied, and why.
    pub fn references(&self) -> Result<References, String> {
        let fields = fields(&self.bytes)?;
        let is_index = [OCI_IMAGE_INDEX_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE]
            .contains(&self.media_type.as_str());
        let mut references = References::default();
        if is_index {
            let manifests = fields
                .manifests
                .ok_or("an image index without `manifests`")?;
            for fields in manifests {
                let child = descriptor(fields)?;
                if child.size > MANIFEST_LIMIT {
                    return Err(format!(
                        "manifest {} is said to have {} bytes, and ECR stores at most {MANIFEST_LIMIT}",
                        child.digest, child.size
                    ));
                }
                references.manifests.push(child);
            }
        } else {
            let config = fields.config.ok_or("an image manifest without `config`")?;
            let layers = fields.layers.ok_or("an image manifest without `layers`")?;
            for fields in std::iter::once(config).chain(layers) {
                if is_foreign(&fields) {
                    references.foreign_layers += 1;
                } else {
                    references.blobs.push(blob(fields)?);
                }
            }
        }
        Ok(references)
    }
}

fn fields(bytes: &[u8]) -> Result<Fields, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("not a manifest: {error}"))
}

fn descriptor(fields: DescriptorFields) -> Result<Descriptor, String> {
    Ok(Descriptor {
        media_type: fields.media_type,
        digest: Digest::parse(&fields.digest)?,
        size: fields.size,
    })
}

/// ECR refuses blobs without a byte with a server fault (`EmptyUploadException`), which would look as if trying again could help.
/// (aws/containers-roadmap#1074)
fn blob(fields: DescriptorFields) -> Result<Descriptor, String> {
    let blob = descriptor(fields)?;
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

/// Windows base layers and the like, which a registry need not hold: pushing the manifest does not need them.
/// (image-spec v1.1 layer.md, "Non-Distributable Layers")
fn is_foreign(fields: &DescriptorFields) -> bool {
    fields.urls.as_ref().is_some_and(|urls| !urls.is_empty())
        || [
            IMAGE_LAYER_NONDISTRIBUTABLE_MEDIA_TYPE,
            IMAGE_LAYER_NONDISTRIBUTABLE_GZIP_MEDIA_TYPE,
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ]
        .contains(&fields.media_type.as_str())
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
        assert_eq!(Digest::of(b"{}").as_str(), EMPTY);
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
        let index = format!(
            r#"{{"manifests":[{{"mediaType":"x","digest":"{EMPTY}","size":2,"platform":{{}}}}]}}"#
        );
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
    fn foreign_layers_are_left_where_they_are_and_empty_blobs_refused() {
        let text = |layer: &str| {
            format!(
                r#"{{"config":{{"digest":"{EMPTY}","size":2}},"layers":[{{"digest":"{EMPTY}",{layer}}}]}}"#
            )
        };
        let foreign =
            manifest(&text(r#""size":9,"urls":["https://example.com/a"]"#), None).unwrap();
        let references = foreign.references().unwrap();
        assert_eq!((references.blobs.len(), references.foreign_layers), (1, 1));
        for layer in [r#""size":0"#, r#""size":-1"#, r#""size":"2""#] {
            let result = manifest(&text(layer), None).and_then(|manifest| manifest.references());
            assert!(result.is_err(), "{layer}");
        }
    }
}
