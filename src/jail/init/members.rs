//! Reading tar strictly: a header has one meaning or is refused.
//!
//! Readers that disagree about a size or a name are how one archive shows two contents, so nothing is guessed: sizes
//! that differ, numbers that are none, names given twice and data behind the end are errors.

use std::io::{ErrorKind, Read};

use nix::errno::Errno;

use super::super::archive::LeftOut;
use super::super::wire::Failure;
use super::process::{failure, from_io};

const BLOCK: usize = 512;
/// Largest extended header in bytes.
const EXTENSION: u64 = 64 * 1024;
/// Most extended headers before one member.
const EXTENSIONS: usize = 8;

type Block = [u8; BLOCK];

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    /// To this target.
    Symlink(Vec<u8>),
    /// To this member.
    HardLink(Vec<u8>),
    /// Nothing that is made.
    None(LeftOut),
}

/// One member; names are not checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) owner: (u64, u64),
    /// Seconds since the epoch, and nanoseconds.
    pub(super) modified: (i64, i64),
}

/// An archive that is being read.
#[derive(Debug)]
pub(super) struct Archive<R> {
    from: R,
    /// Bytes of the member's data that were not read yet.
    data: u64,
    /// Bytes from there to the next header.
    padding: u64,
}

fn malformed(what: &str) -> Failure {
    failure(what, Errno::EBADMSG)
}

impl<R: Read> Archive<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, data: 0, padding: 0 }
    }

    /// The next member; `None` after the last one, when the archive is complete.
    pub(super) fn next(&mut self) -> Result<Option<Member>, Failure> {
        self.skip()?;
        let mut extended = Extended::default();
        for _header in 0..=EXTENSIONS {
            let block = self.block()?;
            if block == [0; BLOCK] {
                return self.end(&extended).map(|()| None);
            }
            check(&block)?;
            let size = number(&block[124..136]).ok_or_else(|| malformed("size is no number"))?;
            (self.data, self.padding) = (size, size.next_multiple_of(BLOCK as u64) - size);
            match block[156] {
                kind @ (b'x' | b'g' | b'L' | b'K') => {
                    let text = self.extension()?;
                    extended.take(kind, &text)?;
                }
                _ => return member(&block, size, extended).map(Some),
            }
        }
        Err(malformed("too many extended headers"))
    }

    /// Reads data of the member; 0 when all was read.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        let most = buffer.len().min(usize::try_from(self.data).unwrap_or(usize::MAX));
        self.fill(&mut buffer[..most])?;
        self.data -= most as u64;
        Ok(most)
    }

    fn skip(&mut self) -> Result<(), Failure> {
        let mut left = [0; BLOCK];
        while self.read(&mut left)? > 0 {}
        let padding = usize::try_from(self.padding).unwrap_or(0);
        self.padding = 0;
        self.fill(&mut left[..padding])
    }

    fn extension(&mut self) -> Result<Vec<u8>, Failure> {
        if self.data > EXTENSION {
            return Err(malformed("extended header too large"));
        }
        let mut text = vec![0; usize::try_from(self.data).unwrap_or(0)];
        self.read(&mut text)?;
        self.skip()?;
        Ok(text)
    }

    fn block(&mut self) -> Result<Block, Failure> {
        let mut block = [0; BLOCK];
        self.fill(&mut block)?;
        Ok(block)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Failure> {
        self.from.read_exact(buffer).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => failure("the archive is cut", Errno::ENODATA),
            _ => from_io("read the archive", &error),
        })
    }

    /// A second empty block, then nothing but padding.
    fn end(&mut self, extended: &Extended) -> Result<(), Failure> {
        if *extended != Extended::default() || self.block()? != [0; BLOCK] {
            return Err(malformed("a header is empty"));
        }
        let mut rest = [0; BLOCK];
        loop {
            match self.from.read(&mut rest) {
                Ok(0) => return Ok(()),
                Ok(length) if rest[..length].iter().all(|byte| *byte == 0) => {}
                Ok(_) => return Err(malformed("data behind the end")),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(from_io("read the archive", &error)),
            }
        }
    }
}

/// What extended headers say about the next member.
#[derive(Debug, Default, PartialEq, Eq)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    modified: Option<(i64, i64)>,
}

impl Extended {
    fn take(&mut self, kind: u8, text: &[u8]) -> Result<(), Failure> {
        match kind {
            b'L' => once(&mut self.path, until_nul(text).to_vec()),
            b'K' => once(&mut self.link, until_nul(text).to_vec()),
            _ => {
                let records = records(text).ok_or_else(|| malformed("extended header"))?;
                records.into_iter().try_for_each(|(key, value)| self.record(kind, key, value))
            }
        }
    }

    fn record(&mut self, kind: u8, key: &[u8], value: &[u8]) -> Result<(), Failure> {
        let odd = || malformed("value in an extended header");
        match key {
            b"path" | b"linkpath" | b"size" | b"mtime" if kind == b'g' => {
                Err(malformed("global header that names or sizes members"))
            }
            b"path" => once(&mut self.path, value.to_vec()),
            b"linkpath" => once(&mut self.link, value.to_vec()),
            b"size" => once(&mut self.size, decimal(value).ok_or_else(odd)?),
            b"mtime" => once(&mut self.modified, time(value).ok_or_else(odd)?),
            _ if key.starts_with(b"GNU.sparse.") => Err(malformed("sparse member")),
            // Owners by name, access times, extended attributes, comments: not kept.
            _ => Ok(()),
        }
    }
}

fn once<T>(field: &mut Option<T>, value: T) -> Result<(), Failure> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(malformed("told twice about one member")),
    }
}

fn check(block: &Block) -> Result<(), Failure> {
    let field = 148..156;
    let sum: u64 = block.iter().enumerate().fold(0, |sum, (at, byte)| {
        sum + if field.contains(&at) { u64::from(b' ') } else { u64::from(*byte) }
    });
    if number(&block[field]) == Some(sum) { Ok(()) } else { Err(malformed("checksum of a header")) }
}

fn member(block: &Block, size: u64, extended: Extended) -> Result<Member, Failure> {
    if extended.size.is_some_and(|told| told != size) {
        return Err(malformed("two sizes of one member"));
    }
    let number = |field: &[u8]| number(field).ok_or_else(|| malformed("field is no number"));
    let path = extended.path.unwrap_or_else(|| name(block));
    let link = extended.link.unwrap_or_else(|| until_nul(&block[157..257]).to_vec());
    let kind = match block[156] {
        0 | b'0' | b'7' if path.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' => Kind::File,
        b'1' => Kind::HardLink(link),
        b'2' => Kind::Symlink(link),
        b'3' | b'4' => Kind::None(LeftOut::Device),
        b'5' => Kind::Directory,
        b'6' => Kind::None(LeftOut::Fifo),
        b'S' => return Err(malformed("sparse member")),
        _ => return Err(malformed("unknown kind of member")),
    };
    if size > 0 && kind != Kind::File {
        return Err(malformed("data of something that is no file"));
    }
    let seconds = i64::try_from(number(&block[136..148])?).map_err(|_large| malformed("time"))?;
    Ok(Member {
        path,
        kind,
        size,
        mode: u32::try_from(number(&block[100..108])?).map_err(|_large| malformed("mode"))?,
        owner: (number(&block[108..116])?, number(&block[116..124])?),
        modified: extended.modified.unwrap_or((seconds, 0)),
    })
}

/// The name in a header. Only POSIX headers have a prefix; GNU's keep times there.
fn name(block: &Block) -> Vec<u8> {
    let (name, prefix) = (until_nul(&block[..100]), until_nul(&block[345..500]));
    if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
        return [prefix, b"/", name].concat();
    }
    name.to_vec()
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or(field)
}

/// An octal number, or GNU's binary one; nothing negative and nothing that 63 bits can't hold.
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    let value = if first & 0x80 == 0 {
        let text = field.trim_ascii_start();
        let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
        let (digits, rest) = text.split_at(end);
        let ended = rest.iter().all(|byte| matches!(byte, 0 | b' '));
        let octal = ended && digits.iter().all(|digit| *digit < b'8');
        let add = |value: u64, digit: &u8| value.checked_mul(8)?.checked_add(u64::from(digit - b'0'));
        octal.then(|| digits.iter().try_fold(0, add))??
    } else {
        let add = |value: u64, byte: &u8| value.checked_mul(256)?.checked_add(u64::from(*byte));
        (*first == 0x80).then(|| rest.iter().try_fold(0, add))??
    };
    i64::try_from(value).ok().map(|_fits| value)
}

/// `<length> <key>=<value>\n`, one after the other; the length counts all of it.
fn records(mut text: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut found = Vec::new();
    while !text.is_empty() {
        let space = text.iter().position(|byte| *byte == b' ')?;
        let length = usize::try_from(decimal(&text[..space])?).ok()?;
        let (end, record) = text.get(space + 1..length)?.split_last()?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        if *end != b'\n' {
            return None;
        }
        found.push((&record[..equals], &record[equals + 1..]));
        text = &text[length..];
    }
    Some(found)
}

fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok())?
}

/// Decimal seconds; digits beyond nanoseconds are cut.
fn time(text: &[u8]) -> Option<(i64, i64)> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().filter(|digits| !digits.is_empty());
    let nanoseconds = match fraction {
        None => 0,
        Some(digits) => {
            decimal(digits.get(..18).unwrap_or(digits))?;
            let nine: Vec<u8> = digits.iter().copied().chain(std::iter::repeat(b'0')).take(9).collect();
            i64::try_from(decimal(&nine)?).ok()?
        }
    };
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::{Archive, number, records, time};

    #[test]
    fn f_20_numbers_are_octal_or_binary_and_never_negative() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   17 \0\0"), Some(0o17));
        assert_eq!(number(&[0; 12]), Some(0));
        assert_eq!(number(b"\x80\0\0\0\0\0\0\x02\0\0\0\0"), Some(1 << 33));
        for bad in [
            &b"-000001\0"[..],
            b"0000008\0",
            b"12 34\0\0\0",
            b"0x1\0\0\0\0\0",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x80\0\0\x01\0\0\0\0\0\0\0\0",
            b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
            b"7777777777777777777777777",
        ] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn f_20_extended_records_count_themselves() {
        assert_eq!(records(b"6 a=b\n8 cc=ddd\n"), None);
        assert_eq!(records(b"6 a=b\n10 cc=ddd\n"), Some(vec![(&b"a"[..], &b"b"[..]), (b"cc", b"ddd")]));
        for bad in [&b"0 a=b\n"[..], b"99 a=b\n", b"1 a=b\n", b"-6 a=b\n", b"6 a=bc", b"6 aab\n", b"6"] {
            assert_eq!(records(bad), None, "{bad:?}");
        }
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"-12.5"), Some((-13, 500_000_000)));
        assert_eq!((time(b"1e3"), time(b"1.x"), time(b"")), (None, None, None));
    }

    /// Whatever is read: an end or a refusal.
    #[test]
    fn f_20_no_bytes_make_the_reader_panic_or_run_on() {
        let mut seed = 7_u32;
        let mut random = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed >> 16
        };
        let mut whole = tar::Builder::new(Vec::new());
        for name in ["a", &"long/".repeat(40)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(700);
            whole.append_data(&mut header, name, &[1; 700][..]).expect("append");
        }
        let whole = whole.into_inner().expect("archive");
        for _round in 0..5_000 {
            let mut bytes = whole.clone();
            for _change in 0..1 + random() % 3 {
                let at = random() as usize % bytes.len();
                bytes[at] = u8::try_from(random() % 256).expect("a byte");
            }
            let mut archive = Archive::new(&bytes[..]);
            let mut members = 0;
            while let Ok(Some(_member)) = archive.next() {
                members += 1;
            }
            assert!(members <= 2);
        }
    }
}
