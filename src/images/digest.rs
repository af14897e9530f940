//! SHA-256 of what passes by.

use sha2::{Digest as _, Sha256};
use std::io::{self, Read};

/// `sha256:` and 64 digits.
#[must_use]
pub fn of(bytes: &[u8]) -> String {
    text(Sha256::digest(bytes).as_slice())
}

fn text(digest: &[u8]) -> String {
    digest.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// The 64 digits; none where it is no SHA-256.
#[must_use]
pub fn digits(digest: &str) -> Option<&str> {
    let digits = digest.strip_prefix("sha256:")?;
    (digits.len() == 64 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))).then_some(digits)
}

/// Reads, and keeps the digest of what was read.
#[derive(Debug)]
pub struct Digesting<R> {
    source: R,
    sum: Sha256,
}

impl<R> Digesting<R> {
    pub fn new(source: R) -> Self {
        Digesting { source, sum: Sha256::new() }
    }

    #[must_use]
    pub fn finish(self) -> String {
        text(self.sum.finalize().as_slice())
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.sum.update(&buffer[..read]);
        Ok(read)
    }
}
