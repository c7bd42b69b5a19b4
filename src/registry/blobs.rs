//! The verbs for blobs: whether one is there, its bytes out of one registry, and into another.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::{Body, RequestBuilder, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

use super::refusal::Place;
use super::{REQUEST_TIMEOUT, Repository, redirect, refusal, suffix};
use crate::error::{Error, Kind, Operation, Result, Side};
use crate::manifest::{Descriptor, Digest};
use crate::observer::Happened;

/// With all bytes handed over, the destination computes their digest before it answers: so many bytes in a second at least.
const COMMIT_RATE: u64 = 64 * 1024 * 1024;

/// An upload reads on while fewer than so many of its bytes are still to be sent. Without it the HTTP client takes up to 400 KiB
/// and one more read, and holds each read's whole buffer for it; the kernel has a send buffer of its own behind that.
const UPLOAD_BUFFER: usize = 128 * 1024;

/// GHCR redirects a blob once; a few more are followed, a loop is not.
const REDIRECT_LIMIT: usize = 5;

/// An upload session, good for one attempt. (distribution-spec v1.1, "POST then PUT")
pub struct Upload {
    url: Url,
}

/// What a request to mount a blob came to.
pub enum Mounting {
    /// The repository has the blob now.
    Mounted,
    /// It is to be uploaded, in the session that the answer opened.
    Declined(Upload),
    /// The registry refused the very request, so that the session took another one.
    Refused(Upload),
}

impl Repository {
    /// Whether the blob is in this repository. One HEAD request.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool> {
        let suffix = suffix(&digest.to_string());
        let place = self.place(Operation::HasBlob, &suffix);
        let url = self.url(&format!("blobs/{digest}"))?;
        let response = self.send(&place, || self.http.head(url.clone())).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(false),
            // A registry that keeps blobs elsewhere redirects to what it has.
            status if status.is_success() || status.is_redirection() => Ok(true),
            _ => Err(refusal::of(response, &place).await),
        }
    }

    /// Begins to read a blob, from byte `offset` on. Redirects are followed without the credential, only to places that are as public
    /// as the registry, and only to https unless the registry itself was configured as http.
    ///
    /// The rest of a blob is asked for by a closed range, as some registries refuse an open one (anchore/stereoscope#695). The
    /// answer may be the whole blob, from a registry that does not know ranges, or another part of it: the reader drops the bytes
    /// before `offset`, and ends where the answer does.
    pub async fn fetch_blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobReader> {
        let Descriptor { digest, size } = descriptor;
        let suffix = suffix(&digest.to_string());
        let place = self.place(Operation::FetchBlob, &suffix);
        let get = |url: &Url| match offset {
            0 => self.http.get(url.clone()),
            _ => {
                let range = format!("bytes={offset}-{}", size.saturating_sub(1));
                self.http.get(url.clone()).header(RANGE, range)
            }
        };
        let mut url = self.url(&format!("blobs/{digest}"))?;
        let mut response = self.send_streaming(&place, || get(&url)).await?;
        let mut redirects = 0;
        while response.status().is_redirection() {
            redirects += 1;
            if redirects > REDIRECT_LIMIT {
                return Err(place.error(Kind::Invalid, "redirected without end".to_owned()));
            }
            (url, response) = self.redirected(&response, &url, &place, get).await?;
        }
        let status = response.status();
        if redirects > 0 && matches!(status.as_u16(), 401 | 403) {
            // The signed URL has run out; a fresh read gets a fresh one.
            let detail = format!("{status} from the storage behind the registry");
            return Err(place.error(Kind::Transient, detail));
        }
        let (first, end) = match status {
            StatusCode::OK => (0, *size),
            StatusCode::PARTIAL_CONTENT if offset > 0 => part(&response, offset, *size)
                .map_err(|reason| place.error(Kind::Transient, reason))?,
            _ if redirects > 0 => return Err(refusal::of_storage(&response, &place)),
            _ => return Err(refusal::of(response, &place).await),
        };
        match response.content_length() {
            Some(length) if length != end - first => Err(place.content(match status {
                StatusCode::OK => format!("the blob has {length} bytes instead of {size}"),
                _ => format!(
                    "a part of the blob has {length} bytes instead of {}",
                    end - first
                ),
            })),
            _ => Ok(BlobReader {
                response,
                reference: place.reference(),
                to_skip: offset - first,
                remaining: end - offset,
            }),
        }
    }

    /// All bytes of a small blob, checked against its digest.
    ///
    /// # Errors
    /// [`Error::Content`] if it has more than `limit` bytes, or others than its digest says.
    pub async fn fetch_small_blob(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        let suffix = suffix(&descriptor.digest.to_string());
        let place = self.place(Operation::FetchBlob, &suffix);
        if descriptor.size > limit {
            let size = descriptor.size;
            return Err(place.content(format!("it has {size} bytes, and at most {limit} are read")));
        }
        let mut reader = self.fetch_blob(descriptor, 0).await?;
        let mut bytes = Vec::with_capacity(descriptor.size as usize);
        while let Some(chunk) = reader.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        match Digest::of(&bytes) == descriptor.digest {
            true => Ok(bytes),
            false => Err(place.content("its bytes have another digest".to_owned())),
        }
    }

    /// Opens an upload session. One POST request.
    pub async fn start_upload(&self, digest: &Digest) -> Result<Upload> {
        let url = self.url("blobs/uploads/")?;
        let suffix = suffix(&digest.to_string());
        let place = self.place(Operation::StartUpload, &suffix);
        let response = self.post_upload(&place, &url).await?;
        self.session(&response, &url, &place)
    }

    /// Asks for the blob to be mounted from the repository `from` of the same registry. One POST request, as for an upload session,
    /// which is what a registry answers that does not mount: ECR does so unless the account has blob mounting enabled, the other
    /// repository is encrypted alike, and a manifest there refers to the blob. (distribution-spec v1.1, "Mounting a blob from
    /// another repository"; ECR user guide, "Blob mounting")
    pub async fn mount_blob(&self, digest: &Digest, from: &str) -> Result<Mounting> {
        let mut url = self.url("blobs/uploads/")?;
        url.query_pairs_mut()
            .append_pair("mount", &digest.to_string())
            .append_pair("from", from);
        let suffix = suffix(&digest.to_string());
        let place = self.place(Operation::StartUpload, &suffix);
        match self.post_upload(&place, &url).await {
            Ok(response) if response.status() == StatusCode::CREATED => Ok(Mounting::Mounted),
            Ok(response) => self
                .session(&response, &url, &place)
                .map(Mounting::Declined),
            // What may pass fails the plain request too, and so does a repository that is not there.
            Err(error) if error.kind().may_pass() => Err(error),
            Err(error) if error.to_string().contains("NAME_UNKNOWN") => Err(error),
            Err(error) => {
                tracing::info!(%error, "not mounted");
                self.start_upload(digest).await.map(Mounting::Refused)
            }
        }
    }

    async fn post_upload(&self, place: &Place<'_>, url: &Url) -> Result<Response> {
        let response = self
            .send(place, || {
                self.http.post(url.clone()).header(CONTENT_LENGTH, 0)
            })
            .await?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(refusal::of(response, place).await),
        }
    }

    fn session(&self, response: &Response, url: &Url, place: &Place<'_>) -> Result<Upload> {
        let session = location(response, url)
            .ok_or_else(|| place.error(Kind::Transient, "no upload location".to_owned()))?;
        if session.origin() != self.endpoint.url().origin() {
            return Err(place.error(
                Kind::Invalid,
                "the upload location is on another host, where the credential does not belong"
                    .to_owned(),
            ));
        }
        Ok(Upload { url: session })
    }

    /// Gives up an upload session that was not used. One DELETE request, whose answer does not matter: the API of ECR has no such
    /// operation, and a registry that does not know the request forgets a session without a blob by itself.
    /// (Docker Registry HTTP API V2, "Canceling an Upload"; Amazon ECR API reference, "Actions")
    pub async fn cancel_upload(&self, upload: Upload) {
        let place = self.place(Operation::CancelUpload, "");
        let request = || self.http.delete(upload.url.clone());
        match self.send(&place, request).await {
            Ok(response) => {
                tracing::debug!(status = %response.status(), "the upload session was given up");
            }
            Err(error) => tracing::debug!(%error, "the upload session was not given up"),
        }
    }

    /// Sends a whole blob into an upload session, which commits it: one PUT request with the length known beforehand.
    ///
    /// The destination checks the digest. ECR's PATCH is not used, as it departs from the specification (stale `Range`, 201 for 202;
    /// aws/containers-roadmap#2831).
    ///
    /// # Errors
    /// An error of `bytes` shows as a broken upload; its cause is known where the bytes come from.
    pub async fn finish_upload(
        &self,
        upload: Upload,
        descriptor: &Descriptor,
        bytes: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<()> {
        let Descriptor { digest, size } = descriptor;
        let suffix = suffix(&digest.to_string());
        let place = self.place(Operation::PushBlob, &suffix);
        let flow = Arc::new(Flow::default());
        let watched = Watched {
            bytes: bytes.boxed(),
            flow: flow.clone(),
        };
        let mut url = upload.url;
        url.query_pairs_mut()
            .append_pair("digest", &digest.to_string());
        let header = self.admission(&place).await?;
        let request = self
            .authorized(self.http.put(url), header.clone())
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, *size)
            .body(Body::wrap_stream(bounded(watched)));
        self.observer.saw(Happened::Request);
        let response = self.transmit(&place, request);
        let response = match flow.unless_stalled(*size, response).await {
            Some(result) => result?,
            None => return Err(place.error(Kind::Transient, "the upload stood still".to_owned())),
        };
        let status = response.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            && self.authorization.renew(header.as_ref(), status).await?
        {
            // The bytes are gone, so it takes another upload.
            let detail = format!("{status}, but the credential has been replaced meanwhile");
            return Err(place.error(Kind::Transient, detail));
        }
        // The specification says 201; 202 is what some registries answer.
        match response.status() {
            StatusCode::CREATED | StatusCode::ACCEPTED => Ok(()),
            _ => Err(refusal::of(response, &place).await),
        }
    }

    /// Follows a redirect.
    async fn redirected(
        &self,
        response: &Response,
        from: &Url,
        place: &Place<'_>,
        get: impl Fn(&Url) -> RequestBuilder,
    ) -> Result<(Url, Response)> {
        let refused = |what: &str| {
            let detail = format!("redirected to {what}, which is not followed");
            place.error(Kind::Invalid, detail)
        };
        let is_http_fine = self.endpoint.is_plain_http();
        let url = location(response, from)
            .filter(|url| url.scheme() == "https" || (url.scheme() == "http" && is_http_fine))
            .ok_or_else(|| refused("nowhere, or to a place without https"))?;
        let address = |response: &Response| response.remote_addr().map(|address| address.ip());
        let own = address(response);
        let elsewhere = "an address that is less public than the registry's own";
        if !redirect::may_lead(own, &url) {
            return Err(refused(elsewhere));
        }
        self.observer.saw(Happened::Request);
        let response = self.respond(place, get(&url)).await?;
        match redirect::may_answer(own, address(&response)) {
            true => Ok((url, response)),
            false => Err(refused(elsewhere)),
        }
    }
}

/// The `Location` of a response, which may be relative.
fn location(response: &Response, base: &Url) -> Option<Url> {
    let value = response.headers().get(LOCATION)?.to_str().ok()?;
    base.join(value).ok()
}

/// Where a part of a blob begins and ends, by its `Content-Range`: at least the byte `offset` has to be in it.
/// (RFC 9110 section 14.4)
fn part(response: &Response, offset: u64, size: u64) -> Result<(u64, u64), String> {
    let value = response.headers().get(CONTENT_RANGE);
    let value = value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let range = value.strip_prefix("bytes ").and_then(|range| {
        let (first, rest) = range.split_once('-')?;
        let (last, length) = rest.split_once('/')?;
        let end = last.trim().parse::<u64>().ok()?.checked_add(1)?;
        let length = match length.trim() {
            "*" => size,
            length => length.parse().ok()?,
        };
        Some((first.trim().parse::<u64>().ok()?, end, length))
    });
    match range {
        Some((first, end, length))
            if first <= offset && offset < end && end <= size && length == size =>
        {
            Ok((first, end))
        }
        _ => {
            let is_known = |character: &char| "bytes 0123456789-/*".contains(*character);
            let shown: String = value.chars().take_while(is_known).take(100).collect();
            Err(format!(
                "asked for the bytes from {offset} on, and got Content-Range {shown:?}"
            ))
        }
    }
}

/// A blob that is being read: its bytes in order, as they come from the network.
pub struct BlobReader {
    response: Response,
    reference: String,
    /// Bytes that come before those that were asked for.
    to_skip: u64,
    /// Bytes of this answer that are still to come.
    remaining: u64,
}

impl BlobReader {
    /// The next bytes, or `None` at the end of the answer, which need not be the end of the blob.
    ///
    /// # Errors
    /// [`Kind::Transient`] where the connection breaks off or stands still, [`Error::Content`] where there are too many bytes.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        while self.remaining > 0 {
            let read = tokio::time::timeout(REQUEST_TIMEOUT, self.response.chunk()).await;
            let mut bytes = match read {
                Ok(Ok(Some(bytes))) => bytes,
                Ok(Ok(None)) => return Err(self.broken("ended")),
                Ok(Err(error)) => {
                    return Err(self.broken(&format!("broke off ({})", error.without_url())));
                }
                Err(_) => return Err(self.broken("stood still")),
            };
            let skipped = self.to_skip.min(bytes.len() as u64);
            bytes.advance(skipped as usize);
            self.to_skip -= skipped;
            let remaining = self.remaining.checked_sub(bytes.len() as u64);
            self.remaining = remaining.ok_or_else(|| Error::Content {
                side: Side::Source,
                reference: self.reference.clone(),
                reason: "the blob has more bytes than the manifest says".to_owned(),
            })?;
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    fn broken(&self, what: &str) -> Error {
        Error::Registry {
            side: Side::Source,
            operation: Operation::FetchBlob,
            reference: self.reference.clone(),
            kind: Kind::Transient,
            detail: format!("{what} with {} bytes to go", self.remaining),
            advice: String::new(),
            retry_after: None,
        }
    }
}

/// The same bytes, of which the one that takes them holds at most [`UPLOAD_BUFFER`] and one read.
fn bounded(
    bytes: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin + 'static,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let room = Arc::new(Semaphore::new(UPLOAD_BUFFER));
    stream::unfold((bytes, room), |(mut bytes, room)| async move {
        let mut permit = room.clone().acquire_owned().await.ok()?;
        let next = bytes.next().await?.map(|bytes| {
            let rest = bytes.len().min(room.available_permits());
            if let Ok(rest) = room.clone().try_acquire_many_owned(rest as u32) {
                permit.merge(rest);
            }
            Bytes::from_owner(Held {
                bytes,
                _permit: permit,
            })
        });
        Some((next, (bytes, room)))
    })
}

/// Bytes that give their room back when they are dropped, which is when they are sent.
struct Held {
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Watches the bytes of an upload go by: how many there were, and for whom the upload waits now. Time alone does not tell a
/// stalled upload: a slow source, or another destination that shares the source, holds it up as well.
#[derive(Default)]
struct Flow {
    moved: AtomicU64,
    is_waiting_for_bytes: AtomicBool,
}

/// The bytes that [`Flow`] watches.
struct Watched {
    bytes: BoxStream<'static, std::io::Result<Bytes>>,
    flow: Arc<Flow>,
}

impl Stream for Watched {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.bytes.as_mut().poll_next(context);
        let flow = &self.flow;
        flow.is_waiting_for_bytes
            .store(next.is_pending(), Ordering::Relaxed);
        if let Poll::Ready(Some(Ok(bytes))) = &next {
            flow.moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        next
    }
}

impl Flow {
    /// Waits for an upload of `size` bytes as long as the destination takes its bytes; `None` if it does not.
    async fn unless_stalled<T>(&self, size: u64, upload: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(upload);
        loop {
            let before = self.moved.load(Ordering::Relaxed);
            let patience = match before == size {
                true => REQUEST_TIMEOUT + Duration::from_secs(size / COMMIT_RATE),
                false => REQUEST_TIMEOUT,
            };
            if let Ok(result) = tokio::time::timeout(patience, &mut upload).await {
                return Some(result);
            }
            // No answer in that time. If no byte was taken either, and there was one to take, the destination stands still.
            // If the upload waits for the next byte, the source is slow, and its reads have a time limit of their own.
            let is_late = self.is_waiting_for_bytes.load(Ordering::Relaxed);
            if self.moved.load(Ordering::Relaxed) == before && !is_late {
                return None;
            }
        }
    }
}
