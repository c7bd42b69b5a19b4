//! One blob, from its source into an upload for each destination that lacks it: one try.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, FuturesUnordered};
use futures_util::{Stream, StreamExt, future};

use super::fanout::Fanout;
use super::mount::{Came, Mount};
use crate::error::{Error, Kind, Result, Side};
use crate::manifest::{Descriptor, Hasher};
use crate::observer::Movement;
use crate::registry::{BlobReader, Mounting, Repository, Upload};
use crate::retry::retry;

/// A read is resumed as often as it breaks off, which GHCR's storage is known to do dozens of times in a large blob
/// (cirruslabs/tart#944), but only so many times in a row with less than this many bytes in between.
const PROGRESS: u64 = 64 * 1024;
const FRUITLESS_LIMIT: usize = 4;

/// A destination of a blob.
pub(super) struct Receiver<'a> {
    pub(super) repository: &'a Repository,
    /// Where the blob may be mounted from.
    pub(super) mount: Option<Mount>,
}

/// How a destination gets a blob.
enum Start {
    /// It has it already.
    Came(Came),
    /// Its bytes have to be sent.
    Upload(Upload, Came),
}

impl Receiver<'_> {
    async fn start(&self, blob: &Descriptor, is_again: bool) -> Result<Start> {
        let Receiver { repository, mount } = self;
        // The connection may have broken after the commit.
        if is_again && repository.has_blob(&blob.digest).await? {
            return Ok(Start::Came(Came::Sent));
        }
        let Some(mount) = mount else {
            let upload = repository.start_upload(&blob.digest).await?;
            return Ok(Start::Upload(upload, Came::Sent));
        };
        Ok(
            match repository.mount_blob(&blob.digest, &mount.from).await? {
                Mounting::Mounted => Start::Came(Came::Mounted),
                Mounting::Declined(upload) => Start::Upload(upload, Came::Sent),
                Mounting::Refused(upload) => Start::Upload(upload, Came::SentAfterRefusal),
            },
        )
    }
}

/// One try to bring a blob to every destination, with one read of the source. `done` is told of each destination, by its position,
/// as soon as its own upload has ended: one that is slow to fail keeps nothing from the others.
///
/// Where every destination may well have it mounted, the source is asked only when one of them has not; else at the same time.
///
/// Where the source breaks off, reading resumes into the same uploads. The bytes that are read count as moved in `movement`, as
/// hardly more of them are read than the slowest destination has taken.
///
/// The first try does not compute the digest: the destination does at commit, and twice is most of the processor time there is.
/// A later try does, so that a wrong digest says whose fault it is.
pub(super) async fn copy_blob(
    blob: &Descriptor,
    source: &Repository,
    receivers: &[Receiver<'_>],
    is_again: bool,
    movement: Option<Arc<Movement>>,
    mut done: impl FnMut(usize, Result<Came>),
) {
    let starts = receivers.iter().map(|it| it.start(blob, is_again));
    let starts = future::join_all(starts);
    let is_likely = |receiver: &Receiver<'_>| {
        let mount = receiver.mount.as_ref();
        mount.is_some_and(|mount| mount.is_likely)
    };
    let (reader, starts) = match receivers.iter().all(is_likely) {
        true => (None, starts.await),
        false => {
            let (reader, starts) = future::join(source.fetch_blob(blob, 0), starts).await;
            (Some(reader), starts)
        }
    };
    let mut uploads = Vec::new();
    for (position, start) in starts.into_iter().enumerate() {
        match start {
            Ok(Start::Upload(upload, came)) => uploads.push((position, upload, came)),
            Ok(Start::Came(came)) => done(position, Ok(came)),
            Err(error) => done(position, Err(error)),
        }
    }
    if uploads.is_empty() {
        return;
    }
    let reader = match reader {
        Some(reader) => reader,
        None => source.fetch_blob(blob, 0).await,
    };
    let reader = match reader {
        Ok(reader) => reader,
        Err(error) => {
            for (position, ..) in uploads {
                done(position, Err(error.clone()));
            }
            return;
        }
    };
    let read = Read::new(source, blob, reader, is_again, movement);
    let (fanout, branches) = Fanout::new(read.into_stream(), uploads.len());
    let uploads = uploads.into_iter().zip(branches).enumerate();
    let mut sends: FuturesUnordered<_> = uploads
        .map(
            async |(branch_position, ((position, upload, came), branch))| {
                let destination = receivers[position].repository;
                let result = destination.finish_upload(upload, blob, branch).await;
                fanout.close(branch_position);
                (position, result.map(|()| came))
            },
        )
        .collect();
    while let Some((position, result)) = sends.next().await {
        // A source that failed shows at the destinations as broken uploads.
        let result = match (result, fanout.failure()) {
            (Err(_), Some(failure)) => Err(failure),
            (result, _) => result,
        };
        done(position, result);
    }
}

/// A blob that is being read, by as many requests as it takes.
struct Read {
    source: Repository,
    blob: Descriptor,
    reader: BlobReader,
    hasher: Option<Hasher>,
    /// Counts the bytes, if anybody watches.
    movement: Option<Arc<Movement>>,
    /// Bytes read so far.
    offset: u64,
    /// Where it was last resumed, and how often in a row that brought too little.
    resumed_at: u64,
    fruitless: usize,
}

impl Read {
    fn new(
        source: &Repository,
        blob: &Descriptor,
        reader: BlobReader,
        is_again: bool,
        movement: Option<Arc<Movement>>,
    ) -> Self {
        Read {
            source: source.clone(),
            blob: *blob,
            reader,
            hasher: is_again.then(Hasher::default),
            movement,
            offset: 0,
            resumed_at: 0,
            fruitless: 0,
        }
    }

    /// The bytes, which end exactly at the descriptor's size, or in an error.
    fn into_stream(self) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
        stream::try_unfold(self, |mut read| async move {
            Ok(read.next().await?.map(|bytes| (bytes, read)))
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.offset == self.blob.size {
            return Ok(None);
        }
        let bytes = match self.reader.next().await {
            Ok(Some(bytes)) => bytes,
            // An answer may end before the blob does: a part that is shorter than what was asked for.
            Ok(None) if self.may_resume() => self.resume().await?,
            Err(error) if error.kind() == Kind::Transient && self.may_resume() => {
                tracing::info!(%error, offset = self.offset, "resuming the read of a blob");
                self.resume().await?
            }
            Ok(None) => {
                return Err(self.wrong("the source sends ever smaller parts of it".to_owned()));
            }
            Err(error) => return Err(error),
        };
        self.offset += bytes.len() as u64;
        if let Some(movement) = &self.movement {
            movement.add(bytes.len());
        }
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
            digest => Err(self.wrong(format!(
                "the bytes of the blob have digest {digest}; the image is damaged at the source: push it again"
            ))),
        }
    }

    fn wrong(&self, reason: String) -> Error {
        Error::Content {
            side: Side::Source,
            reference: self.source.reference(&self.blob.digest.to_string()),
            reason,
        }
    }

    /// Whether reading has brought enough since it was last resumed, or did not bring too little too often.
    fn may_resume(&mut self) -> bool {
        let is_fruitless = self.offset - self.resumed_at < PROGRESS;
        self.fruitless = if is_fruitless { self.fruitless + 1 } else { 0 };
        self.resumed_at = self.offset;
        self.fruitless <= FRUITLESS_LIMIT
    }

    /// Goes on at the byte where the last answer ended.
    async fn resume(&mut self) -> Result<Bytes> {
        let (reader, bytes) = retry(self.source.observer(), || async {
            let mut reader = self.source.fetch_blob(&self.blob, self.offset).await?;
            match reader.next().await? {
                Some(bytes) => Ok((reader, bytes)),
                None => Err(Error::Internal("a part without a byte".to_owned())),
            }
        })
        .await?;
        self.reader = reader;
        Ok(bytes)
    }
}
