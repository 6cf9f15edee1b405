//! WebSocket: a handshake is a request like any other, and what follows the origin's 101 goes through unread.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, split};
use tokio::net::{TcpListener, TcpStream};

use super::client::{exchange, read_head, read_reply};
use super::origin::{Origin, Service, ok, serving, start};
use super::rig::{NAME, Plan, Rig, Workspace, message, rule};
use crate::egress::body::full;
use crate::egress::names;
use crate::shutdown::Shutdown;

const HANDSHAKE: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn accepted() -> Response<()> {
    let answer =
        Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
    answer.header("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=").body(()).unwrap()
}

/// Accepts every handshake and sends back what comes.
fn echo() -> Service {
    Arc::new(|_, mut request| {
        let upgrade = hyper::upgrade::on(&mut request);
        let pump = async move {
            let (mut read, mut write) = split(TokioIo::new(upgrade.await.unwrap()));
            copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        };
        Shutdown::new().spawn(pump);
        Box::pin(async { accepted().map(|()| full(Bytes::new())) })
    })
}

#[tokio::test]
async fn h_24_a_websocket_carries_large_frames_both_ways_and_is_recorded() {
    let shutdown = Shutdown::new();
    let origin = serving(Some(NAME), &["h2", "http/1.1"], echo(), &shutdown).await;
    let rig = Rig::new(&Plan::for_origin(&origin), &shutdown).unwrap();
    let workspace = rig.workspace("w1", &rule(&origin, ""));
    let mut stream = workspace.open(&origin).await;
    let reply = exchange(&mut stream, &message(&origin, "GET /v1/socket", HANDSHAKE)).await;
    assert_eq!(reply.status, 101);
    for line in ["upgrade: websocket\r\n", "connection: upgrade\r\n", "sec-websocket-accept: "] {
        assert!(reply.head.contains(line), "{}", reply.head);
    }
    let frames: Vec<u8> = (0..4_u32 << 20).map(|at| at.to_le_bytes()[at as usize % 4]).collect();
    let (mut read, mut write) = split(stream);
    let sent = frames.clone();
    let send = async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut came = Vec::new();
    let (_, read) = tokio::join!(send, read.read_to_end(&mut came));
    read.unwrap();
    assert!(came == frames);
    let records = rig.records();
    assert_eq!((&records[0]["kind"], &records[0]["path"]), (&"request".into(), &"/v1/socket".into()));
    assert_eq!((&records[1]["status"], &records[1]["bytes_up"]), (&101.into(), &frames.len().into()));
}

/// A workspace, and the cleartext origin that a test plays itself.
async fn raw(more: &str) -> (Rig, Workspace, Origin, TcpListener) {
    let shutdown = Shutdown::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = Origin { address: listener.local_addr().unwrap(), ..start(None, ok(), &shutdown).await };
    let rig = Rig::new(&Plan::for_origin(&origin), &shutdown).unwrap();
    let workspace = rig.workspace("w1", &rule(&origin, &format!(", cleartext: true{more}")));
    workspace.aim((names::v4(0), origin.address.port()));
    (rig, workspace, origin, listener)
}

async fn handshake(workspace: &Workspace, origin: &Origin, behind: &[u8]) -> TcpStream {
    let mut client = TcpStream::connect(workspace.listener).await.unwrap();
    let head = message(origin, "GET /v1/socket", HANDSHAKE);
    client.write_all(&[head.as_bytes(), behind].concat()).await.unwrap();
    client
}

#[tokio::test]
async fn h_10_without_a_101_what_was_sent_early_is_judged_as_a_request() {
    let (_rig, mut workspace, origin, listener) = raw("").await;
    let second = message(&origin, "GET /admin", "");
    let mut client = handshake(&workspace, &origin, second.as_bytes()).await;
    let (mut server, _) = listener.accept().await.unwrap();
    let head = read_head(&mut server).await;
    assert!(
        head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nconnection: upgrade\r\n"),
        "{head}"
    );
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
    assert_eq!(read_reply(&mut client).await.body, "no");
    assert_eq!(read_reply(&mut client).await.status, 403);
    workspace.attached.take().unwrap().detach();
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).await.unwrap_or_default();
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn h_10_bytes_that_are_no_request_and_came_before_the_101_never_become_raw() {
    let (_rig, workspace, origin, listener) = raw("").await;
    let mut client = handshake(&workspace, &origin, b"\x81\x05early\r\n\r\n").await;
    let (mut server, _) = listener.accept().await.unwrap();
    read_head(&mut server).await;
    // The refusal of those bytes is recorded when they are read.
    while workspace.denials().is_empty() {
        tokio::task::yield_now().await;
    }
    server
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(read_reply(&mut client).await.status, 400);
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).await.unwrap_or_default();
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn h_10_only_a_101_to_websocket_switches() {
    let (_rig, workspace, origin, listener) = raw("").await;
    for answer in ["Upgrade: h2c\r\n", "", "Upgrade: websocket\r\nUpgrade: h2c\r\n"] {
        let mut client = handshake(&workspace, &origin, b"").await;
        let (mut server, _) = listener.accept().await.unwrap();
        read_head(&mut server).await;
        let head = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n{answer}\r\n");
        server.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(read_reply(&mut client).await.status, 502, "{answer:?}");
    }
}

#[tokio::test]
async fn h_24_a_rule_can_refuse_websocket_and_the_path_is_judged_first() {
    let (rig, workspace, origin, _listener) = raw(", websocket: deny").await;
    let reply = read_reply(&mut handshake(&workspace, &origin, b"").await).await;
    assert_eq!((reply.status, &reply.json()["reason"]), (403, &"no_rule_for_websocket".into()));
    let beside = rig.workspace("w2", &rule(&origin, ", cleartext: true"));
    beside.aim((names::v4(0), origin.address.port()));
    let mut client = TcpStream::connect(beside.listener).await.unwrap();
    let reply = exchange(&mut client, &message(&origin, "GET /admin", HANDSHAKE)).await;
    assert_eq!((reply.status, &reply.json()["reason"]), (403, &"no_rule_for_path".into()));
}

#[tokio::test]
async fn h_10_a_handshake_that_is_none_gets_400() {
    let (_rig, workspace, origin, _listener) = raw(", methods: [GET, POST]").await;
    let corpus = [
        ("POST", HANDSHAKE.to_owned()),
        ("GET", HANDSHAKE.replace("keep-alive, Upgrade", "keep-alive")),
        ("GET", HANDSHAKE.replace("13", "8")),
        ("GET", HANDSHAKE.replace("WebSocket\r\nSec", "websocket, h2c\r\nSec")),
        ("GET", HANDSHAKE.replace("ZQ==", "")),
        ("GET", format!("{HANDSHAKE}Upgrade: h2c\r\n")),
        ("GET", format!("{HANDSHAKE}Content-Length: 0\r\n")),
    ];
    for (method, headers) in corpus {
        let mut client = TcpStream::connect(workspace.listener).await.unwrap();
        let request = message(&origin, &format!("{method} /v1/socket"), &headers);
        assert_eq!(exchange(&mut client, &request).await.status, 400, "{method} {headers}");
    }
}
