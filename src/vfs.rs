//! vfs: see the map in `lib.rs`.
