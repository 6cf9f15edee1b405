//! A credential document as typed: the YAML keys, each value with its place, nothing judged yet.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::Spanned;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub(super) version: Spanned<String>,
    #[serde(default)]
    pub(super) credentials: Vec<Credential>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Credential {
    pub(super) name: Spanned<String>,
    pub(super) kind: Spanned<String>,
    pub(super) header: Option<Spanned<String>>,
    pub(super) parameter: Option<Spanned<String>>,
    pub(super) source: Spanned<Source>,
    pub(super) hosts: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) ports: Option<Spanned<Vec<Spanned<i64>>>>,
    pub(super) methods: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) paths: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) env: Option<Spanned<String>>,
    pub(super) pattern: Option<Spanned<String>>,
}

/// One key of a source; which one, is judged with its place.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Source {
    pub(super) file: Option<Spanned<String>>,
    pub(super) env: Option<Spanned<String>>,
    pub(super) store: Option<Spanned<IgnoredAny>>,
    pub(super) exec: Option<Spanned<IgnoredAny>>,
    pub(super) vault: Option<Spanned<IgnoredAny>>,
    pub(super) systemd: Option<Spanned<IgnoredAny>>,
}
