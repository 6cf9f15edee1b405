//! What an upstream's certificate is verified against. No switch turns verification off.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject as _};

use super::settings::Settings;

/// TLS sessions that a workspace keeps for resumption.
const SESSIONS: usize = 256;

/// The roots are unusable.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A document of `roots` is no PEM.
    #[error("egress.roots: {path}: {cause}")]
    Pem {
        /// The file.
        path: String,
        /// What is wrong with it.
        cause: pem::Error,
    },
    /// A document of `roots` holds no certificate.
    #[error("egress.roots: {0}: there is no certificate in it")]
    Empty(String),
    /// The TLS library refuses a root.
    #[error("egress.roots: {path}: {cause}")]
    Root {
        /// The file.
        path: String,
        /// What the library said.
        cause: rustls::Error,
    },
    /// The TLS library refuses its configuration.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// The client's side of TLS: the system's roots (or the built-in ones where there are none) and the operator's.
pub(super) fn client_config(settings: &Settings) -> Result<ClientConfig, TrustError> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    let (added, ignored) = roots.add_parsable_certificates(native.certs);
    tracing::debug!(added, ignored, "the system's roots");
    if added == 0 {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    for (index, document) in settings.root_documents.iter().enumerate() {
        let path = settings
            .roots
            .get(index)
            .map_or_else(|| format!("number {index}"), |path| path.display().to_string());
        add_document(&mut roots, &path, document)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// The same trust with sessions of its own, so that no two workspaces resume each other's.
pub(super) fn separate_sessions(config: &ClientConfig) -> ClientConfig {
    let mut own = config.clone();
    own.resumption = Resumption::in_memory_sessions(SESSIONS);
    own
}

fn add_document(roots: &mut RootCertStore, path: &str, document: &str) -> Result<(), TrustError> {
    let mut empty = true;
    for certificate in CertificateDer::pem_slice_iter(document.as_bytes()) {
        let certificate = certificate.map_err(|cause| TrustError::Pem { path: path.to_owned(), cause })?;
        roots.add(certificate).map_err(|cause| TrustError::Root { path: path.to_owned(), cause })?;
        empty = false;
    }
    if empty { Err(TrustError::Empty(path.to_owned())) } else { Ok(()) }
}
