//! Writing through the mount, against `arv-mount` 3.2.1 and a bound, on the same work in the same run.
//!
//! As in the benchmark for reading what counts are the ratios. What takes `arv-mount` minutes it does in a smaller
//! number, scaled. The bound is the local disk where data and names are concerned, the same bytes over plain HTTP for a
//! large file, and one request by the real SDK where the server sets the pace. Memory has a budget instead of a bound.
//!
//! `cargo bench --bench mount_writing [-- WORD]` runs the pieces whose name contains WORD. `ARVADOS_BENCH_SERVER=env` takes the
//! cluster of the environment (`scripts/bench-real`) and runs the pieces that are about the server's pace.
//! `ARVADOS_BENCH_APPENDS` is the number of one-byte appends (ten million is the full piece; default a million).

#[path = "../tests/support/mod.rs"]
mod support;

mod common;

use common::{heading, manifest, noise, report};
use std::fs::File;
use std::io::Write;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::{Cluster, Mount, arvados, client, number, succeed, succeed_with_input};

const ROUNDS: usize = 3;
const BLOCK: usize = 1 << 26;
const SMALL_FILES: usize = 2_000;
/// What `arv-mount` does of them: it needs 10 seconds for these.
const SMALL_FILES_THEIRS: usize = 60;
const APPENDS: usize = 400;
const APPENDS_THEIRS: usize = 100;
/// Budget for the pieces that measure memory.
const BUDGET_MIB: u64 = 256;

fn main() {
    let word = std::env::args().skip(1).find(|word| !word.starts_with('-')).unwrap_or_default();
    let site = Site::new();
    heading();
    let pieces: &[(&str, Piece)] = if site.cluster.is_some() { PIECES } else { REAL_PIECES };
    for (name, piece) in pieces.iter().filter(|(name, _)| name.contains(&word)) {
        piece(&site, name);
    }
}

type Piece = fn(&Site, &str);

const PIECES: &[(&str, Piece)] = &[
    ("2,000 new files of 4 KiB, --sync=close", |site, name| site.small_files(name, "close")),
    ("2,000 new files of 4 KiB, --sync=idle:2", |site, name| site.small_files(name, "idle:2")),
    ("untar of 2,000 files, --sync=close", |site, name| site.untar(name, "close")),
    ("untar of 2,000 files, --sync=idle:2", |site, name| site.untar(name, "idle:2")),
    ("one new file beside 100,000", Site::one_beside_many),
    ("400 appends with fsync", Site::appends),
    ("1 GiB, written and closed", Site::large_file),
    ("memory: 16 writers of 64 MiB", |site, name| site.memory(name, sixteen_writers)),
    ("memory: 4 KiB at random in 4 GiB", |site, name| site.memory(name, random_places)),
    ("memory: one-byte appends", |site, name| site.memory(name, tiny_appends)),
];

const REAL_PIECES: &[(&str, Piece)] = &[
    ("new files of 4 KiB, 1 writer", |site, name| site.writers(name, 1, "close")),
    ("new files of 4 KiB, 16 writers", |site, name| site.writers(name, 16, "close")),
    ("new files of 4 KiB, 64 writers", |site, name| site.writers(name, 64, "close")),
    ("new files of 4 KiB, 1 writer, --sync=idle:5", |site, name| site.writers(name, 1, "idle:5")),
];

/// Where the work is done.
struct Site {
    /// None: the cluster of the environment.
    cluster: Option<Cluster>,
    environment: Vec<(String, String)>,
    scratch: tempfile::TempDir,
}

/// A mount with a folder in which it keeps what is its own.
struct Place {
    mount: Mount,
    _own: tempfile::TempDir,
}

impl Place {
    fn collection(&self, uuid: &str) -> PathBuf {
        self.mount.path().join("by_id").join(uuid)
    }
}

impl Site {
    fn new() -> Site {
        let cluster = std::env::var_os("ARVADOS_BENCH_SERVER").is_none().then(Cluster::start);
        let environment = cluster.as_ref().map(|cluster| cluster.environment(None)).unwrap_or_default();
        Site { cluster, environment, scratch: tempfile::tempdir().unwrap() }
    }

    fn mount(&self, mut command: Command, options: &[&str]) -> Place {
        let own = tempfile::tempdir().unwrap();
        command.args(["--foreground", "--read-write", "--mount-by-id=by_id"]).args(options);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env("XDG_CACHE_HOME", own.path()).env("XDG_STATE_HOME", own.path());
        Place { mount: Mount::start(command), _own: own }
    }

    fn ours(&self, options: &[&str]) -> Place {
        let mut command = arvados();
        command.arg("mount");
        self.mount(command, options)
    }

    fn theirs(&self) -> Place {
        self.mount(client("arv-mount"), &[])
    }

    fn python(&self, script: &str, arguments: &[&str], input: &str) -> String {
        let mut command = client("python");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        succeed_with_input(command.args(["-c", script]).args(arguments), input.as_bytes()).trim().to_owned()
    }

    /// A collection with this manifest.
    fn collection(&self, manifest: &str) -> String {
        const CREATE: &str = "import arvados, sys; print(arvados.api('v1').collections().create(
            body={'collection': {'manifest_text': sys.stdin.read()}}).execute()['uuid'])";
        self.python(CREATE, &[], manifest)
    }

    fn local(&self) -> PathBuf {
        let folder = tempfile::tempdir_in(self.scratch.path()).unwrap().keep();
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// Does the same at the three places, each in a new collection; `work` gets a folder and how many to do.
    fn compare(&self, name: &str, mode: &str, counts: (usize, usize), work: impl Fn(&Path, usize)) {
        let (mut ours, mut theirs, mut bound) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let place = self.ours(&[&format!("--sync={mode}")]);
            let (folder, local) = (place.collection(&self.collection("")), self.local());
            ours.push(timed(|| work(&folder, counts.0)));
            bound.push(timed(|| work(&local, counts.0)));
        }
        let place = self.theirs();
        let folder = place.collection(&self.collection(""));
        let time = timed(|| work(&folder, counts.1));
        theirs.push(time.mul_f64(counts.0 as f64 / counts.1 as f64));
        report(name, ours, theirs, bound);
    }

    fn small_files(&self, name: &str, mode: &str) {
        self.compare(name, mode, (SMALL_FILES, SMALL_FILES_THEIRS), |folder, count| {
            (0..count).for_each(|number| save(&folder.join(format!("file{number}")), &noise(4096)));
        });
    }

    fn untar(&self, name: &str, mode: &str) {
        let source = self.local();
        for number in 0..SMALL_FILES {
            let folder = source.join(format!("folder{}", number / 100));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(format!("file{number}")), noise(4096)).unwrap();
        }
        let archive = |folders: usize| {
            let path = self.scratch.path().join(format!("{folders}.tar"));
            let names = (0..folders).map(|number| format!("folder{number}"));
            succeed(Command::new("tar").arg("cf").arg(&path).arg("-C").arg(&source).args(names));
            path
        };
        let (whole, part) = (archive(SMALL_FILES / 100), archive(1));
        self.compare(name, mode, (SMALL_FILES, 100), |folder, count| {
            let archive = if count == SMALL_FILES { &whole } else { &part };
            succeed(Command::new("tar").arg("xf").arg(archive).arg("-C").arg(folder));
        });
    }

    /// The bound is one request by which the real SDK adds a file.
    fn one_beside_many(&self, name: &str) {
        const ADD: &str = "import arvados, sys, time; api = arvados.api('v1'); start = time.monotonic()
api.collections().update(uuid=sys.argv[1], body={'collection': {'manifest_text': '. d41d8cd98f00b204e9800998ecf8427e+0 0:0:x\\n'},
    'replace_files': {'/' + sys.argv[2]: 'manifest_text/x'}, 'select': ['uuid']}).execute(); print(time.monotonic() - start)";
        let text = manifest(100, 1_000);
        // The bound is measured on one that the mounts do not have, or they would merge what it adds.
        let [many, others] = [self.collection(&text), self.collection(&text)];
        let (mut ours, mut theirs, mut bound) = (Vec::new(), Vec::new(), Vec::new());
        let add = |place: &Place, name: &str| {
            let folder = place.collection(&many);
            assert!(std::fs::read_dir(&folder).unwrap().count() >= 100);
            timed(|| save(&folder.join(name), b"x"))
        };
        let place = self.ours(&[]);
        for round in 0..ROUNDS {
            ours.push(add(&place, &format!("ours{round}")));
            let seconds = self.python(ADD, &[&others, &format!("sdk{round}")], "");
            bound.push(Duration::from_secs_f64(seconds.parse().unwrap()));
        }
        drop(place);
        theirs.push(add(&self.theirs(), "theirs"));
        report(name, ours, theirs, bound);
    }

    fn appends(&self, name: &str) {
        self.compare(name, "close", (APPENDS, APPENDS_THEIRS), |folder, count| {
            let mut file = File::options().append(true).create(true).open(folder.join("log")).unwrap();
            for number in 0..count {
                file.write_all(format!("line {number} of a log\n").as_bytes()).unwrap();
                file.sync_all().unwrap();
            }
            close(file);
        });
    }

    /// The bound is the same blocks, put over one kept-alive connection.
    fn large_file(&self, name: &str) {
        const BLOCKS: usize = 16;
        let data: Vec<Vec<u8>> = (0..BLOCKS).map(|_| noise(BLOCK)).collect();
        let write = |folder: PathBuf| {
            timed(|| {
                let mut file = File::create(folder.join("large")).unwrap();
                data.iter().flat_map(|block| block.chunks(1 << 20)).for_each(|piece| file.write_all(piece).unwrap());
                close(file);
            })
        };
        let (mut ours, mut theirs, mut bound) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let place = self.ours(&[]);
            ours.push(write(place.collection(&self.collection(""))));
            drop(place);
            let place = self.theirs();
            theirs.push(write(place.collection(&self.collection(""))));
            drop(place);
            bound.push(Duration::from_secs_f64(self.python(RAW_PUT, &[], "").parse().unwrap()));
        }
        report(name, ours, theirs, bound);
    }

    /// Peak memory with a budget; the work's own result is checked by closing.
    fn memory(&self, name: &str, work: fn(&Path)) {
        let place = self.ours(&[&format!("--memory-limit={BUDGET_MIB}M")]);
        let folder = place.collection(&self.collection(""));
        let time = timed(|| work(&folder));
        let status = std::fs::read_to_string(format!("/proc/{}/status", place.mount.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak = line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10;
        let verdict = if peak <= BUDGET_MIB { "within" } else { "OVER" };
        println!("{name:44} {:>9.2}s   peak {peak} MiB, {verdict} the limit of {BUDGET_MIB} MiB", time.as_secs_f64());
    }

    /// Many writers, on a server whose pace counts. The bound is a file of each writer in the time of one request for one file, as if
    /// all closes of a moment shared one request.
    fn writers(&self, name: &str, writers: usize, mode: &str) {
        const TIME: Duration = Duration::from_secs(10);
        let data = noise(4096);
        let rate = |place: &Place, uuid: &str| {
            let folder = place.collection(uuid);
            assert!(std::fs::read_dir(&folder).unwrap().count() == 0);
            let start = Instant::now();
            let files: usize = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..writers)
                    .map(|writer| {
                        let (folder, data) = (&folder, &data);
                        scope.spawn(move || {
                            let mut made = 0;
                            while start.elapsed() < TIME {
                                save(&folder.join(format!("w{writer}-{made}")), data);
                                made += 1;
                            }
                            made
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            files as f64 / start.elapsed().as_secs_f64()
        };
        let (own, other) = (self.collection(""), self.collection(""));
        let request = |uuid: &str| self.python(ONE_REQUEST, &[uuid], "").parse::<f64>().unwrap();
        let at_first = request(&self.collection(""));
        let place = self.ours(&[&format!("--sync={mode}")]);
        let ours = rate(&place, &own);
        drop(place);
        let place = self.theirs();
        let theirs = rate(&place, &other);
        drop(place);
        let stored = [&own, &other].map(|uuid| self.python(VERSIONS, &[uuid], ""));
        // A request takes longer the more files there are: between what it takes at first and in the end.
        let bound = writers as f64 / ((at_first + request(&own)) / 2.0);
        println!(
            "{name:44} {ours:>8.1}/s {theirs:>8.1}/s {bound:>8.1}/s {:>11.1}× {:>10.2}   versions {} and {}",
            ours / theirs,
            ours / bound,
            stored[0],
            stored[1]
        );
    }
}

const VERSIONS: &str = "import arvados, sys; print(len(arvados.api('v1').collections().list(
    filters=[['current_version_uuid', '=', sys.argv[1]]], include_old_versions=True, select=['uuid'], limit=1000).execute()['items']))";

/// Prints the seconds of one `replace_files` request on a collection.
const ONE_REQUEST: &str = "import arvados, sys, time
api = arvados.api('v1')
uuid = sys.argv[1]
times = []
for number in range(20):
    start = time.monotonic()
    api.collections().update(uuid=uuid, body={'collection': {'manifest_text': '. d41d8cd98f00b204e9800998ecf8427e+0 0:0:x\\n'},
        'replace_files': {'/f%d' % number: 'manifest_text/x'}, 'select': ['uuid']}).execute()
    times.append(time.monotonic() - start)
print(sorted(times)[10])";

/// Prints the seconds that 16 blocks of 64 MiB take over one connection.
const RAW_PUT: &str = r"
import arvados, hashlib, os, socket, time
api = arvados.api('v1')
service = api.keep_services().accessible().execute()['items'][0]
block = bytearray(os.urandom(1 << 26))
blocks = []
for number in range(16):
    block[:8] = os.urandom(8)
    blocks.append((hashlib.md5(block).hexdigest(), bytes(block[:8])))
peer = socket.create_connection((service['service_host'], service['service_port']))
start = time.monotonic()
for hash, begin in blocks:
    block[:8] = begin
    head = f'PUT /{hash} HTTP/1.1\r\nHost: keep\r\nAuthorization: Bearer {api.api_token}\r\nContent-Length: {len(block)}\r\n\r\n'
    peer.sendall(head.encode())
    peer.sendall(block)
    answer = b''
    while b'\r\n\r\n' not in answer:
        answer += peer.recv(4096)
    assert answer.startswith(b'HTTP/1.1 200'), answer
    head, rest = answer.split(b'\r\n\r\n', 1)
    length = int([line.split(b':')[1] for line in head.split(b'\r\n') if line.lower().startswith(b'content-length')][0])
    while len(rest) < length:
        rest += peer.recv(4096)
print(time.monotonic() - start)
";

fn sixteen_writers(folder: &Path) {
    std::thread::scope(|scope| {
        for writer in 0..16 {
            scope.spawn(move || {
                let mut file = File::create(folder.join(format!("file{writer}"))).unwrap();
                for _ in 0..64 {
                    file.write_all(&noise(1 << 20)).unwrap();
                }
                close(file);
            });
        }
    });
}

fn random_places(folder: &Path) {
    const PAGES: u64 = (4 << 30) / 4096;
    let file = File::create(folder.join("sparse")).unwrap();
    file.set_len(4 << 30).unwrap();
    let mut state = 1u64;
    for _ in 0..50_000 {
        // An odd multiplier visits the places without order, and the same ones in every run.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        file.write_all_at(&noise(4096), (state >> 33) % PAGES * 4096).unwrap();
    }
    close(file);
}

fn tiny_appends(folder: &Path) {
    let mut file = File::options().append(true).create(true).open(folder.join("log")).unwrap();
    for count in 0..number("ARVADOS_BENCH_APPENDS").unwrap_or(1_000_000) {
        file.write_all(&[count as u8]).unwrap();
    }
    close(file);
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn save(path: &Path, data: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(data).unwrap();
    close(file);
}

/// Closes with its error, which dropping would swallow.
fn close(file: File) {
    // SAFETY: the descriptor is ours and nobody uses it afterwards.
    let result = unsafe { libc::close(file.into_raw_fd()) };
    assert_eq!(result, 0, "close: {}", std::io::Error::last_os_error());
}
