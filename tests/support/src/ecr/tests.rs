use super::manifests::MANIFEST_LIMIT_BYTES;
use super::*;
use crate::http::Fault;
use crate::http::client::{Answer, send};
use crate::image::{
    Blob, DOCKER_FOREIGN_LAYER, DOCKER_MANIFEST, Descriptor, Image, ImageBuilder, OCI_LAYER,
    OCI_MANIFEST, Signer, digest,
};

const NAME: &str = "prod/api";

async fn registry() -> Ecr {
    let ecr = Ecr::start().await;
    ecr.create_repository(NAME);
    ecr
}

/// Sends a request to a path below `/v2/`, or to a whole URL.
async fn ask(
    ecr: &Ecr,
    method: &str,
    path: &str,
    header: (&str, &str),
    body: impl Into<Bytes>,
) -> Answer {
    let basic = format!("Basic {}", STANDARD.encode("AWS:ecr-password"));
    let base = format!("{}/v2/", ecr.server.url());
    let base = if path.starts_with("http") { "" } else { &base };
    let headers = [("authorization", basic.as_str()), header];
    let answer = send(method, &format!("{base}{path}"), &headers, body).await;
    answer.expect("an answer")
}

/// The status, and the code of the first error in the body.
fn code(answer: &Answer) -> String {
    let code = answer.json()["errors"][0]["code"].clone();
    format!("{} {}", answer.status(), code.as_str().unwrap_or_default())
}

/// The URL to which a blob with this digest is sent.
async fn session(ecr: &Ecr, digest: &str) -> String {
    let path = format!("{NAME}/blobs/uploads/");
    let answer = ask(ecr, "POST", &path, ("x", ""), "").await;
    format!("{}?digest={digest}", answer.header("location"))
}

/// Sends a body to the URL of an upload.
async fn upload(ecr: &Ecr, url: &str, body: &[u8]) -> Answer {
    let length = body.len().to_string();
    ask(ecr, "PUT", url, ("content-length", &length), body.to_vec()).await
}

async fn push_blobs(ecr: &Ecr, image: &Image) {
    for (digest, blob) in &image.blobs {
        let bytes: Vec<u8> = blob.chunks(0..blob.length()).flatten().collect();
        let answer = upload(ecr, &session(ecr, digest).await, &bytes).await;
        assert_eq!(answer.status(), 201);
    }
}

async fn put(ecr: &Ecr, reference: &str, image: &Image) -> String {
    let manifest = image.top_manifest();
    let header = ("content-type", manifest.media_type.as_str());
    let path = format!("{NAME}/manifests/{reference}");
    code(&ask(ecr, "PUT", &path, header, manifest.bytes.clone()).await)
}

/// The digest that a reader gets for a reference.
async fn read(ecr: &Ecr, reference: &str, accept: &str) -> String {
    let path = format!("{NAME}/manifests/{reference}");
    let answer = ask(ecr, "HEAD", &path, ("accept", accept), "").await;
    answer.header("docker-content-digest").to_owned()
}

/// An image with one layer, its blobs pushed.
async fn image(ecr: &Ecr, layer: &'static str) -> Image {
    let image = Image::single(&[Blob::bytes(layer)]);
    push_blobs(ecr, &image).await;
    image
}

#[tokio::test]
async fn credentials_repositories_permissions_and_quotas_are_checked() {
    let ecr = registry().await;
    let url = format!("{}/v2/", ecr.server.url());
    let wrong = format!("Basic {}", STANDARD.encode("AWS:wrong"));
    for credential in ["", "Bearer ecr-password", &wrong] {
        let answer = send("GET", &url, &[("authorization", credential)], "").await;
        assert_eq!(answer.unwrap().status(), 401, "{credential}");
    }
    let ask = async |method, path| code(&ask(&ecr, method, path, ("x", ""), "").await);
    let elsewhere = "prod/other/blobs/uploads/";
    assert_eq!(ask("POST", elsewhere).await, "404 NAME_UNKNOWN");
    let hour = Duration::from_secs(3600);
    let now = Instant::now();
    ecr.state().limits.set("PutImage", 1, hour, now);
    let image = image(&ecr, "layer").await;
    assert_eq!(put(&ecr, "1", &image).await, "201 ");
    assert_eq!(put(&ecr, "2", &image).await, "429 TOOMANYREQUESTS");
    assert_eq!((ecr.throttled("PutImage"), ecr.tag_writes().len()), (1, 1));
    ecr.deny("PutImage");
    assert_eq!(put(&ecr, "2", &image).await, "403 DENIED");
    ecr.renew_password("other");
    assert_eq!(ask("GET", "").await, "403 DENIED");
}

#[tokio::test]
async fn a_blob_arrives_in_one_put_and_only_under_its_own_digest() {
    let ecr = registry().await;
    let large = vec![7; KEPT_BLOB_BYTES as usize + 1];
    for bytes in [&b"small"[..], &large] {
        let digest = digest(bytes);
        let url = session(&ecr, &digest).await;
        assert_eq!(code(&upload(&ecr, &url, bytes).await), "201 ");
        let again = upload(&ecr, &url, bytes).await;
        assert_eq!(code(&again), "404 BLOB_UPLOAD_UNKNOWN");
        let stored = ecr.repository(NAME).blobs[&digest].clone();
        assert_eq!(stored.length, bytes.len() as u64);
        assert_eq!(stored.bytes.is_some(), bytes.len() == 5);
    }
    for (digest, body) in [(digest(b"other"), "x"), (digest(b""), "")] {
        let url = session(&ecr, &digest).await;
        let refused = upload(&ecr, &url, body.as_bytes()).await;
        assert_eq!(code(&refused), "400 BLOB_UPLOAD_INVALID");
    }
    assert_eq!(ecr.repository(NAME).blobs.len(), 2);
    ecr.set_upload_location(UploadLocation::WithQuery);
    let url = session(&ecr, "").await.replace("?_state", "?lost");
    let without_query = upload(&ecr, &url, b"x").await;
    assert_eq!(code(&without_query), "400 BLOB_UPLOAD_INVALID");
}

#[tokio::test]
async fn a_broken_upload_can_not_be_resumed() {
    let ecr = registry().await;
    let url = session(&ecr, &digest(b"0123456789")).await;
    let broken = Fault::DropRequestAfter(4);
    ecr.server.fault("PUT", "", 1, broken);
    let basic = format!("Basic {}", STANDARD.encode("AWS:ecr-password"));
    let headers = [("authorization", basic.as_str())];
    assert!(send("PUT", &url, &headers, "0123456789").await.is_err());
    let again = upload(&ecr, &url, b"0123456789").await;
    assert_eq!(code(&again), "416 BLOB_UPLOAD_INVALID");
    let patch = ask(&ecr, "PATCH", &url, ("x", ""), "0123").await;
    assert_eq!(code(&patch), "405 UNSUPPORTED");
    assert_eq!(ecr.uploads()[0].received_bytes, 4);
}

#[tokio::test]
async fn an_image_needs_its_blobs_and_an_index_its_children() {
    let ecr = registry().await;
    let child = Image::single(&[Blob::bytes("layer")]);
    let index = Image::index(vec![child.clone().on("linux/amd64")]);
    assert_eq!(put(&ecr, "1", &child).await, "400 BLOB_UPLOAD_UNKNOWN");
    push_blobs(&ecr, &child).await;
    assert_eq!(put(&ecr, "1", &index).await, "400 MANIFEST_BLOB_UNKNOWN");
    assert_eq!(put(&ecr, &child.top, &child).await, "201 ");
    assert!(ecr.tag_writes().is_empty());
    assert_eq!(put(&ecr, "1", &index).await, "201 ");
    let (layer, _) = &child.blobs[0];
    ecr.delete_blob(NAME, layer);
    assert_eq!(put(&ecr, "2", &index).await, "201 ");
    let missing = ecr.tag_writes().into_iter().map(|write| write.missing);
    assert_eq!(missing.collect::<Vec<_>>(), [vec![], vec![layer.clone()]]);
}

#[tokio::test]
async fn manifests_that_ecr_does_not_accept_are_refused() {
    let ecr = registry().await;
    let good = image(&ecr, "layer").await;
    let with_urls = |media_type: &str| {
        let layer = Descriptor {
            urls: vec!["https://example.com/layer".to_owned()],
            ..Descriptor::of_blob(media_type, &Blob::bytes("elsewhere"))
        };
        ImageBuilder::oci().layer_described(layer).build()
    };
    let artifact = ImageBuilder::artifact("application/vnd.example+json;version=0.2");
    let artifact = artifact.layer(OCI_LAYER, Blob::bytes("layer"));
    let huge = "x".repeat(MANIFEST_LIMIT_BYTES);
    let bytes = good.top_manifest().bytes.clone();
    for (image, expected) in [
        (ImageBuilder::oci().build(), "405 UNSUPPORTED"),
        (artifact.build(), "405 UNSUPPORTED"),
        (Image::raw(OCI_MANIFEST, huge), "405 UNSUPPORTED"),
        (Image::raw("application/json", "{}"), "405 UNSUPPORTED"),
        (Image::raw(DOCKER_MANIFEST, bytes), "405 UNSUPPORTED"),
        (with_urls(OCI_LAYER), "400 BLOB_UPLOAD_UNKNOWN"),
        (with_urls(DOCKER_FOREIGN_LAYER), "201 "),
    ] {
        push_blobs(&ecr, &image).await;
        assert_eq!(put(&ecr, "1", &image).await, expected);
    }
    let other = digest(b"other");
    assert_eq!(put(&ecr, &other, &good).await, "400 DIGEST_INVALID");
}

#[tokio::test]
async fn an_immutable_tag_is_never_written_again_even_with_the_same_digest() {
    let ecr = registry().await;
    ecr.create_immutable_repository(NAME);
    let image = image(&ecr, "layer").await;
    assert_eq!(put(&ecr, "1", &image).await, "201 ");
    assert_eq!(put(&ecr, "1", &image).await, "400 TAG_INVALID");
    assert_eq!(put(&ecr, &image.top, &image).await, "201 ");
}

#[tokio::test]
async fn a_manifest_is_read_back_under_its_own_type_once_its_tag_is_visible() {
    let ecr = registry().await;
    let (old, new) = (image(&ecr, "old").await, image(&ecr, "new").await);
    for (before, image) in [("", &old), (&old.top, &new)] {
        ecr.lag_reads(NAME, "1", 1);
        assert_eq!(read(&ecr, "1", OCI_MANIFEST).await, before);
        put(&ecr, "1", image).await;
        assert_eq!(read(&ecr, &image.top, OCI_MANIFEST).await, image.top);
        assert_eq!(read(&ecr, "1", OCI_MANIFEST).await, before);
        assert_eq!(read(&ecr, "1", OCI_MANIFEST).await, image.top);
    }
    assert_eq!(read(&ecr, "1", DOCKER_MANIFEST).await, "");
}

#[tokio::test]
async fn what_refers_to_a_manifest_is_listed_by_its_subject() {
    let ecr = registry().await;
    let image = image(&ecr, "a layer").await;
    let signed = Signer::GitHub.sign(image.top_manifest());
    let refused = Image::refused_referrer(image.top_manifest());
    assert_eq!(ecr.referrers(NAME, &image.top).await, Vec::<String>::new());
    push_blobs(&ecr, &signed).await;
    assert_eq!(put(&ecr, &signed.top, &signed).await, "201 ");
    assert_eq!(put(&ecr, &refused.top, &refused).await, "405 UNSUPPORTED");
    assert_eq!(ecr.referrers(NAME, &image.top).await, [signed.top]);
}

/// Only where the account has it enabled, and only what a manifest of the other repository refers to.
#[tokio::test]
async fn a_blob_is_mounted_or_its_upload_begins() {
    let ecr = registry().await;
    ecr.create_repository("prod/web");
    let image = image(&ecr, "layer").await;
    let digest = image.blobs[0].0.clone();
    let path = format!("prod/web/blobs/uploads/?mount={digest}&from={NAME}");
    let mount = async || {
        let answer = ask(&ecr, "POST", &path, ("x", ""), "").await;
        let is_session = answer.header("location").contains("/blobs/uploads/");
        assert_eq!(is_session, answer.status() == 202);
        answer.status()
    };
    ecr.set_blob_mounting(true);
    assert_eq!(mount().await, 202, "no manifest refers to it");
    assert_eq!(put(&ecr, "1", &image).await, "201 ");
    ecr.set_blob_mounting(false);
    assert_eq!(mount().await, 202, "it is off");
    ecr.set_blob_mounting(true);
    assert_eq!(mount().await, 201);
    assert!(ecr.repository("prod/web").blobs.contains_key(&digest));
    let expected = Mount {
        from: NAME.to_owned(),
        repository: "prod/web".to_owned(),
        digest,
    };
    assert_eq!(ecr.mounts(), [expected]);
    ecr.change_settings("prod/web", |settings| {
        settings.encryption = "KMS".to_owned()
    });
    assert_eq!(mount().await, 202, "it is encrypted otherwise");
}
