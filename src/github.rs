//! GitHub's REST API for packages: which container packages an owner has, and which tags a digest has.
//!
//! The registry can answer neither question. The API is another host with rate limits of its own, so no copy depends on it.
//! A list is complete or an error: with a part of it, the wrong images would be copied, or the right ones deleted.
//! (GitHub's documentation: "REST API endpoints for packages", "Using pagination in the REST API", "Rate limits for the REST API")

mod attestations;
mod expiry;
mod refusal;
mod time;
mod versions;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::{Client, Response, StatusCode};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

use self::expiry::Expiries;
pub use self::expiry::Grant;
use self::versions::Lists;
pub use self::versions::Named;
use crate::error::{Error, Kind, Result};
use crate::link::{UntrustedLink, next_page};
use crate::manifest::Digest;
use crate::redaction::KnownSecrets;
use crate::token::Token;

/// Items of a page, the most that GitHub gives at once.
const PAGE_SIZE: &str = "100";

/// A version that was just pushed is on the first page. One that is not among the newest thousand is not looked for further.
const VERSION_PAGES_LIMIT: usize = 10;

/// GitHub serves an owner's first ten thousand packages and no more.
const PACKAGE_PAGES_LIMIT: usize = 100;

/// The most bytes that the names of one owner's packages may have: more than ten thousand of the longest.
const NAMES_LIMIT: usize = 4 * 1024 * 1024;

/// The most bytes of a page. A package with its repository has about six thousand.
const PAGE_LIMIT: usize = 4 * 1024 * 1024;

/// From the request to the last byte of its answer. GitHub itself gives up on a request after ten seconds.
/// (GitHub's documentation, "Troubleshooting the REST API", Timeouts)
const TIMEOUT: Duration = Duration::from_secs(15);

const OTHER_HOST: &str =
    "GITHUB_API_URL has to be the host that GitHub's own links between pages name";
const TOO_MANY: &str =
    "name each package in a rule of its own in place of a glob: a named package needs no list";

/// GitHub's REST API at one host.
pub struct GitHub {
    http: Client,
    api: Url,
    timeout: Duration,
    known_secrets: KnownSecrets,
    lists: Lists,
    expiries: Expiries,
}

/// What GitHub knows of one digest of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// All its tags, unchecked; none if it is untagged.
    pub tags: Vec<String>,
    /// When it was pushed first, in ISO 8601, such as `2026-11-20T08:15:00Z`.
    pub created_at: Option<String>,
}

/// Where the API keeps an account's packages. Only the answer tells whether an owner is an organisation or a user.
#[derive(Clone, Copy)]
enum Account<'a> {
    Organization(&'a str),
    User(&'a str),
    /// The account that the token belongs to.
    Own,
}

/// What a request is made for, as its error tells it.
struct Call<'a> {
    operation: &'static str,
    subject: &'a str,
    token: Option<&'a Token>,
}

struct Answer<T> {
    body: T,
    next: Result<Option<Url>, UntrustedLink>,
    grant: Grant,
}

/// A page of the list of packages.
type Packages = Answer<Vec<PackageItem>>;

#[derive(Deserialize)]
struct PackageItem {
    name: String,
    owner: Option<OwnerItem>,
}

#[derive(Deserialize)]
struct OwnerItem {
    login: String,
}

#[derive(Deserialize)]
struct VersionItem {
    /// The digest.
    name: String,
    created_at: Option<String>,
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct Metadata {
    container: Option<Container>,
}

#[derive(Deserialize)]
struct Container {
    tags: Option<Vec<String>>,
}

impl GitHub {
    /// The API at `api`, such as `https://api.github.com`. `http` must send a `User-Agent`, without which GitHub refuses every
    /// request, and must not follow redirects. What it answers is never quoted with one of `known_secrets`.
    pub fn new(http: Client, api: Url, known_secrets: KnownSecrets) -> Self {
        GitHub {
            http,
            api,
            timeout: TIMEOUT,
            known_secrets,
            lists: Lists::default(),
            expiries: Expiries::default(),
        }
    }

    /// The same API, of which nothing is known yet: what a token that was lent for one copy lets see is not kept.
    pub fn anew(&self) -> Self {
        let (http, api) = (self.http.clone(), self.api.clone());
        GitHub::new(http, api, self.known_secrets.clone())
    }

    /// The names of all container packages of `owner`, without the owner, in lower case; a name may hold slashes.
    ///
    /// # Errors
    /// [`Error::Api`]: the owner is unknown, the token may not list packages, a rate limit is reached
    /// ([`Error::retry_after`] tells for how long), or the list can't be read to its end.
    pub async fn packages(&self, token: Option<&Token>, owner: &str) -> Result<Vec<String>> {
        let call = Call {
            operation: "list packages",
            subject: owner,
            token,
        };
        match self.first_page(&call, Account::Organization(owner)).await {
            Ok(first) => return self.names(&call, first, |_| true).await,
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error),
        }
        let of_user = match self.first_page(&call, Account::User(owner)).await {
            Ok(first) => Ok(self.names(&call, first, |_| true).await?),
            Err(error) if error.kind() == Kind::NotFound => Err(error),
            Err(error) => return Err(error),
        };
        let is_unknown = of_user.as_ref().map_or(true, Vec::is_empty);
        if !is_unknown || token.is_none() {
            return of_user;
        }
        // A personal account's private packages may be in the list of its own token alone.
        let own = match self.first_page(&call, Account::Own).await {
            Ok(first) => {
                self.names(&call, first, |package| package.is_of(owner))
                    .await?
            }
            Err(error) if is_no_account(&error) => Vec::new(),
            Err(error) => return Err(error),
        };
        match own.is_empty() {
            true => of_user,
            false => Ok(own),
        }
    }

    /// When tokens expire, by the id of the secret that holds each, as GitHub said last; `None` for one without an end.
    pub fn expiries(&self) -> BTreeMap<String, Option<SystemTime>> {
        self.expiries.all()
    }

    /// Whether GitHub has answered this token since `begin`.
    pub fn has_spoken_of(&self, token: &Token, begin: SystemTime) -> bool {
        self.expiries.has_spoken_of(token, begin)
    }

    /// When the first of the tokens expires that GitHub has spoken of.
    pub fn next_expiry(&self) -> Option<SystemTime> {
        self.expiries().into_values().flatten().min()
    }

    /// Lets GitHub say when a token expires, in an answer that counts for no rate limit.
    ///
    /// # Errors
    /// As [`GitHub::grant`].
    pub async fn ask_expiry(&self, token: &Token) -> Result<()> {
        self.grant(token).await.map(|_| ())
    }

    /// What GitHub says of a token: its scopes, and when it expires; in an answer that counts for no rate limit.
    /// (GitHub's documentation, "REST API endpoints for rate limits")
    ///
    /// # Errors
    /// [`Error::Api`]: the token is not accepted, or GitHub can't be asked.
    pub async fn grant(&self, token: &Token) -> Result<Grant> {
        let call = Call {
            operation: "look at token",
            subject: &token.secret_id,
            token: Some(token),
        };
        let mut url = self.api.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("rate_limit");
        }
        let answer = self.get::<serde::de::IgnoredAny>(&call, url).await?;
        Ok(answer.grant)
    }

    /// What is known of `digest` in `package`, written as `owner/name`; `None` if it is not among the newest thousand versions.
    ///
    /// # Errors
    /// As [`GitHub::packages`].
    pub async fn version_of(
        &self,
        token: Option<&Token>,
        package: &str,
        digest: &Digest,
    ) -> Result<Option<Version>> {
        let (owner, name) = package.split_once('/').unwrap_or((package, ""));
        let call = Call {
            operation: "list versions",
            subject: package,
            token,
        };
        let mut page = self.first_versions(&call, owner, name).await?;
        let mut pages = 1;
        loop {
            let mut items = page.body.into_iter();
            if let Some(item) = items.find(|item| item.name == digest.to_string()) {
                return Ok(Some(item.into()));
            }
            match call.trusted(page.next)? {
                Some(next) if pages < VERSION_PAGES_LIMIT => page = self.get(&call, next).await?,
                _ => return Ok(None),
            }
            pages += 1;
        }
    }

    /// The first page of the list of a package's versions, newest first.
    async fn first_versions(
        &self,
        call: &Call<'_>,
        owner: &str,
        name: &str,
    ) -> Result<Answer<Vec<VersionItem>>> {
        let page = |account| {
            let mut url = self.url(account, &["container", name, "versions"]);
            url.query_pairs_mut().append_pair("per_page", PAGE_SIZE);
            self.get(call, url)
        };
        match page(Account::Organization(owner)).await {
            Err(error) if error.kind() == Kind::NotFound => {}
            result => return result,
        }
        let of_user = page(Account::User(owner)).await;
        let is_unknown = matches!(&of_user, Err(error) if error.kind() == Kind::NotFound);
        if !is_unknown || call.token.is_none() {
            return of_user;
        }
        // The token's own account may have a package of the same name that is not the one asked for.
        let url = self.url(Account::Own, &["container", name]);
        match self.get::<PackageItem>(call, url).await {
            Ok(own) if own.body.is_of(owner) => page(Account::Own).await,
            Ok(_) => of_user,
            Err(error) if is_no_account(&error) => of_user,
            Err(error) => Err(error),
        }
    }

    async fn first_page(&self, call: &Call<'_>, account: Account<'_>) -> Result<Packages> {
        let mut url = self.url(account, &[]);
        url.query_pairs_mut()
            .append_pair("per_page", PAGE_SIZE)
            .append_pair("package_type", "container");
        self.get(call, url).await
    }

    /// The names of those packages that are asked for, on the first page and all that follow it.
    async fn names(
        &self,
        call: &Call<'_>,
        mut page: Packages,
        is_asked_for: impl Fn(&PackageItem) -> bool,
    ) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let (mut size, mut pages) = (0, 1);
        loop {
            for mut package in page.body.into_iter().filter(&is_asked_for) {
                size += size_of::<String>() + package.name.len();
                if size > NAMES_LIMIT {
                    return Err(call.endless());
                }
                package.name.make_ascii_lowercase();
                names.push(package.name);
            }
            match call.trusted(page.next)? {
                Some(_) if pages == PACKAGE_PAGES_LIMIT => return Err(call.endless()),
                Some(next) => page = self.get(call, next).await?,
                None => return Ok(names),
            }
            pages += 1;
        }
    }

    /// An account's packages, or what `path` names below them. Each part of a path is one segment, its slashes written as `%2F`.
    fn url(&self, account: Account<'_>, path: &[&str]) -> Url {
        let mut url = self.api.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty();
            match account {
                Account::Organization(name) => segments.extend(["orgs", name]),
                Account::User(name) => segments.extend(["users", name]),
                Account::Own => segments.push("user"),
            };
            segments.push("packages").extend(path);
        }
        url
    }

    async fn get<T: DeserializeOwned>(&self, call: &Call<'_>, url: Url) -> Result<Answer<T>> {
        let mut request = self
            .http
            .get(url.clone())
            .timeout(self.timeout)
            .header(ACCEPT, "application/vnd.github+json")
            .header("X-GitHub-Api-Version", "2022-11-28");
        if let Some(token) = call.token {
            self.known_secrets.remember(token.text.expose_secret());
            let mut bearer =
                HeaderValue::try_from(format!("Bearer {}", token.text.expose_secret())).map_err(
                    |_| Error::Internal("the token can't be written as a header".to_owned()),
                )?;
            bearer.set_sensitive(true);
            request = request.header(AUTHORIZATION, bearer);
        }
        let response = request
            .send()
            .await
            .map_err(|error| call.transient(broken(error)))?;
        let grant = Grant::read(response.headers());
        if let Some(token) = call.token {
            self.expiries.note(token, &grant, response.status());
        }
        if response.status() != StatusCode::OK {
            return Err(refusal::of(response, call, &self.known_secrets).await);
        }
        let next = next_page(response.headers(), &url);
        let body = limited_body(response, PAGE_LIMIT)
            .await
            .map_err(|detail| call.transient(detail))?;
        // What the parser says of a body quotes it.
        let body = serde_json::from_slice(&body)
            .map_err(|_| call.transient("the answer is not the JSON that was expected".into()))?;
        Ok(Answer { body, next, grant })
    }
}

impl PackageItem {
    fn is_of(&self, owner: &str) -> bool {
        let login = self.owner.as_ref().map(|owner| &owner.login);
        login.is_some_and(|login| login.eq_ignore_ascii_case(owner))
    }
}

impl From<VersionItem> for Version {
    fn from(item: VersionItem) -> Self {
        let container = item.metadata.and_then(|metadata| metadata.container);
        Version {
            tags: container
                .and_then(|container| container.tags)
                .unwrap_or_default(),
            created_at: item.created_at,
        }
    }
}

impl Call<'_> {
    fn error(&self, kind: Kind, detail: String, advice: &'static str) -> Error {
        Error::Api {
            operation: self.operation,
            subject: self.subject.to_owned(),
            kind,
            detail,
            advice,
            retry_after: None,
        }
    }

    fn transient(&self, detail: String) -> Error {
        self.error(Kind::Transient, detail, "")
    }

    /// Asking again would give the same link, so this is not [`Kind::Transient`].
    fn trusted(&self, next: Result<Option<Url>, UntrustedLink>) -> Result<Option<Url>> {
        next.map_err(|refusal| self.error(Kind::Invalid, refusal.to_string(), OTHER_HOST))
    }

    fn endless(&self) -> Error {
        let detail = format!("the list has no end after {PACKAGE_PAGES_LIMIT} pages");
        self.error(Kind::Invalid, detail, TOO_MANY)
    }
}

/// A token of an app or of an installation stands for no account, and one of another account owns other packages.
fn is_no_account(error: &Error) -> bool {
    matches!(error.kind(), Kind::Denied | Kind::NotFound)
}

/// At most `limit` bytes of a body.
async fn limited_body(mut response: Response, limit: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > limit {
            return Err(format!("the answer has more than {limit} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn broken(error: reqwest::Error) -> String {
    match error.is_timeout() {
        true => "the answer took too long".to_owned(),
        false => error.without_url().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use support::ghcr::Ghcr;
    use support::http::Fault;

    use super::*;

    /// Neither an answer that does not come nor one that stops half-way, a refusal included, holds a run to its deadline.
    #[tokio::test]
    async fn a_stalled_answer_is_transient() {
        let server = support::github::GitHub::start().await;
        server.put_organization("acme");
        server.put_version("acme", "api", "sha256:none", &[]);
        let token = Token {
            secret_id: "ghcr-token".to_owned(),
            text: Ghcr::TOKEN.into(),
        };
        let api = Url::parse(&server.server.url()).unwrap();
        let http = Client::builder().user_agent("tests").build().unwrap();
        let impatient = GitHub {
            timeout: Duration::from_millis(200),
            ..GitHub::new(http, api, KnownSecrets::default())
        };
        for is_limited in [false, true] {
            if is_limited {
                server.exhaust_rate_limit();
            }
            for fault in [Fault::Hold, Fault::StallBodyAfter(5)] {
                server.server.fault("GET", "/orgs/", 1, fault);
                let stalled = impatient.packages(Some(&token), "acme").await;
                let error = stalled.unwrap_err();
                assert_eq!(error.kind(), Kind::Transient, "{error}");
                assert!(error.to_string().contains("took too long"), "{error}");
                server.server.release();
            }
        }
    }
}
