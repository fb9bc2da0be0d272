//! Names that can be stored, and those that are refused before anything is done.

use crate::fixture::{Fixture, names};
use crate::mount_support::files::{errno, save};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

/// arv-mount.md 8.1, 1: an exception while a name is encoded kills the mount.
#[test]
fn names_that_the_server_refuses_are_refused_at_once() {
    let fixture = Fixture::new(&[]);
    let path = fixture.path();
    let long = "x".repeat(256);
    assert_eq!(errno(save(&path.join(&long), b"x")), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::create_dir(path.join(&long))), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::rename(path.join("a"), path.join(&long))), libc::ENAMETOOLONG);
    let wrong = path.join(OsStr::from_bytes(b"not utf-8 \xff"));
    for refused in [errno(save(&wrong, b"x")), errno(fs::create_dir(&wrong)), errno(fs::rename(path.join("a"), &wrong))]
    {
        assert!([libc::EILSEQ, libc::EINVAL].contains(&refused), "{refused}");
    }
    assert!(
        [libc::EPERM, libc::EACCES, libc::EEXIST, libc::EINVAL]
            .contains(&errno(fs::rename(path.join("a"), path.join(".arvados#collection"))))
    );
    assert_eq!(names(&path), ["a", "d"]);
    save(&path.join("right"), b"right").unwrap();
    assert!(fixture.server_has("right", b"right"));
}

#[test]
fn odd_names_make_the_round_trip() {
    let mut fixture = Fixture::new(&[]);
    let path = fixture.path();
    let longest = "ä".repeat(127) + "x";
    let odd = [
        "a b",
        "c:d",
        "back\\slash",
        "\\040",
        "tab\there",
        "new\nline",
        "日本語",
        "-x",
        "...",
        "0:3:f",
        longest.as_str(),
    ];
    for name in odd {
        save(&path.join(name), name.as_bytes()).unwrap();
        fs::create_dir(path.join(format!("d/{}", &name[..name.len().min(6)]))).unwrap();
    }
    fixture.writer.unmount_well();
    fixture.writer.start_again();
    for name in odd {
        assert_eq!(fs::read(path.join(name)).unwrap(), name.as_bytes(), "{name}");
        assert!(fs::metadata(path.join("d").join(&name[..name.len().min(6)])).unwrap().is_dir());
    }
    assert_eq!(names(&path).len(), odd.len() + 2);
    assert_eq!(fixture.server_names().len(), odd.len() + 2);
}
