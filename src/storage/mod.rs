//! What lasts: the database of workspaces, the journals of their commands, and the memory that only a reboot or the
//! end of the supervisor erases.
//!
//! Invariants: the daemon alone writes here; a change that was acknowledged is on the disk ([`state`]); nothing here
//! knows what a policy or a jail is.

pub mod journals;
pub mod memory;
pub mod state;

/// Why something could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The database refused.
    #[error("state.db: {0}")]
    Database(#[from] rusqlite::Error),
    /// A record that this version can't read.
    #[error("state.db: workspace {0}: unreadable record")]
    Record(String),
    /// A file could not be made or read.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// Why.
        error: std::io::Error,
    },
}

impl StorageError {
    /// Whether the disk is full or a quota is used up.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Database(error) => error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            Self::File { error, .. } => {
                matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
            }
            Self::Record(_) => false,
        }
    }
}
