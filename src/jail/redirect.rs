//! The redirect of all outgoing connections to our listeners, as nftables expressions (`linux/netfilter/nf_tables.h`).
//!
//! Per address family, on the output hook of a nat chain:
//!
//! ```text
//! udp or tcp, port 53                     -> our DNS listener, whatever server was asked
//! tcp, destination not loopback           -> our capture listener
//! ```

use std::io;

use nix::sys::socket::SockProtocol;

use super::netlink::{ACK, APPEND, CREATE, Netlink, REQUEST, attribute, message, nested};

/// Port of the capture listeners. Below 1024, so that it is never in the way of a server in the workspace.
pub(super) const CAPTURE_PORT: u16 = 1;
/// Port of the DNS listeners.
pub(super) const DNS_PORT: u16 = 53;

const TABLE: &[u8] = b"hands\0";
const CHAIN: &[u8] = b"out\0";

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_RULE: u16 = SUBSYSTEM | 6;

const REGISTER: u32 = 1;
const META_L4PROTO: u32 = 16;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const HOOK_OUTPUT: u32 = 3;
/// Priority of destination nat (`NF_IP_PRI_NAT_DST`).
const PRIORITY: i32 = -100;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// An address family with where its destination stands in the header and what loopback looks like there.
struct Family {
    number: u8,
    destination: u32,
    loopback: &'static [u8],
}

/// 127.0.0.0/8: one byte decides.
const IPV4: Family = Family { number: 2, destination: 16, loopback: &[127] };
/// `::1`.
const IPV6: Family =
    Family { number: 10, destination: 24, loopback: &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] };

/// Sets the redirect up in the current network namespace, for IPv6 too if asked.
pub(super) fn install(ipv6: bool) -> io::Result<()> {
    let netlink = Netlink::open(SockProtocol::NetlinkNetFilter)?;
    for family in if ipv6 { &[IPV4, IPV6][..] } else { &[IPV4] } {
        let (batch, answers) = family.batch();
        netlink.ask(&batch, answers)?;
    }
    Ok(())
}

impl Family {
    fn batch(&self) -> (Vec<u8>, usize) {
        let rules = [self.to_port(UDP, DNS_PORT), self.to_port(TCP, DNS_PORT), self.away()];
        let mut out = Vec::new();
        message(&mut out, BATCH_BEGIN, REQUEST, &[0, 0, 0, 10], &[]);
        let header = [self.number, 0, 0, 0];
        let flags = REQUEST | ACK | CREATE;
        message(&mut out, NEW_TABLE, flags, &header, &attribute(1, TABLE));
        message(&mut out, NEW_CHAIN, flags, &header, &chain());
        for expressions in &rules {
            let rule = [attribute(1, TABLE), attribute(2, CHAIN), nested(4, expressions)].concat();
            message(&mut out, NEW_RULE, flags | APPEND, &header, &rule);
        }
        message(&mut out, BATCH_END, REQUEST, &[0, 0, 0, 10], &[]);
        (out, 2 + rules.len())
    }

    /// Traffic of one protocol to one port, whatever the address, goes to that port of ours.
    fn to_port(&self, protocol: u8, port: u16) -> Vec<Vec<u8>> {
        let destination = load_payload(TRANSPORT_HEADER, 2, 2);
        let mut rule = vec![load_protocol(), compare(EQUAL, &[protocol])];
        rule.extend([destination, compare(EQUAL, &port.to_be_bytes())]);
        rule.extend(redirect(port));
        rule
    }

    /// Every TCP connection that does not stay on loopback goes to the capture listener.
    fn away(&self) -> Vec<Vec<u8>> {
        let length = u32::try_from(self.loopback.len()).unwrap_or(u32::MAX);
        let mut rule = vec![load_protocol(), compare(EQUAL, &[TCP])];
        let destination = load_payload(NETWORK_HEADER, self.destination, length);
        rule.extend([destination, compare(NOT_EQUAL, self.loopback)]);
        rule.extend(redirect(CAPTURE_PORT));
        rule
    }
}

fn chain() -> Vec<u8> {
    let hook = nested(4, &[number(1, HOOK_OUTPUT), attribute(2, &PRIORITY.to_be_bytes())]);
    [attribute(1, TABLE), attribute(3, CHAIN), hook, attribute(7, b"nat\0")].concat()
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn expression(name: &[u8], data: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[attribute(1, name), nested(2, data)])
}

fn load_protocol() -> Vec<u8> {
    expression(b"meta\0", &[number(1, REGISTER), number(2, META_L4PROTO)])
}

fn load_payload(header: u32, offset: u32, length: u32) -> Vec<u8> {
    expression(b"payload\0", &[number(1, REGISTER), number(2, header), number(3, offset), number(4, length)])
}

fn compare(operation: u32, value: &[u8]) -> Vec<u8> {
    expression(b"cmp\0", &[number(1, REGISTER), number(2, operation), nested(3, &[attribute(1, value)])])
}

fn redirect(port: u16) -> [Vec<u8>; 2] {
    let value = nested(2, &[attribute(1, &port.to_be_bytes())]);
    [
        expression(b"immediate\0", &[number(1, REGISTER), value]),
        expression(b"redir\0", &[number(1, REGISTER)]),
    ]
}
