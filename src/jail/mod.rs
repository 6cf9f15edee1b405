//! The jail: everything between a command and the machine.
//!
//! The *plan* of a jail is pure data. The supervisor clones a process into new namespaces, gives it identity maps and
//! a cgroup ([`setup`]), and that process turns itself, step by step (`child`), into `init`, PID 1 of the workspace. From
//! then on the daemon talks to init over a socket pair; the supervisor only waits for its end.

pub mod archive;
pub mod cgroup;
mod child;
pub mod client;
pub mod finding;
pub mod freezer;
pub mod image;
pub mod init;
pub mod link;
pub mod lockdown;
mod netlink;
pub mod network;
pub mod pattern;
pub mod plan;
mod redirect;
pub mod root;
pub mod seccomp;
pub mod setup;
pub mod usage;
pub mod wire;
