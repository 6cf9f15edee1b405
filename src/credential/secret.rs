//! A secret value: how it is held, and where it comes from.

use std::fmt;
use std::pin::Pin;

use zeroize::Zeroizing;

/// A value that is wiped when dropped, and that nothing prints.
///
/// It is printable ASCII, so that it can stand in a header as it is.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

/// Why bytes are no secret. Says nothing of the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Nothing but perhaps a newline.
    #[error("the secret is empty")]
    Empty,
    /// CR or LF before the end: it could begin a header of its own.
    #[error("the secret contains a line break: store it on one line")]
    LineBreak,
    /// NUL or another control character.
    #[error("the secret contains a control character")]
    Control,
    /// Bytes above 0x7e.
    #[error("the secret contains other than ASCII characters")]
    NotAscii,
}

impl Secret {
    /// Takes the bytes over, without a copy, and drops one newline at the end, as editors and `echo` add it.
    ///
    /// # Errors
    /// The value is empty, or has a byte that no header may have.
    pub fn parse(mut bytes: Zeroizing<Vec<u8>>) -> Result<Self, SecretError> {
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        if bytes.is_empty() {
            return Err(SecretError::Empty);
        }
        for byte in bytes.iter() {
            match byte {
                b'\r' | b'\n' => return Err(SecretError::LineBreak),
                0..0x20 | 0x7f => return Err(SecretError::Control),
                0x80.. => return Err(SecretError::NotAscii),
                _ => {}
            }
        }
        let text = String::from_utf8(std::mem::take(&mut *bytes)).map_err(|error| {
            drop(Zeroizing::new(error.into_bytes()));
            SecretError::NotAscii
        })?;
        Ok(Self(Zeroizing::new(text)))
    }

    /// The value. Whoever calls this must not keep, print or log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(..)")
    }
}

/// Where values come from: whatever may open the source that the document names.
pub trait SecretSource: Send + Sync + fmt::Debug {
    /// The present value of `credential`. It is asked for each request, so that a rotation counts at once.
    fn open<'a>(
        &'a self,
        credential: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Secret, SourceError>> + Send + 'a>>;
}

/// Why a source gave no value. Never holds text of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The document has no such credential.
    #[error("no credential is called {credential:?}")]
    Unknown {
        /// The name asked for.
        credential: String,
    },
    /// The file or variable does not exist.
    #[error("the source of credential {credential:?} does not exist")]
    Missing {
        /// The credential.
        credential: String,
    },
    /// The file or variable exists but can't be read.
    #[error("the source of credential {credential:?} can't be read ({kind})")]
    Unreadable {
        /// The credential.
        credential: String,
        /// What the system says.
        kind: std::io::ErrorKind,
    },
    /// The bytes are no secret.
    #[error("credential {credential:?}: {source}")]
    Invalid {
        /// The credential.
        credential: String,
        /// Why.
        source: SecretError,
    },
    /// The source did not answer in time.
    #[error("the source of credential {credential:?} did not answer in time")]
    TimedOut {
        /// The credential.
        credential: String,
    },
    /// The process that opens sources is gone.
    #[error("credential {credential:?}: the process that opens sources is gone")]
    Disconnected {
        /// The credential.
        credential: String,
    },
}
