//! `arvados journal show`: the changes one by one.

use std::process::ExitCode;

use chrono::SecondsFormat;
use indicatif::HumanBytes;

use super::files::Amount;
use super::{One, shown};
use crate::journal::{self, Contents, Operation};

/// Show the changes of a journal that the server has not got, with paths and sizes.
#[derive(clap::Args)]
#[command(after_help = "Exit status: 0 done, 1 the journal is damaged: there may have been more.

Example:
  arvados journal show 3f2a")]
pub struct Arguments {
    #[command(flatten)]
    one: One,
}

/// Prints the changes.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    let found = arguments.one.find()?;
    let contents = Contents::read(&found.folder).map_err(|error| error.to_string())?;
    for (uuid, changes) in &contents.pending.collections {
        println!("{uuid}");
        for (sequence, change) in changes {
            let time = change.time.to_rfc3339_opts(SecondsFormat::Secs, true);
            println!("    {:>6}  {time}  {}", sequence.0, line(&change.operation));
        }
    }
    // What a mount that runs is just writing looks like damage.
    match contents.problem().filter(|_| !journal::is_running(&found.folder)) {
        Some(problem) => {
            eprintln!("arvados journal: {}: {problem}", found.folder.display());
            Ok(ExitCode::FAILURE)
        }
        None => Ok(ExitCode::SUCCESS),
    }
}

fn line(operation: &Operation) -> String {
    match operation {
        Operation::File { path, content, .. } => {
            let mut amount = Amount::default();
            amount.add(content);
            format!(
                "file      {}  {} ({} only here, {} in Keep)",
                shown(path),
                HumanBytes(content.size),
                HumanBytes(amount.local),
                HumanBytes(amount.stored),
            )
        }
        Operation::MakeDirectory { path } => format!("mkdir     {}", shown(path)),
        Operation::Remove { path } => format!("remove    {}", shown(path)),
        Operation::Rename { from, to } => format!("rename    {} -> {}", shown(from), shown(to)),
        Operation::Modified { path, time } => format!("modified  {}  {time}", shown(path)),
    }
}
