//! Core against a scripted infrastructure provider whose machines are real guests.

mod control_plane;
mod life;
mod rules;
mod world;

pub(crate) use self::world::World;
