//! An HTTP connection and its driver: who ended it, and whether anything was under way then.

use std::cell::{Cell, RefCell};
use std::error::Error as _;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context as Waker, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout_at};

use super::Context;
use super::body::Sent;
use super::connect::{Connected, NotConnected, class_of_end};
use crate::local::Local;
use crate::recorder::Peer;
use crate::scenario::Carrier;
use crate::witness::{Class, Disturbance, Log, Wire};

/// A connection that carries requests.
pub(super) struct Connection {
    sender: RefCell<Sender>,
    pub(super) state: Rc<State>,
    local_port: u16,
    connected: Instant,
}

/// What is known of a connection, by its driver and its users.
#[derive(Default)]
pub(super) struct State {
    /// What passed.
    pub(super) log: Rc<Log>,
    /// Exchanges begun on it.
    pub(super) exchanges: Cell<u32>,
    /// Exchanges under way.
    pub(super) in_flight: Cell<u32>,
    /// The proxy has said that it ends.
    pub(super) announced: Cell<bool>,
    /// We end it.
    pub(super) closing: Cell<bool>,
    /// It has ended.
    pub(super) over: Cell<bool>,
    /// It has been of use: an answer has come on it, or at least a word on the exchange alone.
    pub(super) served: Cell<bool>,
    /// An exchange has failed by its end.
    broke: Cell<bool>,
    /// That it was closed while idle has been counted.
    idle_counted: Cell<bool>,
    /// Tells the driver that nothing is under way any more.
    at_rest: Notify,
}

enum Sender {
    Http1(http1::SendRequest<Sent>),
    Http2(http2::SendRequest<Sent>),
}

impl State {
    /// Whether a new exchange may begin on it.
    pub(super) fn usable(&self) -> bool {
        let ends = self.over.get() || self.announced.get() || self.closing.get();
        !ends && self.log.end.get().is_none() && self.log.frames.goaway.get().is_none()
    }

    /// What broke an exchange of whose answer `seen` bytes had come; `stream` is its number on HTTP/2.
    pub(super) fn class_of(&self, error: &hyper::Error, stream: Option<u32>, seen: u64) -> Class {
        let last = self.log.frames.goaway.get();
        if stream.is_some_and(|stream| last.is_some_and(|last| stream > last)) {
            return Class::RefusedStream;
        }
        match reset(error) {
            // The connection goes on.
            Some((reason, by_peer)) => {
                self.served.set(true);
                match reason {
                    // By us, because what came on the stream was wrong.
                    _ if !by_peer => Class::Malformed,
                    h2::Reason::REFUSED_STREAM => Class::RefusedStream,
                    _ => Class::Reset,
                }
            }
            None => {
                self.broke.set(true);
                self.log.end.get().map_or(Class::Malformed, |end| class_of_end(end, seen))
            }
        }
    }

    /// What the end of a connection means for an exchange that was to be its first, and of which nothing was sent;
    /// nothing if the connection had served before, or the proxy had said that it ends: then the exchange has not begun.
    pub(super) fn class_of_unsent(&self) -> Option<Class> {
        if self.served.get() || self.log.frames.goaway.get().is_some() {
            return None;
        }
        self.broke.set(true);
        Some(self.log.end.get().map_or(Class::Malformed, |end| class_of_end(end, 0)))
    }

    /// It was closed at rest, without a word: counted once. One that was never of use was not at rest: whoever made it
    /// will find out.
    pub(super) fn closed_idle(&self, context: &Context, kind: usize) {
        let expected = self.announced.get() || self.closing.get() || self.log.frames.goaway.get().is_some();
        let at_rest = self.served.get() && !self.broke.get();
        if !expected && at_rest && !self.idle_counted.replace(true) {
            context.recorder.disturbed(kind, Disturbance::ClosedIdle);
        }
    }
}

impl Connection {
    /// Makes one for the `kind`th traffic, and spawns its driver.
    async fn open(
        context: &Rc<Context>,
        kind: usize,
        carrier: Carrier,
        deadline: Instant,
    ) -> Result<Rc<Connection>, NotConnected> {
        let connected = context.connect(kind, carrier, deadline).await?;
        Connection::on(context, kind, connected, carrier == Carrier::Http2).await
    }

    /// Speaks HTTP/1 or HTTP/2 on a stream, and spawns its driver.
    async fn on(
        context: &Rc<Context>,
        kind: usize,
        connected: Connected,
        http2: bool,
    ) -> Result<Rc<Connection>, NotConnected> {
        let Connected { stream, local_port, at, .. } = connected;
        let state = Rc::new(State::default());
        let wire = TokioIo::new(Wire::new(stream, Rc::clone(&state.log), http2));
        let no_http = |error: hyper::Error| {
            let class = state.log.end.get().map_or(Class::Malformed, |end| class_of_end(end, 0));
            context.recorder.not_connected(kind, class);
            let peer = Some(Peer { local_port, connected: at, reused: false });
            NotConnected { class, peer, detail: describe(&error) }
        };
        let sender = if http2 {
            let mut builder = http2::Builder::new(Local);
            builder.timer(TokioTimer::new());
            let (sender, connection) = builder.handshake(wire).await.map_err(no_http)?;
            drive(context, kind, &state, connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::Builder::new().handshake(wire).await.map_err(no_http)?;
            drive(context, kind, &state, connection);
            Sender::Http1(sender)
        };
        Ok(Rc::new(Connection { sender: RefCell::new(sender), state, local_port, connected: at }))
    }

    /// Who it is, for an exchange that is about to begin.
    pub(super) fn peer(&self) -> Peer {
        Peer {
            local_port: self.local_port,
            connected: self.connected,
            reused: self.state.exchanges.get() > 0,
        }
    }

    /// An exchange begins; it is under way until what is given back is dropped.
    pub(super) fn begin(&self, carrier: Carrier) -> UnderWay {
        let state = Rc::clone(&self.state);
        state.in_flight.set(state.in_flight.get() + 1);
        let before = state.exchanges.get();
        state.exchanges.set(before + 1);
        UnderWay { state, stream: (carrier == Carrier::Http2).then_some(2 * before + 1) }
    }

    /// When a request may be sent; an error if the connection is over.
    pub(super) async fn ready(&self) -> Result<(), hyper::Error> {
        poll_fn(|context| self.poll_ready(context)).await
    }

    fn poll_ready(&self, context: &mut Waker<'_>) -> Poll<Result<(), hyper::Error>> {
        match &mut *self.sender.borrow_mut() {
            Sender::Http1(sender) => sender.poll_ready(context),
            Sender::Http2(sender) => sender.poll_ready(context),
        }
    }

    /// Sends a request; it comes back if nothing of it was sent.
    pub(super) fn send(
        &self,
        request: Request<Sent>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Sent>>>> + use<> {
        let sent = match &mut *self.sender.borrow_mut() {
            Sender::Http1(sender) => Ok(sender.try_send_request(request)),
            Sender::Http2(sender) => Err(sender.try_send_request(request)),
        };
        async move {
            match sent {
                Ok(http1) => http1.await,
                Err(http2) => http2.await,
            }
        }
    }
}

/// An exchange under way on a connection.
pub(super) struct UnderWay {
    state: Rc<State>,
    /// The number of its stream, on HTTP/2: they are given out in order, odd ones to clients (RFC 9113, section 5.1.1).
    pub(super) stream: Option<u32>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let left = self.state.in_flight.get() - 1;
        self.state.in_flight.set(left);
        if left == 0 {
            self.state.at_rest.notify_one();
        }
    }
}

/// Why the stream was reset, if it was, and whether it was the peer who did it.
fn reset(error: &hyper::Error) -> Option<(h2::Reason, bool)> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.reason().filter(|_| error.is_reset()).map(|reason| (reason, error.is_remote()));
        }
        cause = error.source();
    }
    None
}

/// Runs the connection until it ends, and counts how.
fn drive(
    context: &Rc<Context>,
    kind: usize,
    state: &Rc<State>,
    connection: impl Future<Output = Result<(), hyper::Error>> + 'static,
) {
    let (context, state) = (Rc::clone(context), Rc::clone(state));
    let ready = context.recorder.now().moment().ready;
    context.recorder.connected(ready);
    spawn_local(async move {
        let mut goaway = false;
        let ended = {
            let mut connection = pin!(connection);
            poll_fn(|waker| {
                let polled = connection.as_mut().poll(waker);
                if !goaway && state.log.frames.goaways.get() > 0 {
                    goaway = true;
                    context.recorder.disturbed(kind, Disturbance::GoAway);
                }
                polled
            })
            .await
        };
        // Dropped by now: a request that was handed over as it ended comes back only with that.
        state.over.set(true);
        let by_peer = state.log.end.get().is_some();
        let expected = state.announced.get() || state.closing.get() || goaway;
        // The end may come with the last answer, which is then still being read: whether an exchange failed by it is not
        // known before.
        while state.in_flight.get() > 0 {
            state.at_rest.notified().await;
        }
        // An error without an end: something came that nobody had asked for.
        if by_peer || ended.is_err() {
            state.closed_idle(&context, kind);
        }
        context.recorder.disconnected(kind, ready, by_peer && !expected);
    });
}

/// An error with its causes, in one line.
pub(super) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}

/// A connection of a user, or of several on HTTP/2, that is made when it is needed and made anew when it is gone.
pub(super) struct Slot {
    kind: usize,
    carrier: Carrier,
    connection: RefCell<Option<Rc<Connection>>>,
    connecting: tokio::sync::Mutex<()>,
    /// Whether a connection that is made now takes the place of one that we did not close.
    anew: Cell<bool>,
}

impl Slot {
    pub(super) fn new(kind: usize, carrier: Carrier) -> Slot {
        Slot {
            kind,
            carrier,
            connection: RefCell::default(),
            connecting: tokio::sync::Mutex::default(),
            anew: Cell::default(),
        }
    }

    /// The traffic that it is for.
    pub(super) fn kind(&self) -> usize {
        self.kind
    }

    /// The connection turned out to be over when an exchange was about to begin on it.
    pub(super) fn gone(&self, context: &Context, connection: &Rc<Connection>) {
        connection.state.over.set(true);
        connection.state.closed_idle(context, self.kind);
    }

    /// The connection that is there, if it can be used.
    fn current(&self) -> Option<Rc<Connection>> {
        self.connection.borrow().as_ref().filter(|connection| connection.state.usable()).cloned()
    }

    /// A connection that can be used.
    pub(super) async fn get(
        &self,
        context: &Rc<Context>,
        deadline: Instant,
    ) -> Result<Rc<Connection>, NotConnected> {
        match self.current() {
            Some(connection) => Ok(connection),
            None => {
                let made = timeout_at(deadline, self.make(context, deadline)).await;
                made.unwrap_or_else(|_| Err(NotConnected::late()))
            }
        }
    }

    async fn make(&self, context: &Rc<Context>, deadline: Instant) -> Result<Rc<Connection>, NotConnected> {
        // Only one makes it; the others wait for it.
        let _connecting = self.connecting.lock().await;
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        self.connection.borrow_mut().take();
        let connection = Connection::open(context, self.kind, self.carrier, deadline).await?;
        if self.anew.replace(true) {
            context.recorder.disturbed(self.kind, Disturbance::Reconnect);
        }
        *self.connection.borrow_mut() = Some(Rc::clone(&connection));
        Ok(connection)
    }

    /// Gives the connection up, of our own will: it ends when nothing is under way on it.
    pub(super) fn close(&self) {
        if let Some(connection) = self.connection.borrow_mut().take() {
            connection.state.closing.set(true);
        }
        self.anew.set(false);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Shutdown, TcpListener};
    use std::sync::Arc;
    use std::time::Duration;

    use rustls::RootCertStore;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;
    use tokio::sync::mpsc::unbounded_channel;
    use tokio::sync::watch;
    use tokio::task::{LocalSet, yield_now};
    use tokio::time::timeout;

    use super::*;
    use crate::content::Content;
    use crate::now::Now;
    use crate::recorder::Recorder;
    use crate::scenario::{DEFAULT, Scenario};
    use crate::traffic::{Connector, Order, Targets};

    /// The server's SETTINGS and its acknowledgement of ours; then GOAWAY, of no stream that it does not take.
    const OPENING: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0];
    const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];

    fn context() -> Rc<Context> {
        let scenario = Scenario::parse(DEFAULT).unwrap();
        let recorder = || {
            let (begun, slice) = (Instant::now(), Duration::from_secs(1));
            Rc::new(Recorder::new(Now::new(begun), &scenario, slice, unbounded_channel().0))
        };
        let targets = Targets { plain: None, tls: None, name: "localhost".into() };
        Rc::new(Context {
            recorder: recorder(),
            aside: recorder(),
            connector: Rc::new(Connector::new(targets, &Arc::new(RootCertStore::empty())).unwrap()),
            timeout: scenario.timeout,
            end: Instant::now() + scenario.duration,
            orders: watch::channel(Order::Go).1,
        })
    }

    /// A stream, and the server's end of it.
    async fn pair() -> (TcpStream, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (stream, listener.accept().unwrap().0)
    }

    /// A request that was handed over just before its connection's driver saw the end was never sent and never came
    /// back: the ended connection was kept until nothing was under way on it, and what waited inside it was. Both waited
    /// for the timeout, which then was the proxy's.
    async fn handed_over_at_the_end(http2: bool) {
        let context = context();
        let (stream, mut server) = pair().await;
        let (mut bell, mut ringer) = pair().await;
        let connected =
            Connected { stream: Box::new(stream), local_port: 1, at: Instant::now(), unresumed: false };
        if http2 {
            server.write_all(OPENING).unwrap();
        }
        let connection = Connection::on(&context, 0, connected, http2).await.unwrap();
        connection.ready().await.unwrap();
        let user = spawn_local(async move {
            bell.read_exact(&mut [0]).await.unwrap();
            let carrier = if http2 { Carrier::Http2 } else { Carrier::Http1 };
            let under_way = connection.begin(carrier);
            let request = Request::get("http://localhost/").body(Sent::Left(Content::empty())).unwrap();
            let answer = connection.send(request).await;
            drop(under_way);
            answer.map(drop).map_err(|mut error| error.take_message().is_some())
        });
        for _ in 0..10 {
            yield_now().await;
        }
        // The runtime hears of both at once, of the user's bell first: the request is handed over, then the driver sees
        // the end.
        ringer.write_all(b"!").unwrap();
        if http2 {
            server.write_all(GOAWAY).unwrap();
        } else {
            server.shutdown(Shutdown::Write).unwrap();
        }
        let came_back = timeout(Duration::from_secs(20), user).await.expect("it waits for ever").unwrap();
        assert_eq!(came_back, Err(true), "nothing of it was sent");
    }

    #[tokio::test]
    async fn a_request_that_meets_the_end_of_its_connection_comes_back() {
        LocalSet::new().run_until(handed_over_at_the_end(false)).await;
        LocalSet::new().run_until(handed_over_at_the_end(true)).await;
    }
}
