//! Which server a request tries first, and which then.
//!
//! Each request begins with another one. One that could not be connected to comes after all others for a while, in
//! this worker; when its time is over, one request whose turn it is tries it. If all have failed, all are tried.

use std::cell::Cell;
use std::rc::Rc;

use tokio::time::Instant;

use super::error::Error;
use super::upstream::Server;

/// The servers of a worker.
#[derive(Debug)]
pub(super) struct Turns {
    servers: Vec<Rc<Server>>,
    /// Whose turn it is.
    turn: Cell<usize>,
}

impl Turns {
    pub(super) fn new(servers: Vec<Rc<Server>>) -> Turns {
        Turns { servers, turn: Cell::new(0) }
    }

    /// The servers in the order in which this request tries them. What happens to them meanwhile changes nothing in that:
    /// none is tried twice.
    pub(super) fn next(&self) -> impl Iterator<Item = &Rc<Server>> {
        let count = self.servers.len();
        let first = self.turn.get() % count.max(1);
        self.turn.set(first.wrapping_add(1));
        let is_down = self.down(first);
        // Twice around: those that are up, then the others.
        (0..2 * count).filter_map(move |step| {
            let place = (first + step) % count;
            let is_last = is_down.get(place).copied().unwrap_or(false);
            (is_last == (step >= count)).then(|| &self.servers[place])
        })
    }

    /// One of them could be connected to.
    pub(super) fn connected(&self, server: &Server) {
        if server.standing().succeed() && self.servers.len() > 1 {
            tracing::info!(server = %server.address(), "the server can be connected to again");
        }
    }

    /// One of them has answered. One that is tried again may do that on a connection that was kept.
    pub(super) fn answered(&self, server: &Server) {
        if server.standing().is_probed() {
            self.connected(server);
        }
    }

    /// One of them could not.
    pub(super) fn failed(&self, server: &Server, error: &Error) {
        // One that is full is up.
        if !matches!(error, Error::Full(_))
            && server.standing().fail(Instant::now())
            && self.servers.len() > 1
        {
            let server = server.address();
            tracing::warn!(%server, %error, "cannot connect to a server; others are tried before it for a while");
        }
    }

    /// By place, which servers are down; empty where none has failed.
    fn down(&self, first: usize) -> Vec<bool> {
        if !self.servers.iter().any(|server| server.standing().has_failed()) {
            // The clock is not read, and nothing is allocated.
            return Vec::new();
        }
        let now = Instant::now();
        let is_down = |(place, server): (usize, &Rc<Server>)| {
            let standing = server.standing();
            standing.is_down(now)
                || (standing.has_failed()
                    && !(place == first && standing.probe(now, server.connect_timeout())))
        };
        self.servers.iter().enumerate().map(is_down).collect()
    }
}
