//! Upstream connections of one workspace that can take a request: bounded, and never lent to one of another kind.
//!
//! A connection of HTTP/1.1 is lent to one exchange at a time. One of HTTP/2 stays here while it carries streams.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::{http1, http2};
use tokio::sync::Mutex as Turn;

use super::body::Body;
use crate::policy::{Permit, Scheme};

/// Idle connections per key and in all, and how long one is kept. Origins close theirs after a minute or so.
const PER_KEY: usize = 32;
const IN_ALL: usize = 256;
const IDLE: Duration = Duration::from_secs(45);

/// Streams on one connection; origins usually allow no more.
const STREAMS: usize = 100;

/// A version of HTTP as it is negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// What two requests must have in common to use one connection: the same origin under the same rule, the same
/// credential, and the same wish for a protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    secure: bool,
    host: String,
    port: u16,
    rule: String,
    credential: Option<String>,
    asked: Protocol,
}

impl Key {
    pub(super) fn of(permit: &Permit, asked: Protocol) -> Self {
        Self {
            secure: matches!(permit.scheme(), Scheme::Https),
            host: permit.host().to_string(),
            port: permit.port(),
            rule: permit.rule().to_owned(),
            credential: permit.credential().map(str::to_owned),
            asked,
        }
    }
}

/// Sends requests on a connection.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) sender: http2::SendRequest<Body>,
    /// One more owner per stream.
    place: Arc<()>,
}

impl Shared {
    pub(super) fn new(sender: http2::SendRequest<Body>) -> Self {
        Self { sender, place: Arc::default() }
    }

    /// Streams that are open; the pool's own hold does not count.
    fn streams(&self) -> usize {
        Arc::strong_count(&self.place) - 1
    }

    fn has_place(&self) -> bool {
        !self.sender.is_closed() && self.streams() < STREAMS
    }
}

/// One side of a connection that takes requests.
#[derive(Debug)]
pub(super) enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(Shared),
}

/// A connection that is lent to an exchange.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: Sender,
    pub(super) address: IpAddr,
}

impl Connection {
    pub(super) const fn protocol(&self) -> Protocol {
        match self.sender {
            Sender::Http1(_) => Protocol::Http1,
            Sender::Http2(_) => Protocol::Http2,
        }
    }

    fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(shared) => shared.sender.is_closed(),
        }
    }
}

struct Kept {
    connection: Connection,
    since: Instant,
}

#[derive(Default)]
struct State {
    kept: HashMap<Key, Vec<Kept>>,
    turns: HashMap<Key, Arc<Turn<()>>>,
}

/// The connections of one workspace.
#[derive(Clone, Default)]
pub(super) struct Pool {
    state: Arc<Mutex<State>>,
}

impl Pool {
    /// The connection that was used last, if one is still open: a lent one is gone from here, a shared one stays.
    pub(super) fn take(&self, key: &Key) -> Option<Connection> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = state.kept.get_mut(key)?;
        waiting.retain(|kept| !kept.connection.is_closed());
        let shared = waiting.iter_mut().rev().find_map(|kept| match &kept.connection.sender {
            Sender::Http2(shared) if shared.has_place() => {
                kept.since = Instant::now();
                let sender = Sender::Http2(shared.clone());
                Some(Connection { sender, address: kept.connection.address })
            }
            _ => None,
        });
        let found = shared.or_else(|| lend(waiting));
        if waiting.is_empty() {
            state.kept.remove(key);
        }
        found
    }

    /// Keeps a connection of HTTP/1.1 whose exchange is over, or shares a new one of HTTP/2, if there is room.
    pub(super) fn put(&self, key: Key, connection: Connection) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.kept.values().map(Vec::len).sum::<usize>() >= IN_ALL {
            return;
        }
        let waiting = state.kept.entry(key).or_default();
        if waiting.len() < PER_KEY {
            waiting.push(Kept { connection, since: Instant::now() });
        }
    }

    /// Shares a connection of HTTP/2; one of HTTP/1.1 is left to its exchange.
    pub(super) fn share(&self, key: Key, connection: &Connection) {
        if let Sender::Http2(shared) = &connection.sender {
            let sender = Sender::Http2(shared.clone());
            self.put(key, Connection { sender, address: connection.address });
        }
    }

    /// The turn of those who would open a connection for `key`, so that many streams at once open one.
    pub(super) fn turn(&self, key: &Key) -> Arc<Turn<()>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.turns.len() >= IN_ALL {
            state.turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        state.turns.entry(key.clone()).or_default().clone()
    }

    /// Closes idle connections in time, for as long as it runs.
    pub(super) async fn sweep(self) {
        let mut ticks = tokio::time::interval(IDLE / 3);
        loop {
            ticks.tick().await;
            self.expire(Instant::now());
        }
    }

    /// Closes what nobody asked for in time, as seen at `now`.
    pub(super) fn expire(&self, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.kept.retain(|_, waiting| {
            waiting.retain_mut(|kept| {
                if matches!(&kept.connection.sender, Sender::Http2(shared) if shared.streams() > 0) {
                    kept.since = now;
                }
                let in_time = now.saturating_duration_since(kept.since) < IDLE;
                !kept.connection.is_closed() && in_time
            });
            !waiting.is_empty()
        });
    }
}

fn lend(waiting: &mut Vec<Kept>) -> Option<Connection> {
    let fresh = |kept: &Kept| kept.since.elapsed() < IDLE;
    let at = waiting.iter().rposition(|kept| kept.connection.protocol() == Protocol::Http1 && fresh(kept))?;
    Some(waiting.remove(at).connection)
}
