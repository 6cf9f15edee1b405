//! Pause and resume: no processor, nothing lost, and a clear word to whoever calls meanwhile.

use std::fs;
use std::process::{Child, Stdio};

use hands::api::client::{Client, reason};
use hands::api::proto::{
    Command, ExitCause, Process, ProcessServiceStartRequest, ProcessServiceWaitRequest,
    WorkspaceServiceStartRequest,
};
use nix::sys::signal::{Signal, kill};

use crate::host::{Host, Serving, check, check_served, line_of, report, text};

/// Whether workspaces can be paused here; if not, that a pause is refused, says why, and changes nothing.
fn can_pause(host: &Host) -> bool {
    let shown: serde_json::Value =
        serde_json::from_str(&host.ok(&["inspect", "w", "-o", "json"])).expect("JSON");
    let layers = shown["isolation"].as_array().expect("layers");
    let layer = layers.iter().find(|layer| layer["name"] == "pause").expect("told");
    if layer["status"] == "in_force" {
        return true;
    }
    let (code, told) = host.fails(&["pause", "w"]);
    assert!(code == 1 && told.contains("freezer") && told.contains("Delegate=yes"), "{told}");
    assert!(layer["detail"].as_str().expect("text").contains("freezer"), "{layer}");
    assert_eq!(host.script("echo runs"), "runs\n");
    report("pause: no freezer that we may use");
    false
}

fn state(host: &Host) -> String {
    let shown: serde_json::Value =
        serde_json::from_str(&host.ok(&["inspect", "w", "-o", "json"])).expect("JSON");
    shown["state"].as_str().expect("text").to_owned()
}

/// Ticks of processor time of the processes on this machine whose command line ends like this.
fn ticks(marker: &str) -> Vec<u64> {
    let processes = fs::read_dir("/proc").expect("proc").flatten();
    let ours = processes.filter(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.starts_with(b"sh\0") && line.ends_with(format!("{marker}\0").as_bytes())
    });
    let time = |stat: &str| {
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    };
    ours.filter_map(|entry| time(&fs::read_to_string(entry.path().join("stat")).ok()?)).collect()
}

/// A command in workspace `w` that has said its first line. The marker is its last argument.
fn begin(host: &Host, script: &str, marker: &str) -> Child {
    let mut child = host
        .hands(&["exec", "w", "--", "sh", "-c", script, marker])
        .stdout(Stdio::piped())
        .spawn()
        .expect("exec");
    assert_eq!(line_of(&mut child), "1\n");
    child
}

/// A name that no other test's processes have.
fn marker(host: &Host) -> String {
    format!("marker-{}", host.own().display())
}

#[test]
fn p_24_twelve_pauses_use_no_processor_and_lose_no_output() {
    check_served(|host| {
        if !can_pause(host) {
            return;
        }
        host.ok(&["create", "other"]);
        let marker = marker(host);
        let counter = "i=0; until [ -e go ]; do i=$((i+1)); echo $i; done; echo end";
        let mut counting = begin(host, counter, &marker);
        let mut output = counting.stdout.take().expect("piped");
        let reading = std::thread::spawn(move || {
            let mut all = String::new();
            std::io::Read::read_to_string(&mut output, &mut all).map(|_| all)
        });
        for _round in 0..12 {
            assert!(host.ok(&["pause", "w", "-o", "json"]).contains("\"state\": \"paused\""));
            let before = ticks(&marker);
            assert_eq!(before.len(), 1, "the counter is there");
            let busy = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
            host.ok(&["exec", "other", "--", "sh", "-c", busy]);
            assert_eq!(ticks(&marker), before, "it used the processor");
            host.ok(&["resume", "w"]);
            while ticks(&marker) == before {}
        }
        host.script("touch go");
        assert!(counting.wait().expect("wait").success());
        let all = reading.join().expect("reader").expect("read");
        let mut expected = 2..;
        let numbers = all.strip_suffix("end\n").expect("the end").lines();
        assert!(numbers.map(str::parse).eq(expected.by_ref().take(all.lines().count() - 1).map(Ok)));
    });
}

async fn start(client: &Client, workspace: &str, script: &str, milliseconds: i32) {
    let argv = ["sh", "-c", script].iter().map(|word| word.as_bytes().to_vec().into()).collect();
    let (seconds, nanos) = (i64::from(milliseconds / 1000), milliseconds % 1000 * 1_000_000);
    let timeout = Some(prost_types::Duration { seconds, nanos });
    let command = Some(Command { argv, timeout, ..Command::default() });
    let request =
        ProcessServiceStartRequest { workspace: workspace.into(), process_id: "timed".into(), command };
    client.processes().start(request).await.expect("start");
}

async fn wait(client: &Client, workspace: &str) -> Process {
    let request =
        ProcessServiceWaitRequest { workspace: workspace.into(), process: "timed".into(), timeout: None };
    client.processes().wait(request).await.expect("wait").into_inner().process.expect("process")
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(work)
}

#[test]
fn p_24_time_limits_stand_still_while_paused() {
    check_served(|host| {
        if !can_pause(host) {
            return;
        }
        host.ok(&["create", "other"]);
        host.script("mkfifo go");
        block_on(async {
            let client = Client::connect(&host.socket()).await.expect("connect");
            start(&client, "w", "cat go", 3000).await;
            host.ok(&["pause", "w"]);
            // The whole limit passes, as the machine's own clock has it.
            start(&client, "other", "exec sleep 1000", 3500).await;
            let passed = wait(&client, "other").await.exit.expect("exit");
            assert_eq!(passed.cause(), ExitCause::TimedOut);
            host.ok(&["resume", "w"]);
            host.script("echo on > go");
            let exit = wait(&client, "w").await.exit.expect("exit");
            assert_eq!(exit.cause(), ExitCause::Exited, "its time was up while it was paused");
        });
    });
}

#[test]
fn a_paused_workspace_says_resume_it_first_and_can_be_stopped_and_deleted() {
    check_served(|host| {
        if !can_pause(host) {
            return;
        }
        let marker = marker(host);
        let mut sleeping = begin(host, "echo 1; exec sleep 1000", &marker);
        for _again in 0..2 {
            host.ok(&["pause", "w"]);
        }
        assert_eq!(state(host), "paused");
        let shown: serde_json::Value =
            serde_json::from_str(&host.ok(&["ps", "w", "-o", "json"])).expect("JSON");
        let process = shown[0]["id"].as_str().expect("one runs");
        assert_eq!(host.ok(&["logs", "w", process]), "1\n", "what it printed can be read");
        for refused in [
            &["start", "w"][..],
            &["create", "w"],
            &["exec", "w", "--", "true"],
            &["cp", "w:/etc/passwd", "/dev/null"],
            &["kill", "w", process],
            &["tool", "call", "w", "bash", r#"{"command": "true"}"#],
        ] {
            let told = host.output(refused);
            assert!(!told.status.success(), "{refused:?}");
            let told = text(&told.stdout) + &text(&told.stderr);
            assert!(told.contains("resume it first"), "{refused:?}: {told}");
        }
        let refused = block_on(async {
            let client = Client::connect(&host.socket()).await.expect("connect");
            let request = WorkspaceServiceStartRequest { workspace: "w".into() };
            client.workspaces().start(request).await.expect_err("paused")
        });
        assert_eq!(reason(&refused).as_deref(), Some("FAILED_PRECONDITION"));
        host.ok(&["stop", "w"]);
        assert!(!sleeping.wait().expect("wait").success());
        assert_eq!(state(host), "stopped");
        let (_, told) = host.fails(&["pause", "w"]);
        assert!(told.contains("not running"), "{told}");
        host.ok(&["start", "w"]);
        host.ok(&["pause", "w"]);
        host.ok(&["rm", "w"]);
        assert!(host.fails(&["inspect", "w"]).1.contains("unknown workspace"));
    });
}

#[test]
fn a_daemon_killed_while_a_workspace_is_paused_finds_it_paused() {
    check(|host| {
        let serving = host.serve(&[]);
        if !can_pause(host) {
            return;
        }
        host.script("mkfifo go");
        let counting = begin(host, "echo 1; cat go", &marker(host));
        host.ok(&["pause", "w"]);
        serving.kill_daemon(host);
        assert_eq!(state(host), "paused");
        let told = host.output(&["exec", "w", "--", "true"]);
        assert!(text(&told.stderr).contains("resume it first"), "{}", text(&told.stderr));
        host.ok(&["resume", "w"]);
        host.script("echo went on > go");
        let output = counting.wait_with_output().expect("wait");
        assert_eq!(text(&output.stdout), "went on\n");
    });
}

#[test]
fn l_08_what_a_killed_supervisor_left_paused_ends_with_the_next_start() {
    check(|host| {
        let mut serving = host.serve(&[]);
        if !can_pause(host) {
            return;
        }
        let marker = marker(host);
        let mut sleeping = begin(host, "echo 1; while :; do sleep 1; done", &marker);
        host.ok(&["pause", "w"]);
        kill(serving.pid(), Signal::SIGKILL).expect("kill");
        serving.child.wait().expect("wait");
        drop(serving);
        sleeping.kill().expect("kill");
        sleeping.wait().expect("wait");
        assert_eq!(ticks(&marker).len(), 1, "frozen, it could not end");
        let _serving = Serving::start(host, &[]).expect("serve again");
        assert_eq!(ticks(&marker), Vec::<u64>::new());
        assert_eq!(host.script("echo anew"), "anew\n");
    });
}
