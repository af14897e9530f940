//! What a filter of system calls answers, found without making the call.

use seccompiler::sock_filter;

/// A call as a filter sees it, `struct seccomp_data`.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub number: u32,
    pub architecture: u32,
    pub arguments: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.architecture,
            // The instruction pointer.
            8 | 12 => 0,
            _ => (self.arguments[(offset as usize - 16) / 8] >> ((offset % 8) * 8)) as u32,
        }
    }
}

/// Runs the program of loads, jumps, masks and answers; `SECCOMP_RET_*` and its data.
pub fn answer(program: &[sock_filter], call: &Call) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let step = &program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
        match step.code {
            0x20 => accumulator = call.word(step.k),
            0x54 => accumulator &= step.k,
            0x05 => at += step.k as usize,
            0x15 => at += jump(accumulator == step.k),
            0x25 => at += jump(accumulator > step.k),
            0x35 => at += jump(accumulator >= step.k),
            0x45 => at += jump(accumulator & step.k != 0),
            0x06 => return step.k,
            0x16 => return accumulator,
            code => panic!("instruction {code:#x} at {at}"),
        }
    }
}
