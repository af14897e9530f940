//! The few files of `/etc` that a sandbox needs or tells by; a hostile image may have anything in their place.

use rustix::fs::{FileType, Gid, Mode, OFlags, ResolveFlags, Uid, fchown, fstat, openat2};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\tsandbox\n";
/// Bytes that are read of an image's list of users or groups.
const MAX_LIST: u64 = 1 << 20;

/// Names that resolve to the loopback. What cannot be written is left as the image has it.
pub fn write(root: impl AsFd, owner: u32) {
    let _ = put(&root, "etc/hosts", HOSTS, owner);
    let _ = put(&root, "etc/hostname", "sandbox\n", owner);
}

/// For a root that has none of its own.
pub fn write_users(root: impl AsFd, owner: u32) -> io::Result<()> {
    put(&root, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n", owner)?;
    put(&root, "etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n", owner)
}

fn put(root: impl AsFd, path: &str, text: &str, owner: u32) -> io::Result<()> {
    // A fifo would keep a writer waiting, and a link may lead to the files of the kernel.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat2(root, path, flags, Mode::from_raw_mode(0o644), ResolveFlags::IN_ROOT | ResolveFlags::NO_XDEV)?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("no regular file"));
    }
    rustix::fs::ftruncate(&file, 0)?;
    fchown(&file, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?;
    File::from(file).write_all(text.as_bytes())
}

/// A list of users or groups, in the root that this process has by now; empty where there is none.
pub fn read(path: &str) -> String {
    let mut text = Vec::new();
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open(path, flags, Mode::empty())
        && fstat(&file).is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::RegularFile)
    {
        let _ = File::from(file).take(MAX_LIST).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}
