//! Making processes and addressing them without ever trusting a bare number.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::unistd::Pid;

use super::checked;

/// Which side of a fork one is on.
#[derive(Debug)]
pub enum Forked<T> {
    /// The new process.
    Child,
    /// The caller, with what it needs to follow the child.
    Parent(T),
}

/// A child and the descriptor that means it, and nobody else, for ever (pidfd, Linux 5.3).
#[derive(Debug)]
pub struct Child {
    /// Its number in our pid namespace; valid until it is reaped.
    pub pid: Pid,
    /// Stable reference.
    pub pidfd: OwnedFd,
}

/// Bytes of stack for the steps between fork and exec.
const STACK: usize = 256 * 1024;

/// `CLONE_INTO_CGROUP` of `linux/sched.h`, too wide for the constant of `libc`.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Forks into new namespaces (`clone3(2)`), optionally born inside a version 2 cgroup.
///
/// The caller must have one thread: the child is a copy of it and nothing else, so it may go on with ordinary code.
///
/// # Errors
/// `EPERM` without the right to make a namespace, `ENOSPC` or `EAGAIN` at a limit, `ENOSYS` before Linux 5.7.
pub fn clone_into(namespaces: libc::c_int, cgroup: Option<&OwnedFd>) -> io::Result<Forked<Child>> {
    let mut pidfd: RawFd = -1;
    let into = if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    // SAFETY: the structure is plain integers, for which zero means "not used".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = namespaces as u64 | libc::CLONE_PIDFD as u64 | into;
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = cgroup.map_or(0, |group| group.as_raw_fd() as u64);
    // SAFETY: no stack is given, so the call behaves as fork; memory is copied, and we run a single thread.
    let pid = checked(unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>())
    })?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: on success the kernel stored a fresh descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked::Parent(Child { pid: Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?), pidfd }))
}

/// Forks without new namespaces (`fork(2)`). The caller must have one thread.
///
/// # Errors
/// `EAGAIN` at a process limit, `ENOMEM`.
pub fn fork() -> io::Result<Forked<Pid>> {
    // SAFETY: the callers (supervisor and init) are single-threaded, so no lock can be held across the fork.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => Ok(Forked::Child),
        nix::unistd::ForkResult::Parent { child } => Ok(Forked::Parent(child)),
    }
}

/// Runs `child` in a new process while the caller waits until it has exec'd or ended (`CLONE_VM | CLONE_VFORK`). Both
/// have one memory, so nothing is copied; `child` may use what it captures but must not end by unwinding. What it
/// returns is its exit code.
///
/// # Errors
/// `EAGAIN` at a process limit, `ENOMEM`.
pub fn fork_in_place(child: impl FnOnce() -> u8) -> io::Result<Pid> {
    let mut stack = vec![0_u8; STACK];
    let mut child = Some(child);
    let run = Box::new(|| child.take().map_or(1, |child| isize::from(child())));
    let flags = nix::sched::CloneFlags::CLONE_VM | nix::sched::CloneFlags::CLONE_VFORK;
    // SAFETY: the caller has one thread and is suspended while the child, on a stack of its own, uses its memory;
    // both the stack and the closure outlive that.
    Ok(unsafe { nix::sched::clone(run, &mut stack, flags, Some(libc::SIGCHLD)) }?)
}

/// Ends the process at once, without running exit handlers of the program it was forked from.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no precondition and does not return.
    unsafe { libc::_exit(code) }
}

/// Sends a signal to the process that a pidfd means; `ESRCH` if it has ended.
///
/// # Errors
/// `ESRCH`, or `EPERM`.
pub fn signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    let pidfd = pidfd.as_fd().as_raw_fd();
    // SAFETY: a null siginfo asks for the default one; integers otherwise.
    checked(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, none, 0_u32) }).map(drop)
}

/// Marks every descriptor from `first` on as closed at the next exec (`close_range(2)`, Linux 5.11).
///
/// # Errors
/// `ENOSYS` on an older kernel.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: only a flag of descriptors changes; none is closed under its owner.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    checked(result).map(drop)
}

/// Closes every descriptor that is not in `keep`, which must be sorted.
///
/// Meant for a freshly forked child that has let go (by `std::mem::forget` or by never touching them again) of
/// everything it inherited: owners that still exist must not be dropped afterwards.
///
/// # Errors
/// `ENOSYS` before Linux 5.9.
pub fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut first = 0;
    for &kept in keep.iter().chain(std::iter::once(&RawFd::MAX)) {
        if kept > first {
            // SAFETY: the contract above: whoever owned these numbers in the parent is not used in this process.
            checked(unsafe { libc::syscall(libc::SYS_close_range, first, kept - 1, 0) })?;
        }
        first = kept.saturating_add(1);
    }
    Ok(())
}

/// Gives the process a session keyring of its own (`keyctl(2)`), so that no key of the host is inherited.
///
/// # Errors
/// `ENOSYS` without kernel support for keys, `EDQUOT`.
pub fn new_session_keyring() -> io::Result<()> {
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name asks for an anonymous keyring.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, anonymous) };
    checked(result).map(drop)
}

/// Takes ownership of a descriptor whose number was passed on the command line or by convention.
///
/// # Errors
/// `EBADF` if it is not open.
pub fn adopt_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only looks whether the number is open.
    checked(libc::c_long::from(unsafe { libc::fcntl(number, libc::F_GETFD) }))?;
    // SAFETY: it is open, and by the convention of our own processes the callee is its only owner.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Puts every signal back to its default action: a program must not inherit what our runtime ignores.
pub fn default_signals() {
    for number in 1..=64 {
        // SAFETY: the default action is no code of ours; KILL and STOP are refused, which is fine.
        let _previous = unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}
