//! What the engine and its launcher say to each other: one JSON text a datagram, over a socket pair of theirs.

use crate::images::Ids;
use crate::sandbox::Limits;
use crate::sandbox::native::Upper;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// Bytes of one text; below what a socket takes at once by default (212,992).
pub const MAX: usize = 192 << 10;

/// What holds for all sandboxes of a launcher; the first text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Setup {
    /// Where the layers' directories are.
    pub layers: PathBuf,
    /// Whose numbers the layers' files have; none before there are any.
    pub ids: Option<Ids>,
    pub first_id: u32,
    /// The engine's private directory.
    pub scratch: PathBuf,
    /// The program that serves in the sandboxes.
    pub toolbox: PathBuf,
    pub upper: Upper,
    pub upper_bytes: u64,
    pub upper_files: u64,
    pub tmp_bytes: u64,
    pub nofile: u64,
}

/// From the engine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Order {
    /// Comes with one end of the sandbox's stream.
    Start(Start),
    Kill {
        id: u64,
    },
    /// The upper of a sandbox that was to be kept is wanted no more.
    Forget {
        id: u64,
    },
}

/// One sandbox wanted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    pub id: u64,
    /// The lowest first; none: no image but the host's own system directories, with an empty working directory.
    pub layers: Option<Vec<String>>,
    /// Where processes begin, if it is there.
    pub workdir: String,
    pub env: Vec<(String, String)>,
    pub user: String,
    pub limits: Limits,
    /// Its upper stays after its end, until it is to be forgotten.
    pub keep: bool,
    /// The kept upper that lies over its layers.
    pub upon: Option<u64>,
}

/// From the launcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum News {
    /// It takes orders; in words, how limits are held and where uppers are.
    Ready { limits: String, upper: String },
    /// There will be no sandboxes, and why.
    Unable { message: String },
    /// It did not start, and nothing is left of it.
    Failed { id: u64, message: String, no_space: bool },
    /// It was reaped, and nothing is left of it.
    Ended { id: u64, code: i64, oom: bool },
}

/// # Errors
/// `WouldBlock` where the other end is slow and the socket does not block; `InvalidInput` for too long a text.
pub fn send<T: Serialize>(socket: impl AsFd, what: &T, descriptor: Option<&OwnedFd>) -> io::Result<()> {
    let text = serde_json::to_vec(what)?;
    if text.len() > MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} bytes for a sandbox's set-up, {MAX} at most", text.len())));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(AsFd::as_fd);
    if let Some(descriptor) = &descriptors {
        ancillary.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(descriptor)));
    }
    sendmsg(socket, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next text, none at the end.
///
/// # Errors
/// `WouldBlock` where there is none yet and the socket does not block; `InvalidData` for what is no such text.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let mut text = vec![0; MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptor = descriptors.flatten().last();
    Ok(Some((serde_json::from_slice(&text[..received.bytes])?, descriptor)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::io::{Read, Write};

    #[test]
    fn a_text_arrives_whole_with_its_descriptor_and_the_end_is_seen() {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let (mut stream, end) = std::os::unix::net::UnixStream::pair().unwrap();
        let start = Start {
            id: 7,
            layers: Some(vec!["a".into()]),
            workdir: "/".into(),
            env: Vec::new(),
            user: String::new(),
            limits: Limits::default(),
            keep: false,
            upon: None,
        };
        send(&ours, &Order::Start(start), Some(&OwnedFd::from(end))).unwrap();
        send(&ours, &Order::Kill { id: 7 }, None).unwrap();
        let Some((Order::Start(start), Some(end))) = receive(&theirs).unwrap() else { panic!() };
        assert_eq!(start.id, 7);
        std::os::unix::net::UnixStream::from(end).write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        assert!(matches!(receive(&theirs).unwrap(), Some((Order::Kill { id: 7 }, None))));
        drop(ours);
        assert!(receive::<Order>(&theirs).unwrap().is_none());
    }

    #[test]
    fn a_text_that_a_socket_would_not_take_is_refused() {
        let (ours, _theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let error = send(&ours, &"x".repeat(MAX), None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
