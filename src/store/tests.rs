//! Tests of the store's rules.
