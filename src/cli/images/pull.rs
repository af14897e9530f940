//! `sweroll images pull`.

use crate::cli::Outcome;
use clap::Args as ClapArgs;

#[derive(Debug, ClapArgs)]
pub struct Args {}

pub fn run(_args: &Args, _settings: &crate::images::Settings) -> Outcome {
    todo!()
}
