//! The engine's end of the stream: many calls in flight, matched to their replies by id.
//!
//! A task writes and a task reads, so that a call dropped half-way cannot cut a frame; its reply is read and dropped.
//! The stream closes when the last handle is gone.

use super::protocol::{self, Answer, Greeting, Op, OpError, Reply, Request};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicU64, atomic::Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

/// Frames queued for the writer; a call beyond them waits.
const QUEUE: usize = 16;
/// Keeps clock arithmetic in range whatever deadline was asked for.
const LONGEST_TURN: Duration = Duration::from_secs(365 * 86_400);

/// Why a call has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ToolboxError {
    /// The stream ended or broke: the sandbox is gone or its first process is.
    #[error("the sandbox's stream ended: {0}")]
    Lost(String),
    /// No reply within the operation's deadline and its grace.
    #[error("no reply from the toolbox within {0:?}")]
    Silent(Duration),
    #[error(transparent)]
    Op(#[from] OpError),
}

/// How long a reply may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Seconds past a command's own deadline.
    pub run_grace_s: u64,
    /// Seconds for snapshot, diff and apply, which touch every file.
    pub tree_timeout_s: u64,
    /// Seconds for every other operation.
    pub op_timeout_s: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { run_grace_s: 10, tree_timeout_s: 600, op_timeout_s: 120 }
    }
}

impl Settings {
    fn patience(&self, op: &Op) -> Duration {
        match op {
            Op::Run(run) => Duration::from_millis(run.deadline_ms).saturating_add(Duration::from_secs(self.run_grace_s)),
            Op::Snapshot { .. } | Op::Diff { .. } | Op::Apply { .. } => Duration::from_secs(self.tree_timeout_s),
            _ => Duration::from_secs(self.op_timeout_s),
        }
    }
}

type Outcome = Result<(Answer, Bytes), OpError>;

/// A call that waits for its reply. The session's turn is given back with the reply, not when the caller loses interest.
struct Pending {
    reply: oneshot::Sender<Outcome>,
    _turn: Option<OwnedMutexGuard<()>>,
}

/// What handles and tasks share.
struct Line {
    /// None once the stream is lost.
    pending: Mutex<Option<HashMap<u64, Pending>>>,
    lost: watch::Sender<Option<String>>,
}

impl Line {
    fn with_pending<T>(&self, act: impl FnOnce(&mut Option<HashMap<u64, Pending>>) -> T) -> T {
        act(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The first reason stays; every waiting call learns of it by its dropped sender.
    fn lose(&self, why: String) {
        self.lost.send_if_modified(|lost| {
            let first = lost.is_none();
            lost.get_or_insert(why);
            first
        });
        self.with_pending(Option::take);
    }

    fn why_lost(&self) -> ToolboxError {
        ToolboxError::Lost(self.lost.borrow().clone().unwrap_or_else(|| "closed".to_owned()))
    }
}

/// Lives as long as a handle does.
struct Handle {
    line: Arc<Line>,
    frames: mpsc::Sender<Vec<u8>>,
    next_id: AtomicU64,
    /// Commands of the session go out one by one, so that one's wait is not counted as its successor's.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// When the command that has the turn must have ended.
    turn_ends: Mutex<Instant>,
    settings: Settings,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Answers operations within this process, without a stream.
pub trait Direct: Send + Sync + 'static {
    /// # Errors
    /// What the operation says of itself.
    fn answer(&self, op: Op) -> BoxFuture<'_, Result<(Answer, Bytes), OpError>>;
}

#[derive(Clone)]
enum End {
    Stream(Arc<Handle>),
    Direct(Arc<dyn Direct>),
}

/// A handle to one toolbox; cheap to clone, calls may overlap.
#[derive(Clone)]
pub struct Toolbox {
    end: End,
}

impl std::fmt::Debug for Toolbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Toolbox");
        if let End::Stream(handle) = &self.end {
            shown.field("lost", &*handle.line.lost.borrow());
        }
        shown.finish_non_exhaustive()
    }
}

impl Toolbox {
    /// Waits for the greeting and checks its protocol.
    ///
    /// # Errors
    /// [`ToolboxError::Lost`] at end of stream, a foreign greeting or an unreadable frame; [`ToolboxError::Silent`] past `timeout`.
    pub async fn connect<S>(stream: S, timeout: Duration) -> Result<Self, ToolboxError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        Self::connect_with(stream, timeout, Settings::default()).await
    }

    /// [`Toolbox::connect`] with other bounds.
    ///
    /// # Errors
    /// As [`Toolbox::connect`].
    pub async fn connect_with<S>(stream: S, patience: Duration, settings: Settings) -> Result<Self, ToolboxError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (reader, writer) = tokio::io::split(stream);
        let mut reader = BufReader::with_capacity(16 << 10, reader);
        greeted(&mut reader, patience).await?;
        let line = Arc::new(Line { pending: Mutex::new(Some(HashMap::new())), lost: watch::Sender::new(None) });
        let (frames, queue) = mpsc::channel(QUEUE);
        let tasks = [tokio::spawn(write_frames(line.clone(), writer, queue)), tokio::spawn(read_replies(line.clone(), reader))];
        let handle = Handle {
            line,
            frames,
            next_id: AtomicU64::new(1),
            turn: Arc::default(),
            turn_ends: Mutex::new(Instant::now()),
            settings,
            tasks,
        };
        Ok(Toolbox { end: End::Stream(Arc::new(handle)) })
    }

    /// One whose other end is in this process.
    #[must_use]
    pub fn direct(other: Arc<dyn Direct>) -> Self {
        Toolbox { end: End::Direct(other) }
    }

    /// One operation. `Op::Run` waits for its own deadline and a grace, others for a fixed bound.
    ///
    /// # Errors
    /// See [`ToolboxError`].
    pub async fn call(&self, op: Op, blob: &[u8]) -> Result<(Answer, Bytes), ToolboxError> {
        let (name, began) = (op.name(), Instant::now());
        let result = match &self.end {
            End::Stream(handle) => handle.exchange(op, blob).await,
            End::Direct(other) => other.answer(op).await.map_err(ToolboxError::Op),
        };
        tracing::debug!(op = name, us = began.elapsed().as_micros() as u64, done = result.is_ok(), "toolbox");
        result
    }

    /// Resolves with the reason once the stream has ended.
    pub async fn closed(&self) -> String {
        let End::Stream(handle) = &self.end else { return std::future::pending().await };
        let mut lost = handle.line.lost.subscribe();
        match lost.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => String::new(),
        }
    }
}

impl Handle {
    async fn exchange(&self, op: Op, blob: &[u8]) -> Result<(Answer, Bytes), ToolboxError> {
        let patience = self.settings.patience(&op);
        let turn = match &op {
            Op::Run(run) if run.session => Some(self.session_turn(patience).await?),
            _ => None,
        };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = protocol::encode(&Request { id, op }, blob).map_err(|e| OpError::Invalid { message: e.to_string() })?;
        let (reply, answer) = oneshot::channel();
        let line = &self.line;
        line.with_pending(|pending| pending.as_mut().map(|calls| calls.insert(id, Pending { reply, _turn: turn })))
            .ok_or_else(|| line.why_lost())?;
        let exchange = async {
            self.frames.send(frame).await.map_err(|_| line.why_lost())?;
            answer.await.map_err(|_| line.why_lost())
        };
        match timeout(patience, exchange).await {
            Ok(outcome) => Ok(outcome??),
            Err(_) => {
                line.with_pending(|pending| pending.as_mut().map(|calls| calls.remove(&id)));
                Err(ToolboxError::Silent(patience))
            }
        }
    }

    async fn session_turn(&self, patience: Duration) -> Result<OwnedMutexGuard<()>, ToolboxError> {
        let ends = || *self.turn_ends.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lost = self.line.lost.subscribe();
        let mut lock = std::pin::pin!(self.turn.clone().lock_owned());
        loop {
            let until = ends().max(Instant::now());
            tokio::select! {
                _ = lost.wait_for(Option::is_some) => return Err(self.line.why_lost()),
                got = timeout_at(until, lock.as_mut()) => match got {
                    Ok(turn) => {
                        let mut ends = self.turn_ends.lock().unwrap_or_else(PoisonError::into_inner);
                        *ends = Instant::now() + patience.min(LONGEST_TURN);
                        return Ok(turn);
                    }
                    // The turn passed to another waiter meanwhile: its end is the one to wait for.
                    Err(_) if ends() > until => {}
                    Err(_) => return Err(ToolboxError::Silent(patience)),
                },
            }
        }
    }
}

async fn greeted<R: AsyncRead + Unpin>(reader: &mut R, patience: Duration) -> Result<(), ToolboxError> {
    let frame = timeout(patience, read_frame(reader)).await.map_err(|_| ToolboxError::Silent(patience))?;
    let (header, _) = frame.map_err(|e| ToolboxError::Lost(format!("before the greeting: {e}")))?;
    let greeting: Greeting =
        serde_json::from_slice(&header).map_err(|e| ToolboxError::Lost(format!("the first frame is not the toolbox's greeting: {e}")))?;
    if greeting.protocol != protocol::PROTOCOL {
        return Err(ToolboxError::Lost(format!(
            "the toolbox speaks protocol {} (version {}), this engine {}: start the same binary in the sandbox",
            greeting.protocol,
            greeting.version,
            protocol::PROTOCOL
        )));
    }
    Ok(())
}

async fn read_frame<R: AsyncRead + Unpin>(reader: &mut R) -> io::Result<(Vec<u8>, Bytes)> {
    let mut prefix = [0; 8];
    reader.read_exact(&mut prefix).await?;
    let (header_len, blob_len) = protocol::lengths(prefix)?;
    let mut header = vec![0; header_len];
    reader.read_exact(&mut header).await?;
    let mut blob = vec![0; blob_len];
    reader.read_exact(&mut blob).await?;
    Ok((header, blob.into()))
}

async fn read_replies<R: AsyncRead + Unpin>(line: Arc<Line>, mut reader: R) {
    let why = loop {
        let (header, blob) = match read_frame(&mut reader).await {
            Ok(frame) => frame,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break "end of stream".to_owned(),
            Err(e) => break e.to_string(),
        };
        let reply: Reply = match serde_json::from_slice(&header) {
            Ok(reply) => reply,
            Err(e) => break format!("unreadable reply: {e}"),
        };
        let waiting = line.with_pending(|pending| pending.as_mut().and_then(|calls| calls.remove(&reply.id)));
        if let Some(call) = waiting {
            // A caller that lost interest is no error.
            let _ = call.reply.send(reply.result.map(|answer| (answer, blob)));
        }
    };
    line.lose(why);
}

async fn write_frames<W: AsyncWrite + Unpin>(line: Arc<Line>, mut writer: W, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        let written = async {
            writer.write_all(&frame).await?;
            writer.flush().await
        };
        if let Err(e) = written.await {
            line.lose(e.to_string());
            return;
        }
    }
}
