//! Certificates that end TLS inside a workspace's way out: one authority per workspace, its leaves, their cache.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::pool::Protocol;

const DAY: u64 = 86_400;
const AUTHORITY_DAYS: u64 = 3650;

/// Clients refuse leaves that are valid for more than 398 days (CA/Browser Forum baseline, section 6.3.2).
const LEAF_DAYS: u64 = 365;

/// A leaf older than this is minted anew; well within [`LEAF_DAYS`].
const LEAF_AGE: Duration = Duration::from_secs(180 * DAY);

/// Most names with a leaf at a time. Only names that the policy allows get one, so this is rarely reached.
const LEAF_LIMIT: usize = 1024;

/// A certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A key or certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Mint(#[from] rcgen::Error),
    /// The TLS library refused the key or certificate.
    #[error("cannot use a certificate: {0}")]
    Tls(#[from] rustls::Error),
    /// The bytes are not those of [`CertificateAuthority::to_bytes`].
    #[error("the saved certificate authority is damaged")]
    Damaged,
}

/// The key and certificate that one workspace trusts for intercepted connections. It exists in memory only.
pub struct CertificateAuthority {
    workspace: String,
    key_pem: Zeroizing<String>,
    certificate_pem: String,
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CertificateAuthority")
            .field("workspace", &self.workspace)
            .finish_non_exhaustive()
    }
}

impl CertificateAuthority {
    /// A fresh P-256 authority for one workspace, valid for ten years.
    ///
    /// # Errors
    /// If the key or the certificate can't be made.
    pub fn generate(workspace: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let certificate = authority_params(workspace)?.self_signed(&key)?;
        Ok(Self {
            workspace: workspace.to_owned(),
            key_pem: Zeroizing::new(key.serialize_pem()),
            certificate_pem: certificate.pem(),
        })
    }

    /// The authority for [`Self::from_bytes`]; its private key is among these bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
        for part in [&self.workspace, "\n", &self.key_pem, &self.certificate_pem] {
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes
    }

    /// The authority that [`Self::to_bytes`] saved.
    ///
    /// # Errors
    /// If the bytes are not of that form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AuthorityError> {
        let text = std::str::from_utf8(bytes).map_err(|_| AuthorityError::Damaged)?;
        let (workspace, rest) = text.split_once('\n').ok_or(AuthorityError::Damaged)?;
        let start = rest.find("-----BEGIN CERTIFICATE-----").ok_or(AuthorityError::Damaged)?;
        let (key, certificate) = rest.split_at(start);
        KeyPair::from_pem(key)?;
        CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| AuthorityError::Damaged)?;
        Ok(Self {
            workspace: workspace.to_owned(),
            key_pem: Zeroizing::new(key.to_owned()),
            certificate_pem: certificate.to_owned(),
        })
    }

    /// The certificate for the workspace's trust stores.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }
}

/// The same for making and for reading back, so that leaves name the issuer that the certificate names.
fn authority_params(workspace: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Hands workspace {workspace}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, AUTHORITY_DAYS);
    Ok(params)
}

/// From yesterday (clocks differ) for so many days.
fn set_validity(params: &mut CertificateParams, days: u64) {
    let today = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / DAY;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs((today - 1) * DAY);
    params.not_after = epoch + Duration::from_secs((today - 1 + days) * DAY);
}

struct Leaf {
    http1: Arc<ServerConfig>,
    http2: Arc<ServerConfig>,
    minted: Instant,
}

impl Leaf {
    fn config(&self, protocol: Protocol) -> Arc<ServerConfig> {
        match protocol {
            Protocol::Http1 => self.http1.clone(),
            Protocol::Http2 => self.http2.clone(),
        }
    }
}

/// Mints and keeps the leaves of one workspace. Ask only for names that the policy allows.
pub(super) struct Leaves {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    key: KeyPair,
    cache: Mutex<HashMap<String, Leaf>>,
}

impl fmt::Debug for Leaves {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Leaves").finish_non_exhaustive()
    }
}

impl Leaves {
    /// An empty cache; one key is made for all leaves.
    pub(super) fn new(authority: &CertificateAuthority) -> Result<Self, AuthorityError> {
        let issuer =
            Issuer::new(authority_params(&authority.workspace)?, KeyPair::from_pem(&authority.key_pem)?);
        let certificate = CertificateDer::from_pem_slice(authority.certificate_pem.as_bytes())
            .map_err(|_| AuthorityError::Damaged)?;
        Ok(Self { issuer, certificate, key: KeyPair::generate()?, cache: Mutex::default() })
    }

    /// The server's side of TLS for `name`, a host name or literal address, for protocols up to `protocol`.
    pub(super) fn server_config(
        &self,
        name: &str,
        protocol: Protocol,
    ) -> Result<Arc<ServerConfig>, AuthorityError> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaf) = cache.get(name).filter(|leaf| leaf.minted.elapsed() < LEAF_AGE) {
            return Ok(leaf.config(protocol));
        }
        let leaf = self.mint(name)?;
        let config = leaf.config(protocol);
        if cache.len() >= LEAF_LIMIT {
            cache.clear();
        }
        cache.insert(name.to_owned(), leaf);
        Ok(config)
    }

    fn mint(&self, name: &str) -> Result<Leaf, AuthorityError> {
        let mut params = CertificateParams::new([name.to_owned()])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        // Drawn, since the default is made from the key, which all leaves share; issuer and serial must be unique.
        let mut serial: [u8; 16] = rand::random();
        // Positive and without leading zeros, whatever was drawn.
        serial[0] = serial[0] & 0x3f | 0x40;
        params.serial_number = Some(serial.to_vec().into());
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        set_validity(&mut params, LEAF_DAYS);
        let leaf = params.signed_by(&self.key, &self.issuer)?;
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der());
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone(), self.certificate.clone()], key.into())?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Each name has its own tickets, so a session can only be resumed for the name it was made for.
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        let mut newer = config.clone();
        newer.alpn_protocols.insert(0, b"h2".to_vec());
        Ok(Leaf { http1: Arc::new(config), http2: Arc::new(newer), minted: Instant::now() })
    }
}
