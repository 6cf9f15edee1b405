//! What is said about archives: how much may come out of one, and what came of it.

use serde::{Deserialize, Serialize};

use super::wire::{Failure, Target};

/// Names that a report gives of what was left out; it counts the others.
pub const NAMED: usize = 32;
/// Bytes of such a name that are told.
pub const TOLD: usize = 255;

/// An archive to unpack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpack {
    /// The directory.
    pub target: Target,
    /// Whether it is made, with missing parents.
    pub parents: bool,
    /// Most members.
    pub entries: u64,
    /// Most bytes of all files together.
    pub bytes: u64,
}

/// What was packed or unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Members whose owner is somebody else; they belong to the sandbox's user now.
    pub owners: u64,
    /// Members that lost a setuid, setgid or sticky bit.
    pub set_ids: u64,
    /// Objects that were left out.
    pub left_out: u64,
    /// The first [`NAMED`] of them.
    pub first_left_out: Vec<(Vec<u8>, LeftOut)>,
    /// What ended it early, and at which member.
    pub failed: Option<(Vec<u8>, Failure)>,
}

/// Why an object was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeftOut {
    /// A device.
    Device,
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
    /// Another file system is mounted there.
    Mount,
    /// The sandbox's user may not read it.
    Unreadable,
}

impl Transfer {
    /// Counts an object that is left out.
    pub fn leave_out(&mut self, path: &[u8], why: LeftOut) {
        self.left_out += 1;
        if self.first_left_out.len() < NAMED {
            self.first_left_out.push((path[..path.len().min(TOLD)].to_vec(), why));
        }
    }

    /// Ends it early.
    #[must_use]
    pub fn fail(mut self, path: &[u8], failure: Failure) -> Self {
        self.failed = Some((path[..path.len().min(TOLD)].to_vec(), failure));
        self
    }
}
