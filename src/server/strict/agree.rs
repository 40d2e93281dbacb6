//! Whether the scanner and hyper agree on where each request ends: on noise made of what real requests are made of.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;

use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Limits, Scanned, Scanner};

const LIMITS: Limits = Limits { trailer_bytes: 4096, trailers: 100 };

/// So many inputs are tried, always the same.
const ROUNDS: u64 = 20_000;

/// What inputs begin as.
const REQUESTS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "\r\nGET http://a/b?c HTTP/1.1\r\nX: \u{fc}\r\nY:\t z \r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    "PUT / HTTP/1.1\r\nExpect: 100-continue\r\ncontent-length:12\r\n\r\n\r\n\r\n01234567",
    "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\ntransfer-encoding:Chunked\r\nHost: a\r\n\r\n01\r\n\n\r\n00;\r\nX: y\r\n\r\n",
    "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
];

/// What is put into them.
const PARTS: &[&str] = &[
    "\r\n",
    "\r",
    "\n",
    " ",
    "\t",
    ":",
    ",",
    ";",
    "0",
    "5",
    "f",
    "+",
    "-",
    "x",
    "\0",
    "\x7f",
    "\u{130}",
    "#",
    "\r\n\r\n",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    "hello",
    ";x=y",
    "chunked",
    "Host: a\r\n",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: close\r\n",
    "GET / HTTP/1.1\r\n",
];

/// Marsaglia's xorshift.
struct Noise(u64);

impl Noise {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % limit
    }

    /// Up to four requests, of which something is replaced, added or missing in up to two places.
    fn input(&mut self) -> Vec<u8> {
        let requests = (0..1 + self.below(4)).map(|_| REQUESTS[self.below(REQUESTS.len())]);
        let mut input = requests.collect::<String>().into_bytes();
        for _ in 0..self.below(3) {
            let at = self.below(input.len());
            let part = PARTS[self.below(PARTS.len())].bytes();
            match self.below(4) {
                0 => input[at] = self.below(256) as u8,
                1 => drop(input.remove(at)),
                2 => drop(input.splice(at..at, part)),
                _ => drop(input.splice(at..=at, part)),
            }
        }
        input
    }

    /// A piece of at least one byte.
    fn cut<'i>(&mut self, input: &mut &'i [u8]) -> &'i [u8] {
        let (piece, rest) = input.split_at(1 + self.below(input.len()));
        *input = rest;
        piece
    }
}

fn in_pieces(mut input: &[u8], noise: &mut Noise) -> Scanned {
    let mut scanner = Scanner::new(LIMITS);
    let mut all = Scanned { passed: 0, heads: 0, refused: None };
    while !input.is_empty() {
        let Scanned { passed, heads, refused } = scanner.scan(noise.cut(&mut input));
        all = Scanned {
            passed: all.passed + passed,
            heads: all.heads + heads,
            refused: all.refused.or(refused),
        };
    }
    all
}

/// How many heads hyper reads in `input`, how many of these with their bodies, and whether it refused something.
async fn read_by_hyper(input: &[u8]) -> (u64, u64, bool) {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let (heads, bodies) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let service = service_fn(|request: Request<Incoming>| {
        let (heads, bodies) = (heads.clone(), bodies.clone());
        async move {
            heads.set(heads.get() + 1);
            if request.into_body().collect().await.is_ok() {
                bodies.set(bodies.get() + 1);
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let connection = Builder::new().half_close(true).serve_connection(TokioIo::new(server), service);
    client.write_all(input).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answers = Vec::new();
    let (result, read) = tokio::join!(connection, client.read_to_end(&mut answers));
    read.unwrap();
    (heads.get(), bodies.get(), result.is_err())
}

#[tokio::test]
async fn hyper_agrees() {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let (mut passed, mut refused, mut several) = (0, 0, 0);
    for _ in 0..ROUNDS {
        let input = noise.input();
        let text = input.escape_ascii();
        let mut scanner = Scanner::new(LIMITS);
        let scanned = scanner.scan(&input);
        assert_eq!(in_pieces(&input, &mut noise), scanned, "{text}");
        assert_eq!(scanned.refused.is_none(), scanned.passed == input.len(), "{text}");

        let (heads, bodies, failed) = read_by_hyper(&input[..scanned.passed]).await;
        assert!(heads <= scanned.heads, "hyper found {heads} requests, not {}: {text}", scanned.heads);
        if scanned.refused.is_none() && scanner.is_between_requests() && !failed {
            // What says that it is the last is the last for hyper.
            let text = text.to_string();
            let closed = text.contains("HTTP/1.0") || text.contains("lose");
            assert!(heads == scanned.heads && bodies == heads || closed, "{heads} and {bodies}: {text}");
            passed += 1;
            several += u64::from(heads > 1);
        }
        refused += u64::from(scanned.refused.is_some());
    }
    assert!(passed > 5000 && refused > 5000 && several > 2000, "{passed} {refused} {several}");
}
