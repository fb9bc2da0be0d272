//! What has been written and is not in Keep yet.

pub mod content;

pub use content::{Content, Extent, Source};
