//! Names and identifiers that cross a border: parsed once, valid from then on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest identifier in bytes; leaves room for suffixes within a file name (255).
pub const MAX_LENGTH: usize = 128;

/// A string that is not a valid [`Id`].
#[derive(Debug, thiserror::Error)]
#[error(
    "{given:?} is no valid id: use 1 to {MAX_LENGTH} letters, digits, '.', '_' or '-', beginning with a letter or digit"
)]
pub struct InvalidId {
    given: String,
}

/// The id of a workspace, process or volume: safe as a file name, a label and a log field.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(String);

impl Id {
    /// A fresh id whose order is the order of creation: `prefix-` and a version 7 UUID (RFC 9562) without hyphens.
    #[must_use]
    pub fn fresh(prefix: &str) -> Self {
        Self(format!("{prefix}-{}", uuid::Uuid::now_v7().simple()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Id {
    type Error = InvalidId;

    fn try_from(given: String) -> Result<Self, InvalidId> {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let valid = given.len() <= MAX_LENGTH
            && given.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
            && given.bytes().all(inner);
        if valid { Ok(Self(given)) } else { Err(InvalidId { given }) }
    }
}

impl FromStr for Id {
    type Err = InvalidId;

    fn from_str(given: &str) -> Result<Self, InvalidId> {
        Self::try_from(given.to_owned())
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Id;

    #[test]
    fn ids_that_could_leave_a_directory_are_refused() {
        for bad in ["", ".", "..", "../x", "a/b", "a\0b", "-rf", "a b", &"x".repeat(129)] {
            assert!(bad.parse::<Id>().is_err(), "{bad:?} was admitted");
        }
    }

    #[test]
    fn fresh_ids_are_valid_and_sort_by_creation() {
        let (first, second) = (Id::fresh("ws"), Id::fresh("ws"));
        assert!(first < second || first.as_str().len() == second.as_str().len());
        assert_eq!(first.as_str().parse::<Id>().expect("valid"), first);
    }
}
