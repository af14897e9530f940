//! `sweroll images`: the images of native sandboxes.

mod import;
mod keep;
mod pull;

use super::Outcome;
use clap::{Args as ClapArgs, Subcommand};
use std::path::PathBuf;

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  sweroll images import --docker sdist/click:8.1.3\n  sweroll images list")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// Directory of the image store [default: /var/lib/sweroll/images for root, else $XDG_DATA_HOME/sweroll/images]
    #[arg(long, value_name = "DIR", env = "SWEROLL_IMAGES", global = true, help_heading = "Store")]
    store: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch images from their registries
    Pull(pull::Args),
    /// Take images from an archive, an OCI layout, a Docker daemon or a directory
    Import(import::Args),
    /// Show the images, their layers and bytes
    List(keep::ListArgs),
    /// Forget images; their layers go when no other image has them
    Rm(keep::RmArgs),
    /// Remove layers that no image has, and what dead processes left
    Gc(keep::GcArgs),
}

pub fn run(args: &Args) -> Outcome {
    let settings = crate::images::Settings { dir: args.store.clone(), ..crate::images::Settings::default() };
    match &args.command {
        Command::Pull(args) => pull::run(args, &settings),
        Command::Import(args) => import::run(args, &settings),
        Command::List(args) => keep::list(args, &settings),
        Command::Rm(args) => keep::rm(args, &settings),
        Command::Gc(args) => keep::gc(args, &settings),
    }
}
