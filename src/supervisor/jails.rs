//! The table of jails: from the daemon's request to the last reaped process.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Pid, geteuid};

use super::Failure;
use super::state_dir::StateDir;
use crate::id::Id;
use crate::jail::cgroup::Cgroups;
use crate::jail::link::LinkError;
use crate::jail::plan::Places;
use crate::jail::setup::{Blank, Jail, Jailer, RANGES};
use crate::jail::wire::{Done, FromSupervisor, JailRequest, Refusal, Report, Setup};
use crate::sys::process::{Forked, exit_now, fork};

/// Files in which Linux distributions keep the machine's trusted certificates.
const ROOTS: &[&str] =
    &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Every jail that has a process.
#[derive(Debug)]
pub(super) struct Jails {
    jailer: Jailer,
    held: BTreeMap<Id, Held>,
    /// Made ahead of time, oldest first.
    blanks: VecDeque<Blank>,
    /// How many blanks there should be.
    spare: usize,
    free: BTreeSet<u32>,
    next: u32,
    /// The child that empties the trash, and whether there is more for the next one.
    removal: Option<Pid>,
    more_trash: bool,
}

#[derive(Debug)]
struct Held {
    jail: Jail,
    stage: Stage,
    /// Requests to answer when it is gone.
    waiting: Vec<u64>,
}

#[derive(Debug)]
enum Stage {
    /// Being made for the request with this id.
    Starting(u64),
    /// Its listeners, its memory and what holds in it.
    Running { descriptors: Vec<OwnedFd>, report: Report, paused: bool },
}

/// Something to tell the daemon.
pub(super) type Message = (FromSupervisor, Vec<OwnedFd>);

impl Jails {
    /// `spare` blanks are made whenever there is nothing else to do.
    pub(super) fn new(state: &StateDir, spare: usize) -> Result<Self, Failure> {
        let jailer = jailer(&state.path, state.rootless())
            .map_err(|refusal| Failure::new("prepare jails", state.path.display(), refusal))?;
        // Whatever an earlier supervisor left in them died with it.
        jailer.cgroups.sweep();
        let mut jails = Self {
            jailer,
            held: BTreeMap::new(),
            blanks: VecDeque::new(),
            spare,
            free: BTreeSet::new(),
            next: 1,
            removal: None,
            more_trash: false,
        };
        jails.empty_trash();
        Ok(jails)
    }

    fn trash(&self) -> PathBuf {
        self.jailer.places.state_dir.join("trash")
    }

    /// Whether no process of ours is left.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.blanks.is_empty()
    }

    /// Whether there is room for another blank.
    pub(super) fn lacks_spare(&self) -> bool {
        self.blanks.len() < self.spare
    }

    /// Makes one more blank. If that fails no other one is tried ahead of time; whoever needs one learns why.
    pub(super) fn refill(&mut self) {
        match self.blank() {
            Ok(blank) => self.blanks.push_back(blank),
            Err(refusal) => self.give_up_spares(&refusal),
        }
    }

    fn give_up_spares(&mut self, refusal: &Refusal) {
        tracing::warn!(%refusal, "no jail is made ahead of time any more");
        self.spare = 0;
    }

    fn blank(&mut self) -> Result<Blank, Refusal> {
        let range = self.free.pop_first().unwrap_or(self.next);
        if range > RANGES {
            return Err(Refusal::new("start", format!("{RANGES} workspaces run; stop one first")));
        }
        self.next = self.next.max(range + 1);
        let made = self.jailer.blank(range);
        if made.is_err() {
            self.free.insert(range);
        }
        made
    }

    /// Begins a jail; the answer follows when it stands or fell.
    pub(super) fn start(&mut self, id: u64, request: JailRequest) -> Result<(), Refusal> {
        let workspace = request.workspace.clone();
        if self.held.contains_key(&workspace) {
            return Err(Refusal::new("start", format!("{workspace} runs already")));
        }
        self.jailer.check(&request)?;
        let blank = match self.blanks.pop_front() {
            Some(blank) => blank,
            None => self.blank()?,
        };
        let range = blank.range;
        let begun = self.jailer.begin(blank, request);
        if begun.is_err() {
            self.free.insert(range);
        }
        let jail = begun?;
        self.held.insert(workspace, Held { jail, stage: Stage::Starting(id), waiting: Vec::new() });
        Ok(())
    }

    /// Ends a jail; true if there is one and the answer follows when it is gone.
    pub(super) fn kill(&mut self, id: u64, workspace: &Id) -> bool {
        let Some(held) = self.held.get_mut(workspace) else { return false };
        held.waiting.push(id);
        held.jail.kill();
        true
    }

    /// Freezes a jail or lets it go on; whether everything in it is frozen now.
    pub(super) fn freeze(&mut self, workspace: &Id, frozen: bool) -> Result<Done, Refusal> {
        let gone = || Refusal::new("pause", format!("{workspace} does not run"));
        let held = self.held.get_mut(workspace).ok_or_else(gone)?;
        let freezer = held.jail.freezer()?;
        let Stage::Running { paused, .. } = &mut held.stage else { return Err(gone()) };
        // Said before it is done: a daemon that dies meanwhile has its successor finish it.
        *paused = frozen;
        let done = if frozen { freezer.freeze() } else { freezer.thaw().map(|()| false) };
        done.map(Done::Frozen).map_err(|error| Refusal::new("pause", error))
    }

    pub(super) fn kill_all(&mut self) {
        self.spare = 0;
        self.held.values().for_each(|held| held.jail.kill());
        self.blanks.iter().for_each(Blank::kill);
    }

    /// The daemon that asked for these is gone; nobody will use them.
    pub(super) fn kill_starting(&self) {
        let starting = self.held.values().filter(|held| matches!(held.stage, Stage::Starting(_)));
        starting.for_each(|held| held.jail.kill());
    }

    /// Sockets of jails that are being made.
    pub(super) fn starting(&self) -> Vec<(Id, BorrowedFd<'_>)> {
        let starting = self.held.iter().filter(|(_, held)| matches!(held.stage, Stage::Starting(_)));
        starting.map(|(id, held)| (id.clone(), held.jail.link.socket().as_fd())).collect()
    }

    /// A jail that is being made has something to say.
    pub(super) fn heard(&mut self, workspace: &Id) -> Option<Message> {
        let held = self.held.get_mut(workspace)?;
        let Stage::Starting(id) = held.stage else { return None };
        let refused = |refusal| Some((FromSupervisor::Answer { id, result: Err(refusal) }, Vec::new()));
        let refusal = match held.jail.link.try_receive::<Setup>() {
            Err(LinkError::Full) => return None,
            Ok((Setup::Ready { landlock, ipv6 }, listeners)) => {
                let mut report = self.jailer.report(&held.jail.request.limits, landlock, ipv6);
                report.groups = held.jail.groups();
                match ready(held, listeners, report) {
                    Ok((report, descriptors)) => {
                        return Some((
                            FromSupervisor::Answer { id, result: Ok(Done::Started(report)) },
                            descriptors,
                        ));
                    }
                    Err(refusal) => refusal,
                }
            }
            Ok((Setup::Failed(refusal), _)) => refusal,
            Ok((Setup::Prepare { .. } | Setup::Become { .. }, _)) => {
                Refusal::new("make the jail", "unexpected message")
            }
            Err(error) => Refusal::new("make the jail", error),
        };
        held.stage = Stage::Running { descriptors: Vec::new(), report: Report::default(), paused: false };
        held.jail.kill();
        refused(refusal)
    }

    /// What a new daemon has to know about the jails that run.
    pub(super) fn running(&self) -> Vec<Message> {
        let mut messages = Vec::new();
        for (workspace, held) in &self.held {
            let Stage::Running { descriptors, report, paused } = &held.stage else { continue };
            let Ok(copies) = channel(&held.jail, descriptors) else { continue };
            let (workspace, generation) = (workspace.clone(), held.jail.request.generation);
            let (report, paused) = (report.clone(), *paused);
            messages.push((FromSupervisor::Running { workspace, generation, report, paused }, copies));
        }
        messages
    }

    /// A child has ended: what to tell the daemon, in order.
    pub(super) fn reaped(&mut self, pid: Pid) -> Vec<Message> {
        if self.removal == Some(pid) {
            self.removal = None;
            if std::mem::take(&mut self.more_trash) {
                self.empty_trash();
            }
            return Vec::new();
        }
        if let Some(at) = self.blanks.iter().position(|blank| blank.child.pid == pid) {
            self.blank_ended(at);
            return Vec::new();
        }
        let found = self.held.iter().find(|(_, held)| held.jail.child.pid == pid);
        let Some(workspace) = found.map(|(workspace, _)| workspace.clone()) else { return Vec::new() };
        let mut messages = Vec::new();
        // Its last word may still be in the socket.
        messages.extend(self.heard(&workspace));
        let Some(held) = self.held.remove(&workspace) else { return messages };
        self.free.insert(held.jail.range);
        let generation = held.jail.request.generation;
        // The cgroup goes first, so that a start that follows finds none.
        drop(held.jail);
        messages.push((FromSupervisor::Ended { workspace, generation }, Vec::new()));
        let answer = |id| (FromSupervisor::Answer { id, result: Ok(Done::Done) }, Vec::new());
        messages.extend(held.waiting.into_iter().map(answer));
        messages
    }

    /// A blank that ended by itself could not be made.
    fn blank_ended(&mut self, at: usize) {
        let Some(blank) = self.blanks.remove(at) else { return };
        self.free.insert(blank.range);
        if self.spare > 0 {
            let complaint = blank.complaint();
            self.give_up_spares(
                &complaint.unwrap_or_else(|| Refusal::new("make a jail", "its process ended")),
            );
        }
    }

    /// Takes a stopped workspace's files out of sight at once; a child deletes them.
    pub(super) fn remove_files(&mut self, workspace: &Id) -> Result<(), Refusal> {
        if self.held.contains_key(workspace) {
            return Err(Refusal::new("remove files", format!("{workspace} runs; stop it first")));
        }
        let from = self.jailer.places.workspace(workspace);
        let to = self.trash().join(Id::fresh(workspace.as_str()).as_str());
        match fs::rename(&from, &to) {
            Ok(()) => self.empty_trash(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Refusal::new("remove files", format!("{}: {error}", from.display()))),
        }
        Ok(())
    }

    /// One child at a time deletes what is in the trash.
    fn empty_trash(&mut self) {
        if self.removal.is_some() {
            self.more_trash = true;
            return;
        }
        let trash = self.trash();
        match fork() {
            Ok(Forked::Child) => exit_now(i32::from(empty(&trash).is_err())),
            Ok(Forked::Parent(pid)) => self.removal = Some(pid),
            Err(error) => tracing::warn!(%error, "files stay in the trash until the next removal"),
        }
    }

    /// When nothing runs any more.
    pub(super) fn close(&self) {
        self.jailer.cgroups.remove();
    }
}

/// What makes jails below a state directory.
pub(super) fn jailer(state_dir: &Path, rootless: bool) -> Result<Jailer, Refusal> {
    let roots = ROOTS.iter().find_map(|path| fs::read(path).ok()).unwrap_or_default();
    let home = nix::unistd::User::from_uid(geteuid()).ok().flatten().map(|user| user.dir);
    let places =
        Places { state_dir: state_dir.to_path_buf(), home: home.unwrap_or_else(|| "/nonexistent".into()) };
    Jailer::new(places, Cgroups::detect(&instance(state_dir)), roots, rootless)
}

/// A name for this installation's cgroup: the checksum of its state directory.
fn instance(state_dir: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    format!("{:08x}", crc32fast::hash(state_dir.as_os_str().as_bytes()))
}

fn ready(
    held: &mut Held,
    listeners: Vec<OwnedFd>,
    report: Report,
) -> Result<(Report, Vec<OwnedFd>), Refusal> {
    let refuse = |error: &dyn ToString| Refusal::new("make a memory file", error.to_string());
    if listeners.len() != 3 && listeners.len() != 6 {
        return Err(Refusal::new("make the jail", "wrong number of listeners"));
    }
    let memory = memfd_create("workspace", MFdFlags::MFD_CLOEXEC).map_err(|errno| refuse(&errno))?;
    let mut descriptors = vec![memory];
    descriptors.extend(listeners);
    let copies = channel(&held.jail, &descriptors).map_err(|error| refuse(&error))?;
    held.stage = Stage::Running { descriptors, report: report.clone(), paused: false };
    Ok((report, copies))
}

/// Copies of the descriptors of a [`crate::jail::wire::Channel`]; ours stay.
fn channel(jail: &Jail, kept: &[OwnedFd]) -> io::Result<Vec<OwnedFd>> {
    let control = jail.link.socket().try_clone();
    std::iter::once(control).chain(kept.iter().map(OwnedFd::try_clone)).collect()
}

/// Deletes every tree in a directory. What one tree is kept by does not keep the others.
fn empty(trash: &Path) -> io::Result<()> {
    let mut done = Ok(());
    for entry in fs::read_dir(trash)? {
        done = done.and(remove_tree(&entry?.path()));
    }
    done
}

/// Deletes a tree that nobody uses any more. Directories are first moved up beside it, so neither the depth of the
/// tree nor a mode that its owner left can stop us.
fn remove_tree(path: &Path) -> io::Result<()> {
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    let mut queue = vec![path.to_path_buf()];
    let mut moved = 0_u64;
    while let Some(directory) = queue.pop() {
        open(&directory)?;
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                fs::remove_file(entry.path())?;
                continue;
            }
            open(&entry.path())?;
            moved += 1;
            let mut beside = path.as_os_str().to_owned();
            beside.push(format!(".{moved}"));
            fs::rename(entry.path(), &beside)?;
            queue.push(beside.into());
        }
        fs::remove_dir(&directory)?;
    }
    Ok(())
}
