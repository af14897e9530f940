//! Local sandboxes in which one thing never comes to an end.

use futures_util::{FutureExt, future::BoxFuture};
use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use sweroll::{
    domain::Failure,
    sandbox::{Disk, Fate, FetchError, Fetched, Local, Provider, Purpose, Sandbox, Spec, local},
    toolbox::{
        client::{Toolbox, ToolboxError},
        protocol::{self, Greeting, Op, Reply, Request},
    },
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, split};

/// What hangs, the first time that it is asked of the victim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Fetch,
    Start(Purpose),
    /// The recording of the base tree, before the first prompt.
    Snapshot,
    /// A command of the model; the toolbox is silent from then on.
    Command,
    /// Likewise, and the backend does not say what became of it.
    CommandAndFate,
    /// The final diff.
    Diff,
    /// The counters after it.
    Usage,
    Destroy,
    /// The test process.
    Tests,
    /// The end of the grader's sandbox.
    Retire,
    /// What is left over at the end of the run.
    Sweep,
    /// A reply of the endpoint, whose socket stays open.
    Reply,
    /// The model's client itself.
    Client,
}

/// Name of the instance that it happens to, and of its image.
pub const VICTIM: &str = "victim";

/// Hangs once.
pub struct Wedge {
    place: Place,
    hit: AtomicBool,
}

impl Wedge {
    pub fn new(place: Place) -> Arc<Self> {
        Arc::new(Wedge { place, hit: AtomicBool::new(false) })
    }

    pub fn is_hit(&self) -> bool {
        self.hit.load(SeqCst)
    }

    /// Whether this is the place, for the first time.
    pub fn takes(&self, place: Place) -> bool {
        self.place == place && !self.hit.swap(true, SeqCst)
    }

    async fn hang_at(&self, place: Place) {
        if self.takes(place) {
            pending::<()>().await;
        }
    }

    fn takes_op(&self, op: &Op, purpose: Purpose) -> bool {
        match (op, purpose) {
            (Op::Snapshot { .. }, _) => self.takes(Place::Snapshot),
            (Op::Run(run), Purpose::Agent) if run.session => self.takes(Place::Command) || self.takes(Place::CommandAndFate),
            (Op::Diff { .. }, _) => self.takes(Place::Diff),
            (Op::Usage, Purpose::Agent) => self.takes(Place::Usage),
            (Op::Run(run), Purpose::Grade) if run.report_cap > 0 || !run.session && run.deadline_ms > 600_000 => self.takes(Place::Tests),
            _ => false,
        }
    }
}

pub struct Wedged {
    inner: Local,
    wedge: Arc<Wedge>,
    sweeps: AtomicBool,
}

impl Wedged {
    pub fn new(wedge: Arc<Wedge>) -> Self {
        let toolbox_path = Some(env!("CARGO_BIN_EXE_sweroll").into());
        let inner = Local::new(local::Settings { toolbox_path, ..local::Settings::default() });
        Wedged { inner, wedge, sweeps: AtomicBool::new(false) }
    }
}

impl Provider for Wedged {
    fn check(&self) -> BoxFuture<'_, Result<(), Failure>> {
        self.inner.check()
    }

    fn missing<'a>(&'a self, images: &'a [String]) -> BoxFuture<'a, Result<Vec<String>, Failure>> {
        async { Ok(if self.wedge.place == Place::Fetch { images.to_vec() } else { Vec::new() }) }.boxed()
    }

    fn fetch<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<Fetched, FetchError>> {
        async move {
            if image == VICTIM {
                self.wedge.hang_at(Place::Fetch).await;
            }
            Ok(Fetched { bytes: 1, pulled: true })
        }
        .boxed()
    }

    fn disk(&self) -> BoxFuture<'_, Option<Disk>> {
        async { None }.boxed()
    }

    fn start<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Box<dyn Sandbox>, Failure>> {
        async move {
            if spec.image != VICTIM {
                return self.inner.start(spec).await;
            }
            self.wedge.hang_at(Place::Start(spec.purpose)).await;
            let inner: Arc<dyn Sandbox> = self.inner.start(spec).await?.into();
            let (ours, theirs) = tokio::io::duplex(1 << 20);
            tokio::spawn(relay(theirs, Arc::clone(&inner), Arc::clone(&self.wedge), spec.purpose));
            let toolbox = Toolbox::connect_with(ours, Duration::from_secs(9), spec.limits.toolbox).await;
            let toolbox = toolbox.expect("the relay greets");
            Ok(Box::new(Relayed { inner, toolbox, wedge: Arc::clone(&self.wedge), purpose: spec.purpose }) as Box<dyn Sandbox>)
        }
        .boxed()
    }

    fn sweep<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<usize, Failure>> {
        async {
            // The first is before the run.
            if self.sweeps.swap(true, SeqCst) {
                self.wedge.hang_at(Place::Sweep).await;
            }
            Ok(0)
        }
        .boxed()
    }
}

struct Relayed {
    inner: Arc<dyn Sandbox>,
    toolbox: Toolbox,
    wedge: Arc<Wedge>,
    purpose: Purpose,
}

impl Sandbox for Relayed {
    fn toolbox(&self) -> &Toolbox {
        &self.toolbox
    }

    fn workdir(&self) -> &str {
        self.inner.workdir()
    }

    fn image_digest(&self) -> &str {
        self.inner.image_digest()
    }

    fn fate(&self) -> BoxFuture<'_, Fate> {
        async {
            if self.wedge.place == Place::CommandAndFate {
                pending::<()>().await;
            }
            Fate::default()
        }
        .boxed()
    }

    /// The process ends with the last handle.
    fn destroy(self: Box<Self>) -> BoxFuture<'static, Result<(), Failure>> {
        async move {
            self.wedge.hang_at(if self.purpose == Purpose::Agent { Place::Destroy } else { Place::Retire }).await;
            Ok(())
        }
        .boxed()
    }
}

/// Hands operations on to the sandbox's own toolbox, one by one, until one hangs.
async fn relay(stream: DuplexStream, sandbox: Arc<dyn Sandbox>, wedge: Arc<Wedge>, purpose: Purpose) {
    let (mut reader, mut writer) = split(stream);
    let greeting = Greeting { protocol: protocol::PROTOCOL, version: String::new() };
    writer.write_all(&protocol::encode(&greeting, &[]).unwrap()).await.unwrap();
    while let Some((Request { id, op }, blob)) = next(&mut reader).await {
        if wedge.takes_op(&op, purpose) {
            pending::<()>().await;
        }
        let (result, blob) = match sandbox.toolbox().call(op, &blob).await {
            Ok((answer, blob)) => (Ok(answer), blob),
            Err(ToolboxError::Op(error)) => (Err(error), Default::default()),
            Err(_) => return,
        };
        if writer.write_all(&protocol::encode(&Reply { id, result }, &blob).unwrap()).await.is_err() {
            return;
        }
    }
}

async fn next(reader: &mut ReadHalf<DuplexStream>) -> Option<(Request, Vec<u8>)> {
    let mut prefix = [0; 8];
    reader.read_exact(&mut prefix).await.ok()?;
    let (header, blob) = protocol::lengths(prefix).unwrap();
    let (mut header, mut blob) = (vec![0; header], vec![0; blob]);
    reader.read_exact(&mut header).await.ok()?;
    reader.read_exact(&mut blob).await.ok()?;
    Some((serde_json::from_slice(&header).unwrap(), blob))
}
