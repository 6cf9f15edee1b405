//! Accepts what a workspace's network redirects here. Which listener accepted tells which workspace it is.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::connection;
use super::outlet::Outlet;
use crate::shutdown::Shutdown;

/// Open connections per workspace; more wait in the listener's queue.
const CONNECTIONS: usize = 512;

/// Pause after a failed accept (no free descriptor, say), so that it does not fail at full speed.
const PAUSE: Duration = Duration::from_millis(50);

/// Tells what a captured connection was meant for.
pub(super) type OriginalDestination = Arc<dyn Fn(&TcpStream) -> io::Result<SocketAddr> + Send + Sync>;

/// What the listeners of one workspace share.
#[derive(Clone)]
pub(super) struct Capture {
    outlet: Arc<Outlet>,
    destination: OriginalDestination,
    places: Arc<Semaphore>,
    shutdown: Shutdown,
}

impl fmt::Debug for Capture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Capture").finish_non_exhaustive()
    }
}

impl Capture {
    pub(super) fn new(outlet: Arc<Outlet>, destination: OriginalDestination, shutdown: Shutdown) -> Self {
        Self { outlet, destination, places: Arc::new(Semaphore::new(CONNECTIONS)), shutdown }
    }

    /// Accepts from a listening descriptor until the workspace is detached.
    pub(super) fn listen(&self, descriptor: OwnedFd) -> io::Result<()> {
        let listener = StdTcpListener::from(descriptor);
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        self.shutdown.spawn_until_cancelled(self.clone().accept(listener));
        Ok(())
    }

    async fn accept(self, listener: TcpListener) {
        // The semaphore is never closed.
        while let Ok(place) = self.places.clone().acquire_owned().await {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a captured connection was not accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            match (self.destination)(&stream) {
                Ok(destination) => {
                    let treated = connection::treat(self.outlet.clone(), stream, destination);
                    self.shutdown.spawn_until_cancelled(async move {
                        treated.await;
                        drop(place);
                    });
                }
                // Nobody redirected it: a program dialled the listener itself.
                Err(error) => {
                    tracing::debug!(%error, "a connection without a destination");
                    connection::reset(stream);
                }
            }
        }
    }
}
