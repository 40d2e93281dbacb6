//! How much servers may send that clients have not taken: the flow-control windows (RFC 9113, section 5.2).
//!
//! A client that does not read leaves its stream's window full. The connection's window is the sum of all its
//! streams' windows, so that such a client holds up its own stream and no other.
//!
//! A window is a promise, and memory is used only where servers send and clients do not read. The promises of a worker
//! have a bound all the same: each new connection gets a part of what is left of [`WORKER`], so that with many
//! connections the windows of the later ones are smaller, down to [`STREAM_MIN`].

use std::cell::Cell;
use std::rc::Rc;

/// The most of one answer's body that may be on its way unread, in bytes.
const STREAM_MAX: usize = 256 * 1024;

/// The least, in bytes: the largest frame that servers send unasked (RFC 9113, section 4.2).
const STREAM_MIN: usize = 16 * 1024;

/// The same for all connections of a worker, in bytes; beyond it connections get [`STREAM_MIN`] for each stream.
const WORKER: usize = 128 * 1024 * 1024;

/// A new connection gets this part of what is left.
const PART: usize = 4;

/// What a connection has before anything is said (RFC 9113, section 6.9.2). It cannot be less.
const CONNECTION_MIN: usize = 65_535;

/// What a worker has promised to all servers. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(in crate::proxy) struct Windows(Rc<Cell<usize>>);

/// The windows of one connection, which are given back with it.
#[derive(Debug)]
pub(super) struct Share {
    promised: Windows,
    /// The window of each stream, in bytes.
    pub(super) stream: u32,
    /// The window of the connection, in bytes.
    pub(super) connection: u32,
}

impl Windows {
    /// Windows for a new connection with at most so many streams.
    pub(super) fn share(&self, max_streams: usize) -> Share {
        let streams = max_streams.max(1);
        let part = WORKER.saturating_sub(self.0.get()) / PART;
        let stream = (part / streams).clamp(STREAM_MIN, STREAM_MAX);
        let connection = (stream * streams).max(CONNECTION_MIN);
        self.0.set(self.0.get() + connection);
        let clamp = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX >> 1);
        Share { promised: self.clone(), stream: clamp(stream), connection: clamp(connection) }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.promised.0.set(self.promised.0.get() - self.connection as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_covers_its_streams() {
        for streams in [1, 2, 100, 10_000] {
            let share = Windows::default().share(streams);
            assert!(share.connection as usize >= share.stream as usize * streams, "{streams}");
            assert!((STREAM_MIN..=STREAM_MAX).contains(&(share.stream as usize)), "{streams}");
        }
    }

    /// With a hundred streams each, as by default.
    #[test]
    fn all_of_a_worker_have_a_bound() {
        let windows = Windows::default();
        let shares: Vec<_> = (0..64).map(|_| windows.share(100)).collect();
        assert_eq!(shares[0].stream as usize, STREAM_MAX, "the first has all that it can use");
        assert!(windows.0.get() <= WORKER + 64 * 100 * STREAM_MIN);
        drop(shares);
        assert_eq!(windows.0.get(), 0);
    }
}
