//! Secrets, read through descriptors that the supervisor opens: the daemon can reach none that the operator's
//! document does not name.

use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::pin::Pin;

use zeroize::Zeroizing;

use crate::credential::{Secret, SecretSource, SourceError};
use crate::jail::client::SupervisorClient;
use crate::jail::wire::Ask;

/// Reads secrets afresh for each use, so that a changed file takes effect with the next request.
#[derive(Debug)]
pub(super) struct Secrets {
    supervisor: SupervisorClient,
}

impl Secrets {
    pub(super) fn new(supervisor: SupervisorClient) -> Self {
        Self { supervisor }
    }
}

impl SecretSource for Secrets {
    fn open<'a>(
        &'a self,
        credential: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Secret, SourceError>> + Send + 'a>> {
        Box::pin(async move {
            let name = || credential.to_owned();
            let asked = self.supervisor.ask(Ask::OpenSecret { credential: name() }).await;
            let (_, descriptors) = asked.map_err(|refusal| {
                tracing::warn!(%refusal, "secret");
                SourceError::Missing { credential: name() }
            })?;
            let file = descriptors.into_iter().next();
            let file = file.ok_or_else(|| SourceError::Disconnected { credential: name() })?;
            // At most 64 KiB, the supervisor has looked: no read that blocks for long.
            let mut bytes = Zeroizing::new(Vec::new());
            let read = File::from(file).read_to_end(&mut bytes);
            read.map_err(|error| SourceError::Unreadable { credential: name(), kind: error.kind() })?;
            Secret::parse(bytes).map_err(|source| SourceError::Invalid { credential: name(), source })
        })
    }
}
