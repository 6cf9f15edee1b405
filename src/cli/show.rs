//! Results for people and for programs.

use std::io::Write;

use anyhow::Result;
use serde_json::{Value, json};

use super::Format;
use crate::api::proto::{IsolationStatus, Workspace, WorkspaceState};

/// A text from inside a sandbox, without what would steer the terminal that shows it.
pub(super) fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.into() };
    text.chars().map(shown).collect()
}

/// Columns as wide as their widest cell; the last one as it is.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> Result<()> {
    let one_line = |cell: &String| printable(cell).replace('\n', "\\n");
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(one_line).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = std::io::stdout().lock();
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    for row in std::iter::once(&head).chain(&rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

pub(super) fn json(value: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

pub(super) fn workspaces(all: &[Workspace], format: Format) -> Result<()> {
    if format == Format::Json {
        return json(&Value::Array(all.iter().map(described).collect()));
    }
    let row = |workspace: &Workspace| {
        let spec = workspace.spec.clone().unwrap_or_default();
        let created = workspace.create_time.map(|time| time.to_string()).unwrap_or_default();
        let weaker = workspace.isolation.iter().filter(|layer| layer.status() != IsolationStatus::InForce);
        let weaker: Vec<&str> = weaker.map(|layer| layer.name.as_str()).collect();
        let note = if workspace.failure.is_empty() { weaker.join(", ") } else { workspace.failure.clone() };
        vec![
            spec.key,
            workspace.id.clone(),
            state(workspace).into(),
            workspace.generation.to_string(),
            created,
            note,
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    table(&["KEY", "ID", "STATE", "STARTS", "CREATED", "WEAKER OR FAILED"], &rows)
}

/// Everything about one workspace.
pub(super) fn workspace(workspace: &Workspace, format: Format) -> Result<()> {
    let described = described(workspace);
    if format == Format::Json {
        return json(&described);
    }
    let mut rows = Vec::new();
    flatten("", &described, &mut rows);
    table(&["WHAT", "IS"], &rows)
}

/// One row for each value, named by its way from the top.
fn flatten(name: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    let below = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| flatten(&below(key), value, rows)),
        Value::Array(layers) => {
            for layer in layers {
                let part = |key: &str| layer[key].as_str().unwrap_or_default().to_owned();
                rows.push(vec![below(&part("name")), format!("{}: {}", part("status"), part("detail"))]);
            }
        }
        Value::String(text) => rows.push(vec![name.to_owned(), text.clone()]),
        other => rows.push(vec![name.to_owned(), other.to_string()]),
    }
}

fn state(workspace: &Workspace) -> &'static str {
    match workspace.state() {
        WorkspaceState::Unspecified => "unknown",
        WorkspaceState::Stopped => "stopped",
        WorkspaceState::Starting => "starting",
        WorkspaceState::Running => "running",
        WorkspaceState::Paused => "paused",
        WorkspaceState::Failed => "failed",
    }
}

fn described(workspace: &Workspace) -> Value {
    let spec = workspace.spec.clone().unwrap_or_default();
    let layer = |layer: &crate::api::proto::IsolationLayer| {
        let status = match layer.status() {
            IsolationStatus::Unspecified => "unknown",
            IsolationStatus::InForce => "in_force",
            IsolationStatus::Weaker => "weaker",
            IsolationStatus::Missing => "missing",
        };
        json!({ "name": layer.name, "status": status, "detail": layer.detail })
    };
    json!({
        "key": spec.key,
        "id": workspace.id,
        "state": state(workspace),
        "generation": workspace.generation,
        "created": workspace.create_time.map(|time| time.to_string()),
        "image": spec.image,
        "labels": spec.labels,
        "failure": workspace.failure,
        "isolation": workspace.isolation.iter().map(layer).collect::<Vec<_>>(),
        "limits": workspace.limits,
        "usage": workspace.usage,
        "policy_digest": workspace.policy_digest,
    })
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn o_04_a_text_from_inside_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}]0;x\u{7}b\u{9b}2J\ré\n"), "a\\u{1b}]0;x\\u{7}b\\u{9b}2J\\ré\n");
    }
}
