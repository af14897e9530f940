//! The engine's own binary as what runs first in a sandbox: checked, and kept though the original be rebuilt in mid-run.

use super::elf;
use crate::domain::{Failure, Kind};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The running program, whatever has become of its path.
const SELF: &str = "/proc/self/exe";
const MEND: &str = "build it with `cargo build --release` in the repository, whose .cargo/config.toml links statically, \
    or with RUSTFLAGS='-C target-feature=+crt-static' and an explicit --target";

/// A copy of the program in the engine's private directory.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    architecture: &'static str,
}

impl Program {
    /// Copies `source`, or the running program, into `dir`.
    ///
    /// # Errors
    /// `SandboxStart` when it cannot be read, or could not run inside an arbitrary image.
    pub fn install(source: Option<&Path>, dir: &Path) -> Result<Self, Failure> {
        let source = source.unwrap_or(Path::new(SELF));
        let failed = |why: &dyn std::fmt::Display| {
            Failure::new(Kind::SandboxStart, format!("{} cannot be the sandboxes' first process: {why}; {MEND}", source.display()))
        };
        let head = head(source).map_err(|error| failed(&error))?;
        let architecture = elf::static_architecture(&head).map_err(|error| failed(&error))?;
        let path = dir.join("toolbox");
        fs::copy(source, &path).and_then(|_| fs::set_permissions(&path, Permissions::from_mode(0o555))).map_err(|error| failed(&error))?;
        Ok(Program { path, architecture })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// In Docker's spelling.
    #[must_use]
    pub fn architecture(&self) -> &'static str {
        self.architecture
    }

    /// A compressed archive that unpacks at `/` to the program at `target`. Reads and compresses: not for an async thread.
    ///
    /// # Errors
    /// Where the copy cannot be read.
    pub fn archive(&self, target: &str) -> io::Result<Bytes> {
        let program = fs::read(&self.path)?;
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o555);
        header.set_size(program.len() as u64);
        archive.append_data(&mut header, target.trim_start_matches('/'), program.as_slice())?;
        Ok(archive.into_inner()?.finish()?.into())
    }
}

/// As much of the file as its program headers can take: tens of megabytes need not be held to look at them.
fn head(path: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    fs::File::open(path)?.take(64 << 10).read_to_end(&mut head)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_refused_with_the_mend() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        let failure = Program::install(Some(&script), dir.path()).unwrap_err();
        assert_eq!(failure.kind, Kind::SandboxStart);
        assert!(failure.message.contains("cargo build --release"), "{failure}");
    }

    #[test]
    fn the_copy_and_its_archive_hold_the_program() {
        let dir = tempfile::tempdir().unwrap();
        let program = Program::install(None, dir.path()).unwrap();
        let bytes = fs::read(program.path()).unwrap();
        assert_eq!(fs::metadata(program.path()).unwrap().permissions().mode() & 0o777, 0o555);

        let archive = program.archive("/.sweroll/toolbox").unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&archive[..]));
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap(), Path::new(".sweroll/toolbox"));
        let mut inside = Vec::new();
        entry.read_to_end(&mut inside).unwrap();
        assert_eq!(inside, bytes);
    }
}
