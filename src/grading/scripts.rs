//! Shell scripts as tests: each id is a script's path, run by `sh`. Exit 0 is passed, 77 skipped, all else failed.

use super::plan::quoted;
use super::runner::{Found, Job, Launch, Observed, Said, TestRunner};
use crate::domain::{TestResult, TestStatus};

pub struct Scripts;

impl TestRunner for Scripts {
    fn name(&self) -> &'static str {
        "shell"
    }

    fn file_of<'a>(&self, id: &'a str) -> Option<&'a str> {
        Some(id)
    }

    fn launch(&self, _found: &Found, job: &Job<'_>) -> Launch {
        // A script sees neither the report nor the text that starts it.
        let mut text = format!(
            "try() {{ printf '{0} start %s\\n' \"$1\" >&3; sh \"$2\" 3>&- </dev/null; printf '{0} end %s %s\\n' \"$1\" $? >&3; }}\n",
            job.secret
        )
        .into_bytes();
        for index in job.wanted {
            let Some(id) = job.ids.get(*index).filter(|id| job.files.contains(id)) else { continue };
            let path = if id.starts_with('/') { (*id).to_owned() } else { format!("./{id}") };
            text.extend_from_slice(format!("try {index} ").as_bytes());
            text.extend_from_slice(&quoted(path.as_bytes()));
            text.push(b'\n');
        }
        text.extend_from_slice(format!("printf '{} done\\n' >&3\n", job.secret).as_bytes());
        Launch { argv: ["sh", "-s"].map(str::to_owned).to_vec(), env: Vec::new(), input: text, reports: true }
    }

    fn read(&self, job: &Job<'_>, said: &Said<'_>) -> Observed {
        let mut observed = Observed { begun: true, ..Observed::default() };
        for line in String::from_utf8_lossy(said.report).lines() {
            let mut words = line.split(' ');
            if words.next() != Some(job.secret) || observed.complete {
                observed.complete = false;
                return observed;
            }
            let (what, mut numbers) = (words.next(), words.map_while(|word| word.parse::<usize>().ok()));
            match (what, numbers.next(), numbers.next()) {
                (Some("start"), Some(index), None) => observed.running = Some(index),
                (Some("end"), Some(index), Some(code)) if observed.running == Some(index) => {
                    observed.running = None;
                    let status = match code {
                        0 => TestStatus::Passed,
                        77 => TestStatus::Skipped,
                        _ => TestStatus::Failed,
                    };
                    observed.results.insert(index, TestResult::from(status));
                }
                (Some("done"), None, None) => observed.complete = true,
                _ => return observed,
            }
        }
        if let Some(index) = observed.running {
            observed.results.insert(index, TestResult::from(TestStatus::Error));
        }
        observed
    }
}
