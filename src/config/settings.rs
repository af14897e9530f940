//! All settings of a run, each module's under its own name.

use super::ConfigError;
use crate::{
    agent::{machine, prompt},
    endpoint::{self, price::Prices},
    grading, images, sandbox, scheduler, store, tokens,
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use toml::Table;

/// What `run.toml` holds and a settings file may give in part.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub instances: Instances,
    pub dataset: store::dataset::Options,
    pub scaffold: prompt::Settings,
    pub agent: machine::Limits,
    pub endpoint: endpoint::Settings,
    pub sandbox: Sandbox,
    pub grading: grading::Settings,
    pub images: images::Settings,
    pub scheduler: scheduler::policy::Policy,
    pub store: store::Settings,
    pub tokens: tokens::Settings,
    pub seal: store::seal::Settings,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Instances {
    pub path: PathBuf,
    /// JSON lines that name flaky tests; empty: none are known.
    pub flaky: PathBuf,
    /// Independent tries at each instance.
    pub samples: u32,
}

impl Default for Instances {
    fn default() -> Self {
        Instances { path: PathBuf::new(), flaky: PathBuf::new(), samples: 1 }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Docker where a daemon answers and has the image or can pull it, else native.
    #[default]
    Auto,
    Docker,
    /// Namespaces and an overlay, by no daemon.
    Native,
    /// Plain processes, which isolate nothing.
    Local,
    /// Nothing at all: every call is answered by made-up output, so that the engine's own cost can be measured.
    Null,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sandbox {
    pub backend: Backend,
    pub limits: sandbox::Limits,
    pub patience: sandbox::bounded::Patience,
    pub prepare: sandbox::prepare::Settings,
    pub docker: sandbox::docker::Settings,
    pub native: sandbox::native::Settings,
    pub local: sandbox::local::Settings,
    pub null: sandbox::null::Settings,
}

impl Settings {
    /// # Errors
    /// A text that names the key.
    pub fn deserialize_table(table: Table) -> Result<Self, String> {
        table.try_into().map_err(|e: toml::de::Error| e.to_string())
    }

    /// As a table, for `run.toml`. Holds no secret: keys come from the environment or a file, and what an address carries
    /// behind its `?` is left out.
    ///
    /// # Errors
    /// Where a number is none.
    pub fn table(&self) -> Result<Table, ConfigError> {
        let mut shown = self.clone();
        let urls = shown.endpoint.replicas.iter_mut().map(|replica| &mut replica.url);
        urls.chain([&mut shown.endpoint.url]).for_each(|url| url.truncate(url.find('?').unwrap_or(url.len())));
        Table::try_from(shown).map_err(|e| ConfigError::Value(format!("{e}: give a finite number")))
    }

    fn is_priced(&self) -> bool {
        let own = self.endpoint.replicas.iter().filter_map(|replica| replica.prices);
        own.chain([self.endpoint.prices]).any(|prices| prices != Prices::default())
    }

    /// What no single key can tell.
    ///
    /// # Errors
    /// Names the setting and the mend.
    pub fn check(&self) -> Result<(), ConfigError> {
        let at_least_one = [
            ("instances.samples (--samples)", self.instances.samples as usize),
            ("scheduler.concurrency (--concurrency)", self.scheduler.concurrency),
            ("scheduler.max_attempts (--max-attempts)", self.scheduler.max_attempts as usize),
            ("scheduler.max_gradings", self.scheduler.max_gradings as usize),
        ];
        match at_least_one.iter().find(|(_, n)| *n == 0) {
            Some((name, _)) => Err(ConfigError::Value(format!("{name} is 0: it must be at least 1"))),
            None if !(self.scheduler.budget_usd.is_finite() && self.scheduler.budget_usd >= 0.0) => {
                Err(ConfigError::Value("scheduler.budget_usd (--budget-usd) is no amount of dollars: give 0 or more".to_owned()))
            }
            None if self.scheduler.budget_usd > 0.0 && !self.is_priced() => Err(ConfigError::Value(
                "scheduler.budget_usd (--budget-usd) needs prices: set endpoint.prices.input and endpoint.prices.output, in dollars a million \
                 tokens"
                    .to_owned(),
            )),
            None => self.seal.check().map_err(ConfigError::Value).and_then(|()| self.table().map(drop)),
        }
    }
}

/// Settings, and tables of them, that may differ when a run is resumed: they change how fast and by which way, not what is
/// made. The instances and the flaky tests are held by their digests, not by their paths.
pub const MAY_DIFFER: &[&str] = &[
    "instances.path",
    "instances.flaky",
    "dataset.split",
    "scheduler",
    "store",
    "seal",
    "images",
    "sandbox.backend",
    "sandbox.docker",
    "sandbox.native",
    "sandbox.local",
    "sandbox.null",
    "sandbox.limits.toolbox",
    "sandbox.patience",
    "endpoint.url",
    "endpoint.replicas",
    "endpoint.pool",
    "endpoint.hedge_after_s",
    "endpoint.api_key_env",
    "endpoint.api_key_file",
    "endpoint.headers",
    "endpoint.timeouts",
    "endpoint.retry",
    "endpoint.limits",
    "endpoint.share",
    "endpoint.prices",
];
