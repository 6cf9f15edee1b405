//! A refusal: what was asked for, why it is refused, and what would have to be allowed.

use std::fmt;

use serde::{Serialize, Serializer};

/// Why something is denied, as a stable code for answers, audit and programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No allow rule names the host.
    NoRuleForHost,
    /// Allow rules name the host, but not with this port.
    NoRuleForPort,
    /// Allow rules name host and port, but only for TLS.
    NoRuleForCleartext,
    /// Allow rules name host and port, but not this method.
    NoRuleForMethod,
    /// Allow rules name host, port and method, but not this path.
    NoRuleForPath,
    /// Allow rules name the request, but with `websocket: deny`.
    NoRuleForWebSocket,
    /// A rule with `effect: deny` matches.
    DeniedByRule,
    /// The address is a loopback address.
    LoopbackAddress,
    /// The address is unspecified, such as `0.0.0.0`.
    UnspecifiedAddress,
    /// The address is link-local.
    LinkLocalAddress,
    /// The address belongs to a cloud's metadata service.
    MetadataAddress,
    /// The address is multicast or broadcast.
    MulticastAddress,
    /// The address is private (RFC 1918, RFC 4193).
    PrivateAddress,
    /// The address belongs to carrier-grade NAT (RFC 6598).
    SharedAddress,
    /// The address lies in the range that stands for names within a workspace.
    SyntheticAddress,
    /// The address is reserved for other uses.
    ReservedAddress,
    /// The address is one of the host's own.
    HostAddress,
    /// The permit is for another address literal.
    OtherAddress,
}

impl Reason {
    /// The stable code.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoRuleForHost => "no_rule_for_host",
            Self::NoRuleForPort => "no_rule_for_port",
            Self::NoRuleForCleartext => "no_rule_for_cleartext",
            Self::NoRuleForMethod => "no_rule_for_method",
            Self::NoRuleForPath => "no_rule_for_path",
            Self::NoRuleForWebSocket => "no_rule_for_websocket",
            Self::DeniedByRule => "denied_by_rule",
            Self::LoopbackAddress => "loopback_address",
            Self::UnspecifiedAddress => "unspecified_address",
            Self::LinkLocalAddress => "link_local_address",
            Self::MetadataAddress => "metadata_address",
            Self::MulticastAddress => "multicast_address",
            Self::PrivateAddress => "private_address",
            Self::SharedAddress => "shared_address",
            Self::SyntheticAddress => "synthetic_address",
            Self::ReservedAddress => "reserved_address",
            Self::HostAddress => "host_address",
            Self::OtherAddress => "other_address",
        }
    }

    /// The reason in words.
    const fn sentence(self) -> &'static str {
        match self {
            Self::NoRuleForHost => "no rule names this host",
            Self::NoRuleForPort => "no rule names this port of the host",
            Self::NoRuleForCleartext => "no rule allows cleartext to this host and port",
            Self::NoRuleForMethod => "no rule allows this method",
            Self::NoRuleForPath => "no rule allows this path",
            Self::NoRuleForWebSocket => "no rule allows WebSocket here",
            Self::DeniedByRule => "a rule denies it",
            Self::LoopbackAddress => "it leads to a loopback address",
            Self::UnspecifiedAddress => "it leads to an unspecified address",
            Self::LinkLocalAddress => "it leads to a link-local address",
            Self::MetadataAddress => "it leads to a cloud metadata service",
            Self::MulticastAddress => "it leads to a multicast or broadcast address",
            Self::PrivateAddress => "it leads to a private address",
            Self::SharedAddress => "it leads to an address of carrier-grade NAT",
            Self::SyntheticAddress => "it leads to an address that stands for names",
            Self::ReservedAddress => "it leads to a reserved address",
            Self::HostAddress => "it leads to an address of the host itself",
            Self::OtherAddress => "the permit is for another address",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A refusal. Prints as `evil.example:443: no rule names this host`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct Denial {
    /// The rule that denied; where no rule allowed, the allow rule that came nearest, if any.
    pub rule: Option<String>,
    /// Why.
    pub reason: Reason,
    /// The canonical host.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The method, if a request was judged.
    pub method: Option<String>,
    /// The normalised path, if a request was judged.
    pub path: Option<String>,
}

impl fmt::Display for Denial {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: ", self.host, self.port)?;
        if let (Some(method), Some(path)) = (&self.method, &self.path) {
            write!(out, "{method} {path}: ")?;
        }
        out.write_str(self.reason.sentence())?;
        match &self.rule {
            Some(rule) if self.reason == Reason::DeniedByRule => write!(out, " ({rule})"),
            Some(rule) => write!(out, " (nearest: {rule})"),
            None => Ok(()),
        }
    }
}

impl Denial {
    /// What would have to be allowed, and by whom, in one line.
    #[must_use]
    pub fn remedy(&self) -> String {
        let Self { host, port, .. } = self;
        let rule = self.rule.as_deref().unwrap_or("a rule");
        let method = self.method.as_deref().unwrap_or("GET");
        let path = self.path.as_deref().unwrap_or("/");
        match self.reason {
            Reason::NoRuleForHost => {
                format!("ask for an allow rule with hosts: [\"{host}\"], ports: [{port}]")
            }
            Reason::NoRuleForPort => format!("ask to add {port} to the ports of {rule}"),
            Reason::NoRuleForCleartext => {
                format!("use https, or ask for a rule for {host}:{port} with cleartext: true")
            }
            Reason::NoRuleForMethod => format!("ask to add {method} to the methods of {rule}"),
            Reason::NoRuleForPath => format!("ask to add {path} to the paths of {rule}"),
            Reason::NoRuleForWebSocket => {
                format!("use plain requests, or ask for websocket: allow on {rule}")
            }
            Reason::DeniedByRule => {
                format!("only taking out or narrowing {rule} would allow it: a deny wins")
            }
            Reason::PrivateAddress | Reason::SharedAddress => {
                format!("ask for private: true, or the CIDR of the address in hosts, on {rule}")
            }
            Reason::HostAddress | Reason::LoopbackAddress | Reason::LinkLocalAddress => {
                format!(
                    "no rule opens it; the operator can list the address with port {port} in host_services"
                )
            }
            Reason::OtherAddress => "dial the address that was judged".to_owned(),
            Reason::UnspecifiedAddress
            | Reason::MetadataAddress
            | Reason::MulticastAddress
            | Reason::SyntheticAddress
            | Reason::ReservedAddress => "no rule opens it".to_owned(),
        }
    }
}
