//! `arvados journal` as a user calls it, on journals that dead mounts have left.

mod mount_support;
mod support;

use arvados::dirty::Content;
use arvados::dirty::content::{Extent, Source};
use arvados::journal::{Base, Change, Info, Journal, Operation, Piece, place};
use mount_support::Client;
use serde_json::Value;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use support::{Cluster, LIMIT, arvados, run};

const ONE: &str = "zzzzz-4zz18-000000000000001";
const TWO: &str = "zzzzz-4zz18-000000000000002";
const USER: &str = "zzzzz-tpzed-000000000000000";

/// A signature that must never be seen.
const SIGNATURE: &str = "Aabcdefabcdefabcdefabcdefabcdefabcdefabcd@7fffffff";

struct Journals {
    directory: tempfile::TempDir,
}

impl Journals {
    fn new() -> Journals {
        Journals { directory: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("arvados/journal")
    }

    fn create(&self) -> Journal {
        let account = place::account_folder(&self.root(), "zzzzz", USER).unwrap();
        Journal::create(&account, &Info::of_process(Path::new("/mnt/keep")), u64::MAX).unwrap()
    }

    fn call_with(&self, words: &[&str], variables: Vec<(String, String)>) -> Output {
        let mut command = arvados();
        for name in ["ARVADOS_API_HOST", "ARVADOS_API_TOKEN", "XDG_CONFIG_HOME"] {
            command.env_remove(name);
        }
        command.env("HOME", self.directory.path()).envs(variables).env("XDG_STATE_HOME", self.directory.path());
        run(command.arg("journal").args(words), LIMIT)
    }

    fn call(&self, words: &[&str]) -> Output {
        self.call_with(words, Vec::new())
    }

    fn list(&self) -> Vec<Value> {
        let output = self.call(&["list", "--json"]);
        assert!(output.status.success(), "{}", errors(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn change(operation: Operation) -> Change {
    Change { operation, bases: Vec::new(), time: chrono::Utc::now(), state: 0, after: Vec::new(), moved_to: None }
}

fn file(path: &[u8], content: Content) -> Change {
    change(Operation::File {
        path: path.to_vec(),
        content,
        modified: chrono::DateTime::from_timestamp(1_000_000_000, 0),
    })
}

fn content(backing: Option<u64>, extents: Vec<(u64, Source)>) -> Content {
    let extents: Vec<Extent> = extents.into_iter().map(|(length, source)| Extent { length, source }).collect();
    Content { size: extents.iter().map(|extent| extent.length).sum(), backing, extents }
}

fn inline(bytes: &'static [u8]) -> Content {
    content(None, vec![(bytes.len() as u64, Source::Inline(bytes.into()))])
}

fn stored(locator: &str, offset: u64, length: u64) -> (u64, Source) {
    (length, Source::Stored { locator: locator.to_owned(), block_size: 6, offset, own: true })
}

fn locator() -> String {
    format!("{}+6+{SIGNATURE}", "0123456789abcdef".repeat(2))
}

/// A journal with something of everything.
fn sample(journals: &Journals) -> Journal {
    let journal = journals.create();
    let append = |change: Change| {
        journal.append(ONE, &change, false).unwrap();
    };
    std::fs::write(journal.data_folder().join("7"), b"....backing").unwrap();
    append(change(Operation::MakeDirectory { path: b"empty".to_vec() }));
    let pieces = vec![Piece { locator: locator(), block_size: 6, offset: 0, length: 6 }];
    let mut mixed = file(b"old/name", content(Some(7), vec![(4, Source::Hole), (7, Source::Backing)]));
    mixed.bases.push((b"old/name".to_vec(), Base::File { pieces }));
    append(mixed);
    append(change(Operation::Rename { from: b"old".to_vec(), to: b"new".to_vec() }));
    append(file(b"gone", inline(b"x")));
    append(change(Operation::Remove { path: b"gone".to_vec() }));
    append(file(b"odd\xff\n", inline(b"odd")));
    append(change(Operation::Modified { path: b"elsewhere".to_vec(), time: chrono::Utc::now() }));
    append(file(b"kept", content(None, vec![(2, Source::Inline(b"ab".as_slice().into())), stored(&locator(), 1, 3)])));
    journal
}

#[test]
fn a_user_without_journals_is_told_so() {
    let journals = Journals::new();
    assert!(journals.list().is_empty());
    let output = journals.call(&["list"]);
    assert!(output.status.success() && text(&output).is_empty());
    assert!(errors(&output).contains("no journals"));
    assert_eq!(journals.call(&["show", "x"]).status.code(), Some(1));
    assert_eq!(journals.call(&["list", "--journal-dir", "/nowhere"]).status.code(), Some(1));
    assert_eq!(journals.call(&["frobnicate"]).status.code(), Some(2));
}

#[test]
fn the_list_tells_which_mounts_run_and_what_waits_in_each() {
    let journals = Journals::new();
    let dead = sample(&journals);
    let id = dead.id();
    drop(dead);
    let alive = journals.create();
    alive.append(TWO, &file(b"a", inline(b"abc")), false).unwrap();
    let list = journals.list();
    let entry = |id: &str| list.iter().find(|entry| entry["journal"] == id).unwrap().clone();
    let (dead, living) = (entry(&id), entry(&alive.id()));
    assert_eq!((&dead["running"], &living["running"]), (&false.into(), &true.into()));
    assert_eq!(dead["account"], format!("zzzzz-{USER}"));
    assert_eq!((&dead["mount_point"], &living["pid"]), (&"/mnt/keep".into(), &std::process::id().into()));
    let collection = &dead["collections"][0];
    assert_eq!(collection["uuid"], ONE);
    assert_eq!(collection["changes"], 8);
    assert_eq!(collection["files"], 3);
    assert_eq!(collection["bytes"], 11 + 3 + 5);
    assert_eq!(collection["local_bytes"], 7 + 3 + 2);
    assert_eq!(dead["damage"], Value::Null);

    let output = text(&journals.call(&["list", "--journal-dir", journals.root().to_str().unwrap()]));
    assert!(output.contains(&id) && output.contains("dead") && output.contains("running") && output.contains(ONE));
}

#[test]
fn show_tells_paths_and_sizes_and_no_signature() {
    let journals = Journals::new();
    let journal = sample(&journals);
    let id = journal.id();
    drop(journal);
    let output = journals.call(&["show", &id[..6]]);
    assert!(output.status.success(), "{}", errors(&output));
    let shown = text(&output);
    for part in [
        ONE,
        "old -> new",
        "remove    gone",
        "mkdir     empty",
        "odd\\xff\\n",
        "kept  5 B (2 B only here, 3 B in Keep)",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    for words in [&["show", &id][..], &["list"], &["list", "--json"]] {
        let output = journals.call(words);
        assert!(!format!("{}{}", text(&output), errors(&output)).contains("abcdefabc"), "{words:?}");
    }
}

#[test]
fn an_export_without_a_cluster_has_what_is_here_and_says_what_is_not() {
    let journals = Journals::new();
    let journal = sample(&journals);
    let id = journal.id();
    journal.append(TWO, &file(b"../escape", inline(b"x")), false).unwrap();
    drop(journal);
    let target = journals.directory.path().join("target");
    let words = ["export", &id, target.to_str().unwrap()];
    let output = journals.call(&words);
    assert_eq!(output.status.code(), Some(1));
    let said = errors(&output);
    assert!(said.contains(&format!("{ONE}/kept: bytes 2 to 5 are missing")), "{said}");
    assert!(said.contains("escape") && !said.contains("abcdefabc"), "{said}");
    let read = |path: &[u8]| {
        use std::os::unix::ffi::OsStrExt;
        std::fs::read(target.join(ONE).join(std::ffi::OsStr::from_bytes(path))).ok()
    };
    assert_eq!(read(b"new/name").unwrap(), b"\0\0\0\0backing");
    assert_eq!(read(b"odd\xff\n").unwrap(), b"odd");
    assert_eq!(read(b"kept").unwrap(), b"ab\0\0\0");
    assert_eq!((read(b"gone"), read(b"old/name")), (None, None));
    assert!(target.join(ONE).join("empty").is_dir());
    assert_eq!(target.join(ONE).join("kept").metadata().unwrap().mtime(), 1_000_000_000);
    assert!(!target.join("escape").exists() && !journals.directory.path().join("escape").exists());
    // Nothing is overwritten, and the journal is as it was.
    let again = journals.call(&words);
    assert_eq!(again.status.code(), Some(1));
    assert!(errors(&again).contains("exists already"));
    assert_eq!(journals.list().len(), 1);
}

#[test]
fn a_file_that_cannot_be_written_keeps_no_other_from_being_exported() {
    let journals = Journals::new();
    let journal = journals.create();
    let id = journal.id();
    // Longer than a name can be here; the server has no such limit.
    let long = vec![b'l'; 300];
    for path in [&long, b"z".as_slice(), &[&long, b"/deep".as_slice()].concat()] {
        journal.append(ONE, &file(path, inline(b"content")), false).unwrap();
    }
    journal.append(ONE, &change(Operation::MakeDirectory { path: [b"d".as_slice(), &long].concat() }), false).unwrap();
    journal.append(TWO, &file(b"a", inline(b"other")), false).unwrap();
    drop(journal);
    let target = journals.directory.path().join("target");
    let output = journals.call(&["export", &id, target.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
    assert_eq!(std::fs::read(target.join(ONE).join("z")).unwrap(), b"content");
    assert_eq!(std::fs::read(target.join(TWO).join("a")).unwrap(), b"other");
    assert!(text(&output).starts_with("2 file(s)"), "{}", text(&output));
    assert_eq!(errors(&output).matches("cannot be written: File name too long").count(), 3, "{}", errors(&output));
}

/// A disk of 64 KiB, mounted for one command; needs root, as the mounts of the other tests do.
#[test]
fn an_export_to_a_disk_that_is_full_stops_and_says_so() {
    let journals = Journals::new();
    let journal = journals.create();
    let id = journal.id();
    journal.append(ONE, &file(b"a", inline(&[b'a'; 200_000])), false).unwrap();
    journal.append(ONE, &file(b"b", inline(&[b'b'; 200_000])), false).unwrap();
    drop(journal);
    let target = journals.directory.path().join("target");
    std::fs::create_dir(&target).unwrap();
    // The file system is gone with the namespace, however the command ends.
    let script = r#"mount -t tmpfs -o size=64k none "$0" && exec "$1" journal export "$2" "$0""#;
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script])
        .args([target.as_path(), Path::new(env!("CARGO_BIN_EXE_arvados"))])
        .arg(&id);
    let output = run(command.env("XDG_STATE_HOME", journals.directory.path()), LIMIT);
    let said = errors(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("/a: cannot be written: No space left") && !said.contains("/b:"), "{said}");
    assert!(said.contains("the rest is not exported"), "{said}");
}

#[test]
fn an_export_fetches_what_is_in_keep() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let locator = client.block(b"012345");
    let journals = Journals::new();
    let journal = journals.create();
    let extents = vec![stored(&locator, 4, 2), (1, Source::Inline(b"-".as_slice().into())), stored(&locator, 0, 3)];
    journal.append(ONE, &file(b"d/f", content(None, extents)), false).unwrap();
    let id = journal.id();
    drop(journal);
    let target = journals.directory.path().join("target");
    let output = journals.call_with(&["export", &id, target.to_str().unwrap()], cluster.environment(None));
    assert!(output.status.success(), "{}", errors(&output));
    assert_eq!(std::fs::read(target.join(ONE).join("d/f")).unwrap(), b"45-012");
    assert!(text(&output).starts_with("1 file(s)"));
}

#[test]
fn discard_wants_to_be_sure_and_spares_a_mount_that_runs() {
    let journals = Journals::new();
    let journal = sample(&journals);
    let id = journal.id();
    let output = journals.call(&["discard", &id, "--yes"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("runs"), "{}", errors(&output));
    drop(journal);
    let output = journals.call(&["discard", &id]);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("8 change(s)") && errors(&output).contains("--yes"), "{}", errors(&output));
    assert_eq!(journals.list().len(), 1);
    assert!(journals.call(&["discard", &id, "--yes"]).status.success());
    assert!(journals.list().is_empty());
}

#[test]
fn a_damaged_journal_is_listed_with_its_damage() {
    let journals = Journals::new();
    let journal = sample(&journals);
    let log = journal.folder().join("log");
    drop(journal);
    let bytes = std::fs::read(&log).unwrap();
    std::fs::write(&log, &bytes[..bytes.len() - 3]).unwrap();
    let list = journals.list();
    assert!(list[0]["damage"].as_str().unwrap().contains("not a whole record"), "{list:?}");
    assert_eq!(list[0]["collections"][0]["changes"], 7);
}

/// A journal that a mount has left which was killed; with its folder.
fn of_a_killed_mount(journals: &Journals) -> (String, PathBuf) {
    let journal = sample(journals);
    let (id, folder) = (journal.id(), journal.folder().to_owned());
    drop(journal);
    (id, folder)
}

#[test]
fn journal_whose_log_is_lost_is_no_empty_one() {
    let journals = Journals::new();
    let (id, folder) = of_a_killed_mount(&journals);
    for damages in [|log: &Path| std::fs::write(log, b"").unwrap(), |log: &Path| std::fs::remove_file(log).unwrap()] {
        damages(&folder.join("log"));
        assert!(journals.list()[0]["damage"].as_str().unwrap().contains("the log is"), "{:?}", journals.list());
        let target = journals.directory.path().join("target");
        for words in [vec!["show", &id], vec!["export", &id, target.to_str().unwrap()]] {
            let output = journals.call(&words);
            assert_eq!(output.status.code(), Some(1), "{words:?}");
            assert!(errors(&output).contains("the log is"), "{}", errors(&output));
        }
    }
}

#[test]
fn journal_of_a_newer_program_is_not_read_as_if_it_were_ours() {
    let journals = Journals::new();
    let (id, folder) = of_a_killed_mount(&journals);
    let info = std::fs::read_to_string(folder.join("info.json")).unwrap();
    let mut info: Value = serde_json::from_str(&info).unwrap();
    info["format"] = 99.into();
    std::fs::write(folder.join("info.json"), info.to_string()).unwrap();
    let list = journals.list();
    assert!(list[0]["damage"].as_str().unwrap().contains("format 99"), "{list:?}");
    let target = journals.directory.path().join("target");
    for words in [vec!["show", &id], vec!["export", &id, target.to_str().unwrap()]] {
        let output = journals.call(&words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(errors(&output).contains("format 99"), "{}", errors(&output));
    }
    assert!(!target.exists());
}

#[test]
fn mount_of_which_nothing_is_known_is_listed_so() {
    let journals = Journals::new();
    let (_, folder) = of_a_killed_mount(&journals);
    std::fs::write(folder.join("info.json"), "garbage").unwrap();
    let output = journals.call(&["list"]);
    let text = text(&output);
    assert!(text.contains("not known") && !text.contains("null") && !text.contains('?'), "{text}");
}

#[test]
fn list_that_could_not_look_everywhere_does_not_say_that_there_is_nothing() {
    let journals = Journals::new();
    let (_, folder) = of_a_killed_mount(&journals);
    // As somebody who may not read it has it, for root.
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&folder, all).unwrap();
    let output = journals.call(&["list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("others can write"), "{}", errors(&output));
    assert!(!errors(&output).contains("no journals"), "{}", errors(&output));
}

#[test]
fn command_that_prints_ends_quietly_with_its_reader() {
    let journals = Journals::new();
    let (id, _) = of_a_killed_mount(&journals);
    let cluster = Cluster::start();
    let data = cluster.data();
    let calls = [
        vec!["journal", "list"],
        vec!["journal", "list", "--json"],
        vec!["journal", "show", &id],
        vec!["cluster", "env", "--data", data.to_str().unwrap()],
        vec!["cluster", "user", "list", "--data", data.to_str().unwrap()],
        vec!["mount", "--version"],
        vec!["mount", "--help"],
    ];
    for words in calls {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = arvados();
        command.args(&words).env("HOME", journals.directory.path()).env("XDG_STATE_HOME", journals.directory.path());
        let output = command.stdout(writer).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let output = output.wait_with_output().unwrap();
        assert!(errors(&output).is_empty(), "{words:?}: {}", errors(&output));
    }
}
