//! The promises of credentials, row by row.

use std::collections::BTreeSet;

use zeroize::Zeroizing;

use super::{Document, Kind, Secret, SecretError, Source, SourceError};

fn document(credentials: &[&str]) -> String {
    let list: String = credentials.iter().map(|credential| format!("  - {credential}\n")).collect();
    format!("version: 1\ncredentials:\n{list}")
}

/// One credential with the given keys beside name, kind and source.
fn bound(keys: &str) -> String {
    document(&[&format!("{{ name: c, kind: bearer, source: {{ env: C }}, {keys} }}")])
}

fn secret(bytes: &[u8]) -> Result<Secret, SecretError> {
    Secret::parse(Zeroizing::new(bytes.to_vec()))
}

/// The document is refused; the first line begins with the place and contains the words.
fn check(text: &str, place: &str, words: &str) {
    let error = Document::parse(text, "c.yaml").expect_err(text).to_string();
    let first = error.lines().next().unwrap_or_default();
    assert!(
        first.starts_with(&format!("c.yaml:{place}: ")) && first.contains(words),
        "{text}\ngave\n{error}"
    );
}

const MANUAL: &[&str] = &[
    "{ name: github-token, kind: bearer, source: { file: /etc/hands/secrets/github }, hosts: [api.github.com], \
     env: GITHUB_TOKEN, pattern: \"ghp_[A-Za-z0-9]{36}\" }",
    "{ name: search-key, kind: header, header: X-Api-Key, source: { env: SEARCH_KEY }, \
     hosts: [\"*.search.example\"], paths: [\"/v1/**\"] }",
    "{ name: maps, kind: query, parameter: key, source: { env: MAPS }, hosts: [maps.example] }",
    "{ name: registry, kind: basic, source: { env: REGISTRY }, hosts: [registry.example], env: REGISTRY_AUTH }",
];

#[test]
fn the_document_of_the_manual_is_read() {
    let read = Document::parse(&document(MANUAL), "c.yaml").expect("a document");
    let kinds: Vec<&Kind> = read.iter().map(super::Credential::kind).collect();
    let (name, parameter) = ("x-api-key".to_owned(), "key".to_owned());
    assert_eq!(kinds, [&Kind::Bearer, &Kind::Header { name }, &Kind::Query { parameter }, &Kind::Basic]);
    let github = read.find("github-token").expect("there");
    assert_eq!(github.source(), &Source::File("/etc/hands/secrets/github".into()));
    assert_eq!((github.name(), github.env()), ("github-token", Some("GITHUB_TOKEN")));
    assert_eq!(read.find("search-key").expect("there").source(), &Source::Env("SEARCH_KEY".to_owned()));
    assert!(read.find("nothing").is_none());
    assert_eq!(Document::empty().iter().count(), 0);
    assert!(Document::empty().placeholders().is_empty());
}

#[test]
fn c_03_a_credential_goes_only_where_it_is_bound() {
    let text = bound(
        "hosts: [X.example, \"*.y.example\", \"**.z.example\", \"2001:db8::1\"], ports: [443, 8443], methods: [GET], paths: [\"/v1/**\", /me]",
    );
    let read = Document::parse(&text, "c.yaml").expect("a document");
    let credential = read.find("c").expect("there");
    for (host, port, method, path, wanted) in [
        ("x.example", 443, "GET", "/v1/a", true),
        ("x.example", 8443, "GET", "/v1", true),
        ("x.example", 443, "GET", "/me", true),
        ("a.y.example", 443, "GET", "/me", true),
        ("a.b.z.example", 443, "GET", "/me", true),
        ("[2001:db8::1]", 443, "GET", "/me", true),
        ("x.example", 80, "GET", "/me", false),
        ("x.example", 443, "POST", "/me", false),
        ("x.example", 443, "get", "/me", false),
        ("x.example", 443, "GET", "/me/", false),
        ("x.example", 443, "GET", "/v1evil", false),
        ("x.example", 443, "GET", "/admin/v1/a", false),
        ("x.example", 443, "GET", "", false),
        ("a.x.example", 443, "GET", "/me", false),
        ("evilx.example", 443, "GET", "/me", false),
        ("x.example.evil", 443, "GET", "/me", false),
        ("y.example", 443, "GET", "/me", false),
        ("a.b.y.example", 443, "GET", "/me", false),
        ("z.example", 443, "GET", "/me", false),
        (".z.example", 443, "GET", "/me", false),
    ] {
        assert_eq!(credential.admits(host, port, method, path), wanted, "{method} {host}:{port}{path}");
    }
}

#[test]
fn c_03_path_patterns_match_whole_segments() {
    for (pattern, path, wanted) in [
        ("/**", "/", true),
        ("/**/x", "/x", true),
        ("/**/x", "/a/b/x", true),
        ("/a/*/c", "/a/b/c", true),
        ("/a/*/c", "/a/c", false),
        ("/a/*", "/a/", false),
        ("/a/**/b/**/c", "/a/b/1/2/c", true),
        ("/a/**/b/**/c", "/a/1/2/c", false),
        ("/a/", "/a/", true),
        ("/a/", "/a", false),
    ] {
        let text = bound(&format!("hosts: [x.example], paths: [\"{pattern}\"]"));
        let read = Document::parse(&text, "c.yaml").expect("a document");
        let admitted = read.iter().any(|credential| credential.admits("x.example", 443, "GET", path));
        assert_eq!(admitted, wanted, "{pattern} against {path}");
    }
}

#[test]
fn c_03_bindings_that_are_too_wide_or_void_are_refused() {
    let column =
        |text: &str, value: &str| text.lines().nth(2).and_then(|line| line.find(value)).expect("there") + 1;
    for (keys, value, words) in [
        ("env: E", "c, kind", "add 'hosts: [name]'"),
        ("hosts: []", "[]", "'hosts' is empty"),
        ("hosts: [\"*\"]", "\"*\"", "is no host"),
        ("hosts: [\"a.*.example\"]", "\"a.*", "is no host"),
        ("hosts: [\"*.com\"]", "\"*.com", "public suffix"),
        ("hosts: [\"**.co.uk\"]", "\"**.co", "public suffix"),
        ("hosts: [\"*.10.0.0.1\"]", "\"*.10", "is no host"),
        ("hosts: [127.1]", "127.1", "is no host"),
        ("hosts: [10.0.0.0/8]", "10.0", "is no host"),
        ("hosts: [bücher.example]", "bücher", "is no host"),
        ("hosts: [x.example], ports: [80]", "80", "never goes over cleartext"),
        ("hosts: [x.example], ports: [0]", "0]", "1 to 65535"),
        ("hosts: [x.example], methods: [get]", "get", "case-sensitive"),
        ("hosts: [x.example], paths: [v1]", "v1", "begin with '/'"),
        ("hosts: [x.example], paths: [/a/../b]", "/a/", "no path pattern"),
        ("hosts: [x.example], paths: [/a%2fb]", "/a%", "no path pattern"),
        ("hosts: [x.example], paths: [/a*]", "/a*", "no path pattern"),
        ("hosts: [x.example], header: x", "x }", "has no meaning"),
        ("hosts: [x.example], pattern: \"[a-z]{20}\"", "\"[a-z]", "without 'env'"),
        ("hosts: [x.example], env: 1X", "1X", "variable name"),
    ] {
        let text = bound(keys);
        check(&text, &format!("3:{}", column(&text, value)), words);
    }
}

#[test]
fn y_03_mistakes_in_the_document_are_told_with_place_and_fix() {
    check("version: 2\n", "1:10", "write 'version: 1'");
    let one = |keys: &str| document(&[&format!("{{ name: c, hosts: [x.example], {keys} }}")]);
    let place = |keys: &str, value: &str| format!("3:{}", 36 + keys.find(value).expect("there"));
    for (keys, value, words) in [
        ("source: { env: E }, kind: sigv4", "sigv4", "not supported yet"),
        ("source: { env: E }, kind: header", "header", "needs 'header'"),
        ("source: { env: E }, kind: query", "query", "needs 'parameter'"),
        ("source: { env: E }, kind: header, header: Host", "Host", "framing"),
        ("source: { env: E }, kind: header, header: \"a b\"", "\"a b", "framing"),
        ("source: { env: E }, kind: query, parameter: \"a&b\"", "\"a&b", "query parameter"),
    ] {
        check(&one(keys), &place(keys, value), words);
    }
    for (source, words) in [
        ("{ store: c }", "not supported yet"),
        ("{ exec: [/bin/true] }", "not supported yet"),
        ("{ vault: { path: x } }", "not supported yet"),
        ("{ systemd: x }", "not supported yet"),
        ("{ file: secret }", "no absolute path"),
        ("{ file: /a/../b }", "no absolute path"),
        ("{ file: /a, env: B }", "has one source"),
        ("{ env: \"A=B\" }", "variable name"),
        ("{ }", "has one source"),
    ] {
        let error = Document::parse(&one(&format!("kind: bearer, source: {source}")), "c").expect_err(source);
        assert!(error.to_string().contains(words), "{source} gave {error}");
    }
    let twice = "{ name: c, kind: bearer, source: { env: C }, hosts: [x.example], env: E }";
    let error = Document::parse(&document(&[twice, twice]), "c.yaml").expect_err("twice");
    assert_eq!(error.problems().len(), 2, "{error}");
    for unknown in ["hosts: [x.example], secret: abc", "hosts: [x.example], source: { value: abc }"] {
        assert!(Document::parse(&bound(unknown), "c").is_err(), "{unknown}");
    }
}

#[test]
fn c_03_a_key_without_a_value_is_no_absence() {
    for key in ["ports", "methods", "paths", "env", "header", "parameter"] {
        let text = bound(&format!("hosts: [x.example], {key}:"));
        assert!(Document::parse(&text, "c.yaml").is_err(), "{text} was read");
    }
}

#[test]
fn c_13_values_that_could_break_a_header_are_refused() {
    for (bytes, wanted) in [
        (&b""[..], SecretError::Empty),
        (b"\n", SecretError::Empty),
        (b"\r\n", SecretError::Empty),
        (b"a\r\nX: y", SecretError::LineBreak),
        (b"a\nb", SecretError::LineBreak),
        (b"a\n\n", SecretError::LineBreak),
        (b"a\r", SecretError::LineBreak),
        (b"a\0b", SecretError::Control),
        (b"a\tb", SecretError::Control),
        (b"a\x7f", SecretError::Control),
        ("pässword".as_bytes(), SecretError::NotAscii),
        (b"\xff", SecretError::NotAscii),
    ] {
        assert_eq!(secret(bytes).map(|_| ()), Err(wanted), "{bytes:?}");
    }
    for bytes in [&b"s3cret"[..], b"s3cret\n", b"s3cret\r\n"] {
        assert_eq!(secret(bytes).expect("a secret").expose(), "s3cret");
    }
}

#[test]
fn c_01_nothing_prints_a_value() {
    let canary = secret(b"canary-7f3a").expect("a secret");
    assert_eq!(format!("{canary:?}"), "Secret(..)");
    let refused = secret(b"canary-7f3a\x01").expect_err("refused");
    let error = SourceError::Invalid { credential: "c".to_owned(), source: refused };
    assert!(!format!("{error} {error:?}").contains("canary"));
}

/// Whether `text` has the shape of one prefix and `length` characters of the class.
fn has_shape(text: &str, prefix: &str, length: usize, class: fn(char) -> bool) -> bool {
    text.strip_prefix(prefix).is_some_and(|rest| rest.len() == length && rest.chars().all(class))
}

#[test]
fn placeholders_are_random_and_have_the_wanted_shape() {
    let read = Document::parse(&document(MANUAL), "c.yaml").expect("a document");
    let mut seen = BTreeSet::new();
    for _ in 0..100 {
        let filled = read.placeholders();
        assert_eq!(filled.keys().collect::<Vec<_>>(), ["GITHUB_TOKEN", "REGISTRY_AUTH"]);
        assert!(has_shape(&filled["GITHUB_TOKEN"], "ghp_", 36, |c| c.is_ascii_alphanumeric()), "{filled:?}");
        let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        assert!(has_shape(&filled["REGISTRY_AUTH"], "hands_", 32, lower), "{filled:?}");
        assert!(filled.into_values().all(|value| seen.insert(value)), "a placeholder came twice");
    }
}

#[test]
fn placeholder_patterns_are_a_small_language() {
    let keys = |pattern: &str| format!("hosts: [x.example], env: E, pattern: '{pattern}'");
    for pattern in ["[a-z]{20}", "x\\.[a-f0-9]{16,20}", "[a-z-]{20}", "[\\]a-z]{20}-end", "a{3}[0-9]{30}"] {
        let read = Document::parse(&bound(&keys(pattern)), "c").expect(pattern);
        let filled = read.placeholders().remove("E").expect("a placeholder");
        assert!(filled.chars().all(|c| c.is_ascii_graphic()), "{filled}");
    }
    for (pattern, words) in [
        ("x", "guessed"),
        ("[a-z]{13}", "guessed"),
        ("[a-z]{0,99}", "guessed"),
        ("[a-z]+", "not supported"),
        ("(a|b)", "not supported"),
        ("[^a]{20}", "not supported"),
        ("[a-z", "class"),
        ("[]", "class"),
        ("[z-a]{20}", "class"),
        ("{20}", "repetition"),
        ("[a-z]{20}{2}", "repetition"),
        ("[a-z]{2,1}", "repetition"),
        ("[a-z]{x}", "repetition"),
        ("[a-z]{20", "repetition"),
        ("[a-z]{513}", "at most 512"),
        ("[a-z]{20} x", "printable"),
        ("[a-zü]{20}", "printable"),
    ] {
        let error = Document::parse(&bound(&keys(pattern)), "c").expect_err(pattern).to_string();
        assert!(error.contains(words), "{pattern} gave {error}");
    }
}
