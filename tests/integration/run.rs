//! `hands run` is the command: its input, output, exit and signals pass through.

use std::io::{Read, Write};
use std::process::Stdio;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::{check, line_of, report, text};

#[test]
fn run_passes_exit_code_and_both_outputs_through() {
    check(|host| {
        let output = host.output(&["run", "--", "sh", "-c", "printf out; printf err >&2; exit 42"]);
        assert_eq!(
            (output.status.code(), text(&output.stdout), text(&output.stderr)),
            (Some(42), "out".into(), "err".into())
        );
        let output = host.output(&["run", "--", "sh", "-c", "kill -9 $$"]);
        assert_eq!(output.status.code(), Some(128 + 9));
    });
}

#[test]
fn run_passes_stdin_through_to_its_last_byte() {
    check(|host| {
        let sent: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut child = host
            .hands(&["run", "--", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run");
        let mut stdin = child.stdin.take().expect("stdin");
        let mut stdout = child.stdout.take().expect("stdout");
        let bytes = sent.clone();
        let writer = std::thread::spawn(move || stdin.write_all(&bytes));
        let mut came = Vec::new();
        stdout.read_to_end(&mut came).expect("read");
        writer.join().expect("writer").expect("write");
        assert!(child.wait().expect("wait").success());
        assert!(came == sent, "{} bytes came of {}", came.len(), sent.len());
    });
}

#[test]
fn a_command_may_open_its_own_streams_again() {
    check(|host| {
        let script =
            "cat /dev/stdin; echo out > /dev/stdout; echo err > /dev/stderr; echo two > /proc/self/fd/2";
        let mut command = host.hands(&["run", "--", "sh", "-c", script]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run");
        child.stdin.take().expect("stdin").write_all(b"in\n").expect("write");
        let output = child.wait_with_output().expect("wait");
        assert_eq!(text(&output.stdout) + &text(&output.stderr), "in\nout\nerr\ntwo\n");
    });
}

#[test]
fn p_19_a_program_that_is_missing_or_none_has_its_own_code() {
    check(|host| {
        for (program, code) in [("nope", 127), ("/nope/nope", 127), ("/etc/passwd", 126), ("/", 126)] {
            let (got, told) = host.fails(&["run", "--", program]);
            assert_eq!(got, code, "{told}");
            assert!(told.contains(program), "{told}");
        }
    });
}

#[test]
fn signals_reach_the_command() {
    check(|host| {
        for (signal, name) in [(Signal::SIGTERM, "TERM"), (Signal::SIGINT, "INT"), (Signal::SIGUSR1, "USR1")]
        {
            let script = format!("trap 'echo caught; exit 3' {name}; echo ready; sleep 1000 & wait");
            let mut child = host
                .hands(&["run", "--", "bash", "-c", &script])
                .stdout(Stdio::piped())
                .spawn()
                .expect("run");
            assert_eq!(line_of(&mut child), "ready\n");
            kill(Pid::from_raw(child.id().try_into().expect("pid")), signal).expect("kill");
            assert_eq!(line_of(&mut child), "caught\n");
            assert_eq!(child.wait().expect("wait").code(), Some(3), "{name}");
        }
    });
}

#[test]
fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    check(|host| {
        let script = "echo ready; read line; echo $line";
        let mut command = host.as_user("nohup");
        command.arg(host.program()).args(["run", "--", "sh", "-c", script]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("nohup");
        assert_eq!(line_of(&mut child), "ready\n");
        kill(Pid::from_raw(child.id().try_into().expect("pid")), Signal::SIGHUP).expect("kill");
        child.stdin.take().expect("stdin").write_all(b"still here\n").expect("write");
        assert_eq!(line_of(&mut child), "still here\n");
        assert!(child.wait().expect("wait").success());
    });
}

#[test]
fn a_signal_that_the_command_does_not_catch_ends_it_as_it_would_alone() {
    check(|host| {
        let script = "echo ready; exec sleep 1000";
        let mut child =
            host.hands(&["run", "--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().expect("run");
        assert_eq!(line_of(&mut child), "ready\n");
        kill(Pid::from_raw(child.id().try_into().expect("pid")), Signal::SIGINT).expect("kill");
        assert_eq!(child.wait().expect("wait").code(), Some(128 + 2));
    });
}

#[test]
fn a_reader_that_leaves_ends_the_command() {
    check(|host| {
        let mut child = host.hands(&["run", "--", "yes"]).stdout(Stdio::piped()).spawn().expect("run");
        assert_eq!(line_of(&mut child), "y\n");
        drop(child.stdout.take());
        assert_eq!(child.wait().expect("wait").code(), Some(128 + 13));
    });
}

#[test]
fn p_15_a_terminal_has_its_size_and_its_keys() {
    check(|host| {
        let size = Winsize { ws_row: 33, ws_col: 111, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("pty");
        let slave = || Stdio::from(pty.slave.try_clone().expect("clone"));
        let script = "stty size; tty > /dev/null && echo terminal; trap 'echo keys; exit 5' INT; echo ready; sleep 1000 & wait";
        let mut command = host.hands(&["run", "--", "bash", "-c", script]);
        let mut child = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().expect("run");
        // It holds ends of the terminal too; with them open the output would never end.
        drop(command);
        drop(pty.slave);
        let mut master = std::fs::File::from(pty.master);
        let mut came = String::new();
        let mut buffer = [0_u8; 1024];
        // A terminal whose last user has gone answers EIO.
        while let Ok(length @ 1..) = master.read(&mut buffer) {
            came.push_str(&text(&buffer[..length]));
            if came.contains("ready") && !came.contains("keys") && !came.contains("^C") {
                master.write_all(b"\x03").expect("Ctrl-C");
            }
        }
        assert_eq!(child.wait().expect("wait").code(), Some(5), "{came}");
        for expected in ["33 111", "terminal", "keys"] {
            assert!(came.contains(expected), "{expected}: {came}");
        }
    });
}

#[test]
fn a_second_run_finds_the_files_and_an_unnamed_one_leaves_none() {
    check(|host| {
        host.ok(&["run", "--workspace", "kept", "--", "sh", "-c", "echo here > file; echo there > ~/file"]);
        let found = host.ok(&["run", "--workspace", "kept", "--", "sh", "-c", "cat file ~/file"]);
        assert_eq!(found, "here\nthere\n");
        host.ok(&["run", "--", "sh", "-c", "echo gone > file"]);
        let left = std::fs::read_dir(host.state().join("workspaces")).map(Iterator::count);
        match left {
            Ok(left) => assert_eq!(left, 1, "one workspace is kept"),
            Err(error) => report(&format!("counting workspaces: {error}")),
        }
    });
}

#[test]
fn volumes_are_shared_kept_and_read_only_where_asked() {
    check(|host| {
        host.ok(&["run", "--volume", "data:/data", "--", "sh", "-c", "echo shared > /data/file"]);
        let (code, told) = host.fails(&["run", "--volume", "data:/data:ro", "--", "touch", "/data/other"]);
        assert!(code == 1 && told.contains("Read-only file system"), "{told}");
        assert_eq!(
            host.ok(&["run", "--volume", "data:/elsewhere:ro", "--", "cat", "/elsewhere/file"]),
            "shared\n"
        );
        for bad in
            ["data:/etc", "data:/usr/x", "data:relative", "data:/a/../etc", "../x:/data", "data:/data:rw:x"]
        {
            let (code, told) = host.fails(&["run", "--volume", bad, "--", "true"]);
            assert!(code == 125, "{bad}: {told}");
        }
    });
}
