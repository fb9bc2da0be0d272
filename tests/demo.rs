//! `arvados demo` as a user runs it: the first start, what it says to try, writing both ways, Ctrl-C, and the second start.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use support::{LIMIT, arvados, client, succeed, until, wait};

/// A running demonstration; ended when dropped, also when the test fails.
struct Demo {
    folder: PathBuf,
    process: Child,
}

impl Demo {
    fn start(folder: &Path) -> Demo {
        let output = std::fs::File::create(folder.join("output")).unwrap();
        let mut command = arvados();
        command.args(["demo", "--dir"]).arg(folder.join("demo"));
        let process = command.stdin(Stdio::null()).stdout(output).spawn().unwrap();
        let mut demo = Demo { folder: folder.to_owned(), process };
        until("the demonstration", || {
            let ended = demo.process.try_wait().unwrap();
            assert!(ended.is_none(), "the demonstration ended with {ended:?}: {}", demo.said());
            demo.said().contains("Ctrl-C unmounts")
        });
        demo
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.folder.join("output")).unwrap()
    }

    fn mount(&self) -> PathBuf {
        self.folder.join("demo/mnt")
    }

    /// A real client, in a shell that was set up as the demonstration says.
    fn client(&self, name: &str) -> Command {
        let lines = succeed(arvados().args(["cluster", "env", "--data"]).arg(self.folder.join("demo/cluster")));
        assert!(lines.contains("export ARVADOS_API_HOST="), "{lines}");
        let mut command = Command::new("sh");
        command.args(["-c", "eval \"$0\" && exec \"$@\"", &lines]).arg(client(name).get_program());
        command
    }

    /// The collection that it says can be written to.
    fn welcome(&self) -> String {
        let said = self.said();
        let (_, after) =
            said.split_once("--update-collection ").unwrap_or_else(|| panic!("no collection to write to: {said}"));
        after.split(' ').next().unwrap().to_owned()
    }

    /// Ctrl-C.
    fn interrupt(mut self) {
        kill(Pid::from_raw(self.process.id() as i32), Signal::SIGINT).unwrap();
        let status = wait(&mut self.process, LIMIT).expect("the demonstration did not end");
        assert!(status.success(), "{status}: {}", self.said());
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            // SIGTERM, so that it takes its mount away itself.
            let _ = kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM);
            if wait(&mut self.process, LIMIT).is_none() {
                let _ = self.process.kill();
                let _ = self.process.wait();
            }
        }
        let _ = Command::new("fusermount3").args(["-u", "-z"]).arg(self.mount()).output();
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn demonstration_shows_what_it_promises_and_leaves_nothing_but_data() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Demo::start(folder.path());
    let project = demo.mount().join("home/Sample project");
    let welcome = std::fs::read_to_string(project.join("Welcome/README.txt")).unwrap();
    assert!(welcome.contains("you read it through `arvados mount`"), "{welcome}");
    let weather = ["Weather stations", "Yearly means"];
    assert_eq!(names(&project.join("All about weather")), weather);
    assert_eq!(names(&demo.mount().join("by_tag")), ["large", "sequencing", "small", "weather"]);
    assert_eq!(names(&demo.mount().join("by_tag/weather")).len(), weather.len());
    assert_eq!(names(&demo.mount().join("shared/Conny Colleague")), ["Shared by a colleague"]);
    let notes = project.join("Ten thousand notes");
    let seen: usize = names(&notes).iter().map(|name| names(&notes.join(name)).len()).sum();
    assert_eq!(seen, 10_000);
    assert_eq!(std::fs::metadata(project.join("Sequencing run/lane1/reads.fastq")).unwrap().len(), 3 << 26);

    // Its cluster is one as any other: what the suggested line sets up is enough for other clients. What is written here they
    // see at once, what they write is seen here.
    let uuid = demo.welcome();
    let collection = project.join("Welcome");
    std::fs::write(collection.join("mine.txt"), "from the mount\n").unwrap();
    let listed = succeed(demo.client("arv-ls").arg(&uuid));
    let mut listed: Vec<&str> = listed.lines().collect();
    listed.sort_unstable();
    assert_eq!(listed, ["./README.txt", "./mine.txt"]);
    let copy = succeed(demo.client("arv-get").arg(format!("{uuid}/mine.txt")).arg("-"));
    assert_eq!(copy, "from the mount\n");
    let theirs = folder.path().join("theirs.txt");
    std::fs::write(&theirs, "from arv-put\n").unwrap();
    succeed(demo.client("arv-put").args(["--no-progress", "--no-resume", "--update-collection", &uuid]).arg(&theirs));
    until("what arv-put has saved", || {
        std::fs::read_to_string(collection.join("theirs.txt")).is_ok_and(|text| text == "from arv-put\n")
    });
    assert_eq!(names(&collection), ["README.txt", "mine.txt", "theirs.txt"]);

    let mount = demo.mount();
    demo.interrupt();
    assert!(!mount.exists(), "the mount point is still there");
    let mut left = names(&folder.path().join("demo"));
    left.retain(|name| !name.ends_with(".log"));
    assert_eq!(left, ["cluster", "journal"]);
    let waiting = succeed(arvados().args(["journal", "list", "--journal-dir"]).arg(folder.path().join("demo/journal")));
    assert!(!waiting.contains(&uuid) && !waiting.contains("mnt"), "everything was saved: {waiting}");

    let demo = Demo::start(folder.path());
    assert_eq!(names(&demo.mount().join("home")), ["Sample project"]);
    let mine = demo.mount().join("home/Sample project/Welcome/mine.txt");
    assert_eq!(std::fs::read_to_string(mine).unwrap(), "from the mount\n");
    demo.interrupt();
}

#[test]
fn demonstration_whose_mount_is_taken_away_ends_in_good_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Demo::start(folder.path());
    succeed(Command::new("fusermount3").arg("-u").arg(demo.mount()));
    let status = wait(&mut demo.process, LIMIT).expect("the demonstration did not end");
    assert!(status.success(), "{status}: {}", demo.said());
}
