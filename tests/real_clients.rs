//! The real Arvados clients, unmodified, from PyPI, against `arvados cluster`; and what they stored, seen through
//! `arvados mount` and the real `arv-mount`.

mod support;

use std::path::Path;
use std::process::Command;
use support::{Cluster, Mount, run, succeed, succeed_with_input};

/// A small tree with the names that break things.
fn sample_tree(directory: &Path) {
    for (path, content) in [
        ("plain.txt", "hello\n"),
        ("with space.txt", "space\n"),
        ("colon:and\\backslash", "odd\n"),
        ("empty", ""),
        ("sub/naïve-日本.txt", "utf-8\n"),
        ("sub/deep/er/file", "deep\n"),
    ] {
        let path = directory.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

/// `diff -r` finds nothing.
fn assert_same_tree(left: &Path, right: &Path) {
    succeed(Command::new("diff").arg("-r").arg(left).arg(right));
}

fn put(cluster: &Cluster, options: &[&str], path: &Path) -> String {
    let mut command = cluster.client("arv-put");
    command.args(["--no-progress", "--no-resume", "--no-cache", "--batch"]).args(options).arg(path);
    succeed(&mut command).trim().to_owned()
}

#[test]
fn arv_put_uploads_a_directory_and_arv_get_brings_it_back() {
    let cluster = Cluster::start();
    let local = tempfile::tempdir().unwrap();
    let source = local.path().join("tree");
    sample_tree(&source);
    let uuid = put(&cluster, &["--name", "a tree"], &source);

    let listing = succeed(cluster.client("arv-ls").arg(&uuid));
    assert!(listing.lines().any(|line| line == "./tree/sub/deep/er/file"), "{listing}");

    let fetched = local.path().join("fetched");
    std::fs::create_dir(&fetched).unwrap();
    succeed(
        cluster.client("arv-get").arg("--no-progress").arg(format!("{uuid}/")).arg(format!("{}/", fetched.display())),
    );
    assert_same_tree(&source, &fetched.join("tree"));
}

#[test]
fn arv_put_reads_standard_input() {
    let cluster = Cluster::start();
    let mut command = cluster.client("arv-put");
    command.args(["--no-progress", "--filename", "answer.txt", "-"]);
    let uuid = succeed_with_input(&mut command, b"forty-two\n").trim().to_owned();
    let content = succeed(cluster.client("arv-get").arg("--no-progress").arg(format!("{uuid}/answer.txt")).arg("-"));
    assert_eq!(content, "forty-two\n");
}

#[test]
fn arv_put_adds_to_a_collection_that_exists() {
    let cluster = Cluster::start();
    let local = tempfile::tempdir().unwrap();
    let (first, second) = (local.path().join("first"), local.path().join("second"));
    std::fs::write(&first, "1").unwrap();
    std::fs::write(&second, "2").unwrap();
    let uuid = put(&cluster, &[], &first);
    let mut command = cluster.client("arv-put");
    command.args(["--no-progress", "--update-collection", &uuid]).arg(&second);
    succeed(&mut command);
    let listing = succeed(cluster.client("arv-ls").arg(&uuid));
    assert_eq!(listing.lines().collect::<Vec<_>>(), ["./first", "./second"]);
}

#[test]
fn arv_put_resumes_an_upload_that_was_killed() {
    let cluster = Cluster::start();
    let local = tempfile::tempdir().unwrap();
    let big = local.path().join("big");
    // Five blocks of 64 MiB, each different, so that none is a repetition of another.
    let mut content = vec![0u8; 5 << 26];
    for (index, chunk) in content.chunks_mut(1 << 20).enumerate() {
        chunk[..8].copy_from_slice(&(index as u64).to_le_bytes());
    }
    std::fs::write(&big, &content).unwrap();

    let blocks = || {
        let status = succeed(cluster.client("python").arg("-c").arg(COUNT_BLOCKS).arg(cluster.data()));
        status.trim().parse::<usize>().unwrap()
    };
    let mut command = cluster.client("arv-put");
    command.args(["--progress"]).arg(&big);
    let mut upload = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    support::until("the first block", || blocks() >= 1);
    upload.kill().unwrap();
    upload.wait().unwrap();

    let mut command = cluster.client("arv-put");
    let output = run(command.args(["--progress"]).arg(&big), support::LIMIT);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let uuid = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let mount = cluster.mount(&["--by-id"]);
    let seen = std::fs::read(mount.path().join("by_id").join(uuid).join("big")).unwrap();
    assert!(seen == content, "the resumed upload differs");
}

/// Counts the complete blocks below the cluster's folder: files whose name is 32 hex digits.
const COUNT_BLOCKS: &str = "
import os, re, sys
print(sum(bool(re.fullmatch('[0-9a-f]{32}', name)) for _, _, names in os.walk(sys.argv[1]) for name in names))
";

#[test]
fn arv_ws_prints_the_events_of_a_new_collection() {
    let cluster = Cluster::start();
    let output = tempfile::NamedTempFile::new().unwrap();
    let mut watcher = cluster.client("arv-ws").stdout(output.reopen().unwrap()).spawn().unwrap();
    let seen = || std::fs::read_to_string(output.path()).unwrap();
    let local = tempfile::tempdir().unwrap();
    let file = local.path().join("file");
    std::fs::write(&file, "x").unwrap();
    // The watcher says nothing when it is connected, so a new collection is made until it sees one.
    let mut uuid = String::new();
    support::until("an event", || {
        uuid = put(&cluster, &[], &file);
        std::thread::sleep(std::time::Duration::from_millis(500));
        seen().contains(&uuid)
    });
    watcher.kill().unwrap();
    watcher.wait().unwrap();
    assert!(seen().contains("\"event_type\": \"create\"") || seen().contains("'event_type': 'create'"), "{}", seen());
}

#[test]
fn the_python_sdk_saves_updates_merges_removes_and_pages() {
    let cluster = Cluster::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/sdk.py");
    let output = succeed(cluster.client("python").arg(script));
    assert!(output.ends_with("all of it works\n"), "{output}");
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The two clients show the same names below `path` of their mounts.
fn assert_same_names(ours: &Mount, theirs: &Mount, path: &str) {
    assert_eq!(names(&ours.path().join(path)), names(&theirs.path().join(path)), "in {path:?}");
}

#[test]
fn arv_mount_and_arvados_mount_show_the_same_in_every_mode() {
    let cluster = Cluster::start();
    let local = tempfile::tempdir().unwrap();
    let source = local.path().join("tree");
    sample_tree(&source);
    let uuid = put(&cluster, &["--name", "shown"], &source);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/site.py");
    let project = succeed(cluster.client("python").arg(script).arg(&uuid)).trim().to_owned();

    for (options, paths) in [
        (vec![], vec!["", "by_id", "by_tag", "by_tag/fruit", "home", "home/shown", "home/shown/tree", "home/nested"]),
        (vec!["--by-id"], vec![""]),
        (vec!["--by-pdh"], vec![""]),
        (vec!["--by-tag"], vec!["", "fruit"]),
        (vec!["--home"], vec!["", "nested", "nested/inner"]),
        (vec!["--shared"], vec![""]),
        (vec!["--project", &project], vec!["", "inner"]),
        (vec!["--collection", &uuid], vec!["", "tree", "tree/sub", "tree/sub/deep/er"]),
        (vec!["--mount-by-id", "ids", "--mount-home", "mine"], vec!["", "mine", "ids"]),
    ] {
        let ours = cluster.mount(&options);
        let theirs = cluster.arv_mount(&options);
        for path in paths {
            assert_same_names(&ours, &theirs, path);
        }
    }

    let ours = cluster.mount(&["--collection", &uuid]);
    let theirs = cluster.arv_mount(&["--collection", &uuid]);
    assert_same_tree(&ours.path(), &theirs.path());
    assert_same_tree(&source, &ours.path().join("tree"));
}

#[test]
fn the_real_arv_mount_writes_into_the_embedded_cluster() {
    let cluster = Cluster::start();
    let theirs = cluster.arv_mount(&["--read-write", "--home"]);
    std::fs::create_dir(theirs.path().join("made")).unwrap();
    std::fs::write(theirs.path().join("made/file"), "written by arv-mount\n").unwrap();
    std::fs::rename(theirs.path().join("made/file"), theirs.path().join("made/moved")).unwrap();
    drop(theirs);
    let ours = cluster.mount(&["--home"]);
    assert_eq!(std::fs::read_to_string(ours.path().join("made/moved")).unwrap(), "written by arv-mount\n");
}

#[test]
fn the_python_standard_library_survives_the_way_through_the_cluster_with_sixteen_readers() {
    let cluster = Cluster::start();
    let library = succeed(client_python().args(["-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"]));
    let local = tempfile::tempdir().unwrap();
    let source = local.path().join("library");
    // Without site-packages and compiled files: what is left is the same tree on every run, some two thousand files.
    let copy = format!(
        "mkdir {0}; tar -C {1} --exclude=site-packages --exclude=__pycache__ --exclude=config-* -ch . | tar -C {0} -x",
        source.display(),
        library.trim()
    );
    succeed(Command::new("bash").args(["-c", &copy]));
    let uuid = put(&cluster, &[], &source);
    let mount = cluster.mount(&["--collection", &uuid]);
    let readers: Vec<_> = (0..16)
        .map(|_| {
            let (source, mounted) = (source.clone(), mount.path().join("library"));
            std::thread::spawn(move || assert_same_tree(&source, &mounted))
        })
        .collect();
    for reader in readers {
        reader.join().unwrap();
    }
}

#[test]
fn a_large_file_survives_the_way_through_the_cluster_with_sixteen_readers() {
    // `make soak` sets 3 GiB.
    let mebibytes = std::env::var("ARVADOS_TEST_LARGE_MIB").map_or(256, |text| text.parse::<usize>().unwrap());
    let cluster = Cluster::start();
    let local = tempfile::tempdir().unwrap();
    let source = local.path().join("large");
    let make = format!("head -c {mebibytes}M /dev/urandom > {}", source.display());
    succeed(Command::new("bash").args(["-c", &make]));
    let uuid = put(&cluster, &[], &source);
    let mount = cluster.mount(&["--collection", &uuid]);
    let readers: Vec<_> = (0..16)
        .map(|_| {
            let (source, mounted) = (source.clone(), mount.path().join("large"));
            std::thread::spawn(move || {
                let output = run(Command::new("cmp").arg(&source).arg(&mounted), support::LIMIT * 10);
                assert!(output.status.success(), "{output:?}");
            })
        })
        .collect();
    for reader in readers {
        reader.join().unwrap();
    }
}

fn client_python() -> Command {
    support::client("python")
}
