//! One HTTP/2 connection and the task that drives it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Ping, PingPong, SendStream};
use http::Request;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::{Pool, Share};
use crate::proxy::error::Error;
use crate::proxy::upstream::ServerAddr;
use crate::proxy::upstream::stream::{Counted, Moved, Wire};
use crate::timer::Timer;

/// How many streams a server takes that has not said so. A server cannot say this number: theirs has 32 bits.
pub(super) const UNTOLD: usize = usize::MAX - 1;

/// A connection with open streams on which nothing has come for so long is asked whether it lives.
const SILENCE: Duration = Duration::from_secs(10);

/// How long the answer to that may take.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection. It ends when it is in no pool and has no streams.
#[derive(Debug)]
pub(super) struct Connection {
    sender: RefCell<SendRequest<Bytes>>,
    /// How many leases there are.
    pub(super) open: Cell<usize>,
    /// Whether there was one ever.
    pub(super) used: Cell<bool>,
    /// The sweep in which the last lease ended.
    pub(super) idle_since: Cell<u32>,
    /// How many streams the server takes at once.
    limit: Cell<usize>,
    pub(super) moved: Rc<Moved>,
}

impl Connection {
    /// Speaks HTTP/2 on a new connection, and waits until the server does.
    pub(super) async fn begin(wire: Wire, pool: &Rc<Pool>) -> Result<Rc<Self>, Error> {
        let moved = Rc::new(Moved::default());
        let io = Counted { wire, moved: moved.clone() };
        let address = pool.address();
        let (builder, windows) = pool.opening();
        let (sender, mut driver) =
            builder.handshake(io).await.map_err(|cause| broken(address, cause, &moved))?;
        let pings = driver.ping_pong();
        let connection = Rc::new(Connection {
            sender: RefCell::new(sender),
            open: Cell::new(0),
            used: Cell::new(false),
            idle_since: Cell::new(pool.sweep.get()),
            limit: Cell::new(UNTOLD),
            moved,
        });
        let mut ended = None;
        poll_fn(|cx| {
            // First the server's end is read, then it is asked what it allows.
            let ending = Pin::new(&mut driver).poll(cx);
            connection.limit.set(driver.max_concurrent_send_streams());
            if let Poll::Ready(result) = ending {
                ended = Some(result);
                return Poll::Ready(());
            }
            if connection.limit.get() == UNTOLD { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        match ended {
            Some(Err(cause)) => return Err(broken(address, cause, &connection.moved)),
            Some(Ok(())) if connection.limit.get() == UNTOLD => {
                return Err(Error::ClosedEarly(address.clone(), "no HTTP/2 SETTINGS came".into()));
            }
            // A GOAWAY came with the SETTINGS.
            Some(Ok(())) => return Ok(connection),
            None => {}
        }
        let watch = Watch {
            connection: Rc::downgrade(&connection),
            pool: Rc::downgrade(pool),
            moved: connection.moved.clone(),
            reads: connection.moved.reads.get(),
            since: Instant::now(),
            pings,
            asked: false,
            timer: Timer::default(),
            _windows: windows,
        };
        spawn_local(drive(driver, watch));
        Ok(connection)
    }

    pub(super) fn has_room(&self, max: usize) -> bool {
        self.open.get() < max.max(1).min(self.limit.get()) && self.is_open()
    }

    /// Whether new streams may be begun.
    pub(super) fn is_open(&self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        matches!(self.sender.borrow_mut().poll_ready(&mut cx), Poll::Ready(Ok(())))
    }

    pub(super) fn send(
        &self,
        head: Request<()>,
        is_whole: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.sender.borrow_mut().send_request(head, is_whole)
    }
}

/// Why a connection is none that was to be.
fn broken(address: &ServerAddr, cause: h2::Error, moved: &Moved) -> Error {
    match moved.failure.take() {
        Some(failure) => Error::Tls(address.clone(), failure),
        None if cause.is_library() => Error::Malformed(address.clone(), cause.into()),
        None => Error::ClosedEarly(address.clone(), cause.into()),
    }
}

/// What is watched over while a connection is driven.
struct Watch {
    connection: Weak<Connection>,
    pool: Weak<Pool>,
    moved: Rc<Moved>,
    /// The reads that were counted last.
    reads: u64,
    /// Since when nothing has come that was waited for.
    since: Instant,
    pings: Option<PingPong>,
    /// Whether the server was asked whether it lives.
    asked: bool,
    timer: Timer,
    _windows: Share,
}

/// Drives a connection to its end. What its streams carry is told to those who hold them.
async fn drive(mut driver: h2::client::Connection<Counted>, mut watch: Watch) {
    let result = poll_fn(|cx| {
        let ending = Pin::new(&mut driver).poll(cx);
        watch.look(driver.max_concurrent_send_streams());
        match ending {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => watch.poll_silence(cx).map(|()| None),
        }
    })
    .await;
    match &result {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, "an HTTP/2 connection to an upstream ended"),
        None => tracing::warn!(
            upstream = watch.pool.upgrade().map(|pool| pool.address().to_string()),
            "an HTTP/2 connection answers no ping, and is closed with its streams"
        ),
    }
    // Only now do its streams learn of it, and nobody is sent there any more.
    drop(driver);
    watch.retire();
}

impl Watch {
    /// Follows what the server allows.
    fn look(&self, limit: usize) {
        let Some(connection) = self.connection.upgrade() else { return };
        if connection.limit.replace(limit) < limit
            && let Some(pool) = self.pool.upgrade()
        {
            pool.serve_waiting();
        }
        if !connection.is_open() {
            self.retire();
        }
    }

    fn retire(&self) {
        if let (Some(pool), Some(connection)) = (self.pool.upgrade(), self.connection.upgrade())
            && pool.connections.borrow().iter().any(|other| Rc::ptr_eq(other, &connection))
        {
            pool.retire(&connection);
        }
    }

    /// Ready when the server is dead.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let waits = self.connection.upgrade().is_some_and(|connection| connection.open.get() > 0);
        if self.reads != self.moved.reads.get() || !(waits || self.asked) {
            (self.reads, self.since) = (self.moved.reads.get(), Instant::now());
        }
        if let Some(pings) = &mut self.pings
            && self.asked
            && pings.poll_pong(cx).is_ready()
        {
            self.asked = false;
        }
        loop {
            let limit = if self.asked { SILENCE + PING_TIMEOUT } else { SILENCE };
            if self.timer.poll_until(self.since + limit, cx).is_pending() {
                return Poll::Pending;
            }
            if self.asked {
                return Poll::Ready(());
            }
            if !waits {
                self.since = Instant::now();
                continue;
            }
            let Some(pings) = &mut self.pings else { return Poll::Ready(()) };
            if pings.send_ping(Ping::opaque()).is_err() {
                return Poll::Ready(());
            }
            self.asked = true;
            if pings.poll_pong(cx).is_ready() {
                self.asked = false;
            }
        }
    }
}
