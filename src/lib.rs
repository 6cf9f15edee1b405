//! Hands: the sandbox execution provider for AI agents.

pub mod credential;
pub mod egress;
pub mod id;
pub mod jail;
pub mod journal;
pub mod policy;
pub mod shutdown;
pub mod sys;
pub mod workspace;
