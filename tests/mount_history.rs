//! Several mounts and several other clients on one collection, with kills, slow servers and lost answers: afterwards every
//! acknowledged version of every file is there, or was replaced by a client that had seen it.
//!
//! The clients: two mounts, each with a program that rewrites files in place, saves by renaming, moves, also to another
//! collection and back, deletes and appends; a client that sets single files with `replace_files` under the server's condition
//! on the version; one that writes whole manifests under that condition, as a careful SDK program would; and one that adds
//! files without any condition, as WebDAV clients do. None of them destroys what it has not read, so whatever is missing in the
//! end was destroyed by a mount. Programs on a mount read through the handle by which they write: what an open handle shows
//! is what its writing replaces.
//!
//! Under `--commit-guard=auto` one loss is allowed, if the mount has said so in its log: another client wrote the same
//! path in the moment of our commit, with no earlier sign of it.
//!
//! Once more with `--sync=idle:1`, where what is acknowledged is in a journal first: kills and merges meet there.
//!
//! `ARVADOS_HISTORY_ROUNDS` is the number of rounds of 20 seconds for each test (default 1), `ARVADOS_HISTORY_SEED`
//! repeats the choices (not the times).

mod mount_support;
mod support;

use arvados::keep::manifest::push_escaped;
use arvados::remote::api::CollectionUpdate;
use mount_support::content::{Files, Manifest};
use mount_support::files::{append, create_new, rewrite};
use mount_support::ledger::{Ledger, Status, content_of, version_of};
use mount_support::writer::{Writer, is_ours};
use mount_support::{Client, control};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::random::Random;
use support::{Cluster, number};

/// At most so many times the rounds that were asked for.
const MOST_EFFORT: u64 = 3;
/// Paths that everybody writes: few, so that writers meet.
const SHARED: [&str; 5] = ["s0", "s1", "s2", "dir/s3", "dir/s4"];
const MOUNTS: usize = 2;
const ROUND: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Counters {
    /// Acknowledged changes of the mounts, of the others.
    mounts: AtomicUsize,
    others: AtomicUsize,
    /// Changes of the others that the server refused because somebody was faster.
    refusals: AtomicUsize,
    kills: AtomicUsize,
    /// Copies that conflicts made, in the end.
    conflicts: AtomicUsize,
    /// Losses that `auto` allows.
    excused: AtomicUsize,
}

/// One round: a collection of its own, and who is at work on it.
struct Round<'a> {
    cluster: &'a Cluster,
    uuid: String,
    /// To where the programs on mounts move something now and then.
    aside: String,
    ledger: Ledger,
    /// Lines that were appended and acknowledged, by file.
    lines: Mutex<HashMap<String, Vec<String>>>,
    counters: &'a Counters,
    stop: AtomicBool,
    number: u64,
}

#[test]
fn strict_guard_loses_no_version() {
    history("strict", "close", |_, _, _| false);
}

#[test]
fn auto_guard_loses_no_version_without_saying_so() {
    history("auto", "close", reports);
}

#[test]
fn mounts_that_save_when_idle_lose_no_version() {
    history("strict", "idle:1", |_, _, _| false);
}

/// Does the log say that this path of the collection was overwritten?
fn reports(log: &str, uuid: &str, path: &str) -> bool {
    let overwritten = log.lines().filter(|line| line.contains("overwrote it") && line.contains(uuid));
    let mut named = overwritten.filter_map(|line| line.split_once("paths=\"")?.1.split_once('"'));
    named.any(|(paths, _)| paths.split(", ").any(|named| named == path))
}

#[test]
fn report_of_a_loss_excuses_no_other() {
    let log = "ERROR another client saved the same path, and this mount's save overwrote it collection=\"c1\" paths=\"s1, dir/s3\"";
    assert!(reports(log, "c1", "s1") && reports(log, "c1", "dir/s3"));
    assert!(!reports(log, "c1", "s3") && !reports(log, "c1", "s") && !reports(log, "c2", "s1"));
    assert!(!reports(&log.replace("overwrote it", "kept"), "c1", "s1"));
}

/// That the test accuses nobody wrongly: without mounts nothing can be lost.
#[test]
fn clients_without_a_mount_lose_nothing() {
    let cluster = Cluster::start_with(&["--faults"]);
    let client = Client::new(&cluster);
    let counters = Counters::default();
    let round = Round::new(&cluster, &client, "without mounts", &counters, 0);
    std::thread::scope(|scope| {
        round.others(scope, Random::seed("ARVADOS_HISTORY_SEED"));
        std::thread::sleep(ROUND / 4);
        round.stop.store(true, Ordering::Relaxed);
    });
    round.judge(&client.files(&round.uuid), |_| false);
    assert!(counters.others.load(Ordering::Relaxed) > 10, "this proves nothing: {}", counters.text());
}

/// `excuse`: does the log, of this collection, excuse the loss of a version of this path?
fn history(guard: &str, sync: &str, excuse: impl Fn(&str, &str, &str) -> bool) {
    let rounds = number("ARVADOS_HISTORY_ROUNDS").unwrap_or(1);
    let seed = Random::seed("ARVADOS_HISTORY_SEED");
    let cluster = Cluster::start_with(&["--faults"]);
    let hanging = (ROUND * (MOST_EFFORT * rounds) as u32 + Duration::from_secs(60)) * 3;
    let mut options = vec![format!("--commit-guard={guard}"), format!("--sync={sync}"), "--refresh-time=5".to_owned()];
    // What `arv-mount` takes for 30 seconds by default would leave it no time to write in a short run.
    options.push("--unmount-timeout=10".into());
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut writers: Vec<Writer> = (0..MOUNTS).map(|_| Writer::start_for(&cluster, &options, hanging)).collect();
    let client = Client::new(&cluster);
    let counters = Counters::default();
    let enough = |counter: &AtomicUsize, least: usize| counter.load(Ordering::Relaxed) >= least * rounds as usize;
    let proves = || {
        enough(&counters.mounts, 60)
            && enough(&counters.others, 40)
            && enough(&counters.kills, 3)
            && counters.conflicts.load(Ordering::Relaxed) > 0
            && counters.refusals.load(Ordering::Relaxed) > 0
    };
    // On a machine that is busy with other things it takes more of them before there is enough to prove something.
    for number in 0..MOST_EFFORT * rounds {
        if number >= rounds && proves() {
            break;
        }
        let round = Round::new(&cluster, &client, &format!("history {number}"), &counters, number);
        round.run(&mut writers, seed.wrapping_add(number));
        for writer in &mut writers {
            writer.unmount_well();
            assert!(writer.journals() == 0 || !is_ours(), "all is saved, and a journal says something else");
        }
        let of = |round: &Round| [&round.uuid, &round.aside].map(|uuid| client.files(uuid));
        let files = of(&round);
        let logs: String = writers.iter().map(Writer::log).collect();
        round.judge(&together(&files), |path| excuse(&logs, &round.uuid, path));
        for writer in &mut writers {
            writer.start_again();
            let shown = [&round.uuid, &round.aside].map(|uuid| files_below(&writer.collection(uuid)));
            assert!(shown == files, "the mount shows something else than the server has");
        }
    }
    println!("{guard}, {sync}: {rounds} rounds: {}", counters.text());
    assert!(proves() || !is_ours(), "this proves nothing: {}", counters.text());
}

impl Counters {
    fn text(&self) -> String {
        let get = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        format!(
            "{} changes of mounts and {} of others acknowledged, {} refused by the server, {} kills, {} conflict copies, {} losses reported",
            get(&self.mounts),
            get(&self.others),
            get(&self.refusals),
            get(&self.kills),
            get(&self.conflicts),
            get(&self.excused)
        )
    }
}

/// What is in both collections.
fn together([files, aside]: &[Files; 2]) -> Files {
    let aside = aside.iter().map(|(path, content)| (format!("aside/{path}"), content.clone()));
    files.clone().into_iter().chain(aside).collect()
}

fn files_below(root: &Path) -> Files {
    fn walk(directory: &Path, prefix: &str, files: &mut Files) {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{prefix}{}", entry.file_name().into_string().unwrap());
            match entry.metadata().unwrap().is_dir() {
                true => walk(&entry.path(), &format!("{path}/"), files),
                false => drop(files.insert(path, fs::read(entry.path()).unwrap())),
            }
        }
    }
    let mut files = Files::new();
    walk(root, "", &mut files);
    files
}

impl<'a> Round<'a> {
    fn new(cluster: &'a Cluster, client: &Client, name: &str, counters: &'a Counters, number: u64) -> Round<'a> {
        let stop = AtomicBool::new(false);
        let [uuid, aside] =
            [name, &format!("{name} aside")].map(|name| client.collection(name, None, String::new()).uuid);
        Round { cluster, uuid, aside, ledger: Ledger::default(), lines: Mutex::default(), counters, stop, number }
    }

    fn run(&self, writers: &mut [Writer], seed: u64) {
        let places: Vec<[PathBuf; 2]> =
            writers.iter().map(|writer| [&self.uuid, &self.aside].map(|uuid| writer.collection(uuid))).collect();
        fs::create_dir(places[0][0].join("dir")).unwrap();
        std::thread::scope(|scope| {
            for (mount, [root, aside]) in places.iter().enumerate() {
                scope.spawn(move || {
                    Program {
                        round: self,
                        root,
                        aside,
                        moved: Vec::new(),
                        name: format!("m{mount}"),
                        random: Random::new(seed ^ mount as u64),
                        made: 0,
                        own: Vec::new(),
                    }
                    .run();
                });
            }
            self.others(scope, seed);
            self.disturb(writers, Random::new(seed ^ 0xd157));
            self.stop.store(true, Ordering::Relaxed);
        });
    }

    fn others<'scope, 'env>(&'env self, scope: &'scope std::thread::Scope<'scope, 'env>, seed: u64) {
        for (other, kind) in [Kind::Guarded, Kind::Manifest, Kind::Adding].into_iter().enumerate() {
            scope.spawn(move || {
                let client = Client::new(self.cluster);
                Other {
                    round: self,
                    client,
                    kind,
                    name: format!("o{other}"),
                    random: Random::new(seed ^ (other as u64) << 8),
                    made: 0,
                }
                .run();
            });
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Kills mounts and makes the cluster fail, until the round is over; in the end all is well again.
    fn disturb(&self, writers: &mut [Writer], mut random: Random) {
        let end = Instant::now() + ROUND;
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(300 + random.below(1200)));
            let saves = |fault: Value| {
                let mut rule = json!({"method": ["PUT", "PATCH"], "path": "/collections/"});
                rule.as_object_mut().unwrap().extend(fault.as_object().unwrap().clone());
                json!({"api": [rule]})
            };
            match random.below(9) {
                0 => drop(control(self.cluster, "faults", saves(json!({"delay": 0.4, "times": 6})))),
                1 => drop(control(self.cluster, "faults", saves(json!({"drop": "after", "times": 1})))),
                2 => drop(control(self.cluster, "faults", saves(json!({"drop": "before", "times": 1})))),
                3 => drop(control(self.cluster, "faults", saves(json!({"status": 503, "empty": true, "times": 2})))),
                4 => drop(control(self.cluster, "ws", json!({"disconnect": true}))),
                _ => {
                    let writer = &mut writers[random.below(MOUNTS as u64) as usize];
                    writer.kill();
                    self.counters.kills.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(random.below(400)));
                    writer.clear();
                    writer.start_again();
                }
            }
        }
        control(self.cluster, "faults", json!({"api": [], "keep": []}));
    }

    fn judge(&self, files: &Files, excuse: impl Fn(&str) -> bool) {
        let logs = self.lines.lock().unwrap();
        let versions: Files = files
            .iter()
            .filter(|(path, _)| !path.contains("-log"))
            .map(|(path, content)| (path.clone(), content.clone()))
            .collect();
        let verdict = self.ledger.check(&versions);
        println!(
            "round {}: {} acknowledged, {} of unknown outcome, {} files",
            self.number,
            verdict.acknowledged,
            verdict.unknown,
            files.len()
        );
        let copies = files.keys().filter(|path| path.contains("~conflict~")).count();
        self.counters.conflicts.fetch_add(copies, Ordering::Relaxed);
        let (excused, lost): (Vec<_>, Vec<_>) = verdict.lost.into_iter().partition(|(path, _)| excuse(path));
        self.counters.excused.fetch_add(excused.len(), Ordering::Relaxed);
        let mut missing = Vec::new();
        for (path, lines) in logs.iter() {
            let all: String = files
                .iter()
                .filter(|(name, _)| name.starts_with(path.as_str()))
                .map(|(_, content)| String::from_utf8_lossy(content).into_owned())
                .collect();
            missing.extend(
                lines.iter().filter(|line| !all.contains(line.as_str())).map(|line| (path.clone(), line.clone())),
            );
        }
        let of = verdict.acknowledged;
        assert!(lost.is_empty(), "{} of {of} acknowledged versions are lost: {lost:?}", lost.len());
        assert!(missing.is_empty(), "{} appended lines are lost: {missing:?}", missing.len());
        assert!(verdict.torn.is_empty(), "files that nobody wrote so: {:?}", verdict.torn);
    }
}

/// A program that works on a mount.
struct Program<'a> {
    round: &'a Round<'a>,
    root: &'a Path,
    aside: &'a Path,
    /// Names there.
    moved: Vec<String>,
    name: String,
    random: Random,
    made: u64,
    /// Files that only this program writes.
    own: Vec<String>,
}

impl Program<'_> {
    fn run(mut self) {
        while !self.round.stopped() {
            let done = match self.random.below(13) {
                0..5 => self.rewrite(),
                5..7 => self.create(),
                7 => self.save_by_renaming(),
                8 => self.take(),
                9 => self.folder(),
                10 => self.move_aside(),
                _ => self.append(),
            };
            match done {
                Ok(()) => drop(self.round.counters.mounts.fetch_add(1, Ordering::Relaxed)),
                // The mount is dead, or a save was refused.
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
            std::thread::sleep(Duration::from_millis(self.random.below(40)));
        }
    }

    fn version(&mut self) -> (String, Vec<u8>) {
        self.made += 1;
        let version = format!("{}.{}", self.name, self.made);
        let length = if self.random.once_in(10) { 200_000 } else { self.random.below(5_000) };
        let content = content_of(&version, length as usize);
        (version, content)
    }

    fn settle<T>(&self, entry: mount_support::ledger::Entry, done: std::io::Result<T>) -> std::io::Result<()> {
        // After an error nobody knows: the data may be in the journal.
        if done.is_ok() {
            self.round.ledger.settle(entry, Status::Acknowledged);
        }
        done.map(drop)
    }

    /// In place, through one handle; a file that is not there is made.
    fn rewrite(&mut self) -> std::io::Result<()> {
        let path = *self.random.choose(&SHARED);
        let (version, content) = self.version();
        let mut entry = None;
        let done = rewrite(&self.root.join(path), |before| {
            entry = Some(self.round.ledger.issue(path, version_of(before), Some(version.clone())));
            content.clone()
        });
        match (entry, done) {
            (Some(entry), done) => self.settle(entry, done),
            (None, Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                let entry = self.round.ledger.issue(path, None, Some(version));
                let done = create_new(&self.root.join(path), &content);
                self.settle(entry, done)
            }
            (None, done) => done.map(drop),
        }
    }

    fn create(&mut self) -> std::io::Result<()> {
        let (version, content) = self.version();
        let folder = if self.random.once_in(2) { "dir/" } else { "" };
        let path = format!("{folder}{version}");
        let entry = self.round.ledger.issue(&path, None, Some(version));
        let done = create_new(&self.root.join(&path), &content);
        self.own.push(path);
        self.settle(entry, done)
    }

    /// A new file that is renamed over one of our own.
    fn save_by_renaming(&mut self) -> std::io::Result<()> {
        if self.own.is_empty() {
            return self.create();
        }
        let target = self.random.choose(&self.own).clone();
        let seen = version_of(&fs::read(self.root.join(&target))?);
        let (version, content) = self.version();
        let temporary = format!("{version}.tmp");
        let entry = self.round.ledger.issue(&temporary, None, Some(version));
        let done = create_new(&self.root.join(&temporary), &content);
        self.settle(entry, done)?;
        let entry = self.round.ledger.issue(&target, seen, None);
        let done = fs::rename(self.root.join(&temporary), self.root.join(&target));
        self.settle(entry, done)
    }

    /// Moves a shared file to a name of our own, looks at it there, and deletes it.
    fn take(&mut self) -> std::io::Result<()> {
        let path = *self.random.choose(&SHARED);
        self.made += 1;
        let taken = format!("{}-took-{}", self.name, self.made);
        fs::rename(self.root.join(path), self.root.join(&taken))?;
        let seen = version_of(&fs::read(self.root.join(&taken))?);
        let entry = self.round.ledger.issue(&taken, seen, None);
        let done = fs::remove_file(self.root.join(&taken));
        self.settle(entry, done)
    }

    /// A shared file to the other collection, or something from there back. Nobody else has these names, so nothing is replaced.
    fn move_aside(&mut self) -> std::io::Result<()> {
        self.made += 1;
        let name = format!("{}-moved-{}", self.name, self.made);
        if !self.moved.is_empty() && self.random.once_in(2) {
            let moved = self.moved.swap_remove(self.random.below(self.moved.len() as u64) as usize);
            return fs::rename(self.aside.join(moved), self.root.join(name));
        }
        let path = *self.random.choose(&SHARED);
        fs::rename(self.root.join(path), self.aside.join(&name))?;
        self.moved.push(name);
        Ok(())
    }

    fn folder(&mut self) -> std::io::Result<()> {
        let (version, content) = self.version();
        let (before, after) = (format!("{version}-folder"), format!("{version}-moved"));
        fs::create_dir(self.root.join(&before))?;
        let path = format!("{before}/{version}");
        let entry = self.round.ledger.issue(&path, None, Some(version.clone()));
        let done = create_new(&self.root.join(&path), &content);
        self.settle(entry, done)?;
        fs::rename(self.root.join(&before), self.root.join(&after))
    }

    fn append(&mut self) -> std::io::Result<()> {
        self.made += 1;
        let path = format!("{}-log", self.name);
        let line = format!("{}: line {}\n", self.name, self.made);
        append(&self.root.join(&path), line.as_bytes())?;
        self.round.lines.lock().unwrap().entry(path).or_default().push(line);
        Ok(())
    }
}

/// How a client without a mount writes.
#[derive(Clone, Copy)]
enum Kind {
    /// Single files, under the condition on the version.
    Guarded,
    /// Whole manifests, under the condition on the version.
    Manifest,
    /// New files only, without any condition.
    Adding,
}

struct Other<'a> {
    round: &'a Round<'a>,
    client: Client,
    kind: Kind,
    name: String,
    random: Random,
    made: u64,
}

impl Other<'_> {
    fn run(mut self) {
        while !self.round.stopped() {
            match self.change() {
                Some(true) => drop(self.round.counters.others.fetch_add(1, Ordering::Relaxed)),
                Some(false) => drop(self.round.counters.refusals.fetch_add(1, Ordering::Relaxed)),
                None => {}
            }
            std::thread::sleep(Duration::from_millis(20 + self.random.below(200)));
        }
    }

    /// Whether it was acknowledged or refused; none when nobody knows.
    fn change(&mut self) -> Option<bool> {
        let uuid = &self.round.uuid;
        let (mut record, mut text) = self.client.fetch(uuid).ok()?;
        if !record.preserve_version && !matches!(self.kind, Kind::Adding) {
            // Only then does every change count a version (protocol.md 4.12).
            let attributes = [("preserve_version".to_owned(), json!(true))].into_iter().collect();
            self.client.update(uuid, &CollectionUpdate { attributes, ..CollectionUpdate::default() }).ok()?;
            (record, text) = self.client.fetch(uuid).ok()?;
            if !record.preserve_version {
                return None;
            }
        }
        self.made += 1;
        let version = format!("{}.{}", self.name, self.made);
        let content = content_of(&version, self.random.below(5_000) as usize);
        let path =
            if matches!(self.kind, Kind::Adding) { version.clone() } else { (*self.random.choose(&SHARED)).to_owned() };
        let mut manifest = Manifest::parse(&text);
        let seen =
            manifest.files.get(&path).and_then(|pieces| version_of(&self.client.content(pieces, &mut HashMap::new())));
        let locator = self.client.block(&content);
        let mut update = CollectionUpdate::default();
        match self.kind {
            Kind::Manifest => {
                manifest.files.insert(path.clone(), vec![(locator, 0, content.len() as u64)]);
                update.manifest = Some(text_of(&manifest));
            }
            Kind::Guarded | Kind::Adding => {
                update.manifest = Some(format!(". {locator} 0:{}:new\n", content.len()));
                update.replace_files = [(format!("/{path}"), "manifest_text/new".to_owned())].into();
            }
        }
        if !matches!(self.kind, Kind::Adding) {
            update.attributes.insert("version".into(), json!(record.version));
            update.attributes.insert("preserve_version".into(), json!(true));
        }
        let entry = self.round.ledger.issue(&path, seen, Some(version));
        match self.client.update(uuid, &update) {
            Ok(_) => {
                self.round.ledger.settle(entry, Status::Acknowledged);
                Some(true)
            }
            Err(error) if error.status() == Some(422) => {
                self.round.ledger.settle(entry, Status::Refused);
                Some(false)
            }
            Err(_) => None,
        }
    }
}

/// A manifest with a line for every file.
fn text_of(manifest: &Manifest) -> String {
    const EMPTY: &str = "d41d8cd98f00b204e9800998ecf8427e+0";
    let mut text = String::new();
    let stream = |text: &mut String, folder: &str| {
        text.push('.');
        if !folder.is_empty() {
            text.push('/');
            push_escaped(text, folder.as_bytes());
        }
    };
    for (path, pieces) in &manifest.files {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        stream(&mut text, folder);
        let mut escaped = String::new();
        push_escaped(&mut escaped, name.as_bytes());
        if pieces.is_empty() {
            writeln!(text, " {EMPTY} 0:0:{escaped}").unwrap();
            continue;
        }
        let size = |locator: &str| locator.split('+').nth(1).unwrap().parse::<u64>().unwrap();
        pieces.iter().for_each(|(locator, _, _)| write!(text, " {locator}").unwrap());
        let mut start = 0;
        for (locator, offset, length) in pieces {
            write!(text, " {}:{length}:{escaped}", start + offset).unwrap();
            start += size(locator);
        }
        text.push('\n');
    }
    for folder in &manifest.directories {
        stream(&mut text, folder);
        writeln!(text, " {EMPTY} 0:0:\\056").unwrap();
    }
    text
}
