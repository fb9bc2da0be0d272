//! Asking the log for changes, where there is no event stream (protocol.md 9.5).

use crate::remote::api::{Api, Filter, Query};
use crate::remote::error::{Error, Result};
use crate::remote::events::event::EventType;
use crate::remote::events::{Feed, Gone};
use serde_json::json;
use std::time::Duration;
use tokio::time::timeout;

/// Log records of a page. Each may carry two manifests, so few at a time.
const PAGE: u32 = 50;
/// Longest wait for one page; the listener has a websocket to try meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// Passes on what was logged after the position of `feed`. Without a position, finds out where the log ends and says
/// that there is a gap: whatever changed before is not told.
pub(super) async fn poll(api: &dyn Api, feed: &mut Feed) -> Result<Result<()>, Gone> {
    let Some(mut position) = feed.resume() else {
        let query = Query { order: vec!["id desc".to_owned()], ..query(1, Vec::new()) };
        return match page(api, &query).await {
            Ok(events) => {
                feed.position = Some(events.first().map_or(0, |event| event.id));
                feed.gap().await.map(Ok)
            }
            Err(error) => Ok(Err(error)),
        };
    };
    loop {
        // As text: that is how clients write it, and all servers read it (protocol.md 12.10).
        let after = Filter::new("id", ">", position.to_string());
        let query = Query { order: vec!["id asc".to_owned()], ..query(PAGE, vec![after]) };
        let events = match page(api, &query).await {
            Ok(events) => events,
            Err(error) => return Ok(Err(error)),
        };
        let last = events.iter().map(|event| event.id).max().unwrap_or(position);
        for event in events {
            if event.event_type != EventType::Other {
                feed.event(event).await?;
            }
        }
        if last <= position {
            return Ok(Ok(()));
        }
        position = last;
    }
}

fn query(limit: u32, mut filters: Vec<Filter>) -> Query {
    filters.push(Filter::new("event_type", "in", json!(["create", "update", "delete"])));
    Query { filters, limit: Some(limit), ..Query::default() }
}

async fn page(api: &dyn Api, query: &Query) -> Result<Vec<crate::remote::events::Event>> {
    let late = |_| Err(Error::Deadline { what: "GET logs".to_owned(), after: PATIENCE });
    timeout(PATIENCE, api.logs(query)).await.unwrap_or_else(late).map(|page| page.items)
}
