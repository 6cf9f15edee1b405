//! `hands create`, and how a workspace is described on the command line.

use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::{Shared, block_on, show};
use crate::api::proto::workspace_spec::Policy;
use crate::api::proto::{VolumeMount, WorkspaceServiceEnsureRequest, WorkspaceSpec};
use crate::id::Id;

/// Make a workspace, or start it if it is there already
#[derive(Debug, clap::Args)]
pub(super) struct Create {
    /// Your own name for it
    #[arg(value_name = "KEY")]
    key: String,
    #[command(flatten)]
    described: Described,
    /// Free labels
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
}

/// What a workspace is to be.
#[derive(Debug, clap::Args)]
pub(super) struct Described {
    /// Policy: a file, or the name of one that ships with Hands [default: the daemon's; else nothing may leave]
    #[arg(long, value_name = "FILE|NAME")]
    policy: Option<String>,
    /// Image
    #[arg(long, default_value = "host", value_name = "NAME")]
    image: String,
    /// A named volume, made when it is missing
    #[arg(long, value_name = "NAME:/path[:ro]")]
    volume: Vec<String>,
    /// A variable of every command
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
}

impl Create {
    pub(super) fn run(self, shared: &Shared) -> Result<ExitCode> {
        let mut spec = self.described.spec()?;
        spec.key = self.key;
        spec.labels = self.label.iter().map(|label| pair("label", label)).collect::<Result<_>>()?;
        block_on(async {
            let ensure = WorkspaceServiceEnsureRequest { spec: Some(spec) };
            let made = shared.connect().await?.workspaces().ensure(ensure).await?.into_inner();
            show::workspaces(made.workspace.as_slice(), shared.output)?;
            Ok(ExitCode::SUCCESS)
        })
    }
}

impl Described {
    pub(super) fn spec(&self) -> Result<WorkspaceSpec> {
        Ok(WorkspaceSpec {
            image: self.image.clone(),
            policy: self.policy.as_deref().map(policy).transpose()?,
            env: self.env()?,
            volumes: self.volume.iter().map(|text| volume(text)).collect::<Result<_>>()?,
            ..WorkspaceSpec::default()
        })
    }

    pub(super) fn env(&self) -> Result<HashMap<String, String>> {
        self.env.iter().map(|variable| pair("variable", variable)).collect()
    }
}

/// A file if there is one of that name, or if it looks like a path; else the name of a policy.
fn policy(given: &str) -> Result<Policy> {
    let path = Path::new(given);
    if !path.exists() && given.parse::<Id>().is_ok() && path.extension().is_none() {
        return Ok(Policy::PolicyName(given.to_owned()));
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("policy: {given}"))?;
    crate::policy::Policy::parse(&text, given).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(Policy::PolicyDocument(text))
}

fn pair(what: &str, text: &str) -> Result<(String, String)> {
    let parts = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = parts.with_context(|| format!("{what}: {text}: write NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn volume(text: &str) -> Result<VolumeMount> {
    let mut parts = text.split(':');
    let (name, path, mode) = (parts.next(), parts.next(), parts.next());
    let read_only = match mode {
        None => false,
        Some("ro") => true,
        Some(_) => bail!("volume: {text}: write NAME:/path or NAME:/path:ro"),
    };
    match (name, path, parts.next()) {
        (Some(name), Some(path), None) if !name.is_empty() && path.starts_with('/') => {
            Ok(VolumeMount { name: name.to_owned(), path: path.to_owned(), read_only })
        }
        _ => bail!("volume: {text}: write NAME:/path or NAME:/path:ro"),
    }
}
