//! Which addresses nothing may reach, whatever a rule says, and which ones a rule can open.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::denial::Reason;

/// What the address check knows about the host; the operator's, never a workspace's.
#[derive(Clone, Debug, Default)]
pub struct AddressBook {
    /// Every address of the host itself.
    pub own: Vec<IpAddr>,
    /// Addresses and ports that the operator opens although a built-in denial covers them.
    pub host_services: Vec<SocketAddr>,
}

/// An IPv4 or IPv6 network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    prefix: u8,
}

/// Why a text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// The part before the slash is no address.
    #[error("the part before '/' is no IP address")]
    Address,
    /// The part after the slash is no prefix length.
    #[error("the part after '/' is no prefix length: 0 to 32 for IPv4, 0 to 128 for IPv6")]
    Prefix,
    /// Bits are set behind the prefix.
    #[error("bits are set behind the prefix: write '{0}'")]
    HostBits(Network),
    /// An IPv4 network written as IPv6.
    #[error("the network is IPv4 in an IPv6 spelling: write it as IPv4")]
    Mapped,
}

impl Network {
    const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Self {
        Self { first: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
    }

    const fn v6(head: [u16; 3], tail: u16, prefix: u8) -> Self {
        Self { first: IpAddr::V6(Ipv6Addr::new(head[0], head[1], head[2], 0, 0, 0, 0, tail)), prefix }
    }

    /// The network of one address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        let first = address.to_canonical();
        Self { first, prefix: width(first) }
    }

    /// The length of the prefix in bits.
    pub(super) const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether `address` lies in the network; an IPv4-mapped address counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4() && masked(address, self.prefix) == self.first
    }

    /// Whether all of `other` lies in the network.
    fn covers(&self, other: &Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.first)
    }

    /// Whether every address of the network is a private one, so that naming it opens them.
    ///
    /// `0.0.0.0/0` names private addresses only by accident, and opens none.
    pub(super) fn is_private(&self) -> bool {
        BUILT_IN.iter().any(|(range, reason)| opens(*reason) && range.covers(self))
    }

    /// Whether no rule could ever reach the network from a workspace, whose own loopback and multicast it is.
    pub(super) fn is_never_outside(&self) -> bool {
        let never = [Reason::LoopbackAddress, Reason::UnspecifiedAddress, Reason::MulticastAddress];
        BUILT_IN.iter().any(|(range, reason)| never.contains(reason) && range.covers(self))
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(raw: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = raw.split_once('/').ok_or(NetworkError::Prefix)?;
        let address = IpAddr::from_str(address).map_err(|_| NetworkError::Address)?;
        let digits = prefix.len() <= 3 && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix = prefix.parse::<u8>().ok().filter(|&prefix| digits && prefix <= width(address));
        let prefix = prefix.ok_or(NetworkError::Prefix)?;
        if address.to_canonical() != address {
            return Err(NetworkError::Mapped);
        }
        let network = Self { first: masked(address, prefix), prefix };
        if network.first == address { Ok(network) } else { Err(NetworkError::HostBits(network)) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.first, self.prefix)
    }
}

const fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    // A prefix of zero shifts by the whole width, which `checked_shl` answers with `None`.
    let behind = u32::from(width(address) - prefix);
    match address {
        IpAddr::V4(v4) => (v4.to_bits() & u32::MAX.checked_shl(behind).unwrap_or(0)).into_ip(),
        IpAddr::V6(v6) => (v6.to_bits() & u128::MAX.checked_shl(behind).unwrap_or(0)).into_ip(),
    }
}

/// Bits back to an address of the same width.
trait IntoIp {
    fn into_ip(self) -> IpAddr;
}

impl IntoIp for u32 {
    fn into_ip(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(self))
    }
}

impl IntoIp for u128 {
    fn into_ip(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from_bits(self))
    }
}

/// The built-in denials, the first match wins: metadata services stand before the ranges that contain them.
const BUILT_IN: &[(Network, Reason)] = &[
    (Network::v4(169, 254, 169, 254, 32), Reason::MetadataAddress), // EC2, GCE, Azure, OpenStack
    (Network::v4(169, 254, 170, 2, 32), Reason::MetadataAddress),   // ECS task credentials
    (Network::v4(100, 100, 100, 200, 32), Reason::MetadataAddress), // Alibaba Cloud
    (Network::v4(168, 63, 129, 16, 32), Reason::MetadataAddress),   // Azure wire server
    (Network::v4(192, 0, 0, 192, 32), Reason::MetadataAddress),     // Oracle Cloud
    (Network::v6([0xfd00, 0xec2, 0], 0x254, 128), Reason::MetadataAddress), // EC2
    (Network::v6([0xfd20, 0xce, 0], 0x254, 128), Reason::MetadataAddress), // GCE
    (Network::v4(127, 0, 0, 0, 8), Reason::LoopbackAddress),
    (Network::v6([0, 0, 0], 1, 128), Reason::LoopbackAddress),
    (Network::v4(0, 0, 0, 0, 8), Reason::UnspecifiedAddress), // "this network", RFC 791
    (Network::v6([0, 0, 0], 0, 128), Reason::UnspecifiedAddress),
    (Network::v4(169, 254, 0, 0, 16), Reason::LinkLocalAddress), // RFC 3927
    (Network::v6([0xfe80, 0, 0], 0, 10), Reason::LinkLocalAddress), // RFC 4291
    (Network::v4(224, 0, 0, 0, 4), Reason::MulticastAddress),
    (Network::v4(255, 255, 255, 255, 32), Reason::MulticastAddress), // limited broadcast
    (Network::v6([0xff00, 0, 0], 0, 8), Reason::MulticastAddress),
    (Network::v4(198, 18, 0, 0, 15), Reason::SyntheticAddress), // benchmarks, RFC 2544; ours for names
    (Network::v4(100, 64, 0, 0, 10), Reason::SharedAddress),    // carrier-grade NAT, RFC 6598
    (Network::v4(10, 0, 0, 0, 8), Reason::PrivateAddress),      // RFC 1918
    (Network::v4(172, 16, 0, 0, 12), Reason::PrivateAddress),
    (Network::v4(192, 168, 0, 0, 16), Reason::PrivateAddress),
    (Network::v6([0xfc00, 0, 0], 0, 7), Reason::PrivateAddress), // RFC 4193
    (Network::v6([0xfec0, 0, 0], 0, 10), Reason::PrivateAddress), // site-local, RFC 3879
    (Network::v4(192, 0, 0, 0, 24), Reason::ReservedAddress),    // protocol assignments, RFC 6890
    (Network::v4(240, 0, 0, 0, 4), Reason::ReservedAddress),
    (Network::v6([0x100, 0, 0], 0, 64), Reason::ReservedAddress), // discard, RFC 6666
];

/// Whether a rule can open addresses that are denied for `reason`.
pub(super) const fn opens(reason: Reason) -> bool {
    matches!(reason, Reason::PrivateAddress | Reason::SharedAddress)
}

/// The built-in denial of exactly this address, without those that it embeds.
pub(super) fn built_in(address: IpAddr) -> Option<Reason> {
    BUILT_IN.iter().find(|(range, _)| range.contains(address)).map(|(_, reason)| *reason)
}

/// The address in canonical form, and every IPv4 address that a gateway or stack could take it for.
pub(super) fn spellings(address: IpAddr) -> impl Iterator<Item = IpAddr> + Clone {
    let canonical = address.to_canonical();
    let inner = match canonical {
        IpAddr::V4(_) => [None; 4],
        IpAddr::V6(v6) => embedded(v6),
    };
    std::iter::once(canonical).chain(inner.into_iter().flatten().map(IpAddr::V4))
}

fn embedded(address: Ipv6Addr) -> [Option<Ipv4Addr>; 4] {
    let words = address.segments();
    let pair = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    let last = pair(words[6], words[7]);
    // IPv4-compatible (::/96, but for `::` and `::1`), translated (::ffff:0:0:0/96), NAT64 (RFC 6052, RFC 8215).
    let tail = match words {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(last),
        [0x64, 0xff9b, 1, ..] => Some(last),
        // ISATAP, RFC 5214
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => Some(last),
        _ => None,
    };
    // 6to4, RFC 3056
    let six_to_four = (words[0] == 0x2002).then(|| pair(words[1], words[2]));
    // Teredo, RFC 4380: the server in clear, the client inverted.
    let teredo = words[0] == 0x2001 && words[1] == 0;
    let server = teredo.then(|| pair(words[2], words[3]));
    let client = teredo.then(|| pair(!words[6], !words[7]));
    [tail, six_to_four, server, client]
}
