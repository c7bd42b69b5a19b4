//! What can go wrong, and the bodies and sockets that make it go wrong at the byte that was asked for.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::Response;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Reply;

/// One thing that goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This answer in place of the handler's, after the request body has been read and thrown away.
    Status {
        status: u16,
        headers: Vec<(String, String)>,
        body: String,
    },
    /// The response announces its full length, and the connection is cut after this many bytes of body.
    DropBodyAfter(u64),
    /// The byte at this offset of the response body is flipped.
    CorruptByte(u64),
    /// The response body ends after this many bytes, and `Content-Length` says so too.
    Truncate(u64),
    /// This response header is left out.
    OmitHeader(&'static str),
    /// The connection is cut when this many bytes of the request body have been read (at its end, if it
    /// is shorter). The handler sees the body break off.
    DropRequestAfter(u64),
    /// The handler does its work, and the connection is cut in place of an answer.
    DropReply,
    /// The request arrives and is logged, and goes no further until [`release`](super::Server::release).
    Hold,
}

/// Applies the faults of the response.
pub(super) fn tamper(response: Reply, fault: &Fault, cut: Arc<AtomicBool>) -> Reply {
    let (mut head, inner) = response.into_parts();
    let length = inner.size_hint();
    let mut body = Tampered {
        inner,
        length,
        position: 0,
        end: None,
        flip: None,
        cut: None,
    };
    match fault {
        Fault::DropBodyAfter(bytes) => {
            body.end = Some(*bytes);
            body.cut = Some(cut);
        }
        Fault::CorruptByte(offset) => body.flip = Some(*offset),
        Fault::Truncate(bytes) => {
            let length = body.length.exact().unwrap_or(u64::MAX).min(*bytes);
            head.headers
                .insert(CONTENT_LENGTH, HeaderValue::from(length));
            body.length = SizeHint::with_exact(length);
            body.end = Some(length);
        }
        Fault::OmitHeader(name) => {
            head.headers.remove(*name);
            // hyper would put a length that it knows back in.
            if *name == CONTENT_LENGTH.as_str() {
                body.length = SizeHint::new();
            }
        }
        Fault::Status { .. } | Fault::DropRequestAfter(_) | Fault::DropReply | Fault::Hold => {}
    }
    Response::from_parts(head, body.boxed())
}

struct Tampered {
    inner: BoxBody<Bytes, io::Error>,
    /// The length that is announced.
    length: SizeHint,
    position: u64,
    end: Option<u64>,
    flip: Option<u64>,
    /// Set once the body has ended: the connection is cut then.
    cut: Option<Arc<AtomicBool>>,
}

impl Body for Tampered {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        if this.end == Some(this.position) {
            let Some(cut) = &this.cut else {
                return Poll::Ready(None);
            };
            // What is buffered goes out first: the socket fails at the next flush.
            cut.store(true, Ordering::Relaxed);
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let frame = Pin::new(&mut this.inner).poll_frame(context);
        let Poll::Ready(Some(Ok(mut frame))) = frame else {
            return frame;
        };
        if let Some(data) = frame.data_mut() {
            if let Some(end) = this.end {
                data.truncate(usize::try_from(end - this.position).unwrap_or(usize::MAX));
            }
            if let Some(offset) = this.flip.and_then(|flip| flip.checked_sub(this.position))
                && offset < data.len() as u64
            {
                let mut changed = data.to_vec();
                changed[offset as usize] ^= 0xff;
                *data = changed.into();
            }
            this.position += data.len() as u64;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn size_hint(&self) -> SizeHint {
        self.length
    }
}

/// A connection that fails at the first flush after `cut` is set. hyper flushes when it has handed all its
/// buffered bytes to the kernel, so exactly what came before the cut reaches the client.
pub(super) struct Socket {
    pub(super) stream: TokioIo<TcpStream>,
    pub(super) cut: Arc<AtomicBool>,
}

impl hyper::rt::Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.cut.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
