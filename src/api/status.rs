//! Errors on the wire: a `google.rpc.Status` with an `ErrorInfo`.

use std::collections::HashMap;

use nix::errno::Errno;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::workspace::{Reason, WorkspaceError};

/// Domain of every `ErrorInfo`.
const DOMAIN: &str = "hands";

impl From<WorkspaceError> for Status {
    fn from(error: WorkspaceError) -> Self {
        let code = match error.reason() {
            Reason::NotFound => Code::NotFound,
            Reason::AlreadyExists | Reason::SpecMismatch => Code::AlreadyExists,
            Reason::InvalidArgument => Code::InvalidArgument,
            Reason::FailedPrecondition | Reason::NotRunning => Code::FailedPrecondition,
            Reason::ResourceExhausted => Code::ResourceExhausted,
            Reason::PermissionDenied => Code::PermissionDenied,
            Reason::Unavailable => Code::Unavailable,
            Reason::Stale => Code::Aborted,
            Reason::TooOld => Code::OutOfRange,
            Reason::Internal => Code::Internal,
        };
        let mut metadata = HashMap::from([
            ("object".to_owned(), error.object().to_owned()),
            ("remedy".to_owned(), error.remedy().to_owned()),
        ]);
        if let Some(errno) = error.errno() {
            metadata.insert("errno".into(), format!("{:?}", Errno::from_raw(errno)));
        }
        let details = ErrorDetails::with_error_info(error.reason().as_str(), DOMAIN, metadata);
        Self::with_error_details(code, error.to_string(), details)
    }
}

/// A request that can never work as it is.
pub(super) fn invalid(object: &str, remedy: &str) -> Status {
    WorkspaceError::new(Reason::InvalidArgument, "invalid request", object, remedy).into()
}
