//! The one canonical form of a host: a name in lower-case A-labels, or an address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};
use serde::{Serialize, Serializer};

/// Longest name in bytes without the final dot (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;
/// Longest label in bytes (RFC 1035, section 2.3.4).
const MAX_LABEL: usize = 63;
/// What a mapped label must not contain: all of printable ASCII but letters, digits, hyphen, dot and underscore.
const DENIED: AsciiDenyList = AsciiDenyList::new(true, "!\"#$%&'()*+,/:;<=>?@[\\]^`{|}~");

/// Where a request or connection goes, in the only form that rules, DNS, TLS and the audit log compare.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A DNS name.
    Name(Name),
    /// An address literal; an IPv4 address in its IPv6-mapped spelling is held as IPv4.
    Address(IpAddr),
}

/// A DNS name: lower-case A-labels, no final dot, never a spelling of an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// Why a text is no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing, or only a dot.
    #[error("the host is empty")]
    Empty,
    /// Two dots in a row, a dot in front, or more than one at the end.
    #[error("the host has an empty label")]
    EmptyLabel,
    /// A byte or character that no host name contains.
    #[error("the host contains {0:?}, which no host name may contain")]
    Character(char),
    /// More than 253 bytes, or a label of more than 63.
    #[error("the host is too long: a name has at most 253 bytes, a label at most 63")]
    TooLong,
    /// A label begins or ends with a hyphen.
    #[error("a label of the host begins or ends with '-'")]
    Hyphen,
    /// Not valid under UTS 46 with strict rules.
    #[error("the host is no valid internationalised name")]
    Idna,
    /// Some resolvers read it as an address: `2130706433`, `0x7f.1`, `127.1`.
    #[error(
        "the host is a numeric spelling: write an IPv4 address as four decimal numbers without leading zeros"
    )]
    Numeric,
    /// Brackets or colons around something that is no IPv6 address, or a zone.
    #[error("the host is no valid IPv6 address; a zone is not allowed")]
    Address,
}

impl Host {
    /// Brings `raw` into canonical form: one final dot is dropped, case is folded, international names are mapped
    /// by UTS 46, brackets of an IPv6 literal are dropped.
    ///
    /// Underscores are admitted anywhere in a label, since real names use them and no two parsers differ on them.
    ///
    /// # Errors
    /// Whatever two parsers could read differently: control bytes, NUL, `%`, space, `@`, stray brackets or colons,
    /// empty labels, and every numeric spelling of an address but the dotted decimal one.
    pub fn parse(raw: &str) -> Result<Self, HostError> {
        if raw.starts_with('[') || raw.contains(':') {
            return bracketed(raw).map(Self::Address);
        }
        if let Ok(address) = Ipv4Addr::from_str(raw) {
            return Ok(Self::Address(IpAddr::V4(address)));
        }
        Name::parse(raw).map(Self::Name)
    }

    /// The name, if it is one.
    #[must_use]
    pub const fn name(&self) -> Option<&Name> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }
}

impl Name {
    /// Brings `raw` into canonical form, as [`Host::parse`] does, and refuses addresses.
    ///
    /// # Errors
    /// As [`Host::parse`]; an address in any spelling is [`HostError::Numeric`] or [`HostError::Character`].
    pub fn parse(raw: &str) -> Result<Self, HostError> {
        let bare = raw.strip_suffix('.').unwrap_or(raw);
        if bare.is_empty() {
            return Err(HostError::Empty);
        }
        if let Some(bad) = bare.chars().find(|&c| c.is_ascii() && !is_name_byte(c)) {
            return Err(HostError::Character(bad));
        }
        // Plain ASCII skips UTS 46: its hyphen rule refuses names in use, such as `r3---sn-x.example`.
        let canonical = if bare.is_ascii() && !has_a_label(bare) {
            bare.to_ascii_lowercase()
        } else {
            Uts46::new()
                .to_ascii(bare.as_bytes(), DENIED, Hyphens::CheckFirstLast, DnsLength::Verify)
                .map_err(|_| HostError::Idna)?
                .into_owned()
        };
        check_labels(&canonical)?;
        Ok(Self(canonical.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

const fn is_name_byte(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

fn has_a_label(name: &str) -> bool {
    name.split('.').any(|label| label.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("xn--")))
}

fn check_labels(name: &str) -> Result<(), HostError> {
    if name.len() > MAX_NAME {
        return Err(HostError::TooLong);
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err(HostError::EmptyLabel);
        }
        if label.len() > MAX_LABEL {
            return Err(HostError::TooLong);
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(HostError::Hyphen);
        }
        // UTS 46 could map to anything: the result is judged like plain ASCII.
        if let Some(bad) = label.chars().find(|&c| !is_name_byte(c)) {
            return Err(HostError::Character(bad));
        }
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    if is_number(last) { Err(HostError::Numeric) } else { Ok(()) }
}

/// Whether some `inet_aton` reads the label as a number (WHATWG URL, "ends in a number checker").
fn is_number(label: &str) -> bool {
    match label.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => label.bytes().all(|b| b.is_ascii_digit()),
    }
}

fn bracketed(raw: &str) -> Result<IpAddr, HostError> {
    if let Some(bad) = raw.chars().find(|&c| c.is_control() || c == ' ' || c == '@' || c == '/') {
        return Err(HostError::Character(bad));
    }
    let inner = match raw.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or(HostError::Address)?,
        None => raw,
    };
    let address = Ipv6Addr::from_str(inner).map_err(|_| HostError::Address)?;
    Ok(address.to_canonical())
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(raw: &str) -> Result<Self, HostError> {
        Self::parse(raw)
    }
}

impl fmt::Display for Host {
    /// As in a URL: an IPv6 address has brackets, so that a port can follow.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(out),
            Self::Address(IpAddr::V4(address)) => address.fmt(out),
            Self::Address(IpAddr::V6(address)) => write!(out, "[{address}]"),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}
