//! A network between a client and a registry: a TCP proxy that delays, and bounds what is in flight.
//!
//! What is modelled is one long path per connection, without loss: bytes arrive after the one-way delay; no more than a window
//! of them is sent and not yet acknowledged, and an acknowledgement takes the delay back; a new connection costs a round trip
//! before its first byte passes. So a connection moves at most one window in each round trip.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::record::{Record, Request};

/// The most that is read at once. Large, so that the proxy costs little beside what it carries.
const CHUNK: usize = 64 * 1024;

/// What lies between the client and the registry.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// How long a byte takes in either direction; a round trip takes twice as long.
    pub delay: Duration,
    /// Bytes in flight at most, for each connection and direction. At least 64 KiB.
    pub window: usize,
    /// Bytes per second from the client to the registry at most, for each connection.
    pub upload_rate: Option<f64>,
}

impl Path {
    /// Bytes per second that one connection moves at most towards the registry, or, with `is_upload` false, from it.
    pub fn rate(&self, is_upload: bool) -> f64 {
        let windows = self.window as f64 / (2.0 * self.delay.as_secs_f64());
        match self.upload_rate {
            Some(rate) if is_upload => rate.min(windows),
            _ => windows,
        }
    }
}

/// A listener on a free port of `127.0.0.1` that stands for a registry at the far end of a [`Path`]. Ends when dropped.
pub struct Proxy {
    address: SocketAddr,
    record: Record,
    /// Aborted when dropped.
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Begins to listen, and to record what passes.
    pub async fn start(registry: SocketAddr, path: Path) -> Proxy {
        assert!(path.window >= CHUNK, "the window holds at least one chunk");
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port on the loopback interface");
        let address = listener.local_addr().expect("the address just bound");
        let record = Record::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, registry, path, record.clone()));
        Proxy {
            address,
            record,
            _tasks: tasks,
        }
    }

    /// Where clients find the registry.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The HTTP requests that have passed so far, in the order in which they began.
    pub fn requests(&self) -> Vec<Request> {
        self.record.requests()
    }
}

async fn accept(listener: TcpListener, registry: SocketAddr, path: Path, record: Record) {
    let mut connections = JoinSet::new();
    for number in 0.. {
        let (client, _) = listener.accept().await.expect("accept a connection");
        let record = record.clone();
        record.connects(number);
        connections.spawn(async move {
            // A connection that breaks ends for both, which is all that there is to do about it.
            let _ = carry(client, registry, path, record, number).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(
    client: TcpStream,
    registry: SocketAddr,
    path: Path,
    record: Record,
    connection: usize,
) -> io::Result<()> {
    sleep(2 * path.delay).await;
    let registry = TcpStream::connect(registry).await?;
    client.set_nodelay(true)?;
    registry.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_registry, to_registry) = registry.into_split();
    let down = Path {
        upload_rate: None,
        ..path
    };
    tokio::try_join!(
        pump(
            from_client,
            to_registry,
            path,
            |bytes| record.sent(connection, bytes),
            |_| {}
        ),
        pump(
            from_registry,
            to_client,
            down,
            |_| {},
            |bytes| record.received(connection, bytes)
        ),
    )?;
    Ok(())
}

/// Bytes on their way, with their share of the window.
type Flight = (Instant, Bytes, OwnedSemaphorePermit);

/// One direction of one connection. `departed` sees the bytes when they leave, `arrived` when they are there.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    path: Path,
    departed: impl Fn(&[u8]),
    arrived: impl Fn(&[u8]),
) -> io::Result<()> {
    let window = Arc::new(Semaphore::new(path.window));
    let (flights, mut landing) = mpsc::unbounded_channel::<Flight>();
    let (acknowledgements, mut returning) = mpsc::unbounded_channel();
    let send = async move {
        let mut line = Line::new(path.upload_rate);
        let mut buffer = BytesMut::new();
        loop {
            let share = window.clone().acquire_many_owned(CHUNK as u32).await;
            let mut share = share.expect("the window is never closed");
            buffer.reserve(CHUNK);
            let length = (&mut from).take(CHUNK as u64).read_buf(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            // What was not needed goes back at once.
            drop(share.split(CHUNK - length));
            departed(&buffer);
            let arrival = line.sent(Instant::now(), length) + path.delay;
            // Refused only if the far end is gone, which the other half reports.
            let _ = flights.send((arrival, buffer.split().freeze(), share));
        }
    };
    let deliver = async move {
        while let Some((arrival, bytes, share)) = landing.recv().await {
            sleep_until(arrival).await;
            to.write_all(&bytes).await?;
            arrived(&bytes);
            let _ = acknowledgements.send((Instant::now() + path.delay, share));
        }
        to.shutdown().await
    };
    let acknowledge = async move {
        while let Some((arrival, share)) = returning.recv().await {
            sleep_until(arrival).await;
            drop(share);
        }
        Ok(())
    };
    tokio::try_join!(send, deliver, acknowledge)?;
    Ok(())
}

/// The sender's line, which takes one byte after the other at its rate.
struct Line {
    rate: Option<f64>,
    is_free_at: Option<Instant>,
}

impl Line {
    fn new(rate: Option<f64>) -> Line {
        Line {
            rate,
            is_free_at: None,
        }
    }

    /// When the last of `length` bytes that are handed over `now` has left.
    fn sent(&mut self, now: Instant, length: usize) -> Instant {
        let begin = self.is_free_at.map_or(now, |free| free.max(now));
        let takes = self.rate.map_or(0.0, |rate| length as f64 / rate);
        let end = begin + Duration::from_secs_f64(takes);
        self.is_free_at = Some(end);
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUSH: Path = Path {
        delay: Duration::from_millis(20),
        window: 2 * CHUNK,
        upload_rate: None,
    };
    const ROUND_TRIP: Duration = Duration::from_millis(40);
    /// What a busy machine may add to a time.
    const PATIENCE: Duration = Duration::from_secs(5);

    /// Answers one byte on each connection after `length` bytes have come.
    async fn sink(length: u64) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            loop {
                let mut body = (&mut stream).take(length);
                let count = tokio::io::copy(&mut body, &mut tokio::io::sink()).await;
                if count.expect("read") < length {
                    return;
                }
                stream.write_all(b"!").await.expect("write");
            }
        });
        address
    }

    /// Sends `length` bytes and waits for the answer.
    async fn exchange(stream: &mut TcpStream, length: usize) -> Duration {
        let begin = Instant::now();
        stream.write_all(&vec![7; length]).await.expect("write");
        stream.read_u8().await.expect("an answer");
        begin.elapsed()
    }

    #[tokio::test]
    async fn a_connection_costs_one_round_trip_and_an_exchange_another() {
        let proxy = Proxy::start(sink(1).await, RUSH).await;
        let mut stream = TcpStream::connect(proxy.address()).await.expect("connect");
        let first = exchange(&mut stream, 1).await;
        let second = exchange(&mut stream, 1).await;
        assert!(
            first >= 2 * ROUND_TRIP && first < 2 * ROUND_TRIP + PATIENCE,
            "{first:?}"
        );
        assert!(
            second >= ROUND_TRIP && second < ROUND_TRIP + PATIENCE,
            "{second:?}"
        );
        assert!(second < first);
    }

    #[tokio::test]
    async fn no_more_than_a_window_moves_in_a_round_trip() {
        let windows = 10;
        let length = windows * RUSH.window;
        let proxy = Proxy::start(sink(length as u64).await, RUSH).await;
        let mut stream = TcpStream::connect(proxy.address()).await.expect("connect");
        let took = exchange(&mut stream, length).await;
        // The connection, nine windows that wait for the one before them, and the last one's way and the answer's.
        let least = (windows as u32 + 1) * ROUND_TRIP;
        assert!(took >= least && took < least + PATIENCE, "{took:?}");
        // Twice the window, about half the time.
        let wide = Path {
            window: 10 * RUSH.window,
            ..RUSH
        };
        let proxy = Proxy::start(sink(length as u64).await, wide).await;
        let mut stream = TcpStream::connect(proxy.address()).await.expect("connect");
        assert!(exchange(&mut stream, length).await < took);
    }

    #[tokio::test]
    async fn an_upload_keeps_to_its_rate() {
        let slow = Path {
            window: 16 * CHUNK,
            upload_rate: Some(4_000_000.0),
            ..RUSH
        };
        let proxy = Proxy::start(sink(1_000_000).await, slow).await;
        let mut stream = TcpStream::connect(proxy.address()).await.expect("connect");
        let took = exchange(&mut stream, 1_000_000).await;
        let least = 2 * ROUND_TRIP + Duration::from_millis(250);
        assert!(took >= least && took < least + PATIENCE, "{took:?}");
    }

    #[test]
    fn a_line_takes_one_after_the_other_and_saves_nothing_up() {
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        let mut line = Line::new(Some(1000.0));
        assert_eq!(line.sent(begin, 500), begin + second / 2);
        assert_eq!(line.sent(begin, 500), begin + second);
        assert_eq!(line.sent(begin + 5 * second, 1000), begin + 6 * second);
        assert_eq!(Line::new(None).sent(begin, usize::MAX), begin);
    }

    #[test]
    fn the_rate_of_a_connection_is_the_tighter_bound() {
        let path = Path {
            delay: Duration::from_millis(10),
            window: 2_000_000,
            upload_rate: Some(26e6),
        };
        assert_eq!((path.rate(true), path.rate(false)), (26e6, 100e6));
    }
}
