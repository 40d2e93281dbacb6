//! Upstream servers that a test plays itself, on real sockets, and bodies that can be checked as they pass.

use std::io::{BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::harness::{PATIENCE, eventually};
use super::traffic::{Fields, field, read_head};

/// A server that plays a script on each connection, on a thread of its own.
pub struct Upstream {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    pub fn start(script: impl Fn(Peer) + Send + Sync + 'static) -> Upstream {
        Upstream::on(([127, 0, 0, 1], 0).into(), script)
    }

    pub fn on(address: SocketAddr, script: impl Fn(Peer) + Send + Sync + 'static) -> Upstream {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let (over, script) = (ended.clone(), Arc::new(script));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let (stream, script) = (stream.unwrap(), script.clone());
                std::thread::spawn(move || script(Peer::new(stream)));
            }
        });
        Upstream { address, ended, thread: Some(thread) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The settings of a proxy in front of it.
    pub fn settings(&self) -> String {
        settings(&[self.address])
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        TcpStream::connect(self.address).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// The settings of a proxy in front of these servers.
pub fn settings(servers: &[SocketAddr]) -> String {
    let servers: Vec<String> = servers.iter().map(SocketAddr::to_string).collect();
    format!("[upstream]\nservers = {servers:?}\n")
}

/// A server that says its own address, with a new connection for each request.
pub fn telling_at(address: SocketAddr) -> Upstream {
    Upstream::on(address, move |mut peer| {
        if peer.whole().is_some() {
            let text = peer.stream().local_addr().unwrap().ip().to_string();
            peer.send(
                format!(
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}",
                    text.len()
                )
                .as_bytes(),
            )
            .unwrap();
            peer.close();
        }
    })
}

/// Servers that say their own address, on one port of all these.
pub fn telling(addresses: &[&str]) -> (u16, Vec<Upstream>) {
    let address = |text: &str, port| SocketAddr::new(text.parse::<IpAddr>().unwrap(), port);
    let (first, rest) = addresses.split_first().unwrap();
    eventually("a port is free on all addresses", || {
        // Whoever has it elsewhere.
        let port = TcpListener::bind(address(first, 0)).unwrap().local_addr().unwrap().port();
        let all: Vec<SocketAddr> = [first].into_iter().chain(rest).map(|text| address(text, port)).collect();
        let free = all.iter().all(|address| TcpListener::bind(address).is_ok());
        free.then(|| (port, all.into_iter().map(telling_at).collect()))
    })
}

/// An address and port where nobody answers: the accept queue is full, and what else comes is dropped.
pub struct Hole {
    _listener: TcpListener,
    _queued: TcpStream,
}

impl Hole {
    pub fn at(address: SocketAddr) -> Hole {
        let socket =
            socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(0).unwrap();
        let queued = TcpStream::connect(address).unwrap();
        Hole { _listener: socket.into(), _queued: queued }
    }
}

/// A connection that the proxy has made.
pub struct Peer {
    stream: BufReader<TcpStream>,
}

/// The head of a request.
#[derive(Debug)]
pub struct Request {
    pub line: String,
    fields: Fields,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        field(&self.fields, name)
    }

    pub fn length(&self) -> usize {
        self.header("content-length").map_or(0, |text| text.parse().unwrap())
    }
}

impl Peer {
    fn new(stream: TcpStream) -> Peer {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Peer { stream: BufReader::with_capacity(256 * 1024, stream) }
    }

    pub fn stream(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// The head of the next request; `None` at the end of the connection.
    pub fn request(&mut self) -> Option<Request> {
        read_head(&mut self.stream).ok().map(|(line, fields)| Request { line, fields })
    }

    /// The next request with its body, which has a length.
    pub fn whole(&mut self) -> Option<(Request, Vec<u8>)> {
        let request = self.request()?;
        let mut body = vec![0; request.length()];
        self.stream.read_exact(&mut body).ok()?;
        Some((request, body))
    }

    /// A reader of a body that is chunked.
    pub fn chunked(&mut self) -> Chunked<'_> {
        Chunked { stream: &mut self.stream, left: 0, ended: false }
    }

    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Answers with a body.
    pub fn answer(&mut self, body: &str) -> std::io::Result<()> {
        self.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
    }

    /// Answers every request with `body`, until the connection ends.
    pub fn answer_all(mut self, body: &str) {
        while self.whole().is_some() && self.answer(body).is_ok() {}
    }

    /// Ends the connection, in good order.
    pub fn close(self) {
        self.stream.get_ref().shutdown(Shutdown::Both).ok();
    }

    /// Reads and drops what comes, until the connection ends.
    pub fn until_closed(mut self) {
        let mut block = [0; 4096];
        while matches!(self.stream.read(&mut block), Ok(n) if n > 0) {}
    }
}

/// The data of a chunked body (RFC 9112, section 7.1).
pub struct Chunked<'p> {
    stream: &'p mut BufReader<TcpStream>,
    left: usize,
    ended: bool,
}

impl Read for Chunked<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        use std::io::BufRead;
        if self.ended {
            return Ok(0);
        }
        if self.left == 0 {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            self.left = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
            self.ended = self.left == 0;
        }
        let most = self.left.min(into.len());
        let n = self.stream.read(&mut into[..most])?;
        if n == 0 && !self.ended {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n;
        if self.left == 0 {
            self.stream.read_exact(&mut [0; 2])?;
        }
        Ok(n)
    }
}

/// A body in which every stretch is different, so that what is lost, repeated or moved is found: a block of
/// noise whose length is prime, over and over.
pub struct Pattern {
    block: Vec<u8>,
    at: usize,
    total: u64,
}

impl Pattern {
    pub fn new() -> Pattern {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let block = (0..1_000_003).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        });
        Pattern { block: block.collect(), at: 0, total: 0 }
    }

    /// How many bytes have passed.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The next stretch, of at most `most` bytes.
    pub fn next(&mut self, most: u64) -> &[u8] {
        let n = (self.block.len() - self.at).min(usize::try_from(most).unwrap());
        let start = self.at;
        self.pass(n);
        &self.block[start..start + n]
    }

    /// What has come must be what comes next.
    #[track_caller]
    pub fn check(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let n = bytes.len().min(self.block.len() - self.at);
            let same = bytes[..n] == self.block[self.at..self.at + n];
            assert!(same, "a body differs within {n} bytes from {}", self.total);
            self.pass(n);
            bytes = &bytes[n..];
        }
    }

    fn pass(&mut self, n: usize) {
        self.at = (self.at + n) % self.block.len();
        self.total += n as u64;
    }

    /// Writes `length` bytes of it.
    pub fn pour(&mut self, into: &mut impl Write, length: u64) -> std::io::Result<()> {
        let end = self.total + length;
        while self.total < end {
            into.write_all(self.next(end - self.total))?;
        }
        Ok(())
    }

    /// Reads `length` bytes, which must be it.
    pub fn swallow(&mut self, from: &mut impl Read, length: u64) -> std::io::Result<()> {
        let end = self.total + length;
        let mut block = vec![0; 256 * 1024];
        while self.total < end {
            let most = block.len().min(usize::try_from(end - self.total).unwrap());
            match from.read(&mut block[..most])? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                n => self.check(&block[..n]),
            }
        }
        Ok(())
    }
}

impl Read for Peer {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.stream.read(into)
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream.get_mut().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
