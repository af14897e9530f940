//! `sweroll images list`, `rm` and `gc`.

use crate::cli::{CliError, Exit, Format, Outcome, print, render};
use crate::images::keep::{Listed, Removed};
use crate::images::{ImageError, Settings, Store};
use clap::Args as ClapArgs;
use serde::Serialize;
use std::time::{Duration, SystemTime};

/// Of what these commands print with `--format json`.
const SCHEMA_VERSION: u32 = 1;
/// Digits of an id that are shown.
const ID_DIGITS: usize = 12;

#[derive(Debug, ClapArgs)]
#[command(after_help = "Bytes are those on the disk: own ones go with the image, shared ones are of layers that other images have too.

Example:
  sweroll images list --format json | jq -r '.images[] | select(.own_bytes > 1e9) | .name'")]
pub struct ListArgs {
    #[arg(long, value_enum, default_value = "table", env = "SWEROLL_FORMAT", help_heading = "Output")]
    format: Format,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "A sandbox that has the image keeps its files until it ends; then `gc` removes them.

Example:
  sweroll images rm sdist/click:8.1.3")]
pub struct RmArgs {
    /// Names, or ids with all their names
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[arg(long, value_enum, default_value = "table", env = "SWEROLL_FORMAT", help_heading = "Output")]
    format: Format,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:
  sweroll images gc --keep-bytes 200000000000")]
pub struct GcArgs {
    /// Also remove the images that were used least recently, until the layers have at most so many bytes; never one in use
    #[arg(long, value_name = "BYTES", env = "SWEROLL_KEEP_BYTES", help_heading = "Images")]
    keep_bytes: Option<u64>,
    /// Say what would go, and remove nothing
    #[arg(long, env = "SWEROLL_DRY_RUN", help_heading = "Images")]
    dry_run: bool,
    #[arg(long, value_enum, default_value = "table", env = "SWEROLL_FORMAT", help_heading = "Output")]
    format: Format,
}

#[derive(Serialize)]
struct Versioned<T> {
    schema_version: u32,
    #[serde(flatten)]
    content: T,
}

#[derive(Serialize)]
struct All {
    images: Vec<Listed>,
}

pub fn list(args: &ListArgs, settings: &Settings) -> Outcome {
    let images = Store::open(settings).and_then(|store| store.list()).map_err(CliError::failed)?;
    match args.format {
        Format::Json => print(&json(All { images })),
        Format::Table => print(&table(&images, SystemTime::now())),
    }
}

pub fn rm(args: &RmArgs, settings: &Settings) -> Outcome {
    tell(Store::open(settings).and_then(|store| store.forget(&args.names)), args.format, "removed")
}

pub fn gc(args: &GcArgs, settings: &Settings) -> Outcome {
    let store = Store::open(settings).map_err(CliError::failed)?;
    match args.dry_run {
        true => tell(store.collectable(args.keep_bytes), args.format, "would remove"),
        false => tell(store.collect(args.keep_bytes), args.format, "removed"),
    }
}

fn tell(removed: Result<Removed, ImageError>, format: Format, verb: &str) -> Outcome {
    let removed = removed.map_err(CliError::failed)?;
    if let Format::Json = format {
        return print(&json(removed));
    }
    let Removed { names, images, layers, bytes, leftovers } = &removed;
    let mut text: String = names.iter().map(|name| format!("{verb} {name}\n")).collect();
    text += &format!("{verb} {} images and {} layers, {} bytes", images.len(), layers, render::grouped(*bytes));
    if *leftovers > 0 {
        text += &format!(", and {leftovers} leftovers of dead processes");
    }
    text.push('\n');
    print(&text)?;
    Ok(Exit::Done)
}

fn table(images: &[Listed], now: SystemTime) -> String {
    let mut rows = vec![["name", "id", "layers", "own bytes", "shared bytes", "used"].map(str::to_owned).to_vec()];
    rows.extend(images.iter().map(|image| {
        let name = if image.name.is_empty() { "(no name, in use)" } else { &image.name };
        let id = image.id.trim_start_matches("sha256:").chars().take(ID_DIGITS).collect();
        let used = ago(now.duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs(image.used_at)).unwrap_or_default());
        vec![name.to_owned(), id, image.layers.to_string(), render::grouped(image.own_bytes), render::grouped(image.shared_bytes), used]
    }));
    render::table(&rows)
}

fn ago(time: Duration) -> String {
    match time.as_secs() {
        0..60 => "now".to_owned(),
        seconds @ 60..3600 => format!("{} min ago", seconds / 60),
        seconds @ 3600..172_800 => format!("{} h ago", seconds / 3600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}

fn json<T: Serialize>(content: T) -> String {
    render::json(&Versioned { schema_version: SCHEMA_VERSION, content })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_a_row() {
        let image = Listed {
            name: "a:1".to_owned(),
            id: format!("sha256:{}", "0123456789abcdef".repeat(4)),
            digest: String::new(),
            layers: 2,
            own_bytes: 4096,
            shared_bytes: 0,
            used_at: 1000,
        };
        let text = table(&[image], SystemTime::UNIX_EPOCH + Duration::from_secs(1000 + 7200));
        let row: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row, ["a:1", "0123456789ab", "2", "4,096", "0", "2", "h", "ago"]);
    }
}
