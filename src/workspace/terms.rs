//! Under which terms a workspace runs: its policy, checked against the operator's credentials, and what follows for
//! the jail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::error::{Reason, WorkspaceError};
use super::types::{PolicySource, Spec};
use crate::credential;
use crate::id::Id;
use crate::jail::image::Image;
use crate::jail::wire::Limits;
use crate::policy::Policy;

/// Bytes of a command's output that are kept where nothing else is said.
const OUTPUT: u64 = 16 * 1024 * 1024;
/// Processes and threads of a workspace where nothing else is said: enough for any build, too few to hurt the machine.
const PROCESSES: u64 = 4096;
/// Most volumes of one workspace: each takes a descriptor of the message to init.
const VOLUMES: usize = 16;

/// What the operator has decided for all workspaces.
#[derive(Debug, Default)]
pub struct Operator {
    /// Policy of workspaces that name none, and its file; nothing may leave if absent.
    pub policy: Option<(String, String)>,
    /// Credentials that policies may name.
    pub credentials: Arc<credential::Document>,
}

/// The terms of one workspace.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) policy: Arc<Policy>,
    pub(super) digest: String,
    pub(super) limits: Limits,
    pub(super) output: u64,
    pub(super) wall_clock: Option<std::time::Duration>,
    pub(super) seccomp: String,
    pub(super) volumes: Vec<(Id, String, bool)>,
    image_env: BTreeMap<String, String>,
}

impl Terms {
    /// Reads and checks everything that a spec names.
    pub(super) fn resolve(spec: &Spec, operator: &Operator) -> Result<Self, WorkspaceError> {
        check_key(&spec.key)?;
        let image = Image::built_in(&spec.image).map_err(|error| {
            WorkspaceError::new(Reason::NotFound, "unknown image", &spec.image, error.to_string())
        })?;
        spec.env.iter().try_for_each(|(name, value)| check_variable(name, value.as_bytes()))?;
        let (policy, text) = policy(spec, operator)?;
        check_credentials(&policy, &operator.credentials)?;
        let wanted = policy.limits();
        for (name, set) in [("disk", wanted.disk.is_some()), ("idle", wanted.idle.is_some())] {
            if set {
                let remedy = "this version can't hold it yet; take it out of the policy";
                return Err(WorkspaceError::new(Reason::FailedPrecondition, "limit", name, remedy));
            }
        }
        let limits = Limits {
            memory: wanted.memory,
            millicpus: wanted.cpus.map(u64::from),
            processes: Some(wanted.processes.unwrap_or(PROCESSES)),
            open_files: wanted.open_files,
            tmp: wanted.tmp,
        };
        Ok(Self {
            digest: digest(&text),
            limits,
            output: wanted.output.unwrap_or(OUTPUT),
            wall_clock: wanted.wall_clock,
            seccomp: policy.process().seccomp.clone(),
            volumes: volumes(spec)?,
            image_env: image.env,
            policy: Arc::new(policy),
        })
    }

    /// The environment of every command: image, then placeholders, then the workspace's own.
    pub(super) fn environment(
        &self,
        spec: &Spec,
        placeholders: &BTreeMap<String, String>,
    ) -> BTreeMap<String, Vec<u8>> {
        let layers = self.image_env.iter().chain(placeholders).chain(&spec.env);
        layers.map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect()
    }
}

fn policy(spec: &Spec, operator: &Operator) -> Result<(Policy, String), WorkspaceError> {
    let invalid = |error: &dyn ToString| {
        let remedy = "mend the policy; `hands policy check FILE` tells the same";
        WorkspaceError::new(Reason::InvalidArgument, "invalid policy", error.to_string(), remedy)
    };
    match (&spec.policy, &operator.policy) {
        (Some(PolicySource::Document(text)), _) => {
            Ok((Policy::parse(text, "policy").map_err(|error| invalid(&error))?, text.clone()))
        }
        (Some(PolicySource::Named(name)), _) => {
            Ok((Policy::named(name).map_err(|error| invalid(&error))?, name.clone()))
        }
        (None, Some((origin, text))) => {
            Ok((Policy::parse(text, origin).map_err(|error| invalid(&error))?, text.clone()))
        }
        (None, None) => Ok((Policy::deny_all(), String::new())),
    }
}

/// A rule may only name a credential that exists.
fn check_credentials(policy: &Policy, credentials: &credential::Document) -> Result<(), WorkspaceError> {
    for (rule, name, _) in policy.credentials() {
        if credentials.find(name).is_none() {
            let remedy = format!("rule {rule} names it; add it to the operator's credentials or take it out");
            return Err(WorkspaceError::new(Reason::FailedPrecondition, "unknown credential", name, remedy));
        }
    }
    Ok(())
}

fn check_key(key: &str) -> Result<(), WorkspaceError> {
    key.parse::<Id>().map(drop).map_err(|error| WorkspaceError::invalid("key", error.to_string()))
}

/// A variable that execve(2) can pass.
pub(super) fn check_variable(name: &str, value: &[u8]) -> Result<(), WorkspaceError> {
    if name.is_empty() || name.contains(['=', '\0']) || value.contains(&0) {
        return Err(WorkspaceError::invalid(
            format!("variable {name:?}"),
            "a name without `=`, and no NUL in name or value",
        ));
    }
    Ok(())
}

fn volumes(spec: &Spec) -> Result<Vec<(Id, String, bool)>, WorkspaceError> {
    let mut paths = BTreeSet::new();
    if spec.volumes.len() > VOLUMES {
        return Err(WorkspaceError::invalid("volumes", format!("at most {VOLUMES} in one workspace")));
    }
    let parsed = spec.volumes.iter().map(|volume| {
        let name = volume
            .name
            .parse()
            .map_err(|error: crate::id::InvalidId| WorkspaceError::invalid("volume", error.to_string()))?;
        if !paths.insert(volume.path.as_str()) {
            return Err(WorkspaceError::invalid(&volume.path, "two volumes can't have one path"));
        }
        Ok((name, volume.path.clone(), volume.read_only))
    });
    parsed.collect()
}

fn digest(text: &str) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}
