//! Frames of HTTP/2 that no library would send: malformed requests and floods.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::client::{connect_tls, trusting};
use super::origin::{Origin, ok, speaking};
use super::rig::{NAME, Plan, Rig, Workspace, rule};
use crate::egress::names;
use crate::shutdown::Shutdown;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header field in the plainest form of HPACK: literal, not indexed (RFC 7541, section 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    list.iter().flat_map(|(name, value)| field(name, value)).collect()
}

struct Raw {
    stream: TlsStream<TcpStream>,
}

/// What came of a stream.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Answered(Option<&'static str>),
    Reset,
    Gone,
}

impl Raw {
    async fn open(workspace: &Workspace, origin: &Origin) -> Self {
        workspace.aim((names::v4(0), origin.address.port()));
        let mut config = trusting(&workspace.root);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let mut stream = connect_tls(workspace.listener, config, NAME).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        Self { stream }
    }

    /// Writes until the other side has had enough.
    async fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// Reads frames until `stream` or the connection has ended.
    async fn end(&mut self, stream: u32) -> End {
        loop {
            let mut head = [0; 9];
            if self.stream.read_exact(&mut head).await.is_err() {
                return End::Gone;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            if self.stream.read_exact(&mut payload).await.is_err() {
                return End::Gone;
            }
            let of = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            match head[3] {
                GOAWAY => return End::Gone,
                RESET if of == stream => return End::Reset,
                // Indexed fields of the static table (RFC 7541, appendix A); any other status is a literal.
                HEADERS if of == stream => {
                    let statuses = [(0x88, "200"), (0x8c, "400")];
                    let known = statuses.iter().find(|(byte, _)| *byte == payload[0]);
                    return End::Answered(known.map(|(_, status)| *status));
                }
                _ => {}
            }
        }
    }
}

async fn setup() -> (Rig, Workspace, Origin, String) {
    let shutdown = Shutdown::new();
    let origin = speaking(Some(NAME), &["h2"], ok(), &shutdown).await;
    let rig = Rig::new(&Plan::for_origin(&origin), &shutdown).unwrap();
    let workspace = rig.workspace("w1", &rule(&origin, ", methods: [GET, POST]"));
    let authority = format!("{NAME}:{}", origin.address.port());
    (rig, workspace, origin, authority)
}

fn head(method: &str, authority: &str) -> Vec<u8> {
    fields(&[(":method", method), (":scheme", "https"), (":path", "/v1/a"), (":authority", authority)])
}

#[tokio::test]
async fn h_12_a_malformed_stream_is_refused_and_never_reaches_the_origin() {
    let (_rig, workspace, origin, authority) = setup().await;
    let good = head("GET", &authority);
    let with = |name: &str, value: &str| [good.clone(), field(name, value)].concat();
    let userinfo = format!("good@{authority}");
    let corpus: Vec<(&str, Vec<u8>)> = vec![
        ("connection", with("connection", "close")),
        ("keep-alive", with("keep-alive", "timeout=5")),
        ("transfer-encoding", with("transfer-encoding", "chunked")),
        ("upgrade", with("upgrade", "websocket")),
        ("te", with("te", "gzip")),
        ("upper case", with("X-Upper", "1")),
        ("CR LF in a value", with("x-a", "1\r\nx-b: 2")),
        ("NUL in a value", with("x-a", "1\0")),
        ("CR LF in a name", with("x-a\r\nx-b", "2")),
        ("a second path", with(":path", "/v1/b")),
        ("a pseudo-header behind a field", [with("x-a", "1"), field(":method", "GET")].concat()),
        ("an unknown pseudo-header", [field(":other", "1"), good.clone()].concat()),
        ("no path", fields(&[(":method", "GET"), (":scheme", "https"), (":authority", &authority)])),
        ("extended CONNECT", [field(":protocol", "websocket"), head("CONNECT", &authority)].concat()),
        ("a length that lies", with("content-length", "5")),
        ("userinfo", head("GET", &userinfo)),
        ("two hosts", [with("host", &authority), field("host", &authority)].concat()),
        ("another host", with("host", "evil.example")),
    ];
    for (what, block) in corpus {
        let mut raw = Raw::open(&workspace, &origin).await;
        raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)).await;
        let end = raw.end(1).await;
        assert_ne!(end, End::Answered(Some("200")), "{what}");
    }
    assert!(origin.seen().is_empty(), "{:?}", origin.seen());
    let mut raw = Raw::open(&workspace, &origin).await;
    raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &with("te", "trailers"))).await;
    assert_eq!(raw.end(1).await, End::Answered(Some("200")));
}

#[tokio::test]
async fn h_12_data_and_content_length_must_agree() {
    let (_rig, workspace, origin, authority) = setup().await;
    for body in ["abc", "abcdefg"] {
        let mut raw = Raw::open(&workspace, &origin).await;
        let block = [head("POST", &authority), field("content-length", "5")].concat();
        raw.write(&frame(HEADERS, END_HEADERS, 1, &block)).await;
        raw.write(&frame(DATA, END_STREAM, 1, body.as_bytes())).await;
        assert_ne!(raw.end(1).await, End::Answered(Some("200")), "{body}");
    }
    assert!(origin.seen().iter().all(|seen| seen.body.len() <= 5));
}

/// Sends what `flood` makes until the connection is ended, and tells how much of it was taken.
async fn flood(raw: &mut Raw, most: u32, flood: impl Fn(u32) -> Vec<u8>) -> u32 {
    for number in 0..most {
        if !raw.write(&flood(number)).await {
            return number;
        }
    }
    most
}

#[tokio::test]
async fn h_13_rapid_resets_end_the_connection_and_reach_nobody_else() {
    let (rig, workspace, origin, authority) = setup().await;
    let mut raw = Raw::open(&workspace, &origin).await;
    let block = head("GET", &authority);
    let request = |number: u32| {
        let stream = number * 2 + 1;
        let open = frame(HEADERS, END_STREAM | END_HEADERS, stream, &block);
        [open, frame(RESET, 0, stream, &8_u32.to_be_bytes())].concat()
    };
    let taken = flood(&mut raw, 50_000, request).await;
    assert!(taken == 50_000 || raw.end(u32::MAX).await == End::Gone);
    assert!(taken < 50_000 || origin.seen().len() < 5_000, "{taken} {}", origin.seen().len());
    let beside = rig.workspace("w2", &rule(&origin, ""));
    assert_eq!(beside.ask(&origin, "GET /v1/a", "").await.status, 200);
}

#[tokio::test]
async fn h_13_continuations_without_end_and_header_bombs_end_the_connection() {
    let (_rig, workspace, origin, authority) = setup().await;
    let filler = fields(&[("x-filler", &"y".repeat(100))]).repeat(100);
    for block in [filler, Vec::new()] {
        let mut raw = Raw::open(&workspace, &origin).await;
        raw.write(&frame(HEADERS, END_STREAM, 1, &head("GET", &authority))).await;
        let taken = flood(&mut raw, 20_000, |_| frame(CONTINUATION, 0, 1, &block)).await;
        assert!(taken < 20_000, "{taken}");
    }
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn h_13_settings_and_pings_without_reading_cost_no_other_workspace() {
    let (rig, workspace, origin, _) = setup().await;
    let mut raw = Raw::open(&workspace, &origin).await;
    let one = [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[7; 8])].concat().repeat(64);
    let beside = rig.workspace("w2", &rule(&origin, ""));
    let mut asking = std::pin::pin!(async {
        for _ in 0..20 {
            assert_eq!(beside.ask(&origin, "GET /v1/a", "").await.status, 200);
        }
    });
    // The answers are not read, so that in the end nothing more is taken, or the connection is ended.
    tokio::select! {
        () = asking.as_mut() => {}
        taken = flood(&mut raw, u32::MAX, |_| one.clone()) => {
            assert!(taken < u32::MAX);
            asking.await;
        }
    }
    assert_eq!(origin.seen().len(), 20);
}
