//! The table of a segment, which may come from another version or a broken process: reading it never panics, and what
//! is read fits together.

#![no_main]

use exuvia::restart::Table;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let words = |bytes: &[u8]| -> Vec<u64> {
        let word = |chunk: &[u8]| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        };
        bytes.chunks(8).map(word).collect()
    };
    check(&words(data));

    // The same bytes behind a header that is right, so that the table is looked at.
    let [shards, capacity, rest @ ..] = data else { return };
    let (shards, capacity) = (u64::from(*shards), u64::from(*capacity));
    let table = words(rest);
    let mut whole = vec![u64::from_be_bytes(*b"exuvia\0\x01"), 1, 0, 0, shards, capacity, table.len() as u64];
    whole.resize(16, 0);
    whole.extend(&table);
    whole.resize(whole.len() + (shards * capacity) as usize, 0);
    check(&whole);
});

fn check(words: &[u64]) {
    let Ok(table) = Table::read(words) else { return };
    assert!(table.entries.len() <= words.len());
    for entry in &table.entries {
        assert!(entry.link.is_none_or(|link| link < table.entries.len()));
        assert!(!entry.series.name().is_empty());
        entry.series.labels().for_each(drop);
    }
}
