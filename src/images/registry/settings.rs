//! How images are fetched from registries.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Registry as images name it (`docker.io`, `host:port`) -> addresses that are tried before it, in their order.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries, `host[:port]`, that are spoken to by plain http; those on this machine always are.
    pub insecure: Vec<String>,
    /// Docker's configuration file, whose `auths` hold the credentials; none: `config.json` in `$DOCKER_CONFIG`, else in `~/.docker`.
    pub auth_file: Option<PathBuf>,
    /// Images at the same time.
    pub in_flight: usize,
    /// Layers at the same time, of all these images.
    pub layers_in_flight: usize,
    /// Tries in a row that brought nothing, the first included; a mirror has one.
    pub tries: u32,
    /// Seconds for one manifest or layer, with all its tries and pauses.
    pub timeout_s: u64,
    /// Seconds for a connection, and for the next bytes on it.
    pub silence_s: u64,
    /// Seconds before the second try; doubled for each further one.
    pub backoff_s: u64,
    /// The longest `Retry-After` that is believed, seconds.
    pub retry_after_cap_s: u64,
    /// Wait where a registry answers 429. A run does not in what it fetches itself: there all pulls pause (`scheduler.images.backoff_s`).
    pub wait_if_busy: bool,
    /// Bytes that the layers of one image may have, as they are fetched.
    pub max_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            mirrors: BTreeMap::new(),
            insecure: Vec::new(),
            auth_file: None,
            in_flight: 4,
            layers_in_flight: 6,
            tries: 4,
            timeout_s: 1800,
            silence_s: 60,
            backoff_s: 5,
            retry_after_cap_s: 300,
            wait_if_busy: true,
            max_bytes: 64 << 30,
        }
    }
}

impl Settings {
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_s)
    }

    pub(super) fn silence(&self) -> Duration {
        Duration::from_secs(self.silence_s)
    }
}
