//! Whether standard error leads to systemd's journal, and the priorities of its lines.

use std::env;
use std::os::fd::BorrowedFd;

use nix::sys::stat::fstat;
use tracing::Level;

/// Whether `fd` is the stream that systemd has connected to the journal: it tells which one that is (systemd.exec(5),
/// `JOURNAL_STREAM`).
pub(super) fn is_journal(fd: BorrowedFd<'_>) -> bool {
    let stream = env::var("JOURNAL_STREAM").ok().and_then(|value| parse(&value));
    stream.is_some() && stream == fstat(fd).ok().map(|found| (found.st_dev, found.st_ino))
}

/// Device and inode.
fn parse(value: &str) -> Option<(u64, u64)> {
    let (device, inode) = value.split_once(':')?;
    Some((device.parse().ok()?, inode.parse().ok()?))
}

/// The prefix that gives a line its priority (sd-daemon(3)).
pub(super) fn prefix(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_a_device_and_an_inode() {
        assert_eq!(parse("8:12345"), Some((8, 12345)));
        for wrong in ["", "8", "8:", ":1", "8:x", "-1:2"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
