//! The client's side of HTTP/1.1: a connection's requests, one after the other, each with one answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::audit::{Facts, Kind};
use super::body::Body;
use super::denial::{Language, Refusal};
use super::exchange::{perform, prepare};
use super::framing::HEAD_LIMIT;
use super::head::StrictReader;
use super::outlet::Outlet;
use super::request::Site;
use super::websocket::{Gate, Switch};

/// How long a client may take for a head, and a kept connection may be idle.
const HEAD_PATIENCE: Duration = Duration::from_secs(60);

/// Serves the requests of a connection for `site` until either side ends it.
pub(super) async fn serve<S>(outlet: &Arc<Outlet>, site: &Site, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let gate = Gate::default();
    let (shared, bound) = (outlet.clone(), site.clone());
    let reader = StrictReader::new(stream, gate.clone(), move |error| {
        let facts = Facts { reason: Some("malformed_request".to_owned()), ..facts_of(&bound) };
        shared.deny(Kind::Request, &facts, format!("{}: {error}", bound.authority()));
    });
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(gate.clone());
        async { Ok::<_, Infallible>(answer(outlet, site, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(HEAD_LIMIT * 2)
        .serve_connection(TokioIo::new(reader), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, host = %site.host, "a client's connection ended");
    }
}

fn facts_of(site: &Site) -> Facts {
    Facts { host: site.host.to_string(), port: Some(site.port), ..Facts::default() }
}

/// The whole way of one request: parse, judge, credential, route, record, send.
pub(super) async fn answer(
    outlet: &Arc<Outlet>,
    site: &Site,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let mut facts = Facts { method: Some(request.method().to_string()), ..facts_of(site) };
    let (language, switch) = (Language::of(&request), Switch::of(&mut request));
    let (head, body) = request.into_parts();
    let prepared = match prepare(outlet, site, head, &mut facts).await {
        Ok(prepared) => prepared,
        Err(refusal) => {
            let facts = recorded(outlet, site, &refusal, facts);
            return refusal.response(&facts, language);
        }
    };
    match perform(outlet, prepared, (body, switch), &facts).await {
        Ok(response) => response,
        Err(refusal) => refusal.response(&facts, language),
    }
}

/// Records a request that does not go out; what is recorded is what is told.
fn recorded(outlet: &Outlet, site: &Site, refusal: &Refusal, facts: Facts) -> Facts {
    let rule = match refusal {
        Refusal::Denied(denial) => denial.rule.clone(),
        _ => facts.rule.clone(),
    };
    let facts = Facts { rule, reason: Some(refusal.reason().to_owned()), ..facts };
    if refusal.is_denial() {
        let text = match refusal {
            Refusal::Request(error) => format!("{}: {error}", site.authority()),
            _ => refusal.to_string(),
        };
        outlet.deny(Kind::Request, &facts, text);
    } else {
        outlet.fail(Kind::Request, &facts, refusal.status());
    }
    facts
}
