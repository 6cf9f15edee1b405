//! Hands: the sandbox execution provider for AI agents.
//!
//! ```text
//!  control plane / CLI --gRPC--> daemon --orders--> init --fork--> the agent's commands
//!                                  |  ^              (PID 1 of each workspace)
//!                            asks  |  | descriptors      |
//!                                  v  |                  | every connection, every DNS question
//!                               supervisor               v
//!                          (makes jails, keeps    listeners in the workspace's own network namespace,
//!                           what must survive)    served by the daemon's egress proxy --> upstreams
//! ```
//!
//! Three processes of one program. The *supervisor* has privileges and faces no network; the *daemon* faces the
//! network and has no privileges; *init* runs the commands of one workspace and writes their journals.
//!
//! A module imports only from rows below its own; `tests/integration/layers.rs` holds this.
//!
//! | row | modules |
//! |---|---|
//! | 8 | [`cli`], [`daemon`] (composition root), [`supervisor`] |
//! | 7 | [`config`] |
//! | 6 | [`api`] |
//! | 5 | [`tool`] |
//! | 4 | [`workspace`] (joins jail, storage and egress for one life; one task owns one workspace's state) |
//! | 3 | [`jail`], [`storage`], [`egress`] |
//! | 2 | [`policy`], [`credential`], [`journal`], [`shutdown`], [`id`] |
//! | 1 | [`sys`] |
//!
//! What is absent on purpose: the supervisor knows no tokio and parses nothing that came from a network; the daemon
//! opens no path of a sandbox; nothing but `policy` can make a permit, and without one no upstream is dialled and no
//! credential read; `unsafe` stands in [`sys`] alone; nothing is spawned outside [`shutdown`].

pub mod api;
pub mod cli;
pub mod config;
pub mod credential;
pub mod daemon;
pub mod egress;
pub mod id;
pub mod jail;
pub mod journal;
pub mod policy;
pub mod shutdown;
pub mod storage;
pub mod supervisor;
pub mod sys;
pub mod tool;
pub mod workspace;
