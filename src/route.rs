//! Which route serves a call.

pub mod criteria;
mod group;
pub mod host;
pub mod path;
pub mod table;
mod tree;

pub use table::{Call, Found, Miss, RouteTable};
