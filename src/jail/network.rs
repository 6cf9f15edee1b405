//! The network of a workspace: loopback, to which every address in the world is routed.
//!
//! There is no other device and no other route. Connections reach listeners that are made here, inside, and held
//! outside; with all listeners closed nothing gets anywhere.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::socket::SockProtocol;

use super::netlink::{ACK, CREATE, Netlink, REQUEST, attribute, message};
use super::redirect::{self, CAPTURE_PORT, DNS_PORT};
use super::wire::Refusal;

const NEW_LINK: u16 = 16;
const NEW_ROUTE: u16 = 24;
/// Loopback is the first device of every namespace.
const LOOPBACK: u32 = 1;
const UP: u32 = 1;
const OUTPUT_INTERFACE: u16 = 4;
const TABLE_LOCAL: u8 = 255;
const PROTOCOL_BOOT: u8 = 3;
const SCOPE_HOST: u8 = 254;
const TYPE_LOCAL: u8 = 2;

/// The listeners of a workspace, in the order of [`super::wire::Channel`], and whether IPv6 is among them.
#[derive(Debug)]
pub struct Captured {
    /// TCP capture, DNS over UDP, DNS over TCP; for IPv4, then for IPv6.
    pub listeners: Vec<OwnedFd>,
    /// Whether IPv6 exists and is captured.
    pub ipv6: bool,
}

/// Sets up the fresh network namespace of this process.
///
/// # Errors
/// The step that failed; without the redirect there would be no way out at all, so it is an error too.
pub fn capture() -> Result<Captured, Refusal> {
    let step = |name: &'static str| move |error: std::io::Error| Refusal::new(name, error);
    let ipv6 = Path::new("/proc/sys/net/ipv6").exists();
    let netlink = Netlink::open(SockProtocol::NetlinkRoute).map_err(step("open a netlink socket"))?;
    netlink.ask(&loopback_up(), 1).map_err(step("bring loopback up"))?;
    netlink.ask(&route_everything(libc::AF_INET), 1).map_err(step("route every address to loopback"))?;
    if ipv6 {
        netlink
            .ask(&route_everything(libc::AF_INET6), 1)
            .map_err(step("route every IPv6 address to loopback"))?;
    }
    redirect::install(ipv6).map_err(step("redirect connections (nf_tables)"))?;
    let mut listeners = listen(Ipv4Addr::LOCALHOST.into()).map_err(step("listen inside"))?;
    if ipv6 {
        listeners.extend(listen(Ipv6Addr::LOCALHOST.into()).map_err(step("listen inside"))?);
    }
    Ok(Captured { listeners, ipv6 })
}

fn listen(address: std::net::IpAddr) -> std::io::Result<Vec<OwnedFd>> {
    let dns = SocketAddr::from((address, DNS_PORT));
    let capture = TcpListener::bind(SocketAddr::from((address, CAPTURE_PORT)))?;
    let udp = UdpSocket::bind(dns)?;
    let tcp = TcpListener::bind(dns)?;
    capture.set_nonblocking(true)?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok(vec![capture.into(), udp.into(), tcp.into()])
}

fn loopback_up() -> Vec<u8> {
    // struct ifinfomsg: family, padding, type, index, flags, mask of flags to change.
    let mut header = vec![0_u8; 4];
    header.extend_from_slice(&LOOPBACK.to_ne_bytes());
    header.extend_from_slice(&UP.to_ne_bytes());
    header.extend_from_slice(&UP.to_ne_bytes());
    let mut out = Vec::new();
    message(&mut out, NEW_LINK, REQUEST | ACK, &header, &[]);
    out
}

/// An any-IP route: every address of the family is one of ours (`ip route add local default dev lo`).
fn route_everything(family: i32) -> Vec<u8> {
    // struct rtmsg: family, prefix lengths, service, table, protocol, scope, type, flags.
    let family = u8::try_from(family).unwrap_or_default();
    let header = [family, 0, 0, 0, TABLE_LOCAL, PROTOCOL_BOOT, SCOPE_HOST, TYPE_LOCAL, 0, 0, 0, 0];
    let mut out = Vec::new();
    let device = attribute(OUTPUT_INTERFACE, &LOOPBACK.to_ne_bytes());
    message(&mut out, NEW_ROUTE, REQUEST | ACK | CREATE, &header, &device);
    out
}
