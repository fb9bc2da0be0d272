//! Programs that people run on a mount, and what they have to say of what they find there afterwards.

use crate::fixture::Fixture;
use crate::support::succeed;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A repository with some history: a hundred files in folders, three commits, a tag.
fn repository(path: &Path) {
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(path).args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]);
        succeed(command.args(arguments))
    };
    fs::create_dir_all(path).unwrap();
    git(&["init", "--quiet"]);
    for commit in 0..3 {
        for number in 0..100 {
            let folder = path.join(format!("folder{}", number % 7));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(format!("file{number}")), format!("{commit}: {}\n", number * 7919).repeat(number))
                .unwrap();
        }
        git(&["add", "--all"]);
        git(&["commit", "--quiet", "--message", &format!("commit {commit}")]);
    }
    git(&["tag", "one"]);
}

/// `git` renames, links where it can, maps its packs, and checks every object.
#[test]
fn git_clones_into_the_mount_and_finds_its_objects_sound() {
    for mode in ["--sync=close", "--sync=idle:1"] {
        let local = tempfile::tempdir().unwrap();
        let source = local.path().join("source");
        repository(&source);
        let mut fixture = Fixture::new(&[mode]);
        let clone = fixture.path().join("clone");
        succeed(Command::new("git").args(["clone", "--quiet", "--no-hardlinks"]).arg(&source).arg(&clone));
        succeed(Command::new("git").arg("-C").arg(&clone).args(["fsck", "--full", "--strict"]));
        let status = succeed(Command::new("git").arg("-C").arg(&clone).args(["status", "--porcelain"]));
        assert_eq!(status, "");
        fixture.writer.unmount_well();
        fixture.writer.start_again();
        succeed(Command::new("git").arg("-C").arg(&clone).args(["fsck", "--full", "--strict"]));
        succeed(Command::new("git").arg("-C").arg(&clone).args(["diff", "--quiet", "one"]));
    }
}

/// `tar` makes a file, writes it, and sets its times, mode and owner, for thousands in a row.
#[test]
fn archive_that_is_unpacked_into_the_mount_has_all_that_was_packed() {
    let local = tempfile::tempdir().unwrap();
    let source = local.path().join("source");
    repository(&source);
    let mut fixture = Fixture::new(&[]);
    let archive = local.path().join("archive.tar");
    succeed(Command::new("tar").arg("cf").arg(&archive).arg("-C").arg(&source).arg("."));
    let folder = fixture.path().join("unpacked");
    fs::create_dir(&folder).unwrap();
    succeed(Command::new("tar").args(["xf"]).arg(&archive).arg("-C").arg(&folder));
    succeed(Command::new("diff").arg("-r").arg(&source).arg(&folder));
    fixture.writer.unmount_well();
    fixture.writer.start_again();
    succeed(Command::new("diff").arg("-r").arg(&source).arg(&folder));
}
