//! The README's first command, and the client in another language.

use std::path::Path;
use std::process::Command;

use crate::host::{Host, Mode, Origin, check, report, text};

fn project(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn the_main_job_is_done_by_the_demonstration() {
    check(|host| {
        let tool_chain =
            host.output(&["run", "--", "sh", "-c", "command -v cargo && command -v cc && command -v curl"]);
        if !tool_chain.status.success() {
            return report("the demonstration: this user's sandbox has no cargo, cc or curl");
        }
        let mut demo = host.as_user(project("tests/demo/run"));
        demo.env("HANDS", host.program()).env("ORIGIN", Origin::program()).env_remove("HANDS_STATE_DIR");
        let output = demo.output().expect("demonstration");
        let (told, errors) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{told}{errors}");
        for part in [
            "4 passed",
            "\"models\"",
            "no_rule_for_path",
            "Bearer <the real token>",
            "searched: not found",
            "src/main.rs",
        ] {
            assert!(told.contains(part), "{part}: {told}{errors}");
        }
        assert!(errors.contains("[egress denied: evil.example"), "{errors}");
    });
}

#[test]
fn a_python_client_reads_on_where_its_connection_broke() {
    let python = std::env::var("HANDS_TEST_PYTHON").unwrap_or_else(|_unset| "python3".into());
    let usable = Command::new(&python).args(["-c", "import grpc, grpc_tools, pytest"]).output();
    if !usable.is_ok_and(|output| output.status.success()) {
        return report("the Python client: this Python has no grpcio, grpcio-tools and pytest");
    }
    let host = Host::new(if nix::unistd::geteuid().is_root() { Mode::Root } else { Mode::Rootless });
    let mut tests = host.as_user(&python);
    tests.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]).arg(project("tests/clients/python"));
    let output = tests.env("HANDS", host.program()).output().expect("pytest");
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}
