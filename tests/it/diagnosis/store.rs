//! A token store that cannot be used, or that shares nothing.

use super::{holds, line, text_at};
use crate::support::cli::run;
use crate::support::{RawResponse, Setup};

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn store(place: &str) -> String {
    format!("[store]\n{place}\nkeys = [{{ file = \"store.key\" }}]\n")
}

#[tokio::test]
async fn a_store_that_cannot_be_used() {
    let setup = Setup::new().await.more(&store("url = \"redis://127.0.0.1:1\""));
    setup.file("store.key", KEY);
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    let why = ["127.0.0.1:1 refused the connection", "is it running, and is the port right?"];
    let logged =
        line(&world, &["store.failed", "the store is unavailable; tokens are fetched without it"]).await;
    holds("the log", &logged, &why);
    holds("/status", text_at(&world.status().await, "/store/failure/detail"), &why);
    let online = run(world.folder(), &["check", "--online"]).await;
    online.expect_code(0);
    holds("check --online", &online.stdout, &["FAILED", why[0], why[1], ", without the store"]);
    let listed = run(world.folder(), &["store", "ls"]).await;
    listed.expect_code(1);
    holds("store ls", &listed.stderr, &why);
}

/// A server that works is of no use without the key.
#[tokio::test]
async fn a_store_key_that_is_missing() {
    let setup = Setup::new().await.more(&store("path = \"tokens\""));
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    let why = ["the store's key cannot be used: file ", "store.key: no such file"];
    holds("the log", &line(&world, &["store.failed"]).await, &why);
    let checked = run(world.folder(), &["check"]).await;
    checked.expect_code(0);
    let fix = "create the file, or correct its path; until then, bearerd works without the store";
    holds("check", &checked.all(), &["store.keys[0]", fix]);
    let online = run(world.folder(), &["check", "--online"]).await;
    online.expect_code(0);
    holds("check --online", &online.stdout, &["FAILED", why[0], why[1], ", without the store"]);
}

#[tokio::test]
async fn replicas_with_different_settings_share_nothing() {
    let setup = Setup::new().await.more(&store("path = \"tokens\""));
    setup.file("store.key", KEY);
    setup.issuer.always(|_, n| RawResponse::token(&format!("token-{n}")));
    let mut world = setup.start().await;
    world.get("/").await.expect_status(200);
    world.change(|text| text.replace("client-1", "client-2"));
    let listed = run(world.folder(), &["store", "ls"]).await;
    listed.expect_code(0);
    holds("store ls", &listed.stdout, &["token of issuer corp for route api: none"]);
    holds(
        "store ls",
        &listed.stdout,
        &["0 tokens of this config, and 1 entry that belongs to another config, key, or version"],
    );
}
