//! Rules add up, a deny wins, and their order says nothing.

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use crate::policy::{Policy, Verdict};

use super::{ask, policy, with_request};

const HOSTS: &[&str] = &["x.example", "a.x.example", "b.a.x.example", "y.example", "203.0.113.9"];
const PATTERNS: &[&str] =
    &["x.example", "\"*.x.example\"", "\"**.x.example\"", "y.example", "203.0.113.0/24"];
const METHODS: &[&str] = &["GET", "POST", "DELETE"];
const PATHS: &[&str] = &["/", "/a", "/a/b", "/b"];
const PATH_PATTERNS: &[&str] = &["/a", "/a/**", "/**", "/*"];

fn random_rule(random: &mut StdRng, name: usize) -> String {
    let mut pick = |from: &[&str]| (*from.choose(random).expect("not empty")).to_owned();
    let (host, method, path) = (pick(PATTERNS), pick(METHODS), pick(PATH_PATTERNS));
    let mut rule = format!("name: r{name}, hosts: [{host}]");
    let raw = random.random_bool(0.1);
    let deny = !raw && random.random_bool(0.3);
    if deny {
        rule += ", effect: deny";
    }
    if !raw && random.random_bool(0.5) {
        rule += &format!(", methods: [{method}]");
    }
    if !raw && random.random_bool(0.5) {
        rule += &format!(", paths: [\"{path}\"]");
    }
    if raw {
        rule += ", protocol: tcp, ports: [443]";
    } else if !deny && random.random_bool(0.3) {
        rule += &format!(", credential: c{name}");
    }
    format!("{{ {rule} }}")
}

fn verdicts(policy: &Policy) -> Vec<Verdict> {
    let mut all = Vec::new();
    for host in HOSTS {
        for (method, path) in METHODS.iter().flat_map(|method| PATHS.iter().map(move |path| (method, path))) {
            let url = format!("https://{host}{path}");
            all.push(with_request(method, &url, |request| policy.explain(request)));
        }
    }
    all
}

fn random_rules(random: &mut StdRng) -> Vec<String> {
    let count = random.random_range(1..7);
    (0..count).map(|name| random_rule(random, name)).collect()
}

fn compiled(rules: &[String]) -> Policy {
    policy(&rules.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn y_02_the_order_of_rules_changes_no_verdict() {
    let mut random = StdRng::seed_from_u64(2);
    for _ in 0..300 {
        let mut rules = random_rules(&mut random);
        let before = verdicts(&compiled(&rules));
        rules.shuffle(&mut random);
        assert_eq!(before, verdicts(&compiled(&rules)), "{rules:#?}");
    }
}

#[test]
fn y_02_a_deny_added_anywhere_only_takes_away() {
    let mut random = StdRng::seed_from_u64(3);
    let passes = |verdict: &Verdict| matches!(verdict, Verdict::Allowed { .. });
    for _ in 0..300 {
        let mut rules = random_rules(&mut random);
        let before = verdicts(&compiled(&rules));
        let host = PATTERNS.choose(&mut random).expect("not empty");
        rules.insert(0, format!("{{ name: no, effect: deny, hosts: [{host}], methods: [GET] }}"));
        let after = verdicts(&compiled(&rules));
        assert!(
            before.iter().zip(&after).all(|(before, after)| passes(before) || !passes(after)),
            "{rules:#?}"
        );
    }
}

#[test]
fn y_02_a_deny_wins_across_extends() {
    let text = "version: 1\nextends: [package-registries]\negress:\n  rules:\n    \
                - { name: no, effect: deny, hosts: [pypi.org] }\n";
    let policy = Policy::parse(text, "p").expect("a policy");
    assert!(ask(&policy, "GET", "https://pypi.org/simple/").is_err());
    assert!(ask(&policy, "GET", "https://files.pythonhosted.org/x").is_ok());
}

#[test]
fn y_16_the_most_precise_rule_speaks_then_one_with_a_credential_then_the_first_name() {
    let table = [
        (["{ name: a, hosts: [\"*.x.example\"], credential: c }", "{ name: b, hosts: [a.x.example] }"], "b"),
        (["{ name: a, hosts: [\"**.x.example\"] }", "{ name: b, hosts: [\"*.x.example\"] }"], "b"),
        (["{ name: a, hosts: [a.x.example] }", "{ name: b, hosts: [a.x.example], credential: c }"], "b"),
        (["{ name: b, hosts: [a.x.example] }", "{ name: a, hosts: [a.x.example] }"], "a"),
    ];
    for (rules, wanted) in table {
        let permit = ask(&policy(&rules), "GET", "https://a.x.example/").expect("a permit");
        assert_eq!(permit.rule(), wanted, "{rules:?}");
    }
}
