//! Starting a command: pipes or a terminal, its keeper, and the few steps between the keeper's fork and exec.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::epoll::EpollFlags;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Uid, dup2_stderr, dup2_stdin, dup2_stdout, execve, fchdir, pipe2, setfsuid, setsid};

use super::super::link::Link;
use super::super::lockdown;
use super::super::plan::AGENT;
use super::super::wire::{Failure, StartOrder};
use super::process::{Begun, Process, failure, from_io};
use super::stdin::Stdin;
use super::tree::{TimeLimits, Tree};
use super::{Init, Source, keeper};
use crate::id::Id;
use crate::journal::{Kind, Limits, Stream, Writer};
use crate::sys::process::{Forked, close_on_exec_from, default_signals, fork};
use crate::sys::terminal;

/// Least that is kept of the output of a command that waits for its reader, in bytes: more than one read may bring.
const LOSSLESS: u64 = 1024 * 1024;

/// The child's ends and ours.
struct Wiring {
    child: [OwnedFd; 3],
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
}

impl Init {
    pub(super) fn start(
        &mut self,
        order_id: u64,
        order: StartOrder,
        files: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let journal = files.into_iter().next().ok_or_else(|| failure("take the journal", Errno::EBADF))?;
        if self.stop.is_some() {
            return Err(failure("start while the workspace stops", Errno::ESHUTDOWN));
        }
        if self.processes.contains_key(&order.process) {
            return Err(failure("start", Errno::EEXIST));
        }
        let keep = if order.lossless { order.output.max(LOSSLESS) } else { order.output };
        let mut journal = Writer::create(File::from(journal), Limits::keep(keep))
            .map_err(|error| from_io("write the journal", &error))?;
        let header = Kind::Started(order.header.clone().into());
        journal.append(header).map_err(|error| from_io("write the journal", &error))?;
        let wiring = self.wire(&order).map_err(|errno| failure("make pipes", errno))?;
        let (told, tell) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| failure("make pipes", errno))?;
        let (link, theirs) = Link::pair().map_err(|error| from_io("make a socket pair", &error))?;
        let starved_before = self.starved();
        let rootless = self.context.rootless;
        let keeper = match fork().map_err(|error| from_io("fork", &error))? {
            Forked::Child => {
                let command = || become_command(&order, &wiring, rootless);
                keeper::keep(&theirs, command, |failure| refuse(&tell, failure))
            }
            Forked::Parent(pid) => pid,
        };
        drop((tell, theirs));
        let now = Instant::now();
        let term = order.timeout.map(|limit| now + Duration::from_millis(limit));
        let limits = TimeLimits { term, kill: None, grace: Duration::from_millis(order.grace) };
        let id = order.process;
        let exec = (told, order_id);
        // Half of what is kept is kept from the end: a reader this far behind finds everything.
        let window = order.lossless.then_some(keep / 4);
        let process = Process::new(Begun { id: id.clone(), journal, exec, starved_before, window });
        let watched = self.watch(link.socket().as_fd(), EpollFlags::EPOLLIN, Source::Keeper(id.clone()));
        self.trees.insert(id.clone(), Tree::new(keeper, link, limits));
        let watched = watched.and_then(|()| self.adopt(&id, process, wiring));
        watched.map_err(|errno| failure("watch the command", errno))
    }

    fn adopt(&mut self, id: &Id, mut process: Process, wiring: Wiring) -> nix::Result<()> {
        if let Some((told, _)) = process.exec_pipe() {
            self.watch(told, EpollFlags::EPOLLIN, Source::Exec(id.clone()))?;
        }
        let terminal = wiring.terminal.is_some();
        let stdout = Source::Output(id.clone(), Stream::Stdout);
        self.watch(wiring.stdout.as_fd(), EpollFlags::EPOLLIN, stdout)?;
        if let Some(stderr) = &wiring.stderr {
            self.watch(stderr.as_fd(), EpollFlags::EPOLLIN, Source::Output(id.clone(), Stream::Stderr))?;
        }
        process.stdout = Some(wiring.stdout);
        process.stderr = wiring.stderr;
        process.stdin = wiring.stdin.map(|pipe| Stdin::new(pipe, terminal));
        process.terminal = wiring.terminal;
        self.processes.insert(id.clone(), process);
        Ok(())
    }

    fn wire(&self, order: &StartOrder) -> nix::Result<Wiring> {
        self.as_agent(|| match order.pty {
            Some((rows, columns)) => wire_terminal(rows, columns, order.stdin),
            None => wire_pipes(order.stdin),
        })
    }

    /// Pipes and terminals belong to whoever makes them, and a command may open its own again: `/dev/stdout`.
    fn as_agent<T>(&self, work: impl FnOnce() -> nix::Result<T>) -> nix::Result<T> {
        if self.context.rootless {
            return work();
        }
        let _previous: Uid = setfsuid(Uid::from_raw(AGENT));
        let done = work();
        let _previous: Uid = setfsuid(Uid::from_raw(0));
        // A change of the file system uid clears it.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        done
    }
}

fn wire_pipes(stdin: bool) -> nix::Result<Wiring> {
    let (stdout, child_out) = pipe2(OFlag::O_CLOEXEC)?;
    let (stderr, child_err) = pipe2(OFlag::O_CLOEXEC)?;
    let (child_in, stdin) = if stdin {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        nonblocking(&write)?;
        (read, Some(write))
    } else {
        (open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?, None)
    };
    nonblocking(&stdout)?;
    nonblocking(&stderr)?;
    let child = [child_in, child_out, child_err];
    Ok(Wiring { child, stdin, stdout, stderr: Some(stderr), terminal: None })
}

fn wire_terminal(rows: u16, columns: u16, stdin: bool) -> nix::Result<Wiring> {
    let clone = |fd: &OwnedFd| fd.try_clone().map_err(|_error| Errno::EMFILE);
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let master = open("/dev/pts/ptmx", flags, Mode::empty())?;
    let peer = terminal::open_peer(&master).map_err(|_error| Errno::EIO)?;
    terminal::set_size(&master, rows, columns).map_err(|_error| Errno::EIO)?;
    let stdin = if stdin { Some(clone(&master)?) } else { None };
    let child = [clone(&peer)?, clone(&peer)?, peer];
    Ok(Wiring { child, stdin, stdout: clone(&master)?, stderr: None, terminal: Some(master) })
}

fn nonblocking(pipe: &OwnedFd) -> nix::Result<()> {
    nix::fcntl::fcntl(pipe, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)
}

/// Tells init why the command does not run.
fn refuse(tell: &OwnedFd, failed: &Failure) {
    if let Ok(bytes) = postcard::to_stdvec(failed)
        && let Err(errno) = nix::unistd::write(tell, &bytes)
    {
        tracing::debug!(%errno, "init does not read it any more");
    }
}

/// The child's half: it becomes the command, or returns why not.
fn become_command(order: &StartOrder, wiring: &Wiring, rootless: bool) -> Failure {
    let prepared = prepare(order, wiring, rootless);
    match prepared.and_then(|()| exec(order)) {
        Ok(never) => match never {},
        Err(failure) => failure,
    }
}

fn prepare(order: &StartOrder, wiring: &Wiring, rootless: bool) -> Result<(), Failure> {
    let step = |name: &'static str| move |errno: Errno| failure(name, errno);
    default_signals();
    SigSet::empty().thread_set_mask().map_err(step("reset signals"))?;
    setsid().map_err(step("setsid"))?;
    let [stdin, stdout, stderr] = &wiring.child;
    if wiring.terminal.is_some() {
        terminal::make_controlling(stdin).map_err(|error| from_io("take the terminal", &error))?;
    }
    dup2_stdin(stdin).map_err(step("dup2"))?;
    dup2_stdout(stdout).map_err(step("dup2"))?;
    dup2_stderr(stderr).map_err(step("dup2"))?;
    lockdown::command(AGENT, rootless).map_err(step("become the agent"))?;
    umask(Mode::from_bits_truncate(0o022));
    // As the agent, so that it cannot be put where the agent could not go; never through a link of /proc.
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let cwd = std::ffi::OsStr::from_bytes(&order.cwd);
    let cwd = openat2(nix::fcntl::AT_FDCWD, cwd, how).map_err(step("chdir"))?;
    fchdir(&cwd).map_err(step("chdir"))?;
    close_on_exec_from(3).map_err(|error| from_io("close descriptors", &error))
}

/// Runs the program, looked up as execvp(3) does: a script without `#!` goes to /bin/sh.
fn exec(order: &StartOrder) -> Result<std::convert::Infallible, Failure> {
    let strings =
        |list: &[Vec<u8>]| list.iter().map(|item| CString::new(item.clone())).collect::<Result<Vec<_>, _>>();
    let invalid = |_nul| failure("exec", Errno::EINVAL);
    let (argv, env) = (strings(&order.argv).map_err(invalid)?, strings(&order.env).map_err(invalid)?);
    let program = order.argv.first().ok_or_else(|| failure("exec", Errno::EINVAL))?;
    let mut worst = Errno::ENOENT;
    for candidate in candidates(program, &order.env) {
        let path = CString::new(candidate).map_err(invalid)?;
        let Err(errno) = execve(&path, &argv, &env);
        if errno == Errno::ENOEXEC {
            let shell = c"/bin/sh";
            let mut script = vec![shell.to_owned(), path];
            script.extend(argv.iter().skip(1).cloned());
            let Err(errno) = execve(shell, &script, &env);
            return Err(failure("exec", errno));
        }
        match errno {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => worst = errno,
            other => return Err(failure("exec", other)),
        }
    }
    Err(failure("exec", worst))
}

fn candidates(program: &[u8], env: &[Vec<u8>]) -> Vec<Vec<u8>> {
    if program.contains(&b'/') {
        return vec![program.to_vec()];
    }
    let path = env.iter().rev().find_map(|pair| pair.strip_prefix(b"PATH=")).unwrap_or(b"/usr/bin:/bin");
    let directories = path.split(|byte| *byte == b':');
    directories
        .map(|directory| [if directory.is_empty() { b"." } else { directory }, b"/", program].concat())
        .collect()
}
