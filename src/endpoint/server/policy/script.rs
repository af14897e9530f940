//! Shell commands that carry bytes exactly, whatever they are.

use crate::endpoint::server::{chance::Digest, toolset::quoted};
use flate2::{Compression, write::GzEncoder};
use std::io::Write;

/// Longest command, bytes: Linux takes 128 KiB in one argument.
const MAX_COMMAND: usize = 96 << 10;
/// Longest script sent as plain text, bytes.
const MAX_PLAIN: usize = 8 << 10;

/// The commands that run a POSIX shell script: the script itself where it is short and plain, else packed, in pieces.
#[must_use]
pub fn commands(script: &str) -> Vec<String> {
    let plain = script.bytes().all(|b| b == b'\n' || b == b'\t' || (b' '..=b'~').contains(&b));
    // What ends a value of an inline call must not be in it.
    if plain && script.len() <= MAX_PLAIN && !["</parameter", "</function", "<function="].iter().any(|tag| script.contains(tag)) {
        return vec![script.to_owned()];
    }
    let packed = base64(&gzip(script.as_bytes()));
    let file = format!("${{TMPDIR:-/tmp}}/golden-{:016x}", Digest::default().add(script).value());
    let mut pieces: Vec<_> = packed.as_bytes().chunks(MAX_COMMAND).map(|c| String::from_utf8_lossy(c).into_owned()).collect();
    let last = pieces.pop().unwrap_or_default();
    let put = |(at, piece): (usize, &String)| format!("printf %s {} {} {file}", quoted(piece), if at == 0 { ">" } else { ">>" });
    let mut commands: Vec<_> = pieces.iter().enumerate().map(put).collect();
    let run = format!("base64 -d < {file} | gzip -dc > {file}.sh && sh {file}.sh; rm -f {file} {file}.sh");
    commands.push(format!("{}\n{run}", put((pieces.len(), &last))));
    commands
}

/// A here-document with a delimiter that is no line of it.
#[must_use]
pub fn here(text: &str) -> String {
    let mut end = String::from("EOF");
    while text.lines().any(|line| line.trim_end_matches('\r') == end) {
        end.push('_');
    }
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    format!("<<'{end}'\n{text}{newline}{end}\n")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::best());
    // Writing to memory does not fail.
    let _ = packer.write_all(bytes);
    packer.finish().unwrap_or_default()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut three = [0; 4];
        three[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(three);
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at)) as usize & 63] as char;
            out.push(if at <= group.len() { digit } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_the_standard_one() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("\u{ff}?>", "w78/Pg==")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn a_here_document_ends_after_its_text() {
        assert_eq!(here("a\nEOF\n"), "<<'EOF_'\na\nEOF\nEOF_\n");
        assert_eq!(here("a"), "<<'EOF'\na\nEOF\n");
    }

    #[test]
    fn no_command_is_over_the_limit_of_one_argument() {
        assert_eq!(commands("true\n"), ["true\n"]);
        let mut rng = crate::endpoint::server::Rng::new(1);
        let noise: String = (0..200_000).map(|_| char::from(b'!' + rng.below(90) as u8)).collect();
        let commands = commands(&noise);
        assert!(commands.len() > 1 && commands.iter().all(|c| c.len() < 128 << 10), "{}", commands.len());
    }
}
