//! An accept loop that pauses, resumes, empties its queue before it closes, and never ends for an error.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

use super::address::ListenAddr;
use super::state::Phase;
use super::sys;
use super::tracker::Tracker;
use super::view::{View, Viewer};

/// Who accepts on a listener while two generations live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Clients: the generation that is ready accepts.
    Public,
    /// Operators: the owner accepts, and goes on while it stops.
    Owner,
}

/// One listening socket of a worker.
#[derive(Debug)]
pub struct Listener {
    pub(crate) name: Arc<str>,
    pub(crate) address: ListenAddr,
    pub(crate) audience: Audience,
    pub(crate) socket: OwnedFd,
    /// Whether a service manager holds the socket, too.
    pub(crate) lent: bool,
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The name of the listener.
    pub listener: Arc<str>,
    /// The connection.
    pub stream: Stream,
    /// The peer's address; `None` on a Unix socket.
    pub peer: Option<SocketAddr>,
}

/// A connected stream socket.
#[derive(Debug)]
pub enum Stream {
    /// TCP, without Nagle's delay.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

/// How long after an accept queue was found empty a listener that goes away is kept, so that handshakes
/// that had begun reach the queue. Nothing tells of them: the kernel shows only those that are complete.
const HALF_OPEN_GRACE: Duration = Duration::from_millis(250);

/// How long emptying an accept queue may take: neighbours that send with the highest time to live get in
/// all the same, and must not keep the listener open for ever.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause after an error that the next call would meet again, such as EMFILE.
const BACK_OFF: Duration = Duration::from_millis(50);

/// What an accept loop may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    Paused,
    /// Accept what waits, then close: no other generation will.
    Empty,
    Closed,
}

impl Listener {
    fn gate(&self, view: &View) -> Gate {
        let leaving = view.is_leaving(&self.name);
        match (self.audience, view.phase) {
            (_, Phase::Cut | Phase::Gone) => Gate::Closed,
            (_, Phase::Starting) => Gate::Paused,
            // A stopping owner still answers; one that was succeeded does not.
            (Audience::Owner, Phase::Draining) if leaving => Gate::Open,
            (Audience::Owner, Phase::Draining) => Gate::Closed,
            (Audience::Owner, phase) if phase.owns() => Gate::Open,
            (Audience::Owner, _) => Gate::Paused,
            (Audience::Public, phase) if phase.drains() && leaving => Gate::Empty,
            (Audience::Public, Phase::Draining) => Gate::Closed,
            (Audience::Public, Phase::RolledBack) => Gate::Paused,
            (Audience::Public, phase) if phase.accepts() || leaving => Gate::Open,
            (Audience::Public, _) => Gate::Paused,
        }
    }

    /// Accepts for as long as the phase allows and hands each connection to `accepted`; waits while
    /// `tracker` holds `limit` connections. `settled` is told the sequence number of each view in which
    /// nothing is accepted, and [`u64::MAX`] at the end.
    ///
    /// While it is paused the socket is in no epoll set, so that a connection wakes only the process that
    /// will accept it.
    pub(crate) async fn run(
        self,
        mut viewer: Viewer,
        tracker: &Tracker,
        limit: usize,
        settled: impl Fn(u64),
        accepted: impl Fn(Accepted),
    ) {
        loop {
            let (gate, sequence) = {
                let view = viewer.borrow_and_update();
                (self.gate(&view), view.sequence)
            };
            match gate {
                Gate::Closed => break,
                Gate::Paused => {
                    settled(sequence);
                    if viewer.changed().await.is_err() {
                        break;
                    }
                }
                Gate::Open => {
                    let changed = async {
                        loop {
                            if viewer.changed().await.is_err() || self.gate(&viewer.borrow()) != Gate::Open {
                                return;
                            }
                        }
                    };
                    tokio::select! {
                        biased;
                        () = changed => {}
                        () = self.accept_all(tracker, limit, &accepted) => {}
                    }
                }
                Gate::Empty if self.lent => {
                    self.take_waiting(tracker, &accepted).await;
                    break;
                }
                Gate::Empty => {
                    self.empty(tracker, &accepted).await;
                    break;
                }
            }
        }
        settled(u64::MAX);
    }

    /// Accepts until it is dropped.
    async fn accept_all(&self, tracker: &Tracker, limit: usize, accepted: &impl Fn(Accepted)) {
        loop {
            match self.register() {
                Ok(socket) => loop {
                    tracker.has_room(limit).await;
                    self.accept_one(&socket, tracker, accepted).await;
                },
                Err(error) => self.back_off(tracker, &error).await,
            }
        }
    }

    /// Accepts what is in the queue, and lets nothing new in.
    async fn empty(&self, tracker: &Tracker, accepted: &impl Fn(Accepted)) {
        // A SYN that is dropped is sent again, and then refused; one that was let in would be reset. A Unix
        // socket has lost its name by now, so nobody finds it any more.
        self.demand_ttl(self.socket.as_fd(), u8::MAX);
        let socket = loop {
            match self.register() {
                Ok(socket) => break socket,
                // Descriptors come back as connections end; to give up would reset the queue.
                Err(error) => self.back_off(tracker, &error).await,
            }
        };
        let accepted = |connection: Accepted| {
            // A handshake that ended just now has what the listener demands.
            self.demand_ttl(connection.stream.as_fd(), 0);
            accepted(connection);
        };
        let emptied = async {
            while timeout(HALF_OPEN_GRACE, self.accept_one(&socket, tracker, &accepted)).await.is_ok() {}
        };
        if timeout(EMPTY_TIMEOUT, emptied).await.is_err() {
            tracing::warn!(listener = %self.name, "connections keep coming to a listener that must close");
        }
    }

    /// Lets the kernel drop what comes with a lower time to live, which is everything that a router or this
    /// machine's loopback has passed on when `least` is the highest.
    fn demand_ttl(&self, socket: BorrowedFd<'_>, least: u8) {
        if let ListenAddr::Tcp(address) = self.address
            && let Err(error) = sys::set_min_ttl(socket, address.is_ipv6(), least)
        {
            tracing::warn!(listener = %self.name, %error, "cannot stop new connections before the listener closes");
        }
    }

    /// Accepts what is in the queue at this moment and does nothing to the socket. If a service manager has
    /// it too, what comes later waits there for the next process.
    async fn take_waiting(&self, tracker: &Tracker, accepted: &impl Fn(Accepted)) {
        let Ok(socket) = self.register() else { return };
        let waits = || {
            let mut this = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            poll(&mut this, PollTimeout::ZERO) == Ok(1)
        };
        // Another worker with the same socket may be quicker: nothing comes then.
        while waits() && timeout(HALF_OPEN_GRACE, self.accept_one(&socket, tracker, accepted)).await.is_ok() {
        }
    }

    fn register(&self) -> io::Result<Socket> {
        let socket = self.socket.try_clone()?;
        match self.address {
            ListenAddr::Tcp(_) => TcpListener::from_std(socket.into()).map(Socket::Tcp),
            ListenAddr::Unix(_) => UnixListener::from_std(socket.into()).map(Socket::Unix),
        }
    }

    async fn accept_one(&self, socket: &Socket, tracker: &Tracker, accepted: &impl Fn(Accepted)) {
        let result = match socket {
            Socket::Tcp(socket) => socket.accept().await.map(|(stream, peer)| {
                // Answers are written whole; waiting for more to send only delays them.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY: the peer is gone already");
                }
                (Stream::Tcp(stream), Some(peer))
            }),
            Socket::Unix(socket) => socket.accept().await.map(|(stream, _)| (Stream::Unix(stream), None)),
        };
        match result {
            Ok((stream, peer)) => accepted(Accepted { listener: self.name.clone(), stream, peer }),
            Err(error) if is_of_one_connection(&error) => {
                tracing::debug!(listener = %self.name, %error, "a connection was gone before it was accepted");
            }
            Err(error) => self.back_off(tracker, &error).await,
        }
    }

    async fn back_off(&self, tracker: &Tracker, error: &io::Error) {
        if tracker.accept_failed().is_power_of_two() {
            tracing::warn!(listener = %self.name, %error, "cannot accept; trying again");
        }
        sleep(BACK_OFF).await;
    }
}

/// Whether an error of accept(2) concerns only the connection that would have been accepted: those that
/// its man page tells to treat like EAGAIN, as the network hands its own errors through.
fn is_of_one_connection(error: &io::Error) -> bool {
    let Some(code) = error.raw_os_error() else { return false };
    matches!(
        Errno::from_raw(code),
        Errno::ECONNABORTED
            | Errno::ECONNRESET
            | Errno::EPROTO
            | Errno::EPERM
            | Errno::EINTR
            | Errno::ENETDOWN
            | Errno::ENOPROTOOPT
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::EHOSTUNREACH
            | Errno::EOPNOTSUPP
            | Errno::ENETUNREACH
            | Errno::ETIMEDOUT
    )
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

/// How many bytes have arrived that nobody has read (`FIONREAD`).
pub fn unread_bytes(stream: &impl AsFd) -> io::Result<usize> {
    sys::unread_bytes(stream.as_fd())
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [alone] = bufs {
            // As send(2), which costs the kernel less than writev(2).
            return self.poll_write(cx, alone);
        }
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket keeps nothing back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
