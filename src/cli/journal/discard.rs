//! `arvados journal discard`: the one command that takes something away.

use std::process::ExitCode;

use super::One;
use crate::journal::{self, Contents};

/// Remove the journal of a mount that does not run, with all changes in it that the server has not got.
#[derive(clap::Args)]
#[command(after_help = "What is discarded is lost: `export` it first.

Example:
  arvados journal export 3f2a ~/saved && arvados journal discard 3f2a --yes")]
pub struct Arguments {
    #[command(flatten)]
    one: One,
    /// Yes, lose what is in it
    #[arg(long)]
    yes: bool,
}

/// Removes the journal.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    let found = arguments.one.find()?;
    if journal::is_running(&found.folder) {
        return Err(journal::Error::Running { folder: found.folder }.to_string());
    }
    if !arguments.yes {
        // Also a journal that cannot be read must be possible to discard.
        let what = Contents::read(&found.folder).map_or_else(
            |error| format!("what cannot be read ({error})"),
            |contents| {
                let collections = &contents.pending.collections;
                let changes: usize = collections.values().map(|changes| changes.len()).sum();
                format!("{changes} change(s) to {} collection(s)", collections.len())
            },
        );
        return Err(format!("{} has {what} that the server has not got; add --yes to lose them", found.id));
    }
    journal::discard(&found.folder).map_err(|error| error.to_string())?;
    println!("{}", found.id);
    Ok(ExitCode::SUCCESS)
}
