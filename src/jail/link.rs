//! One message with its descriptors over a local `SOCK_SEQPACKET` pair: how the three processes talk.
//!
//! A message is a postcard encoding of at most [`INLINE`] bytes; a larger one (a long command line) travels in a memory
//! file whose descriptor comes first. Messages are whole or absent, so neither side ever parses half of one.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::sys::process::adopt_descriptor;

/// Largest message sent in the datagram itself, in bytes.
const INLINE: usize = 32 * 1024;
/// Largest message at all, in bytes: the kernel's own limit for a command line and its environment is 2 MiB.
const LARGEST: usize = 4 * 1024 * 1024;
/// Most descriptors with one message.
const DESCRIPTORS: usize = 64;

/// Why a message did not get through.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The other side is gone.
    #[error("the other process is gone")]
    Closed,
    /// The socket is full; try again when it can be written.
    #[error("the other process does not read")]
    Full,
    /// Not what our own processes send.
    #[error("malformed message")]
    Malformed,
    /// Over the size limit.
    #[error("message of {0} bytes, the limit is {LARGEST}")]
    TooLarge(usize),
    /// The kernel refused.
    #[error("local socket: {0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for LinkError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN => Self::Closed,
            Errno::EAGAIN | Errno::ENOBUFS => Self::Full,
            other => Self::Io(other.into()),
        }
    }
}

/// One end of the pair.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
}

impl Link {
    /// Two connected ends, closed on exec.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Self { socket: one }, Self { socket: other }))
    }

    /// Wraps an inherited end.
    #[must_use]
    pub fn from_socket(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// The socket itself, for polling or passing on.
    #[must_use]
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Gives the socket up.
    #[must_use]
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Sends one message with its descriptors.
    ///
    /// # Errors
    /// [`LinkError::Full`] on a non-blocking socket, [`LinkError::Closed`], [`LinkError::TooLarge`].
    pub fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        self.send_with(message, descriptors, MsgFlags::MSG_NOSIGNAL)
    }

    /// The same without ever waiting.
    ///
    /// # Errors
    /// [`LinkError::Full`] if the other side does not read.
    pub fn try_send(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), LinkError> {
        self.send_with(message, descriptors, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)
    }

    fn send_with(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
        flags: MsgFlags,
    ) -> Result<(), LinkError> {
        let body = postcard::to_stdvec(message).map_err(|_refused| LinkError::Malformed)?;
        if body.len() > LARGEST {
            return Err(LinkError::TooLarge(body.len()));
        }
        let mut numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let spilled = if body.len() > INLINE { Some(spill(&body)?) } else { None };
        if let Some(file) = &spilled {
            numbers.insert(0, file.as_raw_fd());
        }
        let (mark, inline): ([u8; 1], &[u8]) = if spilled.is_some() { ([1], &[]) } else { ([0], &body) };
        let rights = [ControlMessage::ScmRights(&numbers)];
        let control: &[ControlMessage<'_>] = if numbers.is_empty() { &[] } else { &rights };
        let parts = [IoSlice::new(&mark), IoSlice::new(inline)];
        loop {
            match sendmsg::<()>(self.socket.as_raw_fd(), &parts, control, flags, None) {
                Ok(_sent) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Receives one message; waits for it on a blocking socket.
    ///
    /// # Errors
    /// [`LinkError::Full`] if there is none on a non-blocking socket, [`LinkError::Closed`], [`LinkError::Malformed`].
    pub fn receive<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), LinkError> {
        self.receive_with(MsgFlags::MSG_CMSG_CLOEXEC)
    }

    /// The same without ever waiting.
    ///
    /// # Errors
    /// [`LinkError::Full`] if there is no message.
    pub fn try_receive<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), LinkError> {
        self.receive_with(MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT)
    }

    fn receive_with<T: DeserializeOwned>(&self, flags: MsgFlags) -> Result<(T, Vec<OwnedFd>), LinkError> {
        let mut buffer = vec![0_u8; INLINE + 1];
        let mut control = vec![0_u8; 64 + DESCRIPTORS * size_of::<RawFd>()];
        let (length, cut, mut descriptors) = loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
                Ok(message) => {
                    let cut = message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
                    let descriptors = received(message.cmsgs().map_err(|_cut| LinkError::Malformed)?);
                    break (message.bytes, cut, descriptors);
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        };
        if length == 0 {
            return Err(LinkError::Closed);
        }
        if cut {
            return Err(LinkError::Malformed);
        }
        let decoded = if buffer[0] == 1 {
            if descriptors.is_empty() {
                return Err(LinkError::Malformed);
            }
            postcard::from_bytes(&unspill(descriptors.remove(0))?)
        } else {
            postcard::from_bytes(&buffer[1..length])
        };
        Ok((decoded.map_err(|_refused| LinkError::Malformed)?, descriptors))
    }
}

fn received(messages: impl Iterator<Item = ControlMessageOwned>) -> Vec<OwnedFd> {
    let rights = messages.filter_map(|message| match message {
        ControlMessageOwned::ScmRights(numbers) => Some(numbers),
        _ => None,
    });
    rights.flatten().filter_map(|number| adopt_descriptor(number).ok()).collect()
}

fn spill(body: &[u8]) -> io::Result<File> {
    let file = File::from(memfd_create(c"message", MFdFlags::MFD_CLOEXEC)?);
    file.write_all_at(body, 0)?;
    Ok(file)
}

fn unspill(file: OwnedFd) -> Result<Vec<u8>, LinkError> {
    let file = File::from(file);
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if length > LARGEST {
        return Err(LinkError::TooLarge(length));
    }
    let mut body = vec![0_u8; length];
    file.read_exact_at(&mut body, 0)?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::{Link, LinkError};
    use std::os::fd::AsFd;

    #[test]
    fn messages_of_any_size_arrive_whole_with_their_descriptors() {
        let (one, other) = Link::pair().expect("pair");
        let file = tempfile::tempfile().expect("file");
        for size in [0, 1, 32 * 1024 - 8, 32 * 1024, 1 << 20] {
            let message = vec![7_u8; size];
            one.send(&message, &[file.as_fd()]).expect("send");
            let (got, descriptors) = other.receive::<Vec<u8>>().expect("receive");
            assert_eq!(got, message);
            assert_eq!(descriptors.len(), 1);
        }
        assert!(matches!(one.send(&vec![0_u8; 5 << 20], &[]), Err(LinkError::TooLarge(_))));
    }

    #[test]
    fn i_32_rubbish_is_refused_and_the_end_is_told() {
        let (one, other) = Link::pair().expect("pair");
        one.send(&"a string is no number list".to_owned(), &[]).expect("send");
        assert!(matches!(other.receive::<(u64, u64, Vec<u64>)>(), Err(LinkError::Malformed)));
        nix::sys::socket::send(
            std::os::fd::AsRawFd::as_raw_fd(one.socket()),
            &[1],
            nix::sys::socket::MsgFlags::empty(),
        )
        .expect("send");
        assert!(matches!(other.receive::<u64>(), Err(LinkError::Malformed)), "spilled without a file");
        assert!(matches!(other.try_receive::<u64>(), Err(LinkError::Full)));
        drop(one);
        assert!(matches!(other.receive::<u64>(), Err(LinkError::Closed)));
    }
}
