//! A caller's connection over the Unix socket, and the one thing that common clients get wrong on it.
//!
//! gRPC clients on a Unix socket put the socket's path into `:authority`, with percent signs (C++, Python, Ruby) or
//! with slashes (Java). RFC 9113, 8.3.1 does not allow either, and the HTTP/2 library resets the stream before anybody
//! could look at it. Nothing here depends on that field, so its odd bytes are replaced where they come in. A replacement
//! has the length of what it replaces: the client's header compression (RFC 7541) stays in step with ours.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::{Connected, UdsConnectInfo};

/// Bytes of the client's first words, before the first frame (RFC 9113, 3.4).
const PREFACE: usize = 24;
/// Bytes of a frame's header.
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Number of the field in the static table, and its name, which some clients write out.
const AUTHORITY: u8 = 1;
const AUTHORITY_NAME: &[u8] = b":authority";

/// A caller.
#[derive(Debug)]
pub(super) struct LocalConnection {
    stream: UnixStream,
    frames: Frames,
}

impl LocalConnection {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, frames: Frames::new() }
    }
}

impl Connected for LocalConnection {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for LocalConnection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buf);
        this.frames.mend(&mut buf.filled_mut()[before..]);
        read
    }
}

impl AsyncWrite for LocalConnection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// How far into the client's frames the bytes have come.
#[derive(Debug)]
struct Frames {
    /// Bytes that are of no interest.
    skip: usize,
    header: [u8; FRAME_HEADER],
    filled: usize,
    block: Option<Block>,
}

impl Frames {
    fn new() -> Self {
        Self { skip: PREFACE, header: [0; FRAME_HEADER], filled: 0, block: None }
    }

    /// Looks at the next bytes, in pieces of any size.
    fn mend(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            if skipped > 0 {
                self.skip -= skipped;
                bytes = &mut bytes[skipped..];
                continue;
            }
            if let Some(block) = &mut self.block {
                block.mend(&mut bytes[0]);
                if block.left == 0 {
                    self.block = None;
                }
            } else {
                self.header[self.filled] = bytes[0];
                self.filled += 1;
                if self.filled == FRAME_HEADER {
                    self.frame();
                }
            }
            bytes = &mut bytes[1..];
        }
    }

    fn frame(&mut self) {
        let [a, b, c, kind, flags, ..] = self.header;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.filled = 0;
        if kind == HEADERS && length > 0 {
            self.block = Some(Block::new(length, flags));
        } else {
            self.skip = length;
        }
    }
}

/// A walk over the fields of one HEADERS frame; no field is decoded.
#[derive(Debug)]
struct Block {
    left: usize,
    at: At,
}

/// What the next byte of a header block is.
#[derive(Clone, Copy, Debug)]
enum At {
    /// Of no interest, so many times; then a field.
    Prelude(u8),
    /// The first one of a field.
    Field,
    /// A further one of an integer; then a field, or the length of a value.
    Integer { literal: bool },
    /// The first one of a string's length.
    Length(Part),
    /// A further one.
    MoreLength { part: Part, plain: bool, length: usize, shift: u32 },
    /// One of a string.
    Text { part: Part, plain: bool, left: usize },
}

/// Which string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// With the bytes that are those of the one that we look for; none after the first that is not.
    Name(Option<usize>),
    Value,
    AuthorityValue,
}

impl Block {
    fn new(left: usize, flags: u8) -> Self {
        let prelude = u8::from(flags & PADDED != 0) + if flags & PRIORITY != 0 { 5 } else { 0 };
        Self { left, at: if prelude > 0 { At::Prelude(prelude) } else { At::Field } }
    }

    fn mend(&mut self, byte: &mut u8) {
        self.left -= 1;
        self.at = match self.at {
            At::Prelude(1) => At::Field,
            At::Prelude(more) => At::Prelude(more - 1),
            At::Field => field(*byte),
            At::Integer { literal } if *byte & 0x80 != 0 => At::Integer { literal },
            At::Integer { literal: true } => At::Length(Part::Value),
            At::Integer { literal: false } => At::Field,
            At::Length(part) => {
                let (plain, length) = (*byte & 0x80 == 0, usize::from(*byte & 0x7f));
                if length == 0x7f {
                    At::MoreLength { part, plain, length, shift: 0 }
                } else {
                    text(part, plain, length)
                }
            }
            At::MoreLength { part, plain, length, shift } => {
                let length =
                    length.saturating_add(usize::from(*byte & 0x7f).checked_shl(shift).unwrap_or(usize::MAX));
                match *byte & 0x80 {
                    0 => text(part, plain, length),
                    _ => At::MoreLength { part, plain, length, shift: shift + 7 },
                }
            }
            At::Text { part: Part::Name(seen), plain, left } => {
                let expected = seen.filter(|_| plain).and_then(|seen| AUTHORITY_NAME.get(seen));
                let fits = expected == Some(byte);
                text(Part::Name(seen.filter(|_| fits).map(|seen| seen + 1)), plain, left - 1)
            }
            At::Text { part, plain, left } => {
                if part == Part::AuthorityValue && plain && matches!(*byte, b'%' | b'/') {
                    *byte = b'-';
                }
                text(part, plain, left - 1)
            }
        };
    }
}

/// What follows the first byte of a field's representation (RFC 7541, 6).
fn field(byte: u8) -> At {
    // Which bits hold the number, and whether strings follow.
    let (bits, literal) = match byte {
        0x80.. => (0x7f, false),
        0x40.. => (0x3f, true),
        0x20.. => (0x1f, false),
        _ => (0x0f, true),
    };
    match byte & bits {
        number if number == bits => At::Integer { literal },
        _ if !literal => At::Field,
        0 => At::Length(Part::Name(Some(0))),
        AUTHORITY => At::Length(Part::AuthorityValue),
        _ => At::Length(Part::Value),
    }
}

fn text(part: Part, plain: bool, left: usize) -> At {
    match (left, part) {
        (0, Part::Name(Some(seen))) if seen == AUTHORITY_NAME.len() => At::Length(Part::AuthorityValue),
        (0, Part::Name(_)) => At::Length(Part::Value),
        (0, _) => At::Field,
        _ => At::Text { part, plain, left },
    }
}

#[cfg(test)]
mod tests {
    use super::{Frames, PREFACE};

    /// The preface, a SETTINGS frame, and a HEADERS frame with this block, padded and with a priority.
    fn connection(block: &[u8]) -> Vec<u8> {
        let mut bytes = vec![b'/'; PREFACE];
        bytes.extend([0, 0, 6, 4, 0, 0, 0, 0, 0]);
        bytes.extend([0, 4, 0, 0, b'/', b'%']);
        let length = u8::try_from(block.len() + 8).expect("short");
        bytes.extend([0, 0, length, 1, 0x2c, 0, 0, 0, 1]);
        bytes.extend([2, b'/', 0, 0, 0, b'%']);
        bytes.extend(block);
        bytes.extend([0, 0]);
        bytes
    }

    /// Mends in one piece and in pieces of one byte, which must be the same.
    fn mended(bytes: &[u8]) -> Vec<u8> {
        let mut whole = bytes.to_vec();
        Frames::new().mend(&mut whole);
        let mut pieces = bytes.to_vec();
        let mut frames = Frames::new();
        pieces.chunks_mut(1).for_each(|piece| frames.mend(piece));
        assert_eq!(whole, pieces);
        whole
    }

    fn literal(first: u8, value: &str) -> Vec<u8> {
        let length = u8::try_from(value.len()).expect("short");
        assert!(length < 0x7f);
        [&[first, length], value.as_bytes()].concat()
    }

    #[test]
    fn the_path_of_a_socket_becomes_an_authority() {
        for first in [0x41, 0x01, 0x11] {
            // An indexed field, a table size update, a literal with a name, the authority, a path that stays.
            let before = [&[0x83, 0x3f, 0xe1, 0x1f, 0x40, 3, b'a', b'/', b'b', 2, b'%', b'/'][..]].concat();
            let path = literal(0x44, "/hands.v1alpha1.ProcessService/Run%");
            let sent = [before.clone(), literal(first, "%2Frun%2Fhands.sock"), path.clone()].concat();
            let wanted = [before, literal(first, "-2Frun-2Fhands.sock"), path].concat();
            assert_eq!(mended(&connection(&sent)), connection(&wanted));
        }
    }

    #[test]
    fn a_name_that_is_written_out_is_known_too_and_others_are_left_alone() {
        for (name, value) in
            [(":authority", "-2Fs"), (":authorita", "%2Fs"), (":authorityy", "%2Fs"), ("", "%2Fs")]
        {
            let named = |value: &str| [literal(0x40, name), literal(0, value)[1..].to_vec()].concat();
            assert_eq!(mended(&connection(&named("%2Fs"))), connection(&named(value)), "{name}");
        }
    }

    #[test]
    fn long_and_compressed_values_are_walked_over() {
        let long = "/".repeat(200);
        // 200 is 127 and 73; a compressed authority is not touched.
        let sent = [&[0x41, 0x7f, 73][..], long.as_bytes(), &[0x41, 0x83, b'/', b'%', b'/']].concat();
        let wanted =
            [&[0x41, 0x7f, 73][..], "-".repeat(200).as_bytes(), &[0x41, 0x83, b'/', b'%', b'/']].concat();
        assert_eq!(mended(&connection(&sent)), connection(&wanted));
    }

    #[test]
    fn rubbish_is_passed_on_without_a_fault() {
        let rubbish: Vec<u8> = (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        assert_eq!(mended(&rubbish).len(), rubbish.len());
        assert_eq!(mended(&[&connection(&[])[..], &[0xff; 64]].concat()).len(), connection(&[]).len() + 64);
    }
}
