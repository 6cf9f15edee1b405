//! The one way out of a workspace: names, connections and requests are judged, recorded, and only then sent.
//!
//! ```text
//!  workspace                     this module                                              origin
//!  ─────────   question   ┌─────────────────────────────┐
//!  resolver  ───────────► │ dns_server → dns → names    │   answers with synthetic addresses
//!              captured   ├─────────────────────────────┤
//!  program   ───────────► │ capture → connection ─┬─► tunnel ──────────────┐
//!                         │             │ (hello)  └─► intercept (TLS ends, │
//!                         │             ▼             as `spoken` tells)    │
//!                         │      http, http2 ◄─────────────┘               │
//!                         │  request: one canonical request                │
//!                         │  policy::decide ─► Permit, within its rate     │
//!                         │  inject: its credential                        │
//!                         │  resolve: its checked addresses                │
//!                         │  audit: one line, or nothing goes out          ▼
//!                         │  exchange ─► upstream (pool, open, trust) ───────────► TLS, verified
//!                         └─────────────────────────────┘
//! ```
//!
//! Every arrow is a type of its own: only the policy makes a permit, only `resolve` makes checked addresses, and
//! dialling takes nothing else. A workspace shares no connection, TLS session, certificate or name with another.

mod audit;
mod authority;
mod body;
mod capture;
mod connection;
mod denial;
mod dial;
mod dns;
mod dns_server;
mod exchange;
mod framing;
mod head;
mod hello;
mod http;
mod http2;
mod inject;
mod intercept;
mod ledger;
mod names;
mod open;
mod outgoing;
mod outlet;
mod pool;
mod rates;
mod request;
mod resolve;
mod settings;
mod spoken;
mod trust;
mod tunnel;
mod upstream;
mod verify;
mod websocket;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustls::ClientConfig;

pub use self::audit::{Audit, AuditError};
pub use self::authority::{AuthorityError, CertificateAuthority};
pub use self::dial::ProxySettingsError;
pub use self::inject::Vault;
pub use self::ledger::FILE_NAME as AUDIT_FILE_NAME;
pub use self::names::Remember;
pub use self::resolve::ResolveSettingsError;
pub use self::settings::Settings;
pub use self::trust::TrustError;
pub use self::verify::{Fault, Finding, Report, verify};

use self::audit::Trail;
use self::authority::Leaves;
use self::capture::{Capture, OriginalDestination};
use self::denial::Denials;
use self::dial::ParentProxy;
use self::dns::Zone;
use self::names::Names;
use self::outlet::Outlet;
use self::rates::Rates;
use self::resolve::Addresses;
use self::upstream::{Outside, Upstream};
use crate::policy::Policy;
use crate::shutdown::Shutdown;
use crate::sys;

/// The way out could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The resolver's settings are unusable.
    #[error(transparent)]
    Resolve(#[from] ResolveSettingsError),
    /// The parent proxy's setting is unusable.
    #[error(transparent)]
    Proxy(#[from] ProxySettingsError),
    /// The roots for upstreams are unusable.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The workspace's certificate authority is unusable.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A listening descriptor is unusable.
    #[error("cannot listen for workspace {workspace}: {cause}")]
    Listen {
        /// The workspace.
        workspace: String,
        /// What the system said.
        cause: io::Error,
    },
}

/// One life of a workspace, as its way out needs to know it.
pub struct WorkspaceEgress {
    /// The workspace's id.
    pub workspace: String,
    /// Which start of the workspace this is.
    pub generation: u64,
    /// What it may do.
    pub policy: Arc<Policy>,
    /// Whose certificates it trusts.
    pub authority: CertificateAuthority,
    /// The names that have an address from before.
    pub names: Vec<(String, u32)>,
    /// Keeps a new name's number before anybody hears of it.
    pub remember: Remember,
    /// Placeholders by the environment variable that holds them. Credentials of the present kinds replace the
    /// client's header or parameter whatever it holds, so they are not looked at yet.
    pub placeholders: BTreeMap<String, String>,
}

impl fmt::Debug for WorkspaceEgress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("WorkspaceEgress").field("workspace", &self.workspace).finish_non_exhaustive()
    }
}

/// The sockets that were made inside the workspace's network.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Listening TCP sockets to which every connection is redirected.
    pub tcp: Vec<OwnedFd>,
    /// Bound UDP sockets of the resolver.
    pub dns_udp: Vec<OwnedFd>,
    /// Listening TCP sockets of the resolver.
    pub dns_tcp: Vec<OwnedFd>,
}

/// The way out of all workspaces.
pub struct Egress {
    outside: Arc<Outside>,
    tls: ClientConfig,
    audit: Arc<Audit>,
    vault: Vault,
    shutdown: Shutdown,
}

impl fmt::Debug for Egress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Egress").finish_non_exhaustive()
    }
}

impl Egress {
    /// Sets up what workspaces share. Call it within the runtime; nothing is sent.
    ///
    /// # Errors
    /// If one of the operator's settings is unusable; the text names it.
    pub fn new(
        settings: &Settings,
        audit: Arc<Audit>,
        vault: Vault,
        shutdown: Shutdown,
    ) -> Result<Self, EgressError> {
        let proxy = settings.parent_proxy.as_deref().map(ParentProxy::parse).transpose()?;
        let outside = Arc::new(Outside { addresses: Addresses::new(settings)?, proxy });
        Ok(Self { outside, tls: trust::client_config(settings)?, audit, vault, shutdown })
    }

    /// Serves a workspace's sockets until the result is dropped. Call it again after a restart of the daemon, with the
    /// saved authority and names and the same sockets: the workspace notices nothing but cut connections.
    ///
    /// # Errors
    /// If the authority or a socket is unusable.
    pub fn attach(&self, workspace: WorkspaceEgress, listeners: Listeners) -> Result<Attached, EgressError> {
        self.attach_with(workspace, listeners, Arc::new(|stream| sys::net::original_destination(stream)))
    }

    fn attach_with(
        &self,
        workspace: WorkspaceEgress,
        listeners: Listeners,
        destination: OriginalDestination,
    ) -> Result<Attached, EgressError> {
        let shutdown = self.shutdown.child();
        let trail = Trail::new(self.audit.clone(), &workspace.workspace, workspace.generation);
        let outlet = Arc::new(Outlet {
            policy: workspace.policy,
            names: Arc::new(Names::new(&workspace.names, workspace.remember)),
            leaves: Leaves::new(&workspace.authority)?,
            trail,
            denials: Arc::new(Denials::default()),
            upstream: Upstream::new(
                self.outside.clone(),
                &trust::separate_sessions(&self.tls),
                shutdown.clone(),
            ),
            vault: self.vault.clone(),
            rates: Rates::default(),
        });
        // From here on a failure drops this, which ends what was already started.
        let attached = Attached { outlet: outlet.clone(), shutdown: shutdown.clone() };
        let listen = |cause| EgressError::Listen { workspace: workspace.workspace.clone(), cause };
        let zone = Arc::new(Zone {
            policy: outlet.policy.clone(),
            names: outlet.names.clone(),
            trail: outlet.trail.clone(),
            denials: outlet.denials.clone(),
        });
        dns_server::serve(&zone, listeners.dns_udp, listeners.dns_tcp, &shutdown).map_err(listen)?;
        let capture = Capture::new(outlet, destination, shutdown);
        for descriptor in listeners.tcp {
            capture.listen(descriptor).map_err(listen)?;
        }
        Ok(attached)
    }
}

/// A workspace whose sockets are served. Dropping it ends all its connections.
#[derive(Debug)]
pub struct Attached {
    outlet: Arc<Outlet>,
    shutdown: Shutdown,
}

impl Attached {
    /// A point in the sequence of denials, for [`Self::denials_since`].
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.outlet.denials.mark()
    }

    /// The texts of the latest denials since `mark`, oldest first and each once, and how many there were in all.
    #[must_use]
    pub fn denials_since(&self, mark: u64) -> (Vec<String>, u64) {
        self.outlet.denials.since(mark)
    }

    /// Ends all connections of the workspace and stops serving its sockets.
    pub fn detach(self) {
        drop(self);
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
