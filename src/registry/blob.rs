//! The bytes of a blob, out of one registry and into another.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures_util::Stream;
use futures_util::stream::BoxStream;
use reqwest::Response;

use super::{COMMIT_TIMEOUT, REQUEST_TIMEOUT};
use crate::error::{Error, Kind, Operation, Result, Side};

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
    pub(super) fn new(response: Response, reference: String, to_skip: u64, remaining: u64) -> Self {
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
pub(super) struct Flow {
    moved: AtomicU64,
    is_waiting_for_bytes: AtomicBool,
}

/// The bytes that [`Flow`] watches.
pub(super) struct Watched {
    pub(super) bytes: BoxStream<'static, std::io::Result<Bytes>>,
    pub(super) flow: std::sync::Arc<Flow>,
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
    pub(super) async fn unless_stalled<T>(
        &self,
        size: u64,
        upload: impl Future<Output = T>,
    ) -> Option<T> {
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
