//! `sweroll regrade`: what a run has graded, graded once more.

use super::{
    CliError, Exit, Format, Outcome, block_on, notice,
    options::Basis,
    print,
    render::{json, table, word},
    rerun::class,
    run::{log_to, refused, stops},
};
use crate::{
    config::{self, Settings},
    domain::{EpisodeId, prediction::Word},
    engine::{
        batch::Grounds,
        regrade::{self, Regrade, Selection},
    },
    scheduler::driver::End,
    store::{Gradings, View, fact::Committed},
};
use clap::Args as ClapArgs;
use serde::Serialize;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

/// Version of `--format json`.
const REGRADE_VERSION: u32 = 1;
/// Rows of the table.
const SHOWN: usize = 200;

const AFTER: &str =
    "No agent runs and no tokens are paid for. The results are in DIR/regrades/N/gradings.jsonl; the same command resumes, and
begins another N with other settings or another sweroll. Without --commit the run is not touched.

Exit codes: 0 every attempt has a new verdict; 1 some have none: the same command tries them again; 2 wrong usage; 3 stopped
before all was done, 130 killed (the same command resumes).

Example:
  sweroll regrade runs/first
  sweroll regrade runs/first --class grader --set sandbox.limits.memory=17179869184 --commit";

#[derive(Debug, ClapArgs)]
#[command(after_help = AFTER)]
pub struct Args {
    /// Directory of the run
    pub dir: PathBuf,
    /// Only attempts that failed, of these classes (grader, infra, model, task, bug); repeatable
    #[arg(long, value_name = "CLASS", env = "SWEROLL_REGRADE_CLASS", value_delimiter = ',', help_heading = "Selection")]
    pub class: Vec<String>,
    /// Only these episodes; repeatable
    #[arg(long, value_name = "INSTANCE@SAMPLE", env = "SWEROLL_REGRADE_EPISODE", value_delimiter = ',', help_heading = "Selection")]
    pub episode: Vec<EpisodeId>,
    /// Begin another regrading, though the last one was made with the same settings
    #[arg(long, env = "SWEROLL_REGRADE_AGAIN", help_heading = "Selection")]
    pub again: bool,
    /// Make the verdicts that differ the run's; the attempts of before stay in it
    #[arg(long, env = "SWEROLL_REGRADE_COMMIT", help_heading = "Output")]
    pub commit: bool,
    #[arg(long, value_enum, default_value = "table", env = "SWEROLL_FORMAT", help_heading = "Output")]
    format: Format,
    /// Gradings at once, each with one sandbox [default: as the run's]
    #[arg(long, value_name = "N", env = "SWEROLL_CONCURRENCY", help_heading = "Speed")]
    pub concurrency: Option<usize>,
    #[command(flatten)]
    pub basis: Basis,
    /// No progress on stderr
    #[arg(long, short, env = "SWEROLL_QUIET", help_heading = "Output")]
    pub quiet: bool,
}

/// What a regrading came to.
#[derive(Debug, Serialize)]
struct Results {
    schema_version: u32,
    /// Where every result is.
    results: PathBuf,
    attempts: u64,
    regraded: u64,
    /// The verdict is the one of before.
    same: u64,
    /// By the verdicts of then and now.
    changed: Vec<Changed>,
    /// There is no verdict now.
    without_verdict: u64,
    /// None without `--commit`.
    committed: Option<u64>,
    episodes: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Changed {
    old: Word,
    new: Word,
    attempts: u64,
}

/// An attempt of which something differs.
#[derive(Debug, Serialize)]
struct Row {
    trajectory_id: String,
    old: Word,
    new: Word,
    tests: usize,
    new_suspect: Vec<String>,
}

pub fn run(args: &Args) -> Outcome {
    let classes = args.class.iter().map(|name| class(name)).collect::<Result<Vec<_>, _>>()?;
    let view = Arc::new(View::open(&args.dir).map_err(CliError::usage)?);
    if let Some(unknown) = args.episode.iter().find(|id| view.state.episode(id).is_none()) {
        return Err(CliError::usage(format!("{} has no episode {unknown}: `sweroll summary` says what it has", args.dir.display())));
    }
    let settings = settings(args, &view)?;
    let selection = Selection { classes, episodes: args.episode.clone() };
    let chosen = regrade::select(&view, &selection).map_err(CliError::failed)?;
    if chosen.is_empty() {
        return print("nothing is to be graded by this selection\n");
    }
    let (end, results) = block_on(async {
        let (mut gradings, path) = tokio::task::block_in_place(|| regrade::open(&args.dir, &settings, args.again)).map_err(refused)?;
        log_to(&path.join("logs"))?;
        let end = grade(args, &settings, &view, &chosen, &mut gradings).await?;
        let mut results = results(&chosen, &gradings, path)?;
        if args.commit && end == End::Done {
            let commit = regrade::commit(&args.dir, &settings, &chosen, &mut gradings).await;
            results.committed = Some(commit.map_err(CliError::failed)?);
        }
        Ok::<_, CliError>((end, results))
    })??;
    match args.format {
        Format::Json => print(&json(&results))?,
        Format::Table => print(&shown(&results))?,
    };
    match end {
        End::Done if results.without_verdict == 0 => Ok(Exit::Done),
        End::Done => Ok(Exit::Failed),
        End::Drained(reason) => {
            let left = results.attempts - results.regraded;
            eprintln!("sweroll: stopped: {reason}\nsweroll: {left} attempts are not graded; the same command resumes");
            Ok(Exit::Unfinished)
        }
        End::Killed => {
            eprintln!("sweroll: killed; the same command resumes");
            Ok(Exit::Killed)
        }
    }
}

/// The run's own, with those of the command line over them.
fn settings(args: &Args, view: &View) -> Result<Settings, CliError> {
    let mut flags = config::Layer::default();
    for name in ["scheduler.concurrency", "scheduler.graders"] {
        flags.set(name, args.concurrency.map(|n| n as i64));
    }
    args.basis.lay(&mut flags)?;
    let own = config::Layer::from_table(view.info.settings.clone());
    config::resolve([own, args.basis.file()?, flags]).map_err(CliError::usage)
}

async fn grade(args: &Args, settings: &Settings, view: &Arc<View>, chosen: &[Committed], gradings: &mut Gradings) -> Result<End, CliError> {
    let total = chosen.iter().filter(|committed| !gradings.is_decided(&committed.id.to_string())).count();
    if total == 0 {
        return Ok(End::Done);
    }
    let grounds = Grounds::find(settings).await.map_err(|failure| refused(failure.into()))?;
    notice(grounds.provider().notice());
    let mut done = 0;
    let told = |regrade: &Regrade| {
        done += 1;
        if !args.quiet {
            eprintln!("sweroll: {done} of {total}: {} {} -> {}", regrade.trajectory_id, word(&regrade.old), word(&regrade.new));
        }
    };
    let end = regrade::grade(Arc::new(grounds), view, chosen, gradings, stops(|text| eprintln!("{text}"))?, told).await;
    end.map_err(CliError::failed)
}

fn results(chosen: &[Committed], gradings: &Gradings, path: PathBuf) -> Result<Results, CliError> {
    let (mut changed, mut episodes): (BTreeMap<(Word, Word), u64>, _) = (BTreeMap::new(), Vec::new());
    let (mut regraded, mut same, mut without_verdict) = (0, 0, 0);
    for committed in chosen {
        let Some(regrade) = gradings.get::<Regrade>(&committed.id.to_string()).map_err(CliError::failed)? else { continue };
        regraded += 1;
        without_verdict += u64::from(regrade.verdict.resolved() < 0 && regrade.new == Word::InfraFailure);
        if regrade.old == regrade.new {
            same += 1;
        } else {
            *changed.entry((regrade.old, regrade.new)).or_default() += 1;
        }
        if regrade.differs() {
            let Regrade { trajectory_id, old, new, new_suspect, tests, .. } = regrade;
            episodes.push(Row { trajectory_id: trajectory_id.to_string(), old, new, tests: tests.len(), new_suspect });
        }
    }
    episodes.sort_by(|a, b| (a.old == a.new, &a.trajectory_id).cmp(&(b.old == b.new, &b.trajectory_id)));
    let changed = changed.into_iter().map(|((old, new), attempts)| Changed { old, new, attempts }).collect();
    let attempts = chosen.len() as u64;
    let results = path.join("gradings.jsonl");
    Ok(Results { schema_version: REGRADE_VERSION, results, attempts, regraded, same, changed, without_verdict, committed: None, episodes })
}

fn shown(results: &Results) -> String {
    let mut text = String::new();
    if !results.episodes.is_empty() {
        let mut rows = vec![["attempt", "then", "now", "tests that differ", "new reasons"].map(str::to_owned).to_vec()];
        rows.extend(
            results.episodes.iter().take(SHOWN).map(|row| {
                vec![row.trajectory_id.clone(), word(&row.old), word(&row.new), row.tests.to_string(), row.new_suspect.join(" ")]
            }),
        );
        text.push_str(&table(&rows));
        if results.episodes.len() > SHOWN {
            text.push_str(&format!("and {} more\n", results.episodes.len() - SHOWN));
        }
        text.push('\n');
    }
    text.push_str(&format!("{} of {} attempts graded again: {} as before\n", results.regraded, results.attempts, results.same));
    for Changed { old, new, attempts } in &results.changed {
        text.push_str(&format!("{attempts} {} -> {}\n", word(old), word(new)));
    }
    text.push_str(&format!("results: {}\n", results.results.display()));
    match results.committed {
        Some(committed) => {
            text.push_str(&format!("{committed} verdicts are the run's now; a sealed dataset of it wants `sweroll seal` once more\n"))
        }
        None if results.episodes.is_empty() => {}
        None => text.push_str("the run is as it was; --commit makes the verdicts that differ its own\n"),
    }
    text
}
