//! GitHub's REST API for packages: the container packages of an owner, and the versions of a package; and for artifact attestations.
//! (GitHub documentation, "REST API endpoints for packages", "Using pagination in the REST API", "Rate limits for the REST API")

mod attestations;
mod grant;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Uri};
use serde_json::{Value, json};

use crate::ghcr::Ghcr;
use crate::http::{Reply, Server, json, lock, percent_decoded, query, reply};

/// Items on one page unless the client asks for another number, and the most that it can get.
const PAGE: usize = 30;
const PAGE_LIMIT: usize = 100;

/// `page` times `per_page` may not be more.
const REACH: usize = 10_000;

/// Requests per hour.
const RATE_LIMIT: usize = 5_000;

/// The account that the accepted tokens belong to until [`GitHub::set_token_owner`] names another. It has no packages.
const MACHINE_ACCOUNT: &str = "machine-account";

const API_VERSION: HeaderName = HeaderName::from_static("x-github-api-version");

const DOCUMENTATION: &str = "https://docs.github.com/rest";
const WEB_SITE: &str = "https://github.com";

/// The API at one host. Every request needs a token, but those for attestations of public repositories.
#[derive(Clone)]
pub struct GitHub {
    /// URL, request log and faults; the URL is the one for `GITHUB_API_URL`.
    pub server: Server,
    /// Another host, which has the bundles of attestations.
    pub storage: Server,
    state: Arc<Mutex<State>>,
}

struct State {
    url: String,
    owners: Vec<Owner>,
    accepted_tokens: BTreeSet<String>,
    grant: grant::Grant,
    attestations: attestations::Attestations,
    /// The login of the account that the tokens belong to.
    token_owner: String,
    requests_left: usize,
    exhausted: Option<Exhausted>,
    /// Requests still to refuse because of the secondary rate limit, and the `retry-after` of those answers.
    secondary_limit: (usize, Option<u32>),
    page_limit: usize,
    next_link: Option<String>,
    endless: bool,
    /// Versions put so far, which serve as a clock.
    pushes: usize,
}

/// A request that has an accepted token, or none where none is needed.
struct Admitted<'a> {
    method: &'a Method,
    uri: &'a Uri,
    has_token: bool,
    /// The version of the API that it asks for.
    version: Option<&'a str>,
}

/// The primary rate limit was reached.
struct Exhausted {
    status: u16,
    /// In seconds since 1970.
    reset: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Organization,
    User,
}

impl Kind {
    /// The first segment of paths with an owner's name, here and on the web site.
    fn by_name(self) -> &'static str {
        match self {
            Kind::Organization => "orgs",
            Kind::User => "users",
        }
    }

    /// The first segment of paths with an owner's number.
    fn by_number(self) -> &'static str {
        match self {
            Kind::Organization => "organizations",
            Kind::User => "user",
        }
    }
}

struct Owner {
    number: usize,
    login: String,
    kind: Kind,
    packages: Vec<Package>,
}

struct Package {
    number: usize,
    name: String,
    is_private: bool,
    /// In the order of their pushes.
    versions: Vec<Version>,
}

struct Version {
    digest: String,
    tags: Vec<String>,
    /// Numbers of the pushes that created and last changed it.
    created: usize,
    updated: usize,
    /// `created_at` in place of the time that belongs to the push.
    created_at: Option<Value>,
}

impl GitHub {
    /// Starts without owners of packages. Accepts [`Ghcr::TOKEN`], as the registry does.
    pub async fn start() -> GitHub {
        let state = Arc::new(Mutex::new(State {
            url: String::new(),
            owners: Vec::new(),
            accepted_tokens: BTreeSet::from([Ghcr::TOKEN.into()]),
            grant: grant::Grant::default(),
            attestations: attestations::Attestations::default(),
            token_owner: MACHINE_ACCOUNT.into(),
            requests_left: RATE_LIMIT,
            exhausted: None,
            secondary_limit: (0, None),
            page_limit: PAGE_LIMIT,
            next_link: None,
            endless: false,
            pushes: 0,
        }));
        let shared = state.clone();
        let server = Server::start(move |request| {
            let answer = lock(&shared).answer(request.method(), request.uri(), request.headers());
            async move { answer }
        })
        .await;
        let shared = state.clone();
        let storage = Server::start(move |request| {
            let answer = lock(&shared).attestations.stored(&request);
            async move { answer }
        })
        .await;
        lock(&state).url = server.url();
        lock(&state).attestations.set_storage(storage.url());
        let github = GitHub {
            server,
            storage,
            state,
        };
        github.put_user(MACHINE_ACCOUNT);
        github
    }

    /// Creates an organisation, or makes an existing owner one. Names of owners are compared without regard to case.
    pub fn put_organization(&self, name: &str) {
        self.put_owner(name, Kind::Organization);
    }

    /// Creates a personal account, or makes an existing owner one.
    pub fn put_user(&self, name: &str) {
        self.put_owner(name, Kind::User);
    }

    /// Makes the accepted tokens belong to this personal account, whose packages `/user/packages` then lists.
    pub fn set_token_owner(&self, login: &str) {
        let mut state = lock(&self.state);
        let owner = state.owner_named(login);
        assert!(
            owner.is_some_and(|owner| owner.kind == Kind::User),
            "there is no user {login:?}"
        );
        state.token_owner = login.to_owned();
    }

    /// Pushes a manifest with tags, which move here from other versions. The owner must exist; the package is created if
    /// necessary. A version that exists keeps its tags and its place.
    pub fn put_version(&self, owner: &str, name: &str, digest: &str, tags: &[&str]) {
        let mut state = lock(&self.state);
        state.pushes += 1;
        let now = state.pushes;
        let versions = &mut state.package(owner, name).versions;
        for version in versions.iter_mut() {
            version.tags.retain(|tag| !tags.contains(&tag.as_str()));
        }
        let position = versions.iter().position(|version| version.digest == digest);
        let position = position.unwrap_or_else(|| {
            versions.push(Version {
                digest: digest.to_owned(),
                tags: Vec::new(),
                created: now,
                updated: now,
                created_at: None,
            });
            versions.len() - 1
        });
        let version = &mut versions[position];
        version.tags.extend(tags.iter().map(|tag| tag.to_string()));
        version.updated = now;
    }

    /// Deletes a package.
    pub fn delete_package(&self, owner: &str, name: &str) {
        let mut state = lock(&self.state);
        let owner = state.owner_named(owner);
        let owner = owner.unwrap_or_else(|| panic!("there is no such owner of {name:?}"));
        owner.packages.retain(|package| package.name != name);
    }

    /// Sets when a version was created, as the list gives it: nothing, or a text such as [`ago`] gives.
    pub fn set_created_at(&self, owner: &str, name: &str, digest: &str, created_at: Option<&str>) {
        let mut state = lock(&self.state);
        let mut versions = state.package(owner, name).versions.iter_mut();
        let version = versions.find(|version| version.digest == digest);
        let version = version.unwrap_or_else(|| panic!("{digest} was not put"));
        version.created_at = Some(created_at.into());
    }

    /// Whether a package is private; they are public at first. An accepted token may see all packages of an organisation. The
    /// private packages of a personal account are found only below `/user/packages`, by a token of that account.
    pub fn set_private(&self, owner: &str, name: &str, private: bool) {
        lock(&self.state).package(owner, name).is_private = private;
    }

    /// Accepts these tokens from now on, and no others.
    pub fn accept_tokens(&self, tokens: &[&str]) {
        lock(&self.state).accepted_tokens = tokens.iter().map(|token| token.to_string()).collect();
    }

    /// From now on, and for an hour, the token has no requests left: 403.
    pub fn exhaust_rate_limit(&self) {
        let in_an_hour = SystemTime::now() + Duration::from_secs(60 * 60);
        self.exhaust_rate_limit_until(in_an_hour, 403);
    }

    /// From now on the token has no requests left. Each is answered with `status`, which is 403 or 429, with
    /// `x-ratelimit-remaining: 0`, and with `reset` in whole seconds as `x-ratelimit-reset`. Then it has all its requests again.
    pub fn exhaust_rate_limit_until(&self, reset: SystemTime, status: u16) {
        let reset = seconds(reset);
        lock(&self.state).exhausted = Some(Exhausted { status, reset });
    }

    /// Refuses the next `times` requests because of the secondary rate limit: 403 with GitHub's message, without the headers of the
    /// primary limit, and with `retry-after` in seconds if there is one.
    pub fn limit_secondarily(&self, times: usize, retry_after: Option<u32>) {
        lock(&self.state).secondary_limit = (times, retry_after);
    }

    /// Gives at most `limit` items per page, even to a client that asks for more.
    pub fn set_page_limit(&self, limit: usize) {
        lock(&self.state).page_limit = limit;
    }

    /// Makes every page of every list link to `url` as the next one. With the URL of a page the list goes round in circles.
    pub fn set_next_link(&self, url: &str) {
        lock(&self.state).next_link = Some(url.into());
    }

    /// Whether lists never end: after the real items come made-up ones, packages without versions or versions without tags, each
    /// with another name, and every page links to a next one.
    pub fn set_endless(&self, endless: bool) {
        lock(&self.state).endless = endless;
    }

    fn put_owner(&self, login: &str, kind: Kind) {
        let mut state = lock(&self.state);
        if let Some(owner) = state.owner_named(login) {
            owner.kind = kind;
            return;
        }
        let number = 21_031_067 + state.owners.len();
        state.owners.push(Owner {
            number,
            login: login.to_owned(),
            kind,
            packages: Vec::new(),
        });
    }
}

impl State {
    fn owner_named(&mut self, login: &str) -> Option<&mut Owner> {
        self.owners
            .iter_mut()
            .find(|owner| owner.login.eq_ignore_ascii_case(login))
    }

    /// The package, created if it does not exist.
    fn package(&mut self, owner: &str, name: &str) -> &mut Package {
        let owner = self
            .owner_named(owner)
            .unwrap_or_else(|| panic!("there is no owner {owner:?}"));
        let known = owner
            .packages
            .iter()
            .position(|package| package.name == name);
        let position = known.unwrap_or_else(|| {
            owner.packages.push(Package {
                number: 10_696 + owner.packages.len(),
                name: name.to_owned(),
                is_private: false,
                versions: Vec::new(),
            });
            owner.packages.len() - 1
        });
        &mut owner.packages[position]
    }

    fn answer(&mut self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Reply {
        let header = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        if header(USER_AGENT).is_none_or(str::is_empty) {
            let message = "Request forbidden by administrative rules. Please make sure your request has a User-Agent header.\n";
            return reply(403, &[("content-type", "text/html".into())], message);
        }
        let is_json = |range: &str| {
            let media_type = range.split(';').next().unwrap_or_default().trim();
            matches!(media_type, "application/json" | "*/*")
                || media_type.starts_with("application/vnd.github") && media_type.ends_with("json")
        };
        if !header(ACCEPT).is_some_and(|value| value.split(',').any(is_json)) {
            return error(
                415,
                "Unsupported 'Accept' header. Must accept 'application/json'.",
            );
        }
        let has_token = match header(AUTHORIZATION) {
            Some(authorization) => {
                let token = authorization.strip_prefix("Bearer ").unwrap_or_default();
                if !self.accepted_tokens.contains(token) {
                    return error(401, "Bad credentials");
                }
                true
            }
            None if attestations::is_of_attestations(uri.path()) => false,
            None => return error(401, "Requires authentication"),
        };
        let mut answer = self.admitted(&Admitted {
            method,
            uri,
            has_token,
            version: header(API_VERSION),
        });
        if has_token {
            self.grant.tell(&mut answer);
        }
        answer
    }

    /// The answer to a request that is let in.
    fn admitted(&mut self, request: &Admitted) -> Reply {
        if let (times @ 1.., retry_after) = self.secondary_limit {
            self.secondary_limit = (times - 1, retry_after);
            return secondary_refusal(retry_after);
        }
        let now = seconds(SystemTime::now());
        if self.exhausted.as_ref().is_some_and(|it| it.reset <= now) {
            self.exhausted = None;
            self.requests_left = RATE_LIMIT;
        }
        let in_an_hour = Exhausted {
            status: 403,
            reset: now + 3600,
        };
        if request.uri.path() == "/rate_limit" {
            let exhausted = self.exhausted.as_ref();
            return grant::rate_limit(self.requests_left, exhausted, in_an_hour.reset);
        }
        if self.requests_left == 0 {
            self.exhausted.get_or_insert(in_an_hour);
        }
        if let Some(Exhausted { status, reset }) = self.exhausted {
            let answer = error(status, "API rate limit exceeded for user ID 21031067.");
            return with_rate_limit(answer, 0, reset);
        }
        self.requests_left -= 1;
        let answer = match attestations::is_of_attestations(request.uri.path()) {
            true => self.list_attestations(request),
            false => self.resource(request.method, request.uri),
        };
        with_rate_limit(answer, self.requests_left, now + 3600)
    }

    fn resource(&self, method: &Method, uri: &Uri) -> Reply {
        // Segments are split before they are decoded, so that `%2F` does not separate them.
        let segments: Vec<_> = uri.path().split('/').skip(1).map(percent_decoded).collect();
        let segments: Vec<_> = segments.iter().map(String::as_str).collect();
        let (owner, is_own, path) = match segments.as_slice() {
            ["user", path @ ..] if matches!(path, [] | ["packages", ..]) => {
                (self.owner("users", &self.token_owner), true, path)
            }
            [kind, owner, path @ ..] => (self.owner(kind, owner), false, path),
            _ => (None, false, &[][..]),
        };
        let Some(owner) = owner.filter(|_| method == Method::GET) else {
            return error(404, "Not Found");
        };
        let visible: Vec<_> = owner
            .packages
            .iter()
            .filter(|package| is_own || owner.kind == Kind::Organization || !package.is_private)
            .collect();
        // Links between pages name the owner by number, so that a client can't guess them.
        let link_path = match uri.path().splitn(4, '/').nth(3) {
            Some(rest) if !is_own => {
                format!("/{}/{}/{rest}", owner.kind.by_number(), owner.number)
            }
            _ => uri.path().to_owned(),
        };
        let parameters = query(&uri.to_string());
        match path {
            [] if is_own => json(200, &owner.item()),
            ["packages"] => {
                if parameters.get("package_type").map(String::as_str) != Some("container") {
                    return error(422, "Invalid request.\n\n\"package_type\" wasn't supplied.");
                }
                let item = |index: usize| match visible.get(index) {
                    Some(package) => self.package_item(owner, package),
                    None => self.package_item(owner, &Package::made_up(index)),
                };
                self.page(uri, &link_path, visible.len(), item)
            }
            ["packages", "container", name, "versions"] => {
                let package = visible.into_iter().find(|package| package.name == *name);
                let Some(package) = package else {
                    return error(404, "Package not found.");
                };
                let newest_first: Vec<_> = package.versions.iter().rev().collect();
                let item = |index: usize| match newest_first.get(index) {
                    Some(version) => self.version_item(owner, package, version),
                    None => self.version_item(owner, package, &Version::made_up(index)),
                };
                self.page(uri, &link_path, newest_first.len(), item)
            }
            _ => error(404, "Not Found"),
        }
    }

    /// Finds an owner by kind and name, or by kind and number as in the links between pages.
    fn owner(&self, kind: &str, id: &str) -> Option<&Owner> {
        let is_named = |owner: &Owner| {
            kind == owner.kind.by_name() && owner.login.eq_ignore_ascii_case(id)
                || kind == owner.kind.by_number() && owner.number.to_string() == id
        };
        self.owners.iter().find(|owner| is_named(owner))
    }

    /// One page of `count` items, with links to the pages at `link_path`.
    fn page(
        &self,
        uri: &Uri,
        link_path: &str,
        count: usize,
        item: impl Fn(usize) -> Value,
    ) -> Reply {
        let parameters = query(&uri.to_string());
        let number = |name: &str| {
            let value = parameters.get(name)?.parse::<usize>().ok();
            value.filter(|number| *number > 0)
        };
        let size = number("per_page").unwrap_or(PAGE).min(self.page_limit);
        let current = number("page").unwrap_or(1);
        let count = if self.endless { usize::MAX } else { count };
        if size.saturating_mul(current) > REACH && !self.endless {
            let message =
                "The value of `per_page` multiplied by `page` cannot be greater than 10000.";
            return error(400, message);
        }
        let last = count.div_ceil(size).max(1);
        let page: Vec<_> = (size * (current - 1)..count).take(size).map(item).collect();
        let mut answer = json(200, &json!(page));

        let resource = format!("{}{link_path}", self.url);
        let mut kept: Vec<_> = parameters
            .iter()
            .filter(|(name, _)| *name != "page")
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        kept.push("page=".to_owned());
        let link = |page: usize, relation: &str| {
            format!(r#"<{resource}?{}{page}>; rel="{relation}""#, kept.join("&"))
        };
        let mut links = Vec::new();
        if current > 1 {
            links.push(link(current - 1, "prev"));
        }
        if let Some(url) = &self.next_link {
            links.push(format!(r#"<{url}>; rel="next""#));
        } else if current < last {
            links.push(link(current + 1, "next"));
        }
        if current < last && !self.endless {
            links.push(link(last, "last"));
        }
        if current > 1 {
            links.push(link(1, "first"));
        }
        if !links.is_empty() {
            let value = links.join(", ").parse().expect("a valid header");
            answer.headers_mut().insert("link", value);
        }
        answer
    }

    fn package_item(&self, owner: &Owner, package: &Package) -> Value {
        let oldest = package
            .versions
            .first()
            .map_or(0, |version| version.created);
        let newest = package.versions.iter().map(|version| version.updated).max();
        json!({
            "id": package.number,
            "name": package.name,
            "package_type": "container",
            "owner": owner.item(),
            "version_count": package.versions.len(),
            "visibility": if package.is_private { "private" } else { "public" },
            "url": package_path(&self.url, owner, package),
            "created_at": time(oldest),
            "updated_at": time(newest.unwrap_or(0)),
            "html_url": package_path(WEB_SITE, owner, package),
        })
    }

    fn version_item(&self, owner: &Owner, package: &Package, version: &Version) -> Value {
        let number = 57_755_790 + version.created;
        let web_page = package_path(WEB_SITE, owner, package);
        json!({
            "id": number,
            "name": version.digest,
            "url": format!("{}/versions/{number}", package_path(&self.url, owner, package)),
            "package_html_url": web_page,
            "created_at": version.created_at.clone().unwrap_or_else(|| time(version.created).into()),
            "updated_at": time(version.updated),
            "html_url": format!("{web_page}/{number}"),
            "metadata": {"package_type": "container", "container": {"tags": version.tags}},
        })
    }
}

impl Owner {
    fn item(&self) -> Value {
        let kind = match self.kind {
            Kind::Organization => "Organization",
            Kind::User => "User",
        };
        json!({"login": self.login, "id": self.number, "type": kind})
    }
}

impl Package {
    /// An item of an endless list.
    fn made_up(index: usize) -> Package {
        Package {
            number: 1_000_000 + index,
            name: format!("endless-{index}"),
            is_private: false,
            versions: Vec::new(),
        }
    }
}

impl Version {
    /// An item of an endless list.
    fn made_up(index: usize) -> Version {
        Version {
            digest: format!("sha256:{index:064x}"),
            tags: Vec::new(),
            created: index,
            updated: index,
            created_at: None,
        }
    }
}

fn with_rate_limit(mut answer: Reply, requests_left: usize, reset: u64) -> Reply {
    for (name, value) in [
        ("x-ratelimit-limit", RATE_LIMIT as u64),
        ("x-ratelimit-remaining", requests_left as u64),
        ("x-ratelimit-used", (RATE_LIMIT - requests_left) as u64),
        ("x-ratelimit-reset", reset),
    ] {
        answer.headers_mut().insert(name, value.into());
    }
    answer
}

fn secondary_refusal(retry_after: Option<u32>) -> Reply {
    let message =
        "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.";
    let mut answer = error(403, message);
    if let Some(seconds) = retry_after {
        answer.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    answer
}

/// Whole seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.expect("a time after 1970").as_secs()
}

/// The path of a package below the API or the web site at `base`.
fn package_path(base: &str, owner: &Owner, package: &Package) -> String {
    let (kind, login) = (owner.kind.by_name(), &owner.login);
    let name = package.name.replace('/', "%2F");
    format!("{base}/{kind}/{login}/packages/container/{name}")
}

/// Every push takes a second, so that times have the order of pushes.
fn time(pushes: usize) -> String {
    let (hours, minutes, seconds) = (pushes / 3600 % 24, pushes / 60 % 60, pushes % 60);
    format!("2026-11-20T{hours:02}:{minutes:02}:{seconds:02}Z")
}

/// The time so long ago, as GitHub writes it.
pub fn ago(duration: Duration) -> String {
    iso_8601(SystemTime::now() - duration)
}

fn iso_8601(time: SystemTime) -> String {
    let seconds = seconds(time);
    let (mut days, time) = (seconds / 86_400, seconds % 86_400);
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= months[month] {
        days -= months[month];
        month += 1;
    }
    let (month, day) = (month + 1, days + 1);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn error(status: u16, message: &str) -> Reply {
    let body = json!({ "message": message, "documentation_url": DOCUMENTATION, "status": status.to_string() });
    json(status, &body)
}
