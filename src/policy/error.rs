//! What is wrong with a policy document: where, and the fix.

use std::fmt;

use super::address::NetworkError;
use super::host::HostError;
use super::limits::QuantityError;
use super::path::PathPatternError;
use super::question::QuestionError;

/// All that is wrong with one document; prints one `origin:line:column: what: fix` per line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PolicyError {
    origin: String,
    problems: Vec<Problem>,
}

/// One mistake and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, counted from one; zero if the mistake has no place.
    pub line: u64,
    /// Column in characters, counted from one; zero if the mistake has no place.
    pub column: u64,
    /// The mistake.
    pub fault: Fault,
}

/// A mistake in a document; each text ends with the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The parser's own words: syntax, unknown key, wrong type, missing key.
    #[error("{0}")]
    Syntax(String),
    /// Another version of the format.
    #[error("version {0} is not known: write 'version: 1'")]
    Version(String),
    /// A policy name that does not exist.
    #[error("no policy is called {name:?}: use one of {known}")]
    UnknownPolicy {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A rule name that could not stand in logs and headers.
    #[error("{0:?} is no rule name: use 1 to 64 letters, digits, '.', '_' or '-'")]
    RuleName(String),
    /// Two rules with one name, in the document or through `extends`.
    #[error("there are two rules called {0:?}: give each its own name")]
    DuplicateRule(String),
    /// A key with an empty list, which would match nothing.
    #[error("'{0}' is empty: list at least one, or leave the key out")]
    EmptyList(&'static str),
    /// A rule without hosts.
    #[error("rule {0:?} has no hosts: add 'hosts: [name]'; a rule for every host does not exist")]
    NoHosts(String),
    /// A host that has no canonical form.
    #[error("{host:?}: {source}")]
    Host {
        /// As written.
        host: String,
        /// Why.
        source: HostError,
    },
    /// A network that is none.
    #[error("{host:?}: {source}")]
    Network {
        /// As written.
        host: String,
        /// Why.
        source: NetworkError,
    },
    /// A star that is not the whole first label.
    #[error("{0:?}: a star stands only in front: write '*.name' for one label or '**.name' for any depth")]
    StarPosition(String),
    /// A wildcard over an address.
    #[error("{0:?} is a wildcard over an address: write a CIDR such as 10.0.0.0/8")]
    StarAddress(String),
    /// A wildcard over names of unrelated owners.
    #[error("{0:?} is a wildcard over a public suffix, whose names belong to anyone: name the domain")]
    PublicSuffix(String),
    /// A rule for addresses that cannot be outside.
    #[error("{0:?} lies within every workspace itself and is never reached through a rule: take it out")]
    NeverOutside(String),
    /// A port outside 1 to 65535.
    #[error("{0} is no port: use 1 to 65535")]
    Port(i64),
    /// Port 80 without `cleartext`.
    #[error("port 80 needs 'cleartext: true': without it the rule is for TLS only")]
    CleartextPort,
    /// A method in other than upper-case letters.
    #[error("{0:?} is no method: methods are case-sensitive tokens, such as GET")]
    Method(String),
    /// A method that never passes.
    #[error("{0} never passes: take it out")]
    ForbiddenMethod(String),
    /// A path pattern that could match nothing, or not what it seems.
    #[error("{pattern:?}: {source}")]
    Path {
        /// As written.
        pattern: String,
        /// Why.
        source: PathPatternError,
    },
    /// A key that its rule gives no meaning to.
    #[error("'{key}' has no meaning in a rule with '{with}': take one of them out")]
    Conflict {
        /// The key without meaning.
        key: &'static str,
        /// What rules it out.
        with: &'static str,
    },
    /// A raw rule without ports.
    #[error("a rule with 'protocol: tcp' needs its ports: add 'ports: [number]'")]
    PortsMissing,
    /// A passthrough rule for an address.
    #[error(
        "{0:?}: 'protocol: tls-passthrough' compares the name in the handshake: use names, or 'protocol: tcp'"
    )]
    PassthroughAddress(String),
    /// A credential name that could not be one.
    #[error("{0:?} is no credential name: use 1 to 64 letters, digits, '.', '_' or '-'")]
    CredentialName(String),
    /// A case of `tests` that asks nothing.
    #[error("{0:?} is no request: write 'METHOD URL', such as GET https://api.example.com/v1/models")]
    TestRequest(String),
    /// A case of `tests` with a URL that no request could have.
    #[error("{0}")]
    TestUrl(QuestionError),
    /// A case of `tests` that expects a rule that does not exist.
    #[error("no rule is called {0:?}: name one of this policy or of one that it extends")]
    TestRule(String),
    /// Something that a later version will do.
    #[error("'{0}' is not supported yet: take it out; nothing is enforced in its place")]
    Unsupported(&'static str),
    /// A user other than `agent`.
    #[error("user {0:?} is not supported yet: write 'user: agent'")]
    User(String),
    /// No profile has that name.
    #[error("there is no seccomp profile {0:?}: write 'seccomp: default', 'strict' or 'debug'")]
    Seccomp(String),
    /// The debug profile is what tracing needs, and for nothing else.
    #[error("'ptrace: true' and 'seccomp: debug' go together: write both, or neither")]
    Ptrace,
    /// An amount that is none.
    #[error("{key}: {text:?} is {source}")]
    Quantity {
        /// The limit.
        key: &'static str,
        /// As written.
        text: String,
        /// Why.
        source: QuantityError,
    },
}

impl PolicyError {
    pub(super) fn new(origin: &str, problems: Vec<Problem>) -> Self {
        Self { origin: origin.to_owned(), problems }
    }

    /// The mistakes in the order of the document's sections.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Problem { line, column, fault }) in self.problems.iter().enumerate() {
            if index > 0 {
                out.write_str("\n")?;
            }
            match line {
                0 => write!(out, "{}: {fault}", self.origin)?,
                _ => write!(out, "{}:{line}:{column}: {fault}", self.origin)?,
            }
        }
        Ok(())
    }
}
