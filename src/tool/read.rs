//! `read`: a text file or a part of it, a picture, a PDF.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::time::Instant;

use bytes::Bytes;
use futures_util::FutureExt;

use super::path::{Named, Session};
use super::{Content, Input, PATIENCE, Tool, ToolError, ToolResult, WHOLE};

/// Largest picture in bytes: 5 MiB when it is written in base64.
const IMAGE: u64 = 5 * 1024 * 1024 / 4 * 3;
/// Largest document in bytes.
const DOCUMENT: u64 = 20 * 1024 * 1024;

pub(super) const TOOL: Tool = Tool {
    name: "read",
    description: "Read a file: text as it is, png, jpeg, gif, webp and pdf as what they show. Paths are relative to \
                  the working directory. `view_range` selects lines [first, last], counted from 1; last 0 or less \
                  means the end.",
    schema: r#"{"type":"object","properties":{"file_path":{"type":"string"},"view_range":{"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":2}},"required":["file_path"]}"#,
    repeatable: true,
    patience: Some(PATIENCE),
    run: |session, input| async move { run(&session, &input).await }.boxed(),
};

async fn run(session: &Session, input: &Input) -> Result<ToolResult, ToolError> {
    let written = input.required("file_path")?;
    let range = match input.pair("view_range") {
        None => None,
        Some(Some(range)) => Some(range),
        Some(None) => {
            return Err(ToolError::Told("read: view_range must be [start_line, end_line]".into()));
        }
    };
    let named = session.name("read", &written)?;
    let (file, size) = open(session, &named).await?;
    let asked = Asked { written: written.clone(), range };
    let read = tokio::task::spawn_blocking(move || asked.read(file, size)).await;
    read.unwrap_or_else(|_ended| Err(ToolError::Told("read: interrupted".into())))
}

/// Opens a regular file, in the words of read and edit.
pub(super) async fn open(session: &Session, named: &Named<'_>) -> Result<(File, u64), ToolError> {
    let opened = session.workspaces.open_file(session.workspace.as_str(), named.target()).await;
    match opened {
        Ok((file, stat)) => Ok((file, stat.size)),
        Err(error) if error.errno() == Some(libc::EISDIR) => Err(named.complain("not a regular file")),
        Err(error) => Err(named.refuse(error)),
    }
}

struct Asked {
    written: String,
    range: Option<(i64, i64)>,
}

impl Asked {
    fn told<T>(text: &str) -> Result<T, ToolError> {
        Err(ToolError::Told(format!("read: {text}")))
    }

    fn read(&self, file: File, size: u64) -> Result<ToolResult, ToolError> {
        let name = &self.written;
        let failed = |error: std::io::Error| ToolError::Told(format!("read: {name}: {error}"));
        let mut file = Patient { file, until: Instant::now() + PATIENCE };
        if let Some(extension) = media(name) {
            let mut magic = Vec::new();
            file.by_ref().take(16).read_to_end(&mut magic).map_err(failed)?;
            if let Some((media_type, limit)) = kind(&extension, &magic) {
                return self.media(BufReader::new(magic.chain(file)), size, (media_type, limit));
            }
            return self.text(magic.chain(file), size);
        }
        self.text(file, size)
    }

    fn media(
        &self,
        file: impl Read,
        size: u64,
        (media_type, limit): (&str, u64),
    ) -> Result<ToolResult, ToolError> {
        let name = &self.written;
        if self.range.is_some() {
            return Self::told("view_range is not supported for image/PDF files");
        }
        let mut data = Vec::new();
        let read = file.take(limit + 1).read_to_end(&mut data);
        read.map_err(|error| ToolError::Told(format!("read: {name}: {error}")))?;
        if size > limit || data.len() as u64 > limit {
            return Self::told(&format!(
                "{name} is {size} bytes, exceeds {limit}-byte limit for image/PDF files."
            ));
        }
        let (media_type, data) = (media_type.to_owned(), Bytes::from(data));
        Ok(ToolResult::new(match media_type.as_str() {
            "application/pdf" => Content::Document { media_type, data },
            _ => Content::Image { media_type, data },
        }))
    }

    fn text(&self, file: impl Read, size: u64) -> Result<ToolResult, ToolError> {
        let name = &self.written;
        let bytes = match self.range {
            Some(range) => self.lines(BufReader::with_capacity(256 * 1024, file), range)?,
            None => {
                let mut bytes = Vec::new();
                let read = file.take(WHOLE + 1).read_to_end(&mut bytes);
                read.map_err(|error| ToolError::Told(format!("read: {name}: {error}")))?;
                if size > WHOLE || bytes.len() as u64 > WHOLE {
                    let size = size.max(bytes.len() as u64);
                    return Self::told(&format!(
                        "{name} is {size} bytes, exceeds {WHOLE}-byte limit. Use the view_range parameter to read \
                         specific line ranges, e.g. view_range: [1, 500]."
                    ));
                }
                bytes
            }
        };
        match String::from_utf8(bytes) {
            Ok(text) => Ok(ToolResult::text(text.replace('\0', "\u{fffd}"))),
            Err(_) => Self::told(&format!(
                "{name}: not valid UTF-8 text (binary files are only supported for image/PDF extensions)"
            )),
        }
    }

    /// Lines `from` to `to`; the last one without its newline unless it is the file's end that was asked for.
    fn lines(&self, mut file: impl BufRead, (from, to): (i64, i64)) -> Result<Vec<u8>, ToolError> {
        let name = &self.written;
        let failed = |error: std::io::Error| ToolError::Told(format!("read: {name}: {error}"));
        let (first, last) = (from.max(1), if to <= 0 { i64::MAX } else { to });
        let mut bytes = Vec::new();
        for number in 1..=last {
            if number < first {
                if skip_line(&mut file).map_err(failed)? == 0 {
                    break;
                }
                continue;
            }
            let before = bytes.len() as u64;
            let read = file.by_ref().take(WHOLE + 2).read_until(b'\n', &mut bytes).map_err(failed)?;
            if read == 0 {
                break;
            }
            let ended = bytes.last() == Some(&b'\n');
            if ended && number == last {
                bytes.pop();
            }
            let line = bytes.len() as u64 - before - u64::from(ended && number != last);
            if line > WHOLE {
                return Self::told(&format!(
                    "line {number} of {name} alone exceeds {WHOLE}-byte limit. The read tool cannot return part of a \
                     line, so view_range cannot narrow this further."
                ));
            }
            if bytes.len() as u64 > WHOLE {
                return Self::told(&format!(
                    "view_range [{from}, {to}] of {name} exceeds {WHOLE}-byte limit. Narrow the view_range to read a \
                     smaller portion."
                ));
            }
        }
        Ok(bytes)
    }
}

/// A file that is not read for ever: a hole has any size.
struct Patient {
    file: File,
    until: Instant,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if Instant::now() >= self.until {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        self.file.read(buffer)
    }
}

/// Passes over one line of any length; 0 at the end of the file.
fn skip_line(file: &mut impl BufRead) -> std::io::Result<usize> {
    let mut skipped = 0;
    loop {
        let buffer = file.fill_buf()?;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let length = end.map_or(buffer.len(), |at| at + 1);
        skipped += length;
        file.consume(length);
        if end.is_some() || length == 0 {
            return Ok(skipped);
        }
    }
}

/// The extension of a picture or document.
fn media(name: &str) -> Option<String> {
    let extension = name.rsplit_once('.')?.1.to_ascii_lowercase();
    ["png", "jpg", "jpeg", "gif", "webp", "pdf"].contains(&extension.as_str()).then_some(extension)
}

/// What a file is, if extension and first bytes agree, and how large it may be.
fn kind(extension: &str, magic: &[u8]) -> Option<(&'static str, u64)> {
    match extension {
        "png" if magic.starts_with(b"\x89PNG\r\n\x1a\n") => Some(("image/png", IMAGE)),
        "jpg" | "jpeg" if magic.starts_with(b"\xff\xd8\xff") => Some(("image/jpeg", IMAGE)),
        "gif" if magic.starts_with(b"GIF87a") || magic.starts_with(b"GIF89a") => Some(("image/gif", IMAGE)),
        "webp" if magic.starts_with(b"RIFF") && magic.get(8..12) == Some(b"WEBP") => {
            Some(("image/webp", IMAGE))
        }
        "pdf" if magic.starts_with(b"%PDF-") => Some(("application/pdf", DOCUMENT)),
        _ => None,
    }
}
