//! Where journals are: `journals/WORKSPACE/PROCESS`, one file each.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::StorageError;
use crate::id::Id;

/// The directory of all journals.
#[derive(Clone, Debug)]
pub struct Journals {
    directory: PathBuf,
}

impl Journals {
    /// The journals of a state directory.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self { directory: state_dir.join("journals") }
    }

    /// Makes an empty file for the journal of a new process, to be written by init.
    ///
    /// # Errors
    /// `EEXIST` if there is one; `ENOSPC`.
    pub fn create(&self, workspace: &Id, process: &Id) -> Result<File, StorageError> {
        let directory = self.directory.join(workspace.as_str());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|error| failed(&directory, error))?;
        let path = directory.join(process.as_str());
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        file.map_err(|error| failed(&path, error))
    }

    /// Opens a journal to read it, or to close it when its writer is gone.
    ///
    /// # Errors
    /// What the kernel says; `Ok(None)` if there is none.
    pub fn open(&self, workspace: &Id, process: &Id) -> Result<Option<File>, StorageError> {
        let path = self.directory.join(workspace.as_str()).join(process.as_str());
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&path, error)),
        }
    }

    /// Removes the journal of a process that never ran.
    pub fn remove(&self, workspace: &Id, process: &Id) {
        let path = self.directory.join(workspace.as_str()).join(process.as_str());
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "journal stays behind");
        }
    }

    /// Removes all journals of a workspace.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_all(&self, workspace: &Id) -> Result<(), StorageError> {
        let path = self.directory.join(workspace.as_str());
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&path, error)),
            _ => Ok(()),
        }
    }

    /// The processes of a workspace that have a journal, in the order of their ids.
    #[must_use]
    pub fn processes(&self, workspace: &Id) -> Vec<Id> {
        ids(&self.directory.join(workspace.as_str()))
    }

    /// The workspaces that have journals.
    #[must_use]
    pub fn workspaces(&self) -> Vec<Id> {
        ids(&self.directory)
    }
}

fn ids(directory: &Path) -> Vec<Id> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut ids: Vec<Id> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    ids.sort();
    ids
}

fn failed(path: &Path, error: io::Error) -> StorageError {
    StorageError::File { path: path.display().to_string(), error }
}
