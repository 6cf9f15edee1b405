//! Puts the credential of a permit into its request, after everything the client sent in its place is taken out.

use std::fmt;
use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHORIZATION};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use zeroize::Zeroizing;

use super::request::Canonical;
use crate::credential::{Document, Kind, SecretSource, SourceError};
use crate::policy::{Permit, Scheme};

/// Where credentials come from: what they are, and their secrets one at a time.
#[derive(Clone)]
pub struct Vault {
    /// The operator's credentials document.
    pub document: Arc<Document>,
    /// Opens the secret of one of them.
    pub source: Arc<dyn SecretSource>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Vault").finish_non_exhaustive()
    }
}

/// The credential of a rule can't be used for this request. No text of this type holds a secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum InjectError {
    #[error("the rule's credential {0:?} does not exist")]
    Unknown(String),
    #[error("the credential {0:?} is not for this host, port, method and path")]
    NotAdmitted(String),
    #[error("the credential {0:?} is never sent over cleartext")]
    Cleartext(String),
    #[error("the secret of the credential {name:?} could not be opened: {cause}")]
    Source { name: String, cause: SourceError },
    #[error("the secret of the credential {0:?} can't be a header value")]
    Value(String),
    #[error("{0:?} is no header name")]
    Header(String),
}

impl InjectError {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "credential_unknown",
            Self::NotAdmitted(_) => "credential_not_admitted",
            Self::Cleartext(_) => "credential_over_cleartext",
            Self::Source { .. } => "credential_unavailable",
            Self::Value(_) | Self::Header(_) => "credential_unusable",
        }
    }
}

/// Puts the permit's credential, if it has one, into `request`.
pub(super) async fn apply(
    permit: &Permit,
    vault: &Vault,
    request: &mut Canonical,
) -> Result<(), InjectError> {
    let Some(name) = permit.credential() else { return Ok(()) };
    let credential = vault.document.find(name).ok_or_else(|| InjectError::Unknown(name.to_owned()))?;
    if !matches!(request.site.scheme, Scheme::Https) {
        return Err(InjectError::Cleartext(name.to_owned()));
    }
    if !credential.admits(
        &request.site.host.to_string(),
        request.site.port,
        request.method.as_str(),
        request.path.as_str(),
    ) {
        return Err(InjectError::NotAdmitted(name.to_owned()));
    }
    let secret = vault
        .source
        .open(name)
        .await
        .map_err(|cause| InjectError::Source { name: name.to_owned(), cause })?;
    let text = secret.expose();
    remove_header(&mut request.headers, AUTHORIZATION.as_str());
    remove_header(&mut request.headers, PROXY_AUTHORIZATION.as_str());
    let unusable = || InjectError::Value(name.to_owned());
    match credential.kind() {
        Kind::Bearer => {
            let value = Zeroizing::new(format!("Bearer {text}"));
            request.headers.insert(AUTHORIZATION, sensitive(&value).ok_or_else(unusable)?);
        }
        Kind::Basic => {
            let value = Zeroizing::new(format!("Basic {}", *base64(text.as_bytes())));
            request.headers.insert(AUTHORIZATION, sensitive(&value).ok_or_else(unusable)?);
        }
        Kind::Header { name: header } => {
            remove_header(&mut request.headers, header.as_str());
            let header =
                HeaderName::try_from(header.as_str()).map_err(|_| InjectError::Header(header.to_string()))?;
            request.headers.insert(header, sensitive(text).ok_or_else(unusable)?);
        }
        Kind::Query { parameter } => {
            request.query = Some(with_parameter(request.query.as_deref(), parameter, text));
        }
    }
    Ok(())
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Removes a header in any spelling that some origin takes for it: case, and `_` for `-` (CGI).
fn remove_header(headers: &mut HeaderMap, name: &str) {
    let plain = |name: &str| name.to_ascii_lowercase().replace('_', "-");
    let wanted = plain(name);
    let found: Vec<HeaderName> =
        headers.keys().filter(|key| plain(key.as_str()) == wanted).cloned().collect();
    for key in found {
        headers.remove(key);
    }
}

/// The query with `parameter` once, with our value, whatever the client gave it.
fn with_parameter(query: Option<&str>, parameter: &str, value: &str) -> String {
    let is_other = |pair: &&str| {
        let key = pair.split('=').next().unwrap_or_default().replace('+', " ");
        !pair.is_empty() && percent_decode_str(&key).decode_utf8_lossy() != parameter
    };
    let mut pairs: Vec<String> =
        query.unwrap_or_default().split('&').filter(is_other).map(str::to_owned).collect();
    let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    pairs.push(format!("{}={}", encode(parameter), encode(value)));
    pairs.join("&")
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> Zeroizing<String> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Zeroizing::new(String::with_capacity(bytes.len().div_ceil(3) * 4));
    for group in bytes.chunks(3) {
        let bits =
            (0..3).fold(0_usize, |bits, at| bits << 8 | usize::from(group.get(at).copied().unwrap_or(0)));
        for place in 0..4 {
            let digit = ALPHABET[bits >> (18 - 6 * place) & 63];
            text.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}
