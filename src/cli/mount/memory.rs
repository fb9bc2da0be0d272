//! How much memory a mount takes for file data.
//!
//! A mount is a guest on the machine, and in a container or a service with a limit of its own a guest there: what counts is the
//! smaller of the machine's memory and what the control groups allow that the process is in. Who takes more is killed.

use super::Arguments;
use crate::cache::SMALLEST_LIMIT;
use crate::keep::MAX_BLOCK_SIZE;
use std::path::{Path, PathBuf};

/// Memory for file data when nobody says how much: an eighth of what there is, at least four and at most sixteen blocks of the
/// largest size. Where there is so little that this would be more than half of what the program leaves, that half.
const SHARE: u64 = 8;
const LEAST: u64 = 4 * MAX_BLOCK_SIZE;
const MOST: u64 = 16 * MAX_BLOCK_SIZE;

/// What the program takes beside file data: code, runtimes, connections, and what is on its way between kernel and cluster.
/// Measured with sixteen writers and with writes all over a large file: 15 to 58 MiB.
const PROGRAM: u64 = 64 << 20;

/// Bytes for file data. Smaller values than what the largest block needs are raised: with them nothing could be read.
pub(super) fn limit(arguments: &Arguments) -> usize {
    let of_ram_cache = (arguments.ram_cache && arguments.file_cache > 0).then_some(arguments.file_cache);
    let of_limit = arguments.memory_limit.map(|limit| limit.saturating_sub(PROGRAM));
    let chosen = of_limit.or(of_ram_cache).unwrap_or_else(|| usual(present()));
    usize::try_from(chosen).unwrap_or(usize::MAX).max(SMALLEST_LIMIT)
}

fn usual(present: u64) -> u64 {
    (present / SHARE).clamp(LEAST, MOST).min(present.saturating_sub(PROGRAM) / 2)
}

/// The memory that this process can have.
fn present() -> u64 {
    // SAFETY: sysconf has no preconditions; it returns -1 for what it does not know.
    let (pages, page) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    let of_machine = u64::try_from(pages).unwrap_or(0) * u64::try_from(page).unwrap_or(0);
    let read = |name: &str| std::fs::read_to_string(name).unwrap_or_default();
    let of_groups = of_groups(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
    of_groups.map_or(of_machine, |limit| limit.min(of_machine))
}

/// The lowest limit of the control groups in which the process is, and of those that these are in; `None` if there is none.
/// The texts are those of `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn of_groups(groups: &str, mounts: &str) -> Option<u64> {
    let memory = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        match controllers {
            "" => Some(("cgroup2", "memory.max", path)),
            _ if controllers.split(',').any(|name| name == "memory") => Some(("cgroup", "memory.limit_in_bytes", path)),
            _ => None,
        }
    });
    memory.filter_map(|(kind, file, path)| lowest(&hierarchy(mounts, kind)?, Path::new(path), file)).min()
}

/// Where a hierarchy of control groups is mounted, and which of its groups is to be seen there.
struct Hierarchy {
    place: PathBuf,
    root: PathBuf,
}

/// The hierarchy of the second version, or that of the first version with the memory in it. Such a line is
/// `35 31 0:32 ROOT PLACE rw,relatime - cgroup cgroup rw,memory`.
fn hierarchy(mounts: &str, kind: &str) -> Option<Hierarchy> {
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut file_system = file_system.split(' ');
        let is_kind = file_system.next() == Some(kind);
        let has_memory = kind == "cgroup2" || file_system.nth(1)?.split(',').any(|option| option == "memory");
        let mut fields = mount.split(' ').skip(3);
        let (root, place) = (fields.next()?.into(), fields.next()?.into());
        (is_kind && has_memory).then_some(Hierarchy { place, root })
    })
}

/// The lowest limit from the group up to where the hierarchy is mounted. A group that cannot be seen from here counts as that
/// place.
fn lowest(hierarchy: &Hierarchy, group: &Path, file: &str) -> Option<u64> {
    let below = group.strip_prefix(&hierarchy.root).unwrap_or(Path::new(""));
    let folder = hierarchy.place.join(below);
    let folders = folder.ancestors().take_while(|folder| folder.starts_with(&hierarchy.place));
    // `max` is no number, and the first version's word for no limit is a larger one than any machine has.
    folders.filter_map(|folder| std::fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::mount::arguments;
    use std::fs;

    fn limit_of(line: &str) -> usize {
        limit(&arguments::parse(&format!("{line} m")).expect("valid"))
    }

    #[test]
    fn limit_is_what_was_asked_for_but_never_too_small_to_read() {
        assert_eq!(limit_of("--memory-limit 200M") as u64, (200 << 20) - PROGRAM);
        assert_eq!(limit_of("--memory-limit 10M"), SMALLEST_LIMIT);
        assert_eq!(limit_of("--ram-cache --file-cache 268435456"), 256 << 20);
        assert_eq!(limit_of("--ram-cache --file-cache 1"), SMALLEST_LIMIT);
        assert!(limit_of("--disk-cache --file-cache 80G") as u64 <= MOST, "a disk's size is no memory's");
    }

    #[test]
    fn default_leaves_room_for_others_and_for_the_program() {
        for (present, expected) in [(64 << 10, 1 << 10), (4 << 10, 512), (1 << 10, 256), (256, 96), (64, 0)] {
            assert_eq!(usual(present << 20), expected << 20, "{present} MiB");
        }
    }

    #[test]
    fn lowest_limit_of_the_groups_around_the_process_counts() {
        let directory = tempfile::tempdir().expect("a scratch directory");
        let place = directory.path().to_str().expect("in ASCII");
        let group = directory.path().join("slice/service");
        fs::create_dir_all(&group).expect("a scratch directory");
        let set = |folder: &str, name: &str, value: &str| {
            fs::write(directory.path().join(folder).join(name), format!("{value}\n")).expect("a scratch file");
        };
        let second = format!(
            "24 1 0:21 / /proc rw - proc proc rw\n30 23 0:26 / {place} rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
        );
        let of_second = |path: &str| of_groups(&format!("0::{path}\n"), &second);
        assert_eq!(of_second("/slice/service"), None, "there are no files");
        set("slice/service", "memory.max", "max");
        assert_eq!(of_second("/slice/service"), None);
        set("slice", "memory.max", "1000");
        assert_eq!(of_second("/slice/service"), Some(1000));
        set("slice/service", "memory.max", "500");
        assert_eq!((of_second("/slice/service"), of_second("/slice")), (Some(500), Some(1000)));
        assert_eq!(of_second("/elsewhere"), None);

        // In a container: it sees its own group where the machine has the root.
        let first = format!(
            "34 31 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n35 31 0:32 /docker/1 {place} rw - cgroup cgroup rw,memory\n"
        );
        set("", "memory.limit_in_bytes", "700");
        set("slice", "memory.limit_in_bytes", "9223372036854771712");
        let of_first = |path: &str| of_groups(&format!("5:cpu:/x\n4:memory:{path}\n0::/\n"), &first);
        assert_eq!((of_first("/docker/1/slice"), of_first("/docker/1")), (Some(700), Some(700)));
        assert_eq!(of_first("/"), Some(700), "not to be seen from here");
        assert_eq!(of_groups("", ""), None);
    }
}
