//! `arvados cluster env`: the variables that clients need, for a shell to evaluate.

use serde_json::json;

use super::Data;
use super::client::Client;
use super::start::shell_words;

/// Print `export …` lines that let the shell's programs use the cluster.
///
/// The lines hold a token of the user: evaluate them, do not show them.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  eval \"$(arvados cluster env --data ~/arvados-data)\"
  eval \"$(arvados cluster env --data ~/arvados-data --user admin)\"")]
pub struct Arguments {
    #[command(flatten)]
    data: Data,
    /// User name or uuid
    #[arg(long, value_name = "NAME", default_value = crate::cluster::FIRST_USER)]
    user: String,
    /// Accept any certificate (ARVADOS_API_HOST_INSECURE) instead of naming the cluster's (SSL_CERT_FILE): for programs that
    /// need other certificates from the system's file too
    #[arg(long)]
    insecure: bool,
}

/// Variables that lead clients to Keep services of another cluster. Empty and not unset: then a `settings.conf` in which they are
/// does not count either.
pub const ELSEWHERE: [&str; 2] = ["ARVADOS_KEEP_SERVICES", "ARVADOS_KEEP_PROXY"];

/// Prints the lines.
pub fn run(arguments: &Arguments) -> Result<(), String> {
    let client = Client::open(&arguments.data.folder)?;
    let user = client.user(&arguments.user)?;
    if user["is_active"] != json!(true) {
        return Err(format!("user {} is not active", arguments.user));
    }
    let token = client.usable_token(&user)?;
    println!("export ARVADOS_API_HOST={}", shell_words(&client.note.api));
    println!("export ARVADOS_API_TOKEN={}", shell_words(&token));
    if arguments.insecure {
        println!("export ARVADOS_API_HOST_INSECURE=true");
    } else {
        println!("unset ARVADOS_API_HOST_INSECURE");
        println!("export SSL_CERT_FILE={}", shell_words(&client.certificate.display().to_string()));
    }
    for name in ELSEWHERE {
        println!("export {name}=");
    }
    println!("unset KEEP_LOCAL_STORE");
    Ok(())
}
