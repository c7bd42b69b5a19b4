//! GitHub's REST API for packages: which container packages an owner has, and which tags a digest has.
//!
//! The registry alone can say neither. It is another host than the registry's, with limits of its own, so nothing that can be done
//! without it depends on it.

use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::{Client, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::error::{Error, Kind, Result};
use crate::link::next_page;
use crate::manifest::Digest;

/// The most that GitHub gives at once.
const PAGE_SIZE: &str = "100";

/// A version that was just pushed is on the first page; one that is not among the newest thousand is no news.
const VERSION_PAGES_LIMIT: usize = 10;

/// Ten thousand packages of one owner.
const PACKAGE_PAGES_LIMIT: usize = 100;

/// The most bytes that one page may have.
const BODY_LIMIT: usize = 16 * 1024 * 1024;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The API at one host.
pub struct GitHub {
    http: Client,
    api: Url,
}

#[derive(Deserialize)]
struct Package {
    name: String,
}

#[derive(Deserialize)]
struct Version {
    /// The digest.
    name: String,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    container: Container,
}

#[derive(Default, Deserialize)]
struct Container {
    #[serde(default)]
    tags: Vec<String>,
}

/// One page of a list, and where the next one is.
struct Page<T> {
    items: Vec<T>,
    next: Option<Url>,
}

impl GitHub {
    /// The API at `api`, such as `https://api.github.com`.
    pub fn new(http: Client, api: Url) -> Self {
        GitHub { http, api }
    }

    /// The names of all container packages of `owner`, without the owner, in lower case; a name may hold slashes.
    ///
    /// # Errors
    /// [`Error::Api`]: the owner is unknown, the token may not list packages, or the rate limit is reached.
    pub async fn packages(&self, token: Option<&SecretString>, owner: &str) -> Result<Vec<String>> {
        let mut next = Some(self.first_page(token, owner, &[]).await?);
        let mut names = Vec::new();
        for _ in 0..PACKAGE_PAGES_LIMIT {
            let Some(Page { items, next: url }) = next else {
                break;
            };
            names.extend(
                items
                    .into_iter()
                    .map(|package: Package| package.name.to_lowercase()),
            );
            next = self.following_page(token, owner, url).await?;
        }
        Ok(names)
    }

    /// The tags that `digest` has in `owner/name`; none if it is not among the newest versions.
    ///
    /// # Errors
    /// As [`GitHub::packages`].
    pub async fn tags_of(
        &self,
        token: Option<&SecretString>,
        repository: &str,
        digest: &Digest,
    ) -> Result<Vec<String>> {
        let (owner, name) = repository.split_once('/').unwrap_or((repository, ""));
        let path = ["container", name, "versions"];
        let mut next = Some(self.first_page(token, owner, &path).await?);
        for _ in 0..VERSION_PAGES_LIMIT {
            let Some(Page { items, next: url }) = next else {
                break;
            };
            let found = items
                .into_iter()
                .find(|version: &Version| version.name == digest.as_str());
            if let Some(version) = found {
                return Ok(version.metadata.container.tags);
            }
            next = self.following_page(token, repository, url).await?;
        }
        Ok(Vec::new())
    }

    /// The first page of an owner's packages, or of what `path` names below them. An owner is an organisation or a user, and only
    /// the answer tells; a package's name is one segment, its slashes written as `%2F`.
    async fn first_page<T: DeserializeOwned>(
        &self,
        token: Option<&SecretString>,
        owner: &str,
        path: &[&str],
    ) -> Result<Page<T>> {
        let url = |kind: &str| {
            let mut url = self.api.clone();
            if let Ok(mut segments) = url.path_segments_mut() {
                segments
                    .pop_if_empty()
                    .extend([kind, owner, "packages"])
                    .extend(path);
            }
            url.query_pairs_mut()
                .append_pair("per_page", PAGE_SIZE)
                .extend_pairs(path.is_empty().then_some(("package_type", "container")));
            url
        };
        match self.page(token, owner, url("orgs")).await {
            Err(error) if error.kind() == Kind::NotFound => {
                self.page(token, owner, url("users")).await
            }
            result => result,
        }
    }

    async fn following_page<T: DeserializeOwned>(
        &self,
        token: Option<&SecretString>,
        subject: &str,
        url: Option<Url>,
    ) -> Result<Option<Page<T>>> {
        match url {
            Some(url) => self.page(token, subject, url).await.map(Some),
            None => Ok(None),
        }
    }

    async fn page<T: DeserializeOwned>(
        &self,
        token: Option<&SecretString>,
        subject: &str,
        url: Url,
    ) -> Result<Page<T>> {
        let failed = |kind, detail: String, advice| Error::Api {
            operation: "list packages",
            subject: subject.to_owned(),
            kind,
            detail,
            advice,
        };
        let transient = |detail: String| failed(Kind::Transient, detail, "");
        let mut request = self
            .http
            .get(url.clone())
            .timeout(REQUEST_TIMEOUT)
            .header(ACCEPT, "application/vnd.github+json")
            .header("X-GitHub-Api-Version", "2022-11-28");
        if let Some(token) = token {
            let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))
                .map_err(|_| {
                    Error::Internal("the token can't be written as a header".to_owned())
                })?;
            bearer.set_sensitive(true);
            request = request.header(AUTHORIZATION, bearer);
        }
        let mut response = request
            .send()
            .await
            .map_err(|error| transient(error.without_url().to_string()))?;
        if let Some((kind, advice)) = refusal(&response) {
            return Err(failed(kind, response.status().to_string(), advice));
        }
        let next = next_page(response.headers(), &url);
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| transient(error.without_url().to_string()))?
        {
            body.extend_from_slice(&chunk);
            if body.len() > BODY_LIMIT {
                return Err(failed(
                    Kind::Invalid,
                    "the answer is too long".to_owned(),
                    "",
                ));
            }
        }
        let items = serde_json::from_slice(&body)
            .map_err(|error| transient(format!("the answer is no list: {error}")))?;
        Ok(Page { items, next })
    }
}

/// What a status other than 200 means. GitHub answers 404 to whoever may not know that something exists, and 403 or 429 to
/// whoever asks too often. (GitHub documentation, "Rate limits for the REST API")
fn refusal(response: &Response) -> Option<(Kind, &'static str)> {
    let header = |name| {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let is_limited =
        header("x-ratelimit-remaining") == Some("0") || header("retry-after").is_some();
    match response.status() {
        StatusCode::OK => None,
        StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS if is_limited => Some((
            Kind::Transient,
            "GitHub's rate limit is reached; the next run goes on",
        )),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Some((
            Kind::Denied,
            "the GHCR token is expired, revoked, lacks read:packages or is not authorised for the organisation's SSO",
        )),
        StatusCode::NOT_FOUND => Some((
            Kind::NotFound,
            "the owner or package does not exist, or the token's account can't see it; without a token nothing can be listed",
        )),
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            Some((Kind::Transient, ""))
        }
        _ => Some((Kind::Invalid, "check GITHUB_API_URL")),
    }
}
