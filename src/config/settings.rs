//! All settings of a run, each module's under its own name.

use crate::{
    agent::{machine, prompt},
    endpoint, grading, sandbox, scheduler, store,
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
    pub scheduler: scheduler::policy::Policy,
    pub store: store::Settings,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Instances {
    pub path: PathBuf,
    /// Independent tries at each instance.
    pub samples: u32,
}

impl Default for Instances {
    fn default() -> Self {
        Instances { path: PathBuf::new(), samples: 1 }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    #[default]
    Docker,
    Local,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sandbox {
    pub backend: Backend,
    pub limits: sandbox::Limits,
    pub prepare: sandbox::prepare::Settings,
    pub docker: sandbox::docker::Settings,
    pub local: sandbox::local::Settings,
}

impl Settings {
    /// # Errors
    /// A text that names the key.
    pub fn deserialize_table(table: Table) -> Result<Self, String> {
        table.try_into().map_err(|e: toml::de::Error| e.to_string())
    }

    /// As a table, for `run.toml`. Holds no secret: keys come from the environment or a file.
    #[must_use]
    pub fn table(&self) -> Table {
        Table::try_from(self).unwrap_or_else(|e| unreachable!("settings are plain tables: {e}"))
    }
}

/// Settings, and tables of them, that may differ when a run is resumed: they change how fast and by which way, not what is
/// made. The instances themselves are held by their digest, not by their path.
pub const MAY_DIFFER: &[&str] = &[
    "instances.path",
    "scheduler",
    "sandbox.docker",
    "sandbox.local",
    "endpoint.url",
    "endpoint.api_key_env",
    "endpoint.api_key_file",
    "endpoint.headers",
    "endpoint.timeouts",
    "endpoint.retry",
    "endpoint.limits",
    "endpoint.prices",
];
