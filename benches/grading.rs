//! What a grading costs above the bare pytest run of the same ids: `cargo bench --bench grading -- --instances FILE`.
//!
//! Each instance's golden patch is graded, and the same ids are run by hand: `docker run` of the same image under the same limits,
//! `pre_commands` and both patches applied by plain shell, then `python -m pytest` over all ids, whose own seconds inside the
//! container are the bare time. The two take turns, and of each the least of all rounds counts, for machines that are not quiet. Options: `--filter REGEX`
//! (default: eight instances of the real set that are quick), `--rounds N` (5), `--at-once N` (repeatable; 1 and 8).
//! Needs the docker CLI, and pytest 8.2 or newer in the images. `RUST_LOG=sweroll::toolbox=debug` tells every step.

use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use sweroll::domain::{Instance, Verdict};
use sweroll::grading::{self, Case, Runners, Settings};
use sweroll::sandbox::{Docker, Limits, Provider, Purpose, Spec, docker};
use sweroll::store::dataset::{self, Options};

const QUICK: &str = "tomli|slugify|cachetools|xmltodict|h11|wcwidth|jsonpatch|tabulate";

struct Arguments {
    instances: PathBuf,
    filter: String,
    rounds: usize,
    at_once: Vec<usize>,
}

impl Arguments {
    fn parse() -> Self {
        let mut arguments = Arguments { instances: PathBuf::new(), filter: QUICK.to_owned(), rounds: 5, at_once: Vec::new() };
        let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
        while let (Some(option), Some(value)) = (words.next(), words.next()) {
            match option.as_str() {
                "--instances" => arguments.instances = value.into(),
                "--filter" => arguments.filter = value,
                "--rounds" => arguments.rounds = value.parse().expect("a number of rounds"),
                "--at-once" => arguments.at_once.push(value.parse().expect("a number of gradings at once")),
                other => panic!("unknown option {other}"),
            }
        }
        if arguments.at_once.is_empty() {
            arguments.at_once = vec![1, 8];
        }
        arguments
    }
}

/// Seconds of one turn.
#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    /// The bare pytest process, inside its container.
    bare: f64,
    /// The whole `docker run` around it.
    docker_run: f64,
    /// From the request for a sandbox to the verdict.
    graded: f64,
    /// Of that, the test processes.
    tests: f64,
}

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let mut instances = Vec::new();
    let options = Options { filter: Some(arguments.filter.clone()), ..Options::default() };
    let scanned = dataset::scan(&arguments.instances, &options, &mut |instance| {
        instances.push(instance);
        Ok(())
    });
    scanned.expect("--instances FILE, of which some match the filter");
    let settings = docker::Settings { toolbox_path: Some(env!("CARGO_BIN_EXE_sweroll").into()), ..docker::Settings::default() };
    let docker = Docker::connect(settings).await.expect("a Docker daemon");
    let inputs = std::env::temp_dir().join(format!("bench-of-grading-{}", std::process::id()));
    instances.iter().for_each(|instance| lay_out(&inputs, instance));
    let runners = Runners::default();
    println!("| at once | instance | bare pytest | docker run | graded | of it tests | overhead |");
    println!("| ---: | --- | ---: | ---: | ---: | ---: | ---: |");
    for &at_once in &arguments.at_once {
        measure(&docker, &runners, &instances, &inputs, at_once, arguments.rounds).await;
    }
    let _ = std::fs::remove_dir_all(inputs);
}

async fn measure(docker: &Docker, runners: &Runners, instances: &[Instance], inputs: &Path, at_once: usize, rounds: usize) {
    let mut turns: BTreeMap<String, Vec<Turn>> = BTreeMap::new();
    let (mut bare_wall, mut graded_wall) = (Duration::ZERO, Duration::ZERO);
    for round in 0..=rounds {
        let begun = Instant::now();
        let bare: Vec<(f64, f64)> =
            futures_util::stream::iter(instances).map(|instance| by_hand(inputs, instance)).buffered(at_once).collect().await;
        let middle = Instant::now();
        let graded: Vec<(f64, f64)> =
            futures_util::stream::iter(instances).map(|instance| by_grader(docker, runners, instance)).buffered(at_once).collect().await;
        if round == 0 {
            // Caches are cold, and runners are looked for.
            continue;
        }
        bare_wall += middle - begun;
        graded_wall += middle.elapsed();
        for (instance, ((bare, docker_run), (graded, tests))) in instances.iter().zip(bare.into_iter().zip(graded)) {
            turns.entry(instance.instance_id.to_string()).or_default().push(Turn { bare, docker_run, graded, tests });
        }
    }
    let mut sum = Turn::default();
    let line = |name: &str, turn: Turn| {
        let Turn { bare, docker_run, graded, tests } = turn;
        println!("| {at_once} | {name} | {bare:.2} | {docker_run:.2} | {graded:.2} | {tests:.2} | {:.2} |", graded - bare);
    };
    for (name, turns) in &turns {
        let least = |part: fn(&Turn) -> f64| turns.iter().map(part).fold(f64::INFINITY, f64::min);
        let turn =
            Turn { bare: least(|t| t.bare), docker_run: least(|t| t.docker_run), graded: least(|t| t.graded), tests: least(|t| t.tests) };
        sum = Turn {
            bare: sum.bare + turn.bare,
            docker_run: sum.docker_run + turn.docker_run,
            graded: sum.graded + turn.graded,
            tests: sum.tests + turn.tests,
        };
        line(name, turn);
    }
    let count = turns.len() as f64;
    let mean = Turn { bare: sum.bare / count, docker_run: sum.docker_run / count, graded: sum.graded / count, tests: sum.tests / count };
    line("**mean**", mean);
    let per_second = |wall: Duration| count * rounds as f64 / wall.as_secs_f64();
    println!(
        "\n{at_once} at once: {:.2} gradings a second, {:.2} times `docker run` a second\n",
        per_second(graded_wall),
        per_second(bare_wall)
    );
}

/// What the run by hand needs, to be mounted.
fn lay_out(inputs: &Path, instance: &Instance) {
    let at = inputs.join(instance.instance_id.to_string());
    std::fs::create_dir_all(&at).expect("a directory");
    let ids: Vec<&str> = instance.test_ids().collect();
    let quoted = instance.workdir.replace('\'', r"'\''");
    let run = format!(
        "cd '{quoted}' || exit 1
{{
{}
}} >/dev/null 2>&1 || exit 1
cd '{quoted}' || exit 1
for patch in patch test_patch; do
  [ ! -s /in/$patch ] || git apply --whitespace=nowarn /in/$patch || exit 1
done
[ ! -s /in/test_script ] || cp /in/test_script test_fail_to_pass.py
no_cov=$(python -c 'import pytest_cov' 2>/dev/null && echo --no-cov)
from=$(date +%s%N)
python -m pytest -q -p no:cacheprovider --rootdir=. $no_cov @/in/ids >/tmp/output 2>&1 || {{ cat /tmp/output; exit 1; }}
echo $((($(date +%s%N) - from) / 1000))
",
        instance.pre_commands
    );
    for (name, text) in [
        ("run", run.as_str()),
        ("patch", &instance.patch),
        ("test_patch", &instance.test_patch),
        ("test_script", &instance.test_script),
        ("ids", &ids.join("\n")),
    ] {
        std::fs::write(at.join(name), text).expect("a file");
    }
}

/// Seconds of pytest, and of the whole `docker run`.
async fn by_hand(inputs: &Path, instance: &Instance) -> (f64, f64) {
    let mount = format!("{}:/in:ro", inputs.join(instance.instance_id.to_string()).display());
    let begun = Instant::now();
    let done = tokio::process::Command::new("docker")
        .args(["run", "--rm", "--network", "none", "--log-driver", "none", "--cpus", "2", "--memory", "4g", "-v", &mount])
        .args([instance.image.as_str(), "sh", "/in/run"])
        .stdin(Stdio::null())
        .output()
        .await
        .expect("the docker CLI");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{}: {said}{}", instance.instance_id, String::from_utf8_lossy(&done.stderr));
    let micros: f64 = said.trim().parse().expect("microseconds");
    (micros / 1e6, begun.elapsed().as_secs_f64())
}

/// Seconds to the verdict, and of the test processes.
async fn by_grader(docker: &dyn Provider, runners: &Runners, instance: &Instance) -> (f64, f64) {
    let spec = Spec {
        run: format!("bench-{}", std::process::id()),
        attempt: format!("{}@0.1", instance.instance_id).parse().expect("an id"),
        purpose: Purpose::Grade,
        image: instance.image.clone(),
        workdir: instance.workdir.clone(),
        limits: Limits::default(),
        keep: false,
        upon: None,
    };
    let case = Case { instance, diff: &instance.patch, flaky: &[] };
    let begun = Instant::now();
    let grade = grading::grade(docker, &spec, &case, &Settings::default(), runners).await.expect("a verdict");
    assert_eq!(grade.verdict, Verdict::Resolved, "{}: {grade:?}", instance.instance_id);
    (begun.elapsed().as_secs_f64(), grade.tests_ms as f64 / 1e3)
}
