//! `grep`: lines by regular expression, in ripgrep's dialect.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use futures_util::FutureExt;

use super::excerpt::border;
use super::path::Session;
use super::{Input, PATIENCE, TEXT, Tool, ToolError, ToolResult};
use crate::workspace::{Hit, Reason};

/// How long a search may take.
const TIME: Duration = Duration::from_secs(30);

pub(super) const TOOL: Tool = Tool {
    name: "grep",
    description: "Search files for a regular expression (ripgrep's dialect), below path or the working directory. \
                  Ignored, hidden and binary files are left out. Answers path:line:text.",
    schema: r#"{"type":"object","properties":{"pattern":{"type":"string"},"path":{"type":"string"}},"required":["pattern"]}"#,
    repeatable: true,
    patience: Some(PATIENCE),
    run: |session, input| async move { run(&session, &input).await }.boxed(),
};

async fn run(session: &Session, input: &Input) -> Result<ToolResult, ToolError> {
    let (pattern, path) = (input.required("pattern")?, input.string("path")?);
    let named = session.name("grep", path.as_deref().unwrap_or("."))?;
    let search = named.search(&pattern, TIME, u64::MAX);
    let mut found = match session.workspaces.grep(session.workspace.as_str(), search).await {
        Ok(found) => found,
        Err(error) if error.reason() == Reason::InvalidArgument && error.errno().is_none() => {
            return Err(ToolError::Told(format!("grep: invalid regex: {}", error.remedy())));
        }
        Err(error) => return Err(named.refuse(error)),
    };
    let (mut text, mut truncated, mut stopped) = (String::new(), false, false);
    while let Some(hit) = found.next().await? {
        let (path, number, line, cut) = match hit {
            Hit::Line { path, number, text, cut } => (path, number, text, cut),
            Hit::Stopped(_) => {
                stopped = true;
                continue;
            }
            Hit::Path(..) => continue,
        };
        let path = named.path.join(Path::new(std::ffi::OsStr::from_bytes(&path)));
        // Joining nothing adds a slash.
        let path = path.to_string_lossy();
        let line = String::from_utf8_lossy(&line).replace('\0', "\u{fffd}");
        let end = if cut { " [line truncated]" } else { "" };
        let newline = if text.is_empty() { "" } else { "\n" };
        text += &format!("{newline}{}:{number}:{line}{end}", path.trim_end_matches('/'));
        if text.len() > TEXT {
            text.truncate(border(&text, TEXT));
            text += &format!("\n[output truncated at {TEXT} bytes]");
            truncated = true;
            break;
        }
    }
    match (stopped, text.is_empty()) {
        (true, true) => return Err(ToolError::Told("grep: timed out after 30s".into())),
        (true, false) => text += "\n[search stopped after 30s]",
        (false, true) => text = "no matches".into(),
        (false, false) => {}
    }
    Ok(ToolResult { truncated: truncated || stopped, ..ToolResult::text(text) })
}
