//! Policies on the command line, and what a bad one is told.

use crate::host::{check, check_served, text};

#[test]
fn a_bad_policy_is_told_with_its_line_and_starts_nothing() {
    check(|host| {
        let bad =
            host.write("bad.yaml", "version: 1\negress:\n  rules:\n    - { name: a, hostz: [a.example] }\n");
        let bad = bad.to_str().expect("text");
        for arguments in [&["policy", "check", bad][..], &["run", "--policy", bad, "--", "true"]] {
            let output = host.output(arguments);
            let told = text(&output.stderr);
            assert!(
                !output.status.success() && told.contains("hostz") && told.contains("bad.yaml:"),
                "{told}"
            );
        }
        assert_eq!(host.output(&["run", "--policy", bad, "--", "true"]).status.code(), Some(125));
        let (code, told) = host.fails(&["run", "--policy", "/nope.yaml", "--", "true"]);
        assert!(code == 125 && told.contains("/nope.yaml"), "{told}");
        let (code, told) = host.fails(&["run", "--policy", "no-such-policy", "--", "true"]);
        assert!(code == 125 && told.contains("no-such-policy"), "{told}");
    });
}

#[test]
fn explain_names_the_rule_and_answers_by_its_code() {
    check(|host| {
        let policy = host.write(
            "p.yaml",
            "version: 1\negress:\n  rules:\n    - { name: read, hosts: [api.example.com], methods: [GET], paths: [/v1/**] }\n",
        );
        let explain = |method: &str, url: &str| {
            let output = host.output(&["policy", "explain", policy.to_str().expect("text"), method, url]);
            (output.status.success(), text(&output.stdout))
        };
        let (allowed, told) = explain("GET", "https://api.example.com/v1/models?x=1");
        assert!(allowed && told.contains("read"), "{told}");
        for (method, url) in [
            ("POST", "https://api.example.com/v1/x"),
            ("GET", "https://evil.example/"),
            ("GET", "http://api.example.com/v1/x"),
        ] {
            let (allowed, told) = explain(method, url);
            assert!(!allowed && told.contains("denied"), "{method} {url}: {told}");
        }
    });
}

#[test]
fn a_rule_with_an_unknown_credential_and_an_unknown_workspace_are_told() {
    check_served(|host| {
        let policy = host.write(
            "p.yaml",
            "version: 1\negress:\n  rules:\n    - { name: read, hosts: [api.example.com], credential: nope }\n",
        );
        let (code, told) = host.fails(&["create", "x", "--policy", policy.to_str().expect("text")]);
        assert!(code == 1 && told.contains("unknown credential: nope"), "{told}");
        for arguments in [&["exec", "nobody", "--", "true"][..], &["rm", "nobody"], &["cp", "nobody:/x", "y"]]
        {
            let (_, told) = host.fails(arguments);
            assert!(told.contains("unknown workspace: nobody"), "{told}");
        }
    });
}

#[test]
fn y_14_the_cases_of_a_policy_are_judged_without_a_sandbox() {
    check(|host| {
        let document = "version: 1\negress:\n  rules:\n    - { name: read, hosts: [api.example.com], methods: [GET], websocket: deny }\ntests:\n  \
                    - { request: GET https://api.example.com/, expect: allow, rule: read }\n  \
                    - { request: GET wss://api.example.com/, expect: deny }\n";
        let good = host.write("good.yaml", document);
        assert_eq!(host.ok(&["policy", "test", good.to_str().expect("text")]), "2 of 2 cases as expected\n");
        let bad = host.write(
            "bad.yaml",
            &format!("{document}  - {{ request: POST https://api.example.com/, expect: allow }}\n"),
        );
        let output = host.output(&["policy", "test", bad.to_str().expect("text")]);
        let told = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(
            told.contains("bad.yaml:8: POST https://api.example.com/: denied (no_rule_for_method)"),
            "{told}"
        );
    });
}
