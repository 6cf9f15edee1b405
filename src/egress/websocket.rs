//! WebSocket: bytes go through unread, but only after a judged request and the origin's own consent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, Version, request};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio_util::io::{InspectReader, InspectWriter};

use super::body::{Body, full};
use super::exchange::{Running, end_to_end};
use super::outlet::Outlet;
use super::upstream::Lease;

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const STRICT: u8 = 0;
const RAW: u8 = 1;
const REFUSED: u8 = 2;

/// Whether a client's bytes are still requests. Once raw they stay raw; once refused they are never raw.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate(Arc<AtomicU8>);

impl Gate {
    pub(super) fn is_raw(&self) -> bool {
        self.0.load(Ordering::Acquire) == RAW
    }

    /// Bytes were malformed, and are lost.
    pub(super) fn refuse(&self) {
        self.0.store(REFUSED, Ordering::Release);
    }

    fn open(&self) -> bool {
        self.0.compare_exchange(STRICT, RAW, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// The client's part of a change of protocol.
#[derive(Debug)]
pub(super) struct Switch {
    client: OnUpgrade,
    /// None where the protocol can't change.
    gate: Option<Gate>,
}

impl Switch {
    /// Takes it out of a request.
    pub(super) fn of(request: &mut Request<Incoming>) -> Self {
        Self { client: hyper::upgrade::on(&mut *request), gate: request.extensions_mut().remove() }
    }
}

/// What a request's `Upgrade` header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nothing that is served: another version of HTTP may be offered, and is not taken up (RFC 9110, section 7.8).
    Plain,
    WebSocket,
    /// A WebSocket handshake that is none (RFC 6455, section 4.1).
    Malformed,
}

impl Wish {
    pub(super) fn of(head: &request::Parts) -> Self {
        let headers = &head.headers;
        let names = |value: &HeaderValue| value.as_bytes().to_ascii_lowercase().starts_with(b"websocket");
        if !headers.get_all(header::UPGRADE).iter().any(names) {
            return Self::Plain;
        }
        let only = |name| {
            let mut values = headers.get_all(name).iter();
            values.next().filter(|_| values.next().is_none())
        };
        let lists_upgrade = headers.get_all(header::CONNECTION).iter().any(|value| {
            let text = value.to_str().unwrap_or_default();
            text.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
        });
        let valid = head.method == Method::GET
            && head.version == Version::HTTP_11
            && lists_upgrade
            && only(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
            && only(header::SEC_WEBSOCKET_VERSION).is_some_and(|value| value == "13")
            && only(header::SEC_WEBSOCKET_KEY).is_some_and(|value| value.len() == 24)
            && !headers.contains_key(header::CONTENT_LENGTH)
            && !headers.contains_key(header::TRANSFER_ENCODING);
        if valid { Self::WebSocket } else { Self::Malformed }
    }
}

/// What an outgoing handshake says to its hop, or an answer that accepts one.
pub(super) fn announce(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, WEBSOCKET);
}

/// Whether an answer of 101 changes to WebSocket and nothing else.
pub(super) fn is_accepted(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::UPGRADE).iter();
    let first = values.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    first && values.next().is_none()
}

/// Passes on the origin's consent, and from then on every byte of both sides. None: the client's bytes were refused
/// meanwhile, so that nothing of it may become raw.
pub(super) fn switch(
    outlet: &Outlet,
    mut response: Response<Incoming>,
    lease: Lease,
    switch: Switch,
    mut running: Running,
) -> Option<Response<Body>> {
    running.answered(101, &lease);
    if !switch.gate.is_some_and(|gate| gate.open()) {
        running.finish(Some(400), Some("malformed_websocket"));
        return None;
    }
    let origin = hyper::upgrade::on(&mut response);
    let (mut head, _) = response.into_parts();
    end_to_end(&mut head);
    announce(&mut head.headers);
    outlet.upstream.scope.spawn_until_cancelled(async move {
        let reason = match tokio::try_join!(switch.client, origin) {
            Ok((client, origin)) => {
                let (up, down) = running.progress();
                let counted = InspectReader::new(TokioIo::new(origin), |bytes: &[u8]| down.add(bytes.len()));
                let mut origin = InspectWriter::new(counted, |bytes: &[u8]| up.add(bytes.len()));
                let spliced = copy_bidirectional(&mut TokioIo::new(client), &mut origin).await;
                spliced.err().map(|_| "interrupted")
            }
            Err(_) => Some("interrupted"),
        };
        running.finish(Some(101), reason);
        drop(lease);
    });
    Some(Response::from_parts(head, full(Bytes::new())))
}
