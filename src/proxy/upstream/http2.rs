//! HTTP/2 connections: each carries many requests, and every request of a worker shares them.
//!
//! ```text
//!             room: a stream of the first connection that has it
//! request ──┤
//!             none: wait in line ──► a connection ends a stream, says that it takes more, or is made ──► first in line
//! ```
//!
//! - *First fit*: the oldest connection with room gets the stream, not the emptiest. So those that a burst has
//!   brought fall idle and close, instead of being kept by a trickle each; and a busy one packs its frames.
//! - One connection is made at a time, whoever waits; it counts only once the server's SETTINGS are there: before
//!   that nobody knows how many streams it takes, or whether it speaks HTTP/2 at all.
//! - A connection that has said GOAWAY, or has refused a stream, gets no more; its streams go on to their ends.
//! - A connection that ends before it was given a stream is made anew. After a few of these in a row those who wait
//!   are told: a server that ends all of them would else be connected to for as long as somebody waits.

mod connection;
mod windows;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use h2::SendStream;
use h2::client::{Builder, ResponseFuture};
use http::Request;
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::connect::{Connector, Spoken};
use super::stream::Wire;
use super::{ConnectionConfig, SWEEPS, ServerAddr};
use crate::proxy::error::{Error, TlsFailure};
use connection::Connection;
use windows::Share;
pub(in crate::proxy) use windows::Windows;

/// Small frames cost more memory than their bytes. h2 ends the connection, with all its streams, once those that wait
/// unread cost half the connection's window; then a few clients that do not read their short gRPC messages would end
/// the calls of all others.
const DATA_FRAME_BUDGET_PER_WINDOW: usize = 4;

/// How many connections in a row may end unused, before that counts as a failed connect. One or two a server may
/// have that is itself about to be replaced.
const MAX_UNUSED: u32 = 3;

/// The connections to one server.
#[derive(Debug)]
pub(super) struct Pool {
    connector: Rc<Connector>,
    config: Rc<ConnectionConfig>,
    builder: Builder,
    windows: Windows,
    /// Oldest first; only those that take new streams.
    connections: RefCell<Vec<Rc<Connection>>>,
    /// Those who wait for a stream, in the order in which they came.
    waiting: RefCell<VecDeque<oneshot::Sender<Result<Got, Error>>>>,
    /// Whether a connection is being made.
    connecting: Cell<bool>,
    /// How many connections in a row have ended unused.
    unused: Cell<u32>,
    sweep: Cell<u32>,
}

/// What comes of asking for a stream.
#[derive(Debug)]
pub(super) enum Got {
    Stream(Lease),
    /// The server chose HTTP/1.
    Http1(Wire),
    /// The server chose HTTP/1 in another's connection.
    NotHttp2,
}

/// The right to have one stream, and then that stream.
#[derive(Debug)]
pub(in crate::proxy) struct Lease {
    connection: Rc<Connection>,
    pool: Rc<Pool>,
}

impl Pool {
    pub(super) fn new(connector: Rc<Connector>, config: Rc<ConnectionConfig>, windows: Windows) -> Rc<Self> {
        let clamp = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_max_send_streams(connection::UNTOLD)
            .max_header_list_size(clamp(config.max_head_bytes))
            .max_send_buffer_size(config.buffer_bytes);
        Rc::new(Pool {
            connector,
            config,
            builder,
            windows,
            connections: RefCell::default(),
            waiting: RefCell::default(),
            connecting: Cell::new(false),
            unused: Cell::new(0),
            sweep: Cell::new(0),
        })
    }

    fn address(&self) -> &ServerAddr {
        self.connector.address()
    }

    /// What the next connection says first, and its windows.
    fn opening(&self) -> (Builder, Share) {
        let share = self.windows.share(self.config.max_streams);
        let mut builder = self.builder.clone();
        builder
            .initial_window_size(share.stream)
            .initial_connection_window_size(share.connection)
            .data_frame_budget(share.connection as usize * DATA_FRAME_BUDGET_PER_WINDOW);
        (builder, share)
    }

    /// A stream that can be had at once.
    pub(super) fn idle(self: &Rc<Self>) -> Option<Lease> {
        // Nobody overtakes those who wait.
        if self.is_waited_for() { None } else { self.room() }
    }

    /// Whether somebody waits. Those before him in line who have gone are forgotten.
    fn is_waited_for(&self) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        while waiting.front().is_some_and(oneshot::Sender::is_closed) {
            waiting.pop_front();
        }
        !waiting.is_empty()
    }

    fn room(self: &Rc<Self>) -> Option<Lease> {
        let max = self.config.max_streams;
        let connection =
            self.connections.borrow().iter().find(|connection| connection.has_room(max)).cloned()?;
        Some(self.lease(connection))
    }

    fn lease(self: &Rc<Self>, connection: Rc<Connection>) -> Lease {
        connection.open.set(connection.open.get() + 1);
        connection.used.set(true);
        self.unused.set(0);
        Lease { connection, pool: self.clone() }
    }

    /// Waits for a stream.
    pub(super) async fn stream(self: &Rc<Self>) -> Result<Got, Error> {
        if let Some(lease) = self.idle() {
            return Ok(Got::Stream(lease));
        }
        let (waiter, turn) = oneshot::channel();
        self.waiting.borrow_mut().push_back(waiter);
        self.connect_more();
        match timeout(self.config.connect_timeout, turn).await {
            Ok(Ok(got)) => got,
            // It is the connection's own clock that has run out, or this is the last moment of it.
            Err(_) if self.connecting.get() => Err(Error::ConnectTimeout(self.address().clone())),
            Ok(Err(_)) | Err(_) => Err(Error::Full(self.address().clone())),
        }
    }

    /// Gives streams to those who wait, and makes a connection if there are too few.
    fn serve_waiting(self: &Rc<Self>) {
        loop {
            if !self.is_waited_for() {
                return;
            }
            let Some(lease) = self.room() else { break };
            let waiter = self.waiting.borrow_mut().pop_front();
            // One who has gone gives the lease back, which comes here again.
            if let Some(waiter) = waiter {
                drop(waiter.send(Ok(Got::Stream(lease))));
            }
        }
        self.connect_more();
    }

    /// Makes a connection, unless one is being made, or there are enough, or the last takes no streams yet.
    fn connect_more(self: &Rc<Self>) {
        let is_one_unused = || self.connections.borrow().iter().any(|connection| !connection.used.get());
        if self.connecting.get() || self.has_enough() || is_one_unused() {
            return;
        }
        self.connecting.set(true);
        let pool = self.clone();
        // A task of its own: the request that asked for it may go away, and others wait.
        spawn_local(async move {
            let made = pool.connect().await;
            pool.connecting.set(false);
            match made {
                Ok(None) => pool.serve_waiting(),
                Ok(Some(wire)) => pool.tell_http1(wire),
                Err(error) => pool.tell_failed(error),
            }
        });
    }

    /// `Some` if the server chose HTTP/1.
    async fn connect(self: &Rc<Self>) -> Result<Option<Wire>, Error> {
        let connecting = async {
            match self.connector.connect(false, None).await? {
                (wire, Spoken::Http1) => Ok(Some(wire)),
                (wire, Spoken::Http2) => Connection::begin(wire, self).await.map(|connection| {
                    self.add(&connection);
                    None
                }),
            }
        };
        self.connector.connect_in_time(&self.config, connecting).await
    }

    /// False: there are enough, or it is at its end already.
    fn add(self: &Rc<Self>, connection: &Rc<Connection>) -> bool {
        if self.has_enough() {
            return false;
        }
        self.connections.borrow_mut().push(connection.clone());
        let is_open = connection.is_open();
        if !is_open {
            self.retire(connection);
        }
        is_open
    }

    fn has_enough(&self) -> bool {
        self.connections.borrow().len() >= self.config.max_http2_connections.max(1)
    }

    /// Takes in a connection that was made elsewhere, and gives a stream of it. `None`: it has none to give, or is
    /// one too many, and a stream is to be waited for.
    pub(super) async fn adopt(self: &Rc<Self>, wire: Wire) -> Result<Option<Lease>, Error> {
        let connection = self.begin(wire).await?;
        let lease = (self.add(&connection) && connection.has_room(self.config.max_streams))
            .then(|| self.lease(connection));
        self.serve_waiting();
        Ok(lease)
    }

    /// A stream of a connection that was made elsewhere and is for nobody else.
    pub(super) async fn alone(self: &Rc<Self>, wire: Wire) -> Result<Lease, Error> {
        Ok(self.lease(self.begin(wire).await?))
    }

    async fn begin(self: &Rc<Self>, wire: Wire) -> Result<Rc<Connection>, Error> {
        self.connector.connect_in_time(&self.config, Connection::begin(wire, self)).await
    }

    /// The first in line that is still there gets the connection, and the others make their own.
    fn tell_http1(&self, wire: Wire) {
        let mut got = Got::Http1(wire);
        for waiter in self.waiting.take() {
            if let Err(Ok(back)) = waiter.send(Ok(got)) {
                got = back;
            } else {
                got = Got::NotHttp2;
            }
        }
    }

    fn tell_failed(&self, error: Error) {
        for waiter in self.waiting.take() {
            // Who has gone needs no telling.
            drop(waiter.send(Err(error.again())));
        }
    }

    /// Gives a connection no more streams.
    fn retire(self: &Rc<Self>, connection: &Rc<Connection>) {
        self.connections.borrow_mut().retain(|other| !Rc::ptr_eq(other, connection));
        if !connection.used.get() {
            self.unused.set(self.unused.get() + 1);
        }
        if self.unused.get() >= MAX_UNUSED {
            self.unused.set(0);
            let cause = "its connections end before they take a request";
            self.tell_failed(Error::ClosedEarly(self.address().clone(), cause.into()));
        }
        self.serve_waiting();
    }

    pub(super) fn sweep(&self) {
        let now = self.sweep.get().wrapping_add(1);
        self.sweep.set(now);
        let is_kept = |connection: &Rc<Connection>| {
            connection.open.get() > 0 || now.wrapping_sub(connection.idle_since.get()) <= SWEEPS
        };
        let old: Vec<_> =
            self.connections.borrow_mut().extract_if(.., |connection| !is_kept(connection)).collect();
        drop(old);
    }
}

impl Lease {
    pub(in crate::proxy) fn server(&self) -> &ServerAddr {
        self.pool.address()
    }

    /// Whether the server is reached by TLS.
    pub(in crate::proxy) fn is_tls(&self) -> bool {
        self.pool.connector.is_tls()
    }

    /// Begins the stream.
    pub(in crate::proxy) fn send(
        &self,
        head: Request<()>,
        is_whole: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.connection.send(head, is_whole)
    }

    /// A mark of what has been written so far; see [`Lease::nothing_written_since`].
    pub(in crate::proxy) fn writes(&self) -> u64 {
        self.connection.moved.writes.get()
    }

    /// Whether nothing at all has been written to the connection since `mark`: so nothing of a stream that was
    /// begun then.
    pub(in crate::proxy) fn nothing_written_since(&self, mark: u64) -> bool {
        self.connection.moved.writes.get() == mark
    }

    /// How TLS broke, if that has ended the connection.
    pub(in crate::proxy) fn tls_failure(&self) -> Option<TlsFailure> {
        self.connection.moved.failure.borrow().clone()
    }

    /// Gives the connection no more streams: it has not taken this one.
    pub(in crate::proxy) fn retire(&self) {
        self.pool.retire(&self.connection);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let open = self.connection.open.get() - 1;
        self.connection.open.set(open);
        if open == 0 {
            self.connection.idle_since.set(self.pool.sweep.get());
            let connections = self.pool.connections.borrow();
            let idle = connections.iter().filter(|connection| connection.open.get() == 0).count();
            drop(connections);
            if idle > self.pool.config.max_idle {
                self.pool.connections.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.connection));
            }
        }
        self.pool.serve_waiting();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::TcpListener;
    use std::task::Poll;

    use tokio::task::LocalSet;

    use super::*;

    /// Requests that had given up stayed in line until a stream became free. Before a server whose streams are all
    /// long ones they were never taken out, and each new request went past all of them.
    #[tokio::test]
    async fn who_has_gone_is_not_in_line() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = ServerAddr::Socket(listener.local_addr().unwrap());
        let mut config = crate::app::defaults().proxy.connections;
        config.protocol = super::super::Protocol::Http2;
        let local = LocalSet::new();
        let waiting = local.run_until(async move {
            let connector =
                Rc::new(Connector::new(address, &config, super::super::metrics::Metrics::alone()));
            // Nobody there says a word.
            let pool = Pool::new(connector, Rc::new(config), Windows::default());
            for _ in 0..1000 {
                let mut stream = Box::pin(pool.stream());
                let is_pending = poll_fn(|cx| Poll::Ready(stream.as_mut().poll(cx).is_pending())).await;
                assert!(is_pending);
            }
            pool.waiting.borrow().len()
        });
        assert_eq!(waiting.await, 1, "only the last is there, who has gone since");
    }
}
