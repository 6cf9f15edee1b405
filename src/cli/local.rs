//! A daemon of one's own: `hands run` brings the three processes up where none serves, and down at the end.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::unistd::pipe2;

/// The supervisor that we started. It ends when this does.
#[derive(Debug)]
pub(super) struct Local {
    child: Child,
    lifeline: Option<OwnedFd>,
}

impl Local {
    pub(super) fn start(state_dir: &Path, config: Option<&Path>, credentials: Option<&Path>) -> Result<Self> {
        let (held, lifeline) = pipe2(OFlag::O_CLOEXEC)?;
        let (told, ready) = pipe2(OFlag::O_CLOEXEC)?;
        for inherited in [&held, &ready] {
            fcntl(inherited, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        let mut serve = Command::new("/proc/self/exe");
        serve.arg0("hands").arg("serve").arg("--state-dir").arg(state_dir);
        for (option, value) in [("--config", config), ("--credentials", credentials)] {
            if let Some(value) = value {
                serve.arg(option).arg(value);
            }
        }
        serve.arg("--lifeline").arg(held.as_raw_fd().to_string());
        serve.arg("--ready").arg(ready.as_raw_fd().to_string());
        // Of its own group, so that a Ctrl-C is ours to pass on.
        serve.process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = serve.spawn().context("start `hands serve`")?;
        drop((held, ready));
        let mut line = String::new();
        BufReader::new(File::from(told)).read_line(&mut line)?;
        match line.trim_end().strip_prefix("error: ") {
            None if line == "ok\n" => Ok(Self { child, lifeline: Some(lifeline) }),
            Some(problem) => {
                child.wait()?;
                bail!("{problem}")
            }
            None => {
                let ended = child.wait()?;
                bail!("`hands serve` ended before it served: {ended}: run it by itself to see why")
            }
        }
    }

    /// Ends it and everything that it made.
    pub(super) fn end(mut self) -> Result<()> {
        self.lifeline = None;
        self.child.wait()?;
        Ok(())
    }
}
