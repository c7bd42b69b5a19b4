use std::collections::BTreeMap;

use bytes::Bytes;
use hyper::Response;

use super::*;
use crate::http::client::{get, header, send};
use crate::image::{DOCKER_LIST, DOCKER_MANIFEST};

const ALL: &str = "application/vnd.oci.image.index.v1+json, \
                   application/vnd.docker.distribution.manifest.list.v2+json;q=0.9, \
                   application/vnd.oci.image.manifest.v1+json, \
                   application/vnd.docker.distribution.manifest.v2+json";
const NAME: &str = "acme/tools/api";

/// A registry with one private image, `acme/tools/api:1`, of one layer `0123456789`.
async fn registry() -> (Ghcr, Image) {
    let ghcr = Ghcr::start().await;
    let image = Image::index(vec![
        Image::single(&[Blob::bytes("0123456789")]).on("linux/amd64"),
    ]);
    ghcr.put_image(NAME, "1", &image);
    (ghcr, image)
}

/// Asks for a bearer token for `repository` with `authorization`.
async fn ask(ghcr: &Ghcr, repository: &str, authorization: Option<&str>) -> Response<Bytes> {
    let url = format!(
        "{}/token?service=ghcr.io&scope=repository%3A{repository}%3Apull",
        ghcr.url()
    );
    let headers: Vec<_> = authorization
        .into_iter()
        .map(|value| ("authorization", value))
        .collect();
    get(&url, &headers).await
}

fn basic_of(token: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("token:{token}")))
}

fn bearer_of(response: &Response<Bytes>) -> String {
    let body: BTreeMap<String, String> =
        serde_json::from_slice(response.body()).expect("a token and nothing else");
    assert_eq!(body.keys().collect::<Vec<_>>(), ["token"]);
    format!("Bearer {}", body["token"])
}

/// The `Authorization` of somebody who may pull `repository`.
async fn login(ghcr: &Ghcr, repository: &str) -> String {
    bearer_of(&ask(ghcr, repository, Some(&basic_of(Ghcr::TOKEN))).await)
}

/// Gets a path below the repository.
async fn pull(
    ghcr: &Ghcr,
    authorization: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Response<Bytes> {
    let headers = [headers, &[("authorization", authorization)]].concat();
    get(&format!("{}/v2/{NAME}/{path}", ghcr.url()), &headers).await
}

fn code(response: &Response<Bytes>) -> (u16, String) {
    let body: serde_json::Value = serde_json::from_slice(response.body()).expect("an OCI error");
    (
        response.status().as_u16(),
        body["errors"][0]["code"].as_str().expect("a code").into(),
    )
}

#[tokio::test]
async fn a_challenge_names_the_repository_or_the_placeholder() {
    let (ghcr, _) = registry().await;
    let url = ghcr.url();
    for (path, scope) in [
        ("acme/tools/api/manifests/1", NAME),
        ("acme/tools/api/tags/list", NAME),
        ("", PLACEHOLDER),
    ] {
        let response = get(&format!("{url}/v2/{path}"), &[]).await;
        assert_eq!(code(&response), (401, "UNAUTHORIZED".into()));
        let challenge = format!(
            r#"Bearer realm="{url}/token",service="ghcr.io",scope="repository:{scope}:pull""#
        );
        assert_eq!(header(&response, "www-authenticate"), challenge);
    }
    ghcr.set_realm("http://elsewhere.example/token");
    let response = get(&format!("{url}/v2/"), &[]).await;
    assert!(
        header(&response, "www-authenticate").contains(r#"realm="http://elsewhere.example/token""#)
    );
}

#[tokio::test]
async fn tokens_are_given_for_good_credentials_and_for_public_repositories() {
    let (ghcr, _) = registry().await;
    let (good, bad) = (basic_of(Ghcr::TOKEN), basic_of("ghp_other"));
    assert_eq!(ask(&ghcr, NAME, Some(&good)).await.status(), 200);
    assert_eq!(
        code(&ask(&ghcr, NAME, Some(&bad)).await),
        (403, "DENIED".into())
    );
    let raw = format!("Bearer {}", Ghcr::TOKEN);
    assert_eq!(
        code(&ask(&ghcr, NAME, Some(&raw)).await),
        (401, "UNAUTHORIZED".into())
    );
    for repository in [NAME, "acme/missing"] {
        assert_eq!(
            code(&ask(&ghcr, repository, None).await),
            (401, "UNAUTHORIZED".into())
        );
    }
    ghcr.set_public(NAME, true);
    let anonymous = bearer_of(&ask(&ghcr, NAME, None).await);
    assert_eq!(
        pull(&ghcr, &anonymous, "manifests/1", &[("accept", ALL)])
            .await
            .status(),
        200
    );
    assert_eq!(
        code(&ask(&ghcr, NAME, Some(&bad)).await),
        (403, "DENIED".into())
    );
    ghcr.accept_tokens(&["ghp_other"]);
    assert_eq!(ask(&ghcr, NAME, Some(&bad)).await.status(), 200);
    assert_eq!(
        code(&ask(&ghcr, NAME, Some(&good)).await),
        (403, "DENIED".into())
    );
    for query in [
        "service=ghcr.io",
        "service=ghcr.io&scope=repository:a/b:push",
        "scope=repository:a/b:pull",
    ] {
        assert_eq!(
            get(&format!("{}/token?{query}", ghcr.url()), &[])
                .await
                .status(),
            400
        );
    }
}

#[tokio::test]
async fn a_bearer_token_is_good_for_its_repository_until_it_expires() {
    let (ghcr, _) = registry().await;
    let (own, other) = (login(&ghcr, NAME).await, login(&ghcr, "acme/other").await);
    assert_eq!(pull(&ghcr, &own, "tags/list", &[]).await.status(), 200);
    assert_eq!(
        get(&format!("{}/v2/", ghcr.url()), &[("authorization", &own)])
            .await
            .status(),
        200
    );
    for wrong in [&other, &basic_of(Ghcr::TOKEN)] {
        assert_eq!(
            code(&pull(&ghcr, wrong, "tags/list", &[]).await),
            (401, "UNAUTHORIZED".into())
        );
    }
    let missing = get(
        &format!("{}/v2/acme/other/tags/list", ghcr.url()),
        &[("authorization", &other)],
    )
    .await;
    assert_eq!(code(&missing), (404, "NAME_UNKNOWN".into()));
    ghcr.set_refused(NAME, true);
    assert_eq!(
        code(&pull(&ghcr, &own, "tags/list", &[]).await),
        (403, "DENIED".into())
    );
    ghcr.set_refused(NAME, false);
    ghcr.expire_tokens();
    assert_eq!(
        code(&pull(&ghcr, &own, "tags/list", &[]).await),
        (401, "UNAUTHORIZED".into())
    );
}

#[tokio::test]
async fn manifests_are_served_as_stored_to_those_who_accept_them() {
    let (ghcr, image) = registry().await;
    ghcr.put_image(
        NAME,
        "docker",
        &Image::docker_list(vec![Image::docker(&[]).on("linux/amd64")]),
    );
    let bearer = login(&ghcr, NAME).await;
    for reference in ["1", &image.top] {
        let response = pull(
            &ghcr,
            &bearer,
            &format!("manifests/{reference}"),
            &[("accept", ALL)],
        )
        .await;
        assert_eq!(header(&response, "content-type"), OCI_INDEX);
        assert_eq!(header(&response, "docker-content-digest"), image.top);
        assert_eq!(response.body(), &image.top_manifest().bytes);
    }
    let url = format!("{}/v2/{NAME}/manifests/1", ghcr.url());
    let head = send(
        "HEAD",
        &url,
        &[("authorization", &bearer), ("accept", ALL)],
        "",
    )
    .await
    .unwrap();
    assert_eq!(header(&head, "docker-content-digest"), image.top);
    assert_eq!(
        header(&head, "content-length"),
        image.top_manifest().bytes.len().to_string()
    );
    for (tag, accept) in [
        ("1", "*/*"),
        ("1", OCI_MANIFEST),
        ("1", DOCKER_LIST),
        ("docker", DOCKER_MANIFEST),
    ] {
        let response = pull(
            &ghcr,
            &bearer,
            &format!("manifests/{tag}"),
            &[("accept", accept)],
        )
        .await;
        assert_eq!(
            code(&response),
            (404, "MANIFEST_UNKNOWN".into()),
            "{tag} {accept}"
        );
    }
    let response = pull(&ghcr, &bearer, "manifests/1", &[("accept", DOCKER_LIST)]).await;
    assert!(
        String::from_utf8_lossy(response.body())
            .contains("Accept header does not support OCI indexes")
    );
}

#[tokio::test]
async fn what_is_deleted_or_moved_is_gone_or_elsewhere() {
    let (ghcr, image) = registry().await;
    let other = Image::single(&[Blob::bytes("new")]);
    let bearer = login(&ghcr, NAME).await;
    let resolve = async || {
        let response = pull(&ghcr, &bearer, "manifests/1", &[("accept", ALL)]).await;
        header(&response, "docker-content-digest").to_owned()
    };
    ghcr.put_image(NAME, "1", &other);
    assert_eq!(resolve().await, other.top);
    ghcr.put_tag(NAME, "1", &image.top);
    assert_eq!(resolve().await, image.top);
    ghcr.delete_manifest(NAME, &image.top);
    assert_eq!(resolve().await, "");
    ghcr.delete_tag(NAME, "1");
    assert_eq!(
        &pull(&ghcr, &bearer, "tags/list", &[]).await.body()[..],
        br#"{"name":"acme/tools/api","tags":null}"#
    );
    let (digest, _) = &other.blobs[0];
    ghcr.delete_blob(NAME, digest);
    let response = pull(&ghcr, &bearer, &format!("blobs/{digest}"), &[]).await;
    assert_eq!(code(&response), (404, "BLOB_UNKNOWN".into()));
}

#[tokio::test]
async fn blobs_come_from_another_host_that_wants_its_signature_and_nothing_else() {
    let (ghcr, _) = registry().await;
    let bearer = login(&ghcr, NAME).await;
    let digest = Blob::bytes("0123456789").digest();
    let locate = async || {
        let response = pull(&ghcr, &bearer, &format!("blobs/{digest}"), &[]).await;
        assert_eq!(
            (
                response.status().as_u16(),
                header(&response, "content-length")
            ),
            (307, "0")
        );
        header(&response, "location").to_owned()
    };
    let location = locate().await;
    assert!(
        location.starts_with(&ghcr.storage.url())
            && location.contains("se=")
            && location.contains("sig=")
    );
    assert_eq!(
        get(&location, &[("authorization", &bearer)]).await.status(),
        400
    );
    assert_eq!(
        send("HEAD", &location, &[], "").await.unwrap().status(),
        403
    );
    assert_eq!(
        get(location.split_once('?').unwrap().0, &[]).await.status(),
        403
    );
    assert_eq!(&get(&location, &[]).await.body()[..], b"0123456789");
    assert_eq!(get(&location, &[]).await.status(), 403, "used up");

    ghcr.set_signature_uses(2);
    let location = locate().await;
    assert_eq!(get(&location, &[]).await.status(), 200);
    ghcr.expire_signatures();
    assert_eq!(get(&location, &[]).await.status(), 403, "expired");

    ghcr.set_redirect("http://elsewhere.example/blob");
    assert_eq!(locate().await, "http://elsewhere.example/blob");
}

#[tokio::test]
async fn the_storage_host_serves_closed_ranges() {
    let (ghcr, _) = registry().await;
    ghcr.set_signature_uses(usize::MAX);
    let bearer = login(&ghcr, NAME).await;
    let digest = Blob::bytes("0123456789").digest();
    let response = pull(&ghcr, &bearer, &format!("blobs/{digest}"), &[]).await;
    let location = header(&response, "location").to_owned();
    for (range, body, content_range) in [
        ("bytes=3-5", "345", "bytes 3-5/10"),
        ("bytes=0-9", "0123456789", "bytes 0-9/10"),
        ("bytes=8-99", "89", "bytes 8-9/10"),
    ] {
        let response = get(&location, &[("range", range)]).await;
        assert_eq!(
            (response.status().as_u16(), &response.body()[..]),
            (206, body.as_bytes())
        );
        assert_eq!(header(&response, "content-range"), content_range);
    }
    for range in [
        "bytes=3-",
        "bytes=-3",
        "bytes=5-3",
        "bytes=10-12",
        "bytes=0-1,3-4",
        "lines=1-2",
    ] {
        assert_eq!(
            get(&location, &[("range", range)]).await.status(),
            416,
            "{range}"
        );
    }
    ghcr.set_ignores_ranges(true);
    let response = get(&location, &[("range", "bytes=3-5")]).await;
    assert_eq!(
        (response.status().as_u16(), response.body().len()),
        (200, 10)
    );
}

#[tokio::test]
async fn tags_are_listed_oldest_first_and_page_by_page() {
    let (ghcr, image) = registry().await;
    for number in (2..=150).rev() {
        ghcr.put_tag(NAME, &number.to_string(), &image.top);
    }
    let bearer = login(&ghcr, NAME).await;
    let tags = |response: &Response<Bytes>| -> Vec<String> {
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        serde_json::from_value(body["tags"].clone()).unwrap()
    };
    let first = pull(&ghcr, &bearer, "tags/list", &[]).await;
    assert_eq!(
        (tags(&first).len(), &tags(&first)[..3]),
        (100, &["1", "150", "149"].map(String::from)[..])
    );
    assert_eq!(
        header(&first, "link"),
        r#"</v2/acme/tools/api/tags/list?last=52&n=100>; rel="next""#
    );
    let second = pull(&ghcr, &bearer, "tags/list?last=52&n=100", &[]).await;
    assert_eq!(
        (
            tags(&second).len(),
            tags(&second).last().unwrap().as_str(),
            header(&second, "link")
        ),
        (50, "2", "")
    );
    assert_eq!(
        tags(&pull(&ghcr, &bearer, "tags/list?n=10000", &[]).await).len(),
        150
    );
}

#[tokio::test]
async fn a_page_of_tags_has_a_limit_and_the_last_one_may_lead_back_to_the_first() {
    let (ghcr, image) = registry().await;
    for number in 2..=1001 {
        ghcr.put_tag(NAME, &number.to_string(), &image.top);
    }
    let bearer = login(&ghcr, NAME).await;
    let path = "tags/list?n=10000";
    let first = pull(&ghcr, &bearer, path, &[]).await;
    assert_eq!(
        header(&first, "link"),
        r#"</v2/acme/tools/api/tags/list?last=1000&n=1000>; rel="next""#
    );
    let path = "tags/list?last=1000&n=1000";
    let last = pull(&ghcr, &bearer, path, &[]).await;
    let whole = br#"{"name":"acme/tools/api","tags":["1001"]}"#;
    assert_eq!((&last.body()[..], header(&last, "link")), (&whole[..], ""));
    ghcr.set_loops(NAME, true);
    let last = pull(&ghcr, &bearer, path, &[]).await;
    assert_eq!(
        header(&last, "link"),
        r#"</v2/acme/tools/api/tags/list?n=1000>; rel="next""#
    );
}

#[tokio::test]
async fn referrers_lead_away_from_the_registry() {
    let (ghcr, image) = registry().await;
    let bearer = login(&ghcr, NAME).await;
    let response = pull(&ghcr, &bearer, &format!("referrers/{}", image.top), &[]).await;
    assert_eq!(response.status(), 303);
    assert!(header(&response, "location").starts_with(&ghcr.storage.url()));
    assert_eq!(get(header(&response, "location"), &[]).await.status(), 404);
}

#[tokio::test]
async fn nothing_can_be_pushed() {
    let (ghcr, _) = registry().await;
    let response = send(
        "PUT",
        &format!("{}/v2/{NAME}/manifests/2", ghcr.url()),
        &[],
        "{}",
    )
    .await
    .unwrap();
    assert_eq!(code(&response), (405, "UNSUPPORTED".into()));
}
