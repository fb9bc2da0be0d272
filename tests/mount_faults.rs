//! The mount on a cluster that fails: nobody hangs, nothing wrong is shown, and it goes on when the cluster does.

mod mount_support;
mod support;

use mount_support::{Client, control};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Cluster, LIMIT, Mount, until, wait};

fn failing_cluster() -> Cluster {
    Cluster::start_with(&["--faults", "--keepstores", "2"])
}

/// A program that reads a file and will wait for it.
fn reader(path: &std::path::Path) -> Child {
    let mut command = Command::new("dd");
    command.arg(format!("if={}", path.display())).args(["of=/dev/null", "bs=1", "count=1", "status=none"]);
    command.stderr(Stdio::null()).spawn().unwrap()
}

fn assert_is_waiting(child: &mut Child) {
    std::thread::sleep(Duration::from_millis(700));
    assert!(child.try_wait().unwrap().is_none(), "it should wait for the cluster");
}

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn mount_of_one_file(cluster: &Cluster, options: &[&str]) -> (Mount, std::path::PathBuf) {
    let client = Client::new(cluster);
    let made = client.collection("one file", None, client.manifest(&[("f", b"foo"), ("other", b"other")]));
    let mount = cluster.mount(&[options, &["--mount-by-id", "by_id"]].concat());
    let path = mount.path().join("by_id").join(made.uuid);
    (mount, path)
}

#[test]
fn killed_reader_does_not_wait_for_a_keep_that_does_not_answer() {
    let cluster = failing_cluster();
    let (mut mount, path) = mount_of_one_file(&cluster, &[]);
    assert_eq!(fs::metadata(path.join("f")).unwrap().len(), 3);
    control(&cluster, "faults", json!({"keep": [{"method": ["GET"], "delay": 300}]}));
    let mut child = reader(&path.join("f"));
    assert_is_waiting(&mut child);
    let start = Instant::now();
    child.kill().unwrap();
    wait(&mut child, LIMIT).expect("the reader dies");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // The mount itself is as free: it ends although a request to Keep is under way.
    let mut child = reader(&path.join("other"));
    assert_is_waiting(&mut child);
    let start = Instant::now();
    kill(Pid::from_raw(mount.process.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(wait(&mut mount.process, LIMIT).and_then(|status| status.code()), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    wait(&mut child, LIMIT).expect("the reader gets an error");
}

#[test]
fn killed_process_does_not_wait_for_an_api_that_does_not_answer() {
    let cluster = failing_cluster();
    let (mut mount, path) = mount_of_one_file(&cluster, &[]);
    control(&cluster, "faults", json!({"api": [{"path": "/collections/", "delay": 300}]}));
    let mut child = reader(&path.join("f"));
    assert_is_waiting(&mut child);
    let start = Instant::now();
    child.kill().unwrap();
    wait(&mut child, LIMIT).expect("the reader dies");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(fs::metadata(mount.path().join("by_id/README")).is_ok(), "the rest of the tree answers");
    kill(Pid::from_raw(mount.process.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(wait(&mut mount.process, LIMIT).and_then(|status| status.code()), Some(0));
}

#[test]
fn outage_of_the_api_is_an_error_and_not_an_absence() {
    let cluster = failing_cluster();
    let (mount, path) = mount_of_one_file(&cluster, &["--retries=0"]);
    control(&cluster, "faults", json!({"api": [{"path": "/collections/", "status": 503}]}));
    assert_eq!(errno(fs::metadata(&path)), Some(libc::EIO));
    assert!(mount.log().contains("Unhandled exception during FUSE operation"));
    control(&cluster, "faults", json!({"api": []}));
    assert_eq!(fs::read(path.join("f")).unwrap(), b"foo");
}

#[test]
fn what_is_loaded_stays_readable_while_the_api_is_away() {
    let cluster = failing_cluster();
    let (_mount, path) = mount_of_one_file(&cluster, &["--retries=0", "--refresh-time=1"]);
    assert_eq!(fs::read(path.join("f")).unwrap(), b"foo");
    control(&cluster, "faults", json!({"api": [{"path": "/collections/", "delay": 300}]}));
    // Beyond all limits of freshness: the first look waits a little for the server, the next ones do not.
    std::thread::sleep(Duration::from_secs(4));
    let start = Instant::now();
    for _ in 0..20 {
        assert_eq!(fs::read_dir(&path).unwrap().count(), 2);
        assert_eq!(fs::read(path.join("f")).unwrap(), b"foo");
    }
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
}

#[test]
fn project_that_nobody_can_be_asked_about_is_shown_as_not_writable() {
    let cluster = failing_cluster();
    let mount = cluster.mount(&["--all", "--read-write", "--disable-event-listening"]);
    control(&cluster, "faults", json!({"api": [{"path": "/users/zzzzz-", "delay": 300}]}));
    let home = mount.path().join("home");
    let (send, receive) = std::sync::mpsc::channel();
    let looking = home.clone();
    std::thread::spawn(move || send.send(fs::metadata(&looking).map(|it| it.permissions().mode() & 0o777).ok()));
    let mode = receive.recv_timeout(LIMIT);
    control(&cluster, "faults", json!({"api": []}));
    assert_eq!(mode, Ok(Some(0o555)));
    // Whoever wants to write asks again.
    fs::create_dir(home.join("made")).unwrap();
    assert_eq!(fs::metadata(&home).unwrap().permissions().mode() & 0o777, 0o777);
}

#[test]
fn missing_block_is_an_io_error_with_the_phrase_that_callers_look_for() {
    let cluster = failing_cluster();
    let (mount, path) = mount_of_one_file(&cluster, &["--retries=0"]);
    // md5 of "foo".
    control(&cluster, "keep", json!({"delete": ["acbd18db4cc2f85cedef654fccc4a4d8"]}));
    assert_eq!(errno(fs::read(path.join("f"))), Some(libc::EIO));
    assert!(mount.log().contains("Block not found error"), "{}", mount.log());
    assert_eq!(fs::read(path.join("other")).unwrap(), b"other");
}

#[test]
fn signatures_that_expire_are_renewed_for_open_files() {
    let cluster = failing_cluster();
    let client = Client::new(&cluster);
    let made = client.collection("signed", None, client.manifest(&[("a", b"first"), ("b", b"second")]));
    control(&cluster, "config", json!({"sign_expiry": 4}));
    let mount = cluster.mount(&["--mount-by-id", "by_id"]);
    for id in [&made.uuid, &made.hash] {
        let directory = mount.path().join("by_id").join(id);
        let open = fs::File::open(directory.join("b")).unwrap();
        assert_eq!(fs::read(directory.join("a")).unwrap(), b"first");
        std::thread::sleep(Duration::from_secs(6));
        let mut data = [0; 6];
        std::os::unix::fs::FileExt::read_exact_at(&open, &mut data, 0).unwrap();
        assert_eq!(&data, b"second");
    }
}

#[test]
fn actor_of_a_collection_survives_a_storm_of_changes() {
    let cluster = failing_cluster();
    let client = Client::new(&cluster);
    let made = client.collection("stormy", None, client.manifest(&[("f", b"0")]));
    let mount = cluster.mount(&["--mount-by-id", "by_id"]);
    let path = mount.path().join("by_id").join(&made.uuid).join("f");
    assert_eq!(fs::read(&path).unwrap(), b"0");
    for number in 0..50u32 {
        client.replace(&made.uuid, client.manifest(&[("f", number.to_string().as_bytes())]));
        assert!(!fs::read(&path).unwrap().is_empty());
    }
    until("the last change", || fs::read(&path).unwrap() == b"49");
}
