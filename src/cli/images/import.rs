//! `sweroll images import`.

use crate::cli::{CliError, Exit, Outcome, print};
use crate::images::files::{Files, Folder, Found, Packed};
use crate::images::{Settings, Store, archive, layout};
use clap::Args as ClapArgs;
use std::fmt::Write;
use std::path::{Path, PathBuf};

#[derive(Debug, ClapArgs)]
#[command(after_help = "Prints a line for each image: its name, its id.

Example:
  docker save sdist/click:8.1.3 | sweroll images import -")]
pub struct Args {
    /// What `docker save` writes, or an OCI layout: an archive, compressed or not, or a directory; - is stdin
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The image's name, where the source tells none or should be another; of a source with one image
    #[arg(long, value_name = "NAME", env = "SWEROLL_IMAGE_NAME", help_heading = "Image")]
    name: Option<String>,
}

pub fn run(args: &Args, settings: &Settings) -> Outcome {
    let store = Store::open(settings).map_err(CliError::failed)?;
    for path in &args.paths {
        let failed = |error: &dyn std::fmt::Display| CliError::failed(format!("{}: {error}", path.display()));
        let files = open(path, &store, settings).map_err(|error| failed(&error))?;
        let found = if archive::is_docker(&*files) { archive::images(&*files) } else { layout::images(&*files) };
        let found = found.map_err(|error| failed(&error))?;
        if args.name.is_some() && found.len() != 1 {
            return Err(CliError::usage(format!("{} has {} images: --name names one", path.display(), found.len())));
        }
        for image in &found {
            print(&add(&store, image, &*files, args.name.as_deref()).map_err(|error| failed(&error))?)?;
        }
    }
    Ok(Exit::Done)
}

fn open(path: &Path, store: &Store, settings: &Settings) -> std::io::Result<Box<dyn Files>> {
    if path.is_dir() {
        return Ok(Box::new(Folder::open(path)?));
    }
    Ok(Box::new(Packed::open(path, || store.scratch().map(Path::to_owned), settings.unpack.layer_bytes)?))
}

/// Adds an image by all its names; one without is named by its id.
fn add(store: &Store, found: &Found, files: &dyn Files, name: Option<&str>) -> Result<String, crate::images::ImageError> {
    let id = found.id();
    let names = match name {
        Some(name) => vec![name.to_owned()],
        None if found.names.is_empty() => vec![id],
        None => found.names.clone(),
    };
    let mut lines = String::new();
    for name in names {
        let image = store.add(&name, &found.offer, &|n| files.open(found.layers.get(n).map_or("", String::as_str)))?;
        let _ = writeln!(lines, "{name} {}", image.id);
    }
    Ok(lines)
}
