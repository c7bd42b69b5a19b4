//! One repository on one registry, seen through a few verbs.
//!
//! This file and its parts are the only ones that speak HTTP to a registry, and the only ones that know the quirks of GHCR
//! and ECR; each is written down where it bites. Nothing is decided here about what to copy, and nothing is tried twice here,
//! except for a bearer token that ran out.
//!
//! `oci_client` gives the references and the media types. Its `Client` is not used: it sends one PATCH per network read where
//! ECR wants one PUT, panics on a manifest pushed by digest to a registry that omits `Location` (ECR does), keeps the first
//! credential it is given for ever, and turns a failed login into an anonymous request.

mod authorization;
mod blob;
mod redirect;
mod refusal;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use oci_client::Reference;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use url::Url;

pub use self::authorization::Credential;
use self::authorization::{Authorization, join};
pub use self::blob::{BlobReader, Upload};
use self::refusal::Place;

use crate::budget::{Action, Budget};
use crate::error::{Error, Kind, Operation, Result, Side};
use crate::job::Endpoint;
use crate::link::next_page;
use crate::manifest::{Digest, MANIFEST_LIMIT, MANIFEST_MEDIA_TYPES, Manifest};

/// How long a request without a streamed body may take, and how long a streamed one may stand still.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The most bytes that a page of tags may have: a thousand of the longest are 131,000.
const TAG_PAGE_LIMIT: usize = 4 * 1024 * 1024;

#[derive(Deserialize)]
struct TagPage {
    /// `null` for a package without tags.
    tags: Option<Vec<String>>,
}

/// The HTTP client for all registries. One lives as long as the process, so that connections are kept.
///
/// HTTP/1.1, as it moves large bodies at two thirds of HTTP/2's processor time; redirects are followed here, by hand, so that
/// no header goes along.
///
/// # Errors
/// [`Error::Internal`] if the system's certificates can't be read.
pub fn client() -> Result<Client> {
    Client::builder()
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(10))
        .user_agent(concat!("ghcr-to-ecr/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| Error::Internal(format!("no HTTP client: {error}")))
}

/// One repository on one registry. Clones share the authorization.
#[derive(Clone)]
pub struct Repository {
    http: Client,
    side: Side,
    endpoint: Endpoint,
    host: String,
    name: String,
    authorization: Arc<Authorization>,
    budget: Option<Arc<Budget>>,
    requests: Arc<AtomicU64>,
}

impl Repository {
    /// A repository to read from, which says itself how it wants to be spoken to.
    pub fn source(
        http: Client,
        endpoint: Endpoint,
        name: &str,
        credential: Option<Credential>,
    ) -> Self {
        let authorization = Authorization::by_challenge(credential);
        Repository::new(http, Side::Source, endpoint, name, authorization, None)
    }

    /// A repository to write to, which takes Basic credentials from the first request on, as ECR does, and is not asked more often
    /// than `budget` allows.
    pub fn destination(
        http: Client,
        endpoint: Endpoint,
        name: &str,
        credential: Credential,
        budget: Arc<Budget>,
    ) -> Self {
        let authorization = Authorization::basic(credential);
        let side = Side::Destination;
        Repository::new(http, side, endpoint, name, authorization, Some(budget))
    }

    fn new(
        http: Client,
        side: Side,
        endpoint: Endpoint,
        name: &str,
        authorization: Authorization,
        budget: Option<Arc<Budget>>,
    ) -> Self {
        Repository {
            http,
            side,
            host: endpoint.host(),
            endpoint,
            name: name.to_owned(),
            authorization: Arc::new(authorization),
            budget,
            requests: Arc::default(),
        }
    }

    /// The same, with every request from now on counted in `requests`, authorization left aside; a redirected blob counts as two.
    pub fn counted_in(self, requests: Arc<AtomicU64>) -> Self {
        Repository { requests, ..self }
    }

    /// `host/repository` followed by `:tag` or `@digest`.
    pub fn reference(&self, tag_or_digest: &str) -> String {
        format!("{}/{}{}", self.host, self.name, suffix(tag_or_digest))
    }

    /// The reference of a tag in this repository.
    pub fn tagged(&self, tag: &str) -> Reference {
        Reference::with_tag(self.host.clone(), self.name.clone(), tag.to_owned())
    }

    /// The digest that `tag_or_digest` stands for, or `None` if there is no such manifest. One HEAD request.
    pub async fn resolve(&self, tag_or_digest: &str) -> Result<Option<Digest>> {
        let suffix = suffix(tag_or_digest);
        let place = self.place(Operation::ResolveManifest, &suffix);
        let url = self.url(&format!("manifests/{tag_or_digest}"))?;
        let response = self
            .send(&place, || {
                self.http
                    .head(url.clone())
                    .header(ACCEPT, MANIFEST_MEDIA_TYPES.join(", "))
            })
            .await?;
        match (response.status(), content_digest(response.headers())) {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, Some(digest)) if status.is_success() => Ok(Some(digest)),
            // The header is optional; then the bytes tell. And a HEAD is refused without a word, where a GET is told whether the
            // authorization has expired or a permission is missing.
            (StatusCode::OK | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
                match self.fetch_manifest(tag_or_digest).await {
                    Err(error) if error.kind() == Kind::NotFound => Ok(None),
                    result => result.map(|manifest| Some(manifest.digest)),
                }
            }
            _ => Err(refusal::of(response, &place).await),
        }
    }

    /// All tags, in the order in which the registry lists them: at GHCR, the oldest push first (renovatebot/renovate#36103).
    ///
    /// One GET request for each page; the registry says where the next one is. A page that leads back to an earlier one ends the
    /// list.
    pub async fn tags(&self) -> Result<Vec<String>> {
        let place = self.place(Operation::ListTags, "");
        let mut url = self.url("tags/list?n=1000")?;
        let mut seen = HashSet::from([url.clone()]);
        let mut tags = Vec::new();
        loop {
            let response = self.send(&place, || self.http.get(url.clone())).await?;
            if !response.status().is_success() {
                return Err(refusal::of(response, &place).await);
            }
            let next = next_page(response.headers(), &url);
            let body = refusal::limited_body(response, TAG_PAGE_LIMIT)
                .await
                .ok_or_else(|| place.error(Kind::Transient, "the list broke off".to_owned()))?;
            let page: TagPage = serde_json::from_slice(&body)
                .map_err(|_| place.error(Kind::Transient, "the answer is no list".to_owned()))?;
            tags.extend(page.tags.unwrap_or_default());
            match next {
                Some(next) if seen.insert(next.clone()) => url = next,
                _ => return Ok(tags),
            }
        }
    }

    /// The manifest that `tag_or_digest` stands for, with the bytes checked against a digest that was asked for and against
    /// the registry's own word. One GET request.
    ///
    /// # Errors
    /// [`Error::Content`] if the bytes are not what they should be, or more than [`MANIFEST_LIMIT`].
    pub async fn fetch_manifest(&self, tag_or_digest: &str) -> Result<Manifest> {
        let suffix = suffix(tag_or_digest);
        let place = self.place(Operation::FetchManifest, &suffix);
        let url = self.url(&format!("manifests/{tag_or_digest}"))?;
        let mut response = self
            .send(&place, || {
                self.http
                    .get(url.clone())
                    .header(ACCEPT, MANIFEST_MEDIA_TYPES.join(", "))
            })
            .await?;
        if !response.status().is_success() {
            return Err(refusal::of(response, &place).await);
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| place.broken(error))?
        {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > MANIFEST_LIMIT {
                return Err(place.content(format!(
                    "the manifest has more than {MANIFEST_LIMIT} bytes, which is the most that ECR stores"
                )));
            }
        }
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let manifest = Manifest::new(Bytes::from(bytes), content_type)
            .map_err(|reason| place.content(reason))?;
        let announced = content_digest(response.headers());
        let asked_for = Digest::parse(tag_or_digest).ok();
        for expected in [asked_for, announced].into_iter().flatten() {
            if manifest.digest != expected {
                return Err(place.content(format!(
                    "the bytes of the manifest have digest {} instead of {expected}",
                    manifest.digest
                )));
            }
        }
        Ok(manifest)
    }

    /// Writes a manifest, byte for byte, under a tag or under its own digest. One PUT request.
    pub async fn push_manifest(&self, manifest: &Manifest, tag: Option<&str>) -> Result<()> {
        let tag_or_digest = tag.unwrap_or(manifest.digest.as_str());
        let suffix = suffix(tag_or_digest);
        let place = self.place(Operation::PushManifest, &suffix);
        let url = self.url(&format!("manifests/{tag_or_digest}"))?;
        let response = self
            .send(&place, || {
                self.http
                    .put(url.clone())
                    .header(CONTENT_TYPE, &manifest.media_type)
                    .body(manifest.bytes.clone())
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

    fn place<'a>(&'a self, operation: Operation, suffix: &'a str) -> Place<'a> {
        Place {
            side: self.side,
            operation,
            host: &self.host,
            repository: &self.name,
            suffix,
            has_credential: self.authorization.has_credential(),
        }
    }

    fn url(&self, path: &str) -> Result<Url> {
        join(self.endpoint.url(), &format!("v2/{}/{path}", self.name))
    }

    /// Waits until the budget has room for the request, and gives the header that it needs.
    async fn admission(&self, place: &Place<'_>) -> Result<Option<HeaderValue>> {
        if let Some((budget, action)) = self.budget.as_ref().zip(action(place.operation)) {
            budget.take(action).await;
        }
        self.authorization
            .header(&self.http, &self.endpoint, place)
            .await
    }

    fn authorized(&self, request: RequestBuilder, header: Option<HeaderValue>) -> RequestBuilder {
        match header {
            Some(header) => request.header(AUTHORIZATION, header),
            None => request,
        }
    }

    /// Sends a request whose answer is short.
    async fn send(
        &self,
        place: &Place<'_>,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Response> {
        self.send_streaming(place, || request().timeout(REQUEST_TIMEOUT))
            .await
    }

    /// Sends a request; one whose bearer token has run out is sent once more with a new one.
    async fn send_streaming(
        &self,
        place: &Place<'_>,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Response> {
        let header = self.admission(place).await?;
        let authorized = self.authorized(request(), header.clone());
        let response = self.respond(place, authorized).await?;
        let is_refused = response.status() == StatusCode::UNAUTHORIZED;
        if !is_refused || !self.authorization.forget(header.as_ref()).await {
            return Ok(response);
        }
        let header = self.admission(place).await?;
        self.respond(place, self.authorized(request(), header))
            .await
    }

    /// As [`Repository::counted`], but the head of the answer is not waited for without end.
    async fn respond(&self, place: &Place<'_>, request: RequestBuilder) -> Result<Response> {
        match tokio::time::timeout(REQUEST_TIMEOUT, self.counted(place, request)).await {
            Ok(result) => result,
            Err(_) => Err(place.error(Kind::Transient, "no answer in time".to_owned())),
        }
    }

    /// Sends a request, and counts it.
    async fn counted(&self, place: &Place<'_>, request: RequestBuilder) -> Result<Response> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let response = request.send().await.map_err(|error| place.broken(error))?;
        if response.status() == StatusCode::TOO_MANY_REQUESTS
            && let Some((budget, action)) = self.budget.as_ref().zip(action(place.operation))
        {
            budget.refused(action);
        }
        Ok(response)
    }
}

/// What ECR counts a request as. (Amazon ECR API reference; the registry endpoint is a front for it)
fn action(operation: Operation) -> Option<Action> {
    match operation {
        Operation::ResolveManifest | Operation::FetchManifest => Some(Action::BatchGetImage),
        Operation::HasBlob => Some(Action::BatchCheckLayerAvailability),
        Operation::StartUpload => Some(Action::InitiateLayerUpload),
        Operation::PushBlob => Some(Action::CompleteLayerUpload),
        Operation::PushManifest => Some(Action::PutImage),
        Operation::Authorize | Operation::FetchBlob | Operation::ListTags => None,
    }
}

/// `:tag` or `@digest`.
fn suffix(tag_or_digest: &str) -> String {
    let separator = if tag_or_digest.contains(':') {
        '@'
    } else {
        ':'
    };
    format!("{separator}{tag_or_digest}")
}

/// The registry's word on a manifest's digest. Optional in the specification, and trusted only to say that something is there;
/// bytes that are fetched are hashed here.
fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    let value = headers.get("docker-content-digest")?;
    Digest::parse(value.to_str().ok()?).ok()
}
