//! `sweroll endpoint`: a scripted model behind a real HTTP server.

use super::{CliError, Exit, Outcome, block_on, left_out, print};
use crate::{
    endpoint::server::{
        Fault, Play, Playbook, Script, Server, Settings,
        brownout::Brownout,
        queue::{MAX_SLOTS, Service},
        rate,
    },
    store::dataset,
};
use clap::Args as ClapArgs;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

const EXAMPLE: &str = "Example:
  sweroll endpoint --instances instances.jsonl --script gold --fault 429:0.1 --fault reset:0.02
  sweroll run --instances instances.jsonl --out runs/rehearsal --endpoint http://127.0.0.1:8080/v1 --model any

GET /stat tells requests, replies by status, connections, faults, and violations of the pairing of calls and results.";

#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Instances that will be asked about: .jsonl, .jsonl.zst, .jsonl.gz, .parquet, or a directory of such shards
    #[arg(long, value_name = "PATH", env = "SWEROLL_INSTANCES", help_heading = "Instances")]
    instances: PathBuf,
    #[command(flatten)]
    rows: Rows,
    /// gold makes the golden change, noop submits nothing, wander explores, hostile sends what no model should, steady runs a
    /// command a turn and reads no request
    #[arg(long, value_name = "SCRIPT", env = "SWEROLL_SCRIPT", help_heading = "Model")]
    script: Script,
    /// Turns that wander and steady take
    #[arg(long, value_name = "N", default_value_t = Settings::default().wander_turns, env = "SWEROLL_WANDER_TURNS", help_heading = "Model")]
    wander_turns: u64,
    /// Replies carry reasoning, as a thinking model's do
    #[arg(long, env = "SWEROLL_REASONING", help_heading = "Model")]
    reasoning: bool,
    /// Serve this model name only; without it any name is served
    #[arg(long, value_name = "NAME", env = "SWEROLL_SERVED_MODEL", help_heading = "Model")]
    serve_model: Option<String>,
    /// Ask for this key
    #[arg(long, value_name = "KEY", env = "SWEROLL_SERVED_KEY", hide_env_values = true, help_heading = "Model")]
    serve_key: Option<String>,
    /// Prompts over so many tokens are refused as too long for the context
    #[arg(long, value_name = "N", default_value_t = Settings::default().max_context_tokens, env = "SWEROLL_MAX_CONTEXT", help_heading = "Model")]
    max_context: u64,
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", env = "SWEROLL_LISTEN", help_heading = "Server")]
    listen: SocketAddr,
    /// Milliseconds before each reply
    #[arg(long, value_name = "N", default_value_t = 0, env = "SWEROLL_LATENCY_MS", help_heading = "Server")]
    latency_ms: u64,
    /// Sigma of that time, whose distribution is then log-normal; 0: always the same
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = positive, env = "SWEROLL_LATENCY_SIGMA", help_heading = "Server")]
    latency_sigma: f64,
    /// Milliseconds before each piece of a streamed reply
    #[arg(long, value_name = "N", default_value_t = 0, env = "SWEROLL_PIECE_MS", help_heading = "Server")]
    piece_ms: u64,
    /// A share of replies that fail: 429, 429-retry-after, 500, 503, reset, stall, truncated, length, overflow, garbage,
    /// stall-midway, cut-midway or error-in-stream, such as 429:0.1; repeatable
    #[arg(long, value_name = "KIND:RATE", env = "SWEROLL_FAULT", value_delimiter = ',', help_heading = "Server")]
    fault: Vec<Fault>,
    /// Decides which replies fail, and every choice of a script
    #[arg(long, value_name = "N", default_value_t = 0, env = "SWEROLL_SEED", help_heading = "Server")]
    seed: u64,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    service: ServiceArgs,
}

/// What is let in.
#[derive(Debug, ClapArgs)]
struct Limits {
    /// Requests a minute; those over it get a 429. 0: no limit
    #[arg(long, value_name = "N", default_value_t = 0, env = "SWEROLL_SERVED_RPM", help_heading = "Limits")]
    rpm: u64,
    /// Tokens a minute, of prompts and completions. 0: no limit
    #[arg(long, value_name = "N", default_value_t = 0, env = "SWEROLL_SERVED_TPM", help_heading = "Limits")]
    tpm: u64,
    /// Requests at once from a full bucket, and tokens in the same proportion. 0: what ten seconds earn
    #[arg(long, value_name = "N", default_value_t = 0, env = "SWEROLL_SERVED_BURST", help_heading = "Limits")]
    burst: u64,
    /// bucket refills all the time, fixed gives the whole allowance at the beginning of every minute
    #[arg(long, value_name = "KIND", default_value = "bucket", env = "SWEROLL_SERVED_WINDOW", help_heading = "Limits")]
    window: rate::Window,
    /// Requests in flight; those over it get a 429. 0: no limit
    #[arg(long, value_name = "N", default_value_t = 0, env = "SWEROLL_SERVED_IN_FLIGHT", help_heading = "Limits")]
    in_flight: u64,
    /// What a 429 tells: full (Retry-After and x-ratelimit-*), retry-after, or none
    #[arg(long, value_name = "WHAT", default_value = "full", env = "SWEROLL_SERVED_HINT", help_heading = "Limits")]
    hint: rate::Hint,
    /// A time at which the server is slow or refuses: seconds from its begin, seconds long, and a share of its speed, 429, 5xx or
    /// refuse (503), such as 600,60,0.1; repeatable
    #[arg(long, value_name = "AT,FOR,WHAT", env = "SWEROLL_BROWNOUT", value_delimiter = ';', help_heading = "Limits")]
    brownout: Vec<Brownout>,
}

/// The machine that serves.
#[derive(Debug, ClapArgs)]
struct ServiceArgs {
    /// Requests worked on at one time, the others wait. 0: no machine is modelled, and what follows means nothing
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_SLOTS)), env = "SWEROLL_SLOTS", help_heading = "Machine")]
    slots: u32,
    /// Prompt tokens a second, of all requests together
    #[arg(long, value_name = "N", default_value_t = Service::default().prefill_tokens_per_s, value_parser = positive, env = "SWEROLL_PREFILL", help_heading = "Machine")]
    prefill: f64,
    /// Completion tokens a second of a request that is alone
    #[arg(long, value_name = "N", default_value_t = Service::default().decode_tokens_per_s, value_parser = positive, env = "SWEROLL_DECODE", help_heading = "Machine")]
    decode: f64,
    /// How much longer a token takes with all slots at work: 1 is twice as long
    #[arg(long, value_name = "X", default_value_t = Service::default().decode_slowdown, value_parser = positive, env = "SWEROLL_DECODE_SLOWDOWN", help_heading = "Machine")]
    decode_slowdown: f64,
    /// Tokens of the prefix cache: a prompt whose beginning was served before prefills only what is new
    #[arg(long, value_name = "N", default_value_t = Service::default().cache_tokens, env = "SWEROLL_CACHE_TOKENS", help_heading = "Machine")]
    cache_tokens: u64,
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0).ok_or_else(|| format!("{text:?} is no number from 0 on"))
}

/// Which rows are taken, as `run` takes them.
#[derive(Debug, ClapArgs)]
struct Rows {
    /// Which split, where the directory holds more than one
    #[arg(long, value_name = "NAME", env = "SWEROLL_INSTANCES_SPLIT", help_heading = "Instances")]
    split: Option<String>,
    /// Only instances whose id matches this regular expression
    #[arg(long, value_name = "REGEX", env = "SWEROLL_FILTER", help_heading = "Instances")]
    filter: Option<String>,
    /// Only the first N instances, after the filter
    #[arg(long, value_name = "N", env = "SWEROLL_LIMIT", help_heading = "Instances")]
    limit: Option<u64>,
    /// Leave bad rows out, counted and named, instead of refusing the file
    #[arg(long, env = "SWEROLL_SKIP_BAD", help_heading = "Instances")]
    skip_bad: bool,
    /// Image of an instance whose row names none, as `run` takes it: the endpoint starts no image
    #[arg(long, value_name = "TEMPLATE", env = "SWEROLL_IMAGE_TEMPLATE", help_heading = "Instances")]
    image_template: Option<String>,
}

/// Lines on stderr about instances with the same problem statement.
const TWINS_SHOWN: usize = 20;

fn playbook(path: &Path, rows: &Rows) -> Result<Playbook, CliError> {
    let mut options = dataset::Options {
        split: rows.split.clone(),
        filter: rows.filter.clone(),
        limit: rows.limit,
        skip_bad: rows.skip_bad,
        ..Default::default()
    };
    options.image_template = rows.image_template.clone().unwrap_or(options.image_template);
    let mut plays = Vec::new();
    let take = &mut |instance| {
        plays.push(Play::new(&instance));
        Ok(())
    };
    let scan = dataset::scan(path, &options, take).map_err(CliError::usage)?;
    left_out(&scan.bad, scan.bad_total);
    let playbook = Playbook::of(plays);
    let twins = playbook.twins();
    for pair in twins.iter().take(TWINS_SHOWN) {
        eprintln!("sweroll: {pair}");
    }
    if let Some(more @ 1..) = twins.len().checked_sub(TWINS_SHOWN) {
        eprintln!("sweroll: and {more} more such pairs");
    }
    Ok(playbook)
}

/// Ctrl-C or SIGTERM, caught from the making on.
struct Stop(Signal, Signal);

impl Stop {
    fn new() -> std::io::Result<Self> {
        Ok(Stop(signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    }

    async fn asked(mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

pub fn run(args: Args) -> Outcome {
    let settings = Settings {
        script: args.script,
        latency_ms: args.latency_ms,
        piece_ms: args.piece_ms,
        latency_sigma: args.latency_sigma,
        faults: args.fault,
        seed: args.seed,
        model_name: args.serve_model,
        api_key: args.serve_key,
        max_context_tokens: args.max_context,
        wander_turns: args.wander_turns,
        reasoning: args.reasoning,
        limits: rate::Limits {
            requests_per_minute: args.limits.rpm,
            tokens_per_minute: args.limits.tpm,
            burst: args.limits.burst,
            window: args.limits.window,
            in_flight: args.limits.in_flight,
            hint: args.limits.hint,
        },
        service: Service {
            slots: args.service.slots,
            prefill_tokens_per_s: args.service.prefill,
            decode_tokens_per_s: args.service.decode,
            decode_slowdown: args.service.decode_slowdown,
            cache_tokens: args.service.cache_tokens,
        },
        brownouts: args.limits.brownout,
        ..Settings::default()
    };
    settings.check().map_err(CliError::usage)?;
    let playbook = playbook(&args.instances, &args.rows)?;
    block_on(async move {
        let server = Server::bind(args.listen, Arc::new(playbook), settings)
            .map_err(|e| CliError::failed(format!("cannot listen on {}: {e}: give another --listen", args.listen)))?;
        let stop = Stop::new().map_err(|e| CliError::failed(format!("no signal handler: {e}")))?;
        print(&format!("listening on http://{}/v1\n", server.addr()))?;
        server.serve(stop.asked()).await;
        Ok(Exit::Done)
    })?
}
