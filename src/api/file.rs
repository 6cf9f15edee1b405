//! `FileService`.

use std::fs::File;
use std::os::unix::fs::FileExt;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::archive;
use super::convert::{nanoseconds, page, page_size, stat, version};
use super::proto as wire;
use super::proto::file_service_read_response::Message as Read;
use super::proto::file_service_server::FileService;
use super::proto::file_service_write_request::Message as Write;
use super::search;
use super::status::invalid;
use crate::shutdown::Shutdown;
use crate::workspace::{NewFile, Reason, WorkspaceError, Workspaces};

/// Bytes in one message of Read.
const CHUNK: usize = 64 * 1024;
/// Messages that wait for a slow reader.
const AHEAD: usize = 8;

#[derive(Debug)]
pub(super) struct Service {
    workspaces: Workspaces,
    tasks: Shutdown,
}

impl Service {
    pub(super) fn new(workspaces: Workspaces, tasks: Shutdown) -> Self {
        Self { workspaces, tasks }
    }
}

#[tonic::async_trait]
impl FileService for Service {
    type ExportStream = ReceiverStream<Result<wire::FileServiceExportResponse, Status>>;
    type GlobStream = search::Told<wire::FileServiceGlobResponse>;
    type GrepStream = search::Told<wire::FileServiceGrepResponse>;
    type ReadStream = ReceiverStream<Result<wire::FileServiceReadResponse, Status>>;

    async fn read(
        &self,
        request: Request<wire::FileServiceReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let (file, facts) = self.workspaces.open_file(&request.workspace, &request.path[..]).await?;
        let (answers, received) = mpsc::channel(AHEAD);
        self.tasks.spawn_until_cancelled(async move {
            let say = |message| answers.send(Ok(wire::FileServiceReadResponse { message: Some(message) }));
            if say(Read::Stat(stat(facts))).await.is_err() {
                return;
            }
            let limit = if request.length == 0 { u64::MAX } else { request.length };
            let mut sent = 0;
            let last = loop {
                match read_at(&file, request.offset.saturating_add(sent), limit - sent) {
                    Ok(data) if data.is_empty() => break Ok(Read::End(wire::FileReadEnd { bytes: sent })),
                    Ok(data) => {
                        sent += data.len() as u64;
                        if say(Read::Data(data)).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => break Err(failed(&request.path, &error)),
                }
            };
            let last = last.map(|message| wire::FileServiceReadResponse { message: Some(message) });
            if answers.send(last).await.is_err() {
                tracing::debug!("the reader left before the end");
            }
        });
        Ok(Response::new(ReceiverStream::new(received)))
    }

    async fn write(
        &self,
        request: Request<Streaming<wire::FileServiceWriteRequest>>,
    ) -> Result<Response<wire::FileServiceWriteResponse>, Status> {
        let mut said = request.into_inner();
        let Some(Write::Start(start)) = said.message().await?.and_then(|first| first.message) else {
            return Err(invalid("first message", "`start` names the file"));
        };
        let demanded = Some(&start.if_match).filter(|etag| !etag.is_empty()).map(|etag| version(etag));
        let (name, target) = (start.workspace.as_str(), &start.path[..]);
        let parents = start.create_parents;
        let (file, begun, found) = if start.append {
            self.workspaces.extend_file(name, target, start.mode, parents).await?
        } else {
            (self.workspaces.create_file(name, target, start.mode, parents).await?, 0, None)
        };
        let replaced = demanded.transpose()?.or(found);
        let mut written = 0;
        loop {
            match said.message().await?.and_then(|message| message.message) {
                Some(Write::Data(data)) => {
                    put(&file, begun + written, &data, &start.path)?;
                    written += data.len() as u64;
                }
                Some(Write::Finish(finish)) if finish.bytes == written => break,
                Some(Write::Finish(finish)) => {
                    let object = format!("{} bytes of {}", written, finish.bytes);
                    return Err(invalid(&object, "nothing was changed; write again"));
                }
                Some(Write::Start(_)) => return Err(invalid("start", "only as the first message")),
                None => {
                    return Err(invalid("end of the stream", "nothing was changed; end it with `finish`"));
                }
            }
        }
        let facts = match replaced {
            Some(version) => file.commit_over(version).await?,
            None => file.commit().await?,
        };
        Ok(Response::new(wire::FileServiceWriteResponse { stat: Some(stat(facts)) }))
    }

    async fn stat(
        &self,
        request: Request<wire::FileServiceStatRequest>,
    ) -> Result<Response<wire::FileServiceStatResponse>, Status> {
        let request = request.into_inner();
        let facts = self.workspaces.stat(&request.workspace, &request.path, request.follow).await?;
        Ok(Response::new(wire::FileServiceStatResponse { stat: Some(stat(facts)) }))
    }

    async fn list(
        &self,
        request: Request<wire::FileServiceListRequest>,
    ) -> Result<Response<wire::FileServiceListResponse>, Status> {
        let request = request.into_inner();
        let size = page_size(request.page_size, 1000, 10_000)?;
        let all = self.workspaces.list_directory(&request.workspace, &request.path[..]).await?;
        let (entries, next_page_token) = page(all, |entry| &entry.name, &request.page_token, size)?;
        let told = |entry: crate::workspace::DirectoryEntry| wire::DirectoryEntry {
            name: entry.name.into(),
            stat: Some(stat(entry.stat)),
        };
        let entries = entries.into_iter().map(told).collect();
        Ok(Response::new(wire::FileServiceListResponse { entries, next_page_token }))
    }

    async fn remove(
        &self,
        request: Request<wire::FileServiceRemoveRequest>,
    ) -> Result<Response<wire::FileServiceRemoveResponse>, Status> {
        let wire::FileServiceRemoveRequest { workspace, path, recursive } = request.into_inner();
        self.workspaces.remove_file(&workspace, &path, recursive).await?;
        Ok(Response::new(wire::FileServiceRemoveResponse {}))
    }

    async fn r#move(
        &self,
        request: Request<wire::FileServiceMoveRequest>,
    ) -> Result<Response<wire::FileServiceMoveResponse>, Status> {
        let wire::FileServiceMoveRequest { workspace, source, target, replace } = request.into_inner();
        self.workspaces.move_file(&workspace, &source, &target, replace).await?;
        Ok(Response::new(wire::FileServiceMoveResponse {}))
    }

    async fn copy(
        &self,
        request: Request<wire::FileServiceCopyRequest>,
    ) -> Result<Response<wire::FileServiceCopyResponse>, Status> {
        let wire::FileServiceCopyRequest { workspace, source, target, create_parents } = request.into_inner();
        let copy = self.workspaces.copy_file(&workspace, &source, &target, create_parents).await?;
        Ok(Response::new(wire::FileServiceCopyResponse { stat: Some(stat(copy)) }))
    }

    async fn make_directory(
        &self,
        request: Request<wire::FileServiceMakeDirectoryRequest>,
    ) -> Result<Response<wire::FileServiceMakeDirectoryResponse>, Status> {
        let wire::FileServiceMakeDirectoryRequest { workspace, path, mode, create_parents } =
            request.into_inner();
        let mode = mode.unwrap_or(0o755);
        let made = self.workspaces.make_directory(&workspace, &path, mode, create_parents).await?;
        Ok(Response::new(wire::FileServiceMakeDirectoryResponse { stat: made.map(stat) }))
    }

    async fn set_attributes(
        &self,
        request: Request<wire::FileServiceSetAttributesRequest>,
    ) -> Result<Response<wire::FileServiceSetAttributesResponse>, Status> {
        let wire::FileServiceSetAttributesRequest { workspace, path, mode, modify_time } =
            request.into_inner();
        let time = |at| nanoseconds(at).ok_or_else(|| invalid("modify_time", "within 292 years of 1970"));
        let time = modify_time.map(time).transpose()?;
        let set = self.workspaces.set_attributes(&workspace, &path, mode, time).await?;
        Ok(Response::new(wire::FileServiceSetAttributesResponse { stat: set.map(stat) }))
    }

    async fn glob(
        &self,
        request: Request<wire::FileServiceGlobRequest>,
    ) -> Result<Response<Self::GlobStream>, Status> {
        let wire::FileServiceGlobRequest { workspace, path, pattern } = request.into_inner();
        let found = self.workspaces.glob(&workspace, search::within(&path, pattern)).await?;
        Ok(Response::new(search::paths(found, &self.tasks)))
    }

    async fn grep(
        &self,
        request: Request<wire::FileServiceGrepRequest>,
    ) -> Result<Response<Self::GrepStream>, Status> {
        let wire::FileServiceGrepRequest { workspace, path, pattern } = request.into_inner();
        let found = self.workspaces.grep(&workspace, search::within(&path, pattern)).await?;
        Ok(Response::new(search::lines(found, &self.tasks)))
    }

    async fn import(
        &self,
        request: Request<Streaming<wire::FileServiceImportRequest>>,
    ) -> Result<Response<wire::FileServiceImportResponse>, Status> {
        archive::import(&self.workspaces, request.into_inner()).await.map(Response::new)
    }

    async fn export(
        &self,
        request: Request<wire::FileServiceExportRequest>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        let wire::FileServiceExportRequest { workspace, path } = request.into_inner();
        let export = self.workspaces.export(&workspace, &path).await?;
        Ok(Response::new(archive::export(export, &self.tasks)))
    }
}

fn read_at(file: &File, offset: u64, most: u64) -> std::io::Result<Bytes> {
    let mut buffer = BytesMut::zeroed(CHUNK.min(usize::try_from(most).unwrap_or(CHUNK)));
    let length = file.read_at(&mut buffer, offset)?;
    buffer.truncate(length);
    Ok(buffer.freeze())
}

fn put(file: &NewFile, offset: u64, data: &[u8], path: &[u8]) -> Result<(), Status> {
    file.file().write_all_at(data, offset).map_err(|error| failed(path, &error))
}

fn failed(path: &[u8], error: &std::io::Error) -> Status {
    let full = matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT));
    let reason = if full { Reason::ResourceExhausted } else { Reason::Internal };
    WorkspaceError::new(reason, "file", String::from_utf8_lossy(path), error.to_string()).into()
}
