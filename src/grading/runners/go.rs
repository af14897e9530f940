//! `go test -json`: the go command reports on the pipe, what the tests print goes through it. In each package a control of ours
//! must fail.

use super::logs::go::{Event, Events, Ids, split};
use super::toolchain;
use crate::domain::{Instance, Reason, Suspicion, TestResult, TestStatus};
use crate::grading::plan::quoted;
use crate::grading::runner::{Found, Job, Launch, Observed, Said, TestRunner};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// Bytes of a list of names that is given as one argument; a longer one is left out, and more tests run.
const MAX_NAMES: usize = 64 << 10;
const MAX_LINE: usize = 1 << 20;

pub struct Go;

impl TestRunner for Go {
    fn name(&self) -> &'static str {
        "go test"
    }

    fn search(&self, _instance: &Instance) -> Option<Vec<u8>> {
        Some(toolchain::search("go", "/usr/local/go/bin/go", "version"))
    }

    fn found(&self, output: &str) -> Option<Found> {
        toolchain::found("go", output)
    }

    fn launch(&self, found: &Found, job: &Job<'_>) -> Launch {
        let control = control(job.secret);
        let wanted = || job.wanted.iter().filter_map(|index| job.ids.get(*index)).map(|id| split(id));
        let tests: BTreeSet<&str> = wanted().map(|(_, test)| test.split('/').next().unwrap_or(test)).collect();
        let run = format!("^({control}|{})$", tests.into_iter().collect::<Vec<_>>().join("|"));
        let run = if run.len() <= MAX_NAMES && run.bytes().all(|b| b.is_ascii_alphanumeric() || b"_|^$()".contains(&b)) {
            run
        } else {
            ".".to_owned()
        };
        let packages: BTreeSet<&str> = wanted().map(|(package, _)| package.strip_prefix("./").unwrap_or(package)).collect();
        let small = packages.iter().map(|part| part.len()).sum::<usize>() <= MAX_NAMES;
        let mut choice = Vec::new();
        for part in packages.iter().filter(|_| small && !packages.contains("")) {
            let part = quoted(part.as_bytes());
            choice.extend([if choice.is_empty() { &b""[..] } else { b"|" }, &part, b"|*/", &part].concat());
        }
        let choice = if choice.is_empty() { b"*".to_vec() } else { choice };
        let command: Vec<u8> = found.command.iter().flat_map(|word| [quoted(word.as_bytes()), b" ".to_vec()].concat()).collect();
        let script = SCRIPT
            .replace("@SECRET@", job.secret)
            .replace("@VERSION@", found.versions.get("go").map_or("", String::as_str))
            .replace("@CONTROL@", &control)
            .replace("@GO@", &String::from_utf8_lossy(&command))
            .replace("@RUN@", &String::from_utf8_lossy(&quoted(run.as_bytes())))
            .replace("@CHOICE@", &String::from_utf8_lossy(&choice));
        Launch { argv: ["sh", "-s"].map(str::to_owned).to_vec(), env: Vec::new(), input: script.into_bytes(), reports: true }
    }

    fn read(&self, job: &Job<'_>, said: &Said<'_>) -> Observed {
        let (begin, end) = (format!("{} begin ", job.secret), format!("{} end", job.secret));
        let mut lines = said.report.split(|b| *b == b'\n');
        let Some(version) = lines.next().and_then(|line| line.strip_prefix(begin.as_bytes())) else { return Observed::default() };
        let versions = [("go".to_owned(), String::from_utf8_lossy(version).into_owned())].into();
        let mut seen = Observed { begun: true, versions, ..Observed::default() };
        let mut events = Events::default();
        for line in lines.by_ref().filter(|line| line.len() <= MAX_LINE) {
            if line == end.as_bytes() {
                seen.complete = !said.report_cut;
                break;
            }
            if let Some(event) = Event::parse(line) {
                events.add(&event);
            }
        }
        let ids = Ids::new(job.wanted.iter().filter_map(|index| Some((*index, *job.ids.get(*index)?))));
        let (control, mut packages) = (control(job.secret), BTreeSet::new());
        for ((package, test), told) in events.0.iter().filter(|((_, test), _)| *test != control) {
            let Some(status) = told.status() else { continue };
            let before = seen.results.len();
            for index in ids.of(package, test) {
                let message = if status == TestStatus::Passed { String::new() } else { told.output.clone() };
                let result = TestResult { status, duration_ms: (told.elapsed.clamp(0.0, 1e9) * 1000.0) as u64, message, tries: 1 };
                let known = seen.results.entry(index).or_insert_with(|| result.clone());
                if known.status == TestStatus::Passed {
                    *known = result;
                }
                if status == TestStatus::Passed {
                    packages.insert(package.as_str());
                }
                if told.doubled() {
                    seen.doubt.push(suspicion(Reason::ReportForged, format!("{package}.{test} began more than once")));
                }
            }
            seen.unlisted += u64::from(before == seen.results.len() && ids.of(package, test).next().is_none());
        }
        for package in packages {
            let told = events.0.get(&(package.to_owned(), control.clone())).and_then(|told| told.status());
            match told {
                Some(TestStatus::Failed) => {}
                Some(TestStatus::Passed) => seen.proof.push(suspicion(Reason::ControlPassed, format!("the control of {package} passed"))),
                _ => seen.doubt.push(suspicion(Reason::ControlUnclear, format!("the control of {package} did not run"))),
            }
        }
        if seen.results.values().any(|result| result.status == TestStatus::Passed) {
            let detail = "go test takes what a test prints for its report as well".to_owned();
            seen.signs.push(suspicion(Reason::PrintedReport, detail));
        }
        seen
    }
}

/// In every module; a package's control is a test file of its own. Words between @ are filled in.
const SCRIPT: &str = r#"printf '@SECRET@ begin @VERSION@\n' >&3
find . -name go.mod ! -path '*/vendor/*' ! -path '*/testdata/*' ! -path '*/node_modules/*' | sort | while IFS= read -r module; do
  (
    cd "${module%/*}" || exit
    list=$(@GO@list -e -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Name}}|{{.ImportPath}}|{{.Dir}}{{end}}' ./... 3>&-)
    set --
    while IFS='|' read -r name path directory; do
      case $path in
      '') continue ;;
      @CHOICE@) ;;
      *) continue ;;
      esac
      set -- "$@" "$path"
      printf 'package %s\n\nimport "testing"\n\nfunc @CONTROL@(t *testing.T) { t.Fatal("a control") }\n' "$name" > "$directory/zz_@CONTROL@_test.go"
    done <<END
$list
END
    [ $# = 0 ] || @GO@test -json -count=1 -timeout=0 -run @RUN@ "$@" </dev/null >&3 3>&-
  )
done
printf '@SECRET@ end\n' >&3
"#;

/// Name of the test that must fail; it tells nothing of the secret.
fn control(secret: &str) -> String {
    let digest = format!("{:x}", Sha256::digest(format!("control {secret}")));
    format!("TestZ{}", &digest[..24])
}

fn suspicion(reason: Reason, mut detail: String) -> Suspicion {
    detail.truncate(detail.floor_char_boundary(300));
    Suspicion { reason, detail }
}
