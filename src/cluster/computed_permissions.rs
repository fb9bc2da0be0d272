//! `computed_permissions`: what follows from owners and links, for administrators (protocol.md 1.3).

use serde_json::{Value, json};

use crate::cluster::answer::Failure;
use crate::cluster::call::Call;
use crate::cluster::filter::{self, Filter};
use crate::cluster::list::Page;
use crate::cluster::permission::{Level, Visibility};
use crate::cluster::request::Request;

/// One line of the answer.
struct Permission {
    user_uuid: String,
    target_uuid: String,
    perm_level: &'static str,
}

impl Permission {
    fn get(&self, name: &str) -> Option<&str> {
        match name {
            "user_uuid" => Some(&self.user_uuid),
            "target_uuid" => Some(&self.target_uuid),
            "perm_level" => Some(self.perm_level),
            _ => None,
        }
    }

    fn meets(&self, filter: &Filter) -> Result<bool, Failure> {
        let Filter::Triple(name, operator, operand) = filter else {
            return Err(Failure::argument("Invalid expression in filter"));
        };
        let value = self.get(name).ok_or_else(|| Failure::argument(format!("Invalid attribute '{name}' in filter")))?;
        match (operator.as_str(), operand) {
            ("=", operand) => Ok(operand == value),
            ("!=" | "<>", operand) => Ok(operand != value),
            ("in", Value::Array(list)) => Ok(list.iter().any(|one| one == value)),
            ("not in", Value::Array(list)) => Ok(!list.iter().any(|one| one == value)),
            ("in" | "not in", _) => Err(filter::invalid_operand(operand, operator)),
            _ => Err(filter::invalid_operator(operator)),
        }
    }
}

impl Call<'_> {
    /// The list, ordered by user and target.
    ///
    /// # Errors
    /// 403 for who is no administrator, 422 for wrong filters.
    pub fn computed_permissions(&self, request: &Request) -> Result<Value, Failure> {
        self.require_admin()?;
        let page = Page::of_request(request, self.configuration.max_items_per_response)?;
        let filters = filter::parse(request.parameter("filters"))?;
        let graph = self.graph()?;
        let mut all = Vec::new();
        for user in graph.users.keys() {
            let view = Visibility::new(graph.clone(), user, false);
            for (target, level) in view.all() {
                let perm_level = match level {
                    Level::None => continue,
                    Level::Read => "can_read",
                    Level::Write => "can_write",
                    Level::Manage => "can_manage",
                };
                all.push(Permission { user_uuid: user.clone(), target_uuid: target.to_owned(), perm_level });
            }
        }
        let mut found = Vec::new();
        for permission in all {
            let mut fits = true;
            for filter in &filters {
                fits &= permission.meets(filter)?;
            }
            if fits {
                found.push(permission);
            }
        }
        found.sort_by(|one, other| (&one.user_uuid, &one.target_uuid).cmp(&(&other.user_uuid, &other.target_uuid)));
        let available = found.len();
        let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
        let items: Vec<Value> = found
            .iter()
            .take(limit)
            .map(|one| {
                json!({"kind": "arvados#computedPermission", "user_uuid": one.user_uuid,
                       "target_uuid": one.target_uuid, "perm_level": one.perm_level})
            })
            .collect();
        let mut list = json!({
            "kind": "arvados#computedPermissionList", "etag": "", "self_link": "", "limit": page.limit, "items": items,
        });
        if page.count {
            list["items_available"] = available.into();
        }
        Ok(list)
    }
}
