//! Keep services: not rows, but what the configuration says about the listeners of this cluster.
//!
//! The uuid of a service decides where clients look for a block first, so it must be the same after a restart: the
//! configuration makes it, not this file (protocol.md 8.1, 8.3).

use serde_json::{Value, json};

use crate::cluster::clock::Timestamp;
use crate::cluster::configuration::{Configuration, KeepService};

/// Type of a keep service's uuid.
pub const INFIX: &str = "bi6l4";

/// Type of a proxy's record; everything else is meant for clients inside.
const PROXY: &str = "proxy";

/// The record of one service; times are those of the server's start, as on a real cluster.
pub fn present(service: &KeepService, configuration: &Configuration, started: Timestamp) -> Value {
    let time = started.to_string();
    json!({
        "kind": "arvados#keepService",
        "etag": super::log::etag(&json!([service.uuid, service.host, service.port])),
        "uuid": service.uuid,
        "owner_uuid": configuration.system_user(),
        "created_at": time,
        "modified_by_user_uuid": configuration.system_user(),
        "modified_at": time,
        "service_host": service.host,
        "service_port": service.port,
        "service_ssl_flag": service.ssl,
        "service_type": service.service_type,
        "read_only": service.read_only,
    })
}

/// Services for a caller outside (`X-External-Client: 1`): the proxies; for one inside: all others.
pub fn accessible(configuration: &Configuration, external: bool) -> impl Iterator<Item = &KeepService> {
    configuration.services.keep.iter().filter(move |service| (service.service_type == PROXY) == external)
}
