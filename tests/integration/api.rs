//! The API as a control plane uses it.

use hands::api::client::{Client, reason};
use hands::api::proto::process_service_attach_request::Message as Say;
use hands::api::proto::process_service_attach_response::Message as Told;
use hands::api::proto::{
    AttachStart, Command, ExitCause, Process, ProcessServiceAttachRequest, ProcessServiceListRequest,
    ProcessServiceRunRequest, ProcessServiceSignalRequest, ProcessServiceStartRequest,
    ProcessServiceWaitRequest, WorkspaceServiceEnsureRequest, WorkspaceServiceGetRequest, WorkspaceSpec,
    exit_status::Outcome,
};
use tokio_stream::StreamExt;

use crate::host::{Host, Mode, NOBODY, check, check_served, report};

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(work)
}

async fn connect(host: &Host) -> Client {
    Client::connect(&host.socket()).await.expect("connect")
}

fn shell(script: &str) -> Option<Command> {
    let argv = ["sh", "-c", script].iter().map(|word| word.as_bytes().to_vec().into()).collect();
    Some(Command { argv, ..Command::default() })
}

/// All processes of a workspace.
pub(crate) fn processes(host: &Host, workspace: &str) -> Vec<Process> {
    let request =
        ProcessServiceListRequest { workspace: workspace.into(), ..ProcessServiceListRequest::default() };
    block_on(async {
        connect(host).await.processes().list(request).await.expect("list").into_inner().processes
    })
}

fn start(id: &str, script: &str) -> ProcessServiceStartRequest {
    ProcessServiceStartRequest { workspace: "w".into(), process_id: id.into(), command: shell(script) }
}

/// Output from a sequence number on, at most `most` messages of it, and where to go on; true if the end came.
async fn read(client: &Client, process: &str, from: u64, most: usize) -> (Vec<u8>, u64, bool) {
    let start = AttachStart {
        workspace: "w".into(),
        process: process.into(),
        from_sequence: from,
        follow_after_exit: false,
    };
    let said = ProcessServiceAttachRequest { message: Some(Say::Start(start)) };
    let stream = tokio_stream::iter([said]).chain(tokio_stream::pending());
    let mut told = client.processes().attach(stream).await.expect("attach").into_inner();
    let (mut bytes, mut next) = (Vec::new(), from);
    for _ in 0..most {
        match told.message().await.expect("message").and_then(|message| message.message) {
            Some(Told::Output(chunk)) => {
                bytes.extend_from_slice(&chunk.data);
                next = chunk.sequence + 1;
            }
            Some(Told::End(_)) => return (bytes, next, true),
            Some(Told::Gap(gap)) => panic!("a gap: {gap:?}"),
            _ => {}
        }
    }
    (bytes, next, false)
}

#[test]
fn p_06_a_connection_that_breaks_is_taken_up_where_it_broke() {
    check_served(|host| {
        block_on(async {
            let client = connect(host).await;
            client.processes().start(start("count", "seq 1 100000")).await.expect("start");
            let (mut bytes, mut from, mut ended) = (Vec::new(), 0, false);
            let mut connections = 0;
            while !ended {
                // A new connection for every few messages.
                let client = connect(host).await;
                let (more, next, end) = read(&client, "count", from, 3).await;
                bytes.extend(more);
                (from, ended) = (next, end);
                connections += 1;
            }
            let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
            assert!(
                bytes == expected.as_bytes() && connections > 1,
                "{} bytes, {connections} connections",
                bytes.len()
            );
        });
    });
}

#[test]
fn p_11_the_same_id_is_the_same_process_also_after_a_restart_of_the_daemon() {
    check(|host| {
        let serving = host.serve(&[]);
        let first = block_on(async {
            let mut processes = connect(host).await.processes();
            let first = processes.start(start("once", "echo ran >> runs")).await.expect("start").into_inner();
            let again = processes.start(start("once", "echo ran >> runs")).await.expect("again").into_inner();
            let other = processes.start(start("once", "echo other")).await.expect_err("another command");
            assert_eq!(reason(&other).as_deref(), Some("ALREADY_EXISTS"));
            assert_eq!(
                first.process.as_ref().map(|p| &p.start_time),
                again.process.as_ref().map(|p| &p.start_time)
            );
            first.process.expect("process")
        });
        serving.kill_daemon(host);
        block_on(async {
            let mut processes = connect(host).await.processes();
            let again = processes.start(start("once", "echo ran >> runs")).await.expect("again").into_inner();
            assert_eq!(again.process.expect("process").start_time, first.start_time);
        });
        assert_eq!(host.script("cat runs"), "ran\n");
    });
}

#[test]
fn p_02_exits_tell_their_cause() {
    check_served(|host| {
        block_on(async {
            let client = connect(host).await;
            let run = |script: &str, timeout: Option<i64>| {
                let mut command = shell(script);
                if let (Some(command), Some(seconds)) = (&mut command, timeout) {
                    command.timeout = Some(prost_types::Duration {
                        seconds: 0,
                        nanos: 1_000_000 * i32::try_from(seconds).unwrap_or(1),
                    });
                }
                let mut processes = client.processes();
                async move {
                    let request = ProcessServiceRunRequest {
                        workspace: "w".into(),
                        process_id: String::new(),
                        command,
                    };
                    let ran = processes.run(request).await.expect("run").into_inner();
                    (
                        ran.process.and_then(|process| process.exit).expect("exit"),
                        ran.stdout.unwrap_or_default().head,
                    )
                }
            };
            let (exit, _) = run("exit 137", None).await;
            assert_eq!((exit.outcome, exit.cause()), (Some(Outcome::Code(137)), ExitCause::Exited));
            let (exit, _) = run("kill -9 $$", None).await;
            assert_eq!((exit.outcome, exit.cause()), (Some(Outcome::Signal(9)), ExitCause::Signaled));
            let (exit, output) = run("echo so far; sleep 1000", Some(200)).await;
            assert_eq!((exit.outcome, exit.cause()), (Some(Outcome::Signal(15)), ExitCause::TimedOut));
            assert_eq!(output.as_ref(), b"so far\n");
            client.processes().start(start("long", "exec sleep 1000")).await.expect("start");
            let signal = ProcessServiceSignalRequest {
                workspace: "w".into(),
                process: "long".into(),
                signal: 15,
                scope: 0,
            };
            client.processes().signal(signal).await.expect("signal");
            let wait =
                ProcessServiceWaitRequest { workspace: "w".into(), process: "long".into(), timeout: None };
            let ended =
                client.processes().wait(wait).await.expect("wait").into_inner().process.expect("process");
            assert_eq!(ended.exit.expect("exit").cause(), ExitCause::Cancelled);
        });
    });
}

#[test]
fn p_03_a_background_child_that_keeps_the_pipe_delays_nothing() {
    check_served(|host| {
        block_on(async {
            let command = shell("(cat go > /dev/null; echo late) & echo hi");
            let request = ProcessServiceRunRequest { workspace: "w".into(), process_id: "p".into(), command };
            host.script("mkfifo go");
            let client = connect(host).await;
            let ran = client.processes().run(request).await.expect("run").into_inner();
            assert_eq!(ran.stdout.unwrap_or_default().head.as_ref(), b"hi\n");
        });
        host.script("echo > go");
        block_on(async {
            let start = AttachStart {
                workspace: "w".into(),
                process: "p".into(),
                from_sequence: 0,
                follow_after_exit: true,
            };
            let said = tokio_stream::iter([ProcessServiceAttachRequest { message: Some(Say::Start(start)) }]);
            let mut told = connect(host).await.processes().attach(said).await.expect("attach").into_inner();
            let mut output = Vec::new();
            while let Some(message) = told.message().await.expect("message") {
                if let Some(Told::Output(chunk)) = message.message {
                    output.extend_from_slice(&chunk.data);
                }
            }
            assert_eq!(output, b"hi\nlate\n");
        });
    });
}

#[test]
fn ensure_is_idempotent_and_a_running_workspace_does_not_change_under_its_commands() {
    check_served(|host| {
        block_on(async {
            let mut workspaces = connect(host).await.workspaces();
            let spec = WorkspaceSpec { key: "e".into(), ..WorkspaceSpec::default() };
            let ensure = |spec: &WorkspaceSpec| WorkspaceServiceEnsureRequest { spec: Some(spec.clone()) };
            let one =
                workspaces.ensure(ensure(&spec)).await.expect("ensure").into_inner().workspace.expect("one");
            let two =
                workspaces.ensure(ensure(&spec)).await.expect("ensure").into_inner().workspace.expect("two");
            assert_eq!((&one.id, one.generation), (&two.id, two.generation));
            let mut other = spec.clone();
            other.env.insert("A".into(), "b".into());
            let refused = workspaces.ensure(ensure(&other)).await.expect_err("running");
            assert_eq!(reason(&refused).as_deref(), Some("SPEC_MISMATCH"));
            let get = |name: &str| WorkspaceServiceGetRequest { workspace: name.into() };
            let found =
                workspaces.get(get(&one.id)).await.expect("by id").into_inner().workspace.expect("it");
            assert!(found.isolation.iter().any(|layer| layer.name == "seccomp"));
            let missing = workspaces.get(get("nobody")).await.expect_err("unknown");
            assert_eq!(reason(&missing).as_deref(), Some("NOT_FOUND"));
        });
    });
}

#[test]
fn f_06_files_are_opened_with_the_rights_of_a_command() {
    check_served(|host| {
        host.script(
            "ln -s /proc/1/environ link; mkfifo pipe; mkdir dir; printf content > file; chmod 600 file",
        );
        let read = |path: &str| {
            host.output(&["cp", &format!("w:{path}"), host.own().join("out").to_str().expect("text")])
        };
        assert!(read("/workspace/file").status.success());
        for path in [
            "/workspace/link",
            "/workspace/pipe",
            "/proc/1/environ",
            "/etc/shadow",
            "/workspace/nope",
            "/dev/zero",
        ] {
            assert!(!host.own().join("out2").exists());
            let output = read(path);
            assert!(!output.status.success() || output.stdout.is_empty(), "{path}");
        }
        host.ok(&["cp", host.write("in", "from outside").to_str().expect("text"), "w:/workspace/a/b/c"]);
        assert_eq!(host.script("cat a/b/c"), "from outside");
        let (_, told) = host.fails(&["cp", host.own().join("in").to_str().expect("text"), "w:/usr/x"]);
        assert!(told.contains("/usr/x"), "{told}");
    });
}

#[test]
fn only_the_owner_may_call() {
    check_served(|host| {
        if host.mode != Mode::Root {
            return report("a stranger at the socket: needs root and an ordinary user");
        }
        use std::os::unix::fs::PermissionsExt;
        use std::os::unix::process::CommandExt;
        std::fs::set_permissions(host.socket(), PermissionsExt::from_mode(0o666)).expect("mode");
        let stranger = host.hands(&["ls"]).uid(NOBODY).gid(NOBODY).output().expect("hands");
        assert!(!stranger.status.success(), "{stranger:?}");
        host.ok(&["ls"]);
    });
}

#[test]
fn health_and_reflection_answer() {
    check_served(|host| {
        block_on(async {
            use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
            use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
            use tonic_reflection::pb::v1::{
                ServerReflectionRequest, server_reflection_response::MessageResponse,
            };
            let channel = connect(host).await.channel();
            let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
            let request =
                tonic_health::pb::HealthCheckRequest { service: "hands.v1alpha1.ProcessService".into() };
            let answer = health.check(request).await.expect("health").into_inner();
            assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
            let ask = ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::ListServices(String::new())),
            };
            let mut told = ServerReflectionClient::new(channel)
                .server_reflection_info(tokio_stream::iter([ask]))
                .await
                .expect("reflection")
                .into_inner();
            let answer = told.message().await.expect("message").and_then(|message| message.message_response);
            let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
            let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
            for service in ["WorkspaceService", "ProcessService", "FileService"] {
                assert!(names.contains(&format!("hands.v1alpha1.{service}").as_str()), "{names:?}");
            }
        });
    });
}
