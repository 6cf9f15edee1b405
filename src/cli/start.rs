//! `hands start`.

use std::process::ExitCode;

use anyhow::Result;

use super::{Shared, block_on, show};
use crate::api::proto::WorkspaceServiceStartRequest;

/// Start workspaces that are stopped or failed; one that runs is left alone
#[derive(Debug, clap::Args)]
pub(super) struct Start {
    /// Keys or ids
    #[arg(required = true)]
    workspaces: Vec<String>,
}

impl Start {
    pub(super) fn run(self, shared: &Shared) -> Result<ExitCode> {
        block_on(async {
            let mut client = shared.connect().await?.workspaces();
            let mut done = Vec::new();
            for workspace in self.workspaces {
                let answer = client.start(WorkspaceServiceStartRequest { workspace }).await?;
                done.extend(answer.into_inner().workspace);
            }
            show::workspaces(&done, shared.output)?;
            Ok(ExitCode::SUCCESS)
        })
    }
}
