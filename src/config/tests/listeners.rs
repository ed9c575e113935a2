//! What forward listeners and token listeners may say, and which routes they serve.

use super::checks::{expect, only};
use super::{load, with};

#[test]
fn forward_and_token_listeners() {
    let header = "require_header = { name = \"x-key\", value = { env = \"KEY\" } }";
    let rows = [
        (
            "serve = \"forwards\"",
            "listener.main.serve",
            "\"forwards\" is not one of \"proxy\", \"forward\", \"token\"",
            "did you mean `forward`?",
        ),
        ("forward = {}", "listener.main.forward", "is for a forward listener alone", "serve = \"forward\""),
        (
            "serve = \"token\"",
            "listener.main.serve",
            "every program of this machine could fetch tokens at a TCP address",
            "require_header",
        ),
        (
            "serve = \"forward\"\nnames = [\"a\"]",
            "listener.main.names",
            "a forward listener has no names of its own: programs name the host that they want",
            "leave it out",
        ),
        (
            "serve = \"forward\"\nforward = { ca = \"mine\" }",
            "listener.main.forward.ca",
            "\"mine\" is not an authority",
            "\"ephemeral\"",
        ),
        (
            "serve = \"forward\"\nforward = { ca = { certificate = { file = \"ca.pem\" } } }",
            "listener.main.forward.ca.private_key",
            "is missing",
            "ca.key",
        ),
        (
            "serve = \"forward\"\nforward = { ca_bundle = \"\" }",
            "listener.main.forward.ca_bundle",
            "is not the path of a file",
            "",
        ),
        (
            "serve = \"forward\"\nforward = { ca_bundle = \"ca.p12\" }",
            "listener.main.forward.ca_bundle",
            "names the PEM file; bearerd writes the one that ends in .p12 beside it",
            "\"ca.pem\"",
        ),
        (
            "serve = \"forward\"\nforward = { ca_bundle = \"ca.pem\" }\n[listener.next]\naddress = \"127.0.0.1:1\"\n\
             serve = \"forward\"\nforward = { ca_bundle = \"ca.crt\" }",
            "listener.next.forward.ca_bundle",
            "bearerd writes /etc/bearerd/ca.p12 too, which is the path of `listener.main.forward.ca_bundle`",
            "another path",
        ),
        (
            "serve = \"forward\"\nforward = { proxy = \"http://egress:1\" }",
            "listener.main.forward.proxy",
            "is for tunnels, and this listener opens none",
            "unmatched",
        ),
    ];
    expect(&rows, |lines| format!("[listener.main]\n{lines}\n{}", with("", "host = \"api.example.com\"")));
    let rows = [(
        "origins = [\"https://app.example\"]",
        "listener.main.origins",
        "a token listener hands tokens to programs, never to browser pages",
        "leave it out",
    )];
    expect(&rows, |lines| {
        format!(
            "[listener.main]\naddress = \"unix:/run/token.sock\"\nserve = \"token\"\n{lines}\n[listener.other]\naddress = \"127.0.0.1:1\"\n{}",
            with("", "")
        )
    });
    let fine = format!(
        "[listener.main]\nserve = \"token\"\n{header}\n[listener.other]\naddress = \"127.0.0.1:1\"\n"
    );
    assert!(load(&format!("{fine}{}", with("", ""))).is_ok());
    assert_eq!(
        only(&format!("{fine}{}", with("", "listener = \"main\""))),
        (
            "route[0].listener".to_owned(),
            "is a token listener, which serves no routes".to_owned(),
            "name another listener".to_owned()
        )
    );
}

/// A route for two listeners, of which `serves` says what they are for.
fn forwarded(serves: [&str; 2], lines: &str) -> String {
    let [one, other] = serves;
    format!(
        "[listener.one]\naddress = \"127.0.0.1:1\"\nserve = \"{one}\"\n[listener.two]\naddress = \"127.0.0.1:2\"\nserve = \"{other}\"\n{}",
        with("", lines).replace("upstream = \"https://h\"\n", "")
    )
}

#[test]
fn a_route_without_upstream_goes_to_the_asked_host_on_forward_listeners_alone() {
    let host = "host = \"api.example.com\"";
    let of = |serves, lines: &str| load(&forwarded(serves, lines));
    for (serves, lines) in [
        (["proxy", "proxy"], host.to_owned()),
        (["forward", "proxy"], host.to_owned()),
        (["forward", "proxy"], format!("{host}\nlistener = \"two\"")),
    ] {
        let (key, message, hint) = only(&forwarded(serves, &lines));
        assert_eq!((&*key, &*message), ("route[0].upstream", "is missing"), "{lines}");
        assert!(hint.contains("serve = \"forward\""), "{hint}");
    }
    for (serves, lines) in [
        (["forward", "forward"], host.to_owned()),
        (["forward", "proxy"], format!("{host}\nlistener = \"one\"")),
    ] {
        let config = of(serves, &lines).unwrap();
        assert!(config.routes[0].to_asked_host);
        assert_eq!(config.routes[0].upstream.text, "https://api.example.com");
    }
    let header = "serve = \"token\"\nrequire_header = { name = \"x-key\", value = { env = \"K\" } }";
    let token = forwarded(["forward", "proxy"], host).replace("serve = \"proxy\"", header);
    assert!(load(&token).unwrap().routes[0].to_asked_host, "a token listener serves no route");
    let wildcard = of(["forward", "forward"], "host = \"*.example.com:8443\"").unwrap();
    assert_eq!(wildcard.routes[0].upstream.authority, "*.example.com:8443");
    let of_route = |lines: &str| only(&forwarded(["forward", "forward"], lines)).1;
    assert_eq!(of_route(""), "is missing");
    let plain = of_route(&format!("{host}\nplaintext = \"allow\""));
    assert_eq!(plain, "has no effect without `upstream`: requests go to their host over TLS");
}

#[test]
fn ports_of_hosts_are_for_forward_listeners() {
    let of = |serve: &str, host: &str| {
        load(&format!("[listener.main]\nserve = \"{serve}\"\n{}", with("", &format!("host = \"{host}\""))))
    };
    for host in ["h:8443", "*.h.example:8443", "[::1]:8443"] {
        assert!(of("forward", host).is_ok(), "{host}");
        let problems = of("proxy", host).unwrap_err().to_string();
        assert!(problems.contains("only a forward listener looks at the port"), "{problems}");
    }
    for host in ["h:443", "h:80", "h:0", "h:", "h:70000", "h:+1", "::1", "[::1]:x"] {
        assert!(of("forward", host).is_err(), "{host}");
    }
}
