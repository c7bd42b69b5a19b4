//! Blob uploads: a session, the blob in one PUT, and commit under its digest.

use std::sync::Mutex;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::http::request::Parts;

use super::{
    KEPT_BLOB_BYTES, Refusal, Repository, State, StoredBlob, Upload, UploadLocation, after,
    is_digest,
};
use crate::http::{self, Reply, RequestBody, lock};
use crate::image;

/// An upload session, which takes one body.
pub(super) struct Session {
    pub(super) upload: Upload,
    /// Set while a body arrives, and for good if it breaks off.
    broken: bool,
    finished: bool,
}

/// A blob that came from another repository.
#[derive(Clone, Debug, PartialEq)]
pub struct Mount {
    pub from: String,
    pub repository: String,
    pub digest: String,
}

/// Mounts the blob that a POST asks for, if the account has that enabled and the conditions hold: the same encryption, the right to
/// read the other repository, and a manifest there that refers to the blob. (ECR user guide, "Blob mounting")
fn mount(head: &Parts, name: &str, state: &mut State) -> Option<Reply> {
    let mut query = http::query(&head.uri.to_string());
    let (digest, from) = (query.remove("mount")?, query.remove("from")?);
    if !state.blob_mounting || state.denied.contains("GetDownloadUrlForLayer") {
        return None;
    }
    let source = state.repositories.get(&from)?;
    let target = state.repositories.get(name)?;
    let encryption =
        |it: &Repository| (it.settings.encryption.clone(), it.settings.kms_key.clone());
    if encryption(source) != encryption(target) || !source.is_referred_to(&digest) {
        return None;
    }
    let blob = source.blobs.get(&digest)?.clone();
    let target = state.repositories.get_mut(name)?;
    target.blobs.insert(digest.clone(), blob);
    let location = format!("/v2/{name}/blobs/{digest}");
    state.mounts.push(Mount {
        from,
        repository: name.to_owned(),
        digest: digest.clone(),
    });
    let headers = [("location", location), ("docker-content-digest", digest)];
    Some(http::reply(201, &headers, ""))
}

/// Answers POST: opens a session. A request to mount a blob gets one too where nothing is mounted.
pub(super) fn open(head: &Parts, name: &str, state: &mut State) -> Reply {
    if let Some(mounted) = mount(head, name, state) {
        return mounted;
    }
    let id = state.sessions.len();
    state.sessions.push(Session {
        upload: Upload {
            repository: name.to_owned(),
            received_bytes: 0,
            committed: None,
        },
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

/// The position of a session in the list, or why it can't take a body.
fn session_index(head: &Parts, name: &str, id: &str, state: &State) -> Result<usize, Refusal> {
    let refusal = |status, code, message: &str| Box::new(http::oci_error(status, code, message));
    let unknown = || refusal(404, "BLOB_UPLOAD_UNKNOWN", "Upload not found");
    let index: usize = id.parse().map_err(|_| unknown())?;
    let session = state
        .sessions
        .get(index)
        .filter(|it| it.upload.repository == name && !it.finished)
        .ok_or_else(unknown)?;
    let query = http::query(&head.uri.to_string());
    if state.upload_location == UploadLocation::WithQuery
        && query.get("_state").is_none_or(|it| it != id)
    {
        let message = "the query of the upload's location is missing";
        return Err(refusal(400, "BLOB_UPLOAD_INVALID", message));
    }
    if session.broken {
        let received = session.upload.received_bytes;
        let message = format!("First byte of the layer part is 0 instead of {received}");
        return Err(refusal(416, "BLOB_UPLOAD_INVALID", &message));
    }
    Ok(index)
}

/// Answers PUT: receives the blob, and commits it if it has the announced digest.
pub(super) async fn receive(
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
    if !head.headers.contains_key("content-length")
        && !head.headers.contains_key("transfer-encoding")
    {
        let message = "Content-Length or Transfer-Encoding is required";
        return http::oci_error(411, "SIZE_INVALID", message);
    }
    let expected = http::query(&head.uri.to_string()).remove("digest");
    let Some(expected) = expected.filter(|digest| is_digest(digest)) else {
        let refusal = http::oci_error(400, "DIGEST_INVALID", "Invalid digest format");
        return after(body, refusal).await;
    };
    let Some((digest, bytes)) = store(body, index, state).await else {
        return http::oci_error(400, "BLOB_UPLOAD_INVALID", "the request broke off");
    };

    let mut state = lock(state);
    let session = &mut state.sessions[index];
    session.finished = true;
    let length = session.upload.received_bytes;
    if length == 0 {
        let message =
            "EmptyUploadException: The specified layer upload does not contain any layer parts";
        return http::oci_error(400, "BLOB_UPLOAD_INVALID", message);
    }
    if digest != expected {
        let message = "None of the provided layer digests match the calculated layer digest";
        return http::oci_error(400, "BLOB_UPLOAD_INVALID", message);
    }
    session.upload.committed = Some(digest.clone());
    let repository = state
        .repositories
        .get_mut(name)
        .expect("an admitted repository");
    let blob = StoredBlob { length, bytes };
    repository.blobs.insert(digest.clone(), blob);
    let location = format!("/v2/{name}/blobs/{digest}");
    let headers = [("location", location), ("docker-content-digest", digest)];
    http::reply(201, &headers, "")
}

/// Receives a body, and returns its digest, and its bytes if there are no more than [`KEPT_BLOB_BYTES`]. `None` if the body broke
/// off: then the session can't be used any more.
async fn store(
    mut body: RequestBody,
    index: usize,
    state: &Mutex<State>,
) -> Option<(String, Option<Bytes>)> {
    lock(state).sessions[index].broken = true;
    let mut hash = Context::new(&SHA256);
    let mut kept = Some(Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.ok()?.into_data() else {
            continue;
        };
        hash.update(&data);
        if let Some(bytes) = &mut kept {
            bytes.extend_from_slice(&data);
        }
        kept = kept.filter(|bytes| bytes.len() as u64 <= KEPT_BLOB_BYTES);
        lock(state).sessions[index].upload.received_bytes += data.len() as u64;
    }
    lock(state).sessions[index].broken = false;
    Some((image::finish(hash), kept.map(Bytes::from)))
}
