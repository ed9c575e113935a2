//! Each file of `deploy/` is checked by a tool of its own field.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and read what they check"
)]
#![allow(unreachable_pub, reason = "nothing uses this crate, so `pub` says what a module offers the others")]

#[path = "../it/support/blocking.rs"]
mod blocking;
mod debian;
mod docker;
mod every_file;
mod github;
mod helm;
mod injection;
mod kubernetes;
mod man;
mod manifests;
mod monitoring;
mod packages;
mod prose;
mod release;
mod systemd;
mod tools;
mod tutorial;
