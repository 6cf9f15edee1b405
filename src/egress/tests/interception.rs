//! Requests through ended TLS: what the origin gets, what the client is told.

use http::Response;
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::client::{connect_tls, exchange, read_head, read_reply, trusting};
use super::origin::{Origin, ok, start};
use super::rig::{NAME, OTHER, Plan, Rig, SECRET, Workspace, message, rule};
use crate::egress::names;
use crate::shutdown::Shutdown;

const ANY: &str = ", methods: [GET, HEAD, POST, PUT]";

async fn setup(more: &str) -> (Rig, Workspace, Origin) {
    let shutdown = Shutdown::new();
    let origin = start(Some(NAME), ok(), &shutdown).await;
    let rig = Rig::new(&Plan::for_origin(&origin), &shutdown).unwrap();
    let workspace = rig.workspace("w1", &rule(&origin, more));
    (rig, workspace, origin)
}

async fn with_credential(credential: &str) -> (Rig, Workspace, Origin) {
    let shutdown = Shutdown::new();
    let origin = start(Some(NAME), ok(), &shutdown).await;
    let port = origin.address.port();
    let credentials = format!(
        "version: 1\ncredentials:\n  - {{ name: token, source: {{ env: TOKEN }}, hosts: [\"{NAME}\"], ports: [{port}], {credential} }}\n"
    );
    let rig = Rig::new(&Plan { credentials, ..Plan::for_origin(&origin) }, &shutdown).unwrap();
    let workspace = rig.workspace("w1", &rule(&origin, ", credential: token"));
    (rig, workspace, origin)
}

#[tokio::test]
async fn an_allowed_request_arrives_with_the_real_token_and_without_the_clients() {
    let (_rig, workspace, origin) = with_credential("kind: bearer").await;
    let headers = "Authorization: Bearer mine\r\nProxy-Authorization: Basic eDp5\r\nAccept: text/plain\r\n";
    let reply = workspace.ask(&origin, "GET /v1/items?page=2", headers).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "hello"));
    let seen = &origin.seen()[0];
    assert_eq!(seen.headers.get_all("authorization").iter().count(), 1);
    assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {SECRET}")));
    assert_eq!(seen.header("proxy-authorization"), None);
    assert_eq!(seen.header("accept"), Some("text/plain"));
    assert_eq!(seen.target, "/v1/items?page=2");
}

#[tokio::test]
async fn a_header_credential_replaces_every_spelling_of_its_header() {
    let (_rig, workspace, origin) = with_credential("kind: header, header: x-api-key").await;
    let headers = "X-API-KEY: mine\r\nx_api_key: mine\r\nAuthorization: mine\r\n";
    assert_eq!(workspace.ask(&origin, "GET /v1/items", headers).await.status, 200);
    let seen = &origin.seen()[0];
    assert_eq!(seen.header("x-api-key"), Some(SECRET));
    assert_eq!((seen.header("x_api_key"), seen.header("authorization")), (None, None));
}

#[tokio::test]
async fn a_query_credential_replaces_the_clients_parameter() {
    let (_rig, workspace, origin) = with_credential("kind: query, parameter: key").await;
    assert_eq!(workspace.ask(&origin, "GET /v1/items?a=1&k%65y=mine&key=mine&b=2", "").await.status, 200);
    assert_eq!(origin.seen()[0].target, "/v1/items?a=1&b=2&key=canary%2D5e7f1c");
}

#[tokio::test]
async fn a_basic_credential_is_encoded() {
    let (_rig, workspace, origin) = with_credential("kind: basic").await;
    assert_eq!(workspace.ask(&origin, "GET /v1/items", "").await.status, 200);
    assert_eq!(origin.seen()[0].header("authorization"), Some("Basic Y2FuYXJ5LTVlN2YxYw=="));
}

#[tokio::test]
async fn h_28_a_denial_is_a_403_with_json_that_names_rule_reason_and_how_to_ask() {
    let (_rig, workspace, origin) = setup("").await;
    let reply = workspace.ask(&origin, "GET /admin", "").await;
    assert_eq!(reply.status, 403);
    assert!(reply.head.contains("x-hands-denied: no_rule_for_path\r\n"), "{}", reply.head);
    let json = reply.json();
    assert_eq!(json["error"], "egress_denied");
    assert_eq!(json["rule"], "api");
    assert_eq!(json["reason"], "no_rule_for_path");
    assert_eq!((&json["host"], &json["path"]), (&NAME.into(), &"/admin".into()));
    assert!(json["remedy"].as_str().unwrap().contains("/admin"));
    assert!(origin.seen().is_empty());
    assert!(workspace.denials()[0].starts_with(&format!("{NAME}:{}: GET /admin", origin.address.port())));
}

#[tokio::test]
async fn h_02_every_request_of_a_connection_is_judged_and_h_29_a_denial_ends_only_its_request() {
    let (_rig, workspace, origin) = setup("").await;
    let mut stream = workspace.open(&origin).await;
    for (path, status) in [("/v1/a", 200), ("/admin", 403), ("/v1/b", 200)] {
        assert_eq!(exchange(&mut stream, &message(&origin, &format!("GET {path}"), "")).await.status, status);
    }
    let pair = message(&origin, "GET /v1/c", "") + &message(&origin, "GET /admin", "");
    assert_eq!(exchange(&mut stream, &pair).await.status, 200);
    assert_eq!(read_reply(&mut stream).await.status, 403);
    let targets: Vec<String> = origin.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/v1/a", "/v1/b", "/v1/c"]);
}

#[tokio::test]
async fn h_01_a_host_that_is_not_the_connections_gets_421() {
    let (_rig, workspace, origin) = setup("").await;
    let port = origin.address.port();
    for host in [OTHER.to_owned(), format!("{OTHER}:{port}"), format!("{NAME}:444"), NAME.to_owned()] {
        let mut stream = workspace.open(&origin).await;
        let text = format!("GET /v1/a HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(exchange(&mut stream, &text).await.status, 421, "{host}");
    }
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn h_01_a_server_name_that_is_not_the_addresss_gets_an_alert() {
    let (rig, workspace, origin) = setup("").await;
    workspace.aim((names::v4(0), origin.address.port()));
    let error = connect_tls(workspace.listener, trusting(&workspace.root), OTHER).await.unwrap_err();
    assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    assert_eq!(rig.records()[0]["reason"], "server_name_mismatch");
    let mut anonymous = trusting(&workspace.root);
    anonymous.enable_sni = false;
    connect_tls(workspace.listener, anonymous, NAME).await.unwrap_err();
    assert_eq!(rig.records().len(), 2);
}

#[tokio::test]
async fn h_08_an_absolute_target_must_name_the_same_authority() {
    let (_rig, workspace, origin) = setup("").await;
    let port = origin.address.port();
    let targets = [
        (format!("https://{NAME}:{port}/v1/a"), 200),
        (format!("https://{OTHER}:{port}/v1/a"), 421),
        (format!("http://{NAME}:{port}/v1/a"), 421),
        (format!("https://{OTHER}@{NAME}:{port}/v1/a"), 400),
    ];
    for (target, status) in targets {
        assert_eq!(workspace.ask(&origin, &format!("GET {target}"), "").await.status, status, "{target}");
    }
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn h_04_ambiguous_framing_gets_400() {
    let (rig, workspace, origin) = setup(ANY).await;
    let corpus = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked \u{b}\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Host: other.example\r\n",
    ];
    for headers in corpus {
        assert_eq!(workspace.ask(&origin, "POST /v1/a", headers).await.status, 400, "{headers}");
    }
    assert_eq!(origin.connections(), 0);
    assert_eq!(rig.records().len(), corpus.len());
}

#[tokio::test]
async fn h_07_a_path_that_could_mean_two_things_gets_400() {
    let (_rig, workspace, origin) = setup("").await;
    for path in ["/v1/%2f", "/v1/..%2fadmin", "/v1/%252e", "/v1/a%5cb", "/v1/%ff", "*"] {
        assert_eq!(workspace.ask(&origin, &format!("GET {path}"), "").await.status, 400, "{path}");
    }
    assert_eq!(workspace.ask(&origin, "GET /v1/../admin", "").await.status, 403);
    assert_eq!(workspace.ask(&origin, "GET /v1//a/./b/../%63", "").await.status, 200);
    assert_eq!(origin.seen()[0].target, "/v1/a/c");
}

#[tokio::test]
async fn h_09_connect_and_trace_are_refused_and_h_10_h2c_is_dropped() {
    let (_rig, workspace, origin) = setup(ANY).await;
    assert_eq!(workspace.ask(&origin, "CONNECT evil.example:443", "").await.status, 405);
    assert_eq!(workspace.ask(&origin, "TRACE /v1/a", "").await.status, 405);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    assert_eq!(workspace.ask(&origin, "GET /v1/a", upgrade).await.status, 400);
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    assert_eq!(workspace.ask(&origin, "GET /v1/a", h2c).await.status, 200);
    assert_eq!(origin.seen()[0].header("upgrade"), None);
}

#[tokio::test]
async fn h_11_connection_can_not_name_an_end_to_end_header() {
    let (_rig, workspace, origin) = setup("").await;
    let named = "Connection: x-api-key\r\nX-Api-Key: 1\r\n";
    assert_eq!(workspace.ask(&origin, "GET /v1/a", named).await.status, 400);
    let hop =
        "Connection: keep-alive, te\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\nProxy-Connection: close\r\n";
    assert_eq!(workspace.ask(&origin, "GET /v1/a", hop).await.status, 200);
    let seen = &origin.seen()[0];
    for name in ["connection", "keep-alive", "te", "proxy-connection"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn h_31_alt_svc_is_removed_and_a_redirect_is_passed_on() {
    let shutdown = Shutdown::new();
    let redirect = || {
        let answer = Response::builder().status(302).header("location", "https://evil.example/");
        answer.header("alt-svc", "h3=\":443\"").body(Full::default()).unwrap()
    };
    let origin = start(Some(NAME), std::sync::Arc::new(move |_| redirect()), &shutdown).await;
    let rig = Rig::new(&Plan::for_origin(&origin), &shutdown).unwrap();
    let workspace = rig.workspace("w1", &rule(&origin, ""));
    let reply = workspace.ask(&origin, "GET /v1/a", "").await;
    assert_eq!(reply.status, 302);
    assert!(reply.head.contains("location: https://evil.example/"));
    assert!(!reply.head.contains("alt-svc"));
}

#[tokio::test]
async fn h_22_bodies_of_both_framings_and_100_continue_arrive_whole() {
    let (_rig, workspace, origin) = setup(ANY).await;
    let mut stream = workspace.open(&origin).await;
    let chunked =
        message(&origin, "POST /v1/a", "Transfer-Encoding: chunked\r\n") + "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert_eq!(exchange(&mut stream, &chunked).await.status, 200);
    let expecting = message(&origin, "PUT /v1/a", "Content-Length: 5\r\nExpect: 100-continue\r\n");
    assert_eq!(exchange(&mut stream, &expecting).await.status, 100);
    assert_eq!(exchange(&mut stream, "12345").await.status, 200);
    let seen = origin.seen();
    assert_eq!((&seen[0].body[..], &seen[1].body[..]), (&b"abcde"[..], &b"12345"[..]));
    assert_eq!((&*seen[0].method, &*seen[1].method), ("POST", "PUT"));
    stream.write_all(message(&origin, "HEAD /v1/a", "").as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.contains("content-length: 5\r\n"));
    assert_eq!(exchange(&mut stream, &message(&origin, "GET /v1/a", "")).await.body, "hello");
}

#[tokio::test]
async fn h_23_a_large_body_streams_back() {
    let shutdown = Shutdown::new();
    let origin =
        start(Some(NAME), std::sync::Arc::new(|_| Response::new(Full::from(vec![b'x'; 4 << 20]))), &shutdown);
    let origin = origin.await;
    let rig = Rig::new(&Plan::for_origin(&origin), &shutdown).unwrap();
    let workspace = rig.workspace("w1", &rule(&origin, ""));
    let mut stream = workspace.open(&origin).await;
    let request = message(&origin, "GET /v1/a", "Connection: close\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert!(all.len() > 4 << 20);
}

#[tokio::test]
async fn h_32_cleartext_is_judged_by_the_same_function_and_needs_its_own_permission() {
    let shutdown = Shutdown::new();
    let origin = start(None, ok(), &shutdown).await;
    let rig = Rig::new(&Plan::for_origin(&origin), &shutdown).unwrap();
    let closed = rig.workspace("w1", &rule(&origin, ""));
    let open = rig.workspace("w2", &rule(&origin, ", cleartext: true"));
    for (workspace, path, status) in [(&closed, "/v1/a", 403), (&open, "/v1/a", 200), (&open, "/admin", 403)]
    {
        workspace.aim((names::v4(0), origin.address.port()));
        let mut stream = TcpStream::connect(workspace.listener).await.unwrap();
        let request = message(&origin, &format!("GET {path}"), "");
        assert_eq!(exchange(&mut stream, &request).await.status, status, "{path}");
    }
    assert_eq!(origin.seen().len(), 1);
}

/// An origin of cleartext that a test plays itself, and a client's connection to it.
async fn raw_origin() -> (Rig, Workspace, TcpListener, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let shutdown = Shutdown::new();
    let mut origin = start(None, ok(), &shutdown).await;
    origin.address = listener.local_addr().unwrap();
    let rig = Rig::new(&Plan::for_origin(&origin), &shutdown).unwrap();
    let workspace = rig.workspace("w1", &rule(&origin, ", cleartext: true, methods: [GET, POST]"));
    workspace.aim((names::v4(0), origin.address.port()));
    let mut client = TcpStream::connect(workspace.listener).await.unwrap();
    let head = "Transfer-Encoding: chunked\r\n";
    client.write_all(message(&origin, "POST /v1/a", head).as_bytes()).await.unwrap();
    (rig, workspace, listener, client)
}

#[tokio::test]
async fn h_23_chunks_arrive_as_they_are_sent_in_both_directions() {
    let (_rig, _workspace, listener, mut client) = raw_origin().await;
    let (mut server, _) = listener.accept().await.unwrap();
    read_head(&mut server).await;
    server.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    read_head(&mut client).await;
    let mut chunk = [0; 8];
    for _ in 0..3 {
        client.write_all(b"3\r\nabc\r\n").await.unwrap();
        server.read_exact(&mut chunk).await.unwrap();
        assert_eq!(&chunk, b"3\r\nabc\r\n");
        server.write_all(b"3\r\nxyz\r\n").await.unwrap();
        client.read_exact(&mut chunk).await.unwrap();
        assert_eq!(&chunk, b"3\r\nxyz\r\n");
    }
}

#[tokio::test]
async fn h_22_a_client_that_goes_away_ends_the_upstream_exchange() {
    let (rig, _workspace, listener, client) = raw_origin().await;
    let (mut server, _) = listener.accept().await.unwrap();
    read_head(&mut server).await;
    drop(client);
    let mut rest = Vec::new();
    // Cut, not ended: the body has no last chunk.
    server.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    let records = rig.records();
    assert_eq!((&records[1]["kind"], &records[1]["reason"]), (&"end".into(), &"client_closed".into()));
}
