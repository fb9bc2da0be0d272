//! `GET /arvados/v1/config`: the settings that everybody may know (protocol.md 2.6).
//!
//! Every client asks for it when it starts, without a token, so it is quick and holds no secret. What this cluster has
//! no use for (logins, compute, the workbench) has the values of an Arvados where it is switched off.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::cluster::configuration::Configuration;

/// The document.
pub fn document(configuration: &Configuration) -> Value {
    let classes = configuration
        .storage_classes
        .iter()
        .map(|(name, class)| (name.clone(), json!({"Default": class.default, "Priority": class.priority})));
    let services = &configuration.services;
    let addresses = [
        ("Composer", ""),
        ("ContainerWebServices", ""),
        ("Controller", &services.controller),
        ("DispatchCloud", ""),
        ("DispatchLSF", ""),
        ("DispatchSLURM", ""),
        ("Health", ""),
        ("Keepbalance", ""),
        ("Keepproxy", &services.keepproxy),
        ("Keepstore", ""),
        ("RailsAPI", ""),
        ("WebDAV", &services.webdav),
        ("WebDAVDownload", &services.webdav_download),
        ("WebShell", ""),
        ("Websocket", &services.websocket),
        ("Workbench1", ""),
        ("Workbench2", ""),
    ];
    let addresses = addresses.map(|(name, url)| (name.to_owned(), json!({"ExternalURL": url})));
    json!({
        "API": {
            "FreezeProjectRequiresDescription": false,
            "FreezeProjectRequiresProperties": {},
            "MaxItemsPerResponse": configuration.max_items_per_response,
            "MaxRequestSize": configuration.max_request_size,
            "RequestTimeout": "5m",
            "SendTimeout": duration(configuration.send_timeout),
            "UnfreezeProjectRequiresAdmin": configuration.unfreeze_project_requires_admin,
        },
        "ClusterID": configuration.cluster_id,
        "Collections": {
            "BlobSigning": configuration.blob_signing,
            "BlobSigningTTL": duration(configuration.blob_signing_ttl),
            "CollectionVersioning": configuration.collection_versioning,
            "DefaultReplication": configuration.default_replication,
            "DefaultTrashLifetime": duration(configuration.default_trash_lifetime),
            "ForwardSlashNameSubstitution": configuration.forward_slash_name_substitution,
            "ManagedProperties": {},
            "PreserveVersionIfIdle": configuration.preserve_version_if_idle.map_or_else(|| "-1s".to_owned(), duration),
            "S3FolderObjects": true,
            "TrustAllContent": false,
        },
        "Containers": {
            "AlwaysUsePreemptibleInstances": false,
            "DefaultKeepCacheRAM": 0,
            "MaxRetryAttempts": 3,
            "MaximumPriceFactor": 1.5,
            "MinRetryPeriod": "0s",
            "ReserveExtraRAM": 550 << 20,
            "RuntimeEngine": "docker",
            "ShellAccess": {"Admin": false, "User": false},
            "SupportedDockerImageFormats": {"v2": {}},
        },
        "InstanceTypes": {},
        "Login": {
            "Google": {"Enable": false},
            "LDAP": {"Enable": false},
            "LoginCluster": "",
            "OpenIDConnect": {"Enable": false},
            "PAM": {"Enable": false},
            "RemoteTokenRefresh": "5m",
            "Test": {"Enable": false},
        },
        "RemoteClusters": {
            "*": {"ActivateUsers": false, "Host": "", "Insecure": false, "Proxy": false, "Scheme": "https"},
        },
        "Services": Map::from_iter(addresses),
        "StorageClasses": Map::from_iter(classes),
        "Users": {
            "AnonymousUserToken": configuration.anonymous_user_token.as_ref().map_or("", |token| token.expose()),
            "CanCreateRoleGroups": configuration.can_create_role_groups,
            "SupportEmailAddress": "",
            "SyncIgnoredGroups": [],
            "SyncRequiredGroups": [],
            "SyncUserAPITokens": true,
            "SyncUserAccounts": true,
            "SyncUserGroups": true,
            "SyncUserSSHKeys": true,
        },
        "Volumes": volumes(configuration),
        "Workbench": {
            "ArvadosDocsite": "https://doc.arvados.org",
            "ArvadosPublicDataDocURL": "",
            "BannerUUID": "",
            "DisableSharingURLsUI": false,
            "FileViewersConfigURL": "",
            "IdleTimeout": "0s",
            "InactivePageHTML": "",
            "SSHHelpHostSuffix": "",
            "SSHHelpPageHTML": "",
            "ShowUserAgreementInline": false,
            "SiteName": "Arvados on this machine",
            "Theme": "default",
            "UserProfileFormFields": {},
            "UserProfileFormMessage": "",
            "WelcomePageHTML": "",
        },
    })
}

/// The volumes, and where each can be reached.
fn volumes(configuration: &Configuration) -> Map<String, Value> {
    let mut volumes = Map::new();
    for service in &configuration.services.keep {
        let scheme = if service.ssl { "https" } else { "http" };
        let address = format!("{scheme}://{}:{}/", service.host, service.port);
        for volume in &service.volumes {
            let classes: Map<_, _> = volume.storage_classes.iter().map(|name| (name.clone(), true.into())).collect();
            let shown = json!({
                "AccessViaHosts": {address.as_str(): {"ReadOnly": service.read_only}},
                "ReadOnly": service.read_only,
                "Replication": volume.replication,
                "StorageClasses": classes,
            });
            volumes.insert(volume.uuid.clone(), shown);
        }
    }
    volumes
}

/// As Go writes durations, trailing zero units dropped: `336h`, `1m`, `10s`, `1h30m`.
pub fn duration(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    if millis > 0 {
        return format!("{}s", duration.as_secs_f64());
    }
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let text: String =
        parts.iter().filter(|(value, _)| *value > 0).map(|(value, unit)| format!("{value}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_does() {
        for (seconds, want) in [(336 * 3600, "336h"), (60, "1m"), (10, "10s"), (5400, "1h30m"), (0, "0s")] {
            assert_eq!(duration(Duration::from_secs(seconds)), want);
        }
        assert_eq!(duration(Duration::from_millis(1500)), "1.5s");
    }

    #[test]
    fn no_secret_is_public() {
        let configuration = Configuration::default();
        let text = document(&configuration).to_string();
        for secret in
            [&configuration.blob_signing_key, &configuration.system_root_token, &configuration.management_token]
        {
            assert!(!text.contains(secret.expose()));
        }
    }
}
