//! The engine's end of the stream: many calls in flight, matched to their replies by id.

use super::protocol::{Answer, Op, OpError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
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

/// A handle to one toolbox; cheap to clone, calls may overlap.
#[derive(Debug, Clone)]
pub struct Toolbox {}

impl Toolbox {
    /// Waits for the greeting and checks its protocol.
    ///
    /// # Errors
    /// [`ToolboxError::Lost`] at end of stream, a foreign greeting or an unreadable frame; [`ToolboxError::Silent`] past `timeout`.
    pub async fn connect<S>(_stream: S, _timeout: Duration) -> Result<Self, ToolboxError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        todo!()
    }

    /// One operation. `Op::Run` waits for its own deadline and a grace, others for a fixed bound.
    ///
    /// # Errors
    /// See [`ToolboxError`].
    pub async fn call(&self, _op: Op, _blob: &[u8]) -> Result<(Answer, bytes::Bytes), ToolboxError> {
        todo!()
    }
}
