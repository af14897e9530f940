//! A filter program of little length and depth: a binary search among ranges of numbers with the same answer. Pure.

use libc::{BPF_ABS, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, EPERM, c_int, seccomp_data};
use seccompiler::{BpfProgram, SeccompAction, sock_filter};
use std::mem::offset_of;

/// What is answered to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Allow,
    Error(c_int),
    /// Allowed where the first argument is one of these, else `EPERM`.
    OneOf(Vec<u32>),
    /// Allowed where the low half of the first argument has none of these bits, else `EPERM`.
    Without(u32),
}

/// The program of this architecture for these numbers, ascending from 0; the last one's answer is that of all above it.
/// By another architecture's numbers the process is killed.
pub fn compile(architecture: u32, answers: impl Iterator<Item = (u32, Answer)>) -> BpfProgram {
    let mut ranges: Vec<(u32, Answer)> = answers.collect();
    ranges.dedup_by(|next, last| next.1 == last.1);
    let mut program = vec![
        load(offset_of!(seccomp_data, arch)),
        jump(BPF_JEQ, architecture, 1, 0),
        end(SeccompAction::KillProcess),
        load(offset_of!(seccomp_data, nr)),
    ];
    program.extend(search(&ranges));
    program
}

fn search(ranges: &[(u32, Answer)]) -> BpfProgram {
    match ranges {
        [] => Vec::new(),
        [(_, answer)] => answered(answer),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let (first, low) = (high[0].0, search(low));
            // The distance of an unconditional jump has 32 bits, of the others 8.
            let mut program = vec![jump(BPF_JGE, first, 0, 1), jump(BPF_JA, low.len() as u32, 0, 0)];
            program.extend(low);
            program.extend(search(high));
            program
        }
    }
}

fn answered(answer: &Answer) -> BpfProgram {
    const LOW: usize = offset_of!(seccomp_data, args);
    let (allow, refuse) = (end(SeccompAction::Allow), end(SeccompAction::Errno(EPERM as u32)));
    match answer {
        Answer::Allow => vec![allow],
        Answer::Error(errno) => vec![end(SeccompAction::Errno(*errno as u32))],
        Answer::Without(bits) => vec![load(LOW), jump(BPF_JSET, *bits, 0, 1), refuse, allow],
        Answer::OneOf(values) => {
            let count = values.len() as u8;
            let mut program = vec![load(LOW + size_of::<u32>()), jump(BPF_JEQ, 0, 0, count + 1), load(LOW)];
            program.extend((1..=count).zip(values).map(|(nth, &value)| jump(BPF_JEQ, value, count - nth + 1, 0)));
            program.extend([refuse, allow]);
            program
        }
    }
}

fn load(offset: usize) -> sock_filter {
    sock_filter { code: (BPF_LD | BPF_W | BPF_ABS) as u16, jt: 0, jf: 0, k: offset as u32 }
}

fn jump(kind: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | kind | BPF_K) as u16, jt, jf, k }
}

fn end(action: SeccompAction) -> sock_filter {
    sock_filter { code: (BPF_RET | BPF_K) as u16, jt: 0, jf: 0, k: action.into() }
}
