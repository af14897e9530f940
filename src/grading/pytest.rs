//! pytest: finding one that works, the command line that runs the listed ids, and what its report comes to.

use super::plan::Plan;
use serde_json::json;

/// The plugin that reports every test; see its own text.
pub const PLUGIN: &str = include_str!("plugin.py");

/// A pytest that could be imported before the model's diff came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runner {
    candidate: usize,
    pub version: String,
    has_xdist: bool,
    has_cov: bool,
}

struct Candidate {
    /// A login shell finds what an image activates in its profile.
    shell: [&'static str; 2],
    command: &'static [&'static str],
}

const CANDIDATES: [Candidate; 6] = [
    Candidate { shell: ["sh", "-c"], command: &["python", "-m", "pytest"] },
    Candidate { shell: ["sh", "-c"], command: &["python3", "-m", "pytest"] },
    Candidate { shell: ["bash", "-lc"], command: &["python", "-m", "pytest"] },
    Candidate { shell: ["bash", "-lc"], command: &["python3", "-m", "pytest"] },
    Candidate { shell: ["sh", "-c"], command: &["pytest"] },
    Candidate { shell: ["bash", "-lc"], command: &["pytest"] },
];

/// Without bytecode: it would be as old as the base's sources, and the model's diff may come within the same second.
const PROBE: &str = r#"PYTHONDONTWRITEBYTECODE=1
export PYTHONDONTWRITEBYTECODE
facts='import pytest, importlib.util as u
print("sweroll-runner", pytest.__version__, u.find_spec("xdist") is not None, u.find_spec("pytest_cov") is not None)'
n=0
try() {
  if out=$("$@" 2>&1 </dev/null); then printf '%s\nsweroll-candidate %s\n' "$out" "$n"; exit 0; fi
  printf '%s: %s\n' "$1 $2 $5" "$out" | tail -n 3
  n=$((n + 1))
}
"#;

/// Shell text that tries the candidates in turn, in `workdir`.
#[must_use]
pub fn probe() -> Vec<u8> {
    let mut script = PROBE.to_owned();
    for Candidate { shell: [shell, flag], command } in &CANDIDATES {
        let question = if command.len() > 1 { "-c \"$facts\"" } else { "--version" };
        script.push_str(&format!("try {shell} {flag} 'exec \"$@\"' sweroll {} {question}\n", command[0]));
    }
    script.push_str("exit 1\n");
    script.into_bytes()
}

/// What the probe printed.
#[must_use]
pub fn found(output: &str) -> Option<Runner> {
    let candidate = output.lines().find_map(|line| line.strip_prefix("sweroll-candidate ")?.parse().ok())?;
    let facts = output.lines().find_map(|line| line.strip_prefix("sweroll-runner ")).unwrap_or("unknown");
    let mut facts = facts.split(' ');
    Some(Runner {
        candidate: Some(candidate).filter(|n| *n < CANDIDATES.len())?,
        version: facts.next()?.to_owned(),
        has_xdist: facts.next() == Some("True"),
        has_cov: facts.next() == Some("True"),
    })
}

/// Whose options a run is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Options {
    /// The project's, save what would keep tests from running or reporting one by one.
    Project,
    /// None: the project's could not be used.
    None,
}

/// One test run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Where the report will be.
    pub report: String,
}

/// Where the plugin belongs. Its name holds the nonce, so that no file of the repository can come before it.
#[must_use]
pub fn plugin_path(plan: &Plan) -> String {
    format!("{}/{}.py", plan.private, module(plan))
}

/// Where the list of ids belongs: a JSON array, null in the place of an id that is not to be run.
#[must_use]
pub fn ids_path(plan: &Plan) -> String {
    format!("{}/ids.json", plan.private)
}

fn module(plan: &Plan) -> String {
    format!("sweroll_{}", plan.nonce)
}

impl Runner {
    /// `files` are given to pytest in their order; the plugin keeps the listed ids of what they hold.
    /// `run` numbers the test runs of one grading, so that no report is written twice.
    #[must_use]
    pub fn invocation(&self, plan: &Plan, workdir: &str, files: &[&str], options: Options, run: usize) -> Invocation {
        const SCRIPT: &str = r#"cd "$1" || exit 125; shift; PYTHONPATH=$0${PYTHONPATH:+:$PYTHONPATH}; export PYTHONPATH; exec "$@""#;
        let Candidate { shell, command } = &CANDIDATES[self.candidate];
        let report = format!("{}/report-{run}", plan.private);
        let mut argv: Vec<String> = [shell[0], shell[1], SCRIPT, &plan.private, workdir].map(str::to_owned).to_vec();
        argv.extend(command.iter().map(|word| (*word).to_owned()));
        argv.extend(
            ["-p", &module(plan), "--rootdir=.", "--continue-on-collection-errors", "--maxfail=0", "--tb=short", "-o"].map(str::to_owned),
        );
        argv.push(format!("cache_dir={}/cache", plan.private));
        match options {
            Options::Project => {
                argv.extend(self.has_xdist.then(|| "-n0".to_owned()));
                argv.extend(self.has_cov.then(|| "--no-cov".to_owned()));
            }
            Options::None => argv.extend(["-o", "addopts="].map(str::to_owned)),
        }
        argv.extend(files.iter().map(|file| if file.starts_with('-') { format!("./{file}") } else { (*file).to_owned() }));
        let settings = json!({ "ids": ids_path(plan), "report": report, "nonce": plan.nonce });
        let mut env = vec![("SWEROLL_REPORT".to_owned(), settings.to_string())];
        env.extend((options == Options::None).then(|| ("PYTEST_ADDOPTS".to_owned(), String::new())));
        Invocation { argv, env, report }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grading::plan::Plan;

    fn plan() -> Plan {
        let (private, nonce) = ("/tmp/grading-x".to_owned(), "n0".to_owned());
        Plan { private, nonce, test_files: Vec::new(), id_files: Vec::new(), sources: Vec::new() }
    }

    #[test]
    fn the_probe_is_read() {
        let runner = found("sh -c python: not found\nsweroll-runner 8.3.5 True False\nsweroll-candidate 1\n").unwrap();
        assert_eq!((runner.candidate, runner.version.as_str(), runner.has_xdist, runner.has_cov), (1, "8.3.5", true, false));
        let bare = found("This is pytest version 5.4.3\nsweroll-candidate 4\n").unwrap();
        assert_eq!((bare.candidate, bare.has_xdist, bare.has_cov), (4, false, false));
        assert_eq!(found("sh -c python: No module named pytest\n"), None);
        assert_eq!(found("sweroll-candidate 99\n"), None);
    }

    #[test]
    fn the_projects_options_are_kept_and_what_breaks_reports_is_taken_back() {
        let runner = Runner { candidate: 0, version: "8".to_owned(), has_xdist: true, has_cov: true };
        let first = runner.invocation(&plan(), "/w", &["t.py", "-x.py"], Options::Project, 1);
        for option in ["-n0", "--no-cov", "--maxfail=0", "--rootdir=.", "--continue-on-collection-errors", "sweroll_n0"] {
            assert!(first.argv.iter().any(|word| word == option), "{option}: {:?}", first.argv);
        }
        assert!(!first.argv.contains(&"addopts=".to_owned()));
        assert!(first.argv.ends_with(&["t.py".to_owned(), "./-x.py".to_owned()]));
        let second = runner.invocation(&plan(), "/w", &["t.py"], Options::None, 2);
        assert!(second.argv.contains(&"addopts=".to_owned()) && !second.argv.contains(&"-n0".to_owned()));
        assert_ne!(first.report, second.report, "a report is never written twice");
        let bare = Runner { has_xdist: false, has_cov: false, ..runner };
        let argv = bare.invocation(&plan(), "/w", &["t.py"], Options::Project, 1).argv;
        assert!(!argv.iter().any(|word| word == "-n0" || word == "--no-cov"), "options of plugins that are not there");
    }
}
