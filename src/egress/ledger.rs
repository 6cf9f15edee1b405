//! The files behind the audit: one JSON object per line, each chained to the one before by a hash.
//!
//! A line ends in `"hash":"…"}`: SHA-256 over the previous line's hash and the line without this member. A line is
//! one `write(2)`; if it fails, what was half written is cut off again and the caller gets an error, which it has to
//! answer by sending nothing. Behind each line the file `audit.head` is told number and hash of the last record, so
//! that a log that lost its end is seen to have lost it. A full file is renamed by the number of its first record.
//!
//! Both survive the death of the process at any moment. They are synced to disk when a file is full; a loss of power
//! may take the latest records, which [`verify`](super::verify()) then reports as missing: it can't know better.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::audit::AuditError;

/// The name of the log that is written now, within the audit directory.
pub const FILE_NAME: &str = "audit.jsonl";

/// The name of the file that knows the last record.
pub(super) const HEAD_NAME: &str = "audit.head";

/// Size at which a file is full.
const FULL: u64 = 64 * 1024 * 1024;

/// How much of the end of the log is read at a time to find its last complete line.
const TAIL_CHUNK: u64 = 64 * 1024;

const HASH_LENGTH: usize = 64;
const HASH_MEMBER: &[u8] = b",\"hash\":\"";
const END: &[u8] = b"\"}";

/// A record's place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) seq: u64,
    /// In hexadecimal, as it stands in the line.
    pub(super) hash: String,
}

impl Link {
    /// Before the first record.
    pub(super) fn origin() -> Self {
        Self { seq: 0, hash: "0".repeat(HASH_LENGTH) }
    }

    /// What a line without its newline says of itself; none if it is no record.
    pub(super) fn of(line: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Numbered {
            seq: u64,
        }
        let Numbered { seq } = serde_json::from_slice(line).ok()?;
        let (_, hash) = unsealed(line)?;
        Some(Self { seq, hash: hash.to_owned() })
    }

    /// What `audit.head` says; none if it says nothing.
    pub(super) fn at_head(directory: &Path) -> io::Result<Option<Self>> {
        let text = match std::fs::read_to_string(directory.join(HEAD_NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        Ok(text.trim_end().split_once(' ').and_then(|(seq, hash)| {
            let is_hash = hash.len() == HASH_LENGTH;
            Some(Self { seq: seq.parse().ok().filter(|_| is_hash)?, hash: hash.to_owned() })
        }))
    }
}

/// A record without its hash, and the hash; none if it has none.
fn unsealed(line: &[u8]) -> Option<(Vec<u8>, &str)> {
    let rest = line.strip_suffix(END)?;
    let (rest, hash) = rest.split_at_checked(rest.len().checked_sub(HASH_LENGTH)?)?;
    let record = rest.strip_suffix(HASH_MEMBER)?;
    Some(([record, b"}"].concat(), std::str::from_utf8(hash).ok()?))
}

fn chained(previous: &str, record: &[u8]) -> String {
    let digest = Sha256::new().chain_update(previous.as_bytes()).chain_update(record).finalize();
    format!("{digest:x}")
}

/// Whether the hash of a line is the one that it must have behind `previous`.
pub(super) fn follows(line: &[u8], previous: &str) -> bool {
    unsealed(line).is_some_and(|(record, hash)| chained(previous, &record) == hash)
}

/// The log that is appended to.
#[derive(Debug)]
pub(super) struct Ledger {
    directory: PathBuf,
    file: File,
    head: File,
    /// Number of the file's first record.
    first: u64,
    /// Bytes of complete lines; anything behind it is the rest of a failed write.
    length: u64,
    last: Link,
    /// A failed write could not be cut off yet, so nothing may be appended.
    torn: bool,
    full: u64,
}

impl Ledger {
    /// Opens the log in `directory`, or makes it (mode 0600), and cuts a torn last line. Numbers go on from the last
    /// record that was ever written: if the log lost its end, the gap stays.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let (file, mut length) = open_file(directory)?;
        let found = last_line(&file, length)?;
        if found.0 < length {
            file.set_len(found.0)?;
            length = found.0;
        }
        let newest = match found.1 {
            Some(line) => Some(line),
            None => newest_full(directory)?,
        };
        let written = match newest {
            None => Link::origin(),
            Some(line) => Link::of(&line).ok_or(io::ErrorKind::InvalidData)?,
        };
        let last = match Link::at_head(directory)? {
            Some(head) if head.seq > written.seq => head,
            _ => written,
        };
        let first = first_line(&file)?.and_then(|line| Link::of(&line)).map_or(last.seq + 1, |link| link.seq);
        let mut options = OpenOptions::new();
        let head = options.write(true).create(true).truncate(false).mode(0o600);
        let head = head.open(directory.join(HEAD_NAME))?;
        let directory = directory.to_owned();
        Ok(Self { directory, file, head, first, length, last, torn: false, full: FULL })
    }

    /// Writes one record; `build` gets its number.
    pub(super) fn append<T: Serialize>(&mut self, build: impl FnOnce(u64) -> T) -> Result<u64, AuditError> {
        if self.torn {
            self.file.set_len(self.length)?;
            self.torn = false;
        }
        if self.length >= self.full {
            self.rotate()?;
        }
        let seq = self.last.seq + 1;
        let mut line = serde_json::to_vec(&build(seq))?;
        let hash = chained(&self.last.hash, &line);
        line.pop();
        for part in [HASH_MEMBER, hash.as_bytes(), END, b"\n"] {
            line.extend_from_slice(part);
        }
        self.write(&line, &Link { seq, hash: hash.clone() })?;
        self.length += line.len() as u64;
        self.last = Link { seq, hash };
        Ok(seq)
    }

    fn write(&mut self, line: &[u8], link: &Link) -> io::Result<()> {
        let written = match (&self.file).write(line) {
            Ok(count) if count == line.len() => {
                self.head.write_all_at(format!("{:020} {}\n", link.seq, link.hash).as_bytes(), 0)
            }
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(error) => Err(error),
        };
        if written.is_err() {
            self.torn = self.file.set_len(self.length).is_err();
        }
        written
    }

    /// Begins a new file. A crash in between leaves a full one and none, which [`Self::open`] takes as it is.
    fn rotate(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        self.head.sync_all()?;
        let name = format!("audit.{:020}.jsonl", self.first);
        std::fs::rename(self.directory.join(FILE_NAME), self.directory.join(name))?;
        (self.file, self.length) = open_file(&self.directory)?;
        self.first = self.last.seq + 1;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn set_full(&mut self, full: u64) {
        self.full = full;
    }
}

fn open_file(directory: &Path) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    let file = options.read(true).append(true).create(true).mode(0o600).open(directory.join(FILE_NAME))?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

/// The full files, oldest first.
pub(super) fn full_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("audit.")?.strip_suffix(".jsonl"));
        if number.is_some_and(|number| number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit()))
        {
            found.push(directory.join(name));
        }
    }
    found.sort();
    Ok(found)
}

fn newest_full(directory: &Path) -> io::Result<Option<Vec<u8>>> {
    let Some(path) = full_files(directory)?.pop() else { return Ok(None) };
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    Ok(last_line(&file, length)?.1)
}

fn first_line(file: &File) -> io::Result<Option<Vec<u8>>> {
    let mut start = vec![0; usize::try_from(TAIL_CHUNK).map_err(io::Error::other)?];
    let read = file.read_at(&mut start, 0)?;
    let end = start[..read].iter().position(|byte| *byte == b'\n');
    Ok(end.map(|end| start[..end].to_vec()))
}

/// Length of the complete lines within the first `length` bytes, and the last of these lines.
fn last_line(file: &File, length: u64) -> io::Result<(u64, Option<Vec<u8>>)> {
    let mut tail = Vec::new();
    let mut start = length;
    loop {
        let ends: Vec<usize> =
            tail.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
        if let [.., before, last] = ends[..] {
            return Ok((start + last as u64 + 1, Some(tail[before + 1..last].to_vec())));
        }
        if start == 0 {
            let Some(last) = ends.first().copied() else { return Ok((0, None)) };
            tail.truncate(last);
            return Ok((last as u64 + 1, Some(tail)));
        }
        let chunk = TAIL_CHUNK.min(start);
        start -= chunk;
        let mut earlier = vec![0; usize::try_from(chunk).map_err(io::Error::other)?];
        file.read_exact_at(&mut earlier, start)?;
        earlier.append(&mut tail);
        tail = earlier;
    }
}
