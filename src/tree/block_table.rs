//! The blocks of a base: every distinct locator once.
//!
//! A signed locator has 90 characters and nearly always the same shape, `hash+size+Asignature@expiry`; kept as numbers it
//! takes 44 bytes. Anything else (other hints, upper case, no size) is kept as text, because it must come out exactly as
//! it went in.

use crate::keep::locator::LocatorText;
use crate::keep::{BlockHash, Locator};
use hashbrown::HashTable;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

/// A locator of a snapshot; valid as long as the nodes of the snapshot are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub(crate) u32);

/// A locator of the usual shape. An expiry of zero says that there is no signature.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Packed {
    hash: [u8; 16],
    size: u32,
    expiry: u32,
    signature: [u8; 20],
}

/// A locator of another shape, and the size that its stream gives it.
struct Odd {
    locator: Locator,
    size: u64,
}

/// Locators by number.
#[derive(Default)]
pub(super) struct BlockTable {
    packed: Vec<Packed>,
    odd: HashMap<u32, Odd>,
    /// Numbers by hash, made when the first block is looked for by its hash: only renewing signatures needs it.
    by_hash: OnceLock<Box<[u32]>>,
}

/// 32 digits of hash, `+`, up to 10 of size, `+A`, 40 of signature, `@`, 8 of expiry.
const MAX_PACKED_TEXT: usize = 32 + 1 + 10 + 2 + 40 + 1 + 8;

/// The text of a packed locator, without an allocation: it is made once for every block of every line that is parsed.
struct PackedText {
    bytes: [u8; MAX_PACKED_TEXT],
    length: usize,
}

impl PackedText {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    fn push_hex(&mut self, bytes: &[u8]) {
        let target = &mut self.bytes[self.length..self.length + 2 * bytes.len()];
        if hex::encode_to_slice(bytes, target).is_ok() {
            self.length += 2 * bytes.len();
        }
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl Packed {
    fn of(locator: LocatorText<'_>) -> Option<Packed> {
        let mut packed = Packed { hash: locator.hash().0, size: 0, expiry: 0, signature: [0; 20] };
        packed.size = u32::try_from(locator.size()?).ok()?;
        if let Some(hint) = locator.signature() {
            hex::decode_to_slice(hint.signature, &mut packed.signature).ok()?;
            packed.expiry = u32::try_from(hint.expiry).ok().filter(|&expiry| expiry > 0)?;
        }
        (packed.text().as_str() == locator.as_str()).then_some(packed)
    }

    fn text(&self) -> PackedText {
        let mut text = PackedText { bytes: [0; MAX_PACKED_TEXT], length: 0 };
        text.push_hex(&self.hash);
        text.push(b"+");
        let mut digits = [0; 10];
        let mut start = digits.len();
        let mut size = self.size;
        loop {
            start -= 1;
            digits[start] = b'0' + (size % 10) as u8;
            size /= 10;
            if size == 0 {
                break;
            }
        }
        text.push(&digits[start..]);
        if self.expiry != 0 {
            text.push(b"+A");
            text.push_hex(&self.signature);
            text.push(b"@");
            text.push_hex(&self.expiry.to_be_bytes());
        }
        text
    }
}

impl BlockTable {
    pub(super) fn len(&self) -> u32 {
        self.packed.len() as u32
    }

    pub(super) fn hash(&self, block: u32) -> BlockHash {
        BlockHash(self.packed[block as usize].hash)
    }

    /// Size of the block as its stream has it.
    pub(super) fn size(&self, block: u32) -> u64 {
        self.odd.get(&block).map_or(u64::from(self.packed[block as usize].size), |odd| odd.size)
    }

    /// Whether a block's locator is not of the usual shape; only then may it lack a size.
    pub(super) fn is_odd(&self, block: u32) -> bool {
        self.odd.contains_key(&block)
    }

    pub(super) fn locator(&self, block: u32) -> Locator {
        match self.odd.get(&block) {
            Some(odd) => odd.locator.clone(),
            None => {
                let text = self.packed[block as usize].text();
                // What was written from a parsed locator is one.
                text.as_str().parse().unwrap_or_else(|_| Locator::new(self.hash(block), self.size(block)))
            }
        }
    }

    pub(super) fn push_locator(&self, out: &mut String, block: u32) {
        match self.odd.get(&block) {
            Some(odd) => out.push_str(odd.locator.as_str()),
            None => out.push_str(self.packed[block as usize].text().as_str()),
        }
    }

    /// A locator of the block with this hash. Of several, a signed one that expires last.
    pub(super) fn find(&self, hash: BlockHash) -> Option<u32> {
        self.with_hash(hash).max_by_key(|&number| self.locator(number).signature().map(|hint| hint.expiry))
    }

    /// Appends hash and size of a block with a locator of the usual shape. `false`: it has another, nothing is appended.
    pub(super) fn push_portable(&self, out: &mut String, block: u32) -> bool {
        if self.is_odd(block) {
            return false;
        }
        let portable = Packed { expiry: 0, ..self.packed[block as usize] };
        out.push_str(portable.text().as_str());
        true
    }

    /// The block with exactly this locator.
    pub(super) fn find_text(&self, locator: &Locator) -> Option<u32> {
        self.with_hash(locator.hash()).find(|&number| self.locator(number) == *locator)
    }

    fn with_hash(&self, hash: BlockHash) -> impl Iterator<Item = u32> {
        let by_hash = self.by_hash.get_or_init(|| {
            let mut numbers: Box<[u32]> = (0..self.len()).collect();
            numbers.sort_unstable_by_key(|&number| self.packed[number as usize].hash);
            numbers
        });
        let start = by_hash.partition_point(|&number| self.packed[number as usize].hash < hash.0);
        by_hash[start..].iter().copied().take_while(move |&number| self.packed[number as usize].hash == hash.0)
    }

    pub(super) fn push(&mut self, locator: LocatorText<'_>, size: u64) {
        let number = self.len();
        match Packed::of(locator).filter(|packed| u64::from(packed.size) == size) {
            Some(packed) => self.packed.push(packed),
            None => {
                self.packed.push(Packed { hash: locator.hash().0, size: 0, expiry: 0, signature: [0; 20] });
                self.odd.insert(number, Odd { locator: locator.to_locator(), size });
            }
        }
        self.by_hash = OnceLock::new();
    }

    pub(super) fn shrink(&mut self) {
        self.packed.shrink_to_fit();
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let odd: usize = self.odd.values().map(|odd| odd.locator.as_str().len() + 64).sum();
        let by_hash = self.by_hash.get().map_or(0, |numbers| size_of_val(&**numbers));
        self.packed.capacity() * size_of::<Packed>() + odd + by_hash
    }
}

/// A [`BlockTable`] while it is collected. Hashes in a manifest are whatever somebody wrote there, so the table is seeded.
#[derive(Default)]
pub(super) struct BlockInterner<'t> {
    pub(super) blocks: BlockTable,
    table: HashTable<u32>,
    odd: HashMap<&'t str, u32>,
    hasher: RandomState,
}

impl<'t> BlockInterner<'t> {
    /// The number of a locator, added if it is new. One text has one number, whatever size its streams give it: the
    /// greatest counts. `None`: there are 2^31 already.
    pub(super) fn intern(&mut self, locator: LocatorText<'t>, size: u64) -> Option<u32> {
        let next = Some(self.blocks.len()).filter(|&next| next < 1 << 31)?;
        let Some(packed) = Packed::of(locator) else {
            let number = *self.odd.entry(locator.as_str()).or_insert(next);
            if number == next {
                self.blocks.push(locator, size);
            }
            if let Some(odd) = self.blocks.odd.get_mut(&number) {
                odd.size = odd.size.max(size);
            }
            return Some(number);
        };
        // Neighbouring directories mostly share a block.
        if let Some(last) = next.checked_sub(1).filter(|&last| self.blocks.packed[last as usize] == packed)
            && !self.blocks.odd.contains_key(&last)
        {
            return Some(last);
        }
        let hash = self.hasher.hash_one(packed);
        let all = &self.blocks.packed;
        if let Some(&number) = self.table.find(hash, |&number| all[number as usize] == packed) {
            return Some(number);
        }
        self.table.insert_unique(hash, next, |&number| self.hasher.hash_one(all[number as usize]));
        self.blocks.packed.push(packed);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_locator_comes_out_as_it_went_in_and_once() {
        let signed = "acbd18db4cc2f85cedef654fccc4a4d8+3+Ad93590fd78db663df1c6ea9474686f221dc9e5f8@6b49d200";
        let texts = [
            signed.to_owned(),
            "acbd18db4cc2f85cedef654fccc4a4d8+3".to_owned(),
            "acbd18db4cc2f85cedef654fccc4a4d8".to_owned(),
            "acbd18db4cc2f85cedef654fccc4a4d8+03".to_owned(),
            "acbd18db4cc2f85cedef654fccc4a4d8+4294967296".to_owned(),
            "acbd18db4cc2f85cedef654fccc4a4d8+4294967295".to_owned(),
            "ACBD18DB4CC2F85CEDEF654FCCC4A4D8+3".to_owned(),
            format!("{signed}+Kzzzzz"),
            signed.replace("@6b49d200", "@00000000"),
            signed.replace("@6b49d200", "@6B49D200"),
        ];
        let mut interner = BlockInterner::default();
        for round in 0..2 {
            for (index, text) in texts.iter().enumerate() {
                let locator = LocatorText::parse(text).unwrap();
                assert_eq!(interner.intern(locator, locator.size().unwrap_or(7)), Some(index as u32), "{round} {text}");
                assert_eq!(interner.blocks.locator(index as u32).as_str(), text);
                let mut out = String::new();
                interner.blocks.push_locator(&mut out, index as u32);
                assert_eq!(&out, text);
            }
        }
        assert_eq!(interner.blocks.size(2), 7);
        let found = interner.blocks.find(BlockHash::of(b"foo")).unwrap();
        assert!(interner.blocks.locator(found).signature().is_some());
        assert_eq!(interner.blocks.find(BlockHash::EMPTY), None);
    }
}
