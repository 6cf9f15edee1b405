//! What survives what: the daemon's death, the supervisor's death, a stop, a signal at any moment.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use crate::host::{
    Host, Mode, NOBODY, Origin, Serving, check, check_served, children, line_of, report, text,
};

#[test]
fn l_01_the_daemon_killed_under_load_loses_nothing() {
    let origin = Origin::start();
    check(|host| {
        let (config, policy) = origin.documents(host, "token-of-the-operator");
        let serving = host.serve(&["--config", config.to_str().expect("text")]);
        host.ok(&["create", "net", "--policy", policy.to_str().expect("text")]);
        let counter = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo $i; done; cat go; echo end";
        host.script("mkfifo go");
        let mut counting = host
            .hands(&["exec", "w", "--", "sh", "-c", counter])
            .stdout(Stdio::piped())
            .spawn()
            .expect("exec");
        assert_eq!(line_of(&mut counting), "1\n");
        serving.kill_daemon(host);
        // Served at once, and the workspace with its commands is the same.
        assert_eq!(host.script("ls go"), "go\n");
        serving.kill_daemon(host);
        download(host, &origin);
        host.script("echo gone-on > go");
        let output = counting.wait_with_output().expect("wait");
        let expected: String =
            (2..=20000).map(|n| format!("{n}\n")).chain(["gone-on\nend\n".to_owned()]).collect();
        assert!(output.status.success());
        assert!(
            text(&output.stdout) == expected,
            "{:?}: the counter is not complete or not in order",
            host.mode
        );
    });
}

/// The workspace's authority, names and placeholders are those of before.
fn download(host: &Host, origin: &Origin) {
    let url = format!("https://{}:{}/stream/3000000", Origin::NAME, origin.port);
    let output = host.output(&["exec", "net", "--", "sh", "-c", &format!("curl -sS {url} | wc -c")]);
    assert_eq!(text(&output.stdout).trim(), "3000000", "{}", text(&output.stderr));
}

#[test]
fn l_03_if_the_supervisor_dies_everything_ends_and_is_told_as_lost() {
    check(|host| {
        let mut serving = host.serve(&[]);
        let script = "echo started; exec sleep 1000";
        let mut running = host
            .hands(&["exec", "w", "--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("exec");
        assert_eq!(line_of(&mut running), "started\n");
        let below = children(serving.pid());
        kill(serving.pid(), Signal::SIGKILL).expect("kill");
        serving.child.wait().expect("wait");
        for child in below {
            while kill(child, None).is_ok() && !is_zombie(child) {}
        }
        running.kill().expect("kill");
        running.wait().expect("wait");
        drop(serving);
        let _serving = Serving::start(host, &[]).expect("serve again");
        let views = crate::api::processes(host, "w");
        let lost = views.iter().any(|process| {
            process.exit.is_some_and(|exit| exit.cause() == hands::api::proto::ExitCause::Lost)
        });
        assert!(lost, "{views:?}");
    });
}

fn is_zombie(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn l_10_a_stop_keeps_files_drops_tmp_and_counts_starts() {
    check(|host| {
        host.ok(&["run", "--workspace", "w", "--", "sh", "-c", "echo kept > file; echo dropped > /tmp/file"]);
        let _serving = host.serve(&[]);
        assert_eq!(host.script("cat file; ls /tmp"), "kept\n");
        assert!(host.ok(&["ls", "-o", "json"]).contains("\"generation\": 2"));
    });
}

#[test]
fn sigterm_leaves_no_process_mount_cgroup_socket_or_lock() {
    check(|host| {
        let before = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let mut serving = host.serve(&[]);
        let script =
            "trap '' TERM; setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' & echo started; wait";
        let mut running = host
            .hands(&["exec", "w", "--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("exec");
        assert_eq!(line_of(&mut running), "started\n");
        let below = children(serving.pid());
        assert!(below.len() >= 2, "daemon and init");
        kill(serving.pid(), Signal::SIGTERM).expect("kill");
        serving.child.wait().expect("wait");
        running.wait().expect("wait");
        for child in below {
            assert!(kill(child, None).is_err(), "{child} is left");
        }
        for name in ["hands.sock", "lock"] {
            assert!(!host.state().join(name).exists(), "{name} is left");
        }
        assert_eq!(fs::read_to_string("/proc/self/mountinfo").expect("mounts"), before);
        assert_eq!(cgroups(host), Vec::<String>::new());
    });
}

/// Groups of this installation, whose name is the checksum of its state directory.
fn cgroups(host: &Host) -> Vec<String> {
    use std::os::unix::ffi::OsStrExt;
    let name = format!("hands-{:08x}", crc32fast::hash(host.state().as_os_str().as_bytes()));
    let mut queue = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    let mut found = Vec::new();
    while let Some(directory) = queue.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_name() == name.as_str() {
                found.push(entry.path().display().to_string());
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                queue.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn l_07_a_start_that_fails_leaves_nothing() {
    check(|host| {
        let config = host.write("hands.toml", "[egress]\nresolver = 'no address'\n");
        let told =
            Serving::start(host, &["--config", config.to_str().expect("text")]).err().expect("refused");
        assert!(told.contains("hands.toml: line 2, column 12: ") && told.contains("address"), "{told}");
        // One that only the daemon can find: its database is none.
        host.ok(&["run", "--", "true"]);
        for rest in ["state.db-wal", "state.db-shm"] {
            // What a daemon that was killed left to be recovered from.
            drop(fs::remove_file(host.state().join(rest)));
        }
        fs::write(host.state().join("state.db"), "not a database, but long enough to be looked at")
            .expect("write");
        let (code, told) = host.fails(&["run", "--", "true"]);
        assert!(code == 125 && told.contains("database"), "{told}");
        assert_eq!(cgroups(host), Vec::<String>::new());
        assert!(!host.state().join("lock").exists());
    });
}

#[test]
fn a_second_daemon_on_the_same_state_is_refused() {
    check_served(|host| {
        let told = Serving::start(host, &[]).err().expect("refused");
        assert!(told.contains("state directory in use") && told.contains("stop that one"), "{told}");
    });
}

#[test]
fn a_foreign_state_directory_and_a_long_path_are_refused_with_the_remedy() {
    check(|host| {
        fs::create_dir(host.state()).expect("mkdir");
        let theirs = if host.mode == Mode::Root { NOBODY } else { 0 };
        if geteuid().is_root() {
            std::os::unix::fs::chown(host.state(), Some(theirs), Some(theirs)).expect("chown");
            let (code, told) = host.fails(&["run", "--", "true"]);
            assert!(code == 125 && told.contains(&format!("belongs to uid {theirs}")), "{told}");
        } else {
            report("a state directory of somebody else: we can't make one");
        }
        let long = host.own().join("x".repeat(120));
        let (code, told) = host.fails(&["run", "--state-dir", long.to_str().expect("text"), "--", "true"]);
        assert!(code == 125 && told.contains("socket path too long"), "{told}");
    });
}

#[test]
fn ctrl_c_at_any_moment_leaves_nothing() {
    check(|host| {
        for moment in 0..12_u64 {
            let mut child = host
                .hands(&["run", "--", "sh", "-c", "exec sleep 1000"])
                .stderr(Stdio::null())
                .spawn()
                .expect("run");
            let pid = Pid::from_raw(child.id().try_into().expect("pid"));
            // Not a wait for something: the moment is what is tried.
            for _ in 0..moment * 4000 {
                std::thread::yield_now();
            }
            kill(pid, Signal::SIGINT).expect("kill");
            child.wait().expect("wait");
            // The supervisor outlives a `run` that was killed before it could wait; the lock says when it is gone.
            let lock = host.state().join("lock");
            while lock.exists() {
                std::thread::yield_now();
            }
        }
        assert_eq!(cgroups(host), Vec::<String>::new());
        let left = fs::read_dir(host.state().join("workspaces")).map(Iterator::count).unwrap_or(0);
        assert_eq!(left, 0, "workspaces are left");
    });
}

#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    if !geteuid().is_root() {
        return report("a full disk: making one needs root");
    }
    let host = Host::new(Mode::Root);
    fs::create_dir(host.state()).expect("mkdir");
    let _small = Tmpfs::mount(host.state());
    let _serving = host.serve(&[]);
    host.script("echo before > file");
    let (_, told) = host.fails(&["exec", "w", "--", "sh", "-c", "head -c 100000000 /dev/zero > big"]);
    assert!(told.contains("No space left"), "{told}");
    let (code, told) = host.fails(&["exec", "w", "--", "true"]);
    assert!(code == 125 && (told.contains("disk full") || told.contains("No space left")), "{told}");
    fs::remove_file(find(&host.state().join("workspaces"), "big")).expect("free the space");
    assert_eq!(host.script("cat file"), "before\n");
}

fn find(directory: &std::path::Path, name: &str) -> std::path::PathBuf {
    let mut queue = vec![directory.to_path_buf()];
    while let Some(path) = queue.pop() {
        if path.file_name().is_some_and(|found| found == name) {
            return path;
        }
        queue.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    panic!("no {name} below {}", directory.display());
}

/// A small file system that goes away with the test.
struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    fn mount(at: &std::path::Path) -> Self {
        use nix::mount::{MsFlags, mount};
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some("size=24m")).expect("tmpfs");
        fs::set_permissions(at, PermissionsExt::from_mode(0o755)).expect("mode");
        Self(at.to_path_buf())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH).expect("umount");
    }
}
