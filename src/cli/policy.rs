//! `hands policy check`, `test` and `explain`: answers without a sandbox.

use std::io::Write;
use std::path::{Path as FilePath, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::Subcommand;
use serde_json::json;

use super::{Format, Shared, show};
use crate::policy::{Policy as Document, Question, Verdict};

/// Check a policy, or ask what it says about a request
#[derive(Debug, clap::Args)]
pub(super) struct Policy {
    #[command(subcommand)]
    question: Asked,
}

#[derive(Debug, Subcommand)]
enum Asked {
    /// Read a policy and tell every mistake with its line and the fix; exit code 1 if there are any
    Check {
        /// The document
        file: PathBuf,
    },
    /// Judge the cases in the document's `tests`; exit code 1 if one comes out otherwise
    Test {
        /// The document
        file: PathBuf,
    },
    /// Tell which rule decides about a request; exit code 1 if it is denied
    Explain {
        /// The document
        file: PathBuf,
        /// For example GET
        method: String,
        /// For example `https://api.example.com/v1/models`; `wss` asks for a WebSocket
        url: String,
    },
}

impl Policy {
    pub(super) fn run(self, shared: &Shared) -> Result<ExitCode> {
        match self.question {
            Asked::Check { file } => {
                let policy = read(&file)?;
                match shared.output {
                    Format::Json => {
                        show::json(&json!({ "file": file, "valid": true, "credentials": named(&policy) }))?;
                    }
                    Format::Table => writeln!(std::io::stdout().lock(), "{}: valid", file.display())?,
                }
                Ok(ExitCode::SUCCESS)
            }
            Asked::Test { file } => test(&read(&file)?, &file, shared.output),
            Asked::Explain { file, method, url } => {
                let policy = read(&file)?;
                let question = Question::parse(&method, &url)?;
                let verdict = policy.explain(&question.request());
                let allowed = matches!(verdict, Verdict::Allowed { .. });
                match shared.output {
                    Format::Json => {
                        show::json(&json!({ "allowed": allowed, "explanation": verdict.to_string() }))?;
                    }
                    Format::Table => writeln!(std::io::stdout().lock(), "{verdict}")?,
                }
                Ok(if allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
        }
    }
}

fn read(file: &PathBuf) -> Result<Document> {
    let text = std::fs::read_to_string(file).with_context(|| format!("policy: {}", file.display()))?;
    Document::parse(&text, &file.to_string_lossy()).map_err(|error| anyhow!("{error}"))
}

fn named(policy: &Document) -> Vec<&str> {
    policy.credentials().map(|(_, credential, _)| credential).collect()
}

/// Every case that does not come out as expected, or the number of those that do.
fn test(policy: &Document, file: &FilePath, format: Format) -> Result<ExitCode> {
    let judged: Vec<_> = policy.tests().iter().map(|case| (case, case.judge(policy))).collect();
    let failed = judged.iter().filter(|(_, (_, as_expected))| !as_expected).count();
    match format {
        Format::Json => {
            let cases = judged.iter().map(|(case, (verdict, as_expected))| {
                let explanation = verdict.to_string();
                json!({ "line": case.line(), "request": case.request(), "passed": as_expected, "explanation": explanation })
            });
            show::json(&json!({ "cases": cases.collect::<Vec<_>>(), "failed": failed }))?;
        }
        Format::Table => {
            let mut out = std::io::stdout().lock();
            for (case, (verdict, _)) in judged.iter().filter(|(_, (_, as_expected))| !as_expected) {
                writeln!(out, "{}:{}: {}: {verdict}", file.display(), case.line(), case.request())?;
            }
            writeln!(out, "{} of {} cases as expected", judged.len() - failed, judged.len())?;
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
