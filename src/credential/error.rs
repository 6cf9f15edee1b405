//! What is wrong with a credential document: where, and the fix.

use std::fmt;

use super::placeholder::PatternError;

/// All that is wrong with one document; prints one `origin:line:column: what: fix` per line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct DocumentError {
    origin: String,
    problems: Vec<Problem>,
}

/// One mistake and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, counted from one; zero if the mistake has no place.
    pub line: u64,
    /// Column in characters, counted from one; zero if the mistake has no place.
    pub column: u64,
    /// The mistake.
    pub fault: Fault,
}

/// A mistake in a document; each text ends with the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The parser's own words: syntax, unknown key, wrong type, missing key.
    #[error("{0}")]
    Syntax(String),
    /// Another version of the format.
    #[error("version {0} is not known: write 'version: 1'")]
    Version(String),
    /// A name that could not stand in logs.
    #[error("{0:?} is no credential name: use 1 to 64 letters, digits, '.', '_' or '-'")]
    Name(String),
    /// Two credentials with one name.
    #[error("there are two credentials called {0:?}: give each its own name")]
    DuplicateName(String),
    /// Two credentials with one variable.
    #[error("two credentials use the variable {0:?}: give each its own")]
    DuplicateVariable(String),
    /// A kind that is not there.
    #[error("kind {0:?} is not supported yet: use bearer, header, basic or query")]
    Kind(String),
    /// A source that is not there.
    #[error("source {0:?} is not supported yet: use file or env")]
    Source(&'static str),
    /// No source, or several.
    #[error("a credential has one source: write 'source: {{ file: /path }}' or 'source: {{ env: NAME }}'")]
    OneSource,
    /// A file that depends on the working directory.
    #[error("{0:?} is no absolute path: write it from '/' on, without '..'")]
    RelativeFile(String),
    /// A key that the kind requires.
    #[error("kind {kind} needs '{key}': add it")]
    Missing {
        /// The kind.
        kind: &'static str,
        /// The key.
        key: &'static str,
    },
    /// A key that something else rules out, or requires.
    #[error("'{key}' has no meaning {when}: take it out")]
    Meaningless {
        /// The key.
        key: &'static str,
        /// In which case.
        when: &'static str,
    },
    /// A header that no credential can stand in.
    #[error("{0:?} is no header for a credential: use a token that is not part of the framing of a request")]
    Header(String),
    /// A query parameter that would need an escape.
    #[error("{0:?} is no query parameter: use letters, digits, '-', '_', '.' or '~'")]
    Parameter(String),
    /// A credential that could go anywhere.
    #[error("credential {0:?} has no hosts: add 'hosts: [name]'; it goes nowhere else")]
    NoHosts(String),
    /// A key with an empty list.
    #[error("'{0}' is empty: list at least one, or leave the key out")]
    EmptyList(&'static str),
    /// A host pattern that is none.
    #[error("{0:?} is no host: write a name in ASCII, '*.name', '**.name' or an IP address")]
    Host(String),
    /// A wildcard over names of unrelated owners.
    #[error("{0:?} is a wildcard over a public suffix, whose names belong to anyone: name the domain")]
    PublicSuffix(String),
    /// A port outside 1 to 65535.
    #[error("{0} is no port: use 1 to 65535")]
    Port(i64),
    /// A port where requests are in cleartext.
    #[error("a credential never goes over cleartext: take port 80 out")]
    CleartextPort,
    /// A method in other than upper-case letters.
    #[error("{0:?} is no method: methods are case-sensitive tokens, such as GET")]
    Method(String),
    /// A path pattern that could match nothing, or not what it seems.
    #[error(
        "{0:?} is no path pattern: begin with '/', write whole segments, '*' or '**', without escapes and dots"
    )]
    Path(String),
    /// A variable name that a shell could not hold.
    #[error("{0:?} is no variable name: use letters, digits and '_', not beginning with a digit")]
    Variable(String),
    /// A placeholder pattern that can't be filled, or guessed.
    #[error("{pattern:?}: {source}")]
    Pattern {
        /// As written.
        pattern: String,
        /// Why.
        source: PatternError,
    },
}

impl DocumentError {
    pub(super) fn new(origin: &str, problems: Vec<Problem>) -> Self {
        Self { origin: origin.to_owned(), problems }
    }

    /// The mistakes, credential by credential.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for DocumentError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Problem { line, column, fault }) in self.problems.iter().enumerate() {
            if index > 0 {
                out.write_str("\n")?;
            }
            match line {
                0 => write!(out, "{}: {fault}", self.origin)?,
                _ => write!(out, "{}:{line}:{column}: {fault}", self.origin)?,
            }
        }
        Ok(())
    }
}
