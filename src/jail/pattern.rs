//! What a glob and a regular expression mean: the daemon checks them before init is asked, with the same code.

use std::path::PathBuf;

use globset::{GlobBuilder, GlobMatcher};
use grep_regex::{RegexMatcher, RegexMatcherBuilder};

/// The parts of a pattern up to the first that is no plain name; those may be links, `**` follows none.
pub(super) fn split(pattern: &str) -> (PathBuf, String) {
    let mut parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let plain = |part: &&&str| !part.contains(['*', '?', '[', ']', '{', '}', '\\']);
    let most = parts.len().saturating_sub(1);
    let names = parts.iter().take(most).take_while(plain).count();
    let rest = parts.split_off(names);
    (parts.iter().collect(), rest.join("/"))
}

/// The matcher of a pattern: `*` and `?` stop at a slash.
///
/// # Errors
/// What is wrong with the pattern.
pub fn matcher(pattern: &str) -> Result<GlobMatcher, globset::Error> {
    let (_, rest) = split(pattern);
    let glob = GlobBuilder::new(&rest).literal_separator(true).empty_alternates(true).build()?;
    Ok(glob.compile_matcher())
}

/// The matcher of a regular expression, line by line.
///
/// # Errors
/// What is wrong with it.
pub fn expression(pattern: &str) -> Result<RegexMatcher, grep_regex::Error> {
    RegexMatcherBuilder::new().line_terminator(Some(b'\n')).build(pattern)
}

#[cfg(test)]
mod tests {
    use super::{expression, matcher, split};

    #[test]
    fn plain_names_are_taken_off_and_the_last_part_never_is() {
        let split = |pattern| {
            let (names, rest) = split(pattern);
            (names.display().to_string(), rest)
        };
        assert_eq!(split("a/b/*.rs"), ("a/b".into(), "*.rs".into()));
        assert_eq!(split("**/x"), (String::new(), "**/x".into()));
        assert_eq!(split("./a//b"), ("a".into(), "b".into()));
    }

    #[test]
    fn stars_stop_at_slashes_and_hidden_names_match() {
        let matches = |pattern: &str, path: &str| matcher(pattern).expect("valid").is_match(path);
        assert!(matches("*.{rs,toml}", "a.rs") && matches("*", ".hidden") && matches("**/*.rs", "a/b/c.rs"));
        assert!(matches("**/*.rs", "c.rs") && matches("[ab]?", "b1"));
        assert!(!matches("*.rs", "a/b.rs") && !matches("a?b", "a/b"));
        assert!(matcher("[a").is_err() && matcher("{a").is_err());
    }

    #[test]
    fn an_expression_never_crosses_a_line() {
        assert!(expression("a\\nb").is_err() && expression("(").is_err() && expression("a.b").is_ok());
    }
}
