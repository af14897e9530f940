//! `sweroll images list`, `rm` and `gc`.

use crate::{cli::Outcome, images::Settings};
use clap::Args as ClapArgs;

#[derive(Debug, ClapArgs)]
pub struct ListArgs {}

#[derive(Debug, ClapArgs)]
pub struct RmArgs {}

#[derive(Debug, ClapArgs)]
pub struct GcArgs {}

pub fn list(_args: &ListArgs, _settings: &Settings) -> Outcome {
    todo!()
}

pub fn rm(_args: &RmArgs, _settings: &Settings) -> Outcome {
    todo!()
}

pub fn gc(_args: &GcArgs, _settings: &Settings) -> Outcome {
    todo!()
}
