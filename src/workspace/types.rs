//! The nouns that callers see: what they ask for and what they are told.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::id::Id;
use crate::jail::wire::Version;
use crate::journal::ExitStatus;

/// What a caller asks a workspace to be. Two specs that are equal describe the same workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The caller's own name for it, for example a session id: 1 to 128 bytes of the id alphabet.
    pub key: String,
    /// Image name; empty means `host`.
    pub image: String,
    /// The policy it runs under; deny all egress if absent.
    pub policy: Option<PolicySource>,
    /// Variables of every command, below those of the call.
    pub env: BTreeMap<String, String>,
    /// Named volumes beside `/workspace` and the home directory, which every workspace has.
    pub volumes: Vec<VolumeMount>,
    /// Free labels, not interpreted.
    pub labels: BTreeMap<String, String>,
    /// Deleted with all files when the daemon that made it ends.
    pub ephemeral: bool,
}

impl Spec {
    /// The first field, other than the key, in which two specs differ.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        let fields = [
            ("image", self.image == other.image),
            ("policy", self.policy == other.policy),
            ("env", self.env == other.env),
            ("volumes", self.volumes == other.volumes),
            ("labels", self.labels == other.labels),
            ("ephemeral", self.ephemeral == other.ephemeral),
        ];
        fields.iter().find(|(_, same)| !same).map(|(field, _)| *field)
    }
}

/// Where the text of a policy comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicySource {
    /// The YAML document itself.
    Document(String),
    /// The name of a policy that ships with Hands.
    Named(String),
}

/// A named volume at a place in the workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// The volume's name, in the id alphabet; made when it is missing.
    pub name: String,
    /// Absolute path inside the workspace.
    pub path: String,
    /// Whether writes fail with `EROFS`.
    pub read_only: bool,
}

/// Where a workspace is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Files only.
    Stopped,
    /// Its jail is being made.
    Starting,
    /// Commands can run.
    Running,
    /// As it was, with its commands, but nothing gets a processor until it is resumed.
    Paused,
    /// The last start did not work; the cause is in [`View::failure`].
    Failed,
}

/// A workspace as it is now.
#[derive(Clone, Debug)]
pub struct View {
    /// Given by Hands, never used again.
    pub id: Id,
    /// What was asked for.
    pub spec: Spec,
    /// Where it is in its life.
    pub state: State,
    /// Why the last start failed.
    pub failure: Option<String>,
    /// Number of starts so far.
    pub generation: u64,
    /// When it was made.
    pub created: SystemTime,
    /// The layers of the jail and how strong each is on this host; empty unless running.
    pub isolation: Vec<Layer>,
    /// Limits that the kernel enforces now; empty unless running. Name and printable value, for example `memory` and `2147483648`.
    pub limits: BTreeMap<String, String>,
    /// What it uses and has used at most, where cgroups count it; told for one workspace, not in lists.
    pub usage: BTreeMap<String, u64>,
    /// SHA-256 of the effective policy document, in hex.
    pub policy_digest: String,
}

/// One layer of the jail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// For example `seccomp`.
    pub name: String,
    /// Whether it holds.
    pub status: LayerStatus,
    /// What is weaker or missing, and what would mend it.
    pub detail: String,
}

/// Whether a layer of the jail holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LayerStatus {
    /// As designed.
    InForce,
    /// Present with less than the design asks.
    Weaker,
    /// Not there.
    Missing,
}

/// A command to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments, without NUL; the program is looked up in `PATH` unless it holds a slash.
    pub argv: Vec<Vec<u8>>,
    /// Variables over those of image, policy and workspace.
    pub env: BTreeMap<String, Vec<u8>>,
    /// Absolute path inside the workspace; `/workspace` if absent.
    pub cwd: Option<Vec<u8>>,
    /// A terminal of this size instead of pipes.
    pub pty: Option<TerminalSize>,
    /// Whether stdin stays open for the caller; otherwise it is `/dev/null`.
    pub stdin: bool,
    /// Wall-clock limit; afterwards the whole tree gets TERM and, after `kill_grace`, KILL.
    pub timeout: Option<Duration>,
    /// Time between TERM and KILL.
    pub kill_grace: Duration,
    /// Bytes of output kept, head and tail; the policy's `output` if absent.
    pub output_limit: Option<u64>,
    /// Whether it waits for a reader that is behind, as at a pipe, instead of losing the middle of its output.
    pub lossless: bool,
}

/// Rows and columns of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines of text.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// A command as it is now.
#[derive(Clone, Debug)]
pub struct ProcessView {
    /// Chosen by the caller or given.
    pub id: Id,
    /// The workspace it belongs to.
    pub workspace: Id,
    /// Generation of the workspace in which it runs or ran.
    pub generation: u64,
    /// What was started.
    pub command: Command,
    /// When it was started.
    pub started: SystemTime,
    /// How it ended; absent while it runs.
    pub exit: Option<ExitStatus>,
    /// When it ended.
    pub ended: Option<SystemTime>,
    /// The sequence number that the next journal record will have.
    pub next_sequence: u64,
    /// Egress denials of the workspace while it ran: the latest few.
    pub denials: Vec<String>,
    /// All of them, counted.
    pub denial_count: u64,
}

/// Whom a signal reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignalScope {
    /// The command's own process.
    Process,
    /// Its process group.
    Group,
    /// It and everything that it started.
    Tree,
}

/// What a path names inside the workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// What kind of object.
    pub kind: FileKind,
    /// Size in bytes.
    pub size: u64,
    /// Permission bits, `0o7777`.
    pub mode: u32,
    /// Owner, as seen inside.
    pub uid: u32,
    /// Group, as seen inside.
    pub gid: u32,
    /// Last change of the content, nanoseconds since 1970-01-01 UTC.
    pub modified_ns: i64,
    /// Which state of which file it is, for writes that must not overwrite another's.
    pub version: Version,
    /// Target of a symbolic link.
    pub link_target: Option<Vec<u8>>,
}

/// The kinds of file objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// FIFO, socket or device.
    Other,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryEntry {
    /// Name, any bytes but `/` and NUL.
    pub name: Vec<u8>,
    /// What it is, without following links.
    pub stat: Stat,
}
