//! `FileService`.

use std::fs::File;
use std::os::unix::fs::FileExt;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::convert::{page, page_size, stat};
use super::proto as wire;
use super::proto::file_service_read_response::Message as Read;
use super::proto::file_service_server::FileService;
use super::proto::file_service_write_request::Message as Write;
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
        let made =
            self.workspaces.create_file(&start.workspace, &start.path[..], start.mode, start.create_parents);
        let file = made.await?;
        let mut written = 0;
        loop {
            match said.message().await?.and_then(|message| message.message) {
                Some(Write::Data(data)) => written = append(&file, written, &data, &start.path)?,
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
        let facts = file.commit().await?;
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
}

fn read_at(file: &File, offset: u64, most: u64) -> std::io::Result<Bytes> {
    let mut buffer = BytesMut::zeroed(CHUNK.min(usize::try_from(most).unwrap_or(CHUNK)));
    let length = file.read_at(&mut buffer, offset)?;
    buffer.truncate(length);
    Ok(buffer.freeze())
}

fn append(file: &NewFile, offset: u64, data: &[u8], path: &[u8]) -> Result<u64, Status> {
    file.file().write_all_at(data, offset).map_err(|error| failed(path, &error))?;
    Ok(offset + data.len() as u64)
}

fn failed(path: &[u8], error: &std::io::Error) -> Status {
    let full = matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT));
    let reason = if full { Reason::ResourceExhausted } else { Reason::Internal };
    WorkspaceError::new(reason, "file", String::from_utf8_lossy(path), error.to_string()).into()
}
