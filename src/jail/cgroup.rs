//! Control groups: one per workspace, on version 2, version 1 or a hybrid of both.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::freezer::Freezer;
use super::wire::{Limits, Refusal};

/// How long what was left paused may take to end.
const PATIENCE: Duration = Duration::from_secs(1);

/// What this host lets us limit.
#[derive(Debug)]
pub struct Cgroups {
    controllers: BTreeMap<Controller, PathBuf>,
    /// Where groups can be frozen; with version 1 that is a tree of its own.
    freezer: Result<PathBuf, String>,
    version: Version,
    missing: String,
}

/// Which interface the controllers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One tree for all (`cgroup2`).
    V2,
    /// One tree per controller.
    V1,
    /// None that we may use.
    None,
}

/// The controllers that we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Memory, swap excluded.
    Memory,
    /// Processes and threads.
    Pids,
    /// Processor time.
    Cpu,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];

    /// The kernel's name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }
}

impl Cgroups {
    /// Finds what the supervisor may use and makes the group that will hold all workspaces of this installation.
    #[must_use]
    pub fn detect(instance: &str) -> Self {
        let found = own_groups().map(|own| Self::prepare(&own, &format!("hands-{instance}")));
        found.unwrap_or_else(|error| Self::none(format!("/proc/self/cgroup: {error}")))
    }

    fn none(missing: String) -> Self {
        let freezer = Err(missing.clone());
        Self { controllers: BTreeMap::new(), freezer, version: Version::None, missing }
    }

    fn prepare(own: &OwnGroups, name: &str) -> Self {
        let offered = fs::read_to_string(own.unified.join("cgroup.controllers")).unwrap_or_default();
        if offered.split_whitespace().any(|controller| controller == "memory") {
            return match delegate(&own.unified, name) {
                Ok(base) => Self::v2(&base),
                Err(error) => Self::none(format!("{}: {error}", own.unified.display())),
            };
        }
        let mut missing = Vec::new();
        let mut controllers = BTreeMap::new();
        for controller in Controller::ALL {
            let Some(at) = own.v1.get(controller.name()) else {
                missing.push(format!("no {} controller", controller.name()));
                continue;
            };
            let base = at.join(name);
            match make(&base) {
                Ok(()) => drop(controllers.insert(controller, base)),
                Err(error) => missing.push(format!("{}: {error}", base.display())),
            }
        }
        let version = if controllers.is_empty() { Version::None } else { Version::V1 };
        let freezer = own.v1.get("freezer").ok_or_else(|| "no freezer controller".to_owned());
        let freezer = freezer.and_then(|at| {
            let base = at.join(name);
            make(&base).map_err(|error| format!("{}: {error}", base.display()))?;
            Ok(base)
        });
        Self { controllers, freezer, version, missing: missing.join("; ") }
    }

    fn v2(base: &Path) -> Self {
        let offered = fs::read_to_string(base.join("cgroup.subtree_control")).unwrap_or_default();
        let has = |controller: &Controller| offered.split_whitespace().any(|name| name == controller.name());
        let (with, without): (Vec<_>, Vec<_>) = Controller::ALL.into_iter().partition(has);
        let missing: Vec<_> =
            without.iter().map(|controller| format!("no {} controller", controller.name())).collect();
        let controllers = with.into_iter().map(|controller| (controller, base.to_path_buf())).collect();
        Self {
            controllers,
            freezer: Ok(base.to_path_buf()),
            version: Version::V2,
            missing: missing.join("; "),
        }
    }

    /// Which interface is in use.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// What cannot be limited and why; empty if everything can.
    #[must_use]
    pub fn missing(&self) -> &str {
        &self.missing
    }

    /// Whether this controller can be used.
    #[must_use]
    pub fn has(&self, controller: Controller) -> bool {
        self.controllers.contains_key(&controller)
    }

    /// Whether a workspace can be paused.
    ///
    /// # Errors
    /// Why not.
    pub fn can_freeze(&self) -> Result<(), &str> {
        self.freezer.as_ref().map(drop).map_err(String::as_str)
    }

    /// The directory of all groups in every tree that we use.
    fn bases(&self) -> impl Iterator<Item = &PathBuf> {
        self.controllers.values().chain(&self.freezer)
    }

    /// Whether these limits can be held here.
    ///
    /// # Errors
    /// A limit that is asked for and cannot be enforced is refused, not forgotten.
    pub fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        let demanded =
            [(Controller::Memory, limits.memory.is_some()), (Controller::Cpu, limits.millicpus.is_some())];
        for (controller, wanted) in demanded {
            if wanted && !self.has(controller) {
                let remedy =
                    "run as root, or under systemd with Delegate=yes, or take the limit out of the policy";
                let name = controller.name();
                return Err(Refusal::new(
                    "limit",
                    format!("{name} can't be limited here ({}); {remedy}", self.missing),
                ));
            }
        }
        Ok(())
    }

    /// Makes a group without limits.
    ///
    /// # Errors
    /// The directory and the kernel's answer; half-made groups are removed.
    pub fn create(&self, name: &str) -> Result<Group, Refusal> {
        let mut group = Group { directories: Vec::new(), counter: None, freezer: None };
        for (controller, base) in &self.controllers {
            let directory = base.join(name);
            if group.directories.contains(&directory) {
                continue;
            }
            make(&directory).map_err(|error| {
                Refusal::new("make a cgroup", format!("{}: {error}", directory.display()))
            })?;
            group.directories.push(directory.clone());
            if *controller == Controller::Memory {
                let file = if self.version == Version::V2 { "memory.events" } else { "memory.oom_control" };
                group.counter = File::open(directory.join(file)).ok();
            }
        }
        if let Ok(base) = &self.freezer {
            let directory = base.join(name);
            if !group.directories.contains(&directory) {
                make(&directory).map_err(|error| {
                    Refusal::new("make a cgroup", format!("{}: {error}", directory.display()))
                })?;
                group.directories.push(directory.clone());
            }
            group.freezer = Some(Freezer::of(&directory, self.version));
        }
        Ok(group)
    }

    /// Sets the limits of the group with this name.
    ///
    /// # Errors
    /// The file, the value and the kernel's answer.
    pub fn limit_all(&self, name: &str, limits: &Limits) -> Result<(), Refusal> {
        self.check(limits)?;
        let mut controllers = self.controllers.iter();
        controllers.try_for_each(|(controller, base)| self.limit(*controller, &base.join(name), limits))
    }

    fn limit(&self, controller: Controller, at: &Path, limits: &Limits) -> Result<(), Refusal> {
        let mut settings: Vec<(&str, String)> = Vec::new();
        let v2 = self.version == Version::V2;
        match (controller, v2) {
            (Controller::Memory, true) => {
                settings.extend(limits.memory.map(|bytes| ("memory.max", bytes.to_string())));
                settings.extend(limits.memory.map(|_| ("memory.swap.max", "0".to_owned())));
                settings.extend(limits.memory.map(|_| ("memory.oom.group", "0".to_owned())));
            }
            (Controller::Memory, false) => {
                settings.extend(limits.memory.map(|bytes| ("memory.limit_in_bytes", bytes.to_string())));
                settings
                    .extend(limits.memory.map(|bytes| ("memory.memsw.limit_in_bytes", bytes.to_string())));
            }
            (Controller::Pids, _) => {
                settings.extend(limits.processes.map(|most| ("pids.max", most.to_string())));
            }
            (Controller::Cpu, true) => {
                settings.extend(limits.millicpus.map(|cpus| ("cpu.max", format!("{} 100000", cpus * 100))));
            }
            (Controller::Cpu, false) => {
                settings.extend(limits.millicpus.map(|cpus| ("cpu.cfs_quota_us", (cpus * 100).to_string())));
            }
        }
        for (file, value) in settings {
            let path = at.join(file);
            // A kernel without swap accounting has no such file: nothing to switch off.
            if file.contains("sw") && !path.exists() {
                continue;
            }
            fs::write(&path, &value).map_err(|error| {
                Refusal::new("set a limit", format!("{} to {value}: {error}", path.display()))
            })?;
        }
        Ok(())
    }

    /// Removes groups that an earlier supervisor of this installation left behind; their processes died with it, but
    /// for paused ones, which can't until they are thawed.
    pub fn sweep(&self) {
        let below = |base: &PathBuf| fs::read_dir(base).into_iter().flatten().flatten();
        for entry in self.freezer.iter().flat_map(below).filter(|entry| entry.path().is_dir()) {
            end_frozen(&entry.path(), self.version);
        }
        for base in self.bases() {
            for entry in fs::read_dir(base).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    remove(&entry.path());
                }
            }
        }
    }

    /// Removes the group of all workspaces; only when none runs.
    pub fn remove(&self) {
        self.sweep();
        for base in self.bases() {
            remove(base);
        }
    }
}

/// The group of one workspace, in every tree that has one.
#[derive(Debug)]
pub struct Group {
    directories: Vec<PathBuf>,
    counter: Option<File>,
    freezer: Option<Freezer>,
}

impl Group {
    /// Files into which a process writes `0` to join. With version 1 that waits for all processors, up to tens of
    /// milliseconds, so it is the new process that does it.
    ///
    /// # Errors
    /// The file and the kernel's answer.
    pub fn doors(&self) -> Result<Vec<File>, Refusal> {
        let open = |directory: &PathBuf| {
            let path = directory.join("cgroup.procs");
            let opened = File::options().write(true).open(&path);
            opened.map_err(|error| Refusal::new("join a cgroup", format!("{}: {error}", path.display())))
        };
        self.directories.iter().map(open).collect()
    }

    /// Its place in every tree that has one.
    #[must_use]
    pub fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// Where the kernel counts processes that it ended for want of memory.
    #[must_use]
    pub fn counter(&self) -> Option<&File> {
        self.counter.as_ref()
    }

    /// What pauses it, where the host has that.
    #[must_use]
    pub fn freezer(&self) -> Option<&Freezer> {
        self.freezer.as_ref()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for directory in &self.directories {
            remove(directory);
        }
    }
}

fn make(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Ends what an earlier supervisor left paused. Nobody in the group can end, and so give its number to another, before
/// it is thawed.
fn end_frozen(directory: &Path, version: Version) {
    let freezer = Freezer::of(directory, version);
    let members = || fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let frozen = freezer.frozen().unwrap_or(false) && !members().is_empty();
    if frozen {
        for member in members().lines().filter_map(|line| line.parse().ok()) {
            if let Err(errno) = kill(Pid::from_raw(member), Signal::SIGKILL) {
                tracing::warn!(member, %errno, "a paused process stays");
            }
        }
    }
    if let Err(error) = freezer.thaw() {
        tracing::debug!(%error, "thaw");
    }
    let patience = Instant::now() + PATIENCE;
    while frozen && !members().is_empty() && Instant::now() < patience {
        std::thread::yield_now();
    }
}

/// A group whose last process is being reaped says busy for a moment; the sweep at the next start takes what stays.
fn remove(directory: &Path) {
    for _attempt in 0..100 {
        match fs::remove_dir(directory) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => std::thread::yield_now(),
            _ => return,
        }
    }
    tracing::warn!(directory = %directory.display(), "cgroup is still busy; it is removed at the next start");
}

/// Where the supervisor itself stands in each tree, as paths below /sys.
struct OwnGroups {
    unified: PathBuf,
    v1: BTreeMap<String, PathBuf>,
}

fn own_groups() -> io::Result<OwnGroups> {
    let memberships = fs::read_to_string("/proc/self/cgroup")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mut own = OwnGroups { unified: PathBuf::from("/sys/fs/cgroup/none"), v1: BTreeMap::new() };
    for line in memberships.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            if let Some(mount) = mounted(&mounts, "cgroup2", "") {
                own.unified = mount.join(path);
            }
            continue;
        }
        for controller in controllers.split(',') {
            if let Some(mount) = mounted(&mounts, "cgroup", controller) {
                own.v1.insert(controller.to_owned(), mount.join(path));
            }
        }
    }
    Ok(own)
}

/// The mount point of a cgroup tree: the type stands after the separator, the controllers in its options.
fn mounted(mounts: &str, kind: &str, controller: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let fits = after.next()? == kind
            && (controller.is_empty() || after.nth(1)?.split(',').any(|option| option == controller));
        fits.then(|| PathBuf::from(before.split(' ').nth(4).unwrap_or_default()))
    })
}

/// Makes `name` below our own group and hands the controllers down to its children.
fn delegate(own: &Path, name: &str) -> io::Result<PathBuf> {
    let base = own.join(name);
    make(&base)?;
    if let Err(error) = enable(own) {
        if error.raw_os_error() != Some(libc::EBUSY) {
            return Err(error);
        }
        // A group with processes can't hand controllers down: move ourselves, if we are alone, into a leaf.
        let members = fs::read_to_string(own.join("cgroup.procs"))?;
        let me = std::process::id().to_string();
        if members.lines().any(|member| member != me) {
            return Err(error);
        }
        let leaf = own.join(format!("{name}-supervisor"));
        make(&leaf)?;
        fs::write(leaf.join("cgroup.procs"), &me)?;
        enable(own)?;
    }
    enable(&base)?;
    Ok(base)
}

fn enable(group: &Path) -> io::Result<()> {
    for controller in Controller::ALL {
        match fs::write(group.join("cgroup.subtree_control"), format!("+{}", controller.name())) {
            // Not offered here: reported as missing later.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::EINVAL) => {}
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Path, PathBuf, mounted};

    #[test]
    fn r_14_trees_are_found_by_type_and_controller() {
        let mounts = "31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      32 23 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      33 23 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(mounted(mounts, "cgroup", "memory"), Some(PathBuf::from("/sys/fs/cgroup/memory")));
        assert_eq!(
            mounted(mounts, "cgroup", "cpu").as_deref(),
            Some(Path::new("/sys/fs/cgroup/cpu,cpuacct"))
        );
        assert_eq!(mounted(mounts, "cgroup2", "").as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(mounted(mounts, "cgroup", "pids"), None);
    }
}
