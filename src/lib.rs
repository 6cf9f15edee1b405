//! Hands: the sandbox execution provider for AI agents.

pub mod id;
pub mod jail;
pub mod journal;
pub mod shutdown;
pub mod sys;
pub mod workspace;
