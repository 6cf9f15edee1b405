//! The program `hands`: the command line, and the two programs that it may become.

use hands::cli::Programs;

fn main() -> std::process::ExitCode {
    hands::cli::main(&Programs {
        serve: hands::supervisor::serve,
        daemon: hands::daemon::main,
        doctor: hands::supervisor::doctor::report,
    })
}
