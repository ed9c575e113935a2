//! Against authorization servers that nobody here wrote, with what all of them must support. `docs/issuers.md` says which
//! versions, and what was tried.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::support::cli::run;
use crate::support::jwt::{self, key};
use crate::support::server::Server;
use crate::support::{
    Client, RawRequest, RawResponse, Recorded, Response, Setup, World, eventually, let_pass, unix_now,
};

mod glewlwyd;
mod keycloak;
mod oauth2_mock_server;
mod spring;

/// With what Basic gets wrong where it is not encoded.
const ODD_SECRET: &str = "a+b/c=%é:~";
/// Long enough for a signature with SHA-256.
const LONG_SECRET: &str = "0123456789abcdef0123456789abcdef";
const SECRETS: [&str; 3] =
    ["the-first-secret-of-these", "the-second-secret-of-these", "the-third-secret-of-these"];

/// A scene with `secret` in the file of that name, and `keys` in the issuer's table: the issuer's address among them.
async fn scene(secret: &str, keys: &str) -> Setup {
    let setup = Setup::new().await;
    setup.file("secret", secret);
    setup.issuer(&format!("# token_url\n{keys}"))
}

/// The request with the token that a server gave.
async fn accepted(secret: &str, keys: &str) -> Arc<Recorded> {
    let world = scene(secret, keys).await.start().await;
    let response = world.get("/").await;
    assert_eq!(response.status, 200, "{keys}: {}", response.text());
    world.upstream().last()
}

/// `check --online` fails and says all of `words`.
async fn told(secret: &str, keys: &str, words: &[&str]) {
    let setup = scene(secret, keys).await;
    setup.write();
    let output = run(setup.folder(), &["check", "--online"]).await;
    output.expect_code(1);
    for word in words {
        assert!(output.stdout.contains(word), "{word} in {}", output.stdout);
    }
    assert!(secret.is_empty() || !output.all().contains(secret), "{}", output.all());
}

/// A file of the keys that only tests have, as a reference.
fn key_file(name: &str) -> String {
    format!("{{ file = \"{}\" }}", jwt::key_path(name).display())
}

/// The public halves of `rsa` and `ec-p256`, each with its `kid`.
fn jwks() -> Value {
    let keys = [("rsa", "RS256"), ("ec-p256", "ES256")].map(|(name, alg)| {
        let mut public: Value = serde_json::from_str(&key(&format!("{name}.public.jwk.json"))).unwrap();
        public["kid"] = format!("{name}-1").into();
        public["use"] = "sig".into();
        public["alg"] = alg.into();
        public
    });
    serde_json::json!({ "keys": keys })
}

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).unwrap_or_else(|| panic!("a JWT: {token}"));
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn claims(token: &str) -> Value {
    part(token, 1)
}

/// Asks the server itself.
async fn ask(server: SocketAddr, call: RawRequest) -> Response {
    Client::tcp(server).await.exchange(&call).await
}

/// A form for an endpoint of the server, by the client of this id and secret.
async fn post(server: SocketAddr, path: &str, (id, secret): (&str, &str), form: &str) -> Response {
    let basic = STANDARD.encode(format!("{id}:{secret}"));
    let call = RawRequest::post(path, form)
        .header("content-type", "application/x-www-form-urlencoded")
        .header("authorization", &format!("Basic {basic}"));
    ask(server, call).await
}

/// What an upstream makes of tokens: none is good after its end, and a test may refuse more.
struct Judge(Arc<Mutex<Refuses>>);

type Refuses = Box<dyn Fn(&str) -> bool + Send>;

impl Judge {
    fn of(setup: &Setup) -> Self {
        let refuses: Arc<Mutex<Refuses>> = Arc::new(Mutex::new(Box::new(|_| false)));
        let this = Self(Arc::clone(&refuses));
        setup.upstream.always(move |request, _| {
            let token = request.bearer().unwrap_or_default();
            // Times in tokens are whole seconds.
            let over = token.contains('.') && claims(token)["exp"].as_f64().unwrap() + 1.0 <= unix_now();
            if over || refuses.lock().unwrap()(token) {
                RawResponse::unauthorized()
            } else {
                RawResponse::ok("")
            }
        });
        this
    }

    fn refuse(&self, refuses: impl Fn(&str) -> bool + Send + 'static) {
        *self.0.lock().unwrap() = Box::new(refuses);
    }

    /// The token of the last request is refused from now on.
    fn refuse_last_of(&self, world: &World) {
        let revoked = last_token(world);
        self.refuse(move |token| token == revoked);
    }
}

fn last_token(world: &World) -> String {
    world.upstream().last().bearer().unwrap().to_owned()
}

async fn forced(world: &World) -> f64 {
    world.metric("bearerd_refreshes_forced_total", &[("route", "api")]).await.unwrap_or_default()
}

/// The statuses of one request after another for as long as `meanwhile` takes.
async fn calling(world: &World, meanwhile: impl Future<Output = ()>) -> BTreeSet<u16> {
    let mut statuses = BTreeSet::new();
    let mut meanwhile = pin!(meanwhile);
    loop {
        tokio::select! {
            () = &mut meanwhile => return statuses,
            response = world.get("/") => statuses.insert(response.status),
        };
        let_pass(Duration::from_millis(20)).await;
    }
}

async fn served(world: &World, what: &str) {
    eventually(what, || async { (world.get("/").await.status == 200).then_some(()) }).await;
}

/// Four tokens that are valid for some seconds, one after the other: every request is served, none with a token that is over.
/// Not the first that is asked of a server: Java's first responses are too slow for such tokens.
async fn short_lifetimes(setup: Setup) {
    let _judge = Judge::of(&setup);
    let world = setup.start().await;
    let tokens = || {
        let requests = world.upstream().requests();
        requests.iter().filter_map(|request| request.bearer().map(str::to_owned)).collect::<BTreeSet<_>>()
    };
    let several = async {
        for n in 1..=4 {
            eventually("another token", || async { (tokens().len() >= n).then_some(()) }).await;
        }
    };
    let statuses = calling(&world, several).await;
    assert_eq!(statuses, BTreeSet::from([200]), "{}", world.log().text());
    assert_eq!(forced(&world).await, 0.0);
}

/// `rotate` gives the client another secret. It begins with the first of [`SECRETS`].
async fn rotated_secret(setup: Setup, rotate: impl AsyncFn(&str)) {
    let judge = Judge::of(&setup);
    let world = setup.start().await;
    world.get("/").await.expect_status(200);

    // The file is written at the same time: nobody notices.
    rotate(SECRETS[1]).await;
    let file = world.file("secret", SECRETS[1]);
    world.get("/").await.expect_status(200);
    // What was written within the last second is not believed yet.
    eventually("the file to be a second old", || async {
        let written = file.metadata().unwrap().modified().unwrap();
        (written.elapsed().unwrap_or_default() > Duration::from_millis(1_100)).then_some(())
    })
    .await;
    judge.refuse_last_of(&world);
    world.get("/").await.expect_status(200);

    // A new token is needed before the file is written.
    rotate(SECRETS[2]).await;
    judge.refuse_last_of(&world);
    let refused = world.get("/").await;
    assert!([401, 502].contains(&refused.status), "{}", refused.text());
    world.file("secret", SECRETS[2]);
    served(&world, "the new secret to be used").await;
}

/// The client's own key is replaced by another that the issuer knows; `keys` signs with `key.json`.
async fn rotated_key_of_the_client(keys: &str) {
    let setup = scene("", keys).await;
    setup.file("key.json", key("rsa.jwk.json"));
    let judge = Judge::of(&setup);
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    world.file("key.json", key("ec-p256.jwk.json"));
    judge.refuse_last_of(&world);
    served(&world, "a token by the new key").await;
    // The new one alone signs now.
    judge.refuse_last_of(&world);
    served(&world, "one more token").await;
}

/// `rotate` makes the server sign with another key, and gives its public keys: an upstream takes no token of the old one.
async fn rotated_signing_key(setup: Setup, rotate: impl AsyncFnOnce() -> Value) {
    let judge = Judge::of(&setup);
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    let old = part(&last_token(&world), 0)["kid"].clone();
    let keys = rotate().await;
    judge.refuse({
        let old = old.clone();
        move |token| part(token, 0)["kid"] == old
    });
    world.get("/").await.expect_status(200);
    assert_eq!(forced(&world).await, 1.0);
    let token = last_token(&world);
    let kid = part(&token, 0)["kid"].clone();
    assert_ne!(kid, old);
    let key =
        keys["keys"].as_array().unwrap().iter().find(|key| key["kid"] == kid).expect("the key of the token");
    jwt::verify(&token, &key.to_string(), part(&token, 0)["alg"].as_str().unwrap());
}

/// `revoke` makes the server revoke a token, and says whether it is still active there.
async fn revoked(setup: Setup, revoke: impl AsyncFnOnce(&str) -> bool) {
    let judge = Judge::of(&setup);
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    let token = last_token(&world);
    assert!(!revoke(&token).await, "{token} is still active");
    judge.refuse_last_of(&world);
    world.get("/").await.expect_status(200);
    assert_ne!(last_token(&world), token);
    assert_eq!(forced(&world).await, 1.0);
}

/// The server ends and is started again while requests come.
async fn restart(mut server: Server, setup: Setup) -> Server {
    let judge = Judge::of(&setup);
    let world = setup.start().await;
    world.get("/").await.expect_status(200);

    let mut server = tokio::task::spawn_blocking(move || {
        server.stop();
        server
    })
    .await
    .unwrap();
    // A valid token serves on.
    world.get("/").await.expect_status(200);
    judge.refuse_last_of(&world);
    let starting = tokio::task::spawn_blocking(move || {
        server.start_again();
        server
    });
    let mut back = None;
    let statuses = calling(&world, async { back = Some(starting.await.unwrap()) }).await;
    assert!(statuses.is_subset(&BTreeSet::from([200, 401, 503])), "{statuses:?}");
    served(&world, "tokens again").await;
    world.ready().await;
    back.unwrap()
}
