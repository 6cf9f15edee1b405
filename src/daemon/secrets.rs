//! Secrets, read through descriptors that the supervisor opens: the daemon can reach none that the operator's
//! document does not name.

use std::collections::HashMap;
use std::fs::File;
use std::future::Future;
use std::io::{ErrorKind, Read};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::credential::{Secret, SecretSource, SourceError};
use crate::jail::client::SupervisorClient;
use crate::jail::wire::{Ask, Changes, Done};

/// How long a value is used at the most before it is read again, whatever the kernel tells of its file: nobody watches
/// the directories above.
const OLDEST: Duration = Duration::from_secs(5);

/// Values as they are now: one that was read is used until its file changes.
#[derive(Debug)]
pub(super) struct Secrets {
    supervisor: SupervisorClient,
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Debug)]
struct Known {
    secret: Secret,
    read: Instant,
    /// Becomes readable when the value may be another; none if it never is.
    watch: Option<File>,
}

impl Known {
    fn is_fresh(&self) -> bool {
        let unchanged = |mut watch: &File| {
            let read = watch.read(&mut [0; 512]);
            read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
        };
        self.watch.as_ref().is_none_or(|watch| self.read.elapsed() < OLDEST && unchanged(watch))
    }
}

impl Secrets {
    pub(super) fn new(supervisor: SupervisorClient) -> Self {
        Self { supervisor, known: Mutex::default() }
    }

    fn known(&self, credential: &str) -> Option<Secret> {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if all.get(credential)?.is_fresh() {
            return all.get(credential).map(|known| known.secret.clone());
        }
        all.remove(credential);
        None
    }

    async fn read(&self, credential: &str) -> Result<Secret, SourceError> {
        let name = || credential.to_owned();
        let read = Instant::now();
        let asked = self.supervisor.ask(Ask::OpenSecret { credential: name() }).await;
        let (done, descriptors) = asked.map_err(|refusal| {
            tracing::warn!(%refusal, "secret");
            SourceError::Missing { credential: name() }
        })?;
        let mut descriptors = descriptors.into_iter().map(File::from);
        let (Done::Secret(changes), Some(mut file)) = (done, descriptors.next()) else {
            return Err(SourceError::Disconnected { credential: name() });
        };
        // At most 64 KiB, the supervisor has looked: no read that blocks for long. With room for all of it, so that the
        // buffer never moves and leaves a copy behind.
        let length = file.metadata().map_or(0, |facts| facts.len().min(1 << 17));
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 64));
        let done = file.read_to_end(&mut bytes);
        done.map_err(|error| SourceError::Unreadable { credential: name(), kind: error.kind() })?;
        let secret =
            Secret::parse(bytes).map_err(|source| SourceError::Invalid { credential: name(), source })?;
        let watch = descriptors.next();
        if changes == Changes::Never || (changes == Changes::Watched && watch.is_some()) {
            let known = Known { secret: secret.clone(), read, watch };
            self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(name(), known);
        }
        Ok(secret)
    }
}

impl SecretSource for Secrets {
    fn open<'a>(
        &'a self,
        credential: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Secret, SourceError>> + Send + 'a>> {
        Box::pin(async move {
            match self.known(credential) {
                Some(secret) => Ok(secret),
                None => self.read(credential).await,
            }
        })
    }
}
