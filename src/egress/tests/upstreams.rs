//! The origin's side: trust, addresses, kept connections, the parent proxy.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::{RData, Record, RecordType};
use http::Response;
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::client::{exchange, read_head};
use super::origin::{Origin, ok, start};
use super::rig::{NAME, Plan, Rig, message, rule};
use crate::egress::{EgressError, names};
use crate::shutdown::Shutdown;

async fn origin(shutdown: &Shutdown) -> Origin {
    start(Some(NAME), ok(), shutdown).await
}

#[tokio::test]
async fn h_25_a_hundred_requests_use_one_upstream_connection() {
    let shutdown = Shutdown::new();
    let origin = origin(&shutdown).await;
    let rig = Rig::new(&Plan::for_origin(&origin), &shutdown).unwrap();
    let workspace = rig.workspace("w1", &rule(&origin, ""));
    let mut stream = workspace.open(&origin).await;
    for number in 0..100 {
        let request = message(&origin, &format!("GET /v1/{number}"), "");
        assert_eq!(exchange(&mut stream, &request).await.status, 200);
    }
    assert_eq!(workspace.ask(&origin, "GET /v1/again", "").await.status, 200);
    assert_eq!((origin.seen().len(), origin.connections()), (101, 1));
}

#[tokio::test]
async fn h_25_connections_are_not_shared_between_workspaces_or_rules() {
    let shutdown = Shutdown::new();
    let origin = origin(&shutdown).await;
    let rig = Rig::new(&Plan::for_origin(&origin), &shutdown).unwrap();
    let port = origin.address.port();
    let second = format!("    - {{ name: second, hosts: [{NAME}], ports: [{port}], paths: [/v2] }}\n");
    let rules = rule(&origin, "") + &second;
    let (one, two) = (rig.workspace("w1", &rules), rig.workspace("w2", &rules));
    for (workspace, path) in
        [(&one, "/v1/a"), (&two, "/v1/a"), (&one, "/v2"), (&one, "/v1/b"), (&two, "/v1/b")]
    {
        assert_eq!(workspace.ask(&origin, &format!("GET {path}"), "").await.status, 200);
    }
    let connections: Vec<usize> = origin.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 1, 2, 0, 1]);
}

#[tokio::test]
async fn an_idle_upstream_connection_is_closed_in_time() {
    let shutdown = Shutdown::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut origin = start(None, ok(), &shutdown).await;
    origin.address = listener.local_addr().unwrap();
    let rig = Rig::new(&Plan::for_origin(&origin), &shutdown).unwrap();
    let workspace = rig.workspace("w1", &rule(&origin, ", cleartext: true"));
    workspace.aim((names::v4(0), origin.address.port()));
    let mut client = TcpStream::connect(workspace.listener).await.unwrap();
    client.write_all(message(&origin, "GET /v1/a", "").as_bytes()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    read_head(&mut server).await;
    server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    read_head(&mut client).await;
    let pool = &workspace.attached.as_ref().unwrap().outlet.upstream.pool;
    pool.expire(Instant::now() + Duration::from_secs(60));
    assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_kept_connection_that_died_is_replaced() {
    let shutdown = Shutdown::new();
    let close = |_: &super::origin::Seen| {
        Response::builder().header("connection", "close").body(Full::from("bye")).unwrap()
    };
    let origin = start(Some(NAME), Arc::new(close), &shutdown).await;
    let rig = Rig::new(&Plan::for_origin(&origin), &shutdown).unwrap();
    let workspace = rig.workspace("w1", &rule(&origin, ", methods: [POST]"));
    let mut stream = workspace.open(&origin).await;
    for _ in 0..5 {
        let request = message(&origin, "POST /v1/a", "Content-Length: 2\r\n") + "ab";
        let reply = exchange(&mut stream, &request).await;
        assert_eq!(reply.status, 200);
        assert!(!reply.head.contains("connection: close"));
    }
    assert_eq!((origin.seen().len(), origin.connections()), (5, 5));
}

#[tokio::test]
async fn h_21_an_untrusted_or_misnamed_certificate_gets_502_and_nothing_is_sent() {
    let shutdown = Shutdown::new();
    let untrusted = origin(&shutdown).await;
    let misnamed = start(Some("elsewhere.example"), ok(), &shutdown).await;
    let mut plan = Plan::for_origin(&untrusted);
    plan.settings.root_documents.clear();
    for (origin, plan) in [(&untrusted, plan), (&misnamed, Plan::for_origin(&misnamed))] {
        let rig = Rig::new(&plan, &shutdown).unwrap();
        let workspace = rig.workspace("w1", &rule(origin, ""));
        let reply = workspace.ask(origin, "GET /v1/a", "").await;
        assert_eq!((reply.status, &reply.json()["reason"]), (502, &"upstream_tls_failed".into()));
        assert!(reply.json()["message"].as_str().unwrap().contains("certificate"));
        assert!(origin.seen().is_empty());
        let records = rig.records();
        assert_eq!((&records[0]["decision"], &records[1]["status"]), (&"allow".into(), &502.into()));
    }
}

#[tokio::test]
async fn e_14_a_metadata_address_is_denied_even_if_a_hosts_entry_points_there() {
    let shutdown = Shutdown::new();
    let origin = origin(&shutdown).await;
    for (address, reason) in [
        ("169.254.169.254", "metadata_address"),
        ("::ffff:169.254.169.254", "metadata_address"),
        ("64:ff9b::a9fe:a9fe", "metadata_address"),
        ("10.0.0.1", "private_address"),
        ("127.0.0.2", "loopback_address"),
    ] {
        let mut plan = Plan::for_origin(&origin);
        plan.settings.hosts.insert(NAME.to_owned(), address.parse().unwrap());
        let rig = Rig::new(&plan, &shutdown).unwrap();
        let workspace = rig.workspace("w1", &rule(&origin, ""));
        let reply = workspace.ask(&origin, "GET /v1/a", "").await;
        assert_eq!((reply.status, &reply.json()["reason"]), (403, &reason.into()), "{address}");
        assert_eq!(rig.records()[0]["decision"], "deny");
    }
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn loopback_is_denied_but_for_the_operators_host_services() {
    let shutdown = Shutdown::new();
    let origin = origin(&shutdown).await;
    let mut plan = Plan::for_origin(&origin);
    plan.settings.host_services = vec![SocketAddr::new(origin.address.ip(), 1)];
    let rig = Rig::new(&plan, &shutdown).unwrap();
    let workspace = rig.workspace("w1", &rule(&origin, ""));
    assert_eq!(workspace.ask(&origin, "GET /v1/a", "").await.status, 403);
}

/// A resolver that answers every question of type A with these addresses.
async fn resolver(addresses: &'static [&'static str], shutdown: &Shutdown) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    shutdown.spawn_until_cancelled(async move {
        let mut buffer = [0; 1500];
        loop {
            let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
            let mut message = Message::from_vec(&buffer[..length]).unwrap();
            message.metadata.message_type = MessageType::Response;
            let question = message.queries[0].clone();
            for address in addresses.iter().filter(|_| question.query_type() == RecordType::A) {
                let IpAddr::V4(v4) = address.parse().unwrap() else { continue };
                message.add_answer(Record::from_rdata(question.name().clone(), 0, RData::A(v4.into())));
            }
            socket.send_to(&message.to_vec().unwrap(), peer).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn e_13_a_name_with_one_denied_address_among_good_ones_is_refused() {
    let shutdown = Shutdown::new();
    let origin = origin(&shutdown).await;
    for (addresses, status) in [
        (&["127.0.0.1"][..], 200),
        (&["127.0.0.1", "10.0.0.1"], 403),
        (&["169.254.169.254"], 403),
        (&[], 502),
    ] {
        let mut plan = Plan::for_origin(&origin);
        plan.settings.hosts.clear();
        plan.settings.resolver = Some(resolver(addresses, &shutdown).await);
        let rig = Rig::new(&plan, &shutdown).unwrap();
        let workspace = rig.workspace("w1", &rule(&origin, ""));
        assert_eq!(workspace.ask(&origin, "GET /v1/a", "").await.status, status, "{addresses:?}");
    }
    assert_eq!(origin.connections(), 1);
}

/// A proxy that notes whom it was asked for, and connects or refuses.
async fn proxy(accept: bool, shutdown: &Shutdown) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let notes = asked.clone();
    shutdown.spawn_until_cancelled(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let line = String::from_utf8(head).unwrap().lines().next().unwrap().to_owned();
            let target = line.split(' ').nth(1).unwrap().to_owned();
            notes.lock().unwrap().push(line);
            if !accept {
                stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await.unwrap();
                continue;
            }
            let mut origin = TcpStream::connect(target).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            drop(copy_bidirectional(&mut stream, &mut origin).await);
        }
    });
    (address, asked)
}

#[tokio::test]
async fn e_22_the_parent_proxy_is_asked_for_the_checked_address_and_its_failure_is_final() {
    let shutdown = Shutdown::new();
    let origin = origin(&shutdown).await;
    for (accept, status) in [(true, 200), (false, 502)] {
        let (address, asked) = proxy(accept, &shutdown).await;
        let mut plan = Plan::for_origin(&origin);
        plan.settings.parent_proxy = Some(format!("http://{address}"));
        let rig = Rig::new(&plan, &shutdown).unwrap();
        let workspace = rig.workspace("w1", &rule(&origin, ""));
        assert_eq!(workspace.ask(&origin, "GET /v1/a", "").await.status, status);
        assert_eq!(*asked.lock().unwrap(), [format!("CONNECT {} HTTP/1.1", origin.address)]);
    }
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn unusable_settings_are_refused_at_start() {
    let shutdown = Shutdown::new();
    let origin = origin(&shutdown).await;
    let refused = |change: fn(&mut Plan)| {
        let mut plan = Plan::for_origin(&origin);
        change(&mut plan);
        Rig::new(&plan, &shutdown).err().expect("a refusal")
    };
    for proxy in ["https://p.example:1", "p.example", "http://u:p@p.example:1", "http://p.example"] {
        let mut plan = Plan::for_origin(&origin);
        plan.settings.parent_proxy = Some(proxy.to_owned());
        assert!(matches!(Rig::new(&plan, &shutdown).err(), Some(EgressError::Proxy(_))), "{proxy}");
    }
    let root = refused(|plan| plan.settings.root_documents.push("nothing".to_owned()));
    assert!(matches!(root, EgressError::Trust(_)));
    let host = refused(|plan| plan.settings.hosts.extend([("a b".to_owned(), IpAddr::from([1, 1, 1, 1]))]));
    assert!(matches!(host, EgressError::Resolve(_)));
}

#[tokio::test]
async fn a_secret_that_can_not_be_opened_gets_502_and_nothing_is_sent() {
    let shutdown = Shutdown::new();
    let origin = origin(&shutdown).await;
    let port = origin.address.port();
    let document = |extra: &str| {
        format!(
            "version: 1\ncredentials:\n  - {{ name: token, kind: bearer, source: {{ env: T }}, hosts: [{NAME}], ports: [{port}]{extra} }}\n"
        )
    };
    for (extra, secret, reason) in [
        ("", None, "credential_unavailable"),
        (", paths: [/elsewhere]", Some("s"), "credential_not_admitted"),
    ] {
        let plan = Plan { credentials: document(extra), secret, ..Plan::for_origin(&origin) };
        let rig = Rig::new(&plan, &shutdown).unwrap();
        let workspace = rig.workspace("w1", &rule(&origin, ", credential: token"));
        let reply = workspace.ask(&origin, "GET /v1/a", "").await;
        assert_eq!((reply.status, &reply.json()["reason"]), (502, &reason.into()));
        assert_eq!(rig.records()[1]["reason"], reason);
    }
    assert_eq!(origin.connections(), 0);
}
