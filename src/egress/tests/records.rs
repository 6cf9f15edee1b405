//! The audit log: what is in it, when, and what happens without it.

use std::fs;
use std::sync::{Arc, Mutex};

use http::Response;
use http_body_util::Full;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::AsyncReadExt as _;

use super::client::exchange;
use super::origin::{ok, start};
use super::rig::{NAME, Plan, Rig, SECRET, message, rule};
use crate::egress::Audit;
use crate::egress::audit::{Facts, Kind, Outcome, Trail};
use crate::shutdown::Shutdown;

fn facts(path: &str) -> Facts {
    Facts { host: "a.example".to_owned(), path: Some(path.to_owned()), ..Facts::default() }
}

#[tokio::test]
async fn o_01_a_request_is_recorded_before_the_origin_sees_it_and_has_one_end() {
    let shutdown = Shutdown::new();
    let log: Arc<Mutex<Option<std::path::PathBuf>>> = Arc::default();
    let file = log.clone();
    let origin = start(
        Some(NAME),
        Arc::new(move |_| {
            Response::new(Full::from(fs::read_to_string(file.lock().unwrap().as_ref().unwrap()).unwrap()))
        }),
        &shutdown,
    )
    .await;
    let rig = Rig::new(&Plan::for_origin(&origin), &shutdown).unwrap();
    *log.lock().unwrap() = Some(rig.audit_file.clone());
    let workspace = rig.workspace("w1", &rule(&origin, ""));
    let mut stream = workspace.open(&origin).await;
    let reply = exchange(&mut stream, &message(&origin, "GET /v1/a?secret=1", "Connection: close\r\n")).await;
    let then: serde_json::Value = reply.json();
    assert_eq!((&then["kind"], &then["decision"]), (&"request".into(), &"allow".into()));
    assert_eq!((&then["path"], &then["method"]), (&"/v1/a".into(), &"GET".into()));
    assert_eq!((&then["address"], &then["rule"]), (&"127.0.0.1".into(), &"api".into()));
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    let records = rig.records();
    assert_eq!(records.len(), 2);
    assert_eq!((&records[1]["kind"], &records[1]["id"]), (&"end".into(), &records[0]["id"]));
    assert_eq!((&records[1]["status"], &records[1]["bytes_down"]), (&200.into(), &reply.body.len().into()));
}

#[tokio::test]
async fn h_06_origin_and_log_agree_on_every_request_that_got_through() {
    let shutdown = Shutdown::new();
    let origin = start(Some(NAME), ok(), &shutdown).await;
    let rig = Rig::new(&Plan::for_origin(&origin), &shutdown).unwrap();
    let workspace = rig.workspace("w1", &rule(&origin, ", methods: [GET, PUT, DELETE]"));
    let parts = [
        "a", "B", "/", "//", ".", "..", "%2e", "%41", "%2f", "%20", ";x", "~", "+", "?q=1", "%25", "\\", "=",
        "&",
    ];
    let mut random = rand::rngs::StdRng::seed_from_u64(6);
    for _ in 0..300 {
        let method = ["GET", "PUT", "DELETE"].choose(&mut random).unwrap();
        let tail: String =
            (0..random.random_range(1..6)).map(|_| *parts.choose(&mut random).unwrap()).collect();
        let reply = workspace.ask(&origin, &format!("{method} /v1/{tail}"), "").await;
        assert!(matches!(reply.status, 200 | 400 | 403), "{tail}: {}", reply.status);
    }
    let seen: Vec<(String, String)> = origin
        .seen()
        .into_iter()
        .map(|seen| (seen.method, seen.target.split('?').next().unwrap().to_owned()))
        .collect();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let allowed: Vec<(String, String)> = rig
        .records()
        .iter()
        .filter(|record| record["decision"] == "allow")
        .map(|record| (text(&record["method"]), text(&record["path"])))
        .collect();
    assert!(seen.len() > 50);
    assert_eq!(seen, allowed);
}

#[tokio::test]
async fn o_02_if_nothing_can_be_recorded_nothing_goes_out() {
    let shutdown = Shutdown::new();
    let origin = start(Some(NAME), ok(), &shutdown).await;
    let plan = Plan { audit: Some("/dev/full".into()), ..Plan::for_origin(&origin) };
    let rig = Rig::new(&plan, &shutdown).unwrap();
    let workspace = rig.workspace("w1", &rule(&origin, ""));
    let reply = workspace.ask(&origin, "GET /v1/a", "").await;
    assert_eq!((reply.status, &reply.json()["reason"]), (503, &"audit_unavailable".into()));
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn o_05_no_secret_and_no_query_is_in_the_log_or_in_an_answer() {
    let shutdown = Shutdown::new();
    let origin = start(Some(NAME), ok(), &shutdown).await;
    let port = origin.address.port();
    let credentials = format!(
        "version: 1\ncredentials:\n  - {{ name: token, kind: query, parameter: key, source: {{ env: T }}, hosts: [{NAME}], ports: [{port}] }}\n"
    );
    let rig = Rig::new(&Plan { credentials, ..Plan::for_origin(&origin) }, &shutdown).unwrap();
    let workspace = rig.workspace("w1", &rule(&origin, ", credential: token"));
    let reply = workspace.ask(&origin, "GET /v1/a?q=private", "X-Private: private\r\n").await;
    let log = fs::read_to_string(&rig.audit_file).unwrap();
    for canary in [SECRET, "canary", "private"] {
        assert!(
            !log.contains(canary) && !reply.head.contains(canary) && !reply.body.contains(canary),
            "{canary}"
        );
    }
    assert_eq!(rig.records()[0]["credential"], "token");
}

#[test]
fn o_04_no_content_forges_a_record() {
    let directory = tempfile::tempdir().unwrap();
    let trail = Trail::new(Arc::new(Audit::open(directory.path()).unwrap()), "w1", 3);
    let hostile = "/a\n{\"seq\":1}\r\u{1b}[2J\"\\\u{2028}\0";
    trail.deny(Kind::Request, &facts(hostile));
    trail.deny(Kind::Request, &facts(&"ä".repeat(10_000)));
    let text = fs::read_to_string(directory.path().join("audit.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["path"], hostile);
    assert!(lines[1]["path"].as_str().unwrap().len() < 4200);
    assert_eq!((&lines[0]["workspace"], &lines[0]["generation"]), (&"w1".into(), &3.into()));
}

#[test]
fn a_torn_last_line_is_cut_and_numbers_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.jsonl");
    for torn in ["", "{\"seq\":99", "\0\0\0"] {
        let trail = Trail::new(Arc::new(Audit::open(directory.path()).unwrap()), "w1", 1);
        let long = "/".repeat(4000);
        for _ in 0..20 {
            trail.allow(Kind::Request, &facts(&long)).unwrap().end(&Outcome::default());
        }
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text + torn).unwrap();
    }
    drop(Audit::open(directory.path()).unwrap());
    let text = fs::read_to_string(&file).unwrap();
    let numbers: Vec<u64> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (1..=120).collect::<Vec<u64>>());
}
