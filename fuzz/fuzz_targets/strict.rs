//! The scanner before hyper: it never panics, pieces change nothing, and no head that it passes ends elsewhere for
//! httparse, which is hyper's parser. `src/server/strict/agree.rs` tries the same on hyper itself, in every test run.

#![no_main]

use exuvia::server::strict::{Limits, Scanned, Scanner};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits { trailer_bytes: 256, trailers: 8 };

fuzz_target!(|data: &[u8]| {
    let Some((cut, input)) = data.split_first() else { return };
    let whole = Scanner::new(LIMITS).scan(input);
    assert_eq!(whole.refused.is_none(), whole.passed == input.len());

    let mut scanner = Scanner::new(LIMITS);
    let mut all = Scanned { passed: 0, heads: 0, refused: None };
    for piece in input.chunks(usize::from(*cut).max(1)) {
        let Scanned { passed, heads, refused } = scanner.scan(piece);
        all = Scanned {
            passed: all.passed + passed,
            heads: all.heads + heads,
            refused: all.refused.or(refused),
        };
    }
    assert_eq!(all, whole);

    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(&input[..whole.passed]) {
        Ok(httparse::Status::Complete(end)) => {
            let mut scanner = Scanner::new(LIMITS);
            assert_eq!(scanner.scan(&input[..end - 1]).heads, 0, "httparse needs more than the scanner");
            assert_eq!(scanner.scan(&input[end - 1..end]).heads, 1, "httparse needs less than the scanner");
        }
        Ok(httparse::Status::Partial) => assert_eq!(whole.heads, 0, "httparse wants more"),
        // What it refuses, hyper refuses.
        Err(_) => {}
    }
});
