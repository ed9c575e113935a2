//! oauth2-mock-server, of npm. It looks at no credential and never revokes, so there is less to try.

use super::*;
use crate::support::nobody;
use crate::support::server::{self, NODE, command, npm_installed};

/// A server whose tokens are valid for so many seconds, and the keys of an issuer table.
async fn start(seconds: u64) -> (Server, String) {
    let server = tokio::task::spawn_blocking(move || {
        let installed = npm_installed("oauth2-mock-server");
        let address = nobody();
        let mut command = command("node", NODE);
        command.arg(installed.join("server.mjs")).args([address.port().to_string(), seconds.to_string()]);
        Server::start(server::folder(), address, Some("/jwks"), command)
    })
    .await
    .unwrap();
    let keys = format!("issuer_url = \"http://localhost:{}\"\nclient_id = \"any\"", server.address.port());
    (server, keys)
}

#[tokio::test]
#[ignore = "needs npm"]
async fn every_method_is_accepted_and_a_restart_with_another_key_is_survived() {
    let (server, keys) = start(60).await;
    for method in ["client_secret_basic", "client_secret_post", "client_secret_jwt"] {
        let request =
            accepted(LONG_SECRET, &format!("{keys}\nclient_auth = \"{method}\"\nscopes = [\"read\"]")).await;
        assert_eq!(claims(request.bearer().unwrap())["scope"], "read", "{method}");
    }
    let (address, setup) = (server.address, scene(LONG_SECRET, &keys).await);
    let mut restarted = None;
    rotated_signing_key(setup, async || {
        // Its keys are made at its start.
        let mut server = server;
        let starting = tokio::task::spawn_blocking(move || {
            server.stop();
            server.start_again();
            server
        });
        restarted = Some(starting.await.unwrap());
        ask(address, RawRequest::get("/jwks")).await.json()
    })
    .await;
    drop(restarted);
}

#[tokio::test]
#[ignore = "needs npm"]
async fn short_lifetimes_and_a_restart_are_survived() {
    let (server, keys) = start(5).await;
    short_lifetimes(scene(LONG_SECRET, &keys).await).await;
    restart(server, scene(LONG_SECRET, &keys).await).await;
}
