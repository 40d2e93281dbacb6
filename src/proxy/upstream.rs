//! The servers behind this proxy, and the connections to them.
//!
//! Each worker has its own: a connection is made, used and kept on one thread.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::{interval, timeout};

use super::body::RequestBody;
use super::error::Error;
use super::tunnel::TunnelStream;
use crate::restart::Stream;

/// Where a server is. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerAddr {
    /// An address and a port.
    Socket(SocketAddr),
    /// A Unix socket, written `unix:/path`.
    Unix(Arc<PathBuf>),
    /// A host name and a port, as in `app.internal:9000`; looked up at each connect, and its addresses are tried
    /// in the order given.
    Name(Arc<str>),
}

impl fmt::Display for ServerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerAddr::Socket(address) => write!(f, "{address}"),
            ServerAddr::Unix(path) => write!(f, "unix:{}", path.display()),
            ServerAddr::Name(name) => f.write_str(name),
        }
    }
}

impl ServerAddr {
    async fn connect(&self) -> io::Result<Stream> {
        match self {
            ServerAddr::Socket(address) => connect_tcp(*address).await,
            ServerAddr::Unix(path) => UnixStream::connect(&**path).await.map(Stream::Unix),
            ServerAddr::Name(name) => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for address in lookup_host(&**name).await? {
                    match connect_tcp(address).await {
                        Ok(stream) => return Ok(stream),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }
}

async fn connect_tcp(address: SocketAddr) -> io::Result<Stream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(Stream::Tcp(stream))
}

/// How connections to a server are made and kept.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    /// How long a connect may take, the look-up of a name included.
    pub connect_timeout: Duration,
    /// How many idle connections a worker keeps to each server.
    pub max_idle: usize,
    /// How long it keeps one that is not used. Should be less than what the server allows.
    pub idle_timeout: Duration,
    /// The longest head of an answer, in bytes.
    pub max_head_bytes: usize,
    /// The most that is buffered of one body in one direction, in bytes; at least 8192.
    pub buffer_bytes: usize,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        ConnectionConfig {
            connect_timeout: Duration::from_secs(5),
            max_idle: 128,
            idle_timeout: Duration::from_secs(30),
            max_head_bytes: 64 * 1024,
            buffer_bytes: 128 * 1024,
        }
    }
}

/// The least buffer that hyper takes; a smaller one makes it panic.
pub(crate) const MIN_BUFFER_BYTES: usize = 8192;

/// Idle connections are looked over this many times in each `idle_timeout`.
const SWEEPS: u32 = 4;

/// One server and the idle connections to it.
#[derive(Debug)]
pub(super) struct Server {
    address: ServerAddr,
    config: ConnectionConfig,
    builder: Builder,
    /// The one that was used last is on top: it is the likeliest to be alive, and the others can grow old.
    idle: RefCell<Vec<Idle>>,
    /// Counts the sweeps: a clock that costs nothing to read.
    sweep: Cell<u32>,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<RequestBody>,
    claim: Claim,
    since_sweep: u32,
}

/// Where a request that asks for a tunnel leaves word that it wants the connection itself, once HTTP is over.
type Claim = Rc<RefCell<Option<oneshot::Sender<TunnelStream>>>>;

/// A connection that is in use.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) sender: SendRequest<RequestBody>,
    claim: Claim,
    claimed: Option<oneshot::Receiver<TunnelStream>>,
    server: Rc<Server>,
}

impl Server {
    /// Must run within a `LocalSet`, on which the sweep of idle connections then lives as long as the server.
    pub(super) fn new(address: ServerAddr, config: ConnectionConfig) -> Rc<Self> {
        let mut builder = Builder::new();
        builder
            .max_header_size(config.max_head_bytes)
            .max_buf_size(config.buffer_bytes.max(config.max_head_bytes).max(MIN_BUFFER_BYTES));
        let period = (config.idle_timeout / SWEEPS).max(Duration::from_millis(1));
        let server =
            Rc::new(Server { address, config, builder, idle: RefCell::default(), sweep: Cell::new(0) });
        spawn_local(sweep(Rc::downgrade(&server), period));
        server
    }

    /// An idle connection that was alive when this thread last looked.
    pub(super) fn idle(self: &Rc<Self>) -> Option<Lease> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let Idle { sender, claim, .. } = idle.pop()?;
            // One that is not ready has been closed: it was ready when it was put here.
            if sender.is_ready() {
                return Some(Lease { sender, claim, claimed: None, server: self.clone() });
            }
        }
    }

    /// A new connection.
    pub(super) async fn connect(self: &Rc<Self>) -> Result<Lease, Error> {
        let stream = match timeout(self.config.connect_timeout, self.address.connect()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(cause)) => return Err(Error::Unreachable(self.address.clone(), cause)),
            Err(_) => return Err(Error::ConnectTimeout(self.address.clone())),
        };
        let (sender, mut connection) = self
            .builder
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|cause| Error::ClosedEarly(self.address.clone(), cause.into()))?;
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
        Ok(Lease { sender, claim, claimed: None, server: self.clone() })
    }

    fn sweep(&self) {
        let now = self.sweep.get().wrapping_add(1);
        self.sweep.set(now);
        self.idle
            .borrow_mut()
            .retain(|idle| !idle.sender.is_closed() && now.wrapping_sub(idle.since_sweep) <= SWEEPS);
    }
}

async fn sweep(server: Weak<Server>, period: Duration) -> Option<Infallible> {
    let mut ticks = interval(period);
    loop {
        ticks.tick().await;
        server.upgrade()?.sweep();
    }
}

impl Lease {
    pub(super) fn server(&self) -> &ServerAddr {
        &self.server.address
    }

    /// Asks for the connection itself, should the next answer on it end HTTP.
    pub(super) fn claim(&mut self) {
        let (sender, receiver) = oneshot::channel();
        self.claim.replace(Some(sender));
        self.claimed = Some(receiver);
    }

    /// The connection that was claimed. `None` if it broke as it was to be handed over.
    pub(super) async fn into_tunnel(self) -> Option<TunnelStream> {
        // It is handed over once hyper has nothing left to do, which the answer that ended HTTP made so.
        self.claimed?.await.ok()
    }

    /// Keeps the connection for the next request, if it can take one.
    pub(super) fn give_back(self) {
        let mut idle = self.server.idle.borrow_mut();
        // Not ready: it closes after this answer, or the request is still being sent to a server that has
        // answered already.
        if self.sender.is_ready() && idle.len() < self.server.config.max_idle {
            self.claim.take();
            idle.push(Idle { sender: self.sender, claim: self.claim, since_sweep: self.server.sweep.get() });
        }
    }
}
