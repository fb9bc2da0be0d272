//! Users and tokens for the command line, which has no token to ask with.

use serde_json::{Map, Value, json};

use crate::cluster::answer::Failure;
use crate::cluster::api::Api;
use crate::cluster::clock::Timestamp;
use crate::cluster::configuration::Secret;
use crate::cluster::filter::Condition;
use crate::cluster::record::{Record, token, user};

/// A user, as the command line shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Identifies the user.
    pub uuid: String,
    /// Short name.
    pub username: String,
    /// Mail address.
    pub email: String,
    /// First and last name.
    pub full_name: String,
    /// Whether the account is in use.
    pub is_active: bool,
    /// Whether everything is allowed.
    pub is_admin: bool,
}

/// What a new user is to be.
#[derive(Clone, Debug, Default)]
pub struct NewUser {
    /// Short name, unique.
    pub username: String,
    /// Mail address.
    pub email: String,
    /// First name.
    pub first_name: String,
    /// Last name.
    pub last_name: String,
    /// Whether everything is allowed.
    pub is_admin: bool,
}

/// A token, as the command line shows it.
#[derive(Clone, Debug)]
pub struct Token {
    /// Identifies the token.
    pub uuid: String,
    /// Whose it is.
    pub user_uuid: String,
    /// The whole token, `v2/uuid/secret`.
    pub token: Secret,
    /// What it may be used for.
    pub scopes: Vec<String>,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
}

impl From<&Record> for User {
    fn from(record: &Record) -> Self {
        let full_name = format!("{} {}", record.text("first_name"), record.text("last_name"));
        Self {
            uuid: record.uuid().to_owned(),
            username: record.text("username").to_owned(),
            email: record.text("email").to_owned(),
            full_name: full_name.trim().to_owned(),
            is_active: record.flag("is_active"),
            is_admin: record.flag("is_admin"),
        }
    }
}

impl From<&Record> for Token {
    fn from(record: &Record) -> Self {
        let scopes = record.get("scopes").as_array().into_iter().flatten();
        Self {
            uuid: record.uuid().to_owned(),
            user_uuid: record.owner().to_owned(),
            token: Secret::new(format!("v2/{}/{}", record.uuid(), record.text("api_token"))),
            scopes: scopes.filter_map(Value::as_str).map(str::to_owned).collect(),
            expires_at: record.time("expires_at"),
        }
    }
}

/// All of a table: more users or tokens than this on one machine are not expected, and the list says so by its end.
const ALL: u64 = 100_000;

impl Api {
    /// All users, in the order in which they were made. Blocking, as everything here.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn users(&self) -> Result<Vec<User>, Failure> {
        self.read(self.system(), |call| {
            let records = call.rows(&user::MODEL, &Condition::plain("1"), "id", ALL, 0)?;
            Ok(records.iter().map(User::from).collect())
        })
    }

    /// The user of a short name, mail address or uuid.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn user(&self, name: &str) -> Result<Option<User>, Failure> {
        let found = self
            .users()?
            .into_iter()
            .find(|user| [&user.username, &user.email, &user.uuid].contains(&&name.to_owned()));
        Ok(found)
    }

    /// Makes a user whose account is in use.
    ///
    /// # Errors
    /// 422 when the name is taken.
    pub fn create_user(&self, new: &NewUser) -> Result<User, Failure> {
        let attributes = json!({
            "username": new.username, "email": new.email, "first_name": new.first_name, "last_name": new.last_name,
            "is_admin": new.is_admin, "is_active": true,
        });
        let attributes = attributes.as_object().cloned().unwrap_or_default();
        self.write(self.system(), |call| call.create(&user::MODEL, attributes, false)).map(|record| User::from(&record))
    }

    /// Takes an account into use or out of it. Tokens of one that is not in use can do next to nothing.
    ///
    /// # Errors
    /// 404 for an unknown user.
    pub fn set_user_active(&self, uuid: &str, active: bool) -> Result<User, Failure> {
        let attributes = Map::from_iter([("is_active".to_owned(), active.into())]);
        self.write(self.system(), |call| call.update(&user::MODEL, uuid, attributes)).map(|record| User::from(&record))
    }

    /// The tokens of a user, or all.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn tokens(&self, user_uuid: Option<&str>) -> Result<Vec<Token>, Failure> {
        self.read(self.system(), |call| {
            let condition = match user_uuid {
                Some(uuid) => Condition::with("owner_uuid = ?", [rusqlite::types::Value::Text(uuid.to_owned())]),
                None => Condition::plain("1"),
            };
            let records = call.rows(&token::MODEL, &condition, "id", ALL, 0)?;
            Ok(records.iter().map(Token::from).collect())
        })
    }

    /// Makes a token for a user.
    ///
    /// # Errors
    /// 422 for an unknown user.
    pub fn create_token(
        &self,
        user_uuid: &str,
        scopes: Option<&[String]>,
        expires_at: Option<Timestamp>,
    ) -> Result<Token, Failure> {
        let mut attributes = Map::from_iter([("owner_uuid".to_owned(), user_uuid.into())]);
        if let Some(scopes) = scopes {
            attributes.insert("scopes".to_owned(), scopes.into());
        }
        if let Some(time) = expires_at {
            attributes.insert("expires_at".to_owned(), time.to_string().into());
        }
        self.write(self.system(), |call| call.create(&token::MODEL, attributes, false))
            .map(|record| Token::from(&record))
    }

    /// Makes a token useless.
    ///
    /// # Errors
    /// 404 for an unknown token.
    pub fn revoke_token(&self, uuid: &str) -> Result<(), Failure> {
        self.write(self.system(), |call| call.delete(&token::MODEL, uuid)).map(|_| ())
    }
}
