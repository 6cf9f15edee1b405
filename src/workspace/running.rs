//! A workspace while it runs: its init, its way out, its commands. One value per generation.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::Shared;
use super::error::{Reason, WorkspaceError};
use super::process::{Header, Live, Output, Recorded, close_journal};
use super::record::Record;
use super::terms::{Terms, check_variable};
use super::types::{Command, ProcessView, SignalScope, TerminalSize};
use crate::egress::{Attached, CertificateAuthority, Listeners, WorkspaceEgress};
use crate::id::Id;
use crate::jail::client::InitClient;
use crate::jail::plan::WORKSPACE;
use crate::jail::wire::{Channel, FromInit, Order, Outcome, Reach, Report, StartOrder};
use crate::journal::Cause;
use crate::shutdown::Shutdown;
use crate::storage::memory::Memory;

/// What the memory file of a workspace holds, oldest first.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
enum Remembered {
    /// The authority's key and certificate, and the placeholders by variable.
    Identity(Vec<u8>, Vec<(String, String)>),
    /// A name and the number of its synthetic address.
    Name(String, u32),
}

/// Who a workspace is on the network: made at its start, or found in its memory file.
pub(super) struct Identity {
    pub(super) authority: CertificateAuthority,
    pub(super) placeholders: BTreeMap<String, String>,
}

/// A running workspace.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) workspace: Id,
    pub(super) generation: u64,
    pub(super) report: Report,
    pub(super) init: InitClient,
    /// Held by a conditional write while it replaces its file.
    pub(super) commits: tokio::sync::Mutex<()>,
    terms: Terms,
    env: BTreeMap<String, Vec<u8>>,
    egress: Attached,
    live: Mutex<BTreeMap<Id, Arc<Live>>>,
    scope: Shutdown,
    shared: Arc<Shared>,
}

/// What init's events arrive on.
pub(super) type Events = mpsc::UnboundedReceiver<FromInit>;

impl Running {
    /// Takes over the descriptors of a jail: a new one with its `identity`, or one that an earlier daemon had.
    pub(super) fn assemble(
        shared: &Arc<Shared>,
        record: &Record,
        terms: Terms,
        channel: Channel,
        made: (Report, Option<Identity>),
    ) -> Result<(Arc<Self>, Events), WorkspaceError> {
        let internal = |what: &'static str| {
            move |error: &dyn std::fmt::Display| {
                WorkspaceError::new(
                    Reason::Internal,
                    what,
                    error.to_string(),
                    "stop the workspace and start it again",
                )
            }
        };
        let (report, identity) = made;
        let (memory, remembered) =
            Memory::open::<Remembered>(channel.memory).map_err(|error| internal("memory")(&error))?;
        let memory = Arc::new(memory);
        let identity = match identity {
            Some(identity) => {
                identity.remember(&memory).map_err(|error| internal("memory")(&error))?;
                identity
            }
            None => {
                Identity::recall(&remembered).ok_or_else(|| internal("memory")(&"it holds no authority"))?
            }
        };
        let names = remembered.iter().filter_map(|remembered| match remembered {
            Remembered::Name(name, number) => Some((name.clone(), *number)),
            Remembered::Identity(..) => None,
        });
        let scope = shared.shutdown.child();
        let (init, events) =
            InitClient::new(channel.control, &scope).map_err(|error| internal("init")(&error))?;
        let env = terms.environment(&record.spec, &identity.placeholders);
        let way_out = WorkspaceEgress {
            workspace: record.id.to_string(),
            generation: record.generation,
            policy: Arc::clone(&terms.policy),
            authority: identity.authority,
            names: names.collect(),
            remember: Arc::new(move |name, number| memory.append(&Remembered::Name(name.to_owned(), number))),
            placeholders: identity.placeholders,
        };
        let listeners = Listeners { tcp: channel.tcp, dns_udp: channel.dns_udp, dns_tcp: channel.dns_tcp };
        let egress = shared.egress.attach(way_out, listeners).map_err(|error| internal("egress")(&error))?;
        let running = Self {
            workspace: record.id.clone(),
            generation: record.generation,
            report,
            init,
            commits: tokio::sync::Mutex::default(),
            terms,
            env,
            egress,
            live: Mutex::default(),
            scope,
            shared: Arc::clone(shared),
        };
        Ok((Arc::new(running), events))
    }

    pub(super) fn digest(&self) -> &str {
        &self.terms.digest
    }

    fn live(&self) -> MutexGuard<'_, BTreeMap<Id, Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers the commands that an earlier daemon started in this generation. Call before events are followed.
    pub(super) fn restore(&self) {
        let journals = &self.shared.journals;
        for process in journals.processes(&self.workspace) {
            match Recorded::read(journals, &self.workspace, &process) {
                Ok(Some(recorded)) if recorded.header.generation == self.generation => {
                    let live = Live::new(recorded.header, self.egress.mark());
                    live.progress.send_modify(|progress| progress.exit = recorded.exit);
                    self.live().insert(process, Arc::new(live));
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%process, %error, "unreadable journal"),
            }
        }
    }

    /// Asks init which commands still have something to say, and closes the others.
    pub(super) async fn reconcile(&self) {
        let Ok((Outcome::Running(open), _)) = self.init.ask(Order::List, &[]).await else { return };
        let known: Vec<_> = self.live().iter().map(|(id, live)| (id.clone(), Arc::clone(live))).collect();
        for (process, live) in known {
            if !open.contains(&process) {
                self.close(&process, &live, Cause::Lost);
            }
        }
    }

    /// Lets the time limits of commands stand still, or go on.
    pub(super) async fn hold(&self, held: bool) -> Result<(), WorkspaceError> {
        let answer = self.init.ask(Order::Hold(held), &[]).await;
        answer.map(drop).map_err(|error| WorkspaceError::from_init(error, &self.workspace))
    }

    /// Follows init's events until it is gone.
    pub(super) async fn follow(self: Arc<Self>, mut events: Events) {
        while let Some(event) = events.recv().await {
            let (FromInit::Advanced { process }
            | FromInit::Exited { process, .. }
            | FromInit::Closed { process }) = &event
            else {
                continue;
            };
            let Some(live) = self.live().get(process).cloned() else { continue };
            match event {
                FromInit::Exited { status, .. } => self.exited(&live, status),
                FromInit::Closed { .. } => live.progress.send_modify(|progress| {
                    progress.growth += 1;
                    progress.closed = true;
                }),
                _ => live.progress.send_modify(|progress| progress.growth += 1),
            }
        }
    }

    fn exited(&self, live: &Live, status: crate::journal::ExitStatus) {
        let denials = self.egress.denials_since(live.denial_mark);
        live.progress.send_modify(|progress| {
            progress.growth += 1;
            progress.exit.get_or_insert((status, SystemTime::now()));
            progress.denials = denials;
        });
    }

    /// The last record of a command whose init does not know it any more.
    fn close(&self, process: &Id, live: &Live, cause: Cause) {
        match close_journal(&self.shared.journals, &self.workspace, process, cause) {
            Ok(status) => self.exited(live, status),
            Err(error) => {
                tracing::error!(%process, %error, "the end of a command is not in its journal");
                self.exited(
                    live,
                    crate::journal::ExitStatus { outcome: crate::journal::Outcome::Unknown, cause },
                );
            }
        }
        live.progress.send_modify(|progress| progress.closed = true);
    }

    /// init is gone and everything inside with it.
    pub(super) fn ended(&self, cause: Cause) {
        self.scope.cancel();
        let all: Vec<_> = self.live().iter().map(|(id, live)| (id.clone(), Arc::clone(live))).collect();
        for (process, live) in all {
            if !live.progress.borrow().closed {
                self.close(&process, &live, cause);
            }
        }
    }

    /// Starts a command. With an id that is known and the same command, shows that one instead.
    pub(super) async fn start(
        self: &Arc<Self>,
        id: Option<Id>,
        command: Command,
    ) -> Result<ProcessView, WorkspaceError> {
        check(&command)?;
        let named = id.is_some();
        let id = id.unwrap_or_else(|| Id::fresh("p"));
        if named && let Some(known) = self.same(&id, &command)? {
            return Ok(known);
        }
        let journal = self.shared.journals.create(&self.workspace, &id)?;
        let header = Header { command, generation: self.generation };
        let order = self.order(&id, &header)?;
        let live = Arc::new(Live::new(header, self.egress.mark()));
        self.live().insert(id.clone(), Arc::clone(&live));
        // A task of its own, so that a caller who goes away leaves no half-started command.
        let (settled, outcome) = tokio::sync::oneshot::channel();
        let running = Arc::clone(self);
        let process = id.clone();
        self.shared.shutdown.spawn(async move {
            let started = running.init.ask(Order::Start(Box::new(order)), &[journal.as_fd()]).await;
            if started.is_err() {
                running.live().remove(&process);
                running.shared.journals.remove(&running.workspace, &process);
            }
            if settled.send(started).is_err() {
                tracing::debug!(%process, "its caller did not wait for the start");
            }
        });
        let started = outcome.await.map_err(|_ended| WorkspaceError::stopping(&id))?;
        let program = String::from_utf8_lossy(live.header.command.argv.first().map_or(&b""[..], |name| name));
        started.map_err(|error| WorkspaceError::from_init(error, program))?;
        self.view(&id, &live)
    }

    /// The command of this id, if it is the same; an error if it is another.
    fn same(&self, id: &Id, command: &Command) -> Result<Option<ProcessView>, WorkspaceError> {
        let live = self.live().get(id).cloned();
        let known = match &live {
            Some(live) => Some(live.header.clone()),
            None => {
                Recorded::read(&self.shared.journals, &self.workspace, id)?.map(|recorded| recorded.header)
            }
        };
        let Some(known) = known else {
            if self.shared.journals.open(&self.workspace, id)?.is_some() {
                // Left by a daemon that died between making the file and asking init.
                self.shared.journals.remove(&self.workspace, id);
            }
            return Ok(None);
        };
        if known.command != *command {
            let remedy = "another command has this id; choose a new one";
            return Err(WorkspaceError::new(Reason::AlreadyExists, "process id in use", id, remedy));
        }
        match live {
            Some(live) => self.view(id, &live).map(Some),
            None => Ok(Recorded::read(&self.shared.journals, &self.workspace, id)?
                .map(|recorded| recorded.view(&self.workspace, id))),
        }
    }

    fn order(&self, id: &Id, header: &Header) -> Result<StartOrder, WorkspaceError> {
        let command = &header.command;
        let mut env = self.env.clone();
        env.extend(command.env.iter().map(|(name, value)| (name.clone(), value.clone())));
        if command.pty.is_some() {
            env.entry("TERM".into()).or_insert_with(|| b"xterm-256color".to_vec());
        }
        let timeout = command.timeout.or(self.terms.wall_clock);
        Ok(StartOrder {
            process: id.clone(),
            header: postcard::to_stdvec(header)
                .map_err(|error| WorkspaceError::invalid(id, error.to_string()))?,
            argv: command.argv.clone(),
            env: env.into_iter().map(|(name, value)| [name.as_bytes(), b"=", &value].concat()).collect(),
            cwd: command.cwd.clone().unwrap_or_else(|| WORKSPACE.as_bytes().to_vec()),
            pty: command.pty.map(|size| (size.rows, size.columns)),
            stdin: command.stdin,
            timeout: timeout.map(milliseconds),
            grace: milliseconds(command.kill_grace),
            output: command.output_limit.map_or(self.terms.output, |limit| limit.min(self.terms.output)),
            lossless: command.lossless,
        })
    }

    /// A command of this generation.
    pub(super) fn find(&self, process: &Id) -> Option<Arc<Live>> {
        self.live().get(process).cloned()
    }

    pub(super) fn view(&self, id: &Id, live: &Live) -> Result<ProcessView, WorkspaceError> {
        let recorded = Recorded::read(&self.shared.journals, &self.workspace, id)?;
        let recorded = recorded.ok_or_else(|| WorkspaceError::unknown_process(id.as_str()))?;
        let mut view = recorded.view(&self.workspace, id);
        let progress = live.progress.borrow();
        // A disk that was full at the end has no exit record; init has told it all the same.
        view.exit = view.exit.or(progress.exit.map(|(status, _)| status));
        view.ended = view.ended.or(progress.exit.map(|(_, at)| at));
        (view.denials, view.denial_count) = match progress.exit {
            Some(_) => progress.denials.clone(),
            None => self.egress.denials_since(live.denial_mark),
        };
        Ok(view)
    }

    pub(super) fn output(&self, id: &Id, live: &Live, from: u64) -> Result<Output, WorkspaceError> {
        let file = self.shared.journals.open(&self.workspace, id)?;
        Output::live(file.ok_or_else(|| WorkspaceError::unknown_process(id.as_str()))?, from, live)
    }

    pub(super) async fn acknowledge(&self, process: Id, bytes: u64) -> Result<(), WorkspaceError> {
        let told = self.init.tell(Order::Acknowledge { process: process.clone(), bytes }).await;
        told.map_err(|error| WorkspaceError::from_init(error, &process))
    }

    pub(super) async fn signal(
        &self,
        process: Id,
        signal: i32,
        scope: SignalScope,
    ) -> Result<(), WorkspaceError> {
        let reach = match scope {
            SignalScope::Process => Reach::Process,
            SignalScope::Group => Reach::Group,
            SignalScope::Tree => Reach::Tree,
        };
        self.order_about(Order::Signal { process: process.clone(), signal, reach }, &process).await.map(drop)
    }

    pub(super) async fn resize(&self, process: Id, size: TerminalSize) -> Result<(), WorkspaceError> {
        let TerminalSize { rows, columns } = size;
        self.order_about(Order::Resize { process: process.clone(), rows, columns }, &process).await.map(drop)
    }

    pub(super) async fn stdin(
        &self,
        process: Id,
        offset: u64,
        data: Bytes,
        end: bool,
    ) -> Result<u64, WorkspaceError> {
        let order = Order::Stdin { process: process.clone(), offset, data: data.to_vec(), end };
        match self.order_about(order, &process).await? {
            Outcome::Taken(taken) => Ok(taken),
            _ => Ok(offset + data.len() as u64),
        }
    }

    async fn order_about(&self, order: Order, process: &Id) -> Result<Outcome, WorkspaceError> {
        let answer = self.init.ask(order, &[]).await;
        answer.map(|(outcome, _)| outcome).map_err(|error| WorkspaceError::from_init(error, process))
    }

    /// Whether a command has ended; waits for it.
    pub(super) async fn exit_of(live: &Live) {
        let mut progress: watch::Receiver<Progress> = live.progress.subscribe();
        if progress.wait_for(|progress| progress.exit.is_some()).await.is_err() {
            tracing::debug!("the workspace ended while its command was waited for");
        }
    }
}

use super::process::Progress;

impl Identity {
    fn remember(&self, memory: &Memory) -> std::io::Result<()> {
        let placeholders =
            self.placeholders.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        memory.append(&Remembered::Identity(self.authority.to_bytes().to_vec(), placeholders))
    }

    fn recall(remembered: &[Remembered]) -> Option<Self> {
        remembered.iter().find_map(|remembered| match remembered {
            Remembered::Identity(authority, placeholders) => Some(Self {
                authority: CertificateAuthority::from_bytes(authority).ok()?,
                placeholders: placeholders.iter().cloned().collect(),
            }),
            Remembered::Name(..) => None,
        })
    }
}

/// Refuses what execve(2) could not take.
fn check(command: &Command) -> Result<(), WorkspaceError> {
    let name = command.argv.first().filter(|name| !name.is_empty());
    if name.is_none() || command.argv.iter().any(|argument| argument.contains(&0)) {
        return Err(WorkspaceError::invalid("command", "give a program and arguments without NUL"));
    }
    if command.cwd.as_ref().is_some_and(|cwd| !cwd.starts_with(b"/") || cwd.contains(&0)) {
        return Err(WorkspaceError::invalid("working directory", "an absolute path inside the workspace"));
    }
    command.env.iter().try_for_each(|(name, value)| check_variable(name, value))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
