//! Upstreams that speak HTTP/2, and end connections, refuse streams or limit them as real ones do.

use std::time::Duration;

use crate::support::frames::{END_HEADERS, END_STREAM, HEADERS, block};
use crate::support::h2::{H2Client, whole};
use crate::support::peer::{
    ANY_STREAM, CANCEL, ENHANCE_YOUR_CALM, HTTP_1_1_REQUIRED, INITIAL_WINDOW_SIZE, INTERNAL_ERROR,
    MAX_CONCURRENT_STREAMS, NO_ERROR, Peer, PeerServer, REFUSED_STREAM,
};
use crate::support::tls::{ca, localhost};
use crate::support::{Client, Gate, RawRequest, Response, Setup, World, eventually, let_pass, stays, within};

/// Over plain HTTP/2.
async fn to(upstream: &PeerServer, route: &str) -> World {
    let route = format!("upstream = \"{}\"\nprotocol = \"http2\"\n{route}", upstream.url);
    Setup::new().await.route(&route).start().await
}

/// Over TLS, the protocol chosen by ALPN.
async fn tls<F: Future<Output = ()> + Send>(
    route: &str,
    play: impl Fn(Peer) -> F + Send + Sync + 'static,
) -> (PeerServer, World) {
    let upstream = PeerServer::start(Some(localhost().server(&["h2", "http/1.1"])), play).await;
    let setup = Setup::new().await;
    setup.file("ca.pem", &ca().pem);
    let route = format!("upstream = \"{}\"\ntls = {{ ca = {{ file = \"ca.pem\" }} }}\n{route}", upstream.url);
    let world = setup.route(&route).start().await;
    (upstream, world)
}

/// All at once, each on a connection of its own.
async fn at_once(world: &World, calls: impl IntoIterator<Item = RawRequest>) -> Vec<Response> {
    let mut running = tokio::task::JoinSet::new();
    let address = world.address("main");
    for (at, call) in calls.into_iter().enumerate() {
        running.spawn(async move { (at, Client::tcp(address).await.exchange(&call).await) });
    }
    let mut responses = running.join_all().await;
    responses.sort_by_key(|(at, _)| *at);
    responses.into_iter().map(|(_, response)| response).collect()
}

/// Waits until so many callers are there.
async fn all_connected(world: &World, callers: u32) {
    eventually("all callers to be connected", || async {
        let open = world.metric("bearerd_connections", &[("listener", "main")]).await;
        (open == Some(f64::from(callers))).then_some(())
    })
    .await;
}

fn gets(count: usize) -> Vec<RawRequest> {
    vec![RawRequest::get("/"); count]
}

/// Bodies that differ, so that no caller gets another one's.
fn posts(count: usize, size: usize) -> Vec<RawRequest> {
    (0..count)
        .map(|n| RawRequest::post("/", format!("{}{n}", " ".repeat(size - n.to_string().len()))))
        .collect()
}

/// All were served, and each of [`posts`] has its own body back.
#[track_caller]
fn all_served(responses: &[Response], size: usize) {
    for (n, answer) in responses.iter().enumerate() {
        answer.expect_status(200);
        if size > 0 {
            assert_eq!(answer.text().trim(), n.to_string());
        }
    }
}

/// Serves the first three of ten requests, and says that it has not processed the others.
async fn ends_after_three(mut peer: Peer, goodbye: &[u32]) {
    peer.begin(&[]).await;
    if peer.number > 0 {
        return peer.serve().await;
    }
    let asked = peer.asked_times(10).await;
    for last in goodbye {
        let last = if *last == ANY_STREAM { ANY_STREAM } else { asked[2].stream };
        peer.go_away(last, NO_ERROR).await;
    }
    for asked in &asked[..3] {
        peer.respond(asked).await;
    }
    peer.end().await;
}

#[tokio::test]
async fn requests_above_the_last_id_of_a_goaway_are_sent_once_more() {
    for (calls, size) in [(gets(10), 0), (posts(10, 5_000), 5_000)] {
        for goodbye in [&[0][..], &[ANY_STREAM, 0]] {
            let upstream = PeerServer::plain(move |peer| ends_after_three(peer, goodbye)).await;
            let world = to(&upstream, "").await;
            all_served(&at_once(&world, calls.clone()).await, size);
            assert_eq!(upstream.all_requests(), [10, 7], "one dial for all, and each repeated once");
        }
    }
}

#[tokio::test]
async fn body_that_was_not_sent_is_sent_after_a_goaway_whatever_its_size() {
    let upstream = PeerServer::plain(|mut peer: Peer| async move {
        if peer.number > 0 {
            peer.begin(&[]).await;
            return peer.serve().await;
        }
        peer.begin(&[(INITIAL_WINDOW_SIZE, 0)]).await;
        for _ in 0..5 {
            peer.begun().await.unwrap();
        }
        peer.go_away(0, NO_ERROR).await;
        peer.end().await;
    })
    .await;
    let world = to(&upstream, "").await;
    all_served(&at_once(&world, posts(5, 200_000)).await, 200_000);
    assert_eq!(upstream.all_requests(), [5, 5]);
}

#[tokio::test]
async fn body_that_was_sent_and_not_kept_is_not_sent_again() {
    let upstream = PeerServer::plain(|mut peer: Peer| async move {
        peer.begin(&[]).await;
        peer.asked().await.unwrap();
        peer.go_away(0, NO_ERROR).await;
        peer.end().await;
    })
    .await;
    let world = to(&upstream, "replay_limit = \"1KiB\"").await;
    world.exchange(RawRequest::post("/", vec![b'x'; 10_000])).await.expect_problem(502, "upstream_invalid");
    assert_eq!(upstream.all_requests(), [1]);
}

#[tokio::test]
async fn announced_end_takes_no_new_requests_and_finishes_the_old_ones() {
    let (go_on, old) = (Gate::new(), Gate::new());
    let (may_answer, begun) = (go_on.clone(), old.clone());
    let upstream = PeerServer::plain(move |mut peer: Peer| {
        let (may_answer, begun) = (may_answer.clone(), begun.clone());
        async move {
            peer.begin(&[]).await;
            if peer.number > 0 {
                return peer.serve().await;
            }
            let asked = peer.asked().await.unwrap();
            peer.go_away(ANY_STREAM, NO_ERROR).await;
            begun.open();
            may_answer.wait().await;
            peer.go_away(asked.stream, NO_ERROR).await;
            peer.respond(&asked).await;
            peer.end().await;
        }
    })
    .await;
    let world = to(&upstream, "").await;
    let mut slow = world.connect().await;
    slow.send(&RawRequest::post("/", "slow")).await;
    old.wait().await;
    for _ in 0..3 {
        assert_eq!(world.exchange(RawRequest::post("/", "new")).await.text(), "new");
    }
    assert_eq!(upstream.all_requests(), [1, 3]);
    go_on.open();
    assert_eq!(slow.response().await.text(), "slow");
    eventually("the old connection to end", || async { (upstream.closed() == 1).then_some(()) }).await;
}

#[tokio::test]
async fn connection_that_breaks_its_promise_costs_what_may_have_been_done() {
    let upstream = PeerServer::plain(|mut peer: Peer| async move {
        peer.begin(&[]).await;
        if peer.number > 0 {
            return peer.serve().await;
        }
        // The first request makes it a connection that served before.
        let first = peer.asked().await.unwrap();
        peer.respond(&first).await;
        let both = peer.asked_times(2).await;
        peer.go_away(both[1].stream, NO_ERROR).await;
    })
    .await;
    let world = to(&upstream, "").await;
    world.get("/").await.expect_status(200);
    let responses = at_once(&world, [RawRequest::get("/"), RawRequest::post("/", "x")]).await;
    responses[0].expect_status(200);
    responses[1].expect_problem(502, "upstream_invalid");
    assert_eq!(upstream.all_requests(), [3, 1]);
}

/// Takes one connection at a time, and one request at a time on it.
fn narrow(first: Gate) -> impl Fn(Peer) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
    move |mut peer: Peer| {
        let first = first.clone();
        Box::pin(async move {
            if peer.number > 0 && !first.is_open() {
                return;
            }
            peer.begin(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
            if first.is_open() {
                return peer.serve().await;
            }
            let asked = peer.asked().await.unwrap();
            // The others have been turned away, and wait for their turn on this connection.
            first.wait().await;
            peer.go_away(asked.stream, NO_ERROR).await;
            peer.respond(&asked).await;
            peer.end().await;
        })
    }
}

#[tokio::test]
async fn requests_that_wait_for_their_turn_survive_a_goaway() {
    let gate = Gate::new();
    let upstream = PeerServer::plain(narrow(gate.clone())).await;
    let world = to(&upstream, "").await;
    let opener = async {
        eventually("the others to be turned away", || async { (upstream.accepted() > 1).then_some(()) })
            .await;
        upstream.begun(1).await;
        stays(Duration::from_millis(300), || upstream.requests(0)).await;
        gate.open();
    };
    let (responses, ()) = tokio::join!(at_once(&world, posts(10, 100)), opener);
    all_served(&responses, 100);
    assert_eq!(upstream.requests(0), 1);
}

#[tokio::test]
async fn refused_request_is_sent_once_more_on_another_connection() {
    for call in [RawRequest::get("/"), RawRequest::post("/", "kept"), RawRequest::new("DELETE", "/")] {
        let upstream = PeerServer::plain(|mut peer: Peer| async move {
            peer.begin(&[]).await;
            if peer.number > 0 {
                return peer.serve().await;
            }
            let asked = peer.asked().await.unwrap();
            peer.reset(asked.stream, REFUSED_STREAM).await;
            peer.serve().await;
        })
        .await;
        let world = to(&upstream, "").await;
        world.exchange(call).await.expect_status(200);
        assert_eq!(upstream.all_requests(), [1, 1]);
    }
}

#[tokio::test]
async fn refused_request_whose_body_still_comes_goes_on_elsewhere() {
    let upstream = PeerServer::plain(|mut peer: Peer| async move {
        peer.begin(&[]).await;
        if peer.number > 0 {
            return peer.serve().await;
        }
        let stream = peer.begun().await.unwrap();
        peer.next().await.unwrap();
        peer.reset(stream, REFUSED_STREAM).await;
        peer.end().await;
    })
    .await;
    let world = to(&upstream, "").await;
    let mut client = world.connect().await;
    client.send(&RawRequest::new("POST", "/").header("Content-Length", "12")).await;
    client.wire.send("hello ").await.unwrap();
    upstream.begun(2).await;
    client.wire.send("world!").await.unwrap();
    assert_eq!(client.response().await.text(), "hello world!");
    assert_eq!(upstream.all_requests(), [1, 1]);
}

#[tokio::test]
async fn upstream_that_refuses_everything_is_asked_twice() {
    let upstream = PeerServer::plain(|mut peer: Peer| async move {
        peer.begin(&[]).await;
        while let Ok(asked) = peer.asked().await {
            peer.reset(asked.stream, REFUSED_STREAM).await;
        }
    })
    .await;
    let world = to(&upstream, "").await;
    world.get("/").await.expect_problem(502, "upstream_invalid");
    assert_eq!(upstream.all_requests(), [1, 1]);
    world.exchange(RawRequest::post("/", "x")).await.expect_problem(502, "upstream_invalid");
    assert_eq!(upstream.all_requests(), [1, 1, 1, 1]);
}

#[tokio::test]
async fn refusal_does_not_harm_the_other_requests_of_its_connection() {
    let gate = Gate::new();
    let may_answer = gate.clone();
    let upstream = PeerServer::plain(move |mut peer: Peer| {
        let may_answer = may_answer.clone();
        async move {
            peer.begin(&[]).await;
            if peer.number > 0 {
                return peer.serve().await;
            }
            let both = peer.asked_times(2).await;
            let refused = usize::from(both[0].body != b"refused");
            peer.reset(both[refused].stream, REFUSED_STREAM).await;
            may_answer.wait().await;
            peer.respond(&both[1 - refused]).await;
            peer.end().await;
        }
    })
    .await;
    let world = to(&upstream, "").await;
    let mut other = world.connect().await;
    other.send(&RawRequest::post("/", "other")).await;
    upstream.begun(1).await;
    assert_eq!(world.exchange(RawRequest::post("/", "refused")).await.text(), "refused");
    gate.open();
    assert_eq!(other.response().await.text(), "other");
    assert_eq!(upstream.all_requests(), [2, 1]);
}

async fn wants_http1(mut peer: Peer) {
    if peer.http1 {
        return peer.serve_http1().await;
    }
    peer.begin(&[]).await;
    while let Ok(asked) = peer.asked().await {
        peer.reset(asked.stream, HTTP_1_1_REQUIRED).await;
    }
}

#[tokio::test]
async fn upstream_that_wants_http1_gets_it_from_then_on() {
    let (upstream, world) = tls("", wants_http1).await;
    assert_eq!(world.exchange(RawRequest::post("/", "sent twice")).await.text(), "sent twice");
    for _ in 0..3 {
        assert_eq!(world.get("/").await.text(), "http/1.1");
    }
    all_served(&at_once(&world, gets(5)).await, 0);
    assert_eq!(upstream.requests(0), 1, "HTTP/2 was tried once");
    assert!((1..upstream.accepted()).all(|connection| upstream.requests(connection) == 0));
}

#[tokio::test]
async fn upstream_that_wants_http1_on_an_http2_route_is_reported_so() {
    let (upstream, world) = tls("protocol = \"http2\"", wants_http1).await;
    let answer = world.get("/").await;
    answer.expect_problem(502, "upstream_invalid");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("HTTP/1.1") && detail.contains("protocol = \"auto\""), "{detail}");
    assert_eq!(upstream.all_requests(), [1]);
}

#[tokio::test]
async fn other_resets_cost_neither_a_repeat_nor_the_connection() {
    let upstream = PeerServer::plain(|mut peer: Peer| async move {
        peer.begin(&[]).await;
        while let Ok(asked) = peer.asked().await {
            match String::from_utf8_lossy(&asked.body).parse() {
                Ok(code) => peer.reset(asked.stream, code).await,
                Err(_) => peer.respond(&asked).await,
            }
        }
    })
    .await;
    let world = to(&upstream, "").await;
    let mut requests = 0;
    for code in [INTERNAL_ERROR, CANCEL, ENHANCE_YOUR_CALM, NO_ERROR, 0xabcd] {
        for method in ["POST", "PUT", "DELETE", "GET"] {
            let call = RawRequest::new(method, "/").body(code.to_string());
            world.exchange(call).await.expect_problem(502, "upstream_invalid");
            world.get("/").await.expect_status(200);
            requests += 2;
            assert_eq!(upstream.all_requests(), [requests], "{method} {code}");
        }
    }
}

#[tokio::test]
async fn reset_within_a_response_looks_broken() {
    let upstream = PeerServer::plain(|mut peer: Peer| async move {
        peer.begin(&[]).await;
        while let Ok(asked) = peer.asked().await {
            let body = String::from_utf8(asked.body).unwrap();
            let length: &[_] = if body.contains("length") { &[("content-length", "10")] } else { &[] };
            peer.head(asked.stream, 200, length).await;
            peer.data(asked.stream, b"half", false).await;
            // Without error, too: that may follow a response that came early and is whole, and END_STREAM alone says so.
            let code = if body.contains("no error") { NO_ERROR } else { INTERNAL_ERROR };
            peer.reset(asked.stream, code).await;
        }
    })
    .await;
    let world = to(&upstream, "").await;
    for body in ["length", "chunks", "length, no error", "chunks, no error"] {
        let mut client = world.connect().await;
        client.send(&RawRequest::post("/", body)).await;
        let head = client.head().await;
        assert_eq!(head.word(1), "200");
        assert!(within("the end", client.wire.body(&head, true)).await.is_err(), "{body}");

        let mut client = world.connect().await;
        client.send(&RawRequest::post("/", body).http10()).await;
        client.head().await;
        assert!(within("the end", client.wire.rest()).await.is_err(), "a reset, for HTTP/1.0: {body}");

        let mut client = H2Client::plain(world.address("main")).await;
        let request = client.request("POST", "/").body(whole(body)).unwrap();
        assert!(client.try_exchange(request).await.is_err(), "{body}");
    }
    assert_eq!(upstream.all_requests(), [12], "nothing was sent again");
}

#[tokio::test]
async fn whole_response_may_be_followed_by_any_reset() {
    const CODES: [u32; 3] = [NO_ERROR, CANCEL, INTERNAL_ERROR];
    let upstream = PeerServer::plain(|mut peer: Peer| async move {
        peer.begin(&[]).await;
        let mut codes = CODES.into_iter().cycle();
        while let Ok(stream) = peer.begun().await {
            peer.head(stream, 200, &[]).await;
            peer.data(stream, b"whole", true).await;
            peer.reset(stream, codes.next().unwrap()).await;
        }
    })
    .await;
    let world = to(&upstream, "").await;
    for _ in CODES {
        let response = world.get("/").await;
        response.expect_status(200);
        assert_eq!(response.text(), "whole");
    }
    let mut client = H2Client::plain(world.address("main")).await;
    for _ in CODES {
        assert_eq!(client.get("/").await.text(), "whole");
    }
}

/// Answers each request after a moment, and resets what goes over the limit.
async fn limited(mut peer: Peer, limit: usize) {
    let mut open = Vec::new();
    loop {
        let next = tokio::time::timeout(Duration::from_millis(20), peer.asked()).await;
        match next {
            Ok(Ok(asked)) if open.len() >= limit => peer.reset(asked.stream, REFUSED_STREAM).await,
            Ok(Ok(asked)) => open.push(asked),
            Ok(Err(_)) => return,
            Err(_) => {
                for asked in open.drain(..) {
                    peer.respond(&asked).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn no_more_streams_are_opened_than_the_upstream_takes() {
    for limit in [1, 4] {
        let upstream = PeerServer::plain(move |mut peer: Peer| async move {
            peer.begin(&[(MAX_CONCURRENT_STREAMS, limit)]).await;
            limited(peer, usize::try_from(limit).unwrap()).await;
        })
        .await;
        let world = to(&upstream, "").await;
        all_served(&at_once(&world, posts(100, 100)).await, 100);
        assert_eq!(upstream.all_requests().iter().sum::<usize>(), 100, "none was refused");
    }
}

#[tokio::test]
async fn limit_of_streams_is_waited_for() {
    let upstream = PeerServer::plain(|mut peer: Peer| async move {
        peer.preface().await;
        let early = tokio::time::timeout(Duration::from_millis(400), peer.begun()).await;
        assert!(early.is_err(), "a request came before the limit was known");
        peer.settings(&[(MAX_CONCURRENT_STREAMS, 4)]).await;
        limited(peer, 4).await;
    })
    .await;
    let world = to(&upstream, "").await;
    all_served(&at_once(&world, posts(100, 100)).await, 100);
    assert_eq!(upstream.all_requests().iter().sum::<usize>(), 100);
}

#[tokio::test]
async fn upstream_that_says_its_limit_only_after_a_request_is_served() {
    let upstream = PeerServer::plain(|mut peer: Peer| async move {
        peer.preface().await;
        let stream = peer.begun().await.unwrap();
        let more = tokio::time::timeout(Duration::from_millis(300), peer.begun()).await;
        assert!(more.is_err(), "a second request came before the limit was known");
        peer.settings(&[]).await;
        peer.head(stream, 200, &[]).await;
        peer.data(stream, b"0", true).await;
        peer.serve().await;
    })
    .await;
    let world = to(&upstream, "").await;
    all_served(&at_once(&world, gets(5)).await, 0);
}

#[tokio::test]
async fn limit_of_nothing_is_waited_out_on_one_connection() {
    let gate = Gate::new();
    let opened = gate.clone();
    let upstream = PeerServer::plain(move |mut peer: Peer| {
        let opened = opened.clone();
        async move {
            peer.begin(&[(MAX_CONCURRENT_STREAMS, 0)]).await;
            tokio::select! {
                _ = peer.begun() => panic!("a request came at a limit of nothing"),
                () = opened.wait() => {}
            }
            peer.settings(&[(MAX_CONCURRENT_STREAMS, 100)]).await;
            peer.serve().await;
        }
    })
    .await;
    let world = to(&upstream, "").await;
    let opener = async {
        eventually("a connection", || async { (upstream.accepted() > 0).then_some(()) }).await;
        stays(Duration::from_millis(300), || upstream.accepted()).await;
        gate.open();
    };
    let (responses, ()) = tokio::join!(at_once(&world, posts(200, 100)), opener);
    all_served(&responses, 100);
    assert!(upstream.accepted() <= 8, "{:?}", upstream.all_requests());
}

#[tokio::test]
async fn requests_that_come_at_once_share_one_dial() {
    for slow in [false, true] {
        let upstream = PeerServer::plain(move |mut peer: Peer| async move {
            if peer.number > 0 {
                return;
            }
            if slow {
                let_pass(Duration::from_millis(200)).await;
            }
            peer.begin(&[]).await;
            peer.serve().await;
        })
        .await;
        let world = to(&upstream, "").await;
        all_served(&at_once(&world, posts(20, 100)).await, 100);
        assert_eq!(upstream.all_requests(), [20]);
    }
}

#[tokio::test]
async fn dial_that_fails_fails_all_who_wait_and_nobody_else() {
    let gate = Gate::new();
    let may_fail = gate.clone();
    let upstream = PeerServer::plain(move |mut peer: Peer| {
        let may_fail = may_fail.clone();
        async move {
            if peer.number == 0 {
                return may_fail.wait().await;
            }
            peer.begin(&[]).await;
            peer.serve().await;
        }
    })
    .await;
    let world = to(&upstream, "").await;
    let opener = async {
        eventually("the dial", || async { (upstream.accepted() == 1).then_some(()) }).await;
        all_connected(&world, 20).await;
        gate.open();
    };
    let (responses, ()) = tokio::join!(at_once(&world, gets(20)), opener);
    for answer in &responses {
        answer.expect_problem(502, "upstream_invalid");
    }
    assert_eq!(upstream.accepted(), 1);
    world.get("/").await.expect_status(200);
    assert_eq!(upstream.accepted(), 2);
}

#[tokio::test]
async fn caller_that_began_the_dial_may_leave() {
    let gate = Gate::new();
    let may_begin = gate.clone();
    let upstream = PeerServer::plain(move |mut peer: Peer| {
        let may_begin = may_begin.clone();
        async move {
            may_begin.wait().await;
            peer.begin(&[]).await;
            peer.serve().await;
        }
    })
    .await;
    let world = to(&upstream, "").await;
    let mut first = world.connect().await;
    first.send(&RawRequest::get("/")).await;
    eventually("the dial", || async { (upstream.accepted() == 1).then_some(()) }).await;
    let opener = async {
        drop(first);
        all_connected(&world, 5).await;
        gate.open();
    };
    let (responses, ()) = tokio::join!(at_once(&world, posts(5, 100)), opener);
    all_served(&responses, 100);
    assert_eq!(upstream.all_requests(), [5]);
}

#[tokio::test]
async fn upstream_over_tls_that_speaks_http1_alone_is_dialled_once_for_one_request() {
    let upstream = PeerServer::start(Some(localhost().server(&["http/1.1"])), |mut peer: Peer| async move {
        peer.serve_http1().await;
    })
    .await;
    let setup = Setup::new().await;
    setup.file("ca.pem", &ca().pem);
    let route = format!("upstream = \"{}\"\ntls = {{ ca = {{ file = \"ca.pem\" }} }}", upstream.url);
    let world = setup.route(&route).start().await;
    for _ in 0..5 {
        world.get("/").await.expect_status(200);
    }
    assert_eq!(upstream.accepted(), 1);
    all_served(&at_once(&world, posts(10, 100)).await, 100);
}

fn routes(upstream: &str, count: usize, more: impl Fn(usize) -> String) -> String {
    let route = |n: usize| {
        let more = more(n);
        format!(
            "[[route]]\nname = \"r{n}\"\npath_prefix = \"/{n}\"\nissuer = \"corp\"\nupstream = \"{upstream}\"\n\
             {more}\n"
        )
    };
    (0..count).map(route).collect()
}

#[tokio::test]
async fn routes_to_one_origin_share_its_connections() {
    let upstream = PeerServer::plain(|mut peer: Peer| async move {
        peer.begin(&[]).await;
        peer.serve().await;
    })
    .await;
    let more = routes(&upstream.url, 30, |_| "protocol = \"http2\"".to_owned());
    let world = Setup::new().await.more(&more).start().await;
    for n in 0..30 {
        world.get(&format!("/{n}/x")).await.expect_status(200);
    }
    all_served(&at_once(&world, (0..30).map(|n| RawRequest::get(&format!("/{n}")))).await, 0);
    assert_eq!(upstream.all_requests(), [60]);
}

async fn serve_over_tls(mut peer: Peer) {
    if peer.http1 {
        return peer.serve_http1().await;
    }
    peer.begin(&[]).await;
    peer.serve().await;
}

#[tokio::test]
async fn routes_with_other_tls_settings_share_nothing() {
    let upstream = PeerServer::start(Some(localhost().server(&["h2", "http/1.1"])), serve_over_tls).await;
    let setup = Setup::new().await;
    setup.file("ca.pem", &ca().pem);
    setup.file("other.pem", &ca().pem);
    let more = routes(&upstream.url, 4, |n| match n {
        0 | 1 => "tls = { ca = { file = \"ca.pem\" } }".to_owned(),
        2 => "tls = { ca = { file = \"other.pem\" } }".to_owned(),
        _ => "protocol = \"http1\"\ntls = { ca = { file = \"ca.pem\" } }".to_owned(),
    });
    let world = setup.more(&more).start().await;
    for n in 0..4 {
        world.get(&format!("/{n}")).await.expect_status(200);
    }
    assert_eq!(upstream.all_requests(), [2, 1, 0]);
}

#[tokio::test]
async fn reload_keeps_connections_unless_what_they_are_made_with_changed() {
    let upstream = PeerServer::start(Some(localhost().server(&["h2", "http/1.1"])), serve_over_tls).await;
    let setup = Setup::new().await;
    setup.file("a.pem", &ca().pem);
    setup.file("b.pem", &ca().pem);
    let more = routes(&upstream.url, 2, |n| {
        let file = if n == 0 { "a.pem" } else { "b.pem" };
        format!("tls = {{ ca = {{ file = \"{file}\" }} }}")
    });
    let mut world = setup.more(&more).start().await;
    let both = async |world: &World| {
        world.get("/0").await.expect_status(200);
        world.get("/1").await.expect_status(200);
    };
    both(&world).await;
    assert_eq!(upstream.all_requests(), [1, 1]);
    world.change(|text| format!("{text}\n[[route]]\nname = \"new\"\npath = \"/new\"\nanonymous = true\nupstream = \"http://127.0.0.1:1\"\n"));
    world.reload().await;
    both(&world).await;
    assert_eq!(upstream.all_requests(), [2, 2]);
    world.file("b.pem", format!("{}\n", ca().pem));
    world.reload().await;
    eventually("a connection with the new file", || async {
        both(&world).await;
        (upstream.accepted() == 3).then_some(())
    })
    .await;
    assert!(upstream.requests(0) > 2, "the other file's connection serves on");
    eventually("the old connection to end", || async { (upstream.closed() == 1).then_some(()) }).await;
}

#[tokio::test]
async fn nothing_is_sent_on_a_connection_that_waits() {
    let gate = Gate::new();
    let may_answer = gate.clone();
    let upstream = PeerServer::plain(move |mut peer: Peer| {
        let may_answer = may_answer.clone();
        async move {
            peer.begin(&[]).await;
            while let Ok(asked) = peer.asked().await {
                if asked.body == b"slow" {
                    peer.head(asked.stream, 200, &[]).await;
                    for n in 0..20_u8 {
                        peer.data(asked.stream, &[n], false).await;
                    }
                    tokio::select! {
                        _ = peer.next() => panic!("something was sent"),
                        () = may_answer.wait() => {}
                    }
                    peer.data(asked.stream, b".", true).await;
                } else {
                    peer.respond(&asked).await;
                }
            }
        }
    })
    .await;
    let world = to(&upstream, "").await;
    all_served(&at_once(&world, posts(20, 1_000)).await, 1_000);
    let mut client = world.connect().await;
    client.send(&RawRequest::post("/", "slow")).await;
    client.head().await;
    // A gRPC server ends connections for PINGs that it did not expect.
    stays(Duration::from_secs(2), || upstream.pings()).await;
    gate.open();
    within("the end of the response", client.wire.until(b"0\r\n\r\n")).await.unwrap();
    assert_eq!(upstream.pings(), 0);
}

#[tokio::test]
async fn connection_that_went_silent_gets_no_new_requests() {
    let upstream = PeerServer::plain(|mut peer: Peer| async move {
        peer.begin(&[]).await;
        if peer.number > 0 {
            return peer.serve().await;
        }
        let first = peer.asked().await.unwrap();
        peer.respond(&first).await;
        peer.end().await;
    })
    .await;
    let world = to(&upstream, "response_timeout = \"3s\"").await;
    world.get("/").await.expect_status(200);
    world.get("/").await.expect_problem(504, "upstream_timeout");
    for _ in 0..3 {
        world.get("/").await.expect_status(200);
    }
    assert_eq!(upstream.all_requests(), [2, 3]);
}

#[tokio::test]
async fn connection_that_went_silent_on_callers_who_left_gets_no_new_requests() {
    let upstream = PeerServer::plain(|mut peer: Peer| async move {
        peer.begin(&[]).await;
        if peer.number > 0 {
            return peer.serve().await;
        }
        let first = peer.asked().await.unwrap();
        peer.respond(&first).await;
        peer.end().await;
    })
    .await;
    let world = to(&upstream, "").await;
    world.get("/").await.expect_status(200);
    eventually("another connection", || async {
        let mut client = world.connect().await;
        client.send(&RawRequest::get("/")).await;
        let answer = tokio::time::timeout(Duration::from_millis(1500), client.response()).await;
        answer.is_ok().then_some(())
    })
    .await;
}

#[tokio::test]
async fn request_that_takes_its_time_does_not_end_a_connection_that_is_alive() {
    let upstream = PeerServer::plain(|mut peer: Peer| async move {
        peer.begin(&[]).await;
        while let Ok(asked) = peer.asked().await {
            if asked.body != b"never" {
                peer.respond(&asked).await;
            }
        }
    })
    .await;
    let world = to(&upstream, "response_timeout = \"3s\"").await;
    let mut slow = world.connect().await;
    slow.send(&RawRequest::post("/", "never")).await;
    upstream.begun(1).await;
    world.get("/").await.expect_status(200);
    slow.response().await.expect_problem(504, "upstream_timeout");
    world.get("/").await.expect_status(200);
    assert_eq!(upstream.all_requests(), [3]);
}

#[tokio::test]
async fn connection_max_age_counts_for_http2_too() {
    let upstream = PeerServer::plain(|mut peer: Peer| async move {
        peer.begin(&[]).await;
        peer.serve().await;
    })
    .await;
    let world = to(&upstream, "connection_max_age = \"300ms\"").await;
    world.get("/").await.expect_status(200);
    eventually("a new connection", || async {
        world.get("/").await.expect_status(200);
        (upstream.accepted() > 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn end_of_the_program_lets_http2_requests_end() {
    let gate = Gate::new();
    let may_answer = gate.clone();
    let upstream = PeerServer::plain(move |mut peer: Peer| {
        let may_answer = may_answer.clone();
        async move {
            peer.begin(&[]).await;
            if peer.number > 0 {
                return peer.end().await;
            }
            let asked = peer.asked_times(3).await;
            peer.go_away(asked[1].stream, NO_ERROR).await;
            may_answer.wait().await;
            for asked in &asked[..2] {
                peer.respond(asked).await;
            }
            peer.end().await;
        }
    })
    .await;
    let mut world = to(&upstream, "").await;
    let mut clients = Vec::new();
    for n in 0..2 {
        let mut client = world.connect().await;
        client.send(&RawRequest::post("/", n.to_string())).await;
        clients.push(client);
        upstream.begun(n + 1).await;
    }
    let mut third = world.connect().await;
    third.send(&RawRequest::post("/", "2")).await;
    upstream.begun(4).await;
    world.signal(rustix::process::Signal::TERM);
    world.log().wait("the end", |line| line.contains("shutdown.started")).await;
    gate.open();
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.response().await.text(), n.to_string());
    }
    drop((clients, third));
    assert!(world.proxy.exit().await.success());
    assert_eq!(upstream.count(0, HEADERS), 3);
}

/// RFC 9113 section 8.2.1: malformed. Only HTTP/1.1 callers would not see the white space.
#[tokio::test]
async fn response_values_with_white_space_around_them_are_no_response() {
    let upstream = PeerServer::plain(|mut peer: Peer| async move {
        peer.begin(&[]).await;
        while let Ok(asked) = peer.asked().await {
            let value = String::from_utf8(asked.body).unwrap();
            let (head, trailer) = value.split_once(',').unwrap();
            peer.head(asked.stream, 302, &[("location", head), ("trailer", "x-sum")]).await;
            peer.data(asked.stream, b"there", false).await;
            let trailers = block(&[("x-sum", trailer)]);
            peer.frame(HEADERS, END_HEADERS | END_STREAM, asked.stream, &trailers).await;
        }
    })
    .await;
    let world = to(&upstream, "").await;
    world.exchange(RawRequest::post("/", "/here,1")).await.expect_status(302);
    for head in [" /here", "/here ", "\t/here", "/here\t"] {
        let response = world.exchange(RawRequest::post("/", format!("{head},1"))).await;
        response.expect_problem(502, "upstream_invalid");
        assert!(response.text().contains("white space"), "{}", response.text());
    }
    for trailer in [" 1", "1 ", "1\t"] {
        let body = format!("/here,{trailer}");
        let mut client = world.connect().await;
        client.send(&RawRequest::post("/", body.clone())).await;
        let head = client.head().await;
        assert!(within("the end", client.wire.body(&head, true)).await.is_err(), "{trailer:?}");
        let mut client = H2Client::plain(world.address("main")).await;
        let request = client.request("POST", "/").body(whole(body)).unwrap();
        assert!(client.try_exchange(request).await.is_err(), "{trailer:?}");
    }
    assert_eq!(upstream.accepted(), 1, "the connection serves on");
}

#[tokio::test]
async fn statuses_without_content_have_none_whatever_the_upstream_sends() {
    let upstream = PeerServer::plain(|mut peer: Peer| async move {
        peer.begin(&[]).await;
        while let Ok(asked) = peer.asked().await {
            let body = String::from_utf8(asked.body).unwrap();
            let length: &[_] = if body.contains("length") { &[("content-length", "4")] } else { &[] };
            peer.head(asked.stream, body[..3].parse().unwrap(), length).await;
            peer.data(asked.stream, b"evil", true).await;
        }
    })
    .await;
    let world = to(&upstream, "").await;
    for status in [204, 205, 304] {
        for length in ["", "length"] {
            let body = format!("{status}{length}");
            let mut client = H2Client::plain(world.address("main")).await;
            let request = client.request("POST", "/").body(whole(body.clone())).unwrap();
            let response = client.exchange(request).await;
            assert_eq!((response.status, response.text()), (status, String::new()), "{body}");
            // The same over HTTP/1.1, where a second response shows that nothing was left over.
            let mut client = world.connect().await;
            for _ in 0..2 {
                let response = client.exchange(&RawRequest::post("/", body.clone())).await;
                assert_eq!((response.status, response.text()), (status, String::new()), "{body}");
            }
        }
    }
}

#[tokio::test]
async fn malformed_response_is_not_blamed_on_the_connection() {
    let upstream = PeerServer::plain(|mut peer: Peer| async move {
        peer.begin(&[]).await;
        while let Ok(asked) = peer.asked().await {
            if asked.body.is_empty() {
                peer.respond(&asked).await;
            } else {
                peer.frame(HEADERS, END_HEADERS, asked.stream, &block(&[("x-no", "status")])).await;
            }
        }
    })
    .await;
    let world = to(&upstream, "").await;
    let response = world.exchange(RawRequest::post("/", "x")).await;
    response.expect_problem(502, "upstream_invalid");
    assert!(response.text().contains("sent a response that is not valid HTTP"), "{}", response.text());
    let status = response.header("proxy-status").unwrap();
    assert!(status.contains("http_protocol_error"), "{status}");
    world.get("/").await.expect_status(200);
    assert_eq!(upstream.accepted(), 1, "the connection serves on");
}

#[tokio::test]
async fn http1_upstream_of_an_http2_route_is_reported_so() {
    let setup = Setup::new().await;
    setup.upstream.always_this(crate::support::RawResponse::status(400));
    let responds = setup.route("protocol = \"http2\"").start().await;
    let closes = PeerServer::plain(|mut peer: Peer| async move { peer.preface().await }).await;
    let closes = to(&closes, "").await;
    for world in [responds, closes] {
        let response = world.get("/").await;
        response.expect_problem(502, "upstream_invalid");
        let detail = response.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("set protocol = \"auto\" or \"http1\""), "{detail}");
    }
}

#[tokio::test]
async fn unused_connection_ends_at_its_max_age() {
    let upstream = PeerServer::plain(|mut peer: Peer| async move {
        peer.begin(&[]).await;
        peer.serve().await;
    })
    .await;
    let world = to(&upstream, "connection_max_age = \"300ms\"").await;
    world.get("/").await.expect_status(200);
    eventually("the end of the old connection", || async { (upstream.closed() == 1).then_some(()) }).await;
    world.get("/").await.expect_status(200);
    assert_eq!(upstream.accepted(), 2);
}
