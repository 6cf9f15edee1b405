//! An origin on loopback: real TLS, real HTTP, and a memory of what it was sent.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::egress::body::Body;
use crate::egress::http2::Scope;
use crate::shutdown::Shutdown;

/// One request as the origin saw it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Number of the connection it came on, from 0.
    pub(super) connection: usize,
    pub(super) target: String,
    /// The `:authority` of a stream.
    pub(super) authority: Option<String>,
    pub(super) version: Version,
    pub(super) method: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

pub(super) type Answer = Arc<dyn Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync>;

/// A running origin.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) address: SocketAddr,
    /// The certificate of its authority, for `roots`.
    pub(super) root: String,
    pub(super) seen: Arc<Mutex<Vec<Seen>>>,
    pub(super) connections: Arc<AtomicUsize>,
}

impl Origin {
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

pub(super) fn ok() -> Answer {
    Arc::new(|_| Response::new(Full::from("hello")))
}

fn tls(name: &str) -> (ServerConfig, String) {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.distinguished_name.push(DnType::CommonName, "test root");
    let certificate = root.self_signed(&root_key).unwrap();
    let issuer = Issuer::new(root, root_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    (config, certificate.pem())
}

/// What an origin does with a request; the number is that of the connection.
pub(super) type Service = Arc<
    dyn Fn(usize, Request<Incoming>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> + Send + Sync,
>;

/// Serves HTTP/1.1 within TLS for `name`, or in cleartext if there is none.
pub(super) async fn start(name: Option<&str>, answer: Answer, shutdown: &Shutdown) -> Origin {
    speaking(name, &["http/1.1"], answer, shutdown).await
}

/// The same with other protocols; cleartext is of the first.
pub(super) async fn speaking(
    name: Option<&str>,
    protocols: &[&str],
    answer: Answer,
    shutdown: &Shutdown,
) -> Origin {
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let log = seen.clone();
    let service: Service = Arc::new(move |connection, request| {
        let (log, answer) = (log.clone(), answer.clone());
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let seen = Seen {
                connection,
                target: head.uri.path_and_query().unwrap().to_string(),
                authority: head.uri.authority().map(ToString::to_string),
                version: head.version,
                method: head.method.to_string(),
                headers: head.headers,
                body,
            };
            log.lock().unwrap().push(seen.clone());
            answer(&seen).map(|body| body.map_err(|never| match never {}).boxed_unsync())
        })
    });
    let origin = serving(name, protocols, service, shutdown).await;
    Origin { seen, ..origin }
}

/// An origin that does what `service` does.
pub(super) async fn serving(
    name: Option<&str>,
    protocols: &[&str],
    service: Service,
    shutdown: &Shutdown,
) -> Origin {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut config, root) = tls(name.unwrap_or("unused.example"));
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let acceptor = name.map(|_| TlsAcceptor::from(Arc::new(config)));
    let clear = protocols[0] == "h2";
    let address = listener.local_addr().unwrap();
    let origin = Origin { address, root, seen: Arc::default(), connections: Arc::default() };
    let (connections, scope) = (origin.connections.clone(), shutdown.clone());
    shutdown.spawn_until_cancelled(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let connection = connections.fetch_add(1, Ordering::SeqCst);
            let (service, acceptor, inner) = (service.clone(), acceptor.clone(), scope.clone());
            scope.spawn_until_cancelled(async move {
                let Some(acceptor) = acceptor else {
                    return serve(TokioIo::new(stream), clear, (connection, service), inner).await;
                };
                if let Ok(stream) = acceptor.accept(stream).await {
                    let newer = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    serve(TokioIo::new(stream), newer, (connection, service), inner).await;
                }
            });
        }
    });
    origin
}

async fn serve<S>(stream: S, newer: bool, (connection, service): (usize, Service), scope: Shutdown)
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = service(connection, request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    if newer {
        let mut builder = hyper::server::conn::http2::Builder::new(Scope(scope));
        builder.max_concurrent_streams(1000);
        drop(builder.serve_connection(stream, service).await);
    } else {
        let served = hyper::server::conn::http1::Builder::new().serve_connection(stream, service);
        drop(served.with_upgrades().await);
    }
}
