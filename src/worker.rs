//! A thread that serves connections: its runtime, its listening sockets, its upstream connections.
//!
//! Invariant: what a request touches belongs to the thread that accepted it. There are no locks here, and no
//! future is `Send`.

use std::io;
use std::rc::Rc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep_until};

use crate::metrics::{Family, NANOSECONDS, Source};
use crate::proxy::{self, Proxy};
use crate::restart::{Accepted, Histogram, Listener, Member, Plan, Shard};
use crate::server::{self, Server};

/// What a worker does.
#[derive(Clone, Debug)]
pub struct Config {
    /// How it serves clients.
    pub server: server::Config,
    /// Where it takes the answers from.
    pub proxy: proxy::Config,
    /// How many connections may be open at once; more wait in the accept queue.
    pub max_connections: usize,
}

/// The places of all that a worker counts.
#[derive(Clone, Debug)]
pub struct Columns {
    proxy: proxy::Columns,
    server: server::Columns,
    lag: Histogram,
}

impl Columns {
    /// Plans them, with these names for the servers, in the order of [`proxy::Config::servers`].
    pub fn plan(plan: &mut Plan, servers: &[String]) -> Columns {
        Columns {
            proxy: proxy::Columns::plan(plan, servers),
            server: server::Columns::plan(plan),
            lag: plan.histogram("worker_lag", &[], &LAGS),
        }
    }
}

/// The metrics of all that a worker counts.
pub fn families() -> impl Iterator<Item = Family> {
    [proxy::FAMILIES, proxy::UPSTREAM_FAMILIES, server::FAMILIES, FAMILIES].into_iter().flatten().copied()
}

const FAMILIES: &[Family] = &[Family {
    name: "worker_lag_seconds",
    help: "How late a timer fires on the threads that serve, looked at every half second: how long everything else waits.",
    source: Source::Histogram("worker_lag", NANOSECONDS),
}];

/// The upper bounds of lags in nanoseconds. A timer is rounded up to a millisecond.
const LAGS: [u64; 8] =
    [2_000_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000, 100_000_000, 500_000_000, 2_000_000_000];

const LAG_PERIOD: Duration = Duration::from_millis(500);

async fn measure_lag(lag: Histogram, shard: Shard) {
    loop {
        let due = Instant::now() + LAG_PERIOD;
        sleep_until(due).await;
        shard.observe_since(&lag, due);
    }
}

/// One worker, before it runs.
#[derive(Debug)]
pub struct Worker {
    /// What it does.
    pub config: Config,
    /// Where it counts.
    pub columns: Columns,
    /// Its place in the process.
    pub member: Member,
    /// The sockets it accepts on.
    pub listeners: Vec<Listener>,
}

impl Worker {
    /// Starts it on a thread of its own, where it runs until the process ends or what is left is to be cut. An error
    /// is that it cannot begin.
    pub fn start(self, name: &str) -> io::Result<JoinHandle<()>> {
        // The runtime first, here: a thread that cannot begin would be found out only after `Ready`.
        let runtime = Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name(name.to_owned()).spawn(move || self.run(&runtime))
    }

    fn run(self, runtime: &Runtime) {
        let Worker { config, columns, member, listeners } = self;
        let tasks = LocalSet::new();
        let tracker = member.tracker();
        let serving = async {
            let shard = member.shard();
            spawn_local(measure_lag(columns.lag, shard.clone()));
            let requests = proxy::Metrics::with_milestone(columns.proxy, shard.clone(), member.milestone());
            let proxy = Proxy::new(&config.proxy, requests);
            let metrics = server::Metrics::new(columns.server, shard);
            let server = Rc::new(Server::new(config.server, proxy.clone(), metrics.clone()));
            let begin = {
                let tracker = tracker.clone();
                move |accepted: Accepted| {
                    let guard = tracker.begin(server.first_kind(&accepted.listener));
                    let server = server.clone();
                    spawn_local(async move { server.serve(accepted, guard).await });
                }
            };
            member.attend(&tracker, listeners, config.max_connections, begin).await;
            proxy.cut();
            metrics.cut();
        };
        tasks.block_on(runtime, serving);
        // In this order: the connections that are cut count themselves before the member says it has left. A connection
        // goes before its streams, which are later tasks: what is cut must not be told that only a stream has ended. A
        // runtime's own tasks (`tokio::runtime::LocalRuntime`) do not end in the order in which they began.
        drop(tasks);
        drop(member);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::Arc;
    use std::thread;

    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::restart::{Counts, End, ListenAddr, ListenOptions, Listeners, Phase, View};

    /// Answers one request on each connection: `/endless` with an answer that does not end.
    fn upstream() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept() {
                let mut request = [0; 4096];
                let n = stream.read(&mut request).unwrap();
                let endless = String::from_utf8_lossy(&request[..n]).contains("/endless");
                let length = if endless { 100 } else { 2 };
                write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\nok")
                    .unwrap();
                open.push(stream);
            }
        });
        address
    }

    #[test]
    fn a_worker_serves_until_it_is_cut_and_counts_what_it_drops() {
        let upstream = upstream();
        let mut listeners = Listeners::new(Vec::new());
        let wanted = ListenAddr::Tcp(([127, 0, 0, 1], 0).into());
        let ListenAddr::Tcp(address) = listeners.open("http", &wanted, &ListenOptions::default()).unwrap()
        else {
            panic!("not a TCP address");
        };
        let (view, viewer) = watch::channel(View { phase: Phase::Serving, ..View::starting() });
        let (reports, mut reported) = mpsc::unbounded_channel();
        let mut plan = Plan::default();
        let columns = Columns::plan(&mut plan, &[upstream.to_string()]);
        let counts = Counts::beside(plan, server::KINDS, 1);
        let mut config = crate::app::defaults();
        config.proxy.servers = vec![proxy::ServerAddr::Socket(upstream)];
        let worker = Worker {
            config,
            columns,
            member: Member::new(0, viewer, Arc::clone(&counts), reports),
            listeners: listeners.share("http", 0, 1).unwrap(),
        };
        let thread = worker.start("worker").unwrap();

        let connect = |target: &str| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
            stream
        };
        let mut idle = connect("/");
        let mut answer = [0; 15];
        idle.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        // The head is there, so it is in flight.
        let mut busy = connect("/endless");
        busy.read_exact(&mut answer).unwrap();

        view.send_modify(|view| view.phase = Phase::Cut);
        thread.join().unwrap();
        assert!(std::iter::from_fn(|| reported.blocking_recv()).count() > 0);
        let status = counts.by_kind().swap_remove(server::HTTP1.0);
        assert_eq!((status.began, status.open, status.active), (2, 0, 0));
        assert_eq!(status.ends, [(End::DroppedInFlight, 1), (End::DroppedIdle, 1)]);
    }
}
