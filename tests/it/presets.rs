//! Every preset against its vendor's documented request and response, byte for byte, at the vendor's own address.
//!
//! A row says what the operator writes, what must arrive at the token endpoint, how the vendor responds, and what comes
//! of it. The scripted issuer holds a certificate for the vendor's name and is reached through an egress proxy, so that
//! the preset's own URL is what is tested. Adding a vendor is one file in `src/config/presets` and one row here.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::egress::Egress;
use crate::support::jwt;
use crate::support::message::Head;
use crate::support::tls::ca;
use crate::support::{RawResponse, Recorded, Scripted, Setup, World};

mod catalogue;
mod chains;
mod gateways;
mod identity;
mod metadata;
mod microsoft;
mod own;
mod services;
mod services_more;

/// `Content-Type` of nearly every token request.
pub const FORM: &str = "content-type: application/x-www-form-urlencoded";
/// `Content-Type` of nearly every response.
pub const JSON: &str = "content-type: application/json";

/// One preset in one scene. `{keys}` in the texts of the config is the folder of test keys, `{egress}` the egress proxy's address.
pub struct Row {
    pub preset: &'static str,
    /// What is in `vars = { … }`.
    pub vars: &'static str,
    /// More keys of the issuer's table: what is the operator's own.
    pub issuer: &'static str,
    /// More keys of the route's table.
    pub route: &'static str,
    /// Whole tables after the scene's.
    pub more: &'static str,
    /// Files beside the config, by name.
    pub files: &'static [(&'static str, &'static str)],
    pub env: &'static [(&'static str, &'static str)],
    /// The issuer asks for a client certificate; `client.pem` and `client.key` lie beside the config.
    pub client_certificate: bool,
    /// What goes to and fro, in order; the last response is repeated.
    pub exchanges: &'static [Exchange],
    /// What the `{NAME}` in requests are, toward issuer and upstream.
    pub jwts: &'static [Jwt],
    /// Seconds that the token lives, counted from its request.
    pub lifetime: u32,
    /// What the upstream sees of the request `GET /thing`.
    pub target: &'static str,
    /// The upstream's headers: these, and of `authorization` and `dpop` no other.
    pub sent: &'static [&'static str],
    /// Upstream statuses that must lead to a new token and a second try.
    pub renewed_on: &'static [u16],
    /// The request fails; `lifetime`, `target` and `sent` do not count then.
    pub refused: Option<Refused>,
}

/// A row's start: `Row { preset: "…", …, ..ROW }`.
pub const ROW: Row = Row {
    preset: "",
    vars: "",
    issuer: "",
    route: "",
    more: "",
    files: &[],
    env: &[],
    client_certificate: false,
    exchanges: &[],
    jwts: &[],
    lifetime: 0,
    target: "/thing",
    sent: &[],
    renewed_on: &[],
    refused: None,
};

/// One request and the vendor's response to it.
pub struct Exchange {
    /// `POST /path?query HTTP/1.1`
    pub line: &'static str,
    /// All of them, `host` included, names in lower case, in any order; of `accept`, `accept-encoding`, `user-agent`,
    /// `connection` and `content-length` only what the vendor asks for.
    pub headers: &'static [&'static str],
    pub body: &'static str,
    pub response: Reply,
}

pub struct Reply {
    pub status: u16,
    pub headers: &'static [&'static str],
    pub body: &'static str,
}

/// A JWT that is `{name}` in a request.
pub struct Jwt {
    pub name: &'static str,
    /// Whose signature it must be: a file in the folder of test keys (`rsa.public.pem`), or the shared secret itself.
    pub key: &'static str,
    /// `alg` and all other members; `jwk` is left out.
    pub header: &'static str,
    /// Without `iat`, `nbf`, `exp`, `jti`; `{upstream}` is the upstream's origin.
    pub claims: &'static str,
    /// `exp` less the moment of the request; 0: no `exp`.
    pub lifetime: u32,
}

/// What the caller sees if the issuer refuses.
pub struct Refused {
    pub status: u16,
    pub code: &'static str,
    /// Words in `detail`.
    pub detail: &'static [&'static str],
    /// Words in the log.
    pub logged: &'static [&'static str],
}

/// The row's scene, running.
pub struct Stage {
    pub world: World,
    egress: Egress,
}

/// Plays the whole row.
pub async fn run(row: &Row) {
    let stage = start(row).await;
    match &row.refused {
        None => {
            granted(row, &stage).await;
            for (done, status) in row.renewed_on.iter().enumerate() {
                renewed(row, &stage, *status, done).await;
            }
        }
        Some(refused) => expect_refused(&stage, refused).await,
    }
    expect_exchanges(row, &stage);
}

/// The vendor's host in an exchange, with its port where it is not 443.
fn host(exchange: &Exchange) -> &str {
    let host = exchange.headers.iter().find_map(|header| header.strip_prefix("host: "));
    host.expect("an exchange names its host")
}

fn with_port(host: &str) -> String {
    if host.contains(':') { host.to_owned() } else { format!("{host}:443") }
}

/// Issuer under the vendor's name, egress proxy, upstream, and bearerd between them.
pub async fn start(row: &Row) -> Stage {
    assert!(!row.exchanges.is_empty(), "a row has an exchange");
    let names: Vec<&str> =
        row.exchanges.iter().map(|exchange| host(exchange).split(':').next().unwrap()).collect();
    let identity = ca().issue(&names);
    let tls = match row.client_certificate {
        true => ca().server_asking(&identity, &["http/1.1"]),
        false => identity.server(&["http/1.1"]),
    };
    let issuer = Scripted::start(Some(tls)).await;
    let egress = Egress::to(issuer.address.unwrap()).await;
    for exchange in row.exchanges {
        issuer.next(scripted(&exchange.response));
    }
    issuer.always_this(scripted(&row.exchanges.last().unwrap().response));

    let mut setup = Setup::with(issuer, Scripted::upstream().await);
    for (name, content) in row.files {
        setup.file(name, content);
    }
    setup.file("ca.pem", &ca().pem);
    let client = ca().issue(&["client"]);
    setup.file("client.pem", &client.certificate_pem);
    setup.file("client.key", &client.key_pem);
    for (name, value) in row.env {
        setup = setup.env(name, value);
    }
    let world = setup.whole(&config(row, &egress)).start().await;
    Stage { world, egress }
}

fn scripted(reply: &Reply) -> RawResponse {
    let headers = reply.headers.iter().map(|header| header.split_once(": ").expect("name: value"));
    headers
        .fold(RawResponse::status(reply.status), |response, (name, value)| response.header(name, value))
        .body(reply.body)
}

fn config(row: &Row, egress: &Egress) -> String {
    let keys = jwt::key_path("").display().to_string();
    let Row { preset, vars, issuer, route, more, .. } = row;
    format!(
        r#"
        [admin]
        address = "127.0.0.1:0"
        [log]
        format = "json"
        level = "debug"
        [listener.main]
        address = "127.0.0.1:0"
        [issuer.corp]
        preset = "{preset}"
        vars = {{ {vars} }}
        proxy = "http://{egress}"
        tls = {{ ca = {{ file = "ca.pem" }} }}
        {issuer}
        [[route]]
        name = "api"
        upstream = "{{upstream}}"
        issuer = "corp"
        {route}
        {more}
        "#,
        egress = egress.address,
    )
    .replace("{keys}/", &keys)
    .replace("{egress}", &egress.address.to_string())
}

async fn granted(row: &Row, stage: &Stage) {
    let world = &stage.world;
    let response = world.get("/thing").await;
    let log = world.log().text();
    assert_eq!(response.status, 200, "{}\n{log}", response.text());
    let got = world.upstream().last();
    assert_eq!(got.head.start, format!("GET {} HTTP/1.1", row.target));
    expect_sent(row, stage, &got);

    let labels = [("issuer", "corp"), ("route", "api")];
    let expiry = world.metric("bearerd_token_expiry_timestamp_seconds", &labels).await;
    let lived = expiry.expect("the expiry is told") - unix(&world.issuer().last());
    let wanted = f64::from(row.lifetime);
    // It counts from before the connection was opened, which takes its time on a busy machine.
    assert!((wanted - 15.0..wanted + 2.0).contains(&lived), "lives {lived} s, not {wanted} s");
}

/// The upstream refuses once with this status: a new token, and the request goes through.
async fn renewed(row: &Row, stage: &Stage, status: u16, done: usize) {
    assert_eq!(done, 0, "a token fetched because of a 401 outlives the next one: one status for each row");
    let (world, before) = (&stage.world, stage.world.issuer().count());
    world.upstream().next(RawResponse::status(status).body("not with that token"));
    world.get("/thing").await.expect_status(200);
    assert!(world.issuer().count() > before, "{status} leads to a new token");
    expect_sent(row, stage, &world.upstream().last());
}

fn expect_sent(row: &Row, stage: &Stage, got: &Recorded) {
    for name in ["authorization", "dpop"] {
        let wanted = row.sent.iter().filter(|header| header.starts_with(&format!("{name}: "))).count();
        assert_eq!(got.headers(name).len(), wanted, "{name} in {:?}", got.head.fields);
    }
    let mut found = Found::new(row, stage, got);
    for header in row.sent {
        let name = header.split_once(": ").expect("name: value").0;
        let line = format!("{name}: {}", got.header(name).unwrap_or("(is not there)"));
        found.expect(header, &line);
    }
    found.check();
}

async fn expect_refused(stage: &Stage, refused: &Refused) {
    let response = stage.world.get("/thing").await;
    response.expect_problem(refused.status, refused.code);
    let detail = response.json()["detail"].as_str().expect("a detail").to_owned();
    for words in refused.detail {
        assert!(detail.contains(words), "no {words:?} in {detail:?}");
    }
    for words in refused.logged {
        stage.world.log().wait(words, |line| line.contains(words)).await;
    }
    assert_eq!(stage.world.upstream().count(), 0);
}

fn expect_exchanges(row: &Row, stage: &Stage) {
    let requests = stage.world.issuer().requests();
    assert!(requests.len() >= row.exchanges.len(), "{} requests came", requests.len());
    let mut ids = BTreeSet::new();
    for (number, request) in requests.iter().enumerate() {
        let exchange = row.exchanges.get(number).or_else(|| row.exchanges.last()).unwrap();
        for id in expect_request(row, stage, exchange, request) {
            assert!(ids.insert(id), "a jti came twice, and vendors refuse one that they saw before");
        }
    }
    let hosts: Vec<String> = row.exchanges.iter().map(|exchange| with_port(host(exchange))).collect();
    let tunnels = stage.egress.seen();
    assert!(!tunnels.is_empty(), "the issuer is reached through the egress proxy");
    for tunnel in tunnels {
        assert_eq!(tunnel.word(0), "CONNECT");
        assert!(hosts.iter().any(|host| host == tunnel.word(1)), "{} is none of {hosts:?}", tunnel.word(1));
    }
}

/// The `jti` of each JWT in it.
fn expect_request(row: &Row, stage: &Stage, exchange: &Exchange, request: &Recorded) -> Vec<String> {
    let mut found = Found::new(row, stage, request);
    found.expect(exchange.line, &request.head.start);
    let headers = headers_that_count(&request.head, exchange.headers);
    let mut wanted = exchange.headers.to_vec();
    wanted.sort_unstable();
    assert_eq!(headers.len(), wanted.len(), "{headers:#?} are not {wanted:#?}");
    for (wanted, header) in wanted.iter().zip(&headers) {
        found.expect(wanted, header);
    }
    found.expect(exchange.body, &request.text());
    found.check()
}

/// `name: value` of what says something to the vendor, sorted.
fn headers_that_count(head: &Head, wanted: &[&str]) -> Vec<String> {
    const USUAL: [&str; 5] = ["accept", "accept-encoding", "user-agent", "content-length", "connection"];
    let named = |name: &str| wanted.iter().any(|header| header.starts_with(&format!("{name}: ")));
    let fields = head.fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    let mut headers: Vec<String> = fields
        .filter(|(name, _)| !USUAL.contains(&name.as_str()) || named(name))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    headers.sort_unstable();
    headers
}

/// The JWTs that were found in one request.
struct Found<'a> {
    row: &'a Row,
    at: i64,
    upstream: &'a str,
    tokens: Vec<(&'a Jwt, String)>,
}

impl<'a> Found<'a> {
    fn new(row: &'a Row, stage: &'a Stage, request: &Recorded) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970")]
        let at = unix(request) as i64;
        Self { row, at, upstream: &stage.world.upstream().url, tokens: Vec::new() }
    }

    /// The text must be the pattern, byte for byte, with a JWT where the pattern has a placeholder.
    fn expect(&mut self, pattern: &str, text: &str) {
        let (mut pattern_left, mut left) = (pattern, text);
        while let Some((at, jwt)) = self.next_placeholder(pattern_left) {
            let (before, after) = pattern_left.split_at(at);
            let rest = left.strip_prefix(before);
            let rest = rest.unwrap_or_else(|| panic!("found\n{text}\ninstead of\n{pattern}"));
            let end = rest.find(|char: char| !(char.is_ascii_alphanumeric() || "-_.".contains(char)));
            let (token, rest) = rest.split_at(end.unwrap_or(rest.len()));
            self.tokens.push((jwt, token.to_owned()));
            (pattern_left, left) = (&after[jwt.name.len() + 2..], rest);
        }
        assert_eq!(left, pattern_left, "found\n{text}\ninstead of\n{pattern}");
    }

    fn next_placeholder(&self, pattern: &str) -> Option<(usize, &'a Jwt)> {
        let row = self.row;
        row.jwts
            .iter()
            .filter_map(|jwt| Some((pattern.find(&format!("{{{}}}", jwt.name))?, jwt)))
            .min_by_key(|(at, _)| *at)
    }

    /// Signature, header, claims and times; the response is each one's `jti`.
    fn check(&self) -> Vec<String> {
        self.tokens.iter().map(|(wanted, token)| expect_jwt(wanted, token, self.at, self.upstream)).collect()
    }
}

fn expect_jwt(wanted: &Jwt, token: &str, at: i64, upstream: &str) -> String {
    let expected: Value = serde_json::from_str(wanted.header).expect("the header is JSON");
    let alg = expected["alg"].as_str().expect("the header names alg");
    let (mut header, mut claims) = verified(token, wanted.key, alg);
    if let Some(jwk) = header.as_object_mut().unwrap().remove("jwk") {
        assert_eq!(jwk.get("d"), None, "a proof carries the public key alone");
    }
    assert_eq!(header, expected, "the header of {}", wanted.name);

    let claims = claims.as_object_mut().unwrap();
    let mut time = |name: &str| claims.remove(name).map(|value| value.as_i64().expect("whole seconds") - at);
    let (issued, not_before, expires) = (time("iat"), time("nbf"), time("exp"));
    for time in [issued, not_before].into_iter().flatten() {
        assert!((-90..=2).contains(&time), "issued {time} s after the request");
    }
    let lifetime = i64::from(wanted.lifetime);
    match expires {
        None => assert_eq!(lifetime, 0, "no exp in {}", wanted.name),
        Some(left) => assert!((-20..=2).contains(&(left - lifetime)), "{left} s left, not {lifetime} s"),
    }
    let id = claims.remove("jti").and_then(|id| id.as_str().map(str::to_owned)).expect("a jti");
    let text = wanted.claims.replace("{upstream}", upstream);
    let expected: Value = serde_json::from_str(&text).expect("the claims are JSON");
    assert_eq!(Value::Object(claims.clone()), expected, "the claims of {}", wanted.name);
    id
}

/// Header and claims, once the signature is right.
fn verified(token: &str, key: &str, alg: &str) -> (Value, Value) {
    match key.ends_with(".pem") {
        true => jwt::verify(token, &jwt::key(key), alg),
        false => jwt::verify(token, key, alg),
    }
}

fn unix(request: &Recorded) -> f64 {
    request.wall.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}
