//! The settings of a cluster: identity, keys, limits and policies, with the names and defaults of the real one.
//!
//! A [`Configuration`] is a value. The running cluster holds the current one in an `ArcSwap` ([`Shared`]), so that a
//! request sees one consistent set from start to end and a test (or the fault interface) can replace it between two.
//! The keys in it sign and open everything: it is stored in a file that only its owner may read, and `Debug` never
//! prints them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rand::RngExt;
use serde::{Deserialize, Serialize};

/// The configuration of a running cluster, replaceable as a whole.
pub type Shared = Arc<ArcSwap<Configuration>>;

/// A key or token: compares and serializes like text, but does not show itself in logs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret that was made elsewhere.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// A fresh one of the form Arvados gives to tokens: 50 characters of `[0-9a-z]`, more than 256 bits.
    pub fn random() -> Self {
        Self(random_base36(50))
    }

    /// The text itself. Not for logs.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// `length` random characters of `[0-9a-z]`.
pub fn random_base36(length: usize) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(DIGITS[rng.random_range(0..DIGITS.len())])).collect()
}

/// Settings of one cluster. Fields follow the real cluster's names (protocol.md 2.6); durations are in seconds in the
/// file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Configuration {
    /// Five characters of `[0-9a-z]`: the first part of every uuid made here.
    pub cluster_id: String,
    /// Key of block signatures (protocol.md 6).
    pub blob_signing_key: Secret,
    /// Token of the system user, which may do everything.
    pub system_root_token: Secret,
    /// Token for health checks and metrics.
    pub management_token: Secret,
    /// Token that reads what is public, without a user; `None`: there is none.
    pub anonymous_user_token: Option<Secret>,
    /// Whether blocks must be signed.
    pub blob_signing: bool,
    /// How long a block signature is valid. A part of the signed message: changing it invalidates all signatures.
    #[serde(with = "seconds")]
    pub blob_signing_ttl: Duration,
    /// When set, signatures are made valid for this long while everything else keeps using `blob_signing_ttl`: lets a
    /// test see signatures expire without the client knowing it from the discovery document.
    #[serde(skip)]
    pub signature_lifetime: Option<Duration>,
    /// How long a block stays in the trash of a keepstore; zero: it is deleted at once.
    #[serde(with = "seconds")]
    pub blob_trash_lifetime: Duration,
    /// How often the trash of the keepstores is emptied.
    #[serde(with = "seconds")]
    pub blob_trash_check_interval: Duration,
    /// From trash to deletion.
    #[serde(with = "seconds")]
    pub default_trash_lifetime: Duration,
    /// How often trash is swept.
    #[serde(with = "seconds")]
    pub trash_sweep_interval: Duration,
    /// Whether old versions of collections are kept.
    pub collection_versioning: bool,
    /// An update keeps the old version if the last change is at least this long ago; zero: always; negative (`None`):
    /// never by itself.
    #[serde(with = "optional_seconds")]
    pub preserve_version_if_idle: Option<Duration>,
    /// Copies of a block when nothing else is asked for. One, because this cluster is one machine.
    pub default_replication: i64,
    /// What clients put in place of a `/` in names; empty: such names are refused.
    pub forward_slash_name_substitution: String,
    /// Names may contain a `/` although there is no substitution, as those from before that rule do: lets a test make
    /// some.
    #[serde(skip)]
    pub slash_in_names: bool,
    /// Storage classes by name.
    pub storage_classes: BTreeMap<String, StorageClass>,
    /// Largest page of a list.
    pub max_items_per_response: u64,
    /// Largest sum of big text columns that one list loads, bytes.
    pub max_index_database_read: u64,
    /// Largest request body, bytes.
    pub max_request_size: u64,
    /// Requests that run at the same time.
    pub max_concurrent_requests: usize,
    /// Requests that wait for their turn; one more is refused with 503.
    pub max_queued_requests: usize,
    /// Idle time after which the websocket sends a keep-alive.
    #[serde(with = "seconds")]
    pub send_timeout: Duration,
    /// How long logs are kept.
    #[serde(with = "seconds")]
    pub max_log_age: Duration,
    /// Whether unfreezing a project is for administrators only.
    pub unfreeze_project_requires_admin: bool,
    /// Whether every active user can see all role groups.
    pub role_groups_visible_to_all: bool,
    /// Whether ordinary users may create role groups.
    pub can_create_role_groups: bool,
    /// The vocabulary of property keys and values, as served by `GET /arvados/v1/vocabulary`; null: none.
    pub vocabulary: serde_json::Value,
    /// Where the services listen. Set at each start, not stored.
    #[serde(skip)]
    pub services: Services,
}

/// One storage class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageClass {
    /// Used when nobody asks for a class.
    pub default: bool,
    /// Higher ones are tried first.
    pub priority: i64,
}

/// Addresses under which clients reach the services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services {
    /// `https://host:port/`
    pub controller: String,
    /// `wss://host:port/websocket`; empty: no events.
    pub websocket: String,
    /// `https://host:port/` of a keepproxy, or empty.
    pub keepproxy: String,
    /// `https://host:port/` of keep-web, or empty.
    pub webdav: String,
    /// `https://host:port/` of keep-web for downloads, or empty.
    pub webdav_download: String,
    /// What `keep_services/accessible` lists.
    pub keep: Vec<KeepService>,
}

/// One record of `keep_services`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepService {
    /// 27 characters, type `bi6l4`. Clients order services by its last 15 (protocol.md 8.3): keep it stable.
    pub uuid: String,
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Whether it speaks TLS.
    pub ssl: bool,
    /// `disk` or `proxy`.
    pub service_type: String,
    /// Whether it refuses writes.
    pub read_only: bool,
    /// What it stores blocks on; of a proxy nothing.
    pub volumes: Vec<Volume>,
}

/// One volume of a Keep service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// 27 characters, type `nyw5e`.
    pub uuid: String,
    /// How many copies a block on it counts for.
    pub replication: u32,
    /// Storage classes of its blocks.
    pub storage_classes: Vec<String>,
}

impl Default for Configuration {
    /// The real cluster's defaults (protocol.md 2.6) with fresh keys and one copy of each block.
    fn default() -> Self {
        const TWO_WEEKS: Duration = Duration::from_secs(14 * 24 * 3600);
        Self {
            cluster_id: "zzzzz".to_owned(),
            blob_signing_key: Secret::random(),
            system_root_token: Secret::random(),
            management_token: Secret::random(),
            anonymous_user_token: None,
            blob_signing: true,
            blob_signing_ttl: TWO_WEEKS,
            signature_lifetime: None,
            blob_trash_lifetime: TWO_WEEKS,
            blob_trash_check_interval: Duration::from_secs(24 * 3600),
            default_trash_lifetime: TWO_WEEKS,
            trash_sweep_interval: Duration::from_secs(60),
            collection_versioning: true,
            preserve_version_if_idle: Some(Duration::from_secs(10)),
            default_replication: 1,
            forward_slash_name_substitution: String::new(),
            slash_in_names: false,
            storage_classes: BTreeMap::from([("default".to_owned(), StorageClass { default: true, priority: 0 })]),
            max_items_per_response: 1000,
            max_index_database_read: 128 << 20,
            max_request_size: 128 << 20,
            max_concurrent_requests: 64,
            max_queued_requests: 128,
            send_timeout: Duration::from_secs(60),
            max_log_age: TWO_WEEKS,
            unfreeze_project_requires_admin: false,
            role_groups_visible_to_all: true,
            can_create_role_groups: true,
            vocabulary: serde_json::Value::Null,
            services: Services::default(),
        }
    }
}

impl Configuration {
    /// How long a signature made now is valid.
    pub fn signature_validity(&self) -> Duration {
        self.signature_lifetime.unwrap_or(self.blob_signing_ttl)
    }

    /// Names of the default storage classes, in order of their names.
    pub fn default_storage_classes(&self) -> Vec<String> {
        self.storage_classes.iter().filter(|(_, class)| class.default).map(|(name, _)| name.clone()).collect()
    }

    /// A fixed uuid of this cluster, such as the system user's.
    pub fn reserved_uuid(&self, infix: &str, tail: &str) -> String {
        format!("{}-{infix}-{tail}", self.cluster_id)
    }

    /// A new uuid of this cluster.
    pub fn new_uuid(&self, infix: &str) -> String {
        format!("{}-{infix}-{}", self.cluster_id, random_base36(15))
    }

    /// The system user, who owns what nobody else does.
    pub fn system_user(&self) -> String {
        self.reserved_uuid("tpzed", "000000000000000")
    }

    /// The user of the anonymous token.
    pub fn anonymous_user(&self) -> String {
        self.reserved_uuid("tpzed", "anonymouspublic")
    }
}

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

mod optional_seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "the signature that serde calls")]
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.map_or(-1.0, |duration| duration.as_secs_f64()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        if seconds < 0.0 {
            return Ok(None);
        }
        Duration::try_from_secs_f64(seconds).map(Some).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_configuration_is_the_one_that_was_saved() {
        let mut configuration = Configuration { preserve_version_if_idle: None, ..Configuration::default() };
        let text = serde_json::to_string(&configuration).unwrap();
        assert_eq!(serde_json::from_str::<Configuration>(&text).unwrap(), configuration);
        configuration.preserve_version_if_idle = Some(Duration::ZERO);
        let text = serde_json::to_string(&configuration).unwrap();
        assert_eq!(serde_json::from_str::<Configuration>(&text).unwrap(), configuration);
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let configuration = Configuration::default();
        let shown = format!("{configuration:?}");
        for secret in [&configuration.blob_signing_key, &configuration.system_root_token] {
            assert!(!shown.contains(secret.expose()));
        }
        assert_eq!(configuration.system_root_token.expose().len(), 50);
    }
}
