//! The bytes of bodies and messages: known at both ends from a seed and an offset, so that each can be judged.
//!
//! A fixed block of random bytes is repeated without end; a seed says where in it a body begins. The block's length is
//! a prime, so that a piece which is lost, doubled or moved does not look right unless it is moved by just that length.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

/// The length of the block that is repeated.
const BLOCK: usize = 65_521;

/// The block, twice, so that any piece of up to its length is there in one.
static BLOCKS: [u8; 2 * BLOCK] = blocks();

const fn blocks() -> [u8; 2 * BLOCK] {
    let mut bytes = [0; 2 * BLOCK];
    let mut state: u32 = 0x9e37_79b9;
    let mut at = 0;
    while at < BLOCK {
        // Marsaglia's xorshift with 32 bits: any bytes that do not repeat would do.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let byte = state.to_le_bytes()[1];
        bytes[at] = byte;
        bytes[at + BLOCK] = byte;
        at += 1;
    }
    bytes
}

/// Up to `length` bytes of the body of `seed`, from `offset` on; fewer if that is more than a block.
#[must_use]
pub fn piece(seed: u64, offset: u64, length: usize) -> &'static [u8] {
    let block = BLOCK as u64;
    let begin = usize::try_from((seed % block + offset % block) % block).unwrap_or(0);
    &BLOCKS[begin..begin + length.min(BLOCK)]
}

/// Whether `bytes` are what the body of `seed` has at `offset`.
///
/// # Errors
///
/// The offset in the body of the first byte that is another.
pub fn compare(seed: u64, offset: u64, bytes: &[u8]) -> Result<(), u64> {
    let mut at = offset;
    for part in bytes.chunks(BLOCK) {
        let expected = piece(seed, at, part.len());
        if part != expected {
            let same = part.iter().zip(expected).take_while(|(one, other)| one == other).count();
            return Err(at + same as u64);
        }
        at += part.len() as u64;
    }
    Ok(())
}

/// The first `length` bytes of the body of `seed`, piece by piece.
pub fn pieces(seed: u64, length: u64) -> impl Iterator<Item = &'static [u8]> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let piece = piece(seed, at, usize::try_from(length - at).unwrap_or(BLOCK));
        at += piece.len() as u64;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The CRC-32 (IEEE) of the first `length` bytes of the body of `seed`.
#[must_use]
pub fn checksum(seed: u64, length: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    pieces(seed, length).for_each(|piece| hasher.update(piece));
    hasher.finalize()
}

/// A body of known bytes, sent as fast as it is taken, or in pieces evenly over a time.
#[derive(Debug)]
pub struct Content {
    seed: u64,
    sent: u64,
    length: u64,
    piece: usize,
    /// Whether the length is told (`Content-Length`), or found out at the end (chunked).
    sized: bool,
    pace: Option<Pace>,
}

#[derive(Debug)]
struct Pace {
    begun: Instant,
    lasts: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl Content {
    /// `length` bytes of `seed`, as fast as they are taken.
    #[must_use]
    pub fn new(seed: u64, length: u64) -> Content {
        Content { seed, sent: 0, length, piece: BLOCK, sized: true, pace: None }
    }

    /// None at all.
    #[must_use]
    pub fn empty() -> Content {
        Content::new(0, 0)
    }

    /// The same in `pieces` pieces, evenly over `lasts`.
    #[must_use]
    pub fn paced(self, lasts: Duration, pieces: u64) -> Content {
        let piece = usize::try_from(self.length.div_ceil(pieces.max(1))).unwrap_or(BLOCK).clamp(1, BLOCK);
        let begun = Instant::now();
        Content { piece, pace: Some(Pace { begun, lasts, sleep: Box::pin(sleep_until(begun)) }), ..self }
    }

    /// The same without its length told.
    #[must_use]
    pub fn unsized_(self) -> Content {
        Content { sized: false, ..self }
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.sent == self.length {
            return Poll::Ready(None);
        }
        let (sent, length) = (self.sent, self.length);
        if let Some(pace) = &mut self.pace {
            ready!(pace.sleep.as_mut().poll(context));
        }
        let left = usize::try_from(length - sent).unwrap_or(usize::MAX);
        let piece = piece(self.seed, sent, left.min(self.piece));
        self.sent += piece.len() as u64;
        let sent = self.sent;
        if let Some(pace) = &mut self.pace {
            let next = pace.begun + share(pace.lasts, sent, length);
            pace.sleep.as_mut().reset(next);
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.sent == self.length
    }

    fn size_hint(&self) -> SizeHint {
        if self.sized { SizeHint::with_exact(self.length - self.sent) } else { SizeHint::default() }
    }
}

/// When, in a time that all of `length` takes, `part` of it is due.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "a pace need not be exact")]
pub fn share(time: Duration, part: u64, length: u64) -> Duration {
    time.mul_f64(part as f64 / length.max(1) as f64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by a panic")]
mod tests {
    use super::*;

    fn body(seed: u64, length: u64) -> Vec<u8> {
        pieces(seed, length).collect::<Vec<_>>().concat()
    }

    #[test]
    fn a_body_is_right_in_pieces_of_any_size() {
        let bytes = body(12_345_678_901, 200_000);
        for size in [1_000, 16_384, 65_521, 65_522, 200_000] {
            let mut offset = 0;
            for part in bytes.chunks(size) {
                compare(12_345_678_901, offset, part).unwrap();
                offset += part.len() as u64;
            }
        }
        assert_eq!(checksum(12_345_678_901, 200_000), crc32fast::hash(&bytes));
    }

    #[test]
    fn the_first_wrong_byte_is_named() {
        let mut bytes = body(5, 150_000);
        bytes[140_000] ^= 1;
        assert_eq!(compare(5, 0, &bytes), Err(140_000));
        assert_eq!(compare(5, 100, &bytes[100..]), Err(140_000));
    }

    #[test]
    fn what_is_lost_doubled_or_anothers_is_seen() {
        let bytes = body(5, 100_000);
        let lost: Vec<u8> = [&bytes[..30_000], &bytes[31_000..]].concat();
        assert!(compare(5, 0, &lost).is_err_and(|at| at >= 30_000));
        let doubled: Vec<u8> = [&bytes[..30_000], &bytes[20_000..]].concat();
        assert!(compare(5, 0, &doubled).is_err_and(|at| at >= 30_000));
        assert!(compare(6, 0, &bytes).is_err());
    }
}
