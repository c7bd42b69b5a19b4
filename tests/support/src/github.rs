//! GitHub's REST API for packages: what container packages an owner has, and which versions a package has.
//! (GitHub documentation, "REST API endpoints for packages", "Using pagination in the REST API", "Rate limits for the REST API")

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::header::{ACCEPT, AUTHORIZATION, HeaderMap, USER_AGENT};
use hyper::{Method, Uri};
use serde_json::{Value, json};

use crate::ghcr::Ghcr;
use crate::http::{Reply, Server, json, lock, percent_decoded, query, reply};

/// Items of one page unless the client asks for another number, and the most it can get.
const PAGE: usize = 30;
const PAGE_LIMIT: usize = 100;

/// `page` times `per_page` may not be more.
const REACH: usize = 10_000;

/// Requests of an hour.
const RATE_LIMIT: usize = 5_000;

const DOCUMENTATION: &str = "https://docs.github.com/rest";
const WEB_SITE: &str = "https://github.com";

/// The API at one host. Everything needs a token.
#[derive(Clone)]
pub struct GitHub {
    /// URL, request log and faults; the URL is the one for `GITHUB_API_URL`.
    pub server: Server,
    state: Arc<Mutex<State>>,
}

struct State {
    url: String,
    owners: Vec<Owner>,
    accepted_tokens: BTreeSet<String>,
    requests_left: usize,
    /// Versions put so far: their clock.
    pushes: usize,
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
    hidden: bool,
    /// In the order of their pushes.
    versions: Vec<Version>,
}

struct Version {
    digest: String,
    tags: Vec<String>,
    /// Numbers of pushes.
    created: usize,
    updated: usize,
}

impl GitHub {
    /// No owners to begin with; accepts [`Ghcr::TOKEN`], as the registry does.
    pub async fn start() -> GitHub {
        let state = Arc::new(Mutex::new(State {
            url: String::new(),
            owners: Vec::new(),
            accepted_tokens: BTreeSet::from([Ghcr::TOKEN.into()]),
            requests_left: RATE_LIMIT,
            pushes: 0,
        }));
        let shared = state.clone();
        let server = Server::start(move |request| {
            let answer = lock(&shared).answer(request.method(), request.uri(), request.headers());
            async move { answer }
        })
        .await;
        lock(&state).url = server.url();
        GitHub { server, state }
    }

    /// Creates an organisation, or makes one of an owner that is there. Names of owners are found in either case.
    pub fn put_organization(&self, name: &str) {
        self.put_owner(name, Kind::Organization);
    }

    /// Creates a personal account, or makes one of an owner that is there.
    pub fn put_user(&self, name: &str) {
        self.put_owner(name, Kind::User);
    }

    /// Creates a container package without versions, unless it is there. The owner must be.
    pub fn put_package(&self, owner: &str, name: &str) {
        lock(&self.state).package(owner, name);
    }

    /// Pushes a manifest with tags, which move away from other versions; the package is created if need be.
    /// A version that is there keeps its tags and its place.
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
            });
            versions.len() - 1
        });
        let version = &mut versions[position];
        version.tags.extend(tags.iter().map(|tag| tag.to_string()));
        version.updated = now;
    }

    /// Deletes a version with its tags.
    pub fn delete_version(&self, owner: &str, name: &str, digest: &str) {
        let mut state = lock(&self.state);
        let versions = &mut state.package(owner, name).versions;
        versions.retain(|version| version.digest != digest);
    }

    /// Whether the package is one that no accepted token may see: left out of lists, and 404.
    pub fn set_hidden(&self, owner: &str, name: &str, hidden: bool) {
        lock(&self.state).package(owner, name).hidden = hidden;
    }

    /// The tokens that are accepted from now on.
    pub fn accept_tokens(&self, tokens: &[&str]) {
        lock(&self.state).accepted_tokens = tokens.iter().map(|token| token.to_string()).collect();
    }

    /// From now on the token has no requests left.
    pub fn exhaust_rate_limit(&self) {
        lock(&self.state).requests_left = 0;
    }

    /// The token has all its requests again, as in the next hour.
    pub fn renew_rate_limit(&self) {
        lock(&self.state).requests_left = RATE_LIMIT;
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

    /// The package, created if need be.
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
                hidden: false,
                versions: Vec::new(),
            });
            owner.packages.len() - 1
        });
        &mut owner.packages[position]
    }

    fn answer(&mut self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Reply {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
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
        let Some(authorization) = header(AUTHORIZATION) else {
            return error(401, "Requires authentication");
        };
        let token = authorization.strip_prefix("Bearer ").unwrap_or_default();
        if !self.accepted_tokens.contains(token) {
            return error(401, "Bad credentials");
        }
        let answer = match self.requests_left.checked_sub(1) {
            Some(left) => {
                self.requests_left = left;
                self.resource(method, uri)
            }
            None => error(403, "API rate limit exceeded for user ID 21031067."),
        };
        self.with_rate_limit(answer)
    }

    fn with_rate_limit(&self, mut answer: Reply) -> Reply {
        let renewal = SystemTime::now() + Duration::from_secs(60 * 60);
        let renewal = renewal
            .duration_since(UNIX_EPOCH)
            .expect("a time after 1970");
        for (name, value) in [
            ("x-ratelimit-limit", RATE_LIMIT as u64),
            ("x-ratelimit-remaining", self.requests_left as u64),
            ("x-ratelimit-used", (RATE_LIMIT - self.requests_left) as u64),
            ("x-ratelimit-reset", renewal.as_secs()),
        ] {
            answer.headers_mut().insert(name, value.into());
        }
        answer
    }

    fn resource(&self, method: &Method, uri: &Uri) -> Reply {
        // Segments are decoded after they are told apart, so that `%2F` is no separator.
        let segments: Vec<_> = uri.path().split('/').skip(1).map(percent_decoded).collect();
        let segments: Vec<_> = segments.iter().map(String::as_str).collect();
        let not_found = || error(404, "Not Found");
        let [kind, owner, "packages", path @ ..] = segments.as_slice() else {
            return not_found();
        };
        let Some(owner) = self.owner(kind, owner).filter(|_| method == Method::GET) else {
            return not_found();
        };
        let mut visible = owner.packages.iter().filter(|package| !package.hidden);
        let parameters = query(&uri.to_string());
        let items: Vec<Value> = match path {
            [] if parameters.get("package_type").map(String::as_str) == Some("container") => {
                visible
                    .map(|package| self.package_item(owner, package))
                    .collect()
            }
            [] => return error(422, "Invalid request.\n\n\"package_type\" wasn't supplied."),
            ["container", name, "versions"] => {
                let Some(package) = visible.find(|package| package.name == *name) else {
                    return not_found();
                };
                let newest_first = package.versions.iter().rev();
                newest_first
                    .map(|version| self.version_item(owner, package, version))
                    .collect()
            }
            _ => return not_found(),
        };
        self.page(uri, owner, &items)
    }

    /// By kind and name, or by kind and number as the links between pages have it.
    fn owner(&self, kind: &str, id: &str) -> Option<&Owner> {
        let is_named = |owner: &Owner| {
            kind == owner.kind.by_name() && owner.login.eq_ignore_ascii_case(id)
                || kind == owner.kind.by_number() && owner.number.to_string() == id
        };
        self.owners.iter().find(|owner| is_named(owner))
    }

    /// One page of `items`. The links to others name the owner by number, so they can't be guessed.
    fn page(&self, uri: &Uri, owner: &Owner, items: &[Value]) -> Reply {
        let parameters = query(&uri.to_string());
        let number = |name: &str| {
            let value = parameters.get(name)?.parse::<usize>().ok();
            value.filter(|number| *number > 0)
        };
        let size = number("per_page").unwrap_or(PAGE).min(PAGE_LIMIT);
        let current = number("page").unwrap_or(1);
        if size.saturating_mul(current) > REACH {
            let message =
                "The value of `per_page` multiplied by `page` cannot be greater than 10000.";
            return error(400, message);
        }
        let last = items.len().div_ceil(size).max(1);
        let page: Vec<_> = items.iter().skip(size * (current - 1)).take(size).collect();
        let mut answer = json(200, &json!(page));

        let kind = owner.kind.by_number();
        let rest = uri.path().split('/').skip(3).collect::<Vec<_>>().join("/");
        let resource = format!("{}/{kind}/{}/{rest}", self.url, owner.number);
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
        if current < last {
            links.extend([link(current + 1, "next"), link(last, "last")]);
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
            "owner": {
                "login": owner.login,
                "id": owner.number,
                "type": if owner.kind == Kind::User { "User" } else { "Organization" },
            },
            "version_count": package.versions.len(),
            "visibility": "private",
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
            "created_at": time(version.created),
            "updated_at": time(version.updated),
            "html_url": format!("{web_page}/{number}"),
            "metadata": {"package_type": "container", "container": {"tags": version.tags}},
        })
    }
}

/// Below the API or the web site, at `base`.
fn package_path(base: &str, owner: &Owner, package: &Package) -> String {
    let (kind, login) = (owner.kind.by_name(), &owner.login);
    let name = package.name.replace('/', "%2F");
    format!("{base}/{kind}/{login}/packages/container/{name}")
}

/// A push takes a second, so that times have the order of pushes.
fn time(pushes: usize) -> String {
    let (hours, minutes, seconds) = (pushes / 3600 % 24, pushes / 60 % 60, pushes % 60);
    format!("2026-11-20T{hours:02}:{minutes:02}:{seconds:02}Z")
}

fn error(status: u16, message: &str) -> Reply {
    let body = json!({ "message": message, "documentation_url": DOCUMENTATION, "status": status.to_string() });
    json(status, &body)
}
