//! stub
fn main() -> std::process::ExitCode {
    hands::cli::main()
}
