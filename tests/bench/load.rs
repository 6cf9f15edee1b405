//! A plain HTTPS client that asks as fast as it is answered: on the machine, and in a sandbox where it knows nothing of
//! the proxy.
//!
//! Arguments: NAME ADDRESS-OR-NAME PORT CA-FILE CONNECTIONS REQUESTS PATH. It prints the nanoseconds that all took.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Failure;

struct Load {
    name: String,
    address: String,
    path: String,
    connector: TlsConnector,
    left: AtomicI64,
}

#[tokio::main(flavor = "current_thread")]
pub(super) async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, host, port, roots, connections, requests, path] = arguments.as_slice() else {
        return Err("usage: NAME ADDRESS PORT CA-FILE CONNECTIONS REQUESTS PATH".into());
    };
    let load = Load {
        name: name.clone(),
        address: format!("{host}:{port}"),
        path: path.clone(),
        connector: connector(roots)?,
        left: AtomicI64::new(requests.parse()?),
    };
    let begun = Instant::now();
    let lanes = (0..connections.parse::<usize>()?).map(|_| lane(&load));
    futures_util::future::try_join_all(lanes).await?;
    println!("{}", begun.elapsed().as_nanos());
    Ok(())
}

fn connector(roots: &str) -> Result<TlsConnector, Failure> {
    let mut store = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(roots)? {
        store.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.with_root_certificates(store).with_no_client_auth()).into())
}

/// One connection, kept alive, until all requests were sent.
async fn lane(load: &Load) -> Result<(), Failure> {
    let connection = TcpStream::connect(load.address.as_str()).await?;
    connection.set_nodelay(true)?;
    let name = ServerName::try_from(load.name.clone())?;
    let connection = load.connector.connect(name, connection).await?;
    let (mut sender, connection) = http1::handshake::<_, Empty<Bytes>>(TokioIo::new(connection)).await?;
    let port = load.address.rsplit(':').next().unwrap_or_default();
    let requests = async {
        while load.left.fetch_sub(1, Ordering::Relaxed) > 0 {
            let host = format!("{}:{port}", load.name);
            let request = Request::get(&load.path).header("host", host).body(Empty::new())?;
            let answer = sender.send_request(request).await?;
            if answer.status() != StatusCode::OK {
                return Err(format!("{}: {}", load.path, answer.status()).into());
            }
            let mut body = answer.into_body();
            while let Some(frame) = body.frame().await {
                frame?;
            }
        }
        Ok::<(), Failure>(())
    };
    tokio::select! {
        done = requests => done,
        ended = connection => Err(format!("the connection ended: {ended:?}").into()),
    }
}
