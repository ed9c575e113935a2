//! An edit of the config that was not taken.

use std::os::unix::fs::PermissionsExt as _;

use super::{event, holds, line, text_at};
use crate::support::Setup;

#[tokio::test]
async fn broken_file_is_kept_out() {
    let mut world = Setup::new().await.start().await;
    world.get("/").await.expect_status(200);
    world.change(|text| text.replace("issuer = \"corp\"", "issuer = \"corp\"\nidle_timout = \"1m\""));
    world.reload().await;
    let path = world.folder().join("bearerd.toml");
    let at = line(&world, &["ERROR", "bearerd.toml:", "idle_timout", "did you mean `idle_timeout`?"]).await;
    let told = event(&world, "the config was not reloaded; the running one stays in force").await;
    assert_eq!(text_at(&told, "/level"), "ERROR");
    assert!(path.ends_with(text_at(&told, "/config")), "{told}");
    let shown = world.status().await;
    assert_eq!(shown["config"]["last_reload"]["ok"], false);
    let error = text_at(&shown, "/config/last_reload/error");
    holds("/status", error, &["bearerd.toml:", "idle_timout", "did you mean `idle_timeout`?"]);
    let place = error.split_once("bearerd.toml:").unwrap().1.split(": ").next().unwrap();
    let line_and_column = place.split(':').filter(|number| number.parse::<u32>().is_ok()).count();
    assert_eq!(line_and_column, 2, "{error}");
    assert!(at.contains(place), "{at}");
    assert_eq!(world.metric("bearerd_config_last_reload_successful", &[]).await, Some(0.0));
    world.get("/").await.expect_status(200);
    let checked = crate::support::cli::run(world.folder(), &["check", "--config", "bearerd.toml"]).await;
    checked.expect_code(78);
    holds("bearerd check", &checked.all(), &["idle_timout", "did you mean `idle_timeout`?"]);
}

#[tokio::test]
async fn workers_wait_for_a_restart() {
    let mut world = Setup::new().await.start().await;
    world.change(|text| format!("workers = 3\n{text}"));
    world.reload().await;
    let told = event(&world, "`workers` is read at start only: restart to change it").await;
    assert_eq!((told["running"].as_u64(), told["configured"].as_u64()), (Some(1), Some(3)));
    let shown = world.status().await;
    let warning = &shown["config"]["warnings"][0];
    assert_eq!(warning["key"], "workers");
    assert_eq!(warning["message"], "the file says 3, and the running program has 1");
    assert_eq!(warning["hint"], "it is read at start only: restart to change it");
    assert_eq!(shown["config"]["last_reload"]["ok"], true);
    // A line of its own says it in the log.
    assert!(!world.log().text().contains("the file says 3"));
}

#[tokio::test]
async fn another_file_than_the_one_that_is_loaded() {
    let world = Setup::new().await.start().await;
    // Somebody edits a copy.
    world.file("bearerd.toml.new", "this is not even TOML");
    world.reload().await;
    for message in ["bearerd is serving", "the config was reloaded"] {
        let told = event(&world, message).await;
        holds("the log", text_at(&told, "/config"), &["bearerd.toml"]);
        assert!(!text_at(&told, "/config").contains(".new"));
    }
    let shown = world.status().await;
    let path = std::path::Path::new(text_at(&shown, "/config/path"));
    assert!(path.ends_with("bearerd.toml") && path.is_absolute(), "{}", path.display());
    assert_eq!(shown["config"]["version"], 2);
}

#[tokio::test]
async fn a_secret_that_others_may_read() {
    let setup = Setup::new().await;
    setup.write();
    let secret = setup.folder().join("secret");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    let checked = crate::support::cli::run(setup.folder(), &["check"]).await;
    checked.expect_code(0);
    let words =
        ["issuer.corp.client_secret", "other users may read or write this secret", "help: run `chmod 600 "];
    holds("bearerd check", &checked.all(), &words);
}
