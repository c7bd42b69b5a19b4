//! The HTTP server that all others are built on: it logs each request and plays scripted faults.
//!
//! A handler answers as the service does when nothing goes wrong. What goes wrong is a [`Fault`], played by this module around the
//! handler, so that no server has fault code of its own.

mod body;
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the servers' own tests look at more of an answer")
)]
pub(crate) mod client;
mod fault;
#[cfg(test)]
mod tests;
mod tls;

pub use body::RequestBody;
pub use fault::Fault;
pub use tls::Certificate;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::HandshakeKind;

use body::Chunks;
use fault::{Break, Connection, Socket, tamper};

/// What a handler answers.
pub type Reply = Response<BoxBody<Bytes, io::Error>>;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names in lower case; repeated headers joined by `, `.
    pub headers: BTreeMap<String, String>,
    /// Body bytes that have arrived so far, without transfer coding.
    pub body_bytes: u64,
    /// Status of the answer; 0 until there is one, and also if the connection was cut instead.
    pub status: u16,
}

/// A server on a free port of `127.0.0.1`, running in the runtime it was started in. Clones are the same server.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    log: Mutex<Vec<Arc<Entry>>>,
    faults: Mutex<Vec<Script>>,
    /// How many of the next connections are reset as soon as they are made.
    refusals: AtomicU32,
    request_body_bytes: AtomicU64,
    connections: AtomicU64,
    resumed_sessions: AtomicU64,
    /// Changes whenever a request arrives.
    arrivals: watch::Sender<()>,
    /// Changes whenever held requests are released.
    releases: watch::Sender<()>,
}

struct Entry {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body_bytes: AtomicU64,
    status: AtomicU16,
}

struct Script {
    method: String,
    path_part: String,
    /// Matching requests to let pass before the fault is played.
    skip: usize,
    times: usize,
    fault: Fault,
}

impl Server {
    /// Starts to listen. `handler` answers every request that no fault answers.
    pub async fn start<H, F>(handler: H) -> Server
    where
        H: Fn(hyper::Request<RequestBody>) -> F + Send + Sync + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        Server::start_with(None, handler).await
    }

    /// As [`Server::start`], over HTTPS with this certificate, or over HTTP without one.
    pub async fn start_with<H, F>(certificate: Option<&Certificate>, handler: H) -> Server
    where
        H: Fn(hyper::Request<RequestBody>) -> F + Send + Sync + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port on the loopback interface");
        let shared = Arc::new(Shared {
            address: listener.local_addr().expect("the address just bound"),
            tls: certificate.map(|certificate| certificate.acceptor.clone()),
            log: Mutex::default(),
            faults: Mutex::default(),
            refusals: AtomicU32::new(0),
            request_body_bytes: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            resumed_sessions: AtomicU64::new(0),
            arrivals: watch::Sender::new(()),
            releases: watch::Sender::new(()),
        });
        tokio::spawn(accept(listener, shared.clone(), Arc::new(handler)));
        Server { shared }
    }

    /// `http://127.0.0.1:<port>`, or `https://…`, without a final slash.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme(), self.shared.address)
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        match self.shared.tls {
            Some(_) => "https",
            None => "http",
        }
    }

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> String {
        self.shared.address.to_string()
    }

    /// Every request since the start or the last [`Server::clear_requests`], in order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.log)
            .iter()
            .map(|entry| entry.snapshot())
            .collect()
    }

    /// How many of [`Server::requests`] have this method (`*` for any) and a path that contains `path_part`.
    /// AWS calls all have the same path, so their operation (`AmazonSQS.SendMessage`) counts as part of it, here and in the other
    /// methods with a `path_part`.
    pub fn count(&self, method: &str, path_part: &str) -> usize {
        lock(&self.shared.log)
            .iter()
            .filter(|entry| entry.matches(method, path_part))
            .count()
    }

    /// Empties the request log.
    pub fn clear_requests(&self) {
        lock(&self.shared.log).clear();
    }

    /// Plays `fault` on the next `times` requests with this method (`*` for any) whose path and query contain
    /// `path_part`. A request plays one fault: the first that matches, in the order they were given.
    pub fn fault(&self, method: &str, path_part: &str, times: usize, fault: Fault) {
        lock(&self.shared.faults).push(Script {
            method: method.into(),
            path_part: path_part.into(),
            skip: 0,
            times,
            fault,
        });
    }

    /// Plays `fault` on the request at `index`, where 0 is the next request of any kind, and on the `times - 1` requests after it;
    /// with `usize::MAX` on all of them.
    pub fn fault_at(&self, index: usize, times: usize, fault: Fault) {
        lock(&self.shared.faults).push(Script {
            method: "*".into(),
            path_part: String::new(),
            skip: index,
            times,
            fault,
        });
    }

    /// Drops the faults that have not been played, and accepts connections again.
    pub fn clear_faults(&self) {
        lock(&self.shared.faults).clear();
        self.shared.refusals.store(0, Ordering::Relaxed);
    }

    /// Passes held requests on to the handler, and drops the [`Fault::Hold`]s that have not been played.
    pub fn release(&self) {
        lock(&self.shared.faults).retain(|script| !matches!(script.fault, Fault::Hold));
        self.shared.releases.send_replace(());
    }

    /// Waits until the log has a request with this method (`*` for any) and a path that contains `path_part`. A held request
    /// is in the log too.
    pub async fn wait_for(&self, method: &str, path_part: &str) {
        let mut arrivals = self.shared.arrivals.subscribe();
        while self.count(method, path_part) == 0 {
            arrivals
                .changed()
                .await
                .expect("the sender lives as long as this server");
        }
    }

    /// Connections accepted since the start.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How many of them resumed a TLS session of an earlier one.
    pub fn resumed_sessions(&self) -> u64 {
        self.shared.resumed_sessions.load(Ordering::Relaxed)
    }

    /// Bytes of request bodies received since the start, whether the requests succeeded or not.
    pub fn total_request_body_bytes(&self) -> u64 {
        self.shared.request_body_bytes.load(Ordering::Relaxed)
    }
}

/// An answer with a body in memory.
pub fn reply(status: u16, headers: &[(&str, String)], body: impl Into<Bytes>) -> Reply {
    respond(
        status,
        headers,
        Full::new(body.into())
            .map_err(|never| match never {})
            .boxed(),
    )
}

/// An answer of `length` bytes that are generated while they are sent.
pub(crate) fn streamed(
    status: u16,
    headers: &[(&str, String)],
    length: u64,
    chunks: impl Iterator<Item = Bytes> + Send + Sync + 'static,
) -> Reply {
    respond(
        status,
        headers,
        BoxBody::new(Chunks {
            chunks: Box::new(chunks),
            left: length,
        }),
    )
}

/// An answer with a JSON body.
pub fn json(status: u16, value: &serde_json::Value) -> Reply {
    reply(
        status,
        &[("content-type", "application/json".into())],
        value.to_string(),
    )
}

/// An error in the envelope of the OCI distribution specification.
pub(crate) fn oci_error(status: u16, code: &str, message: &str) -> Reply {
    json(
        status,
        &serde_json::json!({ "errors": [{ "code": code, "message": message }] }),
    )
}

/// The values of a query's parameters by name, percent-decoded; the last of equal names wins.
pub fn query(path_and_query: &str) -> BTreeMap<String, String> {
    let (_, query) = path_and_query.split_once('?').unwrap_or_default();
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (percent_decoded(name), percent_decoded(value)))
        .collect()
}

/// Decodes `%` and two hexadecimal digits, and `+` as a space.
pub(crate) fn percent_decoded(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail
            .get(..2)
            .filter(|_| byte == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(escaped.unwrap_or(if byte == b'+' { b' ' } else { byte }));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn respond(status: u16, headers: &[(&str, String)], body: BoxBody<Bytes, io::Error>) -> Reply {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response
        .body(body)
        .expect("a valid status and valid headers")
}

async fn accept<H, F>(listener: TcpListener, shared: Arc<Shared>, handler: Arc<H>)
where
    H: Fn(hyper::Request<RequestBody>) -> F + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    loop {
        // An error of `accept` is about a connection that is closed already.
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        if shared.refuses() {
            // Without lingering, dropping the connection resets it.
            let _ = stream.set_zero_linger();
            continue;
        }
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let (shared, handler) = (shared.clone(), handler.clone());
        tokio::spawn(async move {
            // Small answers must not wait until the client has acknowledged earlier ones.
            let _ = stream.set_nodelay(true);
            match shared.tls.clone() {
                None => serve(stream, shared, handler).await,
                Some(tls) => {
                    // A client that does not trust the certificate closes the connection here.
                    if let Ok(stream) = tls.accept(stream).await {
                        if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
                            shared.resumed_sessions.fetch_add(1, Ordering::Relaxed);
                        }
                        serve(stream, shared, handler).await;
                    }
                }
            }
        });
    }
}

async fn serve<S, H, F>(stream: S, shared: Arc<Shared>, handler: Arc<H>)
where
    S: Connection,
    H: Fn(hyper::Request<RequestBody>) -> F,
    F: Future<Output = Reply>,
{
    let connection = Arc::new(Break::default());
    let socket = Socket {
        stream: TokioIo::new(stream),
        connection: connection.clone(),
    };
    let service = hyper::service::service_fn(|request| {
        answer(
            request,
            shared.clone(),
            handler.as_ref(),
            connection.clone(),
        )
    });
    // Clients close connections and faults cut them: both are what tests are about, not errors.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(socket, service)
        .await;
}

/// Logs a request and answers it; an error cuts the connection.
async fn answer<H, F>(
    request: hyper::Request<Incoming>,
    shared: Arc<Shared>,
    handler: &H,
    connection: Arc<Break>,
) -> io::Result<Reply>
where
    H: Fn(hyper::Request<RequestBody>) -> F,
    F: Future<Output = Reply>,
{
    let entry = Arc::new(Entry::of(&request));
    let mut releases = shared.releases.subscribe();
    // The fault is chosen before the request is logged. Otherwise a test that waits for the request and then calls `release`
    // could be quicker than the hold.
    let fault = shared.next_fault(&entry);
    lock(&shared.log).push(entry.clone());
    shared.arrivals.send_replace(());

    let broken = Arc::new(AtomicBool::new(false));
    let body_cut = match fault {
        Some(Fault::DropRequestAfter(bytes) | Fault::ResetRequestAfter(bytes)) => {
            Some((bytes, broken.clone()))
        }
        _ => None,
    };
    if let Some(Fault::Refuse(connections)) = fault {
        shared.refusals.store(connections, Ordering::Relaxed);
        return Err(connection.reset());
    }
    let is_head = request.method() == Method::HEAD;
    let request = request.map(|inner| RequestBody {
        inner,
        shared,
        entry: entry.clone(),
        cut: body_cut,
    });

    let mut response = match &fault {
        Some(Fault::Status {
            status,
            headers,
            body,
        }) => {
            // The client might miss an answer that comes while it is still sending the body.
            let _ = request.into_body().bytes().await;
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.clone()))
                .collect();
            reply(*status, &headers, body.clone())
        }
        Some(Fault::StatusThenStall { status, body }) => {
            let _ = request.into_body().bytes().await;
            reply(*status, &[], body.clone())
        }
        Some(Fault::RedirectToItself) => {
            let location = entry.path.clone();
            let _ = request.into_body().bytes().await;
            reply(307, &[("location", location)], "")
        }
        Some(Fault::Hold) => {
            releases.changed().await.map_err(io::Error::other)?;
            handler(request).await
        }
        _ => handler(request).await,
    };
    if matches!(fault, Some(Fault::ResetRequestAfter(_) | Fault::ResetReply)) {
        return Err(connection.reset());
    }
    if broken.load(Ordering::Relaxed) || matches!(fault, Some(Fault::DropReply)) {
        return Err(io::ErrorKind::ConnectionReset.into());
    }

    if let Some(length) = response.body().size_hint().exact()
        && !response.headers().contains_key(CONTENT_LENGTH)
    {
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if is_head {
        *response.body_mut() = Empty::new().map_err(|never| match never {}).boxed();
    }
    if let Some(fault) = fault {
        response = tamper(response, &fault, connection);
    }
    entry
        .status
        .store(response.status().as_u16(), Ordering::Relaxed);
    Ok(response)
}

impl Shared {
    fn next_fault(&self, entry: &Entry) -> Option<Fault> {
        let mut faults = lock(&self.faults);
        let is_for = |script: &&mut Script| {
            script.times > 0 && entry.matches(&script.method, &script.path_part)
        };
        for script in faults.iter_mut().filter(is_for) {
            if script.skip == 0 {
                script.times -= 1;
                return Some(script.fault.clone());
            }
            script.skip -= 1;
        }
        None
    }

    /// Whether the connection that was just accepted must be reset.
    fn refuses(&self) -> bool {
        let less_one = |left: u32| left.checked_sub(1);
        self.refusals
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less_one)
            .is_ok()
    }
}

impl Entry {
    fn of(request: &hyper::Request<Incoming>) -> Entry {
        Entry {
            method: request.method().to_string(),
            path: request
                .uri()
                .path_and_query()
                .map_or_else(String::new, |path| path.to_string()),
            headers: joined(request.headers()),
            body_bytes: AtomicU64::new(0),
            status: AtomicU16::new(0),
        }
    }

    /// Whether this has the method (`*` for any), and `path_part` in its path or in the name of its AWS operation.
    fn matches(&self, method: &str, path_part: &str) -> bool {
        let operation = self.headers.get("x-amz-target");
        (method == "*" || method == self.method)
            && (self.path.contains(path_part)
                || operation.is_some_and(|operation| operation.contains(path_part)))
    }

    fn snapshot(&self) -> Request {
        Request {
            method: self.method.clone(),
            path: self.path.clone(),
            headers: self.headers.clone(),
            body_bytes: self.body_bytes.load(Ordering::Relaxed),
            status: self.status.load(Ordering::Relaxed),
        }
    }
}

fn joined(headers: &HeaderMap) -> BTreeMap<String, String> {
    let values = |name: &HeaderName| -> Vec<_> {
        headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect()
    };
    headers
        .keys()
        .map(|name| (name.to_string(), values(name).join(", ")))
        .collect()
}

/// Locks a mutex even if its holder panicked: a second panic would hide the first.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
