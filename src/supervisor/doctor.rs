//! What this machine gives, layer by layer: found out by making a real jail and asking it.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::utsname::uname;
use nix::sys::wait::waitpid;
use nix::unistd::{Uid, geteuid};

use super::jails::jailer;
use crate::id::Id;
use crate::jail::cgroup::Controller;
use crate::jail::finding::Finding;
use crate::jail::setup::Jailer;
use crate::jail::wire::{JailRequest, Limits, Refusal, Report, Setup, Strength};

/// Remedies by layer, in the order in which they are tried.
const REMEDIES: &[(&str, &str)] = &[
    ("landlock", "boot with landlock in the `lsm=` list, on Linux 6.12 or later for everything"),
    ("uid range", "run `hands serve` as root to give each workspace uids of its own"),
    ("pause", "run as root, or under systemd with Delegate=yes; `pause` is refused without"),
    ("cgroup", "run as root, or under systemd with Delegate=yes"),
];

/// Looks at the machine, and makes and ends one jail below the state directory, or below the temporary one if that
/// does not exist yet. The process must have one thread.
#[must_use]
pub fn report(state_dir: &Path) -> Vec<Finding> {
    let mut lines = vec![kernel(), user_namespaces()];
    let scratch = Scratch::new(state_dir);
    let mut jailer = match jailer(&scratch.path, !geteuid().is_root()) {
        Ok(jailer) => jailer,
        Err(refusal) => {
            lines.push(Finding::new("jail", Strength::Missing, refusal.to_string(), "install Hands again"));
            return lines;
        }
    };
    match try_jail(&mut jailer) {
        Ok(report) => {
            lines.push(Finding::new("jail", Strength::InForce, "one was made and ended just now", ""));
            lines.extend(report.layers.into_iter().map(layer));
        }
        Err(refusal) => {
            let remedy = "the step that failed is named; user namespaces, nf_tables with redirect and, as root, \
                          id-mapped mounts of the state directory's file system are needed";
            lines.push(Finding::new("jail", Strength::Missing, refusal.to_string(), remedy));
        }
    }
    for controller in [Controller::Memory, Controller::Cpu, Controller::Pids] {
        let held = jailer.cgroups.has(controller);
        let status = if held { Strength::InForce } else { Strength::Missing };
        let found = if held { "can be limited" } else { "no controller that we may use" };
        let remedy =
            "run as root, or under systemd with Delegate=yes; a policy that asks for this limit is refused";
        lines.push(Finding::new(&format!("limit {}", controller.name()), status, found, remedy));
    }
    jailer.cgroups.remove();
    lines
}

fn kernel() -> Finding {
    let release = uname().map(|names| names.release().to_string_lossy().into_owned()).unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0_u32));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let status = if version >= (5, 12) { Strength::InForce } else { Strength::Missing };
    Finding::new(
        "kernel",
        status,
        format!("Linux {release}"),
        "Linux 5.12 or later has id-mapped mounts and all system calls that are used",
    )
}

fn user_namespaces() -> Finding {
    let read = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<i64>().ok());
    let most = read("/proc/sys/user/max_user_namespaces").unwrap_or(0);
    let restricted = read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1)
        || read("/proc/sys/kernel/unprivileged_userns_clone") == Some(0);
    if most == 0 {
        let remedy = "sysctl user.max_user_namespaces=65536";
        return Finding::new("user namespaces", Strength::Missing, "switched off", remedy);
    }
    if restricted && !geteuid().is_root() {
        let remedy = "an AppArmor profile for hands with `userns,`, or run `hands serve` as root";
        return Finding::new("user namespaces", Strength::Missing, "not for ordinary users", remedy);
    }
    Finding::new("user namespaces", Strength::InForce, format!("up to {most}"), "")
}

fn try_jail(jailer: &mut Jailer) -> Result<Report, Refusal> {
    let request = JailRequest {
        workspace: Id::fresh("doctor"),
        generation: 1,
        image: String::new(),
        volumes: Vec::new(),
        authority: String::new(),
        limits: Limits::default(),
        seccomp: "default".into(),
    };
    let blank = jailer.blank(1)?;
    let jail = jailer.begin(blank, request)?;
    let said = jail.link.receive::<Setup>();
    jail.kill();
    waitpid(jail.child.pid, None).map_err(|errno| Refusal::new("wait for init", errno))?;
    match said.map_err(|error| Refusal::new("make the jail", error))? {
        (Setup::Ready { landlock, ipv6 }, _) => Ok(jailer.report(&Limits::default(), landlock, ipv6)),
        (Setup::Failed(refusal), _) => Err(refusal),
        (Setup::Prepare { .. } | Setup::Become { .. }, _) => {
            Err(Refusal::new("make the jail", "unexpected message"))
        }
    }
}

fn layer((name, strength, detail): (String, Strength, String)) -> Finding {
    let remedy = REMEDIES.iter().find(|(layer, _)| *layer == name).map_or("", |(_, remedy)| *remedy);
    Finding::new(&name, strength, detail, remedy)
}

/// A directory that goes away with its owner.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new(state_dir: &Path) -> Self {
        let ours = fs::metadata(state_dir)
            .is_ok_and(|found| Uid::from_raw(std::os::unix::fs::MetadataExt::uid(&found)) == geteuid());
        let parent = if ours { state_dir.to_path_buf() } else { std::env::temp_dir() };
        Self { path: parent.join(Id::fresh("hands-doctor").as_str()) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "stays behind");
        }
    }
}
