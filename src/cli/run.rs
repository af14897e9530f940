//! `sweroll run`: generate trajectories, or go on with it.

use super::{
    CliError, Exit, Outcome, block_on, left_out, notice,
    options::{self, Identity, Operation},
    print, render, seal,
};
use crate::{
    config::Settings,
    domain::{EpisodeId, Failure, Instance, Kind},
    engine::{self, OpenError, Ready},
    reporter::{ProgressMode, Reporter, ReporterSettings, emit},
    scheduler::driver::{End, Stop},
    store::{Flaky, RunDir, Store, StoreError, View, dataset},
    tokens::Counter,
};
use clap::Args as ClapArgs;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Mutex,
};
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

const EXAMPLE: &str = "Example:
  export SWEROLL_API_KEY=...
  sweroll run --instances scale-swe.jsonl.zst --out runs/first --endpoint https://HOST/v1 --model deepseek-v3.2 \\
      --samples 5 --concurrency 64

Ctrl-C once finishes what is at work, twice stops at once; the same command resumes.";

#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Directory of the run; an existing run is resumed
    #[arg(long, value_name = "DIR", env = "SWEROLL_OUT", help_heading = "Output")]
    pub out: PathBuf,
    /// Check everything that can be checked without starting, and say what would be done
    #[arg(long, env = "SWEROLL_DRY_RUN", help_heading = "Output")]
    pub dry_run: bool,
    #[command(flatten)]
    pub identity: Identity,
    #[command(flatten)]
    pub operation: Operation,
}

pub fn run(args: Args) -> Outcome {
    let settings = options::resolve(&args.identity, &args.operation)?;
    required(&settings)?;
    if args.dry_run {
        return dry_run(&args.out, &settings);
    }
    execute(settings, &args.operation, |settings, ask| {
        let (opened, ready) = engine::open(&args.out, settings, ask).map_err(refused)?;
        left_out(&opened.left_out, opened.left_out_total);
        if let Some((instance, id)) = &opened.unlisted.first {
            let total = opened.unlisted.total;
            eprintln!(
                "sweroll: {total} flaky tests are not listed by their instances and mean nothing, such as {id:?} of {instance} (--flaky)"
            );
        }
        Ok((opened.store, None, ready))
    })
}

fn required(settings: &Settings) -> Result<(), CliError> {
    let missing = [
        ("--instances", settings.instances.path.as_os_str().is_empty()),
        ("--endpoint", settings.endpoint.url.is_empty() && settings.endpoint.replicas.is_empty()),
        ("--model", settings.endpoint.model.is_empty()),
    ];
    match missing.iter().find(|(_, missing)| *missing) {
        Some((flag, _)) => Err(CliError::usage(format!("{flag} is needed: give it as a flag, by its environment variable or in --config"))),
        None => Ok(()),
    }
}

fn dry_run(out: &Path, settings: &Settings) -> Outcome {
    if RunDir::exists(out) {
        drop(engine::existing(out, settings).map_err(refused)?);
        let episodes = View::open(out).map_err(CliError::usage)?.summary().episodes;
        let (dir, outstanding, total) = (out.display(), episodes.outstanding, episodes.total);
        return print(&format!(
            "{dir} would be resumed: {outstanding} of {total} episodes are outstanding\nnothing was begun (--dry-run)\n"
        ));
    }
    engine::scaffold(settings).map_err(refused)?;
    engine::client(settings).map_err(CliError::usage)?;
    let mut images = BTreeSet::new();
    let take = &mut |instance: Instance| {
        images.insert(instance.image);
        Ok(())
    };
    let scan = dataset::scan(&settings.instances.path, &settings.dataset, take).map_err(CliError::usage)?;
    let images: Vec<String> = images.into_iter().collect();
    match block_on(engine::missing(settings, &images))? {
        Ok(missing) if missing.is_empty() => {}
        Ok(missing) => {
            eprintln!("sweroll: {} of {} images are not here yet and would be pulled, such as {}", missing.len(), images.len(), missing[0])
        }
        Err(failure) => eprintln!("sweroll: the images were not looked for: {failure}"),
    }
    left_out(&scan.bad, scan.bad_total);
    if !settings.instances.flaky.as_os_str().is_empty() {
        Flaky::read(&settings.instances.flaky, settings.dataset.max_row_bytes).map_err(CliError::usage)?;
    }
    let (rows, samples) = (scan.rows, u64::from(settings.instances.samples));
    print(&format!("{rows} instances, {} episodes, {} bad rows left out\nnothing was begun (--dry-run)\n", rows * samples, scan.bad_total))
}

/// Nothing was begun.
pub fn refused(error: OpenError) -> CliError {
    match error {
        OpenError::Store(StoreError::Io { .. }) => CliError::failed(error),
        other => CliError::usage(other),
    }
}

/// Opens a run, with the preflight to be asked before anything is written, drives it to its end with progress, log and
/// signals, prints how it stands, and seals it once it is done.
pub fn execute(
    settings: Settings,
    operation: &Operation,
    open: impl FnOnce(&Settings, &dyn Fn() -> Result<Ready, Failure>) -> Result<(Store, Option<Vec<EpisodeId>>, Ready), CliError>,
) -> Outcome {
    let watch = ReporterSettings { progress: if operation.quiet { ProgressMode::Off } else { ProgressMode::Auto }, ..Default::default() };
    let (report, dir) = block_on(async {
        let ask = || Handle::current().block_on(engine::preflight(&settings));
        let (store, only, ready) = tokio::task::block_in_place(|| open(&settings, &ask))?;
        let dir = store.dir().layout().root().to_owned();
        log_to(&store.dir().layout().logs())?;
        let (events, reporter) = Reporter::start(&watch, operation.events.as_deref()).map_err(CliError::failed)?;
        let notes = reporter.notes();
        let stop = stops(move |text| notes.print(text))?;
        notice(ready.notice());
        let report = engine::run(ready, store, settings.clone(), only, emit(events), stop).await.map_err(|failure| stopped(&failure));
        reporter.finish().await;
        Ok::<_, CliError>((report?, dir))
    })??;
    print(&render::summary(&report.summary))?;
    print(&render::endpoints(&report.endpoints))?;
    if !report.budget.is_empty() {
        print(&format!("budget: {}\n", report.budget))?;
    }
    match report.end {
        End::Done => {
            if settings.seal.at_end {
                print(&format!("\n{}", seal::at_end(&dir, &settings.seal, Counter::from(settings.tokens), operation.quiet)?))?;
            }
            print(&format!("\nnext: sweroll tokens {}\n", dir.display()))
        }
        End::Drained(reason) => {
            eprintln!(
                "sweroll: stopped: {reason}\nsweroll: {} episodes are outstanding; the same command resumes",
                report.summary.episodes.outstanding
            );
            Ok(Exit::Unfinished)
        }
        End::Killed => {
            eprintln!("sweroll: killed; the same command resumes");
            Ok(Exit::Killed)
        }
    }
}

fn stopped(failure: &Failure) -> CliError {
    let exit = if matches!(failure.kind, Kind::RunDir) { Exit::Failed } else { Exit::Unfinished };
    CliError { exit, message: failure.to_string() }
}

/// The first Ctrl-C (or SIGTERM) drains, the second kills.
pub fn stops(say: impl Fn(&str) + Send + 'static) -> Result<mpsc::Receiver<Stop>, CliError> {
    let broken = |e| CliError::failed(format!("no signal handler: {e}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
    let (sender, receiver) = mpsc::channel(2);
    tokio::spawn(async move {
        for stop in [Some(Stop::Drain), Some(Stop::Kill), None] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            // A third time while sandboxes are being removed: they go by themselves once this process is dead.
            let Some(stop) = stop else { std::process::exit(Exit::Killed as i32) };
            if stop == Stop::Drain {
                say("sweroll: finishing what is at work; once more stops at once");
            }
            if sender.send(stop).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Logs go to a file of the run; `SWEROLL_LOG` sets the level as `tracing` filters are written.
pub fn log_to(dir: &Path) -> Result<(), CliError> {
    let path = dir.join("engine.log");
    let open = || -> std::io::Result<File> {
        fs::create_dir_all(dir)?;
        File::options().create(true).append(true).open(&path)
    };
    let file = open().map_err(|e| CliError::failed(format!("{}: {e}: the log cannot be written", path.display())))?;
    let filter = tracing_subscriber::EnvFilter::try_from_env("SWEROLL_LOG").unwrap_or_else(|_| "info,hyper=warn,bollard=warn".into());
    // One that is set already stays.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .log_internal_errors(false)
        .with_writer(Mutex::new(file))
        .try_init();
    Ok(())
}
