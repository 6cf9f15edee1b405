//! Tar archives going in and out, honest and evil ones.

use hands::api::client::{Client, Status, errno, reason};
use hands::api::proto::file_service_export_response::Message as Exported;
use hands::api::proto::file_service_import_request::Message as Import;
use hands::api::proto::{
    FileImportFinish, FileImportStart, FileServiceExportRequest, FileServiceImportRequest, LeftOutReason,
    TransferReport,
};
use tar::{EntryType, Header};

use crate::host::{Host, check_served};

struct Caller {
    client: Client,
    runtime: tokio::runtime::Runtime,
}

fn start() -> FileImportStart {
    FileImportStart {
        path: b"/workspace/in".to_vec().into(),
        create_parents: true,
        ..FileImportStart::default()
    }
}

impl Caller {
    fn new(host: &Host) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let client = runtime.block_on(Client::connect(&host.socket())).expect("connect");
        Self { client, runtime }
    }

    fn send(&self, messages: Vec<Import>) -> Result<TransferReport, Status> {
        let messages = messages.into_iter().map(|said| FileServiceImportRequest { message: Some(said) });
        let messages = tokio_stream::iter(messages.collect::<Vec<_>>());
        let told = self.runtime.block_on(self.client.files().import(messages))?;
        Ok(told.into_inner().report.expect("report"))
    }

    fn import_with(&self, start: FileImportStart, archive: &[u8]) -> Result<TransferReport, Status> {
        let begin = FileImportStart { workspace: "w".into(), ..start };
        let pieces = archive.chunks(10_000).map(|piece| Import::Data(piece.to_vec().into()));
        let end = Import::Finish(FileImportFinish { bytes: archive.len() as u64 });
        self.send(std::iter::once(Import::Start(begin)).chain(pieces).chain([end]).collect())
    }

    fn import(&self, archive: &[u8]) -> Result<TransferReport, Status> {
        self.import_with(start(), archive)
    }

    fn export(&self, path: &str) -> Result<(Vec<u8>, TransferReport), Status> {
        let request =
            FileServiceExportRequest { workspace: "w".into(), path: path.as_bytes().to_vec().into() };
        self.runtime.block_on(async {
            let mut told = self.client.files().export(request).await?.into_inner();
            let mut archive = Vec::new();
            while let Some(message) = told.message().await? {
                match message.message {
                    Some(Exported::Data(data)) => archive.extend_from_slice(&data),
                    Some(Exported::End(end)) => return Ok((archive, end)),
                    None => {}
                }
            }
            panic!("the stream was cut")
        })
    }
}

/// A member whose names no writer of archives would take.
fn member(kind: EntryType, path: &str, link: &str, data: &str) -> Vec<u8> {
    changed(kind, path, link, data, |_header| {})
}

fn changed(kind: EntryType, path: &str, link: &str, data: &str, change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(data.len() as u64);
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    change(&mut header);
    header.set_cksum();
    let mut bytes = [header.as_bytes(), data.as_bytes()].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(path: &str, data: &str) -> Vec<u8> {
    member(EntryType::Regular, path, "", data)
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 1024]].concat()
}

/// One extended record before a file.
fn extended(record: &str, size: usize) -> Vec<u8> {
    let length = record.len() + 4;
    assert!((10..100).contains(&length), "two digits");
    let record = member(EntryType::XHeader, "x", "", &format!("{length} {record}\n"));
    [record, file("f", &"d".repeat(size))].concat()
}

fn why<T: std::fmt::Debug>(refused: Result<T, Status>) -> (String, String) {
    let status = refused.expect_err("refused");
    (errno(&status).unwrap_or_default(), status.message().to_owned())
}

#[test]
fn f_18_no_member_of_an_evil_archive_reaches_outside() {
    let deep = format!("{}f", "d/".repeat(45));
    let link = |path, target| member(EntryType::Symlink, path, target, "");
    let hard = |path, target| member(EntryType::Link, path, target, "");
    let directory = |path| member(EntryType::Directory, path, "", "");
    let cases: Vec<(Vec<Vec<u8>>, &str)> = vec![
        (vec![file("/workspace/decoy", "evil")], "EXDEV"),
        (vec![file("../decoy", "evil")], "EXDEV"),
        (vec![file("a/../../decoy", "evil")], "EXDEV"),
        (vec![file("..", "evil")], "EXDEV"),
        (vec![directory("a/.."), file("f", "x")], "EXDEV"),
        (vec![link("l", ".."), file("l/decoy", "evil")], "ELOOP"),
        (vec![link("l", "/workspace"), file("l/decoy", "evil")], "ELOOP"),
        (vec![link("l", "."), link("l/m", ".."), file("l/m/decoy", "evil")], "ELOOP"),
        (vec![link("l", "../outside"), directory("l")], "ELOOP"),
        (vec![link("l", "../outside"), directory("l/new")], "ELOOP"),
        (vec![link("l", "../outside"), link("l/new", "x")], "ELOOP"),
        (vec![directory("l"), link("l", "../outside")], "EISDIR"),
        (vec![hard("h", "/workspace/decoy")], "EXDEV"),
        (vec![hard("h", "../decoy")], "EXDEV"),
        (vec![link("l", ".."), hard("h", "l/decoy")], "ELOOP"),
        (vec![link("l", "../outside"), hard("l/h", "l")], "ELOOP"),
        (vec![hard("h", "none")], "ENOENT"),
        (vec![link("l", "")], "EINVAL"),
        (vec![file(".", "x")], "EINVAL"),
        (vec![file("f", "x"), file("f/g", "x")], "ENOTDIR"),
        (vec![directory(&deep), file(&deep, "x")], "EISDIR"),
        (vec![member(EntryType::Link, "h", "f", "data")], "EBADMSG"),
    ];
    check_served(|host| {
        let caller = Caller::new(host);
        host.script("mkdir outside; echo mine > decoy; chmod 750 outside; chmod 600 decoy");
        for (members, expected) in &cases {
            let (errno, told) = why(caller.import(&archive(members)));
            assert_eq!(&errno, expected, "{told}");
            assert!(told.contains("entries with"), "{told}");
            assert!(!told.contains("hands-"), "a path of the host: {told}");
            host.script("rm -rf in");
        }
        // A member that replaces a link, or another name of a file, leaves alone what that was.
        host.script("mkdir in; ln -s ../decoy in/l; ln decoy in/h");
        let replaced = [file("l", "new"), file("h", "new"), hard("i", "l"), hard("i", "l")];
        caller.import(&archive(&replaced)).expect("replaced");
        let left = "cat decoy in/l in/h; ls outside; stat -c %a outside decoy; ls -A in; ls";
        assert_eq!(host.script(left), "mine\nnewnew750\n600\nh\ni\nl\ndecoy\nin\noutside\n");
    });
}

#[test]
fn f_19_what_is_dropped_is_told() {
    let with = |mode, uid| {
        changed(EntryType::Regular, "tool", "", "run", |header| {
            header.set_mode(mode);
            header.set_uid(uid);
        })
    };
    let members = [
        member(EntryType::Char, "null", "", ""),
        member(EntryType::Block, "disk", "", ""),
        member(EntryType::Fifo, "pipe", "", ""),
        with(0o6755, 4242),
    ];
    check_served(|host| {
        let done = Caller::new(host).import(&archive(&members)).expect("import");
        let left: Vec<_> = done.left_out.iter().map(|left| (left.name.to_vec(), left.reason())).collect();
        assert_eq!(
            left,
            [
                (b"null".to_vec(), LeftOutReason::Device),
                (b"disk".to_vec(), LeftOutReason::Device),
                (b"pipe".to_vec(), LeftOutReason::Fifo),
            ]
        );
        assert_eq!((done.entries, done.bytes, done.cleared_bits, done.left_out_count), (1, 3, 1, 3));
        assert!(done.foreign_owners >= 1);
        assert_eq!(host.script("ls in; stat -c %a in/tool; test -O in/tool && echo own"), "tool\n755\nown\n");
        host.script("mkfifo in/pipe; mkdir in/closed; chmod 0 in/closed");
        let (_, done) = Caller::new(host).export("/workspace/in").expect("export");
        let left: Vec<_> = done.left_out.iter().map(|left| left.reason()).collect();
        assert_eq!(left, [LeftOutReason::Unreadable, LeftOutReason::Fifo]);
    });
}

#[test]
fn f_20_an_archive_with_two_meanings_is_refused_and_nothing_hidden_comes_out() {
    let raw = |field: std::ops::Range<usize>, value: &'static [u8]| {
        changed(EntryType::Regular, "f", "", "data", |header| {
            header.as_mut_bytes()[field].copy_from_slice(value);
        })
    };
    let hidden = archive(&[file("hidden", "evil")]);
    let hidden = String::from_utf8(hidden).expect("ascii");
    let inner = member(EntryType::XHeader, "x", "", "13 size=1536\n");
    let inner = [inner, changed(EntryType::Regular, "f", "", &hidden, |header| header.set_size(0))].concat();
    let mut broken = file("f", "data");
    broken[0] = b'g';
    let global = member(EntryType::XGlobalHeader, "g", "", "10 path=x\n");
    let cases = [
        inner,
        extended("size=5", 4),
        extended("size=-4", 4),
        extended("GNU.sparse.major=1", 4),
        [member(EntryType::XHeader, "x", "", "10 path=a\n"), extended("path=b", 4)].concat(),
        raw(124..136, b"-0000000004\0"),
        raw(124..136, b"777777777779"),
        raw(124..136, &[0xff; 12]),
        raw(124..136, b"\x80\0\0\x01\0\0\0\0\0\0\0\x04"),
        changed(EntryType::GNUSparse, "f", "", "data", |_| {}),
        changed(EntryType::new(b'M'), "f", "", "data", |_| {}),
        [global, file("f", "data")].concat(),
        member(EntryType::Directory, "d", "", &hidden),
        broken,
    ];
    check_served(|host| {
        let caller = Caller::new(host);
        for case in &cases {
            let (errno, told) = why(caller.import(&archive(std::slice::from_ref(case))));
            assert_eq!(errno, "EBADMSG", "{told}");
            assert_eq!(host.script("find in -name hidden; rm -rf in"), "");
        }
        let behind = [archive(&[file("f", "data")]), archive(&[file("hidden", "evil")])].concat();
        assert_eq!(why(caller.import(&behind)).0, "EBADMSG");
        assert_eq!(host.script("ls in"), "f\n");
    });
}

#[test]
fn f_21_members_bytes_depth_and_names_are_bounded() {
    let path = |path: &str| {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(1);
        builder.append_data(&mut header, path, &b"x"[..]).expect("append");
        builder.into_inner().expect("archive")
    };
    check_served(|host| {
        let caller = Caller::new(host);
        let few = FileImportStart { max_entries: 2, ..start() };
        let three = archive(&[file("a", "1"), file("b", "2"), file("c", "3")]);
        let (errno, told) = why(caller.import_with(few, &three));
        assert_eq!(errno, "E2BIG");
        assert!(told.ends_with("2 entries with 2 bytes were written"), "{told}");
        // The size in the header is enough: its bytes are not waited for.
        let small = FileImportStart { max_bytes: 5, ..start() };
        let large = changed(EntryType::Regular, "l", "", "", |header| header.set_size(1 << 40));
        assert_eq!(why(caller.import_with(small, &large)).0, "EFBIG");
        assert_eq!(why(caller.import(&path(&format!("{}f", "d/".repeat(128))))).0, "ENAMETOOLONG");
        assert_eq!(why(caller.import(&path(&"n".repeat(256)))).0, "ENAMETOOLONG");
        assert_eq!(why(caller.import(&path(&format!("{}f", "long/".repeat(1000))))).0, "ENAMETOOLONG");
        assert_eq!(host.script("ls in; rm -rf in"), "a\nb\n");
        caller.import(&path(&format!("{}f", "d/".repeat(127)))).expect("127 directories");
        caller.import(&path(&"n".repeat(255))).expect("255 bytes");
    });
}

#[test]
fn f_22_a_cut_archive_fails_and_says_what_was_written() {
    let whole = archive(&[file("a", "one"), file("b", &"two".repeat(500)), file("c", "three")]);
    check_served(|host| {
        let caller = Caller::new(host);
        for (at, written) in
            [(0, 0), (511, 0), (512, 0), (514, 0), (1024, 1), (2000, 1), (3584, 2), (4608, 3), (5119, 3)]
        {
            let (errno, told) = why(caller.import(&whole[..at]));
            assert_eq!(errno, "ENODATA", "cut at {at}: {told}");
            assert!(told.contains(&format!("; {written} entries with")), "cut at {at}: {told}");
            assert_eq!(host.script("ls -A in | wc -l; rm -rf in"), format!("{written}\n"), "cut at {at}");
        }
        // The stream breaks off without `finish`, or with another length.
        let begin = Import::Start(FileImportStart { workspace: "w".into(), ..start() });
        let half = Import::Data(whole[..1024].to_vec().into());
        let (errno, told) = why(caller.send(vec![begin.clone(), half]));
        assert_eq!(errno, "ENODATA", "{told}");
        let all = Import::Data(whole.clone().into());
        let wrong = Import::Finish(FileImportFinish { bytes: 1 });
        let refused = caller.send(vec![begin, all, wrong]).expect_err("another length");
        assert_eq!(reason(&refused).as_deref(), Some("INVALID_ARGUMENT"));
        assert!(refused.message().contains("all members were written"), "{}", refused.message());
        assert_eq!(host.script("ls in"), "a\nb\nc\n");
    });
}

#[test]
fn f_23_export_then_import_is_the_identity() {
    let make = r#"
        mkdir -p out/deep/er out/empty; cd out
        head -c 300000 /dev/urandom > deep/random; : > deep/er/nothing; printf x > "$(printf 'odd\n\377 name')"
        truncate -s 5000000 holes; printf end >> holes
        n=$(printf %0200d 7); mkdir "$n"; printf long > "$n/$n"; ln -s "$n/$n" "$n.l"
        ln deep/random hard; ln -s none dangling; ln -s /etc absolute; ln -s ../deep empty/up
        chmod 700 deep; chmod 4711 deep/random; chmod 555 empty; touch -d '2001-02-03 04:05:06.789' deep/er/nothing
        touch -d '1960-01-01 00:00:00.25' holes; touch -h -d '2002-02-02 02:02:02.5' dangling; touch -d @1000000000 deep
    "#;
    let tell = |at: &str| {
        format!(
            "cd {at} && find . -mindepth 1 -printf '%P|%y|%m|%n|%s|%T@|%l\\n' | grep -v '|d|' | sed 's/|4711|/|711|/' | sort; \
             find . -mindepth 1 -type d -printf '%P|%m|%T@\\n' | sort; find . -type f -exec sha256sum {{}} + | sort; \
             test deep/random -ef hard && echo same"
        )
    };
    check_served(|host| {
        let caller = Caller::new(host);
        host.script(make);
        let (archive, packed) = caller.export("/workspace/out").expect("export");
        let done = caller.import(&archive).expect("import");
        assert_eq!((done.entries, done.left_out_count, done.foreign_owners), (packed.entries, 0, 0));
        assert_eq!(host.script(&tell("in")), host.script(&tell("out")));
        assert_eq!(host.script("test $(du -k in/holes | cut -f1) -lt 1000 && echo holes"), "holes\n");
        // Once more over what is there, and a single file.
        host.script("chmod u+w in/empty");
        caller.import(&archive).expect("again");
        assert_eq!(host.script(&tell("in")), host.script(&tell("out")));
        let (single, _) = caller.export("/workspace/out/hard").expect("a file");
        let alone = FileImportStart { path: b"/workspace/alone".to_vec().into(), ..start() };
        caller.import_with(alone, &single).expect("a file");
        assert_eq!(host.script("ls alone; cmp alone/hard out/hard"), "hard\n");
        assert_eq!(why(caller.export("/workspace/none")).0, "ENOENT");
        assert_eq!(why(caller.export("/dev/null")).0, "ENODEV");
    });
}

#[test]
fn f_22_a_killed_helper_is_told_and_nobody_waits_for_it() {
    use futures_util::StreamExt;
    check_served(|host| {
        let caller = Caller::new(host);
        let begin = Import::Start(FileImportStart { workspace: "w".into(), ..start() });
        let said = FileServiceImportRequest { message: Some(begin) };
        // The caller says no more, and stays.
        let messages = tokio_stream::once(said).chain(futures_util::stream::pending());
        let mut files = caller.client.files();
        let ended = std::thread::scope(|scope| {
            // Rootless it reaches its own keeper, which takes it along.
            let script = "until test -d in; do :; done; kill -9 -1";
            scope.spawn(move || host.output(&["exec", "w", "--", "sh", "-c", script]));
            caller.runtime.block_on(files.import(messages))
        });
        assert_eq!(why(ended).0, "ECANCELED");
    });
}
