//! Standard input and output of an attached container as one stream.

use bollard::container::{AttachContainerResults, LogOutput};
use bytes::{Buf, Bytes};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Reads what the container's first process writes to its standard output; anything else that it writes is dropped.
pub struct Attached {
    streams: AttachContainerResults,
    chunk: Bytes,
}

impl Attached {
    #[must_use]
    pub fn new(streams: AttachContainerResults) -> Self {
        Attached { streams, chunk: Bytes::new() }
    }
}

impl AsyncRead for Attached {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.chunk.is_empty() {
            match ready!(self.streams.output.as_mut().poll_next(cx)) {
                Some(Ok(LogOutput::StdOut { message })) => self.chunk = message,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.chunk.len().min(buffer.remaining());
        buffer.put_slice(&self.chunk[..count]);
        self.chunk.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Attached {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.streams.input.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.streams.input.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.streams.input.as_mut().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn standard_output_alone_is_read_in_order() {
        let out = |text: &'static str| Ok(LogOutput::StdOut { message: Bytes::from_static(text.as_bytes()) });
        let noise = Ok(LogOutput::StdErr { message: Bytes::from_static(b"panicked") });
        let output = futures_util::stream::iter([out("ab"), noise, out(""), out("cdef")]);
        let mut attached = Attached::new(AttachContainerResults { output: Box::pin(output), input: Box::pin(tokio::io::sink()) });
        let mut first = [0; 3];
        attached.read_exact(&mut first).await.unwrap();
        let mut rest = String::new();
        attached.read_to_string(&mut rest).await.unwrap();
        assert_eq!((&first, rest.as_str()), (b"abc", "def"));
    }
}
