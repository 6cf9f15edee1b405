//! The identity of calls: one request id, one run, one result.
//!
//! ```text
//!   nothing --> started --> finished(result)      kept in state.db as long as the workspace
//!      ^           |
//!      `-----------' the call could not be made: nothing was done
//! ```
//!
//! A call runs in a task of its own; a caller who goes away leaves it running and finds its result under the same id.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::bash::interrupted;
use super::path::Session;
use super::shell::{Shells, Turn};
use super::{Content, Input, TOOLS, Tool, ToolError, ToolResult};
use crate::id::Id;
use crate::shutdown::Shutdown;
use crate::storage::state::State;
use crate::workspace::{Reason, WorkspaceError, Workspaces};

/// Longest request id: the id of the call's process is longer.
const LONGEST_ID: usize = 120;

/// What a caller asks.
#[derive(Clone, Debug)]
pub struct Call {
    /// Names the call for ever; at most 120 characters of the id alphabet.
    pub id: String,
    /// Name of the tool.
    pub tool: String,
    /// A JSON object.
    pub input: Vec<u8>,
}

/// Runs tools.
#[derive(Clone, Debug)]
pub struct Tools {
    workspaces: Workspaces,
    state: State,
    shells: Arc<Shells>,
    open: Arc<Mutex<OpenCalls>>,
    tasks: Shutdown,
}

/// Calls that run, by workspace and request.
type OpenCalls = HashMap<(Id, String), Arc<Open>>;

type Settled = Option<Result<ToolResult, WorkspaceError>>;

/// A call that runs.
#[derive(Debug)]
struct Open {
    digest: String,
    settled: watch::Sender<Settled>,
    /// Why it is cancelled.
    cancelled: watch::Sender<Option<String>>,
}

/// What is kept of a call.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    digest: String,
    turn: Option<Turn>,
    result: Option<ToolResult>,
}

/// A call's own record.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    state: State,
    workspace: Id,
    request: String,
    record: Arc<Mutex<Record>>,
}

impl Ticket {
    pub(super) fn request(&self) -> &str {
        &self.request
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn turn(&self) -> Option<Turn> {
        self.record().turn.clone()
    }

    /// Before the command is given to the shell, so that it can be given again and count once.
    pub(super) fn keep_turn(&self, turn: &Turn) -> Result<(), WorkspaceError> {
        self.record().turn = Some(turn.clone());
        self.save()
    }

    fn save(&self) -> Result<(), WorkspaceError> {
        let record = self.record().clone();
        Ok(self.state.save_call(&self.workspace, &self.request, &record)?)
    }

    fn finish(&self, result: &ToolResult) -> Result<(), WorkspaceError> {
        // A picture is not kept: it can be read again.
        if result.content.iter().all(|content| matches!(content, Content::Text(_))) {
            self.record().result = Some(result.clone());
            return self.save();
        }
        Ok(self.state.remove_call(&self.workspace, &self.request)?)
    }
}

impl Tools {
    /// Tools for these workspaces; what is kept of calls is kept in `state`.
    #[must_use]
    pub fn new(workspaces: Workspaces, state: State, tasks: Shutdown) -> Self {
        Self { workspaces, state, shells: Arc::default(), open: Arc::default(), tasks }
    }

    fn open(&self) -> MutexGuard<'_, OpenCalls> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a tool, or waits for the run that has this id already. To stop waiting stops nothing.
    ///
    /// # Errors
    /// [`Reason::NotFound`] for an unknown workspace or tool, [`Reason::AlreadyExists`] if the id belongs to another
    /// call, and what keeps the workspace from running. What the agent did wrong is a result.
    pub async fn call(&self, workspace: &str, call: Call) -> Result<ToolResult, WorkspaceError> {
        let mut settled = self.begin(workspace, call).await?;
        let gone = || WorkspaceError::new(Reason::Unavailable, "Hands is stopping", workspace, "call again");
        let settled = settled.wait_for(Option::is_some).await.map_err(|_ended| gone())?;
        settled.clone().unwrap_or_else(|| Err(gone()))
    }

    async fn begin(&self, workspace: &str, call: Call) -> Result<watch::Receiver<Settled>, WorkspaceError> {
        let tool = TOOLS.iter().find(|tool| tool.name == call.tool).ok_or_else(|| {
            WorkspaceError::new(
                Reason::NotFound,
                "unknown tool",
                &call.tool,
                "ListTools names those there are",
            )
        })?;
        if call.id.len() > LONGEST_ID || call.id.parse::<Id>().is_err() {
            let remedy = format!("1 to {LONGEST_ID} letters, digits, '.', '_' or '-'");
            return Err(WorkspaceError::new(Reason::InvalidArgument, "request id", &call.id, remedy));
        }
        let view = self.workspaces.get(workspace).await?;
        let key = (view.id.clone(), call.id.clone());
        let digest = digest(&call);
        let mut open = self.open();
        if let Some(running) = open.get(&key) {
            return if running.digest == digest {
                Ok(running.settled.subscribe())
            } else {
                Err(taken(&call.id))
            };
        }
        let record = match self.state.call::<Record>(&view.id, &call.id)? {
            Some(record) if record.digest != digest => return Err(taken(&call.id)),
            found => found,
        };
        let running = Arc::new(Open {
            digest: digest.clone(),
            settled: watch::Sender::new(None),
            cancelled: watch::Sender::new(None),
        });
        let settled = running.settled.subscribe();
        open.insert(key.clone(), Arc::clone(&running));
        drop(open);
        let again = record.is_some();
        let record = record.unwrap_or(Record { digest, turn: None, result: None });
        let (state, request) = (self.state.clone(), call.id.clone());
        let ticket =
            Ticket { state, workspace: view.id.clone(), request, record: Arc::new(Mutex::new(record)) };
        let session = Session {
            workspaces: self.workspaces.clone(),
            workspace: view.id,
            volumes: view.spec.volumes.into_iter().map(|volume| (volume.path, volume.read_only)).collect(),
            shells: Arc::clone(&self.shells),
            ticket,
        };
        let tools = self.clone();
        self.tasks.spawn_until_cancelled(async move {
            let result = settle(session, tool, &call.input, again, &running).await;
            tools.open().remove(&key);
            running.settled.send_replace(Some(result));
        });
        Ok(settled)
    }

    /// Ends a call that runs, at once and with everything that it started; its result says so.
    ///
    /// # Errors
    /// [`Reason::NotFound`] if no call of this id runs.
    pub async fn cancel(&self, workspace: &str, request: &str, reason: &str) -> Result<(), WorkspaceError> {
        let id = self.workspaces.get(workspace).await?.id;
        let running = self.open().get(&(id, request.to_owned())).cloned();
        let running = running.ok_or_else(|| {
            WorkspaceError::new(
                Reason::NotFound,
                "no such call runs",
                request,
                "it has ended, or never began",
            )
        })?;
        running.cancelled.send_replace(Some(reason.to_owned()));
        let mut settled = running.settled.subscribe();
        if settled.wait_for(Option::is_some).await.is_err() {
            tracing::debug!(request, "the daemon stops before the call has ended");
        }
        Ok(())
    }
}

fn taken(id: &str) -> WorkspaceError {
    WorkspaceError::new(
        Reason::AlreadyExists,
        "request id in use",
        id,
        "another call has this id; choose a new one",
    )
}

fn digest(call: &Call) -> String {
    let digest =
        Sha256::new().chain_update(&call.tool).chain_update([0]).chain_update(&call.input).finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The result of a call: the one that is kept, or that of running it.
async fn settle(
    session: Session,
    tool: &'static Tool,
    input: &[u8],
    again: bool,
    open: &Open,
) -> Result<ToolResult, WorkspaceError> {
    let ticket = session.ticket.clone();
    if let Some(result) = ticket.record().result.clone() {
        return Ok(result);
    }
    ticket.save()?;
    let begun = Instant::now();
    let result = if again && !tool.repeatable && !resumable(&session, tool).await? {
        Ok(interrupted(tool.name))
    } else {
        perform(&session, tool, input, open).await
    };
    match result {
        Ok(mut result) => {
            result.duration = begun.elapsed();
            ticket.finish(&result)?;
            Ok(result)
        }
        Err(error) => {
            // A call that was made and can't be told of stays started; one that was not may be made again.
            if ticket.turn().is_none() {
                ticket.state.remove_call(&ticket.workspace, &ticket.request)?;
            }
            Err(error)
        }
    }
}

/// Whether a bash call of an earlier daemon can be gone on with: it had not begun, or its process is known.
async fn resumable(session: &Session, tool: &Tool) -> Result<bool, WorkspaceError> {
    if tool.name != super::bash::TOOL.name {
        return Ok(false);
    }
    let Some(view) = session.process(&session.call_process()).await? else {
        return Ok(session.ticket.turn().is_none());
    };
    use crate::journal::Cause;
    Ok(!view.exit.is_some_and(|exit| matches!(exit.cause, Cause::Lost | Cause::WorkspaceStopped)))
}

async fn perform(
    session: &Session,
    tool: &'static Tool,
    input: &[u8],
    open: &Open,
) -> Result<ToolResult, WorkspaceError> {
    let name = tool.name;
    let input = match Input::parse(name, input) {
        Ok(input) => input,
        Err(ToolError::Told(text)) => return Ok(ToolResult::error(text)),
        Err(ToolError::Workspace(error)) => return Err(error),
    };
    let cancelled = async {
        let mut cancelled = open.cancelled.subscribe();
        let reason = cancelled.wait_for(Option::is_some).await;
        reason.ok().and_then(|reason| reason.clone()).unwrap_or_default()
    };
    let patience = async {
        match tool.patience {
            Some(patience) => tokio::time::sleep(patience).await,
            None => std::future::pending().await,
        }
    };
    let done = tokio::select! {
        done = (tool.run)(session.clone(), input) => done,
        () = patience => return Ok(ToolResult::error(format!("tool '{name}' timed out"))),
        reason = cancelled => {
            session.kill_call().await?;
            return Ok(ToolResult::error(format!("{name}: cancelled: {reason}")));
        }
    };
    match done {
        Ok(result) => Ok(result),
        Err(ToolError::Told(text)) => Ok(ToolResult::error(text)),
        Err(ToolError::Workspace(error)) => Err(error),
    }
}
