//! A token's life against a scripted issuer and clocks that tests move.

mod bindings;
mod cache;
mod failures;
mod fetches;
mod lives;
mod outages;
mod rejections;
mod renewals;
mod support;
