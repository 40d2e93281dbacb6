//! HTTP/1 connections: one request at a time on each.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::stream::Wire;
use super::{ConnectionConfig, MIN_BUFFER_BYTES, SWEEPS, Server, ServerAddr};
use crate::proxy::body::RequestBody;
use crate::proxy::error::Error;
use crate::proxy::tunnel::TunnelStream;

/// The idle connections to one server.
#[derive(Debug)]
pub(super) struct Pool {
    builder: Builder,
    max_idle: usize,
    /// The one that was used last is on top: it is the likeliest to be alive, and the others can grow old.
    idle: RefCell<Vec<Idle>>,
    /// Counts the sweeps: a clock that costs nothing to read.
    sweep: Cell<u32>,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Box<RequestBody>>,
    claim: Claim,
    since_sweep: u32,
}

/// Where a request that asks for a tunnel leaves word that it wants the connection itself, once HTTP is over.
type Claim = Rc<RefCell<Option<oneshot::Sender<TunnelStream>>>>;

/// A connection that is in use.
#[derive(Debug)]
pub(in crate::proxy) struct Lease {
    pub(in crate::proxy) sender: SendRequest<Box<RequestBody>>,
    claim: Claim,
    claimed: Option<oneshot::Receiver<TunnelStream>>,
    server: Rc<Server>,
}

impl Pool {
    pub(super) fn new(config: &ConnectionConfig) -> Self {
        let mut builder = Builder::new();
        builder
            .max_header_size(config.max_head_bytes)
            .max_buf_size(config.buffer_bytes.max(config.max_head_bytes).max(MIN_BUFFER_BYTES));
        // One that was said to be for a client is for no other.
        let max_idle = if config.proxy_protocol.is_some() { 0 } else { config.max_idle };
        Pool { builder, max_idle, idle: RefCell::default(), sweep: Cell::new(0) }
    }

    pub(super) fn idle(&self, server: &Rc<Server>) -> Option<Lease> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let Idle { sender, claim, .. } = idle.pop()?;
            // One that is not ready has been closed: it was ready when it was put here.
            if sender.is_ready() {
                return Some(Lease { sender, claim, claimed: None, server: server.clone() });
            }
        }
    }

    /// Speaks HTTP/1 on a new connection.
    pub(super) async fn begin(&self, wire: Wire, server: &Rc<Server>) -> Result<super::Lease, Error> {
        let (sender, mut connection) = self
            .builder
            .handshake(TokioIo::new(wire))
            .await
            .map_err(|cause| Error::ClosedEarly(server.address().clone(), cause.into()))?;
        let claim = Claim::default();
        let claimed = claim.clone();
        spawn_local(async move {
            // Whoever waits for an answer is told; on an idle connection it is nobody's concern.
            if let Err(error) = (&mut connection).await {
                tracing::trace!(%error, "a connection to an upstream ended");
                return;
            }
            if let Some(claimant) = claimed.take() {
                let parts = connection.into_parts();
                // Who has gone away since wants it no more.
                claimant.send(TunnelStream::new(parts.io.into_inner(), parts.read_buf)).ok();
            }
        });
        Ok(super::Lease::Http1(Lease { sender, claim, claimed: None, server: server.clone() }))
    }

    pub(super) fn sweep(&self) {
        let now = self.sweep.get().wrapping_add(1);
        self.sweep.set(now);
        self.idle
            .borrow_mut()
            .retain(|idle| !idle.sender.is_closed() && now.wrapping_sub(idle.since_sweep) <= SWEEPS);
    }
}

impl Lease {
    pub(in crate::proxy) fn server(&self) -> &ServerAddr {
        self.server.address()
    }

    /// Asks for the connection itself, should the next answer on it end HTTP.
    pub(in crate::proxy) fn claim(&mut self) {
        let (sender, receiver) = oneshot::channel();
        self.claim.replace(Some(sender));
        self.claimed = Some(receiver);
    }

    /// The connection that was claimed. `None` if it broke as it was to be handed over.
    pub(in crate::proxy) async fn into_tunnel(self) -> Option<TunnelStream> {
        // It is handed over once hyper has nothing left to do, which the answer that ended HTTP made so.
        self.claimed?.await.ok()
    }

    /// Keeps the connection for the next request, if it can take one.
    pub(in crate::proxy) fn give_back(self) {
        let pool = &self.server.http1;
        let mut idle = pool.idle.borrow_mut();
        // Not ready: it closes after this answer, or the request is still being sent to a server that has
        // answered already.
        if self.sender.is_ready() && idle.len() < pool.max_idle {
            self.claim.take();
            idle.push(Idle { sender: self.sender, claim: self.claim, since_sweep: pool.sweep.get() });
        }
    }
}
