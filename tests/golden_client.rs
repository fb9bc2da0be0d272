//! The client reads what a real cluster said: every recorded answer of a kind that it reads is served to it again.
//!
//! A successful answer must give a record with the same content, a refusal the typed error with the recorded status and
//! messages. The recordings are those of `tests/data/golden`, or of `../shared/golden` where a clone stands beside it;
//! `ARVADOS_GOLDEN` names another place.

#[path = "support/scripted.rs"]
mod scripted;

use arvados::keep::{BlockHash, Locator};
use arvados::remote::api::{Api, CollectionUpdate, HttpApi, Query};
use arvados::remote::events::{Event, EventType};
use arvados::remote::keep::{HttpKeep, Keep, PutRequest};
use arvados::remote::retry::Retries;
use arvados::remote::{Error, Network, Settings, Token};
use scripted::{Reply, Server};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const ONCE: Retries = Retries { count: 0, deadline: Duration::from_secs(20) };

fn golden() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = std::env::var_os("ARVADOS_GOLDEN").map(PathBuf::from);
    let places = named.into_iter().chain([
        root.join("tests/data/golden"),
        root.join("../shared/golden"),
        root.join("../../shared/golden"),
    ]);
    let mut found = places.filter(|place| place.join("discovery").is_dir());
    found.next().expect("no recordings: set ARVADOS_GOLDEN to their folder")
}

/// The recordings of some folders, by name.
fn recordings(folders: &[&str]) -> Vec<(String, Value)> {
    let mut result = Vec::new();
    for folder in folders {
        for entry in std::fs::read_dir(golden().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let name = format!("{folder}/{}", path.file_stem().unwrap().to_string_lossy());
                result.push((name, serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap()));
            }
        }
    }
    result.sort_by(|left, right| left.0.cmp(&right.0));
    result
}

/// The recorded body as bytes; `None` where only a part of it was recorded.
fn body(recording: &Value) -> Option<Vec<u8>> {
    match &recording["response"]["body"] {
        Value::Null => Some(Vec::new()),
        Value::String(text) if text.starts_with("(as in ") => None,
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Object(object) if object.contains_key("hex") || object.contains_key("repeated") => None,
        json => Some(json.to_string().into_bytes()).filter(|_| !json.to_string().contains("left out]")),
    }
}

/// A server that answers with whatever is put into the slot.
type Slot = Arc<Mutex<Reply>>;

fn answer(slot: &Slot) -> impl Fn(&scripted::Request) -> Reply + Send + Sync + 'static {
    let slot = slot.clone();
    move |_| slot.lock().unwrap().clone()
}

fn put(slot: &Slot, recording: &Value) -> bool {
    let headers = recording["response"]["headers"].as_array().into_iter().flatten();
    let wanted = ["X-Keep-Replicas-Stored", "X-Keep-Storage-Classes-Confirmed"];
    let headers = headers.filter_map(|header| {
        let name = wanted.into_iter().find(|name| header[0] == *name)?;
        Some((name, header[1].as_str()?.to_owned()))
    });
    let status = recording["response"]["status"].as_u64().unwrap() as u16;
    let Some(body) = body(recording) else { return false };
    *slot.lock().unwrap() = Reply::Answer { status, headers: headers.collect(), body };
    true
}

fn settings(port: u16) -> Settings {
    let mut settings = Settings::new(&format!("localhost:{port}"), Token::new("notasecret").unwrap());
    settings.insecure = true;
    settings
}

/// What our client made of an answer: parts that can be compared with the recording.
#[derive(Default)]
struct Read {
    uuid: Option<String>,
    items: Option<usize>,
    manifest: Option<Vec<u8>>,
}

/// Asks the way the recording did, if the client ever asks that.
async fn ask(api: &HttpApi, method: &str, path: &str) -> Option<Result<Read, Error>> {
    let query = Query::default();
    let mut manifest = Vec::new();
    let mut parts = path.trim_start_matches('/').split('/');
    if path == "/discovery/v1/apis/arvados/v1/rest" {
        return Some(api.discovery().await.map(|discovery| {
            assert_eq!(discovery.uuid_prefix, "zzzzz");
            assert!(discovery.websocket_url.starts_with("wss://") && discovery.blob_signature_ttl == 1_209_600);
            Read::default()
        }));
    }
    let start = (parts.next()?, parts.next()?);
    if start != ("arvados", "v1") {
        return None;
    }
    let items = |items: usize| Read { items: Some(items), ..Read::default() };
    let uuid = |uuid: &str| Read { uuid: Some(uuid.to_owned()), ..Read::default() };
    let rest: Vec<&str> = parts.collect();
    let update = CollectionUpdate::default();
    Some(match (method, rest.as_slice()) {
        ("GET", ["config"]) => api.config().await.map(|config| {
            assert_eq!(
                (config.cluster_id.as_str(), config.default_storage_classes()),
                ("zzzzz", vec!["default".to_owned()])
            );
            assert_eq!(config.collections.preserve_version_if_idle, Some(Duration::from_secs(10)));
            assert_eq!(config.collections.forward_slash_name_substitution.as_deref(), Some(""));
            Read::default()
        }),
        ("GET", ["users", "current"]) => api.current_user().await.map(|user| uuid(&user.uuid)),
        ("GET", ["users", id]) => api.user(id).await.map(|user| uuid(&user.uuid)),
        ("GET", ["collections"]) => api.collections(&query).await.map(|page| items(page.items.len())),
        ("GET", ["groups"]) => api.groups(&query).await.map(|page| items(page.items.len())),
        ("GET", ["groups", "contents"]) => api.contents(None, &query).await.map(|page| items(page.items.len())),
        ("GET", ["groups", "shared"]) => api.shared(&query).await.map(|page| items(page.items.len())),
        ("GET", ["groups", id]) => api.group(id).await.map(|group| uuid(&group.uuid)),
        ("GET", ["links"]) => api.links(&query).await.map(|page| items(page.items.len())),
        ("GET", ["logs"]) => api.logs(&query).await.map(|page| items(page.items.len())),
        ("GET", ["keep_services", "accessible"]) => api.keep_services().await.map(|services| items(services.len())),
        ("GET", ["collections", id]) if !id.is_empty() => {
            let record = api.collection(id, &[], Some(&mut manifest)).await;
            record.map(|record| Read { manifest: Some(manifest), ..uuid(&record.uuid) })
        }
        ("POST", ["collections"]) => {
            let record = api.create_collection(&update, Some(&mut manifest)).await;
            record.map(|record| Read { manifest: Some(manifest), ..uuid(&record.uuid) })
        }
        ("PUT" | "PATCH", ["collections", id]) => {
            let record = api.update_collection(id, &update, Some(&mut manifest)).await;
            record.map(|record| Read { manifest: Some(manifest), ..uuid(&record.uuid) })
        }
        ("DELETE", ["collections", id]) => api.delete_collection(id).await.map(|()| Read::default()),
        _ => return None,
    })
}

#[tokio::test]
async fn every_answer_of_the_api_is_read() {
    let slot: Slot = Arc::new(Mutex::new(Reply::Close));
    let server = Server::tls(answer(&slot)).await;
    let network = Network::new(settings(server.address.port())).unwrap();
    let folders = ["discovery", "auth", "collections", "replace_files", "cas", "groups", "links", "misc", "keep"];
    let (mut good, mut refused, mut unread) = (0, 0, Vec::new());
    for (name, recording) in recordings(&folders) {
        let Some(url) = recording["request"]["url"].as_str() else { continue };
        if url.starts_with("http") || recording["request"]["headers"].get("X-HTTP-Method-Override").is_some() {
            continue;
        }
        let path = url.split('?').next().unwrap();
        let path = percent_encoding::percent_decode_str(path).decode_utf8().unwrap().into_owned();
        let method = recording["request"]["method"].as_str().unwrap();
        let api = HttpApi::new(network.clone(), ONCE).unwrap();
        // Writing asks for the discovery document first; what it finds does not matter here.
        *slot.lock().unwrap() = Reply::ok("{}");
        if !path.starts_with("/discovery") {
            api.discovery().await.unwrap();
        }
        if !put(&slot, &recording) {
            unread.push(name);
            continue;
        }
        let Some(outcome) = ask(&api, method, &path).await else {
            unread.push(name);
            continue;
        };
        let status = recording["response"]["status"].as_u64().unwrap();
        let body = &recording["response"]["body"];
        match outcome {
            Ok(read) => {
                assert_eq!(status, 200, "{name}");
                if let Some(uuid) = &read.uuid {
                    assert_eq!(uuid, body["uuid"].as_str().unwrap_or(""), "{name}");
                }
                if let Some(items) = read.items {
                    assert_eq!(items, body["items"].as_array().unwrap().len(), "{name}");
                }
                if let Some(manifest) = &read.manifest {
                    assert_eq!(
                        String::from_utf8_lossy(manifest),
                        body["manifest_text"].as_str().unwrap_or(""),
                        "{name}"
                    );
                }
                good += 1;
            }
            Err(Error::Api(refusal)) => {
                assert_eq!(u64::from(refusal.status), status, "{name}: {refusal}");
                assert_eq!(refusal.messages.len(), body["errors"].as_array().map_or(0, Vec::len), "{name}: {refusal}");
                assert!(!refusal.to_string().is_empty());
                refused += 1;
            }
            Err(error) => panic!("{name}: {error:?}"),
        }
    }
    eprintln!("{good} answers and {refused} refusals read; not read by the client: {unread:?}");
    assert!(good >= 250 && refused >= 100, "{good} answers, {refused} refusals");
}

#[tokio::test]
async fn every_answer_of_keep_is_read() {
    let slot: Slot = Arc::new(Mutex::new(Reply::Close));
    let server = Server::plain(answer(&slot)).await;
    let mut settings = settings(1);
    settings.keep_services = vec![format!("http://{}/", server.address).parse().unwrap()];
    let network = Network::new(settings).unwrap();
    let api = Arc::new(HttpApi::new(network.clone(), ONCE).unwrap());
    let keep = HttpKeep::new(network, api, ONCE);
    let (mut gets, mut puts) = (0, 0);
    for (name, recording) in recordings(&["keep"]) {
        let Some(url) = recording["request"]["url"].as_str().filter(|url| url.starts_with("http")) else { continue };
        let path = url.splitn(4, '/').nth(3).unwrap().trim_start_matches('/').split('?').next().unwrap();
        let path = percent_encoding::percent_decode_str(path).decode_utf8().unwrap().into_owned();
        let Ok(locator) = path.parse::<Locator>() else { continue };
        if !put(&slot, &recording) {
            continue;
        }
        let status = recording["response"]["status"].as_u64().unwrap() as u16;
        let sent = recording["response"]["body"].as_str().unwrap_or_default();
        match recording["request"]["method"].as_str().unwrap() {
            "GET" => {
                let outcome = keep.get(&locator).await;
                let right =
                    BlockHash::of(sent.as_bytes()) == locator.hash() && locator.size() == Some(sent.len() as u64);
                match (status, outcome) {
                    (_, Err(Error::Locator { .. })) => assert_eq!(locator.size(), None, "{name}"),
                    (_, Ok(block)) if locator.size() == Some(0) => assert!(block.is_empty()),
                    (200, Ok(block)) => assert!(right && block == sent, "{name}"),
                    (200, Err(Error::BlockUnreadable { .. })) => assert!(!right, "{name}"),
                    (404, Err(Error::BlockNotFound { .. })) => {}
                    (400 | 401 | 422, Err(Error::BlockRefused { .. })) => {}
                    (403, Err(Error::TokenRefused { .. })) => {}
                    (405 | 502, Err(Error::BlockUnreadable { .. })) => {}
                    (status, outcome) => panic!("{name}: {status} gave {outcome:?}"),
                }
                gets += 1;
            }
            "PUT" => {
                let content = recording["request"]["body"].as_str().unwrap_or_default().to_owned();
                let request = PutRequest { replicas: Some(1), ..PutRequest::default() };
                match (status, keep.put(content.clone().into(), &request).await) {
                    (200, Ok(stored)) if content.is_empty() => assert_eq!(stored.locator.size(), Some(0)),
                    (200, Ok(stored)) => assert_eq!(stored.locator.as_str(), sent.trim(), "{name}"),
                    (200, Err(Error::BlockUnwritable { .. })) => {
                        assert_ne!(BlockHash::of(content.as_bytes()), locator.hash(), "{name}");
                    }
                    (_, Ok(_)) if content.is_empty() => {}
                    (403, Err(Error::TokenRefused { .. })) => {}
                    (400 | 401 | 413 | 500..=507, Err(Error::BlockUnwritable { .. })) => {}
                    (status, outcome) => panic!("{name}: {status} gave {outcome:?}"),
                }
                puts += 1;
            }
            _ => {}
        }
    }
    assert!(gets >= 25 && puts >= 20, "{gets} gets, {puts} puts");
}

#[test]
fn every_event_is_read() {
    let mut events = 0;
    for (name, recording) in recordings(&["websocket"]) {
        for frame in recording["frames"].as_array().into_iter().flatten() {
            let message = &frame["frame"];
            if frame["dir"] != "s->c" || message.get("id").is_none() {
                continue;
            }
            let event: Event =
                serde_json::from_value(message.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(event.id, message["id"].as_u64().unwrap(), "{name}");
            assert_eq!(event.object_uuid, message["object_uuid"].as_str().unwrap_or_default(), "{name}");
            assert_eq!(event.object_owner_uuid, message["object_owner_uuid"].as_str().unwrap_or_default(), "{name}");
            let kind = match message["event_type"].as_str().unwrap() {
                "create" => EventType::Create,
                "update" => EventType::Update,
                "delete" => EventType::Delete,
                _ => EventType::Other,
            };
            assert_eq!(event.event_type, kind, "{name}");
            let old = event.properties.old_attributes.and_then(|old| old.portable_data_hash);
            assert_eq!(
                old.as_deref(),
                message["properties"]["old_attributes"]["portable_data_hash"].as_str(),
                "{name}"
            );
            events += 1;
        }
    }
    assert!(events >= 20, "{events} events");
}
