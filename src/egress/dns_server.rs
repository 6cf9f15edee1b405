//! The sockets of a workspace's resolver: UDP and TCP port 53, bounded in rate, size and number.

use std::io;
use std::net::{TcpListener as StdTcpListener, UdpSocket as StdUdpSocket};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::dns::Zone;
use crate::shutdown::Shutdown;

/// Questions per second that a workspace may ask for long, and at once. What is over that gets no answer.
const RATE: f64 = 500.0;
const BURST: f64 = 2000.0;

/// Largest question; a valid one has one name of at most 255 bytes and a few options.
const QUERY_LIMIT: usize = 4096;

/// Open TCP connections per workspace, and how long one may be idle (RFC 7766, section 6.2.3 asks for seconds).
const CONNECTIONS: usize = 64;
const IDLE: Duration = Duration::from_secs(10);

/// A token bucket.
#[derive(Debug)]
pub(super) struct Rate {
    bucket: Mutex<(f64, Instant)>,
}

impl Rate {
    pub(super) fn new() -> Self {
        Self { bucket: Mutex::new((BURST, Instant::now())) }
    }

    /// Takes one token, if there is one at `now`.
    pub(super) fn take(&self, now: Instant) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let gained = now.saturating_duration_since(bucket.1).as_secs_f64() * RATE;
        bucket.0 = (bucket.0 + gained).min(BURST);
        bucket.1 = now;
        let admitted = bucket.0 >= 1.0;
        if admitted {
            bucket.0 -= 1.0;
        }
        admitted
    }
}

/// Serves `zone` on bound UDP sockets and listening TCP sockets until `shutdown` is cancelled.
pub(super) fn serve(
    zone: &Arc<Zone>,
    udp: Vec<OwnedFd>,
    tcp: Vec<OwnedFd>,
    shutdown: &Shutdown,
) -> io::Result<()> {
    let rate = Arc::new(Rate::new());
    for descriptor in udp {
        let socket = StdUdpSocket::from(descriptor);
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        shutdown.spawn_until_cancelled(datagrams(socket, zone.clone(), rate.clone()));
    }
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    for descriptor in tcp {
        let listener = StdTcpListener::from(descriptor);
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let server = Server {
            zone: zone.clone(),
            rate: rate.clone(),
            places: places.clone(),
            shutdown: shutdown.clone(),
        };
        shutdown.spawn_until_cancelled(server.connections(listener));
    }
    Ok(())
}

async fn datagrams(socket: UdpSocket, zone: Arc<Zone>, rate: Arc<Rate>) {
    let mut buffer = vec![0; QUERY_LIMIT];
    loop {
        // Errors are those of earlier answers (the asker's port is closed); they say nothing about the next question.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            tokio::task::yield_now().await;
            continue;
        };
        if !rate.take(Instant::now()) {
            continue;
        }
        if let Some(response) = zone.respond(&buffer[..length])
            && let Err(error) = socket.send_to(&response, peer).await
        {
            tracing::debug!(%error, "a DNS answer was not sent");
        }
    }
}

struct Server {
    zone: Arc<Zone>,
    rate: Arc<Rate>,
    places: Arc<Semaphore>,
    shutdown: Shutdown,
}

impl Server {
    async fn connections(self, listener: TcpListener) {
        loop {
            let Ok(place) = self.places.clone().acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::task::yield_now().await;
                continue;
            };
            let (zone, rate) = (self.zone.clone(), self.rate.clone());
            self.shutdown.spawn_until_cancelled(async move {
                if let Err(error) = questions(stream, &zone, &rate).await {
                    tracing::debug!(%error, "a DNS connection ended");
                }
                drop(place);
            });
        }
    }
}

/// One TCP connection: length-prefixed messages (RFC 1035, section 4.2.2), one after the other.
async fn questions(mut stream: TcpStream, zone: &Zone, rate: &Rate) -> io::Result<()> {
    loop {
        let length = match timeout(IDLE, stream.read_u16()).await? {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            length => usize::from(length?),
        };
        if length > QUERY_LIMIT || !rate.take(Instant::now()) {
            return Ok(());
        }
        let mut message = vec![0; length];
        timeout(IDLE, stream.read_exact(&mut message)).await??;
        let Some(response) = zone.respond(&message) else { return Ok(()) };
        let length = u16::try_from(response.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &response].concat();
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}
