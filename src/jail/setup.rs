//! Making jails, the supervisor's half; the other half is in [`super::child`].
//!
//! ```text
//! supervisor                                   child (new namespaces)
//!   clone ------------------------------------->  waits
//!   identity maps, image's mounts
//!   Prepare + descriptors --------------------->  cgroup, network, the image's part of the root: a blank
//!   ...
//!   limits, workspace's mounts
//!   Become + descriptors ---------------------->  the rest of the root, lockdown
//!   <------------------------- Ready + listeners  becomes init
//! ```
//!
//! What takes long is the same for all workspaces, so some blanks are made ahead of time. A blank becomes one jail and
//! is never used again.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;
use std::sync::Arc;

use nix::sched::CloneFlags;
use nix::sys::wait::waitpid;

use super::cgroup::{Cgroups, Controller, Group};
use super::freezer::Freezer;
use super::image::{Image, ImageError};
use super::link::Link;
use super::plan::{AGENT, Places, Plan};
use super::wire::{JailRequest, Limits, Refusal, Report, Setup, Strength};
use super::{root, seccomp};
use crate::sys::process::{self, Child, Forked};
use crate::sys::seccomp::Instruction;

/// First host uid of the ranges for workspaces; systemd keeps 0x70000000 to 0x7ffeffff free of users and containers.
const FIRST_UID: u32 = 0x7000_0000;
/// uids in a workspace's range.
const RANGE: u32 = 65_536;
/// Ranges there are, and so the most workspaces that can run at once.
pub const RANGES: u32 = 4_095;

/// What all jails of one supervisor share.
#[derive(Debug)]
pub struct Jailer {
    /// Where files are.
    pub places: Places,
    /// What can be limited.
    pub cgroups: Cgroups,
    /// The machine's trusted certificates, PEM.
    pub(super) roots: Arc<[u8]>,
    /// Whether we have no privileges: one uid, limits only where delegated.
    pub(super) rootless: bool,
    pub(super) image: Image,
    pub(super) plan: Plan,
    filters: BTreeMap<String, Vec<Instruction>>,
}

/// A jail that is nobody's yet: namespaces, a network, the image's part of the root.
#[derive(Debug)]
pub struct Blank {
    /// PID 1 of the workspace that it becomes.
    pub child: Child,
    /// Its range of uids.
    pub range: u32,
    link: Link,
    group: Group,
    /// Its user namespace, through whose maps the workspace's files are shown.
    owners: Option<OwnedFd>,
}

/// A jail whose init exists and is setting itself up, or has done so.
#[derive(Debug)]
pub struct Jail {
    /// PID 1 of the workspace.
    pub child: Child,
    /// Its range of uids.
    pub range: u32,
    /// Our end of its socket.
    pub link: Link,
    /// What was asked for.
    pub request: JailRequest,
    group: Group,
}

impl Jailer {
    /// Reads what ships with Hands, and looks what of it this machine has.
    ///
    /// # Errors
    /// Data that cannot be used, which a test excludes.
    pub fn new(places: Places, cgroups: Cgroups, roots: Vec<u8>, rootless: bool) -> Result<Self, Refusal> {
        let image = Image::built_in("host").map_err(|error| Refusal::new("find the image", error))?;
        let plan = Plan::of_image(&image, &places);
        Ok(Self { places, cgroups, roots: roots.into(), rootless, image, plan, filters: BTreeMap::new() })
    }

    /// Makes a blank in its own namespaces, with a range of uids (1 to [`RANGES`]). It goes on setting itself up when
    /// this returns.
    ///
    /// # Errors
    /// The step that failed; nothing is left behind then.
    pub fn blank(&self, range: u32) -> Result<Blank, Refusal> {
        let group = self.cgroups.create(&group_name(range))?;
        let doors = group.doors()?;
        let (link, inner) = Link::pair().map_err(|error| Refusal::new("make a socket pair", error))?;
        let forked = process::clone_into(namespaces().bits(), None);
        match forked.map_err(|error| Refusal::new("make namespaces (clone3)", error))? {
            Forked::Child => self.child(inner),
            Forked::Parent(child) => {
                drop(inner);
                let mut blank = Blank { child, range, link, group, owners: None };
                match self.prepare(&mut blank, &doors) {
                    Ok(()) => Ok(blank),
                    Err(refusal) => {
                        blank.discard();
                        Err(refusal)
                    }
                }
            }
        }
    }

    /// Gives the waiting child its identity and everything that only we can open.
    fn prepare(&self, blank: &mut Blank, doors: &[fs::File]) -> Result<(), Refusal> {
        let pid = blank.child.pid;
        let write = |file: &str, text: String| {
            let path = format!("/proc/{pid}/{file}");
            fs::write(&path, text)
                .map_err(|error| Refusal::new("write an identity map", format!("{path}: {error}")))
        };
        let mut mounts = Vec::new();
        if self.rootless {
            write("setgroups", "deny".into())?;
            write("uid_map", format!("{AGENT} {} 1", nix::unistd::geteuid()))?;
            write("gid_map", format!("{AGENT} {} 1", nix::unistd::getegid()))?;
        } else {
            let map = format!("0 {} {RANGE}", FIRST_UID + blank.range * RANGE);
            write("uid_map", map.clone())?;
            write("gid_map", map)?;
            let owners = fs::File::open(format!("/proc/{pid}/ns/user"));
            let owners = owners.map_err(|error| Refusal::new("open a user namespace", error))?;
            blank.owners = Some(owners.into());
            for source in &self.plan.sources {
                mounts.push(root::detach(source, None)?);
            }
        }
        let counter = blank.group.counter();
        let mut descriptors: Vec<_> = doors.iter().map(AsFd::as_fd).collect();
        descriptors.extend(counter.map(AsFd::as_fd));
        descriptors.extend(mounts.iter().map(AsFd::as_fd));
        let prepare = Setup::Prepare { groups: doors.len(), counter: counter.is_some() };
        blank.link.send(&prepare, &descriptors).map_err(|error| Refusal::new("prepare a jail", error))
    }

    /// Whether this can be asked for at all.
    ///
    /// # Errors
    /// What can't be, and why.
    pub fn check(&mut self, request: &JailRequest) -> Result<(), Refusal> {
        if !Image::is_built_in(&request.image) {
            return Err(Refusal::new("find the image", ImageError::Unknown(request.image.clone())));
        }
        check_volumes(request)?;
        self.cgroups.check(&request.limits)?;
        if !self.filters.contains_key(&request.seccomp) {
            let compiled = seccomp::compile(&request.seccomp);
            let filter = compiled.map_err(|error| Refusal::new("compile the filter", error))?;
            self.filters.insert(request.seccomp.clone(), filter);
        }
        Ok(())
    }

    /// Makes a blank the jail of a workspace.
    ///
    /// # Errors
    /// The step that failed; the blank is gone then.
    pub fn begin(&mut self, blank: Blank, request: JailRequest) -> Result<Jail, Refusal> {
        match self.assign(&blank, &request) {
            Ok(()) => {
                let Blank { child, range, link, group, owners: _ } = blank;
                Ok(Jail { child, range, link, request, group })
            }
            Err(refusal) => {
                blank.discard();
                Err(refusal)
            }
        }
    }

    fn assign(&mut self, blank: &Blank, request: &JailRequest) -> Result<(), Refusal> {
        self.check(request)?;
        self.make_directories(request)?;
        self.cgroups.limit_all(&group_name(blank.range), &request.limits)?;
        let mut mounts = Vec::new();
        if let Some(owners) = &blank.owners {
            for source in &Plan::of_workspace(&self.image, request, &self.places, &self.roots).sources {
                mounts.push(root::detach(source, Some(owners))?);
            }
        }
        let descriptors: Vec<_> = mounts.iter().map(AsFd::as_fd).collect();
        let filter = self.filters.get(&request.seccomp).cloned().unwrap_or_default();
        let told = Setup::Become { request: Box::new(request.clone()), filter };
        blank.link.send(&told, &descriptors).map_err(|error| Refusal::new("start init", error))
    }

    fn make_directories(&self, request: &JailRequest) -> Result<(), Refusal> {
        let own = self.places.workspace(&request.workspace);
        self.make_owned(&own.join("workspace"))?;
        self.make_owned(&own.join("home"))?;
        request.volumes.iter().try_for_each(|(name, _, _)| self.make_owned(&self.places.volume(name)))
    }

    /// A directory that belongs to the agent. Owners on disk are the ids inside, shown through each workspace's map.
    fn make_owned(&self, path: &Path) -> Result<(), Refusal> {
        let refuse = |error| Refusal::new("make a directory", format!("{}: {error}", path.display()));
        if path.is_dir() {
            return Ok(());
        }
        fs::DirBuilder::new().recursive(true).mode(0o711).create(path).map_err(refuse)?;
        if !self.rootless {
            chown(path, Some(AGENT), Some(AGENT)).map_err(refuse)?;
        }
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).map_err(refuse)
    }

    /// What holds in a jail that said it is ready.
    #[must_use]
    pub fn report(&self, limits: &Limits, landlock: u32, ipv6: bool) -> Report {
        let mut layers = Vec::new();
        let mut layer = |name: &str, strength, detail: &str| {
            layers.push((name.to_owned(), strength, detail.to_owned()));
        };
        layer("namespaces", Strength::InForce, "user, mount, pid, ipc, uts, cgroup, network");
        layer("capabilities", Strength::InForce, "all five sets empty, no_new_privs");
        layer("seccomp", Strength::InForce, "allow-list");
        match landlock {
            0 => layer("landlock", Strength::Missing, "the kernel has none, or it is switched off at boot"),
            1..6 => layer(
                "landlock",
                Strength::Weaker,
                &format!("ABI {landlock}: no scope for signals and sockets"),
            ),
            _ => layer("landlock", Strength::InForce, &format!("ABI {landlock}")),
        }
        match self.rootless {
            false => layer("uid range", Strength::InForce, "65,536 uids of its own"),
            true => {
                layer("uid range", Strength::Weaker, "rootless: all workspaces share the uid of their owner");
            }
        }
        match self.cgroups.missing() {
            "" => layer("cgroup", Strength::InForce, &format!("{:?}", self.cgroups.version())),
            missing => layer("cgroup", Strength::Missing, missing),
        }
        match self.cgroups.can_freeze() {
            Ok(()) => layer("pause", Strength::InForce, "cgroup freezer"),
            Err(why) => layer("pause", Strength::Missing, &format!("no cgroup freezer: {why}")),
        }
        let captured = if ipv6 {
            "every TCP port and DNS, IPv4 and IPv6"
        } else {
            "every TCP port and DNS, IPv4 (no IPv6 here)"
        };
        layer("network", Strength::InForce, captured);
        let mut shown = BTreeMap::new();
        let mut limit = |name: &str, value: Option<u64>, held: bool| {
            if let (Some(value), true) = (value, held) {
                shown.insert(name.to_owned(), value.to_string());
            }
        };
        limit("memory", limits.memory, self.cgroups.has(Controller::Memory));
        limit("millicpus", limits.millicpus, self.cgroups.has(Controller::Cpu));
        limit("processes", limits.processes, true);
        limit("open_files", limits.open_files, true);
        limit("tmp", limits.tmp, true);
        Report { layers, limits: shown, groups: Vec::new() }
    }
}

impl Blank {
    /// Ends it, unused.
    pub fn kill(&self) {
        kill(&self.child);
    }

    /// Ends it and waits until it is gone, so that nothing holds its cgroup any more.
    pub fn discard(self) {
        self.kill();
        if let Err(errno) = waitpid(self.child.pid, None) {
            tracing::debug!(%errno, "a blank was reaped already");
        }
    }

    /// What it has said instead of being ready.
    pub fn complaint(&self) -> Option<Refusal> {
        match self.link.try_receive::<Setup>() {
            Ok((Setup::Failed(refusal), _)) => Some(refusal),
            _ => None,
        }
    }
}

impl Jail {
    /// Its cgroups.
    #[must_use]
    pub fn groups(&self) -> Vec<std::path::PathBuf> {
        self.group.directories().to_vec()
    }

    /// Ends PID 1, and through it everything inside. With version 1 what is frozen hears no signal.
    pub fn kill(&self) {
        kill(&self.child);
        if let Some(freezer) = self.group.freezer()
            && let Err(error) = freezer.thaw()
        {
            tracing::warn!(%error, "thaw");
        }
    }

    /// What pauses it.
    ///
    /// # Errors
    /// That this host has nothing of the kind, and what would mend it.
    pub fn freezer(&self) -> Result<&Freezer, Refusal> {
        let remedy = "no cgroup freezer here; run as root, or under systemd with Delegate=yes";
        self.group.freezer().ok_or_else(|| Refusal::new("pause", remedy))
    }
}

fn kill(child: &Child) {
    if let Err(error) = process::signal(&child.pidfd, libc::SIGKILL) {
        tracing::debug!(%error, "init had ended already");
    }
}

/// By range, not by workspace: the group is there before anybody knows whose it will be.
fn group_name(range: u32) -> String {
    format!("jail-{range}")
}

fn namespaces() -> CloneFlags {
    CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWNET
}

/// A volume must not cover what the jail itself relies on.
fn check_volumes(request: &JailRequest) -> Result<(), Refusal> {
    for (name, path, _) in &request.volumes {
        let reserved =
            ["/proc", "/dev", "/sys", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/run", "/tmp"];
        let clean = path.starts_with('/')
            && path.len() > 1
            && path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."))
            && !path.contains('\0');
        let covers = |place: &&str| path == *place || path.starts_with(&format!("{place}/"));
        if !clean || reserved.iter().any(covers) {
            let remedy =
                "use an absolute path without `..`, outside the system's directories, for example /data";
            return Err(Refusal::new("check a volume", format!("{name} at {path:?}: {remedy}")));
        }
    }
    Ok(())
}
