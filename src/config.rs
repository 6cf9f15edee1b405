//! The operator's configuration: one TOML file, unknown keys are errors.
//!
//! | key | meaning | if absent |
//! |---|---|---|
//! | `policy` | file of the policy for workspaces that name none | they may reach nothing |
//! | `credentials` | file of the credentials | there are none |
//! | `daemon_uid` | uid and gid of the daemon when started as root | those of user `hands`, else 64213 |
//! | `egress.resolver` | address and port of the resolver | the system's |
//! | `egress.roots` | PEM files of authorities for upstreams, beside the system's | none |
//! | `egress.hosts` | table of names with their addresses, not looked up | none |
//! | `egress.host_services` | addresses and ports of this machine that a rule may name | none |
//! | `egress.parent_proxy` | `http://HOST:PORT` that is asked by CONNECT | upstreams are dialled directly |
//!
//! Relative paths are relative to the file itself.

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::egress::Settings;

/// Name of the API's socket in the state directory.
pub const SOCKET: &str = "hands.sock";

/// What `hands serve` was asked for.
#[derive(Debug, Default)]
pub struct ServeOptions {
    /// Where everything that lasts is kept.
    pub state_dir: PathBuf,
    /// The operator's configuration.
    pub config: Option<PathBuf>,
    /// The operator's credentials; overrides the configuration's.
    pub credentials: Option<PathBuf>,
    /// Read end of a pipe; when its other end closes, everything ends.
    pub lifeline: Option<RawFd>,
    /// Where one line is written: `ok`, or `error: ` and why not.
    pub ready: Option<RawFd>,
}

/// What the operator configures.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// File of the default policy.
    pub policy: Option<PathBuf>,
    /// File of the credentials.
    pub credentials: Option<PathBuf>,
    /// uid and gid of the daemon when the supervisor is root; not 0.
    pub daemon_uid: Option<u32>,
    /// The way out.
    pub egress: Settings,
}

/// A configuration that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not what the table above describes.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// In characters, counted from 1.
        column: usize,
        /// What is wrong, with the key.
        message: String,
    },
    /// The daemon must not be root.
    #[error("daemon_uid: 0 is root: name a user without privileges")]
    PrivilegedDaemon,
}

impl ConfigError {
    /// On one line: whoever started the supervisor reads one.
    fn syntax(text: &str, error: &toml::de::Error) -> Self {
        let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default();
        let (line, column) =
            (before.matches('\n').count() + 1, before.chars().rev().take_while(|c| *c != '\n').count() + 1);
        Self::Syntax { line, column, message: error.message().replace('\n', "; ") }
    }
}

impl Config {
    /// Reads the text of the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text).map_err(|error| ConfigError::syntax(text, &error))?;
        if config.daemon_uid == Some(0) {
            return Err(ConfigError::PrivilegedDaemon);
        }
        let beside = path.parent().unwrap_or(Path::new("/"));
        let files =
            config.policy.iter_mut().chain(config.credentials.iter_mut()).chain(&mut config.egress.roots);
        for file in files {
            *file = beside.join(&*file);
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::Config;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("/etc/hands/hands.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn relative_paths_are_relative_to_the_file() {
        let config = parse("policy = 'p.yaml'\n[egress]\nroots = ['/abs.pem', 'ca.pem']").expect("valid");
        assert_eq!(config.policy, Some(PathBuf::from("/etc/hands/p.yaml")));
        assert_eq!(config.egress.roots, [Path::new("/abs.pem"), Path::new("/etc/hands/ca.pem")]);
    }

    #[test]
    fn unknown_keys_and_a_root_daemon_are_refused_with_their_place() {
        let error = parse("polcy = 'p.yaml'").expect_err("unknown key");
        assert!(error.contains("polcy") && error.contains("line 1"), "{error}");
        let error = parse("[egress]\nhost = 1").expect_err("unknown key");
        assert!(error.contains("line 2"), "{error}");
        assert!(parse("daemon_uid = 0").is_err());
    }
}
