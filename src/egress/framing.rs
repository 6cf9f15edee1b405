//! The strict grammar of HTTP/1.1 requests on the wire (RFC 9112): where each head ends and how long its body is.
//!
//! Parsers that forgive differ in what they forgive, which is how one request becomes two. Here nothing is forgiven.

/// Largest head in bytes.
pub(super) const HEAD_LIMIT: usize = 64 * 1024;

/// Largest chunk line or trailer section.
const LINE_LIMIT: usize = 4 * 1024;

/// Bytes that are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FramingError {
    #[error("the request head is larger than {HEAD_LIMIT} bytes")]
    Large,
    #[error("a line of the request head does not end in CR LF, or holds a control character")]
    Line,
    #[error("the request line is malformed")]
    RequestLine,
    #[error("a header line is malformed")]
    Header,
    #[error("Content-Length is repeated or no plain number, or comes with Transfer-Encoding")]
    Length,
    #[error("Transfer-Encoding is not exactly one `chunked`")]
    Coding,
    #[error("a chunk or trailer of the body is malformed")]
    Chunk,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Head,
    /// So many bytes of a body with a length.
    Body(u64),
    ChunkLine,
    /// So many bytes of a chunk with the line end behind it.
    Chunk(u64),
    Trailers,
}

impl Expected {
    /// How many of `bytes` may be passed on now, and what comes then. None: more bytes are needed to tell.
    /// The end of a head is known not to lie within the first `searched` bytes, so that a head in many small
    /// segments costs no more than in one.
    pub(super) fn advance(
        self,
        bytes: &[u8],
        searched: usize,
    ) -> Result<Option<(usize, Self)>, FramingError> {
        match self {
            Self::Head => head(bytes, searched),
            Self::Body(length) => Ok(take(bytes, length)
                .map(|(taken, left)| (taken, if left == 0 { Self::Head } else { Self::Body(left) }))),
            Self::ChunkLine => chunk_line(bytes),
            Self::Chunk(length) => chunk(bytes, length),
            Self::Trailers => trailers(bytes),
        }
    }
}

fn take(bytes: &[u8], length: u64) -> Option<(usize, u64)> {
    let taken = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
    (taken > 0).then(|| (taken, length - taken as u64))
}

fn head(bytes: &[u8], searched: usize) -> Result<Option<(usize, Expected)>, FramingError> {
    // One empty line before a request is to be ignored (RFC 9112, section 2.2).
    let skipped = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    let start = searched.saturating_sub(3).clamp(skipped, bytes.len().max(skipped));
    let Some(length) = end_of(&bytes[start..], b"\r\n\r\n").map(|length| start - skipped + length) else {
        return if bytes.len() > HEAD_LIMIT { Err(FramingError::Large) } else { Ok(None) };
    };
    if length > HEAD_LIMIT {
        return Err(FramingError::Large);
    }
    let mut lines = lines(&bytes[skipped..skipped + length - 2])?;
    let is_old = request_line(lines.next().ok_or(FramingError::RequestLine)?)?;
    let mut lengths = Vec::new();
    let mut codings = Vec::new();
    for line in lines {
        let (name, value) = header(line)?;
        match &*name {
            "content-length" => lengths.push(value),
            "transfer-encoding" => codings.push(value),
            _ => {}
        }
    }
    let next = match (&lengths[..], &codings[..]) {
        ([], []) => Expected::Head,
        ([value], []) => match number(value, 10).ok_or(FramingError::Length)? {
            0 => Expected::Head,
            length => Expected::Body(length),
        },
        ([], [value]) if value.eq_ignore_ascii_case(b"chunked") && !is_old => Expected::ChunkLine,
        ([], _) => return Err(FramingError::Coding),
        _ => return Err(FramingError::Length),
    };
    Ok(Some((skipped + length, next)))
}

/// Length of `bytes` up to and with the first `mark`.
fn end_of(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark).map(|at| at + mark.len())
}

/// The lines of a section, each ended by CR LF and without any other control character but tab.
fn lines(section: &[u8]) -> Result<impl Iterator<Item = &[u8]>, FramingError> {
    let text = section.strip_suffix(b"\r\n").ok_or(FramingError::Line)?;
    let mut lines = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        lines.push(line);
    }
    let last = lines.len() - 1;
    for (index, line) in lines.iter_mut().enumerate() {
        if index < last {
            *line = line.strip_suffix(b"\r").ok_or(FramingError::Line)?;
        }
        if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err(FramingError::Line);
        }
    }
    Ok(lines.into_iter())
}

/// Whether the request is of HTTP/1.0.
fn request_line(line: &[u8]) -> Result<bool, FramingError> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (method, target, version, rest) = (parts.next(), parts.next(), parts.next(), parts.next());
    let valid =
        method.is_some_and(is_token) && target.is_some_and(|target| !target.is_empty()) && rest.is_none();
    match version {
        Some(b"HTTP/1.1") if valid => Ok(false),
        Some(b"HTTP/1.0") if valid => Ok(true),
        _ => Err(FramingError::RequestLine),
    }
}

/// A header's name, lower-case and with `-` for `_` (some origins take them for the same), and its value.
fn header(line: &[u8]) -> Result<(String, &[u8]), FramingError> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(FramingError::Header)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if !is_token(name) {
        return Err(FramingError::Header);
    }
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    let plain = name.replace('_', "-");
    if plain != name && matches!(&*plain, "content-length" | "transfer-encoding") {
        return Err(FramingError::Header);
    }
    Ok((name, value.trim_ascii()))
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty()
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// A number of digits only: no sign, no list, no space; at most 18 digits.
fn number(text: &[u8], radix: u32) -> Option<u64> {
    let digits =
        !text.is_empty() && text.len() <= 18 && text.iter().all(|byte| char::from(*byte).is_digit(radix));
    let text = std::str::from_utf8(text).ok().filter(|_| digits)?;
    u64::from_str_radix(text, radix).ok().filter(|number| i64::try_from(*number).is_ok())
}

fn chunk_line(bytes: &[u8]) -> Result<Option<(usize, Expected)>, FramingError> {
    let Some(length) = end_of(bytes, b"\n") else { return too_long(bytes) };
    let line = bytes[..length].strip_suffix(b"\r\n").ok_or(FramingError::Chunk)?;
    // A chunk extension means nothing to anybody and is a known disguise, so there is none.
    match number(line, 16).ok_or(FramingError::Chunk)? {
        0 => Ok(Some((length, Expected::Trailers))),
        size => Ok(Some((length, Expected::Chunk(size)))),
    }
}

fn chunk(bytes: &[u8], length: u64) -> Result<Option<(usize, Expected)>, FramingError> {
    if let Some((taken, left)) = take(bytes, length) {
        return Ok(Some((taken, Expected::Chunk(left))));
    }
    match bytes {
        [b'\r', b'\n', ..] if length == 0 => Ok(Some((2, Expected::ChunkLine))),
        [] | [b'\r'] => Ok(None),
        _ => Err(FramingError::Chunk),
    }
}

fn trailers(bytes: &[u8]) -> Result<Option<(usize, Expected)>, FramingError> {
    if bytes.starts_with(b"\r\n") {
        return Ok(Some((2, Expected::Head)));
    }
    let Some(length) = end_of(bytes, b"\r\n\r\n") else { return too_long(bytes) };
    for line in lines(&bytes[..length - 2]).map_err(|_| FramingError::Chunk)? {
        header(line).map_err(|_| FramingError::Chunk)?;
    }
    Ok(Some((length, Expected::Head)))
}

fn too_long(bytes: &[u8]) -> Result<Option<(usize, Expected)>, FramingError> {
    if bytes.len() > LINE_LIMIT { Err(FramingError::Chunk) } else { Ok(None) }
}
