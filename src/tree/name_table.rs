//! Names in one arena: each stored once, with its length before it, and named by its position.
//!
//! Interning pays in nested trees, where the same few names stand in every directory. The table that finds a name again
//! exists only while a base is built.

use hashbrown::HashTable;
use std::hash::{BuildHasher, RandomState};

/// Names by position. A length takes one byte up to 127, two up to 16383, and so on (LEB128).
#[derive(Debug, Default, Clone)]
pub(super) struct Names {
    arena: Vec<u8>,
}

impl Names {
    pub(super) fn get(&self, position: u32) -> &[u8] {
        let mut rest = &self.arena[position as usize..];
        let mut length = 0usize;
        let mut shift = 0;
        while let Some((&byte, tail)) = rest.split_first() {
            rest = tail;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        &rest[..length]
    }

    /// Adds a name without looking whether it is there. `None`: the arena is full (4 GiB).
    pub(super) fn push(&mut self, name: &[u8]) -> Option<u32> {
        let position = u32::try_from(self.arena.len()).ok()?;
        let mut length = name.len();
        while length >= 0x80 {
            self.arena.push(length as u8 | 0x80);
            length >>= 7;
        }
        self.arena.push(length as u8);
        self.arena.extend_from_slice(name);
        Some(position)
    }

    pub(super) fn shrink(&mut self) {
        self.arena.shrink_to_fit();
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.arena.capacity()
    }
}

/// [`Names`] while they are collected. The hash is seeded: manifests come from strangers.
#[derive(Default)]
pub(super) struct NameInterner {
    pub(super) names: Names,
    table: HashTable<u32>,
    hasher: RandomState,
}

impl NameInterner {
    /// The position of `name`, added if it is new. `None`: the arena is full.
    pub(super) fn intern(&mut self, name: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        if let Some(&position) = self.table.find(hash, |&position| self.names.get(position) == name) {
            return Some(position);
        }
        let position = self.names.push(name)?;
        self.table.insert_unique(hash, position, |&position| self.hasher.hash_one(self.names.get(position)));
        Some(position)
    }
}
