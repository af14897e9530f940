//! `--events FILE`: every event as one JSON line. `run_started` carries the version of the stream.

use crate::domain::event::Event;
use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

#[derive(Debug, thiserror::Error)]
#[error("cannot write events to {path}: {source}; name a file in a directory that exists and is writable")]
pub struct EventsFileError {
    path: PathBuf,
    source: io::Error,
}

/// Appends events to a file. After the first write that fails it keeps only a count of what is lost.
pub struct EventsFile {
    path: PathBuf,
    out: BufWriter<Box<dyn Write + Send>>,
    pub written: u64,
    /// Events that are not in the file, because the disk failed.
    pub lost: u64,
    failed: bool,
    buffered: u64,
}

impl EventsFile {
    /// Opens the file for appending, and creates it where it is not there.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn open(path: &Path) -> Result<Self, EventsFileError> {
        let error = |source| EventsFileError { path: path.to_owned(), source };
        let mut file = match OpenOptions::new().read(true).append(true).create(true).open(path) {
            // What can only be written, such as a pipe.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => OpenOptions::new().append(true).open(path),
            opened => opened,
        }
        .map_err(error)?;
        if is_torn(&mut file) {
            file.write_all(b"\n").map_err(error)?;
        }
        Ok(EventsFile::new(path.to_owned(), Box::new(file)))
    }

    fn new(path: PathBuf, out: Box<dyn Write + Send>) -> Self {
        EventsFile { path, out: BufWriter::with_capacity(1 << 16, out), written: 0, lost: 0, failed: false, buffered: 0 }
    }

    /// Takes the event; what to say of a disk that fails, once.
    pub fn write(&mut self, event: &Event) -> Option<String> {
        if self.failed {
            self.lost += 1;
            return None;
        }
        self.buffered += 1;
        let written = serde_json::to_writer(&mut self.out, event).map_err(io::Error::from).and_then(|()| self.out.write_all(b"\n"));
        self.check(written)
    }

    /// Brings all that was taken to the file.
    pub fn flush(&mut self) -> Option<String> {
        if self.failed || self.buffered == 0 {
            return None;
        }
        let flushed = self.out.flush();
        if flushed.is_ok() {
            self.written += std::mem::take(&mut self.buffered);
        }
        self.check(flushed)
    }

    fn check(&mut self, result: io::Result<()>) -> Option<String> {
        let error = result.err()?;
        self.failed = true;
        self.lost += std::mem::take(&mut self.buffered);
        Some(format!("events are no longer written to {}: {error}; the run goes on", self.path.display()))
    }
}

impl Drop for EventsFile {
    fn drop(&mut self) {
        if !self.failed {
            let _ = self.out.flush();
        }
    }
}

/// The file does not end with a whole line: an earlier run was killed while it wrote.
fn is_torn(file: &mut File) -> bool {
    let mut last = [b'\n'];
    file.seek(SeekFrom::End(-1)).is_ok() && file.read_exact(&mut last).is_ok() && last != [b'\n']
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::EventKind;

    fn event(at_ms: u64) -> Event {
        Event { at_ms, kind: EventKind::LimitChanged { in_flight: 3 } }
    }

    #[test]
    fn lines_are_appended_after_a_torn_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        std::fs::write(&path, "{\"torn").unwrap();
        let mut file = EventsFile::open(&path).unwrap();
        assert_eq!((file.write(&event(1)), file.write(&event(2)), file.flush()), (None, None, None));
        assert_eq!(file.written, 2);
        drop(file);
        EventsFile::open(&path).unwrap().write(&event(3));
        let line = |at| format!("{{\"at_ms\":{at},\"event\":\"limit_changed\",\"in_flight\":3}}\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{{\"torn\n{}{}{}", line(1), line(2), line(3)));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("no/events.jsonl")] {
            let error = EventsFile::open(&path).err().unwrap().to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
    }

    #[test]
    fn a_disk_that_fails_is_reported_once() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut file = EventsFile::new("e.jsonl".into(), Box::new(Full));
        assert_eq!((file.write(&event(1)), file.write(&event(2))), (None, None));
        assert!(file.flush().is_some_and(|note| note.contains("e.jsonl")));
        assert_eq!((file.write(&event(3)), file.flush()), (None, None));
        assert_eq!((file.written, file.lost), (0, 3));
    }
}
