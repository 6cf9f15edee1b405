//! What origins speak, so that a client is offered the same.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::audit::{Facts, Kind, Outcome};
use super::hello::Offered;
use super::outlet::Outlet;
use super::pool::{Key, Protocol};
use super::upstream::UpstreamError;
use crate::policy::{Host, Permit};

/// How long an origin is believed to speak what it spoke, and how many are remembered.
const AGE: Duration = Duration::from_secs(600);
const LIMIT: usize = 1024;

/// The protocol that each origin chose when it had the choice.
#[derive(Debug, Default)]
pub(super) struct Spoken {
    origins: Mutex<HashMap<(Host, u16), (Protocol, Instant)>>,
}

impl Spoken {
    pub(super) fn of(&self, host: &Host, port: u16) -> Option<Protocol> {
        let origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        let (protocol, learned) = origins.get(&(host.clone(), port))?;
        (learned.elapsed() < AGE).then_some(*protocol)
    }

    pub(super) fn learn(&self, host: &Host, port: u16, protocol: Protocol) {
        let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        if origins.len() >= LIMIT {
            origins.clear();
        }
        origins.insert((host.clone(), port), (protocol, Instant::now()));
    }
}

/// What a client that offers `offered` is told: what the origin speaks. An origin that nobody knows is asked; one
/// that can't be reached gets no say, and the client hears why with its first request.
pub(super) async fn mirror(outlet: &Outlet, permit: &Permit, offered: Offered) -> Protocol {
    match offered {
        Offered { http2: false, .. } => Protocol::Http1,
        Offered { http1: false, .. } => Protocol::Http2,
        _ => match outlet.upstream.spoken.of(permit.host(), permit.port()) {
            Some(protocol) => protocol,
            None => ask(outlet, permit).await,
        },
    }
}

/// Opens a connection, which is recorded first, and leaves it to the requests that come.
async fn ask(outlet: &Outlet, permit: &Permit) -> Protocol {
    let Ok(addresses) = outlet.upstream.addresses(permit).await else { return Protocol::Http2 };
    let facts = Facts {
        rule: Some(permit.rule().to_owned()),
        host: permit.host().to_string(),
        port: Some(permit.port()),
        address: addresses.all().first().map(std::net::SocketAddr::ip),
        ..Facts::default()
    };
    let Ok(open) = outlet.trail.allow(Kind::Connection, &facts) else { return Protocol::Http2 };
    let opened = outlet.upstream.fresh(permit, &addresses, Protocol::Http2).await;
    open.end(&Outcome {
        address: opened.as_ref().ok().map(|connection| connection.address),
        reason: opened.as_ref().err().map(UpstreamError::reason).map(str::to_owned),
        ..Outcome::default()
    });
    let Ok(connection) = opened else { return Protocol::Http2 };
    let protocol = connection.protocol();
    if protocol == Protocol::Http1 {
        // The client will be told HTTP/1.1, and ask for a connection of that kind.
        outlet.upstream.pool.put(Key::of(permit, Protocol::Http1), connection);
    }
    protocol
}
