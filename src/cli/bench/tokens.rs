//! `sweroll bench tokens`: how fast tokens are counted, beside Hugging Face's `tokenizers`.

use super::{Format, failed, place};
use crate::{
    bench::tokens,
    cli::{CliError, Exit, Outcome, print, render},
};
use clap::Args as ClapArgs;
use std::path::PathBuf;

const EXAMPLE: &str = "Example:
  python3 -m venv venv && venv/bin/pip install tokenizers
  sweroll bench tokens --python venv/bin/python --tokenizer qwen3/tokenizer.json

Of sweroll the whole process is timed: reading, decompressing, parsing, rendering, counting; of `tokenizers` the encoding alone, the
texts in memory. Exit code 1 where the ids are not the same.";

#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Megabytes of records that are counted
    #[arg(long, value_name = "MB", default_value_t = 150, value_parser = clap::value_parser!(u16).range(1..=2000), env = "SWEROLL_BENCH_MB", help_heading = "Files")]
    megabytes: u16,
    /// Threads that count, on both sides
    #[arg(long, value_name = "N", default_value_t = 2, env = "SWEROLL_THREADS", help_heading = "Counting")]
    threads: usize,
    #[command(flatten)]
    peer: Peer,
    #[arg(long, value_enum, default_value = "text", env = "SWEROLL_FORMAT", help_heading = "Output")]
    format: Format,
}

#[derive(Debug, Clone, ClapArgs)]
pub struct Peer {
    /// Python with Hugging Face's `tokenizers`, to compare with
    #[arg(long, value_name = "FILE", requires = "tokenizer", env = "SWEROLL_BENCH_PYTHON", help_heading = "Counting")]
    python: Option<PathBuf>,
    /// Qwen3's tokenizer.json, for it
    #[arg(long, value_name = "FILE", env = "SWEROLL_TOKENIZER", help_heading = "Counting")]
    tokenizer: Option<PathBuf>,
}

impl Peer {
    pub fn given(&self) -> Result<Option<tokens::Peer>, CliError> {
        let Peer { python: Some(python), tokenizer: Some(tokenizer) } = self.clone() else { return Ok(None) };
        if !tokenizer.is_file() {
            return Err(CliError::usage(format!("--tokenizer {}: there is no such file", tokenizer.display())));
        }
        Ok(Some(tokens::Peer { python, tokenizer }))
    }
}

pub fn run(args: &Args) -> Outcome {
    let place = place(None)?;
    let peer = args.peer.given()?;
    let report = tokens::measure(place.dir(), usize::from(args.megabytes), args.threads, peer.as_ref()).map_err(failed)?;
    match args.format {
        Format::Text => print(&text(&report))?,
        Format::Json => print(&render::json(&report))?,
    };
    let differ = report.peer.as_ref().is_some_and(|peer| !peer.ids_identical);
    Ok(if differ { Exit::Failed } else { Exit::Done })
}

fn text(report: &tokens::Report) -> String {
    let mut out = format!(
        "{} records, {:.1} MB of text, {} tokens, {} threads\nsweroll tokens      {:>8.2} s {:>8.2} Mtok/s\n",
        report.records,
        report.bytes as f64 / 1e6,
        render::grouped(report.tokens),
        report.threads,
        report.seconds,
        report.mtok_per_s
    );
    if let Some(peer) = &report.peer {
        let ids = if peer.ids_identical { "the same ids" } else { "OTHER IDS" };
        out.push_str(&format!(
            "tokenizers {:<8} {:>8.2} s {:>8.2} Mtok/s, {:.1} times slower, {ids}\n",
            peer.version, peer.seconds, peer.mtok_per_s, peer.slower
        ));
    }
    out
}
