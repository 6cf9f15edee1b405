//! One workspace's way out: everything that its connections share, and nothing that belongs to another workspace.

use std::fmt;
use std::sync::Arc;

use http::StatusCode;

use super::audit::{Facts, Kind, Outcome, Trail};
use super::authority::Leaves;
use super::denial::Denials;
use super::inject::Vault;
use super::names::Names;
use super::rates::Rates;
use super::upstream::Upstream;
use crate::policy::Policy;

/// The shared part of a workspace's connections.
pub(super) struct Outlet {
    pub(super) policy: Arc<Policy>,
    pub(super) names: Arc<Names>,
    pub(super) leaves: Leaves,
    pub(super) trail: Trail,
    pub(super) denials: Arc<Denials>,
    pub(super) upstream: Upstream,
    pub(super) vault: Vault,
    pub(super) rates: Rates,
}

impl fmt::Debug for Outlet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Outlet").finish_non_exhaustive()
    }
}

impl Outlet {
    /// Records a refusal and keeps its text for the command's result.
    pub(super) fn deny(&self, kind: Kind, facts: &Facts, text: String) {
        self.trail.deny(kind, facts);
        self.denials.add(text);
    }

    /// Records something that was allowed and failed before anything was sent.
    pub(super) fn fail(&self, kind: Kind, facts: &Facts, status: StatusCode) {
        match self.trail.allow(kind, facts) {
            Ok(open) => open.end(&Outcome {
                status: Some(status.as_u16()),
                reason: facts.reason.clone(),
                ..Outcome::default()
            }),
            Err(error) => tracing::error!(%error, "a failure was not recorded"),
        }
    }
}
