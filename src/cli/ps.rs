//! `hands ps`.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Format, Shared, block_on, show};
use crate::api::proto::{ExitCause, Process, ProcessServiceListRequest, exit_status::Outcome};

/// List the commands of a workspace
#[derive(Debug, clap::Args)]
pub(super) struct Ps {
    /// Key or id of the workspace
    workspace: String,
    /// Those that have ended too
    #[arg(short, long)]
    all: bool,
}

impl Ps {
    pub(super) fn run(self, shared: &Shared) -> Result<ExitCode> {
        block_on(async {
            let mut client = shared.connect().await?.processes();
            let (mut found, mut page_token) = (Vec::new(), String::new());
            loop {
                let workspace = self.workspace.clone();
                let list = ProcessServiceListRequest { workspace, page_size: 1000, page_token };
                let page = client.list(list).await?.into_inner();
                found.extend(page.processes);
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            found.retain(|process| self.all || process.exit.is_none());
            match shared.output {
                Format::Json => show::json(&Value::Array(found.iter().map(described).collect()))?,
                Format::Table => table(&found)?,
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

fn table(found: &[Process]) -> Result<()> {
    let row = |process: &Process| {
        let started = process.start_time.map(|time| time.to_string()).unwrap_or_default();
        vec![process.id.clone(), state(process), started, words(process).join(" ")]
    };
    let rows: Vec<_> = found.iter().map(row).collect();
    show::table(&["ID", "STATE", "STARTED", "COMMAND"], &rows)
}

fn words(process: &Process) -> Vec<String> {
    let argv = process.command.iter().flat_map(|command| &command.argv);
    argv.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn state(process: &Process) -> String {
    let Some(exit) = process.exit else { return "running".into() };
    let how = match exit.outcome {
        Some(Outcome::Code(code)) => format!("exit {code}"),
        Some(Outcome::Signal(signal)) => format!("signal {signal}"),
        None => "ended".into(),
    };
    match cause(exit.cause()) {
        "exited" | "signaled" => how,
        cause => format!("{how}, {cause}"),
    }
}

fn cause(cause: ExitCause) -> &'static str {
    match cause {
        ExitCause::Unspecified => "unknown",
        ExitCause::Exited => "exited",
        ExitCause::Signaled => "signaled",
        ExitCause::TimedOut => "timed_out",
        ExitCause::OutOfMemory => "out_of_memory",
        ExitCause::Cancelled => "cancelled",
        ExitCause::WorkspaceStopped => "workspace_stopped",
        ExitCause::Lost => "lost",
    }
}

fn described(process: &Process) -> Value {
    let exit = process.exit.map(|exit| {
        let (code, signal) = match exit.outcome {
            Some(Outcome::Code(code)) => (Some(code), None),
            Some(Outcome::Signal(signal)) => (None, Some(signal)),
            None => (None, None),
        };
        json!({ "code": code, "signal": signal, "cause": cause(exit.cause()) })
    });
    json!({
        "id": process.id,
        "workspace": process.workspace,
        "generation": process.generation,
        "argv": words(process),
        "started": process.start_time.map(|time| time.to_string()),
        "ended": process.end_time.map(|time| time.to_string()),
        "exit": exit,
    })
}
