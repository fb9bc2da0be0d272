//! `arvados cluster user`: who may use the cluster.

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use super::Data;
use super::client::{Client, text};

/// Create, list and deactivate users.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  arvados cluster user create alice --data ~/arvados-data
  arvados cluster user create root2 --admin --data ~/arvados-data
  arvados cluster user list --data ~/arvados-data
  arvados cluster user deactivate alice --data ~/arvados-data")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create an active user; prints the uuid
    Create {
        /// User name: letters and digits, the first a letter
        name: String,
        #[command(flatten)]
        data: Data,
        /// May do everything
        #[arg(long)]
        admin: bool,
        /// E-mail address (default: NAME@example.com)
        #[arg(long, value_name = "ADDRESS")]
        email: Option<String>,
        /// First name (default: NAME)
        #[arg(long, value_name = "NAME")]
        first_name: Option<String>,
        /// Last name. arv-mount names the folder of a user's shared things after both, so there is always one
        #[arg(long, value_name = "NAME", default_value = "User")]
        last_name: String,
    },
    /// List users: uuid, name, state, e-mail
    List {
        #[command(flatten)]
        data: Data,
    },
    /// Let a user do nothing any more, and revoke all tokens
    Deactivate {
        /// User name or uuid
        name: String,
        #[command(flatten)]
        data: Data,
    },
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<(), String> {
    match &arguments.command {
        Command::Create { name, data, admin, email, first_name, last_name } => {
            let client = Client::open(&data.folder)?;
            let email = email.clone().unwrap_or_else(|| format!("{name}@example.com"));
            let attributes = json!({
                "username": name,
                "email": email,
                "first_name": first_name.as_deref().unwrap_or(name),
                "last_name": last_name,
                "is_active": true,
                "is_admin": admin,
            });
            let user = client.call(Method::POST, "users", &[], &json!({"user": attributes}))?;
            println!("{}", text(&user, "uuid"));
        }
        Command::List { data } => {
            for user in Client::open(&data.folder)?.list("users", &json!([]))? {
                println!(
                    "{}\t{}\t{}\t{}",
                    text(&user, "uuid"),
                    text(&user, "username"),
                    state(&user),
                    text(&user, "email")
                );
            }
        }
        Command::Deactivate { name, data } => {
            let client = Client::open(&data.folder)?;
            let uuid = text(&client.user(name)?, "uuid").to_owned();
            client.call(Method::POST, &format!("users/{uuid}/unsetup"), &[], &Value::Null)?;
            for token in client.list("api_client_authorizations", &json!([["owner_uuid", "=", uuid]]))? {
                let path = format!("api_client_authorizations/{}", text(&token, "uuid"));
                client.call(Method::DELETE, &path, &[], &Value::Null)?;
            }
        }
    }
    Ok(())
}

fn state(user: &Value) -> &'static str {
    match (user["is_active"] == json!(true), user["is_admin"] == json!(true)) {
        (false, _) => "inactive",
        (true, false) => "active",
        (true, true) => "admin",
    }
}
