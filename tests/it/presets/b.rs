//! Services whose own API comes with a token endpoint.
