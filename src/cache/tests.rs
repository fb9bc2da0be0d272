//! The cache before a Keep that counts, waits, fails and refuses as it is told.

use super::*;
use crate::remote::keep::{PutRequest, Stored};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// What the fake does with a block.
#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Right,
    Missing,
    /// Refuses every locator that has no `+Zfresh`.
    Expired,
}

struct FakeKeep {
    blocks: Mutex<HashMap<BlockHash, (Bytes, Answer)>>,
    /// One permit per fetch that may be answered; closed means all.
    gate: Semaphore,
    fetches: AtomicUsize,
    running: AtomicUsize,
}

impl FakeKeep {
    fn open() -> Arc<FakeKeep> {
        let keep = FakeKeep::gated();
        keep.gate.close();
        keep
    }

    /// Fetches wait until the gate lets them through.
    fn gated() -> Arc<FakeKeep> {
        Arc::new(FakeKeep {
            blocks: Mutex::default(),
            gate: Semaphore::new(0),
            fetches: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
        })
    }

    fn add(&self, content: impl Into<Bytes>, answer: Answer) -> Locator {
        let content = content.into();
        let hash = BlockHash::of(&content);
        let size = content.len() as u64;
        self.blocks.lock().unwrap().insert(hash, (content, answer));
        Locator::new(hash, size)
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Keep for FakeKeep {
    async fn get(&self, locator: &Locator) -> crate::remote::error::Result<Bytes> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        self.running.fetch_add(1, Ordering::SeqCst);
        let _running = Running(&self.running);
        if let Ok(permit) = self.gate.acquire().await {
            permit.forget();
        }
        let (hash, detail) = (locator.hash().to_string(), "as told".to_owned());
        let (content, answer) = self.blocks.lock().unwrap()[&locator.hash()].clone();
        match answer {
            Answer::Right => Ok(content),
            Answer::Expired if locator.as_str().ends_with("+Zfresh") => Ok(content),
            Answer::Expired => Err(crate::remote::Error::BlockRefused { hash, detail }),
            Answer::Missing => Err(crate::remote::Error::BlockNotFound { hash, detail }),
        }
    }

    async fn put(&self, _: Bytes, _: &PutRequest) -> crate::remote::error::Result<Stored> {
        Err(crate::remote::Error::NoKeepServices)
    }
}

/// Renews by adding `+Zfresh`, or not at all.
struct Renewer {
    works: bool,
    asked: AtomicUsize,
}

impl Renewer {
    fn new(works: bool) -> Arc<Renewer> {
        Arc::new(Renewer { works, asked: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl RenewLocator for Renewer {
    async fn renew(&self, refused: &Locator) -> Result<Locator, String> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        sleep(Duration::from_millis(20)).await;
        match self.works {
            true => format!("{refused}+Zfresh").parse().map_err(|error| format!("{error}")),
            false => Err("the collection is gone".to_owned()),
        }
    }
}

fn no_renewal() -> Arc<dyn RenewLocator> {
    Renewer::new(false)
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("does not hang")
}

async fn until(mut condition: impl FnMut() -> bool) {
    within(async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

fn cache(keep: &Arc<FakeKeep>, capacity: usize) -> (BlockCache, Arc<Budget>) {
    let budget = Budget::new(capacity);
    (BlockCache::new(keep.clone(), budget.clone()), budget)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_readers_of_one_block_fetch_it_once() {
    let keep = FakeKeep::gated();
    let (cache, _) = cache(&keep, 1 << 20);
    let locator = keep.add(vec![1; 1000], Answer::Right);
    let readers: Vec<_> = (0..100)
        .map(|_| {
            let (cache, locator) = (cache.clone(), locator.clone());
            tokio::spawn(async move { cache.get(&locator, &no_renewal()).await.unwrap().slice(0..1000) })
        })
        .collect();
    until(|| cache.figures().misses == 100).await;
    assert_eq!((keep.fetches(), cache.figures().fetching_bytes), (1, 1000));
    keep.gate.add_permits(1);
    for reader in readers {
        assert_eq!(within(reader).await.unwrap(), vec![1; 1000]);
    }
    within(cache.get(&locator, &no_renewal())).await.unwrap();
    let figures = cache.figures();
    assert_eq!((keep.fetches(), figures.fetches, figures.hits, figures.fetching, figures.blocks), (1, 1, 1, 0, 1));
}

#[tokio::test]
async fn a_reader_that_gives_up_does_not_take_the_block_from_the_others() {
    let keep = FakeKeep::gated();
    let (cache, _) = cache(&keep, 1 << 20);
    let locator = keep.add(vec![1; 1000], Answer::Right);
    let spawn = || {
        let (cache, locator) = (cache.clone(), locator.clone());
        tokio::spawn(async move { cache.get(&locator, &no_renewal()).await })
    };
    let (first, second) = (spawn(), spawn());
    until(|| cache.figures().misses == 2).await;
    first.abort();
    assert!(within(first).await.unwrap_err().is_cancelled());
    keep.gate.add_permits(1);
    within(second).await.unwrap().unwrap();
    assert_eq!(keep.fetches(), 1);
}

#[tokio::test]
async fn a_fetch_that_nobody_waits_for_is_abandoned_and_gives_its_memory_back() {
    let keep = FakeKeep::gated();
    let (cache, budget) = cache(&keep, 1 << 20);
    let locator = keep.add(vec![1; 1000], Answer::Right);
    for _ in 0..3 {
        assert!(timeout(Duration::from_millis(20), cache.get(&locator, &no_renewal())).await.is_err());
    }
    until(|| keep.running.load(Ordering::SeqCst) == 0 && budget.used() == 0).await;
    let figures = cache.figures();
    assert_eq!((figures.abandoned, figures.fetching, figures.fetching_bytes), (3, 0, 0));
    keep.gate.add_permits(1);
    within(cache.get(&locator, &no_renewal())).await.unwrap();
}

#[tokio::test]
async fn a_failed_fetch_reaches_all_who_wait_and_is_not_remembered() {
    let keep = FakeKeep::gated();
    let (cache, budget) = cache(&keep, 1 << 20);
    let locator = keep.add(vec![1; 1000], Answer::Missing);
    let readers: Vec<_> = (0..10)
        .map(|_| {
            let (cache, locator) = (cache.clone(), locator.clone());
            tokio::spawn(async move { cache.get(&locator, &no_renewal()).await })
        })
        .collect();
    until(|| cache.figures().misses == 10).await;
    keep.gate.add_permits(1);
    for reader in readers {
        let error = within(reader).await.unwrap().unwrap_err();
        assert!(error.is_not_found() && error.to_string().starts_with("Block not found error"), "{error}");
    }
    assert_eq!((keep.fetches(), budget.used(), cache.figures().failures), (1, 0, 1));
    keep.add(vec![1; 1000], Answer::Right);
    keep.gate.add_permits(1);
    within(cache.get(&locator, &no_renewal())).await.unwrap();
}

#[tokio::test]
async fn an_expired_signature_is_renewed_once_for_all_readers() {
    let keep = FakeKeep::open();
    let (cache, _) = cache(&keep, 1 << 20);
    let locator = keep.add(vec![1; 1000], Answer::Expired);
    let renewer = Renewer::new(true);
    let renew: Arc<dyn RenewLocator> = renewer.clone();
    let readers = (0..20).map(|_| cache.get(&locator, &renew));
    for outcome in within(futures_util::future::join_all(readers)).await {
        assert_eq!(outcome.unwrap().slice(0..10), vec![1; 10]);
    }
    assert_eq!((renewer.asked.load(Ordering::SeqCst), cache.figures().renewals, keep.fetches()), (1, 1, 2));
}

#[tokio::test]
async fn a_reader_with_a_living_collection_succeeds_where_one_with_a_deleted_one_fails() {
    let keep = FakeKeep::gated();
    let (cache, budget) = cache(&keep, 1 << 20);
    let locator = keep.add(vec![1; 1000], Answer::Expired);
    let (gone, living): (Arc<dyn RenewLocator>, Arc<dyn RenewLocator>) = (Renewer::new(false), Renewer::new(true));
    let first = cache.get(&locator, &gone);
    let second = async {
        sleep(Duration::from_millis(5)).await;
        cache.get(&locator, &living).await
    };
    keep.gate.add_permits(3);
    let (first, second) = within(futures_util::future::join(first, second)).await;
    assert!(first.unwrap_err().to_string().contains("the collection is gone"));
    drop(second.unwrap());
    assert_eq!(budget.used(), 1000 + OVERHEAD);
}

#[tokio::test]
async fn a_block_larger_than_all_memory_is_an_error_that_names_the_remedy() {
    let keep = FakeKeep::open();
    let (cache, _) = cache(&keep, 1000);
    let locator = keep.add(vec![1; 2000], Answer::Right);
    let error = within(cache.get(&locator, &no_renewal())).await.unwrap_err();
    assert!(error.to_string().contains("--memory-limit"), "{error}");
}

#[tokio::test]
async fn a_block_is_fetched_again_after_it_had_to_go() {
    let keep = FakeKeep::open();
    let (cache, budget) = cache(&keep, 3 * (1000 + OVERHEAD));
    let locators: Vec<_> = (0..6).map(|number| keep.add(vec![number; 1000], Answer::Right)).collect();
    for _ in 0..2 {
        for (number, locator) in (0..).zip(&locators) {
            let block = within(cache.get(locator, &no_renewal())).await.unwrap();
            assert_eq!(block.slice(0..1000), vec![number; 1000]);
        }
    }
    let figures = cache.figures();
    assert!(figures.refetches > 0 && figures.evictions >= 6, "{figures:?}");
    assert_eq!((figures.fetches, budget.highest() <= budget.capacity()), (keep.fetches() as u64, true));
}

#[tokio::test]
async fn readers_in_more_blocks_than_fit_take_turns_instead_of_fetching_for_every_read() {
    const SIZE: usize = 64 << 10;
    let keep = FakeKeep::open();
    let (cache, budget) = cache(&keep, 4 * (SIZE + OVERHEAD));
    let reader = |number: u8| {
        let locator = keep.add(vec![number; SIZE], Answer::Right);
        let cache = cache.clone();
        async move {
            for start in (0..SIZE).step_by(SIZE / 16) {
                let block = cache.get(&locator, &no_renewal()).await.unwrap();
                assert_eq!(block.slice(start..start + SIZE / 16), vec![number; SIZE / 16]);
                drop(block);
                sleep(Duration::from_millis(2)).await;
            }
        }
    };
    within(futures_util::future::join_all((0..16).map(reader))).await;
    assert!(keep.fetches() < 2 * 16, "{} fetches of 16 blocks", keep.fetches());
    assert!(budget.highest() <= budget.capacity());
}

#[tokio::test]
async fn a_slice_on_its_way_to_the_kernel_stays_charged_and_others_wait() {
    let keep = FakeKeep::open();
    let (cache, _) = cache(&keep, 1000 + OVERHEAD);
    let (one, two) = (keep.add(vec![1; 1000], Answer::Right), keep.add(vec![2; 1000], Answer::Right));
    let slice = within(cache.get(&one, &no_renewal())).await.unwrap().slice(0..1000);
    assert!(timeout(Duration::from_millis(100), cache.get(&two, &no_renewal())).await.is_err());
    drop(slice);
    within(cache.get(&two, &no_renewal())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hits_need_nobody_else() {
    let keep = FakeKeep::open();
    let (cache, _) = cache(&keep, 1 << 20);
    let locator = keep.add(vec![1; 1000], Answer::Right);
    let renew = no_renewal();
    within(cache.get(&locator, &renew)).await.unwrap();
    let start = std::time::Instant::now();
    for _ in 0..100_000 {
        cache.get(&locator, &renew).await.unwrap();
    }
    // A fiftieth of what it does on an idle machine in a release build, so that only an added wait fails it.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?} for 100,000 hits", start.elapsed());
    assert_eq!(cache.figures().hits, 100_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_budget_holds_whatever_is_read_and_every_read_gets_its_bytes(
        sizes in prop::collection::vec(1usize..5000, 1..12),
        reads in prop::collection::vec((any::<prop::sample::Index>(), 0usize..5000, 0u8..4), 1..120),
        room in 0usize..20_000,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        runtime.block_on(async {
            let keep = FakeKeep::open();
            let (cache, budget) = cache(&keep, 5000 + OVERHEAD + room);
            let blocks: Vec<_> = (0..).zip(&sizes).map(|(number, size)| keep.add(vec![number as u8; *size], Answer::Right)).collect();
            let reads = reads.into_iter().map(|(which, start, patience)| {
                let number = which.index(blocks.len());
                let (cache, locator, size) = (cache.clone(), blocks[number].clone(), sizes[number]);
                tokio::spawn(async move {
                    let renew = no_renewal();
                    let read = async { cache.get(&locator, &renew).await.unwrap().slice(start..size) };
                    // One in four gives up very soon.
                    let limit = if patience == 0 { Duration::from_micros(50) } else { Duration::from_secs(20) };
                    match timeout(limit, read).await {
                        Ok(slice) => assert_eq!(slice, vec![number as u8; size.saturating_sub(start)]),
                        Err(_) => assert_eq!(patience, 0, "hangs"),
                    }
                })
            });
            for read in reads.collect::<Vec<_>>() {
                read.await.unwrap();
            }
            assert!(budget.highest() <= budget.capacity());
            until(|| cache.figures().fetching == 0).await;
            let kept: usize = cache.figures().blocks as usize;
            assert!(budget.used() >= kept * OVERHEAD);
        });
    }
}
