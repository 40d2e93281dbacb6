//! A thread that serves connections: its runtime, its listening sockets, its upstream connections.
//!
//! Invariant: what a request touches belongs to the thread that accepted it. There are no locks here, and no
//! future is `Send`.

use std::io;
use std::rc::Rc;

use tokio::runtime::Builder;
use tokio::task::{LocalSet, spawn_local};

use crate::proxy::{self, Proxy};
use crate::restart::{Accepted, Kind, Kinds, Listener, Member};
use crate::server::{self, Server};

/// The kinds of connections that a worker has.
pub const KINDS: Kinds = &["http1", "tunnel"];

/// Connections that speak HTTP/1.
pub const HTTP1: Kind = Kind(0);

/// Connections that were HTTP/1 and carry something else now.
pub const TUNNEL: Kind = Kind(1);

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
    /// Its place in the process.
    pub member: Member,
    /// The sockets it accepts on.
    pub listeners: Vec<Listener>,
}

impl Worker {
    /// Runs on this thread until the process has drained or what is left is to be cut. An error means that it
    /// could not begin.
    pub fn run(self) -> io::Result<()> {
        let Worker { config, member, listeners } = self;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let tasks = LocalSet::new();
        let tracker = member.tracker();
        let serving = async {
            let server = Rc::new(Server::new(config.server, Proxy::new(&config.proxy)));
            let begin = {
                let tracker = tracker.clone();
                move |accepted: Accepted| {
                    let (server, guard) = (server.clone(), tracker.begin(HTTP1));
                    spawn_local(async move { server.serve(accepted, guard).await });
                }
            };
            member.attend(&tracker, listeners, config.max_connections, begin).await;
        };
        tasks.block_on(&runtime, serving);
        // In this order: the connections that are cut count themselves before the member says it has left.
        drop(tasks);
        drop(member);
        Ok(())
    }
}
