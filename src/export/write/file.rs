//! A file that knows its length and checksum.

use sha2::{Digest, Sha256};
use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Write},
    path::Path,
};

pub struct Hashed {
    file: File,
    sha256: Sha256,
    bytes: u64,
}

impl Hashed {
    /// A new file.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Hashed { file: File::create_new(path)?, sha256: Sha256::new(), bytes: 0 })
    }

    /// Its length and checksum.
    pub fn finish(mut self) -> io::Result<(u64, String)> {
        self.file.flush()?;
        Ok((self.bytes, hex(&self.sha256.finalize())))
    }
}

impl Write for Hashed {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.file.write(data)?;
        self.sha256.update(&data[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Of all the bytes.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::with_capacity(2 * digest.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
