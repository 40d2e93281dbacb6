//! Clients that speak HTTP/2 and keep sending. They obey GOAWAY: a stream that the server says it has not looked at
//! (RFC 9113, section 6.8) is sent again on a new connection. Whatever else fails has failed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::{JoinSet, LocalSet, spawn_local};
use tokio::time::timeout;

use super::harness::{PATIENCE, eventually};
use super::traffic::Made;

/// Connections on threads of their own, each with several streams at once.
pub struct Multiplexed {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
    connections: AtomicU64,
    highest: AtomicU64,
}

/// Why a request has no answer.
enum Unanswered {
    /// It was not looked at: another connection is to be used.
    GoneAway,
    Failed(String),
}

impl From<h2::Error> for Unanswered {
    fn from(error: h2::Error) -> Self {
        let told = error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR);
        if told { Unanswered::GoneAway } else { Unanswered::Failed(format!("{error:?}")) }
    }
}

impl Multiplexed {
    pub fn start(address: SocketAddr, connections: usize, streams: usize) -> Multiplexed {
        let shared = Arc::new(Shared::default());
        let threads = (0..connections).map(|_| {
            let shared = shared.clone();
            std::thread::spawn(move || {
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                LocalSet::new().block_on(&runtime, shared.run(address, streams))
            })
        });
        let traffic = Multiplexed { threads: threads.collect(), shared };
        traffic.reaches(1);
        traffic
    }

    /// Waits until a generation has answered.
    #[track_caller]
    pub fn reaches(&self, generation: u64) {
        let highest = || self.shared.highest.load(Ordering::Relaxed);
        eventually(&format!("generation {generation} answers"), || (highest() >= generation).then_some(()));
    }

    /// Ends it: nothing may have failed.
    #[track_caller]
    pub fn finish(self) -> Made {
        let (made, failures) = self.end();
        let Made { answered, connections } = made;
        assert!(
            failures.is_empty(),
            "{} failures beside {answered} answers on {connections} connections: {failures:#?}",
            failures.len()
        );
        assert!(answered > 0, "no request was made");
        made
    }

    /// Ends it, and tells what has failed.
    pub fn end(self) -> (Made, Vec<String>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let failures = self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (
            Made { answered: count(&self.shared.answered), connections: count(&self.shared.connections) },
            failures,
        )
    }
}

impl Shared {
    async fn run(self: Arc<Self>, address: SocketAddr, streams: usize) -> Vec<String> {
        let mut failures = Vec::new();
        while !self.stop.load(Ordering::Relaxed) && failures.len() < 10 {
            let stream = match TcpStream::connect(address).await {
                Ok(stream) => stream,
                Err(error) => {
                    failures.push(format!("connect: {error}"));
                    continue;
                }
            };
            self.connections.fetch_add(1, Ordering::Relaxed);
            stream.set_nodelay(true).unwrap();
            let (send, connection) = match h2::client::handshake(stream).await {
                Ok(both) => both,
                Err(error) => {
                    failures.push(format!("handshake: {error}"));
                    continue;
                }
            };
            let connection = spawn_local(connection);
            let mut tasks = JoinSet::new();
            for n in 0..streams {
                tasks.spawn_local(self.clone().ask(send.clone(), n));
            }
            drop(send);
            failures.extend(tasks.join_all().await.into_iter().flatten());
            connection.abort();
        }
        failures
    }

    /// Asks until the connection is to be used no more.
    async fn ask(self: Arc<Self>, mut send: SendRequest<Bytes>, n: usize) -> Option<String> {
        while !self.stop.load(Ordering::Relaxed) {
            match timeout(PATIENCE, self.once(&mut send, n)).await {
                Ok(Ok(())) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Err(Unanswered::GoneAway)) => return None,
                Ok(Err(Unanswered::Failed(failure))) => return Some(failure),
                Err(_) => return Some("no answer in time".into()),
            }
        }
        None
    }

    async fn once(&self, send: &mut SendRequest<Bytes>, n: usize) -> Result<(), Unanswered> {
        std::future::poll_fn(|cx| send.poll_ready(cx)).await?;
        // Every fourth sends a body, too.
        let uploads = n % 4 == 3;
        let request =
            if uploads { Request::post("http://test/") } else { Request::get("http://test/bytes?n=1000") };
        let (response, mut sending) = send.send_request(request.body(()).unwrap(), !uploads)?;
        if uploads {
            sending.send_data(Bytes::from_static(&[b'x'; 1000]), true)?;
        }
        let response = response.await?;
        let (head, mut body) = response.into_parts();
        let mut read = 0;
        while let Some(data) = body.data().await {
            let data = data?;
            read += data.len();
            body.flow_control().release_capacity(data.len())?;
        }
        if head.status != 200 || !uploads && read != 1000 {
            return Err(Unanswered::Failed(format!("{read} bytes after {head:?}")));
        }
        let generation = head.headers.get("x-exuvia-generation").and_then(|value| value.to_str().ok());
        let generation = generation.and_then(|text| text.parse().ok());
        self.highest.fetch_max(generation.unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }
}
