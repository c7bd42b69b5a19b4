//! GitHub's REST API for packages: its rate limits, its lists, its odd answers, and what the function makes of them.
//!
//! What an answer means is tested at the adapter, with a real request to the local API; what follows from it, with whole
//! invocations.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ghcr_to_ecr::error::{Error, Kind, Result};
use ghcr_to_ecr::github::{self, Version};
use ghcr_to_ecr::manifest::Digest;
use ghcr_to_ecr::redaction::KnownSecrets;
use ghcr_to_ecr::token::Token;
use serde_json::{Value, json};
use support::ghcr::Ghcr;
use support::github::GitHub;
use support::http::Fault;
use support::webhook;
use url::Url;

use crate::scenario::{REPOSITORY, Scenario, http_reply, small_image};

/// GitHub's words for the secondary limit, which say nothing of how long it lasts.
const SECONDARY_LIMIT: &str = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again. \
     For more on scraping GitHub and how it may affect your rights, please review our Terms of Service \
     (https://docs.github.com/en/site-policy/github-terms/github-terms-of-service)";

/// The local API, which knows the organization `acme` and the user `octocat`, and the adapter that asks it.
struct Api {
    server: GitHub,
    adapter: github::GitHub,
    token: Option<Token>,
}

impl Api {
    async fn start() -> Api {
        let server = GitHub::start().await;
        server.put_organization("acme");
        server.put_user("octocat");
        let http = reqwest::Client::builder()
            .user_agent("tests")
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("an HTTP client");
        let url = Url::parse(&server.server.url()).expect("the URL of the server");
        Api {
            server,
            adapter: github::GitHub::new(http, url, KnownSecrets::default()),
            token: Some(Token {
                secret_id: "ghcr-token".to_owned(),
                text: Ghcr::TOKEN.into(),
            }),
        }
    }

    /// Plays an answer on the next `times` requests with a path that contains `path_part`.
    fn answer(&self, path_part: &str, times: usize, answer: &Answer) {
        let server = &self.server.server;
        server.fault("GET", path_part, times, answer.fault());
    }

    async fn packages(&self, owner: &str) -> Result<Vec<String>> {
        self.adapter.packages(self.token.as_ref(), owner).await
    }

    async fn version_of(&self, package: &str, digest: &str) -> Result<Option<Version>> {
        let digest = Digest::parse(digest).expect("a digest");
        let token = self.token.as_ref();
        self.adapter.version_of(token, package, &digest).await
    }

    fn requests(&self, path_part: &str) -> usize {
        self.server.server.count("GET", path_part)
    }
}

#[derive(Clone)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    fn new(status: u16, body: impl ToString) -> Answer {
        Answer {
            status,
            headers: Vec::new(),
            body: body.to_string(),
        }
    }

    fn with(mut self, name: &str, value: impl ToString) -> Answer {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    fn fault(&self) -> Fault {
        Fault::Status {
            status: self.status,
            headers: self.headers.clone(),
            body: self.body.clone(),
        }
    }
}

/// A refusal in GitHub's own form.
fn refusal(status: u16, message: &str) -> Answer {
    Answer::new(
        status,
        json!({"message": message, "status": status.to_string()}),
    )
}

/// A digest of its own for each number.
fn digest(number: usize) -> String {
    format!("sha256:{number:064x}")
}

fn kind_and_text(result: Result<impl std::fmt::Debug>) -> (Kind, String) {
    let error = result.expect_err("an error");
    (error.kind(), error.to_string())
}

#[tokio::test]
async fn a_rate_limit_is_transient_and_says_how_long_it_lasts() {
    let api = Api::start().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let in_an_hour = now.expect("a time after 1970").as_secs() + 3600;
    let primary = refusal(403, "API rate limit exceeded for user ID 21031067.")
        .with("x-ratelimit-remaining", 0)
        .with("x-ratelimit-reset", in_an_hour);
    let secondary = refusal(403, SECONDARY_LIMIT);
    let cases = [
        ("Retry-After", secondary.clone().with("retry-after", 7), 7),
        (
            "Retry-After of a 429",
            refusal(429, "").with("retry-after", 7),
            7,
        ),
        ("the primary limit", primary, 3600),
        ("the secondary limit alone", secondary.clone(), 60),
        (
            "the secondary limit with some of the primary one left",
            secondary.with("x-ratelimit-remaining", 4000),
            60,
        ),
        (
            "its former name",
            refusal(403, "You have triggered an abuse detection mechanism."),
            60,
        ),
        ("a 429 alone", Answer::new(429, ""), 60),
    ];
    for (name, answer, seconds) in cases {
        api.answer("/orgs/", 1, &answer);
        let error = api.packages("acme").await.expect_err(name);
        assert_eq!(error.kind(), Kind::Transient, "{name}: {error}");
        let wait = error.retry_after().expect(name).as_secs();
        assert!(
            (seconds - 2..=seconds + 1).contains(&wait),
            "{name}: {wait}"
        );
        let text = error.to_string();
        assert!(
            text.contains("rate limit is reached") && !text.contains("expired"),
            "{name}: {text}"
        );
    }
}

#[tokio::test]
async fn a_rate_limit_of_a_second_is_waited_for() {
    let scenario = Scenario::start().await;
    scenario.push(REPOSITORY, "1", &small_image());
    let limit = refusal(403, SECONDARY_LIMIT).with("retry-after", 1);
    scenario
        .github
        .server
        .fault("GET", "/orgs/", 1, limit.fault());
    let begin = Instant::now();
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    assert!(begin.elapsed() >= Duration::from_secs(1));
    assert_eq!(
        scenario.github.server.count("GET", "/orgs/acme/packages"),
        2
    );
}

#[tokio::test]
async fn an_exhausted_rate_limit_is_not_asked_again_before_its_reset() {
    let scenario = Scenario::start().await;
    scenario.push(REPOSITORY, "1", &small_image());
    scenario.github.exhaust_rate_limit();
    let (kind, message) = scenario.invoke(&webhook::scheduler()).await.error();
    assert_eq!(kind, "Transient", "{message}");
    assert!(message.contains("rate limit is reached"), "{message}");
    assert_eq!(scenario.github.server.count("*", ""), 1);
}

/// The image is copied, and the token is not blamed for what is GitHub's limit.
#[tokio::test]
async fn a_secondary_rate_limit_costs_a_webhook_no_more_than_a_warning() {
    let scenario = Scenario::start().await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let limit = refusal(403, SECONDARY_LIMIT);
    scenario
        .github
        .server
        .fault("GET", "/versions", 1, limit.fault());
    let body = webhook::package_event("acme", "api", "1", &image.top);
    let event = webhook::api_gateway_v2("package", &body, support::deployment::WEBHOOK_SECRET);
    let (status, report) = http_reply(&scenario, &event).await;
    assert_eq!((status, &report["outcome"]), (200, &json!("copied")));
    let warning = report["warnings"][0].as_str().unwrap_or_default();
    assert!(
        warning.contains("rate limit is reached") && !warning.contains("expired"),
        "{warning}"
    );
    assert_eq!(scenario.github.server.count("*", ""), 1);
}

#[tokio::test]
async fn a_refusal_says_what_to_do() {
    let api = Api::start().await;
    let sso = "required; url=https://127.0.0.1/orgs/acme/sso?authorization_request=secret";
    let elsewhere = "required; url=https://evil.example/orgs/acme/sso?authorization_request=secret";
    let page = "\n<!DOCTYPE html><title>Unicorn! secret</title>";
    let cases = [
        (
            refusal(401, "Bad credentials"),
            Kind::Denied,
            "401 Unauthorized: Bad credentials; the GHCR token is expired, revoked, lacks read:packages",
        ),
        (
            refusal(403, "You need at least read:packages scope."),
            Kind::Denied,
            "lacks read:packages",
        ),
        (
            Answer::new(403, ""),
            Kind::Denied,
            "403 Forbidden; the GHCR token is expired",
        ),
        (
            refusal(403, "SAML.").with("x-github-sso", sso),
            Kind::Denied,
            "SAML., SSO at 127.0.0.1; authorise the GHCR token",
        ),
        (
            refusal(403, "SAML.").with("x-github-sso", elsewhere),
            Kind::Denied,
            "SAML.; authorise the GHCR token",
        ),
        (
            refusal(404, "Not Found").with("x-github-sso", sso),
            Kind::Denied,
            "authorise the GHCR token",
        ),
        (
            refusal(401, &format!("secret {} is bad", Ghcr::TOKEN)),
            Kind::Denied,
            "401 Unauthorized; the GHCR token",
        ),
        (
            refusal(403, "See https://x.example/?secret."),
            Kind::Denied,
            "403 Forbidden; the GHCR token",
        ),
        (
            Answer::new(403, page),
            Kind::Transient,
            "403 Forbidden; check GITHUB_API_URL",
        ),
        (
            Answer::new(404, page),
            Kind::Transient,
            "404 Not Found; check GITHUB_API_URL",
        ),
        (Answer::new(502, page), Kind::Transient, "502 Bad Gateway"),
        (refusal(500, "Server Error"), Kind::Transient, "500"),
        (Answer::new(408, ""), Kind::Transient, "408"),
        (
            Answer::new(403, "x".repeat(70_000)),
            Kind::Transient,
            "403 Forbidden, and the answer has more than",
        ),
        (
            refusal(301, "Moved Permanently"),
            Kind::Invalid,
            "has a new name",
        ),
        (
            refusal(422, "Invalid request."),
            Kind::Invalid,
            "check GITHUB_API_URL",
        ),
    ];
    for (answer, kind, expected) in cases {
        api.answer("/orgs/", 1, &answer);
        let (found, text) = kind_and_text(api.packages("acme").await);
        assert_eq!(found, kind, "{text}");
        assert!(text.starts_with("list packages acme: "), "{text}");
        assert!(text.contains(expected), "{text}");
        for secret in ["secret", "evil", Ghcr::TOKEN] {
            assert!(!text.contains(secret), "{text}");
        }
        assert_eq!(api.requests("/users/"), 0, "{text}");
    }
}

#[tokio::test]
async fn without_a_token_a_refusal_asks_for_one() {
    let mut api = Api::start().await;
    api.token = None;
    let (kind, text) = kind_and_text(api.packages("acme").await);
    assert_eq!(kind, Kind::Denied);
    assert!(
        text.contains("set GHCR_TOKEN_SECRET_ID") && !text.contains("expired"),
        "{text}"
    );
}

#[tokio::test]
async fn an_answer_that_can_t_be_read_is_transient_and_never_quoted() {
    let api = Api::start().await;
    api.server.put_version("acme", "api", &digest(1), &["1"]);
    let item = json!({"name": "secret"});
    let answers = [
        Answer::new(200, "<html>secret</html>"),
        Answer::new(200, ""),
        Answer::new(200, json!({"message": "secret"})),
        Answer::new(200, json!([{"name": {"secret": 1}}])),
        Answer::new(200, json!([{"name": 7, "secret": 1}])),
        Answer::new(200, r#"[{"name":"secret"},"#),
        Answer::new(200, json!(vec![item; 300_000])),
    ];
    for answer in answers {
        api.answer("/orgs/", 2, &answer);
        let results = [
            kind_and_text(api.packages("acme").await),
            kind_and_text(api.version_of("acme/api", &digest(1)).await),
        ];
        for (kind, text) in results {
            assert_eq!(kind, Kind::Transient, "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
        // A version's name is its digest, so some of the answers are lists of versions too.
        api.server.server.clear_faults();
    }
    let cut = Fault::DropBodyAfter(10);
    api.server.server.fault("GET", "/orgs/", 1, cut);
    assert_eq!(kind_and_text(api.packages("acme").await).0, Kind::Transient);
}

#[tokio::test]
async fn a_list_is_read_to_its_last_page() {
    let api = Api::start().await;
    let names: Vec<String> = (0..250)
        .map(|number| format!("team/api{number:03}"))
        .collect();
    for name in &names {
        api.server.put_version("acme", name, "sha256:none", &[]);
    }
    assert_eq!(api.packages("acme").await.expect("a list"), names);
    assert_eq!(api.requests("/packages"), 3);
}

#[tokio::test]
async fn a_version_is_looked_for_from_the_newest_on() {
    let api = Api::start().await;
    for number in 0..1100 {
        let tags = [format!("t{number}"), format!("v{number}")];
        let tags = [tags[0].as_str(), tags[1].as_str()];
        api.server
            .put_version("acme", "team/api", &digest(number), &tags);
    }
    let cases = [
        ("the newest", 1099, true, 1),
        ("the first of the third page", 899, true, 3),
        ("the thousandth", 100, true, 10),
        ("the one behind it", 99, false, 10),
    ];
    for (name, number, is_found, pages) in cases {
        api.server.server.clear_requests();
        let found = api.version_of("acme/team/api", &digest(number)).await;
        let found = found.expect(name);
        assert_eq!(found.is_some(), is_found, "{name}");
        if let Some(version) = found {
            let tags = [format!("t{number}"), format!("v{number}")];
            assert_eq!(version.tags, tags, "{name}");
            let time = version.created_at.expect("a time");
            assert!(time.starts_with("2026-"), "{name}: {time}");
        }
        let path = "/packages/container/team%2Fapi/versions?";
        assert_eq!(api.requests(path), pages, "{name}");
    }
}

#[tokio::test]
async fn a_version_may_have_no_tags() {
    let api = Api::start().await;
    for item in [
        json!({"name": digest(1)}),
        json!({"name": digest(1), "metadata": null}),
        json!({"name": digest(1), "metadata": {"container": {"tags": null}}}),
        json!({"name": digest(1), "metadata": {"container": {"tags": []}}}),
    ] {
        api.answer("/orgs/", 1, &Answer::new(200, json!([item])));
        let found = api.version_of("acme/api", &digest(1)).await;
        let version = found.expect("a list").expect("a version");
        assert_eq!((version.tags, version.created_at), (Vec::new(), None));
    }
}

/// A list whose next page can't be read is not a short one: "the newest two" of it would be the wrong two.
#[tokio::test]
async fn a_link_to_another_host_is_an_error_and_gets_no_token() {
    let (api, other) = (Api::start().await, Api::start().await);
    let page = Answer::new(200, json!([{"name": "api"}, {"name": digest(1)}]));
    let host = other.server.server.host();
    let cases = [
        (
            format!("http://{host}/orgs/acme/packages?page=2"),
            "another host",
        ),
        (
            format!("http://user:password@{}/x", api.server.server.host()),
            "credentials of its own",
        ),
    ];
    for (link, expected) in cases {
        let page = page.clone().with("link", format!("<{link}>; rel=\"next\""));
        api.answer("/orgs/acme/packages", 3, &page);
        let results = [
            kind_and_text(api.packages("acme").await),
            kind_and_text(api.version_of("acme/api", &digest(2)).await),
        ];
        for (kind, text) in results {
            assert_eq!(kind, Kind::Invalid, "{text}");
            assert!(
                text.contains(expected) && text.contains("GITHUB_API_URL"),
                "{text}"
            );
            assert!(!text.contains("password"), "{text}");
        }
        // What is found on this page needs no other.
        let found = api.version_of("acme/api", &digest(1)).await;
        assert!(found.is_ok_and(|version| version.is_some()));
    }
    assert_eq!(other.requests(""), 0);
}

#[tokio::test]
async fn a_scheduled_run_copies_nothing_by_half_a_list() {
    let scenario = Scenario::start().await;
    scenario.push(REPOSITORY, "1", &small_image());
    let page = Answer::new(200, json!([{"name": "api"}])).with(
        "link",
        "<https://evil.example/packages?page=2>; rel=\"next\"",
    );
    scenario
        .github
        .server
        .fault("GET", "/orgs/", 1, page.fault());
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    let message = reply["error"].as_str().unwrap_or_default();
    assert!(
        message.contains("list packages acme") && message.contains("another host"),
        "{message}"
    );
    scenario.assert_untouched("half a list", "1");
}

#[tokio::test]
async fn a_list_without_end_is_an_error() {
    let api = Api::start().await;
    let page = |next: &str| {
        let link = format!("</orgs/acme/packages?{next}>; rel=\"next\"");
        Answer::new(200, json!([{"name": "api"}])).with("link", link)
    };
    // Two pages that lead to each other.
    api.answer("turn=a", usize::MAX, &page("turn=b"));
    api.answer("turn=b", usize::MAX, &page("turn=a"));
    api.answer("/orgs/", usize::MAX, &page("turn=a"));
    let (kind, text) = kind_and_text(api.packages("acme").await);
    assert_eq!(kind, Kind::Invalid, "{text}");
    assert!(
        text.contains("no end") && text.contains("rule of its own"),
        "{text}"
    );
    assert_eq!(api.requests("/orgs/"), 100);
    // The newest thousand versions are ten pages.
    api.server.server.clear_requests();
    let version = api.version_of("acme/api", &digest(1)).await;
    assert_eq!(version.expect("no error"), None);
    assert_eq!(api.requests("/orgs/"), 10);
    // A page that leads to itself.
    api.server.server.clear_faults();
    api.answer("turn=a", usize::MAX, &page("turn=a"));
    api.answer("/orgs/", usize::MAX, &page("turn=a"));
    let (kind, text) = kind_and_text(api.packages("acme").await);
    assert_eq!(kind, Kind::Invalid, "{text}");
    assert!(text.contains("back to the page itself"), "{text}");
}

#[tokio::test]
async fn a_list_of_endless_names_is_not_kept() {
    let api = Api::start().await;
    let names: Vec<Value> = (0..20_000)
        .map(|number| json!({"name": format!("{number:0100}")}))
        .collect();
    let page = |next: &str| {
        let link = format!("</orgs/acme/packages?{next}>; rel=\"next\"");
        Answer::new(200, json!(names)).with("link", link)
    };
    api.answer("turn=a", usize::MAX, &page("turn=b"));
    api.answer("turn=b", usize::MAX, &page("turn=a"));
    api.answer("/orgs/", usize::MAX, &page("turn=a"));
    let (kind, text) = kind_and_text(api.packages("acme").await);
    assert_eq!(kind, Kind::Invalid, "{text}");
    assert_eq!(api.requests("/orgs/"), 2);
}

/// What `/user/packages` answers: a private package of the token's own account, and one of an organization that it is in.
fn own_packages(owner: &str) -> Answer {
    let items = json!([
        {"name": "Secret/API", "owner": {"login": owner}},
        {"name": "other", "owner": {"login": "acme"}},
        {"name": "nobodys", "owner": null},
    ]);
    Answer::new(200, items)
}

#[tokio::test]
async fn private_packages_of_a_personal_account_are_in_its_own_list() {
    let api = Api::start().await;
    // One is known without packages, the other not at all.
    for owner in ["octocat", "hubot"] {
        api.answer("/user/packages?", 1, &own_packages(&owner.to_uppercase()));
        assert_eq!(api.packages(owner).await.expect("a list"), ["secret/api"]);
    }
    assert_eq!(
        api.requests("/user/packages?per_page=100&package_type=container"),
        2
    );
    // What the account shows to everybody is believed.
    api.server.put_version("octocat", "api", "sha256:none", &[]);
    assert_eq!(api.packages("octocat").await.expect("a list"), ["api"]);
    assert_eq!(api.requests("/user/packages"), 2);
}

#[tokio::test]
async fn the_own_account_of_another_token_changes_nothing() {
    let api = Api::start().await;
    let no_account = refusal(403, "Resource not accessible by integration");
    for own in [
        own_packages("somebody"),
        no_account,
        refusal(404, "Not Found"),
    ] {
        api.answer("/user/packages", 2, &own);
        assert_eq!(api.packages("octocat").await.expect("a list"), [""; 0]);
        let (kind, text) = kind_and_text(api.packages("hubot").await);
        assert_eq!(kind, Kind::NotFound);
        assert!(
            text.contains("the owner or package does not exist"),
            "{text}"
        );
    }
    // An organization is never the token's own account.
    assert_eq!(api.packages("acme").await.expect("a list"), [""; 0]);
    assert_eq!(api.requests("/user/packages"), 6);
    // But without the whole answer nothing is known.
    let page = own_packages("octocat").with("link", "</user/packages?page=2>; rel=\"next\"");
    api.answer("page=2", 1, &refusal(401, "Bad credentials"));
    api.answer("/user/packages", 1, &page);
    assert_eq!(kind_and_text(api.packages("octocat").await).0, Kind::Denied);
    api.answer("/user/packages", 1, &Answer::new(502, ""));
    assert_eq!(
        kind_and_text(api.packages("octocat").await).0,
        Kind::Transient
    );
}

#[tokio::test]
async fn a_version_of_a_private_package_of_a_personal_account_is_found() {
    let api = Api::start().await;
    let versions =
        json!([{"name": digest(1), "metadata": {"container": {"tags": ["1", "latest"]}}}]);
    let package =
        |owner: &str| Answer::new(200, json!({"name": "team/api", "owner": {"login": owner}}));
    let path = "/user/packages/container/team%2Fapi";
    let versions_path = format!("{path}/versions");
    api.answer(&versions_path, 1, &Answer::new(200, versions));
    api.answer(path, 1, &package("Octocat"));
    let found = api.version_of("octocat/team/api", &digest(1)).await;
    let version = found.expect("a list").expect("a version");
    assert_eq!(version.tags, ["1", "latest"]);

    // A package of the same name, of another owner.
    api.server.server.clear_requests();
    api.answer(path, 1, &package("somebody"));
    let (kind, text) = kind_and_text(api.version_of("octocat/team/api", &digest(1)).await);
    assert_eq!(
        (kind, api.requests(&versions_path)),
        (Kind::NotFound, 0),
        "{text}"
    );
}

#[tokio::test]
async fn a_schedule_finds_private_packages_of_a_personal_account() {
    let rules = r#"[{"source":"octocat/*","destination":"prod/{name}"}]"#;
    let scenario = Scenario::start_with(&[("RULES", rules)]).await;
    scenario.ghcr.put_image("octocat/api", "1", &small_image());
    let own = Answer::new(200, json!([{"name": "api", "owner": {"login": "octocat"}}]));
    scenario
        .github
        .server
        .fault("GET", "/user/packages", 1, own.fault());
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    scenario.assert_stored("a private package", "1", &small_image());
}

#[tokio::test]
async fn a_server_in_distress_may_say_how_long_to_wait() {
    let api = Api::start().await;
    api.answer("/orgs/", 1, &refusal(503, "").with("retry-after", 2));
    let error = api.packages("acme").await.expect_err("an error");
    assert!(matches!(error, Error::Api { .. }));
    assert_eq!(error.kind(), Kind::Transient);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
}
