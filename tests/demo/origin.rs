//! An upstream for demonstrations and tests: HTTPS on loopback, wants a bearer token, writes down what it saw.
//!
//! `origin [--http2] NAME CA-FILE SEEN-FILE`: makes an authority (its certificate goes to CA-FILE) and a certificate for NAME,
//! prints the port and serves until it is killed. `/stream/N` answers N bytes, `/echo` what it was sent.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Seen = Arc<Mutex<std::fs::File>>;

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1).peekable();
    let newer = arguments.next_if(|argument| argument == "--http2").is_some();
    let mut argument = || arguments.next().ok_or("usage: origin [--http2] NAME CA-FILE SEEN-FILE");
    let (name, authority, seen) = (argument()?, argument()?, argument()?);
    let acceptor = TlsAcceptor::from(Arc::new(identity(&name, &authority, newer)?));
    let seen: Seen = Arc::new(Mutex::new(std::fs::File::create(seen)?));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?.port())?;
    let tasks = hands::shutdown::Shutdown::new();
    loop {
        let (connection, _) = listener.accept().await?;
        let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
        tasks.spawn(async move {
            let Ok(connection) = acceptor.accept(connection).await else { return };
            let answer = service_fn(move |request| answer(request, Arc::clone(&seen)));
            if connection.get_ref().1.alpn_protocol() == Some(b"h2") {
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                drop(builder.serve_connection(TokioIo::new(connection), answer).await);
            } else {
                let builder = hyper::server::conn::http1::Builder::new();
                drop(builder.serve_connection(TokioIo::new(connection), answer).await);
            }
        });
    }
}

fn identity(name: &str, authority: &str, newer: bool) -> Result<rustls::ServerConfig, Failure> {
    let mut issuer = CertificateParams::new(Vec::new())?;
    issuer.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(issuer, KeyPair::generate()?)?;
    std::fs::write(authority, issuer.pem())?;
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if newer {
        config.alpn_protocols.insert(0, b"h2".to_vec());
    }
    Ok(config)
}

async fn answer(request: Request<Incoming>, seen: Seen) -> Result<Response<Full<Bytes>>, Failure> {
    let mut text = format!("{} {} {:?}\n", request.method(), request.uri(), request.version());
    for (name, value) in request.headers() {
        writeln!(text, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
    }
    let body = match request.uri().path().strip_prefix("/stream/").and_then(|size| size.parse().ok()) {
        Some(size) => Bytes::from(vec![b'x'; size]),
        None if request.uri().path() == "/echo" => request.into_body().collect().await?.to_bytes(),
        None if request.headers().contains_key("authorization") => {
            Bytes::from_static(b"{\"models\":[\"small\",\"large\"]}")
        }
        None => {
            writeln!(seen.lock().unwrap_or_else(PoisonError::into_inner), "{text}")?;
            let refusal = Full::new(Bytes::from_static(b"{\"error\":\"a token is needed\"}"));
            return Ok(Response::builder().status(StatusCode::UNAUTHORIZED).body(refusal)?);
        }
    };
    writeln!(seen.lock().unwrap_or_else(PoisonError::into_inner), "{text}")?;
    Ok(Response::new(Full::new(body)))
}
