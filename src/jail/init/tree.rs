//! Reaching everything that came from a command.

use std::collections::BTreeSet;
use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Rounds of looking for children born while we signalled; a fork bomb is stopped by its limit, not by us.
const ROUNDS: usize = 16;

/// Sends a signal to a command and to all that descend from it or share its session or group.
///
/// A child that both left the session and lost its parent is not found; it ends with the workspace.
pub(super) fn signal(root: Pid, number: i32) {
    let Ok(signal) = Signal::try_from(number) else { return };
    let mut reached = BTreeSet::new();
    for _round in 0..ROUNDS {
        let fresh: Vec<i32> =
            members(root.as_raw()).into_iter().filter(|pid| !reached.contains(pid)).collect();
        if fresh.is_empty() {
            return;
        }
        for pid in fresh {
            reached.insert(pid);
            // In our own pid namespace, where we alone reap, so the number cannot have changed its owner; a process
            // that ended meanwhile is what we wanted.
            if let Err(errno) = kill(Pid::from_raw(pid), signal) {
                tracing::debug!(pid, %errno, "signal");
            }
        }
    }
}

/// A process as /proc tells it.
struct Row {
    pid: i32,
    parent: i32,
    group: i32,
    session: i32,
}

fn members(root: i32) -> BTreeSet<i32> {
    let rows: Vec<Row> = rows();
    let mut found: BTreeSet<i32> = BTreeSet::from([root]);
    loop {
        let before = found.len();
        for row in &rows {
            if found.contains(&row.parent) || row.session == root || row.group == root {
                found.insert(row.pid);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

fn rows() -> Vec<Row> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).collect()
}

/// The name stands in parentheses and may hold anything, so fields count from the last one (proc(5)).
fn parse(pid: i32, stat: &str) -> Option<Row> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(1);
    let mut next = || fields.next()?.parse().ok();
    Some(Row { pid, parent: next()?, group: next()?, session: next()? })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_hostile_process_name_does_not_move_the_fields() {
        let row = parse(7, "7 (a) R 1 1 (b) S 3 4 5 0 -1").expect("parses");
        assert_eq!((row.parent, row.group, row.session), (3, 4, 5));
    }
}
