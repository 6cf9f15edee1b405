//! stdin of a command: bytes by offset, so that a repeated piece counts once and a missing one is noticed.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::unistd::write;

use super::super::wire::{Failure, Outcome};
use super::process::failure;
use super::{Init, Source};
use crate::id::Id;

/// The writing side of a command's stdin.
pub(super) struct Stdin {
    pipe: OwnedFd,
    /// Bytes given to the kernel so far.
    written: u64,
    /// Bytes that did not fit yet, and the order that waits for them.
    waiting: Option<(u64, Vec<u8>)>,
    /// Nothing follows what waits.
    end: bool,
    /// A terminal gets an end-of-file character instead of being closed.
    terminal: bool,
}

/// A piece of stdin.
pub(super) struct Chunk {
    pub(super) offset: u64,
    pub(super) data: Vec<u8>,
    pub(super) end: bool,
}

impl Stdin {
    pub(super) fn new(pipe: OwnedFd, terminal: bool) -> Self {
        Self { pipe, written: 0, waiting: None, end: false, terminal }
    }

    /// Writes as much as fits. True if nothing is left.
    fn push(&mut self) -> Result<bool, Errno> {
        while let Some((_, data)) = &mut self.waiting {
            if data.is_empty() {
                return Ok(true);
            }
            match write(self.pipe.as_fd(), data) {
                Ok(length) => {
                    self.written += length as u64;
                    drop(data.drain(..length));
                }
                Err(Errno::EAGAIN) => return Ok(false),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(true)
    }
}

impl Init {
    /// Takes a piece of stdin. `None` if the answer follows once there is room.
    pub(super) fn stdin(&mut self, order: u64, id: &Id, chunk: &Chunk) -> Result<Option<u64>, Failure> {
        let process = self.processes.get_mut(id).ok_or_else(|| failure("find the process", Errno::ESRCH))?;
        let ended = process.pid().is_none();
        let stdin = process.stdin.as_mut();
        let stdin =
            stdin.ok_or_else(|| failure("write stdin", if ended { Errno::ESRCH } else { Errno::EPIPE }))?;
        if stdin.waiting.is_some() {
            return Err(failure("write stdin", Errno::EBUSY));
        }
        if stdin.end || chunk.offset > stdin.written {
            return Err(failure("write stdin", Errno::EINVAL));
        }
        let known = usize::try_from(stdin.written - chunk.offset).unwrap_or(usize::MAX).min(chunk.data.len());
        stdin.waiting = Some((order, chunk.data[known..].to_vec()));
        stdin.end = chunk.end;
        if stdin.end && stdin.terminal {
            // Control-D: what a terminal understands as the end.
            stdin.waiting.as_mut().into_iter().for_each(|(_, data)| data.push(4));
        }
        self.feed(id);
        Ok(None)
    }

    /// There is something to write, or room to write it.
    pub(super) fn feed(&mut self, id: &Id) {
        let Some(process) = self.processes.get_mut(id) else { return };
        let Some(stdin) = &mut process.stdin else { return };
        let pushed = stdin.push();
        if pushed == Ok(false) {
            return self.await_input(id);
        }
        let Some((order, _)) = stdin.waiting.take() else { return };
        let written = stdin.written;
        if stdin.end || pushed.is_err() {
            process.stdin = None;
        }
        self.forget(|source| matches!(source, Source::Input(of) if of == id));
        let result = pushed.map(|_| Outcome::Taken(written)).map_err(|errno| failure("write stdin", errno));
        self.answer(order, result);
    }

    fn await_input(&mut self, id: &Id) {
        // Told once per wait: one that goes on needs its registration switched on again.
        let known = self.sources.iter().find(|(_, source)| matches!(source, Source::Input(of) if of == id));
        let known = known.map(|(token, _)| *token);
        let token = known.unwrap_or_else(|| self.token(Source::Input(id.clone())));
        let Some(stdin) = self.processes.get(id).and_then(|process| process.stdin.as_ref()) else { return };
        let events = EpollEvent::new(EpollFlags::EPOLLOUT | EpollFlags::EPOLLONESHOT, token);
        // A second wait for the same pipe only needs the old registration switched on again.
        let added = match self.epoll.add(&stdin.pipe, events) {
            Err(Errno::EEXIST) => self.epoll.modify(&stdin.pipe, &mut { events }),
            other => other,
        };
        if let Err(errno) = added {
            tracing::warn!(process = %id, %errno, "watch stdin");
        }
    }
}
