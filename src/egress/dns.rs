//! What a workspace's resolver answers. No question leaves the machine: real resolution happens when a name is dialled.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};

use super::audit::{Facts, Kind, Trail};
use super::denial::Denials;
use super::names::{Names, v4, v6};
use crate::policy::{Host, Name, Policy, Reason};

/// Seconds a client may keep an answer. Addresses never change, but the policy may.
const TTL: u32 = 60;

/// The UDP size we announce (DNS flag day 2020). Our own answers fit 512 bytes: one question, one record, one short text.
const UDP_SIZE: u16 = 1232;

/// Extended DNS error "Blocked" (RFC 8914, section 4.16), and the code of that EDNS option.
const BLOCKED: u16 = 15;
const EXTENDED_ERROR: u16 = 15;

/// Length of the fixed header of a DNS message.
const HEADER: usize = 12;

/// The answers of one workspace.
pub(super) struct Zone {
    pub(super) policy: Arc<Policy>,
    pub(super) names: Arc<Names>,
    pub(super) trail: Trail,
    pub(super) denials: Arc<Denials>,
}

impl fmt::Debug for Zone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Zone").finish_non_exhaustive()
    }
}

/// Why a name is blocked: a code for the log, words for people.
#[derive(Clone, Copy)]
struct Why {
    code: &'static str,
    words: &'static str,
}

const NO_RULE: Why = Why { code: Reason::NoRuleForHost.as_str(), words: "no rule names this host" };
const NO_NAME: Why = Why { code: "no_host_name", words: "this is no host name" };

/// What is said about a question, before it is a message.
enum Answer {
    Address(Box<RData>),
    /// The name exists, but has nothing of this type.
    Empty,
    Blocked(&'static str),
    Failed(ResponseCode),
}

impl Zone {
    /// The response to one message; `None` for what deserves none (too short, or a response itself).
    pub(super) fn respond(&self, message: &[u8]) -> Option<Vec<u8>> {
        let is_query = message.get(2).is_some_and(|flags| flags & 0x80 == 0);
        if message.len() < HEADER || !is_query {
            return None;
        }
        let Ok(request) = Message::from_vec(message) else { return Some(format_error(message)) };
        let mut response = Message::response(request.metadata.id, request.metadata.op_code);
        response.metadata.recursion_desired = request.metadata.recursion_desired;
        response.metadata.recursion_available = true;
        let answer = match &request.queries[..] {
            _ if request.metadata.op_code != OpCode::Query => Answer::Failed(ResponseCode::NotImp),
            [question] => {
                response.add_query(question.clone());
                self.answer(question)
            }
            _ => Answer::Failed(ResponseCode::FormErr),
        };
        complete(&mut response, request.edns.is_some(), answer);
        response.to_vec().ok()
    }

    fn answer(&self, question: &Query) -> Answer {
        if question.query_class() != DNSClass::IN {
            return Answer::Failed(ResponseCode::Refused);
        }
        let text = spelling(question.name());
        if text == "localhost" || text.ends_with(".localhost") {
            return typed(question.query_type(), Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        }
        let name = match Host::parse(&text) {
            Ok(Host::Name(name)) if self.policy.may_resolve(&name) => name,
            Ok(_) => return self.blocked(question, &text, NO_RULE),
            Err(_) => return self.blocked(question, &text, NO_NAME),
        };
        match self.number(&name, question.query_type()) {
            Ok(number) => typed(question.query_type(), v4(number), v6(number)),
            Err(answer) => answer,
        }
    }

    /// The name's number; a new one is recorded and kept before anybody hears of it.
    fn number(&self, name: &Name, kind: RecordType) -> Result<u32, Answer> {
        if let Some(number) = self.names.number(name) {
            return Ok(number);
        }
        let facts =
            Facts { host: name.as_str().to_owned(), method: Some(kind.to_string()), ..Facts::default() };
        self.trail.note(Kind::Dns, &facts).map_err(|error| {
            tracing::error!(%error, "a name was not resolved because it could not be recorded");
            Answer::Failed(ResponseCode::ServFail)
        })?;
        self.names.assign(name).map_err(|error| {
            tracing::warn!(%error, "a name was not resolved");
            Answer::Failed(ResponseCode::ServFail)
        })
    }

    fn blocked(&self, question: &Query, host: &str, why: Why) -> Answer {
        let kind = question.query_type();
        self.trail.deny(
            Kind::Dns,
            &Facts {
                host: host.to_owned(),
                reason: Some(why.code.to_owned()),
                method: Some(kind.to_string()),
                ..Facts::default()
            },
        );
        // Programs look up the names of addresses by themselves; a command's result would be full of it.
        if kind != RecordType::PTR {
            self.denials.add_question(kind, format!("{host}: {}", why.words));
        }
        Answer::Blocked(why.words)
    }
}

/// The question's name as text without its final dot; bytes that are no part of any host name become `\DDD`.
fn spelling(name: &hickory_proto::rr::Name) -> String {
    let mut text = name.to_ascii().to_ascii_lowercase();
    if text.len() > 1 && text.ends_with('.') {
        text.pop();
    }
    text
}

fn typed(kind: RecordType, v4: Ipv4Addr, v6: Ipv6Addr) -> Answer {
    match kind {
        RecordType::A => Answer::Address(Box::new(RData::A(A(v4)))),
        RecordType::AAAA => Answer::Address(Box::new(RData::AAAA(AAAA(v6)))),
        // HTTPS and SVCB would name other ports and protocols, TXT and NULL carry data; none of it is ours to give.
        _ => Answer::Empty,
    }
}

fn complete(response: &mut Message, with_edns: bool, answer: Answer) {
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_SIZE);
    match answer {
        Answer::Address(data) => {
            if let Some(question) = response.queries.first() {
                let record = Record::from_rdata(question.name().clone(), TTL, *data);
                response.add_answer(record);
            }
        }
        Answer::Empty => {}
        Answer::Failed(code) => response.metadata.response_code = code,
        Answer::Blocked(reason) => {
            response.metadata.response_code = ResponseCode::NXDomain;
            let data = [&BLOCKED.to_be_bytes()[..], reason.as_bytes()].concat();
            edns.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, data));
        }
    }
    if with_edns {
        response.set_edns(edns);
    }
}

/// The shortest FORMERR: the request's id and nothing else of it.
fn format_error(message: &[u8]) -> Vec<u8> {
    let id = u16::from_be_bytes([message[0], message[1]]);
    let mut response = Message::new(id, MessageType::Response, OpCode::Query);
    response.metadata.response_code = ResponseCode::FormErr;
    response.to_vec().unwrap_or_default()
}
