//! Which route serves a request.

pub mod criteria;
#[cfg(test)]
pub(crate) mod fixture;
mod group;
pub mod host;
pub mod near;
pub mod path;
pub mod table;
mod tree;

pub use table::{Call, Found, Miss, RouteTable};
