//! What a policy grants a workspace's processes: amounts and rights.

use std::fmt;
use std::time::Duration;

/// Upper bounds of a workspace; `None` leaves the operator's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// CPU time in thousandths of a core.
    pub cpus: Option<u32>,
    /// Processes and threads.
    pub processes: Option<u64>,
    /// Disk space in bytes.
    pub disk: Option<u64>,
    /// Kept output of one command, in bytes.
    pub output: Option<u64>,
    /// Time without a running command or call after which the workspace stops.
    pub idle: Option<Duration>,
    /// Open files of one process.
    pub open_files: Option<u64>,
    /// Size of `/tmp` in bytes.
    pub tmp: Option<u64>,
    /// Longest run of one command.
    pub wall_clock: Option<Duration>,
}

/// Rights of a workspace's processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessRights {
    /// The user that commands run as; only `agent`.
    pub user: String,
    /// The system call profile: `default`, `strict`, or `debug` if commands may trace.
    pub seccomp: String,
    /// Whether commands may trace each other.
    pub ptrace: bool,
}

impl Default for ProcessRights {
    fn default() -> Self {
        Self { user: "agent".to_owned(), seccomp: "default".to_owned(), ptrace: false }
    }
}

/// Why a text is no amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// No size.
    #[error("no size: write a whole number with B, KiB, MiB, GiB or TiB, such as 2GiB")]
    Size,
    /// No duration.
    #[error("no duration: write a whole number with ms, s, m, h or d, such as 15m")]
    Duration,
    /// No number of cores.
    #[error("no number of cores: write a number with at most three decimals, such as 2 or 0.5")]
    Cpus,
    /// No rate.
    #[error("no rate: write a whole number up to 100000, '/', and s, min, h or d, such as 60/min")]
    Rate,
    /// No count.
    #[error("no count: write a whole number above zero")]
    Count,
}

/// How often something may happen in any span of time; prints as written in a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How often; at most 100,000.
    pub count: u32,
    /// Within how long.
    pub span: Duration,
}

const SPANS: [(&str, u64); 4] = [("s", 1), ("min", 60), ("h", 3600), ("d", 86_400)];

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = SPANS.iter().find(|(_, seconds)| *seconds == self.span.as_secs());
        write!(out, "{}/{}", self.count, span.map_or("?", |(unit, _)| unit))
    }
}

/// `60/min`.
pub(super) fn rate(text: &str) -> Result<Rate, QuantityError> {
    let (digits, unit) = text.split_once('/').ok_or(QuantityError::Rate)?;
    let seconds = SPANS.iter().find(|(name, _)| *name == unit).map(|(_, seconds)| *seconds);
    let count = whole(digits).filter(|count| (1..=100_000).contains(count));
    let count = count.and_then(|count| u32::try_from(count).ok());
    let (count, seconds) = count.zip(seconds).ok_or(QuantityError::Rate)?;
    Ok(Rate { count, span: Duration::from_secs(seconds) })
}

/// `2GiB` in bytes; a number alone is bytes. Zero is refused: no limit makes sense there.
pub(super) fn size(text: &str) -> Result<u64, QuantityError> {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0), ("", 0)];
    let split = units.iter().find_map(|&(unit, shift)| Some((text.strip_suffix(unit)?, shift)));
    let (digits, shift) = split.ok_or(QuantityError::Size)?;
    whole(digits)
        .and_then(|count| count.checked_mul(1 << shift))
        .filter(|&bytes| bytes > 0)
        .ok_or(QuantityError::Size)
}

/// `15m` as a duration.
pub(super) fn duration(text: &str) -> Result<Duration, QuantityError> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let split = units.iter().find_map(|&(unit, scale)| Some((text.strip_suffix(unit)?, scale)));
    let (digits, scale) = split.ok_or(QuantityError::Duration)?;
    whole(digits)
        .and_then(|count| count.checked_mul(scale))
        .filter(|&millis| millis > 0)
        .map(Duration::from_millis)
        .ok_or(QuantityError::Duration)
}

/// `1.5` cores as 1500 thousandths.
pub(super) fn cpus(text: &str) -> Result<u32, QuantityError> {
    let (cores, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let fraction = whole(&format!("{decimals:0<3}")).filter(|_| (1..=3).contains(&decimals.len()));
    let thousandths = |cores: u64, fraction: u64| cores.checked_mul(1000)?.checked_add(fraction);
    whole(cores)
        .zip(fraction)
        .and_then(|(cores, fraction)| u32::try_from(thousandths(cores, fraction)?).ok())
        .filter(|&millicpus| millicpus > 0)
        .ok_or(QuantityError::Cpus)
}

/// A whole number above zero.
pub(super) fn count(text: &str) -> Result<u64, QuantityError> {
    whole(text).filter(|&count| count > 0).ok_or(QuantityError::Count)
}

/// Digits only: `parse` alone would take a sign.
fn whole(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
