//! Which route serves a call.

pub mod path;
pub mod table;

pub use table::{Call, Found, Miss, RouteTable};
