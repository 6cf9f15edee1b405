//! `hands doctor`.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Format, Shared, show};
use crate::supervisor::doctor::{Line, report};
use crate::workspace::LayerStatus;

/// Show what this host can enforce, layer by layer, and what to do about what it can't
///
/// It makes and ends one real jail. The exit code is 1 if none could be made.
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {}

impl Doctor {
    #[expect(clippy::unused_self, reason = "every verb is called the same way")]
    pub(super) fn run(self, shared: &Shared) -> Result<ExitCode> {
        let lines = report(&shared.state_dir()?);
        match shared.output {
            Format::Json => show::json(&Value::Array(lines.iter().map(described).collect()))?,
            Format::Table => {
                let row = |line: &Line| {
                    vec![
                        line.layer.clone(),
                        word(line.status).into(),
                        line.found.clone(),
                        line.remedy.clone(),
                    ]
                };
                show::table(
                    &["LAYER", "STATUS", "FOUND", "WHAT TO DO"],
                    &lines.iter().map(row).collect::<Vec<_>>(),
                )?;
            }
        }
        let jail = lines.iter().any(|line| line.layer == "jail" && line.status == LayerStatus::InForce);
        Ok(if jail { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn word(status: LayerStatus) -> &'static str {
    match status {
        LayerStatus::InForce => "in force",
        LayerStatus::Weaker => "weaker",
        LayerStatus::Missing => "missing",
    }
}

fn described(line: &Line) -> Value {
    json!({ "layer": line.layer, "status": word(line.status), "found": line.found, "remedy": line.remedy })
}
