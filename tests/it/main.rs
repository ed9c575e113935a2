//! The program as its users meet it: the real binary, a file, sockets. Issuer and upstream are either scripted here,
//! for all that a good server never does, or real ones from elsewhere.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
#![allow(unreachable_pub, reason = "nothing uses this crate, so `pub` says what a module offers the others")]
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the rules for the request path and for config errors are not for tests"
)]

mod admin;
mod alerts;
mod authority;
mod budget;
mod callers;
mod chains;
mod check;
mod cli;
mod client_auth;
mod clocks;
mod diagnosis;
mod differential;
mod dpop;
mod early_responses;
mod errors;
mod exec;
mod exec_programs;
mod files;
mod forward;
mod grpc;
mod headers;
mod http1_upstream;
mod http2_upstream;
mod init;
mod inject;
mod interface;
mod interop;
mod issuer_failures;
mod issuer_http2;
mod issuer_responses;
mod key_files;
mod limits;
mod logs;
mod machine;
mod metrics;
mod neighbours;
mod nginx;
mod oidc;
mod online;
mod online_servers;
mod operation;
mod otlp;
mod outage;
mod page;
mod paths;
#[cfg(feature = "pkcs11")]
mod pkcs11;
mod places;
mod presets;
mod process;
mod programs;
mod protocols;
mod reload;
mod replay;
mod requests;
mod robustness;
mod routing;
mod secrets;
mod semantics;
mod servers;
mod small_servers;
mod smuggling;
mod soak;
mod spiffe;
mod spire;
mod standby;
mod store_fleet;
mod store_folder;
mod store_servers;
mod support;
mod systemd;
mod token_endpoint;
mod token_life;
mod traces;
mod trailers;
mod transparency;
mod webhook;
mod websocket;
mod written;
