//! The tools that read, write and search files, in their documented dialect.

use hands::api::proto::tool_content::Content;
use serde_json::json;

use crate::host::check_served;
use crate::tools::Agent;

#[test]
fn t_10_read_never_blocks_and_streams_a_range_of_a_large_file() {
    check_served(|host| {
        let agent = Agent::new(host);
        host.script("mkfifo pipe; mkdir dir; printf 'one\\ntwo\\nthree\\n' > f; seq 1 200000 > big; : > empty; head -c 300000 /dev/zero | tr '\\0' x > line; printf '\\377' > bad");
        let read = |path: &str, range: Option<(i64, i64)>| {
            agent.call("read", &json!({"file_path": path, "view_range": range}))
        };
        let fails =
            |path: &str, range, expected: &str| assert_eq!(read(path, range), (expected.into(), true));
        let gives =
            |path: &str, range, expected: &str| assert_eq!(read(path, range), (expected.into(), false));
        fails("pipe", None, "read: pipe: not a regular file");
        fails("dir", None, "read: dir: not a regular file");
        fails("none", None, "read: none: no such file or directory");
        fails("f/x", None, "read: f/x: not a directory");
        gives("f", None, "one\ntwo\nthree\n");
        gives("./dir/../f", Some((2, 2)), "two");
        gives("/workspace/f", Some((2, 0)), "two\nthree\n");
        gives("f", Some((-5, 2)), "one\ntwo");
        gives("f", Some((3, 2)), "(no output)");
        gives("f", Some((9, 12)), "(no output)");
        gives("empty", None, "(no output)");
        gives("big", Some((199_999, -1)), "199999\n200000\n");
        fails(
            "big",
            None,
            "read: big is 1288895 bytes, exceeds 262144-byte limit. Use the view_range parameter to read specific line ranges, e.g. view_range: [1, 500].",
        );
        fails(
            "big",
            Some((1, 100_000)),
            "read: view_range [1, 100000] of big exceeds 262144-byte limit. Narrow the view_range to read a smaller portion.",
        );
        fails(
            "line",
            Some((1, 1)),
            "read: line 1 of line alone exceeds 262144-byte limit. The read tool cannot return part of a line, so view_range cannot narrow this further.",
        );
        fails(
            "bad",
            None,
            "read: bad: not valid UTF-8 text (binary files are only supported for image/PDF extensions)",
        );
        let odd = agent.call("read", &json!({"file_path": "f", "view_range": [1]}));
        assert_eq!(odd, ("read: view_range must be [start_line, end_line]".into(), true));
    });
}

#[test]
fn t_11_media_are_told_by_extension_and_first_bytes_together() {
    check_served(|host| {
        let agent = Agent::new(host);
        host.script("printf '\\211PNG\\r\\n\\032\\nrest' > a.PNG; cp a.PNG a.txt; echo text > b.png; (printf %%PDF-1.7; head -c 3000000 /dev/zero) > c.pdf; (printf '\\377\\330\\377'; head -c 4000000 /dev/zero) > d.jpg");
        let (result, media) = agent.result("", "read", &json!({"file_path": "a.PNG"}));
        match result.content[0].content.as_ref().expect("content") {
            Content::Image(image) => assert_eq!((image.media_type.as_str(), image.size), ("image/png", 12)),
            other => panic!("{other:?}"),
        }
        assert_eq!(media, b"\x89PNG\r\n\x1a\nrest");
        let (result, media) = agent.result("", "read", &json!({"file_path": "c.pdf"}));
        assert!(matches!(result.content[0].content, Some(Content::Document(_))) && media.len() == 3_000_008);
        let read = |path: &str| agent.call("read", &json!({"file_path": path}));
        assert_eq!(read("b.png"), ("text\n".into(), false));
        assert!(read("a.txt").1, "not text");
        assert_eq!(
            read("d.jpg").0,
            "read: d.jpg is 4000003 bytes, exceeds 3932160-byte limit for image/PDF files."
        );
        let range = agent.call("read", &json!({"file_path": "a.PNG", "view_range": [1, 2]}));
        assert_eq!(range.0, "read: view_range is not supported for image/PDF files");
    });
}

#[test]
fn t_12_write_makes_parents_keeps_the_mode_and_stores_exact_bytes() {
    check_served(|host| {
        let agent = Agent::new(host);
        let write =
            |path: &str, content: &str| agent.call("write", &json!({"file_path": path, "content": content}));
        assert_eq!(write("a/b/c.txt", "x\r\n\u{e9}"), ("wrote 5 bytes to a/b/c.txt".into(), false));
        assert_eq!(host.script("cat a/b/c.txt; stat -c ' %a' a/b/c.txt a"), "x\r\n\u{e9} 644\n 755\n");
        host.script("echo old > run; chmod 755 run; ln -s run link; ln -s to/be/made dangling; mkfifo pipe");
        assert!(!write("link", "new").1 && !write("dangling", "made").1);
        assert_eq!(
            host.script("cat run to/be/made; stat -c %a run; test -L link && ls -A | grep -c hands || true"),
            "newmade755\n0\n"
        );
        assert_eq!(write("a", "x"), ("write: a: is a directory".into(), true));
        assert_eq!(write("run/x", "x"), ("write: run/x: not a directory".into(), true));
        assert_eq!(write("pipe", "x"), ("write: pipe: not a regular file".into(), true));
        assert_eq!(write("e", ""), ("wrote 0 bytes to e".into(), false));
    });
}

#[test]
fn t_13_edit_is_literal_and_changes_nothing_unless_it_is_clear() {
    check_served(|host| {
        let agent = Agent::new(host);
        host.script("printf 'aaa $1 \\\\n .* b b\\n' > f; printf '\\377' > bad; chmod 700 f");
        let edit = |old: &str, new: &str, all: bool| {
            agent.call(
                "edit",
                &json!({"file_path": "f", "old_string": old, "new_string": new, "replace_all": all}),
            )
        };
        assert_eq!(edit("zz", "y", false), ("edit: old_string not found in f".into(), true));
        assert_eq!(
            edit("b", "y", false),
            ("edit: old_string appears 2 times in f (must be unique)".into(), true)
        );
        assert_eq!(edit("", "y", true), ("edit: old_string is required".into(), true));
        assert_eq!(host.script("cat f"), "aaa $1 \\n .* b b\n");
        assert_eq!(edit("$1 \\n .*", "${1} $&", false), ("edited f (1 replacement(s))".into(), false));
        assert_eq!(edit("aa", "x", false), ("edited f (1 replacement(s))".into(), false));
        assert_eq!(edit("b", "\u{e9}\n", true), ("edited f (2 replacement(s))".into(), false));
        assert_eq!(host.script("cat f; stat -c %a f"), "xa ${1} $& \u{e9}\n \u{e9}\n\n700\n");
        let bad = agent.call("edit", &json!({"file_path": "bad", "old_string": "a", "new_string": "b"}));
        assert_eq!(bad.0, "edit: bad: not valid UTF-8 text (cannot edit binary files)");
    });
}

#[test]
fn t_14_paths_follow_every_link_and_stay_where_an_agent_works() {
    check_served(|host| {
        let agent = Agent::new(host);
        host.script("ln -s /etc/passwd out; ln -s /tmp/new dangling; ln -s ../workspace/in inside; echo in > in; ln -s loop loop; ln -s /tmp away; ln -s /workspace /tmp/back");
        let read = |path: &str| agent.call("read", &json!({"file_path": path})).0;
        let outside = |tool: &str, path: &str| {
            format!("{tool}: path '{path}' is outside the session's working directory")
        };
        for path in ["out", "/etc/passwd", "../etc/passwd", "/nowhere", "away/x", "/proc/self/environ", "/"] {
            assert_eq!(read(path), outside("read", path));
        }
        assert_eq!((read("inside"), read("/tmp/back/in")), ("in\n".into(), "in\n".into()));
        assert_eq!(read("loop"), "read: loop: too many levels of symbolic links");
        let write = |path: &str| agent.call("write", &json!({"file_path": path, "content": "x"})).0;
        assert_eq!(write("dangling"), outside("write", "dangling"));
        assert_eq!(write("away/made/x"), outside("write", "away/made/x"));
        assert_eq!(host.script("ls /tmp"), "back\n");
        let glob = agent.call("glob", &json!({"pattern": "*", "path": "away"}));
        assert_eq!(glob.0, outside("glob", "away"));
    });
}

#[test]
fn t_15_glob_is_newest_first_and_never_leaves_its_root() {
    check_served(|host| {
        let agent = Agent::new(host);
        host.script("mkdir -p src/deep .git/x node_modules/m; ln -s / root; ln -s src linked; touch -d @3 src/b.rs src/a.rs; touch -d @9 src/deep/c.rs; touch -d @1 .hidden.rs; touch .git/x/g.rs node_modules/m/n.rs src/t.toml; touch -d @5 src/deep");
        let glob = |pattern: &str| agent.call("glob", &json!({"pattern": pattern})).0;
        assert_eq!(
            glob("**/*.rs"),
            "/workspace/src/deep/c.rs\n/workspace/src/a.rs\n/workspace/src/b.rs\n/workspace/.hidden.rs"
        );
        assert_eq!(glob("src/[ab].{rs,toml}"), "/workspace/src/a.rs\n/workspace/src/b.rs");
        assert_eq!(glob("linked/a.*"), "/workspace/linked/a.rs");
        assert_eq!(glob("node_modules/**/*.rs"), "/workspace/node_modules/m/n.rs");
        assert_eq!(
            (glob("root"), glob("root/etc/*"), glob("src/dee[p]")),
            ("no matches".into(), "no matches".into(), "/workspace/src/deep".into())
        );
        assert_eq!(
            glob("/etc/*"),
            "glob: absolute pattern not permitted; pass a relative pattern (and optionally path)"
        );
        assert_eq!(glob("../*"), "glob: '..' is not permitted in the pattern");
        assert!(glob("[a").starts_with("glob: invalid pattern: "));
        host.script("mkdir many; cd many; touch $(seq 1 300)");
        let many = agent.call("glob", &json!({"pattern": "*", "path": "many"})).0;
        assert!(many.lines().count() == 201 && many.ends_with("\n[100 more matches not shown]"), "{many}");
    });
}

#[test]
fn t_16_grep_is_ripgreps_with_its_defaults() {
    check_served(|host| {
        let agent = Agent::new(host);
        host.script("mkdir -p .git sub; echo ignored.txt > .gitignore; echo hit > ignored.txt; echo hit > .hidden; printf 'no\\nhit one\\nHIT\\n' > a; printf 'hit\\0' > binary; echo 'a hit (' > sub/b; ln -s /etc link; mkfifo pipe; (printf 'hit'; head -c 5000 /dev/zero | tr '\\0' x; echo) > long");
        let grep = |pattern: &str, path: Option<&str>| {
            agent.call("grep", &json!({"pattern": pattern, "path": path}))
        };
        let long = format!("/workspace/long:1:hit{} [line truncated]", "x".repeat(1997));
        assert_eq!(
            grep("hit", None),
            (format!("/workspace/a:2:hit one\n{long}\n/workspace/sub/b:1:a hit ("), false)
        );
        assert_eq!(grep("(?i)^hit$", None).0, "/workspace/a:3:HIT");
        assert_eq!(grep("hit", Some("ignored.txt")).0, "/workspace/ignored.txt:1:hit");
        assert_eq!(grep(r"hit \(", Some("sub")).0, "/workspace/sub/b:1:a hit (");
        assert_eq!(grep("absent", None), ("no matches".into(), false));
        assert_eq!(grep("x", Some("nowhere")), ("grep: nowhere: no such file or directory".into(), true));
        assert_eq!(grep("x", Some("pipe")), ("grep: pipe: not a regular file".into(), true));
        let (told, error) = grep("(", None);
        assert!(error && told.starts_with("grep: invalid regex: "), "{told}");
        host.script("yes some line of text | head -100000 > much");
        let (told, _) = grep("some", None);
        assert!(
            told.ends_with("\n[output truncated at 98304 bytes]") && told.len() < 98_400,
            "{}",
            told.len()
        );
    });
}

#[test]
fn f_07_a_path_that_is_swapped_under_a_call_never_leads_outside() {
    check_served(|host| {
        let agent = Agent::new(host);
        host.script("mkdir real; echo mine > real/hostname; ln -s real sub");
        agent.says(
            "while :; do ln -s /etc n; mv -T n sub; ln -s real n; mv -T n sub; done & true",
            "(no output)",
        );
        let outside = "is outside the session's working directory";
        let (mut inside, mut refused) = (0, 0);
        for _ in 0..200 {
            let (told, error) = agent.call("read", &json!({"file_path": "sub/hostname"}));
            match error {
                false => assert_eq!(told, "mine\n"),
                true => assert!(told.ends_with(outside), "{told}"),
            }
            *(if error { &mut refused } else { &mut inside }) += 1;
            let wrote = agent.call("write", &json!({"file_path": "sub/made/new", "content": "x"}));
            assert!(!wrote.1 || wrote.0.ends_with(outside), "{wrote:?}");
        }
        assert!(inside > 0 && refused > 0, "{inside} inside, {refused} refused: nothing was swapped");
        agent.says("ls -A real; ls -d /etc/made 2> /dev/null || echo none", "hostname\nmade\nnone");
    });
}
