//! Reaching everything that came from a command: what its keeper has below it, and deadlines that hold for all of it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::fcntl::{OFlag, openat};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use super::super::link::Link;

/// Rounds of looking for children born while we signalled.
const ROUNDS: usize = 16;
/// Time after which what was killed is looked for again: a fork bomb may be faster than one look.
const AGAIN: Duration = Duration::from_millis(20);

/// Everything that came from one command, as long as any of it is left.
pub(super) struct Tree {
    keeper: Pid,
    /// Where the keeper tells; closed once the end of the command is known.
    pub(super) link: Option<Link>,
    limits: TimeLimits,
}

/// Deadlines of a command.
pub(super) struct TimeLimits {
    /// When TERM is due.
    pub(super) term: Option<Instant>,
    /// When KILL is due.
    pub(super) kill: Option<Instant>,
    /// Time between the two.
    pub(super) grace: Duration,
}

impl Tree {
    pub(super) fn new(keeper: Pid, link: Link, limits: TimeLimits) -> Self {
        Self { keeper, link: Some(link), limits }
    }

    /// The keeper's number; it is ours to reap, so nobody else can have it.
    pub(super) fn keeper(&self) -> Pid {
        self.keeper
    }

    /// When something is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.limits.term.into_iter().chain(self.limits.kill).min()
    }

    /// The command has ended by itself: what it left behind may stay, unless its time was up before.
    pub(super) fn command_ended(&mut self) {
        self.link = None;
        self.limits.term = None;
    }

    /// Everything is due later by this much.
    pub(super) fn postpone(&mut self, by: Duration) {
        for at in [&mut self.limits.term, &mut self.limits.kill].into_iter().flatten() {
            *at += by;
        }
    }

    /// Does what is due. True if the time of the command is up now.
    pub(super) fn enforce(&mut self, processes: &OwnedFd, now: Instant) -> bool {
        let up = self.limits.term.is_some_and(|at| at <= now);
        if up {
            self.limits.term = None;
            self.limits.kill = Some(now + self.limits.grace);
            self.signal(processes, Signal::SIGTERM);
            // A stopped process would not hear of it before KILL.
            self.signal(processes, Signal::SIGCONT);
        }
        if self.limits.kill.is_some_and(|at| at <= now) {
            self.signal(processes, Signal::SIGKILL);
        }
        up
    }

    /// Sends a signal to all that came from the command, found in the procfs `processes`. KILL is repeated until
    /// nothing is left.
    pub(super) fn signal(&mut self, processes: &OwnedFd, signal: Signal) {
        if signal == Signal::SIGKILL {
            self.limits.kill = Some(Instant::now() + AGAIN);
        }
        send(processes, (self.keeper, &BTreeSet::new()), signal);
    }
}

/// Sends a signal to all below the first process, but to none of the others and what is below those.
pub(super) fn send(processes: &OwnedFd, (root, except): (Pid, &BTreeSet<Pid>), signal: Signal) {
    let mut reached = BTreeSet::new();
    for _round in 0..ROUNDS {
        let found = below(root, except, &rows(processes));
        let fresh: Vec<Pid> = found.into_iter().filter(|pid| !reached.contains(pid)).collect();
        if fresh.is_empty() {
            return;
        }
        for pid in fresh {
            reached.insert(pid);
            // A process that ended meanwhile is what we wanted. Its number could be another's only if all numbers
            // had been used since it was read.
            if let Err(errno) = kill(pid, signal) {
                tracing::debug!(%pid, %errno, "signal");
            }
        }
    }
}

/// A process and its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    pid: Pid,
    parent: Pid,
}

fn below(root: Pid, except: &BTreeSet<Pid>, rows: &[Row]) -> BTreeSet<Pid> {
    let mut found = BTreeSet::new();
    loop {
        let before = found.len();
        for row in rows.iter().filter(|row| !except.contains(&row.pid)) {
            if row.parent == root || found.contains(&row.parent) {
                found.insert(row.pid);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// Every process of the workspace; one that ends while we look may be missing.
fn rows(processes: &OwnedFd) -> Vec<Row> {
    let listed = Dir::openat(processes, ".", OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let listed = listed.inspect_err(|errno| tracing::error!(%errno, "list the processes"));
    let names = listed.into_iter().flatten().flatten();
    let pids = names.filter_map(|entry| entry.file_name().to_str().ok()?.parse::<i32>().ok());
    pids.filter_map(|pid| parse(pid, &stat(processes, pid)?)).collect()
}

fn stat(processes: &OwnedFd, pid: i32) -> Option<String> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let file = openat(processes, format!("{pid}/stat").as_str(), flags, Mode::empty()).ok()?;
    let mut text = Vec::new();
    File::from(file).read_to_end(&mut text).ok()?;
    // The name may be any bytes.
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// The name stands in parentheses and may hold anything, so fields count from the last one (proc(5)).
fn parse(pid: i32, stat: &str) -> Option<Row> {
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
    Some(Row { pid: Pid::from_raw(pid), parent: Pid::from_raw(parent) })
}

#[cfg(test)]
mod tests {
    use super::{BTreeSet, Pid, Row, below, parse};

    fn row(pid: i32, parent: i32) -> Row {
        Row { pid: Pid::from_raw(pid), parent: Pid::from_raw(parent) }
    }

    #[test]
    fn a_hostile_process_name_does_not_move_the_fields() {
        assert_eq!(parse(7, "7 (a) R 1 1 (b) S 3 4 5 0 -1"), Some(row(7, 3)));
    }

    #[test]
    fn p_17_a_tree_is_what_the_keeper_has_below_it_and_nothing_of_another() {
        let rows = [row(2, 1), row(3, 2), row(9, 3), row(4, 9), row(5, 1), row(6, 5), row(7, 2)];
        let numbers = |root, except: &[i32]| -> Vec<i32> {
            let except: BTreeSet<Pid> = except.iter().map(|pid| Pid::from_raw(*pid)).collect();
            below(Pid::from_raw(root), &except, &rows).into_iter().map(Pid::as_raw).collect()
        };
        assert_eq!(numbers(2, &[]), [3, 4, 7, 9]);
        assert_eq!(numbers(1, &[2]), [5, 6], "what no keeper has");
    }
}
