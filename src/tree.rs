//! The file tree of a collection: a compact base that never changes, edits on top of it, and both together as a
//! [`Snapshot`] that costs nothing to share.
//!
//! A collection may have a million files, and hundreds of readers look at it while somebody writes. So:
//!
//! * The **base** (`base`) is a handful of arrays, built in one pass over the manifest text (`builder`): no
//!   allocation per file, names interned in one arena, the children of a directory next to each other and sorted by
//!   their bytes. A name is found by binary search, a listing resumes at an index, and a byte of a file is found by two
//!   binary searches over prefix sums (`segments`).
//! * **Edits** (`overlay`) are persistent maps: an edit makes a new snapshot in logarithmic time, and the old one stays
//!   what it was, which is what lets readers go on without a lock. Edits are folded into a new base only when somebody asks
//!   ([`Snapshot::fold`]): doing so at each edit would make n edits cost n².
//! * A **commit** ([`commit`]) is worked out from two snapshots and the paths touched in between: the request, and the text
//!   that the server will make of it.
//! * A **node** is a number. Numbers of the base stay valid in every snapshot made from it by edits, also for nodes that
//!   have been removed or moved (an open handle goes on reading). Folding renumbers, and says how.
//!
//! Names are bytes and may be anything but empty, `.`, `..` or contain a `/`. The tree has no times, owners or modes: in
//! Arvados these belong to the collection.

mod base;
mod block_table;
mod builder;
mod children;
pub mod commit;
mod diff;
mod edit;
mod fold;
mod merge;
mod name_table;
mod overlay;
pub mod path;
mod segments;
mod snapshot;
#[cfg(test)]
mod tests;
mod write;

pub use block_table::BlockId;
pub use children::Children;
pub use diff::{Change, consists_of, diff, same_content, starts_with};
pub use edit::{EditError, Editor};
pub use fold::Fold;
pub use merge::{Conflict, Merge, conflict_name, merge};
pub use segments::{Segment, Segments};
pub use snapshot::{Entry, Snapshot};

/// A file or directory of a snapshot. See the module's essay for how long it is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) u32);

impl NodeId {
    /// The top directory of every snapshot.
    pub const ROOT: NodeId = NodeId(0);

    /// The node as a number, for tables of inodes.
    pub fn index(self) -> u32 {
        self.0
    }
}

/// What an entry of a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Directory,
}
