//! The record of every decision: one JSON object per line, written before the first byte leaves.
//!
//! A line is one `write(2)`. If it fails, what was half written is cut off again and the caller gets an error,
//! which it has to answer by sending nothing. A torn last line (power loss) is cut when the log is opened.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};

/// The name of the log within the audit directory.
pub const FILE_NAME: &str = "audit.jsonl";

/// Longest text of one field in bytes; longer text (a path, a host) is cut and ends in `…`.
const FIELD_LIMIT: usize = 4096;

/// How much of the end of the log is read at a time to find its last complete line.
const TAIL_CHUNK: u64 = 64 * 1024;

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

#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

#[derive(Debug)]
struct Log {
    file: File,
    /// Bytes of complete lines; anything behind it is the rest of a failed write.
    length: u64,
    next: u64,
    /// A failed write could not be cut off yet, so nothing may be appended.
    torn: bool,
}

/// The append-only log of all workspaces.
#[derive(Debug)]
pub struct Audit {
    log: Mutex<Log>,
}

impl Audit {
    /// Opens `audit.jsonl` in `dir`, or makes it (mode 0600), and cuts a torn last line. Numbers go on from the last line.
    ///
    /// # Errors
    /// If the file can't be opened, read or cut.
    pub fn open(dir: &Path) -> Result<Self, AuditError> {
        let path = dir.join(FILE_NAME);
        match Self::open_file(&path) {
            Ok(log) => Ok(Self { log: Mutex::new(log) }),
            Err(cause) => Err(AuditError::Open { path, cause }),
        }
    }

    fn open_file(path: &Path) -> io::Result<Log> {
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        let found = file.metadata()?.len();
        let (length, last) = last_line(&file, found)?;
        if length < found {
            file.set_len(length)?;
        }
        let next = match last {
            None => 1,
            Some(line) => {
                let numbered: Numbered = serde_json::from_slice(&line)?;
                numbered.seq + 1
            }
        };
        Ok(Log { file, length, next, torn: false })
    }

    /// Writes one line; `build` gets its number.
    fn append<'a>(&self, build: impl FnOnce(u64) -> Line<'a>) -> Result<u64, AuditError> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.torn {
            log.file.set_len(log.length)?;
            log.torn = false;
        }
        let seq = log.next;
        let mut line = serde_json::to_vec(&build(seq))?;
        line.push(b'\n');
        let written = (&log.file).write(&line);
        if !matches!(written, Ok(count) if count == line.len()) {
            log.torn = log.file.set_len(log.length).is_err();
            return Err(AuditError::Write(written.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into())));
        }
        log.length += line.len() as u64;
        log.next += 1;
        Ok(seq)
    }
}

/// Length of the complete lines within the first `length` bytes, and the last of these lines.
fn last_line(file: &File, length: u64) -> io::Result<(u64, Option<Vec<u8>>)> {
    let mut tail = Vec::new();
    let mut start = length;
    loop {
        let ends: Vec<usize> =
            tail.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
        if let [.., before, last] = ends[..] {
            return Ok((start + last as u64 + 1, Some(tail[before + 1..last].to_vec())));
        }
        if start == 0 {
            let Some(last) = ends.first().copied() else { return Ok((0, None)) };
            tail.truncate(last);
            return Ok((last as u64 + 1, Some(tail)));
        }
        let chunk = TAIL_CHUNK.min(start);
        start -= chunk;
        let mut earlier = vec![0; usize::try_from(chunk).map_err(io::Error::other)?];
        file.read_exact_at(&mut earlier, start)?;
        earlier.append(&mut tail);
        tail = earlier;
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
