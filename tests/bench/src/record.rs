//! The HTTP requests to a registry that pass through a proxy, as the client sees them.
//!
//! No HTTP is parsed beyond first lines: clients here send a request only when the one before it on the same connection has been
//! answered, so each begins with a read of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::time::Instant;

/// The methods of the OCI distribution specification.
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"];

/// One request with its answer.
#[derive(Clone, Debug)]
pub struct Request {
    /// Counted from zero in the order in which the connections were made.
    pub connection: usize,
    pub method: String,
    /// Path and query.
    pub path: String,
    /// When the client began to connect, if a connection was made for this request; otherwise `begin`.
    pub connect: Instant,
    /// When the client sent its first byte.
    pub begin: Instant,
    /// When the client had the last byte of the answer; `begin` if there is none.
    pub end: Instant,
    /// Bytes from the client, head included.
    pub sent_bytes: u64,
    /// Bytes to the client, head included.
    pub received_bytes: u64,
}

/// What has passed so far. Clones are the same record.
#[derive(Clone, Default)]
pub struct Record {
    requests: Arc<Mutex<Vec<Request>>>,
    /// When connections were asked for that no request has used yet.
    opened: Arc<Mutex<HashMap<usize, Instant>>>,
}

impl Record {
    /// A client begins to connect.
    pub fn connects(&self, connection: usize) {
        self.opened().insert(connection, Instant::now());
    }

    /// Bytes that a client has sent.
    pub fn sent(&self, connection: usize, bytes: &[u8]) {
        let now = Instant::now();
        let mut requests = self.requests.lock().expect("no holder panics");
        if let Some((method, path)) = first_line(bytes) {
            requests.push(Request {
                connection,
                method,
                path,
                connect: self.opened().remove(&connection).unwrap_or(now),
                begin: now,
                end: now,
                sent_bytes: 0,
                received_bytes: 0,
            });
        }
        if let Some(request) = latest(&mut requests, connection) {
            request.sent_bytes += bytes.len() as u64;
        }
    }

    /// Bytes that a client has been given.
    pub fn received(&self, connection: usize, bytes: &[u8]) {
        let mut requests = self.requests.lock().expect("no holder panics");
        if let Some(request) = latest(&mut requests, connection) {
            request.received_bytes += bytes.len() as u64;
            request.end = Instant::now();
        }
    }

    /// In the order in which they began.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no holder panics").clone()
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<usize, Instant>> {
        self.opened.lock().expect("no holder panics")
    }
}

fn latest(requests: &mut [Request], connection: usize) -> Option<&mut Request> {
    requests
        .iter_mut()
        .rev()
        .find(|request| request.connection == connection)
}

/// Method and path, if a request to a registry begins here.
fn first_line(bytes: &[u8]) -> Option<(String, String)> {
    let line = bytes.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    (METHODS.contains(&method) && path.starts_with("/v2/"))
        .then(|| (method.to_owned(), path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_belong_to_the_latest_request_of_their_connection() {
        let record = Record::default();
        let head = b"PUT /v2/acme/api/blobs/uploads/1?digest=sha256:00 HTTP/1.1\r\nhost: a\r\n\r\n";
        record.connects(0);
        record.sent(0, head);
        record.sent(1, b"GET /v2/ HTTP/1.1\r\n\r\n");
        record.sent(0, b"GET is how this body begins");
        record.received(0, b"HTTP/1.1 201 Created\r\n\r\n");
        record.sent(0, b"HEAD /v2/acme/api/manifests/1 HTTP/1.1\r\n\r\n");
        let requests = record.requests();
        let named: Vec<_> = requests
            .iter()
            .map(|request| (request.connection, request.method.as_str()))
            .collect();
        assert_eq!(named, [(0, "PUT"), (1, "GET"), (0, "HEAD")]);
        let put = &requests[0];
        assert_eq!(put.path, "/v2/acme/api/blobs/uploads/1?digest=sha256:00");
        assert_eq!(
            (put.sent_bytes, put.received_bytes),
            (head.len() as u64 + 27, 24)
        );
        assert!(put.connect < put.begin && put.begin < put.end);
        assert_eq!(requests[2].connect, requests[2].begin, "used before");
        assert_eq!(requests[1].end, requests[1].begin, "no answer yet");
    }

    #[test]
    fn what_is_no_request_to_a_registry_is_none() {
        for bytes in [
            "GET /other/ HTTP/1.1",
            "GETS /v2/ HTTP/1.1",
            "GET",
            "",
            "\u{0}\u{1}",
        ] {
            assert_eq!(first_line(bytes.as_bytes()), None, "{bytes}");
        }
        assert_eq!(first_line(&[0xff; 70_000]), None);
    }
}
