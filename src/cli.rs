//! The command line: one file per subcommand below `cli/`, and here only the choice between them.
//!
//! A program called through a link named `arv-mount` behaves as `arvados mount`: that is how the drop-in works.
//! Subcommands start their own runtime, because some of them (the daemon) must act before any thread exists.

use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

pub mod cluster;
pub mod demo;
pub mod journal;
pub mod mount;
mod signals;

/// Arvados Keep as a file system, and a small Arvados cluster to go with it.
#[derive(Parser)]
#[command(name = "arvados", version, propagate_version = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Mount(Box<mount::Arguments>),
    #[command(hide = true)]
    MountGuardian(Box<mount::guardian::Arguments>),
    Cluster(cluster::Arguments),
    Demo(demo::Arguments),
    Journal(journal::Arguments),
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    match Arguments::parse_from(arguments()).command {
        Command::Mount(arguments) => mount::run(*arguments),
        Command::MountGuardian(arguments) => mount::guardian::run(*arguments),
        Command::Cluster(arguments) => cluster::run(arguments),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Journal(arguments) => journal::run(arguments),
    }
}

/// The words of the command line, with `arv-mount …` turned into `arvados mount …`.
fn arguments() -> Vec<OsString> {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    let called = words.first().map(std::path::Path::new).and_then(|path| path.file_name());
    if called.is_some_and(|name| name == "arv-mount") {
        words.insert(1, OsString::from("mount"));
    }
    words
}
