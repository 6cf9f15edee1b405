//! `glob`: paths by pattern, newest first.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use futures_util::FutureExt;

use super::path::Session;
use super::{Input, PATIENCE, Tool, ToolError, ToolResult};
use crate::workspace::{Hit, Reason};

/// Most paths in an answer.
const SHOWN: usize = 200;
/// Most objects looked at.
const WALKED: u64 = 50_000;

pub(super) const TOOL: Tool = Tool {
    name: "glob",
    description: "Find files and directories by a pattern such as **/*.{rs,toml}, relative to path or the working \
                  directory. The most recently changed come first.",
    schema: r#"{"type":"object","properties":{"pattern":{"type":"string"},"path":{"type":"string"}},"required":["pattern"]}"#,
    repeatable: true,
    patience: Some(PATIENCE),
    run: |session, input| async move { run(&session, &input).await }.boxed(),
};

async fn run(session: &Session, input: &Input) -> Result<ToolResult, ToolError> {
    let told = |text: &str| Err(ToolError::Told(format!("glob: {text}")));
    let (pattern, path) = (input.required("pattern")?, input.string("path")?);
    if pattern.starts_with('/') {
        return told("absolute pattern not permitted; pass a relative pattern (and optionally path)");
    }
    if pattern.split('/').any(|part| part == "..") {
        return told("'..' is not permitted in the pattern");
    }
    if pattern.is_empty() {
        return told("pattern is required");
    }
    let written = path.as_deref().unwrap_or(".");
    let named = session.name("glob", written)?;
    let search = named.search(&pattern, PATIENCE, WALKED);
    let mut found = match session.workspaces.glob(session.workspace.as_str(), search).await {
        Ok(found) => found,
        Err(error) if error.reason() == Reason::InvalidArgument && error.errno().is_none() => {
            return told(&format!("invalid pattern: {}", error.remedy()));
        }
        Err(error) => return Err(named.refuse(error)),
    };
    let mut paths = Vec::new();
    while let Some(hit) = found.next().await? {
        if let Hit::Path(path, stat) = hit {
            let path = named.path.join(Path::new(std::ffi::OsStr::from_bytes(&path)));
            paths.push((std::cmp::Reverse(stat.modified_ns), path));
        }
    }
    paths.sort();
    let more = paths.len().saturating_sub(SHOWN);
    let mut lines: Vec<String> =
        paths.iter().take(SHOWN).map(|(_, path)| path.to_string_lossy().into_owned()).collect();
    if more > 0 {
        lines.push(format!("[{more} more matches not shown]"));
    }
    let text = if lines.is_empty() { "no matches".to_owned() } else { lines.join("\n") };
    Ok(ToolResult { truncated: more > 0, ..ToolResult::text(text) })
}
