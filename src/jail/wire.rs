//! What the three processes say to each other. Small fixed messages; every field is checked where it arrives.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::archive::{Transfer, Unpack};
use crate::id::Id;
use crate::journal::ExitStatus;
use crate::sys::seccomp::Instruction;

/// Daemon to supervisor. `id` comes back in the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToSupervisor {
    /// Chosen by the daemon.
    pub id: u64,
    /// What is asked.
    pub ask: Ask,
}

/// What the daemon may ask of the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Make the jail of a workspace. The answer carries its [`Channel`] descriptors.
    Start(Box<JailRequest>),
    /// End PID 1 of a workspace, and with it everything inside; answered when the kernel has reaped it.
    Kill {
        /// Which.
        workspace: Id,
    },
    /// Freeze everything in a workspace, init too, or let it go on. Answered with [`Done::Frozen`].
    Freeze {
        /// Which.
        workspace: Id,
        /// False to let it go on.
        frozen: bool,
    },
    /// Remove a stopped workspace's own files.
    RemoveFiles {
        /// Which.
        workspace: Id,
    },
    /// The secret of a credential that the operator's document names, as a descriptor to read from.
    OpenSecret {
        /// Its name in that document.
        credential: String,
    },
    /// The daemon serves. Not answered.
    Serving,
    /// The daemon can't serve, and why: what, which object, what to do. Not answered.
    Unfit {
        /// One line.
        problem: String,
    },
}

/// Everything that a caller can choose about a jail. The supervisor adds the rest and admits nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailRequest {
    /// The workspace.
    pub workspace: Id,
    /// Counts its starts.
    pub generation: u64,
    /// Image name.
    pub image: String,
    /// Named volumes: name, absolute path inside, read-only.
    pub volumes: Vec<(Id, String, bool)>,
    /// PEM certificate of the workspace's own authority, added to its trust store.
    pub authority: String,
    /// Limits that the kernel is to hold.
    pub limits: Limits,
    /// seccomp profile name.
    pub seccomp: String,
}

/// Limits of one workspace; absent means the kernel's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory, swap excluded.
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    pub millicpus: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u64>,
    /// Descriptors per process.
    pub open_files: Option<u64>,
    /// Bytes of `/tmp` and of `/dev/shm`, each.
    pub tmp: Option<u64>,
}

/// Supervisor to daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromSupervisor {
    /// First message to a new daemon. Descriptor: the API's listener.
    Hello(Hello),
    /// A workspace that has been running all the while. Descriptors: its [`Channel`].
    Running {
        /// Which.
        workspace: Id,
        /// Which of its starts.
        generation: u64,
        /// What holds in it.
        report: Report,
        /// Whether it has been asked to be frozen.
        paused: bool,
    },
    /// All running workspaces have been told: serve.
    Serve,
    /// The answer to the request with this id.
    Answer {
        /// From the request.
        id: u64,
        /// What came of it.
        result: Result<Done, Refusal>,
    },
    /// PID 1 of a workspace has ended and everything in it with it.
    Ended {
        /// Which.
        workspace: Id,
        /// Which of its starts.
        generation: u64,
    },
    /// Stop all workspaces, then exit.
    Shutdown,
}

/// What a new daemon must know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// State directory, absolute.
    pub state_dir: String,
    /// uid that owns this installation and may call the API, beside root.
    pub owner: u32,
    /// Whether the supervisor has no privileges.
    pub rootless: bool,
    /// Text of the operator's documents, each with its file name for messages.
    pub documents: BTreeMap<Document, (String, String)>,
    /// PEM certificates that upstreams may be verified with, beside the machine's own.
    pub roots: Vec<String>,
}

/// The operator's documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Document {
    /// `hands.toml`.
    Configuration,
    /// The default policy.
    Policy,
    /// The credentials.
    Credentials,
}

/// A request that was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// The jail is up. Descriptors: its [`Channel`].
    Started(Report),
    /// Whether everything is frozen now; ask again until it is.
    Frozen(bool),
    /// Nothing to add.
    Done,
    /// Descriptors: where the secret can be read, and what becomes readable when it changes, if it is watched.
    Secret(Changes),
}

/// How a secret may become another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Changes {
    /// Not as long as the supervisor lives.
    Never,
    /// The second descriptor tells.
    Watched,
    /// Nobody could tell: it has to be read for each use.
    Unknown,
}

/// A request that was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{step}: {detail}")]
pub struct Refusal {
    /// Which step failed.
    pub step: String,
    /// Why, with the object.
    pub detail: String,
}

impl Refusal {
    /// A refusal at `step` because of `detail`.
    #[expect(clippy::needless_pass_by_value, reason = "callers have an error of their own to give away")]
    pub fn new(step: impl Into<String>, detail: impl ToString) -> Self {
        Self { step: step.into(), detail: detail.to_string() }
    }
}

/// What holds in a jail that was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Layer, how strong (in force, weaker, missing), and why not more.
    pub layers: Vec<(String, Strength, String)>,
    /// Limits in force.
    pub limits: BTreeMap<String, String>,
    /// Its cgroups, where what it uses is counted.
    pub groups: Vec<std::path::PathBuf>,
}

/// How strong a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Strength {
    /// As designed.
    InForce,
    /// Less than designed.
    Weaker,
    /// Not there.
    Missing,
}

/// The descriptors of a running workspace, in this order: init's socket, its memory file, then listeners.
///
/// Listeners exist for IPv4 and, where the kernel has it, IPv6, so there are five or eight descriptors.
#[derive(Debug)]
pub struct Channel {
    /// The daemon's end of init's socket.
    pub control: std::os::fd::OwnedFd,
    /// What the daemon must remember about this workspace and must never write to disk.
    pub memory: std::os::fd::OwnedFd,
    /// TCP sockets that get every connection the workspace makes.
    pub tcp: Vec<std::os::fd::OwnedFd>,
    /// UDP sockets that get every DNS datagram.
    pub dns_udp: Vec<std::os::fd::OwnedFd>,
    /// TCP sockets that get every DNS connection.
    pub dns_tcp: Vec<std::os::fd::OwnedFd>,
}

impl Channel {
    /// Sorts received descriptors; `None` if it is not their number.
    #[must_use]
    pub fn from_descriptors(mut descriptors: Vec<std::os::fd::OwnedFd>) -> Option<Self> {
        if descriptors.len() != 5 && descriptors.len() != 8 {
            return None;
        }
        let control = descriptors.remove(0);
        let memory = descriptors.remove(0);
        let (mut tcp, mut dns_udp, mut dns_tcp) = (Vec::new(), Vec::new(), Vec::new());
        for (at, descriptor) in descriptors.into_iter().enumerate() {
            [&mut tcp, &mut dns_udp, &mut dns_tcp][at % 3].push(descriptor);
        }
        Some(Self { control, memory, tcp, dns_udp, dns_tcp })
    }
}

/// Supervisor to init while the jail is made, then init's only word before commands come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setup {
    /// Identity maps and cgroups are there: become a blank. Descriptors: the `cgroup.procs` files to join, the
    /// out-of-memory counter if any, the image's detached mounts.
    Prepare {
        /// Groups to join.
        groups: usize,
        /// Whether there is a counter.
        counter: bool,
    },
    /// Become the init of this workspace. Descriptors: its own detached mounts.
    Become {
        /// What it is to be.
        request: Box<JailRequest>,
        /// The compiled filter of its profile.
        filter: Vec<Instruction>,
    },
    /// The jail stands. Descriptors: the listeners.
    Ready {
        /// Landlock ABI in force, 0 for none.
        landlock: u32,
        /// Whether IPv6 is captured too.
        ipv6: bool,
    },
    /// It could not be made.
    Failed(Refusal),
}

/// Daemon to init.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToInit {
    /// Chosen by the daemon; 0 asks for no answer.
    pub id: u64,
    /// What is asked.
    pub order: Order,
}

/// What the daemon may ask of init.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Run a command. Descriptor: an empty file for its journal.
    Start(Box<StartOrder>),
    /// Signal a command.
    Signal {
        /// Which.
        process: Id,
        /// Number.
        signal: i32,
        /// Whom it reaches.
        reach: Reach,
    },
    /// Bytes for a command's stdin.
    Stdin {
        /// Which.
        process: Id,
        /// Position of the first byte in all of stdin.
        offset: u64,
        /// The bytes.
        data: Vec<u8>,
        /// Nothing follows.
        end: bool,
    },
    /// New size of a command's terminal.
    Resize {
        /// Which.
        process: Id,
        /// Lines.
        rows: u16,
        /// Characters.
        columns: u16,
    },
    /// A reader has taken a command's output up to here.
    Acknowledge {
        /// Whose.
        process: Id,
        /// Bytes of both outputs together, from the beginning.
        bytes: u64,
    },
    /// Time limits of commands stand still from now on, or go on.
    Hold(bool),
    /// Which commands run.
    List,
    /// End everything: TERM, then KILL after this many milliseconds; then exit.
    Stop {
        /// Milliseconds.
        grace: u64,
    },
    /// Do something to a file with the rights of a command.
    File(FileOrder),
}

/// Whom a signal reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    /// One process.
    Process,
    /// Its group.
    Group,
    /// All that came from it.
    Tree,
}

/// A command, as init needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartOrder {
    /// Its id.
    pub process: Id,
    /// Opaque first record of the journal.
    pub header: Vec<u8>,
    /// Program and arguments.
    pub argv: Vec<Vec<u8>>,
    /// The whole environment, `NAME=value`.
    pub env: Vec<Vec<u8>>,
    /// Working directory.
    pub cwd: Vec<u8>,
    /// Terminal size, or pipes.
    pub pty: Option<(u16, u16)>,
    /// Whether stdin stays open.
    pub stdin: bool,
    /// Wall-clock limit in milliseconds.
    pub timeout: Option<u64>,
    /// Milliseconds between TERM and KILL.
    pub grace: u64,
    /// Bytes of output kept.
    pub output: u64,
    /// Whether the command waits for its reader rather than lose output.
    pub lossless: bool,
}

/// A path, absolute inside the workspace, and where it may lead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The path; every link on it is followed.
    pub path: Vec<u8>,
    /// Absolute directories, one of which must hold what it leads to, or else `EXDEV`. Anywhere if there are none.
    pub roots: Vec<Vec<u8>>,
}

impl From<&[u8]> for Target {
    fn from(path: &[u8]) -> Self {
        Self { path: path.to_vec(), roots: Vec::new() }
    }
}

/// Operations on files; paths are absolute inside the workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileOrder {
    /// Open a regular file for reading. Answer: its facts, descriptor: the file.
    Open {
        /// Which.
        target: Target,
    },
    /// Make a nameless file beside the target. Answer: its name; descriptors: the file, writable, and the directory.
    Create {
        /// Which.
        target: Target,
        /// Permission bits; those of the file that will be replaced, or 0644, if absent.
        mode: Option<u32>,
        /// Make missing parent directories.
        parents: bool,
    },
    /// Give the nameless file (descriptor) a name in the directory (descriptor), replacing what had it.
    Commit {
        /// As it was answered.
        name: Vec<u8>,
        /// What must have that name now, or else `ESTALE`.
        replacing: Option<Version>,
    },
    /// Facts about a path.
    Stat {
        /// Path.
        path: Vec<u8>,
        /// Follow a final symbolic link.
        follow: bool,
    },
    /// Entries of a directory. Descriptor of the answer: a pipe of entries, see [`Listing`].
    List {
        /// Path.
        path: Vec<u8>,
    },
    /// Paths below a directory that match a glob. Descriptor of the answer: a pipe of entries.
    Glob(Search),
    /// Lines below a directory that match a regular expression. Descriptor of the answer: a pipe of lines.
    Grep(Search),
    /// Unpack a tar archive. Descriptor: where it can be read. Answer: what came of it.
    Import(Unpack),
    /// Pack a file, or what a directory holds. Descriptors of the answer: pipes of the archive and of its report.
    Export(Target),
    /// Remove a file, a link, or a directory.
    Remove {
        /// Path; a link at its end is removed itself.
        path: Vec<u8>,
        /// A directory with what it holds on the same file system; otherwise it must be empty.
        recursive: bool,
    },
    /// Give something another name on the same file system.
    Move {
        /// Path; a link at its end is moved itself.
        from: Vec<u8>,
        /// New path.
        to: Vec<u8>,
        /// Whether something that has this name is replaced.
        replace: bool,
    },
    /// Make a directory.
    MakeDirectory {
        /// Path.
        path: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Make missing parents, and take one that exists for made.
        parents: bool,
    },
    /// Change permissions or time of a file or directory; links at the end are followed.
    SetAttributes {
        /// Path.
        path: Vec<u8>,
        /// Permission bits.
        mode: Option<u32>,
        /// Nanoseconds since the epoch.
        modified_ns: Option<i64>,
    },
}

/// What a glob or a grep looks for and how long it may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Search {
    /// Where: a directory, or for a grep a file too.
    pub target: Target,
    /// What, checked by the daemon.
    pub pattern: String,
    /// Most milliseconds.
    pub time: u64,
    /// Most objects looked at.
    pub entries: u64,
}

/// One piece of a directory listing in the pipe: a length (u32, little endian), then this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Listing {
    /// Name and facts.
    Entry(Vec<u8>, Facts),
    /// Path, number and text of a line, and whether it was longer.
    Line(Vec<u8>, u64, Vec<u8>, bool),
    /// Not everything was looked at.
    Stopped(Stopped),
    /// What came of an export.
    Transferred(Box<Transfer>),
    /// All entries were told.
    End,
}

/// Why a search ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stopped {
    /// Too many objects.
    Entries,
    /// Too much time.
    Time,
}

/// Which file stood under a name, and in which state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Inode number.
    pub inode: u64,
    /// Nanoseconds since the epoch: last change of content or attributes.
    pub changed_ns: i64,
    /// Bytes.
    pub size: u64,
}

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `st_mode`: type and permissions.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Owner inside.
    pub uid: u32,
    /// Group inside.
    pub gid: u32,
    /// Nanoseconds since the epoch.
    pub modified_ns: i64,
    /// Which state of which file.
    pub version: Version,
    /// Target of a symbolic link.
    pub link_target: Option<Vec<u8>>,
}

/// init to daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromInit {
    /// The answer to the order with this id.
    Answer {
        /// From the order.
        id: u64,
        /// What came of it.
        result: Result<Outcome, Failure>,
    },
    /// A journal has grown.
    Advanced {
        /// Whose.
        process: Id,
    },
    /// A command has ended; its journal says so too.
    Exited {
        /// Which.
        process: Id,
        /// How.
        status: ExitStatus,
    },
    /// The journal of an ended command will not grow any more.
    Closed {
        /// Whose.
        process: Id,
    },
}

/// An order that was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Nothing to add.
    Done,
    /// All of stdin up to this offset was taken.
    Taken(u64),
    /// Commands whose journals may still grow.
    Running(Vec<Id>),
    /// About a file.
    Facts(Facts),
    /// What a nameless file will be called in its directory.
    Name(Vec<u8>),
    /// What came of an import.
    Transferred(Box<Transfer>),
}

/// An order that was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was tried, for example `exec` or `chdir`.
    pub step: String,
    /// The kernel's error number; 0 if the refusal is ours.
    pub errno: i32,
}
