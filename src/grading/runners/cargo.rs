//! `cargo test`: libtest has no report but what it prints, so each grade by it carries a sign.

use super::logs::{self, Told};
use super::toolchain;
use crate::domain::{Instance, LogParser, Reason, Suspicion, TestResult};
use crate::grading::plan::quoted;
use crate::grading::runner::{Found, Job, Launch, Observed, Said, TestRunner};

/// Bytes of names given as arguments; with more every test runs.
const MAX_NAMES: usize = 64 << 10;
const KEPT: usize = 64 << 10;

pub struct Cargo;

impl TestRunner for Cargo {
    fn name(&self) -> &'static str {
        "cargo test"
    }

    fn search(&self, _instance: &Instance) -> Option<Vec<u8>> {
        Some(toolchain::search("cargo", "${CARGO_HOME:-$HOME/.cargo}/bin/cargo", "--version"))
    }

    fn found(&self, output: &str) -> Option<Found> {
        toolchain::found("cargo", output)
    }

    fn launch(&self, found: &Found, job: &Job<'_>) -> Launch {
        let wanted: Vec<&str> = job.wanted.iter().filter_map(|index| job.ids.get(*index)).copied().collect();
        let version = found.versions.get("cargo").map_or("", String::as_str);
        let mut script = format!("printf '%s begin %s\\n' {} '{version}' >&3\n", job.secret).into_bytes();
        script.extend(found.command.iter().flat_map(|word| [quoted(word.as_bytes()), b" ".to_vec()].concat()));
        script.extend_from_slice(b"test --workspace --no-fail-fast --");
        if wanted.iter().map(|id| id.len() + 1).sum::<usize>() <= MAX_NAMES && !wanted.iter().any(|id| id.starts_with('-')) {
            script.extend_from_slice(b" --exact");
            wanted.iter().for_each(|id| script.extend([&b" "[..], &quoted(id.as_bytes())].concat()));
        }
        script.extend_from_slice(b" </dev/null >&3 3>&-\n");
        script.extend(format!("printf '\\n%s end\\n' {} >&3\n", job.secret).into_bytes());
        let env = [("CARGO_TERM_COLOR", "never"), ("RUST_TEST_NOCAPTURE", "0")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        Launch { argv: ["sh", "-s"].map(str::to_owned).to_vec(), env: env.to_vec(), input: script, reports: true }
    }

    fn read(&self, job: &Job<'_>, said: &Said<'_>) -> Observed {
        let Some(log) = said.report.strip_prefix(format!("{} begin ", job.secret).as_bytes()) else { return Observed::default() };
        let (version, log) = log.split_at(log.iter().position(|b| *b == b'\n').unwrap_or(log.len()));
        let whole = log.strip_suffix(format!("\n{} end\n", job.secret).as_bytes());
        let log = whole.unwrap_or(log);
        let mut told = Told::new(job.wanted.iter().filter_map(|index| Some((*index, *job.ids.get(*index)?))));
        logs::read(LogParser::Cargo, log, &mut told);
        let detail = "libtest reports by what it prints".to_owned();
        Observed {
            begun: true,
            complete: whole.is_some() && !said.report_cut,
            results: told.results().iter().map(|(index, status)| (*index, TestResult::from(*status))).collect(),
            unlisted: told.unlisted,
            versions: [("cargo".to_owned(), String::from_utf8_lossy(version).into_owned())].into(),
            printed: String::from_utf8_lossy(&log[log.len().saturating_sub(KEPT)..]).into_owned(),
            signs: vec![Suspicion { reason: Reason::PrintedReport, detail }],
            ..Observed::default()
        }
    }
}
