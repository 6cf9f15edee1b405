//! A new connection to an origin: dialled, secured, and with a protocol that both sides speak.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{AlertDescription, ClientConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::body::Body;
use super::dial::{ParentProxy, dial};
use super::http2::{HEADER_LIST_LIMIT, Scope};
use super::pool::{Connection, Protocol, Sender, Shared};
use super::resolve::Checked;
use super::upstream::{UpstreamError, http_error};
use crate::policy::{Host, Permit, Scheme};
use crate::shutdown::Shutdown;

/// How long a TLS handshake with an origin may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What an origin may send ahead of its reader per stream, and of all readers of one connection.
const STREAM_WINDOW: u32 = 512 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// How often a connection with open streams is asked whether it lives, and how long the answer may take.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);

/// One workspace's side of TLS, by what it offers. The sessions are the same.
pub(super) struct Offers {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    either: Arc<ClientConfig>,
}

impl Offers {
    pub(super) fn new(config: &ClientConfig) -> Self {
        let offering = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            Arc::new(config)
        };
        Self {
            http1: offering(&[b"http/1.1"]),
            http2: offering(&[b"h2"]),
            either: offering(&[b"h2", b"http/1.1"]),
        }
    }
}

/// What opening a connection needs beside a permit.
pub(super) struct Opener<'a> {
    pub(super) proxy: Option<&'a ParentProxy>,
    pub(super) offers: &'a Offers,
    pub(super) scope: &'a Shutdown,
}

impl Opener<'_> {
    /// Opens a connection for a client that speaks `asked`. Who asks for HTTP/2 may get HTTP/1.1; who asks for
    /// HTTP/1.1 gets HTTP/2 only from an origin that speaks nothing else.
    pub(super) async fn open(
        &self,
        permit: &Permit,
        addresses: &Checked,
        asked: Protocol,
    ) -> Result<Connection, UpstreamError> {
        if permit.scheme() == Scheme::Http {
            let (stream, address) = dial(self.proxy, addresses).await?;
            return self.ready(permit, (stream, address), asked).await;
        }
        let offer = match asked {
            Protocol::Http1 => &self.offers.http1,
            Protocol::Http2 => &self.offers.either,
        };
        let (secured, address) = match self.secure(permit, addresses, offer).await {
            Err(UpstreamError::Tls { cause, .. }) if is_no_common_protocol(&cause) => {
                self.secure(permit, addresses, &self.offers.http2).await?
            }
            outcome => outcome?,
        };
        let spoken = match secured.get_ref().1.alpn_protocol() {
            Some(b"h2") => Protocol::Http2,
            _ => Protocol::Http1,
        };
        self.ready(permit, (secured, address), spoken).await
    }

    async fn secure(
        &self,
        permit: &Permit,
        addresses: &Checked,
        offer: &Arc<ClientConfig>,
    ) -> Result<(TlsStream<TcpStream>, IpAddr), UpstreamError> {
        let (stream, address) = dial(self.proxy, addresses).await?;
        let host = || permit.host().to_string();
        let name = server_name(permit.host())?;
        let secured = timeout(HANDSHAKE, TlsConnector::from(offer.clone()).connect(name, stream))
            .await
            .map_err(|_| UpstreamError::TlsTimeout(host()))?
            .map_err(|cause| UpstreamError::Tls { host: host(), cause })?;
        Ok((secured, address))
    }

    async fn ready<S>(
        &self,
        permit: &Permit,
        (stream, address): (S, IpAddr),
        spoken: Protocol,
    ) -> Result<Connection, UpstreamError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let error = |cause| http_error(permit, cause);
        let sender = match spoken {
            Protocol::Http1 => {
                let (sender, driver) =
                    http1::handshake::<_, Body>(TokioIo::new(stream)).await.map_err(error)?;
                self.drive(driver.with_upgrades());
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, driver) = http2::Builder::new(Scope(self.scope.clone()))
                    .timer(TokioTimer::new())
                    .initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .max_header_list_size(HEADER_LIST_LIMIT)
                    .keep_alive_interval(PING)
                    .keep_alive_timeout(PONG)
                    .handshake::<_, Body>(TokioIo::new(stream))
                    .await
                    .map_err(error)?;
                self.drive(driver);
                Sender::Http2(Shared::new(sender))
            }
        };
        Ok(Connection { sender, address })
    }

    fn drive(&self, driver: impl Future<Output = hyper::Result<()>> + Send + 'static) {
        self.scope.spawn_until_cancelled(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "an upstream connection ended");
            }
        });
    }
}

/// Whether the origin speaks none of what was offered (RFC 7301, section 3.2).
fn is_no_common_protocol(cause: &io::Error) -> bool {
    let cause = cause.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)))
}

fn server_name(host: &Host) -> Result<ServerName<'static>, UpstreamError> {
    match host {
        Host::Address(address) => Ok(ServerName::IpAddress((*address).into())),
        Host::Name(name) => ServerName::try_from(name.as_str().to_owned())
            .map_err(|cause| UpstreamError::Tls { host: host.to_string(), cause: io::Error::other(cause) }),
    }
}
