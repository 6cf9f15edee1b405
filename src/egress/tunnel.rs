//! Connections that are not opened: bytes both ways between a client and a checked address.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpStream;
use tokio_util::io::{InspectReader, InspectWriter};

use super::audit::{Facts, Kind, Open, Outcome};
use super::connection::reset;
use super::denial::Refusal;
use super::outlet::Outlet;
use super::resolve::Checked;
use crate::policy::Permit;

/// Connects `client` to the permit's host, beginning with the bytes of it that were `read` before.
pub(super) async fn run(outlet: &Outlet, client: TcpStream, read: &[u8], permit: &Permit) {
    let facts = Facts {
        rule: Some(permit.rule().to_owned()),
        host: permit.host().to_string(),
        port: Some(permit.port()),
        ..Facts::default()
    };
    if let Err((refusal, client)) = connect(outlet, client, read, (permit, facts)).await {
        tracing::debug!(%refusal, "a tunnel was refused");
        reset(client);
    }
}

async fn connect(
    outlet: &Outlet,
    client: TcpStream,
    read: &[u8],
    (permit, mut facts): (&Permit, Facts),
) -> Result<(), (Refusal, TcpStream)> {
    let addresses = match admitted(outlet, permit).await {
        Ok(addresses) => addresses,
        Err(refusal) => {
            facts.reason = Some(refusal.reason().to_owned());
            if refusal.is_denial() {
                outlet.deny(Kind::Connection, &facts, refusal.to_string());
            } else {
                outlet.fail(Kind::Connection, &facts, refusal.status());
            }
            return Err((refusal, client));
        }
    };
    facts.address = addresses.all().first().map(std::net::SocketAddr::ip);
    let open = match outlet.trail.allow(Kind::Connection, &facts) {
        Ok(open) => open,
        Err(error) => return Err((error.into(), client)),
    };
    let mut running = Running {
        open: Some(open),
        outcome: Outcome::default(),
        up: AtomicU64::new(0),
        down: AtomicU64::new(0),
    };
    match outlet.upstream.connect(&addresses).await {
        Ok((origin, address)) => {
            running.outcome.address = Some(address);
            running.splice(client, origin, read).await;
            Ok(())
        }
        Err(error) => {
            running.outcome.reason = Some(error.reason().to_owned());
            Err((error.into(), client))
        }
    }
}

/// A tunnel counts once, however much goes through it.
async fn admitted(outlet: &Outlet, permit: &Permit) -> Result<Checked, Refusal> {
    outlet.rates.take(permit, Instant::now())?;
    Ok(outlet.upstream.addresses(permit).await?)
}

/// A tunnel whose end is recorded when it is dropped, however that comes about.
struct Running {
    open: Option<Open>,
    outcome: Outcome,
    up: AtomicU64,
    down: AtomicU64,
}

impl Running {
    async fn splice(&mut self, mut client: TcpStream, origin: TcpStream, read: &[u8]) {
        let count = |counter: &AtomicU64, bytes: &[u8]| {
            counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        };
        let counted = InspectReader::new(origin, |bytes: &[u8]| count(&self.down, bytes));
        let mut origin = InspectWriter::new(counted, |bytes: &[u8]| count(&self.up, bytes));
        let spliced = async {
            origin.write_all(read).await?;
            copy_bidirectional(&mut client, &mut origin).await
        };
        if spliced.await.is_err() {
            self.outcome.reason = Some("interrupted".to_owned());
            reset(client);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            self.outcome.bytes_up = self.up.load(Ordering::Relaxed);
            self.outcome.bytes_down = self.down.load(Ordering::Relaxed);
            open.end(&self.outcome);
        }
    }
}
