//! Decisions: what may resolve, how a connection is treated, which request passes.

use std::fmt;
use std::sync::Arc;

use super::Policy;
use super::denial::{Denial, Reason};
use super::document::Protocol;
use super::host::{Host, Name};
use super::index::Naming;
use super::path::Path;
use super::permit::{Opening, Permit};
use super::rule::Rule;

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The host in canonical form.
    pub host: Host,
    /// The TCP port.
    pub port: u16,
}

/// How a request is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Within TLS.
    Https,
    /// In cleartext.
    Http,
}

/// One request as parsed, in canonical form.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// How it is carried.
    pub scheme: Scheme,
    /// The host.
    pub host: &'a Host,
    /// The port.
    pub port: u16,
    /// The method; case counts.
    pub method: &'a str,
    /// The path.
    pub path: &'a Path,
    /// Whether it asks for a WebSocket, whose bytes then go unread.
    pub websocket: bool,
}

/// What happens to a connection that some rule could allow.
#[derive(Debug)]
pub enum Treatment {
    /// Every request is read and judged.
    Inspect {
        /// TLS is ended and inspected.
        tls: bool,
        /// Cleartext HTTP is admitted.
        cleartext: bool,
        /// Leave to connect, and to send nothing: each request needs its own.
        permit: Permit,
    },
    /// TLS goes through unread, if the handshake names the same host.
    TlsPassthrough(Permit),
    /// Bytes go through unread.
    Tcp(Permit),
}

/// The answer to "what would happen", for people. Prints one line, and a second with the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request passes.
    Allowed {
        /// The rule that decides.
        rule: String,
        /// The credential that the rule adds.
        credential: Option<String>,
        /// Whether the request goes through unread, within a raw connection.
        unread: bool,
    },
    /// The request is refused.
    Denied(Denial),
}

impl Policy {
    /// Whether any rule could allow any connection to `name`; a name for which this is false must not be resolved.
    #[must_use]
    pub fn may_resolve(&self, name: &Name) -> bool {
        let naming = self.rules.naming(&Host::Name(name.clone()));
        naming.iter().filter(|naming| naming.allows()).any(|Naming { rule, .. }| {
            rule.ports.iter().any(|&port| whole_denial(&naming, port, rule.protocol).is_none())
        })
    }

    /// Judges a connection before a byte of it is read.
    ///
    /// Where rules differ on the protocol, the one that reads most wins: inspection over passthrough over raw TCP.
    /// An unread connection is also denied by a deny rule that speaks of methods or paths, since nobody could tell
    /// whether it applies.
    ///
    /// # Errors
    /// A deny rule covers the whole connection, or no allow rule names host and port.
    pub fn connection(&self, destination: &Destination) -> Result<Treatment, Denial> {
        let Destination { host, port } = destination;
        let named = self.rules.naming(host);
        let mut search = Search::default();
        for naming in named.iter().filter(|naming| naming.allows()) {
            let at = if naming.rule.has_port(*port) { Stage::Allowed } else { Stage::Port };
            search.see(*naming, at);
        }
        let protocol = search.matched.iter().map(|(_, rule)| rule.protocol).min_by_key(|&p| unread(p));
        if let Some(rule) = whole_denial(&named, *port, protocol.unwrap_or_default()) {
            return Err(refusal(Some(&rule.name), Reason::DeniedByRule, host, *port));
        }
        search.matched.retain(|(_, rule)| Some(rule.protocol) == protocol);
        match protocol {
            None | Some(Protocol::Https) if search.matched.is_empty() => Err(search.refusal(host, *port)),
            None | Some(Protocol::Https) => {
                let cleartext = search.matched.iter().any(|(_, rule)| rule.cleartext);
                let permit = search.permit(Scheme::Https, host, *port)?;
                Ok(Treatment::Inspect { tls: true, cleartext, permit })
            }
            Some(Protocol::TlsPassthrough) => {
                search.permit(Scheme::Https, host, *port).map(Treatment::TlsPassthrough)
            }
            Some(Protocol::Tcp) => search.permit(Scheme::Http, host, *port).map(Treatment::Tcp),
        }
    }

    /// Judges one request of an inspected connection. A deny rule wins over any allow rule; where several allow
    /// rules match, the one that names the host most precisely speaks, then one with a credential, then the first
    /// by name.
    ///
    /// # Errors
    /// A deny rule matches, or no allow rule does.
    pub fn decide(&self, request: &Request<'_>) -> Result<Permit, Denial> {
        let Request { scheme, host, port, method, path, websocket } = *request;
        let about = |denial: Denial| Denial {
            method: Some(method.to_owned()),
            path: Some(path.as_str().to_owned()),
            ..denial
        };
        let (allowing, denying): (Vec<_>, Vec<_>) =
            self.rules.naming(host).into_iter().partition(Naming::allows);
        let applies = |rule: &Rule| rule.has_port(port) && rule.has_method(method) && rule.has_path(path);
        if let Some(Naming { rule, .. }) = denying.iter().find(|naming| applies(naming.rule)) {
            return Err(about(refusal(Some(&rule.name), Reason::DeniedByRule, host, port)));
        }
        let mut search = Search::default();
        for naming in allowing.into_iter().filter(|naming| naming.rule.protocol == Protocol::Https) {
            let rule = naming.rule;
            let at = match () {
                () if !rule.has_port(port) => Stage::Port,
                () if scheme == Scheme::Http && !rule.cleartext => Stage::Cleartext,
                () if !rule.has_method(method) => Stage::Method,
                () if !rule.has_path(path) => Stage::Path,
                () if websocket && !rule.websocket => Stage::WebSocket,
                () => Stage::Allowed,
            };
            search.see(naming, at);
        }
        let permit = search.permit(scheme, host, port).map_err(about)?;
        Ok(permit.for_request(method, path.as_str()))
    }

    /// What would happen to `request`, by the same functions that enforcement calls.
    #[must_use]
    pub fn explain(&self, request: &Request<'_>) -> Verdict {
        let destination = Destination { host: request.host.clone(), port: request.port };
        let judged = match self.connection(&destination) {
            Ok(Treatment::Inspect { .. }) => self.decide(request).map(|permit| (permit, false)),
            Ok(Treatment::TlsPassthrough(permit) | Treatment::Tcp(permit)) => Ok((permit, true)),
            Err(denial) => Err(denial),
        };
        match judged {
            Ok((permit, unread)) => Verdict::Allowed {
                rule: permit.rule().to_owned(),
                credential: permit.credential().map(str::to_owned),
                unread,
            },
            Err(denial) => Verdict::Denied(denial),
        }
    }
}

/// The deny rule that covers every byte of a connection.
fn whole_denial<'a>(named: &[Naming<'a>], port: u16, protocol: Protocol) -> Option<&'a Arc<Rule>> {
    let unread = protocol != Protocol::Https;
    let covers = |rule: &Rule| (unread || rule.is_whole()) && rule.has_port(port);
    named.iter().filter(|naming| !naming.allows()).map(|naming| naming.rule).find(|rule| covers(rule))
}

/// The part of an allow rule at which a request failed, in the order of judgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Host,
    Port,
    Cleartext,
    Method,
    Path,
    WebSocket,
    Allowed,
}

/// The allow rules that match, and the one that came nearest if none does.
#[derive(Default)]
struct Search<'a> {
    matched: Vec<(u16, &'a Arc<Rule>)>,
    stage: Stage,
    nearest: Option<&'a str>,
}

impl<'a> Search<'a> {
    fn see(&mut self, Naming { rule, precision }: Naming<'a>, stage: Stage) {
        if stage == Stage::Allowed {
            self.matched.push((precision, rule));
        } else if stage > self.stage {
            (self.stage, self.nearest) = (stage, Some(rule.name.as_str()));
        }
    }

    fn permit(&self, scheme: Scheme, host: &Host, port: u16) -> Result<Permit, Denial> {
        let rank = |(precision, rule): &(u16, &Arc<Rule>)| (*precision, rule.credential.is_some());
        // Rules come sorted by name, so that the first of equals is the same in any order of the document;
        // `max_by_key` takes the last, hence the reversal.
        let (_, speaker) =
            self.matched.iter().rev().max_by_key(|m| rank(m)).ok_or_else(|| self.refusal(host, port))?;
        let mut opening = Opening::default();
        for (_, rule) in &self.matched {
            opening.add(rule);
        }
        Ok(Permit::new(Arc::clone(speaker), opening, scheme, (host.clone(), port)))
    }

    fn refusal(&self, host: &Host, port: u16) -> Denial {
        let reason = match self.stage {
            // `Allowed` never marks the nearest.
            Stage::Host | Stage::Allowed => Reason::NoRuleForHost,
            Stage::Port => Reason::NoRuleForPort,
            Stage::Cleartext => Reason::NoRuleForCleartext,
            Stage::Method => Reason::NoRuleForMethod,
            Stage::Path => Reason::NoRuleForPath,
            Stage::WebSocket => Reason::NoRuleForWebSocket,
        };
        refusal(self.nearest, reason, host, port)
    }
}

/// How little of a connection of this protocol is read.
const fn unread(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Https => 0,
        Protocol::TlsPassthrough => 1,
        Protocol::Tcp => 2,
    }
}

fn refusal(rule: Option<&str>, reason: Reason, host: &Host, port: u16) -> Denial {
    let rule = rule.map(str::to_owned);
    Denial { rule, reason, host: host.to_string(), port, method: None, path: None }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed { rule, credential, unread } => {
                write!(out, "allowed by {rule}")?;
                if let Some(credential) = credential {
                    write!(out, ", with credential {credential}")?;
                }
                if *unread { out.write_str(", unread") } else { Ok(()) }
            }
            Self::Denied(denial) => write!(out, "denied ({}): {denial}\n{}", denial.reason, denial.remedy()),
        }
    }
}
