//! The output of a command as text: valid Unicode, without NUL and escape sequences, head and tail of what is long.

use std::collections::VecDeque;

use super::TEXT;

/// Bytes kept of the beginning.
const HEAD: usize = 16_384;
/// Bytes kept of the end.
const TAIL: usize = TEXT - HEAD;
/// Longest escape sequence that is taken for one.
const SEQUENCE: usize = 64;

/// Output that is taken in pieces, in constant memory.
#[derive(Debug, Default)]
pub(super) struct Excerpt {
    /// The end of the last piece, which may be the beginning of a character or an escape sequence.
    carry: Vec<u8>,
    head: String,
    tail: VecDeque<u8>,
    /// Bytes of text so far; those that were lost count as they were.
    total: u64,
    /// Whether something was lost before it came here.
    gap: bool,
}

impl Excerpt {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let mut piece = std::mem::take(&mut self.carry);
        piece.extend_from_slice(bytes);
        let whole = whole(&piece);
        self.carry = piece.split_off(whole);
        self.take(&plain(&piece));
    }

    /// Counts bytes that were not kept.
    pub(super) fn skip(&mut self, bytes: u64) {
        self.flush();
        self.gap = true;
        self.total += bytes;
        self.tail.clear();
    }

    fn flush(&mut self) {
        let rest = std::mem::take(&mut self.carry);
        self.take(&plain(&rest));
    }

    fn take(&mut self, text: &str) {
        self.total += text.len() as u64;
        let room = if self.gap || !self.tail.is_empty() { 0 } else { HEAD - self.head.len() };
        let (first, rest) = text.split_at(border(text, room));
        self.head.push_str(first);
        self.tail.extend(rest.as_bytes());
        if self.tail.len() > TAIL {
            self.tail.drain(..self.tail.len() - TAIL);
        }
    }

    /// The text, and whether something is missing. Trailing newlines are cut.
    pub(super) fn finish(mut self) -> (String, bool) {
        self.flush();
        let tail: Vec<u8> = self.tail.into();
        // The first character of the tail may have lost its beginning.
        let start = tail.iter().take(3).take_while(|byte| **byte & 0xC0 == 0x80).count();
        let tail = String::from_utf8_lossy(&tail[start..]);
        let kept = (self.head.len() + tail.len()) as u64;
        if self.total <= kept && !self.gap {
            return ((self.head + &tail).trim_end_matches('\n').to_owned(), false);
        }
        let omitted = self.total - kept;
        let text = format!("[output truncated]\n{}\n[{omitted} bytes omitted]\n{tail}", self.head);
        (text.trim_end_matches('\n').to_owned(), true)
    }
}

/// The last border of characters at or before `most`.
pub(super) fn border(text: &str, most: usize) -> usize {
    (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// How many bytes of a piece can be understood without what follows.
fn whole(piece: &[u8]) -> usize {
    let recent = piece.len().saturating_sub(SEQUENCE);
    if let Some(escape) = piece[recent..].iter().rposition(|byte| *byte == 0x1B)
        && sequence(&piece[recent + escape..]).is_none()
    {
        return recent + escape;
    }
    // A lead byte near the end whose character is not complete.
    for back in 1..=3.min(piece.len()) {
        let byte = piece[piece.len() - back];
        let length = match byte {
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            0x80..=0xBF => continue,
            _ => 1,
        };
        return if length > back { piece.len() - back } else { piece.len() };
    }
    piece.len()
}

/// The length of the escape sequence (CSI, ECMA-48 5.4) at the start of `bytes`: 0 if there is none, `None` if it is
/// not complete.
fn sequence(bytes: &[u8]) -> Option<usize> {
    match bytes.get(1) {
        None => None,
        Some(b'[') => {
            let body = bytes[2..].iter().take_while(|byte| (0x20..=0x3F).contains(*byte)).count();
            match bytes.get(2 + body) {
                Some(0x40..=0x7E) => Some(3 + body),
                Some(_) => Some(0),
                None if bytes.len() >= SEQUENCE => Some(0),
                None => None,
            }
        }
        Some(_) => Some(0),
    }
}

fn plain(bytes: &[u8]) -> String {
    let mut kept = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [byte, after @ ..] = rest {
        let length = if *byte == 0x1B { sequence(rest).unwrap_or(0) } else { 0 };
        if length > 0 {
            rest = &rest[length..];
            continue;
        }
        if *byte != 0 {
            kept.push(*byte);
        }
        rest = after;
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::Excerpt;

    fn text(pieces: &[&[u8]]) -> (String, bool) {
        let mut excerpt = Excerpt::default();
        pieces.iter().for_each(|piece| excerpt.push(piece));
        excerpt.finish()
    }

    #[test]
    fn t_09_text_is_unicode_without_nul_and_escape_sequences_however_it_is_cut() {
        let bytes = b"\xff\0\x1b[31mx\x1b[0m \xc3\xa9\xf0\x9f\x98\x80\n\n";
        for at in 0..bytes.len() {
            let (one, other) = bytes.split_at(at);
            assert_eq!(text(&[one, other]), ("\u{fffd}x \u{e9}\u{1f600}".to_owned(), false), "cut at {at}");
        }
        let singly: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(text(&singly).0, "\u{fffd}x \u{e9}\u{1f600}");
        assert_eq!(text(&[b"\x1b", b"[3"]).0, "\x1b[3", "an unfinished sequence is shown");
    }

    #[test]
    fn t_08_head_and_tail_are_kept_on_character_borders_and_the_count_adds_up() {
        let (told, cut) = text(&["a".as_bytes(), "\u{e9}".repeat(500_000).as_bytes()]);
        let head = told.strip_prefix("[output truncated]\n").expect("mark");
        let (head, rest) = head.split_once("\n[").expect("second mark");
        let (omitted, tail) = rest.split_once(" bytes omitted]\n").expect("count");
        assert!(cut && head.starts_with('a') && tail.chars().all(|c| c == '\u{e9}'));
        assert_eq!(head.len() + tail.len() + omitted.parse::<usize>().expect("number"), 1_000_001);
        assert!(head.len() <= 16_384 && tail.len() <= 81_920 && told.len() > 98_000);
        let (whole, cut) = text(&["b".repeat(98_304).as_bytes()]);
        assert!(!cut && whole.len() == 98_304);
        assert!(text(&["b".repeat(98_305).as_bytes()]).1);
    }

    #[test]
    fn what_was_lost_on_the_way_is_counted() {
        let mut excerpt = Excerpt::default();
        excerpt.push(b"begin");
        excerpt.skip(10);
        excerpt.push(b"end\n");
        assert_eq!(excerpt.finish(), ("[output truncated]\nbegin\n[10 bytes omitted]\nend".into(), true));
    }
}
