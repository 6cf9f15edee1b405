//! How often the rules of one workspace were used: exact in every span of time, and the same on any connection.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::policy::{Permit, Rate};

/// A rule was used as often as it may be.
#[derive(Debug, thiserror::Error)]
#[error("{host}:{port}: the rule {rule} lets {rate} through")]
pub(super) struct TooOften {
    host: String,
    port: u16,
    rule: String,
    rate: Rate,
    wait: Duration,
}

impl TooOften {
    /// How long it takes until the next use, rounded up.
    pub(super) fn seconds(&self) -> u64 {
        self.wait.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
    }
}

/// The latest uses of each rule that has a rate; the policy bounds how many there are.
#[derive(Debug, Default)]
pub(super) struct Rates {
    uses: Mutex<HashMap<String, VecDeque<Instant>>>,
}

impl Rates {
    /// Counts one use of the permit's rule at `now`.
    pub(super) fn take(&self, permit: &Permit, now: Instant) -> Result<(), TooOften> {
        let Some(rate) = permit.rate() else { return Ok(()) };
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = uses.entry(permit.rule().to_owned()).or_default();
        while latest.front().is_some_and(|then| now.saturating_duration_since(*then) >= rate.span) {
            latest.pop_front();
        }
        match latest.front() {
            Some(oldest) if latest.len() >= rate.count as usize => Err(TooOften {
                host: permit.host().to_string(),
                port: permit.port(),
                rule: permit.rule().to_owned(),
                rate,
                wait: rate.span.saturating_sub(now.saturating_duration_since(*oldest)),
            }),
            _ => {
                latest.push_back(now);
                Ok(())
            }
        }
    }
}
