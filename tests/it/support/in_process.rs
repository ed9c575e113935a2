//! The proxy inside the test, with a clock that the test moves.

use std::net::SocketAddr;
use std::sync::Arc;

use bearerd::app::{self, Options, Running};
use bearerd::clock::ShiftedClock;

use super::{Client, RawRequest, RawResponse, Response, Scripted, Setup, eventually};

pub struct InProcess {
    pub clock: Arc<ShiftedClock>,
    running: Running,
    setup: Setup,
}

impl InProcess {
    pub async fn start(setup: Setup) -> Self {
        let path = setup.write();
        let clock = Arc::new(ShiftedClock::default());
        let shared = Arc::clone(&clock);
        let start = move || {
            let config = bearerd::config::load(&path).expect("the test's config is good");
            app::start(config, shared, Options::default()).expect("the proxy starts")
        };
        let running = tokio::task::spawn_blocking(start).await.unwrap();
        Self { clock, running, setup }
    }

    /// A scene whose issuer grants `token-1`, `token-2` … for so many seconds each; the first one is there.
    pub async fn granting(seconds: i64, issuer: &str) -> Self {
        let setup = Setup::new().await;
        setup.issuer.always(move |_, n| RawResponse::token_for(&format!("token-{n}"), seconds));
        let this = Self::start(setup.issuer(issuer)).await;
        this.get().await.expect_status(200);
        this
    }

    pub fn issuer(&self) -> &Scripted {
        &self.setup.issuer
    }

    pub fn upstream(&self) -> &Scripted {
        &self.setup.upstream
    }

    fn address(&self) -> SocketAddr {
        self.running.addresses().listeners["main"].parse().unwrap()
    }

    pub async fn get(&self) -> Response {
        Client::tcp(self.address()).await.exchange(&RawRequest::get("/")).await
    }

    /// The token that a request carries now; the request is served.
    pub async fn token(&self) -> String {
        self.get().await.expect_status(200);
        self.upstream().last().bearer().unwrap().to_owned()
    }

    /// Requests until the issuer was asked so often.
    pub async fn asked(&self, times: usize) {
        eventually("another token request", || async {
            self.get().await;
            (self.issuer().count() >= times).then_some(())
        })
        .await;
    }
}
