//! The one canonical form of a request path, and the patterns that match it.

use std::fmt;

use percent_encoding::percent_decode_str;

/// Longest path in bytes; a request head of a client has about that much room.
const MAX_PATH: usize = 8192;

/// A normalised absolute path without query: what is matched, sent upstream and audited.
///
/// Repeated slashes are one, dot segments are resolved, escapes of unreserved characters (RFC 3986, section 2.3)
/// are decoded, all other escapes are upper case, and every byte that needs an escape has one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Path(String);

/// Why a path is refused: it could mean one thing here and another at the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("the path does not begin with '/'")]
    NotAbsolute,
    /// More than 8192 bytes.
    #[error("the path is longer than 8192 bytes")]
    TooLong,
    /// A query or fragment belongs to no path.
    #[error("the path contains {0:?}: a query or fragment is no part of a path")]
    Query(char),
    /// A control character or a space, plain or escaped.
    #[error("the path contains a control character or a plain space")]
    Control,
    /// A backslash, plain or escaped: some origins read it as a slash.
    #[error("the path contains a backslash")]
    Backslash,
    /// `%2F`: some origins read it as a slash, some do not.
    #[error("the path contains an escaped slash")]
    EscapedSlash,
    /// `%` without two hexadecimal digits.
    #[error("the path contains an incomplete escape")]
    BadEscape,
    /// `%25` followed by two hexadecimal digits.
    #[error("the path is escaped twice")]
    DoubleEscape,
    /// The decoded bytes are no UTF-8.
    #[error("the decoded path is not UTF-8")]
    NotUtf8,
    /// More `..` than segments before it.
    #[error("the path climbs above the root")]
    AboveRoot,
    /// `..;x`: some origins cut the parameter off and then climb.
    #[error("the path has a parameter on a dot segment")]
    DotParameter,
}

impl Path {
    /// Normalises `raw` once.
    ///
    /// # Errors
    /// Whatever an origin could read as another path; see [`PathError`].
    pub fn parse(raw: &str) -> Result<Self, PathError> {
        if !raw.starts_with('/') {
            return Err(PathError::NotAbsolute);
        }
        if raw.len() > MAX_PATH {
            return Err(PathError::TooLong);
        }
        let escaped = escape(raw)?;
        let bytes = escaped.as_bytes();
        // After unreserved escapes are decoded: `%25%32%66` has become `%252f` by now.
        let twice = |at: usize| bytes[at..].starts_with(b"%25") && hex(bytes, at + 3).is_some();
        if (0..bytes.len()).any(twice) {
            return Err(PathError::DoubleEscape);
        }
        let decoded = percent_decode_str(&escaped).decode_utf8().map_err(|_| PathError::NotUtf8)?;
        if decoded.chars().any(char::is_control) {
            return Err(PathError::Control);
        }
        resolve(&escaped).map(Self)
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// The byte that the two hexadecimal digits at `at` spell.
fn hex(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    u8::try_from(digit(at)? * 16 + digit(at + 1)?).ok()
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Gives each byte its one spelling, and refuses those that have none.
fn escape(raw: &str) -> Result<String, PathError> {
    let bytes = raw.as_bytes();
    let mut out = String::with_capacity(raw.len());
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if byte == b'%' {
            let value = hex(bytes, at + 1).ok_or(PathError::BadEscape)?;
            push_escaped(&mut out, value)?;
            at += 3;
        } else {
            push_plain(&mut out, byte)?;
            at += 1;
        }
    }
    Ok(out)
}

fn push_escaped(out: &mut String, value: u8) -> Result<(), PathError> {
    match value {
        b'/' => Err(PathError::EscapedSlash),
        b'\\' => Err(PathError::Backslash),
        0..=0x1f | 0x7f => Err(PathError::Control),
        _ if is_unreserved(value) => {
            out.push(char::from(value));
            Ok(())
        }
        _ => {
            out.push_str(percent_encoding::percent_encode_byte(value));
            Ok(())
        }
    }
}

fn push_plain(out: &mut String, byte: u8) -> Result<(), PathError> {
    match byte {
        b'\\' => Err(PathError::Backslash),
        b'?' | b'#' => Err(PathError::Query(char::from(byte))),
        0..=0x20 | 0x7f => Err(PathError::Control),
        b'/' | b':' | b'@' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' => {
            out.push(char::from(byte));
            Ok(())
        }
        _ => push_escaped(out, byte),
    }
}

/// Resolves dot segments and repeated slashes (RFC 3986, section 5.2.4, but never past the root).
fn resolve(escaped: &str) -> Result<String, PathError> {
    let mut kept: Vec<&str> = Vec::new();
    let mut directory = true;
    for segment in escaped.split('/') {
        let bare = parameterless(segment);
        directory = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop().ok_or(PathError::AboveRoot)?;
            }
            _ if matches!(bare, "" | "." | "..") => return Err(PathError::DotParameter),
            _ => kept.push(segment),
        }
    }
    let mut out = String::with_capacity(escaped.len());
    for segment in &kept {
        out.push('/');
        out.push_str(segment);
    }
    if directory {
        out.push('/');
    }
    Ok(out)
}

/// A segment without its `;parameters`, plain or escaped.
fn parameterless(segment: &str) -> &str {
    let end = [segment.find(';'), segment.find("%3B")].into_iter().flatten().min();
    end.map_or(segment, |end| &segment[..end])
}

/// A pattern over whole path segments: `*` is one segment, `**` any number, all others are literal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathPattern(Vec<Segment>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    One,
    Many,
}

/// Why a text is no path pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathPatternError {
    /// Not a path that a request could have.
    #[error(transparent)]
    Path(#[from] PathError),
    /// `rea*`: a star that is not a whole segment.
    #[error("'*' stands for whole segments only: write '/v1/*' or '/v1/**'")]
    PartialStar,
    /// It is not what normalisation makes of it, so no request could match it as written.
    #[error("the pattern is not in normal form: no '.', '..' or '//' segments, no needless escapes")]
    NotNormal,
}

/// How a rule compares a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// What is allowed: exactly that path.
    Exact,
    /// What is denied: also what lenient origins take for the same path, in other case, with `;parameters` or a
    /// final slash.
    Lenient,
}

impl PathPattern {
    pub(super) fn parse(raw: &str) -> Result<Self, PathPatternError> {
        let path = Path::parse(raw)?;
        if decoded(path.as_str()) != decoded(raw) {
            return Err(PathPatternError::NotNormal);
        }
        let segments = path.as_str()[1..].split('/').map(|segment| match segment {
            "*" => Ok(Segment::One),
            "**" => Ok(Segment::Many),
            _ if segment.contains('*') => Err(PathPatternError::PartialStar),
            _ => Ok(Segment::Literal(decoded(segment))),
        });
        segments.collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn matches(&self, path: &Path, reading: Reading) -> bool {
        // Escapes of reserved characters are decoded for the comparison, so that `+` and `%2B` are alike.
        let mut segments: Vec<String> = path.as_str()[1..].split('/').map(decoded).collect();
        if matches(&self.0, &segments, reading) {
            return true;
        }
        reading == Reading::Lenient
            && segments.pop_if(|last| last.is_empty()).is_some()
            && matches(&self.0, &segments, reading)
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Greedy matching with one point of return, so that many `**` cost no more than the product of both lengths.
fn matches(pattern: &[Segment], segments: &[String], reading: Reading) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        match pattern.get(at) {
            Some(Segment::Many) => {
                retry = Some((at + 1, seen));
                at += 1;
                continue;
            }
            Some(wanted) if segments.get(seen).is_some_and(|found| admits(wanted, found, reading)) => {
                at += 1;
                seen += 1;
                continue;
            }
            None if seen == segments.len() => return true,
            _ => {}
        }
        match retry {
            Some((after, from)) if from < segments.len() => {
                retry = Some((after, from + 1));
                at = after;
                seen = from + 1;
            }
            _ => return false,
        }
    }
}

fn admits(wanted: &Segment, found: &str, reading: Reading) -> bool {
    match (wanted, reading) {
        (Segment::One, _) => !found.is_empty(),
        (Segment::Literal(literal), Reading::Exact) => literal == found,
        (Segment::Literal(literal), Reading::Lenient) => {
            let same = |found: &str| literal.to_lowercase() == found.to_lowercase();
            same(found) || found.split_once(';').is_some_and(|(bare, _)| same(bare))
        }
        // Consumed before a segment is compared.
        (Segment::Many, _) => false,
    }
}
