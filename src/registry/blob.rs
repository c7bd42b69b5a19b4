//! A blob on its way from one registry to the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{Stream, stream};
use reqwest::Response;

use super::{COMMIT_TIMEOUT, REQUEST_TIMEOUT};
use crate::error::{Error, Kind, Operation, Result, Side};
use crate::manifest::{Descriptor, Hasher};

/// A blob that is being read: its bytes, in order, never more than a few network reads of them in memory.
pub struct BlobReader {
    response: Response,
    descriptor: Descriptor,
    reference: String,
    remaining: u64,
    hasher: Option<Hasher>,
    progress: Progress,
}

/// What the sending side knows of the reading side.
#[derive(Clone, Default)]
pub(super) struct Progress {
    moved: Arc<AtomicU64>,
    failure: Arc<Mutex<Option<Error>>>,
}

impl BlobReader {
    /// Takes the response with the blob's bytes. With `verify` the digest is computed on the way.
    pub(super) fn new(
        response: Response,
        descriptor: &Descriptor,
        reference: String,
        verify: bool,
    ) -> Self {
        BlobReader {
            response,
            descriptor: descriptor.clone(),
            reference,
            remaining: descriptor.size,
            hasher: verify.then(Hasher::default),
            progress: Progress::default(),
        }
    }

    pub(super) fn descriptor(&self) -> Descriptor {
        self.descriptor.clone()
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// The bytes, which end exactly at the descriptor's size, or in an error that is also left in the progress.
    pub(super) fn into_stream(self) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
        stream::try_unfold(self, async |mut reader| match reader.next().await {
            Ok(Some(bytes)) => {
                let moved = &reader.progress.moved;
                moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Ok(Some((bytes, reader)))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                reader.progress.fail(error);
                Err(std::io::Error::other("the source failed"))
            }
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.remaining == 0 {
            return Ok(None);
        }
        let read = tokio::time::timeout(REQUEST_TIMEOUT, self.response.chunk()).await;
        let broken = |detail: &str| Error::Registry {
            side: Side::Source,
            operation: Operation::FetchBlob,
            reference: self.reference.clone(),
            kind: Kind::Transient,
            detail: format!("{detail} with {} bytes to go", self.remaining),
            advice: String::new(),
            retry_after: None,
        };
        let chunk = match read {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => return Err(broken("ended")),
            Ok(Err(error)) => return Err(broken(&format!("broke off ({})", error.without_url()))),
            Err(_) => return Err(broken("stood still")),
        };
        self.remaining = self
            .remaining
            .checked_sub(chunk.len() as u64)
            .ok_or_else(|| {
                let size = self.descriptor.size;
                self.content(format!("the blob has more than {size} bytes"))
            })?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&chunk);
        }
        match self.hasher.take_if(|_| self.remaining == 0).map(Hasher::finish) {
            Some(digest) if digest != self.descriptor.digest => Err(self.content(format!(
                "the bytes of the blob have digest {digest}; the image is damaged at the source: push it again"
            ))),
            _ => Ok(Some(chunk)),
        }
    }

    fn content(&self, reason: String) -> Error {
        Error::Content {
            side: Side::Source,
            reference: self.reference.clone(),
            reason,
        }
    }
}

impl Progress {
    fn fail(&self, error: Error) {
        if let Ok(mut failure) = self.failure.lock() {
            *failure = Some(error);
        }
    }

    /// Why reading failed, if it did. It shows at the destination as a broken upload, which would blame the wrong side.
    pub(super) fn failure(&self) -> Option<Error> {
        self.failure.lock().ok().and_then(|mut error| error.take())
    }

    /// Waits for an upload of `size` bytes as long as they move; `None` if they stand still.
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
            match tokio::time::timeout(patience, &mut upload).await {
                Ok(result) => return Some(result),
                Err(_) if self.moved.load(Ordering::Relaxed) == before => return None,
                Err(_) => {}
            }
        }
    }
}
