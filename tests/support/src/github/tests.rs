use super::*;
use crate::http::client::{Answer, get};

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
