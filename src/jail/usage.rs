//! What a workspace uses now and has used at most, as its cgroups count it, on version 1 and version 2.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Where a figure stands: its name, the file, the word before it if the file has several, what to divide by.
const FIGURES: &[(&str, &str, &str, u64)] = &[
    ("memory", "memory.current", "", 1),
    ("memory", "memory.usage_in_bytes", "", 1),
    ("memory_peak", "memory.peak", "", 1),
    ("memory_peak", "memory.max_usage_in_bytes", "", 1),
    ("memory_kills", "memory.events", "oom_kill", 1),
    ("memory_kills", "memory.oom_control", "oom_kill", 1),
    ("processes", "pids.current", "", 1),
    ("processes_peak", "pids.peak", "", 1),
    ("cpu_microseconds", "cpu.stat", "usage_usec", 1),
    ("cpu_microseconds", "cpuacct.usage", "", 1000),
];

/// Every figure that the kernel has for a workspace with these groups; none without cgroups.
#[must_use]
pub fn read(groups: &[PathBuf]) -> BTreeMap<String, u64> {
    let mut usage = BTreeMap::new();
    for group in groups {
        for (name, file, word, divisor) in FIGURES {
            if let Some(figure) = figure(group, file, word) {
                usage.insert((*name).to_owned(), figure / divisor);
            }
        }
    }
    usage
}

fn figure(group: &Path, file: &str, word: &str) -> Option<u64> {
    let text = fs::read_to_string(group.join(file)).ok()?;
    text.lines().find_map(|line| line.strip_prefix(word)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::{figure, read};

    #[test]
    fn r_14_figures_are_found_by_file_and_word_in_either_version() {
        let directory = tempfile::tempdir().expect("directory");
        let write =
            |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("write");
        write("memory.current", "4096\n");
        write("memory.events", "oom 3\noom_kill 2\noom_group_kill 0\n");
        write("cpuacct.usage", "5000000\n");
        write("pids.current", "nonsense\n");
        let usage = read(&[directory.path().to_path_buf()]);
        assert_eq!(
            usage.into_iter().collect::<Vec<_>>(),
            [("cpu_microseconds".into(), 5000), ("memory".into(), 4096), ("memory_kills".into(), 2)]
        );
        assert_eq!(figure(directory.path(), "absent", ""), None);
    }
}
