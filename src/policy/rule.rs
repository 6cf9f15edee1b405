//! A rule that was judged possible: what it matches.

use super::document::{Effect, Protocol};
use super::limits::Rate;
use super::path::{Path, PathPattern, Reading};
use super::pattern::HostPattern;

/// Methods that a rule without `methods` allows (RFC 9110, RFC 5789); any other needs its own mention.
pub(super) const ORDINARY_METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// One rule in the form that decisions read.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) effect: Effect,
    pub(super) protocol: Protocol,
    pub(super) hosts: Vec<HostPattern>,
    /// Empty is every port, which only a deny rule may have.
    pub(super) ports: Vec<u16>,
    /// Empty is [`ORDINARY_METHODS`] in an allow rule, every method in a deny rule.
    pub(super) methods: Vec<String>,
    /// Empty is every path.
    pub(super) paths: Vec<PathPattern>,
    pub(super) credential: Option<String>,
    pub(super) cleartext: bool,
    pub(super) private: bool,
    /// Whether a request that it allows may become a WebSocket.
    pub(super) websocket: bool,
    pub(super) rate: Option<Rate>,
}

impl Rule {
    /// What is denied is read leniently, what is allowed exactly.
    pub(super) const fn reading(&self) -> Reading {
        match self.effect {
            Effect::Allow => Reading::Exact,
            Effect::Deny => Reading::Lenient,
        }
    }

    pub(super) fn has_port(&self, port: u16) -> bool {
        self.ports.contains(&port) || (self.effect == Effect::Deny && self.ports.is_empty())
    }

    pub(super) fn has_method(&self, method: &str) -> bool {
        match (self.methods.is_empty(), self.effect) {
            (false, Effect::Allow) => self.methods.iter().any(|listed| listed == method),
            (false, Effect::Deny) => self.methods.iter().any(|listed| listed.eq_ignore_ascii_case(method)),
            (true, Effect::Allow) => ORDINARY_METHODS.contains(&method),
            (true, Effect::Deny) => true,
        }
    }

    pub(super) fn has_path(&self, path: &Path) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|pattern| pattern.matches(path, self.reading()))
    }

    /// Whether the rule speaks of whole connections: nothing in it needs a request.
    pub(super) fn is_whole(&self) -> bool {
        self.methods.is_empty() && self.paths.is_empty()
    }
}
