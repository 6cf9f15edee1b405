//! The chain of records: what was done to it is found, and where; what a crash does is no fault.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::egress::audit::{Audit, Facts, Kind, Trail};
use crate::egress::{Fault, verify};

/// Writes so many records, in files of about ten.
fn write(directory: &Path, records: usize) {
    let audit = Arc::new(Audit::open(directory).unwrap());
    audit.ledger().set_full(2_600);
    let trail = Trail::new(audit, "w1", 1);
    for number in 0..records {
        let path = Some(format!("/{number}"));
        trail.deny(Kind::Request, &Facts { host: "a.example".to_owned(), path, ..Facts::default() });
    }
}

fn current(directory: &Path) -> std::path::PathBuf {
    directory.join(crate::egress::AUDIT_FILE_NAME)
}

/// One log that is only a file.
fn flat(records: usize) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let trail = Trail::new(Arc::new(Audit::open(directory.path()).unwrap()), "w1", 1);
    for number in 0..records {
        let path = Some(format!("/{number}"));
        trail.deny(Kind::Request, &Facts { host: "a.example".to_owned(), path, ..Facts::default() });
    }
    directory
}

/// What is found after the lines of a log of nine were treated.
fn found(treat: impl FnOnce(&mut Vec<String>)) -> Vec<(u64, Fault)> {
    let directory = flat(9);
    let text = fs::read_to_string(current(directory.path())).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    treat(&mut lines);
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(current(directory.path()), text).unwrap();
    let report = verify(directory.path()).unwrap();
    report.findings.into_iter().map(|finding| (finding.line, finding.fault)).collect()
}

#[test]
fn o_03_a_changed_missing_swapped_or_cut_record_is_found_at_its_place() {
    assert_eq!(found(|_| ()), []);
    let changed = found(|lines| lines[4] = lines[4].replace("a.example", "b.example"));
    assert_eq!(changed, [(5, Fault::Changed { seq: 5 })]);
    let removed = found(|lines| drop(lines.drain(3..5)));
    assert_eq!(removed, [(4, Fault::Missing { from: 4, to: 5 })]);
    let swapped = found(|lines| lines.swap(3, 4));
    assert_eq!(swapped, [(4, Fault::Missing { from: 4, to: 4 }), (5, Fault::Misplaced { seq: 4 }),]);
    let repeated = found(|lines| lines.insert(2, lines[1].clone()));
    assert_eq!(repeated, [(3, Fault::Misplaced { seq: 2 })]);
    assert_eq!(found(|lines| lines.truncate(7)), [(0, Fault::Cut { from: 8, to: 9 })]);
    assert_eq!(found(Vec::clear), [(0, Fault::Cut { from: 1, to: 9 })]);
    assert_eq!(found(|lines| lines[2] = "{}".to_owned())[0], (3, Fault::Garbage));
}

#[test]
fn o_03_every_flipped_bit_is_found() {
    let directory = flat(4);
    let bytes = fs::read(current(directory.path())).unwrap();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        fs::write(current(directory.path()), &flipped).unwrap();
        let report = verify(directory.path()).unwrap();
        assert!(!report.findings.is_empty(), "byte {at}");
    }
}

#[test]
fn o_03_a_cut_before_a_restart_is_still_found_after_it() {
    let directory = flat(9);
    let text = fs::read_to_string(current(directory.path())).unwrap();
    let kept: String = text.lines().take(6).map(|line| format!("{line}\n")).collect();
    fs::write(current(directory.path()), kept).unwrap();
    write(directory.path(), 1);
    let report = verify(directory.path()).unwrap();
    let found: Vec<Fault> = report.findings.iter().map(|finding| finding.fault).collect();
    assert_eq!((found, report.last), (vec![Fault::Missing { from: 7, to: 9 }], 10));
}

#[test]
fn o_03_a_crash_is_no_tampering() {
    let directory = flat(9);
    let before = verify(directory.path()).unwrap();
    let head = directory.path().join("audit.head");
    // Died in the middle of a line, or before the head was told of it.
    let earlier = fs::read(&head).unwrap();
    write(directory.path(), 1);
    fs::write(&head, earlier).unwrap();
    let mut text = fs::read(current(directory.path())).unwrap();
    text.extend_from_slice(b"{\"seq\":11,\"id\"");
    fs::write(current(directory.path()), text).unwrap();
    assert_eq!(verify(directory.path()).unwrap().findings, []);
    write(directory.path(), 1);
    let after = verify(directory.path()).unwrap();
    assert_eq!((before.last, after.last, after.findings), (9, 11, vec![]));
}

#[test]
fn o_03_full_files_are_part_of_the_chain() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        write(directory.path(), 40);
    }
    let report = verify(directory.path()).unwrap();
    assert_eq!((report.records, report.last, report.findings), (120, 120, vec![]));
    let mut files: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 8, "{files:?}");
    // A crash between the renaming and the new file.
    fs::remove_file(current(directory.path())).unwrap();
    let rest = fs::read_dir(directory.path()).unwrap().count();
    fs::File::create(current(directory.path())).unwrap();
    assert!(rest > 7 && matches!(verify(directory.path()).unwrap().findings[0].fault, Fault::Cut { .. }));
    fs::remove_file(&files[1]).unwrap();
    assert!(matches!(verify(directory.path()).unwrap().findings[0].fault, Fault::Missing { .. }));
}
