//! What a file is, told by its first bytes.

use super::DatasetError;
use std::{fs::File, io::Read, path::Path};

pub(super) enum Head {
    Lines(Compression),
    Parquet,
}

pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

const HEAD_BYTES: u64 = 64;

/// Opens a file and tells what it is by its first bytes, which are given back: a pipe cannot be rewound.
pub(super) fn open(path: &Path) -> Result<(File, Vec<u8>, Head), DatasetError> {
    let cannot_open = |source| DatasetError::Open { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(cannot_open)?;
    let mut head = Vec::new();
    Read::by_ref(&mut file).take(HEAD_BYTES).read_to_end(&mut head).map_err(cannot_open)?;
    let wrong = |what, mend| Err(DatasetError::Format { path: path.to_owned(), what, mend });
    let kind = match head.as_slice() {
        [b'P', b'A', b'R', b'1', ..] => Head::Parquet,
        [b'P', b'A', b'R', b'E', ..] => return wrong("an encrypted Parquet file", "decrypt it"),
        [b'P', b'K', 3, 4, ..] => return wrong("a zip archive", "unpack it"),
        head if head.starts_with(b"version https://git-lfs") => {
            return wrong("a pointer of Git LFS", "fetch the file itself (git lfs pull)");
        }
        _ if path.extension().is_some_and(|e| e == "parquet") => return wrong("not the Parquet file that its name says", "fetch it again"),
        [0x1f, 0x8b, ..] => Head::Lines(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Head::Lines(Compression::Zstd),
        _ => Head::Lines(Compression::None),
    };
    Ok((file, head, kind))
}
