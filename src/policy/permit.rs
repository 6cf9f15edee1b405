//! A permit: the proof of one decision, which everything that sends demands.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::address::{AddressBook, Network, built_in, opens, spellings};
use super::decide::Scheme;
use super::denial::{Denial, Reason};
use super::host::Host;
use super::limits::Rate;
use super::rule::Rule;

/// Leave for one request, or one raw connection, as it was judged.
///
/// Only this module makes one, and it can be neither copied nor changed:
///
/// ```compile_fail,E0451
/// fn renamed(permit: hands::policy::Permit) -> hands::policy::Permit {
///     hands::policy::Permit { method: String::from("DELETE"), ..permit }
/// }
/// ```
/// ```compile_fail,E0599
/// fn twice(permit: hands::policy::Permit) -> [hands::policy::Permit; 2] {
///     [permit.clone(), permit]
/// }
/// ```
#[derive(Debug)]
pub struct Permit {
    rule: Arc<Rule>,
    opening: Opening,
    scheme: Scheme,
    host: Host,
    port: u16,
    method: String,
    path: String,
}

/// The denied addresses that the matching rules open together.
#[derive(Debug, Default)]
pub(super) struct Opening {
    private: bool,
    networks: Vec<Network>,
}

impl Opening {
    pub(super) fn add(&mut self, rule: &Rule) {
        self.private |= rule.private;
        let networks = rule.hosts.iter().filter_map(|pattern| pattern.network());
        self.networks.extend(networks.filter(|network| network.is_private()));
    }

    fn has(&self, address: IpAddr) -> bool {
        self.private || self.networks.iter().any(|network| network.contains(address))
    }
}

impl Permit {
    pub(super) fn new(rule: Arc<Rule>, opening: Opening, scheme: Scheme, (host, port): (Host, u16)) -> Self {
        Self { rule, opening, scheme, host, port, method: String::new(), path: String::new() }
    }

    pub(super) fn for_request(self, method: &str, path: &str) -> Self {
        Self { method: method.to_owned(), path: path.to_owned(), ..self }
    }

    /// The rule that decided.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule.name
    }

    /// The credential that the rule gives to the request.
    #[must_use]
    pub fn credential(&self) -> Option<&str> {
        self.rule.credential.as_deref()
    }

    /// How often the rule lets anything through.
    #[must_use]
    pub fn rate(&self) -> Option<Rate> {
        self.rule.rate
    }

    /// The host that was judged.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The port that was judged.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// What guards the bytes. A passthrough is [`Scheme::Https`]; raw TCP, of which nothing is known, is
    /// [`Scheme::Http`].
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The normalised path; empty for a raw connection.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The method; empty for a raw connection.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Judges the address that is about to be dialled, in every spelling of an IPv4 address within an IPv6 one.
    ///
    /// `private: true`, or a CIDR within a private range in the rule's `hosts`, opens private and carrier-grade
    /// NAT ranges and nothing else. [`AddressBook::host_services`] opens exactly what it lists.
    ///
    /// # Errors
    /// The first built-in denial that applies.
    pub fn check_address(&self, address: IpAddr, book: &AddressBook) -> Result<(), Denial> {
        let address = address.to_canonical();
        if matches!(self.host, Host::Address(judged) if judged.to_canonical() != address) {
            return Err(self.refuse(Reason::OtherAddress));
        }
        if book.host_services.iter().any(|service| is_service(service, address, self.port)) {
            return Ok(());
        }
        let own = |spelling: IpAddr| book.own.iter().any(|own| own.to_canonical() == spelling);
        for spelling in spellings(address) {
            if let Some(reason) = built_in(spelling).filter(|r| !opens(*r) || !self.opening.has(spelling)) {
                return Err(self.refuse(reason));
            }
            if own(spelling) {
                return Err(self.refuse(Reason::HostAddress));
            }
        }
        Ok(())
    }

    fn refuse(&self, reason: Reason) -> Denial {
        let request = !self.method.is_empty();
        Denial {
            rule: Some(self.rule.name.clone()),
            reason,
            host: self.host.to_string(),
            port: self.port,
            method: request.then(|| self.method.clone()),
            path: request.then(|| self.path.clone()),
        }
    }
}

fn is_service(service: &SocketAddr, address: IpAddr, port: u16) -> bool {
    service.port() == port && service.ip().to_canonical() == address
}
