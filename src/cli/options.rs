//! The options of `run`, and how they become settings: defaults < file < environment < flags.

use super::CliError;
use crate::{
    config::{self, Settings},
    endpoint::settings::Replica,
    tokens::{LossPolicy, Target},
};
use clap::Args;
use std::path::PathBuf;

/// Options that may change when a run is resumed or rerun.
#[derive(Debug, Default, Args)]
pub struct Operation {
    /// Agents at work at once, each with one sandbox [default: 16]
    #[arg(long, value_name = "N", env = "SWEROLL_CONCURRENCY", help_heading = "Speed")]
    pub concurrency: Option<usize>,
    /// Gradings at once, each with one sandbox [default: what the host of the sandboxes can hold, at most as many as agents]
    #[arg(long, value_name = "N", env = "SWEROLL_GRADERS", help_heading = "Speed")]
    pub graders: Option<usize>,
    /// Attempts an episode gets when infrastructure fails it [default: 3]
    #[arg(long, value_name = "N", env = "SWEROLL_MAX_ATTEMPTS", help_heading = "Speed")]
    pub max_attempts: Option<u32>,
    /// Once N samples of an instance are resolved, begin no other of it; those at work are finished. Without it all samples are run
    #[arg(long, value_name = "N", env = "SWEROLL_UNTIL_RESOLVED", help_heading = "Bounds")]
    pub until_resolved: Option<u32>,
    /// Dollars that the run may spend in its whole life, by `endpoint.prices`, 0 for no limit [default: 0]
    #[arg(long, value_name = "DOLLARS", env = "SWEROLL_BUDGET_USD", help_heading = "Bounds")]
    pub budget_usd: Option<f64>,
    /// Tokens, prompts and replies together, that the run may spend in its whole life, 0 for no limit [default: 0]
    #[arg(long, value_name = "N", env = "SWEROLL_BUDGET_TOKENS", help_heading = "Bounds")]
    pub budget_tokens: Option<u64>,
    /// Let no number of failures stop the run or keep the other samples of an instance from being begun; a refused key, a full disk and the
    /// like still stop it
    #[arg(long, env = "SWEROLL_KEEP_GOING", help_heading = "Bounds")]
    pub keep_going: bool,
    /// Base URL of an OpenAI-compatible endpoint, such as https://HOST/v1; what follows a `?` is not kept in the run, so give it
    /// again to `rerun`. Repeatable (or parted by spaces) where several serve the model; 2@URL gives one twice the episodes
    #[arg(long, value_name = "URL", env = "SWEROLL_ENDPOINT", value_delimiter = ' ', help_heading = "Model")]
    pub endpoint: Vec<Replica>,
    /// File that holds the API key; without it the key is read from the environment variable SWEROLL_API_KEY
    #[arg(long, value_name = "FILE", env = "SWEROLL_API_KEY_FILE", help_heading = "Model")]
    pub api_key_file: Option<PathBuf>,
    /// Requests a minute, 0 for no limit [default: 0]
    #[arg(long, value_name = "N", env = "SWEROLL_REQUESTS_PER_MINUTE", help_heading = "Model")]
    pub requests_per_minute: Option<u64>,
    /// Tokens a minute, 0 for no limit [default: 0]
    #[arg(long, value_name = "N", env = "SWEROLL_TOKENS_PER_MINUTE", help_heading = "Model")]
    pub tokens_per_minute: Option<u64>,
    /// Write the run's events here, one JSON object a line
    #[arg(long, value_name = "FILE", env = "SWEROLL_EVENTS", help_heading = "Output")]
    pub events: Option<PathBuf>,
    /// Do not seal the run when it is done: `sweroll seal` can at any time
    #[arg(long, env = "SWEROLL_NO_SEAL", help_heading = "Output")]
    pub no_seal: bool,
    /// No progress on stderr
    #[arg(long, short, env = "SWEROLL_QUIET", help_heading = "Output")]
    pub quiet: bool,
}

/// Options that are part of what a run is; another value means another run.
#[derive(Debug, Default, Args)]
pub struct Identity {
    #[command(flatten)]
    pub rows: Rows,
    /// Tests known to be flaky, JSON lines of instance_id and flaky as `validate` writes them: a PASS_TO_PASS test of them that did not
    /// pass gets another try
    #[arg(long, value_name = "FILE", env = "SWEROLL_FLAKY", help_heading = "Instances")]
    pub flaky: Option<PathBuf>,
    /// Independent tries at each instance [default: 1]
    #[arg(long, value_name = "N", env = "SWEROLL_SAMPLES", help_heading = "Instances")]
    pub samples: Option<u32>,
    /// Name of the model, as the endpoint knows it
    #[arg(long, value_name = "NAME", env = "SWEROLL_MODEL", help_heading = "Model")]
    pub model: Option<String>,
    /// Prompts, tools and call format: scale-swe or sweroll [default: scale-swe]
    #[arg(long, value_name = "NAME", env = "SWEROLL_SCAFFOLD", help_heading = "Agent")]
    pub scaffold: Option<String>,
    /// Directory whose files (system.j2, instance.j2, execute_bash.json, ...) take the place of the built-in ones
    #[arg(long, value_name = "DIR", env = "SWEROLL_SCAFFOLD_DIR", help_heading = "Agent")]
    pub scaffold_dir: Option<PathBuf>,
    /// How the model calls tools: native or inline (XML in the text) [default: native]
    #[arg(long, value_name = "FORMAT", env = "SWEROLL_CALL_FORMAT", help_heading = "Agent")]
    pub call_format: Option<String>,
    /// Turns an episode may take [default: 100]
    #[arg(long, value_name = "N", env = "SWEROLL_MAX_TURNS", help_heading = "Agent")]
    pub max_turns: Option<u32>,
    /// Chat template that tokens are counted with: qwen3-instruct-2507, or qwen3 (hybrid, with reasoning) [default: qwen3-instruct-2507]
    #[arg(long, value_name = "NAME", env = "SWEROLL_TARGET", help_heading = "Training")]
    pub target: Option<Target>,
    /// Replies that are trained on: all or last, and mask-errors, mask-malformed behind commas [default: all]
    #[arg(long, value_name = "POLICY", env = "SWEROLL_LOSS", help_heading = "Training")]
    pub loss: Option<LossPolicy>,
    #[command(flatten)]
    pub basis: Basis,
}

/// Which instances.
#[derive(Debug, Default, Args)]
pub struct Rows {
    /// Instances in the Scale-SWE or SWE-bench schema: .jsonl, .jsonl.zst, .jsonl.gz, .parquet, or a directory of such shards
    #[arg(long, value_name = "PATH", env = "SWEROLL_INSTANCES", help_heading = "Instances")]
    pub instances: Option<PathBuf>,
    /// Which split, where the directory holds more than one
    #[arg(long, value_name = "NAME", env = "SWEROLL_INSTANCES_SPLIT", help_heading = "Instances")]
    pub split: Option<String>,
    /// Only instances whose id matches this regular expression
    #[arg(long, value_name = "REGEX", env = "SWEROLL_FILTER", help_heading = "Instances")]
    pub filter: Option<String>,
    /// Only the first N instances, after the filter
    #[arg(long, value_name = "N", env = "SWEROLL_LIMIT", help_heading = "Instances")]
    pub limit: Option<u64>,
    /// Leave bad rows out, counted and named, instead of refusing the file
    #[arg(long, env = "SWEROLL_SKIP_BAD", help_heading = "Instances")]
    pub skip_bad: bool,
    /// Image of an instance whose row names none, such as registry/swe.{instance_id}:latest
    #[arg(long, value_name = "TEMPLATE", env = "SWEROLL_IMAGE_TEMPLATE", help_heading = "Instances")]
    pub image_template: Option<String>,
}

/// Where sandboxes are made, and settings by other ways than flags of their own.
#[derive(Debug, Default, Args)]
pub struct Basis {
    /// Where tool calls and tests run: docker, native (namespaces, no daemon), local (a plain process, isolates nothing), or auto: docker where a daemon answers and has
    /// the image, else native [default: auto]
    #[arg(long, value_name = "BACKEND", env = "SWEROLL_SANDBOX", help_heading = "Sandbox")]
    pub sandbox: Option<String>,
    /// Settings file (TOML); flags and environment win over it
    #[arg(long, value_name = "FILE", env = "SWEROLL_CONFIG", help_heading = "Settings")]
    pub config: Option<PathBuf>,
    /// One setting by its path, such as agent.prompt_tokens=65536 (docs/settings.md has them all); repeatable or parted by `;`, wins
    /// over all else
    #[arg(long = "set", value_name = "KEY=VALUE", env = "SWEROLL_SET", value_delimiter = ';', help_heading = "Settings")]
    pub set: Vec<String>,
}

/// Options of the commands that grade without agents.
#[derive(Debug, Default, Args)]
pub struct Grading {
    #[command(flatten)]
    pub rows: Rows,
    /// Gradings at once, each with one sandbox [default: 16]
    #[arg(long, value_name = "N", env = "SWEROLL_CONCURRENCY", help_heading = "Speed")]
    pub concurrency: Option<usize>,
    #[command(flatten)]
    pub basis: Basis,
    /// No progress on stderr
    #[arg(long, short, env = "SWEROLL_QUIET", help_heading = "Output")]
    pub quiet: bool,
}

impl Rows {
    fn lay(&self, layer: &mut config::Layer) {
        layer.set("instances.path", self.instances.as_ref().map(|p| p.display().to_string()));
        layer.set("dataset.split", self.split.clone());
        layer.set("dataset.filter", self.filter.clone());
        layer.set("dataset.limit", self.limit.map(|n| n as i64));
        layer.set("dataset.skip_bad", self.skip_bad.then_some(true));
        layer.set("dataset.image_template", self.image_template.clone());
    }
}

impl Basis {
    pub fn lay(&self, layer: &mut config::Layer) -> Result<(), CliError> {
        layer.set("sandbox.backend", self.sandbox.clone());
        self.set.iter().try_for_each(|assignment| layer.assign(assignment)).map_err(CliError::usage)
    }

    pub fn file(&self) -> Result<config::Layer, CliError> {
        self.config.as_deref().map_or_else(|| Ok(config::Layer::default()), config::Layer::read).map_err(CliError::usage)
    }
}

impl Grading {
    /// Settings, with the instances named.
    pub fn resolve(&self) -> Result<Settings, CliError> {
        let mut flags = config::Layer::default();
        self.rows.lay(&mut flags);
        // Without agents the one number is that of the gradings.
        for name in ["scheduler.concurrency", "scheduler.graders"] {
            flags.set(name, self.concurrency.map(|n| n as i64));
        }
        self.basis.lay(&mut flags)?;
        let settings = config::resolve([self.basis.file()?, flags]).map_err(CliError::usage)?;
        if settings.instances.path.as_os_str().is_empty() {
            return Err(CliError::usage("--instances is needed: give it as a flag, by its environment variable or in --config"));
        }
        Ok(settings)
    }
}

impl Operation {
    fn lay(&self, layer: &mut config::Layer) {
        layer.set("scheduler.concurrency", self.concurrency.map(|n| n as i64));
        layer.set("scheduler.graders", self.graders.map(|n| n as i64));
        layer.set("scheduler.max_attempts", self.max_attempts.map(i64::from));
        layer.set("scheduler.until_resolved", self.until_resolved.map(i64::from));
        layer.set("scheduler.budget_usd", self.budget_usd);
        layer.set("scheduler.budget_tokens", self.budget_tokens.map(|n| i64::try_from(n).unwrap_or(i64::MAX)));
        layer.set("scheduler.keep_going", self.keep_going.then_some(true));
        layer.set("seal.at_end", self.no_seal.then_some(false));
        self.lay_endpoints(layer);
        layer.set("endpoint.api_key_file", self.api_key_file.as_ref().map(|p| p.display().to_string()));
        layer.set("endpoint.limits.requests_per_minute", self.requests_per_minute.map(|n| n as i64));
        layer.set("endpoint.limits.tokens_per_minute", self.tokens_per_minute.map(|n| n as i64));
    }
}

impl Operation {
    /// One address is `endpoint.url`; several, or one with a weight, take the place of all that were set.
    fn lay_endpoints(&self, layer: &mut config::Layer) {
        let (url, replicas) = match self.endpoint.as_slice() {
            [] => return,
            [one] => (one.url.clone(), &[][..]),
            several => (String::new(), several),
        };
        let replica = |one: &Replica| {
            let pairs = [("url", toml::Value::from(one.url.clone())), ("weight", one.weight.0.into())];
            toml::Value::Table(pairs.map(|(key, value)| (key.to_owned(), value)).into_iter().collect())
        };
        layer.set("endpoint.url", Some(url));
        layer.set("endpoint.replicas", Some(replicas.iter().map(replica).collect::<Vec<_>>()));
    }
}

impl Identity {
    fn lay(&self, layer: &mut config::Layer) -> Result<(), CliError> {
        self.rows.lay(layer);
        layer.set("instances.flaky", self.flaky.as_ref().map(|p| p.display().to_string()));
        layer.set("instances.samples", self.samples.map(i64::from));
        layer.set("endpoint.model", self.model.clone());
        layer.set("scaffold.name", self.scaffold.clone());
        layer.set("scaffold.dir", self.scaffold_dir.as_ref().map(|p| p.display().to_string()));
        layer.set("scaffold.format", self.call_format.clone());
        layer.set("agent.turns", self.max_turns.map(i64::from));
        layer.set("tokens.target", self.target.map(|target| target.to_string()));
        layer.set("tokens.loss", self.loss.map(|loss| loss.to_string()));
        self.basis.lay(layer)
    }
}

/// Settings of a new run.
pub fn resolve(identity: &Identity, operation: &Operation) -> Result<Settings, CliError> {
    let mut flags = config::Layer::default();
    operation.lay(&mut flags);
    identity.lay(&mut flags)?;
    config::resolve([identity.basis.file()?, flags]).map_err(CliError::usage)
}

/// Settings of an existing run, with what may differ laid over them.
pub fn operate(made_with: &toml::Table, operation: &Operation) -> Result<Settings, CliError> {
    let mut flags = config::Layer::default();
    operation.lay(&mut flags);
    config::resolve([config::Layer::from_table(made_with.clone()), flags]).map_err(CliError::usage)
}
