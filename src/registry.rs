//! One repository on one registry, seen through a few verbs.
//!
//! This file and its parts are the only ones that speak HTTP to a registry, and the only ones that know the quirks of GHCR
//! and ECR; each is written down where it bites. Nothing is decided here about what to copy, and nothing is tried twice here,
//! except with a credential that was renewed.
//!
//! `oci_client` gives the media types. Its `Client` is not used: it sends one PATCH per network read where
//! ECR wants one PUT, panics on a manifest pushed by digest to a registry that omits `Location` (ECR does), keeps the first
//! credential it is given for ever, and turns a failed login into an anonymous request.

mod authorization;
mod blobs;
mod budget;
mod challenge;
mod immutability;
mod manifests;
mod pull_through_cache;
mod redirect;
mod referrers;
mod refusal;

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use url::Url;

use self::authorization::{Authorization, join};
pub use self::authorization::{Credential, Credentials};
pub use self::blobs::{BlobReader, Mounting, Upload};
use self::budget::Action;
pub use self::budget::Budget;
pub use self::challenge::Challenge;
pub use self::immutability::Immutability;
pub use self::pull_through_cache::{Upstream, UpstreamLook};
use self::refusal::Place;
use crate::endpoint::{Endpoint, ecr_region};
use crate::error::{Error, Kind, Operation, Result, Side};
use crate::observer::{Happened, Observer};
use crate::redaction::KnownSecrets;

/// How long a request without a streamed body may take, and how long a streamed one may stand still.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

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
    immutability: Option<Immutability>,
    upstream: Option<UpstreamLook>,
    observer: Arc<Observer>,
}

impl Repository {
    /// A repository to read from, which says itself how it expects to be spoken to; anonymously without credentials.
    pub fn source(
        http: Client,
        endpoint: Endpoint,
        name: &str,
        credentials: Option<Credentials>,
        known_secrets: KnownSecrets,
    ) -> Self {
        let authorization = Authorization::by_challenge(credentials, known_secrets);
        Repository::new(http, Side::Source, endpoint, name, authorization, None)
    }

    /// A repository to write to, which takes Basic credentials from the first request on, as ECR does, and is not asked more often
    /// than `budget` allows.
    pub fn destination(
        http: Client,
        endpoint: Endpoint,
        name: &str,
        credentials: Credentials,
        budget: Arc<Budget>,
        known_secrets: KnownSecrets,
    ) -> Self {
        let authorization = Authorization::basic(credentials, known_secrets);
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
            immutability: None,
            upstream: None,
            observer: Arc::default(),
        }
    }

    /// The same, observed by an observer of its own from now on.
    pub fn observed(self) -> Self {
        Repository {
            observer: Arc::default(),
            ..self
        }
    }

    /// Counts what happens here.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// `host/repository` followed by `:tag` or `@digest`.
    pub fn reference(&self, tag_or_digest: &str) -> String {
        format!("{}/{}{}", self.host, self.name, suffix(tag_or_digest))
    }

    /// The registry's host.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository's name on it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the ECR API knows of it. A registry without TLS stands in for ECR, on the same machine.
    pub fn is_in_ecr(&self) -> bool {
        ecr_region(&self.host).is_some() || self.endpoint.is_plain_http()
    }

    /// What the references of all digests of this repository begin with.
    pub fn prefix(&self) -> String {
        format!("{}/{}@", self.host, self.name)
    }

    /// The error for a tag or digest that is not what was written under it.
    pub fn not_as_written(&self, tag_or_digest: &str, detail: String) -> Error {
        let suffix = suffix(tag_or_digest);
        self.place(Operation::PushManifest, &suffix)
            .error(Kind::Transient, detail)
    }

    /// The error for a look at a tag or digest that was not waited for any longer.
    pub fn late(&self, tag_or_digest: &str) -> Error {
        let suffix = suffix(tag_or_digest);
        self.place(Operation::ResolveManifest, &suffix)
            .error(Kind::Transient, "no answer in time".to_owned())
    }

    /// The error for an image that is not copied because of what is in it.
    pub fn not_copied(&self, tag_or_digest: &str, reason: String) -> Error {
        Error::Content {
            side: self.side,
            reference: self.reference(tag_or_digest),
            reason,
        }
    }

    fn place<'a>(&'a self, operation: Operation, suffix: &'a str) -> Place<'a> {
        Place {
            side: self.side,
            operation,
            host: &self.host,
            repository: &self.name,
            suffix,
            authorization: &self.authorization,
        }
    }

    fn url(&self, path: &str) -> Result<Url> {
        join(self.endpoint.url(), &format!("v2/{}/{path}", self.name))
    }

    /// Waits until the budget has room for the request, and gives the header that it needs.
    async fn admission(&self, place: &Place<'_>) -> Result<Option<HeaderValue>> {
        self.turn(place.operation).await;
        self.header(place).await
    }

    /// Waits until the budget has room for a request.
    async fn turn(&self, operation: Operation) {
        if let Some((budget, action)) = self.budget.as_ref().zip(action(operation)) {
            budget.take(action).await;
        }
    }

    async fn header(&self, place: &Place<'_>) -> Result<Option<HeaderValue>> {
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

    /// Sends a request, and counts it; one whose authorization is refused is sent once more if another one can be had, which is a
    /// matter of authorization and so not counted.
    async fn send_streaming(
        &self,
        place: &Place<'_>,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Response> {
        self.turn(place.operation).await;
        self.send_in_turn(place, request).await
    }

    /// As [`Repository::send_streaming`], for a request that has had its wait.
    async fn send_in_turn(
        &self,
        place: &Place<'_>,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Response> {
        let header = self.header(place).await?;
        self.observer.saw(Happened::Request);
        let response = self.ask(place, request(), header.clone()).await?;
        let status = response.status();
        let is_refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        if !is_refused || !self.authorization.renew(header.as_ref(), status).await? {
            return Ok(response);
        }
        let header = self.admission(place).await?;
        self.ask(place, request(), header).await
    }

    /// Sends a request with a header, and notes whether the registry accepts that.
    async fn ask(
        &self,
        place: &Place<'_>,
        request: RequestBuilder,
        header: Option<HeaderValue>,
    ) -> Result<Response> {
        let response = self
            .respond(place, self.authorized(request, header))
            .await?;
        let status = response.status();
        // A 429 or a server fault may come from before anybody looked at the header.
        if status.is_success() || status.is_redirection() {
            self.authorization.accepted();
        }
        Ok(response)
    }

    /// As [`Repository::transmit`], but the head of the answer is not waited for without end.
    async fn respond(&self, place: &Place<'_>, request: RequestBuilder) -> Result<Response> {
        match tokio::time::timeout(REQUEST_TIMEOUT, self.transmit(place, request)).await {
            Ok(result) => result,
            Err(_) => Err(place.error(Kind::Transient, "no answer in time".to_owned())),
        }
    }

    /// Sends a request, and notes whether the registry asks for patience.
    async fn transmit(&self, place: &Place<'_>, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|error| place.broken(error))?;
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            self.observer.saw(Happened::Throttled);
            if let Some((budget, action)) = self.budget.as_ref().zip(action(place.operation)) {
                budget.refused(action);
            }
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
        Operation::Authorize
        | Operation::CancelUpload
        | Operation::FetchBlob
        | Operation::ListTags
        | Operation::ListReferrers => None,
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
