//! Freezing everything in a cgroup, and letting it go on: `freezer` of version 1, `cgroup.freeze` of version 2.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::cgroup::Version;

/// The switch of one workspace. It reaches init as well: what takes no part can't be half awake, and a command that
/// is being started or reaped needs no rule of its own.
#[derive(Debug)]
pub struct Freezer {
    switch: PathBuf,
    /// Where the kernel says whether it has frozen all, and the word for yes.
    told: (PathBuf, &'static str),
    /// What is written to freeze and to thaw.
    words: (&'static str, &'static str),
}

impl Freezer {
    /// The switch of the group in this directory.
    #[must_use]
    pub fn of(directory: &Path, version: Version) -> Self {
        let file = |name: &str| directory.join(name);
        match version {
            Version::V2 => Self {
                switch: file("cgroup.freeze"),
                told: (file("cgroup.events"), "frozen 1"),
                words: ("1", "0"),
            },
            Version::V1 | Version::None => Self {
                switch: file("freezer.state"),
                told: (file("freezer.state"), "FROZEN"),
                words: ("FROZEN", "THAWED"),
            },
        }
    }

    /// Begins to freeze; true if everything is frozen. One that waits for a disk is only when that has answered, so
    /// ask again: nothing changes by it.
    ///
    /// # Errors
    /// The file and the kernel's answer.
    pub fn freeze(&self) -> io::Result<bool> {
        self.write(self.words.0)?;
        self.frozen()
    }

    /// Whether everything is frozen.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn frozen(&self) -> io::Result<bool> {
        let (file, yes) = &self.told;
        Ok(fs::read_to_string(file)?.lines().any(|line| line == *yes))
    }

    /// Lets everything go on.
    ///
    /// # Errors
    /// The file and the kernel's answer.
    pub fn thaw(&self) -> io::Result<()> {
        self.write(self.words.1)
    }

    fn write(&self, word: &str) -> io::Result<()> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("{} to {word}: {error}", self.switch.display()))
        };
        fs::write(&self.switch, word).map_err(named)
    }
}

#[cfg(test)]
mod tests {
    use super::{Freezer, Version, fs};

    #[test]
    fn p_24_frozen_is_what_the_kernel_says_in_either_version() {
        let directory = tempfile::tempdir().expect("directory");
        let at = |name: &str| directory.path().join(name);
        fs::write(at("cgroup.events"), "populated 1\nfrozen 0\n").expect("write");
        let freezer = Freezer::of(directory.path(), Version::V2);
        assert!(!freezer.freeze().expect("freeze"), "one still runs");
        assert_eq!(fs::read_to_string(at("cgroup.freeze")).expect("read"), "1");
        fs::write(at("cgroup.events"), "populated 1\nfrozen 1\n").expect("write");
        assert!(freezer.freeze().expect("freeze"));
        freezer.thaw().expect("thaw");
        assert_eq!(fs::read_to_string(at("cgroup.freeze")).expect("read"), "0");
        let freezer = Freezer::of(directory.path(), Version::V1);
        assert!(freezer.freeze().expect("freeze"));
        freezer.thaw().expect("thaw");
        assert_eq!(fs::read_to_string(at("freezer.state")).expect("read"), "THAWED");
    }
}
