//! The strict grammar of requests on the wire, and the first bytes of connections.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::egress::framing::{Expected, FramingError};
use crate::egress::head::StrictReader;
use crate::egress::hello::{HelloError, Offered, Opening, peek};
use crate::egress::websocket::Gate;

fn judge(head: &str) -> Result<Option<(usize, Expected)>, FramingError> {
    Expected::Head.advance(head.as_bytes(), 0)
}

#[test]
fn h_05_what_parsers_read_differently_is_refused() {
    let corpus = [
        "GET /a HTTP/1.1\nHost: a\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\rb\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\0b\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        "GET /a HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET /a HTTP/1.1\r\n: a\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost\r\n\r\n",
        "GET  /a HTTP/1.1\r\n\r\n",
        "GET /a b HTTP/1.1\r\n\r\n",
        "GET\t/a HTTP/1.1\r\n\r\n",
        "GET /a\r\n\r\n",
        "GET /a HTTP/1.2\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "G@T /a HTTP/1.1\r\n\r\n",
        "POST /a HTTP/1.1\r\nContent_Length: 5\r\n\r\n",
        "POST /a HTTP/1.1\r\nTransfer_Encoding: chunked\r\n\r\n",
        "POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST /a HTTP/1.1\r\nContent-Length: \r\n\r\n",
        "POST /a HTTP/1.1\r\nContent-Length: 0x5\r\n\r\n",
        "POST /a HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
    ];
    for head in corpus {
        assert!(judge(head).is_err(), "{head:?}");
    }
}

#[test]
fn h_15_a_giant_head_is_refused_before_it_is_complete() {
    let head = format!("GET /a HTTP/1.1\r\nX: {}", "y".repeat(70_000));
    assert_eq!(judge(&head), Err(FramingError::Large));
}

#[test]
fn h_05_chunks_have_a_plain_size_and_nothing_else() {
    let refused = [
        "5;a=b\r\n",
        "+5\r\n",
        "0x5\r\n",
        " 5\r\n",
        "5 \r\n",
        "5\n",
        "\r\n",
        "g\r\n",
        "fffffffffffffffff\r\n",
    ];
    for line in refused {
        assert_eq!(Expected::ChunkLine.advance(line.as_bytes(), 0), Err(FramingError::Chunk), "{line:?}");
    }
    assert_eq!(Expected::ChunkLine.advance(b"1F\r\n", 0), Ok(Some((4, Expected::Chunk(31)))));
    assert_eq!(Expected::Chunk(0).advance(b"x\r\n", 0), Err(FramingError::Chunk));
    assert_eq!(Expected::Trailers.advance(b"a : b\r\n\r\n", 0), Err(FramingError::Chunk));
    assert_eq!(Expected::Trailers.advance(b"a: b\r\n\r\n", 0), Ok(Some((8, Expected::Head))));
}

#[tokio::test]
async fn well_formed_requests_pass_unchanged_in_any_segments() {
    let text = "\r\nPOST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcPOST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
                3\r\nabc\r\n0\r\nt: u\r\n\r\nGET /c HTTP/1.1\r\n\r\n";
    for size in [1, 2, 7, text.len()] {
        let (mut client, server) = tokio::io::duplex(1024);
        let mut reader = StrictReader::new(server, Gate::default(), |error| panic!("{error}"));
        let mut passed = String::new();
        let write = async {
            for segment in text.as_bytes().chunks(size) {
                client.write_all(segment).await.unwrap();
            }
            drop(client);
        };
        let (_, read) = tokio::join!(write, reader.read_to_string(&mut passed));
        read.unwrap();
        assert_eq!(passed, text);
    }
}

#[tokio::test]
async fn nothing_behind_a_violation_passes() {
    let (mut client, server) = tokio::io::duplex(1024);
    let mut found = None;
    let mut reader = StrictReader::new(server, Gate::default(), |error| found = Some(error));
    client
        .write_all(b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\nX: y\r\n\r\nGET /c HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    drop(client);
    let mut passed = String::new();
    reader.read_to_string(&mut passed).await.unwrap();
    drop(reader);
    assert_eq!((passed.as_str(), found), ("GET /a HTTP/1.1\r\n\r\n\0\r\n\r\n", Some(FramingError::Line)));
}

/// A `ClientHello` for `a.example`, with one more extension.
fn hello(extension: &[u8]) -> Vec<u8> {
    let name = b"a.example";
    let sni = [&[0, 0, 0, 14, 0, 12, 0, 0, 9][..], name].concat();
    let versions = [0, 43, 0, 3, 2, 3, 4];
    let groups = [0, 10, 0, 4, 0, 2, 0, 29];
    let schemes = [0, 13, 0, 4, 0, 2, 4, 3];
    let share = [&[0, 51, 0, 38, 0, 36, 0, 29, 0, 32][..], &[9; 32]].concat();
    let extensions = [&sni[..], &versions, &groups, &schemes, &share, extension].concat();
    let prefixed = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 19, 1], &[1, 0], &prefixed(&extensions)].concat();
    let message = [&[1, 0][..], &prefixed(&body)].concat();
    [&[22, 3, 1][..], &prefixed(&message)].concat()
}

async fn peeked(bytes: &[u8], segment: usize) -> Result<Opening, HelloError> {
    let (mut client, mut server) = tokio::io::duplex(64 * 1024);
    let write = async {
        for part in bytes.chunks(segment) {
            if client.write_all(part).await.is_err() {
                break;
            }
        }
        drop(client);
    };
    let (_, found) = tokio::join!(write, peek(&mut server));
    found.map(|peeked| peeked.opening)
}

#[tokio::test]
async fn h_16_a_hello_in_one_byte_segments_is_read() {
    let offered = Offered { http1: true, http2: false };
    let expected = Opening::Tls { server_name: Some("a.example".to_owned()), encrypted: false, offered };
    assert_eq!(peeked(&hello(&[]), 1).await.unwrap(), expected);
    assert_eq!(peeked(b"GET / HTTP/1.1\r\n", 1).await.unwrap(), Opening::Http);
}

#[tokio::test]
async fn h_16_garbage_is_refused() {
    assert!(matches!(peeked(b"\x80\x2e\x01\x00\x02", 64).await, Err(HelloError::Unknown)));
    assert!(matches!(peeked(b"\x16\x03\x01\x00\x05hello", 64).await, Err(HelloError::Malformed(_))));
    assert!(matches!(peeked(b"\x16\x03\x01", 64).await, Err(HelloError::Closed)));
    assert!(matches!(peeked(b"", 64).await, Err(HelloError::Closed)));
}

#[tokio::test]
async fn h_17_an_encrypted_hello_is_seen() {
    // Type, length; outer, HPKE suite, id, and a byte each of key and payload (RFC 9849, section 5).
    let outer = [0xfe, 0x0d, 0, 12, 0, 0, 1, 0, 1, 7, 0, 1, 9, 0, 1, 9];
    let found = peeked(&hello(&outer), 4096).await.unwrap();
    assert!(matches!(found, Opening::Tls { encrypted: true, .. }), "{found:?}");
}
