//! How a cluster is to be started, and what that means for one that has data already.
//!
//! What was chosen on the first start stays: ports, uuids and keepstores are part of what clients have stored. Options of
//! a later start may add to it and never take away.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use super::clock::{Clock, SystemClock};
use super::configuration::{Configuration, StorageClass};
use super::directory::{KeepstoreSettings, Settings, VolumeSettings};
use super::seed::Seed;

/// The ordinary user whom the first start creates.
pub const FIRST_USER: &str = "user";
/// The administrator whom the first start creates.
pub const FIRST_ADMINISTRATOR: &str = "admin";

/// Why options do not fit the data.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fewer keepstores are wanted than hold data.
    #[error("this cluster has {stored} keepstores with data, {wanted} are too few; leave --keepstores out")]
    TooFewKeepstores {
        /// How many there are.
        stored: usize,
        /// How many were asked for.
        wanted: usize,
    },
}

/// The storage classes of one keepstore's volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepstoreLayout {
    /// One entry per volume: the storage classes of its blocks.
    pub volumes: Vec<Vec<String>>,
}

impl KeepstoreLayout {
    /// One volume with the class `default` and some more.
    pub fn single(more_classes: &[String]) -> Self {
        let mut classes = vec!["default".to_owned()];
        classes.extend(more_classes.iter().filter(|class| *class != "default").cloned());
        Self { volumes: vec![classes] }
    }
}

/// How to start a cluster.
#[derive(Clone)]
pub struct Options {
    /// Where its data are.
    pub data: PathBuf,
    /// Port of API and websocket. `None` or 0: the one of the last start; a free one on the first.
    pub port: Option<u16>,
    /// Where everything listens.
    pub listen: IpAddr,
    /// The keepstores; `None`: those of the last start, one on the first.
    pub keepstores: Option<Vec<KeepstoreLayout>>,
    /// Port of the fault interface (0: a free one); `None`: there is none.
    pub faults: Option<u16>,
    /// Whether the keepstores are also offered behind one TLS address, for clients that cannot reach each of them.
    pub keepproxy: bool,
    /// Records to import on the first start; `None`: two users, [`FIRST_USER`] and [`FIRST_ADMINISTRATOR`].
    pub seed: Option<Seed>,
    /// The configuration on the first start; `None`: defaults with fresh keys.
    pub configuration: Option<Configuration>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Options {
    /// One keepstore, loopback, the machine's clock, and a port that is chosen on the first start.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            port: None,
            listen: Ipv4Addr::LOCALHOST.into(),
            keepstores: None,
            faults: None,
            keepproxy: false,
            seed: None,
            configuration: None,
            clock: Arc::new(SystemClock),
        }
    }
}

/// The settings for this start: those of the last one, with what the options change.
pub fn plan(options: &Options, stored: Option<Settings>) -> Result<Settings, Error> {
    let first = stored.is_none();
    let mut settings = stored.unwrap_or_else(|| Settings {
        port: 0,
        keepproxy_port: 0,
        keepstores: Vec::new(),
        configuration: options.configuration.clone().unwrap_or_default(),
    });
    if let Some(port) = options.port.filter(|port| *port != 0) {
        settings.port = port;
    }
    let wanted = match &options.keepstores {
        Some(wanted) => wanted.clone(),
        None if first => vec![KeepstoreLayout::single(&[])],
        None => Vec::new(),
    };
    if options.keepstores.is_some() && wanted.len() < settings.keepstores.len() {
        return Err(Error::TooFewKeepstores { stored: settings.keepstores.len(), wanted: wanted.len() });
    }
    // A lone keepstore counts for two copies: many clients ask for two whatever the configuration says, and fail when
    // they cannot have them (protocol.md 7.2). With several keepstores the copies are real.
    let replication = if wanted.len() == 1 { 2 } else { 1 };
    if first && wanted.len() > 1 && options.configuration.is_none() {
        settings.configuration.default_replication = 2;
    }
    for (index, layout) in wanted.iter().enumerate().skip(settings.keepstores.len()) {
        let cluster = &settings.configuration;
        let mut volumes = Vec::new();
        for (number, classes) in layout.volumes.iter().enumerate() {
            let folder = if number == 0 { format!("keep{index}") } else { format!("keep{index}-{number}") };
            let before: usize = settings.keepstores.iter().map(|keepstore| keepstore.volumes.len()).sum();
            let uuid = cluster.reserved_uuid("nyw5e", &format!("{:015}", before + number));
            volumes.push(VolumeSettings { folder, uuid, replication, storage_classes: classes.clone() });
        }
        let uuid = cluster.reserved_uuid("bi6l4", &format!("{index:015}"));
        settings.keepstores.push(KeepstoreSettings { uuid, port: 0, volumes });
    }
    for volume in settings.keepstores.iter().flat_map(|keepstore| &keepstore.volumes) {
        for class in &volume.storage_classes {
            let known = &mut settings.configuration.storage_classes;
            known.entry(class.clone()).or_insert(StorageClass { default: false, priority: 0 });
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(keepstores: Option<usize>) -> Options {
        let keepstores = keepstores.map(|number| vec![KeepstoreLayout::single(&["archival".to_owned()]); number]);
        Options { keepstores, ..Options::new("unused") }
    }

    #[test]
    fn keepstores_are_added_and_never_lost() {
        let one = plan(&options(None), None).unwrap();
        assert_eq!((one.keepstores.len(), one.configuration.default_replication), (1, 1));
        let two = plan(&options(Some(2)), Some(one.clone())).unwrap();
        assert_eq!(two.keepstores[0], one.keepstores[0]);
        assert_ne!(two.keepstores[1].uuid, two.keepstores[0].uuid);
        assert_eq!(plan(&options(None), Some(two.clone())).unwrap(), two);
        assert!(matches!(plan(&options(Some(1)), Some(two)), Err(Error::TooFewKeepstores { stored: 2, wanted: 1 })));
    }

    #[test]
    fn a_lone_keepstore_counts_twice_and_two_count_once_each() {
        let replication = |number| plan(&options(Some(number)), None).unwrap().keepstores[0].volumes[0].replication;
        assert_eq!((replication(1), replication(2)), (2, 1));
        let two = plan(&options(Some(2)), None).unwrap().configuration;
        assert_eq!(two.default_replication, 2);
        assert!(!two.storage_classes["archival"].default && two.storage_classes["default"].default);
    }

    #[test]
    fn a_port_is_kept_unless_another_is_asked_for() {
        let mut stored = plan(&options(None), None).unwrap();
        stored.port = 4711;
        let port = |port| plan(&Options { port, ..options(None) }, Some(stored.clone())).unwrap().port;
        assert_eq!((port(None), port(Some(0)), port(Some(8443))), (4711, 4711, 8443));
    }
}
