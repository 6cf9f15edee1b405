//! Connections to checked addresses, directly or through the operator's parent proxy.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::resolve::Checked;
use super::upstream::UpstreamError;

/// How long one address may take to accept, the proxy's answer included.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most addresses of one name that are tried.
const ATTEMPTS: usize = 4;

/// Largest answer of the proxy to CONNECT.
const ANSWER_LIMIT: usize = 8 * 1024;

/// `egress.parent_proxy` is unusable.
#[derive(Debug, thiserror::Error)]
#[error(
    "egress.parent_proxy: {0:?} is not of the form http://HOST:PORT; TLS to the proxy and passwords are not supported"
)]
pub struct ProxySettingsError(String);

/// The operator's proxy: asked for addresses, never for names.
#[derive(Clone, Debug)]
pub(super) struct ParentProxy {
    authority: String,
}

impl ParentProxy {
    /// Reads `http://HOST:PORT`.
    pub(super) fn parse(text: &str) -> Result<Self, ProxySettingsError> {
        let invalid = || ProxySettingsError(text.to_owned());
        let uri: http::Uri = text.parse().map_err(|_| invalid())?;
        let authority = uri.authority().ok_or_else(invalid)?;
        let plain =
            uri.scheme_str() == Some("http") && matches!(uri.path(), "/" | "") && uri.query().is_none();
        if !plain || authority.as_str().contains('@') || authority.port_u16().is_none() {
            return Err(invalid());
        }
        Ok(Self { authority: authority.as_str().to_owned() })
    }

    async fn connect(&self, target: SocketAddr) -> Result<TcpStream, UpstreamError> {
        let proxy = |cause| UpstreamError::Proxy { proxy: self.authority.clone(), cause };
        let mut stream = TcpStream::connect(&self.authority).await.map_err(proxy)?;
        let question = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        stream.write_all(question.as_bytes()).await.map_err(proxy)?;
        let mut answer = Vec::new();
        // Byte by byte: what follows the head belongs to the origin.
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() == ANSWER_LIMIT {
                return Err(UpstreamError::ProxyRefused { proxy: self.authority.clone(), target });
            }
            answer.push(stream.read_u8().await.map_err(proxy)?);
        }
        let accepted = answer.starts_with(b"HTTP/1.1 200 ") || answer.starts_with(b"HTTP/1.0 200 ");
        if accepted {
            Ok(stream)
        } else {
            Err(UpstreamError::ProxyRefused { proxy: self.authority.clone(), target })
        }
    }
}

/// Connects to the first of the checked addresses that accepts.
pub(super) async fn dial(
    proxy: Option<&ParentProxy>,
    addresses: &Checked,
) -> Result<(TcpStream, IpAddr), UpstreamError> {
    let mut failure = None;
    for address in addresses.all().iter().take(ATTEMPTS) {
        let attempt = async {
            match proxy {
                Some(proxy) => proxy.connect(*address).await,
                None => TcpStream::connect(address)
                    .await
                    .map_err(|cause| UpstreamError::Connect { address: *address, cause }),
            }
        };
        match timeout(PATIENCE, attempt).await {
            Ok(Ok(stream)) => {
                stream
                    .set_nodelay(true)
                    .map_err(|cause| UpstreamError::Connect { address: *address, cause })?;
                return Ok((stream, address.ip()));
            }
            Ok(Err(error)) => failure = Some(error),
            Err(_) => failure = Some(UpstreamError::ConnectTimeout(*address)),
        }
    }
    Err(failure.unwrap_or_else(|| UpstreamError::NoAddress(String::new())))
}
