//! The end of a mount that writes: what is saved, what is said where, and that nobody has to wait for a cluster that is gone.

mod mount_support;
mod support;

use mount_support::background::{Background, is_alive, send};
use mount_support::files::save;
use mount_support::writer::{Writer, is_mounted};
use mount_support::{Client, control};
use nix::sys::signal::Signal;
use serde_json::json;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, ExitStatus};
use support::{Cluster, LIMIT, run, until, wait};

/// A mount with a file that is in its journal only.
fn unsaved(cluster: &Cluster, client: &Client, options: &[&str]) -> (Writer, String) {
    let made = client.collection(&format!("work {}", options.len()), None, client.manifest(&[("old", b"old")]));
    let writer = Writer::start(cluster, &[&["--sync=exit", "--debug"], options].concat());
    save(&writer.collection(&made.uuid).join("f"), b"not saved yet").unwrap();
    (writer, made.uuid)
}

fn end(writer: &mut Writer) -> ExitStatus {
    let mut process = writer.process.take().expect("it is mounted");
    let ended = wait(&mut process, LIMIT);
    if ended.is_none() {
        writer.process = Some(process);
        panic!("it does not end");
    }
    ended.unwrap()
}

/// It has the folder open, and goes on making files in it when the mount is taken away. An earlier mount has left something that
/// cannot be saved: that is waited for, after everything else was saved.
#[test]
fn what_a_program_is_promised_that_does_not_stop_is_saved_before_a_good_end() {
    for mode in ["exit", "idle:60"] {
        let cluster = Cluster::start();
        let client = Client::new(&cluster);
        let sync = format!("--sync={mode}");
        let (mut writer, lost) = unsaved(&cluster, &client, &[&sync, "--unmount-timeout=0.3"]);
        let made = client.collection("goes on", None, client.manifest(&[("old", b"old")]));
        writer.kill();
        writer.clear();
        client.delete(&lost);
        writer.start_again();
        let folder = fs::File::open(writer.collection(&made.uuid)).unwrap();
        let inside = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string());
        let (promised, status) = std::thread::scope(|scope| {
            let promised = scope.spawn(|| {
                let names = (0..5_000).map(|number| number.to_string());
                let is_saved = |name: &String| {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                    save(&inside.join(name), b"promised").is_ok()
                };
                names.take_while(is_saved).collect::<Vec<_>>()
            });
            std::thread::sleep(std::time::Duration::from_millis(500));
            let status = writer.terminate();
            (promised.join().unwrap(), status)
        });
        assert!(promised.len() > 10 && promised.len() < 5_000, "{}", promised.len());
        let there = client.files(&made.uuid);
        let missing: Vec<_> = promised.iter().filter(|name| !there.contains_key(*name)).collect();
        assert!(missing.is_empty() && status.success(), "{mode}: {status:?}, {missing:?}\n{}", writer.log());
    }
}

#[test]
fn second_signal_ends_the_wait_for_a_cluster_that_is_gone_and_the_next_mount_saves() {
    let mut cluster = Cluster::start();
    let client = Client::new(&cluster);
    let file = tempfile::NamedTempFile::new().unwrap();
    let to_file = format!("--logfile={}", file.path().display());
    for (signal, options) in [(Signal::SIGTERM, vec![]), (Signal::SIGINT, vec![to_file.as_str()])] {
        let (mut writer, uuid) = unsaved(&cluster, &client, &options);
        let journal = fs::read_dir(writer.journal()).unwrap().next().unwrap().unwrap().path();
        let log = |writer: &Writer| writer.log() + &fs::read_to_string(file.path()).unwrap();
        cluster.kill();
        send(writer.pid(), signal);
        until("the first signal", || log(&writer).contains("unmounting"));
        // A service manager that is configured so sends it along.
        send(writer.pid(), Signal::SIGHUP);
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert!(is_alive(writer.pid()), "it tries to save: {}", log(&writer));
        send(writer.pid(), signal);
        let status = end(&mut writer);
        let log = log(&writer);
        assert_eq!(status.code(), Some(1), "{log}");
        let line = log.lines().find(|line| line.contains("not saved: the data stay in the journal")).expect(&log);
        assert!(line.contains(&uuid) && line.contains(journal.to_str().unwrap()), "{line}");
        assert!(line.contains("a second signal has ended the wait"), "{line}");
        if !options.is_empty() {
            let said = writer.log();
            assert!(
                said.contains("1 collection(s) are not saved") && said.contains(journal.to_str().unwrap()),
                "{said}"
            );
        }
        assert!(!is_mounted(&writer.path()));
        cluster.restart();
        writer.start_again();
        let saved = || client.files(&uuid).get("f").is_some_and(|data| data == b"not saved yet");
        until("the save of what was left", saved);
        writer.unmount_well();
    }
}

/// Who unmounts first and then sends SIGTERM to all, as service managers do, asks for one end and not for a hasty one.
#[test]
fn first_signal_after_an_unmount_leaves_time_to_save_and_the_second_does_not() {
    let cluster = Cluster::start_with(&["--faults"]);
    let client = Client::new(&cluster);
    let (mut writer, _) = unsaved(&cluster, &client, &[]);
    control(&cluster, "faults", json!({"api": [{"method": ["PUT"], "path": "/collections/", "delay": 600}]}));
    until("the unmount", || run(Command::new("fusermount3").arg("-u").arg(writer.path()), LIMIT).status.success());
    until("the end of the session", || !is_mounted(&writer.path()));
    send(writer.pid(), Signal::SIGTERM);
    until("the answer", || writer.log().contains("a second signal ends that at once"));
    assert!(is_alive(writer.pid()), "it goes on");
    send(writer.pid(), Signal::SIGTERM);
    let status = end(&mut writer);
    assert_eq!(status.code(), Some(1), "{}", writer.log());
    assert!(writer.log().contains("not saved: the data stay in the journal"), "{}", writer.log());
}

/// Only where there is no syslog service: what it gets is not for a test to read.
#[test]
fn mount_in_the_background_says_where_it_logs_and_what_it_could_not_save_is_there() {
    if Path::new("/dev/log").exists() {
        return;
    }
    let mut cluster = Cluster::start();
    let client = Client::new(&cluster);
    let made = client.collection("work", None, client.manifest(&[("old", b"old")]));
    let mount = Background::new(&cluster);
    let output = mount.start(&["--read-write", "--sync=exit", "--debug", "--mount-by-id=by_id"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let file = mount.directory.path().join("state/arvados/mount.log");
    assert!(said.contains(&format!("this mount logs to {}", file.display())), "{said}");
    let log = || fs::read_to_string(&file).unwrap();
    save(&mount.path().join("by_id").join(&made.uuid).join("f"), b"not saved").unwrap();
    cluster.kill();
    let process = mount.process().expect("the mount");
    send(process, Signal::SIGTERM);
    until("the first signal", || log().contains("unmounting"));
    send(process, Signal::SIGTERM);
    until("the end", || !is_alive(process));
    for text in ["not saved: the data stay in the journal", "the mount ends, and not everything is saved status=1"] {
        assert!(
            log().lines().any(|line| line.contains(&format!("[{process}] ERROR: ")) && line.contains(text)),
            "{}",
            log()
        );
    }
}

#[test]
fn what_a_process_that_the_command_leaves_behind_has_written_is_saved() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let made = client.collection("work", None, client.manifest(&[("old", b"old")]));
    let directory = tempfile::tempdir().unwrap();
    let mount = directory.path().join("mnt");
    fs::create_dir(&mount).unwrap();
    // It ends by itself soon after the mount, whatever becomes of this test.
    let script = r#"(exec 3>"$0/by_id/$1/f"; printf 'left open' >&3; touch "$2"; while test -e "$2"; do sleep 0.1; done)                     >/dev/null 2>&1 & while ! test -e "$2"; do sleep 0.1; done"#;
    let marker = directory.path().join("written");
    let mut command = support::arvados();
    command.args(["mount", "--read-write", "--mount-by-id=by_id"]).arg(&mount).args(["--exec", "sh", "-c", script]);
    command.arg(&mount).arg(&made.uuid).arg(&marker).envs(cluster.environment(None));
    command.env("XDG_STATE_HOME", directory.path().join("state"));
    let output = run(&mut command, LIMIT);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("still in use by"), "{said}");
    assert!(!is_mounted(&mount));
    assert_eq!(client.files(&made.uuid).get("f").map(Vec::as_slice), Some(&b"left open"[..]), "{said}");
}

#[test]
fn saving_at_the_end_shows_on_a_terminal() {
    let cluster = Cluster::start_with(&["--faults"]);
    let client = Client::new(&cluster);
    let made = client.collection("work", None, client.manifest(&[("old", b"old")]));
    let directory = tempfile::tempdir().unwrap();
    let mount = directory.path().join("mnt");
    fs::create_dir(&mount).unwrap();
    // Long enough for the bar to be drawn.
    control(&cluster, "faults", json!({"api": [{"method": ["PUT"], "path": "/collections/", "delay": 2, "times": 1}]}));
    let line = format!(
        "{} mount --read-write --sync=exit --mount-by-id=by_id {mount} --exec sh -c 'echo x > {mount}/by_id/{}/f'",
        env!("CARGO_BIN_EXE_arvados"),
        made.uuid,
        mount = mount.display(),
    );
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).envs(cluster.environment(None));
    command.env("XDG_STATE_HOME", directory.path().join("state")).env("TERM", "xterm");
    let output = run(&mut command, LIMIT);
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(shown.contains("saving 0 of 1 collections"), "{shown}");
    assert!(shown.contains("leaves it to the next mount"), "{shown}");
    assert!(client.files(&made.uuid).contains_key("f"));
}

fn refuse_saves_of(cluster: &Cluster, uuid: &str) {
    control(cluster, "faults", json!({"api": [{"method": ["PUT", "PATCH"], "path": uuid, "status": 403}]}));
}

/// What is said of the collection that could not be saved, and of no other.
fn assert_says_what_stays(log: &str, refused: &str, saved: &str, journals: &Path) {
    let lines: Vec<&str> =
        log.lines().filter(|line| line.contains("not saved: the data stay in the journal")).collect();
    assert!(!lines.is_empty(), "{log}");
    for line in lines {
        assert!(line.contains(refused) && line.contains("403"), "{line}");
        assert!(line.contains(journals.to_str().unwrap()) && !line.contains(saved), "{line}");
    }
    assert!(log.contains("the mount ends, and not everything is saved"), "{log}");
}

#[test]
fn collection_that_is_refused_at_the_end_keeps_no_other_from_being_saved() {
    let cluster = Cluster::start_with(&["--faults"]);
    let client = Client::new(&cluster);
    let (mut writer, refused) = unsaved(&cluster, &client, &["--retries=0"]);
    let other = client.collection("other", None, String::new());
    save(&writer.collection(&other.uuid).join("g"), b"saved").unwrap();
    refuse_saves_of(&cluster, &refused);
    let status = writer.unmount();
    assert_eq!(status.code(), Some(1), "{}", writer.log());
    assert!(client.has(&other.uuid, "g", b"saved"));
    assert_eq!(client.files(&refused).keys().collect::<Vec<_>>(), ["old"]);
    assert_says_what_stays(&writer.log(), &refused, &other.uuid, &writer.journal());
    let mut list = support::arvados();
    list.args(["journal", "list", "--json", "--journal-dir"]).arg(writer.journal());
    let list = support::succeed(&mut list);
    assert!(list.contains(&refused) && !list.contains(&other.uuid), "{list}");
    control(&cluster, "faults", json!({"api": []}));
    writer.start_again();
    until("the save of what was left", || client.has(&refused, "f", b"not saved yet"));
    writer.unmount_well();
}

#[test]
fn command_that_went_well_ends_with_a_failure_if_what_it_wrote_cannot_be_saved() {
    let cluster = Cluster::start_with(&["--faults"]);
    let client = Client::new(&cluster);
    for (script_status, expected) in [(0, 1), (3, 3)] {
        let name = |number: u32| format!("{script_status} {number}");
        let refused = client.collection(&name(1), None, client.manifest(&[("old", b"old")]));
        let other = client.collection(&name(2), None, String::new());
        let mut writer = Writer::start(&cluster, &["--sync=exit", "--retries=0"]);
        writer.unmount_well();
        refuse_saves_of(&cluster, &refused.uuid);
        let script = r#"printf refused > "$0/f" && printf saved > "$1/g" && exit "$2""#;
        let mut command = writer.command();
        command.args(["--exec", "sh", "-c", script]);
        command
            .arg(writer.collection(&refused.uuid))
            .arg(writer.collection(&other.uuid))
            .arg(script_status.to_string());
        let output = run(&mut command, LIMIT);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(expected), "{said}");
        assert!(client.has(&other.uuid, "g", b"saved"));
        assert_says_what_stays(&said, &refused.uuid, &other.uuid, &writer.journal());
        control(&cluster, "faults", json!({"api": []}));
        writer.start_again();
        until("the save of what was left", || client.has(&refused.uuid, "f", b"refused"));
        writer.unmount_well();
    }
}
