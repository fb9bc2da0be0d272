//! The mount against a plain directory: the same random operations on both, compared after every step, with the mount
//! taken down (and killed, in the modes that promise to keep what was closed) in between.
//!
//! `ARVADOS_MODEL_STEPS` is the number of steps of each campaign (default: as many as 20 seconds hold), `ARVADOS_MODEL_SEED`
//! repeats one. What POSIX leaves open is not compared: times, the mode, the order of names, `EEXIST` for `ENOTEMPTY`.
//! What stands on the server after a clean unmount is compared with the plain directory as well, read past every mount.

mod mount_support;
mod support;

use mount_support::Client;
use mount_support::files::{Mapping, close, errno, make_node, open, rename_with, truncate};
use mount_support::writer::{Writer, is_ours};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::random::Random;
use support::{Cluster, number};

/// Names that meet often, some of them escaped in manifests.
const NAMES: [&str; 7] = ["a", "b", "c", "d e", "f:g", "back\\slash", "ü"];
/// Open files at a time.
const HANDLES: usize = 6;
/// Files larger than this are compared in samples, and on the server by size.
const SMALL: u64 = 2 << 20;
/// How long a campaign without a number of steps lasts.
const TIME: Duration = Duration::from_secs(20);
/// A campaign that made fewer steps has shown nothing.
const FEWEST: u64 = 150;

struct Pair {
    what: String,
    mounted: File,
    plain: File,
    flags: i32,
}

/// What stands under a path.
#[derive(Debug, PartialEq)]
enum Kind {
    Directory,
    File(u64),
}

struct Model {
    random: Random,
    writer: Writer,
    client: Client,
    uuid: String,
    mounted: PathBuf,
    plain: tempfile::TempDir,
    handles: Vec<Pair>,
    trace: VecDeque<String>,
    steps: u64,
    kills: bool,
    remounts: u64,
    _cluster: Cluster,
}

impl Drop for Model {
    fn drop(&mut self) {
        self.handles.clear();
        if std::thread::panicking() {
            eprintln!("the last of {} steps:", self.steps);
            self.trace.iter().for_each(|line| eprintln!("  {line}"));
        }
    }
}

fn campaign(mode: &str, kills: bool) {
    let seed = Random::seed("ARVADOS_MODEL_SEED");
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let uuid = client.collection("model", None, String::new()).uuid;
    let steps = number("ARVADOS_MODEL_STEPS");
    let hanging = if steps.is_some() { Duration::from_secs(24 * 3600) } else { TIME * 8 };
    let options = [&format!("--sync={mode}"), "--memory-limit=128M"];
    let writer = Writer::start_for(&cluster, &options, hanging);
    let mounted = writer.collection(&uuid);
    let mut model = Model {
        random: Random::new(seed),
        mounted,
        writer,
        client,
        uuid,
        plain: tempfile::tempdir().unwrap(),
        handles: Vec::new(),
        trace: VecDeque::new(),
        steps: 0,
        kills: kills && is_ours(),
        remounts: 0,
        _cluster: cluster,
    };
    let start = Instant::now();
    while steps.map_or_else(|| start.elapsed() < TIME, |steps| model.steps < steps) {
        model.step();
        model.compare_trees();
        if model.steps.is_multiple_of(40) {
            model.compare_contents();
        }
        if model.random.once_in(90) {
            model.remount();
        }
    }
    model.remount();
    println!("{} steps, {} remounts, {:?}", model.steps, model.remounts, start.elapsed());
    assert!(steps.is_some() || model.steps >= FEWEST, "only {} steps: this proves nothing", model.steps);
}

#[test]
fn mount_that_saves_at_close_behaves_like_a_directory() {
    campaign("close", true);
}

#[test]
fn mount_that_saves_at_fsync_behaves_like_a_directory() {
    campaign("fsync", false);
}

#[test]
fn mount_that_saves_when_idle_behaves_like_a_directory() {
    campaign("idle:1", true);
}

/// Errors as numbers, which can be compared.
fn plain_error<T>(result: io::Result<T>) -> Result<T, i32> {
    result.map_err(|error| error.raw_os_error().unwrap_or(-1))
}

impl Model {
    fn note(&mut self, what: String) {
        if self.trace.len() == 60 {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{}: {what}", self.steps));
    }

    fn path(&mut self) -> String {
        let depth = 1 + self.random.below(3);
        let names: Vec<&str> = (0..depth).map(|_| *self.random.choose(&NAMES)).collect();
        names.join("/")
    }

    /// A path at which there is something, mostly.
    fn likely_path(&mut self) -> String {
        let paths: Vec<String> = tree(self.plain.path()).into_keys().collect();
        if paths.is_empty() || self.random.once_in(5) { self.path() } else { self.random.choose(&paths).clone() }
    }

    /// The same on both sides; the outcomes must be the same.
    fn both<T: PartialEq + Debug>(&mut self, what: String, operation: impl Fn(&Path) -> io::Result<T>) {
        self.note(what.clone());
        let wanted = plain_error(operation(self.plain.path()));
        let got = plain_error(operation(&self.mounted));
        if let Err(number) = wanted {
            self.note(format!("  is error {number}"));
        }
        let taken = [Err(libc::EEXIST), Err(libc::ENOTEMPTY)];
        let alike = got == wanted || taken.contains(&got) && taken.contains(&wanted);
        assert!(alike, "{what}: the mount says {got:?}, the directory {wanted:?}");
    }

    /// The same through both handles.
    fn handles<T: PartialEq + Debug>(&mut self, what: &str, operation: impl Fn(&File) -> io::Result<T>) {
        if self.handles.is_empty() {
            return;
        }
        let at = self.random.below(self.handles.len() as u64) as usize;
        let what = format!("{what} on {}", self.handles[at].what);
        self.note(what.clone());
        let wanted = plain_error(operation(&self.handles[at].plain));
        let got = plain_error(operation(&self.handles[at].mounted));
        assert!(got == wanted, "{what}: the mount says {}, the directory {}", short(&got), short(&wanted));
    }

    fn offset(&mut self) -> u64 {
        match self.random.below(20) {
            0 => self.random.below(80 << 20),
            1..4 => self.random.below(400_000),
            _ => self.random.below(9_000),
        }
    }

    fn length(&mut self) -> usize {
        (match self.random.below(12) {
            0 => self.random.below(300_000),
            1..4 => self.random.below(10_000),
            _ => self.random.below(100),
        }) as usize
    }

    fn step(&mut self) {
        self.steps += 1;
        match self.random.below(100) {
            0..16 => self.open(),
            16..34 => {
                let (offset, length) = (self.offset(), self.length());
                let data = self.random.bytes(length);
                self.handles(&format!("write {length} at {offset}"), |file| file.write_at(&data, offset));
            }
            34..40 => {
                let length = self.length();
                let data = self.random.bytes(length);
                self.handles(&format!("write {length}"), |mut file| io::Write::write(&mut file, &data));
            }
            40..48 => {
                let (offset, length) = (self.offset(), self.length() * 3);
                self.handles(&format!("read {length} at {offset}"), |file| {
                    let mut data = vec![0; length];
                    let mut count = 0;
                    while count < length {
                        match file.read_at(&mut data[count..], offset + count as u64)? {
                            0 => break,
                            read => count += read,
                        }
                    }
                    data.truncate(count);
                    Ok(data)
                });
            }
            48..53 => {
                let size = self.offset();
                self.handles(&format!("set length {size}"), |file| file.set_len(size));
            }
            53..57 => self.handles("fsync", File::sync_all),
            57..60 => self.handles("fstat", |file| file.metadata().map(|metadata| metadata.len())),
            60..63 => self.map(),
            63..73 => self.close(),
            73..79 => {
                let path = self.path();
                self.both(format!("mkdir {path}"), |root| fs::create_dir(root.join(&path)));
            }
            79..82 => {
                let path = self.likely_path();
                self.both(format!("rmdir {path}"), |root| fs::remove_dir(root.join(&path)));
            }
            82..87 => {
                let path = self.likely_path();
                self.both(format!("unlink {path}"), |root| fs::remove_file(root.join(&path)));
            }
            87..94 => {
                let (from, to) =
                    (self.likely_path(), if self.random.once_in(3) { self.likely_path() } else { self.path() });
                let flags = if self.random.once_in(5) { libc::RENAME_NOREPLACE } else { 0 };
                self.both(format!("rename {from} to {to} ({flags})"), |root| {
                    rename_with(&root.join(&from), &root.join(&to), flags)
                });
            }
            94..97 => {
                let (path, size) = (self.likely_path(), self.offset());
                self.both(format!("truncate {path} to {size}"), |root| truncate(&root.join(&path), size as i64));
            }
            97..99 => {
                let path = self.path();
                self.both(format!("mknod {path}"), |root| make_node(&root.join(&path)));
            }
            _ => {
                let path = self.likely_path();
                self.both(format!("fsync of {path}"), |root| File::open(root.join(&path))?.sync_all());
            }
        }
    }

    fn open(&mut self) {
        if self.handles.len() == HANDLES {
            self.close();
        }
        let path = if self.random.once_in(2) { self.likely_path() } else { self.path() };
        let mut flags = *self.random.choose(&[libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR, libc::O_RDWR]);
        if flags != libc::O_RDONLY {
            flags |= if self.random.once_in(2) { libc::O_CREAT } else { 0 };
            flags |= if self.random.once_in(4) { libc::O_TRUNC } else { 0 };
            flags |= if self.random.once_in(4) { libc::O_APPEND } else { 0 };
            flags |= if flags & libc::O_CREAT != 0 && self.random.once_in(4) { libc::O_EXCL } else { 0 };
        }
        let what = format!("open {path} ({flags:#o})");
        self.note(what.clone());
        match (open(&self.mounted.join(&path), flags), open(&self.plain.path().join(&path), flags)) {
            (Ok(mounted), Ok(plain)) => {
                // A folder can be opened to read, but the rest is for files.
                if plain.metadata().unwrap().is_file() {
                    self.handles.push(Pair { what: format!("handle {} of {path}", self.steps), mounted, plain, flags });
                }
            }
            (mounted, plain) => {
                assert_eq!(errno(mounted), errno(plain), "{what}: the mount, then the directory");
            }
        }
    }

    fn close(&mut self) {
        if self.handles.is_empty() {
            return;
        }
        let at = self.random.below(self.handles.len() as u64) as usize;
        self.close_one(at);
    }

    fn close_one(&mut self, at: usize) {
        let pair = self.handles.swap_remove(at);
        self.note(format!("close {}", pair.what));
        close(pair.plain).unwrap();
        let closed = close(pair.mounted);
        assert!(closed.is_ok(), "close {}: {closed:?}", pair.what);
    }

    fn map(&mut self) {
        let usable = |pair: &&Pair| pair.flags & libc::O_ACCMODE == libc::O_RDWR;
        let Some(pair) = self.handles.iter().find(usable) else { return };
        let length = pair.plain.metadata().unwrap().len().min(60_000) as usize;
        if length == 0 {
            return;
        }
        let at = self.random.below(length as u64) as usize;
        let count = (length - at).min(5_000);
        let data = self.random.bytes(count);
        let write = |file: &File| {
            let mut mapping = Mapping::new(file, length)?;
            mapping.bytes()[at..at + data.len()].copy_from_slice(&data);
            mapping.synchronise()
        };
        let (plain, mounted) = (write(&pair.plain), write(&pair.mounted));
        let what = format!("map and write {count} at {at} on {}", pair.what);
        self.note(what.clone());
        assert_eq!(errno(mounted), errno(plain), "{what}");
    }

    fn compare_trees(&mut self) {
        let (got, wanted) = (tree(&self.mounted), tree(self.plain.path()));
        assert!(got == wanted, "the mount has {got:?}\nthe directory {wanted:?}");
        for pair in &self.handles {
            let size = |file: &File| file.metadata().map(|metadata| metadata.len()).map_err(|error| error.to_string());
            assert_eq!(size(&pair.mounted), size(&pair.plain), "size of {}", pair.what);
        }
    }

    fn compare_contents(&mut self) {
        for (path, kind) in tree(self.plain.path()) {
            let Kind::File(size) = kind else { continue };
            let (mounted, plain) = (self.mounted.join(&path), self.plain.path().join(&path));
            let (mounted, plain) = (File::open(mounted).unwrap(), File::open(plain).unwrap());
            let ranges: Vec<(u64, usize)> = if size <= SMALL {
                vec![(0, size as usize)]
            } else {
                let samples = (0..16).map(|_| (self.random.below(size), 4096));
                samples.chain([(0, 400_000), (size - 65_536, 65_536)]).collect()
            };
            for (offset, length) in ranges {
                let length = length.min((size - offset) as usize);
                let read = |file: &File| {
                    let mut data = vec![0; length];
                    file.read_exact_at(&mut data, offset).map(|()| data)
                };
                let (got, wanted) = (plain_error(read(&mounted)), plain_error(read(&plain)));
                assert!(got == wanted, "{path} at {offset}: {} instead of {}", short(&got), short(&wanted));
            }
        }
    }

    /// Takes the mount down, by force or properly, and starts it again.
    fn remount(&mut self) {
        while !self.handles.is_empty() {
            self.close_one(0);
        }
        self.remounts += 1;
        if self.kills && self.random.once_in(2) {
            self.note("kill -9 and a new start".to_owned());
            self.writer.kill();
            self.writer.clear();
        } else {
            self.note("unmount and a new start".to_owned());
            if self.random.once_in(2) {
                self.writer.unmount_well();
            } else {
                let status = self.writer.terminate();
                assert_eq!(status.code(), Some(0));
            }
            self.compare_server();
        }
        self.writer.start_again();
        self.compare_trees();
        self.compare_contents();
    }

    fn compare_server(&self) {
        let manifest = self.client.manifest_of(&self.uuid);
        let wanted: BTreeMap<String, u64> = tree(self.plain.path())
            .into_iter()
            .filter_map(|(path, kind)| if let Kind::File(size) = kind { Some((path, size)) } else { None })
            .collect();
        let got: BTreeMap<String, u64> =
            manifest.files.keys().map(|path| (path.clone(), manifest.size(path))).collect();
        assert_eq!(got, wanted, "the server, then the directory");
        let mut blocks = Default::default();
        for (path, pieces) in manifest.files.iter().filter(|(path, _)| wanted[*path] <= SMALL) {
            let same = self.client.content(pieces, &mut blocks) == fs::read(self.plain.path().join(path)).unwrap();
            assert!(same, "{path} is another one on the server");
        }
    }
}

fn short<T: Debug>(value: &T) -> String {
    let mut text = format!("{value:?}");
    if text.len() > 300 {
        text.truncate(300);
        text.push('…');
    }
    text
}

/// Everything below, with the size of files.
fn tree(root: &Path) -> BTreeMap<String, Kind> {
    fn walk(root: &Path, prefix: &str, found: &mut BTreeMap<String, Kind>) {
        for entry in fs::read_dir(root).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                walk(&entry.path(), &path, found);
                found.insert(path, Kind::Directory);
            } else {
                found.insert(path, Kind::File(metadata.len()));
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, "", &mut found);
    found
}
