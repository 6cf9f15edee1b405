//! Policy: what a workspace may reach and use, read once and then only asked.
//!
//! A document becomes a [`Policy`] or an error that names every mistake with its line. Questions arrive in canonical
//! form only: a [`Host`] and a [`Path`] exist in one spelling each, so that what is judged, sent and audited is the
//! same. What passes is proven by a [`Permit`], which nothing outside this module can make.
//!
//! Three questions, in the order in which the way out asks them:
//!
//! | question | before | answer |
//! |---|---|---|
//! | [`Policy::may_resolve`] | a name is resolved | whether any rule could allow any connection to it |
//! | [`Policy::connection`] | a byte is read | how to treat the connection, or a [`Denial`] |
//! | [`Policy::decide`] | a request goes out | a [`Permit`], or a [`Denial`] |
//!
//! The permit then judges the address that is dialled: [`Permit::check_address`].
//!
//! No rule means no; a deny rule wins in any order. Deny rules are read broadly (every port, method, case and
//! spelling unless they say otherwise), allow rules narrowly. This module does no input or output and knows no
//! secret.

mod address;
mod builtin;
mod compile;
mod decide;
mod denial;
mod document;
mod error;
mod host;
mod index;
mod limits;
mod path;
mod pattern;
mod permit;
mod rule;
#[cfg(test)]
mod tests;

pub use address::{AddressBook, Network, NetworkError};
pub use decide::{Destination, Request, Scheme, Treatment, Verdict};
pub use denial::{Denial, Reason};
pub use document::Mode;
pub use error::{Fault, PolicyError, Problem};
pub use host::{Host, HostError, Name};
pub use limits::{Limits, ProcessRights, QuantityError, Rate};
pub use path::{Path, PathError, PathPatternError};
pub use pattern::HostPattern;
pub use permit::Permit;

use index::Index;

/// A policy that was read whole and found possible; it never changes.
#[derive(Debug, Default)]
pub struct Policy {
    limits: Limits,
    process: ProcessRights,
    mode: Mode,
    rules: Index,
}

impl Policy {
    /// Reads a YAML document; `origin` is its file name in errors.
    ///
    /// # Errors
    /// Every mistake that could be found, with line, column and the fix.
    pub fn parse(document: &str, origin: &str) -> Result<Self, PolicyError> {
        compile::policy(document, origin)
    }

    /// A policy that comes with the program, such as `package-registries`.
    ///
    /// # Errors
    /// No policy has that name.
    pub fn named(name: &str) -> Result<Self, PolicyError> {
        let document = builtin::document(name).ok_or_else(|| {
            let fault = Fault::UnknownPolicy { name: name.to_owned(), known: builtin::names() };
            PolicyError::new("policy", vec![Problem { line: 0, column: 0, fault }])
        })?;
        Self::parse(document, name)
    }

    /// The policy under which nothing gets out.
    #[must_use]
    pub fn deny_all() -> Self {
        Self::default()
    }

    /// Upper bounds of the workspace.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Rights of the workspace's processes.
    #[must_use]
    pub const fn process(&self) -> &ProcessRights {
        &self.process
    }

    /// Whether denials are also collected for the author; decisions are the same in both modes.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Rule, credential and hosts of each rule that gives a credential.
    pub fn credentials(&self) -> impl Iterator<Item = (&str, &str, &[HostPattern])> {
        self.rules.rules().iter().filter_map(|rule| {
            let credential = rule.credential.as_deref()?;
            Some((rule.name.as_str(), credential, rule.hosts.as_slice()))
        })
    }
}
