//! What a command sees and can do: probed from inside.

use crate::host::{Mode, check_served, has, report, text};

#[test]
fn i_16_no_capability_no_new_privileges_a_filter() {
    check_served(|host| {
        let status = host.script("cat /proc/self/status");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{set}: {status}");
        }
        assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"), "{status}");
    });
}

#[test]
fn i_02_three_descriptors_and_no_other() {
    check_served(|host| {
        // The fourth is that of the listing itself.
        assert_eq!(
            host.script("ls /proc/self/fd").split_whitespace().collect::<Vec<_>>(),
            ["0", "1", "2", "3"]
        );
        let output = host.output(&["run", "--workspace", "other", "--", "sh", "-c", "ls /proc/$$/fd"]);
        assert_eq!(text(&output.stdout).split_whitespace().collect::<Vec<_>>(), ["0", "1", "2"]);
    });
}

#[test]
fn i_18_every_mount_is_nosuid_and_devices_are_only_the_six() {
    check_served(|host| {
        for mount in host.script("cat /proc/self/mountinfo").lines() {
            let fields: Vec<&str> = mount.split(' ').collect();
            let (place, options) = (fields[4], fields[5]);
            assert!(options.split(',').any(|option| option == "nosuid"), "{mount}");
            let device = place.starts_with("/dev/") || place.starts_with("/proc/");
            assert!(device || options.split(',').any(|option| option == "nodev"), "{mount}");
        }
        let nodes = "for node in /dev/*; do [ ! -c $node ] && [ ! -b $node ] || printf '%s ' $node; done";
        assert_eq!(
            host.script(nodes),
            "/dev/full /dev/null /dev/ptmx /dev/random /dev/tty /dev/urandom /dev/zero "
        );
        let (_, told) = host.fails(&["exec", "w", "--", "mknod", "node", "c", "1", "3"]);
        assert!(told.contains("not permitted") || told.contains("denied"), "{told}");
    });
}

#[test]
fn i_29_the_system_is_read_only() {
    check_served(|host| {
        let script = "for place in / /usr /etc /bin /lib /dev /var /root /sys /opt /mnt; do
            touch $place/probe 2>/dev/null && echo $place; done; true";
        assert_eq!(host.script(script), "");
    });
}

#[test]
fn i_33_nothing_of_the_host_beyond_the_image_shows() {
    check_served(|host| {
        assert_eq!(
            host.script("ls /home /root /srv /mnt /var/lib /var/log | grep -v :$ | tr -d '\\n'"),
            "agent"
        );
        assert_eq!(host.script("cut -d: -f1 /etc/passwd | tr '\\n' ' '"), "root agent nobody ");
        assert_eq!(
            host.script("ls /etc | grep -cE '^(shadow|gshadow|machine-id|hosts.allow|fstab|ssh)$' || true")
                .trim(),
            "0"
        );
        let environment =
            host.script("env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'");
        let place = host.state().display().to_string();
        for secret in ["canary-of-the-host", place.as_str()] {
            assert!(!environment.contains(secret), "{secret} shows: {environment}");
        }
    });
}

#[test]
fn i_17_what_a_sandbox_writes_is_out_of_reach_for_users_of_the_machine() {
    check_served(|host| {
        host.script("cp /bin/true program && chmod 4777 program && ls program");
        if host.mode != Mode::Root {
            return report("a stranger at the state directory: needs root and an ordinary user");
        }
        for place in ["workspaces", "volumes", "journals", "audit", "trash"] {
            let mut stranger = std::process::Command::new("ls");
            let stranger = std::os::unix::process::CommandExt::uid(&mut stranger, crate::host::NOBODY);
            let output = stranger.arg(host.state().join(place)).output().expect("ls");
            assert!(
                !output.status.success() && text(&output.stderr).contains("denied"),
                "{place}: {output:?}"
            );
        }
    });
}

#[test]
fn i_35_facts_that_identify_the_host_are_not_shown() {
    check_served(|host| {
        assert_eq!(host.script("hostname || cat /proc/sys/kernel/hostname"), "hands\n");
        assert_eq!(
            host.script("cat /proc/cmdline /proc/keys /proc/kallsyms /proc/modules 2>/dev/null | wc -c")
                .trim(),
            "0"
        );
    });
}

#[test]
fn i_23_init_is_out_of_reach() {
    check_served(|host| {
        // Under the same uid the call succeeds, and the kernel keeps the signal from a PID 1 that is asked from inside.
        let script =
            "kill -9 1 2>/dev/null; cat /proc/1/environ /proc/1/maps /proc/1/mem 2>/dev/null | wc -c";
        assert_eq!(host.script(script).trim(), "0");
        // Everything that it may signal is its own.
        host.output(&["exec", "w", "--", "sh", "-c", "kill -9 -1"]);
        assert_eq!(host.script("echo alive"), "alive\n");
    });
}

#[test]
fn i_15_no_namespace_can_be_made() {
    check_served(|host| {
        for command in ["unshare -U true", "unshare -m true", "unshare -n true", "nsenter -t $$ -u true"] {
            let output = host.output(&["exec", "w", "--", "sh", "-c", command]);
            assert!(!output.status.success(), "{command}");
        }
    });
}

#[test]
fn i_08_sockets_of_four_families_only() {
    if !has("python3") {
        return;
    }
    check_served(|host| {
        let script = "import socket
for family in range(46):
    for kind in (1, 2, 3):
        try: socket.socket(family, kind, 0); print(family, kind, sep='/', end=' ')
        except OSError: pass";
        let opened = host.ok(&["exec", "w", "--", "python3", "-c", script]);
        let families: std::collections::BTreeSet<&str> =
            opened.split_whitespace().filter_map(|pair| pair.split('/').next()).collect();
        assert_eq!(families.into_iter().collect::<Vec<_>>(), ["1", "10", "16", "2"], "{opened}");
        assert!(!opened.contains("2/3") && !opened.contains("10/3"), "raw sockets: {opened}");
    });
}

#[test]
fn the_network_is_loopback_and_nothing_else() {
    check_served(|host| {
        let devices = host.script("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' \\n'");
        assert_eq!(devices, "lo");
        assert_eq!(host.script("tail -n +2 /proc/net/route"), "", "a route to somewhere");
    });
}

#[test]
fn tools_of_the_host_work() {
    check_served(|host| {
        let tools = [
            (
                "git",
                "git init -q g && cd g && git -c user.name=a -c user.email=a@example.com commit -q --allow-empty -m x && git log --oneline | wc -l",
                "1",
            ),
            (
                "python3",
                "python3 -c 'import threading, ssl, sqlite3, multiprocessing as m; print(sum(m.Pool(2).map(abs, [-1, 2])))'",
                "3",
            ),
            ("node", "node -e 'setTimeout(() => console.log(1 + 1), 1)'", "2"),
            ("gcc", "printf 'int main(void){return 0;}' > a.c && gcc a.c -o a && ./a && echo built", "built"),
            ("curl", "curl --version | head -c 4", "curl"),
            ("bash", "bash -c 'cat <(echo substituted)'", "substituted"),
        ];
        for (tool, script, expected) in tools {
            if has(tool) {
                assert_eq!(host.script(script).trim(), expected, "{tool}");
            }
        }
        if host.script("command -v cargo || true").is_empty() {
            report("cargo: this user has no tool chain that can be shown");
        } else {
            host.script("cargo new -q --vcs none hello && cd hello && cargo run -q --offline");
        }
    });
}

/// Makes a workspace whose policy has these process rights.
fn with_rights(host: &crate::host::Host, key: &str, rights: &str) {
    let policy = host.write("rights.yaml", &format!("version: 1\nprocess: {{ {rights} }}\n"));
    host.ok(&["create", key, "--policy", policy.to_str().expect("text")]);
}

#[test]
fn i_13_a_command_traces_only_where_the_policy_says_so() {
    if !has("python3") {
        return;
    }
    check_served(|host| {
        with_rights(host, "debug", "ptrace: true");
        // PTRACE_ATTACH to a child, and to the keeper, which is in nobody's reach.
        let script = "import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
child = os.fork()
if child == 0:
    import signal; signal.pause()
for pid in (child, os.getppid(), 1):
    print(libc.ptrace(16, pid, 0, 0), end=' ')
os.kill(child, 9)";
        let told = |key| host.ok(&["exec", key, "--", "python3", "-c", script]);
        assert_eq!(told("w").trim(), "-1 -1 -1");
        assert_eq!(told("debug").trim(), "0 -1 -1", "{:?}", host.mode);
    });
}

#[test]
fn i_10_ordinary_tools_work_under_the_strict_profile() {
    check_served(|host| {
        with_rights(host, "strict", "seccomp: strict");
        let tools = [
            ("bash", "bash -c 'cat <(echo a | tr a b)'", "b"),
            (
                "git",
                "git init -q g && cd g && git -c user.name=a -c user.email=a@example.com commit -q --allow-empty -m x && git log --oneline | wc -l",
                "1",
            ),
            (
                "python3",
                "python3 -c 'import threading, ssl, sqlite3, multiprocessing as m; print(sum(m.Pool(2).map(abs, [-1, 2])))'",
                "3",
            ),
            ("node", "node -e 'setTimeout(() => console.log(1 + 1), 1)'", "2"),
        ];
        for (tool, script, expected) in tools {
            if has(tool) {
                assert_eq!(host.ok(&["exec", "strict", "--", "sh", "-c", script]).trim(), expected, "{tool}");
            }
        }
    });
}

#[test]
fn i_21_two_workspaces_share_nothing() {
    check_served(|host| {
        host.ok(&["create", "other"]);
        host.script("echo mine > /tmp/file; echo mine > /dev/shm/file; echo mine > file");
        let seen = host.ok(&[
            "exec",
            "other",
            "--",
            "sh",
            "-c",
            "ls /tmp /dev/shm /workspace /home/agent; ps -e 2>/dev/null | wc -l",
        ]);
        assert!(!seen.contains("file"), "{seen}");
    });
}

#[test]
fn r_13_a_limit_that_cannot_be_held_is_an_error_and_one_that_can_is_held() {
    check_served(|host| {
        let policy =
            host.write("limits.yaml", "version: 1\nlimits: { memory: 64MiB, processes: 40, tmp: 1MiB }\n");
        let policy = policy.to_str().expect("text");
        let created = host.output(&["create", "small", "--policy", policy]);
        if !created.status.success() {
            let told = text(&created.stderr);
            assert!(host.mode == Mode::Rootless && told.contains("memory can't be limited here"), "{told}");
            return report("memory limits: no delegated cgroup here");
        }
        if has("python3") {
            let eat = "b = bytearray(200 << 20)";
            let output = host.output(&["exec", "small", "--", "python3", "-c", eat]);
            assert_eq!(output.status.code(), Some(128 + 9));
            assert!(text(&output.stderr).contains("memory limit"), "r_03: {}", text(&output.stderr));
        }
        let output = host.output(&[
            "exec",
            "small",
            "--",
            "sh",
            "-c",
            "(for i in $(seq 60); do sleep 100 & done; wait); kill -9 -1; exit 1",
        ]);
        assert!(!output.status.success() && text(&output.stderr).to_lowercase().contains("fork"), "r_01");
        // Another one, since what the loop has left behind is not gone at once.
        host.ok(&["create", "fresh", "--policy", policy]);
        let output =
            host.output(&["exec", "fresh", "--", "sh", "-c", "head -c 2000000 /dev/zero > /tmp/big"]);
        assert!(text(&output.stderr).contains("No space left"), "r_05: {}", text(&output.stderr));
    });
}
