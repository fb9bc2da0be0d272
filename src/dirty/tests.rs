//! A store against a plain vector, with a Keep in memory that fails at times.

use super::*;
use crate::cache::Budget;
use crate::keep::{BlockHash, Locator};
use crate::remote;
use crate::remote::keep::{Keep, PutRequest, Stored};
use async_trait::async_trait;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

/// For how long a signature of the Keep in memory is good.
const LIFE: u64 = 100;

#[derive(Default)]
struct FakeKeep {
    blocks: Mutex<HashMap<BlockHash, Bytes>>,
    fails: AtomicBool,
    refuses_token: AtomicBool,
    /// The time, in seconds.
    now: AtomicU64,
    gets: AtomicUsize,
}

#[async_trait]
impl Keep for FakeKeep {
    async fn get(&self, locator: &Locator) -> remote::error::Result<Bytes> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        if self.refuses_token.load(Ordering::SeqCst) {
            let (hash, detail) = (locator.hash().to_string(), "403 Forbidden".to_owned());
            return Err(remote::Error::TokenRefused { what: "Keep read error", hash, detail });
        }
        if locator.signature().is_none_or(|hint| hint.expiry < self.now.load(Ordering::SeqCst)) {
            return Err(remote::Error::BlockRefused { hash: locator.hash().to_string(), detail: "expired".to_owned() });
        }
        let found = self.blocks.lock().unwrap().get(&locator.hash()).cloned();
        found.ok_or(remote::Error::NoKeepServices)
    }

    async fn put(&self, block: Bytes, _: &PutRequest) -> remote::error::Result<Stored> {
        tokio::task::yield_now().await;
        if self.fails.load(Ordering::SeqCst) {
            return Err(remote::Error::NoKeepServices);
        }
        let hash = BlockHash::of(&block);
        let expiry = self.now.load(Ordering::SeqCst) + LIFE;
        let locator = format!("{hash}+{}+A{}@{expiry:08x}", block.len(), "0".repeat(40)).parse().unwrap();
        self.blocks.lock().unwrap().insert(hash, block);
        Ok(Stored { locator, replicas: 1, storage_classes: Default::default() })
    }
}

struct Rig {
    keep: Arc<FakeKeep>,
    budget: Arc<Budget>,
    scratch: Arc<Scratch>,
    store: Arc<DirtyStore>,
    _folder: TempDir,
}

fn rig(block_size: u64, capacity: usize, memory: usize, scratch: u64) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let (keep, budget) = (Arc::new(FakeKeep::default()), Budget::new(capacity));
    let scratch = Scratch::open(folder.path().join("scratch"), scratch).unwrap();
    let store = DirtyStore::new(Options {
        budget: budget.clone(),
        memory,
        scratch: scratch.clone(),
        keep: keep.clone(),
        runtime: tokio::runtime::Handle::current(),
        uploads: 2,
        block_size,
    });
    Rig { keep, budget, scratch, store, _folder: folder }
}

impl Rig {
    async fn all(&self, file: &DirtyFile, offset: u64, length: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in file.read(offset, length).await.unwrap() {
            match part {
                Part::Bytes(more) => bytes.extend_from_slice(&more),
                Part::Zeros(zeros) => bytes.resize(bytes.len() + zeros as usize, 0),
                Part::Stored { locator, offset, length } => {
                    let block = self.keep.get(&locator).await.unwrap();
                    bytes.extend_from_slice(&block[offset as usize..(offset + length) as usize]);
                }
            }
        }
        bytes
    }

    async fn of_pieces(&self, settled: &Settled) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in &settled.pieces {
            let block = self.keep.get(&piece.block).await.unwrap();
            assert_eq!(block.len() as u64, piece.block_size);
            bytes.extend_from_slice(&block[piece.offset as usize..(piece.offset + piece.length) as usize]);
        }
        bytes
    }

    /// After everything was dropped: uploads end, and nothing is left.
    async fn empty(&self) {
        self.store.own_ends.clear();
        for _ in 0..500 {
            if self.budget.used() == 0 && self.store.figures().memory == 0 && self.store.figures().in_flight == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.store.sweep(|_| false, || true);
        self.store.own_ends.clear();
        assert_eq!((self.budget.used(), self.store.figures().memory, self.scratch.used()), (0, 0, 0));
    }
}

#[derive(Clone, Debug)]
enum Action {
    Write(u64, Vec<u8>),
    Append(Vec<u8>),
    Truncate(u64),
    Read(u64, u64),
    Persist {
        inline: u64,
        saves_room: bool,
        restores: bool,
    },
    Settle,
    /// And a commit names what is in Keep.
    Save,
    Copy,
    Forget,
    Fail(bool),
    Discard,
}

fn action() -> impl Strategy<Value = Action> {
    let data = || prop::collection::vec(1u8.., 0..150);
    prop_oneof![
        3 => (0u64..700, data()).prop_map(|(at, data)| Action::Write(at, data)),
        4 => data().prop_map(Action::Append),
        1 => (0u64..900).prop_map(Action::Truncate),
        2 => (0u64..900, 0u64..500).prop_map(|(at, length)| Action::Read(at, length)),
        1 => (0u64..300, any::<bool>(), any::<bool>())
            .prop_map(|(inline, saves_room, restores)| Action::Persist { inline, saves_room, restores }),
        2 => Just(Action::Settle),
        1 => Just(Action::Save),
        1 => Just(Action::Copy),
        1 => Just(Action::Forget),
        1 => any::<bool>().prop_map(Action::Fail),
        1 => Just(Action::Discard),
    ]
}

async fn play(actions: Vec<(bool, Action)>, memory: usize) {
    let rig = rig(100, 1000, memory, 1 << 20);
    let request = PutRequest::default;
    let mut files: Vec<_> = (0..2).map(|_| rig.store.file(std::iter::empty(), request())).collect();
    let mut models = [Vec::new(), Vec::new()];
    let mut named = HashSet::new();
    for (which, action) in actions {
        let which = usize::from(which);
        let (file, model) = (files[which].clone(), &mut models[which]);
        match action {
            Action::Write(at, data) => {
                if data.len() % 2 == 1 || !file.write_at_once(Place::At(at), &data) {
                    file.write(Place::At(at), data.clone().into()).await.unwrap();
                }
                if !data.is_empty() {
                    let (at, end) = (at as usize, at as usize + data.len());
                    model.resize(model.len().max(end), 0);
                    model[at..end].copy_from_slice(&data);
                }
            }
            Action::Append(data) => {
                if data.len() % 2 == 1 || !file.write_at_once(Place::End, &data) {
                    file.write(Place::End, data.clone().into()).await.unwrap();
                }
                model.extend_from_slice(&data);
            }
            Action::Truncate(size) => {
                file.truncate(size).await.unwrap();
                model.resize(size as usize, 0);
            }
            Action::Read(at, length) => {
                let from = model.len().min(at as usize);
                let to = model.len().min((at + length) as usize);
                assert_eq!(rig.all(&file, at, length).await, model[from..to]);
            }
            Action::Persist { inline, saves_room, restores } => {
                let content = file.persist(inline, saves_room, false).await.unwrap();
                let text = serde_json::to_string(&content).unwrap();
                let content: Content = serde_json::from_str(&text).unwrap();
                if restores {
                    // The old one's blocks on the way are lost, as in a crash.
                    drop(file);
                    let other = rig.store.file(std::iter::empty(), request());
                    drop(std::mem::replace(&mut files[which], other));
                    files[which] = rig.store.restore(&content, None, request()).unwrap();
                    if !content.is_bare() {
                        for part in files[which].read(0, u64::MAX).await.unwrap() {
                            let Part::Stored { locator, .. } = part else { continue };
                            assert!(named.contains(&locator.hash()), "another token could not save it");
                        }
                    }
                }
            }
            Action::Save => {
                for (result, file) in rig.store.settle(&files).await.into_iter().zip(&files) {
                    let Ok(settled) = result else { continue };
                    named.extend(settled.pieces.iter().map(|piece| piece.block.hash()));
                    file.was_saved(&settled.pieces);
                    assert!(!file.persist(0, false, false).await.unwrap().is_bare());
                }
            }
            Action::Copy => assert!(rig.store.copy(&files).await.1.is_none()),
            Action::Forget => drop(file.forget(|_| true).await),
            Action::Settle => {
                let fails = rig.keep.fails.load(Ordering::SeqCst);
                for ((result, model), file) in rig.store.settle(&files).await.into_iter().zip(&models).zip(&files) {
                    match result {
                        Ok(settled) => {
                            assert_eq!(&rig.of_pieces(&settled).await, model);
                            assert_eq!((settled.size, settled.generation), (model.len() as u64, file.generation()));
                            assert!(!file.is_local());
                        }
                        Err(error) => assert!(fails && error.errno() == libc::EIO, "{error}"),
                    }
                }
            }
            Action::Fail(fails) => rig.keep.fails.store(fails, Ordering::SeqCst),
            Action::Discard => file.discard(),
        }
        for (file, model) in files.iter().zip(&models) {
            assert_eq!(file.size(), model.len() as u64);
            assert_eq!(&rig.all(file, 0, u64::MAX).await, model);
        }
    }
    files.iter().for_each(|file| file.discard());
    drop(files);
    rig.empty().await;
}

proptest! {
    #[test]
    fn a_file_is_what_was_written(actions in prop::collection::vec((any::<bool>(), action()), 1..40), memory in 0usize..600) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), play(actions, memory)).await.unwrap() });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]
    #[test]
    fn many_writers_at_once_stay_within_the_memory_and_come_to_an_end(
        sizes in prop::collection::vec((0usize..400, 1usize..90), 1..20),
        memory in 0usize..600,
        saves in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        let work = async {
            let rig = rig(100, 1000, memory, 1 << 20);
            let mut writers = Vec::new();
            for (number, (size, step)) in sizes.into_iter().enumerate() {
                let store = rig.store.clone();
                let file = store.file(std::iter::empty(), PutRequest::default());
                writers.push(tokio::spawn(async move {
                    let data = vec![number as u8 + 1; size];
                    for piece in data.chunks(step) {
                        if !file.write_at_once(Place::End, piece) {
                            file.write(Place::End, Bytes::copy_from_slice(piece)).await.unwrap();
                        }
                        let figures = store.figures();
                        assert!(figures.memory <= figures.memory_limit);
                    }
                    if saves {
                        store.settle(std::slice::from_ref(&file)).await.remove(0).unwrap();
                    }
                    (file, data)
                }));
            }
            for writer in writers {
                let (file, data) = writer.await.unwrap();
                assert_eq!(rig.all(&file, 0, u64::MAX).await, data);
            }
            assert!(rig.budget.highest() <= 1000);
            rig.empty().await;
        };
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), work).await.unwrap() });
    }
}

/// A tail that grew by being copied would for a moment be there twice, charged once.
#[tokio::test]
async fn a_large_tail_grows_where_it_is() {
    let rig = rig(64 << 20, 256 << 20, 128 << 20, 1 << 30);
    let file = rig.store.file(std::iter::empty(), PutRequest::default());
    let piece = vec![7; 1 << 20];
    let place = || file.state().tail.as_ref().map(|tail| tail.bytes.as_ptr());
    assert!(file.write_at_once(Place::End, &piece) && file.write_at_once(Place::End, &piece));
    let before = place();
    for _ in 2..63 {
        assert!(file.write_at_once(Place::End, &piece));
        assert_eq!(place(), before);
        let figures = rig.store.figures();
        assert!(figures.memory as u64 >= file.size() && figures.memory as u64 <= file.size() + (4 << 20));
    }
    drop(file);
    rig.empty().await;
}

#[tokio::test]
async fn a_million_appended_bytes_are_one_extent() {
    let rig = rig(64 << 20, 256 << 20, 64 << 20, 1 << 30);
    let file = rig.store.file(std::iter::empty(), PutRequest::default());
    for _ in 0..1_000_000 {
        file.write(Place::End, Bytes::from_static(b"x")).await.unwrap();
    }
    assert_eq!((file.size(), file.state().extents.count()), (1_000_000, 1));
    let settled = rig.store.settle(std::slice::from_ref(&file)).await.remove(0).unwrap();
    assert_eq!((settled.pieces.len(), rig.keep.blocks.lock().unwrap().len()), (1, 1));
    drop(file);
    rig.empty().await;
}

/// The last piece of zeros may be as long as the data before the hole.
#[tokio::test]
async fn what_is_before_a_long_hole_is_not_taken_for_the_end_of_the_file() {
    let rig = rig(100, 1000, 600, 1 << 20);
    let file = rig.store.file(std::iter::empty(), PutRequest::default());
    file.write(Place::End, vec![1; 52].into()).await.unwrap();
    file.truncate(404).await.unwrap();
    rig.store.settle(std::slice::from_ref(&file)).await.remove(0).unwrap();
    file.write(Place::End, Bytes::from_static(&[1])).await.unwrap();
    let settled = rig.store.settle(std::slice::from_ref(&file)).await.remove(0).unwrap();
    let expected = [vec![1; 52], vec![0; 352], vec![1]].concat();
    assert_eq!(rig.of_pieces(&settled).await, expected);
    drop(file);
    rig.empty().await;
}

#[tokio::test]
async fn small_files_share_a_block_and_appending_leaves_no_trail() {
    let rig = rig(100, 1000, 400, 1000);
    let one = rig.store.file(std::iter::empty(), PutRequest::default());
    let two = rig.store.file(std::iter::empty(), PutRequest::default());
    one.write(Place::End, Bytes::from_static(b"1b")).await.unwrap();
    two.write(Place::End, Bytes::from_static(b"b2")).await.unwrap();
    let settled = rig.store.settle(&[one.clone(), two.clone()]).await;
    let second = settled[1].as_ref().unwrap();
    assert_eq!((second.pieces[0].block_size, second.pieces[0].offset), (4, 2));
    assert_eq!(second.pieces[0].block, settled[0].as_ref().unwrap().pieces[0].block);
    for _ in 0..20 {
        two.write(Place::End, Bytes::from_static(b"+")).await.unwrap();
        let settled = rig.store.settle(std::slice::from_ref(&two)).await.remove(0).unwrap();
        assert_eq!(settled.pieces.len(), 1);
    }
    assert_eq!(rig.all(&two, 0, 100).await, b"b2++++++++++++++++++++");
    drop((one, two));
    rig.empty().await;
}

/// A shell that writes a log opens it for each line.
#[tokio::test]
async fn appending_to_a_file_that_is_opened_anew_leaves_no_trail() {
    let rig = rig(100, 1000, 400, 1000);
    let other = rig.store.file(std::iter::empty(), PutRequest::default());
    other.write(Place::End, Bytes::from_static(b"another")).await.unwrap();
    let mut settled = None;
    for number in 0..20 {
        let pieces = settled.take().map_or_else(Vec::new, |it: Settled| it.pieces);
        let log = rig.store.file(pieces.into_iter(), PutRequest::default());
        log.write(Place::End, Bytes::from_static(b"line,")).await.unwrap();
        // The first time it shares its block.
        let files = if number == 0 { vec![other.clone(), log.clone()] } else { vec![log.clone()] };
        let now = rig.store.settle(&files).await.pop().unwrap().unwrap();
        assert_eq!(now.pieces.len(), if number < 19 { 1 } else { now.pieces.len() });
        settled = Some(now);
    }
    assert_eq!(rig.of_pieces(&settled.unwrap()).await, b"line,".repeat(20));
    drop(other);
    rig.empty().await;
}

/// One that cannot be read any more does not keep others of its block from being stored.
#[tokio::test]
async fn more_files_than_descriptors_are_kept_and_a_lost_one_is_alone() {
    let rig = rig(1 << 20, 8 << 20, 0, 8 << 20);
    let mut files = Vec::new();
    for number in 0..600u32 {
        let file = rig.store.file(std::iter::empty(), PutRequest::default());
        file.write(Place::At(0), Bytes::from(number.to_le_bytes().repeat(8))).await.unwrap();
        files.push(file);
    }
    let folder = rig.scratch.folder().to_owned();
    let is_ours = |entry: &std::fs::DirEntry| entry.path().read_link().is_ok_and(|link| link.starts_with(&folder));
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten().filter(is_ours).count();
    assert!(open <= 300, "{open}");
    for (number, file) in (0u32..).zip(&files) {
        assert_eq!(rig.all(file, 0, 100).await, number.to_le_bytes().repeat(8));
    }
    std::fs::remove_file(folder.join(files[0].backing().unwrap().to_string())).unwrap();
    let results = rig.store.settle(&files).await;
    assert!(results[0].as_ref().is_err_and(|error| error.is_of_the_file()), "{:?}", results[0]);
    for (number, settled) in (0u32..).zip(&results).skip(1) {
        assert_eq!(rig.of_pieces(settled.as_ref().unwrap()).await, number.to_le_bytes().repeat(8));
    }
    drop(files);
    rig.empty().await;
}

#[test]
fn callers_hear_of_the_disk_of_the_journal_only_that_it_has_no_room() {
    let told = |errno: i32| error::Error::backing("writing", &std::io::Error::from_raw_os_error(errno)).errno();
    for (errno, expected) in [(libc::ENOSPC, libc::ENOSPC), (libc::EFBIG, libc::ENOSPC), (libc::EDQUOT, libc::EDQUOT)] {
        assert_eq!(told(errno), expected);
    }
    for errno in [libc::ENOENT, libc::EACCES, libc::EROFS, libc::ENOTDIR, libc::EMFILE, libc::EIO] {
        assert_eq!(told(errno), libc::EIO, "{errno}");
    }
}

#[tokio::test]
async fn scratch_space_is_limited_and_too_large_is_said() {
    let rig = rig(100, 1000, 0, 50);
    let file = rig.store.file(std::iter::empty(), PutRequest::default());
    file.write(Place::At(1000), vec![1; 50].into()).await.unwrap();
    file.write(Place::At(1000), vec![2; 50].into()).await.unwrap();
    assert_eq!(file.write(Place::End, Bytes::from_static(b"x")).await.unwrap_err().errno(), libc::ENOSPC);
    assert_eq!(
        file.write(Place::At(i64::MAX as u64), Bytes::from_static(b"x")).await.unwrap_err().errno(),
        libc::EFBIG
    );
    assert_eq!(file.truncate(1 << 63).await.unwrap_err().errno(), libc::EFBIG);
    // What a hole may have: pieces of 100 bytes.
    let largest = 100 << 20;
    assert_eq!(file.truncate(largest + 1).await.unwrap_err().errno(), libc::EFBIG);
    assert_eq!(file.write(Place::At(largest), Bytes::from_static(b"x")).await.unwrap_err().errno(), libc::EFBIG);
    assert!(!file.write_at_once(Place::At(largest), b"x"));
    assert_eq!(file.size(), 1050);
    file.truncate(largest).await.unwrap();
    file.truncate(1050).await.unwrap();
    drop(file);
    rig.empty().await;
    assert_eq!(std::fs::read_dir(rig.scratch.folder()).unwrap().count(), 0);
}

/// Found by killing a mount while a large file was written anew: what had been closed before had the head of the new one.
#[tokio::test(flavor = "multi_thread")]
async fn recorded_content_is_not_touched_by_what_comes_after_a_cut() {
    let rig = rig(1 << 20, 8 << 20, 4 << 20, 64 << 20);
    let before: Vec<u8> = (0..300_000u32).map(|number| (number / 3) as u8).collect();
    for left in [0, 100_000] {
        let file = rig.store.file(std::iter::empty(), PutRequest::default());
        file.write(Place::At(0), Bytes::from(before.clone())).await.unwrap();
        let record = file.persist(0, false, false).await.unwrap();
        file.truncate(left).await.unwrap();
        file.write(Place::End, Bytes::from(vec![7; 50_000])).await.unwrap();
        let newer = file.persist(0, false, false).await.unwrap();
        let expected = [&before[..left as usize], &[7; 50_000]].concat();
        assert_eq!(rig.all(&file, 0, u64::MAX).await, expected);
        for (record, expected) in [(&record, &before), (&newer, &expected)] {
            let other = rig.store.restore(record, None, PutRequest::default()).unwrap();
            assert_eq!(&rig.all(&other, 0, u64::MAX).await, expected, "{left} bytes left");
        }
        let count = || std::fs::read_dir(rig.scratch.folder()).unwrap().count();
        assert!(!rig.store.sweep(|_| true, || true));
        assert_eq!(count(), 2);
        let held = file.hold(newer.backing.unwrap());
        assert!(held.is_some() && file.hold(record.backing.unwrap()).is_none());
        assert!(
            !rig.store.sweep(|number| Some(number) == newer.backing, || false),
            "nobody knows whether that is on the disk"
        );
        assert!(rig.store.sweep(|number| Some(number) == newer.backing, || true));
        assert_eq!(count(), 1, "the old one is gone");
        file.discard();
        drop(file);
        rig.store.sweep(|_| false, || true);
        std::fs::read_dir(rig.scratch.folder())
            .unwrap()
            .for_each(|entry| std::fs::remove_file(entry.unwrap().path()).unwrap());
    }
}

/// Three full blocks, and an end that came by way of the scratch file, all in Keep: what is there, and what it consists of.
async fn settled_file(rig: &Rig) -> (Arc<DirtyFile>, Vec<u8>, Settled) {
    let file = rig.store.file(std::iter::empty(), PutRequest::default());
    let mut bytes: Vec<u8> = (0..230u8).collect();
    file.write(Place::End, bytes.clone().into()).await.unwrap();
    file.write(Place::At(300), Bytes::from_static(b"apart")).await.unwrap();
    bytes.resize(300, 0);
    bytes.extend_from_slice(b"apart");
    let settled = rig.store.settle(std::slice::from_ref(&file)).await.remove(0).unwrap();
    (file, bytes, settled)
}

fn first_end(pieces: &[crate::keep::manifest::Piece<Locator>]) -> u64 {
    pieces.iter().filter_map(|piece| Some(piece.block.signature()?.expiry)).min().unwrap()
}

#[tokio::test]
async fn blocks_that_nobody_has_named_are_stored_anew_before_their_signatures_end() {
    let rig = rig(100, 1000, 400, 1 << 20);
    let (file, bytes, settled) = settled_file(&rig).await;
    let files = std::slice::from_ref(&file);
    rig.keep.now.store(LIFE / 2, Ordering::SeqCst);
    rig.store.renew(files, LIFE).await;
    let same = rig.store.settle(files).await.remove(0).unwrap();
    assert_eq!(same.pieces, settled.pieces, "not before it is time");
    rig.store.renew(files, LIFE + 1).await;
    let newer = rig.store.settle(files).await.remove(0).unwrap();
    assert_eq!(first_end(&newer.pieces), LIFE / 2 + LIFE);
    rig.keep.now.store(LIFE + 1, Ordering::SeqCst);
    assert_eq!(rig.of_pieces(&newer).await, bytes);
    drop(file);
    rig.empty().await;
}

#[tokio::test]
async fn blocks_whose_signatures_have_ended_are_stored_anew_from_their_copies() {
    for copies in [true, false] {
        let rig = rig(100, 1000, 400, 1 << 20);
        let (file, bytes, settled) = settled_file(&rig).await;
        assert!(file.persist(0, false, false).await.unwrap().is_bare());
        if copies {
            let (copied, error) = rig.store.copy(std::slice::from_ref(&file)).await;
            assert!(copied == [Copied { any: true, all: true, is_lost: false }] && error.is_none());
            assert!(!file.persist(0, false, false).await.unwrap().is_bare());
        }
        rig.keep.now.store(LIFE + 1, Ordering::SeqCst);
        let locators: HashSet<Locator> = settled.pieces.iter().map(|piece| piece.block.clone()).collect();
        let refused = rig.store.ask(locators.clone()).await.refused;
        assert_eq!(refused, locators);
        let lost = file.forget(|locator| refused.contains(locator)).await;
        let again = rig.store.settle(std::slice::from_ref(&file)).await.remove(0).unwrap();
        if copies {
            assert_eq!((lost, rig.of_pieces(&again).await), (0, bytes));
        } else {
            assert_eq!(lost, 300, "all but the end");
        }
        file.discard();
        drop(file);
        rig.empty().await;
    }
}

/// The token may be prolonged, and says nothing of the blocks.
#[tokio::test]
async fn keepproxy_that_refuses_the_token_makes_no_block_lost() {
    let rig = rig(100, 1000, 400, 1 << 20);
    let (file, bytes, settled) = settled_file(&rig).await;
    let files = std::slice::from_ref(&file);
    let locators: HashSet<Locator> = settled.pieces.iter().map(|piece| piece.block.clone()).collect();
    rig.keep.refuses_token.store(true, Ordering::SeqCst);
    let (copied, error) = rig.store.copy(files).await;
    assert!(copied == [Copied { any: false, all: false, is_lost: false }] && error.is_some());
    assert_eq!(rig.keep.gets.load(Ordering::SeqCst), 1, "no other is tried");
    let answers = rig.store.ask(locators).await;
    assert!(answers.refused.is_empty() && answers.given.is_empty());
    rig.keep.refuses_token.store(false, Ordering::SeqCst);
    assert!(rig.store.copy(files).await.0[0].all, "later they are there");
    assert_eq!(rig.all(&file, 0, 305).await, bytes);
    file.discard();
    drop(file);
    rig.empty().await;
}

#[tokio::test]
async fn copies_go_when_a_commit_has_named_the_blocks() {
    let rig = rig(100, 1000, 400, 1 << 20);
    let (file, bytes, settled) = settled_file(&rig).await;
    assert!(rig.store.copy(std::slice::from_ref(&file)).await.0[0].all && rig.scratch.used() > 200);
    file.was_saved(&settled.pieces);
    assert!(rig.store.sweep(|_| false, || true));
    assert_eq!((rig.scratch.used(), file.backing()), (0, None));
    assert_eq!(rig.all(&file, 0, u64::MAX).await, bytes);
    drop(file);
    rig.empty().await;
}

#[tokio::test]
async fn what_a_record_names_leaves_the_backing_file_when_a_commit_has_named_it_and_not_before() {
    let rig = rig(1 << 20, 8 << 20, 4 << 20, 8 << 20);
    let file = rig.store.file(std::iter::empty(), PutRequest::default());
    let mut bytes = Vec::new();
    let mut number = 0;
    for round in 0..3u8 {
        bytes.extend([round; 100_000]);
        file.write(Place::End, vec![round; 100_000].into()).await.unwrap();
        let named = file.persist(0, false, false).await.unwrap().backing.unwrap();
        assert_ne!(std::mem::replace(&mut number, named), named);
        let settled = rig.store.settle(std::slice::from_ref(&file)).await.remove(0).unwrap();
        assert!(!file.persist(0, false, false).await.unwrap().is_bare());
        assert_eq!(file.backing(), Some(named), "it may have to be stored again");
        file.was_saved(&settled.pieces);
        assert_eq!(file.backing(), None);
        assert!(!rig.store.sweep(|number| number == named, || true), "the record is not settled");
        assert_eq!(rig.scratch.used(), 100_000, "of this round only");
        assert!(rig.store.sweep(|_| false, || true));
        assert_eq!((rig.scratch.used(), std::fs::read_dir(rig.scratch.folder()).unwrap().count()), (0, 0));
        assert_eq!(rig.all(&file, 0, u64::MAX).await, bytes);
    }
    drop(file);
    rig.empty().await;
}

/// What is nowhere else has room for as long as there is any.
#[tokio::test]
async fn copies_leave_half_of_the_room_to_writers() {
    let rig = rig(100, 1000, 400, 300);
    let (file, ..) = settled_file(&rig).await;
    assert!(!rig.store.copy(std::slice::from_ref(&file)).await.0[0].all);
    assert!(rig.scratch.used() <= 150, "{}", rig.scratch.used());
    assert!(file.persist(0, false, false).await.unwrap().is_bare());
    file.discard();
    drop(file);
    rig.empty().await;
}

#[tokio::test]
async fn block_of_many_files_is_fetched_and_stored_once() {
    let rig = rig(1 << 20, 8 << 20, 4 << 20, 8 << 20);
    let mut files = Vec::new();
    for number in 0..10u8 {
        let file = rig.store.file(std::iter::empty(), PutRequest::default());
        // Longer than what stays in memory.
        file.write(Place::End, vec![number; 90_000].into()).await.unwrap();
        files.push(file);
    }
    let first = rig.store.settle(&files).await.remove(0).unwrap();
    rig.keep.now.store(LIFE / 2, Ordering::SeqCst);
    rig.store.renew(&files, LIFE + 1).await;
    assert_eq!((rig.keep.gets.swap(0, Ordering::SeqCst), rig.store.figures().blocks_stored), (1, 2));
    let newer = rig.store.settle(&files).await.remove(0).unwrap();
    assert_eq!(newer.pieces[0].block.hash(), first.pieces[0].block.hash());
    assert!(rig.store.copy(&files).await.0.iter().all(|copied| copied.all));
    assert_eq!(rig.keep.gets.load(Ordering::SeqCst), 1);
    files.iter().for_each(|file| file.discard());
    drop(files);
    rig.empty().await;
}

/// The file that is recorded next must not lack what the one before had.
#[tokio::test]
async fn record_after_a_cut_and_a_full_block_has_all_of_the_file() {
    let rig = rig(100, 2000, 800, 1 << 20);
    rig.keep.fails.store(true, Ordering::SeqCst);
    let file = rig.store.file(std::iter::empty(), PutRequest::default());
    let mut bytes: Vec<u8> = (0..230u8).collect();
    file.write(Place::End, bytes.clone().into()).await.unwrap();
    file.persist(0, false, false).await.unwrap();
    file.truncate(100).await.unwrap();
    bytes.truncate(100);
    file.write(Place::End, Bytes::from(vec![7; 100])).await.unwrap();
    bytes.extend([7; 100]);
    let record = file.persist(0, false, false).await.unwrap();
    let other = rig.store.restore(&record, None, PutRequest::default()).unwrap();
    assert_eq!(rig.all(&other, 0, u64::MAX).await, bytes);
    file.discard();
    other.discard();
}
