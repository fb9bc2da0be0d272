//! The mount against `arv-mount` 3.2.1 and against the physical bound, on the same work in the same run.
//!
//! Each line is one piece of work, done by each contestant in turn, several rounds; what is printed is the median time of
//! each and two ratios: how many times faster than `arv-mount`, and which part of the bound is reached. The bound is what
//! the machine could do without any file system in between: the same blocks over plain HTTP for cold reads, the same tree
//! on the local disk for everything that is answered from memory. Absolute times are worth little on a shared machine.
//!
//! `cargo bench --bench mount [-- WORD]` runs the pieces whose name contains WORD. It needs `make python` once.

#[path = "../tests/support/mod.rs"]
mod support;

mod common;

use common::{heading, manifest, noise, report};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::{Cluster, Mount, succeed};

/// Rounds of each piece; the slow ones of `arv-mount` get [`SLOW_ROUNDS`].
const ROUNDS: usize = 3;
const SLOW_ROUNDS: usize = 1;

/// Keep's block size, 2^26 bytes.
const BLOCK: usize = 1 << 26;

/// 16 blocks: more than `arv-mount` holds in memory by default, less than its disk cache.
const LARGE_FILE_BLOCKS: usize = 16;

const SMALL_FILES: usize = 2_000;
const MANY_FILES: usize = 100_000;
const MANY_FOLDERS: usize = 100;

fn main() {
    let word = std::env::args().skip(1).find(|word| !word.starts_with('-')).unwrap_or_default();
    let bench = Bench::prepare();
    heading();
    for (name, piece) in PIECES {
        if name.contains(&word) {
            piece(&bench, name);
        }
    }
}

type Piece = fn(&Bench, &str);

const PIECES: &[(&str, Piece)] = &[
    ("cold read of 1 GiB, 1 reader", |bench, name| bench.read_large(name, 1, Cache::Cold)),
    ("cold read of 1 GiB, 16 readers", |bench, name| bench.read_large(name, 16, Cache::Cold)),
    ("second read of 1 GiB, 1 reader", |bench, name| bench.read_large(name, 1, Cache::Warm)),
    ("second read of 1 GiB, 16 readers", |bench, name| bench.read_large(name, 16, Cache::Warm)),
    ("2,000 files of 4 KiB, 1 reader", |bench, name| bench.read_small(name, 1)),
    ("2,000 files of 4 KiB, 16 readers", |bench, name| bench.read_small(name, 16)),
    ("mount, ls of 100,000 files", |bench, name| bench.list(name, &bench.flat, "ls -f MNT | wc -l")),
    ("mount, ls -l of 100,000 files", |bench, name| bench.list(name, &bench.flat, "ls -l MNT | wc -l")),
    ("mount, find of 100,000 files in 100 folders", |bench, name| bench.list(name, &bench.nested, "find MNT | wc -l")),
];

#[derive(Clone, Copy, PartialEq)]
enum Cache {
    Cold,
    Warm,
}

/// The data: on the cluster as collections, and the same as local files for the bound.
struct Bench {
    cluster: Cluster,
    local: tempfile::TempDir,
    large: String,
    small: String,
    flat: String,
    nested: String,
}

impl Bench {
    fn prepare() -> Bench {
        let cluster = Cluster::start();
        let local = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let path = local.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let (large, small) = (folder("large"), folder("small"));
        std::fs::write(large.join("file"), noise(LARGE_FILE_BLOCKS * BLOCK)).unwrap();
        for number in 0..SMALL_FILES {
            std::fs::write(small.join(format!("file{number:05}")), noise(4096)).unwrap();
        }
        let (large, small) = (put(&cluster, &large), put(&cluster, &small));
        let flat = create(&cluster, &manifest(1, MANY_FILES));
        let nested = create(&cluster, &manifest(MANY_FOLDERS, MANY_FILES / MANY_FOLDERS));
        for (name, folders) in [("flat", 1), ("nested", MANY_FOLDERS)] {
            for number in 0..folders {
                let folder = local.path().join(name).join(format!("d{number}"));
                std::fs::create_dir_all(&folder).unwrap();
                for file in 0..MANY_FILES / folders {
                    std::fs::File::create(folder.join(format!("f{file:06}"))).unwrap();
                }
            }
        }
        Bench { cluster, local, large, small, flat, nested }
    }

    fn ours(&self, collection: &str) -> Mount {
        self.cluster.mount(&["--collection", collection])
    }

    /// `arv-mount` with a disk cache that nobody has used: what a container gets on a fresh node.
    fn theirs(&self, collection: &str) -> (Mount, tempfile::TempDir) {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().to_str().unwrap();
        (self.cluster.arv_mount(&["--disk-cache-dir", folder, "--collection", collection]), cache)
    }

    fn read_large(&self, name: &str, readers: usize, cache: Cache) {
        let (mut ours, mut theirs, mut bound) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(timed_reads(&self.ours(&self.large).path(), readers, cache));
            theirs.push(timed_reads(&self.theirs(&self.large).0.path(), readers, cache));
            bound.push(match cache {
                Cache::Cold => self.raw_http(),
                Cache::Warm => timed_reads(&self.local.path().join("large"), readers, cache),
            });
        }
        report(name, ours, theirs, bound);
    }

    fn read_small(&self, name: &str, readers: usize) {
        let (mut ours, mut theirs, mut bound) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(timed_reads(&self.ours(&self.small).path(), readers, Cache::Cold));
            theirs.push(timed_reads(&self.theirs(&self.small).0.path(), readers, Cache::Cold));
            bound.push(timed_reads(&self.local.path().join("small"), readers, Cache::Warm));
        }
        report(name, ours, theirs, bound);
    }

    /// From the start of the mount to the end of the command.
    fn list(&self, name: &str, collection: &str, command: &str) {
        let shell = |path: &Path| {
            let line = command.replace("MNT", &format!("{}/d*", path.display()));
            let output = Command::new("bash").args(["-c", &line]).output().unwrap();
            let lines: usize = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
            assert!(lines >= MANY_FILES, "{lines} lines of {line}");
        };
        let (mut ours, mut theirs, mut bound) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let start = Instant::now();
            let mount = self.ours(collection);
            shell(&mount.path());
            ours.push(start.elapsed());
            if round < SLOW_ROUNDS {
                let start = Instant::now();
                let (mount, _cache) = self.theirs(collection);
                shell(&mount.path());
                theirs.push(start.elapsed());
            }
            let start = Instant::now();
            shell(&self.local.path().join(if collection == self.flat { "flat" } else { "nested" }));
            bound.push(start.elapsed());
        }
        report(name, ours, theirs, bound);
    }

    /// The large file's blocks, one after the other, over plain HTTP and nothing else.
    fn raw_http(&self) -> Duration {
        let mut command = self.cluster.client("python");
        let output = succeed(command.args(["-c", RAW_HTTP]).arg(&self.large));
        Duration::from_secs_f64(output.trim().parse().unwrap())
    }
}

/// Prints the seconds that the blocks of a collection take over one kept-alive connection with `recv_into`.
const RAW_HTTP: &str = r"
import arvados, re, socket, sys, time
api = arvados.api('v1')
service = api.keep_services().accessible().execute()['items'][0]
text = api.collections().get(uuid=sys.argv[1]).execute()['manifest_text']
locators = re.findall(r'[0-9a-f]{32}\+\d+\+A\S+', text)
peer = socket.create_connection((service['service_host'], service['service_port']))
buffer = memoryview(bytearray(1 << 20))
start = time.monotonic()
for locator in locators:
    request = f'GET /{locator} HTTP/1.1\r\nHost: keep\r\nAuthorization: Bearer {api.api_token}\r\n\r\n'
    peer.sendall(request.encode())
    head = b''
    while b'\r\n\r\n' not in head:
        head += peer.recv(4096)
    assert head.startswith(b'HTTP/1.1 200'), head
    left = int(locator.split('+')[1]) - len(head.split(b'\r\n\r\n', 1)[1])
    while left:
        left -= peer.recv_into(buffer[:min(left, len(buffer))])
print(time.monotonic() - start)
";

/// Reads every file below `folder` from start to end, `readers` at once, each all of them.
fn timed_reads(folder: &Path, readers: usize, cache: Cache) -> Duration {
    if cache == Cache::Warm {
        read_all(folder);
    }
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..readers {
            scope.spawn(|| read_all(folder));
        }
    });
    start.elapsed()
}

fn read_all(folder: &Path) {
    use std::io::Read;
    let mut buffer = vec![0; 1 << 20];
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            read_all(&path);
            continue;
        }
        let mut file = std::fs::File::open(&path).unwrap();
        while file.read(&mut buffer).unwrap() > 0 {}
    }
}

fn put(cluster: &Cluster, folder: &Path) -> String {
    let mut command = cluster.client("arv-put");
    command.args(["--no-progress", "--no-cache", "--batch"]).arg(format!("{}/", folder.display()));
    succeed(&mut command).trim().to_owned()
}

/// A collection with this manifest, made by the real SDK.
fn create(cluster: &Cluster, manifest: &str) -> String {
    const CREATE: &str = "import arvados, sys; print(arvados.api('v1').collections().create(
        body={'collection': {'manifest_text': sys.stdin.read()}}).execute()['uuid'])";
    let mut command = cluster.client("python");
    support::succeed_with_input(command.args(["-c", CREATE]), manifest.as_bytes()).trim().to_owned()
}
