//! `arvados cluster`: run an embedded cluster, and look after it.
//!
//! `start` is the cluster; the other commands talk to one that runs, through its API and with the root token that only the
//! owner of the data folder can read. There is no private way in.
//!
//! Answers go to stdout, so that they can be evaluated or cut; everything else goes to stderr. Exit status: 0 done, 1 not
//! done (with the reason and the remedy), 2 wrong words, 3 (`status` only) not running.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::signals;

pub mod client;
pub mod env;
pub mod start;
pub mod status;
pub mod token;
pub mod user;

/// Run and manage an embedded Arvados cluster: API, Keep and websocket in one process.
///
/// The real clients (arv-put, arv-get, arv-mount, the SDKs) work with it unmodified. It is for one machine, for demos and
/// for tests of programs that use Arvados.
#[derive(clap::Args)]
#[command(after_help = "Example:
  arvados cluster start --data ~/arvados-data &
  eval \"$(arvados cluster env --data ~/arvados-data)\"
  arv-put README.md && arvados mount ~/keep")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Start(start::Arguments),
    Env(env::Arguments),
    User(user::Arguments),
    Token(token::Arguments),
    Status(status::Arguments),
}

/// The data folder, as every command takes it.
#[derive(clap::Args)]
pub struct Data {
    /// Folder with the cluster's data (`start` creates it)
    #[arg(long = "data", value_name = "DIR", env = "ARVADOS_CLUSTER_DATA")]
    pub folder: PathBuf,
}

/// Runs the command.
pub fn run(arguments: Arguments) -> ExitCode {
    match arguments.command {
        Command::Start(_) => signals::survive_the_limit_on_files(),
        _ => signals::end_with_the_reader(),
    }
    let done = match arguments.command {
        Command::Start(arguments) => start::run(arguments),
        Command::Env(arguments) => env::run(&arguments),
        Command::User(arguments) => user::run(&arguments),
        Command::Token(arguments) => token::run(&arguments),
        Command::Status(arguments) => return status::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("arvados cluster: {message}");
            ExitCode::FAILURE
        }
    }
}
