//! `sweroll images import`.

use crate::cli::{CliError, Exit, Outcome, block_on, print};
use crate::images::daemon::Daemon;
use crate::images::files::{Files, Folder, Found, Packed};
use crate::images::{ImageError, Settings, Store, archive, directory, layout};
use clap::Args as ClapArgs;
use std::fmt::{Display, Write};
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, ClapArgs)]
#[command(after_help = "Prints a line for each image: its name, its id. Without a name in its source, and without --name, an image
is named by its id.

Example:
  sweroll images import --docker sdist/click:8.1.3
  docker save sdist/click:8.1.3 | sweroll images import -
  sweroll images import --rootfs /srv/debian --name debian:mine --env PATH=/usr/bin:/bin")]
pub struct Args {
    /// What `docker save` writes, or an OCI layout: an archive, compressed or not, or a directory; - is stdin
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<PathBuf>,
    /// Each SOURCE is the name of an image of the local Docker daemon
    #[arg(long, conflicts_with_all = ["rootfs", "name"], env = "SWEROLL_IMPORT_DOCKER", help_heading = "Image")]
    docker: bool,
    /// Each SOURCE is a root directory; sockets, devices and what is mounted below stay out
    #[arg(long, requires = "name", env = "SWEROLL_IMPORT_ROOTFS", help_heading = "Image")]
    rootfs: bool,
    /// The image's name, in place of those that its source tells; for one image
    #[arg(long, value_name = "NAME", env = "SWEROLL_IMAGE_NAME", help_heading = "Image")]
    name: Option<String>,
    /// A variable that the processes of a root directory begin with; repeatable
    #[arg(long, value_name = "NAME=VALUE", requires = "rootfs", env = "SWEROLL_IMAGE_ENV", help_heading = "Image")]
    env: Vec<String>,
    /// The user that the processes of a root directory begin as, USER[:GROUP], names or numbers [default: root]
    #[arg(long, value_name = "USER", requires = "rootfs", env = "SWEROLL_IMAGE_USER", help_heading = "Image")]
    user: Option<String>,
}

pub fn run(args: &Args, settings: &Settings) -> Outcome {
    if args.name.is_some() && args.sources.len() > 1 {
        return Err(CliError::usage("--name names one image, and there are several sources"));
    }
    let wrong = args.env.iter().find(|pair| pair.split_once('=').is_none_or(|(name, _)| name.is_empty()));
    if let Some(wrong) = wrong {
        return Err(CliError::usage(format!("--env {wrong}: give NAME=VALUE")));
    }
    let store = Store::open(settings).map_err(CliError::failed)?;
    if args.docker {
        return from_docker(&store, args);
    }
    for path in &args.sources {
        let failed = |error: &dyn Display| CliError::failed(format!("{}: {error}", path.display()));
        if args.rootfs {
            print(&rootfs(&store, path, args).map_err(|error| failed(&error))?)?;
            continue;
        }
        let files = open(path, &store, settings).map_err(|error| failed(&error))?;
        let found = images(&*files).map_err(|error| failed(&error))?;
        if args.name.is_some() && found.len() > 1 {
            return Err(CliError::usage(format!("{} has {} images: --name names one", path.display(), found.len())));
        }
        for image in &found {
            print(&add(&store, image, &*files, args.name.as_deref()).map_err(|error| failed(&error))?)?;
        }
    }
    Ok(Exit::Done)
}

fn from_docker(store: &Store, args: &Args) -> Outcome {
    let names: Vec<String> = args.sources.iter().map(|name| name.display().to_string()).collect();
    let outcomes =
        block_on(async { Ok::<_, ImageError>(Daemon::connect().await?.import(store, &names).await) })?.map_err(CliError::failed)?;
    let mut failed = 0;
    for (name, outcome) in outcomes {
        match outcome {
            Ok(pulled) => drop(print(&format!("{name} {}\n", pulled.image.id))?),
            Err(error) => {
                failed += 1;
                eprintln!("sweroll: {error}");
            }
        }
    }
    match failed {
        0 => Ok(Exit::Done),
        _ => Err(CliError::failed(format!("{failed} of {} images could not be imported", names.len()))),
    }
}

fn open(path: &Path, store: &Store, settings: &Settings) -> io::Result<Box<dyn Files>> {
    if path.is_dir() {
        return Ok(Box::new(Folder::open(path)?));
    }
    Ok(Box::new(Packed::open(path, || store.scratch().map(Path::to_owned), settings.unpack.layer_bytes)?))
}

/// What newer daemons save is an OCI layout too; the names are in Docker's own file.
fn images(files: &dyn Files) -> Result<Vec<Found>, ImageError> {
    if files.has(archive::MANIFEST) { archive::images(files) } else { layout::images(files) }
}

fn add(store: &Store, found: &Found, files: &dyn Files, name: Option<&str>) -> Result<String, ImageError> {
    let names = match name {
        Some(name) => vec![name.to_owned()],
        None if found.names.is_empty() => vec![found.id()],
        None => found.names.clone(),
    };
    let mut lines = String::new();
    for name in names {
        let image = store.add(&name, &found.offer, &|n| match found.layers.get(n) {
            Some(layer) => files.open(layer).map_err(|error| io::Error::new(error.kind(), format!("{layer}: {error}"))),
            None => Err(io::Error::other("its manifest has fewer layers than its configuration")),
        })?;
        let _ = writeln!(lines, "{name} {}", image.id);
    }
    Ok(lines)
}

fn rootfs(store: &Store, path: &Path, args: &Args) -> Result<String, ImageError> {
    let process = directory::Process { env: args.env.clone(), user: args.user.clone().unwrap_or_default() };
    let offer = directory::offer(path, &process)?;
    let name = args.name.as_deref().unwrap_or_default();
    let image = store.add(name, &offer, &|_| directory::open(path))?;
    Ok(format!("{name} {}\n", image.id))
}
