//! Where a call works, and the rules for paths: an agent stays in its working directory and its volumes. The rules
//! keep it on track; the boundary is the jail.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use std::os::unix::ffi::OsStrExt;

use super::ToolError;
use super::call::Ticket;
use super::shell::Shells;
use crate::id::Id;
use crate::workspace::{Search, Target, WORKDIR, WorkspaceError, Workspaces};

/// One call in one workspace.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) workspaces: Workspaces,
    /// Its id.
    pub(super) workspace: Id,
    /// Volumes: where, and whether they can't be written.
    pub(super) volumes: Vec<(String, bool)>,
    pub(super) shells: Arc<Shells>,
    /// What is kept of this call.
    pub(super) ticket: Ticket,
}

/// A path as the agent wrote it, for one tool.
#[derive(Debug)]
pub(super) struct Named<'a> {
    session: &'a Session,
    tool: &'static str,
    written: &'a str,
    /// Absolute, `.` and `..` taken out.
    pub(super) path: PathBuf,
}

impl Session {
    pub(super) fn name<'a>(&'a self, tool: &'static str, written: &'a str) -> Result<Named<'a>, ToolError> {
        if written.contains('\0') {
            return Err(ToolError::Told(format!("{tool}: path must not contain NUL")));
        }
        Ok(Named { session: self, tool, written, path: collapse(&Path::new(WORKDIR).join(written)) })
    }

    fn roots(&self) -> impl Iterator<Item = &str> {
        std::iter::once(WORKDIR).chain(self.volumes.iter().map(|(path, _)| path.as_str()))
    }
}

fn collapse(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::Normal(name) => plain.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    plain
}

impl Named<'_> {
    pub(super) fn target(&self) -> Target {
        let path = self.path.as_os_str().as_bytes().to_vec();
        Target { path, roots: self.session.roots().map(|root| root.as_bytes().to_vec()).collect() }
    }

    pub(super) fn search(&self, pattern: &str, time: std::time::Duration, entries: u64) -> Search {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Search { target: self.target(), pattern: pattern.to_owned(), time, entries }
    }

    /// `TOOL: F: TEXT`.
    pub(super) fn complain(&self, text: &str) -> ToolError {
        ToolError::Told(format!("{}: {}: {text}", self.tool, self.written))
    }

    /// What the agent is told when the kernel refused; anything else is the caller's business.
    pub(super) fn refuse(&self, error: WorkspaceError) -> ToolError {
        let Some(errno) = error.errno().map(Errno::from_raw) else { return error.into() };
        if errno == Errno::EXDEV || !self.session.roots().any(|root| self.path.starts_with(root)) {
            return self.outside();
        }
        if errno == Errno::EROFS
            && let Some(root) = self.read_only()
        {
            let Self { tool, written, .. } = self;
            return ToolError::Told(format!("{tool}: {written} is inside read-only directory {root}"));
        }
        self.complain(&words(errno))
    }

    fn outside(&self) -> ToolError {
        let Self { tool, written, .. } = self;
        let more = if self.session.volumes.is_empty() { "" } else { " and its other permitted directories" };
        ToolError::Told(format!("{tool}: path '{written}' is outside the session's working directory{more}"))
    }

    /// The volume that can't be written; through a link it may be another one than the path says.
    fn read_only(&self) -> Option<&str> {
        let all = || self.session.volumes.iter().filter(|(_, read_only)| *read_only);
        let named = all().find(|(root, _)| self.path.starts_with(root));
        named.or_else(|| all().next()).map(|(root, _)| root.as_str())
    }
}

fn words(errno: Errno) -> String {
    match errno {
        Errno::ENOENT => "no such file or directory".into(),
        Errno::ENOTDIR => "not a directory".into(),
        Errno::EISDIR => "is a directory".into(),
        Errno::EACCES | Errno::EPERM => "permission denied".into(),
        Errno::EEXIST => "file already exists".into(),
        Errno::ELOOP => "too many levels of symbolic links".into(),
        Errno::ENOSPC => "no space left on device".into(),
        Errno::EDQUOT => "disk quota exceeded".into(),
        Errno::ENODEV => "not a regular file".into(),
        other => other.desc().to_lowercase(),
    }
}
