//! What a process gives up before it runs anything that is not ours.

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::wire::{Limits, Refusal};
use crate::sys::{landlock, process, seccomp};

/// Descriptors per process where no limit is asked for.
const OPEN_FILES: u64 = 65_536;

/// What init keeps: starting commands under another uid, and ending them.
const KEPT: [Capability; 3] = [Capability::CAP_SETUID, Capability::CAP_SETGID, Capability::CAP_KILL];

/// Locks init down, and through inheritance every command. Returns the Landlock ABI in force.
///
/// The order matters: limits and capability sets are changed while the right to do so is still there, Landlock and
/// the filter come last because they forbid the calls that precede them.
///
/// # Errors
/// The step that failed: nothing here is optional but Landlock where the kernel has none.
pub fn init(limits: &Limits, filter: &[seccomp::Instruction], rootless: bool) -> Result<u32, Refusal> {
    let step = |name: &'static str| move |error: &dyn std::fmt::Display| Refusal::new(name, error);
    resources(limits)?;
    process::new_session_keyring().map_err(|error| step("new session keyring")(&error))?;
    let mut kept = CapsHashSet::new();
    if !rootless {
        kept.extend(KEPT);
    }
    // The bounding set bounds what an exec can give; commands get none, whatever file they run.
    caps::clear(None, CapSet::Bounding).map_err(|error| step("clear the bounding set")(&error))?;
    caps::clear(None, CapSet::Ambient).map_err(|error| step("clear the ambient set")(&error))?;
    caps::clear(None, CapSet::Inheritable).map_err(|error| step("clear the inheritable set")(&error))?;
    caps::set(None, CapSet::Effective, &kept).map_err(|error| step("set effective capabilities")(&error))?;
    caps::set(None, CapSet::Permitted, &kept).map_err(|error| step("set permitted capabilities")(&error))?;
    prctl::set_no_new_privs().map_err(|error| step("set no_new_privs")(&error))?;
    prctl::set_dumpable(false).map_err(|error| step("set not dumpable")(&error))?;
    let landlock = landlock::restrict().map_err(|error| step("restrict by Landlock")(&error))?;
    seccomp::install(filter).map_err(|error| step("install the seccomp filter")(&error))?;
    Ok(landlock)
}

fn resources(limits: &Limits) -> Result<(), Refusal> {
    let files = limits.open_files.unwrap_or(OPEN_FILES);
    // A limit that is already lower stays: raising it needs a right over the machine that we do not have here.
    let set = |resource, value: u64| {
        let refuse = |error| Refusal::new(format!("limit {resource:?}"), error);
        let (_, most) = getrlimit(resource).map_err(refuse)?;
        setrlimit(resource, value.min(most), value.min(most)).map_err(refuse)
    };
    set(Resource::RLIMIT_CORE, 0)?;
    set(Resource::RLIMIT_NOFILE, files)?;
    set(Resource::RLIMIT_MEMLOCK, 8 * 1024 * 1024)?;
    match limits.processes {
        Some(processes) => set(Resource::RLIMIT_NPROC, processes),
        None => Ok(()),
    }
}

/// The last steps of a command before exec: become the agent, with nothing left of init's rights.
///
/// # Errors
/// The kernel's; the caller must then end the process.
pub fn command(uid: u32, rootless: bool) -> nix::Result<()> {
    use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
    if !rootless {
        let (gid, uid) = (Gid::from_raw(uid), Uid::from_raw(uid));
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        // Leaving uid 0 for good clears the permitted and effective sets (capabilities(7)).
        setresuid(uid, uid, uid)?;
    }
    Ok(())
}
