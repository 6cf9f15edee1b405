//! A credential document as typed: the YAML keys, each value with its place, nothing judged yet.

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
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
    #[serde(default, deserialize_with = "given")]
    pub(super) header: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) parameter: Option<Spanned<String>>,
    pub(super) source: Spanned<Source>,
    #[serde(default, deserialize_with = "given")]
    pub(super) hosts: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) ports: Option<Spanned<Vec<Spanned<i64>>>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) methods: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) paths: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) env: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) pattern: Option<Spanned<String>>,
}

/// One key of a source; which one, is judged with its place.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Source {
    #[serde(default, deserialize_with = "given")]
    pub(super) file: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) env: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) store: Option<Spanned<IgnoredAny>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) exec: Option<Spanned<IgnoredAny>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) vault: Option<Spanned<IgnoredAny>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) systemd: Option<Spanned<IgnoredAny>>,
}

/// A key that is there without a value is a mistake, not an absence: an empty `paths:` must not mean every path.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}
