//! Synthetic addresses: the n-th name that a workspace resolves has the n-th address of two ranges.
//!
//! IPv4: 198.18.0.0/15 (RFC 2544, never routed). IPv6: `fd68:616e:6473::/48` (RFC 4193). The numbers are kept by the
//! caller before an answer carries them, so a name has one address for the life of its workspace.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::policy::{Host, Name};

/// Keeps a name's number for good; called before an answer with its address is sent.
pub type Remember = Arc<dyn Fn(&str, u32) -> io::Result<()> + Send + Sync>;

/// Most names per workspace: bounds memory, and what labels below an allowed wildcard can carry.
pub(super) const NAME_LIMIT: u32 = 65_536;

const V4_BASE: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const V4_SIZE: u32 = 1 << 17;
const V6_BASE: u128 = 0xfd68_616e_6473_0000_0000_0000_0000_0000;

/// A name got no address.
#[derive(Debug, thiserror::Error)]
pub(super) enum NameError {
    #[error("the workspace has resolved {NAME_LIMIT} different names, which is the limit")]
    Full,
    #[error("the name's address could not be kept: {0}")]
    Remember(#[from] io::Error),
}

/// What an address stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The address of this name.
    Name(Name),
    /// In a synthetic range, but no name has it.
    Unassigned,
    /// An ordinary address.
    Literal(IpAddr),
}

#[derive(Default)]
struct Table {
    numbers: HashMap<String, u32>,
    names: HashMap<u32, Name>,
    next: u32,
}

/// The names of one workspace.
pub(super) struct Names {
    table: Mutex<Table>,
    remember: Remember,
}

impl fmt::Debug for Names {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Names").finish_non_exhaustive()
    }
}

impl Names {
    /// Begins with the names that were kept before. Names that are no names any more are left out, not reused.
    pub(super) fn new(kept: &[(String, u32)], remember: Remember) -> Self {
        let mut table = Table::default();
        for (text, number) in kept {
            table.next = table.next.max(number.saturating_add(1));
            if let Ok(Host::Name(name)) = Host::parse(text) {
                table.numbers.insert(name.as_str().to_owned(), *number);
                table.names.insert(*number, name);
            }
        }
        Self { table: Mutex::new(table), remember }
    }

    /// The number of `name`, if it has one.
    pub(super) fn number(&self, name: &Name) -> Option<u32> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).numbers.get(name.as_str()).copied()
    }

    /// The number of `name`: the one it has, or a new one that is kept first.
    pub(super) fn assign(&self, name: &Name) -> Result<u32, NameError> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = table.numbers.get(name.as_str()) {
            return Ok(*number);
        }
        let number = table.next;
        if number >= NAME_LIMIT {
            return Err(NameError::Full);
        }
        (self.remember)(name.as_str(), number)?;
        table.next += 1;
        table.numbers.insert(name.as_str().to_owned(), number);
        table.names.insert(number, name.clone());
        Ok(number)
    }

    /// What a connection to `address` is meant for.
    pub(super) fn meaning(&self, address: IpAddr) -> Meaning {
        let address = address.to_canonical();
        let Some(number) = number_of(address) else { return Meaning::Literal(address) };
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        number.and_then(|number| table.names.get(&number)).cloned().map_or(Meaning::Unassigned, Meaning::Name)
    }
}

/// The IPv4 address of a number below [`NAME_LIMIT`]; the range's first address is left out.
pub(super) fn v4(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(V4_BASE + 1 + number)
}

/// The IPv6 address of a number.
pub(super) fn v6(number: u32) -> Ipv6Addr {
    Ipv6Addr::from(V6_BASE + 1 + u128::from(number))
}

/// The number of a synthetic address; the outer `None`: not synthetic, the inner: never given out.
fn number_of(address: IpAddr) -> Option<Option<u32>> {
    match address {
        IpAddr::V4(v4) => {
            let offset = u32::from(v4).checked_sub(V4_BASE).filter(|offset| *offset < V4_SIZE)?;
            Some(offset.checked_sub(1))
        }
        IpAddr::V6(v6) => {
            let offset = u128::from(v6).checked_sub(V6_BASE).filter(|offset| *offset >> 80 == 0)?;
            Some(u32::try_from(offset).ok().and_then(|offset| offset.checked_sub(1)))
        }
    }
}
