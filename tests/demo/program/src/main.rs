//! Counts lines, words and bytes of files and prints them as an aligned table, like wc(1) with headings.

use std::fmt;
use std::process::ExitCode;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    lines: usize,
    words: usize,
    bytes: usize,
}

impl Counts {
    fn of(text: &[u8]) -> Self {
        let mut counts = Self { bytes: text.len(), ..Self::default() };
        let mut inside = false;
        for byte in text {
            counts.lines += usize::from(*byte == b'\n');
            let space = byte.is_ascii_whitespace();
            counts.words += usize::from(!space && !inside);
            inside = !space;
        }
        counts
    }

    fn add(self, other: Self) -> Self {
        Self { lines: self.lines + other.lines, words: self.words + other.words, bytes: self.bytes + other.bytes }
    }
}

struct Table(Vec<(String, Counts)>);

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max("file".len());
        writeln!(out, "{:<width$} {:>8} {:>8} {:>8}", "file", "lines", "words", "bytes")?;
        for (name, counts) in &self.0 {
            writeln!(out, "{name:<width$} {:>8} {:>8} {:>8}", counts.lines, counts.words, counts.bytes)?;
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let mut rows = Vec::new();
    for name in std::env::args().skip(1) {
        match std::fs::read(&name) {
            Ok(text) => rows.push((name, Counts::of(&text))),
            Err(error) => {
                eprintln!("columns: {name}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    if rows.len() > 1 {
        let total = rows.iter().fold(Counts::default(), |sum, (_, counts)| sum.add(*counts));
        rows.push(("total".into(), total));
    }
    print!("{}", Table(rows));
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::{Counts, Table};

    #[test]
    fn an_empty_text_has_nothing() {
        assert_eq!(Counts::of(b""), Counts::default());
    }

    #[test]
    fn words_are_separated_by_any_white_space() {
        assert_eq!(Counts::of(b"one two\tthree\n four\n"), Counts { lines: 2, words: 4, bytes: 20 });
    }

    #[test]
    fn a_last_line_without_newline_is_not_counted() {
        assert_eq!(Counts::of(b"a\nb").lines, 1);
    }

    #[test]
    fn columns_are_as_wide_as_the_longest_name() {
        let table = Table(vec![("a-rather-long-name".into(), Counts::of(b"x\n"))]).to_string();
        let widths: Vec<usize> = table.lines().map(str::len).collect();
        assert_eq!(widths[0], widths[1]);
    }
}
