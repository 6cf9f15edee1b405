//! The one canonical request: what the policy judges, the audit records and the upstream bytes are made from.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{Method, StatusCode, Version, request};

use super::pool::Protocol;
use super::websocket::Wish;
use crate::policy::{self, Host, Path, PathError, Scheme};

/// Headers that belong to one hop (RFC 9110, section 7.6.1), and `Expect`, which the server's side has answered.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
];

/// What a connection is bound to: every request on it is for this origin.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) scheme: Scheme,
    pub(super) host: Host,
    pub(super) port: u16,
}

impl Site {
    fn default_port(&self) -> u16 {
        match self.scheme {
            Scheme::Https => 443,
            Scheme::Http => 80,
        }
    }

    pub(super) fn scheme_name(&self) -> &'static str {
        match self.scheme {
            Scheme::Https => "https",
            Scheme::Http => "http",
        }
    }

    /// `host`, or `host:port` where the port is not the scheme's.
    pub(super) fn authority(&self) -> String {
        let host = &self.host;
        if self.port == self.default_port() { host.to_string() } else { format!("{host}:{}", self.port) }
    }
}

/// A request that could mean two things, or asks for what is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("{0} is not served: send an ordinary request")]
    Method(Method),
    #[error("the WebSocket handshake is malformed, or bytes came before its answer")]
    WebSocket,
    #[error("the request names no host, or has several Host headers")]
    HostCount,
    #[error("the authority {0:?} is no host and port")]
    Authority(String),
    #[error("the request is for {asked:?}, but this connection is for {bound:?}")]
    Misdirected { asked: String, bound: String },
    #[error("the request target has the scheme {0:?}, which is not this connection's")]
    Scheme(String),
    #[error("the request target is not a path: {0}")]
    Path(#[from] PathError),
    #[error("the Connection header names {0:?}, which is not for one hop")]
    Connection(String),
    #[error("the request's framing is ambiguous")]
    Framing,
}

impl RequestError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Misdirected { .. } | Self::Scheme(_) => StatusCode::MISDIRECTED_REQUEST,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Method(_) => "method_not_served",
            Self::WebSocket => "malformed_websocket",
            Self::Misdirected { .. } | Self::Scheme(_) => "misdirected",
            _ => "ambiguous_request",
        }
    }

    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Self::Method(_) => "use an ordinary HTTP request",
            Self::WebSocket => "begin a WebSocket as RFC 6455 says, and wait for the answer",
            Self::Misdirected { .. } | Self::Scheme(_) => "open a connection for this host and port",
            _ => "send a well-formed HTTP request",
        }
    }
}

/// A request with one meaning.
#[derive(Debug)]
pub(super) struct Canonical {
    pub(super) site: Site,
    pub(super) method: Method,
    pub(super) path: Path,
    pub(super) query: Option<String>,
    /// End-to-end headers only; without Host and framing, which are made anew.
    pub(super) headers: HeaderMap,
    /// What the client speaks.
    pub(super) protocol: Protocol,
    /// Whether the client takes trailers; an origin of gRPC insists on it.
    pub(super) trailers: bool,
    /// Whether it asks for a WebSocket.
    pub(super) websocket: bool,
}

impl Canonical {
    /// Reads a request that came on a connection for `site`.
    pub(super) fn parse(head: request::Parts, site: &Site) -> Result<Self, RequestError> {
        if matches!(head.method, Method::CONNECT | Method::TRACE) {
            return Err(RequestError::Method(head.method));
        }
        check_framing(&head.headers)?;
        let websocket = match Wish::of(&head) {
            Wish::Plain => false,
            Wish::WebSocket => true,
            Wish::Malformed => return Err(RequestError::WebSocket),
        };
        check_target(&head, site)?;
        let path = Path::parse(head.uri.path())?;
        let query = head.uri.query().map(str::to_owned);
        let protocol = if head.version == Version::HTTP_2 { Protocol::Http2 } else { Protocol::Http1 };
        let trailers = head.headers.get(header::TE).is_some_and(|value| value == "trailers");
        let mut headers = end_to_end(head.headers)?;
        join_cookies(&mut headers);
        let (site, method) = (site.clone(), head.method);
        Ok(Self { site, method, path, query, headers, protocol, trailers, websocket })
    }

    /// As the policy sees it.
    pub(super) fn judged(&self) -> policy::Request<'_> {
        policy::Request {
            scheme: self.site.scheme,
            host: &self.site.host,
            port: self.site.port,
            method: self.method.as_str(),
            path: &self.path,
            websocket: self.websocket,
        }
    }

    /// Whether sending it twice means the same as sending it once (RFC 9110, section 9.2.2).
    pub(super) fn is_idempotent(&self) -> bool {
        self.method.is_idempotent()
    }
}

fn check_framing(headers: &HeaderMap) -> Result<(), RequestError> {
    let lengths = headers.get_all(header::CONTENT_LENGTH).iter().count();
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (lengths, codings.next(), codings.next()) {
        (0 | 1, None, _) => Ok(()),
        (0, Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(RequestError::Framing),
    }
}

/// Host header and request target must both name the connection's origin.
fn check_target(head: &request::Parts, site: &Site) -> Result<(), RequestError> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(value), None) => {
            let text = value.to_str().map_err(|_| RequestError::HostCount)?;
            check_authority(text, site)?;
        }
        (None, _) if head.version == Version::HTTP_10 => {}
        (None, _) if head.version == Version::HTTP_2 && head.uri.authority().is_some() => {}
        _ => return Err(RequestError::HostCount),
    }
    if let Some(scheme) = head.uri.scheme_str()
        && scheme != site.scheme_name()
    {
        return Err(RequestError::Scheme(scheme.to_owned()));
    }
    head.uri.authority().map_or(Ok(()), |authority| check_authority(authority.as_str(), site))
}

fn check_authority(text: &str, site: &Site) -> Result<(), RequestError> {
    let malformed = || RequestError::Authority(text.to_owned());
    if text.contains('@') {
        return Err(malformed());
    }
    let authority: Authority = text.parse().map_err(|_| malformed())?;
    let port = match text.rsplit_once(':') {
        Some((_, digits)) if !digits.ends_with(']') => digits.parse().map_err(|_| malformed())?,
        _ => site.default_port(),
    };
    let bare = authority.host();
    let bare = bare.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(bare);
    let host = Host::parse(bare).map_err(|_| malformed())?;
    if host == site.host && port == site.port {
        return Ok(());
    }
    Err(RequestError::Misdirected { asked: text.to_owned(), bound: site.authority() })
}

/// Takes out what belongs to this hop. A `Connection` that names anything else would let a client choose
/// which headers the origin sees after the policy looked, so it is refused.
fn end_to_end(mut headers: HeaderMap) -> Result<HeaderMap, RequestError> {
    for value in headers.get_all(header::CONNECTION) {
        let text = value.to_str().map_err(|_| RequestError::Connection(String::new()))?;
        for token in text.split(',').map(|token| token.trim().to_ascii_lowercase()) {
            let known = ["", "close", "upgrade", "trailer"].contains(&&*token)
                || HOP_BY_HOP.iter().any(|name| name.as_str() == token);
            if !known && headers.contains_key(&token) {
                return Err(RequestError::Connection(token));
            }
        }
    }
    remove_hop_by_hop(&mut headers);
    for name in [header::HOST, header::CONTENT_LENGTH, header::EXPECT] {
        headers.remove(name);
    }
    Ok(headers)
}

/// HTTP/2 may send a cookie in pieces, which is one header elsewhere (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let pieces: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if pieces.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&pieces.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// Takes the headers of one hop out of a message of either direction.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}
