//! Canonical paths, and patterns over them.

use crate::policy::{Path, PathError};

use super::{ask, policy};

/// Each spelling gives the form.
fn check(table: &[(&str, &str)]) {
    for (raw, wanted) in table {
        let found = Path::parse(raw);
        assert_eq!(found.as_ref().map(Path::as_str), Ok(*wanted), "{raw:?}");
        assert_eq!(Path::parse(wanted), found, "{wanted:?} is no fixed point");
    }
}

#[test]
fn h_07_paths_have_one_form() {
    check(&[
        ("/", "/"),
        ("//", "/"),
        ("/a//b", "/a/b"),
        ("/a///b//", "/a/b/"),
        ("/a/./b", "/a/b"),
        ("/a/.", "/a/"),
        ("/a/b/..", "/a/"),
        ("/a/b/../c", "/a/c"),
        ("/a/b/../../c", "/c"),
        ("/a//../b", "/b"),
        ("/%61", "/a"),
        ("/a/%2e/b", "/a/b"),
        ("/a/%2E%2e/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/%7euser", "/~user"),
        ("/a%20b", "/a%20b"),
        ("/%c3%bc", "/%C3%BC"),
        ("/ü", "/%C3%BC"),
        ("/a%2bb", "/a%2Bb"),
        ("/a+b", "/a+b"),
        ("/a\"<>^`{|}", "/a%22%3C%3E%5E%60%7B%7C%7D"),
        ("/a;v=1/b", "/a;v=1/b"),
        ("/100%25", "/100%25"),
        ("/100%25g0", "/100%25g0"),
        ("/...", "/..."),
        ("/.a/..b", "/.a/..b"),
        ("/:@!$&'()*+,;=", "/:@!$&'()*+,;="),
    ]);
}

#[test]
fn h_07_ambiguous_paths_are_refused() {
    let table = [
        ("", PathError::NotAbsolute),
        ("a", PathError::NotAbsolute),
        ("*", PathError::NotAbsolute),
        ("%2fa", PathError::NotAbsolute),
        ("/a%2fb", PathError::EscapedSlash),
        ("/a%2Fb", PathError::EscapedSlash),
        ("/a\\b", PathError::Backslash),
        ("/a%5cb", PathError::Backslash),
        ("/a%00", PathError::Control),
        ("/a%0d%0aX: y", PathError::Control),
        ("/a\0", PathError::Control),
        ("/a b", PathError::Control),
        ("/a%7f", PathError::Control),
        ("/a%c2%85", PathError::Control),
        ("/a?b", PathError::Query('?')),
        ("/a#b", PathError::Query('#')),
        ("/a%", PathError::BadEscape),
        ("/a%2", PathError::BadEscape),
        ("/a%zz", PathError::BadEscape),
        ("/a%+1", PathError::BadEscape),
        ("/a%252fb", PathError::DoubleEscape),
        ("/a%252e", PathError::DoubleEscape),
        ("/a%25%32%66", PathError::DoubleEscape),
        ("/a%25252f", PathError::DoubleEscape),
        ("/%ff", PathError::NotUtf8),
        ("/%c0%ae%c0%ae/", PathError::NotUtf8),
        ("/..", PathError::AboveRoot),
        ("/a/../../b", PathError::AboveRoot),
        ("/%2e%2e/", PathError::AboveRoot),
        ("/a/..;x/b", PathError::DotParameter),
        ("/a/.;/b", PathError::DotParameter),
        ("/a/..%3bx", PathError::DotParameter),
        ("/a/%2e%2e;x", PathError::DotParameter),
        ("/;x/a", PathError::DotParameter),
    ];
    for (raw, wanted) in table {
        assert_eq!(Path::parse(raw), Err(wanted), "{raw:?}");
    }
    assert_eq!(Path::parse(&format!("/{}", "a".repeat(8192))), Err(PathError::TooLong));
}

/// Whether a rule with the one pattern lets the path pass.
fn passes(pattern: &str, path: &str) -> bool {
    let policy = policy(&[&format!("{{ name: r, hosts: [x.example], paths: [\"{pattern}\"] }}")]);
    ask(&policy, "GET", &format!("https://x.example{path}")).is_ok()
}

#[test]
fn y_06_paths_match_by_whole_segments() {
    let table = [
        ("/v1/read/**", "/v1/read/a/b", true),
        ("/v1/read/**", "/v1/read", true),
        ("/v1/read/**", "/v1/read/", true),
        ("/v1/read/**", "/v1/readwrite", false),
        ("/v1/read/**", "/v1/read/../write", false),
        ("/v1/read/**", "/v1/read/%2e%2e/write", false),
        ("/v1/read/**", "/v1/write/../read/a", true),
        ("/v1/read/**", "/V1/read/a", false),
        ("/v1/read", "/v1/read/", false),
        ("/v1/read", "/v1/read/a", false),
        ("/v1/*/x", "/v1/a/x", true),
        ("/v1/*/x", "/v1/a/b/x", false),
        ("/v1/*", "/v1/", false),
        ("/**/x", "/x", true),
        ("/**/x", "/a/b/x", true),
        ("/**/x", "/a/b/xx", false),
        ("/a/**/b/**/c", "/a/1/b/2/b/3/c", true),
        ("/a/**/b/**/c", "/a/1/c", false),
        ("/**", "/", true),
        ("/", "/", true),
        ("/", "/a", false),
        ("/a+b", "/a%2Bb", true),
        ("/ü", "/%c3%bc", true),
    ];
    for (pattern, path, wanted) in table {
        assert_eq!(passes(pattern, path), wanted, "{pattern} against {path}");
    }
}

#[test]
fn y_06_a_deny_covers_what_lenient_origins_take_for_the_path() {
    let policy = policy(&[
        "{ name: all, hosts: [x.example] }",
        "{ name: no, effect: deny, hosts: [x.example], methods: [DELETE, GET], paths: [/admin, /orgs/**] }",
    ]);
    for path in [
        "/admin",
        "/admin/",
        "/ADMIN",
        "/admin;x",
        "/%61dmin",
        "/a/../admin",
        "/orgs",
        "/Orgs/a",
        "/orgs;x/a",
    ] {
        assert!(ask(&policy, "GET", &format!("https://x.example{path}")).is_err(), "{path}");
    }
    for path in ["/administrator", "/x/admin", "/org"] {
        assert!(ask(&policy, "GET", &format!("https://x.example{path}")).is_ok(), "{path}");
    }
    assert!(ask(&policy, "POST", "https://x.example/admin").is_ok());
}

#[test]
fn y_06_many_stars_cost_no_explosion() {
    let pattern = format!("{}/z", "/**/a".repeat(40));
    assert!(!passes(&pattern, &"/a".repeat(2000)));
}
