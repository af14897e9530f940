//! Bodies that flow: piece by piece, and those that break off.

use super::{pieces, reply};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Response,
    body::Frame,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue},
};
use serde_json::Value;
use std::{io, iter, time::Duration};
use tokio::time::sleep;

/// Time for the first part of a truncated body to leave before the connection is closed.
const TRUNCATE_PAUSE: Duration = Duration::from_millis(20);
/// Between two keep-alives of a stream that stalls.
const KEEP_ALIVE: Duration = Duration::from_millis(100);
const EVENTS: &str = "text/event-stream";

pub type Reply = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// The first half of `body` under the length of the whole, and the end of the connection after a pause.
pub fn truncated(body: &Value, pause: Duration) -> Reply {
    let body = Bytes::from(reply::encode(body));
    let half = body.slice(..body.len() / 2);
    let mut reply = flowing("application/json", vec![half].into_iter(), Duration::ZERO, Some(pause.max(TRUNCATE_PAUSE)));
    reply.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len() as u64));
    reply
}

/// How a stream ends.
pub enum Ending {
    Whole,
    Cut,
    Stall(Duration),
    Error,
}

/// The events, `piece` between them; without a good ending half of them.
pub fn streamed(events: &[Bytes], piece: Duration, ending: Ending) -> Reply {
    let half = events[..events.len() / 2].to_vec();
    match ending {
        Ending::Whole => flowing(EVENTS, events.to_vec().into_iter(), piece, None),
        Ending::Cut => flowing(EVENTS, half.into_iter(), piece, Some(TRUNCATE_PAUSE)),
        Ending::Error => flowing(EVENTS, half.into_iter().chain([pieces::error(broke_off())]), piece, None),
        Ending::Stall(stall) => {
            let comments = stall.as_millis().div_ceil(KEEP_ALIVE.as_millis()) as usize;
            let quiet = iter::repeat_n(pieces::KEEP_ALIVE, comments).map(|comment| (comment, KEEP_ALIVE));
            flow(EVENTS, half.into_iter().map(move |event| (event, piece)).chain(quiet), Some(TRUNCATE_PAUSE))
        }
    }
}

/// The error of a reply that was begun.
pub fn broke_off() -> Vec<u8> {
    reply::error("The server had an error while generating.", "server_error", None)
}

fn flowing(
    content_type: &'static str,
    parts: impl Iterator<Item = Bytes> + Send + 'static,
    every: Duration,
    cut: Option<Duration>,
) -> Reply {
    flow(content_type, parts.map(move |part| (part, every)), cut)
}

/// Parts, each after its pause; `cut`: after that time the connection breaks.
fn flow(content_type: &'static str, parts: impl Iterator<Item = (Bytes, Duration)> + Send + 'static, cut: Option<Duration>) -> Reply {
    let parts = stream::unfold(Some(parts), move |parts| async move {
        let mut parts = parts?;
        if let Some((part, pause)) = parts.next() {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            return Some((Ok(Frame::data(part)), Some(parts)));
        }
        sleep(cut?).await;
        Some((Err(io::Error::from(io::ErrorKind::BrokenPipe)), None))
    });
    let mut reply = Response::new(StreamBody::new(parts).boxed_unsync());
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}
