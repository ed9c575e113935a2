//! A reload while programs use a forward listener.

use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::{HOST, connect, connect_on, forward, forward_with, inside, secure, trusting, wildcard};
use crate::support::egress::Egress;
use crate::support::h2::H2Client;
use crate::support::{RawRequest, RawResponse, Scripted, World, tls, within};

/// As those of any other route.
#[tokio::test]
async fn a_reload_keeps_the_upstream_connections_of_a_wildcards_hosts() {
    let (mut world, egress) = wildcard(&["a.example.com"]).await;
    let authority = "a.example.com:8443";
    let wire = connect(&world, authority).await;
    // The connection inside stays at its worker.
    let mut client = secure(wire, trusting(&world, &[]), "a.example.com", authority).await.unwrap();
    let get = RawRequest::get("/");
    for (change, connections) in
        [("", 1), ("request_headers = { set = { x-new = \"1\" } }", 1), ("connect_timeout = \"7s\"", 2)]
    {
        if !change.is_empty() {
            world.change(|text| text.replace("methods =", &format!("{change}\nmethods =")));
            world.reload().await;
        }
        // Also after reloads without a request in between.
        for reloads in [0, 2] {
            for _ in 0..reloads {
                world.reload().await;
            }
            assert_eq!(client.exchange(&get).await.status, 200, "{change}");
            let opened = (world.upstream().accepted(), egress.seen().len());
            assert_eq!(opened, (connections, connections), "{change}");
        }
    }
    assert_eq!(world.upstream().last().header("x-new"), Some("1"));
}

#[tokio::test]
async fn a_reload_exchanges_routes_for_new_and_open_connections() {
    let mut world = forward().await.start().await;
    let mut client = inside(&world, HOST).await;
    assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
    world.change(|text| text.replace(HOST, "other.example.com"));
    world.reload().await;
    let response = client.exchange(&RawRequest::get("/")).await;
    assert_eq!(response.status, 403, "the open connection sees the new routes");
    let mut client = inside(&world, "other.example.com").await;
    assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
}

/// A program reads its bundle once, when it starts.
#[tokio::test]
async fn reloads_that_add_hosts_leave_running_programs_their_old_ones() {
    let mut world = forward().await.start().await;
    let bundle_at_start = trusting(&world, &[]);
    for n in 0..6 {
        let route = format!("[[route]]\nname = \"r{n}\"\nhost = \"h{n}.test\"\nanonymous = true\n");
        world.change(|text| format!("{text}\n{route}"));
        world.reload().await;
        let wire = connect(&world, &format!("{HOST}:443")).await;
        let mut client = secure(wire, std::sync::Arc::clone(&bundle_at_start), HOST, HOST).await.unwrap();
        assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200, "after {n} reloads");
    }
}

const KEY: &str = "require_header = { name = \"proxy-authorization\", value = { file = \"key\" } }";

/// What a program sends for the content `Basic a2V5`.
const WITH_KEY: &str = "proxy-authorization: Basic a2V5\r\n";

/// What a reload changes: the listener's lines, and the content of the key's file.
fn exchange_rules(world: &mut World, lines: &str, key: &str) {
    world.file("key", key);
    world.change(|text| {
        let kept =
            text.lines().filter(|line| !line.starts_with("require_header") && !line.starts_with("allow"));
        kept.map(
            |line| if line.starts_with("serve = ") { format!("{lines}\n{line}") } else { line.to_owned() },
        )
        .collect::<Vec<_>>()
        .join("\n")
    });
}

/// A CONNECT is checked once, and what is inside it may go on for hours.
#[tokio::test]
async fn a_reload_ends_what_is_inside_a_connect_that_the_new_rules_refuse() {
    let deny = format!("{KEY}\nallow = [\"10.0.0.0/8\"]");
    for (before, after, key, stays) in [
        (KEY, KEY, "Basic a2V5", true),
        (KEY, "", "Basic a2V5", true),
        (KEY, KEY, "Basic bmV3", false),
        ("", KEY, "Basic a2V5", false),
        (KEY, &deny, "Basic a2V5", false),
    ] {
        let setup = forward().await.listener(before);
        setup.file("key", "Basic a2V5");
        let mut world = setup.start().await;
        let mut idle = world.connect().await;
        assert!(connect_on(&mut idle, &format!("{HOST}:443"), WITH_KEY).await.is_none());
        let mut idle = secure(idle.wire, trusting(&world, &[]), HOST, HOST).await.unwrap();
        assert_eq!(idle.exchange(&RawRequest::get("/")).await.status, 200);
        let mut busy = world.connect().await;
        assert!(connect_on(&mut busy, &format!("{HOST}:443"), WITH_KEY).await.is_none());
        let mut busy = secure(busy.wire, trusting(&world, &[]), HOST, HOST).await.unwrap();
        let gate = crate::support::Gate::new();
        world.upstream().next(RawResponse::ok("late").gated(&gate));
        busy.send(&RawRequest::get("/late")).await;
        world.upstream().request(2).await;

        exchange_rules(&mut world, after, key);
        world.reload().await;
        assert_eq!(world.metric("bearerd_config_last_reload_successful", &[]).await, Some(1.0), "{after}");
        gate.open();
        let response = busy.response().await;
        assert_eq!(
            (response.status, response.text()),
            (200, "late".to_owned()),
            "what has begun ends in order"
        );
        if stays {
            assert_eq!(busy.exchange(&RawRequest::get("/")).await.status, 200, "{after}");
            assert_eq!(idle.exchange(&RawRequest::get("/")).await.status, 200, "{after}");
        } else {
            assert!(within("the end of a busy connection", busy.wire.closed()).await);
            // Its end may be on the way.
            idle.wire.send(RawRequest::get("/").bytes(HOST)).await.ok();
            let refused = idle.response_or_end().await.map(|response| (response.status, response.code()));
            assert!(
                refused.is_none() || refused == Some((403, Some("caller_refused".to_owned()))),
                "{refused:?}"
            );
            assert!(within("the end of an idle connection", idle.wire.closed()).await);
            assert_eq!(world.upstream().count(), 2);
        }
    }
}

/// Over HTTP/2 inside and outside, with the same rules.
#[tokio::test]
async fn a_reload_ends_http2_inside_and_the_connection_around_it_stays() {
    let setup = forward().await;
    setup.file("key", "Basic a2V5");
    let mut world = setup.start().await;
    let mut proxy = H2Client::plain(world.address("main")).await;
    let opened = proxy.connect(&format!("{HOST}:443")).await;
    let name = ServerName::try_from(HOST).unwrap();
    let stream = TlsConnector::from(trusting(&world, &["h2"])).connect(name, opened).await.unwrap();
    let mut client = H2Client::over(Box::new(stream), format!("https://{HOST}")).await;
    assert_eq!(client.get("/").await.status, 200);
    exchange_rules(&mut world, KEY, "Basic a2V5");
    world.reload().await;
    // Until GOAWAY has arrived.
    within("the end", async {
        loop {
            let request = client.request("GET", "/").body(crate::support::h2::whole("")).unwrap();
            match client.try_exchange(request).await {
                Ok(refused) => assert_eq!(refused.status, 403),
                Err(_) => return,
            }
        }
    })
    .await;
    assert_eq!(world.upstream().count(), 1);
    let outside = http::Request::get(format!("http://{HOST}/")).version(http::Version::HTTP_2);
    let refused = proxy.exchange(outside.body(crate::support::h2::whole("")).unwrap()).await;
    assert_eq!(refused.status, 407, "the connection around it is open");
}

/// Leaves out what begins with one text and ends before the other.
fn without(text: &str, begin: &str, end: &str) -> String {
    let (before, rest) = text.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    format!("{before}{end}{after}")
}

#[tokio::test]
async fn a_reload_ends_an_unread_tunnel_that_the_new_rules_refuse() {
    let far = Scripted::start(Some(tls::ca().issue(&["far.example.com"]).server(&[]))).await;
    let egress = Egress::to(far.address.unwrap()).await;
    let proxy = format!(", proxy = \"http://{}\"", egress.address);
    type Change = fn(String) -> String;
    let rows: [(&str, Change, bool); 5] = [
        ("nothing that concerns it", |text| text.replace("name = \"api\"", "name = \"other\""), true),
        ("unmatched", |text| without(&text, ", unmatched", " }"), false),
        (
            "its host is named",
            |text| text.replace(&format!("host = \"{HOST}\""), "host = \"*.example.com\""),
            false,
        ),
        ("allow", |text| text.replace("serve = ", "allow = [\"10.0.0.0/8\"]\nserve = "), false),
        ("require_header", |text| text.replace("serve = ", &format!("{KEY}\nserve = ")), false),
    ];
    for (what, change, stays) in rows {
        let setup = forward_with(&format!(", unmatched = \"tunnel\"{proxy}")).await;
        setup.file("key", "Basic a2V5");
        let mut world = setup.start().await;
        let wire = connect(&world, "far.example.com:443").await;
        let config = tls::ca().client(&[], None);
        let mut client = secure(wire, config, "far.example.com", "far.example.com").await.unwrap();
        assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
        world.change(change);
        world.reload().await;
        assert_eq!(world.metric("bearerd_config_last_reload_successful", &[]).await, Some(1.0), "{what}");
        if stays {
            assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200, "{what}");
        } else {
            assert!(within("the end of the tunnel", client.wire.closed()).await, "{what}");
        }
    }
}

#[tokio::test]
async fn a_reload_ends_a_connect_in_which_nothing_has_come_yet() {
    let mut world = forward().await.limits("header_timeout = \"0s\"").start().await;
    let mut wire = connect(&world, &format!("{HOST}:443")).await;
    world.change(|text| text.replace("serve = ", "allow = [\"10.0.0.0/8\"]\nserve = "));
    world.reload().await;
    assert!(within("the end of the CONNECT", wire.closed()).await);
}

/// Over HTTP/2, a connection may be older than the config.
#[tokio::test]
async fn a_connect_on_an_older_connection_gets_the_certificate_of_a_new_host() {
    let mut world = forward().await.start().await;
    let mut proxy = H2Client::plain(world.address("main")).await;
    let _open = proxy.connect(&format!("{HOST}:443")).await;
    world.change(|text| text.replace(HOST, "other.example.com"));
    world.reload().await;
    let opened = proxy.connect("other.example.com:443").await;
    let name = ServerName::try_from("other.example.com").unwrap();
    let stream = TlsConnector::from(trusting(&world, &["h2"])).connect(name, opened).await.unwrap();
    let mut client = H2Client::over(Box::new(stream), "https://other.example.com".to_owned()).await;
    assert_eq!(client.get("/").await.status, 200);
}

/// What is inside was let in by the rules of a forward listener, and is asked for no key again.
#[tokio::test]
async fn a_listener_that_becomes_another_kind_serves_nothing_inside() {
    for (serve, names) in [("proxy", String::new()), ("token", format!("names = [\"{HOST}\"]"))] {
        let setup = forward().await;
        setup.file("key", "k");
        let mut world = setup.start().await;
        let mut client = inside(&world, HOST).await;
        assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
        let lines = format!(
            "serve = \"{serve}\"\n{names}\nrequire_header = {{ name = \"x-key\", value = {{ file = \"key\" }} }}\n\
             [listener.more]\naddress = \"127.0.0.1:0\""
        );
        world.change(|text| {
            let kept = text.lines().filter(|line| !line.starts_with("forward = "));
            kept.map(|line| if line.starts_with("serve = ") { &lines } else { line })
                .collect::<Vec<_>>()
                .join("\n")
        });
        world.reload().await;
        assert_eq!(world.metric("bearerd_config_last_reload_successful", &[]).await, Some(1.0), "{serve}");
        // The key is new, too, so the connection ends.
        for request in [RawRequest::get("/"), RawRequest::get("/token/corp")] {
            client.wire.send(request.bytes(HOST)).await.ok();
            let refused = client.response_or_end().await.map(|response| (response.status, response.code()));
            assert!(
                refused.is_none() || refused == Some((503, Some("overloaded".to_owned()))),
                "{refused:?}"
            );
        }
        assert_eq!(world.upstream().count(), 1);
    }
}
