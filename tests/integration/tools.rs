//! The agent's tools: the identity of calls, and the persistent shell.

use hands::api::client::{Client, reason};
use hands::api::proto::tool_content::Content;
use hands::api::proto::tool_service_call_tool_response::Message;
use hands::api::proto::{
    ToolResult, ToolServiceCallToolRequest, ToolServiceCancelCallRequest, ToolServiceListToolsRequest,
};
use serde_json::{Value, json};

use crate::host::{Host, Mode, check, check_served, report};

/// A caller of tools in workspace `w`.
pub(crate) struct Agent {
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Agent {
    pub(crate) fn new(host: &Host) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let client = runtime.block_on(Client::connect(&host.socket())).expect("connect");
        Self { client, runtime }
    }

    fn request(id: &str, tool: &str, input: &Value) -> ToolServiceCallToolRequest {
        ToolServiceCallToolRequest {
            workspace: "w".into(),
            request_id: id.into(),
            tool: tool.into(),
            input: input.to_string().into(),
        }
    }

    /// The result with its media.
    pub(crate) fn result(&self, id: &str, tool: &str, input: &Value) -> (ToolResult, Vec<u8>) {
        self.runtime.block_on(async {
            let request = Self::request(id, tool, input);
            let mut told = self.client.tools().call_tool(request).await.expect("call").into_inner();
            let mut media = Vec::new();
            loop {
                match told.message().await.expect("message").and_then(|message| message.message) {
                    Some(Message::Result(result)) => return (result, media),
                    Some(Message::MediaPart(part)) => media.extend_from_slice(&part.data),
                    Some(Message::Accepted(_) | Message::Heartbeat(_)) => {}
                    None => panic!("{tool}: no result"),
                }
            }
        })
    }

    /// The text of a call with a given id, and whether it is an error.
    fn named(&self, id: &str, tool: &str, input: &Value) -> (String, bool) {
        let (result, _) = self.result(id, tool, input);
        match result.content.first().and_then(|content| content.content.clone()) {
            Some(Content::Text(text)) => (text, result.is_error),
            other => panic!("{tool}: no text: {other:?}"),
        }
    }

    pub(crate) fn call(&self, tool: &str, input: &Value) -> (String, bool) {
        self.named("", tool, input)
    }

    fn bash(&self, command: &str) -> (String, bool) {
        self.call("bash", &json!({ "command": command }))
    }

    #[track_caller]
    pub(crate) fn says(&self, command: &str, expected: &str) {
        assert_eq!(self.bash(command), (expected.to_owned(), false), "{command}");
    }

    #[track_caller]
    fn fails(&self, command: &str, expected: &str) {
        assert_eq!(self.bash(command), (expected.to_owned(), true), "{command}");
    }
}

const GONE: &str = "[shell exited; the next command starts a new one]";

#[test]
fn t_01_bash_keeps_its_state_between_calls() {
    check_served(|host| {
        let agent = Agent::new(host);
        agent.says("cd /tmp; X=1; f() { echo $X; }; export Y=2; sleep 1000 & true", "(no output)");
        agent.says("pwd; f; sh -c 'echo $Y'; jobs %1 | grep -c sleep", "/tmp\n1\n2\n1");
        agent.says("printf 'no newline'", "no newline");
        agent.fails(
            "echo out; echo err >&2; echo out; exit_with() { return 7; }; exit_with",
            "out\nerr\nout\nexit code: 7",
        );
        agent.fails("false", "exit code: 1");
        assert_eq!(agent.call("bash", &json!({"restart": true})), ("bash session restarted".into(), false));
        agent.says("pwd; type f 2>&1 | grep -c 'not found'; pgrep sleep || echo none", "/workspace\n1\nnone");
        let both = agent
            .call("bash", &json!({"restart": true, "command": "echo $$ > p; cat p; echo \"${Y-unset}\" "}));
        assert!(both.0.ends_with("\nunset") && !both.1, "{both:?}");
        assert_eq!(agent.call("bash", &json!({})), ("bash: command is required".into(), true));
    });
}

#[test]
fn t_02_nothing_that_a_command_does_fakes_its_end_or_its_status() {
    check_served(|host| {
        let agent = Agent::new(host);
        let spray = "for fd in /proc/self/fd/*; do fd=${fd##*/}; { printf '0\\n\\0done\\0' >&$fd; } 2> /dev/null; done; (exit 3)";
        let (told, error) = agent.bash(spray);
        assert!(error && told.ends_with("exit code: 3"), "{told:?}");
        agent.says("echo still here", "still here");
        agent.says("exec >&- 2>&-; true", "(no output)");
        agent.says("echo output is back", "output is back");
        agent.fails("set -e; false", &format!("exit code: 1\n{GONE}"));
        agent.says("set -u; echo new", "new");
        assert_eq!(agent.bash("trap 'exit 0' EXIT; exit 5"), (GONE.into(), false));
        agent.says("exec 5> file; echo kept >&5; cat file", "kept");
        agent.says("read() { echo no; }; eval() { echo no; }; printf() { echo no; }; echo mine", "mine");
        agent.fails("(exit 9)", "exit code: 9");
    });
}

#[test]
fn t_03_a_syntax_error_ends_that_call_only() {
    check_served(|host| {
        let agent = Agent::new(host);
        agent.says("cd /tmp", "(no output)");
        for broken in ["echo \"", "if", "echo $(", "case x in", "}"] {
            let (told, error) = agent.bash(broken);
            assert!(error && told.contains("exit code: "), "{broken}: {told:?}");
            agent.says("pwd", "/tmp");
        }
        let (told, _) = agent.bash("cat <<E\ninside");
        assert!(told.contains("inside"), "{told:?}");
        agent.says("cat <<E\nwhole\nE", "whole");
        agent.says("pwd", "/tmp");
    });
}

#[test]
fn t_04_the_death_of_the_shell_is_told_and_the_next_call_has_a_new_one() {
    check_served(|host| {
        let agent = Agent::new(host);
        agent.fails("cd /tmp; echo bye; exit 3", &format!("bye\nexit code: 3\n{GONE}"));
        agent.says("pwd", "/workspace");
        agent.says("exit 0", GONE);
        agent.fails("kill -9 $$", &format!("exit code: 137\n{GONE}"));
        agent.says("exec echo replaced", &format!("replaced\n{GONE}"));
        agent.fails("(exit 137)", "exit code: 137");
        agent.says("echo alive", "alive");
    });
}

#[test]
fn t_05_a_timeout_tells_the_output_so_far_and_leaves_no_process() {
    check_served(|host| {
        let agent = Agent::new(host);
        let input = json!({"command": "echo a; sleep 999 & sleep 999", "timeout_ms": 500});
        let told = agent.call("bash", &input);
        assert_eq!(told, ("a\nbash: command timed out after 0.5s; the shell was restarted".into(), true));
        agent.says("pgrep sleep || echo none", "none");
    });
}

#[test]
fn t_06_a_background_child_delays_nothing_and_is_in_no_later_result() {
    check_served(|host| {
        let agent = Agent::new(host);
        agent.says("mkfifo go done; (read < go; echo late; echo > done) & echo early", "early");
        agent.says("echo > go; read < done; echo x", "x");
    });
}

#[test]
fn t_07_a_command_never_reads_the_next_command() {
    check_served(|host| {
        let agent = Agent::new(host);
        agent.fails("cat; read x", "exit code: 1");
        agent.says("cat; { cat <&198; } 2> /dev/null; readlink /proc/self/fd/0", "/dev/null");
        agent.says("echo ok", "ok");
    });
}

#[test]
fn t_08_truncation_keeps_head_and_tail_and_never_the_status() {
    check_served(|host| {
        let agent = Agent::new(host);
        let (told, error) = agent.bash("yes \u{e9} | head -c 3000000; exit 4");
        assert!(error && told.starts_with("[output truncated]\n\u{e9}\n"), "{}", &told[..40]);
        assert!(told.ends_with(&format!("\u{e9}\nexit code: 4\n{GONE}")) && told.len() < 98_304 + 200);
        assert!(told.contains("bytes omitted]\n"));
        let (told, error) = agent.bash("head -c 40000000 /dev/zero | tr '\\0' x");
        assert!(!error && told.contains("\n[39901696 bytes omitted]\n"), "{}", told.len());
    });
}

#[test]
fn t_17_the_same_request_never_runs_twice_also_across_a_restart_of_the_daemon() {
    check(|host| {
        let serving = host.serve(&[]);
        let agent = Agent::new(host);
        let input = json!({"command": "echo x >> f; echo ran; mkfifo go 2>/dev/null; X=kept"});
        assert_eq!(agent.named("toolu_1", "bash", &input), ("ran".into(), false));
        assert_eq!(agent.named("toolu_1", "bash", &input), ("ran".into(), false));
        agent.runtime.block_on(async {
            let request = Agent::request("toolu_1", "bash", &json!({"command": "other"}));
            let mut told = agent.client.tools().call_tool(request).await.expect("call").into_inner();
            told.message().await.expect("accepted");
            let refused = told.message().await.expect_err("another call");
            assert_eq!(reason(&refused).as_deref(), Some("ALREADY_EXISTS"));
            // One that waits while the daemon is killed under it.
            let wait = json!({"command": "echo y >> f; read < go; echo went on; echo $X"});
            let request = Agent::request("toolu_2", "bash", &wait);
            let mut told = agent.client.tools().call_tool(request).await.expect("call").into_inner();
            told.message().await.expect("accepted");
        });
        host.script("until grep -q y f; do :; done");
        serving.kill_daemon(host);
        let agent = Agent::new(host);
        assert_eq!(agent.named("toolu_1", "bash", &input), ("ran".into(), false));
        host.script("echo > go &");
        let wait = json!({"command": "echo y >> f; read < go; echo went on; echo $X"});
        assert_eq!(agent.named("toolu_2", "bash", &wait), ("went on\nkept".into(), false));
        agent.says("cat f; echo $X", "x\ny\nkept");
    });
}

#[test]
fn t_18_bad_input_gives_the_documented_text() {
    check_served(|host| {
        let agent = Agent::new(host);
        let told = |tool: &str, input: Value| agent.call(tool, &input).0;
        assert_eq!(told("read", json!({})), "read: file_path is required");
        assert_eq!(told("read", json!({"file_path": 7})), "read: file_path must be a string");
        assert_eq!(told("read", json!({"file_path": "a\u{0}b"})), "read: path must not contain NUL");
        assert_eq!(told("write", json!({"file_path": "x"})), "write: content is required");
        assert_eq!(told("bash", json!({"command": ["x"]})), "bash: command must be a string");
        assert_eq!(
            told("bash", json!({"command": "x", "timeout_ms": "1"})),
            "bash: timeout_ms must be an integer"
        );
        assert_eq!(told("bash", json!({"restart": "yes"})), "bash: restart must be a boolean");
        assert_eq!(told("glob", json!([])), "glob: input must be a JSON object");
        let long = "x".repeat(300);
        assert_eq!(told("read", json!({"file_path": long})), format!("read: {long}: file name too long"));
        let big = format!("true {}", "x".repeat(300_000));
        agent.says(&big, "(no output)");
        let refused = agent.runtime.block_on(async {
            let request = Agent::request("", "python", &json!({}));
            let mut told = agent.client.tools().call_tool(request).await.expect("call").into_inner();
            told.message().await.expect("accepted");
            told.message().await.expect_err("no such tool")
        });
        assert_eq!(reason(&refused).as_deref(), Some("NOT_FOUND"));
    });
}

#[test]
fn t_18_no_value_of_any_field_is_more_than_a_result() {
    check_served(|host| {
        let agent = Agent::new(host);
        let values = [
            json!(null),
            json!(true),
            json!(-1),
            json!(u64::MAX),
            json!(0.5),
            json!(""),
            json!("/"),
            json!(".."),
            json!("\u{0}"),
            json!("*".repeat(5000)),
            json!("\u{202e}\n"),
            json!([]),
            json!([[]]),
            json!({"a": 1}),
        ];
        let fields: [(&str, &[&str]); 5] = [
            ("read", &["file_path", "view_range"]),
            ("write", &["file_path", "content"]),
            ("edit", &["file_path", "old_string", "new_string", "replace_all"]),
            ("glob", &["pattern", "path"]),
            ("grep", &["pattern", "path"]),
        ];
        host.script("echo x > f");
        for (tool, fields) in fields {
            for (field, value) in
                fields.iter().flat_map(|field| values.iter().map(move |value| (field, value)))
            {
                let mut input = json!({
                    "file_path": "f", "content": "x", "old_string": "x", "new_string": "x", "pattern": "x",
                });
                input[*field] = value.clone();
                let (told, error) = agent.call(tool, &input);
                assert!(!told.is_empty() && !told.contains('\0'), "{tool} {input}: {told:?}");
                assert!(!error || told.starts_with(&format!("{tool}: ")), "{tool} {input}: {told:?}");
            }
        }
        for value in values.iter().filter(|value| !value.is_string()) {
            let (told, error) = agent.call("bash", &json!({"command": "true", "timeout_ms": value}));
            assert!(!error || told.starts_with("bash: timeout_ms must "), "{value}: {told:?}");
        }
    });
}

#[test]
fn t_17_two_calls_with_one_id_at_once_are_one_run() {
    check_served(|host| {
        let agent = Agent::new(host);
        let input = json!({"command": "echo x >> f; read < go; cat f"});
        host.script("mkfifo go");
        agent.runtime.block_on(async {
            let mut tools = agent.client.tools();
            let mut streams = Vec::new();
            for _ in 0..3 {
                let request = Agent::request("same", "bash", &input);
                streams.push(tools.call_tool(request).await.expect("call").into_inner());
            }
            host.script("until test -s f; do :; done; echo > go");
            for mut told in streams {
                let result = loop {
                    match told.message().await.expect("message").and_then(|message| message.message) {
                        Some(Message::Result(result)) => break result,
                        other => assert!(other.is_some(), "no result"),
                    }
                };
                assert_eq!(result.content[0].content, Some(Content::Text("x".into())));
            }
        });
    });
}

#[test]
fn an_explicit_cancel_ends_the_whole_tree_and_a_dropped_call_goes_on() {
    check_served(|host| {
        let agent = Agent::new(host);
        agent.runtime.block_on(async {
            let mut tools = agent.client.tools();
            let listed = tools.list_tools(ToolServiceListToolsRequest {}).await.expect("list").into_inner();
            assert_eq!(listed.tools.len(), 6);
            let request =
                Agent::request("c", "bash", &json!({"command": "touch begun; sleep 999 & sleep 999"}));
            let mut told = tools.call_tool(request.clone()).await.expect("call").into_inner();
            told.message().await.expect("accepted");
            drop(told);
            host.script("until test -e begun && test \"$(pgrep -c sleep)\" = 2; do :; done");
            let mut told = tools.call_tool(request).await.expect("again").into_inner();
            told.message().await.expect("accepted");
            let cancel = ToolServiceCancelCallRequest {
                workspace: "w".into(),
                request_id: "c".into(),
                reason: "the turn was interrupted".into(),
            };
            tools.cancel_call(cancel.clone()).await.expect("cancel");
            let result = told.message().await.expect("result").expect("result");
            let Some(Message::Result(result)) = result.message else { panic!("{result:?}") };
            let text = Content::Text("bash: cancelled: the turn was interrupted".into());
            assert_eq!((result.content[0].content.clone(), result.is_error), (Some(text), true));
            let late = tools.cancel_call(cancel).await.expect_err("ended");
            assert_eq!(reason(&late).as_deref(), Some("NOT_FOUND"));
        });
        agent.says("pgrep sleep || echo none", "none");
    });
}

#[test]
fn p_27_denials_are_a_last_line_of_the_result() {
    check_served(|host| {
        let agent = Agent::new(host);
        let (told, error) =
            agent.bash("getent hosts evil.example > /dev/null 2>&1; exec 3<>/dev/tcp/192.0.2.1/443; true");
        assert!(!error, "{told}");
        assert!(told.lines().last().is_some_and(|line| line.starts_with("[egress denied: ")), "{told:?}");
    });
}

#[test]
fn a_command_that_uses_up_the_memory_is_told_so() {
    check(|host| {
        if host.mode == Mode::Rootless {
            return report("memory limits: no delegated cgroup here");
        }
        let _serving = host.serve(&[]);
        let policy = host.write("small.yaml", "version: 1\nlimits: { memory: 64MiB }\n");
        host.ok(&["rm", "w"]);
        host.ok(&["create", "w", "--policy", policy.to_str().expect("text")]);
        let agent = Agent::new(host);
        let (told, error) = agent.bash("echo before; exec tail -n 1 /dev/zero");
        let expected = format!("before\nbash: killed: out of memory (limit 64MiB)\n{GONE}");
        assert_eq!((told, error), (expected, true));
        let (told, error) = agent.bash("bash -c 'exec tail -n 1 /dev/zero' 2> /dev/null");
        assert!(error && told.ends_with("bash: killed: out of memory (limit 64MiB)"), "{told}");
        agent.says("echo alive", "alive");
    });
}

#[test]
fn the_command_line_calls_tools() {
    check_served(|host| {
        assert!(host.ok(&["tool", "ls"]).starts_with("bash    "));
        assert_eq!(
            host.ok(&["tool", "call", "w", "bash", r#"{"command":"X=1; echo $X"}"#, "--id", "one"]),
            "1\n"
        );
        assert_eq!(
            host.ok(&["tool", "call", "w", "bash", r#"{"command":"X=1; echo $X"}"#, "--id", "one"]),
            "1\n"
        );
        let failed = host.output(&["tool", "call", "w", "bash", r#"{"command":"exit_now"}"#]);
        assert_eq!(failed.status.code(), Some(1));
        let (code, told) = host.fails(&["tool", "cancel", "w", "one"]);
        assert!(code == 1 && told.contains("no such call runs"), "{told}");
    });
}
