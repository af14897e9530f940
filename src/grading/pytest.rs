//! pytest: finding one that works, the process that runs the listed ids, and what its report comes to.

mod judge;

use super::plan::file_of;
use super::report::{MESSAGES_MAX, Report};
use super::runner::{Found, Job, Launch, Observed, Options, Said, TestRunner};
use crate::domain::{Instance, Reason, Suspicion};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// What runs in the test process: one program.
const PLUGIN: &str = concat!(
    include_str!("pytest/start.py"),
    include_str!("pytest/report.py"),
    include_str!("pytest/integrity.py"),
    include_str!("pytest/sources.py"),
    include_str!("pytest/controls.py"),
    include_str!("pytest/hooks.py"),
    include_str!("pytest/main.py"),
);
/// Reads the plugin from standard input, before anything of the repository can be imported. Its builtins are its own.
const START: &str = "import sys, builtins; sys.path[:1] = filter(None, sys.path[:1]); s = sys.stdin.buffer; \
    exec(compile(s.read(int(s.readline())), '<sweroll>', 'exec'), {'__name__': 'sweroll', '__builtins__': dict(vars(builtins))})";
/// Listed tests of either kind that are offered for controls; the plugin takes a few that suit.
const CONTROLS_MAX: usize = 64;

/// Files that decide what a test came to, by the package that holds them.
const PARTS: [(&str, &[&str]); 2] = [
    ("_pytest", &["runner.py", "reports.py", "python.py", "unittest.py", "skipping.py", "outcomes.py", "main.py"]),
    ("pluggy", &["_callers.py", "_hooks.py", "_manager.py", "callers.py", "hooks.py", "manager.py"]),
];

/// What the search says where pytest itself imports the repository.
const REPOSITORY: &str = "repository";

pub struct Pytest;

struct Candidate {
    /// A login shell finds what an image activates in its profile.
    shell: [&'static str; 2],
    command: &'static str,
}

const CANDIDATES: [Candidate; 4] = [
    Candidate { shell: ["sh", "-c"], command: "python" },
    Candidate { shell: ["sh", "-c"], command: "python3" },
    Candidate { shell: ["bash", "-lc"], command: "python" },
    Candidate { shell: ["bash", "-lc"], command: "python3" },
];

/// Without bytecode: it would be as old as the base's sources, and the model's diff may come within the same second.
/// A `pytest` command of its own is asked by its interpreter.
const SEARCH: &str = r#"PYTHONDONTWRITEBYTECODE=1
export PYTHONDONTWRITEBYTECODE
facts='import sys; sys.path[:1] = filter(None, sys.path[:1])
import pytest, _pytest, pluggy, os, importlib.util as u
print("sweroll-python", sys.executable)
print("sweroll-version python %d.%d.%d" % sys.version_info[:3])
print("sweroll-version pytest", pytest.__version__)
here = os.path.realpath(os.getcwd()) + os.sep
files = [getattr(m, "__file__", None) for m in list(sys.modules.values())]
if any(isinstance(f, str) and os.path.realpath(f).startswith(here) for f in files): print("sweroll-origin repository")
for m in (pytest, _pytest, pluggy): print("sweroll-origin", m.__name__, os.path.dirname(os.path.realpath(m.__file__)))
for name, module in (("xdist", "xdist"), ("cov", "pytest_cov")):
    if u.find_spec(module): print("sweroll-version", name, "yes")'
try() {
  if out=$("$1" "$2" 'exec "$@"' sweroll "$3" -c "$facts" 2>&1 </dev/null); then printf '%s\nsweroll-candidate %s\n' "$out" "$4"; exit 0; fi
  printf '%s: %s\n' "$1 $2 $3" "$out" | tail -n 3
}
"#;

impl TestRunner for Pytest {
    fn name(&self) -> &'static str {
        "pytest"
    }

    fn file_of<'a>(&self, id: &'a str) -> Option<&'a str> {
        Some(file_of(id)).filter(|file| !file.is_empty())
    }

    fn search(&self, _instance: &Instance) -> Option<Vec<u8>> {
        let mut script = SEARCH.to_owned();
        for (number, Candidate { shell: [shell, flag], command }) in CANDIDATES.iter().enumerate() {
            script.push_str(&format!("try {shell} {flag} {command} {number}\n"));
        }
        for (number, Candidate { shell: [shell, flag], .. }) in [(0, &CANDIDATES[0]), (2, &CANDIDATES[2])] {
            script.push_str(&format!(
                "own=$({shell} {flag} 'command -v pytest' 2>/dev/null) && own=$(sed -n '1s/^#! *//p' \"$own\") && try {shell} {flag} \"$own\" {number}\n"
            ));
        }
        script.push_str("exit 1\n");
        Some(script.into_bytes())
    }

    fn found(&self, output: &str) -> Option<Found> {
        let after = |word: &str| output.lines().find_map(|line| line.strip_prefix(word));
        let number: usize = after("sweroll-candidate ")?.parse().ok()?;
        let python = after("sweroll-python ")?.to_owned();
        let command = match CANDIDATES.get(number)?.shell {
            ["sh", _] => vec![python],
            [shell, flag] => vec![shell.to_owned(), flag.to_owned(), "exec \"$@\"".to_owned(), "sweroll".to_owned(), python],
        };
        let facts = |word: &str| {
            let split = |fact: &str| fact.split_once(' ').map_or((fact.to_owned(), String::new()), |(n, v)| (n.to_owned(), v.to_owned()));
            let fact = |line: &str| line.strip_prefix(word).map(split);
            output.lines().filter_map(fact).collect()
        };
        Some(Found { command, versions: facts("sweroll-version "), origins: facts("sweroll-origin ") })
    }

    fn plugin_digest(&self) -> String {
        format!("{:x}", Sha256::new().chain_update(START).chain_update(PLUGIN).finalize())
    }

    fn parts(&self, found: &Found) -> Vec<String> {
        let of = |(package, files): &(&str, &'static [&str])| {
            let directory = found.origins.get(*package).cloned();
            directory.into_iter().flat_map(|directory| files.iter().map(move |file| format!("{directory}/{file}")))
        };
        PARTS.iter().flat_map(of).collect()
    }

    fn launch(&self, found: &Found, job: &Job<'_>) -> Launch {
        let argv = found.command.iter().map(String::as_str).chain(["-c", START]).map(str::to_owned).collect();
        let mut args: Vec<String> =
            ["--rootdir=.", "--continue-on-collection-errors", "--maxfail=0", "--tb=short", "-p", "no:cacheprovider"]
                .map(str::to_owned)
                .to_vec();
        match job.options {
            Options::Project => {
                args.extend(found.versions.contains_key("xdist").then(|| "-n0".to_owned()));
                args.extend(found.versions.contains_key("cov").then(|| "--no-cov".to_owned()));
            }
            Options::None => args.extend(["-o", "addopts="].map(str::to_owned)),
        }
        args.extend(job.files.iter().map(|file| if file.starts_with('-') { format!("./{file}") } else { (*file).to_owned() }));
        let ids: BTreeMap<&str, usize> = job.wanted.iter().filter_map(|index| Some((*job.ids.get(*index)?, *index))).collect();
        let (nonce, seed) = halves(job.secret);
        let mut origins = found.origins.clone();
        let own = origins.remove(REPOSITORY).is_some();
        let settings = json!({
            "ids": ids,
            "nonce": nonce,
            "args": args,
            "files": job.files,
            "changed": judge::changed_files(job),
            // The runner itself imports the repository.
            "own": own,
            "origins": origins,
            "controls": controls(job, seed),
            "messages_max": MESSAGES_MAX,
        });
        let settings = settings.to_string();
        let input = format!("{}\n{PLUGIN}{settings}", PLUGIN.len()).into_bytes();
        let env = (job.options == Options::None).then(|| ("PYTEST_ADDOPTS".to_owned(), String::new())).into_iter().collect();
        Launch { argv, env, input, reports: true }
    }

    fn read(&self, job: &Job<'_>, said: &Said<'_>) -> Observed {
        let report = Report::parse(said.report, halves(job.secret).0, job.ids.len());
        let mut observed = Observed {
            begun: report.begun,
            complete: report.complete && !said.report_cut,
            // 4 is a usage error and 5 says that nothing was collected: most likely by the project's options.
            unusable: !report.begun || matches!(report.exit, Some(4 | 5)),
            results: job.wanted.iter().filter_map(|index| Some((*index, report.result(*index)?))).collect(),
            running: report.running,
            unlisted: report.collected.1,
            versions: [("pytest".to_owned(), report.versions.0.clone()), ("python".to_owned(), report.versions.1.clone())].into(),
            ..Observed::default()
        };
        for result in observed.results.values_mut() {
            result.duration_ms = result.duration_ms.min(said.duration_ms);
        }
        if said.report_cut {
            let detail = format!("over {} bytes", job.report_max);
            observed.signs.push(Suspicion { reason: Reason::ReportTooLarge, detail });
        }
        judge::judge(&report, job, &mut observed);
        observed
    }
}

/// What marks the records, and what chooses the controls.
fn halves(secret: &str) -> (&str, &str) {
    secret.split_at_checked(secret.len() / 2).unwrap_or((secret, secret))
}

/// Tests of FAIL_TO_PASS and of PASS_TO_PASS that are offered for controls, in an order that only the seed tells.
fn controls(job: &Job<'_>, seed: &str) -> [Vec<usize>; 2] {
    let digest = Sha256::digest(seed);
    let seed = digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte));
    let to_pass: BTreeSet<&str> = job.instance.fail_to_pass.iter().map(String::as_str).collect();
    let (mut first, mut second): (Vec<_>, Vec<_>) =
        job.wanted.iter().partition(|index| job.ids.get(**index).is_some_and(|id| to_pass.contains(id)));
    for group in [&mut first, &mut second] {
        group.sort_by_cached_key(|index| mixed(seed ^ *index as u64));
        group.truncate(CONTROLS_MAX);
    }
    [first, second]
}

/// The finalizer of SplitMix64.
fn mixed(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
