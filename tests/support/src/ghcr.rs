//! GitHub Container Registry for a client that pulls: one server for the registry and its token service, and one on another port,
//! and so of another origin, for the storage that blob requests are redirected to.

mod referrers;
#[cfg(test)]
mod tests;

pub use referrers::{ReferrersAnswer, fallback_tag};

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
use crate::lag::Lags;

/// The repository that the challenge of `GET /v2/` names, where GHCR knows no repository. A token for it is good for that alone.
const PLACEHOLDER: &str = "user/image";

/// Tags on one page unless the client asks for another number.
const PAGE: usize = 100;

/// The most tags on one page unless [`Ghcr::set_page_limit`] sets another limit. GHCR's own limit is not known.
const PAGE_LIMIT: usize = 1000;

/// What the names of made-up tags begin with; see [`Ghcr::set_endless`].
const ENDLESS_TAG: &str = "endless-";

/// The registry and its storage host. Repositories are private until [`Ghcr::set_public`] makes them public.
pub struct Ghcr {
    /// `/v2/` and `/token`.
    pub server: Server,
    /// Where blobs are read.
    pub storage: Server,
    state: Arc<Mutex<State>>,
}

struct State {
    repositories: BTreeMap<String, Repository>,
    /// Personal access tokens that may read everything.
    accepted_tokens: BTreeSet<String>,
    /// Repository by bearer token.
    bearers: BTreeMap<String, String>,
    /// Blobs by the signature of a URL that was not used yet.
    signatures: BTreeMap<String, Blob>,
    /// Bearer tokens and signatures issued so far; makes each unique.
    issued: usize,
    forbids_unknown_bearers: bool,
    realm: Option<String>,
    redirect: Option<String>,
    range_answer: RangeAnswer,
    referrers_answer: ReferrersAnswer,
    listing: Listing,
    scheme: &'static str,
    storage_url: String,
}

/// How the storage host answers a request for a closed range of a blob. RFC 9110, 14.4 and 15.3.7, allows a server to send less or
/// something else than was requested, as long as `Content-Range` says so.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum RangeAnswer {
    /// 206 with the requested bytes.
    #[default]
    Exact,
    /// 206 with the requested bytes, but no more than this many. `Content-Range` says where they end.
    Shorter(u64),
    /// 206 with bytes that begin this many earlier than requested, though not before the blob does. `Content-Range` says so.
    Shifted(u64),
    /// 206 with the requested bytes, and without `Content-Range`.
    WithoutContentRange,
    /// 200 with the whole blob.
    Whole,
}

/// How lists of tags are paged.
struct Listing {
    page_limit: usize,
    next_link: Option<String>,
    endless: bool,
}

#[derive(Default)]
struct Repository {
    public: bool,
    /// Tags and digests, in the order of their pushes.
    tags: Vec<(String, String)>,
    /// Tags that the list leaves out.
    hidden: BTreeSet<String>,
    manifests: BTreeMap<String, StoredManifest>,
    blobs: BTreeMap<String, Blob>,
    lags: Lags,
}

impl Ghcr {
    /// The personal access token that is accepted until [`Ghcr::accept_tokens`] names others.
    pub const TOKEN: &'static str = "ghp_support";

    /// Starts both servers, without repositories.
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
            forbids_unknown_bearers: false,
            realm: None,
            redirect: None,
            range_answer: RangeAnswer::Exact,
            referrers_answer: ReferrersAnswer::default(),
            listing: Listing {
                page_limit: PAGE_LIMIT,
                next_link: None,
                endless: false,
            },
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

    /// Pushes an image: its manifests and blobs, and then the tag, which moves if it exists.
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

    /// Points a tag at a digest, which need not exist. The tag becomes the newest.
    pub fn put_tag(&self, repository: &str, tag: &str, digest: &str) {
        self.change(repository, |repository| {
            let position = repository.tags.iter().position(|(kept, _)| kept == tag);
            let before = position.map(|position| repository.tags.remove(position).1);
            repository.lags.note_write(tag, before.as_ref());
            repository.tags.push((tag.into(), digest.into()));
        });
    }

    /// After the next push of `tag`, the next `reads` GET and HEAD requests for it are answered as before the push: with the old
    /// digest, or 404. GHCR can lag behind its own webhook in this way.
    pub fn lag_reads(&self, repository: &str, tag: &str, reads: usize) {
        self.change(repository, |repository| repository.lags.set(tag, reads));
    }

    /// Deletes a tag; its manifest stays.
    pub fn delete_tag(&self, repository: &str, tag: &str) {
        self.change(repository, |repository| {
            repository.tags.retain(|(kept, _)| kept != tag)
        });
    }

    /// Leaves a tag out of the list, although it is there.
    pub fn hide_tag(&self, repository: &str, tag: &str) {
        self.change(repository, |repository| {
            repository.hidden.insert(tag.to_owned())
        });
    }

    /// Deletes a manifest, as clean-up jobs do with untagged ones. Tags and indexes still refer to it.
    pub fn delete_manifest(&self, repository: &str, digest: &str) {
        self.change(repository, |repository| repository.manifests.remove(digest));
    }

    /// Deletes a package with all its versions.
    pub fn delete_package(&self, repository: &str) {
        let deleted = lock(&self.state).repositories.remove(repository);
        assert!(deleted.is_some(), "package {repository} was not put");
    }

    /// Whether anybody may pull.
    pub fn set_public(&self, repository: &str, public: bool) {
        self.change(repository, |repository| repository.public = public);
    }

    /// Gives at most `limit` tags per page, even to a client that asks for more.
    pub fn set_page_limit(&self, limit: usize) {
        lock(&self.state).listing.page_limit = limit;
    }

    /// Makes every page of tags link to `url` as the next one. With the URL of a page the list goes round in circles.
    pub fn set_next_link(&self, url: &str) {
        lock(&self.state).listing.next_link = Some(url.into());
    }

    /// Whether lists of tags never end: after the real tags come made-up ones, each with another name, and every page links to a
    /// next one.
    pub fn set_endless(&self, endless: bool) {
        lock(&self.state).listing.endless = endless;
    }

    /// Accepts these personal access tokens from now on, and no others. Bearer tokens stay valid.
    pub fn accept_tokens(&self, tokens: &[&str]) {
        lock(&self.state).accepted_tokens = tokens.iter().map(|token| token.to_string()).collect();
    }

    /// Refuses all bearer tokens issued so far.
    pub fn expire_tokens(&self) {
        lock(&self.state).bearers.clear();
    }

    /// Answers 403 to bearer tokens that are not accepted, without a challenge, instead of 401. GHCR was seen to do so.
    /// (CopilotKit/CopilotKit#5239)
    pub fn forbid_unknown_bearers(&self) {
        lock(&self.state).forbids_unknown_bearers = true;
    }

    /// Refuses all signed URLs issued so far.
    pub fn expire_signatures(&self) {
        lock(&self.state).signatures.clear();
    }

    /// Makes challenges name this URL as the token service.
    pub fn set_realm(&self, url: &str) {
        lock(&self.state).realm = Some(url.into());
    }

    /// Redirects every blob request to this URL instead of the storage host.
    pub fn set_redirect(&self, url: &str) {
        lock(&self.state).redirect = Some(url.into());
    }

    /// Sets how the storage host answers requests for a range.
    pub fn set_range_answer(&self, answer: RangeAnswer) {
        lock(&self.state).range_answer = answer;
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
    Referrers(&'a str, &'a str),
}

impl<'a> Endpoint<'a> {
    /// Repository names can contain slashes, so the path is parsed from its end.
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
            (repository, "referrers") => Some(Endpoint::Referrers(repository, reference)),
            _ => None,
        }
    }

    fn repository(&self) -> &'a str {
        match *self {
            Endpoint::Base => PLACEHOLDER,
            Endpoint::Manifest(repository, _) | Endpoint::Blob(repository, _) => repository,
            Endpoint::Tags(repository) | Endpoint::Referrers(repository, _) => repository,
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
        let Some(repository) = self.repositories.get_mut(name) else {
            return oci_error(404, "NAME_UNKNOWN", "repository name not known to registry");
        };
        match endpoint {
            Endpoint::Base => unreachable!("answered above"),
            Endpoint::Manifest(_, reference) => repository.manifest(reference, headers),
            Endpoint::Blob(_, digest) => match repository.blobs.get(digest).cloned() {
                Some(blob) => self.redirect(digest, blob),
                None => oci_error(404, "BLOB_UNKNOWN", "blob unknown to registry"),
            },
            Endpoint::Tags(name) => repository.tag_page(name, uri, &self.listing),
            Endpoint::Referrers(name, subject) => {
                let answer = self.referrers_answer;
                repository.referrers(answer, name, subject, &self.storage_url)
            }
        }
    }

    fn challenge(&self, repository: &str, headers: &HeaderMap) -> Reply {
        if self.forbids_unknown_bearers && bearer(headers).is_some() {
            return oci_error(403, "DENIED", "requested access to the resource is denied");
        }
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

    /// Exchanges Basic credentials, or none if the repository is public, for a bearer token for one repository.
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
                // GHCR ignores the user name, and refuses a wrong token even for a public repository.
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
        self.signatures.insert(signature.clone(), blob);
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
        if !uri.path().starts_with("/ghcrblobs07/blobs/") {
            let message = "The specified resource does not exist.";
            return storage_error(404, "ResourceNotFound", message);
        }
        if headers.contains_key(AUTHORIZATION) {
            let message = "Authentication information is not given in the correct format.";
            return storage_error(400, "InvalidAuthenticationInfo", message);
        }
        let parameters = query(&uri.to_string());
        // The real signatures are valid for ten minutes. Here they are good for one GET, so that a client which keeps a URL fails
        // without a clock; and not for HEAD, as on S3, where GHCR's storage was before.
        let blob = parameters
            .get("sig")
            .filter(|_| request.method() == Method::GET)
            .and_then(|signature| self.signatures.remove(signature));
        let Some(blob) = blob else {
            let message = "Server failed to authenticate the request. Signature did not match or has expired.";
            return storage_error(403, "AuthenticationFailed", message);
        };
        match headers.get(RANGE) {
            Some(range) if self.range_answer != RangeAnswer::Whole => self
                .range_answer
                .of(&blob, range.to_str().unwrap_or_default()),
            _ => {
                let length = blob.length();
                streamed(200, &[octets()], length, blob.chunks(0..length))
            }
        }
    }
}

impl RangeAnswer {
    fn of(self, blob: &Blob, range: &str) -> Reply {
        let length = blob.length();
        let Some((first, last)) = closed_range(range).filter(|(first, _)| *first < length) else {
            let message = "The range specified is invalid for the current size.";
            return storage_error(416, "InvalidRange", message);
        };
        let end = last.saturating_add(1).min(length);
        let (first, end) = match self {
            RangeAnswer::Shorter(bytes) => (first, end.min(first + bytes)),
            RangeAnswer::Shifted(bytes) => (first.saturating_sub(bytes), end),
            RangeAnswer::Exact | RangeAnswer::WithoutContentRange | RangeAnswer::Whole => {
                (first, end)
            }
        };
        let mut headers = vec![octets()];
        if self != RangeAnswer::WithoutContentRange {
            let content_range = format!("bytes {first}-{}/{length}", end - 1);
            headers.push(("content-range", content_range));
        }
        streamed(206, &headers, end - first, blob.chunks(first..end))
    }
}

fn octets() -> (&'static str, String) {
    ("content-type", "application/octet-stream".to_owned())
}

impl Repository {
    fn manifest(&mut self, reference: &str, headers: &HeaderMap) -> Reply {
        let tagged = self.tags.iter().find(|(tag, _)| tag == reference);
        let tagged = self.lags.read(reference, tagged.map(|(_, digest)| digest));
        let Some(manifest) = self.manifests.get(tagged.as_deref().unwrap_or(reference)) else {
            return oci_error(404, "MANIFEST_UNKNOWN", "manifest unknown");
        };
        // GHCR converts nothing, and does not understand `*/*`.
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

    fn tag_page(&self, name: &str, uri: &Uri, listing: &Listing) -> Reply {
        let parameters = query(&uri.to_string());
        let size = parameters
            .get("n")
            .and_then(|size| size.parse().ok())
            .unwrap_or(PAGE)
            .min(listing.page_limit);
        let end = match listing.endless {
            true => usize::MAX,
            false => self.tags.len(),
        };
        let tag = |index: usize| match self.tags.get(index) {
            Some((tag, _)) => tag.clone(),
            None => format!("{ENDLESS_TAG}{index}"),
        };
        let index = |tag: &String| {
            let number = tag.strip_prefix(ENDLESS_TAG).map(str::parse);
            let number = number.and_then(Result::ok);
            number.or_else(|| self.tags.iter().position(|(kept, _)| kept == tag))
        };
        let start = match parameters.get("last") {
            Some(last) => index(last).map_or(end, |index| index + 1),
            None => 0,
        };
        let page: Vec<_> = (start..end)
            .take(size)
            .map(tag)
            .filter(|tag| !self.hidden.contains(tag))
            .collect();
        let tags = if page.is_empty() {
            json!(null)
        } else {
            json!(page)
        };
        let mut response = json(200, &json!({ "name": name, "tags": tags }));
        let last = page.last().filter(|_| start + page.len() < end);
        let next = last.map(|last| format!("/v2/{name}/tags/list?last={last}&n={size}"));
        if let Some(next) = listing.next_link.clone().or(next) {
            let link = format!(r#"<{next}>; rel="next""#);
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

/// The host that the client addresses.
fn host(headers: &HeaderMap) -> &str {
    headers
        .get("host")
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default()
}

/// The first and last byte of `bytes=<first>-<last>`. Open and multiple ranges are refused, as by some registries.
fn closed_range(value: &str) -> Option<(u64, u64)> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

/// An error in the words of Azure's blob storage.
pub(crate) fn storage_error(status: u16, code: &str, message: &str) -> Reply {
    let body = format!(
        r#"<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"#
    );
    reply(status, &[("content-type", "application/xml".into())], body)
}
