//! The life of one workspace: one task owns its state, requests come through a queue, and what it is now is published.
//!
//! ```text
//!              start               Ready
//!   Stopped ----------> Starting ----------> Running <---------> Paused
//!      ^  ^                |  refused           |  pause, resume    |
//!      |  `--- Failed <----'                    |                   |
//!      `----------------------------------------+-------------------'
//!   delete: from every state; the task ends        stop, or the end of init
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::Shared;
use super::error::{Reason, WorkspaceError};
use super::record::Record;
use super::running::{Events, Identity, Running};
use super::terms::Terms;
use super::types::{Spec, State};
use crate::egress::CertificateAuthority;
use crate::jail::wire::{Ask, Channel, Done, JailRequest, Order, Report};
use crate::journal::Cause;

/// How long commands may take to end after TERM when their workspace stops.
const GRACE: Duration = Duration::from_secs(3);
/// How long after that init itself may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long everything may take to be frozen: what waits for a disk is only then.
const FREEZING: Duration = Duration::from_secs(5);
/// Time between two looks whether it is.
const LOOK: Duration = Duration::from_millis(2);

/// What others ask of a workspace's task.
#[derive(Debug)]
pub(super) enum Request {
    /// Run; with a spec, be that.
    Start(Option<Box<Spec>>, oneshot::Sender<Result<(), WorkspaceError>>),
    /// Stop running; commands get TERM first.
    Stop(oneshot::Sender<Result<(), WorkspaceError>>),
    /// Use no processor.
    Pause(oneshot::Sender<Result<(), WorkspaceError>>),
    /// Go on.
    Resume(oneshot::Sender<Result<(), WorkspaceError>>),
    /// Be gone, with all files.
    Delete(oneshot::Sender<Result<(), WorkspaceError>>),
    /// It has been running under an earlier daemon.
    Adopt(Box<Survivor>, oneshot::Sender<Result<(), WorkspaceError>>),
    /// The supervisor has reaped the init of this generation.
    Ended(u64),
}

/// A workspace that has outlived its daemon, as the supervisor tells of it.
#[derive(Debug)]
pub struct Survivor {
    /// Which of its starts.
    pub generation: u64,
    /// What holds in it.
    pub report: Report,
    /// Its descriptors.
    pub channel: Channel,
    /// Whether it was being paused.
    pub paused: bool,
}

/// What a workspace is now.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub(super) spec: Spec,
    pub(super) state: State,
    pub(super) failure: Option<String>,
    pub(super) generation: u64,
    pub(super) running: Option<Arc<Running>>,
    pub(super) deleted: bool,
}

impl Published {
    pub(super) fn stopped(record: &Record) -> Self {
        let (spec, generation) = (record.spec.clone(), record.generation);
        Self { spec, state: State::Stopped, failure: None, generation, running: None, deleted: false }
    }
}

/// The task.
pub(super) struct Life {
    shared: Arc<Shared>,
    record: Record,
    published: watch::Sender<Published>,
    requests: mpsc::Receiver<Request>,
    running: Option<Arc<Running>>,
    /// Why init ends, if we asked for it.
    stopping: bool,
    paused: bool,
}

impl Life {
    pub(super) fn new(
        shared: Arc<Shared>,
        record: Record,
        published: watch::Sender<Published>,
        requests: mpsc::Receiver<Request>,
    ) -> Self {
        Self { shared, record, published, requests, running: None, stopping: false, paused: false }
    }

    pub(super) async fn live(mut self) {
        while let Some(request) = self.requests.recv().await {
            match request {
                Request::Start(spec, reply) => {
                    let started = self.start(spec.map(|spec| *spec)).await;
                    answer(reply, started);
                }
                Request::Stop(reply) => {
                    let stopped = self.stop(GRACE).await;
                    answer(reply, stopped);
                }
                Request::Pause(reply) => {
                    let paused = self.pause().await;
                    answer(reply, paused);
                }
                Request::Resume(reply) => {
                    let resumed = self.resume().await;
                    answer(reply, resumed);
                }
                Request::Delete(reply) => {
                    let deleted = self.delete().await;
                    let gone = deleted.is_ok();
                    answer(reply, deleted);
                    if gone {
                        return;
                    }
                }
                Request::Adopt(survivor, reply) => {
                    let adopted = self.adopt(*survivor).await;
                    answer(reply, adopted);
                }
                Request::Ended(generation) => self.ended(generation),
            }
        }
    }

    async fn start(&mut self, spec: Option<Spec>) -> Result<(), WorkspaceError> {
        if self.paused {
            return Err(WorkspaceError::paused(&self.record.spec.key));
        }
        if let Some(spec) = spec {
            self.describe(spec)?;
        }
        if self.running.is_some() {
            return Ok(());
        }
        self.record.generation += 1;
        self.publish(State::Starting, None);
        match self.make().await {
            Ok((running, events)) => {
                self.shared.shutdown.spawn_until_cancelled(Arc::clone(&running).follow(events));
                self.running = Some(running);
                self.stopping = false;
                self.publish(State::Running, None);
                Ok(())
            }
            Err(error) => {
                self.publish(State::Failed, Some(error.to_string()));
                Err(error)
            }
        }
    }

    /// A workspace that does not run can become another one, with the same files; its image can't change.
    fn describe(&mut self, spec: Spec) -> Result<(), WorkspaceError> {
        let different = self.record.spec.difference(&spec);
        match different {
            None => Ok(()),
            Some(field) if self.running.is_some() || field == "image" => {
                let object = format!("{field} of {}", self.record.spec.key);
                let remedy =
                    if field == "image" { "use another key" } else { "stop it first, or use another key" };
                Err(WorkspaceError::new(Reason::SpecMismatch, "the workspace is different", object, remedy))
            }
            Some(_) => {
                self.record.spec = spec;
                Ok(())
            }
        }
    }

    async fn make(&self) -> Result<(Arc<Running>, Events), WorkspaceError> {
        let record = &self.record;
        let shared = &self.shared;
        let terms = Terms::resolve(&record.spec, &shared.operator)?;
        // The generation is on the disk before anything carries it.
        shared.state.save(&record.id, &record.spec.key, record, record.durability())?;
        let authority = CertificateAuthority::generate(record.id.as_str()).map_err(|error| {
            WorkspaceError::new(Reason::Internal, "certificate authority", error, "see the daemon's log")
        })?;
        let request = JailRequest {
            workspace: record.id.clone(),
            generation: record.generation,
            image: record.spec.image.clone(),
            volumes: terms.volumes.clone(),
            authority: authority.certificate_pem().to_owned(),
            limits: terms.limits,
            seccomp: terms.seccomp.clone(),
        };
        let (done, descriptors) = shared.supervisor.ask(Ask::Start(Box::new(request))).await?;
        let (Done::Started(report), Some(channel)) = (done, Channel::from_descriptors(descriptors)) else {
            return Err(WorkspaceError::new(
                Reason::Internal,
                "start",
                &record.id,
                "unexpected answer of the supervisor",
            ));
        };
        let placeholders = shared.operator.credentials.placeholders();
        let made = (report, Some(Identity { authority, placeholders }));
        match Running::assemble(shared, record, terms, channel, made) {
            Ok(made) => Ok(made),
            Err(error) => {
                shared.supervisor.ask(Ask::Kill { workspace: record.id.clone() }).await?;
                Err(error)
            }
        }
    }

    async fn adopt(
        &mut self,
        Survivor { generation, report, channel, paused }: Survivor,
    ) -> Result<(), WorkspaceError> {
        self.record.generation = self.record.generation.max(generation);
        let terms = Terms::resolve(&self.record.spec, &self.shared.operator)?;
        let (running, events) =
            Running::assemble(&self.shared, &self.record, terms, channel, (report, None))?;
        running.restore();
        self.shared.shutdown.spawn_until_cancelled(Arc::clone(&running).follow(events));
        self.running = Some(Arc::clone(&running));
        // Our predecessor may have died half-way.
        if paused && self.freeze().await.is_ok() {
            self.set_paused(true);
            return Ok(());
        }
        running.reconcile().await;
        running.hold(false).await?;
        self.set_paused(false);
        Ok(())
    }

    /// Time limits stand still first and go on last, so that none is up while nobody can work.
    async fn pause(&mut self) -> Result<(), WorkspaceError> {
        let running = self.present()?;
        if self.paused {
            return Ok(());
        }
        running.hold(true).await?;
        match self.freeze().await {
            Ok(()) => self.set_paused(true),
            Err(error) => {
                running.hold(false).await?;
                return Err(error);
            }
        }
        Ok(())
    }

    async fn resume(&mut self) -> Result<(), WorkspaceError> {
        let running = self.present()?;
        if !self.paused {
            return Ok(());
        }
        self.thaw().await?;
        running.hold(false).await?;
        // A daemon that found it paused could not ask before.
        running.reconcile().await;
        self.set_paused(false);
        Ok(())
    }

    fn present(&self) -> Result<Arc<Running>, WorkspaceError> {
        self.running.clone().ok_or_else(|| WorkspaceError::not_running(&self.record.spec.key))
    }

    fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
        self.publish(if paused { State::Paused } else { State::Running }, None);
    }

    /// Returns when nothing in it runs any more; thawed again if that takes too long.
    async fn freeze(&self) -> Result<(), WorkspaceError> {
        let frozen = tokio::time::timeout(FREEZING, async {
            while self.ask_freeze(true).await? != Done::Frozen(true) {
                tokio::time::sleep(LOOK).await;
            }
            Ok(())
        });
        if let Ok(frozen) = frozen.await {
            return frozen;
        }
        self.thaw().await?;
        let remedy = "a command waits for a disk or a device; try again when that has answered";
        Err(WorkspaceError::new(Reason::Unavailable, "pause", &self.record.spec.key, remedy))
    }

    async fn thaw(&self) -> Result<(), WorkspaceError> {
        self.ask_freeze(false).await.map(drop)
    }

    async fn ask_freeze(&self, frozen: bool) -> Result<Done, WorkspaceError> {
        let ask = Ask::Freeze { workspace: self.record.id.clone(), frozen };
        Ok(self.shared.supervisor.ask(ask).await?.0)
    }

    /// Ends the commands politely, then init; returns when the kernel has ended everything.
    async fn stop(&mut self, grace: Duration) -> Result<(), WorkspaceError> {
        let Some(running) = self.running.clone() else { return Ok(()) };
        self.stopping = true;
        if !grace.is_zero() {
            if self.paused {
                self.thaw().await?;
            }
            let order = Order::Stop { grace: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX) };
            let asked = running.init.ask(order, &[]).await;
            if asked.is_ok() && self.await_end(running.generation, grace + PATIENCE).await {
                return Ok(());
            }
        }
        self.shared.supervisor.ask(Ask::Kill { workspace: self.record.id.clone() }).await?;
        self.ended(running.generation);
        Ok(())
    }

    /// Whether the supervisor tells of the end in time. Other requests that come meanwhile are told to try again.
    async fn await_end(&mut self, generation: u64, patience: Duration) -> bool {
        let waited = tokio::time::timeout(patience, async {
            while let Some(request) = self.requests.recv().await {
                match request {
                    Request::Ended(ended) if ended == generation => {
                        self.ended(ended);
                        return true;
                    }
                    Request::Ended(earlier) => self.ended(earlier),
                    Request::Start(_, reply)
                    | Request::Stop(reply)
                    | Request::Pause(reply)
                    | Request::Resume(reply)
                    | Request::Delete(reply)
                    | Request::Adopt(_, reply) => {
                        let busy = WorkspaceError::new(
                            Reason::Unavailable,
                            "the workspace is stopping",
                            &self.record.id,
                            "try again",
                        );
                        answer(reply, Err(busy));
                    }
                }
            }
            false
        });
        waited.await.unwrap_or(false)
    }

    fn ended(&mut self, generation: u64) {
        let Some(running) = self.running.take_if(|running| running.generation == generation) else { return };
        self.paused = false;
        running.ended(if self.stopping { Cause::WorkspaceStopped } else { Cause::Lost });
        self.publish(State::Stopped, None);
    }

    async fn delete(&mut self) -> Result<(), WorkspaceError> {
        self.stop(Duration::ZERO).await?;
        // First the row, so that a crash leaves files without a workspace, which the next start removes.
        self.shared.state.remove(&self.record.id, self.record.durability())?;
        let removed =
            self.shared.supervisor.ask(Ask::RemoveFiles { workspace: self.record.id.clone() }).await;
        if let Err(refusal) = removed {
            tracing::warn!(%refusal, workspace = %self.record.id, "files stay until the next start");
        }
        if let Err(error) = self.shared.journals.remove_all(&self.record.id) {
            tracing::warn!(%error, "journals stay until the next start");
        }
        self.published.send_modify(|published| published.deleted = true);
        Ok(())
    }

    fn publish(&self, state: State, failure: Option<String>) {
        let (generation, running) = (self.record.generation, self.running.clone());
        let spec = self.record.spec.clone();
        self.published.send_replace(Published { spec, state, failure, generation, running, deleted: false });
    }
}

/// Whoever asked may have gone away; what was asked for is done all the same.
fn answer(reply: oneshot::Sender<Result<(), WorkspaceError>>, result: Result<(), WorkspaceError>) {
    if let Err(Err(error)) = reply.send(result) {
        tracing::warn!(%error, "nobody waits for this any more");
    }
}
