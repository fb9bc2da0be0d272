//! Which Keep services there are, and in which order to ask them for a block (protocol.md 8.1 to 8.3).
//!
//! All clients of a cluster compute the same order for a block (rendezvous hashing), so the first service asked is the
//! one that most likely has it. What we know of a service's health only moves it to the end of that order for a while:
//! it is a hint, and a service that everybody thinks dead is still asked before a read fails.

use crate::remote::api::KeepService;
use dashmap::DashMap;
use md5::{Digest, Md5};
use std::sync::Arc;
use std::time::{Duration, Instant};
use url::Url;

/// How long a service that could not be reached is asked last. A restart takes seconds; a dead host costs the connect
/// timeout of 2 s once in this time.
const SUSPECT: Duration = Duration::from_secs(60);

/// What a service is, as far as it makes a difference to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// A keepstore: stores one copy of what it is sent.
    Disk,
    /// A keepproxy: stores as many copies as it is asked for; slower to answer, may be far away.
    Proxy,
    /// Asked only for locators that name it (`+K@uuid`).
    Gateway,
}

/// One Keep service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub uuid: String,
    /// Where locators are appended.
    pub root: Url,
    pub kind: ServiceKind,
    pub writable: bool,
}

impl Service {
    /// The service that a record of the API describes; `None` for records that make no address.
    fn from_record(record: &KeepService) -> Option<Service> {
        let host = match record.service_host.contains(':') && !record.service_host.starts_with('[') {
            true => format!("[{}]", record.service_host),
            false => record.service_host.clone(),
        };
        let scheme = if record.service_ssl_flag { "https" } else { "http" };
        let root = Url::parse(&format!("{scheme}://{host}:{}/", record.service_port)).ok()?;
        let kind = match record.service_type.as_str() {
            "proxy" => ServiceKind::Proxy,
            gateway if gateway.starts_with("gateway:") => ServiceKind::Gateway,
            _ => ServiceKind::Disk,
        };
        Some(Service { uuid: record.uuid.clone(), root, kind, writable: !record.read_only })
    }

    /// The place of this service in the order for `hash`: the highest comes first.
    fn weight(&self, hash: &str) -> [u8; 16] {
        let start = self.uuid.len().saturating_sub(15);
        let tail = self.uuid.get(start..).unwrap_or(&self.uuid);
        Md5::new().chain_update(hash).chain_update(tail).finalize().into()
    }

    /// Host and port, for messages.
    pub fn address(&self) -> String {
        match (self.root.host_str(), self.root.port_or_known_default()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            _ => self.uuid.clone(),
        }
    }
}

/// The services of a cluster at one time.
#[derive(Debug)]
pub struct ServiceList {
    services: Vec<Arc<Service>>,
}

impl ServiceList {
    /// The services that the API lists.
    pub fn from_records(records: &[KeepService]) -> ServiceList {
        ServiceList { services: records.iter().filter_map(Service::from_record).map(Arc::new).collect() }
    }

    /// The services that the user named instead (`ARVADOS_KEEP_SERVICES`): proxies with made-up uuids, as all clients
    /// make them up.
    pub fn from_urls(urls: &[Url]) -> ServiceList {
        let service = |(index, root): (usize, &Url)| {
            let uuid = format!("00000-bi6l4-{index:015}");
            Arc::new(Service { uuid, root: root.clone(), kind: ServiceKind::Proxy, writable: true })
        };
        ServiceList { services: urls.iter().enumerate().map(service).collect() }
    }

    /// Those to ask for the block with this hash, best first. `hints` are the texts after `K@` in the locator: a
    /// service's uuid, or a cluster whose public Keep service is meant; they come before all others.
    pub fn reading<'a>(&self, hash: &str, hints: impl Iterator<Item = &'a str>) -> Vec<Arc<Service>> {
        let mut order: Vec<Arc<Service>> = hints.filter_map(|hint| self.hinted(hint)).collect();
        let usual = self.ordered(hash, |service| service.kind != ServiceKind::Gateway);
        let usual: Vec<_> = usual.into_iter().filter(|service| !order.contains(service)).collect();
        order.extend(usual);
        order
    }

    /// Those that may store the block with this hash, best first.
    pub fn writing(&self, hash: &str) -> Vec<Arc<Service>> {
        self.ordered(hash, |service| service.writable && service.kind != ServiceKind::Gateway)
    }

    fn ordered(&self, hash: &str, wanted: impl Fn(&Service) -> bool) -> Vec<Arc<Service>> {
        let mut order: Vec<_> = self.services.iter().filter(|service| wanted(service)).cloned().collect();
        order.sort_by_cached_key(|service| std::cmp::Reverse(service.weight(hash)));
        order
    }

    fn hinted(&self, hint: &str) -> Option<Arc<Service>> {
        if hint.len() == 27 {
            return self.services.iter().find(|service| service.uuid == hint).cloned();
        }
        let is_cluster = hint.len() == 5 && hint.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let root = is_cluster.then(|| Url::parse(&format!("https://keep.{hint}.arvadosapi.com/")).ok()).flatten()?;
        Some(Arc::new(Service { uuid: format!("K@{hint}"), root, kind: ServiceKind::Proxy, writable: false }))
    }
}

/// Which services could not be reached lately.
#[derive(Default)]
pub struct Health {
    unreachable: DashMap<String, Instant>,
}

impl Health {
    /// The service could not be reached just now.
    pub fn failed(&self, service: &Service) {
        self.unreachable.insert(service.uuid.clone(), Instant::now());
    }

    /// The service answered, whatever it said.
    pub fn answered(&self, service: &Service) {
        if !self.unreachable.is_empty() {
            self.unreachable.remove(&service.uuid);
        }
    }

    /// Moves those that failed lately to the end, and keeps the order otherwise.
    pub fn sort(&self, services: &mut [Arc<Service>]) {
        let suspect = |service: &Arc<Service>| {
            self.unreachable.get(&service.uuid).is_some_and(|failed| failed.elapsed() < SUSPECT)
        };
        if !self.unreachable.is_empty() {
            services.sort_by_cached_key(suspect);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(uuid: &str) -> KeepService {
        KeepService { uuid: uuid.to_owned(), service_host: "h".to_owned(), service_port: 1, ..KeepService::default() }
    }

    fn list(count: usize) -> ServiceList {
        let records: Vec<_> = (0..count).map(|index| record(&format!("zzzzz-bi6l4-{index:015}"))).collect();
        ServiceList::from_records(&records)
    }

    fn indices(order: &[Arc<Service>]) -> Vec<u32> {
        order.iter().map(|service| service.uuid[12..].parse().unwrap()).collect()
    }

    #[test]
    fn the_order_is_that_of_all_arvados_clients() {
        let vectors = [
            ("acbd18db4cc2f85cedef654fccc4a4d8", [3, 0, 2, 1]),
            ("37b51d194a7513e45b56f6524f2d51f2", [1, 3, 0, 2]),
            ("d41d8cd98f00b204e9800998ecf8427e", [1, 0, 3, 2]),
            ("73feffa4b7f6bb68e44cf984c85f6e88", [2, 0, 3, 1]),
        ];
        for (hash, order) in vectors {
            assert_eq!(indices(&list(4).reading(hash, std::iter::empty())), order, "{hash}");
            assert_eq!(indices(&list(4).writing(hash)), order, "{hash}");
        }
        let weight = list(1).services[0].weight("acbd18db4cc2f85cedef654fccc4a4d8");
        assert_eq!(hex::encode(weight), "7dbe5843ff5e4573e44c96a7752dda6a");
    }

    #[test]
    fn hinted_services_come_first_gateways_only_then_and_read_only_ones_are_not_written() {
        let mut records: Vec<_> = (0..4).map(|index| record(&format!("zzzzz-bi6l4-{index:015}"))).collect();
        records[3].service_type = "gateway:test".to_owned();
        records[1].read_only = true;
        let list = ServiceList::from_records(&records);
        let hash = "acbd18db4cc2f85cedef654fccc4a4d8";
        assert_eq!(indices(&list.reading(hash, std::iter::empty())), [0, 2, 1]);
        assert_eq!(indices(&list.reading(hash, ["zzzzz-bi6l4-000000000000001"].into_iter())), [1, 0, 2]);
        assert_eq!(indices(&list.reading(hash, ["zzzzz-bi6l4-000000000000003"].into_iter())), [3, 0, 2, 1]);
        assert_eq!(indices(&list.writing(hash)), [0, 2]);
        let far = list.reading(hash, ["abcde", "../x!", "zzzzz-bi6l4-00000000000000x"].into_iter());
        assert_eq!(far[0].root.as_str(), "https://keep.abcde.arvadosapi.com/");
        assert_eq!(far.len(), 4);
    }

    #[test]
    fn addresses_of_records_and_of_the_environment() {
        let mut service = record("zzzzz-bi6l4-000000000000000");
        service.service_host = "::1".to_owned();
        service.service_ssl_flag = true;
        service.service_port = 443;
        let service = Service::from_record(&service).unwrap();
        assert_eq!((service.root.as_str(), service.address()), ("https://[::1]/", "[::1]:443".to_owned()));
        let list = ServiceList::from_urls(&[Url::parse("http://p:1/").unwrap()]);
        assert_eq!(list.services[0].uuid, "00000-bi6l4-000000000000000");
        assert_eq!(list.services[0].kind, ServiceKind::Proxy);
    }

    #[test]
    fn a_service_that_could_not_be_reached_is_asked_last_until_it_answers() {
        let list = list(4);
        let health = Health::default();
        let order = || {
            let mut order = list.reading("acbd18db4cc2f85cedef654fccc4a4d8", std::iter::empty());
            health.sort(&mut order);
            indices(&order)
        };
        health.failed(&list.services[3]);
        assert_eq!(order(), [0, 2, 1, 3]);
        health.answered(&list.services[3]);
        assert_eq!(order(), [3, 0, 2, 1]);
    }

    proptest! {
        #[test]
        fn no_record_makes_it_panic(uuid in ".*", host in ".*", kind in ".*", hint in ".*", hash in ".*") {
            let record = KeepService { uuid, service_host: host, service_type: kind, ..KeepService::default() };
            let list = ServiceList::from_records(&[record]);
            list.reading(&hash, [hint.as_str()].into_iter());
            list.writing(&hash);
        }
    }
}
