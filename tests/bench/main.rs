//! What Hands costs, as ratios beside a peer and the plain kernel calls, interleaved in one run.
//!
//! `cargo bench` runs all; `cargo bench -- jail` or `-- egress` one of them. Medians over rounds; only the ratios mean
//! anything, and only within one table.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark tells what it measured")]

mod egress;
#[path = "../integration/host.rs"]
#[expect(dead_code, reason = "shared with the tests, which use all of it")]
mod host;
mod jail;
mod load;
#[path = "../demo/origin.rs"]
mod origin;

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

type Failure = Box<dyn Error + Send + Sync>;

/// Set for copies of this program that play another part: `origin` or `load`.
const ROLE: &str = "HANDS_BENCH_ROLE";

fn main() -> ExitCode {
    let done = match std::env::var(ROLE).as_deref() {
        Ok("origin") => origin::main(),
        Ok("load") => load::main(),
        _ => benchmarks(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn benchmarks() -> Result<(), Failure> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    if wants("jail") {
        jail::run()?;
    }
    if wants("egress") {
        egress::run()?;
    }
    Ok(())
}

/// Measurements of one thing.
struct Series {
    name: &'static str,
    taken: Vec<Duration>,
}

impl Series {
    fn new(name: &'static str) -> Self {
        Self { name, taken: Vec::new() }
    }

    fn time<T>(&mut self, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let begun = Instant::now();
        let done = work()?;
        self.taken.push(begun.elapsed());
        Ok(done)
    }

    /// The value below which this part of the measurements lies.
    fn at(&self, part: f64) -> Duration {
        let mut sorted = self.taken.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted.get((last as f64 * part).round() as usize).copied().unwrap_or_default()
    }

    fn median(&self) -> Duration {
        self.at(0.5)
    }
}

/// Prints a table of times and their ratios to the first two rows that were measured.
fn print(title: &str, series: &[Series]) {
    let measured: Vec<&Series> = series.iter().filter(|series| !series.taken.is_empty()).collect();
    let bases: Vec<&&Series> = measured.iter().take(2).collect();
    let heads: String = bases.iter().map(|base| format!("  x {}", base.name)).collect();
    println!("\n{title}\n{:<44} {:>9} {:>9} {:>6}{heads}", "", "p50 ms", "p95 ms", "n");
    for row in &measured {
        let ratio = |base: &&&Series| {
            let ratio = row.median().as_secs_f64() / base.median().as_secs_f64();
            format!("  {ratio:>width$.2}", width = base.name.len() + 2)
        };
        let ratios: String = bases.iter().map(ratio).collect();
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        let (median, slow) = (milliseconds(row.median()), milliseconds(row.at(0.95)));
        println!("{:<44} {median:>9.3} {slow:>9.3} {:>6}{ratios}", row.name, row.taken.len());
    }
}
