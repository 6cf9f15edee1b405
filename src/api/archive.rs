//! The streams of Import and Export.

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::proto::file_service_export_response::Message as Exported;
use super::proto::file_service_import_request::Message as Import;
use super::proto::{
    FileServiceExportResponse, FileServiceImportRequest, FileServiceImportResponse, LeftOutEntry,
    LeftOutReason, TransferReport,
};
use super::status::invalid;
use crate::shutdown::Shutdown;
use crate::workspace::{Export, LeftOut, Target, Transfer, Unpack, Workspaces};

/// Most members of an archive.
const ENTRIES: u64 = 1_000_000;
/// Most bytes of an archive's files: 64 GiB.
const BYTES: u64 = 64 << 30;
/// Pieces that wait for a slow reader or a slow disk.
const AHEAD: usize = 8;

pub(super) async fn import(
    workspaces: &Workspaces,
    mut said: Streaming<FileServiceImportRequest>,
) -> Result<FileServiceImportResponse, Status> {
    let Some(Import::Start(start)) = said.message().await?.and_then(|first| first.message) else {
        return Err(invalid("first message", "`start` names the directory"));
    };
    let most = |asked: u64, most: u64| if asked == 0 { most } else { asked.min(most) };
    let order = Unpack {
        target: Target::from(&start.path[..]),
        parents: start.create_parents,
        entries: most(start.max_entries, ENTRIES),
        bytes: most(start.max_bytes, BYTES),
    };
    let (pieces, received) = mpsc::channel(AHEAD);
    let passing = pass(said, pieces);
    let importing = workspaces.import(&start.workspace, order, received);
    tokio::pin!(passing, importing);
    // A refusal does not wait for the caller's last word.
    let (heard, done) = tokio::select! {
        done = &mut importing => (Ok(()), done),
        heard = &mut passing => (heard, importing.await),
    };
    match (heard, done) {
        (Ok(()), done) => Ok(FileServiceImportResponse { report: Some(report(done?)) }),
        // The archive ends where the stream broke: what was written is told, if anybody still listens.
        (Err(_), Err(cut)) => Err(cut.into()),
        (Err(broken), Ok(_)) => Err(broken),
    }
}

/// Passes the pieces on until `finish`, or until nobody takes them any more.
async fn pass(
    mut said: Streaming<FileServiceImportRequest>,
    pieces: mpsc::Sender<Bytes>,
) -> Result<(), Status> {
    let mut passed = 0;
    loop {
        match said.message().await?.and_then(|message| message.message) {
            Some(Import::Data(data)) => {
                passed += data.len() as u64;
                if pieces.send(data).await.is_err() {
                    return Ok(());
                }
            }
            Some(Import::Finish(finish)) if finish.bytes == passed => return Ok(()),
            Some(Import::Finish(finish)) => {
                let object = format!("{passed} bytes of {}", finish.bytes);
                return Err(invalid(&object, "all members were written; compare and import again"));
            }
            Some(Import::Start(_)) => return Err(invalid("start", "only as the first message")),
            None => {
                return Err(invalid("end of the stream", "all members were written; end it with `finish`"));
            }
        }
    }
}

pub(super) fn export(
    mut export: Export,
    tasks: &Shutdown,
) -> ReceiverStream<Result<FileServiceExportResponse, Status>> {
    let (answers, received) = mpsc::channel(AHEAD);
    tasks.spawn_until_cancelled(async move {
        let say = |message| Ok(FileServiceExportResponse { message: Some(message) });
        let last = loop {
            match export.next().await {
                Ok(Some(data)) => {
                    if answers.send(say(Exported::Data(data))).await.is_err() {
                        return;
                    }
                }
                Ok(None) => break export.end().await,
                Err(error) => break Err(error),
            }
        };
        let last = last.map_err(Status::from).and_then(|done| say(Exported::End(report(done))));
        if answers.send(last).await.is_err() {
            tracing::debug!("the reader left before the end");
        }
    });
    ReceiverStream::new(received)
}

fn report(done: Transfer) -> TransferReport {
    let named = done.first_left_out.into_iter().map(|(name, why)| {
        let reason = match why {
            LeftOut::Device => LeftOutReason::Device,
            LeftOut::Fifo => LeftOutReason::Fifo,
            LeftOut::Socket => LeftOutReason::Socket,
            LeftOut::Mount => LeftOutReason::Mount,
            LeftOut::Unreadable => LeftOutReason::Unreadable,
        };
        LeftOutEntry { name: name.into(), reason: reason.into() }
    });
    TransferReport {
        entries: done.entries,
        bytes: done.bytes,
        foreign_owners: done.owners,
        cleared_bits: done.set_ids,
        left_out_count: done.left_out,
        left_out: named.collect(),
    }
}
