//! The origin's side: a route to it, and one exchange on a connection, kept alive for the next.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::net::NetError;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::dial::{ParentProxy, dial};
use super::open::{Offers, Opener};
use super::outgoing::Outgoing;
use super::pool::{Connection, Key, Pool, Protocol, Sender};
use super::resolve::{Addresses, Checked};
use super::spoken::Spoken;
use super::websocket;
use crate::policy::{Denial, Permit};
use crate::shutdown::Shutdown;

/// How long a pooled connection may take to be ready: its last exchange is over, so it is at once or never.
const READY: Duration = Duration::from_secs(1);

/// No answer came from the origin. No text of this type holds a secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpstreamError {
    #[error("{0}")]
    Denied(Box<Denial>),
    #[error("{0}: no resolver is configured")]
    NoResolver(String),
    #[error("{host}: the name was not resolved: {cause}")]
    Resolve { host: String, cause: Box<NetError> },
    #[error("{0}: the resolver did not answer in time")]
    ResolveTimeout(String),
    #[error("{0}: the name has no address")]
    NoAddress(String),
    #[error("the host's own addresses can't be read: {0}")]
    OwnAddresses(nix::Error),
    #[error("{address}: {cause}")]
    Connect { address: SocketAddr, cause: io::Error },
    #[error("{0}: no connection in time")]
    ConnectTimeout(SocketAddr),
    #[error("the parent proxy {proxy}: {cause}")]
    Proxy { proxy: String, cause: io::Error },
    #[error("the parent proxy {proxy} refuses {target}")]
    ProxyRefused { proxy: String, target: SocketAddr },
    #[error("{host}: TLS: {cause}")]
    Tls { host: String, cause: io::Error },
    #[error("{0}: no TLS handshake in time")]
    TlsTimeout(String),
    #[error("{host}: {cause}")]
    Http { host: String, cause: hyper::Error },
    #[error("{0}: the origin switched protocols without being asked")]
    Switched(String),
    #[error("the request can't be written: {0}")]
    Build(#[from] http::Error),
}

impl From<Denial> for UpstreamError {
    fn from(denial: Denial) -> Self {
        Self::Denied(Box::new(denial))
    }
}

impl UpstreamError {
    pub(super) fn is_timeout(&self) -> bool {
        matches!(self, Self::ResolveTimeout(_) | Self::ConnectTimeout(_) | Self::TlsTimeout(_))
    }

    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Denied(denial) => denial.reason.as_str(),
            Self::NoResolver(_) | Self::Resolve { .. } | Self::NoAddress(_) => "resolve_failed",
            Self::ResolveTimeout(_) => "resolve_timeout",
            Self::OwnAddresses(_) | Self::Build(_) => "internal",
            Self::Connect { .. } => "connect_failed",
            Self::ConnectTimeout(_) => "connect_timeout",
            Self::Proxy { .. } | Self::ProxyRefused { .. } => "parent_proxy_failed",
            Self::Tls { .. } => "upstream_tls_failed",
            Self::TlsTimeout(_) => "upstream_tls_timeout",
            Self::Http { .. } | Self::Switched(_) => "upstream_failed",
        }
    }
}

/// What all workspaces share on the origin's side; nothing in it belongs to one of them.
#[derive(Debug)]
pub(super) struct Outside {
    pub(super) addresses: Addresses,
    pub(super) proxy: Option<ParentProxy>,
}

/// One workspace's connections to origins.
pub(super) struct Upstream {
    outside: Arc<Outside>,
    offers: Offers,
    pub(super) pool: Pool,
    pub(super) spoken: Spoken,
    pub(super) scope: Shutdown,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Upstream").finish_non_exhaustive()
    }
}

/// Where an exchange will go: nothing was sent yet.
#[derive(Debug)]
pub(super) enum Route {
    /// An open connection to an address that this permit may use too.
    Pooled(Connection),
    /// Checked addresses.
    Fresh(Checked),
}

impl Route {
    /// The address that is dialled (first).
    pub(super) fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Pooled(connection) => Some(connection.address),
            Self::Fresh(addresses) => addresses.all().first().map(SocketAddr::ip),
        }
    }
}

/// A connection that is lent to one exchange. Give it back when the exchange is over; dropping it closes it, or
/// makes room for another stream on it.
pub(super) struct Lease {
    pool: Pool,
    key: Key,
    connection: Connection,
}

impl Lease {
    /// The address of the connection.
    pub(super) fn address(&self) -> IpAddr {
        self.connection.address
    }

    /// Keeps the connection for the next request.
    pub(super) fn give_back(self) {
        // One of HTTP/2 never left the pool.
        if self.connection.protocol() == Protocol::Http1 {
            self.pool.put(self.key, self.connection);
        }
    }
}

impl Upstream {
    pub(super) fn new(outside: Arc<Outside>, tls: &ClientConfig, scope: Shutdown) -> Self {
        let pool = Pool::default();
        scope.spawn_until_cancelled(pool.clone().sweep());
        Self { outside, offers: Offers::new(tls), pool, spoken: Spoken::default(), scope }
    }

    /// A way to the permit's origin. The address of an open connection is judged again: it was opened by another
    /// permit of the same rule, beside which other rules may have spoken.
    pub(super) async fn route(&self, permit: &Permit, asked: Protocol) -> Result<Route, UpstreamError> {
        match self.pooled(&Key::of(permit, asked), permit)? {
            Some(connection) => Ok(Route::Pooled(connection)),
            None => Ok(Route::Fresh(self.outside.addresses.of(permit).await?)),
        }
    }

    fn pooled(&self, key: &Key, permit: &Permit) -> Result<Option<Connection>, UpstreamError> {
        let Some(connection) = self.pool.take(key) else { return Ok(None) };
        let allowed = self.outside.addresses.allows(permit, connection.address)?;
        Ok(allowed.then_some(connection))
    }

    /// The checked addresses for a raw connection.
    pub(super) async fn addresses(&self, permit: &Permit) -> Result<Checked, UpstreamError> {
        self.outside.addresses.of(permit).await
    }

    /// A raw connection for a tunnel, and the address it has.
    pub(super) async fn connect(&self, addresses: &Checked) -> Result<(TcpStream, IpAddr), UpstreamError> {
        dial(self.outside.proxy.as_ref(), addresses).await
    }

    /// Sends `outgoing` on `route`. A pooled connection that proves dead is replaced once, if nothing of the request
    /// was sent or if it can be sent again without harm.
    pub(super) async fn send(
        &self,
        permit: &Permit,
        route: Route,
        outgoing: Outgoing,
    ) -> Result<(Response<Incoming>, Lease), UpstreamError> {
        let copy = outgoing.repeatable();
        let wish = (outgoing.asked, outgoing.may_switch());
        let (asked, _) = wish;
        let (addresses, outgoing) = match route {
            Route::Fresh(addresses) => (addresses, outgoing),
            Route::Pooled(mut connection) => {
                let again = match try_pooled(&mut connection, outgoing).await {
                    Ok(response) => return self.received(permit, response, connection, wish),
                    Err(Failed::Unsent(outgoing)) => *outgoing,
                    Err(Failed::Sent(cause)) => copy.ok_or_else(|| http_error(permit, cause))?,
                    Err(Failed::Build(error)) => return Err(error.into()),
                };
                (self.outside.addresses.of(permit).await?, again)
            }
        };
        let mut connection = self.fresh(permit, &addresses, asked).await?;
        let request = outgoing.dressed(connection.protocol())?;
        let response = match &mut connection.sender {
            Sender::Http1(sender) => sender.send_request(request).await,
            Sender::Http2(shared) => shared.sender.send_request(request).await,
        };
        self.received(permit, response.map_err(|cause| http_error(permit, cause))?, connection, wish)
    }

    fn received(
        &self,
        permit: &Permit,
        response: Response<Incoming>,
        connection: Connection,
        (asked, may_switch): (Protocol, bool),
    ) -> Result<(Response<Incoming>, Lease), UpstreamError> {
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switches && !(may_switch && websocket::is_accepted(response.headers())) {
            return Err(UpstreamError::Switched(permit.host().to_string()));
        }
        Ok((response, Lease { pool: self.pool.clone(), key: Key::of(permit, asked), connection }))
    }

    /// A connection of this permit's own, or a place on one that was opened meanwhile.
    pub(super) async fn fresh(
        &self,
        permit: &Permit,
        addresses: &Checked,
        asked: Protocol,
    ) -> Result<Connection, UpstreamError> {
        let speaks_old = || self.spoken.of(permit.host(), permit.port()) == Some(Protocol::Http1);
        if asked == Protocol::Http1 || speaks_old() {
            return self.open(permit, addresses, asked).await;
        }
        let key = Key::of(permit, asked);
        let turn = self.pool.turn(&key);
        let waited = turn.lock().await;
        if let Some(connection) = self.pooled(&key, permit)? {
            return Ok(connection);
        }
        if speaks_old() {
            drop(waited);
        }
        let connection = self.open(permit, addresses, asked).await?;
        self.pool.share(key, &connection);
        Ok(connection)
    }

    async fn open(
        &self,
        permit: &Permit,
        addresses: &Checked,
        asked: Protocol,
    ) -> Result<Connection, UpstreamError> {
        let (proxy, offers, scope) = (self.outside.proxy.as_ref(), &self.offers, &self.scope);
        let connection = Opener { proxy, offers, scope }.open(permit, addresses, asked).await?;
        if asked == Protocol::Http2 {
            self.spoken.learn(permit.host(), permit.port(), connection.protocol());
        }
        Ok(connection)
    }
}

/// An exchange on a pooled connection that came to nothing.
enum Failed {
    /// Nothing of the request was sent.
    Unsent(Box<Outgoing>),
    Sent(hyper::Error),
    Build(http::Error),
}

async fn try_pooled(connection: &mut Connection, outgoing: Outgoing) -> Result<Response<Incoming>, Failed> {
    let ready = match &mut connection.sender {
        Sender::Http1(sender) => timeout(READY, sender.ready()).await,
        Sender::Http2(shared) => timeout(READY, shared.sender.ready()).await,
    };
    if !matches!(ready, Ok(Ok(()))) {
        return Err(Failed::Unsent(Box::new(outgoing)));
    }
    let undressed = outgoing.without_request();
    let request = outgoing.dressed(connection.protocol()).map_err(Failed::Build)?;
    let sent = match &mut connection.sender {
        Sender::Http1(sender) => sender.try_send_request(request).await,
        Sender::Http2(shared) => shared.sender.try_send_request(request).await,
    };
    sent.map_err(|mut error| match error.take_message() {
        Some(request) => Failed::Unsent(Box::new(undressed.with(request))),
        None => Failed::Sent(error.into_error()),
    })
}

pub(super) fn http_error(permit: &Permit, cause: hyper::Error) -> UpstreamError {
    UpstreamError::Http { host: permit.host().to_string(), cause }
}
