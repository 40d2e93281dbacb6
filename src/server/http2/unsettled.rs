//! Answers that h2 has taken whole, until they are in the socket: only then is a request answered.

use std::collections::HashMap;

use crate::proxy::Answered;

/// The answers of one connection. Those that are dropped were not answered.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    /// By their streams.
    queued: HashMap<u32, Answered>,
    /// Those whose last byte has left h2; TLS may still have it.
    written: Vec<Answered>,
}

impl Unsettled {
    /// h2 has taken the end of a stream's answer.
    pub(super) fn add(&mut self, stream: u32, answered: Answered) {
        self.queued.insert(stream, answered);
    }

    /// The end of a stream was written.
    pub(super) fn written(&mut self, stream: u32) {
        self.written.extend(self.queued.remove(&stream));
    }

    /// A stream was reset, by either side: what h2 has of it is not sent any more.
    pub(super) fn reset(&mut self, stream: u32) {
        self.queued.remove(&stream);
    }

    /// Everything that was written is in the socket.
    pub(super) fn flushed(&mut self) {
        self.written.drain(..).for_each(Answered::settle);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queued.is_empty() && self.written.is_empty()
    }

    /// The connection has ended: nothing more is sent.
    pub(super) fn clear(&mut self) {
        *self = Unsettled::default();
    }
}
