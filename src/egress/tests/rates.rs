//! Rates of rules: exact in any span, the same on every connection, of one workspace.

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::client::exchange;
use super::origin::{ok, start};
use super::rig::{NAME, Plan, Rig, message, rule};
use crate::egress::names;
use crate::egress::rates::Rates;
use crate::policy::{Host, Path, Policy, Request, Scheme};
use crate::shutdown::Shutdown;

#[test]
fn y_13_no_span_of_time_has_more_uses_than_the_rate() {
    let text = "version: 1\negress:\n  rules:\n    - { name: api, hosts: [a.example], rate: 3/min }\n";
    let policy = Policy::parse(text, "p").unwrap();
    let (host, path) = (Host::parse("a.example").unwrap(), Path::parse("/").unwrap());
    let (scheme, port, method) = (Scheme::Https, 443, "GET");
    let request = Request { scheme, host: &host, port, method, path: &path, websocket: false };
    let permit = policy.decide(&request).unwrap();
    let (rates, begun) = (Rates::default(), Instant::now());
    let at = |seconds: u64| rates.take(&permit, begun + Duration::from_secs(seconds));
    for second in [0, 10, 20] {
        at(second).unwrap();
    }
    assert_eq!(at(21).unwrap_err().seconds(), 39);
    at(60).unwrap();
    assert_eq!(at(69).unwrap_err().to_string(), "a.example:443: the rule api lets 3/min through");
    at(70).unwrap();
}

#[tokio::test]
async fn y_13_the_sixty_first_request_gets_429_with_a_wait_on_any_connection() {
    let shutdown = Shutdown::new();
    let origin = start(Some(NAME), ok(), &shutdown).await;
    let rig = Rig::new(&Plan::for_origin(&origin), &shutdown).unwrap();
    let port = origin.address.port();
    let free = format!("    - {{ name: free, hosts: [{NAME}], ports: [{port}], paths: [/v2] }}\n");
    let rules = rule(&origin, ", rate: 60/h") + &free;
    let (workspace, beside) = (rig.workspace("w1", &rules), rig.workspace("w2", &rules));
    for _ in 0..6 {
        let mut stream = workspace.open(&origin).await;
        for _ in 0..10 {
            assert_eq!(exchange(&mut stream, &message(&origin, "GET /v1/a", "")).await.status, 200);
        }
    }
    let refused = workspace.ask(&origin, "GET /v1/a", "").await;
    assert_eq!((refused.status, &refused.json()["reason"]), (429, &"rate_exceeded".into()));
    assert_eq!((&refused.json()["rule"], &refused.json()["error"]), (&"api".into(), &"egress_denied".into()));
    assert!(refused.head.contains("retry-after: 3"), "{}", refused.head);
    assert_eq!(workspace.ask(&origin, "GET /v2", "").await.status, 200);
    assert_eq!(beside.ask(&origin, "GET /v1/a", "").await.status, 200);
    assert_eq!(origin.seen().len(), 62);
    let denied = rig.records().into_iter().find(|record| record["decision"] == "deny").unwrap();
    assert_eq!((&denied["reason"], &denied["rule"]), (&"rate_exceeded".into(), &"api".into()));
}

#[tokio::test]
async fn y_13_an_unread_connection_counts_once() {
    let shutdown = Shutdown::new();
    let origin = start(None, ok(), &shutdown).await;
    let rig = Rig::new(&Plan::for_origin(&origin), &shutdown).unwrap();
    let port = origin.address.port();
    let raw = format!("    - {{ name: raw, hosts: [{NAME}], ports: [{port}], protocol: tcp, rate: 1/h }}\n");
    let workspace = rig.workspace("w1", &raw);
    workspace.aim((names::v4(0), port));
    let mut first = TcpStream::connect(workspace.listener).await.unwrap();
    for _ in 0..2 {
        assert_eq!(exchange(&mut first, &message(&origin, "GET /v1/a", "")).await.status, 200);
    }
    let mut second = TcpStream::connect(workspace.listener).await.unwrap();
    assert!(second.read_u8().await.is_err());
    assert_eq!(origin.connections(), 1);
}
