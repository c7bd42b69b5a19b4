//! GitHub Container Registry as it behaves towards a client that pulls: one server for the registry and its
//! token service, and one on another port, so of another origin, for the storage that blobs are redirected to.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderMap, RANGE};
use hyper::{Method, Uri};
use serde_json::json;

use crate::http::{
    Certificate, Reply, RequestBody, Server, json, lock, oci_error, query, reply, streamed,
};
use crate::image::{Blob, Image, OCI_INDEX, OCI_MANIFEST, StoredManifest};

/// The scope that GHCR's challenge names where there is no repository; good for `GET /v2/` alone.
const PLACEHOLDER: &str = "user/image";

/// Tags of one page unless the client asks for another number.
const PAGE: usize = 100;

/// The most tags of one page. The real limit is not known; a client that follows links does not depend on it.
const PAGE_LIMIT: usize = 1000;

/// The registry and its storage host. Repositories are private unless [`Ghcr::set_public`] says otherwise.
pub struct Ghcr {
    /// `/v2/` and `/token`.
    pub server: Server,
    /// Where blobs come from.
    pub storage: Server,
    state: Arc<Mutex<State>>,
}

struct State {
    repositories: BTreeMap<String, Repository>,
    /// Personal access tokens that may read everything.
    accepted_tokens: BTreeSet<String>,
    /// Repository by bearer token.
    bearers: BTreeMap<String, String>,
    /// Uses left and the blob, by signature.
    signatures: BTreeMap<String, (usize, Blob)>,
    /// Bearers and signatures given out so far; makes each unique.
    issued: usize,
    signature_uses: usize,
    realm: Option<String>,
    redirect: Option<String>,
    ignores_ranges: bool,
    /// The registry's.
    scheme: &'static str,
    storage_url: String,
}

#[derive(Default)]
struct Repository {
    public: bool,
    refused: bool,
    loops: bool,
    /// In the order of their pushes.
    tags: Vec<(String, String)>,
    manifests: BTreeMap<String, StoredManifest>,
    blobs: BTreeMap<String, Blob>,
}

impl Ghcr {
    /// The personal access token that is accepted unless [`Ghcr::accept_tokens`] says otherwise.
    pub const TOKEN: &'static str = "ghp_support";

    /// Starts both servers, with no repository.
    pub async fn start() -> Ghcr {
        Ghcr::start_with(None).await
    }

    /// As [`Ghcr::start`], over HTTPS with this certificate, or over HTTP without one.
    pub async fn start_with(certificate: Option<&Certificate>) -> Ghcr {
        let state = Arc::new(Mutex::new(State {
            repositories: BTreeMap::new(),
            accepted_tokens: BTreeSet::from([Ghcr::TOKEN.into()]),
            bearers: BTreeMap::new(),
            signatures: BTreeMap::new(),
            issued: 0,
            signature_uses: 1,
            realm: None,
            redirect: None,
            ignores_ranges: false,
            scheme: "",
            storage_url: String::new(),
        }));
        let shared = state.clone();
        let storage = Server::start_with(certificate, move |request| {
            let answer = lock(&shared).storage(&request);
            async move { answer }
        })
        .await;
        lock(&state).storage_url = storage.url();
        let shared = state.clone();
        let server = Server::start_with(certificate, move |request| {
            let answer = lock(&shared).registry(&request);
            async move { answer }
        })
        .await;
        lock(&state).scheme = server.scheme();
        Ghcr {
            server,
            storage,
            state,
        }
    }

    /// The registry's URL; the storage host's is `storage.url()`.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// The registry's host and port.
    pub fn host(&self) -> String {
        self.server.host()
    }

    /// Pushes an image: its manifests, its blobs and, last, the tag, which moves if it exists.
    pub fn put_image(&self, repository: &str, tag: &str, image: &Image) {
        self.put_untagged(repository, image);
        self.put_tag(repository, tag, &image.top);
    }

    /// Pushes an image without a tag.
    pub fn put_untagged(&self, repository: &str, image: &Image) {
        self.change(repository, |repository| {
            let manifests = image
                .manifests
                .iter()
                .map(|manifest| (manifest.digest.clone(), manifest.clone()));
            repository.manifests.extend(manifests);
            repository.blobs.extend(image.blobs.iter().cloned());
        });
    }

    /// Points a tag at a digest, which need not exist; the tag becomes the newest.
    pub fn put_tag(&self, repository: &str, tag: &str, digest: &str) {
        self.change(repository, |repository| {
            repository.tags.retain(|(kept, _)| kept != tag);
            repository.tags.push((tag.into(), digest.into()));
        });
    }

    /// Deletes a tag; its manifest stays.
    pub fn delete_tag(&self, repository: &str, tag: &str) {
        self.change(repository, |repository| {
            repository.tags.retain(|(kept, _)| kept != tag)
        });
    }

    /// Deletes a manifest, as clean-up jobs do with untagged ones; tags and indexes still name it.
    pub fn delete_manifest(&self, repository: &str, digest: &str) {
        self.change(repository, |repository| repository.manifests.remove(digest));
    }

    /// Deletes a blob from the registry and the storage.
    pub fn delete_blob(&self, repository: &str, digest: &str) {
        self.change(repository, |repository| repository.blobs.remove(digest));
    }

    /// Whether anybody may pull.
    pub fn set_public(&self, repository: &str, public: bool) {
        self.change(repository, |repository| repository.public = public);
    }

    /// Whether pulling is refused to an accepted token, as to one of a GitHub App: it gets a bearer token, and
    /// that is worth nothing.
    pub fn set_refused(&self, repository: &str, refused: bool) {
        self.change(repository, |repository| repository.refused = refused);
    }

    /// Whether the last page of tags links to the first again, as some registries do.
    pub fn set_loops(&self, repository: &str, loops: bool) {
        self.change(repository, |repository| repository.loops = loops);
    }

    /// The personal access tokens that are accepted from now on; bearer tokens stay valid.
    pub fn accept_tokens(&self, tokens: &[&str]) {
        lock(&self.state).accepted_tokens = tokens.iter().map(|token| token.to_string()).collect();
    }

    /// Refuses all bearer tokens given out so far.
    pub fn expire_tokens(&self) {
        lock(&self.state).bearers.clear();
    }

    /// Refuses all signed URLs given out so far.
    pub fn expire_signatures(&self) {
        lock(&self.state).signatures.clear();
    }

    /// How many requests a signed URL is good for. The real ones are good for ten minutes; here it is one
    /// request unless told otherwise, so that a client which keeps a URL is found out without a clock.
    pub fn set_signature_uses(&self, uses: usize) {
        lock(&self.state).signature_uses = uses;
    }

    /// The URL of the token service that challenges name, in place of the real one.
    pub fn set_realm(&self, url: &str) {
        lock(&self.state).realm = Some(url.into());
    }

    /// The URL that every blob is redirected to, in place of the storage host's.
    pub fn set_redirect(&self, url: &str) {
        lock(&self.state).redirect = Some(url.into());
    }

    /// Whether the storage host answers 200 with the whole blob to a request for a range.
    pub fn set_ignores_ranges(&self, ignores: bool) {
        lock(&self.state).ignores_ranges = ignores;
    }

    fn change<T>(&self, repository: &str, change: impl FnOnce(&mut Repository) -> T) {
        change(
            lock(&self.state)
                .repositories
                .entry(repository.into())
                .or_default(),
        );
    }
}

/// A path below `/v2/`.
enum Endpoint<'a> {
    Base,
    Manifest(&'a str, &'a str),
    Blob(&'a str, &'a str),
    Tags(&'a str),
    Referrers(&'a str),
}

impl<'a> Endpoint<'a> {
    /// Repository names may have slashes, so the path is read from its end.
    fn parse(path: &'a str) -> Option<Endpoint<'a>> {
        let path = path.strip_prefix("/v2/")?;
        if path.is_empty() {
            return Some(Endpoint::Base);
        }
        if let Some(repository) = path.strip_suffix("/tags/list") {
            return Some(Endpoint::Tags(repository));
        }
        let (rest, reference) = path.rsplit_once('/')?;
        match rest.rsplit_once('/')? {
            (repository, "manifests") => Some(Endpoint::Manifest(repository, reference)),
            (repository, "blobs") => Some(Endpoint::Blob(repository, reference)),
            (repository, "referrers") => Some(Endpoint::Referrers(repository)),
            _ => None,
        }
    }

    fn repository(&self) -> &'a str {
        match *self {
            Endpoint::Base => PLACEHOLDER,
            Endpoint::Manifest(repository, _) | Endpoint::Blob(repository, _) => repository,
            Endpoint::Tags(repository) | Endpoint::Referrers(repository) => repository,
        }
    }
}

impl State {
    fn registry(&mut self, request: &hyper::Request<RequestBody>) -> Reply {
        let (uri, headers) = (request.uri(), request.headers());
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return oci_error(405, "UNSUPPORTED", "The operation is unsupported.");
        }
        if uri.path() == "/token" {
            return self.token(uri, headers);
        }
        let Some(endpoint) = Endpoint::parse(uri.path()) else {
            return reply(404, &[], "404 page not found\n");
        };
        let name = endpoint.repository();
        let scope = bearer(headers)
            .and_then(|bearer| self.bearers.get(bearer))
            .map(String::as_str);
        if !(scope == Some(name) || scope.is_some() && matches!(endpoint, Endpoint::Base)) {
            return self.challenge(name, headers);
        }
        if matches!(endpoint, Endpoint::Base) {
            return json(200, &json!({}));
        }
        let Some(repository) = self.repositories.get(name) else {
            return oci_error(404, "NAME_UNKNOWN", "repository name not known to registry");
        };
        if repository.refused {
            return oci_error(403, "DENIED", "permission_denied: read_package");
        }
        match endpoint {
            Endpoint::Base => unreachable!("answered above"),
            Endpoint::Manifest(_, reference) => repository.manifest(reference, headers),
            Endpoint::Blob(_, digest) => match repository.blobs.get(digest).cloned() {
                Some(blob) => self.redirect(digest, blob),
                None => oci_error(404, "BLOB_UNKNOWN", "blob unknown to registry"),
            },
            Endpoint::Tags(name) => repository.tag_page(name, uri),
            // Not OCI's referrers: a page of the web site, which knows nothing either.
            Endpoint::Referrers(name) => {
                let location = format!(
                    "{}/-/v2/packages/container/package/{name}",
                    self.storage_url
                );
                reply(303, &[("location", location)], "")
            }
        }
    }

    fn challenge(&self, repository: &str, headers: &HeaderMap) -> Reply {
        let realm = self
            .realm
            .clone()
            .unwrap_or_else(|| format!("{}://{}/token", self.scheme, host(headers)));
        let challenge = format!(
            r#"Bearer realm="{realm}",service="ghcr.io",scope="repository:{repository}:pull""#
        );
        let message = if headers.contains_key(AUTHORIZATION) {
            "invalid token"
        } else {
            "authentication required"
        };
        let mut response = oci_error(401, "UNAUTHORIZED", message);
        response.headers_mut().insert(
            "www-authenticate",
            challenge.parse().expect("a valid header"),
        );
        response
    }

    /// Basic credentials, or none for a public repository, for a bearer token of one repository.
    fn token(&mut self, uri: &Uri, headers: &HeaderMap) -> Reply {
        let parameters = query(&uri.to_string());
        let scope = parameters
            .get("scope")
            .and_then(|scope| scope.strip_prefix("repository:"));
        let Some((repository, "pull")) = scope.and_then(|scope| scope.rsplit_once(':')) else {
            return oci_error(
                400,
                "UNSUPPORTED",
                "a scope for pulling from one repository is required",
            );
        };
        if parameters.get("service").map(String::as_str) != Some("ghcr.io") {
            return oci_error(400, "UNSUPPORTED", "unknown service");
        }
        match headers
            .get(AUTHORIZATION)
            .map(|value| value.to_str().unwrap_or_default())
        {
            None if self
                .repositories
                .get(repository)
                .is_some_and(|repository| repository.public) => {}
            None => return oci_error(401, "UNAUTHORIZED", "authentication required"),
            Some(value) => match basic(value) {
                // The name is ignored, and a wrong token is refused for public repositories too.
                Some((name, token))
                    if !name.is_empty() && self.accepted_tokens.contains(&token) => {}
                Some(_) => {
                    return oci_error(403, "DENIED", "requested access to the resource is denied");
                }
                None => return oci_error(401, "UNAUTHORIZED", "authentication required"),
            },
        }
        self.issued += 1;
        let bearer = STANDARD.encode(format!("v1:{repository}:{}", self.issued));
        self.bearers.insert(bearer.clone(), repository.into());
        json(200, &json!({ "token": bearer }))
    }

    fn redirect(&mut self, digest: &str, blob: Blob) -> Reply {
        self.issued += 1;
        let signature = format!("signature{}", self.issued);
        self.signatures
            .insert(signature.clone(), (self.signature_uses, blob));
        let location = self.redirect.clone().unwrap_or_else(|| {
            let storage = &self.storage_url;
            format!(
                "{storage}/ghcrblobs07/blobs/{digest}?se=2099-12-31T23%3A59%3A59Z&sig={signature}\
                 &sp=r&spr=https&sr=b&sv=2019-12-12"
            )
        });
        reply(
            307,
            &[("location", location), ("content-length", "0".into())],
            "",
        )
    }

    fn storage(&mut self, request: &hyper::Request<RequestBody>) -> Reply {
        let (uri, headers) = (request.uri(), request.headers());
        let Some(digest) = uri.path().strip_prefix("/ghcrblobs07/blobs/") else {
            return storage_error(
                404,
                "ResourceNotFound",
                "The specified resource does not exist.",
            );
        };
        if headers.contains_key(AUTHORIZATION) {
            let message = "Authentication information is not given in the correct format.";
            return storage_error(400, "InvalidAuthenticationInfo", message);
        }
        let parameters = query(&uri.to_string());
        let signature = parameters
            .get("sig")
            .and_then(|signature| self.signatures.get_mut(signature));
        // The signature is for reading, which here, as with S3, does not take in HEAD.
        let Some((uses, blob)) =
            signature.filter(|(uses, _)| *uses > 0 && request.method() == Method::GET)
        else {
            let message = "Server failed to authenticate the request. Signature did not match or has expired.";
            return storage_error(403, "AuthenticationFailed", message);
        };
        *uses -= 1;
        let blob = blob.clone();
        if !self
            .repositories
            .values()
            .any(|repository| repository.blobs.contains_key(digest))
        {
            return storage_error(404, "BlobNotFound", "The specified blob does not exist.");
        }

        let length = blob.length();
        let kind = ("content-type", "application/octet-stream".to_owned());
        let range = match headers.get(RANGE).filter(|_| !self.ignores_ranges) {
            None => return streamed(200, &[kind], length, blob.chunks(0..length)),
            Some(value) => value.to_str().ok().and_then(closed_range),
        };
        match range {
            Some((first, last)) if first < length => {
                let end = last.saturating_add(1).min(length);
                let content_range = (
                    "content-range",
                    format!("bytes {first}-{}/{length}", end - 1),
                );
                streamed(
                    206,
                    &[kind, content_range],
                    end - first,
                    blob.chunks(first..end),
                )
            }
            _ => storage_error(
                416,
                "InvalidRange",
                "The range specified is invalid for the current size.",
            ),
        }
    }
}

impl Repository {
    fn manifest(&self, reference: &str, headers: &HeaderMap) -> Reply {
        let tagged = self
            .tags
            .iter()
            .find(|(tag, _)| tag == reference)
            .map(|(_, digest)| digest.as_str());
        let Some(manifest) = self.manifests.get(tagged.unwrap_or(reference)) else {
            return oci_error(404, "MANIFEST_UNKNOWN", "manifest unknown");
        };
        // Nothing is converted and `*/*` is not understood.
        if !accepts(headers, &manifest.media_type) {
            let message = match manifest.media_type.as_str() {
                OCI_INDEX => "OCI index found, but Accept header does not support OCI indexes",
                OCI_MANIFEST => {
                    "OCI manifest found, but Accept header does not support OCI manifests"
                }
                _ => "manifest unknown",
            };
            return oci_error(404, "MANIFEST_UNKNOWN", message);
        }
        let headers = [
            ("content-type", manifest.media_type.clone()),
            ("docker-content-digest", manifest.digest.clone()),
        ];
        reply(200, &headers, manifest.bytes.clone())
    }

    fn tag_page(&self, name: &str, uri: &Uri) -> Reply {
        let parameters = query(&uri.to_string());
        let size = parameters
            .get("n")
            .and_then(|size| size.parse().ok())
            .unwrap_or(PAGE)
            .min(PAGE_LIMIT);
        let start = match parameters.get("last") {
            Some(last) => self
                .tags
                .iter()
                .position(|(tag, _)| tag == last)
                .map_or(self.tags.len(), |found| found + 1),
            None => 0,
        };
        let page: Vec<_> = self
            .tags
            .iter()
            .skip(start)
            .take(size)
            .map(|(tag, _)| tag.as_str())
            .collect();
        let tags = if page.is_empty() {
            json!(null)
        } else {
            json!(page)
        };
        let mut response = json(200, &json!({ "name": name, "tags": tags }));
        let next = match page.last() {
            Some(last) if start + page.len() < self.tags.len() => Some(format!("last={last}&")),
            _ => self.loops.then(String::new),
        };
        if let Some(next) = next {
            let link = format!(r#"</v2/{name}/tags/list?{next}n={size}>; rel="next""#);
            response
                .headers_mut()
                .insert("link", link.parse().expect("a valid header"));
        }
        response
    }
}

fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let values = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|range| {
        range
            .split(';')
            .next()
            .is_some_and(|accepted| accepted.trim().eq_ignore_ascii_case(media_type))
    })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers
        .get(AUTHORIZATION)?
        .to_str()
        .ok()?
        .strip_prefix("Bearer ")
}

fn basic(value: &str) -> Option<(String, String)> {
    let decoded = STANDARD.decode(value.strip_prefix("Basic ")?).ok()?;
    let (name, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((name.into(), password.into()))
}

/// The host that the client thinks it talks to.
fn host(headers: &HeaderMap) -> &str {
    headers
        .get("host")
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default()
}

/// The first and last byte of `bytes=<first>-<last>`; open and multiple ranges are refused, as some registries do.
fn closed_range(value: &str) -> Option<(u64, u64)> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

/// An error as Azure's blob storage words it.
fn storage_error(status: u16, code: &str, message: &str) -> Reply {
    let body = format!(
        r#"<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"#
    );
    reply(status, &[("content-type", "application/xml".into())], body)
}
