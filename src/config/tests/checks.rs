//! Wrong values of every table but issuers', with their exact messages.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::environment::OtelVariables;
use crate::config::tests::*;
use crate::config::{Severity, Source, Tracing};

/// The message and the hint of the only problem; where there is an error, of the only error.
pub(super) fn only(text: &str) -> (String, String, String) {
    let problems = match load(text) {
        Ok(config) => config.warnings,
        Err(Problems(mut problems)) => {
            problems.retain(|problem| problem.severity == Severity::Error);
            problems
        }
    };
    let [problem] = problems.as_slice() else { panic!("{text}\ngives {problems:#?}") };
    (problem.key.clone(), problem.message.clone(), problem.hint.clone().unwrap_or_default())
}

pub(super) fn expect(rows: &[(&str, &str, &str, &str)], make: impl Fn(&str) -> String) {
    for (lines, key, message, hint) in rows {
        let (found_key, found_message, found_hint) = only(&make(lines));
        assert_eq!((found_key.as_str(), found_message.as_str()), (*key, *message), "{lines}");
        assert!(found_hint.contains(hint), "{lines}: {found_hint}");
    }
}

#[test]
fn top_level() {
    let rows = [
        ("workers = 0", "workers", "must be at least 1", ""),
        ("workers = 2000", "workers", "must be at most 1024", ""),
        ("workers = \"two\"", "workers", "expected a whole number, found \"two\"", ""),
        ("workers = -1", "workers", "expected a whole number, found the number -1", ""),
        (
            "drain_delay = 5",
            "drain_delay",
            "expected a duration such as \"30s\", found the number 5",
            "\"5s\"",
        ),
        ("drain_delay = \"5\"", "drain_delay", "\"5\" is not a duration", "a unit"),
        ("include = \"conf.d/*.toml\"", "include", "expected an array, found \"conf.d/*.toml\"", "brackets"),
        ("include = [\"*/a.toml\"]", "include[0]", "is not a usable pattern", "last part"),
        ("worker = 1", "worker", "unknown key", "did you mean `workers`?"),
        ("frobnicate = 1", "frobnicate", "unknown key", "[[route]]"),
        ("webhook = 1", "webhook", "expected a table, found a number", "[webhook.NAME]"),
        ("[limits]\nheader_bytes = \"64KB\"", "limits.header_bytes", "\"64KB\" is not a size", "KiB"),
        (
            "[limits]\nheader_bytes = 64",
            "limits.header_bytes",
            "expected a size such as \"64KiB\", found the number 64",
            "\"64B\"",
        ),
        ("[limits]\nheader_bytes = \"1B\"", "limits.header_bytes", "must be at least \"1KiB\"", ""),
        ("[limits]\nheader_bytes = \"2MiB\"", "limits.header_bytes", "must be at most \"1MiB\"", ""),
        ("[limits]\nconnections = 0", "limits.connections", "must be at least 1", ""),
        ("[limits]\nconection = 1", "limits.conection", "unknown key", "did you mean `connections`?"),
        ("limits = [1]", "limits", "expected a table, found an array", ""),
        ("limits = 1", "limits", "expected a table, found the number 1", ""),
        (
            "[log]\nformat = \"jsn\"",
            "log.format",
            "\"jsn\" is not one of \"text\", \"json\"",
            "did you mean `json`?",
        ),
        (
            "[log]\nlevel = \"bearerd=loud\"",
            "log.level",
            "\"bearerd=loud\" is not a log filter: no log level follows the \"=\"",
            "\"debug\"",
        ),
        ("[log]\nlevel = \"verbose\"", "log.level", "\"verbose\" is not a log level", "\"debug\""),
        ("[log]\nlevel = \"inof\"", "log.level", "\"inof\" is not a log level", "did you mean \"info\"?"),
        (
            "[log]\nlevel = \"info,[call]=trace\"",
            "log.level",
            "\"[call]=trace\" is not a log filter: spans and fields in brackets are not supported",
            "TARGET=LEVEL",
        ),
        ("[log]\naccess = \"yes\"", "log.access", "expected a boolean, found \"yes\"", ""),
        (
            "[admin]\naddress = \"localhost:9180\"",
            "admin.address",
            "\"localhost:9180\" is not an address",
            "127.0.0.1:9180",
        ),
        ("[admin]\ncallers = \"all\"", "admin.callers", "\"all\" is not one of \"local\", \"network\"", ""),
    ];
    expect(&rows, |lines| format!("{lines}\n{}", with("", "")));
}

#[test]
fn listeners() {
    let rows = [
        (
            "[listener.main]\naddress = \"0.0.0.0:8080\"",
            "listener.main.address",
            "0.0.0.0:8080 can be reached by other machines, and `callers` is \"local\"",
            "callers = \"network\"",
        ),
        (
            "[listener.main]\naddress = \"10.0.0.1:8080\"\ncallers = \"network\"",
            "listener.main.callers",
            "\"network\" lets every machine use the credentials",
            "require_header",
        ),
        (
            "[listener.main]\naddress = \"10.0.0.1:8080\"\ncallers = \"network\"\nallow = []",
            "listener.main.allow",
            "allows no caller",
            "leave it out",
        ),
        (
            "[listener.main]\nallow = [\"10.0.0.0/33\"]",
            "listener.main.allow[0]",
            "\"10.0.0.0/33\" is neither an IP address nor a network",
            "10.0.0.0/8",
        ),
        ("[listener.other]\nnames = [\"a\"]", "listener.other.address", "is missing", "address = "),
        (
            "[listener.main]\naddress = \"127.0.0.1:9180\"",
            "listener.main.address",
            "is the same as that of the admin address",
            "another port",
        ),
        (
            "[listener.a]\naddress = \"127.0.0.1:1\"\n[listener.b]\naddress = \"127.0.0.1:1\"",
            "listener.b.address",
            "is the same as that of listener `a`",
            "",
        ),
        (
            "[listener.a]\naddress = \"127.0.0.1:9180\"\n[admin]\naddress = \"[::]:9180\"",
            "listener.a.address",
            "overlaps that of the admin address",
            "another port",
        ),
        (
            "[listener.a]\naddress = \"127.0.0.1:1\"\n[listener.b]\naddress = \"0.0.0.0:1\"\ncallers = \"network\"\n\
             allow = [\"10.0.0.0/8\"]",
            "listener.b.address",
            "overlaps that of listener `a`",
            "another port",
        ),
        (
            "[listener.\"a b\"]\naddress = \"127.0.0.1:1\"",
            "listener.\"a b\"",
            "is not a valid name",
            "64 letters",
        ),
        ("[listener.main]\nmode = \"0660\"", "listener.main.mode", "is for unix: addresses alone", ""),
        (
            "[listener.main]\naddress = \"unix:/run/p\"\nmode = \"rw\"",
            "listener.main.mode",
            "\"rw\" is not a file mode",
            "octal",
        ),
        (
            "[listener.main]\naddress = \"unix:/run/p\"\nmode = \"1777\"",
            "listener.main.mode",
            "\"1777\" is not a file mode",
            "octal",
        ),
        (
            "[listener.main]\naddress = \"unix:/run/p\"\ngroup = \"no such group\"",
            "listener.main.group",
            "there is no group \"no such group\" on this machine",
            "number",
        ),
        (
            "[listener.main]\naddress = \"unix:/run/p\"\nallow = [\"::1\"]",
            "listener.main.allow",
            "is for TCP addresses alone",
            "",
        ),
        (
            "[listener.main]\nnames = [\"https://a\"]",
            "listener.main.names[0]",
            "is a URL or a path, no host",
            "",
        ),
        (
            "[listener.main]\nnames = [\"a:80\"]",
            "listener.main.names[0]",
            "a host is matched without its port",
            "\"a\"",
        ),
        (
            "[listener.main]\norigins = [\"*\"]",
            "listener.main.origins[0]",
            "any page on the web could then use the credentials",
            "name each",
        ),
        (
            "[listener.main]\nrequire_header = { name = \"x-key\" }",
            "listener.main.require_header.value",
            "is missing",
            "file",
        ),
        (
            "[listener.main]\nrequire_header = { name = \"x key\", value = { env = \"K\" } }",
            "listener.main.require_header.name",
            "is not the name of a header field",
            "",
        ),
        (
            "[listener.main]\nrequire_header = { name = \"x-key\", value = \"canary\" }",
            "listener.main.require_header.value",
            "a secret as a literal, in a file that others may read",
            "chmod 600 bearerd.toml",
        ),
        (
            "[listener.main]\ntls = { certificate = { file = \"c\" } }",
            "listener.main.tls.private_key",
            "is missing",
            "key.pem",
        ),
        (
            "[listener.main]\ntls = { certificate = { file = \"c\" }, private_key = \"canary\" }",
            "listener.main.tls.private_key",
            "a secret as a literal, in a file that others may read",
            "chmod 600",
        ),
    ];
    expect(&rows, |lines| format!("{lines}\n{}", with("", "")));
}

#[test]
fn issuers() {
    let rows = [
        (
            "client_auth = \"client_secret_pots\"",
            "issuer.corp.client_auth",
            "\"client_secret_pots\" is not one of \"client_secret_basic\", \"client_secret_post\", \"client_secret_jwt\", \
             \"private_key_jwt\", \"tls_client_auth\", \"assertion_file\", \"none\"",
            "did you mean `client_secret_post`?",
        ),
        (
            "issuer_url = \"https://idp\"",
            "issuer.corp.issuer_url",
            "cannot be combined with `token_url`",
            "keep one",
        ),
        ("scope = [\"a\"]", "issuer.corp.scope", "unknown key", "did you mean `scopes`?"),
        ("scopes = [\"a b\"]", "issuer.corp.scopes[0]", "\"a b\" is more than one scope", "of its own"),
        ("scopes = \"a\"", "issuer.corp.scopes", "expected an array, found \"a\"", "[\"…\"]"),
        ("refresh_at = 0", "issuer.corp.refresh_at", "must be above 0 and at most 1", ""),
        ("refresh_at = nan", "issuer.corp.refresh_at", "must be above 0 and at most 1", ""),
        ("refresh_at = 1.5", "issuer.corp.refresh_at", "must be above 0 and at most 1", ""),
        ("default_lifetime = \"0s\"", "issuer.corp.default_lifetime", "must be longer than \"0s\"", ""),
        ("params = { scope = \"a\" }", "issuer.corp.params.scope", "has its own key", "use `scopes`"),
        (
            "params = { a = { b = 1 } }",
            "issuer.corp.params.a",
            "is a table, which only a JSON body can hold",
            "file",
        ),
        (
            "params = { a = [[1]] }",
            "issuer.corp.params.a",
            "an array or a table in an array can only be sent as JSON",
            "json",
        ),
        ("params = { a = 2020-01-01 }", "issuer.corp.params.a", "expected a string, found a date", "quotes"),
        (
            "params = { api_key = \"canary\" }",
            "issuer.corp.params.api_key",
            "a secret as a literal, in a file that others may read",
            "chmod",
        ),
        (
            "headers = { \"x y\" = \"1\" }",
            "issuer.corp.headers.\"x y\"",
            "is not the name of a header field",
            "",
        ),
        (
            "headers = { host = \"h\" }",
            "issuer.corp.headers.host",
            "belongs to the connection, so it cannot be set",
            "",
        ),
        (
            "headers = { a = \"1\", A = \"2\" }",
            "issuer.corp.headers.a",
            "is given twice, in two spellings",
            "",
        ),
        (
            "headers = { a = \"1\\n2\" }",
            "issuer.corp.headers.a",
            "is not the value of a header field: it has control characters",
            "",
        ),
        ("response = { token = \"a\" }", "issuer.corp.response.token", "\"a\" is not a JSON pointer", "/a/b"),
        (
            "response = { statuses = [99] }",
            "issuer.corp.response.statuses[0]",
            "99 is not the status of a response",
            "",
        ),
        ("response = { token_types = [] }", "issuer.corp.response.token_types", "names no type", ""),
        ("tls = { roots = \"ca\" }", "issuer.corp.tls.roots", "needs `ca`", "ca.pem"),
        (
            "tls = { ca = { file = \"c\" }, roots = \"system\" }",
            "issuer.corp.tls.roots",
            "\"system\" leaves `ca` without use",
            "both",
        ),
        (
            "tls = { certificate = { file = \"c\" } }",
            "issuer.corp.tls.private_key",
            "is missing beside `certificate`",
            "",
        ),
        ("tls = { server_name = \"a b\" }", "issuer.corp.tls.server_name", "is not a host name", ""),
        (
            "proxy = \"https://egress\"",
            "issuer.corp.proxy",
            "TLS to the proxy itself is not built yet",
            "http://",
        ),
        ("proxy = \"egress:3128\"", "issuer.corp.proxy", "is not an absolute URL", "\"env\""),
        ("proxy = { userinfo = { env = \"U\" } }", "issuer.corp.proxy.url", "is missing", "http://egress"),
        (
            "proxy = \"http://u:canary@egress\"",
            "issuer.corp.proxy",
            "a secret as a literal, in a file that others may read",
            "chmod",
        ),
        (
            "client_secret = \"canary\"",
            "issuer.corp.client_secret",
            "a secret as a literal, in a file that others may read",
            "run `chmod 600 bearerd.toml`, or write { file = \"…\" } or { env = \"…\" }",
        ),
        ("client_secret = {}", "issuer.corp.client_secret", "does not say where the value is", "file"),
        (
            "client_secret = { file = \"a\", env = \"b\" }",
            "issuer.corp.client_secret",
            "has both `file` and `env`",
            "",
        ),
        (
            "client_secret = { file = \"a\", pointer = \"b\" }",
            "issuer.corp.client_secret.pointer",
            "\"b\" is not a JSON pointer",
            "",
        ),
        (
            "client_secret = 5",
            "issuer.corp.client_secret",
            "expected a string, { file = \"…\" }, { env = \"…\" }, { webhook = \"…\" }, { exec = [\"…\"] }, { spiffe = … } or { issuer = \"…\" }, found a number",
            "",
        ),
        (
            "client_auth = \"none\"\nclient_secret = { env = \"S\" }",
            "issuer.corp.client_secret",
            "is not sent with client_auth = \"none\"",
            "",
        ),
    ];
    expect(&rows, |lines| with(lines, ""));
}

#[test]
fn t107_a_second_way_to_authenticate_is_refused() {
    expect(
        &[
            (
                "params = { client_secret = \"canary\" }",
                "issuer.corp.params.client_secret",
                "has its own key",
                "client_secret_post",
            ),
            (
                "headers = { Authorization = { env = \"A\" } }",
                "issuer.corp.headers",
                "sets `authorization`, which client_secret_basic sends too",
                "RFC 6749",
            ),
        ],
        |lines| with(lines, ""),
    );
}

#[test]
fn token_urls() {
    for (url, message) in [
        (
            "http://idp.example/token",
            "http:// would send the client's secret in the clear to another machine",
        ),
        ("https://idp/token#canary", "the URL has a fragment"),
        ("https://u:canary@idp/token", "the URL contains a user or a password"),
        ("idp/token", "is not an absolute URL"),
    ] {
        let text = with("", "").replace("https://idp/token", url);
        assert_eq!(only(&text).1, message, "{url}");
    }
    for url in ["http://localhost:1/t", "http://127.0.0.1/t", "http://[::1]:9/t", "https://idp/token?x=y"] {
        assert!(load(&with("", "").replace("https://idp/token", url)).is_ok(), "{url}");
    }
}

#[test]
fn a_missing_key_is_reported_at_its_table() {
    assert_eq!(
        lines("[issuer.corp]\n\n[[route]]\n"),
        [
            "bearerd.toml:1:9: error: issuer.corp.token_url: is missing",
            "bearerd.toml:1:9: error: issuer.corp.client_secret: is missing",
            "bearerd.toml:1:9: error: issuer.corp.client_id: is missing",
            "bearerd.toml:3:1: error: route[0].name: is missing",
            "bearerd.toml:3:1: error: route[0].upstream: is missing",
            "bearerd.toml:3:1: error: route[0].issuer: is missing",
        ]
    );
    assert_eq!(
        lines(""),
        ["bearerd.toml:1:1: error: route: there is no route, so nothing would be forwarded"]
    );
}

#[test]
fn routes() {
    let rows = [
        ("listener = \"mian\"", "route[0].listener", "there is no listener \"mian\"", "did you mean `main`?"),
        ("host = \"a:80\"", "route[0].host", "the ports 80 and 443 are never part of a host", "\"a\""),
        (
            "host = \"*\"",
            "route[0].host",
            "\"*\" matches no host",
            "unless all its listeners are forward proxies",
        ),
        ("path = \"/a\"\npath_prefix = \"/b\"", "route[0].path", "cannot be combined with `path_prefix`", ""),
        ("path_prefix = \"a\"", "route[0].path_prefix", "\"a\" does not begin with a slash", "\"/a\""),
        ("path_prefix = \"/a/../b\"", "route[0].path_prefix", "the path has a dot segment", ""),
        (
            "path = \"/a%2Fb\"",
            "route[0].path",
            "has an escaped slash, which no request may have here",
            "allow_encoded_slash",
        ),
        ("methods = []", "route[0].methods", "names no method", "leave it out"),
        (
            "methods = [\"get\"]",
            "route[0].methods[0]",
            "\"get\" is not a method: methods are in upper case",
            "\"GET\"",
        ),
        ("methods = [\"CONNECT\"]", "route[0].methods[0]", "CONNECT is never forwarded", ""),
        ("match_headers = { host = \"a\" }", "route[0].match_headers.host", "is matched by `host`", ""),
        ("match_headers = { a = 1 }", "route[0].match_headers.a", "expected a string, found a number", ""),
        ("protocol = \"h2\"", "route[0].protocol", "\"h2\" is not one of \"auto\", \"http1\", \"http2\"", ""),
        ("inject = { format = \"Bearer\" }", "route[0].inject.format", "must have {token} in it, once", ""),
        (
            "inject = { format = \"{token} {token}\" }",
            "route[0].inject.format",
            "must have {token} in it, once",
            "",
        ),
        (
            "inject = { header = \"te\" }",
            "route[0].inject.header",
            "belongs to the connection, so it cannot be set",
            "",
        ),
        (
            "request_headers = { set = { authorization = { env = \"A\" } } }",
            "route[0].request_headers.set",
            "sets `authorization`, which carries the token",
            "",
        ),
        (
            "request_headers = { set = { cookie = \"canary\" } }",
            "route[0].request_headers.set.cookie",
            "a secret as a literal, in a file that others may read",
            "chmod",
        ),
        (
            "request_headers = { set = { a = \"1\" }, remove = [\"A\"] }",
            "route[0].request_headers.remove[0]",
            "`a` is both set and removed",
            "",
        ),
        ("request_headers = [\"a\"]", "route[0].request_headers", "expected a table, found an array", ""),
        ("refresh_on = [200]", "route[0].refresh_on[0]", "200 does not say that a request failed", "300"),
        ("refresh_on = 401", "route[0].refresh_on", "expected an array, found the number 401", ""),
        ("replay_limit = \"-1B\"", "route[0].replay_limit", "\"-1B\" is not a size", ""),
        ("anonymous = true\nissuer = \"corp\"", "route[0].anonymous", "cannot be combined with `issuer`", ""),
        (
            "anonymous = true\nscopes = [\"a\"]",
            "route[0].scopes",
            "is about a token, but this route sends none",
            "",
        ),
        ("isuer = \"corp\"", "route[0].isuer", "unknown key", "did you mean `issuer`?"),
    ];
    expect(&rows, |lines| with("", lines));
}

#[test]
fn upstreams() {
    for (url, message) in [
        ("http://h", "http:// to another machine: anyone on the way can read the requests and their token"),
        ("https://h/?a=canary", "an upstream has no query"),
        ("https://h/a/../b", "the path has a dot segment"),
        ("https://u:canary@h", "the URL contains a user or a password"),
        ("h", "is not an absolute URL"),
    ] {
        assert_eq!(only(&with("", "").replace("https://h", url)).1, message, "{url}");
    }
    for url in
        ["http://localhost:1", "http://127.1.2.3", "http://[::1]", "unix:/run/app.sock", "https://h:8080"]
    {
        assert!(load(&with("", "").replace("https://h", url)).is_ok(), "{url}");
    }
}

#[test]
fn plaintext_to_another_machine_is_warned_about_where_it_is_allowed() {
    let config = load(&with("", "plaintext = \"allow\"").replace("https://h", "http://h")).unwrap();
    let [warning] = config.warnings.as_slice() else { panic!("{:?}", config.warnings) };
    assert_eq!(warning.severity, Severity::Warning);
    assert_eq!(warning.key, "route[0].upstream");
}

#[test]
fn a10_an_upstream_that_is_our_own_listener_is_refused() {
    for (listener, upstream) in [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("127.0.0.1:8080", "http://localhost:8080/x"),
        ("[::1]:8080", "http://localhost:8080"),
        ("127.0.0.1:443", "https://localhost"),
        ("127.0.0.1:8080", "http://[::ffff:127.0.0.1]:8080"),
        ("unix:/run/p.sock", "unix:/run/p.sock:/a"),
    ] {
        let text = format!("[listener.main]\naddress = \"{listener}\"\n{}", with("", ""))
            .replace("https://h", upstream);
        assert_eq!(
            only(&text).1,
            "is bearerd's own listener `main`: requests would go round in a circle",
            "{upstream}"
        );
    }
    let any =
        "[listener.main]\naddress = \"0.0.0.0:8080\"\ncallers = \"network\"\nallow = [\"10.0.0.0/8\"]\n";
    let text = format!("{any}{}", with("", "")).replace("https://h", "http://127.0.0.1:8080");
    assert!(only(&text).1.starts_with("is bearerd's own listener"));
    let other = with("", "").replace("https://h", "http://127.0.0.2:8080");
    assert!(load(&other).is_ok());
}

#[test]
fn every_error_of_a_run_is_reported_at_once() {
    let text = "workers = \"a\"\n[limits]\nheader_count = \"b\"\nwaiters = \"c\"\n[issuer.corp]\ntoken_url = 1\nclient_id = 2\nrequired = 3\nclint_secret = 4\n[[route]]\nname = 5\nupstream = 6\n[[route]]\nmethods = 7\nfoo = 8\n";
    let found = lines(text);
    for key in [
        "workers",
        "limits.header_count",
        "limits.waiters",
        "issuer.corp.token_url",
        "issuer.corp.client_id",
        "issuer.corp.required",
        "issuer.corp.clint_secret",
        "route[0].name",
        "route[0].upstream",
        "route[1].methods",
        "route[1].foo",
    ] {
        assert_eq!(
            found.iter().filter(|line| line.contains(&format!(" {key}: "))).count(),
            1,
            "{key}: {found:#?}"
        );
    }
}

#[test]
fn all_syntax_errors_are_reported() {
    let found = lines("drain_delay = \nworkers = 1\ninclude = [\n[log]\nlevel = 'x\n");
    for place in ["1:15", "5:9"] {
        let start = format!("bearerd.toml:{place}: error: not TOML: ");
        assert!(found.iter().any(|line| line.starts_with(&start)), "{found:#?}");
    }
}

fn route(name: &str, lines: &str) -> String {
    format!("[[route]]\nname = \"{name}\"\nupstream = \"https://h\"\nanonymous = true\n{lines}\n")
}

#[test]
fn routes_that_tie_are_refused() {
    for (one, other) in [
        ("", ""),
        ("path_prefix = \"/a\"", "path_prefix = \"/%61/\""),
        ("host = \"H\"", "host = \"h\""),
        ("host = \"*.a.example\"", "host = \"*.A.example\""),
        ("methods = [\"GET\", \"PUT\"]", "methods = [\"POST\", \"PUT\"]"),
        ("match_headers = { a = \"1\" }", "match_headers = { b = \"1\" }"),
        ("match_headers = { a = \"1\", b = \"2\" }", "match_headers = { b = \"2\", c = \"3\" }"),
        ("listener = \"main\"", "listener = \"main\""),
    ] {
        let text = format!("{}{}", route("a", one), route("b", other));
        let (key, message, _) = only(&text);
        assert_eq!(key, "route[1]", "{one} {other}");
        assert_eq!(
            message, "route `b` ties with route `a` (bearerd.toml:1:1): one request can match both",
            "{one} {other}"
        );
    }
}

#[test]
fn routes_that_cannot_meet_or_rank_differently_do_not_tie() {
    for (one, other) in [
        ("path = \"/a\"", "path_prefix = \"/a\""),
        ("path_prefix = \"/a\"", "path_prefix = \"/a/b\""),
        ("host = \"a\"", ""),
        ("host = \"a\"", "host = \"*.a\""),
        ("methods = [\"GET\"]", "methods = [\"POST\"]"),
        ("methods = [\"GET\"]", ""),
        ("match_headers = { a = \"1\" }", "match_headers = { a = \"2\" }"),
        ("match_headers = { a = \"1\" }", "match_headers = { a = \"1\", b = \"1\" }"),
        ("match_headers = { a = \"1\", b = \"2\" }", "match_headers = { b = \"3\", c = \"3\" }"),
        (
            "match_headers = { a = \"1\" }\nmethods = [\"GET\"]",
            "match_headers = { b = \"1\" }\nmethods = [\"PUT\"]",
        ),
        ("listener = \"main\"", ""),
    ] {
        let text = format!("{}{}", route("a", one), route("b", other));
        assert!(load(&text).is_ok(), "{one} | {other}: {:?}", lines(&text));
    }
    let two = "[listener.main]\n[listener.b]\naddress = \"127.0.0.1:1\"\n";
    let text = format!("{two}{}{}", route("a", "listener = \"main\""), route("b", "listener = \"b\""));
    assert!(load(&text).is_ok());
}

#[test]
fn names_that_pages_could_ride_on_are_warned_about() {
    const WARNING: &str = "over plain http, a page of any site can send GET requests here that look like a program's, and they would carry the credential";
    let warned = |listener: &str, route: &str| -> Vec<String> {
        let config = load(&format!("{listener}\n{}", with("", route))).unwrap();
        config
            .warnings
            .iter()
            .map(|warning| {
                assert_eq!(warning.message, WARNING);
                warning.key.clone()
            })
            .collect()
    };
    let key = "require_header = { name = \"x-key\", value = { env = \"K\" } }";
    let tls = "tls = { certificate = { file = \"c\" }, private_key = { file = \"k\" } }";
    let main = |keys: &str| format!("[listener.main]\n{keys}");
    let named = "names = [\"api.internal\"]";
    let host = "host = \"api.internal\"";
    assert_eq!(warned(&main(named), ""), ["listener.main.names"]);
    assert_eq!(warned("", host), ["route[0].host"]);
    assert_eq!(warned("", "host = \"*.internal\""), ["route[0].host"]);
    let network = "address = \"0.0.0.0:80\"\ncallers = \"network\"\nallow = [\"10.0.0.0/8\"]";
    assert_eq!(warned(&main(network), ""), ["listener.main.address"]);
    for keys in [key, tls, "address = \"unix:/run/x\""] {
        assert!(warned(&main(&format!("{named}\n{keys}")), host).is_empty(), "{keys}");
    }
    let trustworthy = "names = [\"api.localhost\", \"127.0.0.1\", \"localhost\"]";
    assert!(warned(&main(trustworthy), "host = \"*.localhost\"").is_empty());
    let two = format!("[listener.main]\n[listener.keyed]\naddress = \"127.0.0.1:1\"\n{key}");
    assert_eq!(warned(&two, host), ["route[0].host"]);
    assert!(warned(&two, &format!("{host}\nlistener = \"keyed\"")).is_empty());
}

fn tracing(table: &str) -> Option<Arc<Tracing>> {
    let text = format!("[tracing]\n{table}\n{}", with("", ""));
    load(&text).unwrap_or_else(|problems| panic!("{problems}")).tracing
}

#[test]
fn without_an_endpoint_there_are_no_traces() {
    assert_eq!(load(&with("", "")).unwrap().tracing, None);
    assert_eq!(tracing("sample = 0.5"), None);
}

#[test]
fn defaults_are_what_the_schema_says() {
    let plain = tracing("endpoint = \"http://127.0.0.1:4318\"").unwrap();
    assert_eq!(plain.endpoint.path_and_query, "/v1/traces");
    // What the environment may say is left to it; else these are "bearerd" and 1.0.
    assert_eq!((&plain.service_name, plain.sample), (&None, None));
    let written = "endpoint = \"http://127.0.0.1:4318\"\nprotocol = \"http/protobuf\"\ntimeout = \"10s\"\n\
                   plaintext = \"refuse\"\nheaders = {}";
    assert_eq!(tracing(written), Some(plain));
    let own = tracing("endpoint = \"https://c.example/otlp/v1/traces\"\ntimeout = \"0s\"").unwrap();
    assert_eq!((own.endpoint.path_and_query.as_str(), own.timeout), ("/otlp/v1/traces", None));
}

#[test]
fn errors_are_reported() {
    for (table, words) in [
        ("endpoint = \"127.0.0.1:4318\"", "is not an absolute URL"),
        ("endpoint = \"http://127.0.0.1:4318?key=1\"", "the URL has a query"),
        ("endpoint = \"http://collector.example:4318\"", "http:// to another machine"),
        ("endpoint = \"http://127.0.0.1:4318\"\nsample = 1.5", "is not a share between 0 and 1"),
        ("endpoint = \"http://127.0.0.1:4318\"\nservice_name = \"\"", "is not a valid name"),
        ("endpoint = \"http://127.0.0.1:4318\"\nheaders = { host = \"x\" }", "belongs to the connection"),
        ("endpoint = \"http://u:p@127.0.0.1:4318\"", "the URL contains a user or a password"),
        (
            "endpoint = \"http://127.0.0.1:4318\"\nsample = nan",
            "bearerd.toml:3:1: error: tracing.sample: is not a share between 0 and 1",
        ),
        ("endpoint = \"http://127.0.0.1:4318\"\nservice_name = \"a\\nb\"", "is not a valid name"),
        ("endpoint = \"http://127.0.0.1:4318\"\ntimeout = \"soon\"", "is not a duration"),
        (
            "endpoint = \"http://127.0.0.1:4318\"\nplaintext = \"maybe\"",
            "is not one of \"refuse\", \"allow\"",
        ),
        ("endpoint = \"http://127.0.0.1:4318\"\ntls = { sever_name = \"x\" }", "did you mean `server_name`?"),
        (
            "endpoint = \"http://127.0.0.1:4318\"\nprotocol = \"http/json\"",
            "is not one of \"http/protobuf\", \"grpc\"",
        ),
        ("endpoint = \"http://127.0.0.1:4317/v1/traces\"\nprotocol = \"grpc\"", "the URL has a path"),
        ("endpont = \"http://127.0.0.1:4318\"", "did you mean `endpoint`?"),
    ] {
        let Err(problems) = load(&format!("[tracing]\n{table}\n{}", with("", ""))) else { panic!("{table}") };
        assert!(problems.to_string().contains(words), "{table}: {problems}");
    }
    let allowed = format!(
        "[tracing]\nendpoint = \"http://collector.example:4318\"\nplaintext = \"allow\"\n{}",
        with("", "")
    );
    assert_eq!(load(&allowed).unwrap().warnings.len(), 1);
    assert_eq!(lines(&with("", "")), [""; 0]);
}

/// The table and the variables together, and what is warned about.
fn together(table: &str, variables: &[(&str, &str)]) -> (Option<Arc<Tracing>>, Vec<String>) {
    let table = if table.is_empty() { String::new() } else { format!("[tracing]\n{table}\n") };
    let config = load_beside(&format!("{table}{}", with("", "")), &OtelVariables::of(variables));
    let config = config.unwrap_or_else(|problems| panic!("{problems}"));
    (config.tracing, config.warnings.iter().map(|warning| warning.message.clone()).collect())
}

/// As [`together`], where nothing is warned about and there are traces.
fn on(table: &str, variables: &[(&str, &str)]) -> Arc<Tracing> {
    let (tracing, warnings) = together(table, variables);
    assert_eq!(warnings, [""; 0], "{variables:?}");
    tracing.unwrap_or_else(|| panic!("no traces with {variables:?}"))
}

const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");

#[test]
fn the_environment_says_what_the_file_does_not() {
    for (variables, host, port, path) in [
        (vec![ENDPOINT], "127.0.0.1", 4318, "/v1/traces"),
        (
            vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c.example:1/otlp/")],
            "c.example",
            1,
            "/otlp/v1/traces",
        ),
        (
            vec![ENDPOINT, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://c.example/own")],
            "c.example",
            443,
            "/own",
        ),
        (
            vec![("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "c.example:4317")],
            "c.example",
            4317,
            "/",
        ),
        (
            vec![
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c.example:4318"),
                ("OTEL_EXPORTER_OTLP_INSECURE", "true"),
            ],
            "c.example",
            4318,
            "/v1/traces",
        ),
    ] {
        let url = &on("", &variables).endpoint;
        assert_eq!((url.host.as_str(), url.port, url.path_and_query.as_str()), (host, port, path));
    }
    let tracing = on(
        "sample = 0.5",
        &[
            ENDPOINT,
            ("OTEL_SERVICE_NAME", "billing"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/etc/ca.pem"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            ("OTEL_TRACES_SAMPLER", "always_off"),
        ],
    );
    assert_eq!((tracing.service_name.as_deref(), tracing.sample), (Some("billing"), Some(0.5)));
    assert_eq!(tracing.timeout, Some(Duration::from_millis(1500)));
    assert_eq!(tracing.tls.ca.as_ref().and_then(Source::path), Some(Path::new("/etc/ca.pem")));
    assert_eq!((tracing.batches.queue, tracing.batches.most), (100, 100));
    assert_eq!(tracing.batches.delay, Duration::from_millis(50));
}

#[test]
fn the_file_goes_before_the_environment() {
    let written = "endpoint = \"http://127.0.0.1:1\"\nprotocol = \"grpc\"\nservice_name = \"own\"\n\
                   timeout = \"3s\"\ntls = {}";
    let variables = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:2"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_SERVICE_NAME", "other"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/etc/ca.pem"),
    ];
    assert_eq!(on(written, &variables), on(written, &[]));
}

#[test]
fn the_environment_turns_traces_off() {
    for off in [("OTEL_SDK_DISABLED", "True"), ("OTEL_TRACES_EXPORTER", "none")] {
        assert_eq!(together("", &[ENDPOINT, off]), (None, Vec::new()));
        let (tracing, warnings) = together("endpoint = \"http://127.0.0.1:4318\"", &[off]);
        assert_eq!((tracing, warnings), (None, vec![format!("{} turns traces off", off.0)]));
    }
    assert_eq!(together("", &[("OTEL_SERVICE_NAME", "a"), ("OTEL_PROPAGATORS", "b3")]), (None, Vec::new()));
    assert_eq!(together("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), (None, Vec::new()));
}

#[test]
fn a_variable_that_cannot_be_used_is_a_warning_and_keeps_nothing_from_starting() {
    for (name, value, words) in [
        (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "127.0.0.1:4318",
            "is not an absolute URL, so there are no traces",
        ),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c.example:4318", "http:// to another machine"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1?a=b", "the URL has a query"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "is neither http/protobuf nor grpc"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "is not a whole number"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "is neither gzip nor none"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "key=value,hunter2", "1 of its entries"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "is not a sampler that bearerd has"),
        ("OTEL_TRACES_SAMPLER", "traceidratio", "OTEL_TRACES_SAMPLER_ARG: is not a share"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "is neither otlp nor none"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "is not between 1 and"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1", "is not a whole number"),
        ("OTEL_PROPAGATORS", "b3", "has no effect"),
    ] {
        let (tracing, warnings) = together("", &[ENDPOINT, (name, value)]);
        assert_eq!(tracing.is_none(), name.contains("ENDPOINT"), "{name}");
        let [warning] = warnings.as_slice() else { panic!("{name}: {warnings:?}") };
        assert!(warning.contains(words) && warning.starts_with("OTEL_"), "{warning}");
        assert!(!warning.contains("hunter2"), "{warning}");
    }
}
