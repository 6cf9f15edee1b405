//! A client of the API over its Unix socket, for the command line and for tests.

use std::io;
use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt;
use tower::service_fn;

use super::proto::file_service_client::FileServiceClient;
use super::proto::process_service_client::ProcessServiceClient;
use super::proto::tool_service_client::ToolServiceClient;
use super::proto::workspace_service_client::WorkspaceServiceClient;

pub use tonic::{Status, Streaming};

/// Largest message that is taken, in bytes.
const LARGEST_MESSAGE: usize = 8 * 1024 * 1024;

/// A connection to a daemon.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// What connect(2) says: `ENOENT`, `ECONNREFUSED`, `EACCES`.
    pub async fn connect(path: &Path) -> io::Result<Self> {
        // Asked first, because the transport hides the kernel's answer.
        drop(tokio::net::UnixStream::connect(path).await?);
        let path = PathBuf::from(path);
        let connector = service_fn(move |_uri| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The connector ignores the address; the authority only has to be one.
        let endpoint = Endpoint::from_static("http://hands.invalid");
        let channel = endpoint.connect_with_connector(connector).await.map_err(io::Error::other)?;
        Ok(Self { channel })
    }

    /// The connection, for the standard services.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Workspaces.
    #[must_use]
    pub fn workspaces(&self) -> WorkspaceServiceClient<Channel> {
        WorkspaceServiceClient::new(self.channel.clone())
    }

    /// Commands.
    #[must_use]
    pub fn processes(&self) -> ProcessServiceClient<Channel> {
        ProcessServiceClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    /// Files.
    #[must_use]
    pub fn files(&self) -> FileServiceClient<Channel> {
        FileServiceClient::new(self.channel.clone())
    }

    /// Tools.
    #[must_use]
    pub fn tools(&self) -> ToolServiceClient<Channel> {
        ToolServiceClient::new(self.channel.clone())
    }
}

/// The kernel's name of the error, where the kernel refused, for example `ENOENT`.
#[must_use]
pub fn errno(status: &Status) -> Option<String> {
    status.get_details_error_info()?.metadata.get("errno").cloned()
}

/// The reason from the documented list, for example `NOT_FOUND`.
#[must_use]
pub fn reason(status: &Status) -> Option<String> {
    Some(status.get_details_error_info()?.reason)
}

/// Whether the connection broke, rather than the call: worth another attempt.
#[must_use]
pub fn broken(status: &Status) -> bool {
    use tonic::Code;
    status.get_details_error_info().is_none()
        && matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal)
}
