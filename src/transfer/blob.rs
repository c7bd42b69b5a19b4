//! One blob, from its source into one upload.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{Stream, future, stream};

use crate::error::{Error, Kind, Result, Side};
use crate::manifest::{Descriptor, Hasher};
use crate::registry::{BlobReader, Repository};
use crate::retry::retry;

/// A read is taken up again as often as it breaks off, which GHCR's storage is known to do dozens of times in a large blob
/// (cirruslabs/tart#944), but only so many times in a row with less than this many bytes in between.
const PROGRESS: u64 = 1024 * 1024;
const FRUITLESS_LIMIT: usize = 4;

/// Streams one blob across. Where the source breaks off it is read on, into the same upload; where the destination does, both begin
/// anew.
///
/// The first try does not compute the digest: the destination does at commit, and twice is most of the processor time there is.
/// A later try does, so that a wrong digest says whose fault it is.
pub(super) async fn copy_blob(
    blob: &Descriptor,
    source: &Repository,
    destination: &Repository,
) -> Result<()> {
    retry(|tries| async move {
        let is_again = tries > 0;
        // The connection may have broken after the commit.
        if is_again && destination.has_blob(&blob.digest).await? {
            return Ok(());
        }
        let (reader, upload) = future::try_join(
            source.fetch_blob(blob, 0),
            destination.start_upload(&blob.digest),
        )
        .await?;
        let read = Read {
            source: source.clone(),
            blob: blob.clone(),
            reader,
            hasher: is_again.then(Hasher::default),
            offset: 0,
            resumed_at: 0,
            fruitless: 0,
        };
        let failure = Failure::default();
        let bytes = read.into_stream(failure.clone());
        let result = destination.finish_upload(upload, blob, bytes).await;
        failure.first().map_or(result, Err)
    })
    .await
}

/// Why reading failed, if it did. It shows at the destination as a broken upload, which would blame the wrong side.
#[derive(Clone, Default)]
struct Failure(Arc<Mutex<Option<Error>>>);

impl Failure {
    fn set(&self, error: Error) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    fn first(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A blob that is being read, by as many requests as it takes.
struct Read {
    source: Repository,
    blob: Descriptor,
    reader: BlobReader,
    hasher: Option<Hasher>,
    /// Bytes read so far.
    offset: u64,
    /// Where it was last taken up again, and how often in a row that brought too little.
    resumed_at: u64,
    fruitless: usize,
}

impl Read {
    /// The bytes, which end exactly at the descriptor's size, or in an error that is left in `failure`.
    fn into_stream(
        self,
        failure: Failure,
    ) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
        stream::try_unfold(self, move |mut read| {
            let failure = failure.clone();
            async move {
                match read.next().await {
                    Ok(bytes) => Ok(bytes.map(|bytes| (bytes, read))),
                    Err(error) => {
                        failure.set(error);
                        Err(std::io::Error::other("the source failed"))
                    }
                }
            }
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        let bytes = match self.reader.next().await {
            Err(error) if self.may_resume(&error) => self.resume(error).await?,
            result => result?,
        };
        let Some(bytes) = bytes else {
            return Ok(None);
        };
        self.offset += bytes.len() as u64;
        let Some(mut hasher) = self.hasher.take() else {
            return Ok(Some(bytes));
        };
        hasher.update(&bytes);
        if self.offset < self.blob.size {
            self.hasher = Some(hasher);
            return Ok(Some(bytes));
        }
        match hasher.finish() {
            digest if digest == self.blob.digest => Ok(Some(bytes)),
            digest => Err(Error::Content {
                side: Side::Source,
                reference: self.source.reference(self.blob.digest.as_str()),
                reason: format!(
                    "the bytes of the blob have digest {digest}; the image is damaged at the source: push it again"
                ),
            }),
        }
    }

    fn may_resume(&mut self, error: &Error) -> bool {
        let is_fruitless = self.offset - self.resumed_at < PROGRESS;
        self.fruitless = if is_fruitless { self.fruitless + 1 } else { 0 };
        self.resumed_at = self.offset;
        error.kind() == Kind::Transient && self.fruitless <= FRUITLESS_LIMIT
    }

    /// Goes on at the byte where the last request broke off.
    async fn resume(&mut self, error: Error) -> Result<Option<Bytes>> {
        tracing::info!(%error, offset = self.offset, "reading on");
        let (reader, bytes) = retry(|_| async {
            let mut reader = self.source.fetch_blob(&self.blob, self.offset).await?;
            let bytes = reader.next().await?;
            Ok((reader, bytes))
        })
        .await?;
        self.reader = reader;
        Ok(bytes)
    }
}
