//! The members of a tar archive as layers have them: ustar, GNU and PAX. Reads no more into memory than [`MAX_EXTENSION`] at a time.
//!
//! The `tar` crate reads the headers; it is not its iterator, which takes extensions of any length and loses PAX values with a line
//! end in them.

use std::io::{self, BufReader, ErrorKind, Read};
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

/// Bytes of one extension: a long name, the PAX records of a member, the map of a sparse file.
pub const MAX_EXTENSION: u64 = 1 << 20;
const BLOCK: u64 = 512;

/// Bytes that can be left out faster than by reading them.
pub trait Source: Read {
    /// # Errors
    /// Where the source ends before.
    fn skip(&mut self, bytes: u64) -> io::Result<()>
    where
        Self: Sized,
    {
        let skipped = io::copy(&mut Read::take(&mut *self, bytes), &mut io::sink())?;
        if skipped == bytes { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }
}

impl Source for BufReader<std::fs::File> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.seek_relative(i64::try_from(bytes).map_err(|_| broken("a member is longer than any file"))?)
    }
}

/// Seconds since 1970 and nanoseconds.
pub type Mtime = (i64, u32);

#[derive(Debug)]
pub struct Member {
    /// As written: with leading slashes, dots, whatever.
    pub path: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    pub kind: EntryType,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: Mtime,
    /// Bytes of it in the archive.
    pub size: u64,
    /// Where they begin in the archive.
    pub offset: u64,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: Option<Sparse>,
}

/// A file with holes: where its bytes go, one piece after the other, and how long it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sparse {
    /// Offset and length, in ascending order.
    pub pieces: Vec<(u64, u64)>,
    pub size: u64,
}

/// The members one by one; reading from it gives the bytes of the one that came last.
#[derive(Debug)]
pub struct Members<R> {
    source: R,
    position: u64,
    /// Bytes of the present member that are not read yet.
    left: u64,
    padding: u64,
}

impl<R: Source> Members<R> {
    pub fn new(source: R) -> Self {
        Members { source, position: 0, left: 0, padding: 0 }
    }

    /// What is behind the archive's end, and in it of what has not been read.
    pub fn into_source(self) -> R {
        self.source
    }

    /// # Errors
    /// Where the archive is broken or cut.
    pub fn next(&mut self) -> io::Result<Option<Member>> {
        let (mut path, mut link, mut pax) = (None, None, Pax::default());
        loop {
            self.skip(self.left.saturating_add(self.padding))?;
            (self.left, self.padding) = (0, 0);
            let Some(header) = self.header()? else { return Ok(None) };
            let kind = header.entry_type();
            let extension = kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_local_extensions();
            let size = if extension { header.entry_size()? } else { pax.size.map_or_else(|| header.entry_size(), Ok)? };
            self.begin(size);
            match kind {
                EntryType::GNULongName => path = Some(until_nul(self.extension()?)),
                EntryType::GNULongLink => link = Some(until_nul(self.extension()?)),
                EntryType::XHeader => pax = Pax::read(&self.extension()?)?,
                // Comments of the archive; Docker leaves them out too.
                EntryType::XGlobalHeader => {}
                _ => return self.member(&header, path, link, pax).map(Some),
            }
        }
    }

    fn member(&mut self, header: &Header, path: Option<Vec<u8>>, link: Option<Vec<u8>>, pax: Pax) -> io::Result<Member> {
        let sparse = match (&pax.sparse, header.as_gnu()) {
            (Some(map), _) if map.in_data => Some(self.map_in_data(map.sparse.size)?),
            (Some(map), _) => Some(map.sparse.clone()),
            (None, Some(gnu)) if header.entry_type().is_gnu_sparse() => Some(self.gnu_map(gnu)?),
            _ => None,
        };
        if sparse.as_ref().is_some_and(|sparse| !sparse.holds(self.left)) {
            return Err(broken("the map of a sparse file does not fit its bytes"));
        }
        let old = header.as_old();
        Ok(Member {
            path: pax.sparse_name.or(pax.path).or(path).unwrap_or_else(|| header.path_bytes().into_owned()),
            link: pax.link.or(link).unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned()),
            kind: header.entry_type(),
            mode: blank_or(&old.mode, || header.mode())?,
            uid: pax.uid.map_or_else(|| blank_or(&old.uid, || header.uid()), Ok)?,
            gid: pax.gid.map_or_else(|| blank_or(&old.gid, || header.gid()), Ok)?,
            mtime: pax.mtime.map_or_else(|| blank_or(&old.mtime, || header.mtime()).map(|seconds| (seconds as i64, 0)), Ok)?,
            size: self.left,
            offset: self.position,
            xattrs: pax.xattrs,
            sparse,
        })
    }

    /// The next header; none at the archive's end, which is two blocks of zeros or, of a careless writer, its last byte.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header::new_old();
        let mut filled = 0;
        while filled < BLOCK as usize {
            match self.source.read(&mut header.as_mut_bytes()[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                n => filled += n,
            }
        }
        self.position += BLOCK;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let bytes = header.as_bytes();
        let sum = bytes[..148].iter().chain(&bytes[156..]).map(|byte| u32::from(*byte)).sum::<u32>() + 8 * u32::from(b' ');
        if header.cksum().ok() == Some(sum) { Ok(Some(header)) } else { Err(broken("a header's checksum is wrong")) }
    }

    fn begin(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK;
    }

    fn extension(&mut self) -> io::Result<Vec<u8>> {
        if self.left > MAX_EXTENSION {
            return Err(broken(format!("an extension header has {} bytes; {MAX_EXTENSION} are the most", self.left)));
        }
        let mut bytes = vec![0; self.left as usize];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// The old GNU map: in the header, continued in blocks before the bytes.
    fn gnu_map(&mut self, gnu: &tar::GnuHeader) -> io::Result<Sparse> {
        let mut sparse = Sparse { pieces: Vec::new(), size: gnu.real_size()? };
        let mut add = |pieces: &[GnuSparseHeader]| -> io::Result<()> {
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                sparse.pieces.push((piece.offset()?, piece.length()?));
            }
            bounded(sparse.pieces.len() as u64)
        };
        add(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            self.source.read_exact(block.as_mut_bytes())?;
            self.position += BLOCK;
            add(block.sparse())?;
            more = block.is_extended();
        }
        Ok(sparse)
    }

    /// The PAX map of version 1.0: decimal lines at the beginning of the bytes, filled up to a block.
    fn map_in_data(&mut self, size: u64) -> io::Result<Sparse> {
        let before = self.left;
        let line = |members: &mut Self| -> io::Result<u64> {
            let mut digits = Vec::new();
            loop {
                let mut byte = [0];
                members.read_exact(&mut byte)?;
                match byte[0] {
                    b'\n' => return number(&digits),
                    digit if digits.len() < 20 => digits.push(digit),
                    _ => return Err(broken("the map of a sparse file is none")),
                }
            }
        };
        let count = line(self)?;
        bounded(count)?;
        let pieces = (0..count).map(|_| Ok((line(self)?, line(self)?))).collect::<io::Result<_>>()?;
        let rest = (before - self.left).wrapping_neg() % BLOCK;
        self.skip(rest.min(self.left))?;
        self.left -= rest.min(self.left);
        Ok(Sparse { pieces, size })
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.position = self.position.checked_add(bytes).ok_or_else(|| broken("a member is longer than any file"))?;
        if bytes == 0 { Ok(()) } else { self.source.skip(bytes) }
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.source.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        self.position += read as u64;
        Ok(read)
    }
}

impl Sparse {
    /// Whether the pieces are in order, within the file, and together as long as the bytes there are.
    fn holds(&self, bytes: u64) -> bool {
        let mut end = 0u64;
        let mut sum = 0u64;
        for (offset, length) in &self.pieces {
            let Some(next) = offset.checked_add(*length).filter(|_| *offset >= end) else { return false };
            end = next;
            sum = sum.saturating_add(*length);
        }
        end <= self.size && sum == bytes
    }
}

/// What PAX records tell of the member behind them.
#[derive(Debug, Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Mtime>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: Option<PaxSparse>,
    sparse_name: Option<Vec<u8>>,
}

#[derive(Debug, Default)]
struct PaxSparse {
    sparse: Sparse,
    in_data: bool,
}

impl Pax {
    /// Records are `LENGTH KEY=VALUE\n`, the length counting all of it; a value may hold any byte.
    fn read(mut bytes: &[u8]) -> io::Result<Self> {
        let malformed = || broken("malformed PAX records");
        let mut pax = Pax::default();
        while !bytes.is_empty() {
            let space = bytes.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
            let length = number(&bytes[..space])? as usize;
            let record = bytes.get(space + 1..length).ok_or_else(malformed)?.strip_suffix(b"\n").ok_or_else(malformed)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
            pax.take(&record[..equals], &record[equals + 1..])?;
            bytes = &bytes[length..];
        }
        Ok(pax)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        if let Some(word) = key.strip_prefix(b"GNU.sparse.") {
            return self.take_sparse(word, value);
        }
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(number(value)?),
            b"gid" => self.gid = Some(number(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            _ => {}
        }
        Ok(())
    }

    /// GNU tar's versions 0.0 (`offset` and `numbytes` in turns), 0.1 (`map`) and 1.0 (the map is in the bytes).
    fn take_sparse(&mut self, word: &[u8], value: &[u8]) -> io::Result<()> {
        let map = self.sparse.get_or_insert_default();
        match word {
            b"name" => self.sparse_name = Some(value.to_vec()),
            b"major" => map.in_data = value == b"1",
            b"size" | b"realsize" => map.sparse.size = number(value)?,
            b"offset" => map.sparse.pieces.push((number(value)?, 0)),
            b"numbytes" => map.sparse.pieces.last_mut().ok_or_else(|| broken("a sparse piece has no offset"))?.1 = number(value)?,
            b"map" => {
                let numbers = value.split(|byte| *byte == b',').map(number).collect::<io::Result<Vec<_>>>()?;
                map.sparse.pieces = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
            }
            _ => {}
        }
        Ok(())
    }
}

/// A field that is not filled in says 0, as other readers take it.
fn blank_or<T: Default>(field: &[u8], read: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) { Ok(T::default()) } else { read() }
}

fn number(digits: &[u8]) -> io::Result<u64> {
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or_else(|| broken("a number is none"))
}

/// `SECONDS[.FRACTION]`, which may be before 1970.
fn time(text: &[u8]) -> io::Result<Mtime> {
    let wrong = || broken("a time is none");
    let text = std::str::from_utf8(text).map_err(|_| wrong())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| wrong())?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().map_err(|_| wrong())?;
    Ok(if whole.starts_with('-') && nanoseconds > 0 {
        (seconds.saturating_sub(1), 1_000_000_000 - nanoseconds)
    } else {
        (seconds, nanoseconds)
    })
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    bytes
}

fn bounded(pieces: u64) -> io::Result<()> {
    if pieces <= MAX_EXTENSION / 16 { Ok(()) } else { Err(broken(format!("a sparse file has more than {} pieces", MAX_EXTENSION / 16))) }
}

fn broken(what: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tar::Builder;

    impl Source for &[u8] {}

    /// One of each kind of extension.
    fn archive() -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(5);
        let map: &[u8] = b"0,2,4,3";
        let pax =
            [("path", &b"p"[..]), ("mtime", b"12.5"), ("GNU.sparse.map", map), ("GNU.sparse.size", b"9"), ("SCHILY.xattr.user.a", b"\n")];
        builder.append_pax_extensions(pax).unwrap();
        builder.append_data(&mut header, "x", &b"12345"[..]).unwrap();
        builder.append_data(&mut header, "long/".repeat(40) + "x", &b"12345"[..]).unwrap();
        builder.append_pax_extensions([("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.realsize", b"9")]).unwrap();
        header.set_size(512 + 3);
        let mut data = b"1\n6\n3\n".to_vec();
        data.resize(512, 0);
        builder.append_data(&mut header, "y", &[&data[..], b"end"].concat()[..]).unwrap();
        builder.into_inner().unwrap()
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<Member>> {
        let mut members = Members::new(bytes);
        let mut all = Vec::new();
        while let Some(member) = members.next()? {
            io::copy(&mut members, &mut io::sink())?;
            all.push(member);
        }
        Ok(all)
    }

    #[test]
    fn extensions_tell_of_the_member_behind_them() {
        let all = read(&archive()).unwrap();
        assert_eq!((&all[0].path[..], all[0].mtime, all[0].size), (&b"p"[..], (12, 500_000_000), 5));
        assert_eq!(all[0].sparse, Some(Sparse { pieces: vec![(0, 2), (4, 3)], size: 9 }));
        assert_eq!(all[0].xattrs, [(b"user.a".to_vec(), b"\n".to_vec())]);
        assert_eq!((all[1].path.len(), all[1].sparse.clone()), (201, None));
        assert_eq!((all[2].size, all[2].sparse.clone()), (3, Some(Sparse { pieces: vec![(6, 3)], size: 9 })));
    }

    proptest! {
        /// Whatever the bytes, reading ends, and never by a panic.
        #[test]
        fn a_changed_archive_is_read_or_refused(changes in prop::collection::vec((0usize..6000, any::<u8>()), 1..20), repair in any::<bool>()) {
            let mut bytes = archive();
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            if repair {
                // With good checksums the changes come further.
                for block in bytes.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
                    let mut header = Header::from_byte_slice(block).clone();
                    header.set_cksum();
                    block.copy_from_slice(header.as_bytes());
                }
            }
            let _ = read(&bytes);
        }
    }
}
