//! What a reader gets, whatever became of the writer.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

use bytes::Bytes;

use super::{Cause, Entry, ExitStatus, Kind, Limits, Outcome, Reader, Stream, Totals, Writer};

fn scratch() -> File {
    tempfile::tempfile().expect("temporary file")
}

fn read_all(file: &File, from: u64) -> Vec<Entry> {
    let mut reader = Reader::open(file.try_clone().expect("clone")).expect("a journal");
    reader.seek(from).expect("seek");
    std::iter::from_fn(|| reader.next_entry().expect("read")).collect()
}

fn exited() -> Kind {
    Kind::Exit(ExitStatus { outcome: Outcome::Code(0), cause: Cause::Exited })
}

fn output(entries: &[Entry]) -> Vec<u8> {
    let data = entries.iter().filter_map(|entry| match &entry.kind {
        Kind::Output(Stream::Stdout, data) => Some(data.to_vec()),
        _ => None,
    });
    data.flatten().collect()
}

#[test]
fn p_06_every_cursor_gets_exactly_what_follows_it() {
    let file = scratch();
    let mut writer = Writer::create(file.try_clone().expect("clone"), Limits::keep(1 << 20)).expect("create");
    writer.append(Kind::Started(Bytes::from_static(b"x"))).expect("append");
    for n in 0..200_u8 {
        writer.output(Stream::Stdout, &[n; 700]).expect("append");
    }
    writer.append(exited()).expect("append");
    let all = read_all(&file, 0);
    assert_eq!(output(&all).len(), 200 * 700);
    for from in 0..all.last().expect("entries").sequence {
        let expected: Vec<_> = all.iter().filter(|entry| entry.sequence >= from).cloned().collect();
        assert_eq!(read_all(&file, from), expected, "from {from}");
    }
}

#[test]
fn p_07_head_and_tail_are_kept_and_the_gap_adds_up() {
    let file = scratch();
    let mut writer = Writer::create(file.try_clone().expect("clone"), Limits::keep(1 << 20)).expect("create");
    let total = 20 << 20;
    for n in 0..total / 1000 {
        writer.output(Stream::Stdout, &[u8::try_from(n % 251).expect("small"); 1000]).expect("append");
    }
    writer.append(exited()).expect("append");
    let entries = read_all(&file, 0);
    let missed: u64 = entries.iter().map(|e| if let Kind::Gap(t) = e.kind { t.stdout } else { 0 }).sum();
    assert_eq!(output(&entries).len() as u64 + missed, total / 1000 * 1000);
    assert!(missed > 18 << 20, "{missed} bytes missed");
    assert_eq!(entries.iter().filter(|e| matches!(e.kind, Kind::Gap(_))).count(), 1);
    assert!(matches!(entries.last().expect("entries").kind, Kind::Exit(_)));
    let stored = file.metadata().expect("stat").blocks() * 512;
    assert!(stored < (1 << 20) + (256 << 10), "{stored} bytes on disk");
}

#[test]
fn p_21_a_torn_tail_keeps_all_whole_records_and_no_number_is_used_again() {
    let whole = scratch();
    let mut writer =
        Writer::create(whole.try_clone().expect("clone"), Limits::keep(1 << 20)).expect("create");
    for n in 0..5_u8 {
        writer.output(Stream::Stdout, &[n; 10]).expect("append");
    }
    let length = whole.metadata().expect("stat").len();
    let mut bytes = vec![0_u8; usize::try_from(length).expect("small")];
    whole.read_exact_at(&mut bytes, 0).expect("read");
    for cut in bytes.len() - 70..bytes.len() {
        let torn = scratch();
        torn.write_all_at(&bytes[..cut], 0).expect("write");
        let kept = read_all(&torn, 0);
        assert!((3..5).contains(&kept.len()), "cut at {cut} keeps {}", kept.len());
        let mut resumed = Writer::resume(torn.try_clone().expect("clone")).expect("resume");
        resumed.append(exited()).expect("append");
        let after = read_all(&torn, 0);
        assert_eq!(after[..kept.len()], kept);
        assert_eq!(after.len(), kept.len() + 1);
        assert_eq!(after[kept.len()].sequence, kept[kept.len() - 1].sequence + 1);
    }
}

#[test]
fn a_flipped_byte_ends_the_journal_before_it() {
    let file = scratch();
    let mut writer = Writer::create(file.try_clone().expect("clone"), Limits::keep(1 << 20)).expect("create");
    writer.output(Stream::Stderr, b"first").expect("append");
    writer.output(Stream::Stderr, b"second").expect("append");
    let last = file.metadata().expect("stat").len() - 1;
    file.write_all_at(b"X", last).expect("write");
    assert_eq!(read_all(&file, 0).len(), 1);
}

#[test]
fn a_full_disk_becomes_a_gap_once_there_is_room() {
    let file = scratch();
    let mut writer = Writer::create(file.try_clone().expect("clone"), Limits::keep(1 << 20)).expect("create");
    writer.output(Stream::Stdout, b"before").expect("append");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("device");
    let real = std::mem::replace(&mut writer.file, full);
    assert!(writer.output(Stream::Stdout, b"nowhere").is_err());
    writer.file = real;
    writer.output(Stream::Stdout, b"after").expect("append");
    let kinds: Vec<_> = read_all(&file, 0).into_iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds[1], Kind::Gap(Totals { stdout: 7, stderr: 0 }));
    assert_eq!(kinds[2], Kind::Output(Stream::Stdout, Bytes::from_static(b"after")));
}
