//! `sweroll merge`: many runs and sealed datasets as one sealed dataset.

use super::{
    CliError, Format, Outcome,
    counting::{Counts, counted_by, fill, settings_of},
    seal::{Meter, Sizes, refused, show, tell},
};
use crate::{
    domain::Trajectory,
    store::{
        CountedBy, Counting, Disk, RunDir,
        merge::{self, OnDuplicate},
        seal::Settings,
    },
    tokens,
};
use clap::Args as ClapArgs;
use std::path::PathBuf;

const EXAMPLE: &str = "Example:
  sweroll merge runs/first runs/second --out data/both
  sweroll merge runs/first runs/again --out data/ten-samples --on-duplicate renumber

Each DIR is a run, of which all that is committed is taken, or what `seal` or `merge` made of runs.";

#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Directories of runs or of sealed datasets
    #[arg(required = true, value_name = "DIR")]
    pub inputs: Vec<PathBuf>,
    /// Directory of the new dataset, absent or empty
    #[arg(long, value_name = "DIR", env = "SWEROLL_OUT", help_heading = "Output")]
    pub out: PathBuf,
    /// Episodes that more than one input has: refuse them; take those of the first or the last input in which they count; or
    /// renumber, which gives the samples of later inputs new numbers, so that two runs over the same instances become one with the
    /// samples of both
    #[arg(long, value_enum, value_name = "WHAT", default_value = "refuse", env = "SWEROLL_ON_DUPLICATE", help_heading = "Merging")]
    pub on_duplicate: Duplicates,
    /// Count records anew that were counted for another target, instead of refusing them
    #[arg(long, env = "SWEROLL_RECOUNT", help_heading = "Counting")]
    pub recount: bool,
    #[command(flatten)]
    pub counts: Counts,
    #[command(flatten)]
    pub sizes: Sizes,
    /// No progress on stderr
    #[arg(long, short, env = "SWEROLL_QUIET", help_heading = "Output")]
    pub quiet: bool,
    #[arg(long, value_enum, default_value = "table", env = "SWEROLL_FORMAT", help_heading = "Output")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Duplicates {
    Refuse,
    First,
    Last,
    Renumber,
}

impl From<Duplicates> for OnDuplicate {
    fn from(duplicates: Duplicates) -> Self {
        match duplicates {
            Duplicates::Refuse => OnDuplicate::Refuse,
            Duplicates::First => OnDuplicate::First,
            Duplicates::Last => OnDuplicate::Last,
            Duplicates::Renumber => OnDuplicate::Renumber,
        }
    }
}

pub fn run(args: &Args) -> Outcome {
    // A run that counts otherwise than the first is refused record by record.
    let base = args.inputs.iter().find(|input| RunDir::exists(input)).map_or(Ok(tokens::Settings::default()), |run| settings_of(run))?;
    let counter = args.counts.counter(base)?;
    let ours = counted_by(&counter);
    let count = |trajectory: &mut Trajectory| fill(&counter, trajectory);
    let by = if args.recount { ours.clone() } else { agreed(args, &ours)? };
    // Another's counts are kept as they are, and what is not counted stays so.
    let count: Option<&(dyn Fn(&mut Trajectory) + Sync)> = if by == ours { Some(&count) } else { None };
    let counting = Counting { by, count, recount: args.recount };
    let settings = args.sizes.over(&Settings::default());
    let mut meter = Meter::new(args.quiet);
    let merged = merge::merge(&args.inputs, &args.out, args.on_duplicate.into(), &settings, &counting, &Disk::default(), &mut |progress| {
        meter.show(progress)
    });
    drop(meter);
    let (report, merged) = merged.map_err(refused)?;
    tell(&args.out, &report);
    if merged.dropped > 0 {
        eprintln!("sweroll: {} records of duplicate episodes left out (--on-duplicate)", merged.dropped);
    }
    if merged.renumbered > 0 {
        eprintln!("sweroll: {} records have a new sample number (--on-duplicate renumber)", merged.renumbered);
    }
    show(&args.out, &report, args.format, Some((merged.dropped, merged.renumbered)))
}

/// What all inputs were counted for. A run is counted for what is asked for, or refused record by record.
fn agreed(args: &Args, ours: &CountedBy) -> Result<CountedBy, CliError> {
    let mut agreed = args.counts.are_asked().then(|| ours.clone());
    for input in &args.inputs {
        let by = merge::counted_by(input).map_err(CliError::usage)?.unwrap_or_else(|| ours.clone());
        match &agreed {
            Some(others) if *others != by => {
                let (dir, target, others) = (input.display(), &by.target, &others.target);
                let why = if *target == *others { "by another tokenizer or policy" } else { "for another target" };
                return Err(CliError::usage(format!(
                    "{dir} was counted {why} ({target}) than the rest ({others}): give --recount to count all for {}",
                    ours.target
                )));
            }
            _ => agreed = Some(by),
        }
    }
    Ok(agreed.unwrap_or_else(|| ours.clone()))
}
