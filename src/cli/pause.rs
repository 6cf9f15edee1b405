//! `hands pause`.

use std::process::ExitCode;

use anyhow::Result;

use super::{Shared, block_on, show};
use crate::api::proto::WorkspaceServicePauseRequest;

/// Pause workspaces: their commands stay but use no processor, and their time limits stand still
#[derive(Debug, clap::Args)]
pub(super) struct Pause {
    /// Keys or ids
    #[arg(required = true)]
    workspaces: Vec<String>,
}

impl Pause {
    pub(super) fn run(self, shared: &Shared) -> Result<ExitCode> {
        block_on(async {
            let mut client = shared.connect().await?.workspaces();
            let mut done = Vec::new();
            for workspace in self.workspaces {
                let answer = client.pause(WorkspaceServicePauseRequest { workspace }).await?;
                done.extend(answer.into_inner().workspace);
            }
            show::workspaces(&done, shared.output)?;
            Ok(ExitCode::SUCCESS)
        })
    }
}
