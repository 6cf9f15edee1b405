//! `hands doctor`.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Format, Programs, Shared, show};
use crate::jail::finding::Finding;
use crate::jail::wire::Strength;

/// Show what this host can enforce, layer by layer, and what to do about what it can't
///
/// It makes and ends one real jail. The exit code is 1 if none could be made.
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {}

impl Doctor {
    #[expect(clippy::unused_self, reason = "every verb is called the same way")]
    pub(super) fn run(self, shared: &Shared, programs: &Programs) -> Result<ExitCode> {
        let lines = (programs.doctor)(&shared.state_dir()?);
        match shared.output {
            Format::Json => show::json(&Value::Array(lines.iter().map(described).collect()))?,
            Format::Table => {
                let row = |line: &Finding| {
                    vec![
                        line.layer.clone(),
                        word(line.strength).into(),
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
        let jail = lines.iter().any(|line| line.layer == "jail" && line.strength == Strength::InForce);
        Ok(if jail { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn word(status: Strength) -> &'static str {
    match status {
        Strength::InForce => "in force",
        Strength::Weaker => "weaker",
        Strength::Missing => "missing",
    }
}

fn described(line: &Finding) -> Value {
    json!({ "layer": line.layer, "status": word(line.strength), "found": line.found, "remedy": line.remedy })
}
