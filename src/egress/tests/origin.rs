//! An origin on loopback: real TLS, real HTTP, and a memory of what it was sent.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
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

use crate::shutdown::Shutdown;

/// One request as the origin saw it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Number of the connection it came on, from 0.
    pub(super) connection: usize,
    pub(super) target: String,
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
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
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

/// Serves TLS for `name`, or cleartext if there is none.
pub(super) async fn start(name: Option<&str>, answer: Answer, shutdown: &Shutdown) -> Origin {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (config, root) = tls(name.unwrap_or("unused.example"));
    let acceptor = name.map(|_| TlsAcceptor::from(Arc::new(config)));
    let origin = Origin {
        address: listener.local_addr().unwrap(),
        root,
        seen: Arc::default(),
        connections: Arc::default(),
    };
    let (handle, scope) = (origin.clone(), shutdown.clone());
    shutdown.spawn_until_cancelled(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let connection = handle.connections.fetch_add(1, Ordering::SeqCst);
            let (handle, answer, acceptor) = (handle.clone(), answer.clone(), acceptor.clone());
            scope.spawn_until_cancelled(async move {
                let Some(acceptor) = acceptor else {
                    return serve(TokioIo::new(stream), connection, handle, answer).await;
                };
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(TokioIo::new(stream), connection, handle, answer).await;
                }
            });
        }
    });
    origin
}

async fn serve<S>(stream: S, connection: usize, origin: Origin, answer: Answer)
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let service = service_fn(|request: Request<Incoming>| {
        let (origin, answer) = (origin.clone(), answer.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let seen = Seen {
                connection,
                target: head.uri.to_string(),
                method: head.method.to_string(),
                headers: head.headers,
                body,
            };
            origin.seen.lock().unwrap().push(seen.clone());
            Ok::<_, Infallible>(answer(&seen))
        }
    });
    drop(hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await);
}
