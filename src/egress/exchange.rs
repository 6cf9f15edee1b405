//! One request on its way to the origin and its answer on the way back.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode, Version, request, response};
use hyper::body::Incoming;

use super::audit::{Facts, Kind, Open, Outcome};
use super::body::{Body, Followed, Progress};
use super::denial::Refusal;
use super::outgoing::Outgoing;
use super::outlet::Outlet;
use super::request::{Canonical, RequestError, Site, remove_hop_by_hop};
use super::upstream::{Lease, Route};
use super::websocket::Switch;
use super::{inject, websocket};
use crate::policy::Permit;

/// The end of an exchange whose client went away.
const CLIENT_CLOSED: &str = "client_closed";

/// A request that may go out: judged, with its credential, and with checked addresses. Nothing was sent yet.
pub(super) struct Prepared {
    request: Canonical,
    permit: Permit,
    route: Route,
}

/// Parses and judges a request and gets ready what it needs. `facts` tells how far it came.
pub(super) async fn prepare(
    outlet: &Outlet,
    site: &Site,
    head: request::Parts,
    facts: &mut Facts,
) -> Result<Prepared, Refusal> {
    let mut request = Canonical::parse(head, site)?;
    facts.path = Some(request.path.as_str().to_owned());
    let permit = outlet.policy.decide(&request.judged())?;
    facts.rule = Some(permit.rule().to_owned());
    facts.credential = permit.credential().map(str::to_owned);
    outlet.rates.take(&permit, Instant::now())?;
    inject::apply(&permit, &outlet.vault, &mut request).await?;
    let route = outlet.upstream.route(&permit, request.protocol).await?;
    facts.address = route.address();
    Ok(Prepared { request, permit, route })
}

/// Records the request, sends it and passes on the answer. Its end is recorded when the answer's body ends.
pub(super) async fn perform(
    outlet: &Arc<Outlet>,
    prepared: Prepared,
    (body, switch): (Incoming, Switch),
    facts: &Facts,
) -> Result<Response<Body>, Refusal> {
    let Prepared { request, permit, route } = prepared;
    let open = outlet.trail.allow(Kind::Request, facts)?;
    let mut running = Running::new(open);
    let sent = match Outgoing::new(request, body, running.sent.clone()) {
        Ok(outgoing) => outlet.upstream.send(&permit, route, outgoing).await,
        Err(error) => Err(error.into()),
    };
    match sent {
        Ok((response, lease)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            websocket::switch(outlet, response, lease, switch, running)
                .ok_or(Refusal::Request(RequestError::WebSocket))
        }
        Ok((response, lease)) => Ok(incoming(response, lease, running)),
        Err(error) => {
            let refusal = Refusal::from(error);
            // A body that its sender cut looks to the upstream's side like a failure of its own.
            let reason = if running.sent.is_broken() { CLIENT_CLOSED } else { refusal.reason() };
            running.finish(Some(refusal.status().as_u16()), Some(reason));
            if refusal.is_denial() {
                outlet.denials.add(refusal.to_string());
            }
            Err(refusal)
        }
    }
}

/// Takes out of an answer what concerns one hop or invites to leave this path.
pub(super) fn end_to_end(head: &mut response::Parts) {
    head.version = Version::HTTP_11;
    remove_named_by_connection(&mut head.headers);
    remove_hop_by_hop(&mut head.headers);
    head.headers.remove(header::ALT_SVC);
}

/// The client's answer. The exchange ends with its body.
fn incoming(response: Response<Incoming>, lease: Lease, mut running: Running) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    end_to_end(&mut head);
    let status = head.status.as_u16();
    running.answered(status, &lease);
    let received = running.received.clone();
    let followed = Followed::new(body, received, move |complete| {
        // An answer before the request's end leaves a connection in the middle of a message: not for another.
        if complete && running.sent.is_complete() {
            lease.give_back();
        }
        running.finish(Some(status), (!complete).then_some("interrupted"));
    });
    Response::from_parts(head, followed.boxed())
}

fn remove_named_by_connection(headers: &mut HeaderMap) {
    let values: Vec<HeaderValue> = headers.get_all(header::CONNECTION).iter().cloned().collect();
    let tokens = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
    for token in tokens {
        headers.remove(token.trim());
    }
}

/// An exchange whose end is not recorded yet. Dropped, it records that the client went away.
pub(super) struct Running {
    open: Option<Open>,
    sent: Progress,
    received: Progress,
    status: Option<u16>,
    address: Option<IpAddr>,
}

impl Running {
    fn new(open: Open) -> Self {
        Self {
            open: Some(open),
            sent: Progress::default(),
            received: Progress::default(),
            status: None,
            address: None,
        }
    }

    /// The origin answered.
    pub(super) fn answered(&mut self, status: u16, lease: &Lease) {
        (self.status, self.address) = (Some(status), Some(lease.address()));
    }

    /// What went up, and what came down.
    pub(super) const fn progress(&self) -> (&Progress, &Progress) {
        (&self.sent, &self.received)
    }

    pub(super) fn finish(&mut self, status: Option<u16>, reason: Option<&str>) {
        if let Some(open) = self.open.take() {
            open.end(&Outcome {
                status,
                reason: reason.map(str::to_owned),
                address: self.address,
                bytes_up: self.sent.bytes(),
                bytes_down: self.received.bytes(),
            });
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.finish(self.status, Some(CLIENT_CLOSED));
    }
}
