//! The gRPC API: decode, ask the workspaces, encode. One file per service; nothing is decided here.
//!
//! Who may call: the peer credentials of the Unix socket are compared with the uids that the composition root admits;
//! everybody else is disconnected before a byte is read.

mod archive;
pub mod client;
mod convert;
mod file;
mod local;
mod process;
pub mod proto;
mod search;
mod status;
mod tool;
mod workspace;

use futures_util::{StreamExt, stream};
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::Server;

use crate::shutdown::Shutdown;
use crate::tool::Tools;
use crate::workspace::Workspaces;
use proto::file_service_server::FileServiceServer;
use proto::process_service_server::ProcessServiceServer;
use proto::tool_service_server::ToolServiceServer;
use proto::workspace_service_server::WorkspaceServiceServer;

/// Largest message in bytes: a command line may have 2 MiB, output comes in small pieces.
const LARGEST_MESSAGE: usize = 4 * 1024 * 1024;

/// Who may call.
#[derive(Clone, Debug)]
pub struct PeerPolicy {
    /// Users.
    pub uids: Vec<u32>,
}

impl PeerPolicy {
    fn admits(&self, connection: &UnixStream) -> bool {
        match connection.peer_cred() {
            Ok(peer) if self.uids.contains(&peer.uid()) => true,
            Ok(peer) => {
                tracing::warn!(uid = peer.uid(), "refused: not the owner of this installation");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "refused: no peer credentials");
                false
            }
        }
    }
}

/// What is served.
#[derive(Clone, Debug)]
pub struct Served {
    /// Workspaces with their processes and files.
    pub workspaces: Workspaces,
    /// What agents call in them.
    pub tools: Tools,
}

/// Serves until the scope is cancelled.
pub async fn serve(listener: UnixListener, served: Served, admitted: PeerPolicy, shutdown: Shutdown) {
    let Served { workspaces, tools } = served;
    let connections = stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(connection, _)| connection);
        Some((accepted, listener))
    });
    let connections = connections.filter(move |accepted| {
        let admitted = accepted.as_ref().map_or(true, |connection| admitted.admits(connection));
        std::future::ready(admitted)
    });
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_serving::<WorkspaceServiceServer<workspace::Service>>().await;
    health_reporter.set_serving::<ProcessServiceServer<process::Service>>().await;
    health_reporter.set_serving::<FileServiceServer<file::Service>>().await;
    health_reporter.set_serving::<ToolServiceServer<tool::Service>>().await;
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (Ok(reflection), Ok(older_reflection)) = (described().build_v1(), described().build_v1alpha()) else {
        tracing::error!("the descriptors of the API do not decode");
        return;
    };
    let tasks = shutdown.clone();
    let services = Server::builder()
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(60)))
        .add_service(health)
        .add_service(reflection)
        .add_service(older_reflection)
        .add_service(WorkspaceServiceServer::new(workspace::Service::new(workspaces.clone())))
        .add_service(
            ProcessServiceServer::new(process::Service::new(workspaces.clone(), tasks.clone()))
                .max_decoding_message_size(LARGEST_MESSAGE),
        )
        .add_service(ToolServiceServer::new(tool::Service::new(tools, tasks.clone())))
        .add_service(FileServiceServer::new(file::Service::new(workspaces, tasks)));
    let connections = connections.map(|accepted| {
        accepted.map(local::LocalConnection::new).inspect_err(|error| tracing::warn!(%error, "accept"))
    });
    tokio::select! {
        served = services.serve_with_incoming(connections) => {
            if let Err(error) = served {
                tracing::error!(%error, "the API ended");
            }
        }
        () = shutdown.token().cancelled() => {}
    }
}
