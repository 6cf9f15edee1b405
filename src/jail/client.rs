//! The daemon's side of its two sockets: questions with answers, and events, without a thread per question.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use super::link::{Link, LinkError};
use super::wire::{
    Ask, Done, Failure, FileOrder, FromInit, FromSupervisor, Order, Outcome, Refusal, ToInit, ToSupervisor,
};
use crate::shutdown::Shutdown;
use crate::sys::net::readiness;

type Answer<T, E> = (Result<T, E>, Vec<OwnedFd>);

/// A link in an event loop.
#[derive(Debug)]
struct Connection {
    link: Link,
    readiness: AsyncFd<OwnedFd>,
}

impl Connection {
    fn new(link: Link) -> io::Result<Self> {
        let readiness = readiness(link.socket().try_clone()?)?;
        Ok(Self { link, readiness })
    }

    async fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        loop {
            let mut ready = self.readiness.writable().await?;
            match self.link.try_send(message, descriptors) {
                Err(LinkError::Full) => ready.clear_ready(),
                other => return other,
            }
        }
    }

    async fn receive<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), LinkError> {
        loop {
            let mut ready = self.readiness.readable().await?;
            match self.link.try_receive() {
                Err(LinkError::Full) => ready.clear_ready(),
                other => return other,
            }
        }
    }
}

/// Questions that wait for their answers. Ids begin at a random number, so that an answer that was meant for an
/// earlier daemon is nobody's.
#[derive(Debug)]
struct Waiting<T, E> {
    next: AtomicU64,
    open: Mutex<HashMap<u64, oneshot::Sender<Answer<T, E>>>>,
}

impl<T, E> Waiting<T, E> {
    fn new() -> Self {
        Self { next: AtomicU64::new(rand::random::<u64>() >> 1 | 1), open: Mutex::default() }
    }

    fn ask(&self) -> (u64, oneshot::Receiver<Answer<T, E>>) {
        let (sender, receiver) = oneshot::channel();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        (id, receiver)
    }

    fn settle(&self, id: u64, answer: Answer<T, E>) {
        let asked = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if let Some(asked) = asked
            && asked.send(answer).is_err()
        {
            tracing::trace!(id, "nobody waits for this answer any more");
        }
    }

    fn end(&self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Why a question to init has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// init says why not.
    #[error("{}: {}", .0.step, Errno::from_raw(.0.errno).desc())]
    Failed(Failure),
    /// init is gone: the workspace has ended.
    #[error("the workspace has ended")]
    Gone,
    /// The question could not be sent.
    #[error(transparent)]
    Link(LinkError),
}

impl From<LinkError> for AskError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Closed => Self::Gone,
            other => Self::Link(other),
        }
    }
}

/// Talks to the init of one workspace.
#[derive(Clone, Debug)]
pub struct InitClient {
    connection: Arc<Connection>,
    waiting: Arc<Waiting<Outcome, Failure>>,
}

impl InitClient {
    /// Takes over the daemon's end of the socket. Events arrive on the channel, which closes when init is gone.
    ///
    /// # Errors
    /// If the event loop cannot take the socket.
    pub fn new(control: OwnedFd, scope: &Shutdown) -> io::Result<(Self, mpsc::UnboundedReceiver<FromInit>)> {
        let connection = Arc::new(Connection::new(Link::from_socket(control))?);
        let waiting = Arc::new(Waiting::new());
        let (events, received) = mpsc::unbounded_channel();
        let client = Self { connection, waiting };
        scope.spawn_until_cancelled(client.clone().listen(events));
        Ok((client, received))
    }

    async fn listen(self, events: mpsc::UnboundedSender<FromInit>) {
        loop {
            match self.connection.receive::<FromInit>().await {
                Ok((FromInit::Answer { id, result }, descriptors)) => {
                    self.waiting.settle(id, (result, descriptors));
                }
                Ok((event, _)) => {
                    if events.send(event).is_err() {
                        break;
                    }
                }
                // init is our own code, but it stands nearest to the commands: one odd message is dropped.
                Err(LinkError::Malformed | LinkError::TooLarge(_)) => {
                    tracing::warn!("malformed message from an init");
                }
                Err(error) => {
                    tracing::debug!(%error, "init's socket");
                    break;
                }
            }
        }
        self.waiting.end();
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn ask(
        &self,
        order: Order,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Outcome, Vec<OwnedFd>), AskError> {
        let (id, answer) = self.waiting.ask();
        self.connection.send(&ToInit { id, order }, descriptors).await?;
        let (result, descriptors) = answer.await.map_err(|_ended| AskError::Gone)?;
        Ok((result.map_err(AskError::Failed)?, descriptors))
    }

    /// Says something that needs no answer, which a paused workspace could not give.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn tell(&self, order: Order) -> Result<(), AskError> {
        Ok(self.connection.send(&ToInit { id: 0, order }, &[]).await?)
    }

    /// A file call; most answers carry a descriptor.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn file(
        &self,
        order: FileOrder,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Outcome, Vec<OwnedFd>), AskError> {
        self.ask(Order::File(order), descriptors).await
    }
}

/// What the supervisor says that is no answer, with its descriptors.
pub type Events = mpsc::UnboundedReceiver<(FromSupervisor, Vec<OwnedFd>)>;

/// Talks to the supervisor.
#[derive(Clone, Debug)]
pub struct SupervisorClient {
    connection: Arc<Connection>,
    waiting: Arc<Waiting<Done, Refusal>>,
}

impl SupervisorClient {
    /// Takes over the inherited socket. Everything that is no answer arrives on the channel, with its descriptors.
    ///
    /// # Errors
    /// If the event loop cannot take the socket.
    pub fn new(socket: OwnedFd, scope: &Shutdown) -> io::Result<(Self, Events)> {
        let client = Self {
            connection: Arc::new(Connection::new(Link::from_socket(socket))?),
            waiting: Arc::new(Waiting::new()),
        };
        let (events, received) = mpsc::unbounded_channel();
        scope.spawn_until_cancelled(client.clone().listen(events));
        Ok((client, received))
    }

    async fn listen(self, events: mpsc::UnboundedSender<(FromSupervisor, Vec<OwnedFd>)>) {
        loop {
            match self.connection.receive::<FromSupervisor>().await {
                Ok((FromSupervisor::Answer { id, result }, descriptors)) => {
                    self.waiting.settle(id, (result, descriptors));
                }
                Ok(event) => {
                    if events.send(event).is_err() {
                        break;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the supervisor's socket");
                    break;
                }
            }
        }
        self.waiting.end();
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The supervisor's refusal, or that it is gone.
    pub async fn ask(&self, ask: Ask) -> Result<(Done, Vec<OwnedFd>), Refusal> {
        let (id, answer) = self.waiting.ask();
        let sent = self.connection.send(&ToSupervisor { id, ask }, &[]).await;
        sent.map_err(|error| Refusal::new("ask the supervisor", error))?;
        let gone = |_ended| Refusal::new("ask the supervisor", "it is gone");
        let (result, descriptors) = answer.await.map_err(gone)?;
        Ok((result?, descriptors))
    }

    /// Says something that has no answer.
    ///
    /// # Errors
    /// That the supervisor is gone.
    pub async fn tell(&self, ask: Ask) -> Result<(), Refusal> {
        let sent = self.connection.send(&ToSupervisor { id: 0, ask }, &[]).await;
        sent.map_err(|error| Refusal::new("tell the supervisor", error))
    }
}
