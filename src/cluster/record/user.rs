//! Users: accounts, and what others see of them.
//!
//! An account in use belongs to "All users", which makes it visible to the others; the system group may manage every
//! account. Both are permission links like any other (protocol.md 3.1, 4.10).

use serde_json::{Map, Value};

use crate::cluster::answer::Failure;
use crate::cluster::call::Call;
use crate::cluster::present::{Place, Shape};
use crate::cluster::record::attribute::{Kind, Use, plain};
use crate::cluster::record::{Layer, Model, Record, group};

/// Users.
pub static MODEL: Model = Model {
    table: "users",
    singular: "user",
    class: "User",
    kind: "user",
    infix: "tpzed",
    layer: Layer::Controller,
    internal: &[],
    attributes: &[
        plain("uuid", Kind::String, "Identifies the user; made by the server."),
        plain("owner_uuid", Kind::String, "Owner of the account: the system user."),
        plain("created_at", Kind::Time, "When the account was created.").used(Use::ReadOnly),
        plain("modified_by_user_uuid", Kind::String, "User who made the last change.").used(Use::ReadOnly),
        plain("modified_at", Kind::Time, "When the account was last changed.").used(Use::ReadOnly),
        plain("email", Kind::String, "Mail address."),
        plain("first_name", Kind::String, "First name."),
        plain("last_name", Kind::String, "Last name."),
        plain("identity_url", Kind::String, "Identity at a login provider."),
        plain("is_admin", Kind::Boolean, "Whether everything is allowed."),
        plain("prefs", Kind::Object, "Preferences of programs."),
        plain("is_active", Kind::Boolean, "Whether the account is in use."),
        plain("username", Kind::String, "Short name, unique."),
        plain("full_name", Kind::String, "First and last name.").used(Use::Derived),
        plain("is_invited", Kind::Boolean, "Whether the account may be activated.").used(Use::Derived),
        plain("can_write", Kind::Boolean, "Whether the caller may change it.").used(Use::Derived),
        plain("can_manage", Kind::Boolean, "Whether the caller may manage it.").used(Use::Derived),
        plain("writable_by", Kind::Array, "Who may change it, as far as the caller may know.").used(Use::Derived),
    ],
};

/// What is shown of other people's accounts in lists and by uuid; the controller fills in zeros for the rest.
const PUBLIC: [&str; 12] = [
    "kind",
    "uuid",
    "is_active",
    "is_admin",
    "is_invited",
    "email",
    "first_name",
    "last_name",
    "username",
    "can_write",
    "can_manage",
    "identity_url",
];

/// What only an administrator may change of an account.
const PRIVILEGED: [&str; 6] = ["is_admin", "is_active", "username", "email", "owner_uuid", "identity_url"];

impl Call<'_> {
    /// What the caller sees of an account.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn present_user(&self, record: &Record, shape: &Shape) -> Result<Value, Failure> {
        let mut derived = self.write_access(record)?;
        let full = format!("{} {}", record.text("first_name"), record.text("last_name"));
        derived.insert("full_name".to_owned(), full.trim().into());
        derived.insert("is_invited".to_owned(), true.into());
        let mut shown = shape.present(record, derived);
        if shape.place == Place::Included {
            shown["identity_url"] = Value::Null;
        }
        let is_stranger = shape.place == Place::List || record.uuid() != self.session.user_uuid;
        if is_stranger && shape.place != Place::Included && !self.session.is_admin && !self.is_system_user(record) {
            redact(&mut shown);
        }
        Ok(shown)
    }

    /// The system user is shown to everybody as it is (recorded: `auth/02-users-system`).
    fn is_system_user(&self, record: &Record) -> bool {
        record.uuid() == self.configuration.system_user()
    }

    /// Fills in what a new account lacks.
    ///
    /// # Errors
    /// 403 for who is no administrator.
    pub fn prepare_user(&self, user: &mut Record) -> Result<(), Failure> {
        self.require_admin()?;
        user.set("owner_uuid", self.configuration.system_user());
        for (name, default) in [("is_active", false), ("is_admin", false)] {
            if user.get(name).is_null() {
                user.set(name, default);
            }
        }
        for name in ["first_name", "last_name", "identity_url"] {
            if user.get(name).is_null() {
                user.set(name, "");
            }
        }
        if user.get("prefs").is_null() {
            user.set("prefs", Map::new());
        }
        if user.text("username").is_empty() {
            let base: String = user.text("email").split('@').next().unwrap_or_default().to_lowercase();
            let base: String = base.chars().filter(char::is_ascii_alphanumeric).collect();
            let name = self.free_username(base.trim_start_matches(|c: char| c.is_ascii_digit()))?;
            user.set("username", if name.is_empty() { Value::Null } else { name.into() });
        }
        Ok(())
    }

    /// The name itself or, if it is taken, with the first free number behind it.
    fn free_username(&self, base: &str) -> Result<String, Failure> {
        if base.is_empty() {
            return Ok(String::new());
        }
        let mut taken = self.sql.prepare_cached("SELECT 1 FROM users WHERE username = ?")?;
        for number in 1_u32.. {
            let name = if number == 1 { base.to_owned() } else { format!("{base}{number}") };
            if !taken.exists([&name])? {
                return Ok(name);
            }
        }
        Ok(String::new())
    }

    /// An ordinary user may change little of their own account.
    ///
    /// # Errors
    /// 403 for the rest.
    pub fn check_user_change(&self, old: &Record, new: &Record) -> Result<(), Failure> {
        if self.session.is_admin || PRIVILEGED.iter().all(|name| old.get(name) == new.get(name)) {
            return Ok(());
        }
        Err(Failure::denied())
    }

    /// Gives an account its place: the system group may manage it, and while it is in use it belongs to "All users".
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn finish_user(&self, user: &Record) -> Result<(), Failure> {
        let system = self.as_system();
        let everybody = self.configuration.reserved_uuid(group::MODEL.infix, "fffffffffffffff");
        let system_group = self.configuration.reserved_uuid(group::MODEL.infix, "000000000000000");
        system.add_permission(&system_group, "can_manage", user.uuid())?;
        if user.flag("is_active") {
            system.add_permission(user.uuid(), "can_write", &everybody)?;
            system.add_permission(&everybody, "can_read", user.uuid())?;
        }
        self.absorb(&system);
        Ok(())
    }
}

/// Takes out what is nobody else's business.
fn redact(shown: &mut Value) {
    let Value::Object(map) = shown else { return };
    map.remove("writable_by");
    for (name, value) in map.iter_mut().filter(|(name, _)| !PUBLIC.contains(&name.as_str())) {
        *value = match name.as_str() {
            "created_at" | "modified_at" | "prefs" => Value::Null,
            _ => "".into(),
        };
    }
}
