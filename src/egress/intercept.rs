//! Ends TLS with the workspace's own certificate, for names that the policy allows.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::connection::Rewound;
use super::outlet::Outlet;
use super::pool::Protocol;
use super::request::Site;
use super::{http, http2};
use crate::policy::Host;

/// How long a client may take for its handshake.
const PATIENCE: Duration = Duration::from_secs(15);

/// Serves a connection whose hello agrees with `site`, and whose client may speak up to `protocol`.
pub(super) async fn serve(outlet: &Arc<Outlet>, site: &Site, stream: Rewound, protocol: Protocol) {
    // A certificate names an IPv6 address without the brackets of a URL.
    let name = match &site.host {
        Host::Name(name) => name.as_str().to_owned(),
        Host::Address(address) => address.to_string(),
    };
    let config = match outlet.leaves.server_config(&name, protocol) {
        Ok(config) => config,
        Err(error) => return tracing::error!(%error, host = %site.host, "no certificate for an allowed host"),
    };
    match timeout(PATIENCE, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
            http2::serve(outlet, site, stream).await;
        }
        Ok(Ok(stream)) => http::serve(outlet, site, stream).await,
        // Most often a client that does not trust the workspace's authority.
        Ok(Err(error)) => tracing::debug!(%error, host = %site.host, "a client's TLS handshake failed"),
        Err(_) => tracing::debug!(host = %site.host, "a client's TLS handshake took too long"),
    }
}
