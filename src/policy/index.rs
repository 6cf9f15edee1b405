//! Which rules name a host: found by its labels, so that a decision costs the same under ten rules and ten thousand.

use std::collections::HashMap;
use std::sync::Arc;

use super::document::Effect;
use super::host::Host;
use super::rule::Rule;

/// A rule, and which of its hosts.
type Place = (usize, usize);

/// Rules sorted by name, and where hosts stand in them.
#[derive(Debug, Default)]
pub(super) struct Index {
    rules: Vec<Arc<Rule>>,
    /// By the name, or the base of the wildcard.
    names: HashMap<String, Vec<Place>>,
    networks: Vec<Place>,
}

/// A rule that names the host in question.
#[derive(Clone, Copy, Debug)]
pub(super) struct Naming<'a> {
    pub(super) rule: &'a Arc<Rule>,
    /// How precisely.
    pub(super) precision: u16,
}

impl Index {
    /// No answer depends on the order of `rules`.
    pub(super) fn new(mut rules: Vec<Arc<Rule>>) -> Self {
        rules.sort_by(|a, b| a.name.cmp(&b.name));
        let mut index = Self { rules, ..Self::default() };
        for (at, rule) in index.rules.iter().enumerate() {
            for (which, pattern) in rule.hosts.iter().enumerate() {
                match pattern.base() {
                    Some(name) => {
                        index.names.entry(name.as_str().to_owned()).or_default().push((at, which));
                    }
                    None => index.networks.push((at, which)),
                }
            }
        }
        index
    }

    /// All rules, by name.
    pub(super) fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// The rules that name `host`, by name, each once.
    pub(super) fn naming(&self, host: &Host) -> Vec<Naming<'_>> {
        let mut places: Vec<Place> = Vec::new();
        match host {
            Host::Address(_) => places.extend(&self.networks),
            Host::Name(name) => {
                let mut rest = Some(name.as_str());
                while let Some(base) = rest {
                    places.extend(self.names.get(base).into_iter().flatten());
                    rest = base.split_once('.').map(|(_, parent)| parent);
                }
            }
        }
        places.sort_unstable();
        let mut found: Vec<(usize, u16)> = Vec::new();
        for (at, which) in places {
            let rule = &self.rules[at];
            let Some(precision) = rule.hosts[which].precision(host, rule.reading()) else { continue };
            match found.last_mut().filter(|(last, _)| *last == at) {
                Some((_, best)) => *best = precision.max(*best),
                None => found.push((at, precision)),
            }
        }
        found.into_iter().map(|(at, precision)| Naming { rule: &self.rules[at], precision }).collect()
    }
}

impl Naming<'_> {
    pub(super) fn allows(&self) -> bool {
        self.rule.effect == Effect::Allow
    }
}
