//! `sweroll images pull`.

use crate::cli::{CliError, Exit, Format, Outcome, block_on, print};
use crate::domain::Kind;
use crate::images::daemon::Daemon;
use crate::images::pull::{Pulled, pull, registries};
use crate::images::{ImageError, Settings, Store};
use clap::{Args as ClapArgs, ValueEnum};
use futures_util::{StreamExt, stream};
use serde::Serialize;

/// Of what is printed with `--format json`.
const SCHEMA_VERSION: u32 = 1;

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "One line an image, in the order in which they come. With --format json an image that could not be had has a line too, \
with kind: image_missing (for good), image_pull (another time may do), no_space.

Example:
  sweroll images pull debian:12 ghcr.io/owner/name@sha256:...
  sweroll images pull --from registry --set 'images.pull.mirrors={\"docker.io\"=[\"mirror.example.com\"]}' debian:12"
)]
pub struct Args {
    /// Names of images, as for Docker
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Where to look, in this order
    #[arg(long, value_enum, value_name = "PLACES", default_value = "docker,registry", value_delimiter = ',', env = "SWEROLL_PULL_FROM")]
    from: Vec<Place>,
    #[arg(long, value_enum, default_value = "table", env = "SWEROLL_FORMAT", help_heading = "Output")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Place {
    /// The local Docker daemon, where one answers and has the image
    Docker,
    /// The registry that the name tells, or its mirrors
    Registry,
}

#[derive(Serialize)]
struct Line<'a> {
    schema_version: u32,
    name: &'a str,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum What<'a> {
    Here { id: &'a str, digest: &'a str, bytes: u64, layers_fetched: usize, layers_present: usize },
    Failed { kind: Kind, message: &'a str },
}

pub fn run(args: &Args, settings: &Settings) -> Outcome {
    let store = Store::open(settings).map_err(CliError::failed)?;
    block_on(take(args, settings, &store))?
}

async fn take(args: &Args, settings: &Settings, store: &Store) -> Outcome {
    let mut left = args.names.clone();
    let mut failed = Vec::new();
    for (n, place) in args.from.iter().enumerate() {
        let is_last = n + 1 == args.from.len();
        let mut outcomes = match place {
            Place::Docker => from_docker(store, std::mem::take(&mut left)).await,
            Place::Registry => from_registries(store, settings, std::mem::take(&mut left))?,
        };
        while let Some((name, outcome)) = outcomes.next().await {
            match outcome {
                Ok(pulled) => tell(args, &name, Ok(&pulled))?,
                // A full disk is as full for the next place.
                Err(error) if is_last || error.kind == Kind::NoSpace => {
                    tell(args, &name, Err(&error))?;
                    failed.push(name);
                }
                Err(error) => {
                    if !matches!(error.kind, Kind::ImageMissing | Kind::Daemon) {
                        eprintln!("sweroll: {error}");
                    }
                    left.push(name);
                }
            }
        }
    }
    match failed.len() {
        0 => Ok(Exit::Done),
        n => Err(CliError::failed(format!("{n} of {} images could not be had: {}", args.names.len(), failed.join(", ")))),
    }
}

type Outcomes<'a> = stream::BoxStream<'a, (String, Result<Pulled, ImageError>)>;

async fn from_docker(store: &Store, names: Vec<String>) -> Outcomes<'static> {
    let outcomes = match Daemon::connect().await {
        Ok(daemon) => daemon.import(store, &names).await,
        Err(absent) => {
            names.into_iter().map(|name| (name, Err(ImageError { kind: absent.kind, message: absent.message.clone() }))).collect()
        }
    };
    stream::iter(outcomes).boxed()
}

fn from_registries<'a>(store: &'a Store, settings: &Settings, names: Vec<String>) -> Result<Outcomes<'a>, CliError> {
    let registries = registries(store, &settings.pull).map_err(CliError::failed)?;
    let pulls = stream::iter(names).map(move |name| {
        let registries = registries.clone();
        async move {
            let outcome = pull(store, &registries, &name).await;
            (name, outcome)
        }
    });
    Ok(pulls.buffer_unordered(settings.pull.in_flight.max(1)).boxed())
}

fn tell(args: &Args, name: &str, outcome: Result<&Pulled, &ImageError>) -> Result<(), CliError> {
    let what = match outcome {
        Ok(Pulled { image, layers_fetched, layers_present }) => What::Here {
            id: &image.id,
            digest: &image.digest,
            bytes: image.bytes,
            layers_fetched: *layers_fetched,
            layers_present: *layers_present,
        },
        // To whoever asks for images an absent daemon is one more way that did not lead to them.
        Err(error) => What::Failed { kind: if error.kind == Kind::Daemon { Kind::ImagePull } else { error.kind }, message: &error.message },
    };
    let line = match (args.format, &what) {
        (Format::Json, _) => json_line(&Line { schema_version: SCHEMA_VERSION, name, what }),
        (_, What::Here { id, layers_fetched, layers_present, .. }) => {
            format!("{name} {id} ({layers_fetched} layers fetched, {layers_present} present)\n")
        }
        (_, What::Failed { message, .. }) => {
            eprintln!("sweroll: {message}");
            return Ok(());
        }
    };
    print(&line).map(drop)
}

fn json_line(line: &Line<'_>) -> String {
    let mut text = serde_json::to_string(line).unwrap_or_else(|e| unreachable!("plain data with string keys: {e}"));
    text.push('\n');
    text
}
