//! The order of directories in the Go form: names are compared one by one, as bytes, unescaped. So `a`, `a/x`, `a b`, `a-b`
//! (`protocol.md` 5.5, item 3): a directory is followed by all that is in it.

use std::cmp::Ordering;
use std::sync::Arc;

/// Path of a directory below the root, in that order. The root is the empty path, and the first.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct PathKey(Arc<[u8]>);

impl PathKey {
    pub(super) fn new(path: &[u8]) -> PathKey {
        PathKey(Arc::from(path))
    }

    /// Whether this is a directory below `path`, which ends with a slash.
    pub(super) fn is_below(&self, path_and_slash: &[u8]) -> bool {
        self.0.starts_with(path_and_slash)
    }
}

impl Ord for PathKey {
    fn cmp(&self, other: &PathKey) -> Ordering {
        // A slash ends a name, and a name that ends comes before all that go on.
        let rank = |byte: u8| if byte == b'/' { 0 } else { u16::from(byte) + 1 };
        match self.0.iter().zip(&*other.0).find(|(a, b)| a != b) {
            Some((&a, &b)) => rank(a).cmp(&rank(b)),
            None => self.0.len().cmp(&other.0.len()),
        }
    }
}

impl PartialOrd for PathKey {
    fn partial_cmp(&self, other: &PathKey) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
