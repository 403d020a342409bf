//! Crate skeleton.
