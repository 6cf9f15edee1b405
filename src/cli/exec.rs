//! `hands exec`.

use std::process::ExitCode;

use anyhow::Result;

use super::attach::catch_signals;
use super::run::{command, follow};
use super::{Shared, block_on};
use crate::shutdown::Shutdown;

/// Run a command in a workspace that is there
///
/// Input, output, signals and the exit code are those of the command, as with `hands run`.
#[derive(Debug, clap::Args)]
pub(super) struct Exec {
    /// Key or id of the workspace; it is started if it is stopped
    workspace: String,
    /// Program and arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<std::ffi::OsString>,
}

impl Exec {
    pub(super) fn run(self, shared: &Shared) -> Result<ExitCode> {
        let socket = shared.socket()?;
        block_on(async {
            let tasks = Shutdown::new();
            let client = shared.connect().await?;
            let signals = catch_signals(&tasks)?;
            follow(&socket, &client, &self.workspace, command(&self.command), signals).await
        })
    }
}
