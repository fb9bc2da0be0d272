//! `arvados cluster token`: keys to the cluster.

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use super::Data;
use super::client::{Client, text, v2};

/// Create, list and revoke tokens.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  arvados cluster token create --user alice --data ~/arvados-data
  arvados cluster token create --user alice --scope 'GET /arvados/v1/collections/' --data ~/arvados-data
  arvados cluster token list --user alice --data ~/arvados-data
  arvados cluster token revoke zzzzz-gj3su-0123456789abcde --data ~/arvados-data")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create a token and print it; it is not shown again
    Create {
        #[command(flatten)]
        data: Data,
        /// User name or uuid
        #[arg(long, value_name = "NAME", default_value = crate::cluster::FIRST_USER)]
        user: String,
        /// Method and path that it is good for, such as 'GET /arvados/v1/collections/'; may be repeated (default: all)
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// When it ends, such as 2030-01-01T00:00:00Z (default: never)
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
    },
    /// List tokens, without their secrets: uuid, user, end, scopes
    List {
        #[command(flatten)]
        data: Data,
        /// User name or uuid (default: all users)
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
    /// Make a token useless at once
    Revoke {
        /// Uuid of the token, or the token
        token: String,
        #[command(flatten)]
        data: Data,
    },
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<(), String> {
    match &arguments.command {
        Command::Create { data, user, scopes, expires_at } => {
            let client = Client::open(&data.folder)?;
            let user = client.user(user)?;
            let scopes = if scopes.is_empty() { json!(["all"]) } else { json!(scopes) };
            let token = client.new_token(&user, &scopes, expires_at.as_deref())?;
            println!("{}", v2(&token).ok_or("the cluster did not tell the new token")?);
        }
        Command::List { data, user } => {
            let client = Client::open(&data.folder)?;
            let filters = match user {
                Some(user) => json!([["owner_uuid", "=", text(&client.user(user)?, "uuid")]]),
                None => json!([]),
            };
            for token in client.list("api_client_authorizations", &filters)? {
                let expiry = token["expires_at"].as_str().unwrap_or("never");
                println!("{}\t{}\t{expiry}\t{}", text(&token, "uuid"), text(&token, "owner_uuid"), token["scopes"]);
            }
        }
        Command::Revoke { token, data } => {
            let uuid = token.strip_prefix("v2/").and_then(|rest| rest.split('/').next()).unwrap_or(token);
            if !super::client::is_uuid(uuid) {
                return Err("that is no uuid of a token: see `arvados cluster token list`".to_owned());
            }
            let path = format!("api_client_authorizations/{uuid}");
            Client::open(&data.folder)?.call(Method::DELETE, &path, &[], &Value::Null)?;
        }
    }
    Ok(())
}
