//! Every kind of value that is made elsewhere (`issuer`, `exec`, `spiffe`), in every place where it may stand: missing, slow, failing,
//! too large, and with control characters. Each cell of the matrix is an issuer with a route, or a listener, of one process.
//! Afterwards all values are there, and every cell works. Keys in devices need a module, so `pkcs11` has their tests. `[store]` and
//! `[tracing]` exist once in a config: see `programs`.

use crate::programs::script;
use crate::support::agent::{Agent, Mood, long_jwt};
use crate::support::egress::Egress;
use crate::support::jwt::key_path;
use crate::support::tls::Ca;
use crate::support::{
    Client, RawRequest, RawResponse, Recorded, Response, Scripted, Setup, World, eventually,
};

const FAILURES: [&str; 5] = ["missing", "slow", "failing", "huge", "controls"];

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Issuer,
    Exec,
    Spiffe,
}
use Kind::{Exec, Issuer, Spiffe};

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Issuer => "issuer",
            Exec => "exec",
            Spiffe => "spiffe",
        }
    }

    /// What is said of the failure. `None`: the value is one, and it depends on the place whether it fits.
    fn says(self, failure: &str) -> Option<&'static str> {
        Some(match (self, failure) {
            (Exec, "missing") => "program ./missing: ",
            (Exec, "slow") => "did not end within 1s",
            (Exec, "failing") => "ended with exit code 3",
            (Exec, "huge") => "printed more than 64 KiB",
            (Spiffe, "missing") => "there is no socket",
            (Spiffe, "slow") => "the agent did not respond within 1s",
            (Spiffe, "failing") => "the agent responded with an error (internal: disk full)",
            (Spiffe, "huge") => "the agent sent a JWT-SVID of more than 64 KiB",
            (Spiffe, "controls") => "the agent's response cannot be used",
            (Issuer, "missing") => "comes from issuer of-missing, which gives no token: ",
            (Issuer, "slow") => "comes from issuer of-slow, which gives no token: ",
            (Issuer, "failing") => "responded 401 invalid_client",
            (Issuer, "huge") => "comes from issuer of-huge, which gives no token: ",
            (Issuer, "controls") => "comes from issuer of-controls, which gives no token: ",
            _ => return None,
        })
    }
}

/// Programs, agents, and an issuer with each failure.
struct Sources {
    agents: Vec<Agent>,
    inner: Scripted,
    egress: Egress,
    /// What the agents send once they work.
    jwt: String,
}

impl Sources {
    async fn start(setup: &Setup) -> Self {
        let folder = setup.folder();
        setup.file("good", GOOD);
        setup.file("userinfo", "user:canary");
        setup.file("ca.pem", &Ca::new("places").pem);
        script(folder, "slow", "exec sleep 600");
        script(folder, "failing", "echo canary-of-a-failure; exit 3");
        script(folder, "huge", "head -c 70000 /dev/zero | tr '\\0' x");
        script(folder, "controls", "printf 'canary\\r\\nx-evil: 1\\001\\177'");
        let mut agents = Vec::new();
        for failure in FAILURES {
            let mut agent = Agent::start().await;
            match failure {
                "missing" => agent.stop().await,
                "slow" => agent.mood(Mood::Silent),
                "failing" => agent.mood(Mood::Refusing(13, "disk full")),
                "huge" => agent.jwt_text(long_jwt(60_000)),
                _ => agent.jwt_text("canary\u{1}.canary\u{7f}.x".to_owned()),
            }
            agents.push(agent);
        }
        let inner = Scripted::start(None).await;
        inner.always(|request, _| match request.target() {
            "/missing" => RawResponse::json(&serde_json::json!({ "token_type": "Bearer", "expires_in": 60 })),
            "/slow" => RawResponse::hang(),
            "/failing" => RawResponse::oauth_error(401, "invalid_client"),
            "/huge" => RawResponse::token(&"canary".repeat(20_000)),
            _ => RawResponse::token(CONTROLS),
        });
        let egress = Egress::to(setup.issuer.address.unwrap()).await;
        Self { agents, inner, egress, jwt: long_jwt(1) }
    }

    /// As TOML. `argument`: the file that a program prints once it works.
    fn reference(&self, kind: Kind, failure: &str, argument: &str, keep: &str) -> String {
        let agent = &self.agents[FAILURES.iter().position(|known| *known == failure).unwrap()];
        match kind {
            Exec => format!("{{ exec = [\"./{failure}\", \"{argument}\"], timeout = \"1s\"{keep} }}"),
            Issuer => format!("{{ issuer = \"of-{failure}\" }}"),
            Spiffe => format!("{{ spiffe = {{ audience = \"x\", {} }}, timeout = \"1s\" }}", agent.key()),
        }
    }

    fn inner_issuers(&self) -> String {
        let table = |failure: &str| {
            let url = &self.inner.url;
            format!(
                "[issuer.of-{failure}]\ntoken_url = \"{url}/{failure}\"\nclient_id = \"i\"\nclient_secret = {{ file = \"secret\" }}\ntimeout = \"1s\"\n"
            )
        };
        FAILURES.map(table).concat()
    }

    /// Every value is there from now on.
    async fn repair(&mut self, world: &World) {
        for (failure, agent) in FAILURES.iter().zip(&mut self.agents) {
            script(world.folder(), failure, "cat \"$1\"");
            if *failure == "missing" {
                agent.again();
            }
            agent.mood(Mood::Serving);
            agent.jwt_text(self.jwt.clone());
        }
        self.inner.always(|_, _| RawResponse::token(GOOD));
        // Refusals have long pauses.
        world.reload_signal();
    }
}

/// A place in a token request.
struct Place {
    /// The name of the key in errors.
    key: &'static str,
    kinds: &'static [Kind],
    /// Keys of the issuer, with `REF` for the value.
    table: &'static str,
    /// Keys of its route.
    route: &'static str,
    /// The file that the program prints when it works.
    prints: &'static str,
    /// What is wrong with control characters there. `None`: they are sent, encoded.
    controls: Option<&'static str>,
}

const SECRET: &str = "client_secret = { file = \"secret\" }";
const POST: &str = "client_auth = \"client_secret_post\"\nclient_secret = { file = \"secret\" }\n";
const BY_KEY: &str = "client_auth = \"private_key_jwt\"\nprivate_key = { file = \"key.pem\" }\n";
const ALL: &[Kind] = &[Issuer, Exec, Spiffe];
const NO_TOKEN: &[Kind] = &[Exec, Spiffe];
const PEM: &[Kind] = &[Exec];

const fn place(key: &'static str, kinds: &'static [Kind], table: &'static str) -> Place {
    Place { key, kinds, table, route: "", prints: "good", controls: None }
}

static TOKEN_REQUEST: [Place; 20] = [
    place("client_id", NO_TOKEN, "client_id = REF\nSECRET"),
    place("client_secret", ALL, "client_id = \"c\"\nclient_secret = REF"),
    place("standby.client_id", NO_TOKEN, "client_id = \"c\"\nSECRET\nstandby = { client_id = REF }"),
    place("standby.client_secret", ALL, "client_id = \"c\"\nSECRET\nstandby = { client_secret = REF }"),
    place(
        "basic.user",
        NO_TOKEN,
        "client_id = \"c\"\nPOSTbasic = { user = REF, password = { file = \"secret\" } }",
    ),
    place("basic.password", ALL, "client_id = \"c\"\nPOSTbasic = { user = \"u\", password = REF }"),
    place("assertion", ALL, "client_id = \"c\"\nclient_auth = \"assertion_file\"\nassertion = REF"),
    place("params.x", ALL, "client_id = \"c\"\nSECRET\nparams = { x = REF }"),
    place("params.x", ALL, "client_id = \"c\"\nSECRET\nbody = \"json\"\nparams = { x = [{ y = REF }] }"),
    Place { route: "params = { x = REF }", ..place("params.x", ALL, "client_id = \"c\"\nSECRET") },
    Place {
        controls: Some("contains a character that a header field must not contain"),
        ..place("headers.x-v", ALL, "client_id = \"c\"\nSECRET\nheaders = { x-v = REF }")
    },
    place("jwt.claims.x", ALL, "client_id = \"c\"\nBY_KEYjwt = { claims = { x = REF } }"),
    place("jwt.issuer", NO_TOKEN, "client_id = \"c\"\nBY_KEYjwt = { issuer = REF }"),
    place("jwt.subject", NO_TOKEN, "client_id = \"c\"\nBY_KEYjwt = { subject = REF }"),
    place("jwt.audience", NO_TOKEN, "client_id = \"c\"\nBY_KEYjwt = { audience = REF }"),
    place("jwt.key_id", NO_TOKEN, "client_id = \"c\"\nBY_KEYjwt = { key_id = REF }"),
    Place { prints: "ca.pem", ..place("tls.ca", PEM, "client_id = \"c\"\nSECRET\ntls = { ca = REF }") },
    Place {
        prints: "userinfo",
        ..place(
            "proxy.userinfo",
            PEM,
            "client_id = \"c\"\nSECRET\nproxy = { url = \"http://EGRESS\", userinfo = REF }",
        )
    },
    Place {
        prints: "key.pem",
        controls: Some("private_key"),
        ..place("private_key", PEM, "client_id = \"c\"\nclient_auth = \"private_key_jwt\"\nprivate_key = REF")
    },
    Place {
        prints: "key.pem",
        controls: Some("dpop.private_key"),
        ..place("dpop.private_key", PEM, "client_id = \"c\"\nSECRET\ndpop = { private_key = REF }")
    },
];

/// A cell of the matrix.
struct Cell {
    name: String,
    kind: Kind,
    failure: &'static str,
    place: &'static Place,
}

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (number, place) in TOKEN_REQUEST.iter().enumerate() {
        for kind in place.kinds.iter().copied() {
            let name =
                |failure: &str| format!("{}-{failure}-{number}-{}", kind.name(), place.key.replace('.', "-"));
            cells.extend(FAILURES.map(|failure| Cell { name: name(failure), kind, failure, place }));
        }
    }
    cells
}

impl Cell {
    fn tables(&self, sources: &Sources) -> String {
        let reference = sources.reference(self.kind, self.failure, self.place.prints, "");
        let fill = |keys: &str| {
            let keys = keys.replace("SECRET", SECRET).replace("POST", POST).replace("BY_KEY", BY_KEY);
            keys.replace("EGRESS", &sources.egress.address.to_string()).replace("REF", &reference)
        };
        let (name, table, route) = (&self.name, fill(self.place.table), fill(self.place.route));
        format!(
            "[issuer.{name}]\ntoken_url = \"{{issuer}}/{name}\"\n{table}\n\
             [[route]]\nname = \"{name}\"\npath_prefix = \"/{name}\"\nupstream = \"{{upstream}}\"\nissuer = \"{name}\"\n{route}\n"
        )
    }

    /// Whether its value is one that is sent.
    fn is_sent(&self) -> bool {
        self.kind.says(self.failure).is_none() && self.place.controls.is_none()
    }

    /// The requests of this cell that carry the value: those of a standby follow one with the current credential.
    fn requests(&self, world: &World) -> usize {
        let is_current = |request: &Recorded| {
            self.place.key.starts_with("standby.") && request.basic().as_deref() == Some(CURRENT)
        };
        let path = format!("/{}", self.name);
        let requests = world.issuer().requests();
        requests.iter().filter(|request| request.target() == path && !is_current(request)).count()
    }
}

/// What a cell of `standby` sends first, and what is refused.
const CURRENT: &str = "c:s3cr3t-of-the-scene";

async fn expect_no_canary(world: &World) {
    for page in ["/status", "/readyz?verbose", "/metrics"] {
        let text = world.admin(page).await.text();
        assert!(!text.contains("canary"), "{page}: {text}");
    }
    assert!(!world.log().text().contains("canary"), "{}", world.log().text());
}

/// What a program prints once it works, and what the agents send.
const GOOD: &str = "canary-good";
const CONTROLS: &str = "canary\r\nx-evil: 1\u{1}\u{7f}";

/// A place outside of token requests.
#[derive(Clone, Copy, PartialEq)]
enum Elsewhere {
    RequestHeader,
    ResponseHeader,
    RequiredHeader,
    Webhook,
    ListenerTls,
    UpstreamTls,
}

/// A cell outside of token requests.
struct Other {
    name: String,
    kind: Kind,
    failure: &'static str,
    place: Elsewhere,
}

fn others() -> Vec<Other> {
    use Elsewhere::*;
    let mut others = Vec::new();
    for (place, name, kinds) in [
        (RequestHeader, "request-header", NO_TOKEN),
        (ResponseHeader, "response-header", NO_TOKEN),
        (RequiredHeader, "required-header", NO_TOKEN),
        (Webhook, "webhook", NO_TOKEN),
        (ListenerTls, "listener-tls", PEM),
        (UpstreamTls, "upstream-tls", PEM),
    ] {
        for &kind in kinds {
            let cell = |failure| {
                let name = format!("{}-{failure}-{name}", kind.name());
                Other { name, kind, failure, place }
            };
            others.extend(FAILURES.map(cell));
        }
    }
    // What a program printed and is no certificate is an error of the start, as in a file.
    others.retain(|cell| (cell.place, cell.failure) != (ListenerTls, "controls"));
    others
}

impl Other {
    fn table(&self, sources: &Sources, tls_upstream: &str) -> String {
        let name = &self.name;
        let prints = match self.place {
            Elsewhere::ListenerTls => "identity.pem",
            Elsewhere::UpstreamTls => "ca.pem",
            _ => "good",
        };
        let reference = sources.reference(self.kind, self.failure, prints, ", keep = \"1h\"");
        let route = |keys: &str| {
            format!("[[route]]\nname = \"{name}\"\npath_prefix = \"/{name}\"\nanonymous = true\n{keys}\n")
        };
        let listener = |keys: &str| format!("[listener.{name}]\naddress = \"127.0.0.1:0\"\n{keys}\n");
        match self.place {
            Elsewhere::RequestHeader => route(&format!(
                "upstream = \"{{upstream}}\"\nrequest_headers = {{ set = {{ x-v = {reference} }} }}"
            )),
            Elsewhere::ResponseHeader => route(&format!(
                "upstream = \"{{upstream}}\"\nresponse_headers = {{ set = {{ x-v = {reference} }} }}"
            )),
            Elsewhere::RequiredHeader => {
                listener(&format!("require_header = {{ name = \"x-key\", value = {reference} }}"))
            }
            Elsewhere::Webhook => format!(
                "[webhook.{name}]\naddress = \"127.0.0.1:0\"\npath = \"/seismic\"\nsignature_header = \"x-seismic-signature\"\n\
                 secrets = [{reference}]\nvalue = \"/user\"\nstore = \"{name}.json\"\n"
            ),
            Elsewhere::ListenerTls => {
                listener(&format!("tls = {{ certificate = {reference}, private_key = {reference} }}"))
            }
            Elsewhere::UpstreamTls => {
                route(&format!("upstream = \"{tls_upstream}\"\ntls = {{ ca = {reference} }}"))
            }
        }
    }

    async fn post(&self, world: &World, secret: &str) -> Response {
        let address = crate::webhook::address_of(world, &self.name).await;
        let signed = crate::webhook::signed_by(secret, b"{\"user\":\"u1\"}".to_vec());
        Client::tcp(address).await.exchange(&signed).await
    }

    async fn tls(&self, world: &World, ca: &Ca) -> Option<u16> {
        let mut client = Client::tls(world.address(&self.name), ca.client(&["http/1.1"], None)).await.ok()?;
        client.send(&RawRequest::get("/").host("localhost")).await;
        client.response_or_end().await.map(|response| response.status)
    }

    /// Fails closed, and says so where somebody looks.
    async fn fails(&self, world: &World, ca: &Ca) -> Result<(), String> {
        let says = self.kind.says(self.failure);
        let (closed, text) = match self.place {
            Elsewhere::RequestHeader | Elsewhere::ResponseHeader | Elsewhere::UpstreamTls => {
                let response = world.get(&format!("/{}/", self.name)).await;
                (response.status >= 500, response.text())
            }
            Elsewhere::RequiredHeader => {
                let address = world.address(&self.name);
                let request = RawRequest::get("/").header("x-key", "");
                let response = Client::tcp(address).await.exchange(&request).await;
                (response.status == 403, world.log().text())
            }
            Elsewhere::ListenerTls => (self.tls(world, ca).await.is_none(), world.log().text()),
            // Any bytes are a secret.
            Elsewhere::Webhook if says.is_none() => {
                (self.post(world, CONTROLS).await.status == 204, world.log().text())
            }
            Elsewhere::Webhook => {
                let response = self.post(world, "secret").await;
                (
                    response.code().as_deref() == Some("no_secret"),
                    world.status().await["webhooks"].to_string(),
                )
            }
        };
        match (closed, text.contains(says.unwrap_or_default())) {
            (true, true) => Ok(()),
            (true, false) => Err(format!("{}: not {}: {text}", self.name, says.unwrap_or_default())),
            (false, _) => Err(format!("{}: not closed: {text}", self.name)),
        }
    }

    async fn works(&self, world: &World, sources: &Sources, ca: &Ca) -> bool {
        let value = if self.kind == Spiffe { &sources.jwt } else { GOOD };
        let path = format!("/{}/", self.name);
        let route = world.get(&path);
        match self.place {
            Elsewhere::RequestHeader => {
                route.await.status == 200 && world.upstream().last().header("x-v") == Some(value)
            }
            Elsewhere::ResponseHeader => {
                let response = route.await;
                response.status == 200 && response.header("x-v") == Some(value)
            }
            Elsewhere::UpstreamTls => route.await.status == 200,
            Elsewhere::RequiredHeader => {
                let request = RawRequest::get("/").header("x-key", value);
                let response = Client::tcp(world.address(&self.name)).await.exchange(&request).await;
                response.status == 200
            }
            Elsewhere::ListenerTls => self.tls(world, ca).await == Some(200),
            Elsewhere::Webhook => self.post(world, value).await.status == 204,
        }
    }
}

#[tokio::test]
async fn in_each_other_place_each_failure_is_named_and_ends() {
    let ca = Ca::new("places");
    let setup = Setup::new().await;
    let identity = ca.issue(&["localhost"]);
    setup.file("identity.pem", format!("{}{}", identity.certificate_pem, identity.key_pem));
    let tls_upstream = Scripted::start(Some(ca.issue(&["localhost"]).server(&["http/1.1"]))).await;
    let mut sources = Sources::start(&setup).await;
    setup.file("ca.pem", &ca.pem);
    let others = others();
    let tables: String = others.iter().map(|cell| cell.table(&sources, &tls_upstream.url)).collect();
    let world = setup.more(&tables).start().await;
    let mut wrong = Vec::new();
    for cell in &others {
        wrong.extend(cell.fails(&world, &ca).await.err());
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), others.len(), wrong.join("\n"));
    world.admin("/readyz").await.expect_status(503);
    world.get("/").await.expect_status(200);
    expect_no_canary(&world).await;

    sources.repair(&world).await;
    for cell in &others {
        eventually(&format!("{} to work", cell.name), || async {
            cell.works(&world, &sources, &ca).await.then_some(())
        })
        .await;
    }
    world.ready().await;
    expect_no_canary(&world).await;
}

#[tokio::test]
async fn in_each_place_of_a_token_request_each_failure_is_named_and_ends() {
    let setup = Setup::new().await;
    std::fs::copy(key_path("ec-p256.pkcs8.pem"), setup.folder().join("key.pem")).unwrap();
    let mut sources = Sources::start(&setup).await;
    setup.issuer.always(|request, n| match request.basic().as_deref() {
        Some(CURRENT) if request.target().contains("standby") => {
            RawResponse::oauth_error(401, "invalid_client")
        }
        _ if request.target().contains("dpop") => RawResponse::json(&serde_json::json!({
            "access_token": format!("token-{n}"), "token_type": "DPoP", "expires_in": 3600
        })),
        _ => RawResponse::token(&format!("token-{n}")),
    });
    let cells = cells();
    let tables: String = cells.iter().map(|cell| cell.tables(&sources)).collect();
    let world = setup.more(&tables).more(&sources.inner_issuers()).start().await;
    let mut client = world.connect().await;
    let mut wrong = Vec::new();
    for cell in &cells {
        let response = client.exchange(&RawRequest::get(&format!("/{}/", cell.name))).await;
        let (text, sent) = (response.text(), cell.requests(&world));
        let mut expect = |what: &str, is: bool| {
            if !is {
                wrong.push(format!(
                    "{} ({}): not {what}: {} {text}",
                    cell.name, cell.place.key, response.status
                ));
            }
        };
        if cell.is_sent() {
            expect("sent", response.status == 200 && sent > 0);
            continue;
        }
        expect("an error", [502, 503, 504].contains(&response.status) && sent == 0);
        let says = cell.kind.says(cell.failure).or(cell.place.controls).unwrap_or_default();
        expect(says, text.contains(says));
        expect("its key", text.contains(cell.place.key));
        expect("its table", text.contains(&cell.name));
        expect("masked", !text.contains("canary"));
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cells.len(), wrong.join("\n"));
    expect_no_canary(&world).await;

    sources.repair(&world).await;
    for cell in &cells {
        eventually(&format!("{} to work", cell.name), || async {
            (world.get(&format!("/{}/", cell.name)).await.status == 200).then_some(())
        })
        .await;
        assert!(cell.requests(&world) > 0, "{}", cell.name);
    }
    expect_no_canary(&world).await;
}
