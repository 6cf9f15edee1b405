//! `hands ls`.

use std::process::ExitCode;

use anyhow::Result;

use super::{Shared, block_on, show};
use crate::api::proto::WorkspaceServiceListRequest;

/// List the workspaces
#[derive(Debug, clap::Args)]
pub(super) struct Ls {}

impl Ls {
    #[expect(clippy::unused_self, reason = "every verb is called the same way")]
    pub(super) fn run(self, shared: &Shared) -> Result<ExitCode> {
        block_on(async {
            let mut client = shared.connect().await?.workspaces();
            let (mut all, mut page_token) = (Vec::new(), String::new());
            loop {
                let page = client
                    .list(WorkspaceServiceListRequest { page_size: 1000, page_token })
                    .await?
                    .into_inner();
                all.extend(page.workspaces);
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            show::workspaces(&all, shared.output)?;
            Ok(ExitCode::SUCCESS)
        })
    }
}
