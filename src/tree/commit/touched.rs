//! The paths that local operations touched since the last commit.
//!
//! Whether there is a difference in the end is not asked here: a file that was made and removed again is touched, and
//! comparing the two trees at that path will find nothing.

use crate::tree::path::ancestors;
use std::collections::BTreeMap;

/// How much may differ at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Depth {
    /// The entry itself was made, written or removed. Of a directory: not what is in it.
    Entry,
    /// Everything below as well: a whole directory came or went, by a rename, a copy or a recursive removal.
    Tree,
}

/// Paths, without slash at the start, and how much of them was touched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    paths: BTreeMap<Vec<u8>, Depth>,
}

impl Touched {
    /// Notes a path; the greater depth counts.
    pub fn touch(&mut self, path: &[u8], depth: Depth) {
        match self.paths.get_mut(path) {
            Some(known) => *known = depth.max(*known),
            None => drop(self.paths.insert(path.to_vec(), depth)),
        }
    }

    /// Whether nothing was touched.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Number of paths.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Notes all paths of another.
    pub fn extend(&mut self, other: &Touched) {
        other.iter().for_each(|(path, depth)| self.touch(path, depth));
    }

    /// The paths by their bytes: a directory comes before what is in it.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Depth)> {
        self.paths.iter().map(|(path, &depth)| (&**path, depth))
    }

    /// Whether something is noted of this very path.
    pub fn contains(&self, path: &[u8]) -> bool {
        self.paths.contains_key(path)
    }

    /// Whether something is noted of this path or of all that is below a directory above it.
    pub fn covers(&self, path: &[u8]) -> bool {
        self.paths.contains_key(path)
            || ancestors(path).any(|above| self.paths.get(above) == Some(&Depth::Tree))
            || self.paths.get(&b""[..]) == Some(&Depth::Tree)
    }

    /// Whether something is noted of this path, of all that is below a directory above it, or of anything in it.
    pub fn is_around(&self, path: &[u8]) -> bool {
        let (inside, next) = match path {
            b"" => return !self.is_empty(),
            // Between "path/" and "path0", the byte after the slash.
            _ => ([path, b"/"].concat(), [path, b"0"].concat()),
        };
        self.covers(path) || self.paths.range(inside..next).next().is_some()
    }

    /// The paths in two halves; `None` if there is only one.
    pub fn halves(&self) -> Option<(Touched, Touched)> {
        let middle = self.len() / 2;
        let half = |skip, take| self.iter().skip(skip).take(take).collect();
        (middle > 0).then(|| (half(0, middle), half(middle, self.len() - middle)))
    }

    /// Forgets a path; what it was touched by, if it was.
    pub fn remove(&mut self, path: &[u8]) -> Option<Depth> {
        self.paths.remove(path)
    }
}

impl<'p> FromIterator<(&'p [u8], Depth)> for Touched {
    fn from_iter<I: IntoIterator<Item = (&'p [u8], Depth)>>(paths: I) -> Touched {
        let mut touched = Touched::default();
        paths.into_iter().for_each(|(path, depth)| touched.touch(path, depth));
        touched
    }
}
