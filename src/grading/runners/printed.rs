//! An instance's own test command: what it prints goes to the report's pipe, and is read by the log parser that the instance names.

use super::logs::{self, Told};
use crate::domain::{Instance, LogParser, Reason, Suspicion, TestResult, TestStatus};
use crate::grading::hygiene::touched_paths;
use crate::grading::plan::quoted;
use crate::grading::runner::{Found, Job, Launch, Observed, Said, TestRunner};

/// Bytes of the log's end that are kept for a human.
const KEPT: usize = 64 << 10;
/// Field images keep their environment there, and activate it in interactive shells alone.
const ACTIVATE: &str = "if [ -z \"${CONDA_DEFAULT_ENV-}\" ] && [ -n \"${BASH_VERSION-}\" ] && [ -d /opt/miniconda3/envs/testbed ]; then\n\
                        . /opt/miniconda3/bin/activate testbed >/dev/null 2>&1\nfi\n";
/// Stands for the files of the test patch that exist.
const FILES: &str = "{files}";

pub struct Printed;

/// Whether a Python instance's command is pytest with nothing but options of what it prints, and its ids are whole: our own
/// pytest then does the same, and reports on a pipe.
#[must_use]
pub fn is_plain_pytest(instance: &Instance) -> bool {
    let mut words = instance.test_cmd.split_whitespace().peekable();
    let begun = match words.next() {
        Some("pytest" | "py.test") => true,
        Some("python" | "python3") => words.next() == Some("-m") && words.next() == Some("pytest"),
        _ => false,
    };
    // No word of it means more to a shell than itself.
    let text = |b: u8| b.is_ascii_alphanumeric() || b.is_ascii_whitespace() || b"_./:=-".contains(&b);
    let quiet = !instance.test_cmd.trim().contains('\n') && instance.test_cmd.replace(FILES, "").bytes().all(text);
    let mut plain = begun && quiet && instance.language == "python" && instance.log_parser == LogParser::Pytest.as_str();
    while let Some(word) = words.next() {
        plain &= match word {
            "-W" => words.next().is_some(),
            "-p" => words.next() == Some("no:cacheprovider"),
            "-v" | "-vv" | "-q" | "--verbose" | "--quiet" | "--no-header" | "--disable-warnings" | FILES => true,
            _ if ["-r", "--tb=", "--color=", "-W"].iter().any(|option| word.starts_with(option)) => true,
            path => !path.starts_with('-'),
        };
    }
    plain && instance.test_ids().all(is_whole)
}

/// Not cut at a space, as some datasets' ids are.
fn is_whole(id: &str) -> bool {
    id.split_once("::").is_some_and(|(file, rest)| file.ends_with(".py") && (!rest.contains('[') || rest.ends_with(']')))
}

impl TestRunner for Printed {
    fn name(&self) -> &'static str {
        "test_cmd"
    }

    fn launch(&self, _found: &Found, job: &Job<'_>) -> Launch {
        let command = format!("{ACTIVATE}{}\n", job.instance.test_cmd.replace(FILES, "\"$@\""));
        let mut script = b"shell=sh; if command -v bash >/dev/null 2>&1; then shell=bash; fi\nset --\n".to_vec();
        for path in touched_paths(job.instance.test_patch.as_bytes()).unwrap_or_default() {
            let path = quoted(&path);
            script.extend([b"if [ -e ", &path[..], b" ]; then set -- \"$@\" ", &path, b"; fi\n"].concat());
        }
        script.extend(format!("printf '%s begin\\n' {} >&3\n\"$shell\" -c ", job.secret).into_bytes());
        script.extend(quoted(command.as_bytes()));
        script.extend(b" sweroll \"$@\" </dev/null >&3 2>&1 3>&-\n");
        script.extend(format!("printf '\\n%s end %s\\n' {} $? >&3\n", job.secret).into_bytes());
        Launch { argv: ["sh", "-s"].map(str::to_owned).to_vec(), env: Vec::new(), input: script, reports: true }
    }

    fn read(&self, job: &Job<'_>, said: &Said<'_>) -> Observed {
        let Some(log) = said.report.strip_prefix(format!("{} begin\n", job.secret).as_bytes()) else { return Observed::default() };
        let (log, ended) = match find(log, format!("\n{} end ", job.secret).as_bytes()) {
            Some(at) => (&log[..at], true),
            None => (log, false),
        };
        let mut told = Told::new(job.wanted.iter().filter_map(|index| Some((*index, *job.ids.get(*index)?))));
        if let Ok(parser) = job.instance.log_parser.parse::<LogParser>() {
            logs::read(parser, log, &mut told);
        }
        Observed {
            begun: true,
            complete: ended && !said.report_cut,
            results: told.results().iter().map(|(index, status)| (*index, TestResult::from(*status))).collect(),
            unlisted: told.unlisted,
            printed: String::from_utf8_lossy(&log[log.len().saturating_sub(KEPT)..]).into_owned(),
            signs: vec![sign(&told)],
            ..Observed::default()
        }
    }
}

fn sign(told: &Told<'_>) -> Suspicion {
    let passed = told.results().values().filter(|status| **status == TestStatus::Passed).count();
    Suspicion { reason: Reason::PrintedReport, detail: format!("{passed} tests passed by what a command printed") }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_pytest_is_plain() {
        let instance = |command: &str, id: &str| -> Instance {
            serde_json::from_value(serde_json::json!({
                "instance_id": "x", "repo": "o/x", "language": "python", "workdir": "/x", "image": "", "problem_statement": "", "base_commit": "",
                "fix_commit": "", "patch": "", "test_patch": "", "test_script": "", "fail_to_pass": [id], "pass_to_pass": [], "pre_commands": "",
                "test_cmd": command, "log_parser": "pytest", "url": ""
            }))
            .unwrap()
        };
        let whole = "t/test_a.py::test_x[a b]";
        for plain in [
            "pytest -rA",
            "python -m pytest -rA --tb=no -p no:cacheprovider tests/ {files}",
            "pytest --no-header -rA --color=no -W ignore::X",
        ] {
            assert!(is_plain_pytest(&instance(plain, whole)), "{plain}");
        }
        for other in [
            "pytest --doctest-modules",
            "tox -- -rA",
            "pytest -rA; true",
            "pytest -p xdist",
            "cd x && pytest",
            "pytest $X",
            "python -m unittest",
            "",
        ] {
            assert!(!is_plain_pytest(&instance(other, whole)), "{other}");
        }
        for cut in ["t/test_a.py::test_x[a", "test_x", "t/x.rst::x.rst"] {
            assert!(!is_plain_pytest(&instance("pytest -rA", cut)), "{cut}");
        }
    }
}
