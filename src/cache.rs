//! cache: see the map in `lib.rs`.
