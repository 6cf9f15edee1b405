//! The supervisor: privileged, single-threaded, no network. It makes jails, keeps every descriptor that must survive
//! the daemon, and restarts the daemon.
//!
//! ```text
//! serve --> re-exec from a sealed copy --> prepare the state directory --> event loop
//!                                                                           |- signals, children, lifeline
//!                                                                           |- the daemon's socket
//!                                                                           `- jails that are being made
//! ```
//!
//! Its only input from unprivileged code is the daemon's socket: fixed messages, each validated in [`jails`].

mod daemon_process;
pub mod doctor;
mod event_loop;
mod jails;
mod operator;
mod sealed;
mod state_dir;

use std::fs::File;
use std::io::Write;
use std::os::fd::RawFd;
use std::process::ExitCode;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::geteuid;

use crate::config::ServeOptions;
use crate::sys::process::adopt_descriptor;

/// Jails that are made ahead of time, so that a start need not wait for the kernel; 0.4 MiB each.
const SPARE: usize = 8;
/// Descriptors that a privileged supervisor and its daemon may have, each (the kernel's own `fs.nr_open`).
const DESCRIPTORS: u64 = 1 << 20;
/// Jails made ahead of time by a supervisor that somebody brought up for one command.
const SPARE_FOR_ONE: usize = 1;

/// Why the supervisor ended before its time: what, which object, what to do.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {object}: {remedy}")]
pub struct Failure {
    what: &'static str,
    object: String,
    remedy: String,
}

impl Failure {
    #[expect(clippy::needless_pass_by_value, reason = "callers have an error of their own to give away")]
    fn new(what: &'static str, object: impl ToString, remedy: impl ToString) -> Self {
        Self { what, object: object.to_string(), remedy: remedy.to_string() }
    }
}

/// Runs until a signal, or the end of the lifeline, asks it to stop.
#[must_use]
pub fn serve(options: &ServeOptions) -> ExitCode {
    let mut ready = Ready::new(options.ready);
    match run(options, &mut ready) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            ready.failed(&failure);
            ExitCode::FAILURE
        }
    }
}

fn run(options: &ServeOptions, ready: &mut Ready) -> Result<(), Failure> {
    sealed::ensure()?;
    raise_descriptor_limit();
    let lifeline = options.lifeline.map(adopt_descriptor).transpose();
    let lifeline =
        lifeline.map_err(|error| Failure::new("lifeline", error, "pass the number of an open pipe"))?;
    let operator = operator::Operator::load(options)?;
    let state = state_dir::StateDir::prepare(&options.state_dir, operator.daemon_uid())?;
    let spare = if lifeline.is_some() { SPARE_FOR_ONE } else { SPARE };
    let jails = jails::Jails::new(&state, spare)?;
    event_loop::Supervisor::new(state, operator, jails, lifeline)?.run(ready)
}

/// Supervisor and daemon hold a dozen descriptors for each workspace and two for each of its connections; the usual
/// 1,024 would be a limit of a hundred workspaces that nobody asked for. Commands get a limit of their own.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| {
        let wanted = if geteuid().is_root() { hard.max(DESCRIPTORS) } else { hard };
        setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted)
            .or_else(|_refused| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))
    });
    if let Err(errno) = raised {
        tracing::warn!(%errno, "the limit of open descriptors stays as it is");
    }
}

/// Tells whoever started us, once, how it went.
#[derive(Debug)]
struct Ready {
    pipe: Option<File>,
    told: bool,
}

impl Ready {
    fn new(number: Option<RawFd>) -> Self {
        Self { pipe: number.and_then(|number| adopt_descriptor(number).ok()).map(File::from), told: false }
    }

    /// Whether nobody has been told yet how the start went.
    fn pending(&self) -> bool {
        !self.told
    }

    fn serving(&mut self) {
        self.told = true;
        self.say("ok\n");
    }

    fn failed(&mut self, failure: &Failure) {
        if !self.say(&format!("error: {failure}\n")) {
            tracing::error!("{failure}");
        }
    }

    fn say(&mut self, line: &str) -> bool {
        // Whoever does not listen any more does not need to know.
        self.pipe.take().is_some_and(|mut pipe| pipe.write_all(line.as_bytes()).is_ok())
    }
}
