//! `kill -9` of the mount at random moments under load: with the next start everything is there whose `close` (`fsync` in
//! that mode), `unlink`, `rename`, `mkdir` or `rmdir` had returned, and what was under way is old, new, or a beginning of the new.
//!
//! `ARVADOS_CRASH_KILLS` is the number of kills over all modes (default 28), `ARVADOS_CRASH_SEED` repeats the choices (not
//! the times). Half of the starts are followed by a clean end, and what the server has then is compared as well, read past
//! every mount. A third of the starts are killed themselves while they recover.

mod mount_support;
mod support;

use mount_support::content::Files;
use mount_support::files::close;
use mount_support::writer::{Writer, is_ours};
use mount_support::{Client, control};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::random::Random;
use support::{Cluster, number};

/// At most so many times the kills that were asked for.
const MOST_EFFORT: u64 = 4;
const MODES: [&str; 4] = ["close", "fsync", "idle:2", "idle:0.1"];
const WORKERS: usize = 3;
/// Names that each worker uses in each folder.
const NAMES: u64 = 5;
/// A user of a dead mount gets an error within this time; a second is the promise, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(2);

#[test]
fn killed_mount_that_saves_at_close_loses_nothing_that_was_closed() {
    campaign("close");
}

#[test]
fn killed_mount_that_saves_at_fsync_loses_nothing_that_was_synced() {
    campaign("fsync");
}

#[test]
fn killed_mount_that_saves_when_idle_loses_nothing_that_was_closed() {
    campaign("idle:2");
}

/// Nearly always a save is under way that nobody waits for: what is promised is the journal's, and much of it has just arrived.
#[test]
fn killed_mount_that_saves_all_the_time_loses_nothing_that_was_closed() {
    campaign("idle:0.1");
}

fn campaign(mode: &str) {
    let kills = number("ARVADOS_CRASH_KILLS").unwrap_or(28).div_ceil(MODES.len() as u64);
    let mut random = Random::new(Random::seed("ARVADOS_CRASH_SEED"));
    let cluster = Cluster::start_with(&["--faults"]);
    let client = Client::new(&cluster);
    let uuids = ["one", "two"].map(|name| client.collection(name, None, String::new()).uuid);
    let hanging = Duration::from_secs(60 + 30 * MOST_EFFORT * kills);
    let mut writer = Writer::start_for(&cluster, &[&format!("--sync={mode}"), "--memory-limit=128M"], hanging);
    let roots = uuids.each_ref().map(|uuid| writer.collection(uuid));
    let mut workers: Vec<Worker> =
        (0..WORKERS).map(|worker| Worker::new(worker, mode, &roots, random.next())).collect();
    let (mut killed, mut interrupted, mut late) = (0, 0, Vec::new());
    let proves = |workers: &[Worker], interrupted: u64| {
        let done: u64 = workers.iter().map(|worker| worker.done).sum();
        done >= 10 * kills && interrupted * 2 >= kills
    };
    // On a machine that is busy with other things it takes more of them before there is enough to prove something.
    while killed < kills || (!proves(&workers, interrupted) && killed < MOST_EFFORT * kills) {
        killed += 1;
        // Requests that take their time are under way when the mount dies.
        let delay = if random.once_in(2) { 0.0 } else { 0.2 };
        let slow = json!([{"method": ["PUT", "PATCH"], "path": "/collections/", "delay": delay}]);
        control(&cluster, "faults", json!({"api": slow}));
        let is_dead = AtomicBool::new(false);
        // Nothing is promised of these, and the journal has to go on around them.
        let half_written = roots.iter().filter(|_| random.once_in(2)).map(|root| {
            let mut file = File::create(root.join("half written")).unwrap();
            file.write_all(b"half").unwrap();
            file
        });
        let half_written: Vec<File> = half_written.collect();
        let (died, waited) = std::thread::scope(|scope| {
            let threads: Vec<_> = workers.iter_mut().map(|worker| scope.spawn(|| worker.run(&is_dead))).collect();
            std::thread::sleep(Duration::from_millis(100 + random.below(1500)));
            is_dead.store(true, Ordering::SeqCst);
            let start = Instant::now();
            let died = writer.kill();
            while !threads.iter().all(|thread| thread.is_finished()) && start.elapsed() < 3 * PATIENCE {
                std::thread::sleep(Duration::from_millis(5));
            }
            let waited = start.elapsed();
            writer.clear();
            (died, waited)
        });
        drop(half_written);
        late.extend((!died || waited > PATIENCE).then_some(waited));
        interrupted += workers.iter().filter(|worker| worker.doing.is_some()).count() as u64;
        control(&cluster, "faults", json!({"api": []}));
        writer.start_again();
        if random.once_in(3) {
            std::thread::sleep(Duration::from_millis(random.below(200)));
            writer.start_after_kill();
        }
        let (files, folders) = shown(&roots);
        workers.iter_mut().for_each(|worker| worker.judge("the mount", &files, Some(&folders)));
        if random.once_in(2) {
            writer.unmount_well();
            judge_server(&client, &uuids, &mut workers);
            writer.start_again();
        }
    }
    writer.unmount_well();
    judge_server(&client, &uuids, &mut workers);
    let done: u64 = workers.iter().map(|worker| worker.done).sum();
    let outcome =
        format!("{mode}: {killed} kills, {done} changes acknowledged, {interrupted} interrupted, late: {late:?}");
    println!("{outcome}");
    assert!(late.is_empty() || !is_ours(), "users of a dead mount waited: {outcome}");
    assert!(proves(&workers, interrupted) || !is_ours(), "this proves nothing: {outcome}");
}

fn judge_server(client: &Client, uuids: &[String], workers: &mut [Worker]) {
    let mut files = Files::new();
    for (number, uuid) in uuids.iter().enumerate() {
        files.extend(client.files(uuid).into_iter().map(|(path, content)| (format!("{number}/{path}"), content)));
    }
    workers.iter_mut().for_each(|worker| worker.judge("the server", &files, None));
}

/// Files and folders as the mount shows them.
fn shown(roots: &[PathBuf]) -> (Files, BTreeSet<String>) {
    fn walk(directory: &Path, prefix: &str, files: &mut Files, folders: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{prefix}/{}", entry.file_name().into_string().unwrap());
            if entry.metadata().unwrap().is_dir() {
                walk(&entry.path(), &path, files, folders);
                folders.insert(path);
            } else {
                files.insert(path, fs::read(entry.path()).unwrap());
            }
        }
    }
    let (mut files, mut folders) = (Files::new(), BTreeSet::new());
    for (number, root) in roots.iter().enumerate() {
        walk(root, &number.to_string(), &mut files, &mut folders);
    }
    (files, folders)
}

/// What a worker was doing when the mount died.
#[derive(Clone, Debug)]
enum Doing {
    /// A file anew: before, there was this or nothing.
    Write {
        path: String,
        old: Option<Vec<u8>>,
        new: Vec<u8>,
    },
    Append {
        path: String,
        old: Vec<u8>,
        more: Vec<u8>,
    },
    /// Some bytes in the middle.
    Patch {
        path: String,
        old: Vec<u8>,
        offset: usize,
        data: Vec<u8>,
    },
    Rename {
        from: String,
        to: String,
    },
    Unlink {
        path: String,
    },
    MakeFolder {
        path: String,
    },
    RemoveFolder {
        path: String,
    },
}

/// Changes files that nobody else touches, and knows what must be there.
struct Worker {
    name: String,
    syncs: bool,
    roots: Vec<PathBuf>,
    random: Random,
    files: Files,
    folders: BTreeSet<String>,
    doing: Option<Doing>,
    done: u64,
}

impl Worker {
    fn new(number: usize, mode: &str, roots: &[PathBuf], seed: u64) -> Worker {
        Worker {
            name: format!("w{number}"),
            syncs: mode == "fsync",
            roots: roots.to_vec(),
            random: Random::new(seed),
            files: Files::new(),
            folders: BTreeSet::new(),
            doing: None,
            done: 0,
        }
    }

    /// `0/w1-3` is in the first collection.
    fn place(&self, path: &str) -> PathBuf {
        let (root, rest) = path.split_once('/').unwrap();
        self.roots[root.parse::<usize>().unwrap()].join(rest)
    }

    fn run(&mut self, killed: &AtomicBool) {
        loop {
            let doing = self.choose();
            self.doing = Some(doing.clone());
            if let Err(error) = self.perform(&doing) {
                // The error may be here before the flag: nothing else may fail.
                let early = killed.load(Ordering::SeqCst);
                assert!(early, "{} failed while the mount was alive: {error}", short(&doing));
                return;
            }
            self.doing = None;
            self.done += 1;
            self.account(doing);
        }
    }

    fn choose(&mut self) -> Doing {
        let existing: Vec<String> = self.files.keys().cloned().collect();
        let mut kind = self.random.below(12);
        if existing.is_empty() {
            kind = 0;
        }
        let some = if existing.is_empty() { String::new() } else { self.random.choose(&existing).clone() };
        match kind {
            0..4 => {
                let path = self.path();
                Doing::Write { old: self.files.get(&path).cloned(), path, new: self.data() }
            }
            4..6 => Doing::Append { old: self.files[&some].clone(), path: some, more: self.data() },
            6 if !self.files[&some].is_empty() => {
                let old = self.files[&some].clone();
                let offset = self.random.below(old.len() as u64) as usize;
                let length = (old.len() - offset).min(3_000);
                Doing::Patch { path: some, old, offset, data: self.random.bytes(length) }
            }
            6..9 => Doing::Rename { from: some, to: self.path() },
            9 => Doing::Unlink { path: some },
            _ => {
                let path = format!("{}/{}-folder{}", self.random.below(2), self.name, self.random.below(3));
                match self.folders.contains(&path) {
                    true => Doing::RemoveFolder { path },
                    false => Doing::MakeFolder { path },
                }
            }
        }
    }

    fn path(&mut self) -> String {
        format!("{}/{}-{}", self.random.below(2), self.name, self.random.below(NAMES))
    }

    fn data(&mut self) -> Vec<u8> {
        let length = match self.random.below(80) {
            0 => 66 << 20,
            1..4 => 3 << 20,
            4..20 => self.random.below(200_000),
            _ => self.random.below(5_000),
        };
        self.random.bytes(length as usize)
    }

    fn perform(&self, doing: &Doing) -> io::Result<()> {
        let finish = |file: File| {
            if self.syncs {
                // What close says then is of no importance.
                file.sync_all().map(|()| drop(file))
            } else {
                close(file)
            }
        };
        match doing {
            Doing::Write { path, new, .. } => {
                let mut file = File::create(self.place(path))?;
                file.write_all(new)?;
                finish(file)
            }
            Doing::Append { path, more, .. } => {
                let mut file = File::options().append(true).open(self.place(path))?;
                file.write_all(more)?;
                finish(file)
            }
            Doing::Patch { path, offset, data, .. } => {
                let file = File::options().write(true).open(self.place(path))?;
                file.write_all_at(data, *offset as u64)?;
                finish(file)
            }
            Doing::Rename { from, to } => fs::rename(self.place(from), self.place(to)),
            Doing::Unlink { path } => fs::remove_file(self.place(path)),
            Doing::MakeFolder { path } => fs::create_dir(self.place(path)),
            Doing::RemoveFolder { path } => fs::remove_dir(self.place(path)),
        }
    }

    /// From now on it must be so.
    fn account(&mut self, doing: Doing) {
        match doing {
            Doing::Write { path, new, .. } => drop(self.files.insert(path, new)),
            Doing::Append { path, more, .. } => self.files.entry(path).or_default().extend_from_slice(&more),
            Doing::Patch { path, offset, data, .. } => {
                self.files.entry(path).or_default()[offset..offset + data.len()].copy_from_slice(&data);
            }
            Doing::Rename { from, to } => {
                if let Some(content) = self.files.remove(&from) {
                    self.files.insert(to, content);
                }
            }
            Doing::Unlink { path } => drop(self.files.remove(&path)),
            Doing::MakeFolder { path } => drop(self.folders.insert(path)),
            Doing::RemoveFolder { path } => drop(self.folders.remove(&path)),
        }
    }

    /// Compares, takes what was under way as it is found if it may be so, and goes on from there.
    fn judge(&mut self, place: &str, files: &Files, folders: Option<&BTreeSet<String>>) {
        let mine = |path: &str| path[2..].starts_with(&format!("{}-", self.name));
        let found: Files = files
            .iter()
            .filter(|(path, _)| mine(path))
            .map(|(path, content)| (path.clone(), content.clone()))
            .collect();
        if let Some(doing) = self.doing.take() {
            let allowed = self.allowed(&doing, &found);
            assert!(allowed, "{place}: after an interrupted {}: {}", short(&doing), sizes(&found));
            let mut touched = Vec::new();
            match doing {
                Doing::Write { path, .. } | Doing::Append { path, .. } | Doing::Patch { path, .. } => {
                    touched.push(path)
                }
                Doing::Unlink { path } => touched.push(path),
                Doing::Rename { from, to } => touched.extend([from, to]),
                Doing::MakeFolder { path } | Doing::RemoveFolder { path } => {
                    // Both are right. The server does not show folders that have files, so the mount is asked first.
                    match folders.is_some_and(|folders| folders.contains(&path)) {
                        true => drop(self.folders.insert(path)),
                        false => drop(self.folders.remove(&path)),
                    }
                }
            }
            for path in touched {
                match found.get(&path) {
                    Some(content) => drop(self.files.insert(path, content.clone())),
                    None => drop(self.files.remove(&path)),
                }
            }
        }
        if found != self.files {
            for (path, content) in &self.files {
                let other = found.get(path);
                assert!(
                    other == Some(content),
                    "{place}: {path} has {:?} bytes and should have {}: {}",
                    other.map(Vec::len),
                    content.len(),
                    sizes(&found)
                );
            }
            panic!("{place}: there is more than there should be: {} instead of {}", sizes(&found), sizes(&self.files));
        }
        if let Some(folders) = folders {
            let found: BTreeSet<String> = folders.iter().filter(|path| mine(path)).cloned().collect();
            assert_eq!(found, self.folders, "{place}");
        }
    }

    fn allowed(&self, doing: &Doing, found: &Files) -> bool {
        match doing {
            Doing::Write { path, old, new } => match found.get(path) {
                Some(content) => old.as_ref() == Some(content) || new.starts_with(content),
                None => old.is_none(),
            },
            Doing::Append { path, old, more } => found.get(path).is_some_and(|content| {
                content.strip_prefix(old.as_slice()).is_some_and(|added| more.starts_with(added))
            }),
            Doing::Patch { path, old, offset, data } => found.get(path).is_some_and(|content| {
                let end = offset + data.len();
                content.len() == old.len() && content[..*offset] == old[..*offset] && content[end..] == old[end..]
            }),
            Doing::Rename { from, to } => {
                let content = self.files.get(from);
                // Between collections a crash may leave both, and never none.
                found.get(to) == content || found.get(from) == content && found.get(to) == self.files.get(to)
            }
            Doing::Unlink { path } => found.get(path).is_none_or(|content| Some(content) == self.files.get(path)),
            Doing::MakeFolder { .. } | Doing::RemoveFolder { .. } => true,
        }
    }
}

fn sizes(files: &Files) -> String {
    let sizes: Vec<String> = files.iter().map(|(path, content)| format!("{path} {}", content.len())).collect();
    sizes.join(", ")
}

fn short(doing: &Doing) -> String {
    match doing {
        Doing::Write { path, old, new } => {
            format!("write of {path}, {:?} before, {} after", old.as_ref().map(Vec::len), new.len())
        }
        Doing::Append { path, old, more } => format!("append to {path}, {} and {}", old.len(), more.len()),
        Doing::Patch { path, old, offset, data } => {
            format!("patch of {path}, {} at {offset} of {}", data.len(), old.len())
        }
        other => format!("{other:?}"),
    }
}
