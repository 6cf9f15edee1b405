//! The daemon: unprivileged, serves the API and the way out. This is where everything is put together; it decides
//! nothing itself.

mod secrets;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};

use crate::api::Served;
use crate::config::Config;
use crate::credential;
use crate::egress::{Audit, Egress, Vault};
use crate::jail::client::{Events, SupervisorClient};
use crate::jail::wire::{Ask, Channel, Document, FromSupervisor, Hello};
use crate::shutdown::Shutdown;
use crate::storage::journals::Journals;
use crate::storage::state::State;
use crate::sys::process::adopt_descriptor;
use crate::tool::Tools;
use crate::workspace::{Operator, Shared, Survivor, Workspaces};
use secrets::Secrets;

/// How long tasks may take to end after the last workspace has stopped.
const DRAIN: Duration = Duration::from_secs(2);

/// Runs until the supervisor says stop, or is gone.
#[must_use]
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    // No core file and no ptrace by the same uid: secrets pass through this process.
    prctl::set_dumpable(false)?;
    umask(Mode::from_bits_truncate(0o077));
    let socket = adopt_descriptor(0).context("standard input: the supervisor starts this")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(socket))
}

async fn serve(socket: OwnedFd) -> Result<()> {
    let shutdown = Shutdown::new();
    let (supervisor, mut events) = SupervisorClient::new(socket, &shutdown)
        .map_err(|error| anyhow!("standard input: {error}: the supervisor starts this, not a person"))?;
    let (hello, listener) = hello(&mut events).await?;
    let (workspaces, state) = match assemble(&hello, &supervisor, &shutdown) {
        Ok(assembled) => assembled,
        Err(error) => {
            // The supervisor tells whoever started it; a second telling would only be in the way.
            return Ok(supervisor.tell(Ask::Unfit { problem: format!("{error:#}") }).await?);
        }
    };
    take_over(&mut events, &workspaces).await?;
    workspaces.sweep().await;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let admitted = crate::api::PeerPolicy { uids: vec![0, hello.owner] };
    let api = shutdown.child();
    let tools = Tools::new(workspaces.clone(), state, shutdown.child());
    let served = Served { workspaces: workspaces.clone(), tools };
    shutdown.spawn(crate::api::serve(listener, served, admitted, api.clone()));
    supervisor.tell(Ask::Serving).await?;
    if !follow(&mut events, &workspaces).await {
        // Every init ends with the supervisor: a polite stop would only race with that, and tell of a stop.
        bail!("the supervisor is gone");
    }
    api.cancel();
    tokio::select! {
        () = workspaces.stop_all() => {}
        // Workspaces that stop wait for the supervisor's word.
        () = async { follow(&mut events, &workspaces).await; std::future::pending().await } => {}
    }
    if !shutdown.finish(DRAIN).await {
        tracing::warn!("some tasks did not end in time");
    }
    Ok(())
}

async fn hello(events: &mut Events) -> Result<(Hello, UnixListener)> {
    let Some((FromSupervisor::Hello(hello), descriptors)) = events.recv().await else {
        bail!("the supervisor did not begin with hello");
    };
    let listener = descriptors.into_iter().next().context("no listener")?;
    Ok((hello, listener.into()))
}

/// Workspaces that run already. All at once: each one waits for its init, which may have to wait for a processor.
async fn take_over(events: &mut Events, workspaces: &Workspaces) -> Result<()> {
    let (mut adoptions, mut ended) = (Vec::new(), Vec::new());
    while let Some(event) = events.recv().await {
        match event {
            (FromSupervisor::Running { workspace, generation, report, paused }, descriptors) => {
                let channel = Channel::from_descriptors(descriptors).context("descriptors of a workspace")?;
                let survivor = Survivor { generation, report, channel, paused };
                adoptions.push(async move { workspaces.adopt(&workspace, survivor).await });
            }
            (FromSupervisor::Ended { workspace, generation }, _) => ended.push((workspace, generation)),
            (FromSupervisor::Serve, _) => break,
            _ => bail!("unexpected message of the supervisor"),
        }
    }
    futures_util::future::join_all(adoptions).await;
    for (workspace, generation) in ended {
        workspaces.ended(&workspace, generation).await;
    }
    Ok(())
}

/// Until it is time to stop: true if the supervisor says so, false if it is gone.
async fn follow(events: &mut Events, workspaces: &Workspaces) -> bool {
    while let Some((event, _)) = events.recv().await {
        match event {
            FromSupervisor::Ended { workspace, generation } => workspaces.ended(&workspace, generation).await,
            FromSupervisor::Shutdown => return true,
            event => tracing::warn!(?event, "unexpected message of the supervisor"),
        }
    }
    false
}

fn assemble(
    hello: &Hello,
    supervisor: &SupervisorClient,
    shutdown: &Shutdown,
) -> Result<(Workspaces, State)> {
    let state_dir = PathBuf::from(&hello.state_dir);
    let document = |kind| hello.documents.get(&kind);
    let config = match document(Document::Configuration) {
        Some((origin, text)) => Config::parse(text, origin.as_ref())?,
        None => Config::default(),
    };
    let credentials = Arc::new(match document(Document::Credentials) {
        Some((origin, text)) => credential::Document::parse(text, origin)?,
        None => credential::Document::empty(),
    });
    let mut settings = config.egress;
    settings.root_documents.clone_from(&hello.roots);
    let audit = Arc::new(Audit::open(&state_dir.join("audit"))?);
    let vault =
        Vault { document: Arc::clone(&credentials), source: Arc::new(Secrets::new(supervisor.clone())) };
    let state = State::open(&state_dir)?;
    let shared = Shared {
        supervisor: supervisor.clone(),
        egress: Egress::new(&settings, audit, vault, shutdown.clone())?,
        state: state.clone(),
        journals: Journals::new(&state_dir),
        operator: Operator { policy: document(Document::Policy).cloned(), credentials },
        shutdown: shutdown.clone(),
    };
    Ok((Workspaces::open(shared)?, state))
}
