//! What the next mount makes of the journal of one that was killed.

use crate::fixture::{Fixture, QUIET, names};
use crate::mount_support::files::{append, close, errno, open, save};
use crate::mount_support::writer::{Writer, is_ours};
use crate::support::{LIMIT, arvados, run, succeed, until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// All files below a folder with their content.
fn content_of(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(content_of(&path));
        } else {
            files.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    files
}

/// What `arvados journal list` says of the journals of a mount.
fn journals(writer: &Writer) -> Vec<Value> {
    let mut command = arvados();
    command.args(["journal", "list", "--json", "--journal-dir"]).arg(writer.journal());
    serde_json::from_str(&succeed(&mut command)).unwrap()
}

fn waits_in(journals: &[Value], uuid: &str) -> Vec<String> {
    let waits = |journal: &&Value| {
        journal["collections"].as_array().is_some_and(|waiting| waiting.iter().any(|entry| entry["uuid"] == *uuid))
    };
    journals.iter().filter(waits).map(|journal| journal["journal"].as_str().unwrap().to_owned()).collect()
}

fn kill(writer: &mut Writer) {
    writer.kill();
    writer.clear();
}

#[test]
fn journal_of_a_collection_that_was_deleted_is_kept_and_reported_by_every_mount() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--sync=exit", "--retries=0"]);
    let path = fixture.path();
    let other = fixture.client.collection("other", None, String::new());
    save(&path.join("new"), b"content").unwrap();
    append(&path.join("a"), b" and more").unwrap();
    fs::create_dir(path.join("empty")).unwrap();
    save(&fixture.writer.collection(&other.uuid).join("f"), b"saved").unwrap();
    kill(&mut fixture.writer);
    fixture.client.delete(&fixture.made.uuid);
    for mount in 1..=2 {
        let before = fixture.writer.log().len();
        fixture.writer.start_again();
        let since = |writer: &Writer| writer.log()[before..].to_owned();
        until("the report", || {
            since(&fixture.writer).lines().any(|line| line.contains(&fixture.made.uuid) && line.contains("ERROR"))
        });
        until("the other collection", || fixture.client.has(&other.uuid, "f", b"saved"));
        let waiting = journals(&fixture.writer);
        assert_eq!(waits_in(&waiting, &fixture.made.uuid).len(), 1, "mount {mount}: {waiting:?}");
        fixture.writer.unmount();
        let waiting = journals(&fixture.writer);
        assert_eq!(waits_in(&waiting, &fixture.made.uuid).len(), 1, "after mount {mount}: {waiting:?}");
        assert!(waits_in(&waiting, &other.uuid).is_empty(), "after mount {mount}: {waiting:?}");
    }
    let id = waits_in(&journals(&fixture.writer), &fixture.made.uuid).remove(0);
    let target = tempfile::tempdir().unwrap();
    let mut command = arvados();
    command.args(["journal", "export", "--journal-dir"]).arg(fixture.writer.journal()).arg(&id);
    command.arg(target.path().join("rescued")).envs(fixture.cluster.environment(None));
    let output = run(&mut command, LIMIT);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rescued = target.path().join("rescued").join(&fixture.made.uuid);
    assert_eq!(fs::read(rescued.join("new")).unwrap(), b"content");
    assert_eq!(fs::read(rescued.join("a")).unwrap(), b"first and more");
    assert!(rescued.join("empty").is_dir());
    // And when it comes back, all of it is saved after all.
    let back = json!({"is_trashed": false, "trash_at": null, "delete_at": null});
    fixture.control("raw", json!({"uuid": fixture.made.uuid, "set": back}));
    fixture.writer.start_again();
    until("the data of the collection that is back", || {
        fixture.server_has("new", b"content") && fixture.server_has("a", b"first and more")
    });
    fixture.writer.unmount_well();
    assert!(journals(&fixture.writer).is_empty(), "{:?}", journals(&fixture.writer));
}

#[test]
fn killed_mount_and_a_client_that_went_on_meanwhile_both_keep_their_versions() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--sync=idle:60"]);
    let path = fixture.path();
    save(&path.join("a"), b"ours").unwrap();
    append(&path.join("d/b"), b", and ours").unwrap();
    save(&path.join("ours alone"), b"new").unwrap();
    fs::create_dir(path.join("folder")).unwrap();
    fs::rename(path.join("ours alone"), path.join("folder/renamed")).unwrap();
    assert_eq!(fixture.server_names(), ["a", "d/b"], "nothing is saved yet");
    kill(&mut fixture.writer);
    fixture.client.put_files(&fixture.made.uuid, &[("a", b"theirs"), ("c", b"their other change")]);
    fixture.writer.start_again();
    until("ours", || fixture.server_has("a", b"ours"));
    until("the rest", || fixture.server_has("folder/renamed", b"new"));
    let files = fixture.client.files(&fixture.made.uuid);
    assert_eq!(files["d/b"], b"second, and ours");
    assert_eq!(files["c"], b"their other change");
    let copies: Vec<_> = files.iter().filter(|(name, _)| name.starts_with("a~")).collect();
    assert_eq!(copies.len(), 1, "{:?}", files.keys());
    assert!(copies[0].0.ends_with("~conflict~") && copies[0].1 == b"theirs", "{copies:?}");
    assert_eq!(files.len(), 5, "{:?}", files.keys());
    let shown = [copies[0].0.as_str(), "a", "c", "d", "folder"];
    let mut shown = shown.map(str::to_owned).to_vec();
    shown.sort();
    assert_eq!(names(&path), shown);
    assert_eq!(fs::read(path.join("a")).unwrap(), b"ours");
    fixture.writer.unmount_well();
    assert!(journals(&fixture.writer).is_empty());
}

/// Of what was saved the journal knows only that it has arrived, and it has something else.
#[test]
fn what_others_made_of_a_save_before_a_kill_is_what_the_next_mount_shows() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::old(&[&QUIET[..], &["--sync=fsync"]].concat());
    let path = fixture.path();
    append(&path.join("a"), b" and more").unwrap();
    fs::remove_file(path.join("d/b")).unwrap();
    let slow = json!({"method": ["PUT", "PATCH"], "path": "/collections/", "delay": 0.6});
    fixture.control("faults", json!({"api": [slow]}));
    std::thread::scope(|scope| {
        // The kernel lets nobody change a folder that is being synchronised.
        let saving = scope.spawn(|| fs::File::open(path.join("d")).unwrap().sync_all().unwrap());
        std::thread::sleep(std::time::Duration::from_millis(300));
        save(&path.join("new"), b"not saved").unwrap();
        saving.join().unwrap();
    });
    fixture.control("faults", json!({"api": []}));
    assert_eq!(fixture.server_names(), ["a"]);
    kill(&mut fixture.writer);
    fixture.client.put_files(&fixture.made.uuid, &[("a", b"theirs"), ("d/b", b"again")]);
    // Nothing is left to be saved, after which one would look at what the server has.
    fixture.client.put_files(&fixture.made.uuid, &[("new", b"not saved")]);
    fixture.writer.start_again();
    for (name, content) in [("a", "theirs"), ("d/b", "again"), ("new", "not saved")] {
        assert_eq!(fs::read_to_string(path.join(name)).unwrap(), content, "{name}: {}", fixture.writer.log());
    }
    append(&path.join("a"), b" and ours").unwrap();
    fixture.writer.unmount_well();
    assert_eq!(fixture.server_names(), ["a", "d/b", "new"]);
    assert!(fixture.server_has("a", b"theirs and ours") && fixture.server_has("d/b", b"again"));
}

#[test]
fn mount_that_only_reads_leaves_the_journals_beside_it_alone() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--sync=exit"]);
    save(&fixture.path().join("new"), b"content").unwrap();
    fs::remove_file(fixture.path().join("d/b")).unwrap();
    let journal = fixture.writer.journal();
    let before = content_of(&journal);
    // Once beside a mount that runs, once beside what a dead one has left.
    for is_dead in [false, true] {
        if is_dead {
            kill(&mut fixture.writer);
        }
        let mut reader = fixture.cluster.mount(&[
            "--read-only".to_owned(),
            "--mount-by-id=by_id".to_owned(),
            format!("--journal-dir={}", journal.display()),
        ]);
        let path = reader.path().join("by_id").join(&fixture.made.uuid);
        assert_eq!(names(&path), ["a", "d"], "it shows what the server has");
        assert_eq!(errno(save(&path.join("x"), b"x")), libc::EROFS);
        let pid = nix::unistd::Pid::from_raw(reader.process.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let ended = crate::support::wait(&mut reader.process, LIMIT);
        assert_eq!(ended.and_then(|status| status.code()), Some(0), "{}", reader.log());
        assert_eq!(content_of(&journal), before, "{is_dead}");
        assert_eq!(fixture.server_names(), ["a", "d/b"], "{is_dead}");
    }
    fixture.writer.start_again();
    assert_eq!(names(&fixture.path()), ["a", "d", "new"]);
    fixture.writer.unmount_well();
    assert!(fixture.server_has("new", b"content"));
    assert_eq!(fixture.server_names(), ["a", "new"]);
}

/// The journal tells of the save for as long as anything else of the collection is in it.
#[test]
fn what_others_have_changed_since_a_killed_mount_saved_it_stays_theirs() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--retries=0"]);
    let path = fixture.path();
    fixture.refuse_text("/bad", 422);
    let file = |name: &'static str| {
        let path = path.join(name);
        Box::new(move || errno(save(&path, b"content"))) as Box<dyn FnOnce() -> i32 + Send>
    };
    let results = fixture.together(vec![file("good"), file("bad")]);
    assert!(results[0] == 0 && results[1] != 0, "{results:?}");
    save(&path.join("a"), b"ours").unwrap();
    assert!(fixture.server_has("a", b"ours"));
    kill(&mut fixture.writer);
    fixture.client.put_files(&fixture.made.uuid, &[("a", b"theirs")]);
    fixture.writer.start_again();
    assert_eq!(fs::read(path.join("a")).unwrap(), b"theirs");
    fixture.control("faults", json!({"api": []}));
    until("the rest to be saved", || fixture.server_has("bad", b"content"));
    fixture.writer.unmount_well();
    assert!(fixture.server_has("a", b"theirs"));
    assert_eq!(fixture.server_names(), ["a", "bad", "d/b", "good", "under way"]);
}

/// `O_SYNC` and `O_DSYNC`: each write is as safe as after `fsync`, while the file is still open.
#[test]
fn what_was_written_synchronously_outlives_a_kill_right_after() {
    if !is_ours() {
        return;
    }
    for (mode, is_on_server) in [("close", true), ("fsync", true), ("idle:60", false), ("exit", false)] {
        let mut fixture = Fixture::new(&[&format!("--sync={mode}")]);
        let path = fixture.path();
        let create = libc::O_CREAT | libc::O_WRONLY;
        let mut one = open(&path.join("sync"), create | libc::O_SYNC).unwrap();
        let mut other = open(&path.join("dsync"), create | libc::O_DSYNC).unwrap();
        let mut appended = open(&path.join("a"), libc::O_WRONLY | libc::O_APPEND | libc::O_SYNC).unwrap();
        one.write_all(b"first, ").unwrap();
        one.write_all(b"second").unwrap();
        other.write_all(b"data").unwrap();
        appended.write_all(b" and more").unwrap();
        let contents = [("sync", &b"first, second"[..]), ("dsync", b"data"), ("a", b"first and more")];
        for (name, content) in contents {
            assert_eq!(fixture.server_has(name, content), is_on_server, "{mode}: {name}");
        }
        fixture.writer.kill();
        fixture.writer.clear();
        drop((one, other, appended));
        fixture.writer.start_again();
        for (name, content) in contents {
            assert_eq!(fs::read(path.join(name)).unwrap(), content, "{mode}: {name}");
        }
        fixture.writer.unmount_well();
        for (name, content) in contents {
            assert!(fixture.server_has(name, content), "{mode}: {name}");
        }
    }
}

#[test]
fn mode_periodic_saves_at_the_end_of_the_period_and_not_at_close() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::old(&[&QUIET[..], &["--sync=periodic:3600"]].concat());
    let path = fixture.path();
    assert_eq!(names(&path), ["a", "d"]);
    let since = fixture.sequence();
    let mut file = open(&path.join("new"), libc::O_CREAT | libc::O_WRONLY).unwrap();
    file.write_all(b"content").unwrap();
    file.sync_all().unwrap();
    close(file).unwrap();
    fs::remove_file(path.join("d/b")).unwrap();
    // Longer than what nobody waits for takes under `--sync=close`.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let saves: Vec<_> = fixture.requests(since).into_iter().filter(|request| request.starts_with('P')).collect();
    assert!(saves.is_empty(), "{saves:?}");
    fixture.writer.start_after_kill();
    assert_eq!(fs::read(path.join("new")).unwrap(), b"content");
    fixture.writer.unmount_well();
    assert!(fixture.server_has("new", b"content"));
}

/// Who waits for a cluster that does not want it would wait for somebody to change that.
#[test]
fn mount_does_not_wait_for_what_the_cluster_refuses() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--sync=idle:60"]);
    save(&fixture.path().join("new"), b"left").unwrap();
    fixture.writer.kill();
    fixture.writer.clear();
    fixture.refuse_saves(403);
    fixture.writer.start_again();
    let attempts = fixture.writer.log().matches("cannot be saved yet").count();
    assert_eq!(attempts, 1, "{}", fixture.writer.log());
    assert_eq!(fs::read(fixture.path().join("new")).unwrap(), b"left");
    fixture.refuse_saves(0);
    until("it to be saved", || fixture.server_has("new", b"left"));
    fixture.writer.unmount_well();
}

/// What the journal says that the server had must not be from before a save of which it knows that it arrived: what others look like
/// is kept.
#[test]
fn what_was_removed_while_its_save_was_answered_stays_away_after_a_kill() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&[&["--sync=idle:1"], &QUIET[..]].concat());
    let path = fixture.path();
    let files: Vec<PathBuf> = (0..400).map(|number| path.join(format!("file{number:03}"))).collect();
    for round in 0..2 {
        for file in &files {
            save(file, b"saved once").unwrap();
        }
        let slow = json!({"method": ["PUT"], "body": "replace_files", "delay": 0.2, "times": 1});
        let no_other = json!({"method": ["PUT"], "body": "replace_files", "status": 503});
        let since = fixture.sequence();
        fixture.control("faults", json!({"api": [slow, no_other]}));
        until("the save to be sent", || fixture.requests(since).iter().any(|it| it.contains(&fixture.made.uuid)));
        // One after the other, each of them in the journal, until long after the answer.
        for file in &files {
            fs::remove_file(file).unwrap();
        }
        assert!(fixture.server_names().len() > files.len(), "they are there still");
        fixture.writer.kill();
        fixture.writer.clear();
        fixture.control("faults", json!({"api": []}));
        fixture.writer.start_again();
        assert_eq!(names(&path), ["a", "d"], "{round}");
        until("the removals to be saved", || fixture.server_names() == ["a", "d/b"]);
    }
}

/// A file that is half written keeps the records of what was there in between, and they know nothing of what came after.
#[test]
fn what_was_undone_before_it_was_saved_stays_so_after_a_kill() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&QUIET);
    let path = fixture.path();
    let mut half_written = fs::File::create(path.join("half written")).unwrap();
    half_written.write_all(b"half").unwrap();
    fs::create_dir(path.join("lock")).unwrap();
    fs::remove_dir(path.join("lock")).unwrap();
    fs::create_dir(path.join("new")).unwrap();
    fs::rename(path.join("new"), path.join("renamed")).unwrap();
    fixture.writer.start_after_kill();
    drop(half_written);
    let shown = names(&path).into_iter().filter(|name| name != "half written").collect::<Vec<_>>();
    assert_eq!(shown, ["a", "d", "renamed"]);
    fixture.writer.unmount_well();
}
