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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

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
    /// This connection is reset (RST) before any of the request's body is read, and so are this many of the connections made
    /// after it, as soon as they are made. The port itself stays open, for a closed one could be lost to another program.
    Refuse(u32),
    /// Answers 307 with the request's own path and query, after the request body has been read and thrown away.
    RedirectToItself,
    /// The response announces its full length, and the connection is cut after this many bytes of body.
    DropBodyAfter(u64),
    /// As [`Fault::DropBodyAfter`], and the connection is reset.
    ResetBodyAfter(u64),
    /// The response announces its full length, and after this many bytes of body nothing more comes, while the connection stays.
    StallBodyAfter(u64),
    /// The byte at this offset of the response body is flipped.
    CorruptByte(u64),
    /// The response body ends after this many bytes, and `Content-Length` says so too.
    Truncate(u64),
    /// This response header is left out.
    OmitHeader(&'static str),
    /// The connection is cut when this many bytes of the request body have been read (at its end, if it
    /// is shorter). The handler sees the body break off.
    DropRequestAfter(u64),
    /// The connection is reset when this many bytes of the request body have been read, or in place of an answer if there
    /// are fewer. A handler that reads the body sees it break off.
    ResetRequestAfter(u64),
    /// The handler does its work, and the connection is cut in place of an answer.
    DropReply,
    /// As [`Fault::DropReply`], and the connection is reset.
    ResetReply,
    /// The request arrives and is logged, and goes no further until [`release`](super::Server::release).
    Hold,
}

/// Applies the faults of the response.
pub(super) fn tamper(response: Reply, fault: &Fault, connection: Arc<Break>) -> Reply {
    let (mut head, inner) = response.into_parts();
    let length = inner.size_hint();
    let mut body = Tampered {
        inner,
        length,
        position: 0,
        end: None,
        flip: None,
        after: After::End,
    };
    match fault {
        Fault::DropBodyAfter(bytes) => {
            body.end = Some(*bytes);
            body.after = After::Cut(connection);
        }
        Fault::ResetBodyAfter(bytes) => {
            connection.reset();
            body.end = Some(*bytes);
            body.after = After::Cut(connection);
        }
        Fault::StallBodyAfter(bytes) => {
            body.end = Some(*bytes);
            body.after = After::Silence;
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
        // Played before there is a response, or in place of one.
        Fault::Status { .. }
        | Fault::Refuse(_)
        | Fault::RedirectToItself
        | Fault::DropRequestAfter(_)
        | Fault::ResetRequestAfter(_)
        | Fault::DropReply
        | Fault::ResetReply
        | Fault::Hold => {}
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
    after: After,
}

/// What comes after the `end` of a body.
enum After {
    /// Nothing is missing, as far as the client can tell.
    End,
    Cut(Arc<Break>),
    Silence,
}

/// How a connection is to end before its time.
#[derive(Default)]
pub(super) struct Break {
    /// The next flush fails.
    is_due: AtomicBool,
    /// The end is a RST instead of a FIN.
    is_reset: AtomicBool,
}

impl Break {
    /// Makes the end a reset; returns the error that brings it about at once when a service fails with it.
    pub(super) fn reset(&self) -> io::Error {
        self.is_reset.store(true, Ordering::Relaxed);
        io::ErrorKind::ConnectionReset.into()
    }
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
            match &this.after {
                After::End => return Poll::Ready(None),
                After::Cut(connection) => {
                    // What is buffered goes out first: the socket fails at the next flush.
                    connection.is_due.store(true, Ordering::Relaxed);
                    context.waker().wake_by_ref();
                }
                // hyper watches the connection, and drops this body when the client goes away.
                After::Silence => {}
            }
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

/// A connection that fails at the first flush after its break is due. hyper flushes when it has handed all its
/// buffered bytes to the kernel, so exactly what came before the cut reaches the client.
pub(super) struct Socket<S: Connection> {
    pub(super) stream: TokioIo<S>,
    pub(super) connection: Arc<Break>,
}

/// A connection with TLS or without.
pub(super) trait Connection: AsyncRead + AsyncWrite + Unpin {
    /// What lies below.
    fn tcp(&self) -> &TcpStream;
}

impl Connection for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Connection for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl<S: Connection> Drop for Socket<S> {
    fn drop(&mut self) {
        if self.connection.is_reset.load(Ordering::Relaxed) {
            // It may be reset already, from the other side.
            let _ = self.stream.inner().tcp().set_zero_linger();
        }
    }
}

impl<S: Connection> hyper::rt::Read for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: Connection> hyper::rt::Write for Socket<S> {
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
        if self.connection.is_due.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
