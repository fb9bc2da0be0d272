//! The cluster that answers: the embedded one, set up as the recorded one was.

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::replay::{Services, service_of};
use super::wire::Service;

/// Tokens as published with the recordings.
pub const ALICE: &str = "v2/zzzzz-gj3su-3251hy4hg73yh9p/notasecretalice0000000000000000000000000000000000";
/// Another ordinary user.
pub const BOB: &str = "v2/zzzzz-gj3su-pmrqfx1j4dhakrr/notasecretbob000000000000000000000000000000000000";
/// The system user.
pub const ROOT: &str = "systemroottoken0000000000000000000000000000000000000000";

#[derive(Debug)]
pub struct Cluster {
    api: Service,
    keepstores: [Service; 2],
    keepproxy: Service,
    volume: PathBuf,
}

impl Cluster {
    pub fn services(&self) -> Services {
        vec![
            ("127.0.0.1:17107", self.keepstores[0]),
            ("127.0.0.1:17108", self.keepstores[1]),
            ("localhost:17008", self.keepproxy),
            ("127.0.0.1:17001", self.api),
        ]
    }

    /// Which service a recorded URL means, and the rest of the URL.
    pub fn locate(&self, url: &str) -> (Service, String) {
        let Some((host, path)) = service_of(url) else { return (self.api, url.to_owned()) };
        let service = self.services().into_iter().find(|(recorded, _)| *recorded == host);
        let (_, service) = service.unwrap_or_else(|| panic!("{url}: nobody knows this service"));
        (service, path.to_owned())
    }

    pub fn keepstore(&self) -> Service {
        self.keepstores[0]
    }

    pub fn websocket(&self) -> (Service, &'static str) {
        (self.api, "/websocket")
    }

    pub fn set_time(&self, _now: DateTime<Utc>) {}

    pub fn set_keep_alive(&self, _period: Option<Duration>) {}

    pub fn damage(&self, block: &str, content: &[u8]) -> std::io::Result<()> {
        std::fs::write(self.volume.join(&block[..3]).join(block), content)
    }

    pub fn set_full(&self, full: bool, at: DateTime<Utc>) -> std::io::Result<()> {
        let mark = self.volume.join("full");
        if full { std::os::unix::fs::symlink(at.timestamp().to_string(), mark) } else { std::fs::remove_file(mark) }
    }
}
