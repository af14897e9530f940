//! Server-sent events out of bytes that are cut anywhere. What hosts get wrong is understood as it was meant.

use memchr::memchr2;

/// What a line, or several, came to.
#[derive(Debug, PartialEq)]
pub enum Event<'a> {
    /// `: keep-alive`
    Comment,
    Data(&'a [u8]),
    /// The data of an `event: error`.
    Error(&'a [u8]),
    /// `data: [DONE]`
    Done,
    /// A line of a body that is no stream but one JSON object.
    Whole(&'a [u8]),
}

/// The state between two pieces.
#[derive(Debug, Default)]
pub struct Events {
    /// The beginning of a line.
    line: Vec<u8>,
    /// The data of an event whose blank line has not come.
    data: Vec<u8>,
    names_error: bool,
    after_cr: bool,
    form: Form,
}

#[derive(Debug, Default, PartialEq)]
enum Form {
    #[default]
    Unknown,
    Stream,
    Whole,
}

const MARK: &[u8] = b"\xef\xbb\xbf";

impl Events {
    /// Takes the next bytes and tells `on` of each event.
    pub fn push(&mut self, mut bytes: &[u8], on: &mut impl FnMut(Event<'_>)) {
        if self.after_cr && !bytes.is_empty() {
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            self.after_cr = false;
        }
        while let Some(at) = memchr2(b'\n', b'\r', bytes) {
            let (line, rest) = (&bytes[..at], &bytes[at + 1..]);
            if self.line.is_empty() {
                self.take(line, on);
            } else {
                self.line.extend_from_slice(line);
                self.take_held(on);
            }
            self.after_cr = bytes[at] == b'\r' && rest.is_empty();
            bytes = if bytes[at] == b'\r' { rest.strip_prefix(b"\n").unwrap_or(rest) } else { rest };
        }
        self.line.extend_from_slice(bytes);
    }

    /// The last line and event, where the host left out what ends them.
    pub fn end(&mut self, on: &mut impl FnMut(Event<'_>)) {
        self.take_held(on);
        self.dispatch(on);
    }

    /// Bytes kept for what has not ended.
    pub fn held(&self) -> usize {
        self.line.len() + self.data.len()
    }

    /// A body that is no stream has begun.
    pub fn begins_whole(&self) -> bool {
        self.form == Form::Unknown && self.line.first() == Some(&b'{')
    }

    fn take_held(&mut self, on: &mut impl FnMut(Event<'_>)) {
        let mut line = std::mem::take(&mut self.line);
        self.take(&line, on);
        line.clear();
        self.line = line;
    }

    fn take(&mut self, line: &[u8], on: &mut impl FnMut(Event<'_>)) {
        if self.form == Form::Unknown {
            let text = line.strip_prefix(MARK).unwrap_or(line).trim_ascii_start();
            match text.first() {
                None => return,
                Some(b':') => return on(Event::Comment),
                Some(b'{') => self.form = Form::Whole,
                Some(_) => {
                    self.form = Form::Stream;
                    return self.field(text, on);
                }
            }
        }
        if self.form == Form::Whole { on(Event::Whole(line)) } else { self.field(line, on) }
    }

    fn field(&mut self, line: &[u8], on: &mut impl FnMut(Event<'_>)) {
        if line.is_empty() {
            self.dispatch(on);
        } else if line[0] == b':' {
            on(Event::Comment);
        } else if let Some(value) = line.strip_prefix(b"data:") {
            let value = value.trim_ascii();
            if value == b"[DONE]" {
                self.dispatch(on);
                return on(Event::Done);
            }
            if !self.data.is_empty() {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(value);
        } else if let Some(value) = line.strip_prefix(b"event:") {
            self.names_error = value.trim_ascii() == b"error";
        }
    }

    fn dispatch(&mut self, on: &mut impl FnMut(Event<'_>)) {
        let names_error = std::mem::take(&mut self.names_error);
        if !self.data.is_empty() {
            on(if names_error { Event::Error(&self.data) } else { Event::Data(&self.data) });
            self.data.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(pieces: &[&[u8]]) -> Vec<String> {
        let (mut events, mut all) = (Events::default(), Vec::new());
        let mut on = |event: Event<'_>| {
            let (name, data) = match event {
                Event::Comment => ("comment", &b""[..]),
                Event::Data(data) => ("data", data),
                Event::Error(data) => ("error", data),
                Event::Done => ("done", &b""[..]),
                Event::Whole(line) => ("whole", line),
            };
            all.push(format!("{name} {}", String::from_utf8_lossy(data)).trim_end().to_owned());
        };
        pieces.iter().for_each(|piece| events.push(piece, &mut on));
        events.end(&mut on);
        all
    }

    #[test]
    fn lines_end_in_three_ways_and_pieces_anywhere() {
        for end in ["\n", "\r\n", "\r"] {
            let text = "\u{feff}: hi|id: 7|data: é1|data:2||retry: 9|data|event: error|data: x||data: 3|data: [DONE]||".replace('|', end);
            let expected = ["comment", "data é1\n2", "error x", "data 3", "done"];
            assert_eq!(heard(&[text.as_bytes()]), expected, "{end:?}");
            for at in 0..text.len() {
                let (a, b) = text.as_bytes().split_at(at);
                assert_eq!(heard(&[a, b]), expected, "{end:?} cut at {at}");
            }
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(heard(&bytes), expected, "{end:?} byte by byte");
        }
    }

    #[test]
    fn what_ends_without_its_blank_line_is_still_told() {
        assert_eq!(heard(&[b"data: 1\n\ndata: 2"]), ["data 1", "data 2"]);
        assert_eq!(heard(&[b"event: error\n\ndata: 2\n"]), ["data 2"], "a name goes with its own event");
        assert_eq!(heard(&[b"", b"\n\n"]), [""; 0]);
    }

    #[test]
    fn a_body_that_is_no_stream_is_told_by_its_lines() {
        assert_eq!(
            heard(&[b"\n: keep-alive\n\n", b"{\"a\":\r", b"\n\n data: 1}"]),
            ["comment", "whole {\"a\":", "whole", "whole  data: 1}"]
        );
    }
}
