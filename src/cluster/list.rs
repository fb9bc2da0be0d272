//! Lists: filters, order, pages, counts (protocol.md 3.5).

use rusqlite::types::Value as Sql;
use serde_json::{Value, json};

use crate::cluster::answer::Failure;
use crate::cluster::call::Call;
use crate::cluster::filter::{self, Condition, Filter};
use crate::cluster::present::{Place, Shape};
use crate::cluster::record::{Layer, Model, Record, collection, group, link, log, token};
use crate::cluster::request::Request;
use crate::cluster::store::rows;

/// Items on a page when the client does not say.
const DEFAULT_LIMIT: u64 = 100;

/// Which part of a list is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// At most so many items.
    pub limit: u64,
    /// Items before it.
    pub offset: u64,
    /// Whether all matching items are counted.
    pub count: bool,
}

impl Page {
    /// Reads `limit`, `offset` and `count`. A limit above the maximum is lowered, a negative one is the default.
    ///
    /// # Errors
    /// 422 and 500 as recorded (`collections/03-list-count-bad`, `collections/03-list-limit-not-number`).
    pub fn of_request(request: &Request, max: u64) -> Result<Self, Failure> {
        let number = |name: &str| match request.parameter(name) {
            None => Ok(None),
            Some(value) => value
                .as_i64()
                .map(Some)
                .ok_or_else(|| Failure::controller(500, format!("strconv.ParseInt: parsing {value}: invalid syntax"))),
        };
        let limit = number("limit")?.and_then(|limit| u64::try_from(limit).ok()).unwrap_or(DEFAULT_LIMIT).min(max);
        let offset = u64::try_from(number("offset")?.unwrap_or(0))
            .map_err(|_| Failure::argument("Invalid value for offset parameter"))?;
        let count = match request.parameter("count").map(|value| value.as_str().unwrap_or("?")) {
            None | Some("" | "exact") => true,
            Some("none") => false,
            Some(_) => return Err(Failure::argument("count parameter must be 'exact' or 'none'")),
        };
        Ok(Self { limit, offset, count })
    }
}

/// Which columns decide where `order` leaves it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TieBreak {
    /// The latest comes first.
    Latest,
    /// The same if that column is selected, as the real server does in lists (recorded: 03-list-limit-huge).
    Selected,
}

/// The ORDER BY of a request for one table: unknown columns and directions are passed over, each column counts once,
/// and unless a unique one is among them the latest comes first.
///
/// # Errors
/// 500 when `order` is neither text nor a list of texts.
pub fn order(request: &Request, model: &Model, tie_break: TieBreak) -> Result<String, Failure> {
    let mut parts: Vec<String> = Vec::new();
    let mut seen: Vec<String> = Vec::new();
    for item in request.texts("order")?.unwrap_or_default() {
        let mut words = item.split_whitespace();
        let Some(name) = words.next() else { continue };
        let name = match name.split_once('.') {
            Some((table, name)) if table == model.table => name,
            Some(_) => continue,
            None => name,
        };
        let direction = match words.next().map(str::to_lowercase).as_deref() {
            None | Some("asc") => "ASC",
            Some("desc") => "DESC",
            Some(_) => continue,
        };
        let known = name == "id" || model.attribute(name).is_some_and(|attribute| attribute.is_column());
        if known && !seen.iter().any(|one| one == name) {
            parts.push(format!("{}.{name} {direction}", model.table));
            seen.push(name.to_owned());
        }
    }
    if !seen.iter().any(|name| name == "id" || name == "uuid") {
        // The uuid stays always, so that pages fit together.
        let select = if tie_break == TieBreak::Selected { request.texts("select")? } else { None };
        for name in ["modified_at", "uuid"] {
            let selected = name == "uuid" || select.as_ref().is_none_or(|select| select.iter().any(|one| one == name));
            if selected && !seen.iter().any(|one| one == name) {
                parts.push(format!("{}.{name} DESC", model.table));
            }
        }
    }
    Ok(parts.join(", "))
}

/// The filters of a request, the legacy ones included.
///
/// # Errors
/// As [`filter::parse`].
pub fn filters(request: &Request) -> Result<Vec<Filter>, Failure> {
    let mut filters = filter::parse(request.parameter("filters"))?;
    filters.extend(filter::from_where(request.parameter("where"))?);
    Ok(filters)
}

impl Call<'_> {
    /// What of a table the caller may see in a list.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn scope(&self, model: &'static Model, request: &Request) -> Result<Condition, Failure> {
        self.visibility()?;
        let (table, me) = (model.table, Sql::Text(self.session.user_uuid.clone()));
        let mut conditions = vec![match table {
            table if table == token::MODEL.table => match self.session.is_admin {
                true => Condition::plain("1"),
                false => Condition::with(format!("{table}.owner_uuid = ?"), [me]),
            },
            table if table == collection::MODEL.table => {
                Condition::plain(format!("readable({table}.current_version_uuid, {table}.owner_uuid)"))
            }
            table if table == log::MODEL.table => Condition::plain(format!(
                "readable({table}.object_uuid, {table}.object_owner_uuid) OR readable({table}.uuid, {table}.owner_uuid)"
            )),
            table if table == link::MODEL.table => Condition::with(
                format!(
                    "readable({table}.uuid, {table}.owner_uuid) OR ({table}.link_class = 'permission' AND ({table}.tail_uuid = ? \
                     OR level({table}.head_uuid, '') >= 3 \
                     OR (SELECT level(uuid, owner_uuid) FROM collections WHERE uuid = {table}.head_uuid) >= 3))"
                ),
                [me],
            ),
            _ => Condition::plain(format!("readable({table}.uuid, {table}.owner_uuid)")),
        }];
        let has_trash = table == collection::MODEL.table || table == group::MODEL.table;
        if has_trash && !request.flag("include_trash") {
            conditions.push(Condition::plain(format!("NOT {table}.is_trashed AND NOT in_trash({table}.owner_uuid)")));
            if table == group::MODEL.table {
                conditions.push(Condition::plain(format!("NOT in_trash({table}.uuid)")));
            }
        }
        if table == collection::MODEL.table && !request.flag("include_old_versions") {
            conditions.push(Condition::plain(format!("{table}.current_version_uuid = {table}.uuid")));
        }
        Ok(Condition::join(conditions, " AND ", "1"))
    }

    /// Rows of a table that meet a condition.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn rows(
        &self,
        model: &'static Model,
        condition: &Condition,
        order: &str,
        limit: u64,
        offset: u64,
    ) -> Result<Vec<Record>, Failure> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let columns = rows::columns(model, &format!("{}.", model.table));
        let text = format!(
            "SELECT {columns} FROM {} WHERE {} ORDER BY {order} LIMIT {limit} OFFSET {offset}",
            model.table, condition.text
        );
        let mut statement = self.sql.prepare_cached(&text)?;
        let found =
            statement.query_map(rusqlite::params_from_iter(&condition.parameters), |row| rows::read(model, row))?;
        Ok(found.collect::<Result<_, _>>()?)
    }

    /// Number of rows that meet a condition.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn count(&self, model: &'static Model, condition: &Condition) -> Result<u64, Failure> {
        let text = format!("SELECT count(*) FROM {} WHERE {}", model.table, condition.text);
        let mut statement = self.sql.prepare_cached(&text)?;
        let count: i64 = statement.query_row(rusqlite::params_from_iter(&condition.parameters), |row| row.get(0))?;
        Ok(u64::try_from(count).unwrap_or_default())
    }

    /// A list of one kind; `extra` narrows it.
    ///
    /// # Errors
    /// 422, 500 for parameters that make no sense; 403, 404 for what only a federation could answer.
    pub fn list(&self, model: &'static Model, request: &Request, extra: Option<Condition>) -> Result<Value, Failure> {
        let mut page = Page::of_request(request, self.configuration.max_items_per_response)?;
        let filters = filters(request)?;
        if request.flag("bypass_federation") && !self.session.is_admin {
            return Err(Failure::rails(
                403,
                "The bypass_federation parameter is only permitted when current user is admin",
            ));
        }
        if model.layer == Layer::Controller {
            self.check_federation(&filters, &mut page)?;
        }
        let shape = Shape::of_request(request, model, Place::List)?;
        let mut conditions = vec![self.scope(model, request)?, filter::compile(model, &filters)?];
        conditions.extend(extra);
        let condition = Condition::join(conditions, " AND ", "1");
        let order = order(request, model, TieBreak::Selected)?;
        let records = match &shape.select {
            Some(names) if request.flag("distinct") => self.distinct(model, names, &condition, &order, &page)?,
            _ => self.rows(model, &condition, &order, page.limit, page.offset)?,
        };
        let records = self.cut_to_size(records, &shape, &mut page)?;
        let items = records.iter().map(|record| self.present(record, &shape)).collect::<Result<Vec<_>, _>>()?;
        let available = if page.count { Some(self.count(model, &condition)?) } else { None };
        let mut envelope = json!({
            "kind": format!("{}List", model.full_kind()),
            "offset": page.offset,
            "limit": page.limit,
            "items": items,
        });
        if let Some(available) = available {
            envelope["items_available"] = available.into();
        }
        if model.layer == Layer::Rails {
            envelope["etag"] = "".into();
            envelope["self_link"] = "".into();
        }
        if model.table == group::MODEL.table {
            envelope["included"] = json!([]);
        }
        Ok(envelope)
    }

    /// Distinct values of the selected columns. The controller always loads two more columns of a collection, so those
    /// count, too (recorded: `collections/03-list-distinct`).
    fn distinct(
        &self,
        model: &'static Model,
        names: &[String],
        condition: &Condition,
        order: &str,
        page: &Page,
    ) -> Result<Vec<Record>, Failure> {
        let mut loaded: Vec<&str> = names.iter().map(String::as_str).collect();
        if model.table == collection::MODEL.table {
            loaded.extend(["is_trashed", "trash_at"]);
        }
        let loaded: Vec<_> = model.columns().filter(|column| loaded.contains(&column.name)).collect();
        if loaded.is_empty() {
            return self.rows(model, condition, order, page.limit, page.offset);
        }
        let columns: Vec<_> = loaded.iter().map(|column| format!("{}.{}", model.table, column.name)).collect();
        let mut order: Vec<_> = order
            .split(", ")
            .filter(|part| columns.iter().any(|column| part.split(' ').next() == Some(column)))
            .collect();
        order.extend(columns.iter().map(String::as_str));
        let text = format!(
            "SELECT DISTINCT {} FROM {} WHERE {} ORDER BY {} LIMIT {} OFFSET {}",
            columns.join(", "),
            model.table,
            condition.text,
            order.join(", "),
            page.limit,
            page.offset
        );
        let mut statement = self.sql.prepare_cached(&text)?;
        let found = statement.query_map(rusqlite::params_from_iter(&condition.parameters), |row| {
            let mut record = Record::new(model);
            for (at, column) in loaded.iter().enumerate() {
                record.values.insert(column.name.to_owned(), rows::value(column.kind, row.get_ref(at)?));
            }
            Ok(record)
        })?;
        Ok(found.collect::<Result<_, _>>()?)
    }

    /// Leaves out what would make the answer too large; the limit then says how much it is (protocol.md 3.5).
    fn cut_to_size(&self, mut records: Vec<Record>, shape: &Shape, page: &mut Page) -> Result<Vec<Record>, Failure> {
        let wants_text = shape.select.iter().flatten().any(|name| name.ends_with("manifest_text"));
        if !wants_text {
            return Ok(records);
        }
        let mut sum = 0;
        for (at, record) in records.iter().enumerate() {
            sum += self.manifest_text(record.text("manifest"))?.len() as u64;
            if sum > self.configuration.max_index_database_read && at > 0 {
                records.truncate(at);
                page.limit = at as u64;
                break;
            }
        }
        Ok(records)
    }

    /// This cluster knows no other: a list of uuids of others cannot be had, and one of none at all is empty.
    fn check_federation(&self, filters: &[Filter], page: &mut Page) -> Result<(), Failure> {
        for filter in filters {
            let Filter::Triple(name, operator, operand) = filter else { continue };
            let uuids: Vec<&str> = match (name.as_str(), operator.as_str(), operand) {
                ("uuid", "=", Value::String(uuid)) => vec![uuid],
                ("uuid", "in", Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
                _ => continue,
            };
            if operator == "in" && uuids.is_empty() {
                page.limit = 0;
            }
            let foreign = uuids
                .iter()
                .filter(|uuid| crate::cluster::record::infix(uuid).is_some())
                .map(|uuid| &uuid[..5])
                .find(|prefix| *prefix != self.configuration.cluster_id);
            if let Some(prefix) = foreign {
                if page.count {
                    return Err(Failure::controller(400, "cannot execute federated list query unless count==\"none\""));
                }
                return Err(Failure::controller(
                    404,
                    format!("cannot execute federated list query: no proxy available for cluster \"{prefix}\""),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::cluster::request::Head;

    fn request(query: &str) -> Request {
        let head = Head { method: "GET".to_owned(), query: query.to_owned(), ..Head::default() };
        Request::parse(&head, &Bytes::new()).unwrap()
    }

    #[test]
    fn the_order_passes_over_what_it_does_not_know() {
        let order = |query: &str| order(&request(query), &collection::MODEL, TieBreak::Selected).unwrap();
        assert_eq!(order(""), "collections.modified_at DESC, collections.uuid DESC");
        assert_eq!(order("order=[\"uuid asc\",\"uuid asc\"]"), "collections.uuid ASC");
        assert_eq!(order("select=[\"uuid\",\"name\"]"), "collections.uuid DESC");
        assert_eq!(
            order("order=name, collections.version desc, groups.name, nosuch, file_count sideways"),
            "collections.name ASC, collections.version DESC, collections.modified_at DESC, collections.uuid DESC"
        );
    }

    #[test]
    fn a_limit_is_lowered_and_never_refused() {
        let limit = |query: &str| {
            Page::of_request(&request(query), 1000).map(|page| page.limit).map_err(|failure| failure.status)
        };
        assert_eq!(limit("limit=100000"), Ok(1000));
        assert_eq!(limit("limit=-1"), Ok(100));
        assert_eq!(limit("limit=0"), Ok(0));
        assert_eq!(limit("offset=-1"), Err(422));
        assert_eq!(limit("count=bogus"), Err(422));
    }
}
