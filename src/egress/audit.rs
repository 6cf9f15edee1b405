//! The record of every decision, written before the first byte leaves. What can't be written does not happen.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use serde::Serialize;

use super::ledger::{FILE_NAME, Ledger};

/// Longest text of one field in bytes; longer text (a path, a host) is cut and ends in `…`.
const FIELD_LIMIT: usize = 4096;

/// The log could not be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file could not be opened, read or cut at start.
    #[error("cannot open the audit log {path}: {cause}")]
    Open {
        /// The log's path.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The line could not be written, so the action it records must not happen.
    #[error("cannot write the audit log: {0}")]
    Write(#[from] io::Error),
    /// The line could not be encoded, so the action it records must not happen.
    #[error("cannot encode an audit record: {0}")]
    Encode(#[from] serde_json::Error),
}

/// What kind of decision a line records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A question to the workspace's resolver.
    Dns,
    /// A connection that is judged as a whole.
    Connection,
    /// One HTTP request.
    Request,
    /// The result of an allowed connection or request; has the `id` of its decision.
    End,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Decision {
    /// It goes out.
    Allow,
    /// It does not.
    Deny,
}

/// The facts of one decision. The query of a request is never among them.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The rule that decided, if one did.
    pub(super) rule: Option<String>,
    /// Why not, or what went wrong.
    pub(super) reason: Option<String>,
    /// Name or literal address that was asked for.
    pub(super) host: String,
    /// The address that is dialled.
    pub(super) address: Option<IpAddr>,
    /// Port that was asked for; none for DNS.
    pub(super) port: Option<u16>,
    /// Method of the request, or type of the DNS question.
    pub(super) method: Option<String>,
    /// Normalised path without its query.
    pub(super) path: Option<String>,
    /// Name of the credential that is put in.
    pub(super) credential: Option<String>,
}

/// How an allowed connection or request ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// HTTP status the client got; none for tunnels.
    pub(super) status: Option<u16>,
    /// What went wrong, if something did.
    pub(super) reason: Option<String>,
    /// The address that was really dialled.
    pub(super) address: Option<IpAddr>,
    /// Body or tunnel bytes sent to the origin.
    pub(super) bytes_up: u64,
    /// Body or tunnel bytes received from the origin.
    pub(super) bytes_down: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    id: u64,
    time: String,
    workspace: &'a str,
    generation: u64,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<Decision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_up: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_down: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
}

/// The append-only log of all workspaces.
#[derive(Debug)]
pub struct Audit {
    ledger: Mutex<Ledger>,
}

impl Audit {
    /// Opens the log in `directory`, or makes it. Numbers go on from the last record.
    ///
    /// # Errors
    /// If a file of it can't be opened, read or cut.
    pub fn open(directory: &Path) -> Result<Self, AuditError> {
        match Ledger::open(directory) {
            Ok(ledger) => Ok(Self { ledger: Mutex::new(ledger) }),
            Err(cause) => Err(AuditError::Open { path: directory.join(FILE_NAME), cause }),
        }
    }

    /// Writes one line; `build` gets its number.
    fn append<'a>(&self, build: impl FnOnce(u64) -> Line<'a>) -> Result<u64, AuditError> {
        self.ledger().append(build)
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> String {
    prost_types::Timestamp::from(SystemTime::now()).to_string()
}

/// Cut at a character border, so that a line stays bounded whatever a workspace sends.
fn clip(text: &str) -> String {
    if text.len() <= FIELD_LIMIT {
        return text.to_owned();
    }
    let end = (0..=FIELD_LIMIT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

/// The log as one workspace's life writes it.
#[derive(Clone, Debug)]
pub(super) struct Trail {
    audit: Arc<Audit>,
    workspace: Arc<str>,
    generation: u64,
}

impl Trail {
    /// The part of `audit` that records `workspace` in its `generation`.
    pub(super) fn new(audit: Arc<Audit>, workspace: &str, generation: u64) -> Self {
        Self { audit, workspace: workspace.into(), generation }
    }

    /// Records what is about to go out. Nothing may go out unless this succeeded.
    pub(super) fn allow(&self, kind: Kind, facts: &Facts) -> Result<Open, AuditError> {
        let id = self.decide(kind, Decision::Allow, facts)?;
        Ok(Open { trail: self.clone(), id, started: Instant::now() })
    }

    /// Records an allowed act that has no end of its own. It must not happen unless this succeeded.
    pub(super) fn note(&self, kind: Kind, facts: &Facts) -> Result<(), AuditError> {
        self.decide(kind, Decision::Allow, facts).map(drop)
    }

    /// Records a refusal. It is refused either way, so a failure is only told to the operator's log.
    pub(super) fn deny(&self, kind: Kind, facts: &Facts) {
        if let Err(error) = self.decide(kind, Decision::Deny, facts) {
            tracing::error!(workspace = &*self.workspace, %error, "a refusal was not recorded");
        }
    }

    fn decide(&self, kind: Kind, decision: Decision, facts: &Facts) -> Result<u64, AuditError> {
        self.audit.append(|seq| Line {
            decision: Some(decision),
            rule: facts.rule.as_deref(),
            reason: facts.reason.as_deref().map(clip),
            host: Some(clip(&facts.host)),
            address: facts.address,
            port: facts.port,
            method: facts.method.as_deref().map(clip),
            path: facts.path.as_deref().map(clip),
            credential: facts.credential.as_deref(),
            ..self.line(kind, seq, seq)
        })
    }

    fn line(&self, kind: Kind, seq: u64, id: u64) -> Line<'_> {
        Line {
            seq,
            id,
            time: now(),
            workspace: &self.workspace,
            generation: self.generation,
            kind,
            decision: None,
            rule: None,
            reason: None,
            host: None,
            address: None,
            port: None,
            method: None,
            path: None,
            credential: None,
            status: None,
            bytes_up: None,
            bytes_down: None,
            duration_ms: None,
        }
    }
}

/// A decision to allow whose end is not recorded yet.
#[derive(Debug)]
pub(super) struct Open {
    trail: Trail,
    id: u64,
    started: Instant,
}

impl Open {
    /// Records the end. What was sent is sent, so a failure is only told to the operator's log.
    pub(super) fn end(self, outcome: &Outcome) {
        let written = self.trail.audit.append(|seq| Line {
            status: outcome.status,
            reason: outcome.reason.as_deref().map(clip),
            address: outcome.address,
            bytes_up: Some(outcome.bytes_up),
            bytes_down: Some(outcome.bytes_down),
            duration_ms: Some(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)),
            ..self.trail.line(Kind::End, seq, self.id)
        });
        if let Err(error) = written {
            tracing::error!(workspace = &*self.trail.workspace, %error, "the end of an exchange was not recorded");
        }
    }
}
