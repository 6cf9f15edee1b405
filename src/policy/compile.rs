//! From a document as typed to a policy: every mistake is collected, none is repaired.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_saphyr::{Location, Spanned};

use super::Policy;
use super::document::{self, Document, Effect, Protocol};
use super::error::{Fault, PolicyError, Problem};
use super::index::Index;
use super::limits::{self, Limits, ProcessRights, QuantityError};
use super::path::PathPattern;
use super::pattern::HostPattern;
use super::rule::Rule;

/// Methods that the way out never passes, whatever a rule says.
const FORBIDDEN_METHODS: &[&str] = &["CONNECT", "TRACE", "TRACK"];

pub(super) fn policy(text: &str, origin: &str) -> Result<Policy, PolicyError> {
    let options = serde_saphyr::Options {
        strict_booleans: true,
        with_snippet: false,
        ..serde_saphyr::Options::default()
    };
    let document: Document = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let at = error.location().unwrap_or(Location::UNKNOWN);
        PolicyError::new(origin, vec![problem(at, Fault::Syntax(syntax(&error)))])
    })?;
    let mut problems = Problems::default();
    let compiled = problems.document(document);
    if problems.0.is_empty() { Ok(compiled) } else { Err(PolicyError::new(origin, problems.0)) }
}

/// The parser's words without the place, which stands in front of every problem already.
fn syntax(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    match error.location() {
        Some(at) => text.replace(&format!(" at line {}, column {}", at.line(), at.column()), ""),
        None => text,
    }
}

fn problem(at: Location, fault: Fault) -> Problem {
    Problem { line: at.line(), column: at.column(), fault }
}

/// What was found wrong so far.
#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, at: Location, fault: Fault) {
        self.0.push(problem(at, fault));
    }

    fn document(&mut self, document: Document) -> Policy {
        if document.version.value != "1" {
            self.add(document.version.referenced, Fault::Version(document.version.value));
        }
        let mut rules: Vec<Arc<Rule>> = Vec::new();
        let mut bases = BTreeSet::new();
        // A policy that is extended twice adds its rules once.
        for base in document.extends.iter().filter(|base| bases.insert(base.value.as_str())) {
            rules.extend(self.base(base));
        }
        let mut names: BTreeSet<String> = rules.iter().map(|rule| rule.name.clone()).collect();
        for rule in document.egress.rules {
            if !names.insert(rule.name.value.clone()) {
                self.add(rule.name.referenced, Fault::DuplicateRule(rule.name.value.clone()));
            }
            rules.push(Arc::new(self.rule(rule)));
        }
        let limits = self.limits(document.limits);
        let process = self.process(document.process);
        Policy { limits, process, mode: document.egress.mode, rules: Index::new(rules) }
    }

    /// The rules of an extended policy; its limits and mode stay its own.
    fn base(&mut self, name: &Spanned<String>) -> Vec<Arc<Rule>> {
        match Policy::named(&name.value) {
            Ok(base) => base.rules.rules().to_vec(),
            Err(error) => {
                self.0.extend(error.problems().iter().map(|p| problem(name.referenced, p.fault.clone())));
                Vec::new()
            }
        }
    }

    fn rule(&mut self, rule: document::Rule) -> Rule {
        if !is_label(&rule.name.value) {
            self.add(rule.name.referenced, Fault::RuleName(rule.name.value.clone()));
        }
        let protocol = rule.protocol.as_ref().map_or(Protocol::default(), |protocol| protocol.value);
        self.conflicts(&rule, protocol);
        let cleartext = rule.cleartext.is_some_and(|flag| flag.value);
        let hosts = self.hosts(rule.hosts.as_ref(), &rule.name, protocol);
        let ports = match (&rule.ports, rule.effect) {
            (Some(ports), effect) => {
                self.ports(ports, cleartext || effect == Effect::Deny || unread(protocol))
            }
            (None, Effect::Deny) => Vec::new(),
            (None, Effect::Allow) if protocol == Protocol::Tcp => {
                self.add(rule.name.referenced, Fault::PortsMissing);
                Vec::new()
            }
            (None, Effect::Allow) if cleartext => vec![443, 80],
            (None, Effect::Allow) => vec![443],
        };
        if let Some(credential) = rule.credential.as_ref().filter(|name| !is_label(&name.value)) {
            self.add(credential.referenced, Fault::CredentialName(credential.value.clone()));
        }
        Rule {
            name: rule.name.value,
            effect: rule.effect,
            protocol,
            hosts,
            ports,
            methods: self.list("methods", rule.methods.as_ref(), method),
            paths: self.list("paths", rule.paths.as_ref(), path),
            credential: rule.credential.map(|name| name.value),
            cleartext,
            private: rule.private.is_some_and(|flag| flag.value),
            rate: self.quantity("rate", rule.rate, limits::rate),
            websocket: rule.websocket.is_none_or(|effect| effect.value == Effect::Allow),
        }
    }

    /// Keys that have no meaning together, and would be silently without effect.
    fn conflicts(&mut self, rule: &document::Rule, protocol: Protocol) {
        let methods = rule.methods.as_ref().map(|list| list.referenced);
        let paths = rule.paths.as_ref().map(|list| list.referenced);
        let credential = rule.credential.as_ref().map(|name| name.referenced);
        let cleartext = rule.cleartext.as_ref().map(|flag| flag.referenced);
        let private = rule.private.as_ref().map(|flag| flag.referenced);
        let websocket = rule.websocket.as_ref().map(|effect| effect.referenced);
        let rate = rule.rate.as_ref().map(|rate| rate.referenced);
        let given = rule.protocol.as_ref().map(|protocol| protocol.referenced);
        let deny = (rule.effect == Effect::Deny).then_some("effect: deny");
        let raw = match protocol {
            Protocol::Https => None,
            Protocol::Tcp => Some("protocol: tcp"),
            Protocol::TlsPassthrough => Some("protocol: tls-passthrough"),
        };
        let clear = rule.cleartext.as_ref().filter(|flag| flag.value).map(|_| "cleartext: true");
        let table = [
            ("protocol", given, deny),
            ("credential", credential, deny.or(raw).or(clear)),
            ("cleartext", cleartext, deny.or(raw)),
            ("private", private, deny),
            ("methods", methods, raw),
            ("paths", paths, raw),
            ("websocket", websocket, deny.or(raw)),
            ("rate", rate, deny),
        ];
        for (key, at, with) in table {
            if let (Some(at), Some(with)) = (at, with) {
                self.add(at, Fault::Conflict { key, with });
            }
        }
    }

    fn hosts(
        &mut self,
        hosts: Option<&Spanned<Vec<Spanned<String>>>>,
        rule: &Spanned<String>,
        protocol: Protocol,
    ) -> Vec<HostPattern> {
        if hosts.is_none() {
            self.add(rule.referenced, Fault::NoHosts(rule.value.clone()));
        }
        self.list("hosts", hosts, |raw| {
            let pattern = HostPattern::parse(raw)?;
            if protocol == Protocol::TlsPassthrough && pattern.network().is_some() {
                return Err(Fault::PassthroughAddress(raw.to_owned()));
            }
            Ok(pattern)
        })
    }

    fn ports(&mut self, ports: &Spanned<Vec<Spanned<i64>>>, may_be_cleartext: bool) -> Vec<u16> {
        if ports.value.is_empty() {
            self.add(ports.referenced, Fault::EmptyList("ports"));
        }
        let mut read = Vec::new();
        for port in &ports.value {
            match u16::try_from(port.value) {
                Ok(80) if !may_be_cleartext => self.add(port.referenced, Fault::CleartextPort),
                Ok(number @ 1..) => read.push(number),
                _ => self.add(port.referenced, Fault::Port(port.value)),
            }
        }
        read
    }

    /// Reads each entry; a list that is given but empty would match nothing.
    fn list<T>(
        &mut self,
        key: &'static str,
        list: Option<&Spanned<Vec<Spanned<String>>>>,
        read: impl Fn(&str) -> Result<T, Fault>,
    ) -> Vec<T> {
        let Some(list) = list else {
            return Vec::new();
        };
        if list.value.is_empty() {
            self.add(list.referenced, Fault::EmptyList(key));
        }
        let mut entries = Vec::new();
        for entry in &list.value {
            match read(&entry.value) {
                Ok(value) => entries.push(value),
                Err(fault) => self.add(entry.referenced, fault),
            }
        }
        entries
    }

    fn limits(&mut self, typed: document::Limits) -> Limits {
        Limits {
            memory: self.quantity("memory", typed.memory, limits::size),
            cpus: self.quantity("cpus", typed.cpus, limits::cpus),
            processes: self.quantity("processes", typed.processes, limits::count),
            disk: self.quantity("disk", typed.disk, limits::size),
            output: self.quantity("output", typed.output, limits::size),
            idle: self.quantity("idle", typed.idle, limits::duration),
            open_files: self.quantity("open_files", typed.open_files, limits::count),
            tmp: self.quantity("tmp", typed.tmp, limits::size),
            wall_clock: self.quantity("wall_clock", typed.wall_clock, limits::duration),
        }
    }

    fn quantity<T>(
        &mut self,
        key: &'static str,
        text: Option<Spanned<String>>,
        read: impl Fn(&str) -> Result<T, QuantityError>,
    ) -> Option<T> {
        let text = text?;
        match read(&text.value) {
            Ok(quantity) => Some(quantity),
            Err(source) => {
                self.add(text.referenced, Fault::Quantity { key, text: text.value, source });
                None
            }
        }
    }

    fn process(&mut self, typed: document::Process) -> ProcessRights {
        let mut rights = ProcessRights::default();
        if let Some(user) = typed.user.filter(|user| user.value != rights.user) {
            self.add(user.referenced, Fault::User(user.value));
        }
        let ptrace = typed.ptrace.as_ref().is_some_and(|flag| flag.value);
        let profile = typed.seccomp.as_ref().map_or(rights.seccomp.as_str(), |profile| &profile.value);
        let place = typed.seccomp.as_ref().map(|profile| profile.referenced);
        match (profile, ptrace) {
            ("default" | "strict", false) => rights.seccomp = profile.to_owned(),
            ("default" | "debug", true) => rights.seccomp = "debug".to_owned(),
            ("debug" | "strict", _) => {
                place.into_iter().for_each(|place| self.add(place, Fault::Ptrace));
            }
            (unknown, _) => {
                let fault = Fault::Seccomp(unknown.to_owned());
                place.into_iter().for_each(|place| self.add(place, fault.clone()));
            }
        }
        rights.ptrace = ptrace;
        rights
    }
}

fn unread(protocol: Protocol) -> bool {
    protocol != Protocol::Https
}

/// A name that can stand in logs, headers and file names.
fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(inner)
}

fn method(raw: &str) -> Result<String, Fault> {
    let token = |byte: u8| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_');
    if raw.is_empty() || raw.len() > 32 || !raw.bytes().all(token) {
        return Err(Fault::Method(raw.to_owned()));
    }
    if FORBIDDEN_METHODS.contains(&raw) {
        return Err(Fault::ForbiddenMethod(raw.to_owned()));
    }
    Ok(raw.to_owned())
}

fn path(raw: &str) -> Result<PathPattern, Fault> {
    PathPattern::parse(raw).map_err(|source| Fault::Path { pattern: raw.to_owned(), source })
}
