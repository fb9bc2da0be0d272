//! Projects: collections are made, moved and trashed as folders, and every refusal says why.

use crate::fixture::names;
use crate::mount_support::files::{errno, save};
use crate::mount_support::writer::Writer;
use crate::mount_support::{Client, control};
use crate::support::{Cluster, until};
use serde_json::json;
use std::fs;

fn home(cluster: &Cluster) -> (Writer, std::path::PathBuf) {
    let writer = Writer::start(cluster, &["--mount-home=home"]);
    let path = writer.path().join("home");
    (writer, path)
}

#[test]
fn folder_made_in_a_project_is_a_collection() {
    let cluster = Cluster::start_with(&["--faults"]);
    let client = Client::new(&cluster);
    let (_writer, home) = home(&cluster);
    fs::create_dir(home.join("made")).unwrap();
    save(&home.join("made/f"), b"content").unwrap();
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(home.join("made/.arvados#collection")).unwrap()).unwrap();
    let uuid = record["uuid"].as_str().unwrap();
    assert!(client.has(uuid, "f", b"content"));
    assert_eq!(client.record(uuid).name, "made");
    assert_eq!(errno(fs::create_dir(home.join("made"))), libc::EEXIST);
    assert_eq!(errno(fs::remove_dir(home.join("made"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_dir(home.join("missing"))), libc::ENOENT);
    let refused = errno(save(&home.join("file"), b"x"));
    assert!([libc::EPERM, libc::ENOTSUP].contains(&refused), "{refused}");
    let long = "x".repeat(256);
    assert_eq!(errno(fs::create_dir(home.join(&long))), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::rename(home.join("made"), home.join(&long))), libc::ENAMETOOLONG);
    fs::remove_file(home.join("made/f")).unwrap();
    fs::remove_dir(home.join("made")).unwrap();
    assert!(names(&home).is_empty());
    assert_eq!(client.fetch(uuid).err().and_then(|error| error.status()), Some(404), "it is in the trash");
}

#[test]
fn collections_are_renamed_and_moved_as_folders() {
    let cluster = Cluster::start_with(&["--faults"]);
    let client = Client::new(&cluster);
    let project = project(&cluster, "project");
    let made = client.collection("first", None, client.manifest(&[("f", b"foo")]));
    client.collection("taken", None, String::new());
    let (writer, home) = home(&cluster);
    fs::rename(home.join("first"), home.join("second")).unwrap();
    assert_eq!(client.record(&made.uuid).name, "second");
    assert_eq!(fs::read(home.join("second/f")).unwrap(), b"foo");
    let refused = errno(fs::rename(home.join("second"), home.join("taken")));
    assert!([libc::EEXIST, libc::EPERM, libc::ENOTEMPTY].contains(&refused), "{refused}");
    fs::rename(home.join("second"), writer.collection(&project).join("third")).unwrap();
    let record = client.record(&made.uuid);
    assert_eq!((record.name.as_str(), record.owner_uuid.as_str()), ("third", project.as_str()));
    assert_eq!(names(&home), ["project", "taken"]);
    assert_eq!(errno(fs::rename(home.join("project"), home.join("renamed"))), libc::EPERM);
    assert_eq!(errno(fs::remove_dir(home.join("project"))), libc::EPERM);
    until("the event", || names(&home.join("project")) == ["third"]);
}

/// arv-mount.md 3.1: mkdir says EEXIST whatever happened, rename EIO.
#[test]
fn refusals_of_the_server_say_why() {
    let cluster = Cluster::start_with(&["--faults"]);
    let client = Client::new(&cluster);
    client.collection("there", None, String::new());
    let (_writer, home) = home(&cluster);
    assert_eq!(names(&home), ["there"]);
    let statuses = [
        (403, vec![libc::EACCES, libc::EPERM]),
        (401, vec![libc::EACCES, libc::EPERM]),
        (404, vec![libc::ESTALE, libc::ENOENT]),
    ];
    for (status, expected) in statuses {
        let rule = |method: &str| json!({"method": [method, "PATCH"], "path": "/collections", "status": status});
        control(&cluster, "faults", json!({"api": [rule("POST"), rule("PUT"), rule("DELETE")]}));
        for refused in [
            errno(fs::create_dir(home.join("new"))),
            errno(fs::rename(home.join("there"), home.join("elsewhere"))),
            errno(fs::remove_dir(home.join("there"))),
        ] {
            assert!(expected.contains(&refused), "{status}: {refused}");
        }
    }
    control(&cluster, "faults", json!({"api": []}));
    fs::create_dir(home.join("new")).unwrap();
    assert_eq!(names(&home), ["new", "there"]);
}

/// A request that was carried out is answered in the same way when it is repeated (protocol.md 4.4).
#[test]
fn folder_is_removed_though_the_answer_to_that_got_lost() {
    let cluster = Cluster::start_with(&["--faults"]);
    let client = Client::new(&cluster);
    let (_writer, home) = home(&cluster);
    let lost = |fault: serde_json::Value| {
        let mut rule = json!({"method": ["DELETE"], "path": "/collections/", "times": 1});
        rule.as_object_mut().unwrap().extend(fault.as_object().unwrap().clone());
        rule
    };
    let gone = json!({"method": ["DELETE"], "path": "/collections/", "status": 404});
    let cases = [
        (vec![lost(json!({"drop": "after"}))], 0),
        (vec![lost(json!({"drop": "before"}))], 0),
        (vec![lost(json!({"status": 502, "apply_first": true}))], 0),
        // Somebody else was faster.
        (vec![lost(json!({"status": 503})), gone], libc::ENOENT),
    ];
    for (faults, expected) in cases {
        let made = client.collection("empty", None, String::new());
        until("the collection to show", || names(&home) == ["empty"]);
        control(&cluster, "faults", json!({"api": faults}));
        assert_eq!(errno(fs::remove_dir(home.join("empty"))), expected, "{faults:?}");
        control(&cluster, "faults", json!({"api": []}));
        if expected == 0 {
            assert!(names(&home).is_empty(), "{faults:?}");
            assert_eq!(client.fetch(&made.uuid).err().and_then(|error| error.status()), Some(404), "{faults:?}");
        }
    }
}

fn project(cluster: &Cluster, name: &str) -> String {
    const CREATE: &str = "import arvados, sys; print(arvados.api('v1').groups().create(
        body={'group': {'group_class': 'project', 'name': sys.argv[1]}}).execute()['uuid'])";
    crate::support::succeed(cluster.client("python").args(["-c", CREATE, name])).trim().to_owned()
}
