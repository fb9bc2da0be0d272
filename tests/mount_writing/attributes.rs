//! What `stat` shows of files and folders that were changed, and of those that have no name any more.

use crate::fixture::{Fixture, QUIET};
use crate::mount_support::files::{close, listed, open, save};
use crate::support::until;
use std::fs::{self, File, FileTimes};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Who takes a lock file looks whether what he has locked still has its name (`open`, `flock`, `fstat`).
#[test]
fn open_file_that_lost_its_name_has_no_link() {
    let fixture = Fixture::new(&[]);
    let path = fixture.path();
    let links = |file: &File| file.metadata().unwrap().nlink();
    let unsaved = open(&path.join("lock"), libc::O_RDWR | libc::O_CREAT).unwrap();
    assert_eq!(links(&unsaved), 1);
    fs::remove_file(path.join("lock")).unwrap();
    assert_eq!(links(&unsaved), 0, "removed, and never saved");
    let again = open(&path.join("lock"), libc::O_RDWR | libc::O_CREAT).unwrap();
    assert_eq!((links(&unsaved), links(&again)), (0, 1));
    let read = File::open(path.join("d/b")).unwrap();
    assert_eq!(links(&read), 1);
    fs::remove_file(path.join("d/b")).unwrap();
    assert_eq!(links(&read), 0, "removed, and open for reading");
    let replaced = open(&path.join("a"), libc::O_RDWR).unwrap();
    save(&path.join("new"), b"new").unwrap();
    fs::rename(path.join("new"), path.join("a")).unwrap();
    assert_eq!(links(&replaced), 0, "replaced");
    assert_eq!(fs::metadata(path.join("a")).unwrap().nlink(), 1);
    assert_eq!(fs::metadata(path.join("d")).unwrap().nlink(), 1);
}

#[test]
fn open_file_that_another_client_replaced_has_no_link() {
    let fixture = Fixture::new(&["--refresh-time=1"]);
    let path = fixture.path().join("a");
    let old = File::open(&path).unwrap();
    fixture.client.put_files(&fixture.made.uuid, &[("a", b"replaced by another")]);
    until("the other file", || fs::read(&path).is_ok_and(|data| data == b"replaced by another"));
    until("the news of the old one", || old.metadata().is_ok_and(|it| it.nlink() == 0));
    assert_eq!((old.metadata().unwrap().len(), fs::metadata(&path).unwrap().nlink()), (5, 1));
}

#[test]
fn removed_folder_that_is_open_is_empty_and_has_no_link() {
    let fixture = Fixture::new(&[]);
    let path = fixture.path().join("gone");
    fs::create_dir(&path).unwrap();
    save(&path.join("x"), b"").unwrap();
    let folder = File::open(&path).unwrap();
    fs::remove_file(path.join("x")).unwrap();
    fs::remove_dir(&path).unwrap();
    assert_eq!(folder.metadata().unwrap().nlink(), 0);
    assert!(listed(&folder).unwrap().is_empty());
    folder.sync_all().unwrap();
    // As a shell does that works there: it opens the folder anew.
    let again = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string());
    assert_eq!(fs::read_dir(again).unwrap().count(), 0);
    fs::create_dir(&path).unwrap();
    save(&path.join("y"), b"").unwrap();
    assert_eq!((folder.metadata().unwrap().nlink(), listed(&folder).unwrap().len()), (0, 0), "another one");
}

/// Python lists what it has a descriptor of that way (`os.listdir`, `os.scandir`).
#[test]
fn listing_of_a_folder_that_was_opened_before_shows_what_was_made_since() {
    let fixture = Fixture::new(&["--mount-home=home"]);
    let path = fixture.path();
    let (top, folder) = (File::open(&path).unwrap(), File::open(path.join("d")).unwrap());
    let (home, by_id) = (
        File::open(fixture.writer.path().join("home")).unwrap(),
        File::open(fixture.writer.path().join("by_id")).unwrap(),
    );
    save(&path.join("new"), b"").unwrap();
    save(&path.join("d/new"), b"").unwrap();
    fs::create_dir(fixture.writer.path().join("home/made")).unwrap();
    let named = fixture.client.collection("named", None, String::new());
    fs::metadata(fixture.writer.collection(&named.uuid)).unwrap();
    assert_eq!(listed(&top).unwrap(), ["a", "d", "new"]);
    assert_eq!(listed(&folder).unwrap(), ["b", "new"]);
    assert!(listed(&home).unwrap().contains(&"made".to_owned()));
    assert!(listed(&by_id).unwrap().contains(&named.uuid));
    fs::remove_file(path.join("new")).unwrap();
    assert_eq!(listed(&top).unwrap(), ["a", "d"], "and the second time");
}

/// `git status` misses a change of a file that has the size and the time of before, unless the change time tells.
#[test]
fn change_time_tells_of_a_change_that_hides_its_time() {
    let fixture = Fixture::new(&QUIET);
    let path = fixture.path().join("a");
    let wanted = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
    let times = || {
        let now = fs::metadata(&path).unwrap();
        assert_eq!(now.modified().unwrap(), wanted);
        (now.ctime(), now.ctime_nsec())
    };
    let hide = |data: &[u8]| {
        save(&path, data).unwrap();
        let file = open(&path, libc::O_WRONLY).unwrap();
        file.set_times(FileTimes::new().set_modified(wanted)).unwrap();
        close(file).unwrap();
    };
    hide(b"1111");
    let first = times();
    std::thread::sleep(Duration::from_millis(20));
    hide(b"2222");
    let second = times();
    assert!(second > first, "{second:?} after {first:?}");
    std::thread::sleep(Duration::from_millis(20));
    // As `rsync` does it: the time is set while the file is open, and it gets its name last.
    let next = fixture.path().join("a.next");
    let file = open(&next, libc::O_WRONLY | libc::O_CREAT).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"3333", 0).unwrap();
    file.set_times(FileTimes::new().set_modified(wanted)).unwrap();
    close(file).unwrap();
    fs::rename(&next, &path).unwrap();
    let third = times();
    assert!(third > second, "{third:?} after {second:?}");
    save(&fixture.path().join("other"), b"x").unwrap();
    fixture.client.put_files(&fixture.made.uuid, &[("theirs", b"x")]);
    fs::read(fixture.path().join(".arvados#collection")).unwrap();
    save(&fixture.path().join("other"), b"y").unwrap();
    assert!(fixture.path().join("theirs").exists());
    assert_eq!(times(), third, "nobody has changed it");
    let untouched = fs::metadata(fixture.path().join("d/b")).unwrap();
    assert_eq!((untouched.ctime(), untouched.ctime_nsec()), (untouched.mtime(), untouched.mtime_nsec()));
}
