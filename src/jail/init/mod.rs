//! init: PID 1 of a workspace. It starts commands, reaps, writes journals, and opens files for the daemon.
//!
//! One thread, one event loop, no allocation that grows with what commands print. It obeys one socket; when the last
//! holder of the other end is gone it exits, and the kernel ends everything inside with it.

mod change;
mod files;
mod keeper;
mod members;
mod pack;
mod process;
mod search;
mod spawn;
mod stdin;
mod tree;
mod unpack;
mod walk;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id as Whom, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use self::keeper::Word;
use self::process::Process;
use self::tree::Tree;
use super::link::{Link, LinkError};
use super::wire::{Failure, FromInit, Order, Outcome, ToInit};
use crate::id::Id;
use crate::journal::{Cause, ExitStatus, Outcome as Ended};
use crate::sys::process::exit_now;

/// Most file helpers at once.
const HELPERS: usize = 64;
/// Most imports and exports at once; they last as long as their callers take.
const TRANSFERS: usize = 16;

/// What init needs to know beside its orders.
#[derive(Debug)]
pub struct Context {
    /// The kernel's counter of processes ended for want of memory.
    pub counter: Option<File>,
    /// All processes of the workspace, also those that `/proc` does not show to init.
    pub processes: OwnedFd,
    /// Whether commands run under init's own uid.
    pub rootless: bool,
}

/// What an epoll event is about.
#[derive(Clone, Debug)]
enum Source {
    Link,
    Children,
    Output(Id, crate::journal::Stream),
    Input(Id),
    Exec(Id),
    Keeper(Id),
}

struct Init {
    link: Link,
    context: Context,
    epoll: Epoll,
    children: SignalFd,
    sources: HashMap<u64, Source>,
    next_source: u64,
    processes: BTreeMap<Id, Process>,
    trees: BTreeMap<Id, Tree>,
    /// With the order that each is to answer.
    helpers: Vec<(Pid, u64)>,
    transfers: Vec<(Pid, u64)>,
    outbox: VecDeque<FromInit>,
    blocked: bool,
    stop: Option<Instant>,
    /// Since when time limits stand still.
    held: Option<Instant>,
}

/// The event loop. Ends with the process.
pub fn run(link: Link, context: Context) -> ! {
    let code = match Init::new(link, context) {
        Ok(mut init) => init.serve(),
        Err(_errno) => 1,
    };
    exit_now(code)
}

impl Init {
    fn new(link: Link, context: Context) -> nix::Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let children = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut init = Self {
            link,
            context,
            epoll,
            children,
            sources: HashMap::new(),
            next_source: 0,
            processes: BTreeMap::new(),
            trees: BTreeMap::new(),
            helpers: Vec::new(),
            transfers: Vec::new(),
            outbox: VecDeque::new(),
            blocked: false,
            stop: None,
            held: None,
        };
        let events = EpollEvent::new(EpollFlags::EPOLLIN, init.token(Source::Link));
        init.epoll.add(init.link.socket(), events)?;
        let events = EpollEvent::new(EpollFlags::EPOLLIN, init.token(Source::Children));
        init.epoll.add(&init.children, events)?;
        Ok(init)
    }

    fn token(&mut self, source: Source) -> u64 {
        self.next_source += 1;
        self.sources.insert(self.next_source, source);
        self.next_source
    }

    fn watch(&mut self, descriptor: BorrowedFd<'_>, flags: EpollFlags, source: Source) -> nix::Result<()> {
        let token = self.token(source);
        self.epoll.add(descriptor, EpollEvent::new(flags, token))
    }

    /// Stops watching; the descriptor is closed by the caller, which also takes it out of the epoll set.
    fn forget(&mut self, what: impl Fn(&Source) -> bool) {
        self.sources.retain(|_, source| !what(source));
    }

    fn serve(&mut self) -> i32 {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(_errno) => return 1,
            };
            for event in &events[..count] {
                let Some(source) = self.sources.get(&event.data()).cloned() else { continue };
                // Without the daemon's and the supervisor's end there is nobody to work for.
                let Ok(()) = self.heed(source) else { return 0 };
            }
            self.deadlines();
            self.flush();
            if self.stop.is_some() && self.processes.is_empty() && nothing_left() {
                return 0;
            }
        }
    }

    fn heed(&mut self, source: Source) -> Result<(), LinkError> {
        match source {
            Source::Link => {
                self.orders()?;
                self.flush();
            }
            Source::Children => self.reap(),
            Source::Output(id, stream) => self.output(&id, stream),
            Source::Input(id) => self.feed(&id),
            Source::Exec(id) => self.executed(&id),
            Source::Keeper(id) => self.heard(&id),
        }
        Ok(())
    }

    /// Time to the nearest deadline.
    fn timeout(&self) -> EpollTimeout {
        let ticking = self.trees.values().filter(|_| self.held.is_none());
        let nearest = ticking.filter_map(Tree::deadline).chain(self.stop).min();
        let Some(at) = nearest else { return EpollTimeout::NONE };
        let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        EpollTimeout::try_from(left.min(Duration::from_secs(3600))).unwrap_or(EpollTimeout::NONE)
    }

    fn orders(&mut self) -> Result<(), LinkError> {
        loop {
            match self.link.try_receive::<ToInit>() {
                Ok((message, descriptors)) => self.order(message, descriptors),
                Err(LinkError::Full) => return Ok(()),
                // One bad message does not end a workspace.
                Err(LinkError::Malformed | LinkError::TooLarge(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn order(&mut self, message: ToInit, descriptors: Vec<OwnedFd>) {
        let id = message.id;
        let result = match message.order {
            Order::Start(order) => match self.start(id, *order, descriptors) {
                // The answer follows when the program runs, or could not be run.
                Ok(()) => return,
                Err(failure) => Err(failure),
            },
            Order::Signal { process, signal, reach } => self.signal(&process, signal, reach),
            Order::Stdin { process, offset, data, end } => {
                match self.stdin(id, &process, &stdin::Chunk { offset, data, end }) {
                    Ok(Some(taken)) => Ok(Outcome::Taken(taken)),
                    Ok(None) => return,
                    Err(failure) => Err(failure),
                }
            }
            Order::Resize { process, rows, columns } => self.resize(&process, rows, columns),
            Order::Acknowledge { process, bytes } => self.acknowledge(&process, bytes),
            Order::Hold(held) => self.hold(held),
            Order::List => Ok(Outcome::Running(self.processes.keys().cloned().collect())),
            Order::Stop { grace } => self.begin_stop(grace),
            Order::File(order) => match self.help(id, order, descriptors) {
                Ok(()) => return,
                Err(failure) => Err(failure),
            },
        };
        self.answer(id, result);
    }

    fn answer(&mut self, id: u64, result: Result<Outcome, Failure>) {
        if id != 0 {
            self.say(FromInit::Answer { id, result });
        }
    }

    fn say(&mut self, message: FromInit) {
        self.outbox.push_back(message);
    }

    /// Sends what the daemon takes; the rest waits until it reads again, or until its successor does.
    fn flush(&mut self) {
        while let Some(message) = self.outbox.front() {
            match self.link.try_send(message, &[]) {
                Ok(()) => drop(self.outbox.pop_front()),
                Err(_full) => return self.await_room(true),
            }
        }
        let grown: Vec<Id> = self.processes.values_mut().filter_map(Process::take_grown).collect();
        for (at, process) in grown.iter().enumerate() {
            if self.link.try_send(&FromInit::Advanced { process: process.clone() }, &[]).is_err() {
                self.processes
                    .values_mut()
                    .filter(|process| grown[at..].contains(process.id()))
                    .for_each(Process::mark_grown);
                return self.await_room(true);
            }
        }
        self.await_room(false);
    }

    /// Asks to be told when the link can be written, or no longer.
    fn await_room(&mut self, wanted: bool) {
        if self.blocked == wanted {
            return;
        }
        let Some(token) =
            self.sources.iter().find(|(_, s)| matches!(s, Source::Link)).map(|(token, _)| *token)
        else {
            return;
        };
        let flags = if wanted { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
        if self.epoll.modify(self.link.socket(), &mut EpollEvent::new(flags, token)).is_ok() {
            self.blocked = wanted;
        }
    }

    /// Collects every child that has ended: commands, helpers, and orphans that were handed to us.
    fn reap(&mut self) {
        while let Ok(Some(_signal)) = self.children.read_signal() {}
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
                Ok(WaitStatus::Exited(pid, code)) => self.reaped(pid, Ended::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => self.reaped(pid, Ended::Signal(signal as i32)),
                Ok(WaitStatus::Stopped(pid, _)) => self.stopped(pid),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    fn reaped(&mut self, pid: Pid, ended: Ended) {
        self.helper_ended(pid, ended);
        let keeper = self.trees.iter().find(|(_, tree)| tree.keeper() == pid);
        if let Some(id) = keeper.map(|(id, _)| id.clone()) {
            return self.keeper_ended(&id, ended);
        }
        let found = self.processes.values().find(|process| process.pid() == Some(pid));
        if let Some(id) = found.map(|process| process.id().clone()) {
            self.ended(&id, ended);
        }
    }

    /// Rootless, a command can stop its keeper, which must go on.
    fn stopped(&self, pid: Pid) {
        if self.trees.values().any(|tree| tree.keeper() == pid)
            && let Err(errno) = kill(pid, Signal::SIGCONT)
        {
            tracing::debug!(%pid, %errno, "continue a keeper");
        }
    }

    /// A keeper has something to say.
    pub(super) fn heard(&mut self, id: &Id) {
        while let Some(link) = self.trees.get(id).and_then(|tree| tree.link.as_ref()) {
            match link.try_receive::<Word>() {
                Ok((Word::Begun(pid), _)) => {
                    let process = self.processes.get_mut(id);
                    process.into_iter().for_each(|process| process.begun(Pid::from_raw(pid)));
                }
                Ok((Word::Ended(outcome), _)) => self.ended(id, outcome),
                Err(LinkError::Full) => return,
                Err(_gone) => return self.forget(|source| matches!(source, Source::Keeper(of) if of == id)),
            }
        }
    }

    /// Nothing is left of a command; or, rootless, a command has killed a keeper. Then what the keeper had comes to us
    /// and ends, for it could not be told from another's any more.
    fn keeper_ended(&mut self, id: &Id, how: Ended) {
        self.heard(id);
        self.forget(|source| matches!(source, Source::Keeper(of) if of == id));
        self.trees.remove(id);
        if how != Ended::Code(0) && self.stop.is_none() {
            let keepers = self.trees.values().map(Tree::keeper);
            let helpers = self.helpers.iter().chain(&self.transfers).map(|(pid, _)| *pid);
            let ours: BTreeSet<Pid> = keepers.chain(helpers).collect();
            tree::send(&self.context.processes, (Pid::this(), &ours), Signal::SIGKILL);
        }
        // A command whose number is known is our own child now and will be reaped like one.
        let process = self.processes.get(id).filter(|process| process.running());
        if process.is_some_and(|process| process.pid().is_none()) {
            self.ended(id, Ended::Signal(Signal::SIGKILL as i32));
        }
    }

    /// A helper that was killed may not have answered; whom it has answered does not wait any more.
    fn helper_ended(&mut self, pid: Pid, outcome: Ended) {
        let mut order = None;
        for helpers in [&mut self.helpers, &mut self.transfers] {
            let ended = helpers.extract_if(.., |(helper, _)| *helper == pid).map(|(_, id)| id);
            order = order.or(ended.last());
        }
        if let Some(order) = order
            && outcome != Ended::Code(0)
        {
            self.answer(order, Err(process::failure("file helper", Errno::ECANCELED)));
        }
    }

    fn ended(&mut self, id: &Id, outcome: Ended) {
        // A program that could not be run has said so before its process ended.
        self.executed(id);
        let starved = self.starved();
        let Some(process) = self.processes.get_mut(id) else { return };
        process.drain();
        let killed = outcome == Ended::Signal(libc::SIGKILL);
        let natural = match outcome {
            Ended::Signal(_) => Cause::Signaled,
            _ => Cause::Exited,
        };
        let cause = match process.cause(outcome) {
            Some(cause) => cause,
            None if killed && starved > process.starved_before() => Cause::OutOfMemory,
            None => natural,
        };
        let status = ExitStatus { outcome, cause };
        process.exit(status);
        // Closes the link: the keeper may reap now.
        self.trees.get_mut(id).into_iter().for_each(Tree::command_ended);
        self.forget(|source| matches!(source, Source::Keeper(of) if of == id));
        self.flow(id);
        let Some(process) = self.processes.get_mut(id) else { return };
        let failed_start = process.failed_start();
        if !failed_start {
            self.say(FromInit::Exited { process: id.clone(), status });
        }
        self.close_if_done(id);
    }

    /// Processes that the kernel has ended so far because the workspace's memory was used up.
    fn starved(&self) -> u64 {
        let mut text = [0_u8; 512];
        let read = self.context.counter.as_ref().and_then(|file| file.read_at(&mut text, 0).ok());
        let text = String::from_utf8_lossy(&text[..read.unwrap_or(0)]);
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
        count.unwrap_or(0)
    }

    /// TERM for everybody now, KILL for whoever is left at the end of the grace.
    fn begin_stop(&mut self, grace: u64) -> Result<Outcome, Failure> {
        for process in self.processes.values_mut() {
            process.blame(Cause::WorkspaceStopped);
        }
        self.release();
        everybody(Signal::SIGTERM);
        everybody(Signal::SIGCONT);
        self.stop = Some(Instant::now() + Duration::from_millis(grace));
        Ok(Outcome::Done)
    }

    /// While a workspace is paused the clock goes on, its time limits must not. They stand still before everything is
    /// frozen and go on only by an order after the thaw, so none is up in between, whatever is served first.
    fn hold(&mut self, held: bool) -> Result<Outcome, Failure> {
        if held {
            self.held.get_or_insert_with(Instant::now);
        } else {
            self.release();
        }
        Ok(Outcome::Done)
    }

    fn release(&mut self) {
        let Some(since) = self.held.take() else { return };
        let passed = since.elapsed();
        self.trees.values_mut().for_each(|tree| tree.postpone(passed));
    }

    fn deadlines(&mut self) {
        let now = Instant::now();
        if self.stop.is_some_and(|at| at <= now) {
            everybody(Signal::SIGKILL);
            self.stop = Some(now + Duration::from_millis(50));
        }
        if self.held.is_some() {
            return;
        }
        for (id, tree) in &mut self.trees {
            if tree.enforce(&self.context.processes, now)
                && let Some(process) = self.processes.get_mut(id)
            {
                process.blame(Cause::TimedOut);
            }
        }
    }
}

/// Everything in this pid namespace but us (kill(2) with -1); nobody there is no failure.
fn everybody(signal: Signal) {
    if let Err(errno) = kill(Pid::from_raw(-1), signal)
        && errno != Errno::ESRCH
    {
        tracing::debug!(%errno, "signal to everybody");
    }
}

/// Whether no child is left, not even one that was handed to us.
fn nothing_left() -> bool {
    let look = WaitPidFlag::WNOHANG | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    waitid(Whom::All, look) == Err(Errno::ECHILD)
}
