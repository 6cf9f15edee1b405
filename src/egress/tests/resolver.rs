//! A workspace's resolver, asked over real sockets.

use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::rig::{NAME, Plan, Rig, Workspace};
use crate::egress::Settings;
use crate::egress::dns::Zone;
use crate::egress::dns_server::Rate;
use crate::egress::names::{v4, v6};
use crate::shutdown::Shutdown;

const RULES: &str = "    - { name: api, hosts: [api.example, \"*.wild.example\"] }\n";

fn setup_with(audit: Option<&str>) -> (Rig, Workspace) {
    let plan = Plan {
        settings: Settings::default(),
        credentials: "version: 1\ncredentials: []\n".to_owned(),
        secret: None,
        audit: audit.map(Into::into),
    };
    let rig = Rig::new(&plan, &Shutdown::new()).unwrap();
    let workspace = rig.workspace("w1", RULES);
    (rig, workspace)
}

fn question(name: &str, kind: RecordType, edns: bool) -> Vec<u8> {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if edns {
        message.set_edns(Edns::new());
    }
    message.to_vec().unwrap()
}

async fn ask_raw(workspace: &Workspace, query: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(query, workspace.dns_udp).await.unwrap();
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer).await.unwrap();
    buffer.truncate(length);
    buffer
}

async fn ask(workspace: &Workspace, name: &str, kind: RecordType, edns: bool) -> Message {
    let answer = Message::from_vec(&ask_raw(workspace, &question(name, kind, edns)).await).unwrap();
    assert_eq!(answer.metadata.id, 77);
    answer
}

#[tokio::test]
async fn e_06_a_name_that_no_rule_could_allow_gets_nxdomain_with_an_extended_error() {
    let (rig, workspace) = setup_with(None);
    let answer = ask(&workspace, "data.evil.example.", RecordType::A, true).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    let edns = answer.edns.unwrap();
    let options = edns.options().as_ref();
    assert_eq!(options[0].1, EdnsOption::Unknown(15, b"\x00\x0fno rule names this host".to_vec()));
    assert!(ask(&workspace, "data.evil.example.", RecordType::A, false).await.edns.is_none());
    assert_eq!(rig.records()[0]["host"], "data.evil.example");
    assert_eq!(workspace.denials(), ["data.evil.example: no rule names this host"]);
    assert!(workspace.remembered.lock().unwrap().is_empty());
}

#[tokio::test]
async fn both_kinds_of_address_of_a_denied_name_are_one_denial_per_command() {
    let (_rig, workspace) = setup_with(None);
    let attached = workspace.attached.as_ref().unwrap();
    for _ in 0..2 {
        let mark = attached.mark();
        for name in ["one.evil.example", "two.evil.example"] {
            ask(&workspace, name, RecordType::A, true).await;
        }
        for name in ["two.evil.example", "one.evil.example"] {
            ask(&workspace, name, RecordType::AAAA, true).await;
        }
        assert_eq!(attached.denials_since(mark).1, 2);
        ask(&workspace, "one.evil.example", RecordType::AAAA, true).await;
        assert_eq!(attached.denials_since(mark).1, 3, "a second look is a second denial");
    }
}

#[tokio::test]
async fn e_11_an_allowed_name_has_one_address_that_is_kept_and_recorded_once() {
    let (rig, workspace) = setup_with(None);
    for name in ["a.wild.example.", "A.Wild.Example."] {
        let answer = ask(&workspace, name, RecordType::A, false).await;
        assert_eq!(answer.answers[0].data, RData::A(v4(2).into()));
        assert_eq!(answer.queries[0].name().to_ascii(), name);
        let answer = ask(&workspace, name, RecordType::AAAA, true).await;
        assert_eq!(answer.answers[0].data, RData::AAAA(v6(2).into()));
    }
    assert_eq!(*workspace.remembered.lock().unwrap(), [("a.wild.example".to_owned(), 2)]);
    assert_eq!(rig.records().len(), 1);
}

#[tokio::test]
async fn e_10_other_types_of_an_allowed_name_carry_nothing() {
    let (_rig, workspace) = setup_with(None);
    for kind in [RecordType::HTTPS, RecordType::SVCB, RecordType::TXT, RecordType::NULL, RecordType::ANY] {
        let answer = ask(&workspace, "api.example.", kind, true).await;
        assert_eq!(
            (answer.metadata.response_code, answer.answers.len()),
            (ResponseCode::NoError, 0),
            "{kind}"
        );
    }
}

#[tokio::test]
async fn localhost_is_the_workspaces_own() {
    let (_rig, workspace) = setup_with(None);
    for name in ["localhost.", "app.localhost."] {
        let answer = ask(&workspace, name, RecordType::A, false).await;
        assert_eq!(answer.answers[0].data, RData::A(Ipv4Addr::LOCALHOST.into()));
        assert!(ask(&workspace, name, RecordType::MX, false).await.answers.is_empty());
    }
}

#[tokio::test]
async fn e_08_malformed_questions_cost_an_error_and_nothing_else() {
    let (_rig, workspace) = setup_with(None);
    let valid = question("api.example.", RecordType::A, false);
    let mut looped = valid.clone();
    looped.splice(12..25, [0xc0, 12]);
    let mut two = valid.clone();
    two[5] = 2;
    let mut status = valid.clone();
    status[2] |= 0x10;
    for (message, code) in [
        (&valid[..20], ResponseCode::FormErr),
        (&looped[..], ResponseCode::FormErr),
        (&two[..], ResponseCode::FormErr),
        (&status[..], ResponseCode::NotImp),
    ] {
        let answer = Message::from_vec(&ask_raw(&workspace, message).await).unwrap();
        assert_eq!((answer.metadata.response_code, answer.metadata.id), (code, 77));
    }
    let mut response = valid.clone();
    response[2] |= 0x80;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for silent in [&b"short"[..], &response[..], &valid[..]] {
        socket.send_to(silent, workspace.dns_udp).await.unwrap();
    }
    // The first answer is the one to the valid question: the others got none.
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).await.unwrap();
    assert_eq!(Message::from_vec(&buffer[..length]).unwrap().answers.len(), 1);
}

#[tokio::test]
async fn e_08_tcp_answers_the_same_on_one_connection() {
    let (_rig, workspace) = setup_with(None);
    let mut stream = TcpStream::connect(workspace.dns_tcp).await.unwrap();
    for _ in 0..3 {
        let query = question(&format!("{NAME}."), RecordType::A, true);
        stream.write_u16(u16::try_from(query.len()).unwrap()).await.unwrap();
        stream.write_all(&query).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(Message::from_vec(&answer).unwrap().answers[0].data, RData::A(v4(0).into()));
    }
}

#[tokio::test]
async fn e_17_names_with_odd_bytes_are_refused_and_answers_fit_512_bytes() {
    let (_rig, workspace) = setup_with(None);
    let (long, longer) = ([b'a'; 63], [b'b'; 61]);
    let names: [&[&[u8]]; 6] = [
        &[b"api", b"example\0", b"evil"],
        &[b"a.b", b"wild", b"example"],
        &[b"a%b", b"wild", b"example"],
        &[b"\xff\xfe", b"wild", b"example"],
        &[b"2130706433"],
        &[&long, &long, &long, &longer],
    ];
    for labels in names {
        // Header, name, type A, class IN, and an empty EDNS record.
        let mut query = vec![0, 77, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        for label in labels {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend_from_slice(label);
        }
        query.extend_from_slice(&[0, 0, 1, 0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        let raw = ask_raw(&workspace, &query).await;
        assert!(raw.len() <= 512);
        // Low four bits of the fourth byte: NXDOMAIN, or FORMERR for what is no name at all.
        assert!(matches!(raw[3] & 15, 1 | 3), "{labels:?}");
    }
    assert!(workspace.remembered.lock().unwrap().is_empty());
}

#[tokio::test]
async fn o_02_a_new_name_that_can_not_be_recorded_is_not_resolved() {
    let (_rig, workspace) = setup_with(Some("/dev/full"));
    for _ in 0..2 {
        let answer = ask(&workspace, "new.wild.example.", RecordType::A, false).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }
    assert!(workspace.remembered.lock().unwrap().is_empty());
}

#[tokio::test]
async fn e_08_no_bytes_make_the_resolver_fail() {
    use rand::{Rng as _, SeedableRng as _};
    let (_rig, workspace) = setup_with(None);
    let outlet = &workspace.attached.as_ref().unwrap().outlet;
    let zone = Zone {
        policy: outlet.policy.clone(),
        names: outlet.names.clone(),
        trail: outlet.trail.clone(),
        denials: outlet.denials.clone(),
    };
    let mut random = rand::rngs::StdRng::seed_from_u64(8);
    let valid = question("a.b.wild.example.", RecordType::A, true);
    for _ in 0..20_000 {
        let mut message = valid.clone();
        message.truncate(random.random_range(0..=valid.len()));
        for _ in 0..random.random_range(0..6) {
            let at = random.random_range(0..valid.len());
            if let Some(byte) = message.get_mut(at) {
                *byte = random.random();
            }
        }
        if let Some(answer) = zone.respond(&message) {
            assert!(answer.len() <= 512 && answer[..2] == message[..2]);
        }
    }
}

#[test]
fn the_settings_table_has_these_keys_and_no_others() {
    let text = "resolver = '9.9.9.9:53'\nroots = ['/etc/ca.pem']\nhost_services = ['127.0.0.1:80', '[::1]:81']\n\
                parent_proxy = 'http://p.example:3128'\n[hosts]\n'a.example' = '192.0.2.1'\n";
    let settings: Settings = toml::from_str(text).unwrap();
    assert_eq!(settings.host_services.len(), 2);
    assert_eq!(settings.hosts["a.example"].to_string(), "192.0.2.1");
    toml::from_str::<Settings>("root = []").unwrap_err();
    toml::from_str::<Settings>("root_documents = []").unwrap_err();
}

#[test]
fn e_07_the_rate_of_questions_is_bounded() {
    let rate = Rate::new();
    let start = std::time::Instant::now() + std::time::Duration::from_secs(60);
    assert_eq!((0..10_000).filter(|_| rate.take(start)).count(), 2000);
    let later = start + std::time::Duration::from_secs(1);
    assert_eq!((0..10_000).filter(|_| rate.take(later)).count(), 500);
}
