//! The promises of the policy, row by row; each file is one family with one `check`.

mod addresses;
mod decisions;
mod documents;
mod hosts;
mod order;
mod paths;

use super::{Denial, Destination, Host, Path, Permit, Policy, Request, Scheme, Treatment};

/// A policy whose rules are the given YAML flow mappings.
pub(super) fn policy(rules: &[&str]) -> Policy {
    Policy::parse(&document(rules), "test.yaml").expect("a possible policy")
}

pub(super) fn document(rules: &[&str]) -> String {
    let list: String = rules.iter().map(|rule| format!("    - {rule}\n")).collect();
    format!("version: 1\negress:\n  rules:\n{list}")
}

/// Judges `GET https://host:port/path` written as method and URL.
pub(super) fn ask(policy: &Policy, method: &str, url: &str) -> Result<Permit, Denial> {
    with_request(method, url, |request| policy.decide(request))
}

pub(super) fn with_request<T>(method: &str, url: &str, use_it: impl FnOnce(&Request<'_>) -> T) -> T {
    let (scheme, rest) = url.split_once("://").expect("a scheme");
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let default = if scheme == Scheme::Https { 443 } else { 80 };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().expect("a port")),
        _ => (authority, default),
    };
    let host = Host::parse(host).expect("a host");
    let path = Path::parse(path).expect("a path");
    use_it(&Request { scheme, host: &host, port, method, path: &path, websocket: false })
}

pub(super) fn connect(policy: &Policy, host: &str, port: u16) -> Result<Treatment, Denial> {
    policy.connection(&Destination { host: Host::parse(host).expect("a host"), port })
}
