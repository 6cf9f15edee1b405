//! Starting: a sandbox until its first command has exited, and a command in one that runs.

use std::process::{Command, Stdio};
use std::time::Instant;

use hands::api::client::Client;
use hands::api::proto::{
    Command as Asked, ProcessServiceRunRequest, WorkspaceServiceDeleteRequest, WorkspaceServiceEnsureRequest,
    WorkspaceSpec, exit_status::Outcome,
};
use tokio::runtime::Runtime;

use super::host::{Host, Mode, Serving, has};
use super::{Failure, Series, print};

/// Measurements of each thing, taken in turns.
const ROUNDS: usize = 200;
/// Sandboxes at once in the last table, and how many in all.
const AT_ONCE: usize = 64;
const BATCH: usize = 256;

pub(super) fn run() -> Result<(), Failure> {
    let mode = if nix::unistd::geteuid().is_root() { Mode::Root } else { Mode::Rootless };
    let host = Host::new(mode);
    let serving = Serving::start(&host, &[])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let client = runtime.block_on(Client::connect(&host.socket()))?;
    println!("started as {mode:?}");
    starting(&runtime, &client)?;
    at_once(&runtime, &client)?;
    drop(serving);
    Ok(())
}

fn starting(runtime: &Runtime, client: &Client) -> Result<(), Failure> {
    let mut create = [
        Series::new("fork+exec"),
        Series::new("bwrap --unshare-all"),
        Series::new("hands: create, exit of true"),
        Series::new("hands: create, exit of true, delete"),
        Series::new("hands: true in a running workspace"),
    ];
    runtime.block_on(ensure(client, "running", false))?;
    let peer = has("bwrap");
    for round in 0..ROUNDS {
        create[0].time(|| succeed(&mut Command::new("/bin/true")))?;
        if peer {
            create[1].time(|| succeed(&mut bwrap()))?;
        }
        let key = format!("bench-{round}");
        let begun = Instant::now();
        create[2].time(|| runtime.block_on(first_exit(client, &key)))?;
        runtime.block_on(delete(client, &key))?;
        create[3].taken.push(begun.elapsed());
        create[4].time(|| runtime.block_on(exit_of_true(client, "running")))?;
    }
    print("from nothing to the exit of `true`", &create);
    Ok(())
}

fn at_once(runtime: &Runtime, client: &Client) -> Result<(), Failure> {
    let mut rates = [
        Series::new("bwrap --unshare-all, 64 at once, each"),
        Series::new("hands: create, exit, delete, 64 at once, each"),
    ];
    for round in 0..5 {
        if has("bwrap") {
            let begun = Instant::now();
            bwraps()?;
            rates[0].taken.push(begun.elapsed() / BATCH as u32);
        }
        let begun = Instant::now();
        runtime.block_on(async {
            let lanes = (0..AT_ONCE).map(|lane| async move {
                for turn in 0..BATCH / AT_ONCE {
                    let key = format!("many-{round}-{lane}-{turn}");
                    first_exit(client, &key).await?;
                    delete(client, &key).await?;
                }
                Ok::<(), Failure>(())
            });
            futures_util::future::try_join_all(lanes).await
        })?;
        rates[1].taken.push(begun.elapsed() / BATCH as u32);
    }
    print("sandboxes made by 64 callers at once", &rates);
    Ok(())
}

fn bwraps() -> Result<(), Failure> {
    let mut running = std::collections::VecDeque::new();
    for _ in 0..BATCH {
        if running.len() == AT_ONCE {
            wait(running.pop_front())?;
        }
        running.push_back(bwrap().spawn()?);
    }
    running.into_iter().try_for_each(|child| wait(Some(child)))
}

fn wait(child: Option<std::process::Child>) -> Result<(), Failure> {
    match child.map(|mut child| child.wait()).transpose()? {
        Some(status) if !status.success() => Err(format!("bwrap: {status}").into()),
        _ => Ok(()),
    }
}

fn bwrap() -> Command {
    let mut command = Command::new("bwrap");
    command.args(["--unshare-all", "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin"]);
    command.args(["--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"]);
    command.args(["--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "/bin/true"]);
    command
}

fn succeed(command: &mut Command) -> Result<(), Failure> {
    let status = command.stdin(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}

async fn ensure(client: &Client, key: &str, ephemeral: bool) -> Result<(), Failure> {
    let spec = WorkspaceSpec { key: key.to_owned(), ephemeral, ..WorkspaceSpec::default() };
    client.workspaces().ensure(WorkspaceServiceEnsureRequest { spec: Some(spec) }).await?;
    Ok(())
}

async fn first_exit(client: &Client, key: &str) -> Result<(), Failure> {
    ensure(client, key, true).await?;
    exit_of_true(client, key).await
}

async fn exit_of_true(client: &Client, workspace: &str) -> Result<(), Failure> {
    let command = Some(Asked { argv: vec!["/bin/true".into()], ..Asked::default() });
    let request =
        ProcessServiceRunRequest { workspace: workspace.to_owned(), process_id: String::new(), command };
    let ended = client.processes().run(request).await?.into_inner().process.and_then(|process| process.exit);
    match ended.and_then(|exit| exit.outcome) {
        Some(Outcome::Code(0)) => Ok(()),
        other => Err(format!("true ended with {other:?}").into()),
    }
}

async fn delete(client: &Client, key: &str) -> Result<(), Failure> {
    client.workspaces().delete(WorkspaceServiceDeleteRequest { workspace: key.to_owned() }).await?;
    Ok(())
}
