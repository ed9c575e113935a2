//! bearerd puts bearer tokens on outbound requests.
//!
//! The modules in reading order, each of which uses only those before it: [`secret`], [`clock`], [`idle`], and [`aside`] for
//! work that blocks; [`config`], from TOML to checked values; [`inbound`], a caller's side of a request, [`net`], outbound
//! sockets and TLS, [`metrics`], and [`telemetry`]; [`route`], which route serves a request, [`issuer`], one token request, and
//! [`store`], tokens that replicas share; [`token`], the lifetime of a token; [`upstream`], connections and sending; [`proxy`], the request path; [`listener`], the
//! way in; [`admin`], what operators look at, and [`webhook`], values that are learned; [`reload`] and [`app`], which wire and
//! exchange all of it; [`cli`], the verbs. `docs/architecture.md` follows a request through them.

pub mod admin;
pub mod app;
pub mod aside;
pub mod cli;
pub mod clock;
pub mod config;
pub mod flow;
pub mod idle;
pub mod inbound;
pub mod issuer;
pub mod jose;
pub mod listener;
pub mod metrics;
pub mod net;
mod processes;
pub mod proxy;
mod redact;
pub mod reload;
pub mod route;
pub mod secret;
pub mod store;
pub mod telemetry;
pub mod token;
pub mod trace;
pub mod upstream;
pub mod webhook;
pub mod workload_api;
