//! `sweroll grade`: verdicts on diffs that were made elsewhere.

mod outcome;

use super::{
    CliError, Exit, Format, Outcome, block_on, left_out, notice,
    options::Grading,
    predictions::{self, Read},
    print,
    run::{log_to, refused, stops},
};
use crate::{
    config::Settings,
    domain::{Attempt, AttemptId, EpisodeId, Failure, Grade, Kind, Verdicted, prediction::Word},
    engine::{
        OpenError,
        batch::{self, Grounds, Job},
    },
    scheduler::driver::End,
    store::{
        Gradings, Instances,
        flaky::Flaky,
        predictions::{Entry, Predictions},
    },
};
use clap::Args as ClapArgs;
use outcome::Results;
use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::runtime::Handle;

const AFTER: &str =
    "Exit codes: 0 every prediction has a verdict; 1 some have none (`resolved` -1): the same command grades again what the sandbox
or the grader failed; 2 wrong usage, instances or predictions (nothing was begun); 3 stopped before all was done, 130 killed
(the same command resumes).

Example:
  sweroll grade --instances scale-swe.jsonl.zst --predictions preds.json --out grades/first --concurrency 8
  sweroll grade --instances scale-swe.jsonl.zst --predictions gold --out grades/gold
  jq -r 'select(.verdict == \"tampered\") | .instance_id' grades/first/results.jsonl";

#[derive(Debug, ClapArgs)]
#[command(after_help = AFTER)]
pub struct Args {
    /// SWE-bench's predictions (.json, .jsonl, .jsonl.zst, .jsonl.gz), the directory of a run or of a sealed dataset, or `gold`: the
    /// instances' own patches
    #[arg(long, value_name = "PATH", env = "SWEROLL_PREDICTIONS", help_heading = "Instances")]
    pub predictions: PathBuf,
    /// Directory of the results; graded predictions that are there already are not graded again
    #[arg(long, value_name = "DIR", env = "SWEROLL_OUT", help_heading = "Output")]
    pub out: PathBuf,
    #[arg(long, value_enum, default_value = "table", env = "SWEROLL_FORMAT", help_heading = "Output")]
    format: Format,
    /// Tests known to be flaky, JSON lines of instance_id and flaky as `validate` writes them: a PASS_TO_PASS test of them that did not
    /// pass gets another try
    #[arg(long, value_name = "FILE", env = "SWEROLL_FLAKY", help_heading = "Instances")]
    pub flaky: Option<PathBuf>,
    #[command(flatten)]
    pub grading: Grading,
}

/// Diffs by what they came to.
type Counts = BTreeMap<Word, usize>;

/// Between two lines of progress.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

pub fn run(args: &Args) -> Outcome {
    let mut settings = args.grading.resolve()?;
    settings.instances.flaky = args.flaky.clone().unwrap_or(settings.instances.flaky);
    let flaky = match settings.instances.flaky.as_os_str().is_empty() {
        true => Flaky::default(),
        false => Flaky::read(&settings.instances.flaky, settings.dataset.max_row_bytes).map_err(CliError::usage)?,
    };
    let (end, results) = block_on(async {
        let (opened, read, grounds) = tokio::task::block_in_place(|| open(args, &settings, &flaky))?;
        left_out(&opened.left_out, opened.left_out_total);
        say(&read);
        log_to(&args.out)?;
        let (mut gradings, instances, predictions) = (opened.gradings, opened.instances, Arc::new(read.predictions));
        let todo = todo(&predictions, &instances, &gradings);
        let end = if todo.is_empty() {
            End::Done
        } else {
            let grounds = match grounds {
                Some(grounds) => grounds,
                None => Grounds::find(&settings).await.map_err(|failure| refused(failure.into()))?,
            };
            notice(grounds.provider().notice());
            let (of_jobs, loader, total) = (Arc::clone(&predictions), Arc::clone(&instances), todo.len());
            let jobs = todo.into_iter().map(move |place| job(place, &of_jobs, &loader, &flaky));
            grade(grounds, &mut gradings, jobs, total, args.grading.quiet).await?
        };
        if end == End::Killed {
            return Ok((end, None));
        }
        let results = Results { out: &args.out, gradings: &gradings, instances: &instances, predictions: &predictions };
        Ok::<_, CliError>((end, Some(tokio::task::block_in_place(|| results.write())?)))
    })??;
    let Some(results) = results else {
        eprintln!("sweroll: killed; the same command resumes");
        return Ok(Exit::Killed);
    };
    match args.format {
        Format::Json => print(&super::render::json(&results))?,
        Format::Table => print(&outcome::table(&results, &args.out))?,
    };
    match end {
        End::Done if results.without_verdict == 0 => Ok(Exit::Done),
        End::Done => Ok(Exit::Failed),
        End::Killed => Ok(Exit::Killed),
        End::Drained(reason) => {
            eprintln!("sweroll: stopped: {reason}\nsweroll: {} predictions are not graded; the same command resumes", results.unfinished);
            Ok(Exit::Unfinished)
        }
    }
}

/// All that can be found wrong is found before a directory is kept.
fn open(args: &Args, settings: &Settings, flaky: &Flaky) -> Result<(batch::Opened, Read, Option<Grounds>), CliError> {
    let mut said = None;
    let ask = |dir: &crate::store::GradingsDir| {
        let instances = Instances::open(dir.layout())?;
        let options = predictions::Options {
            max_row_bytes: settings.dataset.max_row_bytes,
            skip_bad: settings.dataset.skip_bad,
            selected: settings.dataset.filter.is_some() || settings.dataset.limit.is_some(),
            shown: settings.dataset.bad_rows_shown,
        };
        let read = predictions::read(&args.predictions, &instances, dir.layout().root(), &options).map_err(|error| {
            let text = error.to_string();
            said = Some(error);
            OpenError::Settings(text)
        })?;
        let any = read.predictions.entries().iter().any(|entry| !entry.empty);
        let grounds = if any && dir.head().is_none() { Some(Handle::current().block_on(Grounds::find(settings))?) } else { None };
        Ok((read, grounds))
    };
    let opened = batch::open(&args.out, settings, "grade", &[("flaky".to_owned(), flaky.digest())].into(), &[], ask);
    match (opened, said) {
        (Ok((opened, (read, grounds))), _) => Ok((opened, read, grounds)),
        (Err(_), Some(error)) => Err(error),
        (Err(error), None) => Err(refused(error)),
    }
}

fn say(read: &Read) {
    for note in &read.notes {
        eprintln!("sweroll: {note}");
    }
    if read.not_selected > 0 {
        eprintln!("sweroll: {} predictions are for instances that were not selected", read.not_selected);
    }
}

/// The same diff for the same instance has the same grading, whoever made it.
fn key(entry: &Entry) -> String {
    let digest: String = entry.patch_digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}:{digest}", entry.instance_id)
}

/// Places of the predictions that are to be graded, one of each diff.
fn todo(predictions: &Predictions, instances: &Instances, gradings: &Gradings) -> Vec<usize> {
    let known: HashSet<_> = instances.ids().iter().collect();
    let mut seen = HashSet::new();
    let wanted = |entry: &Entry| !entry.empty && known.contains(&entry.instance_id);
    let mut new = |entry: &Entry| !gradings.is_decided(&key(entry)) && seen.insert((entry.instance_id.clone(), entry.patch_digest));
    predictions.entries().iter().enumerate().filter(|(_, entry)| wanted(entry) && new(entry)).map(|(place, _)| place).collect()
}

fn job(place: usize, predictions: &Predictions, instances: &Instances, flaky: &Flaky) -> Result<Job, Failure> {
    let entry = &predictions.entries()[place];
    let prediction = predictions.load(entry).map_err(|e| e.failure())?;
    let episode = EpisodeId { instance: entry.instance_id.clone(), sample: place as u32 };
    Ok(Job {
        key: key(entry),
        attempt: AttemptId { episode, attempt: Attempt::FIRST },
        instance: instances.load(&entry.instance_id).map_err(|e| e.failure())?,
        diff: prediction.model_patch,
        flaky: flaky.of(&entry.instance_id).to_vec(),
    })
}

async fn grade(
    grounds: Grounds,
    gradings: &mut Gradings,
    jobs: impl Iterator<Item = Result<Job, Failure>> + Send + 'static,
    total: usize,
    quiet: bool,
) -> Result<End, CliError> {
    let run = gradings.head().run.clone();
    let progress = Arc::new(Mutex::new(Counts::new()));
    let telling = (!quiet).then(|| tokio::spawn(tell(Arc::clone(&progress), total)));
    let done = |job: &Job, result: Result<Grade, Failure>| {
        let decided = result.as_ref().err().is_none_or(batch::is_decided);
        let verdicted = Verdicted::from(result);
        gradings.put([(job.key.as_str(), decided, &verdicted)]).map_err(|e| e.failure())?;
        *progress.lock().unwrap_or_else(PoisonError::into_inner).entry(verdicted.word()).or_default() += 1;
        Ok(())
    };
    let end = batch::grade_all(Arc::new(grounds), &run, jobs, done, stops(|text| eprintln!("{text}"))?).await;
    if let Some(telling) = telling {
        telling.abort();
        eprintln!("{}", line(&progress, total));
    }
    end.map_err(|failure| CliError {
        exit: if failure.kind == Kind::RunDir { Exit::Failed } else { Exit::Unfinished },
        message: failure.to_string(),
    })
}

fn line(progress: &Mutex<Counts>, total: usize) -> String {
    let counts = progress.lock().unwrap_or_else(PoisonError::into_inner);
    let words: Vec<String> = counts.iter().map(|(word, count)| format!("{count} {}", super::render::word(word))).collect();
    let done: usize = counts.values().sum();
    format!("sweroll: {done} of {total} diffs graded{}{}", if words.is_empty() { "" } else { ": " }, words.join(", "))
}

async fn tell(progress: Arc<Mutex<Counts>>, total: usize) {
    loop {
        tokio::time::sleep(BETWEEN_LINES).await;
        eprintln!("{}", line(&progress, total));
    }
}
