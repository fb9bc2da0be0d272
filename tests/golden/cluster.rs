//! The cluster that answers: the embedded one, set up as the recorded one was.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arvados::cluster::clock::{ShiftedClock, Timestamp};
use arvados::cluster::configuration::{Configuration, Secret, StorageClass};
use arvados::cluster::seed::Seed;
use arvados::cluster::{self, KeepstoreLayout, Options, Running};
use chrono::{DateTime, Utc};
use serde_json::json;
use tempfile::TempDir;

use super::replay::{Services, service_of};
use super::signature;
use super::wire::Service;

/// The ordinary user who made most requests, with the token that is published with the recordings.
pub const ALICE: &str = "v2/zzzzz-gj3su-3251hy4hg73yh9p/notasecretalice0000000000000000000000000000000000";
/// Another ordinary user.
pub const BOB: &str = "v2/zzzzz-gj3su-pmrqfx1j4dhakrr/notasecretbob000000000000000000000000000000000000";
/// The system user.
pub const ROOT: &str = "systemroottoken0000000000000000000000000000000000000000";
const MANAGEMENT: &str = "managementtoken000000000000000000000000000000000000000";
const ANONYMOUS: &str = "anonymoustoken00000000000000000000000000000000000000";

/// When the recorded cluster was set up.
const STARTED: &str = "2026-11-22T20:37:37.179426Z";

/// A cluster of its own in a folder that goes away with it.
pub struct Cluster {
    running: Running,
    clock: Arc<ShiftedClock>,
    data: TempDir,
}

impl Cluster {
    /// Starts a cluster with the keys, users and keepstores of the recorded one.
    pub fn start() -> Self {
        let class = |default, priority| StorageClass { default, priority };
        let configuration = Configuration {
            blob_signing_key: Secret::new(signature::KEY),
            system_root_token: Secret::new(ROOT),
            management_token: Secret::new(MANAGEMENT),
            anonymous_user_token: Some(Secret::new(ANONYMOUS)),
            default_replication: 2,
            storage_classes: [("default".to_owned(), class(true, 20)), ("special".to_owned(), class(false, 10))].into(),
            // Swept when a recording says so, and not by chance before.
            trash_sweep_interval: Duration::from_secs(24 * 3600),
            ..Configuration::default()
        };
        let volume = |class: &str| vec![class.to_owned()];
        let keepstores = vec![
            KeepstoreLayout { volumes: vec![volume("default")] },
            KeepstoreLayout { volumes: vec![volume("default"), volume("special")] },
        ];
        let data = TempDir::new().expect("a temporary folder");
        let clock = Arc::new(ShiftedClock::default());
        clock.set(Timestamp::parse(STARTED).expect("a good time"));
        let options = Options {
            keepstores: Some(keepstores),
            configuration: Some(configuration),
            clock: clock.clone(),
            keepproxy: true,
            seed: Some(seed()),
            ..Options::new(data.path())
        };
        let running = cluster::Cluster::start(options).unwrap_or_else(|error| panic!("{error}"));
        Self { running, clock, data }
    }

    /// The services by the addresses they have in the recordings.
    pub fn services(&self) -> Services {
        let keepstore = |index: usize| Service { address: self.running.keepstores()[index].address(), tls: false };
        let services = &self.running.configuration().load().services;
        let proxy = services.keep.iter().find(|service| service.service_type == "proxy").expect("a keepproxy");
        let proxy = Service { address: SocketAddr::new(self.running.address().ip(), proxy.port), tls: true };
        vec![
            ("127.0.0.1:17107", keepstore(0)),
            ("127.0.0.1:17108", keepstore(1)),
            ("localhost:17008", proxy),
            ("127.0.0.1:17001", self.api()),
        ]
    }

    /// Volumes by the uuids they have in the recordings.
    pub fn volumes(&self) -> Vec<(String, String)> {
        let here = self.running.keepstores().iter().flat_map(|keepstore| &keepstore.keepstore().volumes);
        here.enumerate().map(|(index, volume)| (format!("zzzzz-nyw5e-{index:015}"), volume.uuid.clone())).collect()
    }

    fn api(&self) -> Service {
        Service { address: self.running.address(), tls: true }
    }

    /// Which service a recorded URL means, and the rest of the URL.
    pub fn locate(&self, url: &str) -> Option<(Service, String)> {
        let Some((host, path)) = service_of(url) else { return Some((self.api(), url.to_owned())) };
        let service = self.services().into_iter().find(|(recorded, _)| *recorded == host);
        service.map(|(_, service)| (service, path.to_owned()))
    }

    /// The first keepstore, the one whose volume is damaged and filled.
    pub fn keepstore(&self) -> Service {
        Service { address: self.running.keepstores()[0].address(), tls: false }
    }

    /// Where events come from.
    pub fn websocket(&self) -> (Service, &'static str) {
        (self.api(), "/websocket")
    }

    /// Sets the cluster's clock, which then goes on.
    pub fn set_time(&self, now: DateTime<Utc>) {
        self.clock.set(Timestamp::from_micros(now.timestamp_micros()));
    }

    /// Sets the time after which an idle event stream is told that it is still alive; `None`: as recorded.
    pub fn set_keep_alive(&self, period: Option<Duration>) {
        let configuration = Configuration::clone(&self.running.configuration().load());
        let send_timeout = period.unwrap_or(Configuration::default().send_timeout);
        self.running.configuration().store(Arc::new(Configuration { send_timeout, ..configuration }));
    }

    fn volume(&self) -> PathBuf {
        self.data.path().join("keep0")
    }

    /// Changes the content of a block's file behind the keepstore's back.
    pub fn damage(&self, block: &str, content: &[u8]) -> std::io::Result<()> {
        std::fs::write(self.volume().join(&block[..3]).join(block), content)
    }

    /// Marks the volume full as a keepstore itself does: a link named `full` to the time.
    pub fn set_full(&self, full: bool, at: DateTime<Utc>) -> std::io::Result<()> {
        let mark = self.volume().join("full");
        if full { std::os::unix::fs::symlink(at.timestamp().to_string(), mark) } else { std::fs::remove_file(mark) }
    }
}

/// Users and tokens that were there before the first recording.
fn seed() -> Seed {
    let user = |uuid: &str, name: &str, created: &str, modified: &str| {
        json!({
            "uuid": uuid, "email": format!("{name}@example.com"), "username": name, "is_active": true,
            "created_at": created, "modified_at": modified,
        })
    };
    let token = |token: &str, owner: &str| {
        let parts: Vec<_> = token.split('/').collect();
        json!({"uuid": parts[1], "owner_uuid": owner, "api_token": parts[2], "created_by_ip_address": "127.0.0.1"})
    };
    let (alice, bob) = ("zzzzz-tpzed-7w0agpip40gh795", "zzzzz-tpzed-azhu0pbeer5f9on");
    let users = [
        user(alice, "alice", "2026-11-22T20:39:42.363397Z", "2026-11-22T20:39:42.363769Z"),
        user(bob, "bob", "2026-11-22T20:39:42.687599Z", "2026-11-22T20:39:42.688128Z"),
    ];
    let tokens = [token(ALICE, alice), token(BOB, bob)];
    [("users".to_owned(), json!(users)), ("api_client_authorizations".to_owned(), json!(tokens))].into_iter().collect()
}
