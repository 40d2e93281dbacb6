//! A name server that a test plays itself, over UDP (RFC 1035, section 4).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use super::harness::PATIENCE;

/// What it says of a name.
#[derive(Clone, Debug)]
pub enum Reply {
    /// These, with a TTL in seconds.
    Addresses(Vec<IpAddr>, u32),
    /// There is no such name (NXDOMAIN).
    Nobody,
    /// It fails (SERVFAIL).
    Broken,
    /// Nothing.
    Silence,
    /// These, if it is asked for IPv4, and nothing if it is asked for IPv6.
    SilentForIpv6(Vec<IpAddr>, u32),
}

impl Reply {
    pub fn addresses(addresses: &[&str], ttl: u32) -> Reply {
        Reply::Addresses(addresses.iter().map(|address| address.parse().unwrap()).collect(), ttl)
    }
}

#[derive(Default)]
struct State {
    /// By name, without a dot at the end.
    replies: BTreeMap<String, Reply>,
    /// How often it was asked for each name, for IPv4 alone.
    asked: BTreeMap<String, usize>,
    ended: bool,
}

/// A name server on a port of the loopback interface.
pub struct Dns {
    address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

const A: u16 = 1;
const AAAA: u16 = 28;

impl Dns {
    pub fn start(replies: &[(&str, Reply)]) -> Dns {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let replies = replies.iter().map(|(name, reply)| ((*name).to_owned(), reply.clone())).collect();
        let state = Arc::new((Mutex::new(State { replies, ..State::default() }), Condvar::new()));
        let shared = state.clone();
        let thread = std::thread::spawn(move || serve(&socket, &shared));
        Dns { address, state, thread: Some(thread) }
    }

    /// The settings of an exuvia that asks it, and whose servers these are.
    pub fn settings(&self, servers: &[String]) -> String {
        format!("[resolver]\nservers = [\"{}\"]\n[upstream]\nservers = {servers:?}\n", self.address)
    }

    /// Changes what it says.
    pub fn set(&self, name: &str, reply: Reply) {
        self.state.0.lock().unwrap().replies.insert(name.to_owned(), reply);
    }

    /// How often it was asked for the name.
    pub fn asked(&self, name: &str) -> usize {
        self.state.0.lock().unwrap().asked.get(name).copied().unwrap_or(0)
    }

    /// Waits until it has been asked for the name so often.
    #[track_caller]
    pub fn wait_asked(&self, name: &str, times: usize) {
        let (state, changed) = &*self.state;
        let is_less = |state: &mut State| state.asked.get(name).is_none_or(|asked| *asked < times);
        let (state, timeout) = changed.wait_timeout_while(state.lock().unwrap(), PATIENCE, is_less).unwrap();
        assert!(!timeout.timed_out(), "asked for {:?}, not {times} times for {name}", state.asked);
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.state.0.lock().unwrap().ended = true;
        UdpSocket::bind(("127.0.0.1", 0)).unwrap().send_to(&[], self.address).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn serve(socket: &UdpSocket, shared: &(Mutex<State>, Condvar)) {
    let mut query = [0; 512];
    loop {
        let (length, peer) = socket.recv_from(&mut query).unwrap();
        let (state, changed) = shared;
        let mut state = state.lock().unwrap();
        if state.ended {
            return;
        }
        let Some((name, kind, question)) = question(&query[..length]) else { continue };
        if kind == A {
            *state.asked.entry(name.clone()).or_default() += 1;
            changed.notify_all();
        }
        let reply = state.replies.get(&name).cloned().unwrap_or(Reply::Nobody);
        let (code, addresses, ttl) = match reply {
            Reply::Addresses(addresses, ttl) => (0, addresses, ttl),
            Reply::SilentForIpv6(addresses, ttl) if kind == A => (0, addresses, ttl),
            Reply::Nobody => (3, Vec::new(), 0),
            Reply::Broken => (2, Vec::new(), 0),
            Reply::Silence | Reply::SilentForIpv6(..) => continue,
        };
        let of_kind: Vec<Vec<u8>> = addresses
            .iter()
            .filter_map(|address| match (address, kind) {
                (IpAddr::V4(four), A) => Some(four.octets().to_vec()),
                (IpAddr::V6(six), AAAA) => Some(six.octets().to_vec()),
                _ => None,
            })
            .collect();
        // The same id; a response, recursion available; one question.
        let mut answer =
            vec![query[0], query[1], 0x81, 0x80 | code, 0, 1, 0, of_kind.len() as u8, 0, 0, 0, 0];
        answer.extend_from_slice(question);
        for data in of_kind {
            // The name of the question, this kind, IN.
            answer.extend_from_slice(&[0xc0, 12, 0, kind as u8, 0, 1]);
            answer.extend_from_slice(&ttl.to_be_bytes());
            answer.extend_from_slice(&(data.len() as u16).to_be_bytes());
            answer.extend_from_slice(&data);
        }
        socket.send_to(&answer, peer).ok();
    }
}

/// The name in lower case, the type, and both as they were sent.
fn question(query: &[u8]) -> Option<(String, u16, &[u8])> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*query.get(at)?);
        let label = query.get(at + 1..at + 1 + length)?;
        at += 1 + length;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(label).to_lowercase());
    }
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    Some((labels.join("."), kind, query.get(12..at + 4)?))
}
