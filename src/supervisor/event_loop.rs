//! The supervisor's one loop: signals, children, the lifeline, the daemon, jails that are being made.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::daemon_process::DaemonProcess;
use super::jails::{Jails, Message};
use super::operator::Operator;
use super::state_dir::StateDir;
use super::{Failure, Ready};
use crate::id::Id;
use crate::jail::link::LinkError;
use crate::jail::wire::{Ask, Done, FromSupervisor, Hello, Refusal, ToSupervisor};

/// How long the daemon may take to stop all workspaces before everything is killed.
const DRAIN: Duration = Duration::from_secs(10);

pub(super) struct Supervisor {
    state: StateDir,
    operator: Operator,
    jails: Jails,
    lifeline: Option<OwnedFd>,
    signals: SignalFd,
    daemon: Option<DaemonProcess>,
    /// When the next daemon is due.
    due: Instant,
    failures: u32,
    stage: Stage,
}

/// Where the supervisor is in its life.
enum Stage {
    Running,
    /// Asked to stop; everything is killed at this time.
    Draining(Instant),
    /// Waiting for the kernel to end the last jail.
    Killing,
}

/// What woke the loop.
enum Event {
    Signal,
    Lifeline,
    Daemon,
    Jail(Id),
}

impl Supervisor {
    pub(super) fn new(
        state: StateDir,
        operator: Operator,
        jails: Jails,
        lifeline: Option<OwnedFd>,
    ) -> Result<Self, Failure> {
        let failed = |errno: Errno| Failure::new("signals", "signalfd", errno);
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
            mask.add(signal);
        }
        mask.thread_block().map_err(failed)?;
        let signals =
            SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map_err(failed)?;
        // No core file, no ptrace: this process sees secrets pass. Rootless it must stay the owner of its children's
        // files in /proc to write their identity maps, and everything that could trace it is its own user's anyway.
        prctl::set_dumpable(state.rootless()).map_err(|errno| Failure::new("prctl", "dumpable", errno))?;
        let (daemon, failures) = (None, 0);
        Ok(Self {
            state,
            operator,
            jails,
            lifeline,
            signals,
            daemon,
            due: Instant::now(),
            failures,
            stage: Stage::Running,
        })
    }

    pub(super) fn run(mut self, ready: &mut Ready) -> Result<(), Failure> {
        let ended = self.serve(ready);
        // Nothing is left behind, whatever ended the loop: a cgroup can only go when its last process is gone.
        self.end_everything();
        while self.daemon.is_some() || !self.jails.is_empty() {
            let Some(pid) = self.reap(WaitPidFlag::empty()) else { break };
            self.daemon.take_if(|daemon| daemon.pid == pid);
        }
        self.jails.close();
        self.state.close();
        ended
    }

    fn serve(&mut self, ready: &mut Ready) -> Result<(), Failure> {
        loop {
            self.keep_daemon()?;
            let events = self.wait()?;
            if events.is_empty() && self.has_leisure() {
                self.jails.refill();
            }
            for event in events {
                match event {
                    Event::Signal => self.signal(),
                    Event::Lifeline => {
                        self.lifeline = None;
                        self.drain();
                    }
                    Event::Daemon => self.daemon_asks(ready)?,
                    Event::Jail(workspace) => {
                        let message = self.jails.heard(&workspace);
                        self.tell(message);
                    }
                }
            }
            while let Some(pid) = self.reap(WaitPidFlag::WNOHANG) {
                if self.daemon.as_ref().is_some_and(|daemon| daemon.pid == pid) {
                    self.last_words(ready)?;
                    self.daemon_ended();
                }
            }
            if let Stage::Draining(until) = self.stage
                && (self.daemon.is_none() || until <= Instant::now())
            {
                self.end_everything();
            }
            if matches!(self.stage, Stage::Killing) && self.daemon.is_none() && self.jails.is_empty() {
                return Ok(());
            }
        }
    }

    fn keep_daemon(&mut self) -> Result<(), Failure> {
        if self.daemon.is_some() || !matches!(self.stage, Stage::Running) || Instant::now() < self.due {
            return Ok(());
        }
        let mut daemon = DaemonProcess::spawn(&self.state)?;
        let listener = self.state.listener.as_fd().try_clone_to_owned();
        let listener = listener.map_err(|error| Failure::new("start the daemon", "descriptor", error))?;
        let hello = Hello {
            state_dir: self.state.path.to_string_lossy().into_owned(),
            owner: nix::unistd::geteuid().as_raw(),
            rootless: self.state.rootless(),
            documents: self.operator.documents(),
            roots: self.operator.roots(),
        };
        daemon.send(FromSupervisor::Hello(hello), vec![listener]);
        for (message, descriptors) in self.jails.running() {
            daemon.send(message, descriptors);
        }
        daemon.send(FromSupervisor::Serve, Vec::new());
        self.daemon = Some(daemon);
        Ok(())
    }

    fn wait(&self) -> Result<Vec<Event>, Failure> {
        let readable = PollFlags::POLLIN;
        let mut watched = vec![(self.signals.as_fd(), readable, Event::Signal)];
        watched.extend(self.lifeline.iter().map(|lifeline| (lifeline.as_fd(), readable, Event::Lifeline)));
        if let Some(daemon) = &self.daemon
            && let Some(socket) = daemon.socket()
        {
            let flags = if daemon.backlog() { readable | PollFlags::POLLOUT } else { readable };
            watched.push((socket, flags, Event::Daemon));
        }
        let starting = self.jails.starting().into_iter();
        watched.extend(starting.map(|(workspace, socket)| (socket, readable, Event::Jail(workspace))));
        let mut polled: Vec<_> =
            watched.iter().map(|(socket, flags, _)| PollFd::new(*socket, *flags)).collect();
        match poll(&mut polled, self.timeout()) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Failure::new("event loop", "poll", errno)),
        }
        let woken = polled.iter().map(|polled| polled.any().unwrap_or(false));
        let woken: Vec<bool> = woken.collect();
        Ok(woken
            .into_iter()
            .zip(watched)
            .filter_map(|(woken, (_, _, event))| woken.then_some(event))
            .collect())
    }

    /// Whether there is work that can wait for a quiet moment.
    fn has_leisure(&self) -> bool {
        matches!(self.stage, Stage::Running) && self.jails.lacks_spare()
    }

    fn timeout(&self) -> PollTimeout {
        if self.has_leisure() {
            return PollTimeout::ZERO;
        }
        let until = match self.stage {
            Stage::Running if self.daemon.is_none() => self.due,
            Stage::Draining(until) => until,
            _ => return PollTimeout::NONE,
        };
        let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }

    fn signal(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                match self.stage {
                    Stage::Running => self.drain(),
                    // Asked twice: no more patience.
                    _ => self.end_everything(),
                }
            }
        }
    }

    /// Asks the daemon to stop all workspaces and to end.
    fn drain(&mut self) {
        if !matches!(self.stage, Stage::Running) {
            return;
        }
        self.stage = Stage::Draining(Instant::now() + DRAIN);
        self.tell(Some((FromSupervisor::Shutdown, Vec::new())));
    }

    fn end_everything(&mut self) {
        self.stage = Stage::Killing;
        self.jails.kill_all();
        self.kill_daemon();
    }

    /// Not reaped yet, so the number is still the daemon's.
    fn kill_daemon(&self) {
        if let Some(daemon) = &self.daemon
            && let Err(errno) = kill(daemon.pid, Signal::SIGKILL)
        {
            tracing::debug!(%errno, "the daemon had ended already");
        }
    }

    /// Buries one child that has ended; none if there is none. What the end of the daemon means is up to the caller.
    fn reap(&mut self, how: WaitPidFlag) -> Option<Pid> {
        loop {
            let pid = match waitpid(None, Some(how)) {
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) => pid,
                Ok(WaitStatus::StillAlive) => return None,
                Err(Errno::EINTR) | Ok(_) => continue,
                Err(_no_child) => return None,
            };
            for message in self.jails.reaped(pid) {
                self.tell(Some(message));
            }
            return Some(pid);
        }
    }

    /// What a daemon that has ended said before: why it could not serve may be among it.
    fn last_words(&mut self, ready: &mut Ready) -> Result<(), Failure> {
        while let Some(daemon) = &self.daemon
            && let Ok((said, _)) = daemon.link.try_receive::<ToSupervisor>()
        {
            if let Ask::Unfit { problem } = said.ask {
                self.unfit(&problem, ready)?;
            }
        }
        Ok(())
    }

    fn daemon_ended(&mut self) {
        let Some(daemon) = self.daemon.take() else { return };
        self.jails.kill_starting();
        if matches!(self.stage, Stage::Running) {
            let wait = daemon.wait_after(&mut self.failures);
            tracing::warn!(after_ms = wait.as_millis() as u64, "the daemon ended; another one is started");
            self.due = Instant::now() + wait;
        }
    }

    fn tell(&mut self, message: Option<Message>) {
        if let (Some((message, descriptors)), Some(daemon)) = (message, self.daemon.as_mut()) {
            daemon.send(message, descriptors);
        }
    }

    fn daemon_asks(&mut self, ready: &mut Ready) -> Result<(), Failure> {
        loop {
            let Some(daemon) = self.daemon.as_mut() else { return Ok(()) };
            daemon.flush();
            match daemon.link.try_receive::<ToSupervisor>() {
                Ok((ToSupervisor { ask: Ask::Serving, .. }, _)) => ready.serving(),
                Ok((ToSupervisor { ask: Ask::Unfit { problem }, .. }, _)) => self.unfit(&problem, ready)?,
                Ok((asked, _)) => self.obey(asked),
                Err(LinkError::Full) => return Ok(()),
                Err(error) => {
                    // Ended, or not speaking our language: its successor starts from the beginning.
                    tracing::debug!(%error, "the daemon's socket");
                    self.kill_daemon();
                    if let Some(daemon) = self.daemon.as_mut() {
                        daemon.hang_up();
                    }
                    return Ok(());
                }
            }
        }
    }

    /// A daemon that never served ends the start; a later one is started again.
    fn unfit(&mut self, problem: &str, ready: &mut Ready) -> Result<(), Failure> {
        if ready.pending() {
            let mut parts = problem.splitn(3, ": ").map(str::to_owned);
            let mut part = || parts.next().unwrap_or_default();
            let (what, object, remedy) = (part(), part(), part());
            return Err(Failure {
                what: "the daemon can't serve",
                object: format!("{what}: {object}"),
                remedy,
            });
        }
        tracing::error!("the daemon can't serve: {problem}");
        Ok(())
    }

    fn obey(&mut self, ToSupervisor { id, ask }: ToSupervisor) {
        let (result, descriptors) = match ask {
            Ask::Start(_) if !matches!(self.stage, Stage::Running) => {
                (Err(Refusal::new("start", "Hands is stopping")), Vec::new())
            }
            Ask::Start(request) => match self.jails.start(id, *request) {
                Ok(()) => return,
                Err(refusal) => (Err(refusal), Vec::new()),
            },
            Ask::Kill { workspace } => {
                if self.jails.kill(id, &workspace) {
                    return;
                }
                (Ok(Done::Done), Vec::new())
            }
            Ask::Freeze { workspace, frozen } => (self.jails.freeze(&workspace, frozen), Vec::new()),
            Ask::RemoveFiles { workspace } => {
                (self.jails.remove_files(&workspace).map(|()| Done::Done), Vec::new())
            }
            Ask::OpenSecret { credential } => match self.operator.open_secret(&credential) {
                Ok((changes, descriptors)) => (Ok(Done::Secret(changes)), descriptors),
                Err(refusal) => (Err(refusal), Vec::new()),
            },
            Ask::Serving | Ask::Unfit { .. } => return,
        };
        self.tell(Some((FromSupervisor::Answer { id, result }, descriptors)));
    }
}
