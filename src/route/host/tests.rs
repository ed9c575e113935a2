use std::path::PathBuf;

use super::*;
use crate::config::fixture;

fn listener(address: &str, names: &[&str]) -> ListenerConfig {
    let address = match address.strip_prefix("unix:") {
        Some(path) => Address::Unix(PathBuf::from(path)),
        None => Address::Tcp(address.parse().unwrap()),
    };
    ListenerConfig {
        address,
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..fixture::listener()
    }
}

fn own(listener: &ListenerConfig, local: Option<&str>, authority: &str) -> bool {
    let local = local.map(|local| local.parse().unwrap());
    split_host(authority).is_some_and(|host| is_own_name(listener, local, &host))
}

#[test]
fn the_port_in_host_is_ignored() {
    for (authority, host) in [
        ("billing.internal", "billing.internal"),
        ("billing.internal:8080", "billing.internal"),
        ("billing.internal:", "billing.internal"),
        ("Billing.INTERNAL:1", "billing.internal"),
        ("localhost.", "localhost."),
        ("my_service-1", "my_service-1"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[::1]:8080", "::1"),
        ("[FD00::A]", "fd00::a"),
    ] {
        assert_eq!(split_host(authority).as_deref(), Some(host), "{authority}");
    }
}

#[test]
fn invalid_hosts_are_refused() {
    let long = "a".repeat(255);
    let ported = format!("{long}:80");
    for authority in [
        "",
        ":80",
        ".",
        "..",
        ".a",
        "a..b",
        "a b",
        " a",
        "a ",
        "a,b",
        "a, b",
        "a@b",
        "user:pw@host",
        "user@host:80",
        "a:b",
        "a:80:81",
        "a:-1",
        "a:+80",
        "a:65536",
        "a:99999999999",
        "a:80 ",
        "::1",
        "[::1",
        "::1]",
        "[]",
        "[]:80",
        "[::1]80",
        "[::1]:x",
        "[fe80::1%eth0]",
        "[127.0.0.1]",
        "[a]",
        "a/b",
        "a?b",
        "a#b",
        "a%41",
        "h\u{e9}",
        "a\\b",
        "a\tb",
        "a\0",
        "http://a",
        "*",
        "*.example.com",
        "a;b",
        "(a)",
        &long,
        &ported,
    ] {
        assert_eq!(split_host(authority), None, "{authority:?}");
    }
}

#[test]
fn localhost_and_loopback_literals_are_own_names() {
    let listener = listener("127.0.0.1:8080", &[]);
    for authority in [
        "localhost",
        "localhost:8080",
        "LOCALHOST",
        "LocalHost:1",
        "127.0.0.1",
        "127.0.0.1:8080",
        "127.0.0.2",
        "127.255.255.254",
        "[::1]",
        "[::1]:8080",
    ] {
        assert!(own(&listener, None, authority), "{authority}");
    }
}

#[test]
fn a3_lookalikes_are_not_own_names() {
    let listeners = [
        listener("127.0.0.1:8080", &[]),
        listener("0.0.0.0:8080", &[]),
        listener("[::]:8080", &[]),
        listener("unix:/s", &[]),
    ];
    for listener in &listeners {
        for authority in [
            "evil.test",
            "localhost.",
            "LOCALHOST.",
            "localhost.evil.test",
            "localhost.localdomain",
            "127.0.0.1.nip.io",
            "127.0.0.1.",
            "0.0.0.0",
            "0",
            "[::]",
            "127.1",
            "127.0.1",
            "2130706433",
            "0x7f000001",
            "0x7f.0.0.1",
            "0177.0.0.1",
            "127.000.000.001",
            "[::ffff:127.0.0.1]",
            "[::127.0.0.1]",
            "[0:0:0:0:0:0:0:1]",
            "[::0001]",
            "localhost@evil.test",
            "evil.test@localhost",
            "localhost,evil.test",
            "localhost:80:evil",
            "10.0.0.5",
            "a.localhost",
        ] {
            assert!(
                !own(listener, Some("10.9.9.9:8080"), authority),
                "{authority} at {:?}",
                listener.address
            );
        }
    }
}

#[test]
fn the_configured_names_are_own_names() {
    let six = listener("127.0.0.1:8080", &["[fd00::1]"]);
    assert!(own(&six, None, "[fd00::1]:80"));
    let listener = listener("127.0.0.1:8080", &["api.internal"]);
    assert!(own(&listener, None, "api.internal:443"));
    assert!(own(&listener, None, "API.Internal"));
    assert!(!own(&listener, None, "api.internal."));
    assert!(!own(&listener, None, "x.api.internal"));
}

#[test]
fn the_own_address_is_an_own_name() {
    let fixed = listener("10.0.0.5:8080", &[]);
    assert!(own(&fixed, None, "10.0.0.5"));
    assert!(own(&fixed, Some("10.0.0.5:8080"), "10.0.0.5:8080"));
    assert!(!own(&fixed, Some("10.0.0.6:8080"), "10.0.0.6"));
    let six = listener("[fd00::1]:8080", &[]);
    assert!(own(&six, None, "[FD00::1]:8080"));
    assert!(!own(&six, None, "[fd00:0::1]"));
}

#[test]
fn at_the_unspecified_address_the_local_address_is_an_own_name() {
    for any in [listener("0.0.0.0:8080", &[]), listener("[::]:8080", &[])] {
        assert!(own(&any, Some("10.0.0.5:8080"), "10.0.0.5"));
        assert!(own(&any, Some("[::ffff:10.0.0.5]:8080"), "10.0.0.5"));
        assert!(!own(&any, Some("10.0.0.5:8080"), "10.0.0.6"));
        assert!(!own(&any, None, "10.0.0.5"));
        assert!(!own(&any, Some("0.0.0.0:0"), "0.0.0.0"));
    }
}

#[test]
fn a_unix_listener_has_no_address_of_its_own() {
    let listener = listener("unix:/run/x.sock", &["api.internal"]);
    assert!(own(&listener, None, "localhost"));
    assert!(own(&listener, None, "api.internal"));
    assert!(!own(&listener, None, "10.0.0.5"));
}
