//! Images: read-only root file systems, described by data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No such image.
    #[error("there is no image {0:?}; use `host`")]
    Unknown(String),
    /// The description is not what the schema asks.
    #[error("image {name}: {problem}")]
    Syntax {
        /// Which image.
        name: String,
        /// Where and what.
        problem: String,
    },
}

/// The descriptions that ship with Hands.
const BUILT_IN: &[(&str, &str)] = &[("host", include_str!("../../images/host.yaml"))];

/// What a workspace sees beside its own files.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// Parts of the machine that are shown read-only.
    pub(super) system: Vec<PathBuf>,
    /// Tool chains outside the system's directories.
    pub(super) toolchains: Vec<Toolchain>,
    /// Files that hold the trusted certificates.
    pub(super) trust_bundles: Vec<PathBuf>,
    /// Files with their text.
    pub(super) files: BTreeMap<PathBuf, String>,
    /// Empty directories.
    pub(super) directories: Vec<PathBuf>,
    /// Symbolic links with their targets.
    pub(super) links: BTreeMap<PathBuf, PathBuf>,
    /// Lowest layer of the environment of every command.
    pub env: BTreeMap<String, String>,
}

/// A tool chain that may stand in one of several places.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Toolchain {
    #[serde(rename = "name")]
    _name: String,
    pub(super) at: PathBuf,
    unless: PathBuf,
    from: Vec<String>,
}

impl Image {
    /// Whether there is a built-in image of this name; empty means `host`.
    #[must_use]
    pub fn is_built_in(name: &str) -> bool {
        name.is_empty() || BUILT_IN.iter().any(|(known, _)| *known == name)
    }

    /// The built-in image `name`; empty means `host`.
    ///
    /// # Errors
    /// [`ImageError::Unknown`]; a syntax error cannot occur in what ships (a test reads it).
    pub fn built_in(name: &str) -> Result<Self, ImageError> {
        let wanted = if name.is_empty() { "host" } else { name };
        let found = BUILT_IN.iter().find(|(known, _)| *known == wanted);
        let (_, text) = found.ok_or_else(|| ImageError::Unknown(name.to_owned()))?;
        let syntax = |problem| ImageError::Syntax { name: wanted.to_owned(), problem };
        serde_saphyr::from_str(text).map_err(|error| syntax(error.to_string()))
    }
}

impl Toolchain {
    /// Where this machine has it, unless the system's directories hold one already.
    pub(super) fn locate(&self, home: &Path) -> Option<PathBuf> {
        if self.unless.exists() {
            return None;
        }
        self.from.iter().find_map(|pattern| newest(pattern, home))
    }
}

/// The last match, in the order of names, of a path whose final component may hold one `*`.
fn newest(pattern: &str, home: &Path) -> Option<PathBuf> {
    let path = match pattern.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None => PathBuf::from(pattern),
    };
    let (folder, last) = (path.parent()?, path.file_name()?.to_str()?);
    let Some((before, after)) = last.split_once('*') else {
        return path.is_dir().then_some(path);
    };
    let names = std::fs::read_dir(folder).ok()?.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let fits =
            name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after);
        (fits && entry.path().is_dir()).then_some(name)
    });
    names.max().map(|name| folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::{Image, newest};

    #[test]
    fn the_built_in_images_read_and_unknown_ones_say_so() {
        let host = Image::built_in("").expect("host");
        assert!(host.system.iter().all(|path| path.is_absolute()));
        let hidden = ["/root", "/home", "/var", "/etc/passwd", "/etc/shadow", "/etc"];
        assert!(!host.system.iter().any(|path| hidden.iter().any(|no| path.as_os_str() == *no)));
        assert!(Image::built_in("nope").expect_err("unknown").to_string().contains("use `host`"));
    }

    #[test]
    fn a_pattern_finds_the_newest_directory() {
        let scratch = tempfile::tempdir().expect("directory");
        for name in ["stable-a", "stable-b", "nightly-z"] {
            std::fs::create_dir(scratch.path().join(name)).expect("mkdir");
        }
        assert_eq!(newest("~/stable-*", scratch.path()), Some(scratch.path().join("stable-b")));
        assert_eq!(newest("~/beta-*", scratch.path()), None);
    }
}
