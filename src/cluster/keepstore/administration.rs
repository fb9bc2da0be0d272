//! Everything but blocks: what keep-balance, health checks and monitoring ask of a keepstore (protocol.md 7).
//!
//! Two tokens open these doors, the SystemRootToken for whatever concerns blocks and the ManagementToken for health and
//! metrics; they do not stand for each other. Anything that is not listed is 400, as recorded.

use std::io;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::Keepstore;
use super::hash::{self, BlockHash};
use super::request::Head;
use super::response::{Response, TEXT};
use super::volume::Trashed;
use crate::cluster::metrics;

/// An answer that is not a block.
pub enum Reply {
    /// Complete.
    Whole(Response),
    /// Sent in pieces as they come; an error cuts it short.
    Lines(Response, mpsc::Receiver<io::Result<Vec<u8>>>),
}

/// Whether the request is one whose body is read: the lists.
pub fn takes_body(method: &str, path: &str) -> bool {
    method == "PUT" && matches!(path, "/pull" | "/trash")
}

/// Answers a request. `locator` is the path without its slash when it begins with a hash.
pub async fn answer(keepstore: &Arc<Keepstore>, head: &Head, locator: Option<&str>, body: &[u8]) -> Reply {
    let method = head.method.as_str();
    if method == "OPTIONS" {
        return Reply::Whole(Response::empty(200));
    }
    let segments: Vec<&str> = head.path.trim_start_matches('/').split('/').collect();
    let hash = locator.and_then(hash::leading);
    let configuration = keepstore.configuration.load();
    if method == "GET" && matches!(segments[..], ["_health", "ping"] | ["metrics"]) {
        let refusal = match head.token() {
            None => Some(Response::refusal(401, "authorization required")),
            Some(token) if token == configuration.management_token.expose() => None,
            Some(_) => Some(Response::refusal(403, "authorization error")),
        };
        return Reply::Whole(match (refusal, segments[0]) {
            (Some(refusal), _) => refusal,
            (None, "metrics") => {
                Response { content_type: Some(metrics::CONTENT_TYPE), ..Response::text(200, keepstore.metrics.text()) }
            }
            (None, _) => {
                let json = Response::text(200, "{\"health\":\"OK\"}\n");
                Response { content_type: Some("application/json"), ..json }
            }
        });
    }
    let known = match (method, &segments[..]) {
        ("TOUCH" | "DELETE", [_]) => hash.is_some(),
        ("GET", ["index" | "mounts"] | ["index", _] | ["mounts", _, "blocks"] | ["mounts", _, "blocks", _]) => true,
        ("PUT", ["untrash", locator]) => hash::leading(locator).is_some(),
        ("PUT", ["pull" | "trash"]) => true,
        _ => false,
    };
    if !known {
        return Reply::Whole(Response::refusal(400, "Bad Request"));
    }
    match head.token() {
        None => return Reply::Whole(Response::refusal(401, "Unauthorized")),
        Some(token) if token == configuration.system_root_token.expose() => {}
        Some(_) => return Reply::Whole(Response::refusal(403, "Forbidden")),
    }
    match (method, &segments[..]) {
        ("GET", ["mounts"]) => Reply::Whole(mounts(keepstore)),
        ("GET", ["index"]) => index(keepstore, None, &head.parameter("prefix").unwrap_or_default()),
        ("GET", ["index", prefix]) => index(keepstore, None, prefix),
        ("GET", ["mounts", uuid, "blocks", rest @ ..]) => {
            let prefix = rest.first().map(|prefix| (*prefix).to_owned()).or_else(|| head.parameter("prefix"));
            match keepstore.volumes.iter().position(|volume| volume.uuid == *uuid) {
                Some(volume) => index(keepstore, Some(volume), &prefix.unwrap_or_default()),
                None => Reply::Whole(Response::refusal(404, "mount not found")),
            }
        }
        ("PUT", ["pull"]) => Reply::Whole(list(keepstore.lists.replace_pull(body))),
        ("PUT", ["trash"]) => Reply::Whole(list(keepstore.lists.replace_trash(body))),
        ("PUT", ["untrash", locator]) => {
            let hash = hash::leading(locator).unwrap_or(BlockHash::EMPTY);
            on_disk(keepstore, move |keepstore| untrash(keepstore, hash)).await
        }
        ("TOUCH", _) => {
            let hash = hash.unwrap_or(BlockHash::EMPTY);
            on_disk(keepstore, move |keepstore| touch(keepstore, hash)).await
        }
        _ => {
            let hash = hash.unwrap_or(BlockHash::EMPTY);
            on_disk(keepstore, move |keepstore| delete(keepstore, hash)).await
        }
    }
}

fn list(replaced: Result<(), serde_json::Error>) -> Response {
    match replaced {
        Ok(()) => Response::empty(200),
        Err(error) => Response::text(400, format!("{error}\n")),
    }
}

async fn on_disk(
    keepstore: &Arc<Keepstore>,
    work: impl FnOnce(&Keepstore) -> io::Result<bool> + Send + 'static,
) -> Reply {
    let keepstore = Arc::clone(keepstore);
    let done = tokio::task::spawn_blocking(move || work(&keepstore)).await.map_err(io::Error::other);
    Reply::Whole(match done.and_then(|done| done) {
        Ok(true) => Response::empty(200),
        Ok(false) => Response::text(404, "file does not exist\n"),
        Err(error) => Response::text(500, format!("{error}\n")),
    })
}

fn touch(keepstore: &Keepstore, hash: BlockHash) -> io::Result<bool> {
    let mut found = false;
    for volume in &keepstore.volumes {
        found |= volume.touch(hash)?.is_some();
    }
    Ok(found)
}

fn delete(keepstore: &Keepstore, hash: BlockHash) -> io::Result<bool> {
    let configuration = keepstore.configuration.load();
    let mut found = false;
    for volume in &keepstore.volumes {
        let trashed = volume.trash(hash, configuration.blob_signing_ttl, configuration.blob_trash_lifetime, None)?;
        found |= trashed != Trashed::Missing;
    }
    Ok(found)
}

fn untrash(keepstore: &Keepstore, hash: BlockHash) -> io::Result<bool> {
    let mut found = false;
    for volume in &keepstore.volumes {
        found |= volume.untrash(hash)?;
    }
    Ok(found)
}

fn mounts(keepstore: &Keepstore) -> Response {
    let mounts = keepstore.volumes.iter().map(|volume| {
        let classes = volume.storage_classes.iter().map(|class| (class.clone(), true.into()));
        serde_json::json!({
            "uuid": volume.uuid,
            "device_id": volume.device_id,
            "allow_write": true,
            "allow_trash": true,
            "replication": volume.replication,
            "storage_classes": classes.collect::<serde_json::Map<_, serde_json::Value>>(),
        })
    });
    Response::text(200, serde_json::Value::from_iter(mounts).to_string() + "\n")
}

/// Lines `<hash>+<size> <mtime>`, then a blank one: without it the index is cut short.
fn index(keepstore: &Arc<Keepstore>, volume: Option<usize>, prefix: &str) -> Reply {
    /// Bytes in one piece.
    const ENOUGH: usize = 64 << 10;
    if prefix.len() > 32 || !prefix.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f')) {
        return Reply::Whole(Response::refusal(400, "Bad Request"));
    }
    let (pieces, inbox) = mpsc::channel(4);
    let (keepstore, prefix) = (Arc::clone(keepstore), prefix.to_owned());
    tokio::task::spawn_blocking(move || {
        let mut piece = Vec::new();
        let volumes = keepstore.volumes.iter().enumerate();
        for (_, volume) in volumes.filter(|(index, _)| volume.is_none_or(|wanted| wanted == *index)) {
            let listed = volume.index(&prefix, |hash, size, modified| {
                piece.extend_from_slice(format!("{hash}+{size} {modified}\n").as_bytes());
                piece.len() < ENOUGH || pieces.blocking_send(Ok(std::mem::take(&mut piece))).is_ok()
            });
            if let Err(error) = listed {
                tracing::error!(service = keepstore.name, %error, "cannot list a volume");
                // Nobody may be waiting any more.
                let _ = pieces.blocking_send(Err(error));
                return;
            }
        }
        piece.push(b'\n');
        let _ = pieces.blocking_send(Ok(piece));
    });
    Reply::Lines(Response { content_type: Some(TEXT), ..Response::empty(200) }, inbox)
}
