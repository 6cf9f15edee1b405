//! The state directory: whose it is, what stands in it, and the lock that admits one supervisor.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use super::Failure;
use crate::config::SOCKET;

/// Bytes of a socket path that the kernel takes, the closing NUL excluded (unix(7)).
const LONGEST_SOCKET: usize = 107;
/// Directories that only the supervisor changes.
const OURS: &[&str] = &["workspaces", "volumes", "trash"];
/// Directories in which the daemon writes.
const DAEMONS: &[&str] = &["journals", "audit"];

/// A state directory that is ours alone.
#[derive(Debug)]
pub(super) struct StateDir {
    /// Absolute path.
    pub(super) path: PathBuf,
    /// The API's socket.
    pub(super) listener: UnixListener,
    /// uid and gid of the daemon.
    pub(super) daemon: u32,
    lock: Flock<File>,
}

impl StateDir {
    pub(super) fn prepare(path: &Path, daemon: u32) -> Result<Self, Failure> {
        let path = std::path::absolute(path).map_err(|error| failed(path, error))?;
        let socket = path.join(SOCKET);
        if socket.as_os_str().len() > LONGEST_SOCKET {
            let remedy =
                format!("a socket's path has at most {LONGEST_SOCKET} bytes; choose a shorter --state-dir");
            return Err(Failure::new("socket path too long", socket.display(), remedy));
        }
        make(&path, 0o755)?;
        let found = fs::metadata(&path).map_err(|error| failed(&path, error))?;
        if found.uid() != geteuid().as_raw() {
            let remedy = format!(
                "it belongs to uid {}, we are uid {}; run as its owner or choose another --state-dir",
                found.uid(),
                geteuid()
            );
            return Err(Failure::new("state directory", path.display(), remedy));
        }
        let lock = lock(&path)?;
        let state = Self { listener: listen(&socket)?, path, daemon, lock };
        state.populate()?;
        Ok(state)
    }

    /// Whether the supervisor has no privileges.
    pub(super) fn rootless(&self) -> bool {
        !geteuid().is_root()
    }

    fn populate(&self) -> Result<(), Failure> {
        let root = geteuid().is_root();
        for name in OURS.iter().chain(DAEMONS) {
            let directory = self.path.join(name);
            make(&directory, 0o700)?;
            if root && DAEMONS.contains(name) {
                chown(&directory, Some(self.daemon), Some(self.daemon))
                    .map_err(|error| failed(&directory, error))?;
            }
            // Journals and audit are the daemon's alone. Files of workspaces carry on disk the ids that they have
            // inside, setuid bits included: no user of the machine may reach one by its path.
            mode(&directory, 0o700)?;
        }
        if root {
            // The daemon makes its database here; the sticky bit keeps it from replacing what is ours.
            chown(&self.path, Some(0), Some(self.daemon)).map_err(|error| failed(&self.path, error))?;
            mode(&self.path, 0o1771)?;
            return self.reachable();
        }
        mode(&self.path, 0o700)
    }

    /// The daemon opens files here by path, so it must be able to walk to it.
    fn reachable(&self) -> Result<(), Failure> {
        for above in self.path.ancestors().skip(1) {
            let found = fs::metadata(above).map_err(|error| failed(above, error))?;
            if found.mode() & 0o001 == 0 && found.uid() != self.daemon {
                let remedy = format!(
                    "{} can't be entered by the daemon's uid {}; chmod o+x it or choose another --state-dir",
                    above.display(),
                    self.daemon
                );
                return Err(Failure::new("state directory", self.path.display(), remedy));
            }
        }
        Ok(())
    }

    /// Takes the socket away; the lock goes with the process.
    pub(super) fn close(&self) {
        for name in [SOCKET, "lock"] {
            if let Err(error) = fs::remove_file(self.path.join(name)) {
                tracing::warn!(%error, "{name} stays behind");
            }
        }
        tracing::debug!(lock = self.lock.as_raw_fd(), "released");
    }
}

/// The lock that admits one supervisor. Its holder removes the file at the end, so one that was opened before that and
/// locked after it is no lock any more.
fn lock(path: &Path) -> Result<Flock<File>, Failure> {
    let at = path.join("lock");
    loop {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&at);
        let file = file.map_err(|error| failed(&at, error))?;
        let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((holder, _errno)) => return Err(in_use(path, holder)),
        };
        let locked = lock.metadata().map_err(|error| failed(&at, error))?.ino();
        if fs::metadata(&at).is_ok_and(|there| there.ino() == locked) {
            let written = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
            written.map_err(|error| failed(&at, error))?;
            return Ok(lock);
        }
    }
}

fn in_use(path: &Path, mut lock: File) -> Failure {
    let mut holder = String::new();
    if lock.read_to_string(&mut holder).is_err() || holder.trim().is_empty() {
        holder = "unknown".into();
    }
    let remedy =
        format!("process {} serves it already; stop that one or choose another --state-dir", holder.trim());
    Failure::new("state directory in use", path.display(), remedy)
}

fn listen(socket: &Path) -> Result<UnixListener, Failure> {
    // We hold the lock, so whoever made this one is gone.
    if fs::symlink_metadata(socket).is_ok() {
        fs::remove_file(socket).map_err(|error| failed(socket, error))?;
    }
    let listener = UnixListener::bind(socket).map_err(|error| failed(socket, error))?;
    listener.set_nonblocking(true).map_err(|error| failed(socket, error))?;
    mode(socket, 0o600)?;
    Ok(listener)
}

fn make(path: &Path, mode: u32) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|error| failed(path, error))
}

fn mode(path: &Path, mode: u32) -> Result<(), Failure> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|error| failed(path, error))
}

#[expect(clippy::needless_pass_by_value, reason = "callers have an error of their own to give away")]
fn failed(path: &Path, error: impl ToString) -> Failure {
    Failure::new(
        "state directory",
        path.display(),
        format!("{}; choose one that you may write", error.to_string()),
    )
}
