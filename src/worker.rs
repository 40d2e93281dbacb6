//! A thread that serves connections: its runtime, its listening sockets, its upstream connections.
//!
//! Invariant: what a request touches belongs to the thread that accepted it. There are no locks here, and no
//! future is `Send`.

use std::io;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::task::spawn_local;

use crate::proxy::{self, Metrics, Proxy};
use crate::restart::{Accepted, Listener, Member};
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

/// One worker, before it runs.
#[derive(Debug)]
pub struct Worker {
    /// What it does.
    pub config: Config,
    /// Where its requests are counted.
    pub columns: proxy::Columns,
    /// Its place in the process.
    pub member: Member,
    /// The sockets it accepts on.
    pub listeners: Vec<Listener>,
}

impl Worker {
    /// Starts it on a thread of its own, where it runs until the process ends or what is left is to be cut. An error
    /// is that it cannot begin.
    pub fn start(self, name: &str) -> io::Result<JoinHandle<()>> {
        // The runtime cannot leave the thread, and that it could not be built must be known before `Ready`.
        let (begin, begun) = mpsc::channel();
        let run = move || {
            let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            let (runtime, result) = match runtime {
                Ok(runtime) => (Some(runtime), Ok(())),
                Err(error) => (None, Err(error)),
            };
            // Whoever would hear it waits for it.
            begin.send(result).ok();
            if let Some(runtime) = runtime {
                self.run(runtime);
            }
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        begun.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
        Ok(thread)
    }

    fn run(self, runtime: LocalRuntime) {
        let Worker { config, columns, member, listeners } = self;
        let tracker = member.tracker();
        let serving = async {
            let proxy = Proxy::new(&config.proxy, Metrics::new(columns, member.shard()));
            let server = Rc::new(Server::new(config.server, proxy.clone()));
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
        };
        runtime.block_on(serving);
        // In this order: the connections that are cut count themselves before the member says it has left. A look-up
        // of a name is not waited for.
        runtime.shutdown_background();
        drop(member);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::restart::{Counts, End, ListenAddr, ListenOptions, Listeners, Phase, Plan, View};

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
        let columns = proxy::Columns::plan(&mut plan);
        let counts = Counts::beside(plan, server::KINDS, 1);
        let worker = Worker {
            config: Config {
                server: server::Config::default(),
                proxy: proxy::Config {
                    servers: vec![proxy::ServerAddr::Socket(upstream)],
                    ..proxy::Config::default()
                },
                max_connections: 100,
            },
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
