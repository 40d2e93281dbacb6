//! HTTP/2's frames as they pass: which streams the peer reset, and whether it said GOAWAY (RFC 9113, sections 4.1, 6.4
//! and 6.8).

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const HEADER: usize = 9;
/// The flag of the last frame of a stream (RFC 9113, sections 6.1 and 6.2).
const END_STREAM: u8 = 1;

/// Of how many streams it is remembered that they have ended: a reset that is of no importance follows soon.
const REMEMBERED: usize = 1024;

/// What has passed on one connection.
#[derive(Debug, Default)]
pub struct Frames {
    /// The lowest last stream of all GOAWAYs; nothing above it was or will be done.
    pub goaway: Cell<Option<u32>>,
    /// GOAWAYs seen.
    pub goaways: Cell<u32>,
    /// Streams that were reset before they had ended.
    reset: RefCell<BTreeSet<u32>>,
    /// The last streams that have ended.
    ended: RefCell<BTreeSet<u32>>,
    parser: RefCell<Parser>,
}

#[derive(Debug, Default)]
struct Parser {
    /// The header and, of the frames that matter, the first bytes of the payload.
    head: Vec<u8>,
    /// Payload that is still to come and does not matter.
    skip: usize,
}

impl Frames {
    /// More bytes have come.
    pub fn read(&self, mut bytes: &[u8]) {
        let mut parser = self.parser.borrow_mut();
        while !bytes.is_empty() {
            if parser.skip > 0 {
                let skipped = parser.skip.min(bytes.len());
                parser.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let wanted = parser.wanted();
            let taken = (wanted - parser.head.len()).min(bytes.len());
            parser.head.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if parser.head.len() == parser.wanted() {
                self.frame(&parser.head);
                parser.skip = parser.payload() - (parser.head.len() - HEADER);
                parser.head.clear();
            }
        }
    }

    /// Whether the peer has reset a stream that it had not ended.
    #[must_use]
    pub fn was_reset(&self, stream: u32) -> bool {
        self.reset.borrow().contains(&stream)
    }

    fn frame(&self, head: &[u8]) {
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        if matches!(head[3], DATA | HEADERS) && head[4] & END_STREAM != 0 {
            let mut ended = self.ended.borrow_mut();
            ended.insert(stream);
            if ended.len() > REMEMBERED {
                ended.pop_first();
            }
        }
        if head[3] == RST_STREAM && !self.ended.borrow().contains(&stream) {
            self.reset.borrow_mut().insert(stream);
        }
        if head[3] == GOAWAY && head.len() == HEADER + 8 {
            let last = u32::from_be_bytes([head[9] & 0x7f, head[10], head[11], head[12]]);
            self.goaway.set(Some(self.goaway.get().map_or(last, |before| before.min(last))));
            self.goaways.set(self.goaways.get() + 1);
        }
    }
}

impl Parser {
    fn payload(&self) -> usize {
        match self.head[..] {
            [a, b, c, ..] => usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            _ => 0,
        }
    }

    /// How much of this frame is to be kept.
    fn wanted(&self) -> usize {
        let of_payload = match self.head.get(3) {
            Some(&GOAWAY) if self.head.len() >= HEADER => 8,
            _ => 0,
        };
        HEADER + of_payload.min(self.payload())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, 0];
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn goaways_are_seen_wherever_the_bytes_are_cut() {
        let goaway = |last: u32| [&last.to_be_bytes()[..], &[0; 4], b"bye"].concat();
        let all = [
            frame(4, 0, &[]),
            frame(0, 1, &[GOAWAY; 300]),
            frame(GOAWAY, 0, &goaway(0x7fff_ffff)),
            frame(RST_STREAM, 3, &[0, 0, 0, 7]),
            frame(GOAWAY, 0, &goaway(5)),
            frame(0, 1, &[1; 20]),
        ]
        .concat();
        for size in 1..all.len() {
            let frames = Frames::default();
            all.chunks(size).for_each(|part| frames.read(part));
            assert_eq!((frames.goaways.get(), frames.goaway.get()), (2, Some(5)), "pieces of {size}");
            assert_eq!([1, 3, 7].map(|stream| frames.was_reset(stream)), [false, true, false]);
        }
    }

    #[test]
    fn a_reset_behind_the_end_is_of_no_importance() {
        let frames = Frames::default();
        let flagged = |kind, stream| {
            let mut bytes = frame(kind, stream, b"x");
            bytes[4] = END_STREAM;
            bytes
        };
        for (kind, stream) in [(DATA, 1), (HEADERS, 3)] {
            frames.read(&flagged(kind, stream));
            frames.read(&frame(RST_STREAM, stream, &[0; 4]));
            assert!(!frames.was_reset(stream));
        }
        frames.read(&frame(DATA, 5, b"x"));
        frames.read(&frame(RST_STREAM, 5, &[0; 4]));
        assert!(frames.was_reset(5));
        (0..5000).for_each(|number| frames.read(&flagged(DATA, 2 * number + 7)));
        assert_eq!(frames.ended.borrow().len(), REMEMBERED);
    }

    #[test]
    fn a_frame_that_is_too_short_is_no_goaway() {
        let frames = Frames::default();
        frames.read(&frame(GOAWAY, 0, &[0; 4]));
        frames.read(&frame(GOAWAY, 0, &[]));
        assert_eq!(frames.goaways.get(), 0);
    }
}
