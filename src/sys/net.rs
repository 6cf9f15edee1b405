//! Socket options and addresses that the standard library does not know.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use tokio::io::unix::AsyncFd;

/// `IP6T_SO_ORIGINAL_DST` of `linux/netfilter_ipv6/ip6_tables.h`; the same number as its IPv4 sibling.
const IP6T_SO_ORIGINAL_DST: libc::c_int = 80;

fn socket_option<T>(socket: impl AsFd, level: libc::c_int, name: libc::c_int) -> io::Result<T> {
    // SAFETY: T is one of the plain C address structures below, for which all zeroes is a valid value.
    let mut value: T = unsafe { zeroed() };
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is writable for `length` bytes and both outlive the call; the kernel writes at most that much.
    let result = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length)
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// The destination that a connection had before netfilter redirected it to us (`SO_ORIGINAL_DST`).
///
/// # Errors
/// `ENOENT` if the connection was not redirected, that is, the peer dialled the listener itself.
pub fn original_destination(socket: impl AsFd) -> io::Result<SocketAddr> {
    let socket = socket.as_fd();
    let local = nix::sys::socket::getsockname::<nix::sys::socket::SockaddrStorage>(socket.as_raw_fd())?;
    if local.as_sockaddr_in().is_some() {
        let found: libc::sockaddr_in = socket_option(socket, libc::SOL_IP, libc::SO_ORIGINAL_DST)?;
        let address = Ipv4Addr::from(u32::from_be(found.sin_addr.s_addr));
        return Ok(SocketAddr::from((address, u16::from_be(found.sin_port))));
    }
    let found: libc::sockaddr_in6 = socket_option(socket, libc::SOL_IPV6, IP6T_SO_ORIGINAL_DST)?;
    let address = Ipv6Addr::from(found.sin6_addr.s6_addr);
    Ok(SocketAddr::from((address, u16::from_be(found.sin6_port))))
}

/// Watches a descriptor in the running event loop.
///
/// # Errors
/// What `epoll_ctl` says, for example `EPERM` for a regular file.
pub fn readiness(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` that is moved in stays open, and the same descriptor, until the `AsyncFd` gives it back.
    let registered = unsafe { AsyncFd::register(descriptor) };
    registered.map_err(Into::into)
}
