//! Credentials: what they are called, where their values may go, and how a value is held.
//!
//! A [`Document`] names each [`Credential`], its [`Source`] and its binding; it holds no value. A value is a
//! [`Secret`], which comes from a [`SecretSource`] when a permitted request needs it and is wiped when dropped. The
//! sandbox sees placeholders only: [`Document::placeholders`].
//!
//! This module does not open a source, and does not know a policy: that a rule may use a credential, and that the
//! credential may go where the rule leads ([`Credential::admits`]), are two checks that both must hold.

mod binding;
mod document;
mod error;
mod placeholder;
mod secret;
#[cfg(test)]
mod tests;
mod typed;

pub use document::{Credential, Document, Kind, Source};
pub use error::{DocumentError, Fault, Problem};
pub use placeholder::PatternError;
pub use secret::{Secret, SecretError, SecretSource, SourceError};
