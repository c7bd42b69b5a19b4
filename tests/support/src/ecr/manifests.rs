//! Manifests: what ECR demands of one that is pushed, and reading them back.

use bytes::Bytes;
use hyper::http::request::Parts;
use serde_json::{Value, json};

use super::{Refusal, Repository, State, TagWrite, is_digest, unsupported};
use crate::function::ACCOUNT;
use crate::http::{self, Reply};
use crate::image::{
    DOCKER_FOREIGN_LAYER, DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, StoredManifest,
};

/// The largest manifest that ECR accepts (service model of `PutImage`).
pub(super) const MANIFEST_LIMIT_BYTES: usize = 4_194_304;

/// Answers with a manifest by tag or digest. When `Accept` lacks the stored type, the real service translates between OCI and
/// Docker, which changes the digest. A client that compares digests must never let that happen, so here it is refused.
pub(super) fn get(head: &Parts, name: &str, reference: &str, state: &mut State) -> Reply {
    let repository = state
        .repositories
        .get_mut(name)
        .expect("an admitted repository");
    let tagged = repository
        .lags
        .read(reference, repository.tags.get(reference));
    let digest = tagged.as_deref().unwrap_or(reference);
    let stored = repository.manifests.get(digest);
    let Some(manifest) = stored.filter(|_| !repository.archived.contains(digest)) else {
        return http::oci_error(404, "MANIFEST_UNKNOWN", "Requested image not found");
    };
    let accepted = head
        .headers
        .get_all("accept")
        .iter()
        .filter_map(|value| value.to_str().ok());
    let listed = accepted
        .flat_map(|value| value.split(','))
        .any(|it| it.trim() == manifest.media_type);
    if !listed && !is_digest(reference) {
        let message = format!(
            "Accept does not list {}, and this server translates nothing",
            manifest.media_type
        );
        return http::oci_error(404, "MANIFEST_UNKNOWN", &message);
    }
    let headers = [
        ("content-type", manifest.media_type.clone()),
        ("docker-content-digest", digest.to_owned()),
    ];
    http::reply(200, &headers, manifest.bytes.clone())
}

/// Answers with an index of what refers to a digest. (OCI distribution specification 1.1, "Listing Referrers"; ECR lists by `subject`)
pub(super) fn referrers(name: &str, subject: &str, state: &State) -> Reply {
    let entries = state.repositories[name].referrers(subject);
    let entry = |digest: &String| {
        let manifest = &state.repositories[name].manifests[digest];
        let value: Value = serde_json::from_slice(&manifest.bytes).unwrap_or_default();
        json!({
            "mediaType": manifest.media_type, "digest": digest, "size": manifest.bytes.len(),
            "artifactType": value.get("artifactType").unwrap_or(&value["config"]["mediaType"]),
        })
    };
    let entries: Vec<Value> = entries.iter().map(entry).collect();
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    http::reply(
        200,
        &[("content-type", OCI_INDEX.to_owned())],
        index.to_string(),
    )
}

/// Layers of these types need not be uploaded (ECR user guide, on Windows foreign layers). A layer of any other type must be in the
/// repository, even if its descriptor has `urls`.
const NON_DISTRIBUTABLE_MEDIA_TYPES: [&str; 5] = [
    DOCKER_FOREIGN_LAYER,
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
];

const IMAGE_MEDIA_TYPES: [&str; 2] = [OCI_MANIFEST, DOCKER_MANIFEST];
const INDEX_MEDIA_TYPES: [&str; 2] = [OCI_INDEX, DOCKER_LIST];

/// Stores a manifest if ECR would accept it.
pub(super) fn put(
    head: &Parts,
    bytes: Bytes,
    name: &str,
    reference: &str,
    state: &mut State,
) -> Result<Reply, Refusal> {
    let constraint = |reason: &str| {
        Box::new(unsupported(&format!(
            "Invalid parameter at 'ImageManifest' failed to satisfy constraint: '{reason}'"
        )))
    };
    if bytes.len() > MANIFEST_LIMIT_BYTES {
        return Err(constraint(
            "Member must have length less than or equal to 4194304",
        ));
    }
    let value: Value =
        serde_json::from_slice(&bytes).map_err(|_| constraint("Invalid JSON syntax"))?;
    let media_type = head
        .headers
        .get("content-type")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let is_image = IMAGE_MEDIA_TYPES.contains(&media_type);
    if !is_image && !INDEX_MEDIA_TYPES.contains(&media_type) {
        return Err(constraint("Unsupported media type"));
    }
    if value["mediaType"]
        .as_str()
        .is_some_and(|own| own != media_type)
    {
        return Err(constraint(
            "The media type of the manifest and of the request differ",
        ));
    }
    // Observed with `artifactType: application/vnd.dev.sigstore.bundle+json;version=0.2` (aws/containers-roadmap, issue 2306).
    if media_types(&value).any(|it| it.contains(';')) {
        return Err(constraint("Invalid media type"));
    }
    let manifest = StoredManifest::new(media_type, bytes);
    let digest = manifest.digest.clone();
    let by_digest = reference.contains(':');
    if by_digest && reference != digest {
        let message = "ImageDigestDoesNotMatchException: the specified image digest does not match the computed digest";
        return Err(Box::new(http::oci_error(400, "DIGEST_INVALID", message)));
    }

    let repository = state
        .repositories
        .get_mut(name)
        .expect("an admitted repository");
    if is_image && value["layers"].as_array().is_none_or(Vec::is_empty) {
        return Err(constraint("Image has to have at least 1 layer"));
    }
    let missing: Vec<String> = references(&manifest)
        .filter(|it| !repository.holds(it, is_image))
        .collect();
    if !missing.is_empty() {
        // The exception's name is in neither. (oras-project/oras-py#54; int128/docker-manifest-create-action#63)
        let (code, parts) = match is_image {
            true => ("BLOB_UPLOAD_UNKNOWN", "Layers"),
            false => ("MANIFEST_BLOB_UNKNOWN", "Images"),
        };
        let message = format!(
            "{parts} with digests '[{}]' required for pushing image into repository with name '{name}' in the registry with id '{ACCOUNT}' do not exist",
            missing.join(", ")
        );
        return Err(Box::new(http::oci_error(400, code, &message)));
    }
    if !by_digest && repository.is_immutable(reference) && repository.tags.contains_key(reference) {
        let message = format!(
            "The image tag '{reference}' already exists in the '{name}' repository and cannot be overwritten because the repository is immutable."
        );
        return Err(Box::new(http::oci_error(400, "TAG_INVALID", &message)));
    }

    repository.manifests.insert(digest.clone(), manifest);
    repository.archived.remove(&digest);
    let now = std::time::SystemTime::now();
    repository.pushed_at.insert(digest.clone(), now);
    if !by_digest {
        let before = repository.tags.insert(reference.to_owned(), digest.clone());
        repository.lags.note_write(reference, before.as_ref());
        let missing = repository.missing_from(&digest);
        let (repository, tag) = (name.to_owned(), reference.to_owned());
        state.tag_writes.push(TagWrite {
            repository,
            tag,
            digest: digest.clone(),
            missing,
        });
    }
    // The real service sends no `Location` here, although the specification demands one.
    let mut headers = vec![("docker-content-digest", digest)];
    if let Some(subject) = value["subject"]["digest"].as_str() {
        headers.push(("oci-subject", subject.to_owned()));
    }
    Ok(http::reply(201, &headers, ""))
}

impl Repository {
    fn holds(&self, digest: &str, blob: bool) -> bool {
        if blob {
            self.blobs.contains_key(digest)
        } else {
            self.manifests.contains_key(digest)
        }
    }

    /// The digests of the manifests whose subject is `subject`.
    pub fn referrers(&self, subject: &str) -> Vec<String> {
        let refers = |manifest: &&StoredManifest| {
            let value: Value = serde_json::from_slice(&manifest.bytes).unwrap_or_default();
            value["subject"]["digest"] == subject
        };
        let manifests = self.manifests.values().filter(refers);
        manifests.map(|manifest| manifest.digest.clone()).collect()
    }

    /// Whether an image manifest refers to this blob.
    pub(super) fn is_referred_to(&self, blob: &str) -> bool {
        let is_image =
            |manifest: &&StoredManifest| IMAGE_MEDIA_TYPES.contains(&manifest.media_type.as_str());
        let mut images = self.manifests.values().filter(is_image);
        images.any(|manifest| references(manifest).any(|digest| digest == blob))
    }

    /// Which of the digests that `digest` reaches, itself included, are missing. The image is whole if none is.
    pub fn missing_from(&self, digest: &str) -> Vec<String> {
        let Some(manifest) = self.manifests.get(digest) else {
            return vec![digest.to_owned()];
        };
        if IMAGE_MEDIA_TYPES.contains(&manifest.media_type.as_str()) {
            return references(manifest)
                .filter(|it| !self.blobs.contains_key(it))
                .collect();
        }
        references(manifest)
            .flat_map(|child| self.missing_from(&child))
            .collect()
    }
}

/// The digests that must be in the repository before the manifest: config and layers, or child manifests; not the subject, which
/// may be pushed later, nor non-distributable layers.
fn references(manifest: &StoredManifest) -> impl Iterator<Item = String> + use<> {
    let mut value: Value = serde_json::from_slice(&manifest.bytes).unwrap_or_default();
    let config = value["config"].take();
    let lists = ["layers", "manifests"].map(|name| match value[name].take() {
        Value::Array(descriptors) => descriptors,
        _ => Vec::new(),
    });
    let is_needed = |descriptor: &Value| {
        let media_type = descriptor["mediaType"].as_str().unwrap_or_default();
        !NON_DISTRIBUTABLE_MEDIA_TYPES.contains(&media_type)
    };
    std::iter::once(config)
        .chain(lists.into_iter().flatten())
        .filter(is_needed)
        .filter_map(|descriptor| Some(descriptor["digest"].as_str()?.to_owned()))
}

/// Every `mediaType` and `artifactType` of a manifest, at any depth.
fn media_types(value: &Value) -> Box<dyn Iterator<Item = &str> + '_> {
    match value {
        Value::Object(fields) => Box::new(fields.iter().flat_map(|(name, value)| match value {
            Value::String(text) if name == "mediaType" || name == "artifactType" => {
                Box::new(std::iter::once(text.as_str())) as Box<dyn Iterator<Item = &str>>
            }
            other => media_types(other),
        })),
        Value::Array(items) => Box::new(items.iter().flat_map(media_types)),
        _ => Box::new(std::iter::empty()),
    }
}
