//! What becomes of captured connections that are not inspected.

use std::io::ErrorKind;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::client::{connect_tls, exchange, read_reply, trusting};
use super::origin::{Origin, ok, start};
use super::rig::{NAME, OTHER, Plan, Rig, message, rule};
use crate::egress::{CertificateAuthority, names};
use crate::shutdown::Shutdown;

async fn setup() -> (Shutdown, Origin, Rig) {
    let shutdown = Shutdown::new();
    let origin = start(Some(NAME), ok(), &shutdown).await;
    let rig = Rig::new(&Plan::for_origin(&origin), &shutdown).unwrap();
    (shutdown, origin, rig)
}

/// The rest of the stream, or that it was reset.
async fn rest(stream: &mut TcpStream) -> Result<Vec<u8>, ErrorKind> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.map(|_| bytes).map_err(|error| error.kind())
}

#[tokio::test]
async fn e_11_an_unassigned_synthetic_address_is_reset_and_recorded() {
    let (_shutdown, origin, rig) = setup().await;
    let workspace = rig.workspace("w1", &rule(&origin, ""));
    workspace.aim((names::v4(9), 443));
    let mut stream = TcpStream::connect(workspace.listener).await.unwrap();
    assert_eq!(rest(&mut stream).await, Err(ErrorKind::ConnectionReset));
    let record = &rig.records()[0];
    assert_eq!((&record["reason"], &record["kind"]), (&"unassigned_address".into(), &"connection".into()));
}

#[tokio::test]
async fn e_01_a_raw_address_meets_the_same_policy_and_hears_why_where_it_can() {
    let (_shutdown, origin, rig) = setup().await;
    let workspace = rig.workspace("w1", &rule(&origin, ""));
    workspace.aim(([1, 1, 1, 1], 80));
    let mut http = TcpStream::connect(workspace.listener).await.unwrap();
    let reply = exchange(&mut http, "GET / HTTP/1.1\r\nHost: 1.1.1.1\r\n\r\n").await;
    assert_eq!((reply.status, &reply.json()["reason"]), (403, &"no_rule_for_host".into()));
    assert_eq!(rest(&mut http).await, Ok(Vec::new()));
    workspace.aim(([1, 1, 1, 1], 443));
    let error = connect_tls(workspace.listener, trusting(&workspace.root), "1.1.1.1").await.unwrap_err();
    assert!(error.to_string().contains("AccessDenied"), "{error}");
    let mut other = TcpStream::connect(workspace.listener).await.unwrap();
    other.write_all(b"\x00\x01").await.unwrap();
    assert_eq!(rest(&mut other).await, Err(ErrorKind::ConnectionReset));
    assert_eq!(workspace.denials()[0], "1.1.1.1:80: no rule names this host");
    assert_eq!(rig.records().len(), 3);
}

#[tokio::test]
async fn h_18_passthrough_checks_the_server_name_and_shows_the_origins_certificate() {
    let (_shutdown, origin, rig) = setup().await;
    let workspace = rig
        .workspace("w1", &rule(&origin, "").replace(", paths: [\"/v1/**\"]", ", protocol: tls-passthrough"));
    workspace.aim((names::v4(0), origin.address.port()));
    let mut stream = connect_tls(workspace.listener, trusting(&origin.root), NAME).await.unwrap();
    assert_eq!(exchange(&mut stream, &message(&origin, "GET /any", "")).await.status, 200);
    connect_tls(workspace.listener, trusting(&origin.root), OTHER).await.unwrap_err();
    let mut clear = TcpStream::connect(workspace.listener).await.unwrap();
    clear.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(rest(&mut clear).await, Err(ErrorKind::ConnectionReset));
    let decisions: Vec<_> = rig.records().iter().map(|record| record["decision"].clone()).collect();
    assert_eq!(decisions, ["allow", "deny", "deny"]);
}

#[tokio::test]
async fn a_tcp_rule_carries_bytes_both_ways_with_half_close_and_counts_them() {
    let shutdown = Shutdown::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let origin = start(Some(NAME), ok(), &shutdown).await;
    let mut plan = Plan::for_origin(&origin);
    plan.settings.host_services = vec![address];
    let rig = Rig::new(&plan, &shutdown).unwrap();
    let rules =
        format!("    - {{ name: db, hosts: [{NAME}], ports: [{}], protocol: tcp }}\n", address.port());
    let workspace = rig.workspace("w1", &rules);
    workspace.aim((names::v4(0), address.port()));
    let mut client = TcpStream::connect(workspace.listener).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    server.write_all(b"welcome").await.unwrap();
    let mut greeting = [0; 7];
    client.read_exact(&mut greeting).await.unwrap();
    client.write_all(b"bye").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut server).await, Ok(b"bye".to_vec()));
    drop(server);
    assert_eq!(rest(&mut client).await, Ok(Vec::new()));
    drop((client, workspace));
    let records = rig.records();
    assert_eq!((&records[0]["rule"], &records[0]["decision"]), (&"db".into(), &"allow".into()));
}

#[tokio::test]
async fn h_20_one_workspaces_authority_is_worth_nothing_in_another() {
    let (_shutdown, origin, rig) = setup().await;
    let (one, two) = (rig.workspace("w1", &rule(&origin, "")), rig.workspace("w2", &rule(&origin, "")));
    two.aim((names::v4(0), origin.address.port()));
    connect_tls(two.listener, trusting(&one.root), NAME).await.unwrap_err();
}

#[tokio::test]
async fn leaves_of_one_authority_have_different_serials() {
    let (_shutdown, origin, rig) = setup().await;
    let both = rule(&origin, "").replace(&format!("[{NAME}]"), &format!("[{NAME}, {OTHER}]"));
    let workspace = rig.workspace("w1", &both);
    let mut serials = Vec::new();
    for (number, name) in [(0, NAME), (1, OTHER)] {
        workspace.aim((names::v4(number), origin.address.port()));
        let stream = connect_tls(workspace.listener, trusting(&workspace.root), name).await.unwrap();
        let chain = stream.get_ref().1.peer_certificates().unwrap();
        serials.push(x509_parser::parse_x509_certificate(&chain[0]).unwrap().1.raw_serial().to_vec());
    }
    assert_ne!(serials[0], serials[1]);
}

#[tokio::test]
async fn a_workspace_is_served_again_with_its_saved_authority_and_names() {
    let (_shutdown, origin, rig) = setup().await;
    let authority = CertificateAuthority::generate("w1").unwrap();
    let saved = authority.to_bytes();
    let mut first = rig.workspace_with("w1", &rule(&origin, ""), authority);
    assert_eq!(first.ask(&origin, "GET /v1/a", "").await.status, 200);
    first.attached.take().unwrap().detach();
    let again = CertificateAuthority::from_bytes(&saved).unwrap();
    let second = rig.workspace_with("w1", &rule(&origin, ""), again);
    second.aim((names::v4(0), origin.address.port()));
    let mut stream = connect_tls(second.listener, trusting(&first.root), NAME).await.unwrap();
    assert_eq!(exchange(&mut stream, &message(&origin, "GET /v1/a", "")).await.status, 200);
}

#[tokio::test]
async fn detaching_ends_open_connections() {
    let (_shutdown, origin, rig) = setup().await;
    let mut workspace = rig.workspace("w1", &rule(&origin, ""));
    let mut stream = workspace.open(&origin).await;
    assert_eq!(exchange(&mut stream, &message(&origin, "GET /v1/a", "")).await.status, 200);
    workspace.attached.take().unwrap().detach();
    let ended = stream.read_u8().await.unwrap_err();
    assert!(matches!(ended.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{ended}");
}

#[tokio::test]
async fn denials_are_counted_from_a_mark_and_each_text_is_told_once() {
    let (_shutdown, origin, rig) = setup().await;
    let workspace = rig.workspace("w1", &rule(&origin, ""));
    let mut stream = workspace.open(&origin).await;
    exchange(&mut stream, &message(&origin, "GET /before", "")).await;
    let attached = workspace.attached.as_ref().unwrap();
    let mark = attached.mark();
    let pair = message(&origin, "GET /a", "") + &message(&origin, "GET /a", "");
    exchange(&mut stream, &pair).await;
    read_reply(&mut stream).await;
    let (texts, count) = attached.denials_since(mark);
    assert_eq!((texts.len(), count), (1, 2));
    assert!(texts[0].contains("GET /a"), "{texts:?}");
}
