//! A proxy that misbehaves on purpose, and keeps a book of it.
//!
//! It sits on real sockets between the witness and the upstream, passes on what comes, and plants a fault in those
//! connections, answers, messages or streams whose numbers it was given: by count and not by time, so that a test can
//! compare what the witness found with what there was to be found. When it has seen as much as the [`Plan`] says, it ends
//! the run as a person would, by an interruption.

#[path = "faulty/accept.rs"]
mod accept;
#[path = "faulty/exchanges.rs"]
mod exchanges;
#[path = "faulty/frames.rs"]
mod frames;
#[path = "faulty/socket.rs"]
mod socket;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;

use loadtest::generator::Aim;
use loadtest::traffic::Targets;
use tokio::sync::{oneshot, watch};

pub(crate) use accept::Accepting;
pub(crate) use frames::{Act, Finale, Frame, Passing, Side};
pub(crate) use socket::Then;

use crate::harness::{Server, block_on};

/// What faults are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Connections, as they are accepted.
    Connection,
    /// Answers of HTTP/1, the ones that open a WebSocket too.
    Answer,
    /// Messages of a WebSocket that come back.
    Message,
    /// Streams of HTTP/2.
    Stream,
}

/// What is done to a connection that has just been accepted (there are no bytes then), an answer, a message: what comes
/// of it, and what happens to its connection then.
pub(crate) type Tamper = fn(&[u8]) -> (Vec<u8>, Then);

/// What is done to a frame of a stream.
pub(crate) type Meddle = fn(&Passing<'_>) -> Act;

#[derive(Clone, Copy)]
pub(crate) enum How {
    Bytes(Tamper),
    Frames(Meddle),
}

/// A fault, and in which it is planted: the first has the number 1, on whatever connection it comes.
#[derive(Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) of: What,
    pub(crate) numbers: &'static [usize],
    pub(crate) how: How,
}

/// What the proxy is to do.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) faults: Vec<Fault>,
    /// The run ends when that many of these have come.
    pub(crate) until: (What, usize),
    pub(crate) accepting: Accepting,
    /// No TLS session can be resumed.
    pub(crate) forgets_sessions: bool,
}

impl Plan {
    /// No fault.
    pub(crate) fn none(until: (What, usize)) -> Plan {
        Plan { faults: Vec::new(), until, accepting: Accepting::Always, forgets_sessions: false }
    }

    /// One kind of fault.
    pub(crate) fn one(of: What, numbers: &'static [usize], how: How, until: usize) -> Plan {
        Plan { faults: vec![Fault { of, numbers, how }], ..Plan::none((of, until)) }
    }
}

/// A fault that was planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planted {
    /// The client's port.
    pub(crate) port: u16,
    /// How many bytes were passed on in its place.
    pub(crate) bytes: u64,
}

/// The proxy, on a thread of its own; it ends when this is dropped.
pub(crate) struct Faulty {
    pub(crate) aim: Aim,
    pub(crate) book: Arc<Book>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Faulty {
    pub(crate) fn start(server: &Server, plan: Plan) -> Faulty {
        let book = Arc::new(Book::new(plan));
        let (say, ready) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let proxy = accept::Proxy {
            upstream: server.ready.plain,
            tls: accept::Identity::new(&server.certificate),
            book: Arc::clone(&book),
        };
        let thread = thread::spawn(move || {
            block_on(async move {
                let any = SocketAddr::from(([127, 0, 0, 1], 0));
                let (plain, tls) = (socket::listen(any), socket::listen(any));
                say.send((plain.local_addr().unwrap(), tls.local_addr().unwrap())).unwrap();
                tokio::select! {
                    () = proxy.serve(plain, tls) => {}
                    _ = stopped => {}
                }
            });
        });
        let (plain, tls) = ready.recv().unwrap();
        let targets = Targets { plain: Some(plain), tls: Some(tls), name: "localhost".into() };
        let aim = Aim { targets, roots: Arc::clone(&server.roots) };
        Faulty { aim, book, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.stop.take();
        self.thread.take().unwrap().join().unwrap();
    }
}

/// What the proxy does, and what it has done.
pub(crate) struct Book {
    plan: Plan,
    pages: Mutex<Pages>,
    /// How many faults are planted.
    count: watch::Sender<usize>,
    /// Ends the run: see [`loadtest::run::run`].
    interrupt: watch::Sender<u32>,
    /// Raised when all connections are to be reset, as when a process dies.
    death: watch::Sender<u32>,
}

#[derive(Default)]
struct Pages {
    /// How many came, by [`What`].
    came: [usize; 4],
    planted: Vec<Planted>,
}

impl Book {
    fn new(plan: Plan) -> Book {
        Book {
            plan,
            pages: Mutex::default(),
            count: watch::channel(0).0,
            interrupt: watch::channel(0).0,
            death: watch::channel(0).0,
        }
    }

    /// Another one has come; gives back the fault that is to be planted in it.
    fn next(&self, of: What) -> Option<How> {
        let number = {
            let came = &mut self.pages.lock().unwrap().came[of as usize];
            *came += 1;
            *came
        };
        if self.plan.until == (of, number) {
            self.end_the_run();
        }
        let fault =
            self.plan.faults.iter().find(|fault| fault.of == of && fault.numbers.contains(&number))?;
        Some(fault.how)
    }

    fn plant(&self, port: u16, bytes: usize) {
        let planted = Planted { port, bytes: bytes as u64 };
        self.pages.lock().unwrap().planted.push(planted);
        self.count.send_modify(|count| *count += 1);
    }

    fn end_the_run(&self) {
        self.interrupt.send_replace(1);
    }

    pub(crate) fn came(&self, of: What) -> u64 {
        self.pages.lock().unwrap().came[of as usize] as u64
    }

    pub(crate) fn planted(&self) -> Vec<Planted> {
        self.pages.lock().unwrap().planted.clone()
    }

    pub(crate) fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    pub(crate) fn interruption(&self) -> watch::Receiver<u32> {
        self.interrupt.subscribe()
    }

    /// Resets every connection that there is.
    pub(crate) fn die(&self) {
        self.death.send_modify(|deaths| *deaths += 1);
    }
}
