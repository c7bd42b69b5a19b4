use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{get, header, send};
use super::*;

/// Answers `GET` with ten bytes, and everything else with the number of body bytes that it got.
async fn server() -> Server {
    Server::start(|request| async move {
        if request.method() == Method::GET || request.method() == Method::HEAD {
            return reply(200, &[("x-made-up", "yes".into())], "0123456789");
        }
        match request.into_body().bytes().await {
            Ok(bytes) => reply(201, &[], bytes.len().to_string()),
            Err(_) => reply(400, &[], "broke off"),
        }
    })
    .await
}

#[tokio::test]
async fn requests_are_logged_with_what_arrived_and_what_was_answered() {
    let server = server().await;
    send(
        "PUT",
        &format!("{}/a?b=c", server.url()),
        &[("X-One", "1"), ("x-one", "2")],
        "12345",
    )
    .await
    .unwrap();
    let [request] = server.requests().try_into().unwrap();
    assert_eq!(
        (request.method.as_str(), request.path.as_str()),
        ("PUT", "/a?b=c")
    );
    assert_eq!((request.body_bytes, request.status), (5, 201));
    assert_eq!(request.headers["x-one"], "1, 2");
    assert_eq!(server.total_request_body_bytes(), 5);
    server.clear_requests();
    assert_eq!(server.count("*", ""), 0);
}

#[tokio::test]
async fn head_tells_the_length_and_sends_nothing() {
    let server = server().await;
    let response = send("HEAD", &server.url(), &[], "").await.unwrap();
    assert_eq!(
        (header(&response, "content-length"), response.body().len()),
        ("10", 0)
    );
}

#[tokio::test]
async fn a_status_fault_plays_as_often_as_told_and_only_where_told() {
    let server = server().await;
    let fault = Fault::Status {
        status: 429,
        headers: vec![("retry-after".into(), "3".into())],
        body: "no".into(),
    };
    server.fault("PUT", "/blobs/", 2, fault);
    let url = format!("{}/blobs/x", server.url());
    assert_eq!(get(&url, &[]).await.status(), 200);
    for _ in 0..2 {
        let response = send("PUT", &url, &[], vec![0; 1 << 20]).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), header(&response, "retry-after")),
            (429, "3")
        );
    }
    assert_eq!(send("PUT", &url, &[], "").await.unwrap().status(), 201);
    assert_eq!(server.requests()[1].body_bytes, 1 << 20);
}

#[tokio::test]
async fn aws_operations_are_told_apart() {
    let server = server().await;
    let fault = Fault::Status {
        status: 503,
        headers: vec![],
        body: String::new(),
    };
    server.fault("POST", "SendMessage", 1, fault);
    for (operation, status) in [("ChangeMessageVisibility", 201), ("SendMessage", 503)] {
        let target = format!("AmazonSQS.{operation}");
        let headers = [("x-amz-target", target.as_str())];
        let response = send("POST", &server.url(), &headers, "{}").await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(server.count("POST", operation), 1);
    }
}

#[tokio::test]
async fn response_bodies_are_tampered_with_as_told() {
    let server = server().await;
    let url = server.url();
    server.fault("GET", "", 1, Fault::CorruptByte(3));
    assert_eq!(get(&url, &[]).await.body(), &b"012\xcc456789"[..]);
    server.fault("GET", "", 1, Fault::Truncate(4));
    let response = get(&url, &[]).await;
    assert_eq!(
        (header(&response, "content-length"), &response.body()[..]),
        ("4", &b"0123"[..])
    );
    server.fault("GET", "", 1, Fault::OmitHeader("x-made-up"));
    assert_eq!(header(&get(&url, &[]).await, "x-made-up"), "");
    server.fault("GET", "", 1, Fault::OmitHeader("content-length"));
    let response = get(&url, &[]).await;
    assert_eq!(
        (header(&response, "content-length"), response.body().len()),
        ("", 10)
    );
    server.fault("GET", "", 1, Fault::DropReply);
    assert!(send("GET", &url, &[], "").await.is_err());
}

#[tokio::test]
async fn a_dropped_response_ends_after_exactly_the_bytes_told() {
    for (told, length) in [(0, 10), (4, 10), (3 << 20, 8 << 20)] {
        let server = Server::start(move |_| async move {
            streamed(
                200,
                &[],
                length,
                (0..length)
                    .step_by(1 << 20)
                    .map(move |from| Bytes::from(vec![7; (length - from).min(1 << 20) as usize])),
            )
        })
        .await;
        server.fault("GET", "", 1, Fault::DropBodyAfter(told));
        let mut stream = TcpStream::connect(server.host()).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut raw = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut raw)
            .await
            .unwrap();
        let head = raw
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap()
            + 4;
        assert!(
            String::from_utf8_lossy(&raw[..head])
                .contains(&format!("content-length: {length}\r\n"))
        );
        assert_eq!((raw.len() - head) as u64, told);
    }
}

#[tokio::test]
async fn a_dropped_request_breaks_off_for_both_sides() {
    let server = server().await;
    for (told, counted) in [(3, 3), (100, 5)] {
        server.clear_requests();
        server.fault("PUT", "", 1, Fault::DropRequestAfter(told));
        assert!(send("PUT", &server.url(), &[], "12345").await.is_err());
        assert_eq!(
            (server.requests()[0].body_bytes, server.requests()[0].status),
            (counted, 0)
        );
    }
}

/// What comes back for `request` on a connection of its own, and how that ends; `None` is the orderly end.
async fn raw(server: &Server, request: &str) -> (String, Option<io::ErrorKind>) {
    let mut received = Vec::new();
    let mut exchange = async || -> io::Result<()> {
        let mut stream = TcpStream::connect(server.host()).await?;
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_end(&mut received).await?;
        Ok(())
    };
    let end = exchange().await.err().map(|error| error.kind());
    (String::from_utf8_lossy(&received).into_owned(), end)
}

#[tokio::test]
async fn a_reset_is_seen_as_one_wherever_it_comes() {
    let put = "PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n12345";
    let get = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    for (fault, request, arrived, body) in [
        (Fault::Refuse(0), put, 0, ""),
        (Fault::ResetRequestAfter(0), put, 0, ""),
        (Fault::ResetRequestAfter(3), put, 3, ""),
        (Fault::ResetRequestAfter(9), put, 5, ""),
        (Fault::ResetRequestAfter(9), get, 0, ""),
        (Fault::ResetReply, put, 5, ""),
        (Fault::ResetBodyAfter(4), get, 0, "0123"),
    ] {
        let server = server().await;
        server.fault("*", "", 1, fault.clone());
        let (answer, end) = raw(&server, request).await;
        assert_eq!(end, Some(io::ErrorKind::ConnectionReset), "{fault:?}");
        assert!(answer.ends_with(body) && answer.is_empty() == body.is_empty());
        assert_eq!(server.requests()[0].body_bytes, arrived, "{fault:?}");
    }
    let server = server().await;
    server.fault("*", "", 1, Fault::DropReply);
    assert_eq!(raw(&server, get).await, (String::new(), None), "no reset");
}

#[tokio::test]
async fn as_many_connections_are_refused_as_told() {
    let server = server().await;
    server.fault("GET", "", 1, Fault::Refuse(2));
    for _ in 0..3 {
        assert!(send("GET", &server.url(), &[], "").await.is_err());
    }
    assert_eq!(get(&server.url(), &[]).await.status(), 200);
    assert_eq!(
        server.count("GET", ""),
        2,
        "of a refused connection nothing is read"
    );
    server.fault("GET", "", 1, Fault::Refuse(u32::MAX));
    assert!(send("GET", &server.url(), &[], "").await.is_err());
    server.clear_faults();
    assert_eq!(get(&server.url(), &[]).await.status(), 200);
}

#[tokio::test]
async fn a_fault_is_played_at_the_request_told_and_from_there_on() {
    let server = server().await;
    let omit = || Fault::OmitHeader("x-made-up");
    let whole = async || header(&get(&server.url(), &[]).await, "x-made-up") == "yes";
    assert!(whole().await);
    server.fault_at(2, 1, omit());
    assert_eq!(
        [whole().await, whole().await, whole().await, whole().await],
        [true, true, false, true]
    );
    server.fault_at(1, usize::MAX, omit());
    assert_eq!(
        [whole().await, whole().await, whole().await],
        [true, false, false]
    );
}

#[tokio::test]
async fn a_redirect_to_itself_names_the_request() {
    let server = server().await;
    server.fault("PUT", "", 1, Fault::RedirectToItself);
    let url = format!("{}/a?b=c", server.url());
    let response = send("PUT", &url, &[], "12345").await.unwrap();
    assert_eq!(
        (response.status().as_u16(), header(&response, "location")),
        (307, "/a?b=c")
    );
}

/// The bytes before the silence arrive, and the connection stays until the client gives up, which the server notices.
#[tokio::test]
async fn a_stalled_body_stops_and_stays_open() {
    let server = server().await;
    server.fault("GET", "", 1, Fault::StallBodyAfter(4));
    let mut stream = TcpStream::connect(server.host()).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut received = String::new();
    while !received.ends_with("\r\n\r\n0123") {
        let mut piece = [0; 512];
        let read = stream.read(&mut piece).await.unwrap();
        assert!(read > 0, "the end came after {received}");
        received.push_str(std::str::from_utf8(&piece[..read]).unwrap());
    }
    assert!(received.contains("content-length: 10\r\n"));
    // A second request on the connection is not even looked at while the first is unfinished.
    stream
        .write_all(b"GET /second HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    get(&format!("{}/other", server.url()), &[]).await;
    assert_eq!(server.count("GET", "/second"), 0);
    let is_silent = stream.try_read(&mut [0; 1]).unwrap_err().kind();
    assert_eq!(is_silent, io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_held_request_has_arrived_and_waits_for_its_release() {
    let server = server().await;
    server.fault("GET", "/held", 1, Fault::Hold);
    let url = format!("{}/held", server.url());
    let waiting = tokio::spawn(async move { get(&url, &[]).await });
    server.wait_for("GET", "/held").await;
    assert_eq!(server.requests()[0].status, 0);
    server.release();
    assert_eq!(waiting.await.unwrap().status(), 200);
    assert_eq!(server.requests()[0].status, 200);
}

#[test]
fn queries_are_decoded() {
    let parameters =
        query("/token?scope=repository%3Aacme%2Fapi%3Apull&service=ghcr.io&empty&odd=%zz+%");
    assert_eq!(parameters["scope"], "repository:acme/api:pull");
    assert_eq!(
        (parameters["service"].as_str(), parameters["empty"].as_str()),
        ("ghcr.io", "")
    );
    assert_eq!(parameters["odd"], "%zz %");
}
