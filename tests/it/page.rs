//! The page at the admin address, as a browser shows it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::support::browser::Browser;
use crate::support::server::npm_installed;
use crate::support::{Bearerd, Client, RawRequest, RawResponse, Setup, World};

/// A name as an attacker would choose it; `scopes` may hold no space.
const HOSTILE: &str = "<img/src=x/onerror=window.hit=1>";

const CONFIG: &str = r#"
[admin]
address = "127.0.0.1:0"

[log]
format = "json"

[listener.main]
address = "127.0.0.1:0"

[issuer.corp]
token_url = "{issuer}/corp/token"
client_id = "shop"
client_secret = { file = "secret" }
scopes = ["orders.read", "orders.write"]

[issuer.ledger]
token_url = "{issuer}/ledger/token"
client_id = "shop-ledger"
client_secret = { file = "secret" }
scopes = ["ledger.read"]
required = false

[[route]]
name = "orders"
path_prefix = "/orders"
upstream = "{upstream}/v2/orders"
issuer = "corp"

[[route]]
name = "payments"
path_prefix = "/payments"
upstream = "{upstream}/payments"
issuer = "corp"
scopes = ["payments.write"]
params = { audience = "https://payments.example" }

[[route]]
name = "ledger"
path_prefix = "/ledger"
methods = ["GET", "POST"]
upstream = "{upstream}/ledger"
issuer = "ledger"

[[route]]
name = "rates"
path = "/rates"
upstream = "{upstream}/rates.json"
anonymous = true
"#;

/// The same with another issuer's token as the credential at `ledger`.
fn chain() -> String {
    let platform = "[issuer.platform]\ntoken_url = \"{issuer}/platform/token\"\nclient_id = \"host\"\nclient_secret = { file = \"secret\" }\nrequired = false\n";
    let ledger = "client_id = \"shop-ledger\"\nclient_secret = { file = \"secret\" }";
    let chained = "client_id = \"shop-ledger\"\nclient_auth = \"assertion_file\"\nassertion = { issuer = \"platform\" }";
    assert!(CONFIG.contains(ledger));
    format!("{}\n{platform}", CONFIG.replace(ledger, chained))
}

/// Everything works.
async fn good() -> Setup {
    let setup = Setup::new().await;
    setup.issuer.always(|request, n| {
        let seconds = if request.target().contains("ledger") { 40 } else { 3600 };
        RawResponse::token_for(&format!("token-{n}"), seconds)
    });
    setup.whole(CONFIG)
}

/// One issuer refuses the client and says hostile things, one upstream refuses good tokens, one responds 503.
async fn failing() -> Setup {
    let setup = good().await;
    setup.issuer.always(|request, n| {
        if !request.target().contains("ledger") {
            return RawResponse::token(&format!("token-{n}"));
        }
        let said = "unknown client <img src=x onerror=\"window.hit = 1\"><script>window.hit = 1</script>";
        let body = serde_json::json!({ "error": "invalid_client", "error_description": said });
        RawResponse::status(401).body(body.to_string())
    });
    setup.upstream.always(|request, _| match request.target() {
        target if target.contains("payments") => RawResponse::unauthorized(),
        target if target.contains("rates") => RawResponse::status(503).body("down"),
        _ => RawResponse::ok("ok"),
    });
    setup.whole(&CONFIG.replace("\"orders.write\"", &format!("\"orders.write\", \"{HOSTILE}\"")))
}

async fn send(world: &World, target: &str, times: usize) {
    let mut client = Client::tcp(world.address("main")).await;
    for _ in 0..times {
        client.exchange(&RawRequest::get(target)).await;
    }
}

async fn traffic(world: &World) {
    send(world, "/orders/7", 30).await;
    send(world, "/payments", 4).await;
    send(world, "/ledger/entries", 3).await;
    send(world, "/rates", 5).await;
}

/// A browser with the page open.
async fn open(world: &World) -> Browser {
    let mut browser = Browser::start().await;
    browser.open(&format!("http://{}/", world.address("admin"))).await;
    browser.says("#routes", "orders").await;
    browser
}

async fn wrong_reload(world: &mut World) {
    world.change(|text| format!("wrokers = 2\n{text}"));
    world.reload().await;
}

#[tokio::test]
#[ignore = "needs chromium"]
async fn the_page_lives_without_loading_again_and_asks_for_nothing_but_the_status() {
    let mut world = good().await.start().await;
    world.ready().await;
    traffic(&world).await;
    let mut browser = open(&world).await;
    browser.evaluate("window.same = true").await;
    browser.says("#state", "ready").await;
    browser.says("#problems", "None.").await;
    browser.says("#tokens", "orders.read orders.write").await;
    browser.says("#tokens", "ledger.read").await;
    browser.says("#config", "bearerd.toml").await;
    browser.says("#facts", "config version 1").await;
    browser.says("#issuers", "/ledger/token").await;

    // The bar of the token that lives for 40 s.
    let width = "document.querySelector('[data-key=ledger] .fill').getBoundingClientRect().width";
    let before = browser.evaluate(width).await.as_f64().unwrap();
    assert!(before > 1.0, "{before}");
    browser.until("the bar to shrink", &format!("{width} < {} - 2", before)).await;

    send(&world, "/orders/7", 60).await;
    browser.says("#routes [data-key=orders]", "90 requests in all").await;
    world.change(|text| format!("{text}\n[[route]]\nname = \"added\"\npath = \"/added\"\nupstream = \"{{upstream}}\"\nanonymous = true\n"));
    world.reload().await;
    browser.says("#facts", "config version 2").await;
    browser.says("#routes", "added").await;
    browser.says("#config", "taken").await;
    assert_eq!(browser.evaluate("window.same").await, true, "the page was not loaded again");

    browser.expect_content().await;
    let admin = format!("http://{}", world.address("admin"));
    let asked: BTreeSet<String> =
        browser.requested().into_iter().filter(|url| url != "about:blank").collect();
    let wanted = [format!("{admin}/"), format!("{admin}/status"), format!("{admin}/status?history")];
    assert!(
        asked.iter().all(|url| wanted.contains(url) || url.starts_with("data:image/svg+xml,")),
        "{asked:?}"
    );
    assert!(asked.contains(&wanted[1]));
}

#[tokio::test]
#[ignore = "needs chromium"]
async fn the_page_says_so_when_nobody_responds_and_keeps_what_it_knew() {
    let mut world = good().await.start().await;
    world.ready().await;
    let mut browser = open(&world).await;
    assert_eq!(world.proxy.stop().await.code(), Some(0));
    browser.says("#gone", "does not respond any more").await;
    browser.says("#state", "no response").await;
    browser.says("#facts", "old").await;
    browser.says("#tokens", "orders.read").await;
    assert_eq!(browser.evaluate("document.body.classList.contains('stale')").await, true);
    browser.screen(1100, 700, false).await;
    browser.picture("status-page-gone.png").await;
}

#[tokio::test]
#[ignore = "needs chromium"]
async fn what_fails_is_at_the_top_with_its_cause_and_markup_is_text() {
    let mut world = failing().await.start().await;
    traffic(&world).await;
    send(&world, "/nowhere", 1).await;
    wrong_reload(&mut world).await;
    let mut browser = open(&world).await;
    browser.screen(1180, 900, false).await;
    browser.says("#problems", "The last reload failed").await;
    // The reload asked the issuer again: there is a next try only once that was refused.
    browser.says("#problems", "next try in").await;
    let problems = browser.text("#problems").await;
    for wanted in [
        "wrokers",
        "There is no token of issuer ledger: requests on ledger fail",
        "invalid_client",
        "unknown client <img src=x onerror=",
        "Route payments: its upstream refuses good tokens",
        "responds 401 to a token that issuer corp has just issued",
        "Route rates: 5 of 5 requests failed recently",
        "A request reached no route",
    ] {
        assert!(problems.contains(wanted), "{wanted:?} in {problems}");
    }
    let first = browser.evaluate("document.querySelector('main').innerText.indexOf('Problems') < document.querySelector('main').innerText.indexOf('Routes')").await;
    assert_eq!(first, true);
    browser.says("#routes [data-key=rates]", "failing").await;
    browser.says("#routes [data-key=ledger]", "token_refused").await;
    browser.says("#routes [data-key=payments]", "refused upstream").await;
    browser.says("#tokens [data-key=ledger]", "no token").await;
    browser.says("#tokens [data-key=ledger]", "check client_id and client_secret of [issuer.ledger]").await;
    let parted = "parted({ detail: 'corp said no; fix it (7)', remedy: 'fix it' })";
    let wanted = serde_json::json!({ "why": "corp said no (7)", "remedy": "fix it" });
    assert_eq!(browser.evaluate(parted).await, wanted, "what to do stands alone, and once");
    browser.says("#tokens", HOSTILE).await;
    browser.says("#state", "ready, with problems").await;
    assert_eq!(browser.evaluate("document.images.length + (window.hit || 0)").await, 0);
    browser.expect_content().await;
    for (name, dark) in [("status-page-failing.png", false), ("status-page-dark.png", true)] {
        browser.dark(dark).await;
        browser.picture(name).await;
    }
    phone(&mut browser, "failing").await;
}

#[tokio::test]
#[ignore = "needs chromium"]
async fn the_page_can_be_read_on_a_phone_and_by_a_screen_reader() {
    let world = good().await.start().await;
    world.ready().await;
    traffic(&world).await;
    let mut browser = open(&world).await;
    browser.screen(1180, 900, false).await;
    browser.says("#problems", "None.").await;
    browser.picture("status-page-good.png").await;
    phone(&mut browser, "good").await;
    let meters = "[...document.querySelectorAll('[role=meter]')].map((it) => it.getAttribute('aria-valuetext')).join()";
    let meters = browser.evaluate(meters).await;
    assert!(meters.as_str().unwrap().contains("left of 1 h"), "{meters}");
    let nameless = "[...document.querySelectorAll('section')].filter((it) => !document.getElementById(it.getAttribute('aria-labelledby'))).length";
    assert_eq!(browser.evaluate(nameless).await, 0);
    let pressed = "document.querySelectorAll('button, form, textarea, [onclick]').length";
    assert_eq!(browser.evaluate(pressed).await, 0, "nothing to press");
    browser.expect_content().await;
}

/// Where the tokens are, whose fetch each one was, and what is wrong when the store fails.
#[tokio::test]
#[ignore = "needs chromium"]
async fn the_page_shows_the_store_and_whose_token_it_is() {
    let setup = good().await;
    let setup =
        setup.whole(&format!("{CONFIG}\n[store]\npath = \"tokens\"\nkeys = [{{ file = \"store.key\" }}]\n"));
    setup.file("store.key", "00".repeat(32));
    let mut world = setup.start().await;
    world.ready().await;
    let mut browser = open(&world).await;
    browser.screen(1180, 900, false).await;
    browser.says("#config", "✓ folder ").await;
    browser.says("#config", "0 hits, 3 leases, 0 held by others, 0 failures").await;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    browser.says("#tokens [data-key=orders]", &format!("by {host}, for all")).await;
    browser.says("#tokens [data-key=orders]", "generation 1").await;

    assert_eq!(world.proxy.stop().await.code(), Some(0));
    world.proxy = Bearerd::start(world.shared_folder(), &[]).await;
    world.ready().await;
    browser.open(&format!("http://{}/", world.address("admin"))).await;
    browser.says("#tokens [data-key=orders]", &format!("by {host}, from the store")).await;
    browser.says("#config", "3 hits, 0 leases").await;
    browser.says("#problems", "None.").await;
    browser.picture("status-page-store.png").await;
    phone(&mut browser, "store").await;

    let folder = world.folder().join("tokens");
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(&folder, "in its place").unwrap();
    world.upstream().always_this(RawResponse::unauthorized());
    send(&world, "/orders/7", 1).await;
    browser.says("#problems", "The token store is unavailable: tokens are fetched without it").await;
    browser.says("#problems", "is a file: remove that file, or name another path").await;
    browser.says("#config", ", unavailable").await;
    browser.screen(1180, 900, false).await;
    browser.picture("status-page-store-failing.png").await;
    browser.expect_content().await;
}

/// The token of one issuer is a credential at another: both have a life of their own, and the leg that fails says so.
#[tokio::test]
#[ignore = "needs chromium"]
async fn the_page_shows_both_legs_of_a_chain_with_their_lives() {
    let setup = good().await.whole(&chain());
    setup.issuer.always(|request, n| {
        let seconds = if request.target().contains("ledger") { 900 } else { 3600 };
        RawResponse::token_for(&format!("token-{n}"), seconds)
    });
    let world = setup.start().await;
    world.ready().await;
    let mut browser = open(&world).await;
    browser.screen(1180, 900, false).await;
    let (outer, inner) = ("#tokens [data-key=ledger]", "#tokens [data-key=\"issuer platform\"]");
    browser.says(outer, "with a token of platform").await;
    browser.says(outer, "left of 15 min").await;
    browser.says(inner, "for issuer ledger, so for ledger").await;
    browser.says(inner, "left of 1 h").await;
    let rows = "[...document.querySelectorAll('#tokens [data-key]')].map((row) => row.dataset.key).join()";
    assert_eq!(
        browser.evaluate(rows).await,
        "orders,payments,ledger,issuer platform",
        "below the one that needs it"
    );
    browser.says("#problems", "None.").await;
    browser.picture("status-page-chain.png").await;
    phone(&mut browser, "chain").await;

    // The inner issuer refuses the client once its token is refused.
    world.issuer().always(|request, n| match request.target() {
        target if target.contains("platform") => RawResponse::oauth_error(401, "invalid_client"),
        target if target.contains("ledger") => RawResponse::oauth_error(400, "invalid_grant"),
        _ => RawResponse::token_for(&format!("token-{n}"), 3600),
    });
    world.upstream().always_this(RawResponse::unauthorized());
    send(&world, "/ledger/entries", 1).await;
    browser.says("#problems", "platform").await;
    browser.says(inner, "invalid_client").await;
    browser.says(outer, "its assertion comes from issuer platform, which gives no token").await;
    browser.screen(1180, 900, false).await;
    browser.picture("status-page-chain-failing.png").await;
    browser.expect_content().await;
}

const LISTENERS: &str = r#"
[listener.egress]
address = "127.0.0.1:0"
serve = "forward"
forward = { ca_bundle = "there/ca.pem" }

[listener.sdk]
address = "127.0.0.1:0"
serve = "token"
require_header = { name = "x-key", value = { file = "secret" } }

[[route]]
name = "billing"
listener = "egress"
host = "*.billing.example"
upstream = "{upstream}"
issuer = "corp"
"#;

/// What programs do that use bearerd as a proxy or ask it for a token.
#[tokio::test]
#[ignore = "needs chromium"]
async fn the_page_shows_what_listeners_of_each_kind_do() {
    let setup = good().await;
    let routes = CONFIG.replace("[[route]]\n", "[[route]]\nlistener = \"main\"\n");
    let setup = setup.whole(&format!("{routes}{LISTENERS}"));
    std::fs::create_dir(setup.folder().join("there")).unwrap();
    let mut world = setup.start().await;
    world.ready().await;
    traffic(&world).await;
    for (host, status) in [("api.billing.example", 200), ("eu.billing.example", 200), ("other.example", 403)]
    {
        let mut program = Client::tcp(world.address("egress")).await;
        let connect = format!("CONNECT {host}:443 HTTP/1.1\r\nhost: {host}:443\r\n\r\n");
        program.wire.send(connect).await.unwrap();
        assert_eq!(program.head().await.word(1), status.to_string());
    }
    let form = "application/x-www-form-urlencoded";
    let ask = |issuer: &str| {
        let request = RawRequest::post("/token", format!("grant_type=client_credentials&issuer={issuer}"));
        request.header("content-type", form).header("x-key", crate::support::setup::SECRET)
    };
    let mut sdk = Client::tcp(world.address("sdk")).await;
    for _ in 0..3 {
        assert_eq!(sdk.exchange(&ask("corp")).await.status, 200);
    }
    let mut browser = open(&world).await;
    browser.screen(1180, 900, false).await;
    browser.says("#listeners [data-key=egress]", "forward proxy: 3 CONNECTs, 1 refused; CA until 20").await;
    browser.says("#listeners [data-key=sdk]", "tokens: 3 requests").await;
    browser.says("#listeners [data-key=main]", "routes").await;
    browser.says("#routes [data-key=billing]", "*.billing.example").await;
    // Each of these fits one line.
    let broken = "[...document.querySelectorAll('#issuers td:nth-child(n+4), #issuers td:nth-child(2), #warnings td:first-child')]\
         .filter((it) => { const range = document.createRange(); range.selectNodeContents(it); \
         return range.getBoundingClientRect().height > 30; }).map((it) => it.textContent).join()";
    assert_eq!(browser.evaluate(broken).await, "", "words that are broken");
    browser.picture("status-page-listeners.png").await;
    phone(&mut browser, "listeners").await;

    assert_eq!(sdk.exchange(&ask("nobody")).await.status, 400);
    std::fs::remove_dir_all(world.folder().join("there")).unwrap();
    world.change(|text| text.replace("*.billing.example", "other.example"));
    world.reload().await;
    browser.screen(1180, 900, false).await;
    browser.says("#problems", "A program got no token from listener sdk").await;
    browser.says("#problems", "The CA bundle of listener egress was not written").await;
    browser.picture("status-page-listeners-failing.png").await;
    phone(&mut browser, "listeners-failing").await;
    browser.expect_content().await;
}

/// One upstream that is down fails all of its routes, and is one problem.
#[tokio::test]
#[ignore = "needs chromium"]
async fn one_cause_is_one_problem_and_routes_are_filtered_and_sorted() {
    let setup = good().await;
    setup.upstream.always(|request, _| match request.target() {
        target if target.contains("orders") => RawResponse::ok("ok"),
        _ => RawResponse::status(503).body("down"),
    });
    let world = setup.start().await;
    world.ready().await;
    traffic(&world).await;
    let mut browser = open(&world).await;
    browser.says("#problems", "requests fail on 3 routes: payments, ledger, rates").await;
    let cards = browser.evaluate("document.querySelectorAll('#problems .card').length").await;
    assert_eq!(cards, 1);
    let order = "[...document.querySelectorAll('#routes tbody')].map((it) => it.dataset.key).join()";
    assert_eq!(browser.evaluate(order).await, "payments,ledger,rates,orders", "trouble first");
    let choose = |id: &str, value: &str, event: &str| {
        format!(
            "{{ const it = document.getElementById('{id}'); it.value = '{value}'; it.dispatchEvent(new Event('{event}')); }}"
        )
    };
    browser.evaluate(&choose("sort", "name", "change")).await;
    assert_eq!(browser.evaluate(order).await, "ledger,orders,payments,rates");
    browser.evaluate(&choose("filter", "corp payments", "input")).await;
    assert_eq!(browser.evaluate(order).await, "payments");
    browser.says("#matching", "1 of 4 routes match").await;
    browser.evaluate(&choose("filter", "no such", "input")).await;
    browser.says("#matching", "0 of 4 routes match").await;
    browser.evaluate(&choose("filter", "", "input")).await;
    assert_eq!(browser.evaluate(order).await, "ledger,orders,payments,rates");
    // The hour's graphs have words for those who do not see them.
    let graphs = "[...document.querySelectorAll('#routes [data-key=payments] svg')].map((it) => it.getAttribute('aria-label')).join()";
    let graphs = browser.evaluate(graphs).await;
    let wanted =
        ["Requests in each minute of the last hour: at most 4, 4 errors in all", "Latency in each minute"];
    assert!(wanted.iter().all(|words| graphs.as_str().unwrap().contains(words)), "{graphs}");
    browser.expect_content().await;
}

/// An hour of traffic as it may have been, for the picture in the README, which is copied from the folder that tests write to.
const AN_HOUR: &str = r"{
    const wave = (of, mean, swing) => Array.from({ length: 60 }, (_, i) =>
        Math.max(0, mean + swing * Math.sin((i + of) / 6) + swing * 0.4 * Math.sin((i * 7 + of) % 5)));
    const whole = (values) => values.map(Math.round);
    const hour = (of, mean, errors, slow) => ({ step_seconds: 60, last_seconds: 60, requests: whole(wave(of, mean, mean / 3)),
        errors, p50_ms: wave(of + 3, slow / 3, slow / 12), p99_ms: wave(of, slow, slow / 3) });
    const none = Array(60).fill(0);
    histories.set('orders', hour(0, 620, none, 42));
    histories.set('payments', hour(9, 180, none, 88));
    histories.set('ledger', hour(4, 60, none.map((_, i) => (i > 22 && i < 27 ? 9 : 0)), 30));
    histories.set('rates', hour(13, 240, none.map((_, i) => (i > 54 ? 200 : 0)), 12));
    show(last);
    for (const id of ['issuers', 'listeners', 'config', 'warnings']) at(id).hidden = true;
}";

#[tokio::test]
#[ignore = "needs chromium"]
async fn the_picture_of_the_readme() {
    let setup = good().await.whole(&chain());
    setup.upstream.always(|request, _| match request.target() {
        target if target.contains("rates") => RawResponse::status(503).body("down"),
        _ => RawResponse::ok("ok"),
    });
    let world = setup.start().await;
    world.ready().await;
    for _ in 0..4 {
        traffic(&world).await;
    }
    let mut browser = open(&world).await;
    browser.screen(1180, 900, false).await;
    browser.says("#problems", "requests failed recently").await;
    browser.evaluate(AN_HOUR).await;
    let graphs = browser.evaluate("document.querySelectorAll('#routes svg[aria-label]').length").await;
    assert_eq!(graphs, 8);
    browser.picture("status-page.png").await;
}

/// axe-core knows what screen readers and keyboards stumble on (WCAG 2.2, levels A and AA, and best practices).
#[tokio::test]
#[ignore = "needs chromium, npm"]
async fn axe_finds_nothing() {
    let axe = tokio::task::spawn_blocking(|| npm_installed("axe")).await.unwrap();
    let axe = std::fs::read_to_string(axe.join("node_modules/axe-core/axe.min.js")).unwrap();
    let mut world = failing().await.start().await;
    traffic(&world).await;
    send(&world, "/nowhere", 1).await;
    wrong_reload(&mut world).await;
    let mut browser = open(&world).await;
    browser.says("#problems", "next try in").await;
    browser.evaluate(&format!("{axe}; 0")).await;
    for (width, dark) in [(1180, false), (1180, true), (360, false)] {
        browser.screen(width, 900, width < 500).await;
        browser.dark(dark).await;
        let run = "axe.run().then((it) => it.violations.map((v) => v.id + ': ' + v.help + ' ' + v.nodes.slice(0, 3).map((n) => n.html)))";
        assert_eq!(browser.evaluate(run).await, serde_json::json!([]), "at {width}, dark: {dark}");
    }
}

/// Hundreds of routes with one issuer, and an upstream that wants the whole width.
#[tokio::test]
#[ignore = "needs chromium"]
async fn many_routes_and_long_names_leave_the_page_readable() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::oauth_error(401, "invalid_client"));
    let long = "u".repeat(400);
    let route = |n: usize| {
        let path = if n == 0 { long.as_str() } else { "v1" };
        format!(
            "[[route]]\nname = \"r{n}\"\npath = \"/{n}\"\nupstream = \"{{upstream}}/{path}\"\nissuer = \"corp\"\n"
        )
    };
    let (head, _) = CONFIG.split_once("[[route]]").unwrap();
    let routes: String = (0..320).map(route).collect();
    let world = setup.whole(&format!("{head}{routes}")).start().await;
    send(&world, "/0", 3).await;
    let mut browser = Browser::start().await;
    browser.open(&format!("http://{}/", world.address("admin"))).await;
    browser.says("#problems", "and 312 more fail").await;
    browser.says("#tokens", "and 312 more").await;
    browser.says("#routes", "and 20 more; /status has all").await;
    browser.says("#routes [data-key=r0]", "100 %").await;
    for width in [760, 900, 1180] {
        browser.screen(width, 900, false).await;
        let wrapped = "[...document.querySelectorAll('#routes th, #routes [data-key=r0] .number, #routes [data-key=r0] .number + .sub')]\
             .filter((it) => { const range = document.createRange(); range.selectNodeContents(it); \
             return new Set([...range.getClientRects()].map((line) => Math.round(line.top))).size > 1; }).map((it) => it.textContent).join()";
        assert_eq!(browser.evaluate(wrapped).await, "", "at {width}");
        let widest = browser.evaluate("document.documentElement.scrollWidth").await.as_u64().unwrap();
        assert!(widest <= u64::from(width), "{widest} of {width}");
    }
    let lost =
        "[...document.querySelectorAll('nav a')].filter((it) => !document.querySelector(it.hash)).length";
    assert_eq!(browser.evaluate(lost).await, 0);
    browser.evaluate("document.querySelector('nav a[href=\"#tokens\"]').click()").await;
    let seen = "document.querySelector('#h-tokens').getBoundingClientRect()";
    browser
        .until("the tokens to be in view", &format!("{seen}.top >= 0 && {seen}.bottom <= innerHeight"))
        .await;
    browser.expect_content().await;
}

/// No width that phones have makes the page scroll sideways.
async fn phone(browser: &mut Browser, name: &str) -> PathBuf {
    browser.dark(false).await;
    for width in [320, 360, 400] {
        browser.screen(width, 800, true).await;
        let widest = browser.evaluate("document.documentElement.scrollWidth").await.as_u64().unwrap();
        assert!(widest <= u64::from(width), "{widest} of {width}");
    }
    browser.screen(360, 800, true).await;
    browser.picture(&format!("status-page-phone-{name}.png")).await
}
