//! The origin's side: a route to it, and one exchange on a connection, kept alive for the next.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hickory_resolver::net::NetError;
use http::{Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::body::{Body, full};
use super::dial::{ParentProxy, dial};
use super::pool::{Connection, Key, Pool};
use super::resolve::{Addresses, Checked};
use crate::policy::{Denial, Host, Permit, Scheme};
use crate::shutdown::Shutdown;

/// How long a TLS handshake with an origin may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

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
    tls: Arc<ClientConfig>,
    pub(super) pool: Pool,
    shutdown: Shutdown,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Upstream").finish_non_exhaustive()
    }
}

/// Where an exchange will go: nothing was sent yet.
#[derive(Debug)]
pub(super) enum Route {
    /// An open connection to an address that was checked under the same rule.
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

/// A connection that is lent to one exchange. Give it back when the exchange is over; dropping it closes it.
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
        self.pool.put(self.key, self.connection);
    }
}

impl Upstream {
    pub(super) fn new(outside: Arc<Outside>, tls: Arc<ClientConfig>, shutdown: Shutdown) -> Self {
        let pool = Pool::default();
        shutdown.spawn_until_cancelled(pool.clone().sweep());
        Self { outside, tls, pool, shutdown }
    }

    /// A way to the permit's origin.
    pub(super) async fn route(&self, permit: &Permit) -> Result<Route, UpstreamError> {
        match self.pool.take(&Key::of(permit)) {
            Some(connection) => Ok(Route::Pooled(connection)),
            None => Ok(Route::Fresh(self.outside.addresses.of(permit).await?)),
        }
    }

    /// The checked addresses for a raw connection.
    pub(super) async fn addresses(&self, permit: &Permit) -> Result<Checked, UpstreamError> {
        self.outside.addresses.of(permit).await
    }

    /// A raw connection for a tunnel, and the address it has.
    pub(super) async fn connect(&self, addresses: &Checked) -> Result<(TcpStream, IpAddr), UpstreamError> {
        dial(self.outside.proxy.as_ref(), addresses).await
    }

    /// Sends `request` on `route`. A pooled connection that proves dead is replaced once, if nothing of the request
    /// was sent or if it can be sent again without harm (`repeatable`).
    pub(super) async fn send(
        &self,
        permit: &Permit,
        route: Route,
        request: Request<Body>,
        repeatable: bool,
    ) -> Result<(Response<Incoming>, Lease), UpstreamError> {
        let copy = (repeatable && request.body().is_end_stream()).then(|| head_of(&request));
        let (addresses, request) = match route {
            Route::Fresh(addresses) => (addresses, request),
            Route::Pooled(mut connection) => {
                let again = match try_pooled(&mut connection, request).await {
                    Ok(response) => return self.received(permit, response, connection),
                    Err(Failed::Unsent(request)) => *request,
                    Err(Failed::Sent(cause)) => copy.ok_or_else(|| http_error(permit, cause))?,
                };
                (self.outside.addresses.of(permit).await?, again)
            }
        };
        let mut connection = self.open(permit, &addresses).await?;
        let response =
            connection.sender.send_request(request).await.map_err(|cause| http_error(permit, cause))?;
        self.received(permit, response, connection)
    }

    fn received(
        &self,
        permit: &Permit,
        response: Response<Incoming>,
        connection: Connection,
    ) -> Result<(Response<Incoming>, Lease), UpstreamError> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(UpstreamError::Switched(permit.host().to_string()));
        }
        Ok((response, Lease { pool: self.pool.clone(), key: Key::of(permit), connection }))
    }

    async fn open(&self, permit: &Permit, addresses: &Checked) -> Result<Connection, UpstreamError> {
        let (stream, address) = dial(self.outside.proxy.as_ref(), addresses).await?;
        let sender = match permit.scheme() {
            Scheme::Http => self.handshake(permit, stream).await?,
            Scheme::Https => {
                let host = || permit.host().to_string();
                let name = server_name(permit.host())?;
                let connecting = TlsConnector::from(self.tls.clone()).connect(name, stream);
                let secured = timeout(HANDSHAKE, connecting)
                    .await
                    .map_err(|_| UpstreamError::TlsTimeout(host()))?
                    .map_err(|cause| UpstreamError::Tls { host: host(), cause })?;
                self.handshake(permit, secured).await?
            }
        };
        Ok(Connection { sender, address })
    }

    async fn handshake<S>(
        &self,
        permit: &Permit,
        stream: S,
    ) -> Result<http1::SendRequest<Body>, UpstreamError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|cause| http_error(permit, cause))?;
        self.shutdown.spawn_until_cancelled(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "an upstream connection ended");
            }
        });
        Ok(sender)
    }
}

/// An exchange on a pooled connection that came to nothing.
enum Failed {
    /// Nothing of the request was sent.
    Unsent(Box<Request<Body>>),
    Sent(hyper::Error),
}

async fn try_pooled(
    connection: &mut Connection,
    request: Request<Body>,
) -> Result<Response<Incoming>, Failed> {
    if !matches!(timeout(READY, connection.sender.ready()).await, Ok(Ok(()))) {
        return Err(Failed::Unsent(Box::new(request)));
    }
    connection.sender.try_send_request(request).await.map_err(|mut error| match error.take_message() {
        Some(request) => Failed::Unsent(Box::new(request)),
        None => Failed::Sent(error.into_error()),
    })
}

fn http_error(permit: &Permit, cause: hyper::Error) -> UpstreamError {
    UpstreamError::Http { host: permit.host().to_string(), cause }
}

/// The same request without a body.
fn head_of(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(full(Bytes::new()));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

fn server_name(host: &Host) -> Result<ServerName<'static>, UpstreamError> {
    match host {
        Host::Address(address) => Ok(ServerName::IpAddress((*address).into())),
        Host::Name(name) => ServerName::try_from(name.as_str().to_owned())
            .map_err(|cause| UpstreamError::Tls { host: host.to_string(), cause: io::Error::other(cause) }),
    }
}
