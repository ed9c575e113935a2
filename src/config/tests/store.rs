//! `[store]`, and an issuer's `shared` and `budget`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{EXAMPLE, Folder, PRIVATE, is_silent, lines, load, load_as, with};
use crate::config::{
    self, Budget, Problems, RedisConfig, RedisMode, Severity, StoreConfig, StoreHost, StorePlace, TlsOptions,
};

const KEYS: &str = "keys = [{ env = \"STORE_KEY\" }]";

fn text(table: &str) -> String {
    format!("[store]\n{table}\n{}", with("", ""))
}

/// With a key.
fn store(table: &str) -> StoreConfig {
    let text = text(&format!("{table}\n{KEYS}"));
    let config = load(&text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    assert_eq!(config.warnings, [], "{table}");
    StoreConfig::clone(&config.store.unwrap())
}

fn redis(table: &str) -> RedisConfig {
    match store(table).place {
        StorePlace::Redis(redis) => redis,
        StorePlace::Folder(path) => panic!("{}", path.display()),
    }
}

fn tcp(host: &str, port: u16) -> StoreHost {
    StoreHost::Tcp { host: host.to_owned(), port }
}

#[test]
fn without_the_table_there_is_no_store_and_issuers_would_share() {
    let config = load(&with("", "")).unwrap();
    let issuer = &config.issuers["corp"];
    assert_eq!((&config.store, issuer.shared, issuer.budget), (&None, true, None));
}

#[test]
fn a_server_has_every_default() {
    let found = store("url = \"redis://127.0.0.1\"");
    assert_eq!((found.prefix.as_str(), found.timeout), ("bearerd", Duration::from_millis(100)));
    let place = RedisConfig {
        hosts: vec![tcp("127.0.0.1", 6379)],
        tls: None,
        mode: RedisMode::Single,
        username: None,
        password: None,
        database: 0,
    };
    assert_eq!(found.place, StorePlace::Redis(place));
    let written =
        "url = \"redis://127.0.0.1:6379/0\"\ncluster = false\nprefix = \"bearerd\"\ntimeout = \"100ms\"";
    assert_eq!(store(written), found);
}

#[test]
fn every_kind_of_store_is_read() {
    let found =
        redis("url = \"rediss://Cache.internal:7000/3\"\nusername = \"b\"\npassword = { file = \"p\" }");
    assert_eq!((found.hosts, found.database), (vec![tcp("cache.internal", 7000)], 3));
    assert_eq!(found.tls, Some(TlsOptions::default()));
    assert_eq!(found.username.unwrap().read().unwrap().expose(), b"b");
    assert_eq!(found.password.unwrap().path(), Some(Path::new("/etc/bearerd/p")));

    let found = redis("url = \"rediss://c\"\ntls = { roots = \"bundled\", server_name = \"x.example\" }");
    assert_eq!(found.tls.unwrap().server_name.as_deref(), Some("x.example"));

    let found = redis("url = \"unix:redis.sock\"\npassword = { file = \"p\" }");
    assert_eq!((found.hosts, found.tls), (vec![StoreHost::Unix("/etc/bearerd/redis.sock".into())], None));

    let found = redis("cluster = true\nurls = [\"redis://a\", \"redis://b:7001/0\"]");
    assert_eq!((found.mode, found.hosts), (RedisMode::Cluster, vec![tcp("a", 6379), tcp("b", 7001)]));
    assert_eq!(redis("cluster = true\nurl = \"redis://a\"").mode, RedisMode::Cluster);

    let found = redis("sentinel = \"mymaster\"\nurls = [\"redis://a/2\", \"redis://b:1/2\"]");
    assert_eq!(found.mode, RedisMode::Sentinel { service: "mymaster".to_owned() });
    assert_eq!((found.hosts, found.database), (vec![tcp("a", 26379), tcp("b", 1)], 2));

    let found = store("path = \"tokens\"\nprefix = \"p\"\ntimeout = \"1s\"");
    assert_eq!((found.prefix.as_str(), found.timeout), ("p", Duration::from_secs(1)));

    assert_eq!(redis("urls = [\"redis://a\"]").mode, RedisMode::Single);
    assert_eq!(store("path = \"tokens\"").place, StorePlace::Folder(PathBuf::from("/etc/bearerd/tokens")));
    assert_eq!(store("url = \"redis://a\"\ntimeout = \"5s\"").timeout, Duration::from_secs(5));
    assert_eq!(store("url = \"redis://a\"\nprefix = \"team-1:bearerd_x.\"").prefix, "team-1:bearerd_x.");
}

/// The one problem, as `key: message | hint`.
fn told(text: &str) -> String {
    let problems = match load(text) {
        Ok(config) => config.warnings,
        Err(Problems(problems)) => problems,
    };
    let [problem] = problems.as_slice() else { panic!("{text}: {problems:#?}") };
    assert!(problem.line > 0, "{problem:?}");
    let hint = problem.hint.as_deref().unwrap_or_default();
    format!("{}: {}: {} | {hint}", problem.severity, problem.key, problem.message)
}

#[test]
fn what_cannot_be_a_store_is_refused_at_its_place_with_a_fix() {
    for (table, words, hint) in [
        ("", "error: store.url: is missing", "path ="),
        ("prefix = \"a\"", "error: store.url: is missing", "url ="),
        (
            "url = \"redis://a\"\nurls = [\"redis://b\"]",
            "store.urls: cannot be combined with `url`",
            "keep one",
        ),
        ("url = \"redis://a\"\npath = \"b\"", "store.path: cannot be combined with `url`", "keep one"),
        ("urls = [\"redis://a\"]\npath = \"b\"", "store.path: cannot be combined with `urls`", "keep one"),
        ("urls = []", "store.urls: names no server", "urls ="),
        ("url = \"http://a\"", "store.url: the URL's scheme is none of redis, rediss, unix", "rediss://"),
        ("url = \"rediss://a:b@c\"", "store.url: the URL contains a user or a password", "`password`"),
        ("url = \"redis://a/b\"", "store.url: the URL's path is not the number of a database", "/1"),
        (
            "cluster = true\nurls = [\"redis://a\", \"a\"]",
            "store.urls[1]: is not the URL of a store",
            "rediss://",
        ),
        (
            "cluster = true\nurls = [\"redis://a\", \"rediss://b\"]",
            "store.urls[1]: has a different scheme",
            "same scheme",
        ),
        (
            "sentinel = \"s\"\nurls = [\"redis://a\", \"redis://b/1\"]",
            "store.urls[1]: names a different database",
            "the same database",
        ),
        (
            "cluster = true\nurls = [\"redis://a\", \"redis://a:6379\"]",
            "store.urls[1]: repeats an earlier server",
            "leave it",
        ),
        (
            "urls = [\"redis://a\", \"redis://b\"]",
            "store.urls: names several servers",
            "cluster = true or sentinel",
        ),
        ("cluster = true\nurl = \"redis://a/1\"", "store.url: names a database", "leave it out"),
        ("cluster = true\nurl = \"unix:/a\"", "store.url: is a socket", "redis://"),
        ("sentinel = \"s\"\nurl = \"unix:/a\"", "store.url: is a socket", "redis://"),
        (
            "url = \"redis://a\"\ncluster = true\nsentinel = \"s\"",
            "store.sentinel: cannot be combined with `cluster`",
            "keep one",
        ),
        ("url = \"redis://a\"\nsentinel = \"\"", "store.sentinel: is not the name of a service", "mymaster"),
        (
            "url = \"redis://a\"\nsentinel = \"a b\"",
            "store.sentinel: is not the name of a service",
            "mymaster",
        ),
        ("url = \"redis://a\"\ntls = {}", "store.tls: is for rediss://", "rediss://"),
        ("url = \"unix:/a\"\ntls = { roots = \"bundled\" }", "store.tls: is for rediss://", "leave it out"),
        (
            "url = \"rediss://a\"\nusername = \"u\"",
            "store.password: is missing beside `username`",
            "password =",
        ),
        (
            "url = \"rediss://a\"\nusername = \"\"\npassword = { env = \"P\" }",
            "store.username: is empty",
            "default user",
        ),
        ("url = \"redis://a\"\ntimeout = \"0s\"", "store.timeout: must be longer than \"0s\"", "100ms"),
        ("url = \"redis://a\"\ntimeout = \"5001ms\"", "store.timeout: must be at most \"5s\"", "100ms"),
        ("url = \"redis://a\"\ntimeout = 100", "store.timeout: expected a duration", "\"100s\""),
        ("url = \"redis://a\"\nprefix = \"\"", "store.prefix: is not a valid prefix", "1 to 64"),
        ("url = \"redis://a\"\nprefix = \"a b\"", "store.prefix: is not a valid prefix", "1 to 64"),
        ("url = \"redis://a\"\nprefix = \"a{b}\"", "store.prefix: is not a valid prefix", "1 to 64"),
        ("path = \"\"", "store.path: is not the path of a folder", "path ="),
        ("path = \"redis://a\"", "store.path: is a URL", "`url`"),
        ("url = \"redis://a\"\npasword = 1", "store.pasword: unknown key", "`password`"),
        (
            "url = \"rediss://a\"\ntls = { sever_name = \"x\" }",
            "store.tls.sever_name: unknown key",
            "server_name",
        ),
        (
            "url = \"redis://cache.internal\"\npassword = { env = \"P\" }",
            "warning: store.password: redis:// sends the password in the clear to another machine (cache.internal)",
            "rediss://",
        ),
    ] {
        let told = told(&text(&format!("{table}\n{KEYS}")));
        let (found, fix) = told.split_once(" | ").unwrap();
        assert!(found.contains(words) && fix.contains(hint), "{table}: {told}");
    }
}

#[test]
fn keys_of_a_server_are_refused_beside_a_folder() {
    for (key, value) in [
        ("cluster", "true"),
        ("sentinel", "\"s\""),
        ("username", "\"u\""),
        ("password", "{ env = \"P\" }"),
        ("tls", "{}"),
    ] {
        let told = told(&text(&format!("path = \"a\"\n{key} = {value}\n{KEYS}")));
        assert!(told.contains(&format!("store.{key}: is for a server")), "{told}");
    }
}

#[test]
fn every_error_is_reported_at_once() {
    let table = "url = \"ftp://a\"\ncluster = true\nsentinel = \"s\"\nusername = \"\"\nprefix = \"a b\"\n\
                 timeout = \"0s\"\nkeys = []\ntls = { roots = \"x\" }";
    let found = lines(&text(table)).join("\n");
    for key in ["url", "sentinel", "username", "password", "prefix", "timeout", "keys", "tls.roots"] {
        assert_eq!(found.matches(&format!("store.{key}: ")).count(), 1, "{key}: {found}");
    }
}

#[test]
fn a_store_has_keys_and_each_once() {
    let keys = |keys: &str| told(&text(&format!("url = \"redis://a\"\n{keys}")));
    for (written, words) in [
        ("", "store.keys: is missing"),
        ("keys = []", "store.keys: is empty"),
        (
            "keys = [{ file = \"a\" }, { env = \"K\" }, { file = \"./a\" }]",
            "store.keys[2]: is the same as keys[0]",
        ),
        ("keys = [{ file = \"a\" }, { file = \"/etc/bearerd/a\" }]", "store.keys[1]: is the same as keys[0]"),
        ("keys = { file = \"a\" }", "store.keys: expected an array"),
    ] {
        assert!(keys(written).contains(words), "{written}: {}", keys(written));
    }
    assert!(keys("").contains("openssl rand -base64 32"), "{}", keys(""));
}

#[test]
fn a_literal_key_needs_a_private_file_and_32_bytes() {
    let good = "ab".repeat(32);
    let written = |key: &str| text(&format!("url = \"redis://a\"\nkeys = [\"{key}\"]"));
    let config = load_as(&written(&good), PRIVATE).unwrap();
    assert_eq!(config.store.unwrap().keys.len(), 1);
    assert!(told(&written(&good)).contains("store.keys[0]: a secret as a literal"));
    let Err(Problems(problems)) = load_as(&written("hunter2"), PRIVATE) else { panic!() };
    assert!(problems[0].message.starts_with("is not a key of 32 bytes in base64 or hex"), "{problems:?}");
    assert!(!format!("{problems:?}").contains("hunter2"));
    let Err(Problems(problems)) =
        load_as(&text(&format!("url = \"redis://a\"\nkeys = [\"{good}\", \"{good}\"]")), PRIVATE)
    else {
        panic!()
    };
    assert_eq!(problems[0].message, "is the same as keys[0]");
}

#[test]
fn a_key_that_can_be_read_is_checked_and_never_shown() {
    let folder = Folder::new("store-keys");
    let config = |keys: &str| {
        folder.write(
            "bearerd.toml",
            &text(&format!("path = \"tokens\"\nkeys = [{keys}]"))
                .replace("{ env = \"S\" }", "{ file = \"good\" }"),
        );
        folder.load().unwrap_or_else(|problems| panic!("{problems}"))
    };
    let good = "ab".repeat(32);
    folder.write_as("good", &format!("{good}\n"), 0o600);
    folder.write_as("again", &good.to_uppercase(), 0o600);
    folder.write_as("bad", "hunter2", 0o600);
    let keys = "{ file = \"good\" }, { file = \"bad\" }, { file = \"gone\" }, { file = \"again\" }";
    let found: Vec<String> = config::check_references(&config(keys))
        .iter()
        .map(|problem| problem.to_string().replace(&format!("{}/", folder.0.display()), ""))
        .collect();
    assert_eq!(
        found,
        [
            "bearerd.toml:3:46: warning: store.keys[2]: file gone: no such file\n  help: create the file, or correct its path; until then, bearerd works without the store",
            "bearerd.toml:3:28: error: store.keys[1]: file bad: is not a key of 32 bytes in base64 or hex: it is neither hex nor base64\n  help: `openssl rand -base64 32` makes one",
            "bearerd.toml:3:65: warning: store.keys[3]: file again: is the same key as keys[0]\n  help: leave one of them out when the rotation is over",
        ]
    );
    // Nothing waits for a store.
    assert_eq!(config::missing_values(&config(keys)), [""; 0]);

    folder.write("tokens", "");
    let found = config::check_references(&config("{ file = \"good\" }"));
    let [problem] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((problem.severity, problem.key.as_str()), (Severity::Warning, "store.path"));
    assert!(problem.message.ends_with("is not a folder, so no token can be kept"), "{problem}");
}

#[test]
fn everything_that_a_store_reads_is_watched_and_its_secrets_are_known() {
    let table = "url = \"rediss://a\"\nusername = { file = \"u\" }\npassword = { file = \"p\" }\n\
                 keys = [{ file = \"k\" }]\ntls = { ca = { file = \"ca\" } }";
    let config = load(&text(table)).unwrap();
    let mut found: Vec<(&str, bool)> = config
        .references
        .iter()
        .filter(|used| used.key.starts_with("store."))
        .map(|used| (used.key.as_str(), used.secret))
        .collect();
    found.sort_unstable();
    let wanted = [
        ("store.keys[0]", true),
        ("store.password", true),
        ("store.tls.ca", false),
        ("store.username", false),
    ];
    assert_eq!(found, wanted);
    let watched = config::referenced_files(&config);
    for name in ["ca", "k", "p", "u"] {
        assert!(watched.contains(&Path::new("/etc/bearerd").join(name)), "{name}");
    }
}

#[test]
fn a_change_of_the_table_is_seen_and_an_equal_one_is_equal() {
    let table = "url = \"rediss://a\"\npassword = { file = \"p\" }";
    assert_eq!(store(table), store(&format!("{table} # the same")));
    for other in [
        "url = \"rediss://b\"\npassword = { file = \"p\" }",
        "url = \"rediss://a\"\npassword = { file = \"q\" }",
        "url = \"rediss://a/1\"\npassword = { file = \"p\" }",
        "url = \"rediss://a\"\npassword = { file = \"p\" }\ntimeout = \"1s\"",
        "url = \"rediss://a\"\npassword = { file = \"p\" }\ntls = { roots = \"bundled\" }",
        "path = \"p\"",
    ] {
        assert_ne!(store(table), store(other), "{other}");
    }
}

#[test]
fn no_secret_of_a_store_is_shown() {
    for table in [
        "url = \"redis://u:hunter2@h\"",
        "url = \"rediss://h?password=hunter2\"",
        "url = \"ftp://u:hunter2@h\"",
        "urls = [\"redis://h\", \"redis://:hunter2@h\"]",
        "url = [\"redis://:hunter2@h\"]",
        "path = \"redis://:hunter2@h\"",
        "password = \"hunter2\"",
        "pasword = \"hunter2\"",
        "keys = [\"hunter2\"]",
        "keys = \"hunter2\"",
        "key = \"hunter2\"",
        "keys = [[\"hunter2\"]]",
        "username = 5\npassword = [\"hunter2\"]",
    ] {
        is_silent(&text(table));
        is_silent(&text(&format!("{table}\n{KEYS}")));
    }
}

#[test]
fn a_store_belongs_to_the_main_file() {
    let folder = Folder::new("store-included");
    folder.write("bearerd.toml", &format!("include = [\"conf.d/*.toml\"]\n{}", with("", "")));
    folder.write("conf.d/a.toml", &format!("[store]\npath = \"a\"\n{KEYS}\n"));
    assert_eq!(
        folder.told(),
        ["conf.d/a.toml:1:2: error: store: an included file holds only issuers and routes"]
    );
}

#[test]
fn the_examples_ways_to_write_a_store_load() {
    let from = EXAMPLE.find("[store]").unwrap();
    let section = EXAMPLE.get(from..EXAMPLE.find("[listener.main]").unwrap()).unwrap();
    let (server, folder) = section.split_once("\n\n").unwrap();
    let urls = server.replace("\nurl = ", "\n# ").replace("# urls = ", "urls = ");
    let sentinel = urls.replace("/0\"", "\"").replace("# sentinel = ", "sentinel = ");
    let cluster = urls.replace("cluster = false", "cluster = true");
    let folder: String = folder.lines().map(|line| format!("{}\n", line.trim_start_matches("# "))).collect();
    for written in [server, &sentinel, &cluster, &folder] {
        assert_eq!(lines(&format!("{written}\n{}", with("", ""))), [""; 0], "{written}");
    }
}

fn budget(written: &str) -> Result<Option<Budget>, String> {
    let text = with(written, "");
    match load(&text) {
        Ok(config) if config.warnings.is_empty() => Ok(config.issuers["corp"].budget),
        _ => Err(told(&text)),
    }
}

#[test]
fn a_budget_has_a_number_and_a_span_within_bounds() {
    let of = |requests, seconds| Ok(Some(Budget { requests, per: Duration::from_secs(seconds) }));
    assert_eq!(budget("budget = { requests = 1000, per = \"24h\" }"), of(1000, 86_400));
    assert_eq!(budget("budget = { requests = 1, per = \"1s\" }"), of(1, 1));
    assert_eq!(budget("budget = { requests = 100000, per = \"31d\" }"), of(100_000, 31 * 86_400));
    for (written, words) in [
        ("{ requests = 5 }", "issuer.corp.budget.per: is missing"),
        ("{ per = \"1h\" }", "issuer.corp.budget.requests: is missing"),
        ("{ requests = 0, per = \"1h\" }", "issuer.corp.budget.requests: must be at least 1"),
        ("{ requests = 100001, per = \"1h\" }", "issuer.corp.budget.requests: must be at most 100000"),
        ("{ requests = 9223372036854775807, per = \"1h\" }", "must be at most 100000"),
        ("{ requests = -1, per = \"1h\" }", "expected a whole number"),
        ("{ requests = 5, per = \"0s\" }", "issuer.corp.budget.per: must be at least \"1s\""),
        ("{ requests = 5, per = \"999ms\" }", "issuer.corp.budget.per: must be at least \"1s\""),
        ("{ requests = 5, per = \"32d\" }", "issuer.corp.budget.per: must be at most \"31d\""),
        ("{ requests = 5, per = 60 }", "give a unit: \"60s\""),
        ("{ requests = 5, pre = \"1h\" }", "issuer.corp.budget"),
        ("5", "issuer.corp.budget: expected a table"),
    ] {
        let text = with(&format!("budget = {written}"), "");
        let found = load(&text).expect_err(written).to_string();
        assert!(found.contains(words), "{written}: {found}");
    }
    assert_eq!(lines(&with("budget = {}", "")).len(), 2);
}

#[test]
fn a_budget_that_cannot_keep_the_tokens_fresh_is_warned_about() {
    let routes = |count: usize| -> String {
        (0..count)
            .map(|n| {
                format!(
                    "[[route]]\nname = \"r{n}\"\npath = \"/{n}\"\nupstream = \"https://h\"\nissuer = \"corp\"\nscopes = [\"s{}\"]\n",
                    // Two routes have each token.
                    n / 2
                )
            })
            .collect()
    };
    let told = |budget: &str, count| {
        let text = format!("{}{}", with(&format!("budget = {budget}"), ""), routes(count));
        lines(&text)
    };
    // With the route of `with`, there are five tokens.
    assert_eq!(told("{ requests = 5, per = \"1h\" }", 8), [""; 0]);
    assert_eq!(
        told("{ requests = 4, per = \"1h\" }", 8),
        [
            "bearerd.toml:5:1: warning: issuer.corp.budget: allows 4 token requests, and the issuer's routes have 5 tokens"
        ]
    );
    assert_eq!(
        told("{ requests = 6, per = \"24h\" }", 8),
        [
            "bearerd.toml:5:1: warning: issuer.corp.budget: allows 6 token requests, and the 5 tokens of the issuer's routes need 7 in that time, even if they live for 24 h"
        ]
    );
    assert_eq!(told("{ requests = 7, per = \"24h\" }", 8), [""; 0]);
    let later = "{ requests = 5, per = \"24h\" }\nrefresh_at = 1.0";
    assert_eq!(told(later, 8), [""; 0]);
}

#[test]
fn bound_tokens_are_not_shared_and_whoever_asks_for_it_is_told() {
    let shared = |written: &str| {
        let config = load(&with(written, "")).unwrap_or_else(|problems| panic!("{problems}"));
        let warnings: Vec<String> =
            config.warnings.iter().map(|warning| format!("{}: {}", warning.key, warning.message)).collect();
        (config.issuers["corp"].shares_tokens(), warnings)
    };
    let dpop = "dpop = { private_key = { file = \"k\" } }";
    let certificate = "tls = { certificate = { file = \"c\" }, private_key = { file = \"k\" } }";
    assert_eq!(shared("shared = true"), (true, vec![]));
    assert_eq!(shared("shared = false"), (false, vec![]));
    for bound in [dpop, certificate] {
        assert_eq!(shared(bound), (false, vec![]), "{bound}");
        assert_eq!(shared(&format!("{bound}\nshared = false")), (false, vec![]), "{bound}");
        let (is_shared, warnings) = shared(&format!("{bound}\nshared = true"));
        let told = "issuer.corp.shared: has no effect: tokens that are bound to a key or a certificate are never shared";
        assert_eq!((is_shared, warnings), (false, vec![told.to_owned()]), "{bound}");
    }
    let by_certificate = "client_auth = \"tls_client_auth\"\ncertificate = { file = \"c\" }\nprivate_key = { file = \"k\" }\nshared = true";
    let text = with(by_certificate, "").replace("client_secret = { env = \"S\" }\n", "");
    let config = load(&text).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!((config.issuers["corp"].shares_tokens(), config.warnings.len()), (false, 1));
}
