//! `hands audit verify`: whether the audit log is whole.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;

use super::{Format, Shared, show};
use crate::egress::verify;

/// Check the record of what left
#[derive(Debug, clap::Args)]
pub(super) struct Audit {
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Subcommand)]
enum Question {
    /// Find records that were changed, removed, swapped or cut off, and where; exit code 1 if there are any
    ///
    /// Number and hash of the last record are printed: noted elsewhere, they also prove that the log was not made up
    /// as a whole.
    Verify,
}

impl Audit {
    pub(super) fn run(self, shared: &Shared) -> Result<ExitCode> {
        let Question::Verify = self.question;
        let directory = shared.state_dir()?.join("audit");
        let report = verify(&directory).with_context(|| format!("audit log: {}", directory.display()))?;
        match shared.output {
            Format::Json => show::json(&serde_json::to_value(&report)?)?,
            Format::Table => {
                let mut out = std::io::stdout().lock();
                for finding in &report.findings {
                    writeln!(out, "{finding}")?;
                }
                let whole = if report.findings.is_empty() { "whole" } else { "NOT whole" };
                writeln!(
                    out,
                    "{whole}: {} records, the last {} {}",
                    report.records, report.last, report.hash
                )?;
            }
        }
        Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
