//! What can go wrong, and the bodies and sockets that make it go wrong at an exact byte.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::Reply;

/// One thing that goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This answer instead of the handler's, after the request body has been read and discarded.
    Status {
        status: u16,
        headers: Vec<(String, String)>,
        body: String,
    },
    /// As [`Fault::Status`], but the answer announces more bytes than `body` has. After `body` the server sends nothing more, and
    /// the connection stays open.
    StatusThenStall { status: u16, body: String },
    /// This connection is reset (RST) before any of the request's body is read, and so are the next connections, this many, as
    /// soon as they are made. The port stays open, since another program could take a closed one.
    Refuse(u32),
    /// Answers 307 with the request's own path and query, after the request body has been read and discarded.
    RedirectToItself,
    /// The response announces its full length, and the connection is cut after this many bytes of body.
    DropBodyAfter(u64),
    /// As [`Fault::DropBodyAfter`], and the connection is reset.
    ResetBodyAfter(u64),
    /// The response announces its full length. After this many bytes of body the server sends nothing more, and the connection
    /// stays open.
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
    /// The connection is reset when this many bytes of the request body have been read, or instead of an answer if the body is
    /// shorter. A handler that reads the body sees it break off.
    ResetRequestAfter(u64),
    /// The handler does its work, and the connection is cut instead of an answer being sent.
    DropReply,
    /// As [`Fault::DropReply`], and the connection is reset.
    ResetReply,
    /// The request arrives and is logged, but the server neither reads its body nor answers, and the connection stays open. After
    /// [`release`](super::Server::release), if that is ever called, the handler answers.
    Hold,
}

/// What [`Fault::StatusThenStall`] announces beyond what it sends.
const MISSING_BYTES: u64 = 1024;

impl Fault {
    /// A load balancer's own answer when the service behind it fails: this status, and a page of HTML.
    pub fn html(status: u16) -> Fault {
        let status_code = StatusCode::from_u16(status).expect("a status");
        let title = format!(
            "{status} {}",
            status_code.canonical_reason().unwrap_or_default()
        );
        Fault::Status {
            status,
            headers: vec![("content-type".to_owned(), "text/html".to_owned())],
            body: format!(
                "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n\
                 </body>\r\n</html>\r\n"
            ),
        }
    }
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
        Fault::StatusThenStall { body: sent, .. } => {
            let sent = sent.len() as u64;
            let announced = sent + MISSING_BYTES;
            head.headers
                .insert(CONTENT_LENGTH, HeaderValue::from(announced));
            body.length = SizeHint::with_exact(announced);
            body.end = Some(sent);
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
            // hyper would add a length that it knows again.
            if *name == CONTENT_LENGTH.as_str() {
                body.length = SizeHint::new();
            }
        }
        // These are played before there is a response, or instead of one.
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
    /// As announced.
    length: SizeHint,
    position: u64,
    end: Option<u64>,
    flip: Option<u64>,
    after: After,
}

/// What comes after the `end` of a body.
enum After {
    /// The end of the response, as far as the client can tell.
    End,
    Cut(Arc<Break>),
    Silence,
}

/// How a connection ends early.
#[derive(Default)]
pub(super) struct Break {
    /// The next flush fails.
    is_due: AtomicBool,
    /// It ends with RST instead of FIN.
    is_reset: AtomicBool,
}

impl Break {
    /// Makes the connection end with a reset. A service that fails with the returned error ends it at once.
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
                    // Buffered bytes are sent first: the socket fails at the next flush.
                    connection.is_due.store(true, Ordering::Relaxed);
                    context.waker().wake_by_ref();
                }
                // hyper watches the connection, and drops this body when the client closes it.
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
/// buffered bytes to the kernel, so the client receives exactly what was sent before the cut.
pub(super) struct Socket<S: Connection> {
    pub(super) stream: TokioIo<S>,
    pub(super) connection: Arc<Break>,
}

/// A connection with TLS or without.
pub(super) trait Connection: AsyncRead + AsyncWrite + Unpin {
    /// The TCP connection below.
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
            // The other side may have reset it already.
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
