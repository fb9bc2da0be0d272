//! `arvados journal export`: the files that the server has not got, as files.
//!
//! What is missing stays a hole and is named: half a file that says which half is better than none. Nothing that is there
//! already is overwritten, and a journal's paths lead nowhere but into the target. A file that cannot be written, such as one with a
//! name that is too long for this file system, is named too and keeps no other from being exported; only a full disk would
//! fail for all.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, IsTerminal};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};

use super::files::{self, Amount, File};
use super::{One, shown};
use crate::dirty::content::Source;
use crate::journal::replay::Changes;
use crate::journal::{self, Contents, place};
use crate::keep::Locator;
use crate::remote::api::{Api, HttpApi};
use crate::remote::keep::{HttpKeep, Keep};
use crate::remote::retry::Retries;
use crate::remote::{self, Network, Settings};

/// Copied at once, in bytes: enough that system calls do not count, little beside a block.
const PIECE: usize = 1 << 20;

/// Write the files that are in a journal to TARGET_DIR/COLLECTION/PATH.
///
/// Bytes that are in Keep already are fetched if ARVADOS_API_HOST and ARVADOS_API_TOKEN (or settings.conf) say from where. What
/// cannot be had stays a hole in the file and is reported.
#[derive(clap::Args)]
#[command(after_help = "Exit status: 0 all files are whole, 1 something is missing.

Example:
  arvados journal export 3f2a ~/saved")]
pub struct Arguments {
    #[command(flatten)]
    one: One,
    /// Folder to write to; made if it is not there
    #[arg(value_name = "TARGET_DIR")]
    target: PathBuf,
}

/// Writes the files.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    let found = arguments.one.find()?;
    let contents = Contents::read(&found.folder).map_err(|error| error.to_string())?;
    let mut is_whole = true;
    if journal::is_running(&found.folder) {
        eprintln!("arvados journal: the mount of {} runs; its files may change while they are read", found.id);
    } else if let Some(problem) = contents.problem() {
        eprintln!("arvados journal: {}: {problem}", found.folder.display());
        is_whole = false;
    }
    let collections = &contents.pending.collections;
    let mut amount = Amount::default();
    let mut wanted = BTreeMap::new();
    for (uuid, changes) in collections {
        place::component(uuid).map_err(|error| error.to_string())?;
        let folder = arguments.target.join(uuid);
        if folder.symlink_metadata().is_ok() {
            return Err(format!("{} exists already; export to another folder", folder.display()));
        }
        let files = files::files(changes.values());
        files.values().for_each(|file| amount.add(&file.content));
        wanted.insert(folder, (uuid, changes, files));
    }
    make(&arguments.target).map_err(|error| format!("cannot make {}: {error}", arguments.target.display()))?;
    let blocks = if amount.stored > 0 { Blocks::connect()? } else { Blocks::none() };
    let mut export =
        Export { data: journal::data_folder(&found.folder), blocks, bar: bar(amount), missing: 0, files: 0 };
    let done =
        wanted.iter().try_for_each(|(folder, (uuid, changes, files))| export.collection(folder, uuid, changes, files));
    export.bar.finish_and_clear();
    done?;
    println!("{} file(s) to {}", export.files, arguments.target.display());
    is_whole &= export.missing == 0;
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn bar(amount: Amount) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left");
    ProgressBar::new(amount.total()).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

struct Export {
    /// Backing files.
    data: PathBuf,
    blocks: Blocks,
    bar: ProgressBar,
    /// Things that could not be had, and files that were written.
    missing: usize,
    files: usize,
}

impl Export {
    fn collection(
        &mut self,
        folder: &Path,
        uuid: &str,
        changes: &Changes,
        files: &BTreeMap<Vec<u8>, File>,
    ) -> Result<(), String> {
        self.note(uuid, b"", make(folder))?;
        for path in files::folders(changes.values()) {
            match inside(folder, &path) {
                Some(target) => self.note(uuid, &path, make(&target))?,
                None => self.report(uuid, &path, "is not a path within a collection"),
            }
        }
        for (path, file) in files {
            match inside(folder, path) {
                Some(target) => {
                    let written = self.file(&target, uuid, path, file);
                    self.note(uuid, path, written)?;
                }
                None => self.report(uuid, path, "is not a path within a collection"),
            }
        }
        Ok(())
    }

    /// Reports what could not be written. Errors: all that follow would fail as well.
    fn note(&mut self, uuid: &str, path: &[u8], written: io::Result<()>) -> Result<(), String> {
        let Err(error) = written else { return Ok(()) };
        self.report(uuid, path, &format!("cannot be written: {error}"));
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                Err(format!("{error}: the rest is not exported; make room, and export to another folder"))
            }
            _ => Ok(()),
        }
    }

    fn report(&mut self, uuid: &str, path: &[u8], problem: &str) {
        self.missing += 1;
        self.bar.suspend(|| eprintln!("arvados journal: {uuid}/{}: {problem}", shown(path)));
    }

    fn file(&mut self, target: &Path, uuid: &str, path: &[u8], file: &File) -> io::Result<()> {
        if let Some(parent) = target.parent() {
            make(parent)?;
        }
        let written = OpenOptions::new().write(true).create_new(true).open(target)?;
        written.set_len(file.content.size)?;
        let mut at = 0_u64;
        for extent in &file.content.extents {
            let range = at..at.saturating_add(extent.length);
            at = range.end;
            let problem = match &extent.source {
                Source::Hole => None,
                Source::Inline(bytes) if bytes.len() as u64 == extent.length => {
                    written.write_all_at(bytes, range.start)?;
                    None
                }
                Source::Inline(_) => Some("the journal has another number of bytes".to_owned()),
                Source::Backing => self.copy(file.content.backing, &written, &range)?,
                Source::Stored { locator, offset, .. } => match self.blocks.get(locator, *offset, extent.length) {
                    Ok(bytes) => {
                        written.write_all_at(&bytes, range.start)?;
                        None
                    }
                    Err(problem) => Some(problem),
                },
            };
            if let Some(problem) = problem {
                self.report(uuid, path, &format!("bytes {} to {} are missing: {problem}", range.start, range.end));
            }
            self.bar.inc(extent.length);
        }
        // A time that this file system cannot keep is no loss.
        let _ = written.set_modified(file.modified.into());
        self.files += 1;
        Ok(())
    }

    /// Copies from the backing file. The inner error is one of reading and no reason to stop.
    fn copy(&self, number: Option<u64>, written: &std::fs::File, range: &Range<u64>) -> io::Result<Option<String>> {
        let Some(number) = number else { return Ok(Some("no backing file is named".to_owned())) };
        let path = self.data.join(number.to_string());
        let backing = match std::fs::File::open(&path) {
            Ok(backing) => backing,
            Err(error) => return Ok(Some(format!("{}: {error}", path.display()))),
        };
        let mut at = range.start;
        let mut piece = vec![0; PIECE];
        while at < range.end {
            let count = usize::try_from(range.end - at).unwrap_or(PIECE).min(PIECE);
            match backing.read_at(&mut piece[..count], at) {
                Ok(0) => return Ok(Some(format!("{} ends at {at}", path.display()))),
                Ok(count) => {
                    written.write_all_at(&piece[..count], at)?;
                    at += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Ok(Some(format!("{}: {error}", path.display()))),
            }
        }
        Ok(None)
    }
}

fn make(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)
}

/// The path below the folder, if it stays there.
fn inside(folder: &Path, path: &[u8]) -> Option<PathBuf> {
    let is_plain = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
    path.split(|byte| *byte == b'/').all(is_plain).then(|| folder.join(OsStr::from_bytes(path)))
}

/// Blocks in Keep, if there is a way to it. The last one is kept: the next piece is often in it.
struct Blocks {
    connection: Option<(tokio::runtime::Runtime, HttpKeep)>,
    last: Option<(String, Result<Bytes, String>)>,
}

impl Blocks {
    fn none() -> Blocks {
        Blocks { connection: None, last: None }
    }

    /// Without settings there is no Keep, which is no error; wrong ones are.
    fn connect() -> Result<Blocks, String> {
        let settings = match Settings::load() {
            Ok(settings) => settings,
            Err(remote::Error::SettingMissing { .. }) => return Ok(Blocks::none()),
            Err(error) => return Err(error.to_string()),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start a runtime: {error}"))?;
        let keep = runtime.block_on(async {
            let network = Network::new(settings)?;
            let api: Arc<dyn Api> = Arc::new(HttpApi::new(network.clone(), Retries::default())?);
            Ok::<_, remote::Error>(HttpKeep::new(network, api, Retries::default()))
        });
        let keep = keep.map_err(|error| error.to_string())?;
        Ok(Blocks { connection: Some((runtime, keep)), last: None })
    }

    fn get(&mut self, locator: &str, offset: u64, length: u64) -> Result<Bytes, String> {
        let Some((runtime, keep)) = &self.connection else {
            return Err("they are in Keep; set ARVADOS_API_HOST and ARVADOS_API_TOKEN".to_owned());
        };
        if self.last.as_ref().is_none_or(|(last, _)| last != locator) {
            // The old block goes before the new one comes: one block at a time in memory.
            self.last = None;
            let parsed = locator.parse::<Locator>().map_err(|error| error.to_string());
            let block =
                parsed.and_then(|parsed| runtime.block_on(keep.get(&parsed)).map_err(|error| error.to_string()));
            self.last = Some((locator.to_owned(), block));
        }
        let Some((_, block)) = &self.last else { return Err("the block is gone".to_owned()) };
        let block = block.as_ref().map_err(Clone::clone)?;
        let start = usize::try_from(offset).ok();
        let end = offset.checked_add(length).and_then(|end| usize::try_from(end).ok());
        match (start, end) {
            (Some(start), Some(end)) if start <= end && end <= block.len() => Ok(block.slice(start..end)),
            _ => Err("the block is shorter than the journal says".to_owned()),
        }
    }
}
