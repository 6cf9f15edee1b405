//! Idle upstream connections of one workspace: bounded, and never lent to a request of another kind.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::http1::SendRequest;

use super::body::Body;
use crate::policy::{Permit, Scheme};

/// Idle connections per key and in all, and how long one is kept. Origins close theirs after a minute or so.
const PER_KEY: usize = 32;
const IN_ALL: usize = 256;
const IDLE: Duration = Duration::from_secs(45);

/// What two requests must have in common to use one connection: the same origin under the same rule, so that the
/// address was checked with the same rights, and the same credential.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    secure: bool,
    host: String,
    port: u16,
    rule: String,
    credential: Option<String>,
}

impl Key {
    pub(super) fn of(permit: &Permit) -> Self {
        Self {
            secure: matches!(permit.scheme(), Scheme::Https),
            host: permit.host().to_string(),
            port: permit.port(),
            rule: permit.rule().to_owned(),
            credential: permit.credential().map(str::to_owned),
        }
    }
}

/// A connection that waits for its next request.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: SendRequest<Body>,
    pub(super) address: IpAddr,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// The idle connections of one workspace.
#[derive(Clone, Default)]
pub(super) struct Pool {
    idle: Arc<Mutex<HashMap<Key, Vec<Idle>>>>,
}

impl Pool {
    /// The connection that was used last, if one is still open.
    pub(super) fn take(&self, key: &Key) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = idle.get_mut(key)?;
        let mut found = None;
        while let Some(candidate) = waiting.pop() {
            if !candidate.connection.sender.is_closed() && candidate.since.elapsed() < IDLE {
                found = Some(candidate.connection);
                break;
            }
        }
        if waiting.is_empty() {
            idle.remove(key);
        }
        found
    }

    /// Keeps a connection whose exchange is over, if there is room.
    pub(super) fn put(&self, key: Key, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.values().map(Vec::len).sum::<usize>() >= IN_ALL {
            return;
        }
        let waiting = idle.entry(key).or_default();
        if waiting.len() < PER_KEY {
            waiting.push(Idle { connection, since: Instant::now() });
        }
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
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|_, waiting| {
            let in_time = |kept: &Idle| now.saturating_duration_since(kept.since) < IDLE;
            waiting.retain(|kept| !kept.connection.sender.is_closed() && in_time(kept));
            !waiting.is_empty()
        });
    }
}
