//! The tools of an agent: bash, read, write, edit, glob, grep. One file and one row of [`TOOLS`] each.
//!
//! A tool gets a [`Session`] (the workspace and how this call ends) and the input, and answers in the documented
//! dialect. What the agent did wrong is a result with `is_error`; what is wrong with the workspace is an error.
//! `call` gives every call its identity: the same request id never runs twice, also across a restart of the daemon.

mod bash;
mod call;
mod edit;
mod excerpt;
mod glob;
mod grep;
mod input;
mod path;
mod read;
mod shell;
mod write;

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub use call::{Call, Tools};
use input::Input;
use path::Session;

use crate::journal::ExitStatus;
use crate::workspace::WorkspaceError;

/// Most bytes of text that bash and grep answer with, marks not counted.
const TEXT: usize = 98_304;
/// Largest file that read and edit take whole, in bytes.
const WHOLE: u64 = 262_144;
/// How long a tool other than bash may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// All tools.
pub const TOOLS: &[Tool] = &[bash::TOOL, read::TOOL, write::TOOL, edit::TOOL, glob::TOOL, grep::TOOL];

/// One tool.
#[derive(Debug)]
pub struct Tool {
    /// Its name.
    pub name: &'static str,
    /// What it does, for the agent.
    pub description: &'static str,
    /// JSON Schema of its input.
    pub schema: &'static str,
    /// Whether an interrupted call may simply run again.
    repeatable: bool,
    /// How long a call may take; its own business if absent.
    patience: Option<Duration>,
    run: fn(Session, Input) -> BoxFuture<'static, Result<ToolResult, ToolError>>,
}

/// What a tool answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolResult {
    /// In order.
    pub content: Vec<Content>,
    /// Whether the agent should take it as a failure.
    pub is_error: bool,
    /// Whether something was left out.
    pub truncated: bool,
    /// How the command ended, for bash.
    pub exit: Option<ExitStatus>,
    /// How long it took.
    pub duration: Duration,
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// Valid Unicode without NUL.
    Text(String),
    /// A picture.
    Image {
        /// For example `image/png`.
        media_type: String,
        /// The file; never kept, it can be read again.
        #[serde(skip)]
        data: Bytes,
    },
    /// A document.
    Document {
        /// `application/pdf`.
        media_type: String,
        /// The file; never kept, it can be read again.
        #[serde(skip)]
        data: Bytes,
    },
}

impl ToolResult {
    fn new(content: Content) -> Self {
        Self {
            content: vec![content],
            is_error: false,
            truncated: false,
            exit: None,
            duration: Duration::ZERO,
        }
    }

    fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        Self::new(Content::Text(if text.is_empty() { "(no output)".into() } else { text }))
    }

    fn error(text: impl Into<String>) -> Self {
        Self { is_error: true, ..Self::text(text) }
    }
}

/// Why a tool has no ordinary answer.
#[derive(Debug, thiserror::Error)]
enum ToolError {
    /// The agent is told this, as a result.
    #[error("{0}")]
    Told(String),
    /// The caller is told this, as an error of the call.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
}

#[cfg(test)]
mod tests;
