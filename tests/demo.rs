//! `arvados demo` as a user runs it: the first start, what it says to try, Ctrl-C, and the second start.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use support::{LIMIT, arvados, succeed, until, wait};

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
        let _ = std::process::Command::new("fusermount3").args(["-u", "-z"]).arg(self.mount()).output();
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

    // Its cluster is one as any other: what the suggested line sets up is enough for another mount.
    let data = folder.path().join("demo/cluster");
    let lines = succeed(arvados().args(["cluster", "env", "--data"]).arg(&data));
    assert!(lines.contains("export ARVADOS_API_HOST="), "{lines}");

    let mount = demo.mount();
    demo.interrupt();
    assert!(!mount.exists(), "the mount point is still there");
    let mut left = names(&folder.path().join("demo"));
    left.retain(|name| !name.ends_with(".log"));
    assert_eq!(left, ["cluster"]);

    let demo = Demo::start(folder.path());
    assert_eq!(names(&demo.mount().join("home")), ["Sample project"]);
    demo.interrupt();
}

#[test]
fn demonstration_whose_mount_is_taken_away_ends_in_good_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Demo::start(folder.path());
    succeed(std::process::Command::new("fusermount3").arg("-u").arg(demo.mount()));
    let status = wait(&mut demo.process, LIMIT).expect("the demonstration did not end");
    assert!(status.success(), "{status}: {}", demo.said());
}
