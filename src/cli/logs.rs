//! `hands logs`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Shared, attach, block_on};
use crate::api::proto::process_service_attach_request::Message as Say;
use crate::api::proto::process_service_attach_response::Message as Told;
use crate::api::proto::{AttachStart, ProcessServiceAttachRequest, ProcessServiceGetRequest};

/// Print what a command has written so far, on stdout and stderr as it did
#[derive(Debug, clap::Args)]
pub(super) struct Logs {
    /// Key or id of the workspace
    workspace: String,
    /// Id of the command, as `hands ps --all` shows it
    process: String,
    /// Go on until it has ended and nobody holds its output open
    #[arg(short, long)]
    follow: bool,
}

impl Logs {
    pub(super) fn run(self, shared: &Shared) -> Result<ExitCode> {
        block_on(self.print(shared))
    }

    async fn print(self, shared: &Shared) -> Result<ExitCode> {
        let mut client = shared.connect().await?.processes();
        let (workspace, process) = (self.workspace, self.process);
        let get = ProcessServiceGetRequest { workspace: workspace.clone(), process: process.clone() };
        let now = client.get(get).await?.into_inner().process.context("logs: no process in the answer")?;
        // The first record is no output.
        let running = now.exit.is_none();
        if running && !self.follow && now.next_sequence <= 1 {
            return Ok(ExitCode::SUCCESS);
        }
        let start = AttachStart { workspace, process, from_sequence: 0, follow_after_exit: self.follow };
        let (say, said) = mpsc::channel(1);
        say.send(ProcessServiceAttachRequest { message: Some(Say::Start(start)) }).await?;
        let mut told = client.attach(ReceiverStream::new(said)).await?.into_inner();
        while let Some(message) = told.message().await? {
            match message.message {
                Some(Told::Output(chunk)) => {
                    attach::print(&chunk).await?;
                    if running && !self.follow && chunk.sequence + 1 >= now.next_sequence {
                        break;
                    }
                }
                Some(Told::Gap(gap)) => attach::tell_gap(&gap),
                Some(Told::End(_)) => break,
                _ => {}
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
