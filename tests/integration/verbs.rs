//! The verbs for workspaces and their commands.

use std::process::Stdio;

use crate::host::{check_served, line_of, report, text};

#[test]
fn start_and_stop_are_harmless_when_repeated_and_keep_files() {
    check_served(|host| {
        host.script("echo kept > file");
        for verb in ["stop", "stop"] {
            assert!(host.ok(&[verb, "w", "-o", "json"]).contains("\"state\": \"stopped\""), "{verb}");
        }
        for _again in 0..2 {
            let told = host.ok(&["start", "w", "-o", "json"]);
            assert!(told.contains("\"state\": \"running\"") && told.contains("\"generation\": 2"), "{told}");
        }
        assert_eq!(host.script("cat file"), "kept\n");
        let (code, told) = host.fails(&["start", "nowhere"]);
        assert!(code == 1 && told.contains("unknown workspace: nowhere"), "{told}");
    });
}

#[test]
fn inspect_shows_limits_and_layers() {
    check_served(|host| {
        let shown: serde_json::Value =
            serde_json::from_str(&host.ok(&["inspect", "w", "-o", "json"])).expect("JSON");
        assert_eq!((shown["key"].as_str(), shown["state"].as_str()), (Some("w"), Some("running")));
        let table = host.ok(&["inspect", "w"]);
        assert!(table.contains("limits.processes") && table.contains("isolation.seccomp"), "{table}");
    });
}

#[test]
fn ps_logs_and_kill_work_on_a_command_of_somebody_else() {
    check_served(|host| {
        let script =
            "echo out; echo err >&2; (setsid sh -c 'echo $$ > left; exec sleep 1000' >/dev/null 2>&1 &)
            until [ -s left ]; do :; done; echo ready; exec sleep 1000";
        let mut running = host
            .hands(&["exec", "w", "--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("exec");
        while line_of(&mut running) != "ready\n" {}
        let shown: serde_json::Value =
            serde_json::from_str(&host.ok(&["ps", "w", "-o", "json"])).expect("JSON");
        let process = shown[0]["id"].as_str().expect("one runs").to_owned();
        assert!(shown[1].is_null() && shown[0]["exit"].is_null(), "{shown}");
        let printed = host.output(&["logs", "w", &process]);
        assert_eq!((text(&printed.stdout), text(&printed.stderr)), ("out\nready\n".into(), "err\n".into()));
        let follows = host
            .hands(&["logs", "-f", "w", &process])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("logs");
        host.ok(&["kill", "-s", "KILL", "w", &process]);
        assert_eq!(running.wait().expect("wait").code(), Some(128 + 9));
        assert_eq!(text(&follows.wait_with_output().expect("logs").stdout), "out\nready\n");
        host.script("while [ -d /proc/$(cat left) ]; do :; done");
        assert!(!host.ok(&["ps", "w"]).contains(&process));
        assert!(host.ok(&["ps", "--all", "w"]).contains("signal 9, cancelled"));
    });
}

#[test]
fn inspect_shows_what_is_used_and_the_peak() {
    check_served(|host| {
        host.script("head -c 30000000 /dev/zero > /tmp/file; rm /tmp/file");
        let shown: serde_json::Value =
            serde_json::from_str(&host.ok(&["inspect", "w", "-o", "json"])).expect("JSON");
        let layers = shown["isolation"].as_array().expect("layers");
        if !layers.iter().any(|layer| layer["name"] == "cgroup" && layer["status"] == "in_force") {
            assert_eq!(shown["usage"], serde_json::json!({}));
            return report("usage: no delegated cgroup here");
        }
        let usage = |name: &str| shown["usage"][name].as_u64().unwrap_or_else(|| panic!("{name}: {shown}"));
        assert!(usage("memory_peak") >= 30_000_000 && usage("memory") < usage("memory_peak"), "{shown}");
        assert!(usage("processes") >= 1 && usage("memory_kills") == 0, "{shown}");
    });
}
