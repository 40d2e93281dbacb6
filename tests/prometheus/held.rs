//! Connections that have something in flight, or rest, until their process is no more.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use http::Request;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::{JoinSet, LocalSet, spawn_local};

use super::load::Both;
use super::traffic::{Client, Made};

/// Requests in flight by HTTP/1, each on a connection of its own.
pub const REQUESTS: u64 = 3;
/// Connections of HTTP/1 that rest after one answer.
pub const IDLE: u64 = 2;
/// Requests in flight on the one connection of HTTP/2.
pub const STREAMS: u64 = 4;

/// Far longer than the test takes.
const FOREVER: &str = "/slow?ms=600000";

/// The connections, all of one generation.
pub struct Held {
    generation: u64,
    busy: Vec<Client>,
    idle: Vec<Client>,
    multiplexed: JoinHandle<usize>,
}

impl Held {
    /// Makes them. They count as load, too: as many as rest have been answered.
    pub fn open(address: SocketAddr) -> (Held, Both) {
        let connect = |_| Client::connect(address).unwrap();
        let mut idle: Vec<Client> = (0..IDLE).map(connect).collect();
        let answered = idle.iter_mut().map(|client| client.get("/").unwrap().generation());
        let generations: Vec<u64> = answered.collect();
        let generation = generations[0];
        assert!(generations.iter().all(|one| *one == generation), "{generations:?}");
        let mut busy: Vec<Client> = (0..REQUESTS).map(connect).collect();
        busy.iter_mut().for_each(|client| client.ask(FOREVER).unwrap());
        let (multiplexed, sent) = multiplexed(address);
        sent.recv().unwrap();
        let made = Both {
            http1: Made { answered: IDLE, connections: IDLE + REQUESTS },
            http2: Made { answered: 0, connections: 1 },
        };
        (Held { generation, busy, idle, multiplexed }, made)
    }

    /// Whose they are.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// All of them have ended without an answer.
    #[track_caller]
    pub fn have_failed(self) {
        for mut client in self.busy {
            assert!(client.response().is_err(), "who has answered that?");
        }
        for mut client in self.idle {
            assert!(client.at_end().unwrap_or(true), "it was never asked");
        }
        assert_eq!(self.multiplexed.join().unwrap() as u64, STREAMS);
    }
}

/// One connection of HTTP/2 with requests in flight; gives how many of them have failed in the end.
fn multiplexed(address: SocketAddr) -> (JoinHandle<usize>, Receiver<()>) {
    let (tell, sent) = channel();
    let asking = async move {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
        spawn_local(connection);
        let mut answers = JoinSet::new();
        for _ in 0..STREAMS {
            let ready = std::future::poll_fn(|cx| send.poll_ready(cx));
            ready.await.unwrap();
            let request = Request::get(format!("http://test{FOREVER}")).body(()).unwrap();
            answers.spawn_local(send.send_request(request, true).unwrap().0);
        }
        tell.send(()).unwrap();
        answers.join_all().await.iter().filter(|answer| answer.is_err()).count()
    };
    let thread = std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, asking)
    });
    (thread, sent)
}
