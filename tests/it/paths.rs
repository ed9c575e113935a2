//! Which paths are refused, and what the upstream's target becomes.

use crate::support::{RawRequest, Setup, World};

async fn scene(route: &str) -> World {
    Setup::new().await.route("anonymous = true").route(route).start().await
}

/// The target that the upstream saw.
async fn target(world: &World, path: &str) -> String {
    world.get(path).await.expect_status(200);
    world.upstream().last().target().to_owned()
}

const REFUSED: [&str; 53] = [
    "/..",
    "/.",
    "/./",
    "/../",
    "/../x",
    "/a/../b",
    "/a/./b",
    "/a/..",
    "/a/.",
    "/%2e",
    "/%2E%2e",
    "/.%2e/x",
    "/%2e./x",
    "/a/%2e%2E/b",
    "/a/%2e/b",
    "/a/%2e%2e",
    "/..;/x",
    "/..;a=b/x",
    "/.;/x",
    "/a/..;x",
    "/a/%2e%2e;a=b/c",
    "/a/%2e%2e%3ba=b/c",
    "/..%3b/x",
    "/a\\b",
    "/\\..\\b",
    "/a\\..\\b",
    "/a/..\\b",
    "/a%5cb",
    "/a%5Cb",
    "/a%5c..%5cb",
    "/%2e%2e%5cb",
    "/a%2fb",
    "/a%2Fb",
    "/a%2f..%2fb",
    "/..%2fb",
    "/%2f",
    "/a%00b",
    "/a%00",
    "/a%01",
    "/a%09b",
    "/a%0a",
    "/a%0d%0ab",
    "/a%1f",
    "/a%7f",
    "/a\u{1}b",
    "/a\u{7f}b",
    "/a\u{0}b",
    "/a%",
    "/a%2",
    "/a%zz",
    "/a%2gb",
    "/%%20",
    "/a%u002e",
];

#[tokio::test]
async fn climbing_ambiguous_and_broken_paths_are_400() {
    let world = scene("").await;
    for path in REFUSED {
        let response = world.get(path).await;
        assert_eq!(response.status, 400, "{path:?}: {}", response.text());
    }
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn refused_path_is_a_problem_with_the_code_bad_request() {
    let world = scene("").await;
    for path in ["/a/../b", "/a%2fb", "/a%5cb", "/a%zz", "/a%0a"] {
        world.get(path).await.expect_problem(400, "bad_request");
    }
}

#[tokio::test]
async fn everything_else_passes_byte_for_byte() {
    let world = scene("").await;
    for path in [
        "/",
        "//",
        "//a//b",
        "/a/",
        "/a/b;v=1/c",
        "/;a",
        "/a%20b",
        "/%61dmin",
        "/%7Euser/~user",
        "/a%3Bb%3bc",
        "/...",
        "/..a",
        "/a..",
        "/.hidden/x",
        "/a%252e%252e%252fb",
        "/%C3%A9%c3%a9",
        "/%ff%fe",
        "/:@!$&'()*+,=",
        "/a?x=../..&y=%zz&z=%2f%5c%00",
        "/a?",
        "/a??b=/../c",
        "/?q=a%20b+c",
    ] {
        assert_eq!(target(&world, path).await, path, "{path}");
    }
}

#[tokio::test]
async fn escaped_unreserved_character_matches_as_itself_and_stays_as_it_came() {
    let world = scene("path_prefix = \"/admin\"").await;
    assert_eq!(target(&world, "/%61dmin/%7Ex").await, "/%7Ex");
    assert_eq!(target(&world, "/adm%69n/x").await, "/x");
    let world = scene("path_prefix = \"/%61dmin\"").await;
    assert_eq!(target(&world, "/admin/x").await, "/x");
}

#[tokio::test]
async fn escaped_reserved_character_is_not_the_character() {
    let world = scene("path_prefix = \"/a;b\"").await;
    world.get("/a%3Bb/x").await.expect_problem(404, "no_route");
    assert_eq!(target(&world, "/a;b/x").await, "/x");
}

#[tokio::test]
async fn escaped_slash_passes_where_it_is_allowed_and_dot_segments_around_it_do_not() {
    let world = scene("allow_encoded_slash = true\npath_prefix = \"/a\"").await;
    assert_eq!(target(&world, "/a/b%2fc%2Fd").await, "/b%2fc%2Fd");
    for path in ["/a/b%2f..%2fc", "/a/..%2fb", "/a/%2e%2e%2fb", "/a%2f.", "/a/b%5cc"] {
        let response = world.get(path).await;
        assert_eq!(response.status, 400, "{path}: {}", response.text());
    }
    // Beside that route, nothing allows it.
    world.get("/x%2fb").await.expect_problem(400, "bad_request");
}

#[tokio::test]
async fn empty_segments_pass_and_match_as_they_are() {
    let world = scene("path_prefix = \"/a\"").await;
    assert_eq!(target(&world, "/a//b").await, "//b");
    world.get("//a/b").await.expect_problem(404, "no_route");
}

#[tokio::test]
async fn target_is_the_upstreams_path_then_what_follows_the_prefix() {
    let world = scene("path_prefix = \"/billing\"\nupstream = \"{upstream}/api/v2\"").await;
    assert_eq!(target(&world, "/billing/x?y").await, "/api/v2/x?y");
    assert_eq!(target(&world, "/billing").await, "/api/v2");
    assert_eq!(target(&world, "/billing?y").await, "/api/v2?y");
    assert_eq!(target(&world, "/billing/").await, "/api/v2/");
    assert_eq!(target(&world, "/billing/a/b%20c?").await, "/api/v2/a/b%20c?");
}

#[tokio::test]
async fn upstreams_trailing_slash_is_only_where_nothing_follows() {
    let world = scene("path_prefix = \"/billing\"\nupstream = \"{upstream}/api/v2/\"").await;
    assert_eq!(target(&world, "/billing/x").await, "/api/v2/x");
    assert_eq!(target(&world, "/billing").await, "/api/v2/");
}

#[tokio::test]
async fn upstream_without_a_path_strips_the_prefix() {
    let world = scene("path_prefix = \"/billing\"").await;
    assert_eq!(target(&world, "/billing/x?y").await, "/x?y");
    assert_eq!(target(&world, "/billing").await, "/");
    assert_eq!(target(&world, "/billing?y").await, "/?y");
}

#[tokio::test]
async fn prefix_slash_passes_the_whole_path() {
    let world = scene("upstream = \"{upstream}/api\"").await;
    assert_eq!(target(&world, "/x/y?z").await, "/api/x/y?z");
    assert_eq!(target(&world, "/").await, "/api/");
}

#[tokio::test]
async fn exact_path_is_replaced_whole() {
    let world = scene("path = \"/token-info\"\nupstream = \"{upstream}/v1/info\"").await;
    assert_eq!(target(&world, "/token-info?x=1").await, "/v1/info?x=1");
    assert_eq!(target(&world, "/token-inf%6f").await, "/v1/info");
}

#[tokio::test]
async fn target_in_absolute_form_is_routed_by_its_path() {
    let world = scene("path_prefix = \"/a\"").await;
    let host = world.address("main");
    let response = world.exchange(RawRequest::get(&format!("http://{host}/a/b?c"))).await;
    response.expect_status(200);
    assert_eq!(world.upstream().last().target(), "/b?c");
}
