//! What becomes of one captured connection: for whom it is, whether it may be, and how it is treated.

use std::io::Cursor;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Chain, Join, join};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::audit::{Facts, Kind};
use super::denial::{Language, Refusal};
use super::hello::{HelloError, Opening, Peeked, peek};
use super::names::Meaning;
use super::outlet::Outlet;
use super::request::Site;
use super::{http, http2, intercept, spoken, tunnel};
use crate::policy::{Denial, Destination, Host, Permit, Scheme, Treatment};

/// How long a client whose connection is denied may take to show which protocol could explain it.
const EXPLAIN: Duration = Duration::from_millis(300);

/// Fatal alerts (RFC 8446, section 6) as TLS 1.2 records: `access_denied` and `unrecognized_name`.
const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// A connection whose first bytes were read and are read again.
pub(super) type Rewound = Join<Chain<Cursor<Vec<u8>>, OwnedReadHalf>, OwnedWriteHalf>;

/// Why a connection goes nowhere.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("{0}")]
    Denied(Box<Denial>),
    #[error("{0}: the address stands for no name: resolve the name first")]
    Unassigned(SocketAddr),
    #[error("{bound}: {cause}")]
    Hello { bound: String, cause: HelloError },
    #[error("{bound}: the TLS server name is {asked:?}, but the address stands for another")]
    ServerName { bound: String, asked: Option<String> },
    #[error("{0}: an encrypted ClientHello hides the server name from the policy")]
    Encrypted(String),
    #[error("{0}: no rule allows TLS to this port")]
    NoTls(String),
    #[error("{0}: the rule passes TLS through, and this is not TLS")]
    OnlyTls(String),
}

impl ConnectionError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Denied(denial) => denial.reason.as_str(),
            Self::Unassigned(_) => "unassigned_address",
            Self::Hello { .. } => "no_hello",
            Self::ServerName { .. } => "server_name_mismatch",
            Self::Encrypted(_) => "encrypted_hello",
            Self::NoTls(_) | Self::OnlyTls(_) => "protocol_not_allowed",
        }
    }
}

/// Treats a connection that its client meant for `destination`.
pub(super) async fn treat(outlet: Arc<Outlet>, mut stream: TcpStream, destination: SocketAddr) {
    let host = match outlet.names.meaning(destination.ip()) {
        Meaning::Name(name) => Host::Name(name),
        Meaning::Literal(address) => Host::Address(address),
        Meaning::Unassigned => {
            return refuse(&outlet, stream, destination, &ConnectionError::Unassigned(destination));
        }
    };
    let judged = Destination { host, port: destination.port() };
    let outcome: Result<(), ConnectionError> = match outlet.policy.connection(&judged) {
        Ok(Treatment::Tcp(permit)) => return tunnel::run(&outlet, stream, &[], &permit).await,
        Ok(Treatment::TlsPassthrough(permit)) => match passthrough(&mut stream, &permit).await {
            Ok(peeked) => return tunnel::run(&outlet, stream, &peeked.bytes, &permit).await,
            Err(error) => Err(error),
        },
        Ok(Treatment::Inspect { tls, permit, .. }) => match inspected(&mut stream, &judged, tls).await {
            Ok(peeked) => return inspect(&outlet, stream, &permit, peeked).await,
            Err(error) => Err(error),
        },
        Err(denial) => {
            record(&outlet, &judged, &ConnectionError::Denied(Box::new(denial.clone())));
            return explain(stream, denial).await;
        }
    };
    if let Err(error) = outcome {
        refuse_gently(&outlet, stream, &judged, &error).await;
    }
}

/// Reads the hello of a connection that is not opened, and binds its server name to the permit.
async fn passthrough(stream: &mut TcpStream, permit: &Permit) -> Result<Peeked, ConnectionError> {
    let bound = permit.host().to_string();
    let peeked =
        peek(stream).await.map_err(|cause| ConnectionError::Hello { bound: bound.clone(), cause })?;
    match &peeked.opening {
        Opening::Http | Opening::Http2 => Err(ConnectionError::OnlyTls(bound)),
        Opening::Tls { encrypted: true, .. } => Err(ConnectionError::Encrypted(bound)),
        Opening::Tls { server_name, .. } => {
            check_server_name(server_name.as_deref(), permit.host())?;
            Ok(peeked)
        }
    }
}

/// Reads the opening of a connection whose requests are judged one by one.
async fn inspected(
    stream: &mut TcpStream,
    judged: &Destination,
    tls: bool,
) -> Result<Peeked, ConnectionError> {
    let bound = || format!("{}:{}", judged.host, judged.port);
    let peeked = peek(stream).await.map_err(|cause| ConnectionError::Hello { bound: bound(), cause })?;
    if let Opening::Tls { server_name, .. } = &peeked.opening {
        if !tls {
            return Err(ConnectionError::NoTls(bound()));
        }
        check_server_name(server_name.as_deref(), &judged.host)?;
    }
    Ok(peeked)
}

/// Cleartext is served whether or not a rule allows it: each request gets its own, explained, verdict.
async fn inspect(outlet: &Arc<Outlet>, stream: TcpStream, permit: &Permit, peeked: Peeked) {
    let site = |scheme| Site { scheme, host: permit.host().clone(), port: permit.port() };
    let (read, write) = stream.into_split();
    let stream: Rewound = join(Cursor::new(peeked.bytes).chain(read), write);
    match peeked.opening {
        Opening::Http => http::serve(outlet, &site(Scheme::Http), stream).await,
        Opening::Http2 => http2::serve(outlet, &site(Scheme::Http), stream).await,
        Opening::Tls { offered, .. } => {
            let protocol = spoken::mirror(outlet, permit, offered).await;
            intercept::serve(outlet, &site(Scheme::Https), stream, protocol).await;
        }
    }
}

/// A client sends no server name for an address literal (RFC 6066, section 3), and must send the name's for a name.
fn check_server_name(asked: Option<&str>, bound: &Host) -> Result<(), ConnectionError> {
    let agrees = match (asked, bound) {
        (None, Host::Address(_)) => true,
        (Some(asked), Host::Name(_)) => Host::parse(asked).is_ok_and(|asked| asked == *bound),
        _ => false,
    };
    if agrees {
        return Ok(());
    }
    Err(ConnectionError::ServerName { bound: bound.to_string(), asked: asked.map(str::to_owned) })
}

fn record(outlet: &Outlet, judged: &Destination, error: &ConnectionError) {
    let rule = match error {
        ConnectionError::Denied(denial) => denial.rule.clone(),
        _ => None,
    };
    let facts = Facts {
        rule,
        reason: Some(error.reason().to_owned()),
        host: judged.host.to_string(),
        port: Some(judged.port),
        ..Facts::default()
    };
    outlet.deny(Kind::Connection, &facts, error.to_string());
}

fn refuse(outlet: &Outlet, stream: TcpStream, destination: SocketAddr, error: &ConnectionError) {
    let judged = Destination { host: Host::Address(destination.ip()), port: destination.port() };
    record(outlet, &judged, error);
    reset(stream);
}

/// Refuses a connection whose first bytes were read: with an alert if they were TLS.
async fn refuse_gently(
    outlet: &Outlet,
    mut stream: TcpStream,
    judged: &Destination,
    error: &ConnectionError,
) {
    match error {
        // Probes and clients that change their mind ask for nothing.
        ConnectionError::Hello { cause: HelloError::Closed | HelloError::Broken(_), .. } => return,
        _ => record(outlet, judged, error),
    }
    let alert = match error {
        ConnectionError::ServerName { .. } | ConnectionError::Encrypted(_) => UNRECOGNIZED_NAME,
        ConnectionError::NoTls(_) => ACCESS_DENIED,
        _ => return reset(stream),
    };
    close_with(&mut stream, &alert).await;
}

/// Tells the client of a denied connection why, in the words of its protocol if it shows one soon.
async fn explain(mut stream: TcpStream, denial: Denial) {
    match timeout(EXPLAIN, peek(&mut stream)).await {
        Ok(Ok(Peeked { opening: Opening::Tls { .. }, .. })) => close_with(&mut stream, &ACCESS_DENIED).await,
        Ok(Ok(Peeked { opening: Opening::Http, .. })) => {
            let about = Facts {
                rule: denial.rule.clone(),
                host: denial.host.clone(),
                port: Some(denial.port),
                ..Facts::default()
            };
            let response = Refusal::from(denial).response(&about, Language::Json);
            let reason = response.headers().get("x-hands-denied").cloned();
            let reason = reason.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default();
            let body = response.into_body().collect().await.map(http_body_util::Collected::to_bytes);
            let body = body.unwrap_or_default();
            let head = format!(
                "HTTP/1.1 403 Forbidden\r\ncontent-type: application/json\r\nx-hands-denied: {reason}\r\n\
                 content-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            close_with(&mut stream, &[head.as_bytes(), &body].concat()).await;
        }
        _ => reset(stream),
    }
}

/// Sends the last bytes, then ends in order, so that the client gets to read them.
async fn close_with(stream: &mut TcpStream, last: &[u8]) {
    let farewell = async {
        stream.write_all(last).await?;
        stream.shutdown().await?;
        // Unread bytes would turn the end into a reset that overtakes what was just written.
        tokio::io::copy(&mut stream.take(1 << 20), &mut tokio::io::sink()).await
    };
    if let Ok(Err(error)) = timeout(EXPLAIN, farewell).await {
        tracing::debug!(%error, "a client did not wait for its refusal");
    }
}

/// Ends a connection at once, visibly not in order.
pub(super) fn reset(stream: TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "a connection is closed, not reset");
    }
    drop(stream);
}
