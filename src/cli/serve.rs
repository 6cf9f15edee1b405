//! `hands serve`.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{Programs, Shared, tell};
use crate::config::ServeOptions;

/// Serve the API until SIGTERM or Ctrl-C: the supervisor and its daemon
#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// Configuration (TOML) [default: /etc/hands/hands.toml as root, else ~/.config/hands/hands.toml, if there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Credentials (YAML); overrides those that the configuration names
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
    /// Stop when the other end of this pipe closes
    #[arg(long, value_name = "DESCRIPTOR")]
    lifeline: Option<RawFd>,
    /// Write `ok`, or `error: ` and the reason, to this descriptor
    #[arg(long, value_name = "DESCRIPTOR")]
    ready: Option<RawFd>,
}

impl Serve {
    pub(super) fn run(self, shared: &Shared, programs: &Programs) -> ExitCode {
        let state_dir = match shared.state_dir() {
            Ok(state_dir) => state_dir,
            Err(error) => {
                tell(&format!("hands: {error:#}"));
                return ExitCode::FAILURE;
            }
        };
        let Self { config, credentials, lifeline, ready } = self;
        (programs.serve)(&ServeOptions { state_dir, config, credentials, lifeline, ready })
    }
}
