//! Files as a control plane uses them.

use hands::api::client::{Client, Status, errno, reason};
use hands::api::proto::file_service_glob_response::Message as Path;
use hands::api::proto::file_service_grep_response::Message as Line;
use hands::api::proto::file_service_write_request::Message as Write;
use hands::api::proto::{
    FileServiceCopyRequest, FileServiceGlobRequest, FileServiceGrepRequest, FileServiceMakeDirectoryRequest,
    FileServiceMoveRequest, FileServiceRemoveRequest, FileServiceSetAttributesRequest,
    FileServiceStatRequest, FileServiceWriteRequest, FileStat, FileWriteFinish, FileWriteStart,
};
use prost_types::Timestamp;

use crate::host::{Host, check_served};

/// A caller of `FileService` in workspace `w`.
struct Caller {
    client: Client,
    runtime: tokio::runtime::Runtime,
}

fn at(path: &str) -> Vec<u8> {
    format!("/workspace/{path}").into_bytes()
}

impl Caller {
    fn new(host: &Host) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let client = runtime.block_on(Client::connect(&host.socket())).expect("connect");
        Self { client, runtime }
    }

    fn write(&self, start: FileWriteStart, content: &str) -> Result<FileStat, Status> {
        let messages = [
            Write::Start(FileWriteStart { workspace: "w".into(), ..start }),
            Write::Data(content.as_bytes().to_vec().into()),
            Write::Finish(FileWriteFinish { bytes: content.len() as u64 }),
        ];
        let messages = messages.map(|message| FileServiceWriteRequest { message: Some(message) });
        let written = self.client.files().write(tokio_stream::iter(messages)).await_in(&self.runtime);
        written.map(|written| written.into_inner().stat.expect("stat"))
    }

    fn remove(&self, path: &str, recursive: bool) -> Result<(), Status> {
        let request = FileServiceRemoveRequest { workspace: "w".into(), path: at(path).into(), recursive };
        self.client.files().remove(request).await_in(&self.runtime).map(drop)
    }

    fn rename(&self, from: &str, to: &str, replace: bool) -> Result<(), Status> {
        let (source, target) = (at(from).into(), at(to).into());
        let request = FileServiceMoveRequest { workspace: "w".into(), source, target, replace };
        self.client.files().r#move(request).await_in(&self.runtime).map(drop)
    }

    fn stat(&self, path: &str) -> FileStat {
        let request = FileServiceStatRequest { workspace: "w".into(), path: at(path).into(), follow: false };
        let told = self.client.files().stat(request).await_in(&self.runtime).expect("stat");
        told.into_inner().stat.expect("stat")
    }
}

/// Waits for a call of a client.
trait AwaitIn: Future + Sized {
    fn await_in(self, runtime: &tokio::runtime::Runtime) -> Self::Output {
        runtime.block_on(self)
    }
}

impl<T: Future> AwaitIn for T {}

fn why<T: std::fmt::Debug>(refused: Result<T, Status>) -> (String, String) {
    let status = refused.expect_err("refused");
    (reason(&status).unwrap_or_default(), errno(&status).unwrap_or_default())
}

fn start(path: &str) -> FileWriteStart {
    FileWriteStart { path: at(path).into(), ..FileWriteStart::default() }
}

#[test]
fn f_04_a_stale_etag_changes_nothing_and_says_so() {
    check_served(|host| {
        let caller = Caller::new(host);
        let first = caller.write(start("f"), "one").expect("write");
        assert_eq!(caller.stat("f").etag, first.etag);
        let over = |etag: &str| FileWriteStart { if_match: etag.into(), ..start("f") };
        let second = caller.write(over(&first.etag), "two").expect("it is that");
        assert_ne!(first.etag, second.etag);
        assert_eq!(why(caller.write(over(&first.etag), "three")), ("STALE".into(), "ESTALE".into()));
        assert_eq!(why(caller.write(over("x"), "three")).0, "INVALID_ARGUMENT");
        assert_eq!(host.script("cat f; ls -A"), "twof\n");
        host.script("rm f");
        assert_eq!(why(caller.write(over(&second.etag), "four")).0, "STALE");
        // Of many writers with one etag one wins.
        let base = caller.write(start("f"), "base").expect("write").etag;
        let won = caller.runtime.block_on(async {
            let writes = (0..8).map(|n| {
                let messages = [
                    Write::Start(FileWriteStart { workspace: "w".into(), ..over(&base) }),
                    Write::Data(format!("writer {n}").into()),
                    Write::Finish(FileWriteFinish { bytes: 8 }),
                ];
                let messages = messages.map(|message| FileServiceWriteRequest { message: Some(message) });
                let mut files = caller.client.files();
                async move { files.write(tokio_stream::iter(messages)).await.is_ok() }
            });
            futures_util::future::join_all(writes).await
        });
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "{won:?}");
    });
}

#[test]
fn f_02_an_append_is_seen_whole_and_keeps_the_mode() {
    check_served(|host| {
        let caller = Caller::new(host);
        host.script("printf 'one\\n' > log; chmod 640 log");
        let append = |path: &str| FileWriteStart { append: true, ..start(path) };
        assert_eq!(caller.write(append("log"), "two\n").expect("append").size, 8);
        caller.write(append("new"), "first").expect("a file that is not there yet");
        assert_eq!(host.script("cat log new; stat -c ' %a' log"), "one\ntwo\nfirst 640\n");
    });
}

#[test]
fn f_05_every_refusal_has_its_own_reason() {
    check_served(|host| {
        let caller = Caller::new(host);
        host.script("mkdir -p full/x empty; touch file");
        let refusal = |reason: &str, errno: &str| (reason.to_owned(), errno.to_owned());
        assert_eq!(why(caller.remove("none", false)), refusal("NOT_FOUND", "ENOENT"));
        assert_eq!(why(caller.remove("file/x", false)), refusal("FAILED_PRECONDITION", "ENOTDIR"));
        assert_eq!(why(caller.remove("full", false)), refusal("FAILED_PRECONDITION", "ENOTEMPTY"));
        assert_eq!(why(caller.rename("file", "full", false)), refusal("ALREADY_EXISTS", "EEXIST"));
        assert_eq!(why(caller.rename("file", "full", true)), refusal("FAILED_PRECONDITION", "EISDIR"));
        assert_eq!(why(caller.write(start("full"), "")), refusal("FAILED_PRECONDITION", "EISDIR"));
        let make = |path: &str, create_parents| {
            let request = FileServiceMakeDirectoryRequest {
                workspace: "w".into(),
                path: at(path).into(),
                mode: Some(0o750),
                create_parents,
            };
            caller.client.files().make_directory(request).await_in(&caller.runtime)
        };
        assert_eq!(why(make("empty", false)), refusal("ALREADY_EXISTS", "EEXIST"));
        assert_eq!(why(make("no/such", false)), refusal("NOT_FOUND", "ENOENT"));
        make("a/b/c", true).expect("with parents");
        make("a/b/c", true).expect("again");
        assert_eq!(host.script("stat -c %a a/b/c"), "750\n");
        let outside =
            FileServiceRemoveRequest { workspace: "w".into(), path: "/usr/bin/env".into(), recursive: false };
        let refused = caller.client.files().remove(outside).await_in(&caller.runtime);
        assert_eq!(why(refused), refusal("FAILED_PRECONDITION", "EROFS"));
    });
}

#[test]
fn f_08_a_fifo_a_device_and_a_directory_are_typed_errors_at_once() {
    check_served(|host| {
        let caller = Caller::new(host);
        host.script("mkfifo pipe; mkdir dir; ln -s /dev/null null");
        let copy = |source: &str| {
            let (source, target) = (at(source).into(), at("copy").into());
            let request =
                FileServiceCopyRequest { workspace: "w".into(), source, target, create_parents: false };
            caller.client.files().copy(request).await_in(&caller.runtime)
        };
        for (path, errno) in [("pipe", "ENODEV"), ("dir", "EISDIR"), ("null", "ENODEV")] {
            assert_eq!(why(copy(path)).1, errno, "{path}");
            assert_eq!(why(caller.write(start(path), "x")).1, errno, "{path}");
        }
        assert_eq!(host.script("ls"), "dir\nnull\npipe\n");
    });
}

#[test]
fn f_03_copies_keep_the_mode_and_setuid_is_never_set() {
    check_served(|host| {
        let caller = Caller::new(host);
        host.script("echo run > tool; chmod 755 tool");
        let (source, target) = (at("tool").into(), at("sub/copy").into());
        let request = FileServiceCopyRequest { workspace: "w".into(), source, target, create_parents: true };
        caller.client.files().copy(request).await_in(&caller.runtime).expect("copy");
        let request = FileServiceSetAttributesRequest {
            workspace: "w".into(),
            path: at("tool").into(),
            mode: Some(0o6710),
            modify_time: Some(Timestamp { seconds: 1_000_000_000, nanos: 5 }),
        };
        let set = caller.client.files().set_attributes(request).await_in(&caller.runtime).expect("set");
        let stat = set.into_inner().stat.expect("stat");
        assert_eq!(
            (stat.mode, stat.modify_time),
            (0o710, Some(Timestamp { seconds: 1_000_000_000, nanos: 5 }))
        );
        assert_eq!(host.script("cat sub/copy; stat -c '%a %Y' sub/copy tool | cut -c1-14"), {
            let copied = caller.stat("sub/copy").modify_time.expect("time").seconds;
            format!("run\n755 {copied}\n710 1000000000\n")
        });
    });
}

#[test]
fn f_13_a_link_is_removed_and_moved_itself_and_no_removal_leaves_its_tree() {
    check_served(|host| {
        let caller = Caller::new(host);
        host.script("mkdir -p keep tree/deep/er; touch keep/file tree/deep/x; ln -s ../keep tree/link; ln -s keep link; ln -s none dangling; ln -s /home/agent tree/home; touch ~/mine");
        caller.rename("link", "moved", false).expect("move");
        caller.remove("moved", true).expect("a link");
        caller.remove("dangling", false).expect("a dangling link");
        caller.remove("tree", true).expect("a tree");
        assert_eq!(host.script("find . -mindepth 1 | sort; ls ~"), "./keep\n./keep/file\nmine\n");
        let refused = |path: &str| {
            let request = FileServiceRemoveRequest {
                workspace: "w".into(),
                path: path.as_bytes().to_vec().into(),
                recursive: true,
            };
            why(caller.client.files().remove(request).await_in(&caller.runtime))
        };
        for path in ["/", "/workspace/..", "relative"] {
            assert!(!refused(path).0.is_empty(), "{path}");
        }
        // The mount itself stays, whatever it holds goes.
        assert_eq!(host.script("ls /home/agent"), "mine\n");
    });
}

#[test]
fn f_10_names_of_any_bytes_are_found_moved_and_removed() {
    check_served(|host| {
        let caller = Caller::new(host);
        host.script("mkdir d; printf hit > \"$(printf 'd/a\\n\\377*\\047 -b')\"");
        let name = b"a\n\xff*' -b".to_vec();
        let request =
            FileServiceGlobRequest { workspace: "w".into(), path: at("d").into(), pattern: "*".into() };
        let globbed = caller.runtime.block_on(async {
            let mut told = caller.client.files().glob(request).await.expect("glob").into_inner();
            let mut names = Vec::new();
            while let Some(message) = told.message().await.expect("message") {
                match message.message {
                    Some(Path::Entry(entry)) => names.push(entry.name.to_vec()),
                    Some(Path::End(_)) => return names,
                    None => {}
                }
            }
            panic!("the stream was cut")
        });
        assert_eq!(globbed, std::slice::from_ref(&name));
        let request =
            FileServiceGrepRequest { workspace: "w".into(), path: at("d").into(), pattern: "h.t".into() };
        let line = caller.runtime.block_on(async {
            let mut told = caller.client.files().grep(request).await.expect("grep").into_inner();
            told.message().await.expect("message").and_then(|message| message.message)
        });
        let Some(Line::Line(line)) = line else { panic!("{line:?}") };
        assert_eq!((line.path.to_vec(), line.number, line.text.as_ref()), (name.clone(), 1, &b"hit"[..]));
        let path = [b"/workspace/d/".to_vec(), name].concat();
        let request = FileServiceRemoveRequest { workspace: "w".into(), path: path.into(), recursive: false };
        caller.client.files().remove(request).await_in(&caller.runtime).expect("remove");
        let long = "x".repeat(256);
        assert_eq!(why(caller.write(start(&long), "")).1, "ENAMETOOLONG");
        caller.write(start(&long[1..]), "").expect("255 bytes");
        assert_eq!(host.script("ls d; ls | wc -l"), "2\n");
    });
}
