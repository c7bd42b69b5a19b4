use serde_json::Value;

use super::manifests::MANIFEST_LIMIT_BYTES;
use super::uploads::STUCK_RANGE;
use super::*;
use crate::http::Fault;
use crate::http::client::{header, send};
use crate::image::{self, Blob, DOCKER_MANIFEST, Image, OCI_MANIFEST};

const NAME: &str = "prod/api";

async fn registry() -> Ecr {
    let ecr = Ecr::start().await;
    ecr.create_repository(NAME);
    ecr
}

fn basic(password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("AWS:{password}")))
}

async fn ask(
    ecr: &Ecr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> hyper::Response<Bytes> {
    let credential = basic(Ecr::PASSWORD);
    let headers = [&[("authorization", credential.as_str())], headers].concat();
    let url = if path.starts_with("http") {
        path.to_owned()
    } else {
        format!("{}/v2/{path}", ecr.server.url())
    };
    send(method, &url, &headers, body).await.expect("an answer")
}

/// Status and code of the first error in the body.
fn told(response: &hyper::Response<Bytes>) -> (u16, String) {
    let body: Value = serde_json::from_slice(response.body()).unwrap_or_default();
    (
        response.status().as_u16(),
        body["errors"][0]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    )
}

fn error(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

async fn session(ecr: &Ecr) -> String {
    let response = ask(ecr, "POST", &format!("{NAME}/blobs/uploads/"), &[], "").await;
    assert_eq!(response.status(), 202);
    header(&response, "location").to_owned()
}

async fn push_blob(ecr: &Ecr, bytes: &'static str) -> String {
    let digest = image::digest(bytes.as_bytes());
    let put = format!("{}?digest={digest}", session(ecr).await);
    assert_eq!(ask(ecr, "PUT", &put, &[], bytes).await.status(), 201);
    digest
}

async fn put(ecr: &Ecr, reference: &str, manifest: &StoredManifest) -> hyper::Response<Bytes> {
    let headers = [("content-type", manifest.media_type.as_str())];
    ask(
        ecr,
        "PUT",
        &format!("{NAME}/manifests/{reference}"),
        &headers,
        manifest.bytes.clone(),
    )
    .await
}

/// An image with one layer, its blobs pushed.
async fn image(ecr: &Ecr) -> Image {
    let image = Image::single(&[Blob::bytes("layer")]);
    push_blobs(ecr, &image).await;
    image
}

async fn push_blobs(ecr: &Ecr, image: &Image) {
    for (digest, blob) in &image.blobs {
        let bytes: Vec<u8> = blob.chunks(0..blob.length()).flatten().collect();
        let put = format!("{}?digest={digest}", session(ecr).await);
        assert_eq!(ask(ecr, "PUT", &put, &[], bytes).await.status(), 201);
    }
}

#[tokio::test]
async fn credentials_are_wanted_and_an_expired_password_is_named() {
    let ecr = registry().await;
    let url = format!("{}/v2/", ecr.server.url());
    let without = send("GET", &url, &[], "").await.unwrap();
    assert_eq!(without.status(), 401);
    assert!(header(&without, "www-authenticate").starts_with("Basic "));
    assert_eq!(
        send("GET", &url, &[("authorization", "Bearer x")], "")
            .await
            .unwrap()
            .status(),
        401
    );
    assert_eq!(
        send("GET", &url, &[("authorization", &basic("wrong"))], "")
            .await
            .unwrap()
            .status(),
        401
    );
    assert_eq!(ask(&ecr, "GET", "", &[], "").await.status(), 200);
    ecr.renew_password("other");
    let expired = ask(&ecr, "GET", "", &[], "").await;
    assert_eq!(told(&expired), error(403, "DENIED"));
    assert!(String::from_utf8_lossy(expired.body()).contains("has expired"));
}

#[tokio::test]
async fn repositories_and_permissions_are_not_made_up() {
    let ecr = registry().await;
    let missing = ask(&ecr, "POST", "prod/other/blobs/uploads/", &[], "").await;
    assert_eq!(told(&missing), error(404, "NAME_UNKNOWN"));
    ecr.deny("PutImage");
    let image = image(&ecr).await;
    let denied = put(&ecr, "1", image.top_manifest()).await;
    assert_eq!(told(&denied), error(403, "DENIED"));
    assert!(
        String::from_utf8_lossy(denied.body())
            .contains("is not authorized to perform: ecr:PutImage on resource")
    );
}

#[tokio::test]
async fn who_asks_too_often_is_told_so() {
    let ecr = registry().await;
    let image = image(&ecr).await;
    for action in ["PutImage", "BatchCheckLayerAvailability"] {
        let hour = Duration::from_secs(3600);
        ecr.state().limits.set(action, 2, hour, Instant::now());
    }
    let mut answers = Vec::new();
    for tag in ["1", "2", "3", "4"] {
        answers.push(put(&ecr, tag, image.top_manifest()).await);
    }
    let statuses: Vec<_> = answers.iter().map(|it| it.status().as_u16()).collect();
    assert_eq!(statuses, [201, 201, 429, 429]);
    assert_eq!(told(&answers[3]), error(429, "TOOMANYREQUESTS"));
    assert!(!answers[3].headers().contains_key("retry-after"));
    assert_eq!(ecr.throttled("PutImage"), 2);
    assert_eq!(ecr.repository(NAME).tags.len(), 2);
    let manifest = format!("{NAME}/manifests/{}", image.top);
    let blob = format!("{NAME}/blobs/{}", image.blobs[0].0);
    for (method, path, statuses) in [
        ("GET", &manifest, [200; 3]),
        ("HEAD", &blob, [200, 200, 429]),
    ] {
        for status in statuses {
            assert_eq!(ask(&ecr, method, path, &[], "").await.status(), status);
        }
    }
    assert_eq!(ecr.throttled("BatchCheckLayerAvailability"), 1);
}

#[tokio::test]
async fn the_default_quotas_are_those_of_an_ordinary_account() {
    let ecr = registry().await;
    ecr.set_default_quotas();
    let image = image(&ecr).await;
    let burst = (0..60).map(|_| put(&ecr, "1", image.top_manifest()));
    let answers = futures_util::future::join_all(burst).await;
    let throttled = answers.iter().filter(|it| it.status() == 429).count() as u64;
    assert_eq!(ecr.throttled("PutImage"), throttled);
    assert!(throttled > 0 && throttled <= 50, "{throttled} of 60");
}

#[tokio::test]
async fn a_blob_streams_into_one_put_in_all_forms_of_location() {
    let ecr = registry().await;
    for (form, bytes) in [
        (UploadLocation::Absolute, "one"),
        (UploadLocation::Relative, "two"),
        (UploadLocation::WithQuery, "three"),
    ] {
        ecr.set_upload_location(form);
        let location = session(&ecr).await;
        let location = match form {
            UploadLocation::Relative => format!("{}{location}", ecr.server.url()),
            _ => location,
        };
        let digest = image::digest(bytes.as_bytes());
        let separator = if form == UploadLocation::WithQuery {
            '&'
        } else {
            '?'
        };
        let response = ask(
            &ecr,
            "PUT",
            &format!("{location}{separator}digest={digest}"),
            &[],
            bytes,
        )
        .await;
        assert_eq!(response.status(), 201);
        let head = ask(&ecr, "HEAD", &format!("{NAME}/blobs/{digest}"), &[], "").await;
        assert_eq!(
            (head.status().as_u16(), header(&head, "content-length")),
            (200, &*bytes.len().to_string())
        );
        assert_eq!(
            ecr.repository(NAME).blobs[&digest].bytes.as_deref(),
            Some(bytes.as_bytes())
        );
        assert_eq!(
            ecr.uploads().last().unwrap().committed.as_deref(),
            Some(&*digest)
        );
    }
    let location = session(&ecr).await;
    let without_query = location.split('?').next().unwrap();
    let response = ask(
        &ecr,
        "PUT",
        &format!("{without_query}?digest={}", image::digest(b"x")),
        &[],
        "x",
    )
    .await;
    assert_eq!(told(&response), error(400, "BLOB_UPLOAD_INVALID"));
}

#[tokio::test]
async fn an_image_that_was_put_is_as_one_that_was_pushed() {
    let ecr = Ecr::start().await;
    let image = Image::single(&[
        Blob::bytes("layer"),
        Blob::pseudorandom(7, KEPT_BLOB_BYTES + 1),
    ]);
    ecr.put_image(NAME, "1", &image);
    let repository = ecr.repository(NAME);
    assert_eq!(repository.tags["1"], image.top);
    assert_eq!(repository.missing_from(&image.top), Vec::<String>::new());
    let kept = |index: usize| repository.blobs[&image.blobs[index].0].bytes.clone();
    let layer = |index: usize| image.blobs[index].1.length();
    for index in 0..image.blobs.len() {
        let is_kept = layer(index) <= KEPT_BLOB_BYTES;
        assert_eq!(
            kept(index).map(|it| it.len() as u64),
            is_kept.then_some(layer(index))
        );
    }
    let head = ask(
        &ecr,
        "HEAD",
        &format!("{NAME}/manifests/1"),
        &[("accept", OCI_MANIFEST)],
        "",
    )
    .await;
    assert_eq!(header(&head, "docker-content-digest"), image.top);
    ecr.delete_repository(NAME);
    assert_eq!(
        told(&ask(&ecr, "GET", &format!("{NAME}/tags/list"), &[], "").await),
        error(404, "NAME_UNKNOWN")
    );
}

#[tokio::test]
async fn large_blobs_are_counted_and_not_kept() {
    let ecr = registry().await;
    let content = Blob::pseudorandom(7, KEPT_BLOB_BYTES + 1);
    let bytes: Vec<u8> = content.chunks(0..content.length()).flatten().collect();
    let put = format!("{}?digest={}", session(&ecr).await, content.digest());
    assert_eq!(ask(&ecr, "PUT", &put, &[], bytes).await.status(), 201);
    let blob = &ecr.repository(NAME).blobs[&content.digest()];
    assert_eq!((blob.length, &blob.bytes), (KEPT_BLOB_BYTES + 1, &None));
}

#[tokio::test]
async fn wrong_and_empty_blobs_are_refused_and_sessions_serve_once() {
    let ecr = registry().await;
    let location = session(&ecr).await;
    let wrong = image::digest(b"other");
    let mismatch = ask(
        &ecr,
        "PUT",
        &format!("{location}?digest={wrong}"),
        &[],
        "bytes",
    )
    .await;
    assert_eq!(told(&mismatch), error(400, "BLOB_UPLOAD_INVALID"));
    assert!(ecr.repository(NAME).blobs.is_empty());
    let digest = image::digest(b"bytes");
    let again = ask(
        &ecr,
        "PUT",
        &format!("{location}?digest={digest}"),
        &[],
        "bytes",
    )
    .await;
    assert_eq!(told(&again), error(404, "BLOB_UPLOAD_UNKNOWN"));
    let malformed = ask(
        &ecr,
        "PUT",
        &format!("{}?digest=sha256:0", session(&ecr).await),
        &[],
        "bytes",
    )
    .await;
    assert_eq!(told(&malformed), error(400, "DIGEST_INVALID"));
    let empty = format!("{}?digest={}", session(&ecr).await, image::digest(b""));
    let empty = ask(&ecr, "PUT", &empty, &[("content-length", "0")], "").await;
    assert_eq!(told(&empty), error(400, "BLOB_UPLOAD_INVALID"));
    assert!(String::from_utf8_lossy(empty.body()).contains("EmptyUpload"));
    let foreign = location.replace(NAME, "prod/other");
    ecr.create_repository("prod/other");
    let foreign = ask(
        &ecr,
        "PUT",
        &format!("{foreign}?digest={digest}"),
        &[],
        "bytes",
    )
    .await;
    assert_eq!(told(&foreign), error(404, "BLOB_UPLOAD_UNKNOWN"));
    assert_eq!(
        told(&ask(&ecr, "GET", &session(&ecr).await, &[], "").await),
        error(404, "BLOB_UPLOAD_UNKNOWN")
    );
}

#[tokio::test]
async fn a_broken_upload_can_not_be_taken_up_again() {
    let ecr = registry().await;
    let location = session(&ecr).await;
    let put = format!("{location}?digest={}", image::digest(b"0123456789"));
    ecr.server
        .fault("PUT", "/blobs/uploads/", 1, Fault::DropRequestAfter(4));
    let credential = basic(Ecr::PASSWORD);
    send("PUT", &put, &[("authorization", &credential)], "0123456789")
        .await
        .unwrap_err();
    let again = ask(&ecr, "PUT", &put, &[], "0123456789").await;
    assert_eq!(told(&again), error(416, "BLOB_UPLOAD_INVALID"));
    assert!(String::from_utf8_lossy(again.body()).contains("is 0 instead of 4"));
    assert_eq!(ecr.uploads()[0].received_bytes, 4);
    assert_eq!(ecr.uploads()[0].committed, None);
}

#[tokio::test]
async fn patch_answers_off_the_specification() {
    let ecr = registry().await;
    let location = session(&ecr).await;
    let patch = ask(&ecr, "PATCH", &location, &[], "0123").await;
    assert_eq!(
        (patch.status().as_u16(), header(&patch, "range")),
        (201, STUCK_RANGE)
    );
    let gap = ask(
        &ecr,
        "PATCH",
        &location,
        &[("content-range", "0-3")],
        "0123",
    )
    .await;
    assert_eq!(told(&gap), error(416, "BLOB_UPLOAD_INVALID"));
    let small = ask(
        &ecr,
        "PATCH",
        &location,
        &[("content-range", "4-7")],
        "4567",
    )
    .await;
    assert!(String::from_utf8_lossy(small.body()).contains("LayerPartTooSmall"));
    let put = format!("{location}?digest={}", image::digest(b"0123"));
    assert_eq!(
        ask(&ecr, "PUT", &put, &[("content-length", "0")], "")
            .await
            .status(),
        201
    );
}

#[tokio::test]
async fn an_image_needs_its_blobs_and_an_index_its_children() {
    let ecr = registry().await;
    let child = Image::single(&[Blob::bytes("layer")]);
    let index = Image::index(vec![child.clone().on("linux/amd64")]);
    let early = put(&ecr, "1", child.top_manifest()).await;
    assert_eq!(told(&early), error(400, "MANIFEST_BLOB_UNKNOWN"));
    push_blobs(&ecr, &child).await;
    let early = put(&ecr, "1", index.top_manifest()).await;
    assert_eq!(told(&early), error(400, "MANIFEST_BLOB_UNKNOWN"));
    assert!(ecr.repository(NAME).tags.is_empty());

    let response = put(&ecr, &child.top, child.top_manifest()).await;
    assert_eq!(
        (
            response.status().as_u16(),
            header(&response, "docker-content-digest")
        ),
        (201, &*child.top)
    );
    assert_eq!(header(&response, "location"), "");
    assert!(ecr.tag_writes().is_empty());
    assert_eq!(put(&ecr, "1", index.top_manifest()).await.status(), 201);
    assert_eq!(ecr.repository(NAME).tags["1"], index.top);
    let [write] = ecr.tag_writes().try_into().unwrap();
    assert_eq!((write.tag.as_str(), write.missing.is_empty()), ("1", true));

    let (layer, _) = &child.blobs[0];
    ecr.delete_blob(NAME, layer);
    assert_eq!(
        ecr.repository(NAME).missing_from(&index.top),
        std::slice::from_ref(layer)
    );
    assert_eq!(put(&ecr, "2", index.top_manifest()).await.status(), 201);
    assert_eq!(ecr.tag_writes()[1].missing, std::slice::from_ref(layer));
}

#[tokio::test]
async fn manifests_are_read_back_byte_for_byte_under_their_own_type() {
    let ecr = registry().await;
    let image = image(&ecr).await;
    put(&ecr, "1", image.top_manifest()).await;
    for reference in ["1", image.top.as_str()] {
        let path = format!("{NAME}/manifests/{reference}");
        let accept = format!("application/json, {OCI_MANIFEST}");
        let response = ask(&ecr, "GET", &path, &[("accept", &accept)], "").await;
        assert_eq!(
            (response.body(), header(&response, "content-type")),
            (&image.top_manifest().bytes, OCI_MANIFEST)
        );
        let head = ask(&ecr, "HEAD", &path, &[("accept", &accept)], "").await;
        assert_eq!(header(&head, "docker-content-digest"), image.top);
    }
    let path = format!("{NAME}/manifests/1");
    assert_eq!(
        told(&ask(&ecr, "GET", &path, &[("accept", DOCKER_MANIFEST)], "").await),
        error(404, "MANIFEST_UNKNOWN")
    );
    let path = format!("{NAME}/manifests/2");
    assert_eq!(
        told(&ask(&ecr, "GET", &path, &[("accept", OCI_MANIFEST)], "").await),
        error(404, "MANIFEST_UNKNOWN")
    );
    ecr.delete_manifest(NAME, &image.top);
    assert!(ecr.repository(NAME).tags.is_empty());
}

#[tokio::test]
async fn manifests_that_ecr_does_not_take_are_refused() {
    let ecr = registry().await;
    let config = push_blob(&ecr, "{}").await;
    let image = |layers: &str, more: &str| {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}"{more},"config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{config}","size":2}},"layers":[{layers}]}}"#
        );
        StoredManifest::new(OCI_MANIFEST, text)
    };
    let layer = format!(
        r#"{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{config}","size":2}}"#
    );
    let refused = [
        image("", ""),
        image(
            &layer,
            r#","artifactType":"application/vnd.dev.sigstore.bundle+json;version=0.2""#,
        ),
        StoredManifest::new(OCI_MANIFEST, "{"),
        StoredManifest::new("application/json", "{}"),
        StoredManifest::new(DOCKER_MANIFEST, image(&layer, "").bytes),
        image(
            &layer,
            &format!(
                r#","annotations":{{"a":"{}"}}"#,
                "x".repeat(MANIFEST_LIMIT_BYTES)
            ),
        ),
    ];
    for manifest in refused {
        assert_eq!(
            told(&put(&ecr, "1", &manifest).await),
            error(405, "UNSUPPORTED")
        );
    }
    let good = image(&layer, "");
    assert_eq!(
        told(&put(&ecr, &config, &good).await),
        error(400, "DIGEST_INVALID")
    );
    assert_eq!(put(&ecr, &good.digest, &good).await.status(), 201);
    let foreign = format!(
        r#"{{"mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip","digest":"{}","size":9,"urls":["https://example.com/layer"]}}"#,
        image_digest("elsewhere")
    );
    assert_eq!(
        put(&ecr, "foreign", &image(&foreign, "")).await.status(),
        201
    );
    let subject = format!(
        r#","subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":1}}"#,
        good.digest
    );
    let referrer = image(&layer, &subject);
    assert_eq!(
        header(&put(&ecr, &referrer.digest, &referrer).await, "oci-subject"),
        good.digest
    );
}

fn image_digest(text: &str) -> String {
    image::digest(text.as_bytes())
}

#[tokio::test]
async fn an_immutable_tag_is_never_written_again() {
    let ecr = registry().await;
    ecr.create_immutable_repository(NAME);
    let image = image(&ecr).await;
    assert_eq!(put(&ecr, "1", image.top_manifest()).await.status(), 201);
    let again = put(&ecr, "1", image.top_manifest()).await;
    assert_eq!(told(&again), error(400, "TAG_INVALID"));
    assert!(
        String::from_utf8_lossy(again.body())
            .contains("already exists in the 'prod/api' repository")
    );
    assert_eq!(
        put(&ecr, &image.top, image.top_manifest()).await.status(),
        201
    );
    assert_eq!(ecr.tag_writes().len(), 1);
}

#[tokio::test]
async fn mounting_needs_the_account_setting_and_a_committed_manifest() {
    let ecr = registry().await;
    ecr.create_repository("prod/other");
    let image = image(&ecr).await;
    let (layer, _) = &image.blobs[0];
    let mount = format!("prod/other/blobs/uploads/?mount={layer}&from={NAME}");
    ecr.set_blob_mounting(true);
    assert_eq!(ask(&ecr, "POST", &mount, &[], "").await.status(), 202);
    put(&ecr, "1", image.top_manifest()).await;
    ecr.set_blob_mounting(false);
    assert_eq!(ask(&ecr, "POST", &mount, &[], "").await.status(), 202);
    ecr.set_blob_mounting(true);
    assert_eq!(ask(&ecr, "POST", &mount, &[], "").await.status(), 201);
    assert!(ecr.repository("prod/other").blobs.contains_key(layer));
}
