//! Clients that keep sending and never retry: what fails for them has failed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::harness::{PATIENCE, eventually};

/// One HTTP/1.1 connection.
pub struct Client {
    stream: BufReader<Transport>,
}

/// What it goes over.
enum Transport {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Transport {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Transport::Plain(stream) => stream.read(into),
            // An end without a word of TLS is an error there.
            Transport::Tls(stream) => stream.read(into),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Transport::Plain(stream) => stream.write(bytes),
            Transport::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Transport::Plain(stream) => stream.flush(),
            Transport::Tls(stream) => stream.flush(),
        }
    }
}

/// Where a client goes, and how.
#[derive(Clone)]
pub struct Target {
    address: SocketAddr,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Target {
        Target { address, tls: None }
    }
}

impl Target {
    /// By TLS to the server of this name.
    pub fn tls(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Target {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        Target { address, tls: Some((config.clone(), name)) }
    }
}

/// One answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Fields,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        field(&self.headers, name)
    }

    /// Which generation answered: the demonstration upstream says it.
    #[track_caller]
    pub fn generation(&self) -> u64 {
        self.header("x-exuvia-generation").unwrap_or_else(|| panic!("{self:?}")).parse().unwrap()
    }

    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> std::io::Result<Client> {
        Client::to(&address.into())
    }

    pub fn to(target: &Target) -> std::io::Result<Client> {
        let Target { address, tls } = target;
        let stream = TcpStream::connect_timeout(address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let transport = match tls {
            None => Transport::Plain(stream),
            Some((config, name)) => {
                let session =
                    ClientConnection::new(config.clone(), name.clone()).map_err(std::io::Error::other)?;
                let mut stream = StreamOwned::new(session, stream);
                // The handshake.
                stream.flush()?;
                Transport::Tls(Box::new(stream))
            }
        };
        Ok(Client { stream: BufReader::with_capacity(64 * 1024, transport) })
    }

    pub fn stream(&self) -> &TcpStream {
        match self.stream.get_ref() {
            Transport::Plain(stream) => stream,
            Transport::Tls(stream) => stream.get_ref(),
        }
    }

    /// What TLS has agreed on.
    pub fn session(&self) -> &ClientConnection {
        match self.stream.get_ref() {
            Transport::Plain(_) => panic!("no TLS"),
            Transport::Tls(stream) => &stream.conn,
        }
    }

    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends a request without a body.
    pub fn ask(&mut self, target: &str) -> std::io::Result<()> {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())
    }

    /// Asks and waits for the answer.
    pub fn get(&mut self, target: &str) -> std::io::Result<Response> {
        self.ask(target)?;
        self.response()
    }

    /// Reads the head of an answer.
    pub fn head(&mut self) -> std::io::Result<Response> {
        let (first, headers) = read_head(&mut self.stream)?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| invalid(format!("not a status line: {first:?}")))?;
        Ok(Response { status, headers, body: Vec::new() })
    }

    /// Reads a whole answer.
    pub fn response(&mut self) -> std::io::Result<Response> {
        let head = self.head()?;
        self.body(head)
    }

    /// Reads the rest of an answer of which the head was read.
    pub fn body(&mut self, mut response: Response) -> std::io::Result<Response> {
        if response.header("transfer-encoding").is_some() {
            loop {
                let mut size = String::new();
                self.stream.read_line(&mut size)?;
                let size = usize::from_str_radix(size.trim(), 16).map_err(|_| {
                    std::io::Error::new(std::io::ErrorKind::UnexpectedEof, format!("chunk {size:?}"))
                })?;
                let at = response.body.len();
                response.body.resize(at + size, 0);
                self.stream.read_exact(&mut response.body[at..])?;
                self.stream.read_exact(&mut [0; 2])?;
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) =
            response.header("content-length").map(|text| text.parse::<usize>().unwrap())
        {
            response.body.resize(length, 0);
            self.stream.read_exact(&mut response.body)?;
        }
        Ok(response)
    }

    /// Ends this side: under TLS with its word for it.
    pub fn end(&mut self) -> std::io::Result<()> {
        match self.stream.get_mut() {
            Transport::Plain(stream) => stream.shutdown(Shutdown::Write),
            Transport::Tls(stream) => {
                stream.conn.send_close_notify();
                stream.flush()
            }
        }
    }

    /// Whether the peer closes next, with nothing more to read. A reset is an error.
    pub fn at_end(&mut self) -> std::io::Result<bool> {
        Ok(self.stream.fill_buf()?.is_empty())
    }
}

impl Read for Client {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.stream.read(into)
    }
}

/// The fields of a head, their names in lower case.
pub type Fields = Vec<(String, String)>;

/// The value of a field, if it is there.
pub fn field<'f>(fields: &'f Fields, name: &str) -> Option<&'f str> {
    fields.iter().find(|field| field.0 == name).map(|field| field.1.as_str())
}

fn invalid(what: String) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, what)
}

/// Reads the head of a message: its first line and its fields.
pub fn read_head(stream: &mut impl BufRead) -> std::io::Result<(String, Fields)> {
    let mut line = || {
        let mut text = String::new();
        match stream.read_line(&mut text)? {
            0 => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)),
            _ => Ok(text.trim_end().to_owned()),
        }
    };
    let first = line()?;
    let mut fields = Fields::new();
    loop {
        let text = line()?;
        if text.is_empty() {
            return Ok((first, fields));
        }
        let (name, value) = text.split_once(':').ok_or_else(|| invalid(text.clone()))?;
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

/// One request on a connection of its own.
pub fn get(address: SocketAddr, target: &str) -> std::io::Result<Response> {
    Client::connect(address)?.get(target)
}

/// Clients on threads of their own that send until they are told to finish.
pub struct Traffic {
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

impl Traffic {
    /// Half of the clients keep their connection until they are told that it closes, half make a new one
    /// for each request.
    pub fn start(address: SocketAddr, clients: usize) -> Traffic {
        Traffic::with(address, clients.div_ceil(2), clients / 2)
    }

    /// So many of each.
    pub fn with(address: SocketAddr, keep_alive: usize, churning: usize) -> Traffic {
        Traffic::to(&address.into(), keep_alive, churning)
    }

    /// So many of each, to there.
    pub fn to(target: &Target, keep_alive: usize, churning: usize) -> Traffic {
        let shared = Arc::new(Shared::default());
        let threads = (0..keep_alive + churning).map(|i| {
            let (shared, target) = (shared.clone(), target.clone());
            std::thread::spawn(move || shared.run(&target, i < keep_alive))
        });
        let traffic = Traffic { threads: threads.collect(), shared };
        traffic.flows();
        traffic
    }

    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Waits until more requests have been answered.
    #[track_caller]
    pub fn flows(&self) {
        let before = self.answered();
        eventually("more requests are answered", || (self.answered() > before + 20).then_some(()));
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

/// How much clients have done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Made {
    /// Requests that were answered, each in full.
    pub answered: u64,
    /// Connections that were made.
    pub connections: u64,
}

impl Shared {
    fn run(&self, target: &Target, keep: bool) -> Vec<String> {
        let mut failures = Vec::new();
        let mut kept: Option<Client> = None;
        while !self.stop.load(Ordering::Relaxed) && failures.len() < 10 {
            let fresh = kept.is_none();
            let connect =
                || Client::to(target).inspect(|_| _ = self.connections.fetch_add(1, Ordering::Relaxed));
            let result = kept.take().map_or_else(connect, Ok).and_then(|mut client| {
                let response = client.get("/bytes?n=1000")?;
                Ok((client, response))
            });
            match result {
                Ok((client, response)) if response.status == 200 && response.body.len() == 1000 => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    self.highest.fetch_max(response.generation(), Ordering::Relaxed);
                    kept = (keep && !response.closes()).then_some(client);
                }
                Ok((_, response)) => failures.push(format!("{response:?}")),
                Err(error) => failures.push(format!("{error} (new connection: {fresh})")),
            }
        }
        failures
    }
}
