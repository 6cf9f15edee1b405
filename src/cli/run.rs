//! `hands run`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::attach::{Attached, Signals, catch_signals, reconnect};
use super::create::Described;
use super::local::Local;
use super::{OUR_FAILURE, Shared, block_on, tell, terminal};
use crate::api::client::{Client, Status, broken, errno};
use crate::api::proto::{
    Command, ExitCause, Process, ProcessServiceStartRequest, WorkspaceServiceDeleteRequest,
    WorkspaceServiceEnsureRequest, WorkspaceSpec, exit_status::Outcome,
};
use crate::id::Id;
use crate::shutdown::Shutdown;

/// Daemons that may die while they are asked for one start.
const ATTEMPTS: usize = 5;
/// Denials that are shown one by one at the end.
const SHOWN_DENIALS: usize = 5;

/// Run one command in a sandbox
///
/// Uses the daemon that serves the state directory if there is one, and else brings up its own for as long as the
/// command runs. Input, output, signals and the exit code are those of the command; a failure of Hands itself is 125,
/// a program that can't be run 126, one that is not found 127.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// Configuration (TOML) of the daemon that is brought up
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Credentials (YAML) of the daemon that is brought up
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
    #[command(flatten)]
    described: Described,
    /// Keep the files under this key; the next run with it finds them
    #[arg(long, value_name = "KEY")]
    workspace: Option<String>,
    /// Keep the files under a new key, which is told on stderr
    #[arg(long)]
    keep: bool,
    /// Program and arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<std::ffi::OsString>,
}

/// The program could not be run.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct NotRun {
    /// Whether there is such a file.
    pub(super) found: bool,
    message: String,
}

impl Run {
    pub(super) fn run(self, shared: &Shared) -> Result<ExitCode> {
        let spec = self.spec()?;
        let socket = shared.socket()?;
        let served = std::os::unix::net::UnixStream::connect(&socket).is_ok();
        if served && (self.config.is_some() || self.credentials.is_some()) {
            bail!(
                "configuration: {}: a daemon with its own configuration serves it; leave out --config and \
                 --credentials or choose another --state-dir",
                socket.display()
            );
        }
        let local = if served {
            None
        } else {
            let absolute = |path: &Option<PathBuf>| path.as_ref().map(std::path::absolute).transpose();
            let (config, credentials) = (absolute(&self.config)?, absolute(&self.credentials)?);
            Some(Local::start(&shared.state_dir()?, config.as_deref(), credentials.as_deref())?)
        };
        let ended = block_on(self.command(&socket, spec));
        if let Some(local) = local {
            local.end()?;
        }
        ended
    }

    fn spec(&self) -> Result<WorkspaceSpec> {
        let mut spec = self.described.spec()?;
        // For this command only: the next run in the same workspace may have others.
        spec.env.clear();
        spec.ephemeral = self.workspace.is_none() && !self.keep;
        spec.key = self.workspace.clone().unwrap_or_else(|| Id::fresh("run").to_string());
        Ok(spec)
    }

    fn asked(&self) -> Result<Command> {
        let mut asked = command(&self.command);
        asked.env = self.described.env()?.into_iter().map(|(name, value)| (name, value.into())).collect();
        Ok(asked)
    }

    async fn command(&self, socket: &Path, spec: WorkspaceSpec) -> Result<ExitCode> {
        let tasks = Shutdown::new();
        let mut signals = catch_signals(&tasks)?;
        let client = Client::connect(socket).await.context("connect to the daemon")?;
        let (key, ephemeral) = (spec.key.clone(), spec.ephemeral);
        if self.keep && self.workspace.is_none() {
            tell(&format!("hands: the workspace is kept: {key}"));
        }
        let ensure = WorkspaceServiceEnsureRequest { spec: Some(spec) };
        let ended = tokio::select! {
            number = first_deadly(&mut signals) => Err(number),
            ensured = async { client.workspaces().ensure(ensure).await.map(drop) } => Ok(ensured),
        };
        let ended = match ended {
            Ok(Ok(())) => follow(socket, &client, &key, self.asked()?, signals).await,
            Ok(Err(status)) => Err(status.into()),
            Err(number) => Ok(ExitCode::from(128 + number)),
        };
        if ephemeral {
            // The daemon may have been restarted meanwhile.
            let client = Client::connect(socket).await.context("connect to the daemon")?;
            let deleted = client.workspaces().delete(WorkspaceServiceDeleteRequest { workspace: key }).await;
            if let Err(status) = deleted {
                tracing::debug!(%status, "delete");
            }
        }
        ended
    }
}

/// A signal that would end a program that does not catch it; before the command runs it is meant for us.
async fn first_deadly(signals: &mut Signals) -> u8 {
    loop {
        match signals.recv().await {
            Some(libc::SIGWINCH) => {}
            Some(number) => return u8::try_from(number).unwrap_or(0),
            None => std::future::pending().await,
        }
    }
}

/// The command, with our terminal if we have one.
pub(super) fn command(words: &[std::ffi::OsString]) -> Command {
    use std::os::unix::ffi::OsStrExt;
    Command {
        argv: words.iter().map(|word| word.as_bytes().to_vec().into()).collect(),
        pty: terminal::present(),
        stdin: true,
        lossless: true,
        ..Command::default()
    }
}

/// Starts a command and is its terminal until it has ended.
pub(super) async fn follow(
    socket: &Path,
    client: &Client,
    workspace: &str,
    command: Command,
    signals: Signals,
) -> Result<ExitCode> {
    let tasks = Shutdown::new();
    let interactive = command.pty.is_some();
    let program =
        command.argv.first().map(|name| String::from_utf8_lossy(name).into_owned()).unwrap_or_default();
    let request = ProcessServiceStartRequest {
        workspace: workspace.to_owned(),
        process_id: Id::fresh("p").to_string(),
        command: Some(command),
    };
    let started = start(socket, client, request).await.map_err(|status| not_run(status, &program))?;
    let raw = if interactive { Some(terminal::Raw::enter()?) } else { None };
    let ended = Attached::new(socket.to_path_buf(), &started, signals, &tasks).follow(client.clone()).await;
    drop(raw);
    tasks.cancel();
    let ended = ended?;
    show_denials(&ended);
    Ok(exit_code(&ended))
}

/// Starts it once, also if the daemon dies meanwhile: the id makes a repetition harmless.
async fn start(socket: &Path, client: &Client, request: ProcessServiceStartRequest) -> Result<Process> {
    let mut client = client.clone();
    let mut attempts = 0;
    loop {
        attempts += 1;
        match client.processes().start(request.clone()).await {
            Ok(started) => return started.into_inner().process.context("start: no process in the answer"),
            Err(status) if broken(&status) && attempts < ATTEMPTS => client = reconnect(socket).await?,
            Err(status) => return Err(status.into()),
        }
    }
}

fn not_run(error: anyhow::Error, program: &str) -> anyhow::Error {
    let Some(status) = error.downcast_ref::<Status>() else { return error };
    let why = match errno(status).as_deref() {
        Some("ENOENT" | "ENOTDIR") => "not found: install it on the host or name its path",
        Some("EACCES" | "EISDIR" | "ENOEXEC" | "EPERM") => "can't be run: it is no program or not executable",
        _ => return error,
    };
    let found = !why.starts_with("not found");
    NotRun { found, message: format!("command: {program}: {why}") }.into()
}

fn show_denials(ended: &Process) {
    for denial in ended.egress_denials.iter().take(SHOWN_DENIALS) {
        tell(&format!("[egress denied: {denial}]"));
    }
    let shown = ended.egress_denials.len().min(SHOWN_DENIALS) as u64;
    if ended.egress_denial_count > shown {
        tell(&format!("[egress denied: {} more]", ended.egress_denial_count - shown));
    }
}

/// The command's own code, 128 and the signal, or ours if nobody saw its end.
fn exit_code(ended: &Process) -> ExitCode {
    let exit = ended.exit.unwrap_or_default();
    match exit.cause() {
        ExitCause::TimedOut => tell("hands: the command's time was up"),
        ExitCause::OutOfMemory => tell("hands: the workspace's memory limit was reached"),
        ExitCause::WorkspaceStopped => tell("hands: the workspace was stopped"),
        ExitCause::Lost => tell("hands: the command was lost with its supervisor"),
        _ => {}
    }
    let code = match exit.outcome {
        Some(Outcome::Code(code)) => u8::try_from(code).unwrap_or(u8::MAX),
        Some(Outcome::Signal(signal)) => 128_u8.saturating_add(u8::try_from(signal).unwrap_or(127)),
        None => OUR_FAILURE,
    };
    ExitCode::from(code)
}
