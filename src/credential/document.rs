//! Credentials as read from a document: every mistake is collected, none is repaired.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, PathBuf};

use serde_saphyr::{Location, Spanned};

use super::binding::{Binding, HostPattern, PathPattern};
use super::error::{DocumentError, Fault, Problem};
use super::placeholder::{self, Pattern};
use super::typed;

/// Headers that frame or route a request, or that the data path writes itself.
const RESERVED_HEADERS: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// All credentials of an operator, without their values.
#[derive(Clone, Debug, Default)]
pub struct Document {
    credentials: Vec<Credential>,
}

/// One credential: what it is, where its value is, where it may go.
#[derive(Clone, Debug)]
pub struct Credential {
    name: String,
    kind: Kind,
    source: Source,
    binding: Binding,
    placeholder: Option<(String, Pattern)>,
}

/// How the value stands in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `Authorization: Bearer value`.
    Bearer,
    /// A header of its own.
    Header {
        /// The header in lower case.
        name: String,
    },
    /// `Authorization: Basic`, where the value is `user:password`.
    Basic,
    /// A query parameter.
    Query {
        /// The parameter; needs no escape.
        parameter: String,
    },
}

/// Where the value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, by absolute path.
    File(PathBuf),
    /// A variable of the process that opens sources.
    Env(String),
}

impl Document {
    /// Reads a YAML document; `origin` is its file name in errors.
    ///
    /// # Errors
    /// Every mistake that could be found, with line, column and the fix.
    pub fn parse(text: &str, origin: &str) -> Result<Self, DocumentError> {
        let options = serde_saphyr::Options {
            strict_booleans: true,
            with_snippet: false,
            ..serde_saphyr::Options::default()
        };
        let typed: typed::Document = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let at = error.location().unwrap_or(Location::UNKNOWN);
            let place = format!(" at line {}, column {}", at.line(), at.column());
            let fault = Fault::Syntax(error.to_string().replace(&place, ""));
            DocumentError::new(origin, vec![problem(at, fault)])
        })?;
        let mut reader = Reader::default();
        if typed.version.value != "1" {
            reader.add(typed.version.referenced, Fault::Version(typed.version.value));
        }
        let credentials =
            typed.credentials.into_iter().filter_map(|typed| reader.credential(&typed)).collect();
        match reader.problems.is_empty() {
            true => Ok(Self { credentials }),
            false => Err(DocumentError::new(origin, reader.problems)),
        }
    }

    /// No credential at all.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// All credentials in the order of the document.
    pub fn iter(&self) -> impl Iterator<Item = &Credential> {
        self.credentials.iter()
    }

    /// The credential of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Credential> {
        self.iter().find(|credential| credential.name == name)
    }

    /// Fresh placeholders by environment variable, for one workspace.
    #[must_use]
    pub fn placeholders(&self) -> BTreeMap<String, String> {
        let shaped = self.iter().filter_map(|credential| credential.placeholder.as_ref());
        shaped.map(|(variable, pattern)| (variable.clone(), pattern.fill())).collect()
    }
}

impl Credential {
    /// The name that rules use.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the value stands in a request.
    #[must_use]
    pub const fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Where the value is.
    #[must_use]
    pub const fn source(&self) -> &Source {
        &self.source
    }

    /// The variable in which a sandbox finds a placeholder.
    #[must_use]
    pub fn env(&self) -> Option<&str> {
        self.placeholder.as_ref().map(|(variable, _)| variable.as_str())
    }

    /// Whether the credential may go there: `host` in canonical form (IPv6 in brackets), `path` normalised.
    ///
    /// It is for requests within TLS only; that is the caller's to hold.
    #[must_use]
    pub fn admits(&self, host: &str, port: u16, method: &str, path: &str) -> bool {
        self.binding.admits(host, port, method, path)
    }
}

fn problem(at: Location, fault: Fault) -> Problem {
    Problem { line: at.line(), column: at.column(), fault }
}

/// What was read so far, and what was wrong with it.
#[derive(Default)]
struct Reader {
    problems: Vec<Problem>,
    names: BTreeSet<String>,
    variables: BTreeSet<String>,
}

type Texts = Option<Spanned<Vec<Spanned<String>>>>;

impl Reader {
    fn add(&mut self, at: Location, fault: Fault) {
        self.problems.push(problem(at, fault));
    }

    /// The value, or its problem noted.
    fn take<T>(&mut self, at: Location, read: Result<T, Fault>) -> Option<T> {
        read.map_err(|fault| self.add(at, fault)).ok()
    }

    fn credential(&mut self, typed: &typed::Credential) -> Option<Credential> {
        let name = &typed.name.value;
        if !is_name(name) {
            self.add(typed.name.referenced, Fault::Name(name.clone()));
        } else if !self.names.insert(name.clone()) {
            self.add(typed.name.referenced, Fault::DuplicateName(name.clone()));
        }
        if typed.hosts.is_none() {
            self.add(typed.name.referenced, Fault::NoHosts(name.clone()));
        }
        let kind = self.kind(typed);
        let source = self.take(typed.source.referenced, source(&typed.source.value));
        let placeholder = self.placeholder(typed);
        let binding = Binding {
            hosts: self.list("hosts", &typed.hosts, HostPattern::parse),
            ports: self.ports(typed),
            methods: self.list("methods", &typed.methods, method),
            paths: self.list("paths", &typed.paths, PathPattern::parse),
        };
        Some(Credential { name: name.clone(), kind: kind?, source: source?, binding, placeholder })
    }

    fn kind(&mut self, typed: &typed::Credential) -> Option<Kind> {
        let typed::Credential { kind, header, parameter, .. } = typed;
        for (key, given, owner) in [("header", header, "header"), ("parameter", parameter, "query")] {
            if let Some(given) = given.as_ref().filter(|_| kind.value != owner) {
                self.add(given.referenced, Fault::Meaningless { key, when: "with this kind" });
            }
        }
        let read = match (kind.value.as_str(), header, parameter) {
            ("bearer", ..) => Ok(Kind::Bearer),
            ("basic", ..) => Ok(Kind::Basic),
            ("header", Some(name), _) => header_name(&name.value).map(|name| Kind::Header { name }),
            ("header", None, _) => Err(Fault::Missing { kind: "header", key: "header" }),
            ("query", _, Some(name)) => {
                parameter_name(&name.value).map(|parameter| Kind::Query { parameter })
            }
            ("query", _, None) => Err(Fault::Missing { kind: "query", key: "parameter" }),
            (other, ..) => Err(Fault::Kind(other.to_owned())),
        };
        let value = header.as_ref().or(parameter.as_ref()).map_or(kind.referenced, |value| value.referenced);
        self.take(value, read)
    }

    fn placeholder(&mut self, typed: &typed::Credential) -> Option<(String, Pattern)> {
        let Some(variable) = &typed.env else {
            if let Some(pattern) = &typed.pattern {
                self.add(pattern.referenced, Fault::Meaningless { key: "pattern", when: "without 'env'" });
            }
            return None;
        };
        if !is_variable(&variable.value) {
            self.add(variable.referenced, Fault::Variable(variable.value.clone()));
        } else if !self.variables.insert(variable.value.clone()) {
            self.add(variable.referenced, Fault::DuplicateVariable(variable.value.clone()));
        }
        let (text, at) = match &typed.pattern {
            Some(pattern) => (pattern.value.as_str(), pattern.referenced),
            None => (placeholder::DEFAULT, variable.referenced),
        };
        let read = Pattern::parse(text).map_err(|source| Fault::Pattern { pattern: text.to_owned(), source });
        self.take(at, read).map(|pattern| (variable.value.clone(), pattern))
    }

    fn ports(&mut self, typed: &typed::Credential) -> Vec<u16> {
        let Some(ports) = &typed.ports else {
            return vec![443];
        };
        if ports.value.is_empty() {
            self.add(ports.referenced, Fault::EmptyList("ports"));
        }
        let mut read = Vec::new();
        for port in &ports.value {
            match u16::try_from(port.value) {
                Ok(80) => self.add(port.referenced, Fault::CleartextPort),
                Ok(number @ 1..) => read.push(number),
                _ => self.add(port.referenced, Fault::Port(port.value)),
            }
        }
        read
    }

    fn list<T>(&mut self, key: &'static str, list: &Texts, read: fn(&str) -> Result<T, Fault>) -> Vec<T> {
        let Some(list) = list else {
            return Vec::new();
        };
        if list.value.is_empty() {
            self.add(list.referenced, Fault::EmptyList(key));
        }
        list.value.iter().filter_map(|entry| self.take(entry.referenced, read(&entry.value))).collect()
    }
}

fn source(typed: &typed::Source) -> Result<Source, Fault> {
    let typed::Source { file, env, store, exec, vault, systemd } = typed;
    let later = [("store", store), ("exec", exec), ("vault", vault), ("systemd", systemd)];
    if let Some((key, _)) = later.into_iter().find(|(_, given)| given.is_some()) {
        return Err(Fault::Source(key));
    }
    match (file, env) {
        (Some(file), None) => {
            let path = PathBuf::from(&file.value);
            let plain = path.is_absolute() && path.components().all(|part| part != Component::ParentDir);
            if plain { Ok(Source::File(path)) } else { Err(Fault::RelativeFile(file.value.clone())) }
        }
        (None, Some(env)) if is_variable(&env.value) => Ok(Source::Env(env.value.clone())),
        (None, Some(env)) => Err(Fault::Variable(env.value.clone())),
        _ => Err(Fault::OneSource),
    }
}

fn is_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(inner)
}

fn is_variable(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    name.bytes().all(inner) && name.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}

/// A field name (RFC 9110, section 5.1) in lower case.
fn header_name(raw: &str) -> Result<String, Fault> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let name = raw.to_ascii_lowercase();
    let valid = (1..=64).contains(&name.len()) && name.bytes().all(token);
    if valid && !RESERVED_HEADERS.contains(&name.as_str()) {
        Ok(name)
    } else {
        Err(Fault::Header(raw.to_owned()))
    }
}

fn parameter_name(raw: &str) -> Result<String, Fault> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    let valid = (1..=64).contains(&raw.len()) && raw.bytes().all(plain);
    if valid { Ok(raw.to_owned()) } else { Err(Fault::Parameter(raw.to_owned())) }
}

fn method(raw: &str) -> Result<String, Fault> {
    let token = |byte: u8| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_');
    let valid = (1..=32).contains(&raw.len()) && raw.bytes().all(token);
    if valid { Ok(raw.to_owned()) } else { Err(Fault::Method(raw.to_owned())) }
}
