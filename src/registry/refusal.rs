//! What a registry's refusal means, and what to do about it.
//!
//! Here, and nowhere else, a status, an error code and a text become a [`Kind`] and an advice.

use std::time::{Duration, SystemTime};

use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode};
use serde::Deserialize;

use super::authorization::Authorization;
use super::immutability;
use crate::error::{Error, Kind, Operation, Side};

/// How long the body of a refusal is read. It is short, the status alone tells enough, and the answer to a streamed request has no
/// time limit of its own.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a request goes and what for: all that an error has to say of it.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) side: Side,
    pub(super) operation: Operation,
    pub(super) host: &'a str,
    pub(super) repository: &'a str,
    /// `:tag`, `@digest`, or nothing.
    pub(super) suffix: &'a str,
    pub(super) authorization: &'a Authorization,
}

impl Place<'_> {
    pub(super) fn reference(&self) -> String {
        format!("{}/{}{}", self.host, self.repository, self.suffix)
    }

    /// An error of our own finding, which may quote what was found.
    pub(super) fn error(&self, kind: Kind, detail: String) -> Error {
        Error::Registry {
            side: self.side,
            operation: self.operation,
            reference: self.reference(),
            kind,
            detail: without_secrets(&detail, self.authorization),
            advice: String::new(),
            retry_after: None,
        }
    }

    /// A connection that could not be made, broke or took too long. The URL is left out: it may be a signed one.
    pub(super) fn broken(&self, error: reqwest::Error) -> Error {
        let error = error.without_url();
        let mut detail = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            detail = format!("{detail}: {cause}");
            source = cause.source();
        }
        self.error(Kind::Transient, detail)
    }

    /// Content that is not what it was said to be, some of which may be quoted.
    pub(super) fn content(&self, reason: String) -> Error {
        Error::Content {
            side: self.side,
            reference: self.reference(),
            reason: without_secrets(&reason, self.authorization),
        }
    }
}

/// The error envelope of the distribution specification; GHCR and ECR both send it, though not always.
#[derive(Default, Deserialize)]
struct Envelope {
    #[serde(default)]
    errors: Vec<EnvelopeError>,
}

#[derive(Default, Deserialize)]
struct EnvelopeError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The error that `response`, which is no success, stands for.
pub(super) async fn of(response: Response, place: &Place<'_>) -> Error {
    let status = response.status();
    let retry_after = retry_after(&response);
    let body = tokio::time::timeout(BODY_TIMEOUT, limited_body(response, 64 * 1024)).await;
    let body = body.ok().flatten().unwrap_or_default();
    let envelope: Envelope = serde_json::from_slice(&body).unwrap_or_default();
    let error = envelope.errors.into_iter().next().unwrap_or_default();
    from_error(status, retry_after, error, place)
}

/// As [`of`], where the storage behind the registry answers. It is not quoted: it knows no error envelope, but it knows the signed URL.
pub(super) fn of_storage(response: &Response, place: &Place<'_>) -> Error {
    let (status, retry_after) = (response.status(), retry_after(response));
    from_error(status, retry_after, EnvelopeError::default(), place)
}

fn from_error(
    status: StatusCode,
    retry_after: Option<Duration>,
    error: EnvelopeError,
    place: &Place<'_>,
) -> Error {
    let EnvelopeError { code, message } = error;
    let shown = |text: &str| printable(text, place.authorization);
    let detail = [status.as_str(), &shown(&code), &shown(&message)]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    if is_part_missing(place, &code, &message) {
        return Error::PartMissing {
            reference: place.reference(),
            detail,
        };
    }
    let kind = kind(place, status, &code, &message);
    Error::Registry {
        side: place.side,
        operation: place.operation,
        reference: place.reference(),
        kind,
        detail,
        advice: advice(place, kind, &code, &message),
        retry_after,
    }
}

/// A manifest is refused because something that it refers to is not there. Neither ECR's status nor its code is documented for
/// it: seen were BLOB_UPLOAD_UNKNOWN, "Layers with digests '[…]' required for pushing image into repository with name '…' …", and
/// MANIFEST_BLOB_UNKNOWN, "Images with digests …". So these words and the exceptions' names count too.
/// (oras-project/oras-py#54; int128/docker-manifest-create-action#63; ECR API reference, `PutImage`)
fn is_part_missing(place: &Place<'_>, code: &str, message: &str) -> bool {
    place.operation == Operation::PushManifest
        && (matches!(
            code,
            "MANIFEST_BLOB_UNKNOWN" | "BLOB_UNKNOWN" | "BLOB_UPLOAD_UNKNOWN" | "MANIFEST_UNKNOWN"
        ) || [
            "LayersNotFoundException",
            "ReferencedImagesNotFoundException",
            "required for pushing image into repository",
        ]
        .iter()
        .any(|words| message.contains(words)))
}

/// At most `limit` bytes of a body, or `None` if there are more or they don't arrive.
pub(super) async fn limited_body(mut response: Response, limit: usize) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        if body.len() + chunk.len() > limit {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    Some(body)
}

fn kind(place: &Place<'_>, status: StatusCode, code: &str, message: &str) -> Kind {
    // ECR: TAG_INVALID, "… cannot be overwritten because the repository is immutable"; the status differs between reports,
    // so the words decide. (GoogleContainerTools/kaniko PR 204, moby/buildkit#3776)
    if code == "TAG_INVALID" && message.contains("immutable") {
        return Kind::Immutable;
    }
    match status.as_u16() {
        // A success of something else than was asked for: the page of a proxy, say.
        200..=299 => Kind::Transient,
        // GHCR's "You have exceeded a secondary rate limit" is a 403 too.
        403 if message.contains("rate limit") => Kind::Transient,
        401 | 403 => Kind::Denied,
        // An upload session that is gone or out of step: a new session starts from the first byte.
        // (apple/containerization#790; ECR: "First byte of the layer part is X instead of Y")
        404 if code.starts_with("BLOB_UPLOAD") => Kind::Transient,
        // The session was there a moment ago, and with it the repository.
        404 if place.operation == Operation::PushBlob && code != "NAME_UNKNOWN" => Kind::Transient,
        404 => Kind::NotFound,
        408 | 416 | 425 | 429 | 500..=599 => Kind::Transient,
        // The bytes that arrived do not have the digest: read again, and look closer this time.
        // (distribution: DIGEST_INVALID; ECR: BLOB_UPLOAD_INVALID, dotnet/sdk-container-builds#424)
        _ if place.operation == Operation::PushBlob
            && matches!(
                code,
                "DIGEST_INVALID" | "BLOB_UPLOAD_INVALID" | "SIZE_INVALID"
            ) =>
        {
            Kind::Transient
        }
        _ => Kind::Invalid,
    }
}

fn advice(place: &Place<'_>, kind: Kind, code: &str, message: &str) -> String {
    let repository = place.repository;
    match (place.side, kind) {
        (Side::Destination, _) if names_pull_through_cache(message) => {
            format!("nothing can be pushed to {repository}, which ECR fills itself by a rule of its pull-through cache: have the rule here name another repository")
        }
        (Side::Source, Kind::Denied) if place.authorization.has_credential() => {
            "the GHCR token is expired, revoked, lacks read:packages or is not authorised for the organisation's SSO, or the package is missing; GHCR lets only a classic personal access token pull private packages, or a workflow's GITHUB_TOKEN those that its repository has access to".to_owned()
        }
        (Side::Source, Kind::Denied) => {
            "the package is private or missing, and no token is configured: set GHCR_TOKEN_SECRET_ID".to_owned()
        }
        (Side::Source, Kind::NotFound) if code == "NAME_UNKNOWN" => {
            "there is no such package, or the token's account can't see it".to_owned()
        }
        (Side::Source, Kind::NotFound) if place.operation == Operation::FetchBlob => {
            "the image is damaged at the source: push it again".to_owned()
        }
        (Side::Source, Kind::NotFound) => {
            "there is no such tag or digest in the package; where it is part of an image index, the index is damaged at the source: push it again".to_owned()
        }
        (Side::Destination, Kind::Denied) if message.contains("expired") => {
            "the ECR authorization token is no longer valid".to_owned()
        }
        (Side::Destination, Kind::Denied) => {
            format!("allow the function's role to push to repository {repository} (ecr:BatchCheckLayerAvailability, InitiateLayerUpload, UploadLayerPart, CompleteLayerUpload, BatchGetImage, PutImage)")
        }
        (Side::Destination, Kind::NotFound) => {
            format!("the repository does not exist: create it with `aws ecr create-repository --repository-name {repository}`")
        }
        (Side::Destination, Kind::Immutable) => {
            let tag = place.suffix.trim_start_matches(':');
            immutability::advice(repository, tag)
        }
        _ => String::new(),
    }
}

/// ECR's words for such a refusal are not documented, only that pushing is not supported.
/// (ECR user guide, "Considerations for using pull through cache rules")
fn names_pull_through_cache(message: &str) -> bool {
    let message = message.to_ascii_lowercase().replace('-', " ");
    message.contains("pull through cache")
}

/// How long the registry asks not to be called: `Retry-After` in seconds or as a date. Hints below a second (GHCR has sent
/// microseconds) and beyond a minute are brought into that range; a 429 without one that can be read asks for a second.
/// (RFC 9110 section 10.2.3)
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER);
    let value = value.and_then(|value| value.to_str().ok()).map(str::trim);
    let seconds = value.and_then(|value| value.parse().ok().or_else(|| seconds_until(value)));
    let is_throttled = response.status() == StatusCode::TOO_MANY_REQUESTS;
    let seconds: u64 = seconds.or(is_throttled.then_some(1))?;
    Some(Duration::from_secs(seconds.clamp(1, 60)))
}

/// The seconds from now to a date as HTTP writes it; 0 if it is over.
fn seconds_until(date: &str) -> Option<u64> {
    let at = httpdate::parse_http_date(date).ok()?;
    let wait = at.duration_since(SystemTime::now()).unwrap_or_default();
    Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
}

/// Foreign text for a log line: short, without control characters, and without secrets.
fn printable(text: &str, authorization: &Authorization) -> String {
    without_secrets(text, authorization)
        .chars()
        .filter(|character| !character.is_control())
        .take(300)
        .collect()
}

/// A text without anything secret that the registry echoes: the credentials in use, GitHub's tokens, and the queries of URLs, which may
/// be signed.
fn without_secrets(text: &str, authorization: &Authorization) -> String {
    let text = authorization.known_secrets().redact(text);
    let is_space = |character: char| character.is_whitespace() || "\"'<>".contains(character);
    text.split_inclusive(is_space).map(redacted).collect()
}

/// One word without what may be a secret in it.
fn redacted(word: &str) -> String {
    const TOKENS: [&str; 6] = ["ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"];
    const SIGNATURES: [&str; 5] = ["sig=", "signature=", "x-amz-", "token=", "password="];
    let lower = word.to_ascii_lowercase();
    let query = word
        .find('?')
        .filter(|query| word[*query..].contains('='))
        .map(|at| at + 1);
    let secrets = TOKENS
        .iter()
        .chain(&SIGNATURES)
        .filter_map(|start| lower.find(start));
    match secrets.chain(query).min() {
        // The first byte of what is cut off is ASCII, so this is a character's boundary.
        Some(at) => format!("{}… ", &word[..at]),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redaction::KnownSecrets;

    #[test]
    fn a_repository_of_the_pull_through_cache_is_told_from_others() {
        for message in [
            "Pushing to pull through cache repositories is not supported",
            "the repository belongs to a Pull-Through Cache rule",
        ] {
            assert!(names_pull_through_cache(message), "{message}");
        }
        assert!(!names_pull_through_cache("the repository is immutable"));
    }

    #[test]
    fn what_a_registry_echoes_is_shown_without_secrets() {
        let authorization = Authorization::by_challenge(None, KnownSecrets::default());
        let shown = |text: &str| printable(text, &authorization);
        assert_eq!(
            shown("repository name not known\n"),
            "repository name not known"
        );
        assert_eq!(shown("what? is = this"), "what? is = this");
        for text in [
            "no https://storage.example/blobs/x?se=2099&sig=SECRET here",
            "no \"/blobs?X-Amz-Signature=SECRET\" here",
            "token ghp_SECRET is wrong",
            "Token=SECRET",
            "github_pat_SECRET",
        ] {
            assert!(!shown(text).contains("SECRET"), "{}", shown(text));
        }
    }
}
