//! The other side of a measurement: `sweroll endpoint` as a process of its own.

use super::{
    episodes::{BenchError, Plan, broken},
    place::Helper,
    threads,
};
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

/// The scripted endpoint, ended with the value.
pub struct Endpoint {
    child: Helper,
    url: String,
}

impl Endpoint {
    /// # Errors
    /// Where it does not start.
    pub fn start(plan: &Plan, instances: &Path) -> Result<Self, BenchError> {
        let program = std::env::current_exe().map_err(|e| broken("this program's own path", e))?;
        let text = |value: &dyn std::fmt::Display| value.to_string();
        let mut child = Command::new(program)
            .args(["endpoint", "--script", "steady", "--listen", "127.0.0.1:0", "--limit", "1", "--instances"])
            .arg(instances)
            .args(["--wander-turns", &text(&plan.turns), "--seed", &text(&plan.seed)])
            .args(["--latency-ms", &text(&((plan.latency_s * 1000.0) as u64)), "--latency-sigma", &text(&plan.latency_sigma)])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| broken("the scripted endpoint did not start", e))?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            let _ = BufReader::new(out).read_line(&mut line);
        }
        let url = line.trim().strip_prefix("listening on ").unwrap_or_default().to_owned();
        let endpoint = Endpoint { child: Helper::new(child), url };
        if endpoint.url.is_empty() { Err(BenchError(format!("the scripted endpoint said {line:?} and no address"))) } else { Ok(endpoint) }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Seconds of processor time.
    pub fn cpu_s(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.0.id())).unwrap_or_default();
        threads::stat(&stat).map_or(0.0, |(_, time)| (time.user + time.system).as_secs_f64())
    }
}
