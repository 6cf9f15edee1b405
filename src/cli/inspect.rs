//! `hands inspect`.

use std::process::ExitCode;

use anyhow::{Context, Result};

use super::{Shared, block_on, show};
use crate::api::proto::WorkspaceServiceGetRequest;

/// Show everything about a workspace: what was asked for, which layers hold, which limits
#[derive(Debug, clap::Args)]
pub(super) struct Inspect {
    /// Key or id
    workspace: String,
}

impl Inspect {
    pub(super) fn run(self, shared: &Shared) -> Result<ExitCode> {
        block_on(async {
            let get = WorkspaceServiceGetRequest { workspace: self.workspace };
            let found = shared.connect().await?.workspaces().get(get).await?.into_inner().workspace;
            show::workspace(&found.context("inspect: no workspace in the answer")?, shared.output)?;
            Ok(ExitCode::SUCCESS)
        })
    }
}
