use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::get;
use super::*;

const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
const PUT: &str = "PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n12345";

/// Reads the body of a request, answers with ten bytes, and plays `fault` on the first request.
async fn server(fault: Fault) -> Server {
    let server = Server::start(|request| async {
        let _ = request.into_body().bytes().await;
        reply(200, &[], "0123456789")
    });
    let server = server.await;
    server.fault("*", "", 1, fault);
    server
}

/// The body that the server sends for `request`, and how the connection ends; `None` is an orderly end.
async fn raw(server: &Server, request: &str) -> (String, Option<io::ErrorKind>) {
    let mut received = Vec::new();
    let mut exchange = async || -> io::Result<()> {
        let mut stream = TcpStream::connect(server.host()).await?;
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_end(&mut received).await?;
        Ok(())
    };
    let end = exchange().await.err().map(|error| error.kind());
    let text = String::from_utf8_lossy(&received);
    let (_, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    (body.to_owned(), end)
}

/// The client sees exactly the bytes before the cut, and the server as many as the fault says.
#[tokio::test]
async fn connections_are_cut_and_reset_at_the_exact_byte() {
    let reset = Some(io::ErrorKind::ConnectionReset);
    for (fault, request, arrived, body, end) in [
        (Fault::DropBodyAfter(4), GET, 0, "0123", None),
        (Fault::DropReply, PUT, 5, "", None),
        (Fault::DropRequestAfter(3), PUT, 3, "", None),
        (Fault::DropRequestAfter(9), PUT, 5, "", None),
        (Fault::Refuse(0), PUT, 0, "", reset),
        (Fault::ResetRequestAfter(3), PUT, 3, "", reset),
        (Fault::ResetRequestAfter(9), GET, 0, "", reset),
        (Fault::ResetReply, PUT, 5, "", reset),
        (Fault::ResetBodyAfter(4), GET, 0, "0123", reset),
        (Fault::Truncate(4), PUT, 5, "0123", None),
        (Fault::CorruptByte(0), GET, 0, "\u{fffd}123456789", None),
    ] {
        let server = server(fault.clone()).await;
        let request = request.replace("host", "connection: close\r\nhost");
        let received = raw(&server, &request).await;
        assert_eq!(received, (body.to_owned(), end), "{fault:?}");
        assert_eq!(server.requests()[0].body_bytes, arrived, "{fault:?}");
    }
}

/// The bytes before the silence arrive, and the connection stays open until the client closes it.
#[tokio::test]
async fn a_stalled_answer_stops_and_stays_open() {
    let body = "0123".to_owned();
    let failure = Fault::StatusThenStall { status: 503, body };
    for (fault, length) in [(Fault::StallBodyAfter(4), 10), (failure, 1028)] {
        let server = server(fault).await;
        let mut stream = TcpStream::connect(server.host()).await.unwrap();
        stream.write_all(GET.as_bytes()).await.unwrap();
        let mut received = Vec::new();
        while !received.ends_with(b"\r\n\r\n0123") {
            let read = stream.read_buf(&mut received).await.unwrap();
            assert!(read > 0, "the connection ended");
        }
        let length = format!("content-length: {length}\r\n");
        assert!(String::from_utf8_lossy(&received).contains(&length));
        // A second request on this connection is not read while the first is unfinished; one on another is.
        stream.write_all(GET.as_bytes()).await.unwrap();
        get(&server.url(), &[]).await;
        assert_eq!(server.count("GET", ""), 2);
        let silence = stream.try_read(&mut [0; 1]).unwrap_err().kind();
        assert_eq!(silence, io::ErrorKind::WouldBlock);
    }
}

#[tokio::test]
async fn a_held_request_is_logged_and_waits_for_its_release() {
    let server = server(Fault::Hold).await;
    let url = server.url();
    let waiting = tokio::spawn(async move { get(&url, &[]).await });
    server.wait_for("GET", "/").await;
    assert_eq!(server.requests()[0].status, 0);
    server.release();
    assert_eq!(waiting.await.unwrap().status(), 200);
    assert_eq!(server.requests()[0].status, 200);
}
