//! Statistics lines on stderr, in the form that `crunchstat-summary` reads (arv-mount.md section 5).

use crate::cache::BlockCache;
use crate::fuse::statistics::{Operation, Statistics};
use crate::remote::keep::HttpKeep;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// All counters at one moment.
struct Sample {
    cache: crate::cache::Figures,
    bytes_read: u64,
    bytes_written: u64,
    operations: [(u64, Duration); Operation::ALL.len()],
    puts: u64,
    sent_bytes: u64,
}

impl Sample {
    fn take(statistics: &Statistics, cache: &BlockCache, keep: &HttpKeep) -> Sample {
        let traffic = keep.traffic();
        Sample {
            puts: traffic.puts.load(Ordering::Relaxed),
            sent_bytes: traffic.sent_bytes.load(Ordering::Relaxed),
            cache: cache.figures(),
            bytes_read: statistics.bytes_read(),
            bytes_written: statistics.bytes_written(),
            operations: Operation::ALL.map(|(operation, _)| statistics.operation(operation)),
        }
    }
}

/// Writes the lines every `interval`, for ever.
pub async fn run(interval: Duration, statistics: Arc<Statistics>, cache: BlockCache, keep: Arc<HttpKeep>) {
    let mut before = Sample::take(&statistics, &cache, &keep);
    loop {
        tokio::time::sleep(interval).await;
        let now = Sample::take(&statistics, &cache, &keep);
        // One write for all lines, so that those of other threads do not get in between. A closed stderr is nobody's fault.
        let _ = std::io::stderr().lock().write_all(lines(&now, &before, interval).as_bytes());
        before = now;
    }
}

fn lines(now: &Sample, before: &Sample, interval: Duration) -> String {
    let mut text = String::new();
    let interval = format!("-- interval {:.4} seconds", interval.as_secs_f64());
    let mut line = |word: &str, one: (u64, u64, &str), two: (u64, u64, &str)| {
        text.push_str(&format!(
            "crunchstat: {word} {} {} {} {} {interval} {} {} {} {}\n",
            one.0,
            one.2,
            two.0,
            two.2,
            one.0 - one.1,
            one.2,
            two.0 - two.1,
            two.2
        ));
    };
    let (cache, old) = (&now.cache, &before.cache);
    let (calls, old_calls) = (cache.hits + cache.misses, old.hits + old.misses);
    let operation = |sample: &Sample, operation: Operation| sample.operations[operation as usize].0;
    line("keepcalls", (now.puts, before.puts, "put"), (calls, old_calls, "get"));
    line("net:keep0", (now.sent_bytes, before.sent_bytes, "tx"), (cache.fetched_bytes, old.fetched_bytes, "rx"));
    line("keepcache", (cache.hits, old.hits, "hit"), (cache.misses, old.misses, "miss"));
    line("blkio:0:0", (now.bytes_written, before.bytes_written, "write"), (now.bytes_read, before.bytes_read, "read"));
    line(
        "fuseops",
        (operation(now, Operation::Write), operation(before, Operation::Write), "write"),
        (operation(now, Operation::Read), operation(before, Operation::Read), "read"),
    );
    for (index, (_, name)) in Operation::ALL.iter().enumerate() {
        let ((count, time), (old_count, old_time)) = (now.operations[index], before.operations[index]);
        text.push_str(&format!(
            "crunchstat: fuseop:{name} {count} count {:.6} time {interval} {} count {:.6} time\n",
            time.as_secs_f64(),
            count - old_count,
            time.saturating_sub(old_time).as_secs_f64()
        ));
    }
    text
}
