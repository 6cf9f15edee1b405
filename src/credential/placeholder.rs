//! Placeholders: random texts of a wanted shape, which stand for a secret within a sandbox.

use std::str::Chars;

use rand::Rng;

/// The shape of a placeholder whose credential gives none.
pub(super) const DEFAULT: &str = "hands_[a-z0-9]{32}";
/// Longest placeholder.
const MAX_LENGTH: usize = 512;
/// A placeholder must not be met by chance in other data.
const MIN_BITS: f64 = 64.0;

/// A pattern: literals, classes such as `[A-Za-z0-9]`, and `{n}` or `{n,m}` after either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    choices: Vec<char>,
    least: usize,
    most: usize,
}

/// Why a text is no placeholder pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A sign of regular expressions that is not offered.
    #[error(
        "{0:?} is not supported: use literals, classes such as [a-z0-9] and {{n}}, or escape it with a backslash"
    )]
    Operator(char),
    /// A class or escape without end, or an empty class, or a range backwards.
    #[error("a class is malformed: write it as [A-Za-z0-9_-]")]
    Class,
    /// A repetition without something to repeat, or without numbers.
    #[error("a repetition is malformed: write {{n}} or {{n,m}} after a literal or a class")]
    Repetition,
    /// More than 512 characters.
    #[error("a placeholder has at most 512 characters")]
    TooLong,
    /// Other than printable ASCII, or a space.
    #[error("{0:?} can't stand in a placeholder: use printable ASCII")]
    Character(char),
    /// Fewer than 64 random bits.
    #[error("the placeholder could be guessed: leave at least 64 random bits, such as [a-z0-9]{{13}}")]
    Guessable,
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, PatternError> {
        let mut parts: Vec<Part> = Vec::new();
        let mut repeated = false;
        let mut rest = text.chars();
        while let Some(next) = rest.next() {
            let choices = match next {
                '{' => {
                    let part = parts.last_mut().filter(|_| !repeated).ok_or(PatternError::Repetition)?;
                    (part.least, part.most) = repetition(&mut rest)?;
                    repeated = true;
                    continue;
                }
                '[' => class(&mut rest)?,
                '\\' => vec![rest.next().filter(char::is_ascii_punctuation).ok_or(PatternError::Class)?],
                '.' | '*' | '+' | '?' | '(' | ')' | '|' | '^' | '$' | ']' | '}' => {
                    return Err(PatternError::Operator(next));
                }
                _ => vec![next],
            };
            if let Some(&bad) = choices.iter().find(|c| !c.is_ascii_graphic()) {
                return Err(PatternError::Character(bad));
            }
            parts.push(Part { choices, least: 1, most: 1 });
            repeated = false;
        }
        let longest = parts.iter().fold(0usize, |sum, part| sum.saturating_add(part.most));
        if longest > MAX_LENGTH {
            return Err(PatternError::TooLong);
        }
        let bits: f64 = parts.iter().map(Part::bits).sum();
        if bits < MIN_BITS { Err(PatternError::Guessable) } else { Ok(Self(parts)) }
    }

    /// A fresh placeholder from the thread's cryptographic generator.
    pub(super) fn fill(&self) -> String {
        let mut random = rand::rng();
        let mut out = String::new();
        for part in &self.0 {
            for _ in 0..random.random_range(part.least..=part.most) {
                out.push(part.choices[random.random_range(0..part.choices.len())]);
            }
        }
        out
    }
}

impl Part {
    fn bits(&self) -> f64 {
        let choices = u16::try_from(self.choices.len()).map_or(1.0, f64::from);
        let least = u16::try_from(self.least).map_or(f64::from(u16::MAX), f64::from);
        least * choices.log2()
    }
}

/// The rest of a class after `[`; each character once, so that all are equally likely.
fn class(rest: &mut Chars<'_>) -> Result<Vec<char>, PatternError> {
    let mut choices = std::collections::BTreeSet::new();
    loop {
        match rest.next().ok_or(PatternError::Class)? {
            ']' => break,
            '^' if choices.is_empty() => return Err(PatternError::Operator('^')),
            '[' => return Err(PatternError::Class),
            '\\' => {
                choices.insert(rest.next().filter(char::is_ascii_punctuation).ok_or(PatternError::Class)?);
            }
            first => {
                let mut ahead = rest.clone();
                let range = ahead.next() == Some('-');
                // A hyphen before the closing bracket is a literal, as in regular expressions.
                match ahead.next().filter(|&last| range && last != ']') {
                    Some(last) if first <= last => {
                        choices.extend(first..=last);
                        *rest = ahead;
                    }
                    Some(_) => return Err(PatternError::Class),
                    None => {
                        choices.insert(first);
                    }
                }
            }
        }
    }
    if choices.is_empty() { Err(PatternError::Class) } else { Ok(choices.into_iter().collect()) }
}

/// The rest of a repetition after `{`.
fn repetition(rest: &mut Chars<'_>) -> Result<(usize, usize), PatternError> {
    let (inner, after) = rest.as_str().split_once('}').ok_or(PatternError::Repetition)?;
    *rest = after.chars();
    let number = |text: &str| {
        let digits = (1..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<usize>().ok()).flatten().ok_or(PatternError::Repetition)
    };
    let (least, most) = inner.split_once(',').unwrap_or((inner, inner));
    let (least, most) = (number(least)?, number(most)?);
    if least <= most && most > 0 { Ok((least, most)) } else { Err(PatternError::Repetition) }
}
