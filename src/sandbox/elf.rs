//! Whether a program's bytes can be the first process of any image: linked statically, for a known architecture.

/// Why a program cannot run inside an arbitrary image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("it is no 64-bit little-endian ELF program")]
    NotElf,
    #[error("it is built for another architecture (ELF machine {0})")]
    Machine(u16),
    #[error("it is linked dynamically and would need the image's loader")]
    Dynamic,
    #[error("its program headers are cut short")]
    Truncated,
}

/// ELF machine numbers as Docker spells the architecture.
const MACHINES: [(u16, &str); 3] = [(62, "amd64"), (183, "arm64"), (243, "riscv64")];
const EXECUTABLE: [u16; 2] = [2, 3];
const PT_INTERP: u32 = 3;

/// The architecture, in Docker's spelling, of a static program.
///
/// # Errors
/// [`Unfit`] when the program needs a loader or is no program.
pub fn static_architecture(program: &[u8]) -> Result<&'static str, Unfit> {
    if program.get(..6) != Some(b"\x7fELF\x02\x01") || !half(program, 16).is_some_and(|kind| EXECUTABLE.contains(&kind)) {
        return Err(Unfit::NotElf);
    }
    let machine = half(program, 18).ok_or(Unfit::Truncated)?;
    let (_, name) = MACHINES.iter().find(|(number, _)| *number == machine).ok_or(Unfit::Machine(machine))?;
    if segments(program).ok_or(Unfit::Truncated)?.contains(&PT_INTERP) {
        return Err(Unfit::Dynamic);
    }
    Ok(name)
}

/// The type of each program header.
fn segments(program: &[u8]) -> Option<Vec<u32>> {
    let table = u64::from_le_bytes(program.get(32..40)?.try_into().ok()?);
    let (size, count) = (half(program, 54)?, half(program, 56)?);
    let kind = |index: u16| {
        let at = usize::try_from(table).ok()?.checked_add(usize::from(size) * usize::from(index))?;
        Some(u32::from_le_bytes(program.get(at..at.checked_add(4)?)?.try_into().ok()?))
    };
    (0..count).map(kind).collect()
}

fn half(program: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(program.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF header followed by one program header per type.
    fn program(machine: u16, segments: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[16..18].copy_from_slice(&3u16.to_le_bytes());
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32..40].copy_from_slice(&64u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&u16::try_from(segments.len()).unwrap().to_le_bytes());
        for kind in segments {
            bytes.extend(kind.to_le_bytes());
            bytes.extend([0; 52]);
        }
        bytes
    }

    #[test]
    fn an_interpreter_is_what_makes_a_program_unfit() {
        assert_eq!(static_architecture(&program(62, &[1, 2, 6])), Ok("amd64"));
        assert_eq!(static_architecture(&program(183, &[1])), Ok("arm64"));
        assert_eq!(static_architecture(&program(62, &[6, 3, 1])), Err(Unfit::Dynamic));
        assert_eq!(static_architecture(&program(8, &[1])), Err(Unfit::Machine(8)));
    }

    #[test]
    fn nothing_is_read_past_the_end() {
        let whole = program(62, &[1, 6]);
        for cut in 0..whole.len() {
            let _ = static_architecture(&whole[..cut]);
        }
        assert_eq!(static_architecture(&whole[..70]), Err(Unfit::Truncated));
        assert_eq!(static_architecture(b"#!/bin/sh\n"), Err(Unfit::NotElf));
        let mut wild = whole;
        wild[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(static_architecture(&wild), Err(Unfit::Truncated));
    }

    #[test]
    fn this_very_program_is_fit() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(static_architecture(&own), Ok(crate::images::architecture()));
    }
}
