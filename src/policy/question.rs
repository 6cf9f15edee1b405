//! A request as people write it, for questions about a policy and for the cases in its document.

use super::Policy;
use super::decide::{Request, Scheme, Verdict};
use super::denial::Denial;
use super::host::{Host, HostError};
use super::path::{Path, PathError};

/// A method and a URL, read.
#[derive(Clone, Debug)]
pub struct Question {
    scheme: Scheme,
    host: Host,
    port: u16,
    method: String,
    path: Path,
    websocket: bool,
}

/// A URL that is none, or that no request could have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// Not of the form of a URL.
    #[error("URL: {0}: write it like https://api.example.com/path; http, wss and ws work too")]
    Form(String),
    /// The host is none.
    #[error("URL: {url}: {cause}")]
    Host {
        /// As written.
        url: String,
        /// What is wrong.
        cause: HostError,
    },
    /// The path is ambiguous.
    #[error("URL: {url}: {cause}")]
    Path {
        /// As written.
        url: String,
        /// What is wrong.
        cause: PathError,
    },
}

impl Question {
    /// Reads a method and a URL. `wss` and `ws` ask for a WebSocket; the query is no part of what is judged.
    ///
    /// # Errors
    /// [`QuestionError`].
    pub fn parse(method: &str, url: &str) -> Result<Self, QuestionError> {
        let wrong = || QuestionError::Form(url.to_owned());
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let (scheme, default, websocket) = match scheme {
            "https" => (Scheme::Https, 443, false),
            "wss" => (Scheme::Https, 443, true),
            "http" => (Scheme::Http, 80, false),
            "ws" => (Scheme::Http, 80, true),
            _ => return Err(wrong()),
        };
        let cut = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(cut);
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| wrong())?),
            _ => (authority, default),
        };
        let host = Host::parse(host).map_err(|cause| QuestionError::Host { url: url.to_owned(), cause })?;
        let path = rest.split(['?', '#']).next().filter(|path| !path.is_empty()).unwrap_or("/");
        let path = Path::parse(path).map_err(|cause| QuestionError::Path { url: url.to_owned(), cause })?;
        Ok(Self { scheme, host, port, method: method.to_owned(), path, websocket })
    }

    /// In the form that is judged.
    #[must_use]
    pub fn request(&self) -> Request<'_> {
        let Self { scheme, ref host, port, ref method, ref path, websocket } = *self;
        Request { scheme, host, port, method, path, websocket }
    }
}

/// What the author of a policy expects of it: an entry of `tests` in its document.
#[derive(Clone, Debug)]
pub struct Case {
    pub(super) question: Question,
    pub(super) request: String,
    pub(super) line: u64,
    pub(super) expected: Expected,
}

/// The verdict that a case expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// By this rule, or by any.
    Allow(Option<String>),
    Deny,
}

impl Case {
    /// The line of the document.
    #[must_use]
    pub const fn line(&self) -> u64 {
        self.line
    }

    /// Method and URL as written.
    #[must_use]
    pub fn request(&self) -> &str {
        &self.request
    }

    /// The verdict, and whether it is as expected.
    #[must_use]
    pub fn judge(&self, policy: &Policy) -> (Verdict, bool) {
        let verdict = policy.explain(&self.question.request());
        let as_expected = match (&self.expected, &verdict) {
            (Expected::Allow(None), Verdict::Allowed { .. })
            | (Expected::Deny, Verdict::Denied(Denial { .. })) => true,
            (Expected::Allow(Some(wanted)), Verdict::Allowed { rule, .. }) => wanted == rule,
            _ => false,
        };
        (verdict, as_expected)
    }
}
