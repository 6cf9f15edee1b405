//! The house rules: who may import whom, how large things may be, and where dangerous things stand.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rows of the architecture, highest first; the page is the doc comment of `src/lib.rs`.
const ROWS: &[&[&str]] = &[
    &["main", "cli", "daemon", "supervisor"],
    &["config"],
    &["api", "worker", "pairing"],
    &["tool"],
    &["workspace"],
    &["jail", "storage", "egress"],
    &["policy", "credential", "journal", "shutdown", "id"],
    &["sys"],
];

/// Imports within row 8: only `main` knows the other three.
const WITHIN: &[(&str, &str)] = &[("main", "cli"), ("main", "daemon"), ("main", "supervisor")];

const LONGEST_FILE: usize = 600;
const LONGEST_FUNCTION: usize = 80;

struct Source {
    path: PathBuf,
    module: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut queue = vec![root.clone()];
    while let Some(path) = queue.pop() {
        if path.is_dir() {
            queue.extend(fs::read_dir(&path).expect("src").map(|entry| entry.expect("entry").path()));
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let inside = path.strip_prefix(&root).expect("below src");
            let first = inside.components().next().expect("a name").as_os_str().to_string_lossy();
            let module = first.trim_end_matches(".rs").to_owned();
            files.push(Source { text: fs::read_to_string(&path).expect("text"), module, path });
        }
    }
    files
}

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

/// Top-level modules that a file names by `crate::` or, outside the library, `hands::`.
fn imports(source: &Source) -> BTreeSet<String> {
    let code = source.text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = code.collect::<Vec<_>>().join("\n");
    let name = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for prefix in ["crate::", "hands::"] {
        for (at, _) in code.match_indices(prefix) {
            let rest = &code[at + prefix.len()..];
            match rest.strip_prefix('{') {
                Some(list) => found
                    .extend(list.split('}').next().unwrap_or("").split(',').map(|item| name(item.trim()))),
                None => drop(found.insert(name(rest))),
            }
        }
    }
    found.retain(|module| row(module).is_some());
    found
}

#[test]
fn a_module_imports_only_from_rows_below_its_own() {
    for source in sources().iter().filter(|source| source.module != "lib") {
        let own = row(&source.module).unwrap_or_else(|| panic!("{} has no row", source.path.display()));
        for import in imports(source).into_iter().filter(|import| *import != source.module) {
            let below = row(&import).is_some_and(|row| row > own);
            let within = WITHIN.contains(&(source.module.as_str(), import.as_str()));
            assert!(below || within, "{} imports {import} from its own row or above", source.path.display());
        }
    }
}

#[test]
fn dangerous_things_stand_where_they_belong() {
    let rules: &[(&[&str], &str, &[&str])] = &[
        (&["unsafe {", "unsafe fn", "unsafe impl"], "unsafe code", &["sys"]),
        (&["libc::syscall("], "raw system calls", &["sys"]),
        (&["tonic::", "tonic_"], "gRPC", &["api"]),
        (&["tokio::spawn(", "thread::spawn("], "spawning", &["shutdown"]),
        (&["anyhow::"], "errors without a type", &["cli", "daemon", "main"]),
        (&["std::net::TcpStream", "std::net::TcpListener"], "blocking sockets", &[]),
        (&["Permit {"], "making permits", &["policy"]),
    ];
    for source in sources() {
        let own_tests = source.text.find("#[cfg(test)]").unwrap_or(source.text.len());
        let test_file = source.path.iter().any(|part| part == "tests" || part == "tests.rs");
        let code = if test_file { "" } else { &source.text[..own_tests] };
        for (marks, what, allowed) in rules {
            for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
                let found = marks.iter().any(|mark| line.contains(mark));
                let place = allowed.contains(&source.module.as_str());
                assert!(!found || place, "{}: {what} in {line:?}", source.path.display());
            }
        }
    }
}

#[test]
fn files_say_what_they_hold_and_stay_small() {
    for source in sources() {
        let lines = source.text.lines().count();
        assert!(
            source.text.starts_with("//!"),
            "{}: no line that says what lives there",
            source.path.display()
        );
        assert!(lines <= LONGEST_FILE, "{}: {lines} lines", source.path.display());
    }
}

#[test]
fn functions_stay_small() {
    for source in sources() {
        let mut begun: Option<(usize, usize)> = None;
        for (at, line) in source.text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let starts = line.trim_start().split("fn ").next().is_some_and(|before| {
                line.contains("fn ")
                    && before
                        .split_whitespace()
                        .all(|word| ["pub", "async", "const", "pub(super)", "pub(crate)"].contains(&word))
            });
            if starts && begun.is_none() && !line.trim_end().ends_with(';') {
                begun = Some((at, indent));
            }
            if let Some((from, depth)) = begun
                && indent == depth
                && line.trim_start().starts_with('}')
            {
                let length = at - from + 1;
                assert!(length <= LONGEST_FUNCTION, "{}:{}: {length} lines", source.path.display(), from + 1);
                begun = None;
            }
        }
    }
}
