//! Canonical names, and patterns over them.

use crate::policy::{Host, HostError, Name};

use super::policy;

/// Each spelling gives the form, or none where there is no form.
fn check(table: &[(&str, Option<&str>)]) {
    for (raw, wanted) in table {
        let found = Host::parse(raw).map(|host| host.to_string());
        assert_eq!(found.as_deref().ok(), *wanted, "{raw:?} gave {found:?}");
    }
}

#[test]
fn e_17_a_name_has_one_canonical_form() {
    check(&[
        ("good.test", Some("good.test")),
        ("GOOD.Test", Some("good.test")),
        ("good.test.", Some("good.test")),
        ("ｇｏｏｄ.test", Some("good.test")),
        ("good。test", Some("good.test")),
        ("bücher.example", Some("xn--bcher-kva.example")),
        ("BÜCHER.example", Some("xn--bcher-kva.example")),
        ("XN--BCHER-KVA.example", Some("xn--bcher-kva.example")),
        ("straße.example", Some("xn--strae-oqa.example")),
        ("_acme.good.test", Some("_acme.good.test")),
        ("my_bucket.good.test", Some("my_bucket.good.test")),
        ("r3---sn-x.good.test", Some("r3---sn-x.good.test")),
        ("localhost", Some("localhost")),
        ("1a.test", Some("1a.test")),
        ("0xg.test", Some("0xg.test")),
    ]);
}

#[test]
fn e_17_what_no_name_contains_is_refused() {
    check(&[
        ("", None),
        (".", None),
        ("good.test..", None),
        (".good.test", None),
        ("good..test", None),
        ("evil.test\0.good.test", None),
        ("good.test\n", None),
        ("good.test\u{7f}", None),
        ("good%2etest", None),
        ("good test", None),
        (" good.test", None),
        ("[good.test]", None),
        ("good.test]", None),
        ("user@good.test", None),
        ("good.test:443", None),
        ("good.test/x", None),
        ("good.test\\x", None),
        ("good.test#", None),
        ("good.test?", None),
        ("*.good.test", None),
        ("-good.test", None),
        ("good-.test", None),
        ("xn--a.test", None),
        ("xn--.test", None),
        ("good\u{2024}test", None),
        ("good\u{ff05}2etest", None),
        ("good\u{ff0f}x.test", None),
        ("\u{202e}good.test", None),
    ]);
}

#[test]
fn e_16_numeric_spellings_of_addresses_are_never_names() {
    check(&[
        ("127.0.0.1", Some("127.0.0.1")),
        ("2130706433", None),
        ("0x7f.1", None),
        ("0x7f000001", None),
        ("0X7F000001", None),
        ("0x", None),
        ("017700000001", None),
        ("0177.0.0.1", None),
        ("127.1", None),
        ("127.0.0.01", None),
        ("127.0.0.1.", None),
        ("256.256.256.256", None),
        ("1.2.3.4.5", None),
        ("good.test.1", None),
        ("１２７.0.0.1", None),
        ("[::1%lo]", None),
        ("::1%lo", None),
        ("[::1", None),
        ("::1]", None),
        ("[127.0.0.1]", None),
        ("[::1]", Some("[::1]")),
        ("::1", Some("[::1]")),
        ("2001:DB8::0:1", Some("[2001:db8::1]")),
        ("[::ffff:1.2.3.4]", Some("1.2.3.4")),
    ]);
}

#[test]
fn e_17_lengths_are_those_of_dns() {
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    assert!(Name::parse(&longest).is_ok());
    assert_eq!(Name::parse(&format!("{longest}a")), Err(HostError::TooLong));
    assert_eq!(Name::parse(&format!("{label}a.test")), Err(HostError::TooLong));
}

#[test]
fn e_17_canonical_forms_are_fixed_points() {
    for raw in ["BÜCHER.example.", "Good.TEST.", "[2001:DB8::1]", "ｇｏｏｄ.test", "my_bucket.x"] {
        let once = Host::parse(raw).expect("a host");
        assert_eq!(Host::parse(&once.to_string()), Ok(once));
    }
}

/// A matcher as simple as the promise.
fn naive(pattern: &str, name: &str) -> bool {
    let labels: Vec<&str> = name.split('.').collect();
    let (wildcard, base) =
        pattern.split_once("*.").map_or((None, pattern), |(star, base)| (Some(star), base));
    let base: Vec<&str> = base.split('.').collect();
    let extra = labels.len().checked_sub(base.len());
    labels.ends_with(&base)
        && match wildcard {
            None => extra == Some(0),
            Some("") => extra == Some(1),
            Some(_) => extra >= Some(1),
        }
}

#[test]
fn y_04_patterns_match_whole_labels_and_no_look_alikes() {
    let labels = ["x", "evilx", "a", "b", "x-example", "xxexample"];
    let bases = ["x.example", "evilx.example", "x.example.evil.test", "xexample", "example", "x.example"];
    let mut names: Vec<String> = bases.iter().map(|&base| base.to_owned()).collect();
    for (label, base) in labels.iter().flat_map(|label| bases.iter().map(move |base| (label, base))) {
        names.push(format!("{label}.{base}"));
        names.push(format!("b.{label}.{base}"));
    }
    for pattern in ["x.example", "*.x.example", "**.x.example"] {
        let policy = policy(&[&format!("{{ name: r, hosts: [\"{pattern}\"] }}")]);
        for name in &names {
            let parsed = Name::parse(name).expect("a name");
            assert_eq!(policy.may_resolve(&parsed), naive(pattern, name), "{pattern} against {name}");
        }
    }
}

#[test]
fn y_04_the_index_finds_what_a_scan_of_all_rules_would() {
    use rand::seq::IndexedRandom as _;
    use rand::{Rng as _, SeedableRng as _};
    let mut random = rand::rngs::StdRng::seed_from_u64(4);
    let labels = ["a", "b", "c", "x"];
    for _ in 0..200 {
        let mut name = |most: usize| {
            let parts: Vec<&str> =
                (0..random.random_range(0..most)).map(|_| *labels.choose(&mut random).unwrap()).collect();
            parts.iter().map(|label| format!("{label}.")).collect::<String>() + "owner.example"
        };
        let rules: Vec<String> = (0..20)
            .map(|number| {
                let (host, other) = (name(3), name(3));
                let star = ["", "*.", "**."][number % 3];
                format!(
                    "{{ name: r{number}, hosts: [\"{star}{host}\", \"{other}\", \"10.{number}.0.0/16\"] }}"
                )
            })
            .collect();
        let lines: Vec<&str> = rules.iter().map(String::as_str).collect();
        let policy = policy(&lines);
        for host in [name(4), name(4), "10.7.1.1".to_owned()] {
            let host = Host::parse(&host).expect("a host");
            let found: Vec<&str> = policy.rules.naming(&host).iter().map(|n| &*n.rule.name).collect();
            let scanned = policy.rules.rules().iter();
            let scanned = scanned.filter(|rule| rule.hosts.iter().any(|pattern| pattern.matches(&host)));
            assert_eq!(found, scanned.map(|rule| &*rule.name).collect::<Vec<_>>(), "{host} {rules:?}");
        }
    }
}
