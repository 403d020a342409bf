//! The simulator as its users meet it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod api;
mod chaos;
mod client;
mod guests;
mod hand;
mod life;
mod server;
mod speed;
