//! A policy as typed: the YAML keys, each value with its place, nothing judged yet.

use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub(super) version: Spanned<String>,
    #[serde(default, rename = "description")]
    _description: String,
    #[serde(default)]
    pub(super) extends: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) limits: Limits,
    #[serde(default)]
    pub(super) process: Process,
    #[serde(default)]
    pub(super) egress: Egress,
}

/// Amounts as text: `2GiB`, `15m`, `1.5`, `512`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    #[serde(default, deserialize_with = "given")]
    pub(super) memory: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) cpus: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) processes: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) disk: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) output: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) idle: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) open_files: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) tmp: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) wall_clock: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Process {
    #[serde(default, deserialize_with = "given")]
    pub(super) user: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) seccomp: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) ptrace: Option<Spanned<bool>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Egress {
    pub(super) mode: Mode,
    pub(super) rules: Vec<Rule>,
}

/// Whether denials only bind, or are also collected for the author of the policy.
///
/// Both modes allow exactly the same: observing opens nothing. The data path records more under [`Mode::Observe`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Denials are enforced.
    #[default]
    Enforce,
    /// Denials are enforced, and what was denied and allowed is recorded for the author.
    Observe,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    pub(super) name: Spanned<String>,
    #[serde(default)]
    pub(super) effect: Effect,
    #[serde(default, deserialize_with = "given")]
    pub(super) hosts: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) ports: Option<Spanned<Vec<Spanned<i64>>>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) methods: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) paths: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) credential: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) cleartext: Option<Spanned<bool>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) private: Option<Spanned<bool>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) protocol: Option<Spanned<Protocol>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) websocket: Option<Spanned<Effect>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) rate: Option<Spanned<String>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Effect {
    #[default]
    Allow,
    Deny,
}

/// How a connection that a rule allows is treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Protocol {
    #[default]
    Https,
    Tcp,
    TlsPassthrough,
}

/// A key that is there without a value is a mistake, not an absence: an empty `paths:` must not mean every path.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}
