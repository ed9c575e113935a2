//! `bearerd demo`: an issuer, an upstream and the proxy between them, on this machine and without a config.

mod echo;
mod files;
mod issuer;
mod server;
mod story;
mod tokens;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use serde_json::json;

use super::args::{Common, Output};
use super::{Exit, Failure, check, output, run, start_log};
use crate::app::Options;
use crate::config;
use echo::Echo;
use files::Files;
use issuer::Issuer;
use story::Story;
use tokens::Tokens;

/// The client that the built-in issuer knows.
const CLIENT_ID: &str = "demo-client";
/// A path that the demo's route serves.
const TRY: &str = "/echo/hello";

pub(super) fn demo(common: &Common, format: Output, refused: &[String]) -> Result<Exit, Failure> {
    if common.config.is_some() {
        return Err(Failure::new(Exit::Usage, "`bearerd demo` writes its own config: leave out --config"));
    }
    let secret = tokens::random_text(24).map_err(|error| failed("cannot make a secret", error))?;
    let tokens = Arc::new(Tokens::new().map_err(|error| failed("cannot make a key", error))?);
    let issuer = Issuer::new(CLIENT_ID, &secret, Arc::clone(&tokens));
    let issuer = server::start("demo-issuer", move |request| issuer.answer(request))
        .map_err(|error| failed("cannot start the issuer", error))?;
    let echo = Echo::new(Arc::clone(&tokens));
    let echo = server::start("demo-echo", move |request| echo.answer(request))
        .map_err(|error| failed("cannot start the echo upstream", error))?;

    let ports = free_ports::<2>().map_err(|error| failed("cannot find a free port", error))?;
    let [proxy, admin] = ports;
    let text = config_text(proxy, admin, issuer, echo);
    let files = Files::write(&text, &secret).map_err(|error| failed("cannot write the config", error))?;
    let config = config::load(files.config()).map_err(|problems| {
        output::tell(&check::report(&problems.0));
        Failure::new(Exit::Config, "the demo's own config is refused: a fault of ours, please report it")
    })?;
    let log = start_log(common, &config.log)?;
    let running = run::serve(config, Options { log: Some(log), ..Options::default() }, refused)?;
    match format {
        Output::Text => {
            let story = Story { config: files.config().to_owned(), text, proxy, admin, api: echo, tokens };
            story.begin().map_err(|error| failed("cannot start a thread", error))?;
        }
        // On one line, so that a program can read it while the demo goes on.
        Output::Json => output::answer_json_line(&json!({
            "config": files.config().to_string_lossy(),
            "proxy": format!("http://{proxy}"),
            "admin": format!("http://{admin}"),
            "try": format!("http://{proxy}{TRY}"),
        })),
    }
    Ok(run::exit(&running.join()))
}

fn failed(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::No, format!("{what}: {error}"))
}

/// Ports that were free a moment ago: the file is to show real ones, so that it can be copied and used.
fn free_ports<const N: usize>() -> std::io::Result<[SocketAddr; N]> {
    let mut found = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    // All are held until the last is found, so that no two are the same.
    let mut held = Vec::with_capacity(N);
    for address in &mut found {
        let listener = TcpListener::bind(*address)?;
        *address = listener.local_addr()?;
        held.push(listener);
    }
    Ok(found)
}

fn config_text(proxy: SocketAddr, admin: SocketAddr, issuer: SocketAddr, echo: SocketAddr) -> String {
    format!(
        "\
# Your program sends plain HTTP to this address …
[listener.main]
address = \"{proxy}\"

# … bearerd gets a token here …
[issuer.demo]
token_url = \"http://{issuer}/token\"
client_id = \"{CLIENT_ID}\"
client_secret = {{ file = \"client-secret\" }}
scopes = [\"echo.read\"]

# … and forwards requests below /echo with it.
[[route]]
name = \"echo\"
path_prefix = \"/echo\"
upstream = \"http://{echo}\"
issuer = \"demo\"

# Health, metrics and the status page.
[admin]
address = \"{admin}\"

# \"info\" also writes a line for each request.
[log]
level = \"error\"
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_is_toml_and_names_every_address() {
        let ports = free_ports::<4>().unwrap();
        let [proxy, admin, issuer, echo] = ports;
        let text = config_text(proxy, admin, issuer, echo);
        let document: toml::Table = text.parse().unwrap();
        for (keys, value) in [
            (["listener", "main", "address"], proxy.to_string()),
            (["issuer", "demo", "token_url"], format!("http://{issuer}/token")),
        ] {
            let found = keys
                .iter()
                .try_fold(toml::Value::Table(document.clone()), |table, key| table.get(key).cloned());
            assert_eq!(found, Some(toml::Value::String(value)));
        }
        assert!(text.contains(&echo.to_string()) && text.contains(&admin.to_string()));
    }

    #[test]
    fn free_ports_are_different_ones() {
        let mut ports = free_ports::<8>().unwrap().to_vec();
        ports.sort();
        ports.dedup();
        assert_eq!(ports.len(), 8);
    }
}
