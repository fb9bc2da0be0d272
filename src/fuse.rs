//! fuse: see the map in `lib.rs`.
