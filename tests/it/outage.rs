//! An issuer that is away for a while: how soon its return is seen, and what goes on meanwhile.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::support::egress::Egress;
use crate::support::tls::{ca, localhost};
use crate::support::{RawResponse, Scripted, Setup, World, eventually, let_pass, nobody, within};

/// A second is promised, and ten. The rest is for a busy machine: without the promise it would be seven, and fifteen.
const AT_ONCE: Duration = Duration::from_millis(6_000);
const BACKED_OFF: Duration = Duration::from_millis(14_500);

/// An issuer at an address where nobody was, or nobody is any more.
async fn back_at(address: SocketAddr) -> Scripted {
    let listener = eventually("the address to be free", || async { TcpListener::bind(address).await.ok() });
    let issuer = Scripted::on(listener.await, None);
    issuer.always(|_, n| RawResponse::token(&format!("token-{n}")));
    issuer
}

/// The scene with its issuer at this address.
async fn with_issuer_at(address: SocketAddr, keys: &str) -> Setup {
    Setup::new().await.issuer(&format!("token_url = \"http://{address}/token\"\n{keys}"))
}

/// Requests for so long, each of which fails with this status.
async fn fails_for(world: &World, seconds: f64, status: u16) {
    let started = Instant::now();
    while started.elapsed().as_secs_f64() < seconds {
        let response = world.get("/").await;
        assert_eq!(response.status, status, "{}", response.text());
        let_pass(Duration::from_millis(50)).await;
    }
}

/// How long it takes from now until a request is served.
async fn served_after(world: &World) -> Duration {
    let from = Instant::now();
    eventually("a served call", || async { (world.get("/").await.status == 200).then_some(()) }).await;
    from.elapsed()
}

/// Takes no connection, as a machine that is off: the kernel drops requests for one while the backlog is full.
struct Silent {
    listener: TcpListener,
    fillers: Vec<TcpStream>,
}

impl Silent {
    async fn start() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut fillers = Vec::new();
        while let Ok(filler) =
            tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
        {
            fillers.push(filler.unwrap());
        }
        Self { listener, fillers }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    fn back(self) -> Scripted {
        drop(self.fillers);
        // A short backlog alone would lose some connections of a test that is slow to accept them.
        rustix::net::listen(&self.listener, 128).unwrap();
        let issuer = Scripted::on(self.listener, None);
        issuer.always(|_, n| RawResponse::token(&format!("token-{n}")));
        issuer
    }
}

#[tokio::test]
async fn issuer_that_refused_connections_is_asked_as_soon_as_it_is_back() {
    let address = nobody();
    let world = with_issuer_at(address, "").await.start().await;
    let response = world.get("/").await;
    response.expect_problem(503, "token_unavailable");
    assert_eq!(response.header("retry-after"), Some("1"), "it is tried each second");
    // By doubled pauses the next try would be at 15 s.
    fails_for(&world, 8.0, 503).await;
    let issuer = back_at(address).await;
    let took = served_after(&world).await;
    assert!(took < AT_ONCE, "{took:?}");
    assert_eq!(issuer.count(), 1, "one request, however many requests");
    assert!(issuer.accepted() <= 4, "a bare connect, and the request's: {}", issuer.accepted());
}

#[tokio::test]
async fn issuer_that_went_away_in_the_middle_is_asked_as_soon_as_it_is_back() {
    let issuer = Scripted::issuer().await;
    issuer.always(|_, n| RawResponse::token_for(&format!("token-{n}"), 2));
    let address = issuer.address.unwrap();
    let world = with_issuer_at(address, "").await.start().await;
    world.get("/").await.expect_status(200);
    drop(issuer);
    eventually("the token to end", || async { (world.get("/").await.status == 503).then_some(()) }).await;
    fails_for(&world, 8.0, 503).await;
    let _issuer = back_at(address).await;
    let took = served_after(&world).await;
    assert!(took < AT_ONCE, "{took:?}");
}

#[tokio::test]
async fn issuer_that_took_no_connections_is_asked_as_soon_as_it_does() {
    let silent = Silent::start().await;
    let world = with_issuer_at(silent.address(), "timeout = \"1s\"").await.start().await;
    world.get("/").await.expect_problem(504, "token_timeout");
    fails_for(&world, 8.0, 504).await;
    let _issuer = silent.back();
    let took = served_after(&world).await;
    assert!(took < AT_ONCE, "{took:?}");
}

#[tokio::test]
async fn issuer_that_took_connections_and_never_responded_is_asked_again_within_a_second() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::hang());
    let world = setup.issuer("timeout = \"700ms\"").start().await;
    fails_for(&world, 8.0, 504).await;
    let asked = world.issuer().count();
    assert!(asked <= 12, "no more often than its timeout and a second: {asked}");
    world.issuer().always_this(RawResponse::token("t"));
    let took = served_after(&world).await;
    assert!(took < AT_ONCE, "{took:?}");
}

#[tokio::test]
async fn issuer_that_responded_5xx_is_asked_again_within_ten_seconds() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::status(503));
    let world = setup.start().await;
    // By pauses that double up to a minute the next try would be at 31 s.
    fails_for(&world, 16.0, 503).await;
    world.issuer().always_this(RawResponse::token("t"));
    let took = served_after(&world).await;
    assert!(took < BACKED_OFF, "{took:?}");
}

#[tokio::test]
async fn egress_proxy_that_was_away_is_tried_each_second() {
    let issuer = Scripted::start(Some(ca().issue(&["idp.example"]).server(&[]))).await;
    issuer.always_this(RawResponse::token("tunnelled"));
    let address = nobody();
    let to = issuer.address.unwrap();
    let setup = Setup::with(issuer, Scripted::upstream().await);
    setup.file("ca.pem", &ca().pem);
    let keys = format!(
        "token_url = \"https://idp.example/token\"\ntls = {{ ca = {{ file = \"ca.pem\" }} }}\nproxy = \"http://{address}\""
    );
    let world = setup.issuer(&keys).start().await;
    fails_for(&world, 8.0, 503).await;
    let _egress = Egress::at(address, to).await;
    let took = served_after(&world).await;
    assert!(took < AT_ONCE, "{took:?}");
}

#[tokio::test]
async fn egress_proxy_that_is_there_does_not_mean_that_the_issuer_is() {
    let to = nobody();
    let egress = Egress::to(to).await;
    let keys = format!(
        "token_url = \"https://localhost:{}/token\"\ntls = {{ ca = {{ file = \"ca.pem\" }} }}\nproxy = \"http://{}\"",
        to.port(),
        egress.address
    );
    let setup = Setup::new().await.issuer(&keys);
    setup.file("ca.pem", &ca().pem);
    let world = setup.start().await;
    fails_for(&world, 8.0, 503).await;
    let asked = egress.seen().len();
    assert!((2..=5).contains(&asked), "after 1, 2, 4 … s: {asked}");
    let issuer = Scripted::on(TcpListener::bind(to).await.unwrap(), Some(localhost().server(&[])));
    issuer.always_this(RawResponse::token("tunnelled"));
    let took = served_after(&world).await;
    assert!(took < BACKED_OFF, "{took:?}");
}

/// Its address takes connections, and ends each before TLS: how many connections said nothing.
#[tokio::test]
async fn two_issuers_at_one_address_are_looked_out_for_once() {
    let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/token", door.local_addr().unwrap().port());
    let twin = format!(
        "[issuer.twin]\ntoken_url = \"{url}\"\nclient_id = \"c\"\nclient_secret = {{ file = \"secret\" }}\n\
         [[route]]\nname = \"twin\"\npath_prefix = \"/twin\"\nupstream = \"{{upstream}}\"\nissuer = \"twin\"\n"
    );
    let world = Setup::new().await.issuer(&format!("token_url = \"{url}\"")).more(&twin).start().await;
    let started = Instant::now();
    let (mut bare, mut asked) = (0, 0);
    while bare < 7 {
        let (mut stream, _) = within("a connection", door.accept()).await.unwrap();
        let mut hello = [0; 1];
        match tokio::io::AsyncReadExt::read(&mut stream, &mut hello).await {
            Ok(0) => bare += 1,
            _ => asked += 1,
        }
    }
    // A request that waits keeps both slots wanting a token; they are wanted from the start on as well.
    assert_eq!(world.get("/twin").await.status, 503);
    let took = started.elapsed();
    assert!(took > Duration::from_secs(5), "one in a second: 7 in {took:?}");
    // After 1, 2, 4, and 8 s, each as much as a quarter earlier.
    let most = if took < Duration::from_secs(11) { 8 } else { 10 };
    assert!((4..=most).contains(&asked), "{asked} of both issuers in {took:?}");
}

#[tokio::test]
async fn refused_token_stays_in_use_in_an_outage_and_the_refused_request_gets_the_upstreams_response() {
    let issuer = Scripted::issuer().await;
    let address = issuer.address.unwrap();
    let setup = with_issuer_at(address, "").await;
    setup.upstream.always(|request, _| match request.target() {
        "/admin" => RawResponse::status(401).header("www-authenticate", "Basic realm=\"admin\"").body("no"),
        _ => RawResponse::ok("ok"),
    });
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    drop(issuer);
    eventually("nobody to listen", || async { TcpStream::connect(address).await.err() }).await;
    for _ in 0..5 {
        let response = world.get("/admin").await;
        response.expect_status(401);
        assert_eq!(
            (response.header("www-authenticate"), response.text().as_str()),
            (Some("Basic realm=\"admin\""), "no")
        );
        for _ in 0..50 {
            world.get("/").await.expect_status(200);
            assert_eq!(world.upstream().last().bearer(), Some("token-1"));
        }
    }
    assert_eq!(world.status().await["tokens"][0]["state"], "valid");
    assert_eq!(world.metric("bearerd_refreshes_forced_total", &[("route", "api")]).await, Some(1.0));

    let issuer = back_at(address).await;
    issuer.always_this(RawResponse::token("anew"));
    eventually("a new token, though nothing asks for it", || async {
        world.get("/").await.expect_status(200);
        (world.upstream().last().bearer() == Some("anew")).then_some(())
    })
    .await;
    // It was fetched because of the 401: another one does not touch it.
    world.get("/admin").await.expect_status(401);
    assert_eq!((issuer.count(), world.upstream().last().bearer()), (1, Some("anew")));
}

#[tokio::test]
async fn refused_token_is_of_no_more_use_where_the_issuer_refuses_the_client() {
    let setup = Setup::new().await;
    setup.issuer.next(RawResponse::token("token-1"));
    setup.issuer.always_this(RawResponse::oauth_error(401, "invalid_client"));
    setup.upstream.next(RawResponse::unauthorized());
    let world = setup.start().await;
    world.get("/").await.expect_status(401);
    world.get("/").await.expect_problem(502, "token_refused");
    assert_eq!((world.upstream().count(), world.issuer().count()), (1, 2));
}

#[tokio::test]
async fn secret_that_changed_in_an_outage_is_the_one_that_is_sent_after_it() {
    let address = nobody();
    let world = with_issuer_at(address, "").await.start().await;
    fails_for(&world, 2.0, 503).await;
    world.file("secret", "changed");
    world.reload().await;
    fails_for(&world, 1.0, 503).await;
    let issuer = back_at(address).await;
    served_after(&world).await;
    assert_eq!(issuer.last().basic().unwrap(), "client-1:changed");
}

#[tokio::test]
async fn secret_that_is_gone_in_an_outage_is_sent_as_it_was() {
    let issuer = Scripted::issuer().await;
    issuer.always(|_, n| RawResponse::brief_token(n));
    let address = issuer.address.unwrap();
    let world = with_issuer_at(address, "").await.start().await;
    world.get("/").await.expect_status(200);
    drop(issuer);
    std::fs::remove_file(world.folder().join("secret")).unwrap();
    eventually("the token to end", || async { (world.get("/").await.status == 503).then_some(()) }).await;
    let issuer = back_at(address).await;
    let took = served_after(&world).await;
    assert!(took < AT_ONCE, "{took:?}");
    assert!(issuer.last().basic().unwrap().ends_with(crate::support::setup::SECRET));
}

#[tokio::test]
async fn standby_that_was_in_use_is_in_use_after_an_outage() {
    let issuer = Scripted::issuer().await;
    let takes_next = |request: &crate::support::Recorded, n: usize| match request.basic().as_deref() {
        Some("client-1:next") => RawResponse::brief_token(n),
        _ => RawResponse::oauth_error(401, "invalid_client"),
    };
    issuer.always(takes_next);
    let address = issuer.address.unwrap();
    let setup = with_issuer_at(address, "standby = { client_secret = { file = \"next\" } }").await;
    setup.file("next", "next");
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    drop(issuer);
    eventually("the token to end", || async { (world.get("/").await.status == 503).then_some(()) }).await;
    let issuer = back_at(address).await;
    issuer.always(takes_next);
    let took = served_after(&world).await;
    assert!(took < AT_ONCE, "{took:?}");
    assert_eq!(issuer.requests()[0].basic().unwrap(), "client-1:next", "an outage is no refusal");
}

/// Where tokens are asked for and where that is written, at two addresses.
async fn discovered(token_endpoint: SocketAddr) -> Setup {
    let setup = Setup::new().await;
    let url = setup.issuer.url.clone();
    let document =
        format!("{{ \"issuer\": \"{url}\", \"token_endpoint\": \"http://{token_endpoint}/token\" }}");
    setup
        .issuer
        .always(move |_, _| RawResponse::ok(document.clone()).header("content-type", "application/json"));
    setup.issuer("issuer_url = \"{issuer}\"")
}

#[tokio::test]
async fn token_endpoint_that_is_back_is_asked_though_the_document_is_away() {
    let endpoint = Scripted::issuer().await;
    endpoint.always(|_, n| RawResponse::brief_token(n));
    let address = endpoint.address.unwrap();
    let world = discovered(address).await.start().await;
    world.get("/").await.expect_status(200);
    drop(endpoint);
    world.issuer().always_this(RawResponse::status(503));
    eventually("the token to end", || async { (world.get("/").await.status == 503).then_some(()) }).await;
    fails_for(&world, 3.0, 503).await;
    let _endpoint = back_at(address).await;
    let took = served_after(&world).await;
    assert!(took < AT_ONCE, "{took:?}");
}

#[tokio::test]
async fn document_that_is_away_at_the_start_is_asked_for_as_soon_as_its_server_is_back() {
    let endpoint = Scripted::issuer().await;
    let address = nobody();
    let keys = format!("issuer_url = \"http://{address}\"");
    let world = Setup::new().await.issuer(&keys).start().await;
    fails_for(&world, 5.0, 503).await;
    let document =
        format!("{{ \"issuer\": \"http://{address}\", \"token_endpoint\": \"{}/token\" }}", endpoint.url);
    let documents = back_at(address).await;
    documents.always_this(RawResponse::ok(document).header("content-type", "application/json"));
    let took = served_after(&world).await;
    assert!(took < AT_ONCE, "{took:?}");
}

#[tokio::test]
async fn retry_after_of_the_discovery_document_is_obeyed() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::status(503).header("retry-after", "30"));
    let world = setup.issuer("issuer_url = \"{issuer}\"").start().await;
    let response = world.get("/").await;
    response.expect_problem(503, "token_unavailable");
    let left: u64 = response.header("retry-after").unwrap().parse().unwrap();
    assert!((25..=30).contains(&left), "{left}");
    let asked = world.issuer().count();
    fails_for(&world, 4.0, 503).await;
    assert_eq!(world.issuer().count(), asked);
}

#[tokio::test]
async fn an_outage_is_a_warning_a_minute_and_not_one_a_request() {
    let world = with_issuer_at(nobody(), "").await.start().await;
    for _ in 0..12 {
        world.get("/").await.expect_status(503);
    }
    fails_for(&world, 2.0, 503).await;
    let level = |event: &str, level: &str| {
        let events = world.log().events();
        events.iter().filter(|line| line["event"] == event && line["level"] == level).count()
    };
    eventually("the requests in the log", || async {
        (level("request.failed", "DEBUG") >= 10).then_some(())
    })
    .await;
    assert_eq!(level("request.failed", "WARN"), 1);
    assert_eq!(level("token.failed", "WARN"), 1);
}

#[tokio::test]
async fn a_refusal_within_the_grace_counts_as_one() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::oauth_error(401, "invalid_client"));
    let world = setup.issuer("credential_grace = \"15m\"").start().await;
    world.issuer().request(2).await;
    world.get("/").await.expect_problem(502, "token_refused");
    let outcomes = |outcome| world.metric("bearerd_token_requests_total", outcome);
    assert!(outcomes(&[("outcome", "client_refused")]).await >= Some(1.0));
    assert_eq!(outcomes(&[("outcome", "unusable")]).await.unwrap_or_default(), 0.0);
}
