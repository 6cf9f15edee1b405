//! `write`: a whole file, exactly as given, at once.

use std::io::Write;

use futures_util::FutureExt;

use super::path::{Named, Session};
use super::{Input, PATIENCE, Tool, ToolError, ToolResult};
use crate::workspace::Version;

pub(super) const TOOL: Tool = Tool {
    name: "write",
    description: "Write a file, making its directories. What was there is replaced at once; the content is stored \
                  exactly.",
    schema: r#"{"type":"object","properties":{"file_path":{"type":"string"},"content":{"type":"string"}},"required":["file_path","content"]}"#,
    repeatable: true,
    patience: Some(PATIENCE),
    run: |session, input| async move { run(&session, &input).await }.boxed(),
};

async fn run(session: &Session, input: &Input) -> Result<ToolResult, ToolError> {
    let (written, content) = (input.required("file_path")?, input.required("content")?);
    let named = session.name("write", &written)?;
    replace(session, &named, content.as_bytes(), None).await?;
    Ok(ToolResult::text(format!("wrote {} bytes to {written}", content.len())))
}

/// Replaces a file; one that is there must have this version.
pub(super) async fn replace(
    session: &Session,
    named: &Named<'_>,
    content: &[u8],
    version: Option<Version>,
) -> Result<(), ToolError> {
    let name = session.workspace.as_str();
    let made = session.workspaces.create_file(name, named.target(), None, version.is_none()).await;
    let file = made.map_err(|error| named.refuse(error))?;
    file.file().write_all(content).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOSPC) => named.complain("no space left on device"),
        Some(libc::EDQUOT) => named.complain("disk quota exceeded"),
        _ => named.complain(&error.to_string()),
    })?;
    let done = match version {
        Some(version) => file.commit_over(version).await,
        None => file.commit().await,
    };
    done.map(drop).map_err(|error| named.refuse(error))
}
