//! Starting the daemon, without privileges, and starting it again when it ends.

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{Gid, Pid, Uid, dup2_stdin, fexecve, setgroups, setpgid, setresgid, setresuid};

use super::Failure;
use super::state_dir::StateDir;
use crate::jail::link::{Link, LinkError};
use crate::jail::wire::FromSupervisor;
use crate::sys::process::{Forked, close_all_but, exit_now, fork};

/// A daemon that lived at least this long was well; its successor starts at once.
const HEALTHY: Duration = Duration::from_secs(1);
/// Longest wait before another attempt.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Variables that the daemon keeps; nothing else of the operator's environment reaches it.
const KEPT: &[&str] = &["HANDS_LOG", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR"];

/// The daemon that runs now, and what it has not read yet.
#[derive(Debug)]
pub(super) struct DaemonProcess {
    pub(super) pid: Pid,
    pub(super) link: Link,
    born: Instant,
    gone: bool,
    outbox: VecDeque<(FromSupervisor, Vec<OwnedFd>)>,
}

impl DaemonProcess {
    pub(super) fn spawn(state: &StateDir) -> Result<Self, Failure> {
        let failed = |error: &dyn ToString| Failure::new("start the daemon", "fork", error.to_string());
        let (link, theirs) = Link::pair().map_err(|error| failed(&error))?;
        match fork().map_err(|error| failed(&error))? {
            Forked::Child => match become_daemon(state, &theirs) {
                Ok(never) => match never {},
                Err(errno) => {
                    tracing::error!(%errno, "start the daemon");
                    exit_now(1)
                }
            },
            Forked::Parent(pid) => {
                Ok(Self { pid, link, born: Instant::now(), gone: false, outbox: VecDeque::new() })
            }
        }
    }

    /// Queues a message; it is sent as soon as the daemon reads.
    pub(super) fn send(&mut self, message: FromSupervisor, descriptors: Vec<OwnedFd>) {
        self.outbox.push_back((message, descriptors));
        self.flush();
    }

    pub(super) fn flush(&mut self) {
        while let Some((message, descriptors)) = self.outbox.front() {
            let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            match self.link.try_send(message, &descriptors) {
                Err(LinkError::Full) => return,
                Err(error) => {
                    tracing::debug!(%error, "the daemon does not listen any more");
                    self.outbox.clear();
                }
                Ok(()) => drop(self.outbox.pop_front()),
            }
        }
    }

    /// Expects nothing more from it; its end is on the way.
    pub(super) fn hang_up(&mut self) {
        self.gone = true;
        self.outbox.clear();
    }

    /// Its socket, unless nothing more is expected from it.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        (!self.gone).then(|| self.link.socket().as_fd())
    }

    pub(super) fn backlog(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// How long to wait before the next one, after `failures` that did not live long.
    pub(super) fn wait_after(&self, failures: &mut u32) -> Duration {
        if self.born.elapsed() >= HEALTHY {
            *failures = 0;
            return Duration::ZERO;
        }
        *failures += 1;
        if *failures == 1 {
            Duration::ZERO
        } else {
            LONGEST_WAIT.min(Duration::from_millis(50 << (*failures).min(8)))
        }
    }
}

/// The child's half: gives up every right, then runs the same sealed program as the daemon.
fn become_daemon(state: &StateDir, link: &Link) -> nix::Result<std::convert::Infallible> {
    let program = std::fs::File::open("/proc/self/exe").map_err(|_error| Errno::ENOENT)?;
    // Its standard input is its socket: no number to agree on, nothing else inherited.
    dup2_stdin(link.socket())?;
    close_all_but(&[0, 1, 2, program.as_raw_fd()]).map_err(|_error| Errno::ENOSYS)?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    // Of its own group, so that a Ctrl-C at the terminal reaches it through the supervisor only.
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    if !state.rootless() {
        let (uid, gid) = (Uid::from_raw(state.daemon), Gid::from_raw(state.daemon));
        caps::clear(None, caps::CapSet::Bounding).map_err(|_error| Errno::EPERM)?;
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
    }
    prctl::set_no_new_privs()?;
    // After the change of uid, which would clear it.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let arguments = [CString::from(c"hands"), CString::from(c"daemon")];
    let environment: Vec<CString> = KEPT
        .iter()
        .filter_map(|name| CString::new(format!("{name}={}", std::env::var(name).ok()?)).ok())
        .collect();
    fexecve(&program, &arguments, &environment)
}
