//! `sweroll demo`: five tiny instances, one per outcome, through the real scheduler, HTTP, toolbox, grading and store.

use super::{CliError, Exit, Outcome, block_on, options::Operation, print, run, tokens};
use crate::{
    config::{Backend, Settings},
    domain::Instance,
    endpoint::server::{self, Fault, Playbook, Server},
    engine,
    store::{RunDir, dataset},
    tokens::Counter,
};
use clap::Args as ClapArgs;
use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    sync::Arc,
};

const INSTANCES: &str = include_str!("demo.jsonl");

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  sweroll demo\n  sweroll demo --out runs/demo && sweroll show runs/demo demo_greet@0")]
pub struct Args {
    /// Directory of the demo's run, made anew
    #[arg(long, value_name = "DIR", default_value = "runs/demo", env = "SWEROLL_DEMO_OUT", help_heading = "Output")]
    out: PathBuf,
}

pub fn run(args: &Args) -> Outcome {
    if !Command::new("git").arg("--version").output().is_ok_and(|o| o.status.success()) {
        return Err(CliError::failed("the demo's instances are git repositories: install git"));
    }
    renew(&args.out)?;
    let file = InstancesFile::create()?;
    let mut instances: Vec<Instance> = Vec::new();
    let take = &mut |instance| {
        instances.push(instance);
        Ok(())
    };
    dataset::scan(&file.0, &dataset::Options::default(), take).map_err(CliError::failed)?;
    print(&format!(
        "{} tiny instances, two samples each, against a scripted endpoint that fails now and then.\n\
         Their sandboxes show this machine's own programs, read-only; those of `sweroll run` show the instances' images.\n\n",
        instances.len()
    ))?;

    let server = rehearsal(instances)?;
    let mut settings = Settings::default();
    settings.instances.path.clone_from(&file.0);
    settings.instances.samples = 2;
    settings.endpoint.url = format!("http://{}/v1", server.1);
    settings.endpoint.model = "scripted-gold".to_owned();
    settings.sandbox.backend = match block_on(engine::check_native(&settings))? {
        Ok(()) => Backend::Native,
        Err(why) => {
            eprintln!("sweroll: {why}\nsweroll: the demo goes on in plain processes");
            Backend::Local
        }
    };
    settings.scheduler.concurrency = 4;
    // One of the instances has a test that hangs.
    settings.grading.tests_timeout_s = 3;
    let exit = run::execute(settings, &Operation::default(), |settings, ask| {
        let (opened, ready) = engine::open(&args.out, settings, ask).map_err(run::refused)?;
        Ok((opened.store, None, ready))
    })?;
    drop(server);
    if exit != Exit::Done {
        return Ok(exit);
    }

    let report = tokens::count(std::slice::from_ref(&args.out), &Counter::default(), 0)?;
    let dir = args.out.display();
    print(&format!(
        "\n{}\nRead one:       sweroll show {dir} demo_greet@0\nRerun failures: sweroll rerun {dir} --class grader --dry-run\nYour own:       sweroll run --help\n",
        tokens::table(&report)
    ))?;
    Ok(exit)
}

/// The instances as a file, which `run` takes; it goes with the value, since the run has its own copy.
struct InstancesFile(PathBuf);

impl InstancesFile {
    fn create() -> Result<Self, CliError> {
        let path = std::env::temp_dir().join(format!("sweroll-demo-{}.instances.jsonl", std::process::id()));
        let failed = |e: io::Error| CliError::failed(format!("{}: {e}: name a directory for temporary files in TMPDIR", path.display()));
        // Nobody's file is overwritten, and no link is followed.
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed)?;
        let created = InstancesFile(path.clone());
        file.write_all(INSTANCES.as_bytes()).map_err(failed)?;
        Ok(created)
    }
}

impl Drop for InstancesFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The demo's own earlier run may go; anything else may not.
fn renew(out: &std::path::Path) -> Result<(), CliError> {
    if !out.exists() {
        return Ok(());
    }
    let settings = crate::store::View::open(out).ok().and_then(|view| Settings::deserialize_table(view.info.settings).ok());
    let ours =
        settings.is_some_and(|s| s.endpoint.model == "scripted-gold" && matches!(s.sandbox.backend, Backend::Native | Backend::Local));
    if !ours {
        return Err(CliError::usage(format!("{} holds something else than an earlier demo: give another --out", out.display())));
    }
    // Not under the feet of a demo that is running.
    drop(RunDir::open(out).map_err(CliError::usage)?);
    fs::remove_dir_all(out).map_err(|e| CliError::failed(format!("{}: {e}", out.display())))
}

/// A real HTTP server on a thread of its own; it ends with the value.
fn rehearsal(instances: Vec<Instance>) -> Result<(tokio::sync::oneshot::Sender<()>, SocketAddr), CliError> {
    let fault = |text: &str| text.parse::<Fault>().map_err(CliError::failed);
    let settings = server::Settings {
        faults: vec![fault("429-retry-after:0.05")?, fault("500:0.05")?, fault("reset:0.05")?],
        latency_ms: 20,
        ..server::Settings::default()
    };
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let served = block_on(async move {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            match Server::bind(any, Arc::new(Playbook::new(instances)), settings) {
                Ok(server) => {
                    let _ = tell.send(Ok(server.addr()));
                    server.serve(async { drop(ended.await) }).await;
                }
                Err(e) => drop(tell.send(Err(CliError::failed(format!("no port for the scripted endpoint: {e}"))))),
            }
        });
        served.map(|()| Exit::Done)
    });
    let addr = told.recv().map_err(|_| CliError::failed("the scripted endpoint did not start"))??;
    Ok((end, addr))
}
