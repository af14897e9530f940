//! Bytes in pages of their own. In the allocator's memory thousands of transcripts that come and go leave holes of as many sizes, through
//! which it then searches for tens of milliseconds.

use memmap2::{Advice, MmapMut};
use std::{
    fmt,
    io::{self, Write},
    ops::Deref,
};

/// Room from the first; beyond it the room is doubled. A page of it is in memory once it is written to.
pub const ROOM: usize = 256 << 10;

/// Grows at its end. When it goes, its memory is the kernel's again at once.
#[derive(Default)]
pub struct Pages {
    memory: Memory,
    len: usize,
}

enum Memory {
    Own(MmapMut),
    /// Where the kernel gives no more maps, of which a process has some 65,000.
    Heap(Box<[u8]>),
}

impl Memory {
    fn new(room: usize) -> Self {
        let Ok(map) = MmapMut::map_anon(room) else { return Memory::Heap(vec![0; room].into()) };
        // A huge page would be in memory whole, for one byte. Refused by kernels that have none.
        let _ = map.advise(Advice::NoHugePage);
        Memory::Own(map)
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Memory::Own(map) => map,
            Memory::Heap(bytes) => bytes,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Memory::Own(map) => map,
            Memory::Heap(bytes) => bytes,
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Memory::Heap(Box::default())
    }
}

impl Pages {
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub fn extend(&mut self, more: &[u8]) {
        let end = self.len + more.len();
        let room = self.memory.bytes().len();
        if end > room {
            let mut memory = Memory::new(end.max(2 * room).next_multiple_of(ROOM));
            memory.bytes_mut()[..self.len].copy_from_slice(self);
            self.memory = memory;
        }
        self.memory.bytes_mut()[self.len..end].copy_from_slice(more);
        self.len = end;
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory.bytes()[..self.len]
    }
}

impl Write for Pages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Clone for Pages {
    fn clone(&self) -> Self {
        let mut pages = Pages::default();
        if !self.is_empty() {
            pages.extend(self);
        }
        pages
    }
}

impl PartialEq for Pages {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Pages {}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_as_the_room_grows() {
        let mut pages = Pages::default();
        assert_eq!(pages.clone().len(), 0);
        let all: Vec<u8> = (0..3 * ROOM + 5).map(|n| n as u8).collect();
        for piece in all.chunks(1000) {
            pages.write_all(piece).unwrap();
        }
        assert!(*pages == all[..] && pages.clone() == pages);
        pages.truncate(7);
        pages.write_all(&all[7..9 * 1000]).unwrap();
        assert_eq!(*pages, all[..9000]);
        assert_eq!(pages.memory.bytes().len(), 4 * ROOM);
    }
}
