//! The classes of bytes in a head, and how far each goes.

/// How many bytes a [`Word`] keeps: no name that matters is longer.
const WORD: usize = 17;

/// The beginning of a method or of a field's name, put together from pieces.
#[derive(Debug, Default)]
pub(super) struct Word {
    bytes: [u8; WORD],
    /// More than `WORD` for a word of which the end was not kept.
    len: usize,
}

impl Word {
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, piece: &[u8]) {
        if let Some(room) = self.bytes.get_mut(self.len..self.len + piece.len()) {
            room.copy_from_slice(piece);
            self.len += piece.len();
        } else {
            self.len = WORD + 1;
        }
    }

    /// All of it; of one that is too long to matter, nothing.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// How many of the first bytes are of a token (RFC 9110, section 5.6.2).
pub(super) fn token_run(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| !TOKEN[usize::from(*byte)]).unwrap_or(bytes.len())
}

static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let c = byte as u8;
        table[byte] = c.is_ascii_alphanumeric()
            || matches!(
                c,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        byte += 1;
    }
    table
};

/// How many of the first bytes may be in a value (RFC 9110, section 5.5): no control character but the tab.
pub(super) fn text_run(bytes: &[u8]) -> usize {
    let mut run = 0;
    loop {
        let rest = &bytes[run..];
        run +=
            run_of(rest, |word| below(word, 0x20) | equal(word, 0x7f), |byte| byte >= 0x20 && byte != 0x7f);
        if bytes.get(run) != Some(&b'\t') {
            return run;
        }
        run += 1;
    }
}

/// How many of the first bytes may be in a target: visible ASCII. A fragment is none of it (RFC 9112,
/// section 3.2), and who finds one may take it for part of the path, or not.
pub(super) fn visible_run(bytes: &[u8]) -> usize {
    let odd = |word| below(word, 0x21) | equal(word, 0x7f) | equal(word, b'#') | word & HIGH;
    run_of(bytes, odd, |byte| byte > 0x20 && byte < 0x7f && byte != b'#')
}

/// How many of the first bytes fit. `odd` looks at eight at once, and marks in the highest bit of each which do not:
/// of the first such byte that must be true, what it says of those behind does not matter.
fn run_of(bytes: &[u8], odd: impl Fn(u64) -> u64, fits: impl Fn(u8) -> bool) -> usize {
    let (words, rest) = bytes.as_chunks();
    for (i, word) in words.iter().enumerate() {
        let odd = odd(u64::from_le_bytes(*word));
        if odd != 0 {
            return i * 8 + odd.trailing_zeros() as usize / 8;
        }
    }
    bytes.len() - rest.len() + rest.iter().position(|byte| !fits(*byte)).unwrap_or(rest.len())
}

const ONES: u64 = u64::from_ne_bytes([1; 8]);
const HIGH: u64 = ONES << 7;

/// Marks bytes below `limit`, which is at most 0x80: only these need to borrow.
fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(ONES * u64::from(limit)) & !word & HIGH
}

fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ (ONES * u64::from(byte)), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_end_where_they_must() {
        for length in 0..70 {
            for bad in 0..length {
                let mut bytes = vec![b'a'; length];
                bytes[bad] = 0x7f;
                assert_eq!((text_run(&bytes), visible_run(&bytes), token_run(&bytes)), (bad, bad, bad));
            }
            let good = vec![b'a'; length];
            assert_eq!((text_run(&good), visible_run(&good), token_run(&good)), (length, length, length));
        }
    }

    #[test]
    fn classes() {
        let members = |run: fn(&[u8]) -> usize| (0..=255).filter(|byte| run(&[*byte]) == 1).count();
        assert_eq!(members(text_run), 256 - 32 + 1 - 1);
        assert_eq!(members(visible_run), 0x7f - 0x21 - 1);
        assert_eq!(members(token_run), 26 + 26 + 10 + 15);
    }

    #[test]
    fn words_longer_than_any_that_matters() {
        let mut word = Word::default();
        word.push(b"transfer-");
        word.push(b"encoding");
        assert_eq!(word.as_bytes(), b"transfer-encoding");
        word.push(b"x");
        assert_eq!((word.as_bytes(), word.is_empty()), (&b""[..], false));
        word.push(&[b'x'; 1000]);
        assert_eq!((word.as_bytes(), word.is_empty()), (&b""[..], false));
        word.clear();
        assert!(word.is_empty());
    }
}
