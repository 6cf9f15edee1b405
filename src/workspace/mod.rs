//! Workspaces: the durable thing that callers name, and everything that can be done in one.
//!
//! [`Workspaces`] is what the API sees. Each workspace has a task that owns its state (`life`); while it runs, a
//! `Running` joins its jail, its way out and its commands. What is read-only, or goes to init alone, does not pass
//! through the task.

mod archive;
mod error;
mod file;
mod files;
mod life;
mod process;
mod record;
mod running;
mod search;
mod terms;
mod types;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

pub use archive::Export;
pub use error::{Reason, WorkspaceError};
pub use file::NewFile;
pub use life::Survivor;
pub use process::Output;
pub use search::{Found, Hit};
pub use terms::Operator;
pub use types::*;

pub use crate::jail::archive::{LeftOut, Transfer, Unpack};
pub use crate::jail::plan::WORKSPACE as WORKDIR;
pub use crate::jail::wire::{Search, Stopped, Target, Version};

use crate::egress::Egress;
use crate::id::Id;
use crate::jail::client::SupervisorClient;
use crate::jail::wire::{Ask, Strength};
use crate::journal::Cause;
use crate::shutdown::Shutdown;
use crate::storage::journals::Journals;
use crate::storage::state::State as Database;
use life::{Life, Published, Request};
use process::{Recorded, close_journal};
use record::Record;
use running::Running;
use terms::Terms;

/// Requests that wait for a workspace's task at once; more callers wait their turn.
const QUEUE: usize = 64;

/// What workspaces are made of.
#[derive(Debug)]
pub struct Shared {
    /// Makes and ends jails.
    pub supervisor: SupervisorClient,
    /// The way out.
    pub egress: Egress,
    /// The database.
    pub state: Database,
    /// Output of commands.
    pub journals: Journals,
    /// What the operator decided.
    pub operator: Operator,
    /// Scope of all tasks.
    pub shutdown: Shutdown,
}

/// All workspaces of this machine.
#[derive(Clone, Debug)]
pub struct Workspaces {
    shared: Arc<Shared>,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    by_id: BTreeMap<Id, Arc<Workspace>>,
    by_key: HashMap<String, Id>,
}

/// What everybody may know of a workspace, and the way to its task.
#[derive(Debug)]
struct Workspace {
    record: Record,
    published: watch::Receiver<Published>,
    requests: mpsc::Sender<Request>,
}

impl Workspaces {
    /// Reads what the database knows. Nothing runs yet: see [`Self::adopt`].
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn open(shared: Shared) -> Result<Self, WorkspaceError> {
        let records: Vec<Record> = shared.state.all()?;
        let workspaces = Self { shared: Arc::new(shared), table: Arc::default() };
        for record in records {
            workspaces.admit(&mut workspaces.table(), record);
        }
        Ok(workspaces)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self, table: &mut Table, record: Record) -> Arc<Workspace> {
        let (sender, published) = watch::channel(Published::stopped(&record));
        let (requests, queue) = mpsc::channel(QUEUE);
        let life = Life::new(Arc::clone(&self.shared), record.clone(), sender, queue);
        self.shared.shutdown.spawn_until_cancelled(life.live());
        table.by_key.insert(record.spec.key.clone(), record.id.clone());
        let workspace = Arc::new(Workspace { record, published, requests });
        table.by_id.insert(workspace.record.id.clone(), Arc::clone(&workspace));
        workspace
    }

    /// A workspace that has been running under an earlier daemon. One that can't be taken over is ended.
    pub async fn adopt(&self, id: &Id, survivor: Survivor) {
        let known = self.table().by_id.get(id).cloned();
        let adopted = match known {
            Some(workspace) => workspace.ask(|reply| Request::Adopt(Box::new(survivor), reply)).await,
            None => Err(WorkspaceError::unknown_workspace(id.as_str())),
        };
        if let Err(error) = adopted {
            tracing::warn!(workspace = %id, %error, "not taken over: ended");
            if let Err(refusal) = self.shared.supervisor.ask(Ask::Kill { workspace: id.clone() }).await {
                tracing::warn!(workspace = %id, %refusal, "not ended");
            }
        }
    }

    /// After all running ones were adopted: removes what earlier crashes left, and ephemeral workspaces whose caller
    /// is gone with the supervisor.
    pub async fn sweep(&self) {
        let stale: Vec<_> = {
            let table = self.table();
            let ephemeral =
                table.by_id.values().filter(|workspace| workspace.published.borrow().spec.ephemeral);
            let stopped = ephemeral.filter(|workspace| workspace.published.borrow().running.is_none());
            stopped.map(|workspace| workspace.record.id.to_string()).collect()
        };
        for id in stale {
            if let Err(error) = self.delete(&id).await {
                tracing::warn!(%error, "an ephemeral workspace stays");
            }
        }
        for id in self.shared.journals.workspaces() {
            if self.table().by_id.contains_key(&id) {
                continue;
            }
            if let Err(error) = self.shared.journals.remove_all(&id) {
                tracing::warn!(workspace = %id, %error, "journals stay");
            }
            if let Err(refusal) = self.shared.supervisor.ask(Ask::RemoveFiles { workspace: id.clone() }).await
            {
                tracing::warn!(workspace = %id, %refusal, "files stay");
            }
        }
    }

    /// The supervisor has reaped an init.
    pub async fn ended(&self, id: &Id, generation: u64) {
        let known = self.table().by_id.get(id).cloned();
        if let Some(workspace) = known
            && workspace.requests.send(Request::Ended(generation)).await.is_err()
        {
            tracing::trace!(workspace = %id, "deleted meanwhile");
        }
    }

    /// Stops everything that runs, all at once; ephemeral workspaces are deleted.
    pub async fn stop_all(&self) {
        let all: Vec<_> = self.table().by_id.values().cloned().collect();
        let stops = all.iter().map(|workspace| async move {
            let stopped = if workspace.published.borrow().spec.ephemeral {
                workspace.ask(Request::Delete).await
            } else {
                workspace.ask(Request::Stop).await
            };
            if let Err(error) = stopped {
                tracing::warn!(%error, "stop");
            }
        });
        futures_util::future::join_all(stops).await;
    }

    /// The workspace of this key, running: made if there is none, started if it is stopped. A stopped one becomes
    /// what the spec says and keeps its files.
    ///
    /// # Errors
    /// [`Reason::SpecMismatch`] if it runs and was described otherwise, or has another image; what the start says.
    pub async fn ensure(&self, spec: Spec) -> Result<View, WorkspaceError> {
        // Said before anything is made.
        Terms::resolve(&spec, &self.shared.operator)?;
        let workspace = {
            let mut table = self.table();
            let known = table.by_key.get(&spec.key).and_then(|id| table.by_id.get(id)).cloned();
            match known {
                Some(known) => known,
                None => self.admit(&mut table, Record::new(spec.clone())),
            }
        };
        workspace.ask(|reply| Request::Start(Some(Box::new(spec)), reply)).await?;
        Ok(workspace.view())
    }

    fn find(&self, name: &str) -> Result<Arc<Workspace>, WorkspaceError> {
        let table = self.table();
        let id = table.by_key.get(name).cloned().or_else(|| name.parse().ok());
        let found = id.and_then(|id| table.by_id.get(&id).cloned());
        found.ok_or_else(|| WorkspaceError::unknown_workspace(name))
    }

    /// A workspace whose init answers.
    fn running(&self, name: &str) -> Result<Arc<Running>, WorkspaceError> {
        match self.find(name)?.published.borrow().state {
            State::Paused => Err(WorkspaceError::paused(name)),
            _ => self.present(name),
        }
    }

    /// The same, or a paused one, whose init answers when it is resumed.
    fn present(&self, name: &str) -> Result<Arc<Running>, WorkspaceError> {
        let workspace = self.find(name)?;
        let running = workspace.published.borrow().running.clone();
        running.ok_or_else(|| WorkspaceError::not_running(name))
    }

    /// A workspace that is started if it was stopped.
    async fn awake(&self, name: &str) -> Result<Arc<Running>, WorkspaceError> {
        if let Ok(running) = self.running(name) {
            return Ok(running);
        }
        self.find(name)?.ask(|reply| Request::Start(None, reply)).await?;
        self.running(name)
    }

    /// A workspace by id or key, with what it uses.
    ///
    /// # Errors
    /// [`Reason::NotFound`].
    pub async fn get(&self, name: &str) -> Result<View, WorkspaceError> {
        let workspace = self.find(name)?;
        let mut view = workspace.view();
        if let Some(running) = &workspace.published.borrow().running {
            view.usage = crate::jail::usage::read(&running.report.groups);
        }
        Ok(view)
    }

    /// All workspaces, sorted by id.
    #[must_use]
    pub fn list(&self) -> Vec<View> {
        self.table().by_id.values().map(|workspace| workspace.view()).collect()
    }

    /// Starts a workspace as it is described. Nothing happens if it runs.
    ///
    /// # Errors
    /// [`Reason::NotFound`]; what the start says.
    pub async fn start(&self, name: &str) -> Result<View, WorkspaceError> {
        let workspace = self.find(name)?;
        workspace.ask(|reply| Request::Start(None, reply)).await?;
        Ok(workspace.view())
    }

    /// Ends all commands (TERM, then KILL) and keeps the files. Nothing happens if it does not run.
    ///
    /// # Errors
    /// [`Reason::NotFound`]; what the supervisor says.
    pub async fn stop(&self, name: &str) -> Result<View, WorkspaceError> {
        let workspace = self.find(name)?;
        workspace.ask(Request::Stop).await?;
        Ok(workspace.view())
    }

    /// Takes the processor from everything in a workspace. Time limits of its commands stand still. Nothing happens if
    /// it is paused.
    ///
    /// # Errors
    /// [`Reason::NotFound`], [`Reason::NotRunning`]; [`Reason::FailedPrecondition`] if the host has no freezer for us.
    pub async fn pause(&self, name: &str) -> Result<View, WorkspaceError> {
        let workspace = self.find(name)?;
        workspace.ask(Request::Pause).await?;
        Ok(workspace.view())
    }

    /// Lets a paused workspace go on. Nothing happens if it runs.
    ///
    /// # Errors
    /// [`Reason::NotFound`], [`Reason::NotRunning`]; what the supervisor says.
    pub async fn resume(&self, name: &str) -> Result<View, WorkspaceError> {
        let workspace = self.find(name)?;
        workspace.ask(Request::Resume).await?;
        Ok(workspace.view())
    }

    /// Removes a workspace with its files and journals; volumes stay.
    ///
    /// # Errors
    /// [`Reason::NotFound`]; what the supervisor says.
    pub async fn delete(&self, name: &str) -> Result<(), WorkspaceError> {
        let workspace = self.find(name)?;
        workspace.ask(Request::Delete).await?;
        let mut table = self.table();
        table.by_id.remove(&workspace.record.id);
        table.by_key.remove(&workspace.record.spec.key);
        Ok(())
    }

    /// Starts a command; with an id, at most once. A stopped workspace is started first, here and for files.
    ///
    /// # Errors
    /// [`Reason::NotFound`] with `ENOENT` if there is no such program, [`Reason::AlreadyExists`] if the id is taken.
    pub async fn start_process(
        &self,
        name: &str,
        id: Option<String>,
        command: Command,
    ) -> Result<ProcessView, WorkspaceError> {
        let id = id.map(|id| {
            id.parse().map_err(|error: crate::id::InvalidId| {
                WorkspaceError::invalid("process id", error.to_string())
            })
        });
        self.awake(name).await?.start(id.transpose()?, command).await
    }

    /// A command, also one of an earlier generation.
    ///
    /// # Errors
    /// [`Reason::NotFound`].
    pub async fn process(&self, name: &str, process: &str) -> Result<ProcessView, WorkspaceError> {
        let workspace = self.find(name)?;
        let id = process.parse().map_err(|_invalid| WorkspaceError::unknown_process(process))?;
        self.view(&workspace, &id)
    }

    fn view(&self, workspace: &Workspace, process: &Id) -> Result<ProcessView, WorkspaceError> {
        let running = workspace.published.borrow().running.clone();
        if let Some(running) = running
            && let Some(live) = running.find(process)
        {
            return running.view(process, &live);
        }
        let recorded = self.recorded(&workspace.record.id, process)?;
        Ok(recorded.view(&workspace.record.id, process))
    }

    /// A command of an earlier generation; its journal gets the end that nobody could write.
    fn recorded(&self, workspace: &Id, process: &Id) -> Result<Recorded, WorkspaceError> {
        let journals = &self.shared.journals;
        let read = || {
            let found = Recorded::read(journals, workspace, process)?;
            found.ok_or_else(|| WorkspaceError::unknown_process(process.as_str()))
        };
        let recorded = read()?;
        if recorded.exit.is_some() {
            return Ok(recorded);
        }
        // One at a time, or it would end twice.
        let _table = self.table();
        close_journal(journals, workspace, process, Cause::Lost)?;
        read()
    }

    /// All commands of a workspace whose journals are kept, sorted by id.
    ///
    /// # Errors
    /// [`Reason::NotFound`].
    pub async fn processes(&self, name: &str) -> Result<Vec<ProcessView>, WorkspaceError> {
        let workspace = self.find(name)?;
        let known = self.shared.journals.processes(&workspace.record.id);
        let views = known.iter().map(|process| self.view(&workspace, process));
        // One that is only just being started has no journal to show yet.
        views.filter(|view| !matches!(view, Err(error) if error.reason() == Reason::NotFound)).collect()
    }

    /// Waits for the end of a command.
    ///
    /// # Errors
    /// [`Reason::NotFound`].
    pub async fn wait(&self, name: &str, process: &str) -> Result<ProcessView, WorkspaceError> {
        let workspace = self.find(name)?;
        let id: Id = process.parse().map_err(|_invalid| WorkspaceError::unknown_process(process))?;
        let running = workspace.published.borrow().running.clone();
        if let Some(live) = running.and_then(|running| running.find(&id)) {
            Running::exit_of(&live).await;
        }
        self.view(&workspace, &id)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// [`Reason::NotFound`] if the command has ended, [`Reason::InvalidArgument`] for a number that is none.
    pub async fn signal(
        &self,
        name: &str,
        process: &str,
        signal: i32,
        scope: SignalScope,
    ) -> Result<(), WorkspaceError> {
        self.running(name)?.signal(process_id(process)?, signal, scope).await
    }

    /// Tells a lossless command that its output was taken up to this many bytes, so that it goes on; a paused one when
    /// it is resumed.
    ///
    /// # Errors
    /// [`Reason::NotRunning`] if the workspace has ended.
    pub async fn acknowledge(&self, name: &str, process: &str, bytes: u64) -> Result<(), WorkspaceError> {
        // Forgotten, the command would wait for ever once it is resumed.
        self.present(name)?.acknowledge(process_id(process)?, bytes).await
    }

    /// Tells a command's terminal its new size.
    ///
    /// # Errors
    /// [`Reason::InvalidArgument`] if it has no terminal.
    pub async fn resize(&self, name: &str, process: &str, size: TerminalSize) -> Result<(), WorkspaceError> {
        self.present(name)?.resize(process_id(process)?, size).await
    }

    /// Gives bytes to a command's stdin; `offset` is that of the first byte, so that a repetition does no harm.
    /// Returns the offset that comes next, when the bytes were taken.
    ///
    /// # Errors
    /// [`Reason::InvalidArgument`] if bytes before `offset` are missing or stdin is closed.
    pub async fn write_stdin(
        &self,
        name: &str,
        process: &str,
        offset: u64,
        data: Bytes,
    ) -> Result<u64, WorkspaceError> {
        self.running(name)?.stdin(process_id(process)?, offset, data, false).await
    }

    /// Ends a command's stdin at this offset.
    ///
    /// # Errors
    /// As [`Self::write_stdin`].
    pub async fn close_stdin(&self, name: &str, process: &str, offset: u64) -> Result<(), WorkspaceError> {
        self.running(name)?.stdin(process_id(process)?, offset, Bytes::new(), true).await.map(drop)
    }

    /// A command's output from a sequence number on: first what is recorded, then what comes.
    ///
    /// # Errors
    /// [`Reason::NotFound`]; [`Reason::InvalidArgument`] for a number that is not there yet.
    pub async fn output(&self, name: &str, process: &str, from: u64) -> Result<Output, WorkspaceError> {
        let workspace = self.find(name)?;
        let id = process_id(process)?;
        let running = workspace.published.borrow().running.clone();
        if let Some(running) = running
            && let Some(live) = running.find(&id)
        {
            return running.output(&id, &live, from);
        }
        self.recorded(&workspace.record.id, &id)?;
        let file = self.shared.journals.open(&workspace.record.id, &id)?;
        Output::ended(file.ok_or_else(|| WorkspaceError::unknown_process(process))?, from)
    }
}

impl Workspace {
    async fn ask(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<(), WorkspaceError>>) -> Request,
    ) -> Result<(), WorkspaceError> {
        let (reply, answer) = oneshot::channel();
        let gone = || match self.published.borrow().deleted {
            true => WorkspaceError::unknown_workspace(self.record.id.as_str()),
            false => WorkspaceError::stopping(&self.record.id),
        };
        self.requests.send(request(reply)).await.map_err(|_ended| gone())?;
        answer.await.map_err(|_ended| gone())?
    }

    fn view(&self) -> View {
        let now = self.published.borrow();
        let mut view = View {
            id: self.record.id.clone(),
            spec: now.spec.clone(),
            state: now.state,
            failure: now.failure.clone(),
            generation: now.generation,
            created: self.record.created,
            isolation: Vec::new(),
            limits: BTreeMap::new(),
            usage: BTreeMap::new(),
            policy_digest: String::new(),
        };
        if let Some(running) = &now.running {
            view.isolation = running.report.layers.iter().cloned().map(layer).collect();
            view.limits = running.report.limits.clone();
            running.digest().clone_into(&mut view.policy_digest);
        }
        view
    }
}

fn layer((name, strength, detail): (String, Strength, String)) -> Layer {
    let status = match strength {
        Strength::InForce => LayerStatus::InForce,
        Strength::Weaker => LayerStatus::Weaker,
        Strength::Missing => LayerStatus::Missing,
    };
    Layer { name, status, detail }
}

fn process_id(given: &str) -> Result<Id, WorkspaceError> {
    given.parse().map_err(|_invalid| WorkspaceError::unknown_process(given))
}
