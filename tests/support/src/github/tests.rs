use bytes::Bytes;
use hyper::Response;

use super::*;
use crate::http::client::{get, header};

const DIGEST: &str = "sha256:3da1996a8115d7616457760d9920b815241d0a03b34cf5f04e9a0e9d8de37498";

/// An API with the organisation `Acme`, which has the package `tools/api`, and the user `octocat`.
async fn api() -> GitHub {
    let github = GitHub::start().await;
    github.put_organization("Acme");
    github.put_user("octocat");
    github.put_package("acme", "tools/api");
    github
}

/// Gets a path, or a whole URL, as somebody who may.
async fn ask(github: &GitHub, path: &str) -> Response<Bytes> {
    let token = format!("Bearer {}", Ghcr::TOKEN);
    ask_with(github, path, &[("authorization", &token)]).await
}

async fn ask_with(github: &GitHub, path: &str, headers: &[(&str, &str)]) -> Response<Bytes> {
    let client = [
        ("user-agent", "ghcr-to-ecr"),
        ("accept", "application/vnd.github+json"),
    ];
    let url = format!("{}{path}", github.server.url());
    let url = path.strip_prefix("http").map_or(url, |_| path.to_owned());
    get(&url, &[headers, &client].concat()).await
}

/// The names on a page.
fn names(response: &Response<Bytes>) -> Vec<String> {
    let items: Vec<Value> = serde_json::from_slice(response.body()).expect("a list");
    let name = |item: &Value| item["name"].as_str().expect("a name").to_owned();
    items.iter().map(name).collect()
}

fn message(response: &Response<Bytes>) -> (u16, String) {
    let body: Value = serde_json::from_slice(response.body()).expect("an error");
    let message = body["message"].as_str().expect("a message").to_owned();
    (response.status().as_u16(), message)
}

/// The URL of a relation in the `Link` header.
fn link(response: &Response<Bytes>, relation: &str) -> Option<String> {
    let suffix = format!(r#">; rel="{relation}""#);
    let mut links = header(response, "link").split(", ");
    let link = links.find_map(|link| link.strip_prefix('<')?.strip_suffix(&suffix))?;
    Some(link.to_owned())
}

#[tokio::test]
async fn packages_are_listed_below_their_owner_of_the_right_kind() {
    let github = api().await;
    github.put_package("acme", "other");
    github.put_package("octocat", "hello");
    let query = "packages?package_type=container";
    let response = ask(&github, &format!("/orgs/acme/{query}")).await;
    let items: Value = serde_json::from_slice(response.body()).expect("a list");
    assert_eq!(items[0]["name"], "tools/api");
    assert_eq!(items[0]["package_type"], "container");
    assert_eq!(items[0]["owner"]["login"], "Acme");
    assert_eq!(names(&response), ["tools/api", "other"]);
    assert_eq!(header(&response, "link"), "");
    let response = ask(&github, &format!("/users/octocat/{query}")).await;
    assert_eq!(names(&response), ["hello"]);
    for path in [
        "/users/acme",
        "/orgs/octocat",
        "/orgs/nobody",
        "/repos/acme",
    ] {
        let response = ask(&github, &format!("{path}/{query}")).await;
        assert_eq!(message(&response), (404, "Not Found".to_owned()));
    }
    let response = ask(&github, "/orgs/acme/packages").await;
    assert_eq!(message(&response).0, 422);
    github.put_user("acme");
    let response = ask(&github, &format!("/users/acme/{query}")).await;
    assert_eq!(names(&response).len(), 2);
}

#[tokio::test]
async fn versions_come_newest_first_with_all_their_tags() {
    let github = api().await;
    github.put_version("acme", "tools/api", DIGEST, &["1.0", "latest"]);
    github.put_version("acme", "tools/api", "sha256:child", &[]);
    github.put_version("acme", "tools/api", "sha256:next", &["1.1", "latest"]);
    github.put_version("acme", "tools/api", DIGEST, &["old"]);
    let path = "/orgs/acme/packages/container/tools%2Fapi/versions";
    let response = ask(&github, path).await;
    assert_eq!(names(&response), ["sha256:next", "sha256:child", DIGEST]);
    let items: Value = serde_json::from_slice(response.body()).expect("a list");
    let metadata = |tags| json!({"package_type": "container", "container": {"tags": tags}});
    assert_eq!(items[0]["metadata"], metadata(json!(["1.1", "latest"])));
    assert_eq!(items[1]["metadata"], metadata(json!([])));
    assert_eq!(items[2]["metadata"], metadata(json!(["1.0", "old"])));
    assert_eq!(items[2]["created_at"], "2026-11-20T00:00:01Z");
    assert_eq!(items[2]["updated_at"], "2026-11-20T00:00:04Z");
    github.delete_version("acme", "tools/api", DIGEST);
    assert_eq!(names(&ask(&github, path).await).len(), 2);
}

#[tokio::test]
async fn a_name_is_one_segment_and_a_hidden_package_is_not_there() {
    let github = api().await;
    let found = "/orgs/ACME/packages/container/tools%2fapi/versions";
    assert_eq!(ask(&github, found).await.status(), 200);
    for path in [
        "/orgs/acme/packages/container/tools/api/versions",
        "/orgs/acme/packages/container/missing/versions",
        "/orgs/acme/packages/npm/tools%2Fapi/versions",
        "/orgs/acme%2Fpackages/container/tools%2Fapi/versions",
    ] {
        assert_eq!(ask(&github, path).await.status(), 404, "{path}");
    }
    github.set_hidden("acme", "tools/api", true);
    assert_eq!(ask(&github, found).await.status(), 404);
    let list = "/orgs/acme/packages?package_type=container";
    assert!(names(&ask(&github, list).await).is_empty());
}

#[tokio::test]
async fn pages_are_reached_by_links() {
    let github = api().await;
    for number in 1..=250 {
        github.put_package("acme", &format!("package{number}"));
    }
    let path = "/orgs/acme/packages?package_type=container&per_page=1000";
    let mut response = ask(&github, path).await;
    assert_eq!(
        (names(&response).len(), link(&response, "prev")),
        (100, None)
    );
    let last = link(&response, "last").expect("a last page");
    assert!(last.starts_with(&github.server.url()) && last.ends_with("page=3"));
    let mut all = names(&response);
    while let Some(next) = link(&response, "next") {
        response = ask(&github, &next).await;
        all.extend(names(&response));
    }
    assert_eq!((all.len(), all[250].as_str()), (251, "package250"));
    assert!(link(&response, "first").is_some() && link(&response, "last").is_none());

    let path = "/orgs/acme/packages?package_type=container";
    assert_eq!(names(&ask(&github, path).await).len(), 30);
    let beyond = ask(&github, &format!("{path}&page=99")).await;
    assert!(names(&beyond).is_empty() && link(&beyond, "next").is_none());
    let far = ask(&github, &format!("{path}&per_page=100&page=101")).await;
    assert_eq!(far.status(), 400);
}

#[tokio::test]
async fn links_lead_through_versions_of_a_nested_name_too() {
    let github = api().await;
    for number in 1..=3 {
        github.put_version("acme", "tools/api", &format!("sha256:{number}"), &[]);
    }
    let path = "/orgs/acme/packages/container/tools%2Fapi/versions?per_page=2";
    let next = link(&ask(&github, path).await, "next").expect("a second page");
    assert!(next.contains("/packages/container/tools%2Fapi/versions?per_page=2&page=2"));
    assert_eq!(names(&ask(&github, &next).await), ["sha256:1"]);
}

#[tokio::test]
async fn only_a_known_token_of_a_polite_client_is_served() {
    let github = api().await;
    let path = "/orgs/acme/packages?package_type=container";
    let none = ask_with(&github, path, &[]).await;
    assert_eq!(message(&none), (401, "Requires authentication".to_owned()));
    let basic = format!("Basic {}", Ghcr::TOKEN);
    for wrong in ["Bearer ghp_other", &basic] {
        let response = ask_with(&github, path, &[("authorization", wrong)]).await;
        assert_eq!(message(&response), (401, "Bad credentials".to_owned()));
    }
    github.accept_tokens(&["ghp_other"]);
    assert_eq!(ask(&github, path).await.status(), 401);

    let url = format!("{}{path}", github.server.url());
    let authorization = ("authorization", "Bearer ghp_other");
    let (agent, accept) = (("user-agent", "x"), ("accept", "*/*"));
    for (headers, status) in [
        ([authorization, agent, accept].as_slice(), 200),
        (&[authorization, accept], 403),
        (&[authorization, agent], 415),
        (&[authorization, agent, ("accept", "text/html")], 415),
    ] {
        assert_eq!(get(&url, headers).await.status(), status);
    }
}

#[tokio::test]
async fn the_rate_limit_is_told_and_kept() {
    let github = api().await;
    let path = "/orgs/acme/packages?package_type=container";
    let response = ask(&github, path).await;
    assert_eq!(header(&response, "x-ratelimit-remaining"), "4999");
    github.exhaust_rate_limit();
    let response = ask(&github, path).await;
    assert_eq!(response.status(), 403);
    assert_eq!(header(&response, "x-ratelimit-remaining"), "0");
    let reset: u64 = header(&response, "x-ratelimit-reset").parse().unwrap();
    assert!(UNIX_EPOCH + Duration::from_secs(reset) > SystemTime::now());
    github.renew_rate_limit();
    assert_eq!(ask(&github, path).await.status(), 200);
}
