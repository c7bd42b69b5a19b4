//! Blob uploads: sessions, streaming, commit under a digest, and mounting.

use std::sync::Mutex;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::http::request::Parts;

use super::{
    KEPT_BLOB_BYTES, Refusal, State, StoredBlob, Upload, UploadLocation, after, is_digest,
    manifests,
};
use crate::http::{self, Reply, RequestBody, lock};
use crate::image;

/// Smallest part of a multi-part upload, but for the last (ECR quotas).
const PART_MINIMUM_BYTES: u64 = 5 * 1024 * 1024;

/// What ECR answers to every PATCH, however much it has received (aws/containers-roadmap, issue 2831).
pub(super) const STUCK_RANGE: &str = "0-10485759";

/// An upload session.
pub(super) struct Session {
    pub(super) upload: Upload,
    hash: Option<Context>,
    kept: Option<Vec<u8>>,
    /// Length of the last part, or `u64::MAX` before there is one.
    last_part_bytes: u64,
    /// True while a body arrives, and for good if it breaks off.
    broken: bool,
    finished: bool,
}

/// Answers POST: mounts a blob, or opens a session.
pub(super) fn open(head: &Parts, name: &str, state: &mut State) -> Reply {
    let parameters = http::query(&head.uri.to_string());
    if let (Some(digest), Some(from)) = (parameters.get("mount"), parameters.get("from"))
        && state.mounting
        && let Some(blob) = mountable(state, from, digest)
    {
        state
            .repositories
            .get_mut(name)
            .expect("an admitted repository")
            .blobs
            .insert(digest.clone(), blob);
        let location = format!("/v2/{name}/blobs/{digest}");
        return http::reply(
            201,
            &[
                ("location", location),
                ("docker-content-digest", digest.clone()),
            ],
            "",
        );
    }
    let id = state.sessions.len();
    state.sessions.push(Session {
        upload: Upload {
            repository: name.to_owned(),
            received_bytes: 0,
            committed: None,
        },
        hash: Some(Context::new(&SHA256)),
        kept: Some(Vec::new()),
        last_part_bytes: u64::MAX,
        broken: false,
        finished: false,
    });
    let host = head
        .headers
        .get("host")
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let path = format!("/v2/{name}/blobs/uploads/{id}");
    let location = match state.upload_location {
        UploadLocation::Absolute => format!("{}://{host}{path}", state.scheme),
        UploadLocation::Relative => path,
        UploadLocation::WithQuery => format!("{}://{host}{path}?_state={id}", state.scheme),
    };
    http::reply(
        202,
        &[
            ("location", location),
            ("docker-upload-uuid", id.to_string()),
            ("range", "0-0".to_owned()),
        ],
        "",
    )
}

/// ECR mounts a blob only from a repository that has a committed manifest with it ("Blob mounting in Amazon ECR").
fn mountable(state: &State, from: &str, digest: &str) -> Option<StoredBlob> {
    let source = state.repositories.get(from)?;
    let committed = source
        .manifests
        .values()
        .any(|manifest| manifests::references(manifest).any(|reference| reference == digest));
    source.blobs.get(digest).filter(|_| committed).cloned()
}

/// Why a session can't take (more) bytes, or its place in the list.
fn session_index(head: &Parts, name: &str, id: &str, state: &State) -> Result<usize, Refusal> {
    let unknown = || {
        Box::new(http::oci_error(
            404,
            "BLOB_UPLOAD_UNKNOWN",
            "Upload not found",
        ))
    };
    let index: usize = id.parse().map_err(|_| unknown())?;
    let session = state
        .sessions
        .get(index)
        .filter(|it| it.upload.repository == name)
        .ok_or_else(unknown)?;
    let query = http::query(&head.uri.to_string());
    if state.upload_location == UploadLocation::WithQuery
        && query.get("_state").is_none_or(|it| it != id)
    {
        return Err(Box::new(http::oci_error(
            400,
            "BLOB_UPLOAD_INVALID",
            "the query of the upload's location is missing",
        )));
    }
    if session.finished {
        return Err(unknown());
    }
    let start = head
        .headers
        .get("content-range")
        .and_then(|range| range.to_str().ok()?.split_once('-')?.0.parse().ok());
    let received = session.upload.received_bytes;
    if session.broken || start.is_some_and(|start: u64| start != received) {
        let start = start.unwrap_or(0);
        let message = format!("First byte of the layer part is {start} instead of {received}");
        return Err(Box::new(http::oci_error(
            416,
            "BLOB_UPLOAD_INVALID",
            &message,
        )));
    }
    Ok(index)
}

/// Streams a body into a session. False if the body broke off; the session is lost then.
async fn receive(mut body: RequestBody, index: usize, state: &Mutex<State>) -> bool {
    let mut part = 0;
    let mut hash = {
        let session = &mut lock(state).sessions[index];
        session.broken = true;
        session
            .hash
            .take()
            .expect("a session that is not broken has its hash")
    };
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        hash.update(&data);
        part += data.len() as u64;
        let session = &mut lock(state).sessions[index];
        session.upload.received_bytes += data.len() as u64;
        if session.upload.received_bytes > KEPT_BLOB_BYTES {
            session.kept = None;
        } else if let Some(kept) = &mut session.kept {
            kept.extend_from_slice(&data);
        }
    }
    let session = &mut lock(state).sessions[index];
    session.hash = Some(hash);
    session.broken = false;
    session.last_part_bytes = part;
    true
}

/// Answers PATCH.
pub(super) async fn receive_part(
    head: &Parts,
    body: RequestBody,
    name: &str,
    id: &str,
    state: &Mutex<State>,
) -> Reply {
    let index = session_index(head, name, id, &lock(state));
    let index = match index {
        Ok(index) => index,
        Err(refusal) => return after(body, *refusal).await,
    };
    // The last part of all may be small, so a part is judged when the next one arrives.
    if lock(state).sessions[index].last_part_bytes < PART_MINIMUM_BYTES {
        let message = "LayerPartTooSmallException: layer parts must be at least 5 MiB in size";
        return after(body, http::oci_error(400, "BLOB_UPLOAD_INVALID", message)).await;
    }
    if !receive(body, index, state).await {
        return http::oci_error(400, "BLOB_UPLOAD_INVALID", "the request broke off");
    }
    let location = format!("/v2/{name}/blobs/uploads/{id}");
    // 201 instead of the specification's 202 was seen by several clients.
    http::reply(
        201,
        &[("location", location), ("range", STUCK_RANGE.to_owned())],
        "",
    )
}

/// Answers PUT: receives a body, which may be the whole blob, and commits.
pub(super) async fn receive_last(
    head: &Parts,
    body: RequestBody,
    name: &str,
    id: &str,
    state: &Mutex<State>,
) -> Reply {
    let index = session_index(head, name, id, &lock(state));
    let index = match index {
        Ok(index) => index,
        Err(refusal) => return after(body, *refusal).await,
    };
    let announced = head.headers.contains_key("content-length")
        || head.headers.contains_key("transfer-encoding");
    if !announced {
        return http::oci_error(
            411,
            "SIZE_INVALID",
            "Content-Length or Transfer-Encoding is required",
        );
    }
    let wanted = http::query(&head.uri.to_string())
        .remove("digest")
        .unwrap_or_default();
    if !is_digest(&wanted) {
        return after(
            body,
            http::oci_error(400, "DIGEST_INVALID", "Invalid digest format"),
        )
        .await;
    }
    if !receive(body, index, state).await {
        return http::oci_error(400, "BLOB_UPLOAD_INVALID", "the request broke off");
    }

    let mut state = lock(state);
    let session = &mut state.sessions[index];
    session.finished = true;
    let length = session.upload.received_bytes;
    let hash = session
        .hash
        .take()
        .expect("a session that is not broken has its hash");
    if length == 0 {
        let message =
            "EmptyUploadException: The specified layer upload does not contain any layer parts";
        return http::oci_error(400, "BLOB_UPLOAD_INVALID", message);
    }
    if image::finish(hash) != wanted {
        let message = "None of the provided layer digests match the calculated layer digest";
        return http::oci_error(400, "BLOB_UPLOAD_INVALID", message);
    }
    session.upload.committed = Some(wanted.clone());
    let bytes = session.kept.take().map(Bytes::from);
    let repository = state
        .repositories
        .get_mut(name)
        .expect("an admitted repository");
    repository
        .blobs
        .insert(wanted.clone(), StoredBlob { length, bytes });
    let location = format!("/v2/{name}/blobs/{wanted}");
    http::reply(
        201,
        &[("location", location), ("docker-content-digest", wanted)],
        "",
    )
}
