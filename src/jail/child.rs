//! Making jails, the child's half: from a fork of the supervisor to a workspace's init. It never returns.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{Gid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, setgroups, setresgid, setresuid};

use super::link::Link;
use super::network::{self, Captured};
use super::plan::Plan;
use super::setup::Jailer;
use super::wire::{Refusal, Setup};
use super::{init, lockdown, root};
use crate::sys::process::{close_all_but, exit_now};

/// What a blank waits with.
struct Waiting {
    root: OwnedFd,
    captured: Captured,
    context: init::Context,
}

/// A jail that stands.
struct Standing {
    ready: Setup,
    listeners: Vec<OwnedFd>,
    context: init::Context,
}

impl Jailer {
    /// It becomes init, or says why not and ends.
    pub(super) fn child(&self, link: Link) -> ! {
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let link = alone(link)?;
            let stands = self.wait(&link).and_then(|waiting| self.become_init(&link, waiting));
            match stands {
                Ok(Standing { ready, listeners, context }) => {
                    let listeners: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
                    link.send(&ready, &listeners).map_err(drop)?;
                    Ok((link, context))
                }
                Err(refusal) => link.send(&Setup::Failed(refusal), &[]).map_err(drop).and(Err(())),
            }
        }));
        match ended {
            Ok(Ok((link, context))) => init::run(link, context),
            _ => exit_now(1),
        }
    }

    /// Everything that is the same for all workspaces.
    fn wait(&self, link: &Link) -> Result<Waiting, Refusal> {
        let told = link.receive::<Setup>().map_err(|error| Refusal::new("wait for the supervisor", error))?;
        let (Setup::Prepare { groups, counter }, mut descriptors) = told else {
            return Err(Refusal::new("wait for the supervisor", "unexpected message"));
        };
        let mounts = descriptors.split_off((groups + usize::from(counter)).min(descriptors.len()));
        let counter = if counter { descriptors.pop().map(fs::File::from) } else { None };
        for door in descriptors {
            let joined = fs::File::from(door).write_all(b"0");
            joined.map_err(|error| Refusal::new("join a cgroup", error))?;
        }
        // Only now are we in our cgroup: the namespace shows it as the root.
        nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP)
            .map_err(|error| Refusal::new("unshare the cgroup namespace", error))?;
        if !self.rootless {
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
        let processes = root::processes()?;
        let mounts = self.mounts(&self.plan, mounts)?;
        let root = root::begin(&self.plan, mounts)?;
        nix::unistd::sethostname("hands").map_err(|error| Refusal::new("set the host name", error))?;
        let context = init::Context { counter, processes, rootless: self.rootless };
        Ok(Waiting { root, captured, context })
    }

    /// What is the workspace's own.
    fn become_init(&self, link: &Link, waiting: Waiting) -> Result<Standing, Refusal> {
        let told = link.receive::<Setup>().map_err(|error| Refusal::new("wait for the supervisor", error))?;
        let (Setup::Become { request, filter }, descriptors) = told else {
            return Err(Refusal::new("wait for the supervisor", "unexpected message"));
        };
        let Waiting { root, captured: Captured { listeners, ipv6 }, context } = waiting;
        let plan = Plan::of_workspace(&self.image, &request, &self.places, &self.roots);
        let mounts = self.mounts(&plan, descriptors)?;
        root::finish(&root, &plan, mounts)?;
        drop(root);
        let landlock = lockdown::init(&request.limits, &filter, self.rootless)?;
        Ok(Standing { ready: Setup::Ready { landlock, ipv6 }, listeners, context })
    }

    /// Detached copies of a plan's sources: the supervisor's, or without privileges our own.
    fn mounts(&self, plan: &Plan, given: Vec<OwnedFd>) -> Result<Vec<OwnedFd>, Refusal> {
        if self.rootless {
            plan.sources.iter().map(|source| root::detach(source, None)).collect()
        } else {
            Ok(given)
        }
    }
}

/// Lets go of everything that was inherited but the link: no descriptor of the supervisor or of another workspace
/// stays in this process.
fn alone(link: Link) -> Result<Link, ()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(drop)?;
    let null = fs::File::options().read(true).write(true).open("/dev/null").map_err(drop)?;
    dup2_stdin(&null).map_err(drop)?;
    dup2_stdout(&null).map_err(drop)?;
    dup2_stderr(&null).map_err(drop)?;
    drop(null);
    let socket = link.into_socket();
    close_all_but(&[0, 1, 2, socket.as_raw_fd()]).map_err(drop)?;
    Ok(Link::from_socket(socket))
}
