//! The way out, from inside a real sandbox: what leaves, what does not, and what it is told.

use std::process::Stdio;

use crate::host::{Host, Origin, check, has, text};

const TOKEN: &str = "canary-3f1f0a52b9c84d3fa7c2";

/// A workspace `net` that may reach the origin.
fn check_net(test: impl Fn(&Host, &Origin)) {
    check_at(&Origin::start(), test);
}

fn check_at(origin: &Origin, test: impl Fn(&Host, &Origin)) {
    check(|host| {
        let (config, policy) = origin.documents(host, TOKEN);
        let _serving = host.serve(&["--config", config.to_str().expect("text")]);
        host.ok(&["create", "net", "--policy", policy.to_str().expect("text")]);
        test(host, origin);
    });
}

fn net(host: &Host, script: &str) -> String {
    let output = host.output(&["exec", "net", "--", "sh", "-c", script]);
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

#[test]
fn ordinary_clients_get_through_with_a_token_that_they_do_not_have() {
    check_net(|host, origin| {
        let url = format!("https://{}:{}/v1/models", Origin::NAME, origin.port);
        let clients = [
            ("curl", format!("curl -sS {url}")),
            (
                "python3",
                format!(
                    "python3 -c 'import urllib.request as u; print(u.urlopen(\"{url}\").read().decode())'"
                ),
            ),
            ("node", format!("node -e 'require(\"https\").get(\"{url}\", r => r.pipe(process.stdout))'")),
        ];
        for (client, script) in clients {
            if has(client) {
                let before = origin.seen().matches(TOKEN).count();
                assert!(net(host, &script).contains("models"), "{client}: {}", net(host, &script));
                assert!(origin.seen().matches(TOKEN).count() > before, "{client}: the origin saw no token");
            }
        }
        net(host, &format!("curl -sS -H 'Authorization: Bearer of-the-attacker' {url}"));
        assert!(!origin.seen().contains("of-the-attacker"), "c_06");
    });
}

#[test]
fn c_15_a_rotated_secret_counts_with_the_next_request_of_the_same_connection() {
    check_net(|host, origin| {
        if !has("curl") {
            return;
        }
        let url = format!("https://{}:{}/v1/models", Origin::NAME, origin.port);
        // Two requests on one connection; between them the operator replaces the file, then writes over it.
        host.ok(&["exec", "net", "--", "mkfifo", "-m", "666", "go"]);
        let script =
            format!("(echo 'url={url}'; cat go; echo 'url={url}'; cat go; echo 'url={url}') | curl -sS -K -");
        let mut child = host.hands(&["exec", "net", "--", "sh", "-c", &script]).spawn().expect("exec");
        for secret in ["second-of-the-rotation", "third-of-the-rotation"] {
            let before = origin.seen().matches("GET /v1/models").count();
            let place = host.own().join("token");
            if secret.starts_with("second") {
                let beside = host.write("token.new", secret);
                std::fs::rename(beside, place).expect("rename");
            } else {
                std::fs::write(place, secret).expect("write");
            }
            host.ok(&["exec", "net", "--", "sh", "-c", "echo > go"]);
            net(host, &format!("curl -sS {url}"));
            assert!(origin.seen().contains(secret), "{secret}: {before} requests before");
        }
        assert!(child.wait().expect("wait").success());
        let old = host.write("token", TOKEN);
        assert!(old.exists());
    });
}

#[test]
fn c_02_the_token_is_nowhere_in_the_sandbox_nor_in_what_hands_writes() {
    check_net(|host, origin| {
        let url = format!("https://{}:{}/v1/models", Origin::NAME, origin.port);
        net(host, &format!("curl -sS -v {url} > out 2>&1; env > environment; echo findable > control"));
        // The patterns come through a pipe, so that the search does not find itself; the second one shows that it works.
        let search = "cat > /tmp/patterns; grep -rlsaF -f /tmp/patterns --exclude=patterns /workspace /home /tmp /dev/shm \
                      /etc /run /var /proc/[0-9]*/environ /proc/[0-9]*/cmdline";
        let mut child = host
            .hands(&["exec", "net", "--", "sh", "-c", search])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("exec");
        let patterns = format!("{TOKEN}\nfindable\n");
        std::io::Write::write_all(&mut child.stdin.take().expect("stdin"), patterns.as_bytes())
            .expect("write");
        assert_eq!(text(&child.wait_with_output().expect("wait").stdout), "/workspace/control\n", "inside");
        let mut queue = vec![host.state().to_path_buf(), host.log()];
        while let Some(path) = queue.pop() {
            queue.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
            let bytes = std::fs::read(&path).unwrap_or_default();
            assert!(
                !bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes()),
                "{}",
                path.display()
            );
        }
    });
}

#[test]
fn a_forbidden_path_method_and_host_are_denied_and_explained() {
    check_net(|host, origin| {
        let at = format!("https://{}:{}", Origin::NAME, origin.port);
        let told = net(host, &format!("curl -sS -w '%{{http_code}}' {at}/admin"));
        for part in ["egress_denied", "no_rule_for_path", "403", "[egress denied: api.example.com"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(net(host, &format!("curl -sS -X DELETE {at}/v1/x")).contains("no_rule_for_method"));
        let told = net(host, "curl -sS https://evil.example/");
        assert!(told.contains("[egress denied: evil.example") && told.contains("resolve"), "{told}");
        assert!(!origin.seen().contains("/admin") && !origin.seen().contains("DELETE"));
    });
}

#[test]
fn e_14_addresses_are_no_way_around_names() {
    check_net(|host, origin| {
        let port = origin.port;
        for address in
            ["127.0.0.1", "10.0.0.1", "169.254.169.254", "[::ffff:127.0.0.1]", "198.18.99.99", "1.1.1.1"]
        {
            let told = net(
                host,
                &format!("curl -ksS -m 5 https://{address}:{port}/v1/x -H 'Host: {}:{port}'", Origin::NAME),
            );
            assert!(!told.contains("models") && told.contains("curl: ("), "{address}: {told}");
        }
        let smuggled =
            format!("curl -sS -m 5 --connect-to ::{}:{port} https://evil.example:{port}/v1/x", Origin::NAME);
        assert!(!net(host, &smuggled).contains("models"), "another name to an allowed address");
        let fronted = format!("curl -sS -m 5 -H 'Host: evil.example' https://{}:{port}/v1/x", Origin::NAME);
        assert!(!net(host, &fronted).contains("models"), "another Host on an allowed connection");
    });
}

#[test]
fn servers_of_ones_own_on_loopback_keep_working() {
    if !has("python3") {
        return;
    }
    check_net(|host, _| {
        let script = "import http.server, threading, urllib.request as u
server = http.server.HTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(u.urlopen(f'http://127.0.0.1:{server.server_port}/').status)";
        assert_eq!(host.ok(&["exec", "net", "--", "python3", "-c", script]), "200\n");
    });
}

#[test]
fn every_decision_is_in_the_audit_log() {
    check_net(|host, origin| {
        let at = format!("https://{}:{}", Origin::NAME, origin.port);
        net(
            host,
            &format!(
                "curl -sS {at}/v1/models; curl -sS {at}/admin?key=hidden; curl -sS https://evil.example/"
            ),
        );
        let log = host.ok(&["egress", "tail", "-o", "json"]);
        let lines: Vec<serde_json::Value> =
            log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let count = |decision: &str, kind: &str| {
            lines.iter().filter(|line| line["decision"] == decision && line["kind"] == kind).count()
        };
        assert_eq!((count("allow", "request"), count("deny", "request")), (1, 1), "{log}");
        assert!(count("deny", "dns") >= 1, "{log}");
        assert!(!log.contains("hidden") && !log.contains(TOKEN), "queries and secrets are no part of it");
        assert!(host.ok(&["egress", "tail"]).contains("api-read"));
    });
}

#[test]
fn a_large_body_goes_both_ways() {
    check_net(|host, origin| {
        let at = format!("https://{}:{}", Origin::NAME, origin.port);
        let script = format!(
            "head -c 20000000 /dev/urandom > sent; curl -sS --data-binary @sent {at}/echo -o came; cmp sent came && echo same"
        );
        assert_eq!(net(host, &script).trim(), "same");
    });
}

#[test]
fn h_22_curl_speaks_http2_to_an_origin_that_does_and_its_streams_are_judged() {
    let curl = std::process::Command::new("curl").arg("--version").output();
    if !curl.is_ok_and(|output| text(&output.stdout).contains("HTTP2")) {
        return;
    }
    let origin = Origin::start_with(std::process::Command::new(Origin::program()).arg("--http2"));
    check_at(&origin, |host, origin| {
        let at = format!("https://{}:{}", Origin::NAME, origin.port);
        let before = origin.seen().matches(&format!("authorization: Bearer {TOKEN}")).count();
        let urls = format!("{at}/v1/models {at}/admin {at}/v1/models {at}/stream/100000");
        let told = net(
            host,
            &format!(
                "curl -sS -Z -w ' %{{http_version}}:%{{http_code}}\\n' {urls} | tail -c 500000 | tr -d x"
            ),
        );
        assert_eq!((told.matches("2:200").count(), told.matches("2:403").count()), (3, 1), "{told}");
        assert!(told.contains("no_rule_for_path"), "{told}");
        let seen = origin.seen();
        assert_eq!(seen.matches(&format!("authorization: Bearer {TOKEN}")).count(), before + 3);
        assert!(seen.contains("/v1/models HTTP/2.0") && !seen.contains("/admin"), "{seen}");
        assert!(
            net(host, &format!("curl -sS --http1.1 -w '%{{http_version}}' {at}/v1/models")).ends_with("1.1")
        );
        let upload = format!(
            "head -c 3000000 /dev/urandom > sent; curl -sS --data-binary @sent {at}/echo -o came; cmp sent came && echo same"
        );
        assert_eq!(net(host, &upload).trim(), "same");
    });
}

#[test]
fn o_03_a_changed_audit_log_is_found_by_its_line() {
    check_net(|host, origin| {
        net(host, &format!("curl -sS https://{}:{}/v1/models", Origin::NAME, origin.port));
        assert!(host.ok(&["audit", "verify"]).starts_with("whole: "));
        let log = host.state().join("audit").join("audit.jsonl");
        let changed = std::fs::read_to_string(&log).expect("log").replacen("api-read", "api-none", 1);
        std::fs::write(&log, changed).expect("write");
        let told = host.output(&["audit", "verify"]);
        assert_eq!(told.status.code(), Some(1));
        let told = text(&told.stdout);
        assert!(
            told.contains("audit.jsonl:") && told.contains("was changed") && told.contains("NOT whole"),
            "{told}"
        );
        let json = host.output(&["audit", "verify", "-o", "json"]).stdout;
        let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!(json["findings"][0]["fault"], "changed");
    });
}
