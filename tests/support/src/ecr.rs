//! Amazon ECR's registry API, `/v2`, with the refusals by which it differs from other registries.
//!
//! Statuses, codes and texts are those that AWS documents or that users of the real service have quoted. Where nobody has quoted the
//! status (missing layers or children at a manifest PUT), it is that of the JSON API's exception.
//! Blobs are hashed while they arrive. The content of one larger than a mebibyte is not stored.
//! PATCH is refused: ECR's uploads in parts are off the specification, and a client that relies on them fails
//! (aws/containers-roadmap, issue 2831).

mod limits;
mod manifests;
mod settings;
mod uploads;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

pub use self::settings::Settings;
pub use self::uploads::Mount;
use crate::function::{ACCOUNT, REGION};
use crate::http::{self, Certificate, Reply, RequestBody, Server, lock};
use crate::image::{Blob, Image, StoredManifest};
use crate::lag::Lags;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::http::request::Parts;

/// The content of blobs up to this size is stored.
const KEPT_BLOB_BYTES: u64 = 1024 * 1024;

/// One private ECR registry.
#[derive(Clone)]
pub struct Ecr {
    /// URL, request log and faults.
    pub server: Server,
    state: Arc<Mutex<State>>,
}

/// A repository and what it holds.
#[derive(Clone, Debug, Default)]
pub struct Repository {
    /// Digest by tag.
    pub tags: BTreeMap<String, String>,
    /// By digest.
    pub manifests: BTreeMap<String, StoredManifest>,
    /// By digest.
    pub blobs: BTreeMap<String, StoredBlob>,
    /// When a manifest was pushed, by digest; long ago for what was there before.
    pub pushed_at: BTreeMap<String, SystemTime>,
    /// The digests of images in the archive, which a pull does not find and a push restores.
    pub archived: BTreeSet<String>,
    /// How it is set up.
    pub settings: Settings,
    lags: Lags,
}

/// A blob that was committed under its digest.
#[derive(Clone, Debug)]
pub struct StoredBlob {
    pub length: u64,
    /// The content, if it is no larger than a mebibyte.
    pub bytes: Option<Bytes>,
}

impl StoredBlob {
    fn of(blob: &Blob) -> StoredBlob {
        let length = blob.length();
        let is_kept = length <= KEPT_BLOB_BYTES;
        let bytes = is_kept.then(|| blob.chunks(0..length).flatten().collect());
        StoredBlob { length, bytes }
    }
}

/// One write of a tag, and which parts of the image were missing at that moment.
#[derive(Clone, Debug, PartialEq)]
pub struct TagWrite {
    pub repository: String,
    pub tag: String,
    pub digest: String,
    /// Digests that the tag reached and the repository did not hold. Unless this is empty, the image was broken.
    pub missing: Vec<String>,
}

/// One upload session that received bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Upload {
    pub repository: String,
    pub received_bytes: u64,
    /// The digest under which it was committed; `None` if it broke off or was refused.
    pub committed: Option<String>,
}

/// The form of an upload session's `Location`. The OCI distribution specification allows all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum UploadLocation {
    #[default]
    Absolute,
    Relative,
    /// Absolute, with a query that must come back beside `digest`.
    WithQuery,
}

#[derive(Default)]
struct State {
    repositories: BTreeMap<String, Repository>,
    password: String,
    expired_passwords: BTreeSet<String>,
    denied: BTreeSet<String>,
    limits: limits::Limits,
    scheme: &'static str,
    upload_location: UploadLocation,
    /// What a repository is created with at the first step of a push to it.
    on_push: Option<Settings>,
    /// Whether the account setting `BLOB_MOUNTING` is enabled.
    blob_mounting: bool,
    mounts: Vec<Mount>,
    sessions: Vec<uploads::Session>,
    tag_writes: Vec<TagWrite>,
}

impl Ecr {
    /// The password until [`Ecr::renew_password`] sets another. The user name is always `AWS`.
    pub const PASSWORD: &str = "ecr-password";

    /// Starts a registry without repositories.
    pub async fn start() -> Ecr {
        Ecr::start_with(None).await
    }

    /// As [`Ecr::start`], over HTTPS with this certificate, or over HTTP without one.
    pub async fn start_with(certificate: Option<&Certificate>) -> Ecr {
        Ecr::start_with_password(certificate, Ecr::PASSWORD).await
    }

    /// As [`Ecr::start_with`], with another password at first.
    pub(crate) async fn start_with_password(
        certificate: Option<&Certificate>,
        password: &str,
    ) -> Ecr {
        let state = Arc::new(Mutex::new(State {
            password: password.to_owned(),
            ..State::default()
        }));
        let server = {
            let state = state.clone();
            Server::start_with(certificate, move |request| answer(request, state.clone())).await
        };
        lock(&state).scheme = server.scheme();
        Ecr { server, state }
    }

    /// Creates a repository whose tags may move.
    pub fn create_repository(&self, name: &str) {
        self.state()
            .repositories
            .entry(name.to_owned())
            .or_default();
    }

    /// Creates a repository with immutable tags, or makes the tags of an existing one immutable.
    pub fn create_immutable_repository(&self, name: &str) {
        self.state()
            .repositories
            .entry(name.to_owned())
            .or_default()
            .settings
            .tag_mutability = "IMMUTABLE".to_owned();
    }

    /// How a repository is set up, if it exists.
    pub fn settings(&self, name: &str) -> Option<Settings> {
        let state = self.state();
        let repository = state.repositories.get(name)?;
        Some(repository.settings.clone())
    }

    /// Sets a repository up otherwise, as somebody may in the console.
    pub fn change_settings(&self, name: &str, change: impl FnOnce(&mut Settings)) {
        self.change(name, |it| {
            change(&mut it.settings);
            Some(())
        });
    }

    /// From now on a missing repository is created with these settings when something is pushed to it.
    pub fn create_on_push(&self, settings: Settings) {
        self.state().on_push = Some(settings);
    }

    /// Deletes a repository and everything in it.
    pub fn delete_repository(&self, name: &str) {
        let deleted = self.state().repositories.remove(name);
        assert!(deleted.is_some(), "repository {name} was not created");
    }

    /// Creates the repository if it does not exist, and stores a whole image under a tag in it, as if it had been pushed before.
    pub fn put_image(&self, name: &str, tag: &str, image: &Image) {
        self.create_repository(name);
        self.put_untagged(name, image);
        self.put_tag(name, tag, &image.top);
    }

    /// Archives what a tag stands for, as a lifecycle rule may.
    pub fn archive(&self, name: &str, tag: &str) {
        self.change(name, |it| {
            let digest = it.tags.get(tag)?.clone();
            it.archived.insert(digest);
            Some(())
        });
    }

    /// Deletes a tag, and with its last tag the image. Gives its digest.
    pub fn delete_tag(&self, name: &str, tag: &str) -> Option<String> {
        let mut state = self.state();
        let repository = state.repositories.get_mut(name)?;
        let digest = repository.tags.remove(tag)?;
        if !repository.tags.values().any(|tagged| *tagged == digest) {
            repository.manifests.remove(&digest);
        }
        Some(digest)
    }

    /// As if everything in a repository had been pushed long ago.
    pub fn grow_old(&self, name: &str) {
        self.change(name, |it| {
            it.pushed_at.clear();
            Some(())
        });
    }

    /// A copy of a repository as it is now.
    pub fn repository(&self, name: &str) -> Repository {
        let repository = self.state().repositories.get(name).cloned();
        repository.unwrap_or_else(|| panic!("repository {name} was not created"))
    }

    /// Every tag write so far, oldest first.
    pub fn tag_writes(&self) -> Vec<TagWrite> {
        self.state().tag_writes.clone()
    }

    /// Every upload session that received bytes, in the order of their POST requests.
    pub fn uploads(&self) -> Vec<Upload> {
        self.state()
            .sessions
            .iter()
            .map(|session| session.upload.clone())
            .filter(|it| it.received_bytes > 0)
            .collect()
    }

    /// The digests of what refers to `subject`, as ECR's own referrers API lists them.
    pub async fn referrers(&self, repository: &str, subject: &str) -> Vec<String> {
        let url = format!("{}/v2/{repository}/referrers/{subject}", self.server.url());
        let credential = STANDARD.encode(format!("AWS:{}", self.state().password));
        let authorization = format!("Basic {credential}");
        let answer = http::client::get(&url, &[("authorization", &authorization)]).await;
        let entries = answer.json()["manifests"].as_array().cloned();
        let entries = entries.expect("an index").into_iter();
        entries
            .filter_map(|entry| Some(entry["digest"].as_str()?.to_owned()))
            .collect()
    }

    /// Sets the account setting `BLOB_MOUNTING`, which is off at first.
    pub fn set_blob_mounting(&self, is_enabled: bool) {
        self.state().blob_mounting = is_enabled;
    }

    /// Every blob that came from another repository, oldest first.
    pub fn mounts(&self) -> Vec<Mount> {
        self.state().mounts.clone()
    }

    /// Deletes a blob, as ECR may do with one that no image refers to.
    pub fn delete_blob(&self, repository: &str, digest: &str) {
        self.change(repository, |it| it.blobs.remove(digest).map(drop));
    }

    /// Deletes a manifest and the tags on it.
    pub fn delete_manifest(&self, repository: &str, digest: &str) {
        self.change(repository, |it| {
            it.tags.retain(|_, tagged| tagged != digest);
            it.manifests.remove(digest).map(drop)
        });
    }

    /// Stores a blob, as if it had been pushed before.
    pub fn put_blob(&self, repository: &str, blob: &Blob) {
        self.change(repository, |it| {
            it.blobs.insert(blob.digest(), StoredBlob::of(blob));
            Some(())
        });
    }

    /// Stores an image without a tag, as if it had been pushed before.
    pub fn put_untagged(&self, repository: &str, image: &Image) {
        self.change(repository, |it| {
            let blobs = image.blobs.iter();
            it.blobs
                .extend(blobs.map(|(digest, blob)| (digest.clone(), StoredBlob::of(blob))));
            let manifests = image.manifests.iter().cloned();
            it.manifests
                .extend(manifests.map(|manifest| (manifest.digest.clone(), manifest)));
            Some(())
        });
    }

    /// Points a tag at a manifest, which must exist, as if it had been pushed before.
    pub fn put_tag(&self, repository: &str, tag: &str, digest: &str) {
        self.change(repository, |it| {
            let is_there = it.manifests.contains_key(digest);
            it.tags.insert(tag.to_owned(), digest.to_owned());
            is_there.then_some(())
        });
    }

    /// After the next PUT of `tag`, the next `reads` GET and HEAD requests for it are answered as before the PUT: with the old
    /// digest, or 404. Reads by digest don't lag, and the check for immutable tags doesn't either.
    pub fn lag_reads(&self, repository: &str, tag: &str, reads: usize) {
        self.change(repository, |it| {
            it.lags.set(tag, reads);
            Some(())
        });
    }

    /// Panics if the repository does not exist, or `change` returns `None`.
    fn change(&self, repository: &str, change: impl FnOnce(&mut Repository) -> Option<()>) {
        let mut state = self.state();
        let found = state.repositories.get_mut(repository).and_then(change);
        found.unwrap_or_else(|| panic!("{repository} does not exist, or does not hold this"));
    }

    /// From now on `password` is valid, and the one before it has expired.
    pub fn renew_password(&self, password: &str) {
        let mut state = self.state();
        let expired = std::mem::replace(&mut state.password, password.to_owned());
        state.expired_passwords.insert(expired);
    }

    /// From now on the caller lacks the permission for `action`, such as `PutImage` or `InitiateLayerUpload`.
    pub fn deny(&self, action: &str) {
        self.state().denied.insert(action.to_owned());
    }

    /// From now on the request rates of an ordinary account apply to each action. At first there are no limits.
    pub fn set_default_quotas(&self) {
        for (action, per_second) in limits::DEFAULT_QUOTAS {
            self.set_quota(action, per_second);
        }
    }

    /// From now on at most `per_second` requests of `action` are answered per second, and as many at once; at least one.
    pub fn set_quota(&self, action: &str, per_second: u32) {
        let second = Duration::from_secs(1);
        let mut state = self.state();
        state.limits.set(action, per_second, second, Instant::now());
    }

    /// How many requests of `action` were answered with 429 since its quota was set.
    pub fn throttled(&self, action: &str) -> u64 {
        self.state().limits.refused(action)
    }

    /// Sets the form of the `Location` of upload sessions.
    pub fn set_upload_location(&self, form: UploadLocation) {
        self.state().upload_location = form;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// What a path below `/v2/` addresses.
enum Endpoint<'a> {
    Base,
    Uploads,
    Upload(&'a str),
    Blob(&'a str),
    Manifest(&'a str),
    Referrers(&'a str),
}

fn endpoint(path: &str) -> Option<(&str, Endpoint<'_>)> {
    let path = path.strip_prefix("/v2/")?;
    if path.is_empty() {
        return Some(("", Endpoint::Base));
    }
    if let Some((name, session)) = path.split_once("/blobs/uploads/") {
        return Some((
            name,
            if session.is_empty() {
                Endpoint::Uploads
            } else {
                Endpoint::Upload(session)
            },
        ));
    }
    let (rest, last) = path.rsplit_once('/')?;
    let (name, kind) = rest.rsplit_once('/')?;
    let endpoint = match (kind, last) {
        ("blobs", digest) => Endpoint::Blob(digest),
        ("manifests", reference) => Endpoint::Manifest(reference),
        ("referrers", digest) => Endpoint::Referrers(digest),
        _ => return None,
    };
    Some((name, endpoint))
}

/// The IAM actions behind a request (ECR user guide, "IAM permissions for pushing an image").
fn actions(method: &str, endpoint: &Endpoint<'_>) -> &'static [&'static str] {
    match (method, endpoint) {
        ("POST", Endpoint::Uploads) => &["InitiateLayerUpload"],
        ("PUT", Endpoint::Upload(_)) => &["UploadLayerPart", "CompleteLayerUpload"],
        ("HEAD", Endpoint::Blob(_)) => &["BatchCheckLayerAvailability"],
        ("PUT", Endpoint::Manifest(_)) => &["PutImage"],
        ("GET" | "HEAD", Endpoint::Manifest(_)) | ("GET", Endpoint::Referrers(_)) => {
            &["BatchGetImage"]
        }
        _ => &[],
    }
}

/// An answer that refuses the request. Boxed, as an answer is large.
type Refusal = Box<Reply>;

async fn answer(request: hyper::Request<RequestBody>, state: Arc<Mutex<State>>) -> Reply {
    let (head, body) = request.into_parts();
    let method = head.method.as_str();
    let refused = admit(&head, &mut lock(&state)).err();
    if let Some(refusal) = refused {
        return after(body, *refusal).await;
    }
    let (name, endpoint) = endpoint(head.uri.path()).expect("an admitted path");
    match (method, endpoint) {
        ("GET", Endpoint::Base) => http::reply(200, &[], ""),
        ("POST", Endpoint::Uploads) => uploads::open(&head, name, &mut lock(&state)),
        ("PUT", Endpoint::Upload(session)) => {
            uploads::receive(&head, body, name, session, &state).await
        }
        // The real service answers this even while the session is open (dotnet/sdk, issue 33019).
        ("GET", Endpoint::Upload(_)) => {
            http::oci_error(404, "BLOB_UPLOAD_UNKNOWN", "Upload not found")
        }
        // The service's own API has no operation that gives up an upload. (Amazon ECR API reference, "Actions")
        ("DELETE", Endpoint::Upload(_)) => unsupported("The operation is unsupported"),
        ("HEAD", Endpoint::Blob(digest)) => match lock(&state).repositories[name].blobs.get(digest)
        {
            Some(blob) => http::reply(
                200,
                &[
                    ("content-length", blob.length.to_string()),
                    ("docker-content-digest", digest.to_owned()),
                ],
                "",
            ),
            None => http::oci_error(404, "BLOB_UNKNOWN", "The requested layer was not found"),
        },
        ("GET" | "HEAD", Endpoint::Manifest(reference)) => {
            manifests::get(&head, name, reference, &mut lock(&state))
        }
        ("GET", Endpoint::Referrers(digest)) => manifests::referrers(name, digest, &lock(&state)),
        ("PUT", Endpoint::Manifest(reference)) => match body.bytes().await {
            Ok(bytes) => manifests::put(&head, bytes, name, reference, &mut lock(&state))
                .unwrap_or_else(|refusal| *refusal),
            Err(_) => http::oci_error(400, "MANIFEST_INVALID", "the request broke off"),
        },
        _ => after(body, unsupported("The operation is unsupported")).await,
    }
}

/// Checks credentials, path, permission, request rate and repository, in this order.
fn admit(head: &Parts, state: &mut State) -> Result<(), Refusal> {
    let challenge = || {
        let challenge = format!(
            "Basic realm=\"https://{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/\",service=\"ecr.amazonaws.com\""
        );
        Box::new(http::reply(
            401,
            &[("www-authenticate", challenge)],
            "Not Authorized\n",
        ))
    };
    let credential = head
        .headers
        .get("authorization")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let credential = credential
        .strip_prefix("Basic ")
        .and_then(|text| STANDARD.decode(text).ok());
    let credential = credential
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(challenge)?;
    let password = credential.strip_prefix("AWS:").ok_or_else(challenge)?;
    if state.expired_passwords.contains(password) {
        let message = "Your authorization token has expired. Reauthenticate and try again.";
        return Err(Box::new(http::oci_error(403, "DENIED", message)));
    }
    if password != state.password {
        return Err(challenge());
    }

    let Some((name, endpoint)) = endpoint(head.uri.path()) else {
        return Err(Box::new(http::reply(404, &[], "404 page not found\n")));
    };
    let actions = actions(head.method.as_str(), &endpoint);
    for action in actions {
        if state.denied.contains(*action) {
            let message = format!(
                "User: arn:aws:sts::{ACCOUNT}:assumed-role/ghcr-to-ecr/ghcr-to-ecr is not authorized to perform: ecr:{action} \
                 on resource: arn:aws:ecr:{REGION}:{ACCOUNT}:repository/{name} because no identity-based policy allows the ecr:{action} action"
            );
            return Err(Box::new(http::oci_error(403, "DENIED", &message)));
        }
    }
    state.limits.admit(actions, Instant::now())?;
    if let (Some(settings), Endpoint::Uploads) = (&state.on_push, &endpoint)
        && !state.repositories.contains_key(name)
    {
        let settings = settings.clone();
        let created = state.repositories.entry(name.to_owned()).or_default();
        created.settings = settings;
    }
    if !matches!(endpoint, Endpoint::Base) && !state.repositories.contains_key(name) {
        let message = format!(
            "The repository with name '{name}' does not exist in the registry with id '{ACCOUNT}'"
        );
        return Err(Box::new(http::oci_error(404, "NAME_UNKNOWN", &message)));
    }
    Ok(())
}

/// Reads and discards the body before a refusal, which a client that is still sending might miss.
async fn after(mut body: RequestBody, refusal: Reply) -> Reply {
    while let Some(Ok(_)) = body.frame().await {}
    refusal
}

fn unsupported(message: &str) -> Reply {
    http::oci_error(405, "UNSUPPORTED", message)
}

fn is_digest(text: &str) -> bool {
    let lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(lower_hex))
}

#[cfg(test)]
mod tests;
