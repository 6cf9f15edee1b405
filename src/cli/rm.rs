//! `hands rm`.

use std::process::ExitCode;

use anyhow::Result;

use super::{Shared, block_on};
use crate::api::proto::WorkspaceServiceDeleteRequest;

/// Remove workspaces with their files; named volumes stay
#[derive(Debug, clap::Args)]
pub(super) struct Rm {
    /// Keys or ids
    #[arg(required = true)]
    workspaces: Vec<String>,
}

impl Rm {
    pub(super) fn run(self, shared: &Shared) -> Result<ExitCode> {
        block_on(async {
            let mut client = shared.connect().await?.workspaces();
            for workspace in self.workspaces {
                client.delete(WorkspaceServiceDeleteRequest { workspace }).await?;
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}
