//! The verbs for manifests and tags: what a tag stands for, the bytes of a manifest out of one registry and into another, and the
//! list of tags.

use std::collections::HashSet;

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use reqwest::{Response, StatusCode};
use serde::Deserialize;

use super::refusal::{self, Place};
use super::{REQUEST_TIMEOUT, Repository, suffix};
use crate::allowance::Allowance;
use crate::error::{Error, Kind, Operation, Result};
use crate::link::{UntrustedLink, next_page};
use crate::manifest::{Descriptor, Digest, Hasher, MANIFEST_LIMIT, MANIFEST_MEDIA_TYPES, Manifest};

/// The most bytes that a page of tags may have: a thousand of the longest are 131,000.
const TAG_PAGE_LIMIT: usize = 4 * 1024 * 1024;

/// The most tags that a list may have: ECR stores at most 100,000 images in a repository. (ECR user guide, "Service quotas")
const TAGS_LIMIT: usize = 100_000;

/// The most pages of a list, and the most bytes of all its tags.
const TAG_PAGES_LIMIT: usize = 10_000;
const TAG_BYTES_LIMIT: usize = 16 * 1024 * 1024;

#[derive(Deserialize)]
struct TagPage {
    /// `null` for a package without tags.
    tags: Option<Vec<String>>,
}

impl Repository {
    /// The digest that `tag_or_digest` stands for, or `None` if there is no such manifest. One HEAD request.
    pub async fn resolve(&self, tag_or_digest: &str) -> Result<Option<Digest>> {
        let suffix = suffix(tag_or_digest);
        let place = self.place(Operation::ResolveManifest, &suffix);
        let url = self.url(&format!("manifests/{tag_or_digest}"))?;
        let accepted = MANIFEST_MEDIA_TYPES.join(", ");
        let response = self
            .send(&place, || {
                self.http.head(url.clone()).header(ACCEPT, &accepted)
            })
            .await?;
        match (response.status(), content_digest(response.headers())) {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, Some(digest)) if status.is_success() => Ok(Some(digest)),
            // The header is optional; then the bytes tell. And a HEAD is refused without a word, where a GET is told whether the
            // authorization has expired or a permission is missing.
            (StatusCode::OK | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
                match self.digest_of_bytes(tag_or_digest).await {
                    Err(error) if error.kind() == Kind::NotFound => Ok(None),
                    result => result.map(Some),
                }
            }
            _ => Err(refusal::of(response, &place).await),
        }
    }

    async fn digest_of_bytes(&self, tag_or_digest: &str) -> Result<Digest> {
        let suffix = suffix(tag_or_digest);
        let place = self.place(Operation::FetchManifest, &suffix);
        let mut response = self.get_manifest(&place, tag_or_digest).await?;
        let (mut hasher, mut length) = (Hasher::default(), 0);
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| place.broken(error))?
        {
            length += chunk.len() as u64;
            if length > MANIFEST_LIMIT {
                return Err(too_long(&place));
            }
            hasher.update(&chunk);
        }
        Ok(hasher.finish())
    }

    /// Whether the repository exists, or ECR creates it when something is pushed to it. One POST request: the first step of a
    /// push, an upload session that is never used.
    pub async fn takes_pushes(&self) -> Result<bool> {
        match self.start_upload(&Digest::of(b"{}")).await {
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            result => result.map(|_| true),
        }
    }

    /// Checks that the repository exists, by asking for a manifest: the refusal says what is missing. One GET request.
    ///
    /// # Errors
    /// [`Kind::NotFound`] with the command that creates the repository.
    pub async fn expect_exists(&self, tag_or_digest: &str) -> Result<()> {
        let suffix = suffix(tag_or_digest);
        let place = self.place(Operation::FetchManifest, &suffix);
        match self.get_manifest(&place, tag_or_digest).await {
            Err(error)
                if error.kind() == Kind::NotFound
                    && !error.to_string().contains("NAME_UNKNOWN") =>
            {
                Ok(())
            }
            result => result.map(|_| ()),
        }
    }

    async fn get_manifest(&self, place: &Place<'_>, tag_or_digest: &str) -> Result<Response> {
        let url = self.url(&format!("manifests/{tag_or_digest}"))?;
        let accepted = MANIFEST_MEDIA_TYPES.join(", ");
        let response = self
            .send(place, || {
                self.http.get(url.clone()).header(ACCEPT, &accepted)
            })
            .await?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(refusal::of(response, place).await),
        }
    }

    /// The manifest that `tag_or_digest` stands for, with the bytes checked against a digest that was asked for and against
    /// the registry's own word. One GET request. The bytes are taken from `allowance` while they arrive.
    ///
    /// # Errors
    /// [`Error::Content`] if the bytes are not what they should be, or more than [`MANIFEST_LIMIT`].
    pub async fn fetch_manifest(
        &self,
        tag_or_digest: &str,
        allowance: &Allowance,
    ) -> Result<Manifest> {
        let mut taken = 0;
        let result = self
            .read_manifest(tag_or_digest, None, allowance, &mut taken)
            .await;
        if result.is_err() {
            allowance.give_back(taken);
        }
        result
    }

    /// As [`Repository::fetch_manifest`], for a manifest whose size is known. The bytes are taken from `allowance` before they are
    /// asked for, so that no answer waits for other copies' manifests.
    ///
    /// # Errors
    /// [`Error::Content`] if there are more or fewer bytes, too.
    pub async fn fetch_described(
        &self,
        descriptor: &Descriptor,
        allowance: &Allowance,
    ) -> Result<Manifest> {
        let digest = descriptor.digest.to_string();
        let mut taken = descriptor.size;
        let allowed = allowance.take(taken).await;
        let result = match allowed {
            Ok(()) => {
                let size = Some(descriptor.size);
                self.read_manifest(&digest, size, allowance, &mut taken)
                    .await
            }
            Err(reason) => {
                let suffix = suffix(&digest);
                Err(self
                    .place(Operation::FetchManifest, &suffix)
                    .content(reason))
            }
        };
        if result.is_err() {
            allowance.give_back(taken);
        }
        result
    }

    async fn read_manifest(
        &self,
        tag_or_digest: &str,
        size: Option<u64>,
        allowance: &Allowance,
        taken: &mut u64,
    ) -> Result<Manifest> {
        let suffix = suffix(tag_or_digest);
        let place = self.place(Operation::FetchManifest, &suffix);
        let mut response = self.get_manifest(&place, tag_or_digest).await?;
        let capacity = size.or(response.content_length()).unwrap_or_default();
        let mut bytes = Vec::with_capacity(capacity.min(MANIFEST_LIMIT) as usize);
        let mut length = 0;
        // Bytes beyond the size are not kept, only hashed: the digest tells more than the size of what went wrong.
        let mut hasher = None;
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| place.broken(error))?
        {
            length += chunk.len() as u64;
            if length > MANIFEST_LIMIT {
                return Err(too_long(&place));
            }
            match size {
                Some(size) if length > size => {
                    let hasher = hasher.get_or_insert_with(|| Hasher::of(&bytes));
                    hasher.update(&chunk);
                    continue;
                }
                Some(_) => {}
                None => {
                    *taken = length;
                    let allowed = allowance.take(chunk.len() as u64).await;
                    allowed.map_err(|reason| place.content(reason))?;
                }
            }
            bytes.extend_from_slice(&chunk);
        }
        if let Some(size) = size.filter(|size| *size != length) {
            let digest = hasher.unwrap_or_else(|| Hasher::of(&bytes)).finish();
            return Err(place.content(match digest.to_string() == tag_or_digest {
                true => format!("the manifest has {length} bytes instead of {size}"),
                false => other_digest(digest, tag_or_digest),
            }));
        }
        bytes.shrink_to_fit();
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let manifest = Manifest::new(Bytes::from(bytes), content_type)
            .map_err(|reason| place.content(reason))?;
        let announced = content_digest(response.headers());
        let asked_for = Digest::parse(tag_or_digest).ok();
        for expected in [asked_for, announced].into_iter().flatten() {
            if manifest.digest != expected {
                let expected = expected.to_string();
                return Err(place.content(other_digest(manifest.digest, &expected)));
            }
        }
        Ok(manifest)
    }

    /// Writes a manifest, byte for byte, under a tag or under its own digest. One PUT request.
    pub async fn push_manifest(&self, manifest: &Manifest, tag: Option<&str>) -> Result<()> {
        self.turn_to_push().await;
        self.push_in_turn(manifest, tag).await
    }

    /// Waits until the budget has room to write a manifest, for those who look at something between that wait and the writing.
    pub async fn turn_to_push(&self) {
        self.turn(Operation::PushManifest).await;
    }

    /// As [`Repository::push_manifest`], after [`Repository::turn_to_push`].
    pub async fn push_in_turn(&self, manifest: &Manifest, tag: Option<&str>) -> Result<()> {
        let digest = manifest.digest.to_string();
        let tag_or_digest = tag.unwrap_or(&digest);
        let suffix = suffix(tag_or_digest);
        let place = self.place(Operation::PushManifest, &suffix);
        let url = self.url(&format!("manifests/{tag_or_digest}"))?;
        let response = self
            .send_in_turn(&place, || {
                self.http
                    .put(url.clone())
                    .header(CONTENT_TYPE, manifest.media_type)
                    .body(manifest.bytes.clone())
                    .timeout(REQUEST_TIMEOUT)
            })
            .await?;
        if !response.status().is_success() {
            return Err(refusal::of(response, &place).await);
        }
        match content_digest(response.headers()) {
            Some(stored) if stored != manifest.digest => Err(place.content(format!(
                "stored under digest {stored} instead of {}",
                manifest.digest
            ))),
            _ => Ok(()),
        }
    }

    /// All tags, each once, in the order in which the registry lists them: at GHCR, the oldest push first
    /// (renovatebot/renovate#36103).
    ///
    /// One GET request for each page; the registry says where the next one is. A page that leads back to an earlier one ends the
    /// list, as GHCR's last page is known to do. (podman-container-tools/container-libs#487)
    ///
    /// # Errors
    /// A next page on another host, or more than 100,000 tags: the list would not be complete.
    pub async fn tags(&self) -> Result<Vec<String>> {
        let place = self.place(Operation::ListTags, "");
        let mut url = self.url("tags/list?n=1000")?;
        // Digests of the pages' URLs, as those may be long.
        let mut seen = HashSet::from([Digest::of(url.as_str().as_bytes())]);
        let (mut tags, mut bytes) = (Vec::new(), 0);
        loop {
            let response = self.send(&place, || self.http.get(url.clone())).await?;
            if !response.status().is_success() {
                return Err(refusal::of(response, &place).await);
            }
            let next = match next_page(response.headers(), &url) {
                Ok(next) => next,
                Err(UntrustedLink::SamePage) => None,
                Err(reason) => {
                    let detail = format!("the list can't be read to its end: {reason}");
                    // Asked again, the registry would give the same link.
                    return Err(place.error(Kind::Invalid, detail));
                }
            };
            let body = refusal::limited_body(response, TAG_PAGE_LIMIT)
                .await
                .ok_or_else(|| place.error(Kind::Transient, "the list broke off".to_owned()))?;
            let page: TagPage = serde_json::from_slice(&body).map_err(|_| {
                place.error(
                    Kind::Transient,
                    "the answer is not a list of tags".to_owned(),
                )
            })?;
            let page = page.tags.unwrap_or_default();
            bytes += page.iter().map(String::len).sum::<usize>();
            tags.extend(page);
            if tags.len() > TAGS_LIMIT || seen.len() > TAG_PAGES_LIMIT || bytes > TAG_BYTES_LIMIT {
                let detail = format!("the list has more than {TAGS_LIMIT} tags, or does not end");
                return Err(place.error(Kind::Invalid, detail));
            }
            match next {
                Some(next) if seen.insert(Digest::of(next.as_str().as_bytes())) => url = next,
                _ => {
                    keep_last(&mut tags);
                    return Ok(tags);
                }
            }
        }
    }
}

/// Leaves each tag once. One that moved while the list was read is on two pages, and belongs where it is now.
fn keep_last(tags: &mut Vec<String>) {
    let mut seen = HashSet::with_capacity(tags.len());
    let is_last: Vec<bool> = tags
        .iter()
        .rev()
        .map(|tag| seen.insert(tag.as_str()))
        .collect();
    let mut is_last = is_last.into_iter().rev();
    tags.retain(|_| is_last.next().unwrap_or(true));
}

fn other_digest(digest: Digest, expected: &str) -> String {
    format!("the bytes of the manifest have digest {digest} instead of {expected}")
}

fn too_long(place: &Place<'_>) -> Error {
    place.content(format!(
        "the manifest has more than {MANIFEST_LIMIT} bytes, which is the most that ECR stores"
    ))
}

/// The registry's word on a manifest's digest. Optional in the specification, and trusted only to say that something is there;
/// bytes that are fetched are hashed here.
fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    let value = headers.get("docker-content-digest")?;
    Digest::parse(value.to_str().ok()?).ok()
}
