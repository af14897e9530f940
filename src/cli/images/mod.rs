//! `sweroll images`: the images of native sandboxes.

mod import;
mod keep;
mod pull;

use super::{CliError, Outcome};
use crate::config::Layer;
use crate::images::{Settings, userns};
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
    /// Settings file (TOML); its [images] counts here
    #[arg(long, value_name = "FILE", env = "SWEROLL_CONFIG", global = true, help_heading = "Settings")]
    config: Option<PathBuf>,
    /// One setting by its path, such as images.pull.tries=8 (docs/settings.md has them all); repeatable or parted by `;`, wins over all
    /// else
    #[arg(long = "set", value_name = "KEY=VALUE", env = "SWEROLL_SET", value_delimiter = ';', global = true, help_heading = "Settings")]
    set: Vec<String>,
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
    let settings = settings(args)?;
    if !matches!(args.command, Command::List(_)) {
        // A user other than root has more owners than one to give in a namespace only; there is one thread yet.
        userns::enter().map_err(CliError::failed)?;
    }
    match &args.command {
        Command::Pull(args) => pull::run(args, &settings),
        Command::Import(args) => import::run(args, &settings),
        Command::List(args) => keep::list(args, &settings),
        Command::Rm(args) => keep::rm(args, &settings),
        Command::Gc(args) => keep::gc(args, &settings),
    }
}

fn settings(args: &Args) -> Result<Settings, CliError> {
    let mut file = args.config.as_deref().map_or_else(|| Ok(Layer::default()), Layer::read).map_err(CliError::usage)?;
    let mut flags = Layer::default();
    flags.set("images.dir", args.store.as_ref().map(|dir| dir.display().to_string()));
    args.set.iter().try_for_each(|assignment| flags.assign(assignment)).map_err(CliError::usage)?;
    file.over(flags);
    Ok(file.settings().map_err(CliError::usage)?.images)
}
