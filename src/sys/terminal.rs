//! Terminals: size and control.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::checked;

/// Rows and columns of the terminal behind a descriptor.
///
/// # Errors
/// `ENOTTY` if it is none.
pub fn size(terminal: impl AsFd) -> io::Result<(u16, u16)> {
    // SAFETY: plain integers.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills the structure, which outlives the call.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    checked(result.into())?;
    Ok((size.ws_row, size.ws_col))
}

/// Sets rows and columns; the foreground group behind it gets `SIGWINCH`.
///
/// # Errors
/// `ENOTTY` if it is no terminal.
pub fn set_size(terminal: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel only reads the structure, which outlives the call.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    checked(result.into()).map(drop)
}

/// Makes the terminal the controlling one of the session that the caller leads.
///
/// # Errors
/// `EPERM` if the caller leads no session or has a terminal already.
pub fn make_controlling(terminal: impl AsFd) -> io::Result<()> {
    // SAFETY: the argument is an integer: 0, do not steal it from another session.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) };
    checked(result.into()).map(drop)
}

/// Unlocks the other side of a fresh pseudo-terminal and opens it, without a path that could mean something else
/// (`TIOCGPTPEER`, Linux 4.13).
///
/// # Errors
/// What the kernel says.
pub fn open_peer(master: impl AsFd) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    let master = master.as_fd().as_raw_fd();
    let unlocked: libc::c_int = 0;
    // SAFETY: the kernel reads one integer.
    checked(unsafe { libc::ioctl(master, libc::TIOCSPTLCK, &raw const unlocked) }.into())?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the argument is an integer of open flags.
    let peer = checked(unsafe { libc::ioctl(master, libc::TIOCGPTPEER, flags) }.into())?;
    // SAFETY: on success the result is a fresh descriptor.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(peer as i32) })
}
