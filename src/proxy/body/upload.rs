//! Where a request's body stands, between its client and its server.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::proxy::metrics::Metrics;

/// Where the upload of a request body stands, seen by those who hold the clocks.
#[derive(Debug)]
pub(in crate::proxy) struct Upload {
    /// Whether a body is on its way.
    pub(super) open: Cell<bool>,
    /// Since when the upstream would take more and the client has not sent it.
    pub(super) awaited_since: Cell<Option<Instant>>,
    /// When the upstream last took something; since then it is the upstream that is waited for.
    pub(super) advanced: Cell<Instant>,
    /// Whether the body may be read at all.
    pub(super) gate: Cell<Gate>,
    /// Whether nobody wants the rest of the body.
    pub(super) stopped: Cell<bool>,
    /// Whether it has been read from.
    pub(super) read: Cell<bool>,
    /// Who waits until the body is first read.
    pub(super) watcher: RefCell<Option<Waker>>,
    /// Whoever waits for more of the body; kept only where it can be stopped.
    pub(super) reader: RefCell<Option<Waker>>,
    pub(super) metrics: Rc<Metrics>,
    /// What nobody wants of an HTTP/1 body.
    pub(super) leftover: RefCell<Option<Leftover>>,
}

/// The most of an HTTP/1 body, in bytes, that is read off after its upstream has gone away or has been given up. A
/// client that has more to send loses its connection, which is cheaper than its body.
pub(crate) const MAX_LEFTOVER: usize = 1 << 20;

/// What is still to come of an HTTP/1 body that nobody wants: the next request stands behind it.
#[derive(Debug)]
pub(super) struct Leftover {
    pub(super) incoming: Incoming,
    /// How much of it may still be read, in bytes.
    pub(super) room: usize,
}

impl Leftover {
    /// Ready when nothing more is to be read of it.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(Ok(frame)) = ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            let read = frame.data_ref().map_or(0, Bytes::len);
            let Some(room) = self.room.checked_sub(read) else { break };
            self.room = room;
        }
        Poll::Ready(())
    }
}

/// Whether a body is read, when its client waits to be told to send it (RFC 9110, section 10.1.1). It is told when
/// the body is first read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    /// Until the upstream says so, or has said nothing for too long since then.
    Held(Instant),
    /// The upstream has answered without it. Whoever would read it waits, for as long as the answer is read.
    Shut,
}

impl Upload {
    pub(in crate::proxy) fn new(metrics: Rc<Metrics>) -> Self {
        Upload {
            metrics,
            open: Cell::new(false),
            gate: Cell::new(Gate::Open),
            awaited_since: Cell::new(None),
            advanced: Cell::new(Instant::now()),
            stopped: Cell::new(false),
            read: Cell::new(false),
            watcher: RefCell::new(None),
            reader: RefCell::new(None),
            leftover: RefCell::new(None),
        }
    }

    /// Whether something of a body is still to be read off.
    pub(in crate::proxy) fn has_leftover(&self) -> bool {
        self.leftover.borrow().is_some()
    }

    /// Reads it off, as far as it has come.
    pub(in crate::proxy) fn read_leftover(&self, cx: &mut Context<'_>) {
        let mut leftover = self.leftover.borrow_mut();
        if leftover.as_mut().is_some_and(|leftover| leftover.poll_end(cx).is_ready()) {
            *leftover = None;
        }
    }

    /// Gives up what has not come of it.
    pub(in crate::proxy) fn drop_leftover(&self) {
        self.leftover.take();
    }

    /// The upstream is waited for from now on.
    pub(in crate::proxy) fn begin(&self) {
        self.advanced.set(Instant::now());
    }

    pub(in crate::proxy) fn is_open(&self) -> bool {
        self.open.get()
    }

    pub(in crate::proxy) fn awaits_client(&self) -> bool {
        self.awaited_since.get().is_some()
    }

    pub(in crate::proxy) fn awaited_since(&self) -> Option<Instant> {
        self.awaited_since.get()
    }

    /// Holds the body back from now on.
    pub(in crate::proxy) fn hold(&self) {
        self.gate.set(Gate::Held(Instant::now()));
    }

    /// Since when it is held back.
    pub(in crate::proxy) fn held_since(&self) -> Option<Instant> {
        match self.gate.get() {
            Gate::Held(since) => Some(since.max(self.advanced.get())),
            Gate::Open | Gate::Shut => None,
        }
    }

    /// Lets the body go on, if it is held back.
    pub(in crate::proxy) fn admit(&self) {
        if let Gate::Held(_) = self.gate.get() {
            self.gate.set(Gate::Open);
            self.advanced.set(Instant::now());
            self.wake_reader();
        }
    }

    /// Never lets the body go on, if it is held back; returns whether it was.
    pub(in crate::proxy) fn shut(&self) -> bool {
        let held = self.held_since().is_some();
        if held {
            self.gate.set(Gate::Shut);
            self.wake_reader();
        }
        held
    }

    /// Lets go of who waits for a body that never comes.
    pub(in crate::proxy) fn end_shut(&self) {
        if self.gate.get() == Gate::Shut {
            self.stopped.set(true);
            self.wake_reader();
        }
    }

    /// Ready once a body that was held back is read, or nobody will.
    pub(in crate::proxy) fn poll_read_from(&self, cx: &Context<'_>) -> Poll<()> {
        if self.read.get() || !self.is_open() {
            return Poll::Ready(());
        }
        self.watcher.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    pub(super) fn wake_watcher(&self) {
        if let Some(watcher) = self.watcher.take() {
            watcher.wake();
        }
    }

    fn wake_reader(&self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Breaks the body off, and lets go of what it comes from.
    pub(in crate::proxy) fn stop(&self) {
        if self.open.get() {
            self.stopped.set(true);
            self.wake_reader();
        }
    }

    /// The upstream has taken something, or the client has sent something for it.
    pub(in crate::proxy) fn advance(&self) {
        self.advanced.set(Instant::now());
    }

    pub(in crate::proxy) fn advanced(&self) -> Instant {
        self.advanced.get()
    }
}
