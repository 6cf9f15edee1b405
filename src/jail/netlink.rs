//! Netlink messages: enough of RFC 3549's format to set up one namespace, without running `ip` or `nft`.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

/// `NLM_F_REQUEST`.
pub(super) const REQUEST: u16 = 1;
/// `NLM_F_ACK`.
pub(super) const ACK: u16 = 4;
/// `NLM_F_CREATE`.
pub(super) const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`.
pub(super) const APPEND: u16 = 0x800;

const NLMSG_ERROR: u16 = 2;
const NESTED: u16 = 0x8000;

/// A netlink socket of one protocol in the current network namespace.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    pub(super) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { socket })
    }

    /// Sends messages at once and waits for `answers` acknowledgements.
    pub(super) fn ask(&self, messages: &[u8], answers: usize) -> io::Result<()> {
        send(self.socket.as_raw_fd(), messages, MsgFlags::empty())?;
        let mut buffer = vec![0_u8; 16 * 1024];
        let mut answered = 0;
        while answered < answers {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((kind, body, after)) = split(rest) {
                rest = after;
                if kind != NLMSG_ERROR {
                    continue;
                }
                match body.get(..4).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]])) {
                    0 => answered += 1,
                    code => return Err(Errno::from_raw(-code).into()),
                }
            }
        }
        Ok(())
    }
}

/// The first message: its type, its body, and what follows.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(16..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or(&[])))
}

/// Appends a message of `kind` with a fixed header and attributes.
pub(super) fn message(out: &mut Vec<u8>, kind: u16, flags: u16, header: &[u8], attributes: &[u8]) {
    let length = 16 + header.len() + attributes.len();
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(header);
    out.extend_from_slice(attributes);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// An attribute with a plain value.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut out = Vec::with_capacity(usize::from(length).next_multiple_of(4));
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// An attribute that holds attributes.
pub(super) fn nested(kind: u16, inside: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &inside.concat())
}
