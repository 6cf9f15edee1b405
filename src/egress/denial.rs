//! Refusals and how they explain themselves: to the client as JSON, to the command's result as a line of text.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use hickory_proto::rr::RecordType;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;

use super::audit::{AuditError, Facts};
use super::body::{Body, full};
use super::inject::InjectError;
use super::rates::TooOften;
use super::request::RequestError;
use super::upstream::UpstreamError;
use crate::policy::Denial;

/// How many of the latest denials of a workspace are kept as text.
const KEPT: usize = 64;

const DENIED: HeaderName = HeaderName::from_static("x-hands-denied");
const FAILED: HeaderName = HeaderName::from_static("x-hands-failed");

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE_NAME: HeaderName = HeaderName::from_static("grpc-message");

/// What is escaped in a `grpc-message`.
const GRPC_MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

/// Why a request gets no answer from its origin.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{0}")]
    Denied(Box<Denial>),
    #[error("{0}")]
    Request(#[from] RequestError),
    #[error("{0}")]
    Rate(#[from] TooOften),
    #[error("{0}")]
    Credential(#[from] InjectError),
    #[error("{0}")]
    Upstream(UpstreamError),
    #[error("{0}")]
    Audit(#[from] AuditError),
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self::Denied(Box::new(denial))
    }
}

impl From<UpstreamError> for Refusal {
    fn from(error: UpstreamError) -> Self {
        match error {
            UpstreamError::Denied(denial) => Self::Denied(denial),
            error => Self::Upstream(error),
        }
    }
}

impl Refusal {
    /// The status of the answer.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Denied(_) => StatusCode::FORBIDDEN,
            Self::Rate(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Request(error) => error.status(),
            Self::Upstream(error) if error.is_timeout() => StatusCode::GATEWAY_TIMEOUT,
            Self::Upstream(_) | Self::Credential(_) => StatusCode::BAD_GATEWAY,
            Self::Audit(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// A stable word for programs.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Denied(denial) => denial.reason.as_str(),
            Self::Rate(_) => "rate_exceeded",
            Self::Request(error) => error.reason(),
            Self::Upstream(error) => error.reason(),
            Self::Credential(error) => error.reason(),
            Self::Audit(_) => "audit_unavailable",
        }
    }

    /// Whether the workspace asked for what it may not, rather than something having failed.
    pub(super) fn is_denial(&self) -> bool {
        matches!(self, Self::Denied(_) | Self::Request(_) | Self::Rate(_))
    }

    fn remedy(&self) -> String {
        match self {
            Self::Denied(denial) => denial.remedy(),
            Self::Rate(error) => format!("try again in {} seconds", error.seconds()),
            Self::Request(error) => error.remedy().to_owned(),
            Self::Upstream(_) => "check the origin's address and certificate, then try again".to_owned(),
            Self::Credential(_) => "tell the operator: the credential of this rule can't be used".to_owned(),
            Self::Audit(_) => "tell the operator: nothing goes out while it can't be recorded".to_owned(),
        }
    }

    /// What the client is told about a request to `about`.
    pub(super) fn response(&self, about: &Facts, language: Language) -> Response<Body> {
        match language {
            // What a client must do elsewhere is told by the protocol itself, to gRPC too.
            Language::Grpc if self.status() != StatusCode::MISDIRECTED_REQUEST => self.as_grpc(),
            _ => self.as_json(about),
        }
    }

    /// The code that stands for the refusal in gRPC: `PERMISSION_DENIED` where nothing but the policy is in the way.
    fn grpc_code(&self) -> u8 {
        match self.status() {
            StatusCode::FORBIDDEN => 7,
            StatusCode::TOO_MANY_REQUESTS => 8,
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => 12,
            StatusCode::GATEWAY_TIMEOUT | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => 14,
            _ => 3,
        }
    }

    /// An answer of trailers only, as the gRPC protocol over HTTP/2 has it.
    fn as_grpc(&self) -> Response<Body> {
        let text = format!("{} ({}): {}", self, self.reason(), self.remedy());
        let message = utf8_percent_encode(&text, GRPC_MESSAGE).to_string();
        let mut response = Response::new(full(Bytes::new()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(self.grpc_code())));
        if let Ok(message) = HeaderValue::from_str(&message) {
            headers.insert(GRPC_MESSAGE_NAME, message);
        }
        headers.insert(self.header(), HeaderValue::from_static(self.reason()));
        response
    }

    const fn header(&self) -> HeaderName {
        match self {
            Self::Denied(_) | Self::Request(_) | Self::Rate(_) => DENIED,
            _ => FAILED,
        }
    }

    fn as_json(&self, about: &Facts) -> Response<Body> {
        let error = match self {
            Self::Denied(_) | Self::Rate(_) => "egress_denied",
            Self::Request(_) => "egress_refused",
            _ => "egress_failed",
        };
        let explanation = Explanation {
            error,
            rule: about.rule.as_deref(),
            reason: self.reason(),
            host: &about.host,
            port: about.port,
            method: about.method.as_deref(),
            path: about.path.as_deref(),
            remedy: self.remedy(),
            message: self.to_string(),
        };
        let text = serde_json::to_vec(&explanation).unwrap_or_default();
        let mut response = Response::new(full(Bytes::from(text)));
        *response.status_mut() = self.status();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().insert(self.header(), HeaderValue::from_static(self.reason()));
        if let Self::Rate(error) = self {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(error.seconds()));
        }
        response
    }
}

/// In which words a client understands a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    Json,
    Grpc,
}

impl Language {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let kind = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        let is_grpc = kind.is_some_and(|kind| kind.starts_with(b"application/grpc"));
        if is_grpc && request.version() == Version::HTTP_2 { Self::Grpc } else { Self::Json }
    }
}

#[derive(Serialize)]
struct Explanation<'a> {
    error: &'static str,
    rule: Option<&'a str>,
    reason: &'static str,
    host: &'a str,
    port: Option<u16>,
    method: Option<&'a str>,
    path: Option<&'a str>,
    remedy: String,
    message: String,
}

#[derive(Debug)]
struct Kept {
    text: String,
    /// The other half of a pair of questions that a resolver asks for one name.
    twin: Option<RecordType>,
}

#[derive(Debug, Default)]
struct Ring {
    latest: VecDeque<Kept>,
    total: u64,
}

impl Ring {
    fn push(&mut self, kept: Kept) {
        if self.latest.len() == KEPT {
            self.latest.pop_front();
        }
        self.latest.push_back(kept);
        self.total += 1;
    }
}

/// The denials of one workspace, as text for the result of the command that caused them.
#[derive(Debug, Default)]
pub(super) struct Denials {
    ring: Mutex<Ring>,
}

impl Denials {
    /// Counts one denial.
    pub(super) fn add(&self, text: String) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.push(Kept { text, twin: None });
    }

    /// Counts one denied question. A resolver asks for both kinds of address at once, which is one denial of one name.
    pub(super) fn add_question(&self, kind: RecordType, text: String) {
        let twin = match kind {
            RecordType::A => Some(RecordType::AAAA),
            RecordType::AAAA => Some(RecordType::A),
            _ => None,
        };
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        match ring.latest.iter_mut().find(|kept| kept.twin == Some(kind) && kept.text == text) {
            Some(kept) => kept.twin = None,
            None => ring.push(Kept { text, twin }),
        }
    }

    /// How many there have been. What is asked from now on is no half of a pair from before.
    pub(super) fn mark(&self) -> u64 {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        for kept in &mut ring.latest {
            kept.twin = None;
        }
        ring.total
    }

    /// The kept texts of those since `mark`, each text once, and the number of all since then.
    pub(super) fn since(&self, mark: u64) -> (Vec<String>, u64) {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let count = ring.total.saturating_sub(mark);
        let kept = usize::try_from(count).unwrap_or(usize::MAX).min(ring.latest.len());
        let mut texts: Vec<String> = Vec::new();
        for Kept { text, .. } in ring.latest.iter().skip(ring.latest.len() - kept) {
            if !texts.contains(text) {
                texts.push(text.clone());
            }
        }
        (texts, count)
    }
}
