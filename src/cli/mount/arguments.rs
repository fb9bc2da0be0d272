//! The options of the mount, spelled as `arv-mount` spells them (arv-mount.md 1.1), in groups.
//!
//! Callers such as `crunch-run` and people's scripts rely on every name here, on unique prefixes being accepted, on the
//! last of a repeated option winning, and on exit status 2 for wrong usage. Options that have no effect in this engine are
//! accepted with a help text that says so: refusing them would break callers for nothing.

use crate::actors::collection::guard::CommitGuard;
use crate::actors::collection::merging::OnConflict;
use crate::actors::collection::saving::SyncMode;
use std::ffi::OsString;
use std::path::PathBuf;

const MODES: &str = "What to show (one of them; default: --all)";
const CUSTOM: &str = "Custom top level (repeatable; PATH is one name)";
const MOUNTING: &str = "Mounting and unmounting";
const WRITING: &str = "Writing (with --read-write)";
const FRESHNESS: &str = "Network and freshness";
const CACHES: &str = "Caches";
const REPORTING: &str = "Reporting";

/// Show Arvados Keep as a file system, at MOUNT_DIR.
///
/// Without --foreground or --exec the command returns as soon as the file system is mounted, and a process in the
/// background serves it until `fusermount3 -u MOUNT_DIR` or SIGTERM. What was written is saved before it ends; a second SIGTERM
/// or Ctrl-C leaves what is not saved by then in the journal. The cluster and the token come from settings.conf and the environment
/// (ARVADOS_API_HOST, ARVADOS_API_TOKEN, ARVADOS_API_HOST_INSECURE).
#[derive(clap::Args, Debug)]
#[command(infer_long_args = true, args_override_self = true, disable_version_flag = true)]
pub struct Arguments {
    /// Where to mount: an existing, empty directory
    #[arg(value_name = "MOUNT_DIR", required_unless_present = "version")]
    pub mount_dir: Option<PathBuf>,

    /// Print the version and exit
    #[arg(long)]
    pub version: bool,

    /// README, by_id, by_tag, home and shared
    #[arg(long, group = "mode", help_heading = MODES)]
    pub all: bool,

    /// Only what the --mount-* options ask for
    #[arg(long, group = "mode", help_heading = MODES)]
    pub custom: bool,

    /// One collection, by uuid or portable data hash
    #[arg(long, value_name = "UUID_OR_PDH", group = "mode", help_heading = MODES)]
    pub collection: Option<String>,

    /// Your home project
    #[arg(long, group = "mode", help_heading = MODES)]
    pub home: bool,

    /// One project or filter group
    #[arg(long, value_name = "UUID", group = "mode", help_heading = MODES)]
    pub project: Option<String>,

    /// What others share with you
    #[arg(long, group = "mode", help_heading = MODES)]
    pub shared: bool,

    /// Collections and projects by uuid or portable data hash, as you name them
    #[arg(long, group = "mode", help_heading = MODES)]
    pub by_id: bool,

    /// Collections by portable data hash, as you name them
    #[arg(long, group = "mode", help_heading = MODES)]
    pub by_pdh: bool,

    /// Collections by tag
    #[arg(long, group = "mode", help_heading = MODES)]
    pub by_tag: bool,

    /// API filters for projects, shared and tags: JSON, a file with JSON, or - for standard input.
    /// An attribute may name its resource (collections.name), otherwise it applies to all
    #[arg(long, value_name = "FILTERS", help_heading = MODES)]
    pub filters: Option<String>,

    /// Your home project at PATH
    #[arg(long, value_name = "PATH", help_heading = CUSTOM)]
    pub mount_home: Vec<String>,

    /// What others share with you at PATH
    #[arg(long, value_name = "PATH", help_heading = CUSTOM)]
    pub mount_shared: Vec<String>,

    /// A temporary collection at PATH: it takes files until the mount ends, and makes no record on the cluster
    #[arg(long, value_name = "PATH", help_heading = CUSTOM)]
    pub mount_tmp: Vec<String>,

    /// Collections and projects by uuid or portable data hash at PATH
    #[arg(long, value_name = "PATH", help_heading = CUSTOM)]
    pub mount_by_id: Vec<String>,

    /// Collections by portable data hash at PATH
    #[arg(long, value_name = "PATH", help_heading = CUSTOM)]
    pub mount_by_pdh: Vec<String>,

    /// Collections by tag at PATH
    #[arg(long, value_name = "PATH", help_heading = CUSTOM)]
    pub mount_by_tag: Vec<String>,

    /// Nothing can be changed through the mount (default)
    #[arg(long, overrides_with = "read_write", help_heading = MOUNTING)]
    pub read_only: bool,

    /// What is in collections with a uuid, and in projects, can be changed
    #[arg(long, overrides_with = "read_only", help_heading = MOUNTING)]
    pub read_write: bool,

    /// Stay in the foreground
    #[arg(long, help_heading = MOUNTING)]
    pub foreground: bool,

    /// Mount, run this command, unmount, and exit with its status. All words that follow belong to it, up to `--`
    #[arg(long, value_name = "COMMAND", num_args = 0.., value_terminator = "--", allow_hyphen_values = true,
          help_heading = MOUNTING)]
    pub exec: Option<Vec<OsString>>,

    /// Let other users of this machine in (they act with your token)
    #[arg(long, help_heading = MOUNTING)]
    pub allow_other: bool,

    /// Mount as type fuse.SUBTYPE; with --unmount and --unmount-all: only mounts of that type
    #[arg(long, value_name = "SUBTYPE", help_heading = MOUNTING)]
    pub subtype: Option<String>,

    /// Mount again, with the same options, if the mount is killed: at most five times in ten minutes. (Whoever used it gets
    /// errors meanwhile.) Not if it was asked to end before. --filters - cannot be read a second time
    #[arg(long, conflicts_with = "exec", help_heading = MOUNTING)]
    pub restart: bool,

    /// Take the place of FUSE mounts that are at MOUNT_DIR, of whatever subtype and in whatever state. As root, and since
    /// Linux 6.5, there is no moment without a mount
    #[arg(long, group = "unmounting", help_heading = MOUNTING)]
    pub replace: bool,

    /// Unmount MOUNT_DIR by force, whatever state it is in, and exit
    #[arg(long, group = "unmounting", help_heading = MOUNTING)]
    pub unmount: bool,

    /// Unmount by force every FUSE mount at and below MOUNT_DIR, and exit
    #[arg(long, group = "unmounting", help_heading = MOUNTING)]
    pub unmount_all: bool,

    /// Seconds until an unmount is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds, help_heading = MOUNTING)]
    pub unmount_timeout: f64,

    /// When changes are saved on the cluster: close (before `close` returns), fsync, idle:SECONDS (after so long without a
    /// change), periodic:SECONDS, exit (at the end of the mount). Until then they are safe in the journal
    #[arg(long, value_name = "WHEN", default_value = "close", value_parser = sync_mode, help_heading = WRITING)]
    pub sync: SyncMode,

    /// Conditions against overwriting what others have saved: auto, strict (nothing is ever overwritten unseen; each save
    /// keeps an old version), none
    #[arg(long, value_name = "HOW", default_value = "auto", value_parser = commit_guard, help_heading = WRITING)]
    pub commit_guard: CommitGuard,

    /// What becomes of a file that is changed here and by others: keep-both (theirs goes beside it as
    /// NAME~DATE-TIME~conflict~), error (the writer gets one), overwrite
    #[arg(long, value_name = "HOW", default_value = "keep-both", value_parser = on_conflict, help_heading = WRITING)]
    pub on_conflict: OnConflict,

    /// Folder for journals (default: ~/.local/state/arvados/journal): what is written and not saved yet is kept there, and
    /// saved by the next mount with --read-write if this one is killed
    #[arg(long, value_name = "DIR", help_heading = WRITING)]
    pub journal_dir: Option<PathBuf>,

    /// The most that may be in this mount's journal; beyond it writers are told that there is no room
    #[arg(long, value_name = "BYTES", default_value = "32G", value_parser = bytes, help_heading = WRITING)]
    pub journal_size: u64,

    /// How often a failed request is repeated
    #[arg(long, value_name = "N", default_value_t = 10, help_heading = FRESHNESS)]
    pub retries: u32,

    /// Seconds after which what can change is looked at again
    #[arg(long, value_name = "SECONDS", default_value_t = 15, help_heading = FRESHNESS)]
    pub refresh_time: u64,

    /// Do not listen to the cluster's events: only --refresh-time counts
    #[arg(long, help_heading = FRESHNESS)]
    pub disable_event_listening: bool,

    /// What stands for a slash in the names of projects and collections (default: the cluster's setting)
    #[arg(long, value_name = "TEXT", hide = true)]
    pub fsns: Option<String>,

    /// Storage classes of new data, where the collection does not say: a list with commas
    #[arg(long, value_name = "CLASSES", help_heading = FRESHNESS)]
    pub storage_classes: Option<String>,

    /// Encoding of names: they are passed on as they are, which is utf-8
    #[arg(long, value_name = "NAME", default_value = "utf-8", value_parser = encoding, help_heading = FRESHNESS)]
    pub encoding: String,

    /// Memory of the mount, in bytes, but for the names in large collections; K, M and G are understood (default: 64M and an
    /// eighth of the machine's memory, or of what its control groups let it have, at least 256M and at most 1G; where there
    /// is little, half of what is left)
    #[arg(long, value_name = "BYTES", value_parser = bytes, help_heading = CACHES)]
    pub memory_limit: Option<u64>,

    /// Keep blocks in memory only: then --file-cache is the memory for file data
    #[arg(long, conflicts_with = "disk_cache", help_heading = CACHES)]
    pub ram_cache: bool,

    /// Keep blocks on disk (default of arv-mount; this version keeps them in memory, within --memory-limit)
    #[arg(long, help_heading = CACHES)]
    pub disk_cache: bool,

    /// Folder of the disk cache (not used by this version)
    #[arg(long, value_name = "DIR", help_heading = CACHES)]
    pub disk_cache_dir: Option<PathBuf>,

    /// With --ram-cache: the memory for file data, at least 64 MiB, unless --memory-limit says it; 0: chosen for you. Otherwise
    /// not used by this version, which has no disk cache
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = bytes, help_heading = CACHES)]
    pub file_cache: u64,

    /// Soft limit of the memory for directories in arv-mount; here what nobody uses any more is dropped by itself
    #[arg(long, value_name = "BYTES", default_value_t = 134_217_728, value_parser = bytes, help_heading = CACHES)]
    pub directory_cache: u64,

    /// Seconds between statistics lines on standard error; 0: none
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, value_parser = seconds, help_heading = REPORTING)]
    pub crunchstat_interval: f64,

    /// Log everything
    #[arg(long, help_heading = REPORTING)]
    pub debug: bool,

    /// Append the log to this file instead of standard error (in the background: the system's log, or where there is none
    /// ~/.local/state/arvados/mount.log)
    #[arg(long, value_name = "FILE", help_heading = REPORTING)]
    pub logfile: Option<PathBuf>,

    /// Descriptor on which the parent of a daemon waits for the word that all is well
    #[arg(long, value_name = "DESCRIPTOR", hide = true)]
    pub ready_descriptor: Option<i32>,
}

impl Arguments {
    /// Is there any `--mount-*` option, which replaces the usual layout?
    pub fn has_custom_mounts(&self) -> bool {
        [
            &self.mount_by_id,
            &self.mount_by_pdh,
            &self.mount_by_tag,
            &self.mount_home,
            &self.mount_shared,
            &self.mount_tmp,
        ]
        .iter()
        .any(|paths| !paths.is_empty())
    }

    /// The mode other than `--custom` that was asked for, in the words of the error message that forbids `--mount-*` with it.
    pub fn exclusive_mode(&self) -> Option<&'static str> {
        let modes = [
            (self.all, "all"),
            (self.home, "home"),
            (self.shared, "shared"),
            (self.by_id, "by_id"),
            (self.by_pdh, "by_pdh"),
            (self.by_tag, "by_tag"),
            (self.collection.is_some(), "collection"),
            (self.project.is_some(), "project"),
        ];
        modes.into_iter().find(|(chosen, _)| *chosen).map(|(_, name)| name)
    }
}

fn sync_mode(text: &str) -> Result<SyncMode, String> {
    let pause = |seconds_text: &str| {
        let value = seconds(seconds_text)?;
        if value < 0.1 { Err("at least 0.1 seconds".to_owned()) } else { Ok(std::time::Duration::from_secs_f64(value)) }
    };
    match text.split_once(':') {
        None if text == "close" => Ok(SyncMode::Close),
        None if text == "fsync" => Ok(SyncMode::Fsync),
        None if text == "exit" => Ok(SyncMode::Exit),
        Some(("idle", seconds)) => pause(seconds).map(SyncMode::Idle),
        Some(("periodic", seconds)) => pause(seconds).map(SyncMode::Periodic),
        _ => Err("use close, fsync, idle:SECONDS, periodic:SECONDS or exit".into()),
    }
}

fn commit_guard(text: &str) -> Result<CommitGuard, String> {
    match text {
        "auto" => Ok(CommitGuard::Auto),
        "strict" => Ok(CommitGuard::Strict),
        "none" => Ok(CommitGuard::None),
        _ => Err("use auto, strict or none".into()),
    }
}

fn on_conflict(text: &str) -> Result<OnConflict, String> {
    match text {
        "keep-both" => Ok(OnConflict::KeepBoth),
        "error" => Ok(OnConflict::Error),
        "overwrite" => Ok(OnConflict::Overwrite),
        _ => Err("use keep-both, error or overwrite".into()),
    }
}

/// A non-negative number of seconds that fits a [`std::time::Duration`].
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if std::time::Duration::try_from_secs_f64(value).is_ok() => Ok(value),
        Ok(_) => Err("not a number of seconds".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// A number of bytes, with `K`, `M`, `G` or `T` for powers of 1024.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(['i', 'B']);
    let (digits, shift) = match digits.char_indices().next_back() {
        Some((at, unit)) if unit.is_ascii_alphabetic() => match unit.to_ascii_uppercase() {
            'K' => (&digits[..at], 10),
            'M' => (&digits[..at], 20),
            'G' => (&digits[..at], 30),
            'T' => (&digits[..at], 40),
            _ => return Err(format!("unknown unit '{unit}': use K, M, G or T")),
        },
        _ => (digits, 0),
    };
    let number: u64 = digits.parse().map_err(|error| format!("{error}"))?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".into())
}

fn encoding(text: &str) -> Result<String, String> {
    match text.to_ascii_lowercase().as_str() {
        "utf-8" | "utf8" => Ok(text.to_owned()),
        _ => Err("names in Arvados are utf-8, and this mount passes them on unchanged".into()),
    }
}

/// What these words, separated by blanks, come to.
#[cfg(test)]
pub(super) fn parse(words: &str) -> Result<Arguments, clap::Error> {
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        arguments: Arguments,
    }
    Program::try_parse_from(std::iter::once("arv-mount").chain(words.split_whitespace())).map(|it| it.arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_of_crunch_run_is_accepted() {
        let line = "--foreground --read-write --storage-classes default --crunchstat-interval=10 --allow-other \
                    --ram-cache --file-cache 268435456 --mount-tmp tmp0 --mount-tmp tmp1 --mount-by-pdh by_id \
                    --disable-event-listening --mount-by-id by_uuid /tmp/keep";
        let arguments = parse(line).expect("crunch-run's own words");
        assert_eq!(arguments.mount_tmp, ["tmp0", "tmp1"]);
        assert_eq!(arguments.mount_dir.as_deref(), Some(std::path::Path::new("/tmp/keep")));
        assert_eq!(arguments.crunchstat_interval, 10.0);
        assert_eq!(arguments.file_cache, 268435456);
        assert!(arguments.read_write && arguments.ram_cache && arguments.has_custom_mounts());
    }

    #[test]
    fn unique_prefixes_and_repeated_options_are_accepted() {
        let arguments = parse("--refresh=3 --refresh-time 4 --fore --read-w --read-o m").expect("valid");
        assert_eq!(arguments.refresh_time, 4);
        assert!(arguments.foreground && arguments.read_only && !arguments.read_write);
        assert!(parse("--mount m").is_err(), "an ambiguous prefix");
    }

    #[test]
    fn exec_takes_the_rest_or_all_up_to_two_dashes() {
        let arguments = parse("--home --exec ls -l -- m").expect("valid");
        assert_eq!(arguments.exec, Some(vec!["ls".into(), "-l".into()]));
        assert_eq!(arguments.mount_dir, Some("m".into()));
        let arguments = parse("--home m --exec sh -c x --home").expect("valid");
        assert_eq!(arguments.exec.map(|words| words.len()), Some(4));
        assert_eq!(parse("m --exec").expect("valid").exec.unwrap_or_default().len(), 0);
    }

    #[test]
    fn modes_exclude_each_other_and_wrong_numbers_are_usage_errors() {
        for line in [
            "--home --shared m",
            "--replace --unmount m",
            "--ram-cache --disk-cache m",
            "--retries -1 m",
            "",
            "--unmount-timeout=-1 m",
            "--crunchstat-interval nan m",
            "--encoding latin-1 m",
            "a b",
            "--nothing m",
            "--sync sometimes m",
            "--sync idle:-1 m",
            "--commit-guard maybe m",
            "--on-conflict cry m",
            "--restart m --exec true",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
        assert!(parse("--version").is_ok());
    }

    #[test]
    fn bytes_may_have_a_unit() {
        assert_eq!(bytes("64M"), Ok(64 << 20));
        assert_eq!(bytes("2GiB"), Ok(2 << 30));
        assert_eq!(bytes("123"), Ok(123));
        assert!(bytes("").is_err() && bytes("5X").is_err() && bytes("99999999999T").is_err() && bytes("é").is_err());
    }
}
