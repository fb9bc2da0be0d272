//! keep: see the map in `lib.rs`.
