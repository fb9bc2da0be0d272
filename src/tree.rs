//! tree: see the map in `lib.rs`.
