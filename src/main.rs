//! The program `hands`: everything is in the library, beginning with the table of verbs in `cli`.

fn main() -> std::process::ExitCode {
    hands::cli::main()
}
