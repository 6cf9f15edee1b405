//! Tasks and their end: the only place that spawns, so that nothing outlives a drain unnoticed.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Spawns tasks and ends them: a token that every task listens to, and a tracker that waits until the last one is gone.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// A fresh scope with no task in it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A scope that ends when this one does, or earlier by its own `cancel`; its tasks count for this one too.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token(), tasks: self.tasks.clone() }
    }

    /// Starts a task that runs to its own end; it is expected to watch [`Self::token`] if it could run for long.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        drop(tokio::spawn(self.tasks.track_future(task)));
    }

    /// Starts a task that is dropped at its next await point when the scope is cancelled.
    pub fn spawn_until_cancelled<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let token = self.token.clone();
        self.spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// The token that is cancelled when the scope ends.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Asks every task of this scope and its children to end.
    pub fn cancel(&self) {
        self.token.cancel();
    }

    /// Cancels, then waits for the last task. Returns false if some were still running at the deadline.
    pub async fn finish(&self, deadline: Duration) -> bool {
        self.token.cancel();
        self.tasks.close();
        tokio::time::timeout(deadline, self.tasks.wait()).await.is_ok()
    }
}
