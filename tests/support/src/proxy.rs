//! An HTTP proxy through which the function reaches local servers under real host names.
//!
//! A registry's host, such as `210987654321.dkr.ecr.us-east-1.amazonaws.com`, can't be resolved on a test machine. With this proxy
//! as `HTTPS_PROXY` it needn't be: the client asks for a tunnel by name (CONNECT, RFC 9110, 9.3.6), and the tunnel leads to a local
//! server with a certificate for that name.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::http::Server;

/// A proxy on a free port of `127.0.0.1`, running in the runtime it was started in.
pub struct Proxy {
    address: SocketAddr,
}

impl Proxy {
    /// Starts to listen. A tunnel to one of these host names leads to its server; any other is refused with 502.
    pub async fn start(hosts: &[(&str, &Server)]) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port on the loopback interface");
        let proxy = Proxy {
            address: listener.local_addr().expect("the address just bound"),
        };
        let hosts: BTreeMap<String, String> = hosts
            .iter()
            .map(|(name, server)| (format!("{name}:443"), server.host()))
            .collect();
        let hosts = Arc::new(hosts);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let hosts = hosts.clone();
                // Both ends notice a broken connection themselves.
                tokio::spawn(async move { tunnel(client, &hosts).await.ok() });
            }
        });
        proxy
    }

    /// The URL for `HTTPS_PROXY`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Answers the request for a tunnel, and passes bytes on in both directions until one side ends.
async fn tunnel(mut client: TcpStream, hosts: &BTreeMap<String, String>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    let target = head.strip_prefix("CONNECT ").unwrap_or_default();
    let target = target.split(' ').next().unwrap_or_default();
    let Some(address) = hosts.get(target) else {
        let refusal = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n";
        return client.write_all(refusal).await;
    };
    let mut server = TcpStream::connect(address).await?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
