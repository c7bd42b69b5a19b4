use super::*;
use crate::http::client::{Answer, get};
use crate::image::digest;
use crate::sigstore::{IMAGE_SIGNATURE, Key, PROVENANCE};

const PACKAGES: &str = "packages?package_type=container";

/// An API with the organisation `Acme`, which has the package `tools/api`, and the user `octocat`.
async fn api() -> GitHub {
    let github = GitHub::start().await;
    github.put_organization("Acme");
    github.put_user("octocat");
    github.put_version("acme", "tools/api", "sha256:1", &["1.0", "latest"]);
    github
}

/// Gets a path, or a whole URL, with an accepted token.
async fn ask(github: &GitHub, path: &str) -> Answer {
    let token = format!("Bearer {}", Ghcr::TOKEN);
    let url = format!("{}{path}", github.server.url());
    let url = path.strip_prefix("http").map_or(url, |_| path.to_owned());
    let mut headers = vec![("authorization", token.as_str())];
    headers.extend([("user-agent", "x"), ("accept", "*/*")]);
    get(&url, &headers).await
}

/// The status, and the names on the page.
async fn names(github: &GitHub, path: &str) -> (u16, Vec<String>) {
    let answer = ask(github, path).await;
    (answer.status(), names_on(&answer))
}

fn names_on(page: &Answer) -> Vec<String> {
    let items = page.json().as_array().cloned().unwrap_or_default();
    let name = |item: &Value| item["name"].as_str().unwrap_or_default().to_owned();
    items.iter().map(name).collect()
}

/// The URL of the next page.
fn next(page: &Answer) -> Option<String> {
    let (before, _) = page.header("link").split_once(r#">; rel="next""#)?;
    Some(before.rsplit_once('<')?.1.to_owned())
}

#[tokio::test]
async fn only_the_owner_of_a_personal_account_finds_its_private_packages() {
    let github = api().await;
    github.put_version("octocat", "public", "sha256:1", &["1"]);
    github.put_version("octocat", "private", "sha256:2", &["2"]);
    github.set_private("octocat", "private", true);
    github.set_page_limit(1);
    let versions = "packages/container/private/versions";
    let own = format!("/user/{PACKAGES}");
    assert_eq!(names(&github, &own).await.1.len(), 0, "a machine account");
    github.set_token_owner("octocat");
    let listed = ask(&github, &format!("/users/octocat/{PACKAGES}")).await;
    assert!(names_on(&listed) == ["public"] && next(&listed).is_none());
    let second = next(&ask(&github, &own).await).expect("a second page");
    assert_eq!(names(&github, &second).await.1, ["private"]);
    for (owner, status) in [("user", 200), ("users/octocat", 404)] {
        let path = format!("/{owner}/{versions}");
        assert_eq!(names(&github, &path).await.0, status);
    }
    assert_eq!(ask(&github, "/user").await.json()["login"], "octocat");
}

#[tokio::test]
async fn a_page_has_at_most_a_hundred_items_and_links_to_the_next_by_the_owners_number() {
    let github = api().await;
    let path = "/orgs/acme/packages/container/tools%2Fapi/versions?per_page=1000";
    for number in 2..=101 {
        github.put_version("acme", "tools/api", &format!("sha256:{number}"), &[]);
    }
    let url = next(&ask(&github, path).await).expect("a second page");
    let second = ask(&github, &url).await;
    assert!(!url.contains("acme") && names_on(&second) == ["sha256:1"]);
    assert_eq!(next(&second), None);
    for wrong in [path.replace("%2F", "/"), path.replace("orgs", "users")] {
        assert_eq!(names(&github, &wrong).await.0, 404, "{wrong}");
    }
    github.set_endless(true);
    let third = next(&ask(&github, &url).await).expect("a third page");
    assert_eq!(names(&github, &third).await.1.len(), 100);
}

#[tokio::test]
async fn only_accepted_tokens_of_a_polite_client_are_served() {
    let github = api().await;
    let url = format!("{}/orgs/acme/{PACKAGES}", github.server.url());
    let token = format!("Bearer {}", Ghcr::TOKEN);
    let (good, agent) = (("authorization", token.as_str()), ("user-agent", "x"));
    let accept = ("accept", "application/vnd.github+json");
    for (headers, status) in [
        ([good, agent, accept].as_slice(), 200),
        (&[agent, accept], 401),
        (&[("authorization", "Bearer x"), agent, accept], 401),
        (&[good, accept], 403),
        (&[good, agent, ("accept", "text/html")], 415),
    ] {
        assert_eq!(get(&url, headers).await.status(), status);
    }
}

#[tokio::test]
async fn both_rate_limits_are_enforced_with_githubs_own_headers() {
    let github = api().await;
    let path = format!("/orgs/acme/{PACKAGES}");
    let ask = async || {
        let answer = ask(&github, &path).await;
        let header = |name| answer.header(name).to_owned();
        let remaining = header("x-ratelimit-remaining");
        (answer.status(), remaining, header("retry-after"))
    };
    let answer = |status, remaining: &str, retry_after: &str| {
        (status, remaining.to_owned(), retry_after.to_owned())
    };
    github.limit_secondarily(1, Some(7));
    assert_eq!(ask().await, answer(403, "", "7"));
    github.limit_secondarily(1, None);
    assert_eq!(ask().await, answer(403, "", ""));
    assert_eq!(ask().await, answer(200, "4999", ""));
    let minute = Duration::from_secs(60);
    github.exhaust_rate_limit_until(SystemTime::now() + minute, 429);
    assert_eq!(ask().await, answer(429, "0", ""));
    github.exhaust_rate_limit_until(SystemTime::now(), 429);
    assert_eq!(ask().await, answer(200, "4999", ""), "after the reset");
}

#[tokio::test]
async fn a_version_has_the_time_that_was_set_or_none() {
    let github = api().await;
    let path = "/orgs/acme/packages/container/tools%2Fapi/versions";
    let created_at = async || ask(&github, path).await.json()[0]["created_at"].clone();
    let of_push = created_at().await;
    assert!(of_push.is_string(), "{of_push}");
    let day = Duration::from_secs(24 * 60 * 60);
    for time in [Some(ago(day)), None] {
        github.set_created_at("acme", "tools/api", "sha256:1", time.as_deref());
        assert_eq!(created_at().await, json!(time));
    }
    assert_eq!(ago(day).len(), "2026-11-20T08:15:00Z".len());
}

/// Bundles of provenance, newest last, and the digest that they are of; each is stored as an attestation by `acme/api`.
fn attest(github: &GitHub, count: usize) -> (String, Vec<Value>) {
    let (image, key) = (digest(b"image"), Key::p256());
    let bundles: Vec<_> = (0..count).map(|_| key.bundle(&image, PROVENANCE)).collect();
    for bundle in &bundles {
        github.put_attestation("acme", "api", &image, bundle);
    }
    (image, bundles)
}

/// Gets a path without a token, in this version of the API.
async fn ask_anonymously(github: &GitHub, path: &str, version: &str) -> Answer {
    let url = format!("{}{path}", github.server.url());
    let headers = [("user-agent", "x"), ("accept", "*/*")];
    get(
        &url,
        &[&headers[..], &[("x-github-api-version", version)]].concat(),
    )
    .await
}

#[tokio::test]
async fn attestations_of_a_public_repository_are_listed_for_everybody() {
    let github = api().await;
    let (image, bundles) = attest(&github, 1);
    let (other, unknown) = (digest(b"other"), digest(b"unknown"));
    github.put_attestation("octocat", "app", &other, &bundles[0]);
    for (path, status) in [
        (format!("/orgs/Acme/attestations/{image}"), 200),
        (format!("/repos/acme/API/attestations/{image}"), 200),
        (format!("/users/octocat/attestations/{other}"), 200),
        (format!("/users/acme/attestations/{image}"), 404),
        (format!("/orgs/octocat/attestations/{other}"), 404),
        (format!("/orgs/acme/attestations/{other}"), 404),
        (format!("/repos/acme/other/attestations/{image}"), 404),
        (format!("/orgs/acme/attestations/{unknown}"), 404),
        ("/orgs/acme/attestations/sha256:1".to_owned(), 422),
    ] {
        let anonymous = ask_anonymously(&github, &path, "2022-11-28").await;
        assert_eq!(anonymous.status(), status, "{path}");
        assert_eq!(ask(&github, &path).await.status(), status, "{path}");
    }
    // What looks alike needs a token.
    let packages = "/orgs/acme/packages/container/attestations/versions";
    let anonymous = ask_anonymously(&github, packages, "2022-11-28").await;
    assert_eq!(anonymous.status(), 401);
    github.accept_tokens(&[]);
    let path = format!("/orgs/acme/attestations/{image}");
    assert_eq!(ask(&github, &path).await.status(), 401, "a bad token");
}

#[tokio::test]
async fn attestations_of_a_private_repository_are_listed_for_a_token_that_reads_it() {
    let github = api().await;
    let (image, bundles) = attest(&github, 1);
    github.put_attestation("octocat", "app", &image, &bundles[0]);
    github.set_repository_private("acme", "api", true);
    github.set_repository_private("octocat", "app", true);
    let organization = format!("/orgs/acme/attestations/{image}");
    let user = format!("/users/octocat/attestations/{image}");
    for path in [&organization, &user] {
        let anonymous = ask_anonymously(&github, path, "2022-11-28").await;
        assert_eq!(anonymous.status(), 404);
        assert_eq!(ask(&github, path).await.status(), 404, "read:packages only");
    }
    for scopes in [Some("read:packages, repo"), None] {
        github.set_scopes(scopes);
        assert_eq!(ask(&github, &organization).await.status(), 200);
        assert_eq!(ask(&github, &user).await.status(), 404, "another account");
    }
    github.set_token_owner("octocat");
    assert_eq!(ask(&github, &user).await.status(), 200);
}

#[tokio::test]
async fn a_bundle_is_in_the_list_or_compressed_in_the_storage() {
    let github = api().await;
    let (image, bundles) = attest(&github, 1);
    let path = format!("/orgs/acme/attestations/{image}");
    let list = async |version| {
        let answer = ask_anonymously(&github, &path, version).await;
        answer.json()["attestations"][0].clone()
    };
    let listed = list("2022-11-28").await;
    assert!(listed.get("bundle").is_some_and(Value::is_null), "{listed}");
    github.set_inline(true);
    assert_eq!(list("2022-11-28").await["bundle"], bundles[0]);
    let listed = list("2026-03-10").await;
    assert!(listed.get("bundle").is_none(), "{listed}");

    let url = listed["bundle_url"].as_str().expect("a URL");
    assert!(!url.starts_with(&github.server.url()), "another host");
    let stored = get(url, &[]).await;
    let content_type = stored.header("content-type");
    assert_eq!(
        (stored.status(), content_type),
        (200, "application/x-snappy")
    );
    let bundle = snap::raw::Decoder::new().decompress_vec(stored.bytes());
    let bundle: Value = serde_json::from_slice(&bundle.expect("a block")).expect("JSON");
    assert_eq!(bundle, bundles[0]);
    let unsigned = url.split('?').next().expect("a path");
    assert_eq!(get(unsigned, &[]).await.status(), 403);
    let answer = get(url, &[("authorization", "Bearer x")]).await;
    assert_eq!(answer.status(), 400);
}

#[tokio::test]
async fn attestations_are_filtered_and_paged_with_cursors() {
    let github = api().await;
    let (image, bundles) = attest(&github, 5);
    let signature = Key::p256().bundle(&image, IMAGE_SIGNATURE);
    github.put_attestation("acme", "other", &image, &signature);
    github.set_inline(true);
    let path = format!("/orgs/acme/attestations/{image}");
    let listed = |answer: &Answer| -> Vec<Value> {
        let list = answer.json()["attestations"].as_array().cloned();
        let list = list.unwrap_or_default().into_iter();
        list.map(|it| it["bundle"].clone()).collect()
    };
    let newest_first: Vec<_> = bundles.iter().rev().cloned().collect();
    let filter = "per_page=2&predicate_type=provenance";
    let mut pages = vec![ask(&github, &format!("{path}?{filter}")).await];
    while let Some(url) = next(&pages[pages.len() - 1]) {
        assert!(!url.contains("acme") && url.contains("after="), "{url}");
        pages.push(ask(&github, &url).await);
    }
    let all: Vec<_> = pages.iter().flat_map(listed).collect();
    assert_eq!((pages.len(), all), (3, newest_first));
    let link = pages[2].header("link");
    let previous = link.trim_start_matches('<').split('>').next();
    let previous = ask(&github, previous.expect("a URL")).await;
    assert_eq!(listed(&previous), listed(&pages[1]));

    for (filter, count) in [(IMAGE_SIGNATURE, 1), (PROVENANCE, 5), ("sbom", 0)] {
        let answer = ask(&github, &format!("{path}?predicate_type={filter}")).await;
        assert_eq!(listed(&answer).len(), count, "{filter}");
    }
    let wrong = ask(&github, &format!("{path}?after=x")).await;
    assert_eq!(wrong.status(), 422);
    github.set_endless(true);
    let endless = ask(&github, &format!("{path}?per_page=1000")).await;
    assert_eq!(listed(&endless).len(), 100);
    assert!(next(&endless).is_some());
}
