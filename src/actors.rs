//! actors: see the map in `lib.rs`.
