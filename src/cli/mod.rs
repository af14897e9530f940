//! The command line: one file a command. The only module that prints.

mod bench;
mod counting;
mod demo;
mod endpoint;
mod export;
mod grade;
mod images;
mod merge;
mod options;
mod predictions;
mod regrade;
mod render;
mod rerun;
mod run;
mod seal;
mod show;
mod sources;
mod summary;
mod tokens;
mod validate;
mod verify;

use crate::store::dataset::BadRow;
use clap::{CommandFactory, Parser, Subcommand};
use std::{io::Write, process::ExitCode};

/// Exit codes, documented in the help and tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    /// The command failed; the message says where and how to mend it.
    Failed = 1,
    /// Wrong usage, bad settings or bad instances: nothing was begun.
    Usage = 2,
    /// The run stopped before it was done and can be resumed.
    Unfinished = 3,
    /// Killed by a second Ctrl-C; the run can be resumed.
    Killed = 130,
}

/// An error fit to be shown: what, where and the mend.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CliError {
    pub exit: Exit,
    pub message: String,
}

impl CliError {
    pub fn usage(message: impl ToString) -> Self {
        CliError { exit: Exit::Usage, message: message.to_string() }
    }

    pub fn failed(message: impl ToString) -> Self {
        CliError { exit: Exit::Failed, message: message.to_string() }
    }
}

type Outcome = Result<Exit, CliError>;

const AFTER: &str = "Exit codes: 0 done; 1 failed; 2 wrong usage, settings or instances (nothing was begun);
3 stopped before all was done (the run resumes when the command is repeated); 130 killed by a second Ctrl-C (likewise).

Try it without Docker, key or network:  sweroll demo";

/// Turns software-engineering instances into training data: agent episodes, graded, in zstd shards.
#[derive(Debug, Parser)]
#[command(name = "sweroll", version, after_help = AFTER, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Generate trajectories: every instance, every sample, graded and stored
    Run(Box<run::Args>),
    /// Run again the episodes of a run that are outstanding or failed
    Rerun(Box<rerun::Args>),
    /// Grade predictions that were made elsewhere
    Grade(Box<grade::Args>),
    /// Grade again what a run has graded, without agents, and say what differs
    Regrade(Box<regrade::Args>),
    /// Count the tokens of shards as the trainer will
    Tokens(tokens::Args),
    /// Make the dataset of a run that trainers load: few large frames, an index, a card
    Seal(seal::Args),
    /// Join runs and sealed datasets into one sealed dataset
    Merge(merge::Args),
    /// Say how a run stands, from its directory
    Summary(summary::Args),
    /// Prove that a run or a sealed dataset is whole and in order
    Verify(verify::Args),
    /// Write trajectories as a trainer reads them: selected, split, as lines or Parquet
    Export(Box<export::Args>),
    /// Say which instances hold: golden patches that pass, bases that fail, no flaky ids; without a model
    Validate(Box<validate::Args>),
    /// Keep the images of native sandboxes: fetch, import, list, remove
    Images(images::Args),
    /// Show one trajectory
    Show(show::Args),
    /// Serve a scripted OpenAI-compatible endpoint, to rehearse a run without paying
    Endpoint(endpoint::Args),
    /// Measure and simulate what sweroll itself costs
    Bench(bench::Args),
    /// See the whole of sweroll at work on tiny instances, with no Docker, key or network
    Demo(demo::Args),
    /// Print completions for a shell
    #[command(after_help = "Example:\n  sweroll completions bash > /etc/bash_completion.d/sweroll")]
    Completions { shell: clap_complete::Shell },
    /// Print the manual page, of sweroll or of one of its commands
    #[command(after_help = "Example:\n  sweroll man run > sweroll-run.1")]
    Man { command: Option<String> },
    /// The server inside a sandbox; started by sweroll itself
    #[command(hide = true)]
    Toolbox,
}

/// Runs the command of the process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    raise_open_files();
    let outcome = match Cli::parse().command {
        Command::Run(args) => run::run(*args),
        Command::Rerun(args) => rerun::run(*args),
        Command::Grade(args) => grade::run(&args),
        Command::Regrade(args) => regrade::run(&args),
        Command::Tokens(args) => tokens::run(&args),
        Command::Seal(args) => seal::run(&args),
        Command::Merge(args) => merge::run(&args),
        Command::Summary(args) => summary::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Export(args) => export::run(*args),
        Command::Validate(args) => validate::run(&args),
        Command::Images(args) => images::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Endpoint(args) => endpoint::run(args),
        Command::Bench(args) => bench::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "sweroll", &mut text);
            print(&String::from_utf8_lossy(&text))
        }
        Command::Man { command } => manual(command.as_deref()),
        Command::Toolbox => unreachable!("main hands `toolbox` over before the command line is parsed"),
    };
    match outcome {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) => {
            eprintln!("sweroll: {}", error.message);
            ExitCode::from(error.exit as u8)
        }
    }
}

/// Every sandbox and every request holds descriptors: take what the host allows.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Refused: the run goes on with what there is, and says so when it runs out.
    let _ = setrlimit(Resource::Nofile, limit);
}

fn manual(command: Option<&str>) -> Outcome {
    let mut page = Cli::command();
    page.build();
    if let Some(name) = command {
        let found = page.find_subcommand(name).filter(|c| !c.is_hide_set()).cloned();
        page = found.ok_or_else(|| CliError::usage(format!("there is no command {name}: `sweroll --help` lists them")))?;
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text).map_err(CliError::failed)?;
    print(&String::from_utf8_lossy(&text))
}

/// Results go to stdout; a reader that went away is no error.
fn print(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(CliError::failed(format!("standard output: {e}"))),
        _ => Ok(Exit::Done),
    }
}

/// Tells what is to be known of the sandboxes.
fn notice(text: Option<String>) {
    if let Some(text) = text {
        eprintln!("sweroll: {text}");
    }
}

/// Names the rows of a dataset that `--skip-bad` left out, and counts them all.
fn left_out(shown: &[BadRow], total: u64) {
    for bad in shown {
        eprintln!("sweroll: left out: {bad}");
    }
    if total > 0 {
        eprintln!("sweroll: {total} bad rows left out (--skip-bad)");
    }
}

/// A runtime for the commands that need one.
fn block_on<F: Future>(future: F) -> Result<F::Output, CliError> {
    let runtime = crate::engine::runtime().map_err(|e| CliError::failed(format!("no async runtime: {e}")))?;
    Ok(runtime.block_on(future))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}
