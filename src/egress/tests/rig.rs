//! A workspace's way out on loopback: sockets that a network namespace would have, and a destination to choose.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use super::client::{Reply, connect_tls, exchange, trusting};
use super::origin::Origin;
use crate::credential::{Document, Secret, SecretSource, SourceError};
use crate::egress::{
    Attached, Audit, CertificateAuthority, Egress, EgressError, Listeners, Settings, Vault, WorkspaceEgress,
    names,
};
use crate::policy::Policy;
use crate::shutdown::Shutdown;

/// The value of every credential in these tests; it must turn up at origins only.
pub(super) const SECRET: &str = "canary-5e7f1c";

/// The name with number 0 in every workspace, and the one with number 1.
pub(super) const NAME: &str = "api.example";
pub(super) const OTHER: &str = "other.example";

#[derive(Debug)]
struct Fixed(Option<&'static str>);

impl SecretSource for Fixed {
    fn open<'a>(
        &'a self,
        credential: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Secret, SourceError>> + Send + 'a>> {
        let value = self.0.map(|value| Secret::parse(Zeroizing::new(value.as_bytes().to_vec())).unwrap());
        let missing = SourceError::Missing { credential: credential.to_owned() };
        Box::pin(async move { value.ok_or(missing) })
    }
}

/// What a test varies.
pub(super) struct Plan {
    pub(super) settings: Settings,
    pub(super) credentials: String,
    pub(super) secret: Option<&'static str>,
    pub(super) audit: Option<PathBuf>,
}

impl Plan {
    /// Both names lead to `origin`, whose root is trusted and whose address is opened.
    pub(super) fn for_origin(origin: &Origin) -> Self {
        let hosts = [NAME, OTHER].map(|name| (name.to_owned(), origin.address.ip()));
        let settings = Settings {
            hosts: hosts.into_iter().collect(),
            host_services: vec![origin.address],
            root_documents: vec![origin.root.clone()],
            ..Settings::default()
        };
        Self {
            settings,
            credentials: "version: 1\ncredentials: []\n".to_owned(),
            secret: Some(SECRET),
            audit: None,
        }
    }
}

/// What all workspaces of a test share.
pub(super) struct Rig {
    egress: Egress,
    pub(super) audit_file: PathBuf,
    _directory: tempfile::TempDir,
    shutdown: Shutdown,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Rig {
    pub(super) fn new(plan: &Plan, shutdown: &Shutdown) -> Result<Self, EgressError> {
        let directory = tempfile::tempdir().unwrap();
        let audit_file = directory.path().join(crate::egress::AUDIT_FILE_NAME);
        if let Some(target) = &plan.audit {
            std::os::unix::fs::symlink(target, &audit_file).unwrap();
        }
        let audit = Arc::new(Audit::open(directory.path()).unwrap());
        let document = Arc::new(Document::parse(&plan.credentials, "credentials.yaml").unwrap());
        let vault = Vault { document, source: Arc::new(Fixed(plan.secret)) };
        let shutdown = shutdown.child();
        let egress = Egress::new(&plan.settings, audit, vault, shutdown.clone())?;
        Ok(Self { egress, audit_file, _directory: directory, shutdown })
    }

    /// A workspace with a policy of these rules.
    pub(super) fn workspace(&self, name: &str, rules: &str) -> Workspace {
        let authority = CertificateAuthority::generate(name).unwrap();
        self.workspace_with(name, rules, authority)
    }

    pub(super) fn workspace_with(
        &self,
        name: &str,
        rules: &str,
        authority: CertificateAuthority,
    ) -> Workspace {
        let policy = format!("version: 1\negress:\n  rules:\n{rules}");
        let root = authority.certificate_pem().to_owned();
        let captured = TcpListener::bind("127.0.0.1:0").unwrap();
        let dns_udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let dns_tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let destination = Arc::new(Mutex::new(SocketAddr::from((names::v4(0), 443))));
        let remembered: Arc<Mutex<Vec<(String, u32)>>> = Arc::default();
        let keep = remembered.clone();
        let mut workspace = Workspace {
            attached: None,
            root,
            listener: captured.local_addr().unwrap(),
            dns_udp: dns_udp.local_addr().unwrap(),
            dns_tcp: dns_tcp.local_addr().unwrap(),
            destination: destination.clone(),
            remembered,
        };
        let life = WorkspaceEgress {
            workspace: name.to_owned(),
            generation: 1,
            policy: Arc::new(Policy::parse(&policy, "policy.yaml").unwrap()),
            authority,
            names: vec![(NAME.to_owned(), 0), (OTHER.to_owned(), 1)],
            remember: Arc::new(move |name, number| {
                keep.lock().unwrap().push((name.to_owned(), number));
                Ok(())
            }),
            placeholders: BTreeMap::new(),
        };
        let listeners = Listeners {
            tcp: vec![captured.into()],
            dns_udp: vec![dns_udp.into()],
            dns_tcp: vec![dns_tcp.into()],
        };
        let lookup = Arc::new(move |_: &TcpStream| Ok(*destination.lock().unwrap()));
        workspace.attached = Some(self.egress.attach_with(life, listeners, lookup).unwrap());
        workspace
    }

    /// All lines of the audit log.
    pub(super) fn records(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(&self.audit_file).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// One attached workspace.
pub(super) struct Workspace {
    pub(super) attached: Option<Attached>,
    pub(super) root: String,
    pub(super) listener: SocketAddr,
    pub(super) dns_udp: SocketAddr,
    pub(super) dns_tcp: SocketAddr,
    destination: Arc<Mutex<SocketAddr>>,
    pub(super) remembered: Arc<Mutex<Vec<(String, u32)>>>,
}

impl Workspace {
    /// What connections from now on are meant for.
    pub(super) fn aim(&self, destination: impl Into<SocketAddr>) {
        *self.destination.lock().unwrap() = destination.into();
    }

    /// A TLS connection to [`NAME`] at the port of `origin`.
    pub(super) async fn open(&self, origin: &Origin) -> TlsStream<TcpStream> {
        self.aim((names::v4(0), origin.address.port()));
        connect_tls(self.listener, trusting(&self.root), NAME).await.unwrap()
    }

    /// One request on a connection of its own; `head` has no Host yet.
    pub(super) async fn ask(&self, origin: &Origin, request_line: &str, headers: &str) -> Reply {
        let mut stream = self.open(origin).await;
        exchange(&mut stream, &message(origin, request_line, headers)).await
    }

    pub(super) fn denials(&self) -> Vec<String> {
        self.attached.as_ref().unwrap().denials_since(0).0
    }
}

/// A request for [`NAME`] at the port of `origin`, without a body.
pub(super) fn message(origin: &Origin, request_line: &str, headers: &str) -> String {
    format!("{request_line} HTTP/1.1\r\nHost: {NAME}:{}\r\n{headers}\r\n", origin.address.port())
}

/// A rule that lets everything through to [`NAME`] at the port of `origin`, with `more` keys.
pub(super) fn rule(origin: &Origin, more: &str) -> String {
    let port = origin.address.port();
    format!("    - {{ name: api, hosts: [{NAME}], ports: [{port}], paths: [\"/v1/**\"]{more} }}\n")
}
