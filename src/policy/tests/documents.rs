//! What a document may say, and what each mistake is told.

use std::time::Duration;

use crate::policy::{Limits, Policy};

use super::{ask, document};

/// The document is refused; the first line begins with the place and contains the words.
fn check(text: &str, place: &str, words: &str) {
    let error = Policy::parse(text, "p.yaml").expect_err(text).to_string();
    let first = error.lines().next().unwrap_or_default();
    assert!(
        first.starts_with(&format!("p.yaml:{place}: ")) && first.contains(words),
        "{text}\ngave\n{error}"
    );
}

/// As [`check`], for one rule, whose braces begin at line 4, column 7.
fn check_rule(rule: &str, column: usize, words: &str) {
    check(&document(&[rule]), &format!("4:{column}"), words);
}

#[test]
fn y_03_mistakes_in_the_document_are_told_with_place_and_fix() {
    check("version: 2\n", "1:10", "write 'version: 1'");
    check("version: 1\nextras: 1\n", "1:1", "extras");
    check("version: 1\nlimits: { memry: 1 }\n", "2:9", "memry");
    check("version: 1\nextends: [nowhere]\n", "2:11", "deny-all, package-registries");
    check("version: 1\nversion: 1\n", "2:1", "version");
    check("version: 1\negress: { mode: open }\n", "2:17", "enforce");
    check("version: 1\negress: { rules: 5 }\n", "2:18", "");
    check("version: 1\nprocess: { user: root }\n", "2:18", "write 'user: agent'");
    check("version: 1\nprocess: { seccomp: none }\n", "2:21", "write 'seccomp: default'");
    check("version: 1\nprocess: { seccomp: debug }\n", "2:21", "go together");
    check("version: 1\nprocess: { seccomp: strict, ptrace: true }\n", "2:21", "go together");
    check("version: 1\nlimits: { memory: 2GB }\n", "2:19", "GiB");
    check("version: 1\nlimits: { memory: -1 }\n", "2:19", "GiB");
    check("version: 1\nlimits: { cpus: 0 }\n", "2:17", "cores");
    check("version: 1\nlimits: { idle: 15 }\n", "2:17", "15m");
    check("version: 1\nlimits: { processes: 1.5 }\n", "2:22", "whole number");
    for empty in ["", "# nothing\n", "[]", "version: [1", "\0", "version: 1\n---\nversion: 1\n"] {
        assert!(Policy::parse(empty, "p.yaml").is_err(), "{empty:?}");
    }
}

#[test]
fn y_03_impossible_rules_are_told_with_place_and_fix() {
    check_rule("{ name: a b, hosts: [x.example] }", 15, "rule name");
    check_rule("{ name: a }", 15, "add 'hosts: [name]'");
    check_rule("{ name: a, hosts: [] }", 25, "'hosts' is empty");
    check_rule("{ name: a, effect: deny, paths: [/x] }", 15, "no hosts");
    check_rule("{ name: a, host: [x.example] }", 9, "host");
    check_rule("{ name: a, hosts: [x.example], rate: 60/minute }", 44, "60/min");
    check_rule("{ name: a, hosts: [x.example], rate: 0/min }", 44, "60/min");
    check_rule("{ name: a, hosts: [x.example], rate: 100001/d }", 44, "60/min");
    check_rule("{ name: a, hosts: [x.example], rate: 60 }", 44, "60/min");
    check_rule("{ name: a, effect: deny, hosts: [x.example], rate: 60/min }", 58, "effect: deny");
    check_rule("{ name: a, hosts: [x.example], ports: [0] }", 46, "1 to 65535");
    check_rule("{ name: a, hosts: [x.example], ports: [65536] }", 46, "1 to 65535");
    check_rule("{ name: a, hosts: [x.example], ports: [] }", 45, "'ports' is empty");
    check_rule("{ name: a, hosts: [x.example], ports: [80] }", 46, "cleartext: true");
    check_rule("{ name: a, hosts: [x.example], methods: [get] }", 48, "case-sensitive");
    check_rule("{ name: a, hosts: [x.example], methods: [TRACE] }", 48, "never passes");
    check_rule("{ name: a, hosts: [x.example], methods: [] }", 47, "'methods' is empty");
    check_rule("{ name: a, hosts: [x.example], paths: [v1] }", 46, "begin with '/'");
    check_rule("{ name: a, hosts: [x.example], paths: [/rea*] }", 46, "whole segments");
    check_rule("{ name: a, hosts: [x.example], paths: [/a/../b] }", 46, "normal form");
    check_rule("{ name: a, hosts: [x.example], paths: [/a%2fb] }", 46, "escaped slash");
    check_rule("{ name: a, hosts: [x.example], credential: \"a b\" }", 50, "credential name");
}

#[test]
fn y_03_a_key_without_a_value_is_no_absence() {
    for key in [
        "hosts",
        "ports",
        "methods",
        "paths",
        "credential",
        "cleartext",
        "private",
        "protocol",
        "rate",
        "websocket",
        "effect",
    ] {
        for nothing in ["", " ~", " null"] {
            let hosts = if key == "hosts" { "" } else { ", hosts: [x.example]" };
            let rule = format!("{{ name: a{hosts}, {key}:{nothing} }}");
            let read = Policy::parse(&document(&[&rule]), "p.yaml");
            assert!(read.is_err(), "{rule} was read");
        }
    }
    for section in ["limits: { memory: }", "limits: { idle: ~ }", "process: { user: }"] {
        assert!(Policy::parse(&format!("version: 1\n{section}\n"), "p.yaml").is_err(), "{section} was read");
    }
}

#[test]
fn y_03_keys_without_meaning_are_refused_together() {
    // The place is that of the value of the key.
    let column =
        |rule: &str, key: &str| 8 + rule.find(key).expect("the key") + key.find(' ').expect("a value");
    for protocol in ["tcp", "tls-passthrough"] {
        for key in ["credential: c", "methods: [GET]", "paths: [/x]", "cleartext: true", "websocket: deny"] {
            let rule =
                format!("{{ name: a, hosts: [x.example], ports: [443], {key}, protocol: {protocol} }}");
            check_rule(&rule, column(&rule, key), &format!("protocol: {protocol}"));
        }
    }
    for key in ["credential: c", "private: true", "cleartext: true", "protocol: tcp"] {
        let rule = format!("{{ name: a, hosts: [x.example], effect: deny, {key} }}");
        check_rule(&rule, column(&rule, key), "effect: deny");
    }
    check_rule("{ name: a, hosts: [x.example], credential: c, cleartext: true }", 50, "cleartext: true");
    check_rule("{ name: a, hosts: [x.example], protocol: tcp }", 15, "ports: [number]");
    check_rule("{ name: a, hosts: [203.0.113.1], protocol: tls-passthrough }", 26, "compares the name");
}

#[test]
fn y_04_hosts_that_name_too_much_or_nothing_are_refused() {
    for (host, words) in [
        ("*", "stands only in front"),
        ("**", "stands only in front"),
        ("*.com", "public suffix"),
        ("**.com", "public suffix"),
        ("*.co.uk", "public suffix"),
        ("*.github.io", "public suffix"),
        ("*.ck", "public suffix"),
        ("**.kawasaki.jp", "public suffix"),
        ("*.localhost", "public suffix"),
        ("a.*.example", "stands only in front"),
        ("a*.x.example", "stands only in front"),
        ("*.*.x.example", "stands only in front"),
        ("***.x.example", "stands only in front"),
        ("*.10.0.0.1", "wildcard over an address"),
        ("*.0.0.0/8", "wildcard over an address"),
        ("*.127.1", "wildcard over an address"),
        ("10.0.0.1/8", "write '10.0.0.0/8'"),
        ("10.0.0.0/33", "prefix length"),
        ("10.0.0.0/", "prefix length"),
        ("10.0.0.0/+8", "prefix length"),
        ("x/8", "no IP address"),
        ("::ffff:10.0.0.0/104", "write it as IPv4"),
        ("127.0.0.1", "within every workspace"),
        ("127.0.0.0/16", "within every workspace"),
        ("::1", "within every workspace"),
        ("224.0.0.0/8", "within every workspace"),
        ("2130706433", "numeric spelling"),
        ("x.example:443", "IPv6"),
        ("https://x.example", "IP address"),
        ("u@x.example", "'@'"),
        ("x..example", "empty label"),
        ("", "empty"),
    ] {
        check_rule(&format!("{{ name: a, hosts: [\"{host}\"] }}"), 26, words);
    }
}

#[test]
fn y_03_several_mistakes_are_told_at_once_and_names_are_unique() {
    let rules = ["{ name: a, hosts: [\"*\"], ports: [0] }", "{ name: a, hosts: [x.example] }"];
    let error = Policy::parse(&document(&rules), "p.yaml").expect_err("mistakes");
    assert_eq!(error.problems().len(), 3, "{error}");
    assert!(error.to_string().contains("p.yaml:5:15: there are two rules called \"a\""), "{error}");
    let text = "version: 1\nextends: [package-registries]\negress:\n  rules:\n    \
                - { name: registry-npm, hosts: [x.example] }\n";
    check(text, "5:15", "two rules called");
}

#[test]
fn y_03_credentials_are_listed_with_rule_and_hosts() {
    let rules = [
        "{ name: a, hosts: [x.example, \"*.y.example\"], credential: c }",
        "{ name: b, hosts: [z.example] }",
    ];
    let policy = Policy::parse(&document(&rules), "p").expect("a policy");
    let listed: Vec<String> = policy
        .credentials()
        .map(|(rule, credential, hosts)| format!("{rule} {credential} {} {}", hosts[0], hosts[1]))
        .collect();
    assert_eq!(listed, ["a c x.example *.y.example"]);
}

#[test]
fn the_document_of_the_manual_is_read() {
    let text = "version: 1\ndescription: x\nextends: [package-registries, package-registries]\n\
                limits: { memory: 2GiB, cpus: 1.5, processes: 512, disk: 10GiB, output: 16MiB, idle: 15m, \
                open_files: 1024, tmp: 512KiB, wall_clock: 500ms }\n\
                process: { user: agent, seccomp: default, ptrace: false }\negress:\n  mode: enforce\n  rules: []\n";
    let policy = Policy::parse(text, "p").expect("a policy");
    let wanted = Limits {
        memory: Some(2 << 30),
        cpus: Some(1500),
        processes: Some(512),
        disk: Some(10 << 30),
        output: Some(16 << 20),
        idle: Some(Duration::from_secs(900)),
        open_files: Some(1024),
        tmp: Some(512 << 10),
        wall_clock: Some(Duration::from_millis(500)),
    };
    assert_eq!(policy.limits(), &wanted);
    assert_eq!(policy.process().user, "agent");
    assert!(ask(&policy, "GET", "https://registry.npmjs.org/left-pad").is_ok());
    assert!(ask(&policy, "PUT", "https://registry.npmjs.org/left-pad").is_err());
}

#[test]
fn i_13_tracing_is_a_right_of_its_own_with_a_profile_of_its_own() {
    let profile = |process: &str| {
        let policy =
            Policy::parse(&format!("version: 1\nprocess: {{ {process} }}\n"), "p").expect("a policy");
        (policy.process().seccomp.clone(), policy.process().ptrace)
    };
    assert_eq!(profile("user: agent"), ("default".to_owned(), false));
    assert_eq!(profile("ptrace: true"), ("debug".to_owned(), true));
    assert_eq!(profile("seccomp: debug, ptrace: true"), ("debug".to_owned(), true));
    assert_eq!(profile("seccomp: strict"), ("strict".to_owned(), false));
}
