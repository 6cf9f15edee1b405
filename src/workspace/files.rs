//! What callers can do with files. A stopped workspace is started first.

use std::fs::File;

use super::Workspaces;
use super::error::{Reason, WorkspaceError};
use super::file::{self, NewFile};
use super::search::{self, Found};
use super::types::{DirectoryEntry, Stat};
use crate::jail::pattern;
use crate::jail::wire::{FileOrder, Search, Target, Version};

impl Workspaces {
    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// As open(2) inside would say.
    pub async fn open_file(
        &self,
        name: &str,
        target: impl Into<Target>,
    ) -> Result<(File, Stat), WorkspaceError> {
        file::open(&*self.awake(name).await?, target.into()).await
    }

    /// Makes a file that gets its name when it is complete.
    ///
    /// # Errors
    /// As open(2) inside would say.
    pub async fn create_file(
        &self,
        name: &str,
        target: impl Into<Target>,
        mode: Option<u32>,
        create_parents: bool,
    ) -> Result<NewFile, WorkspaceError> {
        file::create(self.awake(name).await?, target.into(), mode, create_parents).await
    }

    /// A new file that begins with what the target has now: how long that is, and which version it was.
    ///
    /// # Errors
    /// As open(2) inside would say; a target that does not exist begins empty.
    pub async fn extend_file(
        &self,
        name: &str,
        target: impl Into<Target>,
        mode: Option<u32>,
        create_parents: bool,
    ) -> Result<(NewFile, u64, Option<Version>), WorkspaceError> {
        let target = target.into();
        let (file, before) = match self.open_file(name, target.clone()).await {
            Ok((file, before)) => (Some(file), Some(before)),
            Err(error) if error.reason() == Reason::NotFound => (None, None),
            Err(error) => return Err(error),
        };
        let new = self.create_file(name, target, mode, create_parents).await?;
        let length = match file {
            Some(file) => new.fill(file).await?,
            None => 0,
        };
        Ok((new, length, before.map(|before| before.version)))
    }

    /// Copies a regular file with its permissions.
    ///
    /// # Errors
    /// As open(2) inside would say.
    pub async fn copy_file(
        &self,
        name: &str,
        source: &[u8],
        target: &[u8],
        create_parents: bool,
    ) -> Result<Stat, WorkspaceError> {
        let (file, before) = self.open_file(name, source).await?;
        let new = self.create_file(name, target, Some(before.mode), create_parents).await?;
        new.fill(file).await?;
        new.commit().await
    }

    /// Removes a file, a link (not what it points to), or a directory; with what it holds if `recursive`.
    ///
    /// # Errors
    /// As unlink(2) and rmdir(2) inside would say; `EXDEV` if another file system is mounted below.
    pub async fn remove_file(&self, name: &str, path: &[u8], recursive: bool) -> Result<(), WorkspaceError> {
        let order = FileOrder::Remove { path: path.to_vec(), recursive };
        file::change(&*self.awake(name).await?, order, &[path]).await.map(drop)
    }

    /// Renames within one file system.
    ///
    /// # Errors
    /// As renameat2(2) inside would say; `EEXIST` if the new name is taken and is not to be replaced.
    pub async fn move_file(
        &self,
        name: &str,
        from: &[u8],
        to: &[u8],
        replace: bool,
    ) -> Result<(), WorkspaceError> {
        let order = FileOrder::Move { from: from.to_vec(), to: to.to_vec(), replace };
        file::change(&*self.awake(name).await?, order, &[from, to]).await.map(drop)
    }

    /// Makes a directory; with `parents` missing ones too, and then one that exists is no error.
    ///
    /// # Errors
    /// As mkdir(2) inside would say.
    pub async fn make_directory(
        &self,
        name: &str,
        path: &[u8],
        mode: u32,
        parents: bool,
    ) -> Result<Option<Stat>, WorkspaceError> {
        let order = FileOrder::MakeDirectory { path: path.to_vec(), mode, parents };
        file::change(&*self.awake(name).await?, order, &[path]).await
    }

    /// Sets permission bits (`0o777`) and the time of the last change.
    ///
    /// # Errors
    /// As chmod(2) and utimensat(2) inside would say.
    pub async fn set_attributes(
        &self,
        name: &str,
        path: &[u8],
        mode: Option<u32>,
        modified_ns: Option<i64>,
    ) -> Result<Option<Stat>, WorkspaceError> {
        let order = FileOrder::SetAttributes { path: path.to_vec(), mode, modified_ns };
        file::change(&*self.awake(name).await?, order, &[path]).await
    }

    /// Paths below a directory that match a glob, in no order.
    ///
    /// # Errors
    /// [`Reason::InvalidArgument`] if the pattern is none; as opendir(3) inside would say.
    pub async fn glob(&self, name: &str, search: Search) -> Result<Found, WorkspaceError> {
        let checked = pattern::matcher(&search.pattern).map(drop);
        checked.map_err(|error| WorkspaceError::invalid("pattern", error.to_string()))?;
        search::begin(&*self.awake(name).await?, search, FileOrder::Glob).await
    }

    /// Lines that match a regular expression, in one file or below a directory, files in the order of their names.
    ///
    /// # Errors
    /// [`Reason::InvalidArgument`] if the expression is none; as open(2) inside would say.
    pub async fn grep(&self, name: &str, search: Search) -> Result<Found, WorkspaceError> {
        let checked = pattern::expression(&search.pattern).map(drop);
        checked.map_err(|error| WorkspaceError::invalid("pattern", error.to_string()))?;
        search::begin(&*self.awake(name).await?, search, FileOrder::Grep).await
    }

    /// What a path names.
    ///
    /// # Errors
    /// As stat(2) inside would say.
    pub async fn stat(&self, name: &str, path: &[u8], follow: bool) -> Result<Stat, WorkspaceError> {
        file::stat(&*self.awake(name).await?, path, follow).await
    }

    /// The entries of a directory, sorted by name.
    ///
    /// # Errors
    /// As opendir(3) inside would say.
    pub async fn list_directory(
        &self,
        name: &str,
        path: &[u8],
    ) -> Result<Vec<DirectoryEntry>, WorkspaceError> {
        file::list(&*self.awake(name).await?, path).await
    }
}
