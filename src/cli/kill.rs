//! `hands kill`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::ValueEnum;
use nix::sys::signal::Signal;

use super::{Shared, block_on};
use crate::api::proto::{ProcessServiceSignalRequest, SignalScope};

/// Send a signal to a command: to it and everything that came from it, unless told otherwise
#[derive(Debug, clap::Args)]
pub(super) struct Kill {
    /// Key or id of the workspace
    workspace: String,
    /// Ids of commands, as `hands ps` shows them
    #[arg(required = true)]
    processes: Vec<String>,
    /// Name or number
    #[arg(short, long, default_value = "TERM", value_parser = signal)]
    signal: i32,
    /// Whom it reaches
    #[arg(long, value_enum, default_value_t = Scope::Tree)]
    scope: Scope,
}

/// Whom a signal reaches.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Scope {
    /// The command and everything that came from it
    Tree,
    /// Its process group
    Group,
    /// Its own process
    Process,
}

impl Kill {
    pub(super) fn run(self, shared: &Shared) -> Result<ExitCode> {
        let scope = match self.scope {
            Scope::Tree => SignalScope::Tree,
            Scope::Group => SignalScope::Group,
            Scope::Process => SignalScope::Process,
        };
        block_on(async {
            let mut client = shared.connect().await?.processes();
            for process in self.processes {
                let (workspace, signal) = (self.workspace.clone(), self.signal);
                let scope = scope.into();
                client.signal(ProcessServiceSignalRequest { workspace, process, signal, scope }).await?;
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

fn signal(text: &str) -> Result<i32> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let name = text.to_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    let known: Signal = name.parse().ok().with_context(|| format!("signal: {text}: kill -l lists them"))?;
    Ok(known as i32)
}

#[cfg(test)]
mod tests {
    use super::signal;

    #[test]
    fn a_signal_has_a_name_with_or_without_sig_or_a_number() {
        for text in ["KILL", "sigkill", "SIGKILL", "9"] {
            assert_eq!(signal(text).expect("a signal"), 9, "{text}");
        }
        assert!(signal("NOSUCH").is_err());
    }
}
