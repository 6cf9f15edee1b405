//! `edit`: replaces a text in a file, literally, and only if it is clear which one.

use std::io::Read;

use futures_util::FutureExt;

use super::path::Session;
use super::{Input, PATIENCE, Tool, ToolError, ToolResult, WHOLE, write};

pub(super) const TOOL: Tool = Tool {
    name: "edit",
    description: "Replace old_string by new_string in a text file. old_string is taken literally and must occur \
                  exactly once, unless replace_all is set.",
    schema: r#"{"type":"object","properties":{"file_path":{"type":"string"},"old_string":{"type":"string"},"new_string":{"type":"string"},"replace_all":{"type":"boolean"}},"required":["file_path","old_string","new_string"]}"#,
    repeatable: false,
    patience: Some(PATIENCE),
    run: |session, input| async move { run(&session, &input).await }.boxed(),
};

async fn run(session: &Session, input: &Input) -> Result<ToolResult, ToolError> {
    let told = |text: String| Err(ToolError::Told(format!("edit: {text}")));
    let written = input.required("file_path")?;
    let (old, new) = (input.required("old_string")?, input.required("new_string")?);
    let all = input.flag("replace_all")?;
    if old.is_empty() {
        return told("old_string is required".into());
    }
    let named = session.name("edit", &written)?;
    let opened = session.workspaces.open_file(session.workspace.as_str(), named.target()).await;
    let (file, stat) = opened.map_err(|error| match error.errno() {
        Some(libc::EISDIR) => named.complain("not a regular file"),
        _ => named.refuse(error),
    })?;
    let mut bytes = Vec::new();
    let read = file.take(WHOLE + 1).read_to_end(&mut bytes);
    read.map_err(|error| named.complain(&error.to_string()))?;
    if stat.size > WHOLE || bytes.len() as u64 > WHOLE {
        let size = stat.size.max(bytes.len() as u64);
        return told(format!(
            "{written} is {size} bytes, exceeds {WHOLE}-byte limit. The edit tool loads the whole file and cannot \
             modify a file this large."
        ));
    }
    let Ok(text) = String::from_utf8(bytes) else {
        return told(format!("{written}: not valid UTF-8 text (cannot edit binary files)"));
    };
    let count = text.matches(&old).count();
    match count {
        0 => return told(format!("old_string not found in {written}")),
        1 => {}
        _ if all => {}
        _ => return told(format!("old_string appears {count} times in {written} (must be unique)")),
    }
    // Whoever changed the file since it was read keeps the change.
    write::replace(session, &named, text.replace(&old, &new).as_bytes(), Some(stat.version)).await?;
    Ok(ToolResult::text(format!("edited {written} ({count} replacement(s))")))
}
