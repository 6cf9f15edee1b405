//! Killing a command reaches everything that came from it, and nothing else.

use hands::api::client::{Client, Status, reason};
use hands::api::proto::{
    Command, ExitCause, Process, ProcessServiceRunRequest, ProcessServiceSignalRequest,
    ProcessServiceStartRequest, ProcessServiceWaitRequest, SignalScope, exit_status::Outcome,
};

use crate::host::{Host, Mode, check, check_served};

/// Children that are hard to reach, with their numbers in files: one that ended its parent and left the session, one
/// that is stopped besides, and one that ignores TERM in a session of its own. Says `ready` when all are there.
const TREE: &str = "trap '' TERM
    (setsid nohup sh -c 'echo $$ > lost; exec sleep 1000' >/dev/null 2>&1 &)
    (setsid sh -c 'echo $$ > stopped; kill -STOP $$' >/dev/null 2>&1 &)
    setsid sh -c 'echo $$ > near; while :; do sleep 1; done' &
    until [ -s lost ] && [ -s stopped ] && [ -s near ]; do :; done
    echo ready; wait";

/// Returns when all three are gone.
const GONE: &str =
    "for pid in $(cat lost stopped near); do while [ -d /proc/$pid ]; do :; done; done; echo gone";

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(work)
}

async fn connect(host: &Host) -> Client {
    Client::connect(&host.socket()).await.expect("connect")
}

fn shell(script: &str) -> Command {
    let argv = ["sh", "-c", script].iter().map(|word| word.as_bytes().to_vec().into()).collect();
    Command { argv, ..Command::default() }
}

async fn start(client: &Client, id: &str, script: &str) {
    let command = Some(shell(script));
    let request = ProcessServiceStartRequest { workspace: "w".into(), process_id: id.into(), command };
    client.processes().start(request).await.expect("start");
}

async fn wait(client: &Client, process: &str) -> Process {
    let request = ProcessServiceWaitRequest { workspace: "w".into(), process: process.into(), timeout: None };
    client.processes().wait(request).await.expect("wait").into_inner().process.expect("process")
}

async fn kill(client: &Client, process: &str) -> Result<(), Status> {
    let request = ProcessServiceSignalRequest {
        workspace: "w".into(),
        process: process.into(),
        signal: 9,
        scope: SignalScope::Tree.into(),
    };
    client.processes().signal(request).await.map(drop)
}

/// A file in the workspace says that a command has come that far.
fn await_files(host: &Host, names: &str) {
    host.script(&format!("for name in {names}; do until [ -s $name ]; do :; done; done"));
}

#[test]
fn p_17_kill_reaches_the_whole_tree_and_nothing_else() {
    check_served(|host| {
        block_on(async {
            let client = connect(host).await;
            start(&client, "other", "echo $$ > other; exec sleep 1000").await;
            start(&client, "tree", TREE).await;
            await_files(host, "lost stopped near other");
            kill(&client, "tree").await.expect("kill");
            let ended = wait(&client, "tree").await.exit.expect("exit");
            assert_eq!((ended.outcome, ended.cause()), (Some(Outcome::Signal(9)), ExitCause::Cancelled));
            assert_eq!(host.script(GONE), "gone\n");
            assert_eq!(host.script("kill -0 $(cat other) && echo alive"), "alive\n", "{:?}", host.mode);
        });
    });
}

#[test]
fn p_17_kill_reaches_what_an_ended_command_left_behind() {
    check_served(|host| {
        block_on(async {
            let client = connect(host).await;
            let script = "(setsid sh -c 'echo $$ > left; exec sleep 1000' >/dev/null 2>&1 &); until [ -s left ]; do :; done";
            start(&client, "leaves", script).await;
            assert_eq!(wait(&client, "leaves").await.exit.expect("exit").outcome, Some(Outcome::Code(0)));
            assert_eq!(host.script("kill -0 $(cat left) && echo alive"), "alive\n");
            kill(&client, "leaves").await.expect("kill");
            host.script("while [ -d /proc/$(cat left) ]; do :; done");
            // Nothing is left to signal then.
            let gone = loop {
                if let Err(status) = kill(&client, "leaves").await {
                    break reason(&status);
                }
            };
            assert_eq!(gone.as_deref(), Some("NOT_FOUND"));
        });
    });
}

#[test]
fn p_04_a_timeout_ends_the_whole_tree_and_keeps_the_output() {
    check_served(|host| {
        block_on(async {
            let client = connect(host).await;
            let brief = |millis| Some(prost_types::Duration { seconds: 0, nanos: millis * 1_000_000 });
            let command = Command { timeout: brief(950), kill_grace: brief(50), ..shell(TREE) };
            let request = ProcessServiceRunRequest {
                workspace: "w".into(),
                process_id: String::new(),
                command: Some(command),
            };
            let ran = client.processes().run(request).await.expect("run").into_inner();
            assert_eq!(ran.process.expect("process").exit.expect("exit").cause(), ExitCause::TimedOut);
            assert_eq!(ran.stdout.unwrap_or_default().head.as_ref(), b"ready\n");
            assert_eq!(host.script(GONE), "gone\n");
        });
    });
}

#[test]
fn p_04_a_stopped_command_and_a_tree_whose_head_obeys_term_end_in_time_too() {
    check_served(|host| {
        block_on(async {
            let client = connect(host).await;
            let brief = |millis| Some(prost_types::Duration { seconds: 0, nanos: millis * 1_000_000 });
            let head =
                "(setsid sh -c 'trap \"\" TERM; echo $$ > left; while :; do sleep 1; done' >/dev/null 2>&1 &)
                until [ -s left ]; do :; done; kill -STOP $$";
            let command = Command { timeout: brief(950), kill_grace: brief(50), ..shell(head) };
            let request = ProcessServiceRunRequest {
                workspace: "w".into(),
                process_id: String::new(),
                command: Some(command),
            };
            let ran = client.processes().run(request).await.expect("run").into_inner();
            let exit = ran.process.expect("process").exit.expect("exit");
            assert_eq!((exit.outcome, exit.cause()), (Some(Outcome::Signal(15)), ExitCause::TimedOut));
            host.script("while [ -d /proc/$(cat left) ]; do :; done");
        });
    });
}

#[test]
fn p_17_a_keeper_can_neither_be_stopped_nor_outlived() {
    check_served(|host| {
        block_on(async {
            let client = connect(host).await;
            start(&client, "other", "echo $$ > other; exec sleep 1000").await;
            start(&client, "stops", "kill -STOP $PPID; exit 3").await;
            assert_eq!(wait(&client, "stops").await.exit.expect("exit").outcome, Some(Outcome::Code(3)));
            let script = "(setsid sh -c 'echo $$ > left; exec sleep 1000' >/dev/null 2>&1 &)
                until [ -s left ]; do :; done; kill -9 $PPID; echo $? > result; exec sleep 1000";
            start(&client, "kills", script).await;
            await_files(host, "left other");
            if host.mode == Mode::Root {
                await_files(host, "result");
                assert_eq!(host.script("cat result"), "1\n", "it is not the command's to signal");
                kill(&client, "kills").await.expect("kill");
            }
            assert_eq!(wait(&client, "kills").await.exit.expect("exit").outcome, Some(Outcome::Signal(9)));
            host.script("while [ -d /proc/$(cat left) ]; do :; done");
            assert_eq!(host.script("kill -0 $(cat other) && echo alive"), "alive\n", "{:?}", host.mode);
        });
    });
}

#[test]
fn p_23_orphans_are_reaped() {
    check_served(|host| {
        let script = "i=0; while [ $i -lt 2000 ]; do (true &); i=$((i+1)); done
            while grep -qs 'State:.Z' /proc/[0-9]*/status; do :; done; echo reaped";
        assert_eq!(host.script(script), "reaped\n");
    });
}

#[test]
fn r_01_a_fork_bomb_stays_within_its_limit_and_can_be_killed() {
    check(|host| {
        let _serving = host.serve(&[]);
        let policy = host.write("few.yaml", "version: 1\nlimits: { processes: 100 }\n");
        host.ok(&["rm", "w"]);
        host.ok(&["create", "w", "--policy", policy.to_str().expect("text")]);
        block_on(async {
            let client = connect(host).await;
            start(&client, "bomb", "exec 2> told; bomb() { sleep 1000 & bomb | bomb & sleep 1000; }; bomb")
                .await;
            // Looked at from outside: at the limit nobody can start anything inside.
            while !refused(host) {}
            kill(&client, "bomb").await.expect("kill");
            wait(&client, "bomb").await;
            while !host.output(&["exec", "w", "--", "true"]).status.success() {}
            let script = "while [ $(ls /proc | grep -c '^[0-9]') -gt 8 ]; do :; done; echo calm";
            assert_eq!(host.script(script), "calm\n");
        });
    });
}

/// Whether a fork of the bomb has been refused.
fn refused(host: &Host) -> bool {
    let workspaces = std::fs::read_dir(host.state().join("workspaces")).expect("workspaces").flatten();
    let mut told = workspaces.map(|entry| entry.path().join("workspace/told"));
    told.any(|told| std::fs::read_to_string(told).is_ok_and(|text| text.to_lowercase().contains("fork")))
}
