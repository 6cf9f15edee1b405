//! The persistent bash of a workspace, and how a call runs in it.
//!
//! ```text
//!   shell   one bash per workspace; its stdin, where commands arrive, is private: commands have /dev/null
//!   call    a process of its own per command, with its own journal, timeout and exit status; it runs nothing
//!
//!   daemon --(pid of call, command)--> shell: eval command > /proc/CALL/fd/1 2>&1
//!                                      shell: status  --> /proc/CALL/fd/0: call exits with it
//! ```
//!
//! So the end of a command is the end of a process, told by the kernel; no mark in the output means anything. What a
//! background child prints later goes to the journal of its own call. Both processes and their journals outlive the
//! daemon, and stdin is written by offset, so a new daemon repeats what it does not know to be done.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::path::Session;
use crate::id::Id;
use crate::journal::{Kind, Stream};
use crate::workspace::{Command, ProcessView, Reason, SignalScope, WorkspaceError};

/// The shell. It reads from a descriptor that its commands do not have.
const SHELL: &str = r#"
exec 198<&0 </dev/null
while IFS= builtin read -r -d '' -u 198 __hands_call && IFS= builtin read -r -d '' -u 198 __hands_command; do
builtin eval "$__hands_command" 198<&- </dev/null >"/proc/$__hands_call/fd/1" 2>&1
builtin printf '%s\n' "$?" >"/proc/$__hands_call/fd/0"
done
"#;
/// The call: says who it is, waits for a status and ends with it. 137 is what KILL leaves: ending the same way lets
/// init tell whether memory was used up.
const CALL: &str = r#"echo $$; IFS= read -r status; [ "$status" = 137 ] && kill -9 $$; exit "$status""#;
/// Bytes of the shell's own output that are kept: its last words.
const LAST_WORDS: u64 = 64 * 1024;
/// Bytes of a command in one message.
const PIECE: usize = 64 * 1024;
/// How long the end of a killed shell is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// The shells of all workspaces.
#[derive(Debug, Default)]
pub(super) struct Shells {
    of: Mutex<HashMap<Id, Seat>>,
}

/// A workspace's place for a shell: who holds it has the shell for itself.
pub(super) type Seat = Arc<tokio::sync::Mutex<Option<Shell>>>;

/// A shell that runs, or did when it was last looked at.
#[derive(Clone, Debug)]
pub(super) struct Shell {
    process: String,
    /// Bytes of commands that it was given.
    offset: u64,
}

/// Where a call's command stands in which shell's input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Turn {
    pub(super) shell: String,
    pub(super) offset: u64,
}

/// How a command in the shell ended.
#[derive(Debug)]
pub(super) enum End {
    /// It ended and the shell is there.
    Call(ProcessView),
    /// The shell itself ended.
    Shell(ProcessView),
}

impl Shells {
    pub(super) fn seat(&self, workspace: &Id) -> Seat {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(of.entry(workspace.clone()).or_default())
    }
}

impl Session {
    /// The process of this call.
    pub(super) fn call_process(&self) -> String {
        format!("tool.{}", self.ticket.request())
    }

    /// The workspace's shell: the one that runs, also if an earlier daemon started it, or a new one.
    pub(super) async fn shell(&self, seat: &mut Option<Shell>) -> Result<Shell, WorkspaceError> {
        let known = match seat.take() {
            Some(shell) => Some(shell),
            None => self.earlier().await?,
        };
        if let Some(shell) = known
            && self.process(&shell.process).await?.is_some_and(|view| view.exit.is_none())
        {
            *seat = Some(shell.clone());
            return Ok(shell);
        }
        let process = Id::fresh("shell").to_string();
        let words = ["bash", "--noprofile", "--norc", "-c", SHELL, "bash"];
        let command = Command { output_limit: Some(LAST_WORDS), ..bash(&words, None) };
        self.workspaces.start_process(self.workspace.as_str(), Some(process.clone()), command).await?;
        let shell = Shell { process, offset: 0 };
        *seat = Some(shell.clone());
        Ok(shell)
    }

    async fn earlier(&self) -> Result<Option<Shell>, WorkspaceError> {
        let all = self.workspaces.processes(self.workspace.as_str()).await?;
        let runs = |view: &ProcessView| view.id.as_str().starts_with("shell-") && view.exit.is_none();
        let Some(last) = all.into_iter().rfind(runs) else { return Ok(None) };
        let process = last.id.to_string();
        // Nothing, written at the beginning, is answered with where the end is.
        let at = self.workspaces.write_stdin(self.workspace.as_str(), &process, 0, Bytes::new()).await;
        Ok(at.ok().map(|offset| Shell { process, offset }))
    }

    pub(super) async fn process(&self, process: &str) -> Result<Option<ProcessView>, WorkspaceError> {
        match self.workspaces.process(self.workspace.as_str(), process).await {
            Ok(view) => Ok(Some(view)),
            Err(error) if error.reason() == Reason::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Starts the process of this call, or finds the one that was started. Its number, as the workspace has it.
    pub(super) async fn begin(&self, timeout: Duration) -> Result<String, WorkspaceError> {
        let command = Command {
            timeout: Some(timeout),
            ..bash(&["bash", "--noprofile", "--norc", "-c", CALL, "call"], Some(Duration::from_millis(200)))
        };
        let (workspace, process) = (self.workspace.as_str(), self.call_process());
        self.workspaces.start_process(workspace, Some(process.clone()), command).await?;
        let mut output = self.workspaces.output(workspace, &process, 0).await?;
        let mut line = Vec::new();
        while let Some(entry) = output.next().await? {
            match entry.kind {
                Kind::Output(Stream::Stdout, data) => line.extend_from_slice(&data),
                Kind::Exit(_) => break,
                _ => continue,
            }
            if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
        }
        Ok(String::new())
    }

    /// Gives the shell a command. Repeated with the same turn, it counts once.
    pub(super) async fn say(&self, turn: &Turn, said: &Said) -> Result<(), WorkspaceError> {
        let mut offset = turn.offset;
        for piece in said.0.chunks(PIECE) {
            let bytes = said.0.slice_ref(piece);
            self.workspaces.write_stdin(self.workspace.as_str(), &turn.shell, offset, bytes).await?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// Waits for the end of this call's command.
    pub(super) async fn end(&self, shell: &str) -> Result<End, WorkspaceError> {
        let call = self.call_process();
        let workspace = self.workspace.as_str();
        tokio::select! {
            biased;
            ended = self.workspaces.wait(workspace, &call) => Ok(End::Call(ended?)),
            ended = self.workspaces.wait(workspace, shell) => Ok(End::Shell(ended?)),
        }
    }

    /// Ends a process with all that came from it, and waits until it has. One that has ended is no error.
    pub(super) async fn kill(&self, process: &str) -> Result<(), WorkspaceError> {
        let workspace = self.workspace.as_str();
        // The group at one blow, then what has left it.
        for scope in [SignalScope::Group, SignalScope::Tree] {
            match self.workspaces.signal(workspace, process, libc::SIGKILL, scope).await {
                Err(error) if !matches!(error.reason(), Reason::NotFound | Reason::NotRunning) => {
                    return Err(error);
                }
                _ => {}
            }
        }
        if tokio::time::timeout(PATIENCE, self.workspaces.wait(workspace, process)).await.is_err() {
            tracing::warn!(process, "killed, and it does not end");
        }
        Ok(())
    }

    /// Ends what this call runs, if it runs anything: its shell with the whole tree, and its own process.
    pub(super) async fn kill_call(&self) -> Result<(), WorkspaceError> {
        if let Some(turn) = self.ticket.turn() {
            self.kill(&turn.shell).await?;
        }
        self.kill(&self.call_process()).await
    }
}

/// What the shell reads of one call.
#[derive(Debug)]
pub(super) struct Said(Bytes);

impl Said {
    /// `pid` is the number of the call's process.
    pub(super) fn new(pid: &str, command: &str) -> Self {
        Self(Bytes::from([pid.as_bytes(), b"\0", command.as_bytes(), b"\0"].concat()))
    }

    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }
}

impl Shell {
    pub(super) fn turn(&self) -> Turn {
        Turn { shell: self.process.clone(), offset: self.offset }
    }

    pub(super) fn advance(&mut self, offset: u64) {
        self.offset = offset;
    }

    pub(super) fn process(&self) -> &str {
        &self.process
    }
}

fn bash(words: &[&str], grace: Option<Duration>) -> Command {
    let env = [("TERM", "dumb"), ("PS1", ""), ("PS2", ""), ("BASH_ENV", "")];
    Command {
        argv: words.iter().map(|word| word.as_bytes().to_vec()).collect(),
        env: env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
            .collect::<BTreeMap<_, _>>(),
        cwd: None,
        pty: None,
        stdin: true,
        timeout: None,
        kill_grace: grace.unwrap_or(PATIENCE),
        output_limit: None,
        lossless: false,
    }
}
