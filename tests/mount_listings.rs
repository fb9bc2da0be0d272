//! What other clients do to projects, tags, shares and filter groups shows in the mount because events tell of it: also where a
//! name was looked up before it existed, where a directory is open, and where it is a working directory.
//!
//! The mounts look by themselves after ten minutes only, so the kernel may remember names for a minute and missing ones for
//! half a minute: whatever shows sooner was told.

mod mount_support;
mod support;

use mount_support::Client;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{Cluster, LIMIT, Mount, arvados, run, succeed};

/// It takes a second and one request; the rest is for a busy machine.
const SOON: Duration = Duration::from_secs(5);

/// A user who talks to the API.
struct Person {
    host: String,
    token: String,
    certificate: String,
}

impl Person {
    fn of(cluster: &Cluster, user: Option<&str>) -> Person {
        let environment = cluster.environment(user);
        let value = |name: &str| environment.iter().find(|it| it.0 == name).map(|it| it.1.clone()).unwrap_or_default();
        let (host, token) = (value("ARVADOS_API_HOST"), value("ARVADOS_API_TOKEN"));
        Person { host, token, certificate: value("SSL_CERT_FILE") }
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail-with-body", "-X", method, "--cacert", &self.certificate]);
        command.args(["-H", &format!("Authorization: Bearer {}", self.token), "-H", "Content-Type: application/json"]);
        command.args(["--data", &body.to_string(), &format!("https://{}/arvados/v1/{path}", self.host)]);
        let output = run(&mut command, LIMIT);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{method} {path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    fn make(&self, kind: &str, attributes: Value) -> String {
        self.call("POST", &format!("{kind}s"), &json!({kind: attributes}))["uuid"].as_str().unwrap().to_owned()
    }

    fn change(&self, kind: &str, uuid: &str, attributes: Value) {
        self.call("PUT", &format!("{kind}s/{uuid}"), &json!({kind: attributes}));
    }

    fn remove(&self, kind: &str, uuid: &str) {
        self.call("DELETE", &format!("{kind}s/{uuid}"), &json!({}));
    }

    fn uuid(&self) -> String {
        self.call("GET", "users/current", &json!({}))["uuid"].as_str().unwrap().to_owned()
    }
}

/// Dropped from top to bottom: the mount first.
struct Scene {
    mount: Mount,
    me: Person,
    cluster: Cluster,
}

impl Scene {
    /// A mount that hears of events already.
    fn new(options: &[&str]) -> Scene {
        let cluster = Cluster::start_with(&["--faults"]);
        let mount = cluster.mount(&[&["--all", "--refresh-time=600"], options].concat());
        let me = Person::of(&cluster, None);
        let scene = Scene { mount, me, cluster };
        assert_eq!(names(&scene.home()), [""; 0]);
        let deadline = Instant::now() + LIMIT;
        for number in 0.. {
            let name = format!("first {number}");
            let uuid = scene.me.make("collection", json!({"name": name}));
            let shows = shows_within(Duration::from_secs(1), || names(&scene.home()).contains(&name));
            scene.me.remove("collection", &uuid);
            if shows {
                break;
            }
            assert!(Instant::now() < deadline, "no events:\n{}", scene.mount.log());
        }
        soon("nothing is left", || names(&scene.home()).is_empty());
        scene
    }

    fn home(&self) -> PathBuf {
        self.mount.path().join("home")
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn shows_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

fn soon(what: &str, condition: impl FnMut() -> bool) {
    let began = Instant::now();
    assert!(shows_within(SOON, condition), "{what}: not within {SOON:?}");
    eprintln!("{what}: {} ms", began.elapsed().as_millis());
}

#[test]
fn collections_and_projects_of_others_come_change_names_and_go() {
    let scene = Scene::new(&[]);
    let home = scene.home();
    for (kind, attributes) in
        [("collection", json!({"name": "a"})), ("group", json!({"name": "a", "group_class": "project"}))]
    {
        assert!(!home.join("a").exists() && !home.join("b").exists());
        let uuid = scene.me.make(kind, attributes);
        soon("it came", || home.join("a").exists());
        assert_eq!(names(&home), ["a"]);
        scene.me.change(kind, &uuid, json!({"name": "b"}));
        soon("its new name", || home.join("b").exists());
        soon("its old name", || !home.join("a").exists());
        assert_eq!(names(&home), ["b"]);
        scene.me.remove(kind, &uuid);
        soon("it went", || !home.join("b").exists());
        assert!(names(&home).is_empty());
    }
}

#[test]
fn another_object_of_the_same_name_takes_its_place() {
    let scene = Scene::new(&[]);
    let record = scene.home().join("a/.arvados#collection");
    let shown = || serde_json::from_slice::<Value>(&fs::read(&record).ok()?).ok()?["uuid"].as_str().map(str::to_owned);
    let first = scene.me.make("collection", json!({"name": "a"}));
    soon("the first", || shown().as_ref() == Some(&first));
    scene.me.change("collection", &first, json!({"name": "b"}));
    let second = scene.me.make("collection", json!({"name": "a"}));
    soon("the second", || shown().as_ref() == Some(&second));
}

#[test]
fn project_that_is_open_or_a_working_directory_follows() {
    let scene = Scene::new(&[]);
    let project = scene.me.make("group", json!({"name": "project", "group_class": "project"}));
    let path = scene.home().join("project");
    soon("the project", || path.exists());
    let open = File::open(&path).unwrap();
    let mut child = Command::new("sleep").arg("60").current_dir(&path).stdin(Stdio::null()).spawn().unwrap();
    let places = [
        PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd())),
        PathBuf::from(format!("/proc/{}/cwd", child.id())),
        path.clone(),
    ];
    let result = std::panic::catch_unwind(|| {
        for place in &places {
            assert!(!place.join("inside").exists() && names(place).is_empty());
        }
        let inside = scene.me.make("collection", json!({"name": "inside", "owner_uuid": project}));
        for place in &places {
            soon("what came into it", || place.join("inside").exists());
            assert_eq!(names(place), ["inside"]);
        }
        scene.me.change("group", &project, json!({"name": "renamed"}));
        soon("its new name", || scene.home().join("renamed/inside").exists() && !path.exists());
        scene.me.change("collection", &inside, json!({"name": "still"}));
        for place in &places[..2] {
            soon("what is in it now", || place.join("still").exists() && !place.join("inside").exists());
        }
    });
    let _ = child.kill();
    let _ = child.wait();
    result.unwrap();
}

#[test]
fn tags_come_change_and_go() {
    let scene = Scene::new(&[]);
    let tags = scene.mount.path().join("by_tag");
    let made = scene.me.make("collection", json!({"name": "tagged"}));
    assert!(names(&tags).is_empty() && !tags.join("green").exists() && !tags.join("blue").exists());
    let tag = scene.me.make("link", json!({"link_class": "tag", "name": "green", "head_uuid": made}));
    soon("the tag", || tags.join("green").join(&made).exists());
    assert_eq!(names(&tags.join("green")), [made.as_str()]);
    scene.me.change("link", &tag, json!({"name": "blue"}));
    soon("its new name", || tags.join("blue").join(&made).exists());
    soon("its old name", || !tags.join("green").exists());
    scene.me.remove("link", &tag);
    soon("it went", || !tags.join("blue").exists());
    assert!(names(&tags).is_empty());
}

#[test]
fn what_others_share_comes_changes_and_goes() {
    let scene = Scene::new(&[]);
    let mut command = arvados();
    command.args(["cluster", "user", "create", "other", "--data"]).arg(scene.cluster.data());
    succeed(&mut command);
    let other = Person::of(&scene.cluster, Some("other"));
    let shared = scene.mount.path().join("shared");
    assert!(!names(&shared).contains(&"other User".to_owned()) && !shared.join("other User").exists());
    let project = other.make("group", json!({"name": "theirs", "group_class": "project"}));
    let link =
        json!({"link_class": "permission", "name": "can_read", "tail_uuid": scene.me.uuid(), "head_uuid": project});
    other.make("link", link);
    soon("the share", || shared.join("other User/theirs").exists());
    assert!(names(&shared).contains(&"other User".to_owned()));
    assert!(!shared.join("other User/theirs/inside").exists());
    other.make("collection", json!({"name": "inside", "owner_uuid": project}));
    soon("what is in it", || shared.join("other User/theirs/inside").exists());
    other.change("group", &project, json!({"name": "still theirs"}));
    soon("its new name", || shared.join("other User/still theirs").exists());
    soon("its old name", || !shared.join("other User/theirs").exists());
    other.remove("group", &project);
    soon("it went", || !shared.join("other User").exists());
}

#[test]
fn members_of_a_filter_group_come_and_go() {
    let scene = Scene::new(&[]);
    let filters = json!({"filters": [["collections.name", "like", "sample%"], ["uuid", "is_a", "arvados#collection"]]});
    scene.me.make("group", json!({"name": "samples", "group_class": "filter", "properties": filters}));
    let samples = scene.home().join("samples");
    soon("the filter group", || samples.exists());
    assert!(names(&samples).is_empty() && !samples.join("sample 1").exists());
    let made = scene.me.make("collection", json!({"name": "sample 1"}));
    soon("a member", || samples.join("sample 1").exists());
    assert_eq!(names(&samples), ["sample 1"]);
    scene.me.change("collection", &made, json!({"name": "sample 2"}));
    soon("its new name", || samples.join("sample 2").exists() && !samples.join("sample 1").exists());
    scene.me.change("collection", &made, json!({"name": "no more"}));
    soon("it went", || !samples.join("sample 2").exists());
    assert!(names(&samples).is_empty());
}

/// What only changes inside does not make the listing be read again, and what nobody looks at is not read at all.
#[test]
fn events_cost_requests_only_where_a_listing_is_used() {
    let scene = Scene::new(&[]);
    let unused = scene.me.make("group", json!({"name": "unused", "group_class": "project"}));
    soon("the project", || scene.home().join("unused").exists());
    let made = scene.me.make("collection", json!({"name": "work"}));
    soon("the collection", || scene.home().join("work").exists());
    std::thread::sleep(Duration::from_secs(1));
    let since = mount_support::control(&scene.cluster, "seq", json!({}))["api"].as_u64().unwrap();
    let client = Client::new(&scene.cluster);
    scene.me.make("collection", json!({"name": "inside", "owner_uuid": unused}));
    client.replace(&made, client.manifest(&[("f", b"x")]));
    // The version that is kept is told as a collection that was made in the listing that is used.
    scene.me.change("collection", &made, json!({"description": "changed", "preserve_version": true}));
    let versions = mount_support::control(&scene.cluster, "versions", json!({"uuid": made}));
    assert!(versions.as_array().unwrap().len() > 1, "{versions}");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(names(&scene.home()), ["unused", "work"]);
    let log = mount_support::control(&scene.cluster, "log", json!({"since": since}));
    let is_listing = |entry: &&Value| entry["path"].as_str().unwrap().contains("/contents");
    let listings: Vec<&Value> = log.as_array().unwrap().iter().filter(is_listing).collect();
    assert!(listings.is_empty(), "{listings:?}");
}

/// The event stream tells nothing of what was before it, however long it takes until it is there.
#[test]
fn what_changes_between_the_first_look_and_the_first_event_shows() {
    let cluster = Cluster::start_with(&["--faults"]);
    let client = Client::new(&cluster);
    let made = client.collection("seen", None, client.manifest(&[("old", b"old")]));
    let slow = json!({"api": [{"path": "/websocket", "delay": 3, "times": 1}]});
    mount_support::control(&cluster, "faults", slow);
    let mount = cluster.mount(&["--refresh-time=3600", "--collection", &made.uuid]);
    assert_eq!(names(&mount.path()), ["old"]);
    client.replace(&made.uuid, client.manifest(&[("new", b"new")]));
    support::until("the change", || names(&mount.path()) == ["new"]);
}

/// `os.listdir` of a descriptor reads from the beginning each time.
#[test]
fn directory_that_is_read_again_from_the_beginning_shows_the_names_of_now() {
    let scene = Scene::new(&[]);
    scene.me.make("collection", json!({"name": "first"}));
    soon("the first", || names(&scene.home()).len() == 1);
    let script = "import os; fd = os.open('.', os.O_RDONLY); print(os.listdir(fd), flush=True); input(); \
                  print(sorted(os.listdir(fd)), flush=True)";
    let mut command = Command::new("python3");
    command.args(["-c", script]).current_dir(scene.home()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "['first']");
    scene.me.make("collection", json!({"name": "second"}));
    soon("the second", || names(&scene.home()).len() == 2);
    writeln!(child.stdin.take().unwrap()).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "['first', 'second']");
    assert!(child.wait().unwrap().success());
}

/// The list says of each project whether we may write to it: `ls -l` need not ask for one after the other.
#[test]
fn modes_of_listed_projects_cost_no_requests() {
    let scene = Scene::new(&["--read-write"]);
    for number in 0..3 {
        scene.me.make("group", json!({"name": format!("project {number}"), "group_class": "project"}));
    }
    soon("the projects", || names(&scene.home()).len() == 3);
    let since = mount_support::control(&scene.cluster, "seq", json!({}))["api"].as_u64().unwrap();
    for name in names(&scene.home()) {
        let mode = fs::metadata(scene.home().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o777);
    }
    let log = mount_support::control(&scene.cluster, "log", json!({"since": since}));
    let is_record = |entry: &&Value| entry["path"].as_str().unwrap().contains("/groups/zzzzz-");
    let records: Vec<&Value> = log.as_array().unwrap().iter().filter(is_record).collect();
    assert!(records.is_empty(), "{records:?}");
}

/// Nothing tells the kernel: it must ask again soon.
#[test]
fn without_events_the_kernel_remembers_names_for_seconds_only() {
    let cluster = Cluster::start();
    let mount = cluster.mount(&["--all", "--disable-event-listening", "--refresh-time=1"]);
    let me = Person::of(&cluster, None);
    let home = mount.path().join("home");
    assert!(names(&home).is_empty() && !home.join("a").exists());
    let made = me.make("collection", json!({"name": "a"}));
    soon("it came", || home.join("a").exists());
    me.remove("collection", &made);
    soon("it went", || !home.join("a").exists());
}

/// `_` may stand for a slash in the name, so several names have to be thought of, but not all that there are.
#[test]
fn missing_name_with_underscores_does_not_cost_a_list_of_the_project() {
    let cluster = Cluster::start_with(&["--faults"]);
    let control = |word: &str, parameters: Value| mount_support::control(&cluster, word, parameters);
    let me = Person::of(&cluster, None);
    control("config", json!({"allow_slash": true}));
    control("bulk", json!({"owner": me.uuid(), "n": 2500, "prefix": "sample_"}));
    me.make("collection", json!({"name": "with/one_of/each"}));
    me.make("group", json!({"name": "100%_my\\own/project", "group_class": "project"}));
    me.make("collection", json!({"name": "1000_my\\own_project"}));
    let tagged = me.make("collection", json!({"name": "plain/name"}));
    me.make("link", json!({"link_class": "tag", "name": "a/tag_of/mine", "head_uuid": tagged}));
    let mount = cluster.mount(&["--all", "--refresh-time=600", "--disable-event-listening"]);
    let (home, tags) = (mount.path().join("home"), mount.path().join("by_tag"));
    fs::metadata(&home).unwrap();
    let lists = |look: &dyn Fn()| -> Vec<String> {
        let since = control("seq", json!({}))["api"].clone();
        look();
        let log = control("log", json!({"since": since}));
        let is_list = |entry: &&Value| {
            let path = entry["path"].as_str().unwrap();
            path.ends_with("/contents") || path.ends_with("/links") && entry["attrs"]["filters"] != "[]"
        };
        let text = |entry: &Value| format!("{} {}", entry["path"], entry["attrs"]["filters"]);
        log.as_array().unwrap().iter().filter(is_list).map(text).collect()
    };
    for (path, is_there) in [
        (home.join("missing"), false),
        (home.join("one_underscore"), false),
        (home.join("sample_with_three_underscores"), false),
        (home.join("with_one_of_each"), true),
        (home.join("100%_my\\own_project"), true),
        (home.join("1000_my\\own_project"), true),
        (home.join("10%_my\\own_project"), false),
        (home.join("plain_name"), true),
        (home.join("sample_000001"), true),
        (tags.join("a_tag_of_mine"), true),
        (tags.join("no_such_tag"), false),
    ] {
        let lists = lists(&|| assert_eq!(path.exists(), is_there, "{}", path.display()));
        assert!((1..=2).contains(&lists.len()), "{}: {lists:#?}", path.display());
        assert!(lists.iter().all(|list| list.contains("name\\\",")), "{}: {lists:#?}", path.display());
    }
}
