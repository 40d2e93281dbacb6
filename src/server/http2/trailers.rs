//! How many field lines a client's trailers have.
//!
//! A pseudo-header in trailers makes a request malformed (RFC 9113, sections 8.1 and 8.3), and h2 drops it without a
//! word. So the lines are counted as they come, which takes no knowledge of the compression's state, and compared with
//! what h2 hands over: where some are missing there was one.

use std::collections::VecDeque;

use super::meter::{CONTINUATION, END_HEADERS, Frame, HEADERS};

const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// Of so many streams the counts are kept until they are asked for. There are no more streams at once.
const MAX_KEPT: usize = 10_000;

/// The trailers that come on one connection.
#[derive(Debug)]
pub(super) struct Trailers {
    /// The longest that is read, in bytes.
    limit: usize,
    /// The highest stream that was opened: a head on another one is of trailers.
    highest: u32,
    /// What is being read.
    block: Option<Block>,
    /// Of which stream, and how many lines; `None` if that is not to be found out.
    counted: VecDeque<(u32, Option<usize>)>,
}

#[derive(Debug)]
struct Block {
    stream: u32,
    /// The frame that is under way, and what has come of it.
    frame: Frame,
    payload: Vec<u8>,
    fields: Vec<u8>,
}

impl Trailers {
    pub(super) fn new(limit: usize) -> Self {
        Trailers { limit, highest: 0, block: None, counted: VecDeque::new() }
    }

    /// A frame begins.
    pub(super) fn begin(&mut self, frame: Frame) {
        match frame.kind {
            HEADERS if frame.stream > self.highest => (self.highest, self.block) = (frame.stream, None),
            HEADERS => {
                let (payload, fields) = Default::default();
                self.block = Some(Block { stream: frame.stream, frame, payload, fields });
            }
            CONTINUATION if let Some(block) = &mut self.block => block.frame = frame,
            _ => self.block = None,
        }
    }

    /// A part of a frame's payload.
    pub(super) fn payload(&mut self, bytes: &[u8]) {
        if let Some(block) = &mut self.block
            && block.payload.len() + block.fields.len() <= self.limit
        {
            block.payload.extend_from_slice(bytes);
        }
    }

    /// A frame has come to its end.
    pub(super) fn end(&mut self) {
        let Some(block) = &mut self.block else { return };
        let payload = std::mem::take(&mut block.payload);
        // What is not in order is an error to h2, too.
        block.fields.extend_from_slice(fields(block.frame, &payload).unwrap_or_default());
        if block.frame.has(END_HEADERS) {
            let is_whole = block.fields.len() <= self.limit;
            let lines = if is_whole { lines(&block.fields) } else { None };
            self.counted.push_back((block.stream, lines));
            if self.counted.len() > MAX_KEPT {
                self.counted.pop_front();
            }
            self.block = None;
        }
    }

    /// Whether the trailers of this stream had so many field lines, and nothing else.
    pub(super) fn had(&mut self, stream: u32, lines: usize) -> bool {
        let place = self.counted.iter().position(|(of, _)| *of == stream);
        place.and_then(|place| self.counted.remove(place)) == Some((stream, Some(lines)))
    }
}

/// What a frame has of a field block (RFC 9113, section 6.2).
fn fields(frame: Frame, payload: &[u8]) -> Option<&[u8]> {
    if frame.kind == CONTINUATION {
        return Some(payload);
    }
    let (padding, payload) = match frame.has(PADDED) {
        true => payload.split_first().map(|(length, rest)| (usize::from(*length), rest))?,
        false => (0, payload),
    };
    let payload = if frame.has(PRIORITY) { payload.get(5..)? } else { payload };
    payload.get(..payload.len().checked_sub(padding)?)
}

/// Counts the lines of a field block (RFC 7541, section 6).
fn lines(mut block: &[u8]) -> Option<usize> {
    let mut lines = 0;
    while let Some(first) = block.first() {
        match *first {
            // Indexed.
            0x80.. => {
                integer(&mut block, 7)?;
            }
            // The size of the table: no line.
            0x20..0x40 => {
                integer(&mut block, 5)?;
                continue;
            }
            // Literal, by the length of its index.
            first => {
                let bits = if first < 0x20 { 4 } else { 6 };
                if integer(&mut block, bits)? == 0 {
                    skip_text(&mut block)?;
                }
                skip_text(&mut block)?;
            }
        }
        lines += 1;
    }
    Some(lines)
}

fn skip_text(block: &mut &[u8]) -> Option<()> {
    let length = integer(block, 7)?;
    *block = block.get(length..)?;
    Some(())
}

/// Takes an integer whose first byte has so many bits for it (RFC 7541, section 5.1).
fn integer(block: &mut &[u8], bits: u32) -> Option<usize> {
    let mut take = || {
        let (first, rest) = block.split_first()?;
        *block = rest;
        Some(*first)
    };
    let most = (1 << bits) - 1;
    let mut value = usize::from(take()?) & most;
    if value < most {
        return Some(value);
    }
    // Four more bytes are more than any length here.
    for shift in [0, 7, 14, 21] {
        let byte = take()?;
        value += usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_in_every_form() {
        let long = [&[0x40, 1, b'a', 0x7f, 0x80 + 1, 0][..], &[b'x'; 128]].concat();
        for (block, expected) in [
            (&b""[..], Some(0)),
            (&[0x82], Some(1)),
            (&[0x3f, 0xe1, 0x1f, 0x82], Some(1)),
            (&[0x82, 0xff, 0], Some(2)),
            (b"\x00\x05:path\x01/\x10\x01a\x01b", Some(2)),
            (b"\x04\x01/\x41\x01a\x7f\x00\x01b", Some(3)),
            (&long, Some(1)),
            (b"\x00\x05:path", None),
            (b"\x00\x05:path\x02/", None),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff], None),
        ] {
            assert_eq!(lines(block), expected, "{block:x?}");
        }
    }
}
