//! What the tests stand on: a state directory, a binary that everybody may run, a supervisor that ends with the test.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid, pipe2};

/// An ordinary user for tests that root runs.
pub(crate) const NOBODY: u32 = 65_534;

/// Who runs Hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Root,
    Rootless,
}

/// Runs a test as root and as an ordinary user, as far as we may.
pub(crate) fn check(test: impl Fn(&Host)) {
    if geteuid().is_root() {
        test(&Host::new(Mode::Root));
    } else {
        report("as root: we are an ordinary user");
    }
    test(&Host::new(Mode::Rootless));
}

/// The same with a daemon that serves.
pub(crate) fn check_served(test: impl Fn(&Host)) {
    check(|host| {
        let _serving = host.serve(&[]);
        test(host);
    });
}

/// Tells what a test could not do on this host.
pub(crate) fn report(what: &str) {
    drop(writeln!(std::io::stderr().lock(), "not run: {what}"));
}

/// Whether the host has a program.
pub(crate) fn has(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).any(|path| path.join(program).is_file());
    if !found {
        report(&format!("{program}: the host has none"));
    }
    found
}

pub(crate) struct Host {
    pub(crate) mode: Mode,
    scratch: tempfile::TempDir,
    state: PathBuf,
}

/// A shell that starts us in the background has SIGINT ignored, and what we start would inherit that. A signal that is
/// caught becomes the default one again in a new program.
fn default_interrupts() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    let ignored = fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or("0");
        u64::from_str_radix(set.trim(), 16).is_ok_and(|set| set & 0b110 != 0)
    });
    ONCE.call_once(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let _entered = runtime.enter();
        for kind in [tokio::signal::unix::SignalKind::interrupt(), tokio::signal::unix::SignalKind::quit()] {
            if ignored {
                drop(tokio::signal::unix::signal(kind).expect("catch"));
            }
        }
    });
}

impl Host {
    pub(crate) fn new(mode: Mode) -> Self {
        default_interrupts();
        let scratch = tempfile::Builder::new().prefix("hands-").tempdir().expect("scratch directory");
        fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o755)).expect("mode");
        let program = Path::new(env!("CARGO_BIN_EXE_hands"));
        let copy = scratch.path().join("hands");
        if fs::hard_link(program, &copy).is_err() {
            fs::copy(program, &copy).expect("copy of the binary");
        }
        let own = scratch.path().join("own");
        fs::create_dir(&own).expect("directory");
        if mode == Mode::Rootless && geteuid().is_root() {
            std::os::unix::fs::chown(&own, Some(NOBODY), Some(NOBODY)).expect("chown");
        }
        let state = own.join("state");
        Self { mode, scratch, state }
    }

    /// A directory of the user who runs Hands.
    pub(crate) fn own(&self) -> PathBuf {
        self.scratch.path().join("own")
    }

    /// Where daemons write their logs.
    pub(crate) fn log(&self) -> PathBuf {
        self.scratch.path().join("log")
    }

    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.state.join("hands.sock")
    }

    /// A file of the user who runs Hands.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.own().join(name);
        fs::write(&path, text).expect("write");
        if self.mode == Mode::Rootless && geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).expect("chown");
        }
        path
    }

    /// A command of the user who runs Hands.
    pub(crate) fn as_user(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("HOME", self.own())
            .env("HANDS_STATE_DIR", &self.state)
            .env("HANDS_CANARY", "canary-of-the-host");
        command.env_remove("XDG_DATA_HOME").env_remove("XDG_CONFIG_HOME").current_dir("/");
        if self.mode == Mode::Rootless && geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.scratch.path().join("hands")
    }

    pub(crate) fn hands<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = self.as_user(self.program());
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs `hands` to its end.
    pub(crate) fn output<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Output {
        self.hands(arguments).output().expect("hands")
    }

    /// What a shell script in workspace `w` of the running daemon prints; it must succeed.
    pub(crate) fn script(&self, script: &str) -> String {
        let output = self.output(&["exec", "w", "--", "sh", "-c", script]);
        assert!(output.status.success(), "{:?}: {script}: {}", self.mode, text(&output.stderr));
        text(&output.stdout)
    }

    /// What `hands` prints; it must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(output.status.success(), "{:?}: {arguments:?}: {}", self.mode, text(&output.stderr));
        text(&output.stdout)
    }

    /// A failure: its exit code and the one line that says why.
    pub(crate) fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.output(arguments);
        let told = text(&output.stderr);
        assert!(!output.status.success(), "{:?}: {arguments:?} succeeded", self.mode);
        assert_eq!(told.trim_end().lines().count(), 1, "{arguments:?}: more than one line: {told}");
        (output.status.code().unwrap_or(-1), told)
    }

    /// Starts `hands serve` and workspace `w` in it.
    pub(crate) fn serve(&self, arguments: &[&str]) -> Serving {
        let serving = Serving::start(self, arguments).expect("serve");
        self.ok(&["create", "w"]);
        serving
    }
}

/// A running `hands serve`; it is gone, with everything that it made, when this is.
pub(crate) struct Serving {
    pub(crate) child: Child,
    lifeline: Option<OwnedFd>,
}

impl Serving {
    /// Returns when it serves, or with the line that says why it does not.
    pub(crate) fn start(host: &Host, arguments: &[&str]) -> Result<Self, String> {
        let (held, lifeline) = pipe2(OFlag::O_CLOEXEC).expect("pipe");
        let (told, ready) = pipe2(OFlag::O_CLOEXEC).expect("pipe");
        for inherited in [&held, &ready] {
            fcntl(inherited, FcntlArg::F_SETFD(FdFlag::empty())).expect("inherit");
        }
        let errors = fs::File::options().create(true).append(true).open(host.log()).expect("log");
        let mut command = host.hands(&["serve"]);
        command.args(arguments).stderr(errors).env("HANDS_LOG", "debug");
        command.arg("--lifeline").arg(held.as_raw_fd().to_string());
        command.arg("--ready").arg(ready.as_raw_fd().to_string());
        let child = command.spawn().expect("hands serve");
        drop((held, ready));
        let mut line = String::new();
        BufReader::new(fs::File::from(told)).read_line(&mut line).expect("ready line");
        let mut serving = Self { child, lifeline: Some(lifeline) };
        match line.as_str() {
            "ok\n" => Ok(serving),
            problem => {
                serving.end();
                Err(problem.to_owned())
            }
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("pid"))
    }

    /// The process of the daemon now.
    pub(crate) fn daemon(&self) -> Option<Pid> {
        children(self.pid()).into_iter().find(|child| {
            let line = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            line.starts_with(b"hands\0daemon")
        })
    }

    /// Kills the daemon and returns when another one serves.
    pub(crate) fn kill_daemon(&self, host: &Host) {
        kill(self.daemon().expect("daemon"), Signal::SIGKILL).expect("kill");
        // The socket stays open all the while: the call waits for the next daemon.
        while !host.output(&["ls"]).status.success() {}
    }

    /// Asks for the end and waits for it.
    pub(crate) fn end(&mut self) {
        self.lifeline = None;
        self.child.wait().expect("end");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.end();
    }
}

/// Processes whose parent is `pid`.
pub(crate) fn children(pid: Pid) -> Vec<Pid> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).map(Pid::from_raw).collect()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An HTTPS upstream on loopback that wants a token; see `tests/demo/origin.rs`.
pub(crate) struct Origin {
    child: Child,
    pub(crate) port: u16,
    seen: PathBuf,
    directory: tempfile::TempDir,
}

impl Origin {
    pub(crate) const NAME: &'static str = "api.example.com";

    pub(crate) fn program() -> PathBuf {
        Path::new(env!("CARGO_BIN_EXE_hands")).with_file_name("examples").join("origin")
    }

    pub(crate) fn start() -> Self {
        Self::start_with(&mut Command::new(Self::program()))
    }

    /// The same from another program that behaves like it.
    pub(crate) fn start_with(program: &mut Command) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).expect("mode");
        let (authority, seen) = (directory.path().join("ca.pem"), directory.path().join("seen"));
        let mut child = program
            .arg(Self::NAME)
            .args([&authority, &seen])
            .stdout(Stdio::piped())
            .spawn()
            .expect("origin; `cargo test` builds it");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut line).expect("port");
        Self { child, port: line.trim().parse().expect("port"), seen, directory }
    }

    /// The certificate of the authority that vouches for it.
    pub(crate) fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Everything that it was sent.
    pub(crate) fn seen(&self) -> String {
        fs::read_to_string(&self.seen).expect("seen")
    }

    /// The operator's documents for it: configuration, policy.
    pub(crate) fn documents(&self, host: &Host, token: &str) -> (PathBuf, PathBuf) {
        let (port, name) = (self.port, Self::NAME);
        let secret = host.write("token", token);
        fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).expect("mode");
        host.write(
            "credentials.yaml",
            &format!(
                "version: 1\ncredentials:\n  - {{ name: api-token, kind: bearer, source: {{ file: {} }}, \
                 hosts: [{name}], ports: [{port}], env: API_TOKEN }}\n",
                secret.display()
            ),
        );
        let authority = self.authority();
        let config = host.write(
            "hands.toml",
            &format!(
                "credentials = 'credentials.yaml'\n[egress]\nroots = ['{}']\nhost_services = ['127.0.0.1:{port}']\n\
                 hosts = {{ '{name}' = '127.0.0.1' }}\n",
                authority.display()
            ),
        );
        let policy = host.write(
            "policy.yaml",
            &format!(
                "version: 1\negress:\n  rules:\n    - {{ name: api-read, hosts: [{name}], ports: [{port}], \
                 methods: [GET, POST], paths: ['/v1/**', '/stream/*', '/echo'], credential: api-token }}\n"
            ),
        );
        (config, policy)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

/// Reads one line from a child's stdout: the moment it has come that far.
pub(crate) fn line_of(child: &mut Child) -> String {
    let mut line = Vec::new();
    let stdout = child.stdout.as_mut().expect("piped");
    let mut byte = [0_u8];
    while line.last() != Some(&b'\n') && stdout.read(&mut byte).expect("read") == 1 {
        line.push(byte[0]);
    }
    text(&line)
}
