//! Clients of both protocols that never stop, and how much they have done.

use std::net::SocketAddr;

use super::multiplexed::Multiplexed;
use super::traffic::{Made, Traffic};

/// By protocol.
#[derive(Clone, Copy, Debug, Default)]
pub struct Both {
    pub http1: Made,
    pub http2: Made,
}

impl std::ops::AddAssign for Both {
    fn add_assign(&mut self, more: Both) {
        for (all, more) in [(&mut self.http1, more.http1), (&mut self.http2, more.http2)] {
            all.answered += more.answered;
            all.connections += more.connections;
        }
    }
}

/// The clients.
pub struct Load {
    http1: Traffic,
    http2: Multiplexed,
}

impl Load {
    pub fn start(address: SocketAddr) -> Load {
        Load { http1: Traffic::with(address, 2, 1), http2: Multiplexed::start(address, 1, 4) }
    }

    /// Waits until a generation has answered both.
    #[track_caller]
    pub fn reaches(&self, generation: u64) {
        self.http1.reaches(generation);
        self.http2.reaches(generation);
    }

    /// Ends it: nothing may have failed.
    #[track_caller]
    pub fn finish(self) -> Both {
        Both { http1: self.http1.finish(), http2: self.http2.finish() }
    }

    /// Ends it, and tells what has failed.
    pub fn end(self) -> (Both, Vec<String>) {
        let ((http1, one), (http2, two)) = (self.http1.end(), self.http2.end());
        (Both { http1, http2 }, [one, two].concat())
    }
}
