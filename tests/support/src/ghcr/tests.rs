use super::*;
use crate::http::client::{Answer, get, send};
use crate::image::Signer;

const NAME: &str = "acme/tools/api";

/// A registry with one private image, `acme/tools/api:1`, of one layer `0123456789`.
async fn registry() -> (Ghcr, Image) {
    let ghcr = Ghcr::start().await;
    let image = Image::index(vec![Image::single(&[Blob::bytes("0123456789")]).into()]);
    ghcr.put_image(NAME, "1", &image);
    (ghcr, image)
}

/// Asks for a bearer token for `repository` with the personal access token `token`, or anonymously.
async fn ask(ghcr: &Ghcr, repository: &str, token: Option<&str>) -> Answer {
    let query = format!("service=ghcr.io&scope=repository%3A{repository}%3Apull");
    let basic = token.map(|token| format!("Basic {}", STANDARD.encode(format!("x:{token}"))));
    let headers = basic.iter().map(|basic| ("authorization", basic.as_str()));
    let url = format!("{}/token?{query}", ghcr.url());
    get(&url, &headers.collect::<Vec<_>>()).await
}

/// Gets a path below the repository, with a bearer token for `scope`.
async fn pull(ghcr: &Ghcr, scope: &str, path: &str, accept: &str) -> Answer {
    let token = ask(ghcr, scope, Some(Ghcr::TOKEN)).await.json();
    let bearer = format!("Bearer {}", token["token"].as_str().expect("a token"));
    let headers = [("authorization", bearer.as_str()), ("accept", accept)];
    get(&format!("{}/v2/{NAME}/{path}", ghcr.url()), &headers).await
}

/// The signed URL of the image's layer.
async fn locate(ghcr: &Ghcr) -> String {
    let path = format!("blobs/{}", Blob::bytes("0123456789").digest());
    let redirect = pull(ghcr, NAME, &path, "").await;
    redirect.header("location").to_owned()
}

#[tokio::test]
async fn bearer_tokens_are_for_one_repository_and_for_good_credentials() {
    let (ghcr, _) = registry().await;
    let token = async |token| ask(&ghcr, NAME, token).await.status();
    let wrong = Some("ghp_other");
    assert_eq!((token(wrong).await, token(None).await), (403, 401));
    ghcr.set_public(NAME, true);
    assert_eq!((token(wrong).await, token(None).await), (403, 200));
    assert_eq!(pull(&ghcr, NAME, "tags/list", "").await.status(), 200);
    let challenged = pull(&ghcr, "acme/other", "tags/list", "").await;
    let scope = format!(r#"scope="repository:{NAME}:pull""#);
    assert!(challenged.header("www-authenticate").ends_with(&scope));
    assert_eq!(challenged.status(), 401);
}

#[tokio::test]
async fn manifests_are_served_as_stored_and_only_to_those_who_accept_their_type() {
    let (ghcr, image) = registry().await;
    for (accept, status) in [(OCI_INDEX, 200), ("*/*", 404), (OCI_MANIFEST, 404)] {
        let answer = pull(&ghcr, NAME, "manifests/1", accept).await;
        assert_eq!(answer.status(), status, "{accept}");
    }
    let by_digest = format!("manifests/{}", image.top);
    let answer = pull(&ghcr, NAME, &by_digest, OCI_INDEX).await;
    assert_eq!(answer.text().as_bytes(), image.top_manifest().bytes);
    ghcr.lag_reads(NAME, "1", 1);
    ghcr.put_tag(NAME, "1", "sha256:gone");
    for digest in [image.top.as_str(), ""] {
        let answer = pull(&ghcr, NAME, "manifests/1", OCI_INDEX).await;
        assert_eq!(answer.header("docker-content-digest"), digest);
    }
}

#[tokio::test]
async fn a_signed_url_on_another_host_serves_one_get_without_credentials() {
    let (ghcr, _) = registry().await;
    let url = locate(&ghcr).await;
    assert!(url.starts_with(&ghcr.storage.url()));
    let credential = [("authorization", "Bearer x")];
    assert_eq!(get(&url, &credential).await.status(), 400);
    assert_eq!(send("HEAD", &url, &[], "").await.unwrap().status(), 403);
    assert_eq!(get(&url, &[]).await.text(), "0123456789");
    assert_eq!(get(&url, &[]).await.status(), 403);
}

#[tokio::test]
async fn only_closed_ranges_are_answered_and_as_the_test_says() {
    use RangeAnswer::{Exact, Shifted, Shorter, Whole, WithoutContentRange};
    let (ghcr, _) = registry().await;
    for (answer, range, status, body, content_range) in [
        (Exact, "8-99", 206, "89", "bytes 8-9/10"),
        (Shorter(2), "3-5", 206, "34", "bytes 3-4/10"),
        (Shifted(2), "3-5", 206, "12345", "bytes 1-5/10"),
        (WithoutContentRange, "3-5", 206, "345", ""),
        (Whole, "3-5", 200, "0123456789", ""),
        (Exact, "3-", 416, "", ""),
        (Exact, "10-12", 416, "", ""),
        (Exact, "0-1,3-4", 416, "", ""),
    ] {
        ghcr.set_range_answer(answer);
        let range = format!("bytes={range}");
        let part = get(&locate(&ghcr).await, &[("range", &range)]).await;
        assert_eq!(part.status(), status, "{answer:?} {range}");
        assert!(status == 416 || part.text() == body, "{answer:?}");
        assert_eq!(part.header("content-range"), content_range);
    }
}

#[tokio::test]
async fn tags_are_listed_oldest_push_first_in_linked_pages() {
    let (ghcr, image) = registry().await;
    for tag in ["9", "5", "7", "1"] {
        ghcr.put_tag(NAME, tag, &image.top);
    }
    ghcr.delete_tag(NAME, "5");
    ghcr.set_page_limit(2);
    let list = async |query: &str, tags: serde_json::Value, link: &str| {
        let page = pull(&ghcr, NAME, &format!("tags/list?{query}"), "").await;
        assert_eq!(page.json()["tags"], tags);
        let expected = link.replace("LIST", &format!("/v2/{NAME}/tags/list"));
        assert_eq!(page.header("link"), expected);
    };
    let next = r#"<LIST?last=7&n=2>; rel="next""#;
    list("n=100", json!(["9", "7"]), next).await;
    list("last=7&n=2", json!(["1"]), "").await;
    list("last=1", json!(null), "").await;
    ghcr.set_endless(true);
    let next = r#"<LIST?last=endless-3&n=2>; rel="next""#;
    list("last=7", json!(["1", "endless-3"]), next).await;
}

#[tokio::test]
async fn referrers_are_kept_under_the_fallback_tag_and_not_listed_by_the_registry() {
    let (ghcr, image) = registry().await;
    let path = format!("referrers/{}", image.top);
    let answer = pull(&ghcr, NAME, &path, OCI_INDEX).await;
    assert_eq!(answer.status(), 303);
    let location = answer.header("location").to_owned();
    assert_eq!(get(&location, &[]).await.status(), 404);
    let signers = [Signer::Cosign3, Signer::Notation];
    let signed = signers.map(|signer| signer.sign(image.top_manifest()));
    for signature in &signed {
        ghcr.put_referrer(NAME, &image.top, signature);
    }
    let listed = async |path: &str| {
        let answer = pull(&ghcr, NAME, path, OCI_INDEX).await;
        let entries = answer.json()["manifests"].as_array().cloned();
        let entries = entries.map(|entries| entries.len());
        (answer.status(), entries)
    };
    let fallback = format!("manifests/{}", fallback_tag(&image.top));
    assert_eq!(listed(&fallback).await, (200, Some(2)));
    for (set, expected) in [
        (ReferrersAnswer::NotFound, (404, None)),
        (ReferrersAnswer::TooManyRequests, (429, None)),
        (ReferrersAnswer::Empty, (200, Some(0))),
        (ReferrersAnswer::Listed, (200, Some(2))),
    ] {
        ghcr.set_referrers_answer(set);
        assert_eq!(listed(&path).await, expected, "{set:?}");
    }
}
