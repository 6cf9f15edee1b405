//! What is kept of a workspace on the disk.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::types::Spec;
use crate::id::Id;
use crate::storage::state::Durability;

/// One row of `state.db`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: Id,
    pub(super) spec: Spec,
    /// Number of starts so far.
    pub(super) generation: u64,
    pub(super) created: SystemTime,
}

impl Record {
    pub(super) fn new(spec: Spec) -> Self {
        Self { id: Id::fresh("ws"), spec, generation: 0, created: SystemTime::now() }
    }

    /// What does not outlive the daemon need not outlive the loss of power.
    pub(super) fn durability(&self) -> Durability {
        if self.spec.ephemeral { Durability::Relaxed } else { Durability::Synced }
    }
}
