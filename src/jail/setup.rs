//! From a plan to a running init: the supervisor's half and the child's half of making a jail.
//!
//! ```text
//! supervisor                                   child (new namespaces)
//!   clone ------------------------------------->  waits
//!   identity maps, cgroup, id-mapped mounts
//!   Go + descriptors -------------------------->  network, root, lockdown
//!   <------------------------- Ready + listeners  becomes init
//! ```

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;

use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::Signal;

use super::cgroup::{Cgroups, Controller, Group};
use super::image::Image;
use super::init;
use super::link::Link;
use super::plan::{AGENT, Places, Plan};
use super::wire::{JailRequest, Limits, Refusal, Report, Setup, Strength};
use super::{lockdown, network, root, seccomp};
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
    pub roots: Vec<u8>,
    /// Whether we have no privileges: one uid, limits only where delegated.
    pub rootless: bool,
}

/// A jail whose init exists and is setting itself up, or has done so.
#[derive(Debug)]
pub struct Jail {
    /// PID 1 of the workspace.
    pub child: Child,
    /// Our end of its socket.
    pub link: Link,
    /// What was asked for.
    pub request: JailRequest,
    group: Group,
}

impl Jailer {
    /// Makes the process that will be init, in its own namespaces, with a range of uids (1 to [`RANGES`]).
    ///
    /// # Errors
    /// The step that failed; nothing is left behind then.
    pub fn begin(&self, request: JailRequest, range: u32) -> Result<Jail, Refusal> {
        let image = Image::built_in(&request.image).map_err(|error| Refusal::new("find the image", error))?;
        let filter =
            seccomp::compile(&request.seccomp).map_err(|error| Refusal::new("compile the filter", error))?;
        check_volumes(&request)?;
        self.make_directories(&request)?;
        let plan = Plan::new(&image, &request, &self.places, &self.roots);
        let group = self.cgroups.create(request.workspace.as_str(), &request.limits)?;
        let (link, inner) = Link::pair().map_err(|error| Refusal::new("make a socket pair", error))?;
        let forked = process::clone_into(namespaces().bits(), None);
        match forked.map_err(|error| Refusal::new("make namespaces (clone3)", error))? {
            Forked::Child => self.child(inner, &plan, &request, &filter),
            Forked::Parent(child) => {
                drop(inner);
                let jail = Jail { child, link, request, group };
                self.release(&jail, &plan, range).inspect_err(|_refusal| jail.kill())?;
                Ok(jail)
            }
        }
    }

    /// Gives the waiting child its identity and everything that only we can open.
    fn release(&self, jail: &Jail, plan: &Plan, range: u32) -> Result<(), Refusal> {
        let pid = jail.child.pid;
        jail.group.admit(pid)?;
        let write = |file: &str, text: String| {
            let path = format!("/proc/{pid}/{file}");
            fs::write(&path, text)
                .map_err(|error| Refusal::new("write an identity map", format!("{path}: {error}")))
        };
        if self.rootless {
            write("setgroups", "deny".into())?;
            write("uid_map", format!("{AGENT} {} 1", nix::unistd::geteuid()))?;
            write("gid_map", format!("{AGENT} {} 1", nix::unistd::getegid()))?;
        } else {
            let map = format!("0 {} {RANGE}", FIRST_UID + range * RANGE);
            write("uid_map", map.clone())?;
            write("gid_map", map)?;
        }
        let mut mounts = Vec::new();
        if !self.rootless {
            let owners = fs::File::open(format!("/proc/{pid}/ns/user"));
            let owners = owners.map_err(|error| Refusal::new("open a user namespace", error))?;
            let owners = OwnedFd::from(owners);
            for source in &plan.sources {
                mounts.push(root::detach(source, Some(&owners))?);
            }
        }
        let counter = jail.group.counter();
        let mut descriptors: Vec<_> = mounts.iter().map(AsFd::as_fd).collect();
        descriptors.extend(counter.map(AsFd::as_fd));
        let go = Setup::Go { counter: counter.is_some() };
        jail.link.send(&go, &descriptors).map_err(|error| Refusal::new("start init", error))
    }

    /// The child's half. It never returns: it becomes init, or says why not and ends.
    fn child(&self, link: Link, plan: &Plan, request: &JailRequest, filter: &[Instruction]) -> ! {
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let link = alone(link)?;
            match self.become_init(&link, plan, request, filter) {
                Ok((ready, listeners, context)) => {
                    let listeners: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
                    link.send(&ready, &listeners).map_err(drop)?;
                    Ok((link, context))
                }
                Err(refusal) => link.send(&Setup::Failed(refusal), &[]).map_err(drop).and(Err(())),
            }
        }));
        match ended {
            Ok(Ok((link, context))) => init::run(link, context),
            _ => process::exit_now(1),
        }
    }

    fn become_init(
        &self,
        link: &Link,
        plan: &Plan,
        request: &JailRequest,
        filter: &[Instruction],
    ) -> Result<(Setup, Vec<OwnedFd>, init::Context), Refusal> {
        let told = link.receive::<Setup>().map_err(|error| Refusal::new("wait for the supervisor", error))?;
        let (Setup::Go { counter }, mut descriptors) = told else {
            return Err(Refusal::new("wait for the supervisor", "unexpected message"));
        };
        let counter = if counter { descriptors.pop() } else { None };
        // Only now are we in our cgroup: the namespace shows it as the root.
        nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP)
            .map_err(|e| Refusal::new("unshare the cgroup namespace", e))?;
        if !self.rootless {
            use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
            // Until we are somebody in our own namespace, files that we make would belong to nobody.
            let become_root = setgroups(&[])
                .and_then(|()| setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0)))
                .and_then(|()| setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)));
            become_root.map_err(|error| Refusal::new("become root inside", error))?;
        }
        // After the change of uid, which would clear it.
        prctl::set_pdeathsig(Signal::SIGKILL)
            .map_err(|error| Refusal::new("set the parent-death signal", error))?;
        let captured = network::capture()?;
        let mounts = if self.rootless {
            plan.sources.iter().map(|source| root::detach(source, None)).collect::<Result<_, _>>()?
        } else {
            descriptors
        };
        root::enter(plan, mounts)?;
        nix::unistd::sethostname("hands").map_err(|error| Refusal::new("set the host name", error))?;
        let landlock = lockdown::init(&request.limits, filter, self.rootless)?;
        let ready = Setup::Ready { landlock, ipv6: captured.ipv6 };
        let context = init::Context { counter: counter.map(fs::File::from), rootless: self.rootless };
        Ok((ready, captured.listeners, context))
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
        let captured = if ipv6 {
            "every TCP port and DNS, IPv4 and IPv6"
        } else {
            "every TCP port and DNS, IPv4 (no IPv6 here)"
        };
        layer("network", Strength::InForce, captured);
        let mut shown = std::collections::BTreeMap::new();
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
        Report { layers, limits: shown }
    }
}

impl Jail {
    /// Ends PID 1, and through it everything inside.
    pub fn kill(&self) {
        if let Err(error) = process::signal(&self.child.pidfd, libc::SIGKILL) {
            tracing::debug!(%error, "init had ended already");
        }
    }
}

fn namespaces() -> CloneFlags {
    CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWNET
}

/// Lets go of everything that was inherited but the link: no descriptor of the supervisor or of another workspace
/// stays in this process.
fn alone(link: Link) -> Result<Link, ()> {
    use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(drop)?;
    let null = fs::File::options().read(true).write(true).open("/dev/null").map_err(drop)?;
    nix::unistd::dup2_stdin(&null).map_err(drop)?;
    nix::unistd::dup2_stdout(&null).map_err(drop)?;
    nix::unistd::dup2_stderr(&null).map_err(drop)?;
    drop(null);
    let socket = link.into_socket();
    process::close_all_but(&[0, 1, 2, socket.as_raw_fd()]).map_err(drop)?;
    Ok(Link::from_socket(socket))
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
