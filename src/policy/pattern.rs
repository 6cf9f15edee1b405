//! Patterns over hosts: a name, one label below it, any depth below it, or a network.

use std::fmt;
use std::net::IpAddr;

use super::address::{Network, spellings};
use super::error::Fault;
use super::host::{Host, HostError, Name};
use super::path::Reading;

/// What stands in `hosts` of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Network(Network),
    AnyDepth(Name),
    OneLabel(Name),
    Exact(Name),
}

impl HostPattern {
    /// Reads `x`, `*.x`, `**.x`, an address or a CIDR.
    pub(super) fn parse(raw: &str) -> Result<Self, Fault> {
        let kind = if let Some(base) = raw.strip_prefix("**.") {
            Kind::AnyDepth(wildcard_base(raw, base)?)
        } else if let Some(base) = raw.strip_prefix("*.") {
            Kind::OneLabel(wildcard_base(raw, base)?)
        } else if raw.contains('*') {
            return Err(Fault::StarPosition(raw.to_owned()));
        } else if raw.contains('/') {
            let network = raw.parse().map_err(|source| Fault::Network { host: raw.to_owned(), source })?;
            Kind::Network(network)
        } else {
            match Host::parse(raw).map_err(|source| Fault::Host { host: raw.to_owned(), source })? {
                Host::Name(name) => Kind::Exact(name),
                Host::Address(address) => Kind::Network(Network::host(address)),
            }
        };
        match &kind {
            Kind::Network(network) if network.is_never_outside() => Err(Fault::NeverOutside(raw.to_owned())),
            _ => Ok(Self(kind)),
        }
    }

    /// How precisely the pattern names `host`; `None` if it does not match.
    pub(super) fn precision(&self, host: &Host, reading: Reading) -> Option<u16> {
        match (&self.0, host) {
            (Kind::Exact(wanted), Host::Name(name)) => (wanted == name).then_some(u16::MAX),
            (Kind::OneLabel(base), Host::Name(name)) => {
                below(name, base).filter(|labels| !labels.contains('.')).map(|_| ranked(base, 1))
            }
            (Kind::AnyDepth(base), Host::Name(name)) => below(name, base).map(|_| ranked(base, 0)),
            (Kind::Network(network), Host::Address(address)) => {
                covers(network, *address, reading).then(|| u16::from(network.prefix()))
            }
            _ => None,
        }
    }

    /// The name, or what a wildcard stands in front of.
    pub(super) const fn base(&self) -> Option<&Name> {
        match &self.0 {
            Kind::Exact(name) | Kind::OneLabel(name) | Kind::AnyDepth(name) => Some(name),
            Kind::Network(_) => None,
        }
    }

    /// The network, if the pattern is an address or a CIDR.
    #[must_use]
    pub const fn network(&self) -> Option<&Network> {
        match &self.0 {
            Kind::Network(network) => Some(network),
            _ => None,
        }
    }

    /// Whether the pattern matches the canonical `host`.
    #[must_use]
    pub fn matches(&self, host: &Host) -> bool {
        self.precision(host, Reading::Exact).is_some()
    }
}

/// A longer base is more precise; at the same base, one label is more precise than any depth.
fn ranked(base: &Name, bonus: u16) -> u16 {
    u16::try_from(base.as_str().len()).map_or(u16::MAX - 2, |length| length * 2 + bonus)
}

/// A denied network also covers the spellings that lead into it.
fn covers(network: &Network, address: IpAddr, reading: Reading) -> bool {
    match reading {
        Reading::Exact => network.contains(address),
        Reading::Lenient => spellings(address).any(|spelling| network.contains(spelling)),
    }
}

/// The labels of `name` in front of `.base`.
fn below<'a>(name: &'a Name, base: &Name) -> Option<&'a str> {
    name.as_str().strip_suffix(base.as_str())?.strip_suffix('.')
}

fn wildcard_base(raw: &str, base: &str) -> Result<Name, Fault> {
    if base.contains('*') {
        return Err(Fault::StarPosition(raw.to_owned()));
    }
    if base.contains('/') {
        return Err(Fault::StarAddress(raw.to_owned()));
    }
    let name = match Host::parse(base) {
        Ok(Host::Name(name)) => name,
        Ok(Host::Address(_)) | Err(HostError::Numeric | HostError::Address) => {
            return Err(Fault::StarAddress(raw.to_owned()));
        }
        Err(source) => return Err(Fault::Host { host: raw.to_owned(), source }),
    };
    // The list also has rules such as `*.ck`, whose suffixes lie one label below.
    let probe = format!("any.{name}");
    if is_public_suffix(name.as_str()) || is_public_suffix(&probe) {
        return Err(Fault::PublicSuffix(raw.to_owned()));
    }
    Ok(name)
}

fn is_public_suffix(name: &str) -> bool {
    psl::suffix_str(name) == Some(name)
}

impl fmt::Display for HostPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Exact(name) => name.fmt(out),
            Kind::OneLabel(base) => write!(out, "*.{base}"),
            Kind::AnyDepth(base) => write!(out, "**.{base}"),
            Kind::Network(network) => network.fmt(out),
        }
    }
}
