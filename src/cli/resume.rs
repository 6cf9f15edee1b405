//! `hands resume`.

use std::process::ExitCode;

use anyhow::Result;

use super::{Shared, block_on, show};
use crate::api::proto::WorkspaceServiceResumeRequest;

/// Let paused workspaces go on
#[derive(Debug, clap::Args)]
pub(super) struct Resume {
    /// Keys or ids
    #[arg(required = true)]
    workspaces: Vec<String>,
}

impl Resume {
    pub(super) fn run(self, shared: &Shared) -> Result<ExitCode> {
        block_on(async {
            let mut client = shared.connect().await?.workspaces();
            let mut done = Vec::new();
            for workspace in self.workspaces {
                let answer = client.resume(WorkspaceServiceResumeRequest { workspace }).await?;
                done.extend(answer.into_inner().workspace);
            }
            show::workspaces(&done, shared.output)?;
            Ok(ExitCode::SUCCESS)
        })
    }
}
