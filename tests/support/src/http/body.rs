//! Bodies that are counted while they are read, or generated while they are sent.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{Entry, Shared};

/// A request's body, which counts the bytes that are read.
pub struct RequestBody {
    pub(super) inner: Incoming,
    pub(super) shared: Arc<Shared>,
    pub(super) entry: Arc<Entry>,
    /// Bytes to pass on before the connection is cut, and a flag that is set when it must be.
    pub(super) cut: Option<(u64, Arc<AtomicBool>)>,
}

impl RequestBody {
    /// The whole body in memory, for small ones.
    pub async fn bytes(self) -> io::Result<Bytes> {
        Ok(self.collect().await?.to_bytes())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        if let Some((0, broken)) = &this.cut {
            return Poll::Ready(Some(Err(mark_broken(broken))));
        }
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(context) else {
            return Poll::Pending;
        };
        let Some(frame) = frame else {
            return Poll::Ready(
                this.cut
                    .as_ref()
                    .map(|(_, broken)| Err(mark_broken(broken))),
            );
        };
        let mut frame = frame.map_err(io::Error::other)?;
        if let Some(data) = frame.data_mut() {
            if let Some((left, _)) = &mut this.cut {
                data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= data.len() as u64;
            }
            this.entry
                .body_bytes
                .fetch_add(data.len() as u64, Ordering::Relaxed);
            this.shared
                .request_body_bytes
                .fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

fn mark_broken(broken: &AtomicBool) -> io::Error {
    broken.store(true, Ordering::Relaxed);
    io::ErrorKind::ConnectionReset.into()
}

/// A body of known length that is generated while it is sent.
pub(super) struct Chunks {
    pub(super) chunks: Box<dyn Iterator<Item = Bytes> + Send + Sync>,
    pub(super) left: u64,
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(self.chunks.next().map(|chunk| {
            self.left = self
                .left
                .checked_sub(chunk.len() as u64)
                .expect("no more bytes than announced");
            Ok(Frame::data(chunk))
        }))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
