//! The command line: one file per verb, this table, and what verbs share.

mod attach;
mod audit;
mod cp;
mod create;
mod doctor;
mod egress;
mod exec;
mod inspect;
mod kill;
mod local;
mod logs;
mod ls;
mod pause;
mod policy;
mod ps;
mod resume;
mod rm;
mod run;
mod serve;
mod show;
mod start;
mod stop;
mod terminal;
mod tool;

use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};

use crate::api::client::{Client, Status};
use crate::config::ServeOptions;
use crate::jail::finding::Finding;

/// Exit code of a failure of our own in `run` and `exec`, as env(1) has it.
const OUR_FAILURE: u8 = 125;

/// Hands: sandboxes for AI agents, with one inspected way out.
#[derive(Debug, Parser)]
#[command(name = "hands", version, max_term_width = 100)]
struct Line {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb understands.
#[derive(Clone, Debug, clap::Args)]
struct Shared {
    /// Where everything that lasts is kept [default: /var/lib/hands as root, else ~/.local/share/hands]
    #[arg(long, global = true, env = "HANDS_STATE_DIR", value_name = "DIRECTORY")]
    state_dir: Option<PathBuf>,
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(run::Run),
    Serve(serve::Serve),
    Create(create::Create),
    Start(start::Start),
    Stop(stop::Stop),
    Pause(pause::Pause),
    Resume(resume::Resume),
    Exec(exec::Exec),
    Ls(ls::Ls),
    Inspect(inspect::Inspect),
    Ps(ps::Ps),
    Logs(logs::Logs),
    Kill(kill::Kill),
    Rm(rm::Rm),
    Cp(cp::Cp),
    Tool(tool::Tool),
    Policy(policy::Policy),
    Egress(egress::Egress),
    Audit(audit::Audit),
    Doctor(doctor::Doctor),
    /// What `serve` starts; not for people
    #[command(hide = true)]
    Daemon,
}

/// The other programs in this binary, which `main` knows and the command line does not.
#[derive(Clone, Copy, Debug)]
pub struct Programs {
    /// The supervisor.
    pub serve: fn(&ServeOptions) -> ExitCode,
    /// The daemon.
    pub daemon: fn() -> ExitCode,
    /// What this machine can enforce, for a state directory.
    pub doctor: fn(&Path) -> Vec<Finding>,
}

/// Parses the command line and does what it says.
#[must_use]
pub fn main(programs: &Programs) -> ExitCode {
    let line = Line::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("HANDS_LOG")
        .unwrap_or_else(|_unset| tracing_subscriber::EnvFilter::new("warn"));
    let color = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(color).with_writer(std::io::stderr).init();
    let shared = &line.shared;
    let (done, failure) = match line.verb {
        Verb::Serve(verb) => return verb.run(shared, programs),
        Verb::Daemon => return (programs.daemon)(),
        Verb::Run(verb) => (verb.run(shared), OUR_FAILURE),
        Verb::Exec(verb) => (verb.run(shared), OUR_FAILURE),
        Verb::Create(verb) => (verb.run(shared), 1),
        Verb::Start(verb) => (verb.run(shared), 1),
        Verb::Stop(verb) => (verb.run(shared), 1),
        Verb::Pause(verb) => (verb.run(shared), 1),
        Verb::Resume(verb) => (verb.run(shared), 1),
        Verb::Ls(verb) => (verb.run(shared), 1),
        Verb::Inspect(verb) => (verb.run(shared), 1),
        Verb::Ps(verb) => (verb.run(shared), 1),
        Verb::Logs(verb) => (verb.run(shared), 1),
        Verb::Kill(verb) => (verb.run(shared), 1),
        Verb::Rm(verb) => (verb.run(shared), 1),
        Verb::Cp(verb) => (verb.run(shared), 1),
        Verb::Tool(verb) => (verb.run(shared), 1),
        Verb::Policy(verb) => (verb.run(shared), 1),
        Verb::Egress(verb) => (verb.run(shared), 1),
        Verb::Audit(verb) => (verb.run(shared), 1),
        Verb::Doctor(verb) => (verb.run(shared, programs), 1),
    };
    done.unwrap_or_else(|error| ExitCode::from(report(&error, failure)))
}

/// One line on stderr; the exit code that env(1) would give where a program could not be run.
fn report(error: &anyhow::Error, otherwise: u8) -> u8 {
    if is_broken_pipe(error) {
        return 128 + libc::SIGPIPE as u8;
    }
    let text = match error.downcast_ref::<Status>() {
        Some(status) => status.message().to_owned(),
        None => format!("{error:#}"),
    };
    tell(&format!("hands: {text}"));
    match error.downcast_ref::<run::NotRun>() {
        Some(run::NotRun { found: true, .. }) => 126,
        Some(run::NotRun { found: false, .. }) => 127,
        None => otherwise,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::BrokenPipe)
}

/// A line on stderr. If nobody reads it any more there is nobody to tell.
fn tell(line: &str) {
    drop(writeln!(std::io::stderr().lock(), "{}", show::printable(line)));
}

impl Shared {
    fn state_dir(&self) -> Result<PathBuf> {
        if let Some(given) = &self.state_dir {
            return Ok(std::path::absolute(given)?);
        }
        if nix::unistd::geteuid().is_root() {
            return Ok(PathBuf::from("/var/lib/hands"));
        }
        let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share"));
        let base =
            data.or_else(home).context("state directory: HOME is not set: name one with --state-dir")?;
        Ok(base.join("hands"))
    }

    fn socket(&self) -> Result<PathBuf> {
        Ok(self.state_dir()?.join(crate::config::SOCKET))
    }

    async fn connect(&self) -> Result<Client> {
        let socket = self.socket()?;
        Client::connect(&socket).await.map_err(|error| {
            anyhow::anyhow!("no daemon answers: {}: {error}: start one with `hands serve`", socket.display())
        })
    }
}

/// Runs a verb that talks to the daemon. What still waits for its input when the verb is done is abandoned.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}
