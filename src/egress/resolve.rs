//! From a permit to the checked addresses it may be dialled at. The only place where names are looked up.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::time::timeout;

use super::settings::Settings;
use super::upstream::UpstreamError;
use crate::policy::{AddressBook, Host, HostError, Name, Permit};

/// How long one name may take, with all retries.
const PATIENCE: Duration = Duration::from_secs(10);

/// How old the list of the host's own addresses may be.
const OWN_AGE: Duration = Duration::from_secs(1);

/// The resolver's settings are unusable.
#[derive(Debug, thiserror::Error)]
pub enum ResolveSettingsError {
    /// A key of `hosts` is no name.
    #[error("egress.hosts: {name:?} is no host name: {cause}")]
    Name {
        /// The key.
        name: String,
        /// What is wrong with it.
        cause: HostError,
    },
    /// The resolver could not be made.
    #[error("cannot set up the resolver: {0}")]
    Resolver(#[from] NetError),
}

/// Addresses that a permit may be dialled at. Only [`Addresses::of`] makes it, so nothing unchecked is dialled.
#[derive(Debug)]
pub(super) struct Checked(Vec<SocketAddr>);

impl Checked {
    /// In the order in which they are tried.
    pub(super) fn all(&self) -> &[SocketAddr] {
        &self.0
    }
}

/// Looks names up and checks what is found.
pub(super) struct Addresses {
    hosts: BTreeMap<Name, IpAddr>,
    /// None where the system has no configuration of a resolver; then only `hosts` and literals can be dialled.
    resolver: Option<TokioResolver>,
    host_services: Vec<SocketAddr>,
    own: Mutex<Option<(Instant, Vec<IpAddr>)>>,
}

impl fmt::Debug for Addresses {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Addresses").finish_non_exhaustive()
    }
}

impl Addresses {
    pub(super) fn new(settings: &Settings) -> Result<Self, ResolveSettingsError> {
        let parse = |(name, address): (&String, &IpAddr)| match Name::parse(name) {
            Ok(parsed) => Ok((parsed, *address)),
            Err(cause) => Err(ResolveSettingsError::Name { name: name.clone(), cause }),
        };
        let hosts = settings.hosts.iter().map(parse).collect::<Result<_, _>>()?;
        let resolver = match settings.resolver {
            Some(server) => Some(resolver_at(server)?),
            None => system_resolver()?,
        };
        let host_services = settings.host_services.clone();
        Ok(Self { hosts, resolver, host_services, own: Mutex::default() })
    }

    /// The addresses of the permit's host, every one of them checked: one that is denied refuses them all, so that
    /// a name that leads to both a good and a bad address is not a way to the bad one.
    pub(super) async fn of(&self, permit: &Permit) -> Result<Checked, UpstreamError> {
        let found = match permit.host() {
            Host::Address(address) => vec![*address],
            Host::Name(name) => match self.hosts.get(name) {
                Some(address) => vec![*address],
                None => self.look_up(name).await?,
            },
        };
        let book = self.book()?;
        for address in &found {
            permit.check_address(*address, &book)?;
        }
        Ok(Checked(found.into_iter().map(|address| SocketAddr::new(address, permit.port())).collect()))
    }

    /// Whether the permit may use a connection that is open to `address` already.
    pub(super) fn allows(&self, permit: &Permit, address: IpAddr) -> Result<bool, UpstreamError> {
        Ok(permit.check_address(address, &self.book()?).is_ok())
    }

    /// IPv4 first: where both exist, a host without an IPv6 route is more usual than one without IPv4.
    async fn look_up(&self, name: &Name) -> Result<Vec<IpAddr>, UpstreamError> {
        let host = || name.as_str().to_owned();
        let resolver = self.resolver.as_ref().ok_or_else(|| UpstreamError::NoResolver(host()))?;
        // The final dot keeps the search list of the host's own configuration out of it.
        let query = format!("{name}.", name = name.as_str());
        let answer = timeout(PATIENCE, resolver.lookup_ip(query))
            .await
            .map_err(|_| UpstreamError::ResolveTimeout(host()))?
            .map_err(|cause| UpstreamError::Resolve { host: host(), cause: Box::new(cause) })?;
        let mut found: Vec<IpAddr> = answer.iter().collect();
        found.sort_by_key(IpAddr::is_ipv6);
        if found.is_empty() { Err(UpstreamError::NoAddress(host())) } else { Ok(found) }
    }

    fn book(&self) -> Result<AddressBook, UpstreamError> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = match own.take() {
            Some((read, addresses)) if read.elapsed() < OWN_AGE => (read, addresses),
            _ => (Instant::now(), own_addresses().map_err(UpstreamError::OwnAddresses)?),
        };
        let addresses = own.insert(fresh).1.clone();
        Ok(AddressBook { own: addresses, host_services: self.host_services.clone() })
    }
}

fn own_addresses() -> nix::Result<Vec<IpAddr>> {
    let address_of = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    Ok(nix::ifaddrs::getifaddrs()?.filter_map(address_of).collect())
}

fn resolver_at(server: SocketAddr) -> Result<TokioResolver, NetError> {
    let at_port = |mut connection: ConnectionConfig| {
        connection.port = server.port();
        connection
    };
    let mut name_server = NameServerConfig::udp_and_tcp(server.ip());
    name_server.connections = vec![at_port(ConnectionConfig::udp()), at_port(ConnectionConfig::tcp())];
    let config = ResolverConfig::from_name_servers(vec![name_server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    builder.options_mut().use_hosts_file = ResolveHosts::Never;
    builder.build()
}

fn system_resolver() -> Result<Option<TokioResolver>, NetError> {
    match TokioResolver::builder_tokio() {
        Ok(mut builder) => {
            builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            builder.build().map(Some)
        }
        Err(error) => {
            tracing::warn!(%error, "the system has no usable resolver configuration: set egress.resolver");
            Ok(None)
        }
    }
}
