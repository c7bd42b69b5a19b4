//! The verbs for blobs: whether one is there, its bytes out of one registry, and into another.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::{Body, RequestBuilder, Response, StatusCode};
use url::Url;

use super::refusal::Place;
use super::{REQUEST_TIMEOUT, Repository, redirect, refusal, suffix};
use crate::error::{Error, Kind, Operation, Result, Side};
use crate::manifest::{Descriptor, Digest};

/// A commit of many gigabytes is checked by the destination before it answers.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(120);

/// GHCR redirects a blob once; a few more are followed, a loop is not.
const REDIRECT_LIMIT: usize = 5;

/// An upload session, good for one attempt. (distribution-spec v1.1, "POST then PUT")
pub struct Upload {
    url: Url,
}

impl Repository {
    /// Whether the blob is in this repository. One HEAD request.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool> {
        let suffix = suffix(digest.as_str());
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
    /// What is wanted of a blob that is read on is a closed range, as some registries refuse an open one (anchore/stereoscope#695);
    /// from one that does not know ranges, the bytes before are read again and dropped.
    pub async fn fetch_blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobReader> {
        let Descriptor { digest, size, .. } = descriptor;
        let suffix = suffix(digest.as_str());
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
        let (to_skip, expected) = match status {
            StatusCode::OK => (offset, *size),
            StatusCode::PARTIAL_CONTENT if offset > 0 => (0, size - offset),
            _ => return Err(refusal::of(response, &place).await),
        };
        match response.content_length() {
            Some(length) if length != expected => Err(place.content(format!(
                "the blob has {} bytes instead of {size}",
                (size - expected).saturating_add(length)
            ))),
            _ => Ok(BlobReader::new(
                response,
                place.reference(),
                to_skip,
                size - offset,
            )),
        }
    }

    /// Opens an upload session. One POST request.
    pub async fn start_upload(&self, digest: &Digest) -> Result<Upload> {
        let suffix = suffix(digest.as_str());
        let place = self.place(Operation::StartUpload, &suffix);
        let url = self.url("blobs/uploads/")?;
        let response = self
            .send(&place, || {
                self.http.post(url.clone()).header(CONTENT_LENGTH, 0)
            })
            .await?;
        if !response.status().is_success() {
            return Err(refusal::of(response, &place).await);
        }
        let mut session = location(&response, &url)
            .ok_or_else(|| place.error(Kind::Transient, "no upload location".to_owned()))?;
        if session.origin() != self.endpoint.url().origin() {
            return Err(place.error(
                Kind::Invalid,
                "the upload location is on another host, where the credential does not belong"
                    .to_owned(),
            ));
        }
        session
            .query_pairs_mut()
            .append_pair("digest", digest.as_str());
        Ok(Upload { url: session })
    }

    /// Sends a whole blob into an upload session, which commits it: one PUT request with the length known beforehand.
    ///
    /// The destination checks the digest. ECR's PATCH is not used, as it departs from the specification (stale `Range`, 201 for 202;
    /// aws/containers-roadmap#2831).
    ///
    /// # Errors
    /// An error of `bytes` shows as a broken upload: who makes them knows better.
    pub async fn finish_upload(
        &self,
        upload: Upload,
        descriptor: &Descriptor,
        bytes: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<()> {
        let Descriptor { digest, size, .. } = descriptor;
        let suffix = suffix(digest.as_str());
        let place = self.place(Operation::PushBlob, &suffix);
        let flow = Arc::new(Flow::default());
        let watched = Watched {
            bytes: bytes.boxed(),
            flow: flow.clone(),
        };
        let header = self.admission(&place).await?;
        let request = self
            .authorized(self.http.put(upload.url), header)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, *size)
            .body(Body::wrap_stream(watched));
        let response = self.counted(&place, request);
        let response = match flow.unless_stalled(*size, response).await {
            Some(result) => result?,
            None => return Err(place.error(Kind::Transient, "the upload stood still".to_owned())),
        };
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

/// A blob that is being read: its bytes in order, as they come from the network.
pub struct BlobReader {
    response: Response,
    reference: String,
    /// Bytes that come before those that were asked for.
    to_skip: u64,
    /// Bytes that are still to come.
    remaining: u64,
}

impl BlobReader {
    /// Reads `remaining` bytes of `response`, after `to_skip` that are not wanted.
    fn new(response: Response, reference: String, to_skip: u64, remaining: u64) -> Self {
        BlobReader {
            response,
            reference,
            to_skip,
            remaining,
        }
    }

    /// The next bytes, or `None` when there have been as many as there should.
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

/// Watches the bytes of an upload go by.
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
    /// Waits for an upload of `size` bytes as long as its bytes are taken; `None` if they are not. Bytes that are late are no fault of
    /// the upload.
    async fn unless_stalled<T>(&self, size: u64, upload: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(upload);
        loop {
            let before = self.moved.load(Ordering::Relaxed);
            let patience = match before == size {
                true => COMMIT_TIMEOUT,
                false => REQUEST_TIMEOUT,
            };
            if let Ok(result) = tokio::time::timeout(patience, &mut upload).await {
                return Some(result);
            }
            let is_late = self.is_waiting_for_bytes.load(Ordering::Relaxed);
            if self.moved.load(Ordering::Relaxed) == before && !is_late {
                return None;
            }
        }
    }
}
