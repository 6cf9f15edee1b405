//! The built-in denials, and what opens them.

use std::net::{IpAddr, SocketAddr};

use crate::policy::{AddressBook, Permit, Policy, Reason};

use super::{ask, policy};

const PLAIN: &str = "{ name: r, hosts: [x.example] }";
const PRIVATE: &str = "{ name: r, hosts: [x.example], private: true }";

fn permit(policy: &Policy) -> Permit {
    ask(policy, "GET", "https://x.example/").expect("a permit")
}

fn judge(permit: &Permit, address: &str, book: &AddressBook) -> Option<Reason> {
    let address: IpAddr = address.parse().expect("an address");
    permit.check_address(address, book).err().map(|denial| denial.reason)
}

/// Each address is denied for the reason, or passes.
fn check(rule: &str, table: &[(&str, Option<Reason>)]) {
    let permit = permit(&policy(&[rule]));
    for (address, wanted) in table {
        assert_eq!(judge(&permit, address, &AddressBook::default()), *wanted, "{address} under {rule}");
    }
}

#[test]
fn e_13_names_that_lead_to_denied_addresses_are_refused() {
    check(
        PLAIN,
        &[
            ("93.184.216.34", None),
            ("2606:2800:220:1::1", None),
            ("127.0.0.1", Some(Reason::LoopbackAddress)),
            ("127.255.0.1", Some(Reason::LoopbackAddress)),
            ("::1", Some(Reason::LoopbackAddress)),
            ("0.0.0.0", Some(Reason::UnspecifiedAddress)),
            ("0.1.2.3", Some(Reason::UnspecifiedAddress)),
            ("::", Some(Reason::UnspecifiedAddress)),
            ("169.254.1.1", Some(Reason::LinkLocalAddress)),
            ("fe80::1", Some(Reason::LinkLocalAddress)),
            ("febf::1", Some(Reason::LinkLocalAddress)),
            ("224.0.0.1", Some(Reason::MulticastAddress)),
            ("255.255.255.255", Some(Reason::MulticastAddress)),
            ("ff02::1", Some(Reason::MulticastAddress)),
            ("100.64.0.1", Some(Reason::SharedAddress)),
            ("100.63.255.255", None),
            ("10.0.0.1", Some(Reason::PrivateAddress)),
            ("172.15.255.255", None),
            ("172.16.0.1", Some(Reason::PrivateAddress)),
            ("172.32.0.0", None),
            ("192.168.0.1", Some(Reason::PrivateAddress)),
            ("fc00::1", Some(Reason::PrivateAddress)),
            ("fd12::1", Some(Reason::PrivateAddress)),
            ("fec0::1", Some(Reason::PrivateAddress)),
            ("198.18.0.1", Some(Reason::SyntheticAddress)),
            ("198.19.255.255", Some(Reason::SyntheticAddress)),
            ("198.20.0.0", None),
            ("192.0.0.1", Some(Reason::ReservedAddress)),
            ("240.0.0.1", Some(Reason::ReservedAddress)),
        ],
    );
}

#[test]
fn e_14_metadata_is_denied_whatever_a_rule_says() {
    let rule = "{ name: r, hosts: [x.example, 100.64.0.0/10, \"fd00::/8\"], private: true }";
    for rule in [PLAIN, PRIVATE, rule] {
        let addresses = [
            "169.254.169.254",
            "169.254.170.2",
            "fd00:ec2::254",
            "fd20:ce::254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
        ];
        check(rule, &addresses.map(|address| (address, Some(Reason::MetadataAddress))));
    }
}

#[test]
fn e_04_every_ipv6_spelling_of_an_ipv4_address_is_judged_alike() {
    let loopback = [
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b:1::127.0.0.1",
        "2002:7f00:1::1",
        "2001:db8::5efe:127.0.0.1",
        "2001:db8::200:5efe:127.0.0.1",
        "2001:0:7f00:1::",
        "2001:0:102:304:0:0:80ff:fffe",
    ];
    check(PRIVATE, &loopback.map(|address| (address, Some(Reason::LoopbackAddress))));
    check(PLAIN, &[("64:ff9b::10.0.0.1", Some(Reason::PrivateAddress)), ("64:ff9b::1.1.1.1", None)]);
    check(PRIVATE, &[("64:ff9b::10.0.0.1", None), ("::ffff:10.0.0.1", None)]);
}

#[test]
fn y_07_private_opens_private_ranges_only() {
    check(
        PRIVATE,
        &[
            ("10.0.0.1", None),
            ("192.168.1.1", None),
            ("fd12::1", None),
            ("100.64.0.1", None),
            ("127.0.0.1", Some(Reason::LoopbackAddress)),
            ("::1", Some(Reason::LoopbackAddress)),
            ("169.254.1.1", Some(Reason::LinkLocalAddress)),
            ("fe80::1", Some(Reason::LinkLocalAddress)),
            ("198.18.0.1", Some(Reason::SyntheticAddress)),
            ("224.0.0.1", Some(Reason::MulticastAddress)),
            ("0.0.0.0", Some(Reason::UnspecifiedAddress)),
        ],
    );
}

#[test]
fn y_07_a_network_opens_itself_and_a_careless_one_nothing() {
    let closed = Some(Reason::PrivateAddress);
    check(
        "{ name: r, hosts: [x.example, 10.1.0.0/16] }",
        &[("10.1.2.3", None), ("10.2.0.1", closed), ("192.168.0.1", closed), ("::ffff:10.1.2.3", None)],
    );
    check("{ name: r, hosts: [x.example, 0.0.0.0/0] }", &[("10.1.2.3", closed), ("1.1.1.1", None)]);
    let both = policy(&[PLAIN, "{ name: s, hosts: [x.example], private: true }"]);
    assert_eq!(judge(&permit(&both), "10.0.0.1", &AddressBook::default()), None, "rules add up");
    let other = policy(&[PLAIN, "{ name: s, hosts: [y.example], private: true }"]);
    assert_eq!(judge(&permit(&other), "10.0.0.1", &AddressBook::default()), closed, "of another host");
}

#[test]
fn e_15_the_hosts_own_addresses_are_denied_but_for_its_services() {
    let own: Vec<IpAddr> = vec!["203.0.113.7".parse().expect("v4"), "192.168.1.5".parse().expect("v4")];
    let host_services: Vec<SocketAddr> =
        ["127.0.0.1:443", "203.0.113.7:8443"].map(|s| s.parse().expect("a socket address")).to_vec();
    let book = AddressBook { own, host_services };
    let permit = permit(&policy(&[PRIVATE]));
    let table = [
        ("203.0.113.7", Some(Reason::HostAddress)),
        ("::ffff:203.0.113.7", Some(Reason::HostAddress)),
        ("64:ff9b::203.0.113.7", Some(Reason::HostAddress)),
        ("192.168.1.5", Some(Reason::HostAddress)),
        ("192.168.1.6", None),
        ("127.0.0.1", None),
        ("::ffff:127.0.0.1", None),
        ("127.0.0.2", Some(Reason::LoopbackAddress)),
    ];
    for (address, wanted) in table {
        assert_eq!(judge(&permit, address, &book), wanted, "{address}");
    }
}

#[test]
fn e_12_a_permit_for_an_address_is_for_that_address() {
    let policy = policy(&["{ name: r, hosts: [203.0.113.0/24] }"]);
    let permit = ask(&policy, "GET", "https://203.0.113.9/").expect("a permit");
    assert_eq!(judge(&permit, "203.0.113.9", &AddressBook::default()), None);
    assert_eq!(judge(&permit, "203.0.113.10", &AddressBook::default()), Some(Reason::OtherAddress));
}

#[test]
fn y_16_an_address_denial_names_rule_request_and_remedy() {
    let permit = permit(&policy(&[PLAIN]));
    let address = "10.0.0.1".parse().expect("an address");
    let denial = permit.check_address(address, &AddressBook::default()).expect_err("a denial");
    assert_eq!(denial.rule.as_deref(), Some("r"));
    assert_eq!((denial.method.as_deref(), denial.path.as_deref()), (Some("GET"), Some("/")));
    assert!(denial.remedy().contains("private: true"), "{}", denial.remedy());
}
