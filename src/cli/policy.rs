//! `hands policy check` and `hands policy explain`: answers without a sandbox.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::Subcommand;
use serde_json::json;

use super::{Format, Shared, show};
use crate::policy::{Host, Path, Policy as Document, Request, Scheme, Verdict};

/// Check a policy, or ask what it says about a request
#[derive(Debug, clap::Args)]
pub(super) struct Policy {
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Subcommand)]
enum Question {
    /// Read a policy and tell every mistake with its line and the fix; exit code 1 if there are any
    Check {
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
            Question::Check { file } => {
                let policy = read(&file)?;
                match shared.output {
                    Format::Json => {
                        show::json(&json!({ "file": file, "valid": true, "credentials": named(&policy) }))?;
                    }
                    Format::Table => writeln!(std::io::stdout().lock(), "{}: valid", file.display())?,
                }
                Ok(ExitCode::SUCCESS)
            }
            Question::Explain { file, method, url } => {
                let policy = read(&file)?;
                let (plain, websocket) = match url.strip_prefix("ws") {
                    Some(rest) => (format!("http{rest}"), true),
                    None => (url, false),
                };
                let (scheme, host, port, path) = parse(&plain)?;
                let request = Request { scheme, host: &host, port, method: &method, path: &path, websocket };
                let verdict = policy.explain(&request);
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

/// The parts of a URL that a policy judges; the query is none of them.
fn parse(url: &str) -> Result<(Scheme, Host, u16, Path)> {
    let wrong = || format!("URL: {url}: write it like https://api.example.com/path");
    let (scheme, rest) = url.split_once("://").with_context(wrong)?;
    let (scheme, default) = match scheme {
        "https" => (Scheme::Https, 443),
        "http" => (Scheme::Http, 80),
        _ => return Err(anyhow!(wrong())),
    };
    let cut = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(cut);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().with_context(wrong)?),
        _ => (authority, default),
    };
    let host = Host::parse(host).map_err(|error| anyhow!("URL: {url}: {error}"))?;
    let path = rest.split(['?', '#']).next().filter(|path| !path.is_empty()).unwrap_or("/");
    let path = Path::parse(path).map_err(|error| anyhow!("URL: {url}: {error}"))?;
    Ok((scheme, host, port, path))
}
