//! Records survive any cut and any flipped byte as far as they are whole.

use super::super::record::{BEGINNING, Record, decode, encode, encode_together};
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::borrow::Cow;

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..20), "[a-z/é\u{0}\"\\\\]{0,12}".prop_map(String::into_bytes)]
}

fn moment() -> impl Strategy<Value = DateTime<Utc>> {
    (0..4_000_000_000_i64, 0..1_000_000_000_u32).prop_map(|(at, part)| DateTime::from_timestamp(at, part).unwrap())
}

fn content() -> impl Strategy<Value = Content> {
    let source = prop_oneof![
        ("[0-9a-f]{32}", any::<u64>(), any::<u64>(), any::<bool>())
            .prop_map(|(locator, block_size, offset, own)| { Source::Stored { locator, block_size, offset, own } }),
        Just(Source::Backing),
        Just(Source::Hole),
        vec(any::<u8>(), 0..40).prop_map(|bytes| Source::Inline(bytes.into())),
    ];
    let extent = (any::<u64>(), source).prop_map(|(length, source)| Extent { length, source });
    (any::<u64>(), any::<Option<u64>>(), vec(extent, 0..4)).prop_map(|(size, backing, extents)| Content {
        size,
        backing,
        extents,
    })
}

fn base() -> impl Strategy<Value = Base> {
    let piece = ("[0-9a-f+A@]{0,50}", any::<[u64; 3]>()).prop_map(|(locator, [block_size, offset, length])| Piece {
        locator,
        block_size,
        offset,
        length,
    });
    prop_oneof![Just(Base::Absent), Just(Base::Directory), vec(piece, 0..3).prop_map(|pieces| Base::File { pieces })]
}

fn bases() -> impl Strategy<Value = Vec<(Vec<u8>, Base)>> {
    vec((path(), base()), 0..3)
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (path(), content(), proptest::option::of(moment())).prop_map(|(path, content, modified)| Operation::File {
            path,
            content,
            modified
        }),
        path().prop_map(|path| Operation::MakeDirectory { path }),
        path().prop_map(|path| Operation::Remove { path }),
        (path(), path()).prop_map(|(from, to)| Operation::Rename { from, to }),
        (path(), moment()).prop_map(|(path, time)| Operation::Modified { path, time }),
    ]
}

fn record() -> impl Strategy<Value = Record<'static>> {
    let after = proptest::collection::vec("[0-9a-f]{12}", 0..2);
    let moved_to = proptest::option::of("[a-z0-9-]{27}");
    let change = (operation(), bases(), moment(), any::<u64>(), after, moved_to);
    let change = change.prop_map(|(operation, bases, time, state, after, moved_to)| Change {
        operation,
        bases,
        time,
        state,
        after,
        moved_to,
    });
    prop_oneof![
        4 => (any::<u64>(), "[a-z0-9-]{1,10}", change).prop_map(|(sequence, collection, change)| Record::Change {
            sequence: Sequence(sequence),
            collection: collection.into(),
            change: Cow::Owned(change),
        }),
        1 => ("[a-z0-9-]{1,10}", bases(), any::<u64>()).prop_map(|(collection, paths, state)| Record::Sent {
            collection: Cow::Owned(collection),
            save: Cow::Owned(Sent { state, paths, has_arrived: false }),
        }),
        1 => "[a-z0-9-]{1,10}".prop_map(|collection| Record::Arrived { collection: Cow::Owned(collection) }),
        1 => "[a-z0-9-]{1,10}".prop_map(|collection| Record::Withdrawn { collection: Cow::Owned(collection) }),
        1 => (any::<u64>(), "[a-z0-9-]{1,10}").prop_map(|(up_to, collection)| Record::Settled {
            collection: collection.into(),
            up_to: Sequence(up_to),
        }),
    ]
}

fn whole(records: &[Record<'static>]) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = Vec::new();
    let mut ends = Vec::new();
    for record in records {
        bytes.extend(encode(record).unwrap());
        ends.push(bytes.len());
    }
    (bytes, ends)
}

fn read(bytes: &[u8]) -> (Vec<Record<'static>>, Vec<std::ops::Range<usize>>) {
    let decoded = decode(bytes);
    (decoded.records.into_iter().map(|(record, _)| record).collect(), decoded.damage)
}

#[test]
fn beginning_of_a_log_is_a_list_of_no_records() {
    assert_eq!(encode_together(&[]).unwrap(), BEGINNING);
    assert_eq!(read(BEGINNING), (vec![], vec![]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn records_come_back_as_they_went(records in vec(record(), 0..6)) {
        let (bytes, _) = whole(&records);
        prop_assert_eq!(read(&bytes), (records, vec![]));
    }

    #[test]
    fn a_log_cut_anywhere_loses_nothing_before_the_cut_and_invents_nothing(records in vec(record(), 0..4)) {
        let (bytes, ends) = whole(&records);
        for cut in 0..=bytes.len() {
            let count = ends.iter().filter(|end| **end <= cut).count();
            let start = count.checked_sub(1).map_or(0, |last| ends[last]);
            let (found, damage) = read(&bytes[..cut]);
            prop_assert_eq!(&found[..], &records[..count]);
            let expected: Vec<_> = Some(start..cut).filter(|part| !part.is_empty()).into_iter().collect();
            prop_assert_eq!(damage, expected);
        }
    }

    #[test]
    fn damage_in_the_middle_costs_the_record_it_hits_and_no_other(
        records in vec(record(), 1..6), at: proptest::sample::Index, flip in 1..=255_u8, junk in vec(any::<u8>(), 0..30),
    ) {
        let (mut bytes, ends) = whole(&records);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let hit = ends.iter().filter(|end| **end <= at).count();
        let mut rest = records.clone();
        rest.remove(hit);
        let (found, damage) = read(&bytes);
        prop_assert_eq!(&found, &rest);
        prop_assert_eq!(damage.len(), 1);
        // And garbage between records.
        let (mut bytes, ends) = whole(&records);
        let place = ends[hit];
        bytes.splice(place..place, junk.iter().copied());
        prop_assert_eq!(&read(&bytes).0, &records);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in vec(prop_oneof![any::<u8>(), Just(0xFF), Just(b'J')], 0..200)) {
        let (records, damage) = read(&bytes);
        prop_assert!(records.is_empty());
        prop_assert_eq!(damage.len(), usize::from(!bytes.is_empty()));
    }
}
