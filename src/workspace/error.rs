//! What callers are told when something can't be done: a reason from a fixed list, the object, and what to do.

use nix::errno::Errno;

use crate::jail::client::AskError;
use crate::jail::wire::Refusal;
use crate::{journal, storage};

/// Why a call failed; stable across versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no such workspace, process, or file.
    NotFound,
    /// The id is taken by something else.
    AlreadyExists,
    /// The key belongs to a workspace that was described otherwise.
    SpecMismatch,
    /// The request can never work as it is.
    InvalidArgument,
    /// The file is not in the state that the caller knew.
    Stale,
    /// Not in the present state.
    FailedPrecondition,
    /// Disk, memory, descriptors or processes are used up.
    ResourceExhausted,
    /// The sandbox's own user may not.
    PermissionDenied,
    /// Hands is stopping, or a part of it is being restarted; try again.
    Unavailable,
    /// Asked for output that is not kept any more.
    TooOld,
    /// The workspace does not run.
    NotRunning,
    /// A fault of ours or of the machine.
    Internal,
}

impl Reason {
    /// The name in `google.rpc.ErrorInfo`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::SpecMismatch => "SPEC_MISMATCH",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::Stale => "STALE",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::Unavailable => "UNAVAILABLE",
            Self::TooOld => "TOO_OLD",
            Self::NotRunning => "NOT_RUNNING",
            Self::Internal => "INTERNAL",
        }
    }
}

/// A call that failed. It reads as one line: what, which object, what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}: {object}: {remedy}")]
pub struct WorkspaceError {
    reason: Reason,
    what: String,
    object: String,
    remedy: String,
    errno: Option<i32>,
}

impl WorkspaceError {
    /// An error about `object`.
    #[expect(clippy::needless_pass_by_value, reason = "callers have an error of their own to give away")]
    pub fn new(
        reason: Reason,
        what: impl Into<String>,
        object: impl ToString,
        remedy: impl Into<String>,
    ) -> Self {
        Self { reason, what: what.into(), object: object.to_string(), remedy: remedy.into(), errno: None }
    }

    /// Why, from the fixed list.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// What it is about.
    #[must_use]
    pub fn object(&self) -> &str {
        &self.object
    }

    /// What to do.
    #[must_use]
    pub fn remedy(&self) -> &str {
        &self.remedy
    }

    /// The kernel's number, where the kernel refused.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }

    pub(super) fn unknown_workspace(name: &str) -> Self {
        Self::new(Reason::NotFound, "unknown workspace", name, "`hands ls` shows those there are")
    }

    pub(super) fn unknown_process(name: &str) -> Self {
        Self::new(Reason::NotFound, "unknown process", name, "list the processes of the workspace")
    }

    pub(super) fn not_running(name: impl ToString) -> Self {
        Self::new(Reason::NotRunning, "the workspace is not running", name, "ensure it again to start it")
    }

    pub(super) fn paused(name: impl ToString) -> Self {
        Self::new(Reason::FailedPrecondition, "the workspace is paused", name, "resume it first")
    }

    pub(super) fn stopping(name: impl ToString) -> Self {
        Self::new(Reason::Unavailable, "Hands is stopping", name, "try again when it serves")
    }

    pub(super) fn invalid(object: impl ToString, remedy: impl Into<String>) -> Self {
        Self::new(Reason::InvalidArgument, "invalid request", object, remedy)
    }

    /// Adds to what is said at the end.
    pub(super) fn adding(mut self, more: &str) -> Self {
        self.remedy.push_str(more);
        self
    }

    /// The answer of init about `object`.
    pub(super) fn from_init(error: AskError, object: impl ToString) -> Self {
        match error {
            AskError::Gone => Self::not_running(object),
            AskError::Link(crate::jail::link::LinkError::TooLarge(_)) => {
                Self::new(Reason::InvalidArgument, "too large", object, error.to_string())
            }
            AskError::Link(_) => Self::new(Reason::Internal, "init", object, error.to_string()),
            AskError::Failed(failure) => {
                let errno = Errno::from_raw(failure.errno);
                let reason = match errno {
                    Errno::ENOENT | Errno::ESRCH => Reason::NotFound,
                    Errno::EACCES | Errno::EPERM => Reason::PermissionDenied,
                    Errno::EEXIST => Reason::AlreadyExists,
                    Errno::ENOSPC
                    | Errno::EDQUOT
                    | Errno::EMFILE
                    | Errno::ENFILE
                    | Errno::EAGAIN
                    | Errno::ENOMEM => Reason::ResourceExhausted,
                    Errno::EIO => Reason::Internal,
                    Errno::ESTALE => Reason::Stale,
                    Errno::EISDIR | Errno::ENOTDIR | Errno::ENOTEMPTY | Errno::ESHUTDOWN | Errno::EROFS => {
                        Reason::FailedPrecondition
                    }
                    _ => Reason::InvalidArgument,
                };
                let mut told = Self::new(reason, failure.step, object, errno.desc());
                told.errno = Some(failure.errno);
                told
            }
        }
    }
}

impl From<storage::StorageError> for WorkspaceError {
    fn from(error: storage::StorageError) -> Self {
        if error.is_full() {
            return Self::new(
                Reason::ResourceExhausted,
                "disk full",
                error,
                "free space below the state directory",
            );
        }
        Self::new(Reason::Internal, "storage", error, "see the daemon's log")
    }
}

impl From<journal::JournalError> for WorkspaceError {
    fn from(error: journal::JournalError) -> Self {
        Self::new(Reason::Internal, "journal", error, "see the daemon's log")
    }
}

impl From<Refusal> for WorkspaceError {
    fn from(refusal: Refusal) -> Self {
        let remedy = "`hands doctor` shows what this machine lacks";
        Self::new(Reason::FailedPrecondition, refusal.step, refusal.detail, remedy)
    }
}
