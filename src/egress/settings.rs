//! The operator's own settings of the way out: the `[egress]` table of the configuration.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;

/// The `[egress]` table. Every key is optional.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Address and port of the resolver that is asked at dial time; the system's if not given.
    pub resolver: Option<SocketAddr>,
    /// PEM files of CA certificates that are trusted for upstreams, beside the system's.
    pub roots: Vec<PathBuf>,
    /// Names that have this address and are not looked up. The address is checked like any other.
    pub hosts: BTreeMap<String, IpAddr>,
    /// Addresses and ports of this very machine that a rule may name.
    pub host_services: Vec<SocketAddr>,
    /// `http://HOST:PORT` of a proxy that is asked by CONNECT for every checked address.
    pub parent_proxy: Option<String>,
    /// The text of the files in `roots`, read by the caller while it still may.
    #[serde(skip)]
    pub root_documents: Vec<String>,
}
