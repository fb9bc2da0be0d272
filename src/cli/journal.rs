//! `arvados journal`: what mounts have promised and the server has not got.
//!
//! Everything but `discard` only reads, and without the lock of a journal, so that it can be used beside a mount that runs.
//! Nothing but `export` asks a server. Signatures are never shown.
//!
//! Answers go to stdout, everything else to stderr. Exit status: 0 done, 1 not (wholly) done, 2 wrong words.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::signals;
use crate::journal::{self, place};

pub mod discard;
pub mod export;
pub mod files;
pub mod list;
pub mod show;

/// See, save and discard what mounts have not brought to the server yet.
///
/// A mount that ends in good order leaves nothing here. What one that was killed has left is taken over by the next mount with
/// --read-write of the same user and cluster, by itself; these commands are for when that cannot work, or for looking.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  arvados journal list
  arvados journal show 3f2a
  arvados journal export 3f2a ~/saved
  arvados journal discard 3f2a --yes")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    List(list::Arguments),
    Show(show::Arguments),
    Export(export::Arguments),
    Discard(discard::Arguments),
}

/// Where the journals are, as every command takes it.
#[derive(clap::Args)]
pub struct Place {
    /// Folder with the journals of all accounts [default: $XDG_STATE_HOME/arvados/journal or
    /// ~/.local/state/arvados/journal]
    #[arg(long, value_name = "DIR")]
    journal_dir: Option<PathBuf>,
}

/// One journal, as `show`, `export` and `discard` take it.
#[derive(clap::Args)]
pub struct One {
    #[command(flatten)]
    place: Place,
    /// Name of the journal as `list` shows it, or its beginning
    #[arg(value_name = "JOURNAL")]
    journal: String,
}

/// A journal that was found.
pub struct Found {
    pub id: String,
    /// Cluster and user, as the folder is called.
    pub account: String,
    pub folder: PathBuf,
}

impl Place {
    /// All journals of this user.
    fn all(&self) -> Result<Vec<Found>, String> {
        let root = match &self.journal_dir {
            Some(folder) if folder.is_dir() => folder.clone(),
            Some(folder) => return Err(format!("{} is not a folder", folder.display())),
            None => place::root().map_err(|error| error.to_string())?,
        };
        // An account's folder is like a journal's in what counts here: a real folder with a name that is not hidden.
        let accounts = journal::folders(&root).map_err(|error| error.to_string())?;
        let mut found = Vec::new();
        for account in accounts {
            let name = account.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            for folder in journal::folders(&account).map_err(|error| error.to_string())? {
                found.push(Found { id: journal::id(&folder), account: name.clone(), folder });
            }
        }
        Ok(found)
    }
}

impl One {
    fn find(&self) -> Result<Found, String> {
        if self.journal.is_empty() {
            return Err("which journal? the name is empty; `arvados journal list` shows all".to_owned());
        }
        let mut found = self.place.all()?;
        found.retain(|found| found.id.starts_with(&self.journal));
        if let Some(exact) = found.iter().position(|found| found.id == self.journal) {
            return Ok(found.swap_remove(exact));
        }
        match found.len() {
            0 => Err(format!("there is no journal {}; `arvados journal list` shows all", self.journal)),
            1 => Ok(found.swap_remove(0)),
            _ => {
                let ids: Vec<&str> = found.iter().map(|found| found.id.as_str()).collect();
                Err(format!("{} may be any of {}; say more of the name", self.journal, ids.join(", ")))
            }
        }
    }
}

/// Runs the command.
pub fn run(arguments: Arguments) -> ExitCode {
    signals::end_with_the_reader();
    let done = match arguments.command {
        Command::List(arguments) => list::run(&arguments),
        Command::Show(arguments) => show::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Discard(arguments) => discard::run(&arguments),
    };
    done.unwrap_or_else(|message| {
        eprintln!("arvados journal: {message}");
        ExitCode::FAILURE
    })
}

/// A path for people: as it is, or escaped where a terminal would not show it as it is.
fn shown(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => path.escape_ascii().to_string(),
    }
}
