//! One command: its descriptors, its journal, its deadlines, its end.

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, read};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::super::wire::{Failure, Outcome, Reach};
use super::stdin::Stdin;
use super::{Init, Source};
use crate::id::Id;
use crate::journal::{Cause, ExitStatus, Kind, Outcome as Ended, Stream, Writer};
use crate::sys::terminal;

/// Bytes read from a pipe at a time; the capacity of a pipe.
const CHUNK: usize = 64 * 1024;
/// Chunks read from one command before others get a turn.
const TURNS: usize = 8;

/// A command that runs, or has ended while something still holds its outputs.
pub(super) struct Process {
    id: Id,
    /// Unknown until its keeper has told.
    pid: Option<Pid>,
    running: bool,
    journal: Writer,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    pub(super) stdin: Option<Stdin>,
    /// The other side of its terminal, if it has one.
    pub(super) terminal: Option<OwnedFd>,
    /// Where the child tells that it could not run the program, and the order that waits to hear.
    exec: Option<(OwnedFd, u64)>,
    failed: bool,
    starved_before: u64,
    blame: Option<Cause>,
    signaled: Option<i32>,
    grown: bool,
    flow: Option<Flow>,
}

/// A command that waits for its reader.
struct Flow {
    /// Bytes that may be ahead of the reader.
    window: u64,
    acknowledged: u64,
    /// Whether its outputs are not read now.
    stalled: bool,
}

/// What a new process begins with.
pub(super) struct Begun {
    pub(super) id: Id,
    pub(super) journal: Writer,
    pub(super) exec: (OwnedFd, u64),
    pub(super) starved_before: u64,
    /// Bytes that may be ahead of a reader for which the command waits.
    pub(super) window: Option<u64>,
}

impl Process {
    pub(super) fn new(begun: Begun) -> Self {
        Self {
            id: begun.id,
            pid: None,
            running: true,
            journal: begun.journal,
            stdout: None,
            stderr: None,
            stdin: None,
            terminal: None,
            exec: Some(begun.exec),
            failed: false,
            starved_before: begun.starved_before,
            blame: None,
            signaled: None,
            grown: true,
            flow: begun.window.map(|window| Flow { window, acknowledged: 0, stalled: false }),
        }
    }

    /// Whether its reader is so far behind that it has to wait.
    fn full(&self) -> bool {
        let ahead = |flow: &Flow| self.journal.written().saturating_sub(flow.acknowledged) >= flow.window;
        self.running && self.flow.as_ref().is_some_and(ahead)
    }

    pub(super) fn id(&self) -> &Id {
        &self.id
    }

    /// Its number, as long as it has not been reaped and so nobody else can have it.
    pub(super) fn pid(&self) -> Option<Pid> {
        self.pid.filter(|_| self.running)
    }

    pub(super) fn running(&self) -> bool {
        self.running
    }

    /// Its keeper has started it.
    pub(super) fn begun(&mut self, pid: Pid) {
        self.pid = Some(pid);
    }

    /// Where the child tells of a failed exec, until that is settled.
    pub(super) fn exec_pipe(&self) -> Option<(BorrowedFd<'_>, u64)> {
        self.exec.as_ref().map(|(pipe, order)| (pipe.as_fd(), *order))
    }

    pub(super) fn starved_before(&self) -> u64 {
        self.starved_before
    }

    pub(super) fn failed_start(&self) -> bool {
        self.failed
    }

    pub(super) fn take_grown(&mut self) -> Option<Id> {
        std::mem::take(&mut self.grown).then(|| self.id.clone())
    }

    pub(super) fn mark_grown(&mut self) {
        self.grown = true;
    }

    /// From now on its end has this cause, unless an earlier one was given.
    pub(super) fn blame(&mut self, cause: Cause) {
        if self.running {
            self.blame.get_or_insert(cause);
        }
    }

    /// Our own part in its end, if we had one.
    pub(super) fn cause(&self, outcome: Ended) -> Option<Cause> {
        let asked = matches!((outcome, self.signaled), (Ended::Signal(by), Some(sent)) if by == sent);
        self.blame.or(asked.then_some(Cause::Cancelled))
    }

    /// Everything that is in the pipes now: what the command wrote before it ended.
    pub(super) fn drain(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            while self.take(stream) == Taken::Some {}
        }
    }

    /// Records the end. Children that hold the outputs may still write.
    pub(super) fn exit(&mut self, status: ExitStatus) {
        self.running = false;
        self.stdin = None;
        if !self.failed {
            self.record(Kind::Exit(status));
        }
    }

    fn record(&mut self, kind: Kind) {
        // A full disk loses this record but must not lose the command; the daemon learns the end by message too.
        if let Err(error) = self.journal.append(kind) {
            tracing::warn!(process = %self.id, %error, "journal");
        }
        self.grown = true;
    }

    fn output(&mut self, stream: Stream) -> &mut Option<OwnedFd> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// One read from an output into the journal.
    fn take(&mut self, stream: Stream) -> Taken {
        let Some(descriptor) = self.output(stream) else { return Taken::Ended };
        let mut buffer = [0_u8; CHUNK];
        match read(descriptor.as_fd(), &mut buffer) {
            // A terminal whose last user has gone answers EIO.
            Ok(0) | Err(Errno::EIO) => {
                *self.output(stream) = None;
                Taken::Ended
            }
            Ok(length) => {
                if let Err(error) = self.journal.output(stream, &buffer[..length]) {
                    tracing::warn!(process = %self.id, %error, "journal");
                }
                self.grown = true;
                Taken::Some
            }
            Err(Errno::EINTR) => Taken::Some,
            Err(_again) => Taken::Nothing,
        }
    }

    fn done(&self) -> bool {
        !self.running && self.stdout.is_none() && self.stderr.is_none()
    }
}

/// What one read gave.
#[derive(PartialEq, Eq)]
enum Taken {
    Some,
    Nothing,
    Ended,
}

impl Init {
    /// An output can be read.
    pub(super) fn output(&mut self, id: &Id, stream: Stream) {
        let Some(process) = self.processes.get_mut(id) else { return };
        for _turn in 0..TURNS {
            if process.full() {
                return self.stall(id);
            }
            match process.take(stream) {
                Taken::Some => {}
                Taken::Nothing => return,
                Taken::Ended => break,
            }
        }
        if process.output(stream).is_none() {
            self.forget(|source| matches!(source, Source::Output(of, s) if of == id && *s == stream));
            self.close_if_done(id);
        }
    }

    /// Leaves the outputs alone until the reader has come nearer.
    fn stall(&mut self, id: &Id) {
        let Some(process) = self.processes.get_mut(id) else { return };
        for output in [&process.stdout, &process.stderr].into_iter().flatten() {
            if let Err(errno) = self.epoll.delete(output) {
                tracing::debug!(%errno, "it was not watched");
            }
        }
        if let Some(flow) = &mut process.flow {
            flow.stalled = true;
        }
        self.forget(|source| matches!(source, Source::Output(of, _) if of == id));
    }

    pub(super) fn acknowledge(&mut self, id: &Id, bytes: u64) -> Result<Outcome, Failure> {
        let process = self.processes.get_mut(id).ok_or_else(|| failure("find the process", Errno::ESRCH))?;
        if let Some(flow) = &mut process.flow {
            flow.acknowledged = flow.acknowledged.max(bytes);
        }
        self.flow(id);
        Ok(Outcome::Done)
    }

    /// Reads the outputs again if there is no reason any more not to.
    pub(super) fn flow(&mut self, id: &Id) {
        let Some(process) = self.processes.get_mut(id) else { return };
        let stalled = process.flow.as_ref().is_some_and(|flow| flow.stalled);
        if !stalled || process.full() {
            return;
        }
        if let Some(flow) = &mut process.flow {
            flow.stalled = false;
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            let token = self.token(Source::Output(id.clone(), stream));
            let Some(process) = self.processes.get_mut(id) else { return };
            if let Some(output) = process.output(stream)
                && let Err(errno) = self.epoll.add(output, EpollEvent::new(EpollFlags::EPOLLIN, token))
            {
                tracing::warn!(process = %id, %errno, "its output is not read any more");
            }
        }
    }

    /// Lets an ended command go once nobody holds its outputs.
    pub(super) fn close_if_done(&mut self, id: &Id) {
        let Some(process) = self.processes.get(id) else { return };
        // An answer is still owed until the child's word about exec has been read.
        if !process.done() || process.exec.is_some() {
            return;
        }
        let failed = process.failed;
        self.processes.remove(id);
        self.forget(|source| match source {
            Source::Output(of, _) | Source::Input(of) | Source::Exec(of) => of == id,
            Source::Link | Source::Children | Source::Keeper(_) => false,
        });
        if !failed {
            self.flush_growth(id);
            self.say(super::FromInit::Closed { process: id.clone() });
        }
    }

    /// The last growth of a journal, told before its end.
    fn flush_growth(&mut self, id: &Id) {
        self.say(super::FromInit::Advanced { process: id.clone() });
    }

    /// The child runs its program now, or has said why it can't.
    pub(super) fn executed(&mut self, id: &Id) {
        // Whoever hears that the command runs may signal it: its number was told before.
        self.heard(id);
        let Some(process) = self.processes.get_mut(id) else { return };
        let Some((pipe, order)) = process.exec.take() else { return };
        let mut told = [0_u8; 256];
        let length = loop {
            match read(pipe.as_fd(), &mut told) {
                Err(Errno::EINTR) => {}
                other => break other.unwrap_or(0),
            }
        };
        let result = match postcard::from_bytes::<Failure>(&told[..length]) {
            Ok(failure) if length > 0 => {
                process.failed = true;
                Err(failure)
            }
            _ => Ok(Outcome::Done),
        };
        self.forget(|source| matches!(source, Source::Exec(of) if of == id));
        self.answer(order, result);
        self.close_if_done(id);
    }

    pub(super) fn signal(&mut self, id: &Id, signal: i32, reach: Reach) -> Result<Outcome, Failure> {
        let nobody = || failure("find the process", Errno::ESRCH);
        let process = self.processes.get_mut(id).filter(|process| process.running);
        let number = signal_of(signal)?;
        if reach == Reach::Tree {
            // Also what an ended command has left behind.
            let tree = self.trees.get_mut(id).ok_or_else(nobody)?;
            number.into_iter().for_each(|number| tree.signal(&self.context.processes, number));
        } else {
            // Not reaped yet, so the number is still the command's.
            let pid = process.as_ref().and_then(|process| process.pid).ok_or_else(nobody)?;
            let sent = match reach {
                Reach::Group => nix::sys::signal::killpg(pid, number),
                _ => nix::sys::signal::kill(pid, number),
            };
            sent.map_err(|errno| failure("signal", errno))?;
        }
        if let (Some(process), Some(_)) = (process, number) {
            process.signaled = Some(signal);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn resize(&mut self, id: &Id, rows: u16, columns: u16) -> Result<Outcome, Failure> {
        let process = self.processes.get(id).ok_or_else(|| failure("find the process", Errno::ESRCH))?;
        let terminal = process.terminal.as_ref().ok_or_else(|| failure("resize", Errno::ENOTTY))?;
        let resized = terminal::set_size(terminal, rows, columns);
        resized.map_err(|error| from_io("resize", &error))?;
        Ok(Outcome::Done)
    }
}

fn signal_of(number: i32) -> Result<Option<Signal>, Failure> {
    if number == 0 {
        return Ok(None);
    }
    Signal::try_from(number).map(Some).map_err(|errno| failure("signal", errno))
}

/// A failure with the kernel's number.
pub(super) fn failure(step: &str, errno: Errno) -> Failure {
    Failure { step: step.to_owned(), errno: errno as i32 }
}

/// The same from an error of the standard library.
pub(super) fn from_io(step: &str, error: &io::Error) -> Failure {
    Failure { step: step.to_owned(), errno: error.raw_os_error().unwrap_or(libc::EIO) }
}
