//! Hands: the sandbox execution provider for AI agents.

pub mod id;
pub mod shutdown;
pub mod sys;
