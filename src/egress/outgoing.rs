//! The upstream's request, written from the canonical one and nothing else, for whichever protocol the origin speaks.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, Uri, Version};
use hyper::body::{Body as _, Incoming};

use super::body::{Body, Followed, Progress, full};
use super::pool::Protocol;
use super::request::Canonical;
use super::websocket;

/// A request for an origin.
#[derive(Debug)]
pub(super) struct Outgoing {
    request: Request<Body>,
    wearing: Wearing,
    idempotent: bool,
    /// What the client speaks.
    pub(super) asked: Protocol,
}

/// What differs between protocols.
#[derive(Clone, Debug)]
struct Wearing {
    scheme: &'static str,
    authority: String,
    trailers: bool,
    websocket: bool,
}

/// Everything of an [`Outgoing`] but its request, which is away.
pub(super) struct Undressed {
    wearing: Wearing,
    idempotent: bool,
    asked: Protocol,
}

impl Undressed {
    pub(super) fn with(self, request: Request<Body>) -> Outgoing {
        let Self { wearing, idempotent, asked } = self;
        Outgoing { request, wearing, idempotent, asked }
    }
}

impl Outgoing {
    /// The request with its body, which is counted in `sent`.
    pub(super) fn new(canonical: Canonical, body: Incoming, sent: Progress) -> Result<Self, http::Error> {
        let target = match &canonical.query {
            Some(query) => format!("{}?{query}", canonical.path.as_str()),
            None => canonical.path.as_str().to_owned(),
        };
        let authority = canonical.site.authority();
        let idempotent = canonical.is_idempotent();
        let wearing = Wearing {
            scheme: canonical.site.scheme_name(),
            authority,
            trailers: canonical.trailers,
            websocket: canonical.websocket,
        };
        let mut request = Request::builder()
            .method(canonical.method)
            .uri(target)
            .header(header::HOST, HeaderValue::from_str(&wearing.authority)?)
            .body(Followed::new(body, sent, |_| ()).boxed())?;
        request.headers_mut().extend(canonical.headers);
        Ok(Self { request, wearing, idempotent, asked: canonical.protocol })
    }

    /// The same again, if sending it twice means the same as sending it once and there is no body.
    pub(super) fn repeatable(&self) -> Option<Self> {
        if !self.idempotent || !self.request.body().is_end_stream() {
            return None;
        }
        let mut copy = Request::new(full(Bytes::new()));
        *copy.method_mut() = self.request.method().clone();
        *copy.uri_mut() = self.request.uri().clone();
        *copy.headers_mut() = self.request.headers().clone();
        Some(self.without_request().with(copy))
    }

    /// Whether the origin may answer with 101.
    pub(super) const fn may_switch(&self) -> bool {
        self.wearing.websocket
    }

    pub(super) fn without_request(&self) -> Undressed {
        Undressed { wearing: self.wearing.clone(), idempotent: self.idempotent, asked: self.asked }
    }

    /// The request in the form of a protocol: target, Host and `te` are what differs.
    pub(super) fn dressed(self, protocol: Protocol) -> Result<Request<Body>, http::Error> {
        let Self { mut request, wearing, .. } = self;
        let target = request.uri().path_and_query().cloned();
        let target = target.unwrap_or_else(|| PathAndQuery::from_static("/"));
        match protocol {
            Protocol::Http1 => {
                *request.version_mut() = Version::HTTP_11;
                *request.uri_mut() = Uri::builder().path_and_query(target).build()?;
                request.headers_mut().insert(header::HOST, HeaderValue::from_str(&wearing.authority)?);
                request.headers_mut().remove(header::TE);
                if wearing.websocket {
                    websocket::announce(request.headers_mut());
                }
            }
            Protocol::Http2 => {
                *request.version_mut() = Version::HTTP_2;
                *request.uri_mut() = Uri::builder()
                    .scheme(wearing.scheme)
                    .authority(wearing.authority)
                    .path_and_query(target)
                    .build()?;
                request.headers_mut().remove(header::HOST);
                if wearing.trailers {
                    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
                }
            }
        }
        Ok(request)
    }
}
