//! Which request passes, how connections are treated, and what a denial says.

use crate::policy::{Mode, Name, Policy, Reason, Scheme, Treatment, Verdict};

use super::{ask, connect, document, policy, with_request};

/// Each request passes by a rule, or is denied for a reason.
fn check(policy: &Policy, table: &[(&str, &str, Result<&str, Reason>)]) {
    for (method, url, wanted) in table {
        let found = ask(policy, method, url);
        let found = found.as_ref().map(|permit| permit.rule()).map_err(|denial| denial.reason);
        assert_eq!(found, *wanted, "{method} {url}");
    }
}

const DESIGN: &[&str] = &[
    "{ name: read, hosts: [api.x.example, \"*.y.example\"], methods: [GET, HEAD], paths: [\"/repos/acme/**\"], credential: token }",
    "{ name: no-admin, effect: deny, hosts: [api.x.example], paths: [\"/repos/acme/admin/**\"] }",
    "{ name: db, hosts: [db.corp.example], ports: [5432], protocol: tcp, private: true }",
    "{ name: pinned, hosts: [pinned.example], protocol: tls-passthrough }",
    "{ name: clear, hosts: [mirror.example], cleartext: true }",
];

#[test]
fn y_01_without_rules_nothing_gets_out() {
    let empty = Policy::parse("version: 1\n", "p").expect("a policy");
    for policy in [Policy::deny_all(), empty, Policy::named("deny-all").expect("built in")] {
        assert!(!policy.may_resolve(&Name::parse("x.example").expect("a name")));
        assert_eq!(connect(&policy, "x.example", 443).expect_err("denied").reason, Reason::NoRuleForHost);
        check(&policy, &[("GET", "https://x.example/", Err(Reason::NoRuleForHost))]);
    }
}

#[test]
fn y_16_a_denial_says_how_far_the_request_came() {
    check(
        &policy(DESIGN),
        &[
            ("GET", "https://api.x.example/repos/acme/a", Ok("read")),
            ("HEAD", "https://b.y.example/repos/acme", Ok("read")),
            ("GET", "https://y.example/repos/acme", Err(Reason::NoRuleForHost)),
            ("GET", "https://api.x.example:8443/repos/acme", Err(Reason::NoRuleForPort)),
            ("GET", "http://api.x.example:443/repos/acme", Err(Reason::NoRuleForCleartext)),
            ("POST", "https://api.x.example/repos/acme", Err(Reason::NoRuleForMethod)),
            ("GET", "https://api.x.example/repos/acmeevil", Err(Reason::NoRuleForPath)),
            ("GET", "https://api.x.example/repos/acme/admin/x", Err(Reason::DeniedByRule)),
            ("GET", "https://db.corp.example:5432/", Err(Reason::NoRuleForHost)),
            ("GET", "http://mirror.example/", Ok("clear")),
            ("GET", "https://mirror.example/", Ok("clear")),
        ],
    );
}

#[test]
fn y_16_denials_print_as_documented() {
    let policy = policy(DESIGN);
    let denial = ask(&policy, "GET", "https://evil.example/").expect_err("denied");
    assert_eq!(denial.to_string(), "evil.example:443: GET /: no rule names this host");
    let denial = connect(&policy, "evil.example", 443).expect_err("denied");
    assert_eq!(denial.to_string(), "evil.example:443: no rule names this host");
    let denial = ask(&policy, "POST", "https://api.x.example/repos/acme").expect_err("denied");
    let wanted = "api.x.example:443: POST /repos/acme: no rule allows this method (nearest: read)";
    assert_eq!(denial.to_string(), wanted);
    assert_eq!(denial.remedy(), "ask to add POST to the methods of read");
    let json = serde_json::to_value(&denial).expect("JSON");
    assert_eq!(json["reason"], "no_rule_for_method");
}

#[test]
fn y_05_ports_default_to_443_and_80_needs_cleartext() {
    let policy = policy(DESIGN);
    for (host, port, wanted) in [
        ("api.x.example", 443, Some((true, false))),
        ("api.x.example", 80, None),
        ("api.x.example", 8443, None),
        ("api.x.example", 0, None),
        ("mirror.example", 443, Some((true, true))),
        ("mirror.example", 80, Some((true, true))),
    ] {
        let found = match connect(&policy, host, port) {
            Ok(Treatment::Inspect { tls, cleartext, .. }) => Some((tls, cleartext)),
            Ok(other) => panic!("{host}:{port} is {other:?}"),
            Err(denial) => {
                assert_eq!(denial.reason, Reason::NoRuleForPort);
                None
            }
        };
        assert_eq!(found, wanted, "{host}:{port}");
    }
}

#[test]
fn y_06_methods_match_as_parsed() {
    let policy = policy(&[
        "{ name: any, hosts: [x.example] }",
        "{ name: dav, hosts: [y.example], methods: [PROPFIND] }",
    ]);
    let refused = Err(Reason::NoRuleForMethod);
    let mut table: Vec<_> = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
        .map(|m| (m, "https://x.example/", Ok("any")))
        .into();
    table.extend(
        ["get", "Get", "PROPFIND", "TRACE", "CONNECT", ""].map(|m| (m, "https://x.example/", refused)),
    );
    table.extend([("PROPFIND", "https://y.example/", Ok("dav")), ("GET", "https://y.example/", refused)]);
    check(&policy, &table);
}

#[test]
fn y_08_raw_protocols_pass_by_host_and_port_and_nothing_else() {
    let policy =
        policy(&[DESIGN[2], DESIGN[3], "{ name: net, hosts: [203.0.113.0/24], ports: [22], protocol: tcp }"]);
    for (host, port, rule) in [("db.corp.example", 5432, "db"), ("203.0.113.9", 22, "net")] {
        match connect(&policy, host, port).expect("allowed") {
            Treatment::Tcp(permit) => {
                assert_eq!((permit.rule(), permit.scheme(), permit.method()), (rule, Scheme::Http, ""));
            }
            other => panic!("{other:?}"),
        }
    }
    let Ok(Treatment::TlsPassthrough(permit)) = connect(&policy, "pinned.example", 443) else {
        panic!("no passthrough")
    };
    assert_eq!((permit.scheme(), permit.port(), permit.credential()), (Scheme::Https, 443, None));
    for (host, port) in
        [("db.corp.example", 443), ("x.corp.example", 5432), ("203.0.114.9", 22), ("203.0.113.9", 23)]
    {
        assert!(connect(&policy, host, port).is_err(), "{host}:{port}");
    }
}

#[test]
fn y_02_a_deny_wins_over_what_cannot_be_read() {
    let deny = "{ name: no, effect: deny, hosts: [db.corp.example], paths: [/x] }";
    assert_eq!(
        connect(&policy(&[DESIGN[2], deny]), "db.corp.example", 5432).expect_err("denied").reason,
        Reason::DeniedByRule
    );
    let both = [DESIGN[3], "{ name: read, hosts: [pinned.example] }"];
    let treatment = connect(&policy(&both), "pinned.example", 443).expect("allowed");
    assert!(matches!(treatment, Treatment::Inspect { .. }), "inspection wins over passthrough");
}

#[test]
fn e_04_a_denied_network_covers_its_ipv6_spellings() {
    let policy = policy(&[
        "{ name: all, hosts: [0.0.0.0/0, \"::/0\"] }",
        "{ name: no, effect: deny, hosts: [1.1.1.1] }",
    ]);
    for host in ["1.1.1.1", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::1", "::1.1.1.1"] {
        assert_eq!(connect(&policy, host, 443).expect_err(host).reason, Reason::DeniedByRule);
    }
    assert!(connect(&policy, "1.1.1.2", 443).is_ok());
}

#[test]
fn e_06_only_names_that_a_rule_could_allow_resolve() {
    let deny = "{ name: no, effect: deny, hosts: [c.y.example] }";
    let policy = policy(&[DESIGN, &[deny]].concat());
    for (name, wanted) in [
        ("api.x.example", true),
        ("b.y.example", true),
        ("db.corp.example", true),
        ("pinned.example", true),
        ("c.y.example", false),
        ("y.example", false),
        ("a.b.y.example", false),
        ("evil.example", false),
    ] {
        assert_eq!(policy.may_resolve(&Name::parse(name).expect("a name")), wanted, "{name}");
    }
}

#[test]
fn y_12_observe_opens_nothing_more() {
    let enforced = document(DESIGN);
    let observed = enforced.replace("egress:\n", "egress:\n  mode: observe\n");
    let (enforced, observed) = (policy(DESIGN), Policy::parse(&observed, "p").expect("a policy"));
    assert_eq!((enforced.mode(), observed.mode()), (Mode::Enforce, Mode::Observe));
    for url in ["https://api.x.example/repos/acme", "https://api.x.example/", "https://evil.example/"] {
        let verdict = |policy: &Policy| with_request("GET", url, |request| policy.explain(request));
        assert_eq!(verdict(&enforced), verdict(&observed), "{url}");
    }
}

#[test]
fn y_14_explain_names_the_rule_or_what_is_missing() {
    let policy = policy(DESIGN);
    let explain = |method, url| with_request(method, url, |request| policy.explain(request).to_string());
    let table = [
        ("https://api.x.example/repos/acme", "allowed by read, with credential token"),
        ("https://db.corp.example:5432/", "allowed by db, unread"),
        (
            "https://evil.example/",
            "denied (no_rule_for_host): evil.example:443: no rule names this host\n\
             ask for an allow rule with hosts: [\"evil.example\"], ports: [443]",
        ),
    ];
    for (url, wanted) in table {
        assert_eq!(explain("GET", url), wanted);
    }
    assert!(matches!(
        with_request("GET", "https://api.x.example/repos/acme/admin/x", |request| policy.explain(request)),
        Verdict::Denied(denial) if denial.rule.as_deref() == Some("no-admin")
    ));
}

#[test]
fn y_17_a_permit_says_what_was_judged() {
    let permit = ask(&policy(DESIGN), "GET", "https://API.x.example./repos//acme/%61").expect("a permit");
    assert_eq!(permit.host().to_string(), "api.x.example");
    assert_eq!((permit.method(), permit.path(), permit.port()), ("GET", "/repos/acme/a", 443));
    assert_eq!((permit.rule(), permit.credential()), ("read", Some("token")));
}
