//! The first bytes of a connection: TLS, HTTP or neither, read without being used up.

use std::io;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

/// How long a client may take for its first bytes.
const PATIENCE: Duration = Duration::from_secs(15);

/// Largest `ClientHello`; those with post-quantum keys have about 2 KiB.
const LIMIT: usize = 16 * 1024;

/// First byte of a TLS handshake record (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;

/// The `encrypted_client_hello` extension (RFC 9849).
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

/// What a client begins HTTP/2 with when it knows that the server speaks it (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The protocols of a `ClientHello`; one that names none speaks HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offered {
    pub(super) http1: bool,
    pub(super) http2: bool,
}

/// What a connection begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// A valid `ClientHello`.
    Tls {
        /// The server name it asks for, in lower case.
        server_name: Option<String>,
        /// It carries an encrypted inner hello, or pretends to.
        encrypted: bool,
        /// What it would speak.
        offered: Offered,
    },
    /// A method's first letter.
    Http,
    /// The preface of HTTP/2.
    Http2,
}

/// There is no opening.
#[derive(Debug, thiserror::Error)]
pub(super) enum HelloError {
    #[error("the connection begins with neither TLS nor HTTP")]
    Unknown,
    #[error("the TLS hello is malformed: {0}")]
    Malformed(rustls::Error),
    #[error("the TLS hello is larger than {LIMIT} bytes")]
    Large,
    #[error("the client sent nothing in time")]
    Silent,
    #[error("the client closed the connection before it said anything")]
    Closed,
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
}

/// An opening and the bytes that were read to see it.
#[derive(Debug)]
pub(super) struct Peeked {
    pub(super) opening: Opening,
    pub(super) bytes: Vec<u8>,
}

/// Reads until the opening is known, in whatever segments it comes.
pub(super) async fn peek(stream: &mut (impl AsyncRead + Unpin)) -> Result<Peeked, HelloError> {
    timeout(PATIENCE, read_opening(stream)).await.map_err(|_| HelloError::Silent)?
}

async fn read_opening(stream: &mut (impl AsyncRead + Unpin)) -> Result<Peeked, HelloError> {
    let mut bytes = Vec::with_capacity(2048);
    let mut acceptor = Acceptor::default();
    loop {
        let seen = bytes.len();
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(HelloError::Closed);
        }
        match bytes[0] {
            HANDSHAKE => {}
            _ if bytes.starts_with(PREFACE) => return Ok(Peeked { opening: Opening::Http2, bytes }),
            _ if PREFACE.starts_with(&bytes) => continue,
            first if first.is_ascii_alphabetic() => return Ok(Peeked { opening: Opening::Http, bytes }),
            _ => return Err(HelloError::Unknown),
        }
        if bytes.len() > LIMIT {
            return Err(HelloError::Large);
        }
        let mut unread = &bytes[seen..];
        while !unread.is_empty() {
            acceptor.read_tls(&mut unread)?;
            if let Some(accepted) = acceptor.accept().map_err(|(error, _)| HelloError::Malformed(error))? {
                let server_name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                let offered = offered(accepted.client_hello().alpn());
                let encrypted = offers_encrypted_hello(&bytes);
                return Ok(Peeked { opening: Opening::Tls { server_name, encrypted, offered }, bytes });
            }
        }
    }
}

fn offered<'a>(names: Option<impl Iterator<Item = &'a [u8]>>) -> Offered {
    let Some(names) = names else { return Offered { http1: true, http2: false } };
    names.fold(Offered { http1: false, http2: false }, |offered, name| Offered {
        http1: offered.http1 || name == b"http/1.1",
        http2: offered.http2 || name == b"h2",
    })
}

/// Whether a valid hello has the extension; what can't be read counts as yes.
fn offers_encrypted_hello(records: &[u8]) -> bool {
    extensions(&handshake(records)).is_none_or(|found| found.contains(&ENCRYPTED_CLIENT_HELLO))
}

/// The payload of the records, joined.
fn handshake(mut records: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(records.len());
    while let [HANDSHAKE, _, _, high, low, rest @ ..] = records {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        joined.extend_from_slice(&rest[..length]);
        records = &rest[length..];
    }
    joined
}

/// The types of the extensions of a `ClientHello` (RFC 8446, section 4.1.2).
fn extensions(hello: &[u8]) -> Option<Vec<u16>> {
    // Type and length of the message, version, random.
    let rest = hello.get(4 + 2 + 32..)?;
    let (_session, rest) = vector(rest, 1)?;
    let (_suites, rest) = vector(rest, 2)?;
    let (_compression, rest) = vector(rest, 1)?;
    if rest.is_empty() {
        return Some(Vec::new());
    }
    let (mut list, _) = vector(rest, 2)?;
    let mut found = Vec::new();
    while !list.is_empty() {
        found.push(u16::from_be_bytes([*list.first()?, *list.get(1)?]));
        list = vector(list.get(2..)?, 2)?.1;
    }
    Some(found)
}

/// A vector with a length of `width` bytes, and what follows it.
fn vector(bytes: &[u8], width: usize) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(width)?;
    let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    rest.split_at_checked(length)
}
