//! Where an HTTP/1 request begins and ends, judged byte by byte before hyper sees any of it.
//!
//! Two servers that disagree on where a request ends let a client smuggle one past the first (RFC 9112, section
//! 11.2). hyper is generous: it takes a lone LF for the end of a line, drops a `Content-Length` beside a
//! `Transfer-Encoding` before anyone sees it, and ignores spaces behind a chunk's size. So a [`Scanner`] stands
//! before it and holds to the grammar: what it passes has one reading only, and at the first byte that has none
//! or two it stops. hyper never gets that byte, nor the end of a head that is refused. What goes to the upstream
//! is then written anew from what hyper parsed.
//!
//! ```text
//!           request line                  CR LF
//!  Start ─────────────────► Field ◄────────────────┐
//!    ▲                      │   └► Name ─► Value ──┘
//!    │   no body            │ empty line
//!    ├──────────────────────┤
//!    ├─────── Length(n) ◄───┤ Content-Length
//!    │                      ▼ chunked
//!    │                    Size ─► Extension ─► Data(n) ─┐
//!    │                      │ ▲                         │
//!    └── Field: trailers ◄──┘ └─────────────────────────┘
//!                         0
//! ```
//!
//! It keeps no more of the request than half a name: nothing is buffered, and of a body only its length is
//! looked at. Stricter than RFC 9112 asks are: a length that is repeated or a list is refused though all say the
//! same, as is space behind a chunk's size, and a fragment in the target.

mod bytes;
mod framing;
mod refusal;

use bytes::{Word, text_run, token_run, visible_run};
use framing::{Body, Field, Framing};
pub use refusal::Refusal;

/// The most that a body's chunk extensions may come to, in bytes. Nothing is known to send any.
const MAX_EXTENSION_BYTES: usize = 4096;

/// Follows the requests of one connection.
#[derive(Debug)]
pub struct Scanner {
    limits: Limits,
    state: State,
    /// The method, or the field's name, as far as it came in earlier pieces.
    word: Word,
    framing: Framing,
    field: Field,
    /// How many heads have ended.
    heads: u64,
    /// Whether what is read is the body of a request.
    in_body: bool,
    /// How much of the body was extensions, and trailers.
    extension_bytes: usize,
    trailer_bytes: usize,
    trailers: usize,
}

/// What trailers may come to. Heads are limited by hyper, which says 431.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The size of all trailers together, in bytes.
    pub trailer_bytes: usize,
    /// How many there may be.
    pub trailers: usize,
}

/// What is to be done with a piece of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// How many of its bytes may be read: all of them, or those before the one that is refused.
    pub passed: usize,
    /// How many heads end in these.
    pub heads: u64,
    /// Why the connection goes no further.
    pub refused: Option<Refused>,
}

/// The end of what can be understood of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The reason.
    pub refusal: Refusal,
    /// Whether it is in the body of a request whose head was passed, or else in a head.
    pub in_body: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a request, where empty lines mean nothing (RFC 9112, section 2.2).
    Start,
    StartLf,
    Method,
    Target,
    /// In the target, which has begun.
    TargetRest,
    /// So many bytes of the version have come.
    Version(usize),
    /// At the beginning of a line. After a chunked body the fields are trailers.
    Field,
    Name,
    Value,
    /// After the CR of a line in a head.
    LineLf,
    /// After the CR of an empty line.
    EndLf,
    /// So much of the body is missing.
    Length(u64),
    Size {
        digits: usize,
        size: u64,
    },
    Extension {
        size: u64,
    },
    SizeLf {
        size: u64,
    },
    Data(u64),
    DataCr,
    DataLf,
    /// What follows CONNECT belongs to a tunnel, if one is opened, and is not to come before that.
    Tunnel,
    Refused(Refused),
}

/// A version but for its last digit (RFC 9112, section 2.3).
const VERSION: &[u8; 7] = b"HTTP/1.";

/// How nearly every request line ends.
const VERSION_LINE_END: &[u8] = b"HTTP/1.1\r\n";

/// So many hexadecimal digits tell a size of 64 bits.
const MAX_SIZE_DIGITS: usize = 16;

impl Scanner {
    /// A scanner that waits for the first request.
    pub fn new(limits: Limits) -> Self {
        Scanner {
            limits,
            state: State::Start,
            word: Word::default(),
            framing: Framing::default(),
            field: Field::Other,
            heads: 0,
            in_body: false,
            extension_bytes: 0,
            trailer_bytes: 0,
            trailers: 0,
        }
    }

    /// Judges what has been read next. After a refusal nothing passes any more.
    pub fn scan(&mut self, bytes: &[u8]) -> Scanned {
        let heads = self.heads;
        let mut passed = 0;
        let mut refused = None;
        while passed < bytes.len() && refused.is_none() {
            match self.step(&bytes[passed..]) {
                Ok(n) => passed += n,
                Err(refusal) => refused = Some(self.refuse(refusal)),
            }
        }
        Scanned { passed, heads: self.heads - heads, refused }
    }

    /// Every request has been answered, and none with a tunnel: what comes now was not sent for one.
    pub fn answered(&mut self) {
        if self.state == State::Tunnel {
            self.state = State::Start;
        }
    }

    /// Whether what has been read last ends a request, or nothing has been read.
    pub fn is_between_requests(&self) -> bool {
        self.state == State::Start
    }

    fn refuse(&mut self, refusal: Refusal) -> Refused {
        let refused = match self.state {
            State::Refused(refused) => refused,
            _ => Refused { refusal, in_body: self.in_body },
        };
        self.state = State::Refused(refused);
        refused
    }

    /// Takes at least one byte, and returns how many.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        match self.state {
            State::Start | State::StartLf | State::Method => self.step_before_target(bytes),
            State::Target | State::TargetRest | State::Version(_) => self.step_line(bytes),
            State::Field | State::Name | State::Value | State::LineLf | State::EndLf if self.in_body => {
                let room = self.limits.trailer_bytes.saturating_sub(self.trailer_bytes);
                let bytes = &bytes[..bytes.len().min(room)];
                let n = if bytes.is_empty() { Err(Refusal::Trailers) } else { self.step_field(bytes) }?;
                self.trailer_bytes += n;
                Ok(n)
            }
            State::Field | State::Name | State::Value | State::LineLf | State::EndLf => {
                self.step_field(bytes)
            }
            State::Size { .. } | State::Extension { .. } | State::SizeLf { .. } => self.step_size(bytes),
            State::Length(_) | State::Data(_) | State::DataCr | State::DataLf => self.step_data(bytes),
            State::Tunnel => Err(Refusal::AfterConnect),
            State::Refused(refused) => Err(refused.refusal),
        }
    }

    fn step_before_target(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        match (self.state, bytes[0]) {
            (State::Start, b'\r') => self.state = State::StartLf,
            (State::StartLf, b'\n') => self.state = State::Start,
            (State::StartLf, _) | (State::Start, b'\n') => return Err(Refusal::LineEnd),
            (State::Method, b' ') => {
                self.framing = Framing::of(&self.word);
                self.state = State::Target;
            }
            (state, _) => match token_run(bytes) {
                0 => return Err(Refusal::RequestLine),
                n => {
                    if state == State::Start {
                        self.word.clear();
                        self.state = State::Method;
                    }
                    self.word.push(&bytes[..n]);
                    return Ok(n);
                }
            },
        }
        Ok(1)
    }

    fn step_line(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let byte = bytes[0];
        self.state = match self.state {
            State::TargetRest if byte == b' ' => State::Version(0),
            State::Version(0) if bytes.starts_with(VERSION_LINE_END) => {
                self.state = State::Field;
                return Ok(VERSION_LINE_END.len());
            }
            State::Version(at) if at < VERSION.len() => match byte {
                _ if byte == VERSION[at] => State::Version(at + 1),
                b'0'..=b'9' if at == 5 => return Err(Refusal::Version),
                _ => return Err(Refusal::RequestLine),
            },
            State::Version(at) if at == VERSION.len() => match byte {
                b'0' | b'1' => {
                    self.framing.http_10 = byte == b'0';
                    State::Version(at + 1)
                }
                b'2'..=b'9' => return Err(Refusal::Version),
                _ => return Err(Refusal::RequestLine),
            },
            State::Version(_) if byte == b'\r' => State::LineLf,
            State::Version(_) if byte == b'\n' => return Err(Refusal::LineEnd),
            State::Target | State::TargetRest => match visible_run(bytes) {
                0 if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') => return Err(Refusal::RequestLine),
                0 => return Err(Refusal::Target),
                n => {
                    self.state = State::TargetRest;
                    return Ok(n);
                }
            },
            _ => return Err(Refusal::RequestLine),
        };
        Ok(1)
    }

    fn step_field(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let byte = bytes[0];
        match self.state {
            State::Field => match byte {
                b'\r' => self.state = State::EndLf,
                b'\n' => return Err(Refusal::LineEnd),
                b' ' | b'\t' => return Err(Refusal::Folded),
                _ => {
                    if !self.in_body
                        && let Some(n) = plain_line(bytes)
                    {
                        return Ok(n);
                    }
                    if self.in_body {
                        self.trailers += 1;
                        if self.trailers > self.limits.trailers {
                            return Err(Refusal::Trailers);
                        }
                    }
                    self.word.clear();
                    self.state = State::Name;
                    return self.step_name(bytes);
                }
            },
            State::Name => return self.step_name(bytes),
            State::Value => return self.step_value(bytes),
            State::LineLf if byte == b'\n' => self.state = State::Field,
            State::EndLf if byte == b'\n' => self.end_fields()?,
            _ => return Err(Refusal::LineEnd),
        }
        Ok(1)
    }

    fn step_name(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let n = token_run(bytes);
        if n > 0 {
            self.word.push(&bytes[..n]);
            return Ok(n);
        }
        match bytes[0] {
            b':' if !self.word.is_empty() => {
                self.field = self.framing.begin(&self.word, self.in_body)?;
                self.state = State::Value;
                Ok(1)
            }
            b'\n' => Err(Refusal::LineEnd),
            b' ' | b'\t' => Err(Refusal::FieldSpace),
            _ => Err(Refusal::FieldName),
        }
    }

    fn step_value(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        match text_run(bytes) {
            0 => match bytes[0] {
                b'\r' => {
                    self.framing.end(self.field)?;
                    self.state = State::LineLf;
                    Ok(1)
                }
                b'\n' => Err(Refusal::LineEnd),
                _ => Err(Refusal::Control),
            },
            n => {
                match &mut self.field {
                    Field::Other => {}
                    Field::Length(length) => length.push(&bytes[..n]),
                    Field::Coding(coding) => coding.push(&bytes[..n]),
                }
                Ok(n)
            }
        }
    }

    /// Ends a head, or the trailers.
    fn end_fields(&mut self) -> Result<(), Refusal> {
        if self.in_body {
            self.in_body = false;
            self.state = State::Start;
            return Ok(());
        }
        let body = self.framing.body()?;
        self.heads += 1;
        (self.extension_bytes, self.trailer_bytes, self.trailers) = (0, 0, 0);
        self.state = match body {
            Body::None => State::Start,
            Body::Length(n) => State::Length(n),
            Body::Chunked => State::Size { digits: 0, size: 0 },
            Body::Tunnel => State::Tunnel,
        };
        self.in_body = matches!(body, Body::Length(_) | Body::Chunked);
        Ok(())
    }

    fn step_size(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let byte = bytes[0];
        self.state = match self.state {
            State::Size { digits, size } => match (byte as char).to_digit(16) {
                // Below what is negative for servers that count with a sign.
                Some(digit) if digits < MAX_SIZE_DIGITS && size >> 59 == 0 => {
                    State::Size { digits: digits + 1, size: size << 4 | u64::from(digit) }
                }
                _ if digits == 0 => return Err(Refusal::ChunkSize),
                _ if byte == b'\r' => State::SizeLf { size },
                _ if byte == b';' => State::Extension { size },
                _ if byte == b'\n' => return Err(Refusal::LineEnd),
                _ => return Err(Refusal::ChunkSize),
            },
            State::Extension { size } => {
                let room = MAX_EXTENSION_BYTES - self.extension_bytes;
                match text_run(&bytes[..bytes.len().min(room)]) {
                    0 if byte == b'\r' => State::SizeLf { size },
                    0 if byte == b'\n' => return Err(Refusal::LineEnd),
                    0 => return Err(Refusal::ChunkExtension),
                    n => {
                        self.extension_bytes += n;
                        return Ok(n);
                    }
                }
            }
            State::SizeLf { size: 0 } if byte == b'\n' => State::Field,
            State::SizeLf { size } if byte == b'\n' => State::Data(size),
            _ => return Err(Refusal::LineEnd),
        };
        Ok(1)
    }

    fn step_data(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let (State::Length(left) | State::Data(left)) = self.state else {
            self.state = match (self.state, bytes[0]) {
                (State::DataCr, b'\r') => State::DataLf,
                (State::DataLf, b'\n') => State::Size { digits: 0, size: 0 },
                _ => return Err(Refusal::ChunkEnd),
            };
            return Ok(1);
        };
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - n as u64;
        self.state = match self.state {
            State::Data(_) if left == 0 => State::DataCr,
            State::Data(_) => State::Data(left),
            _ if left == 0 => State::Start,
            _ => State::Length(left),
        };
        self.in_body = self.state != State::Start;
        Ok(n)
    }
}

/// The length of a field's line in a head if it is here in one piece, is good, and says nothing of the body: most are
/// so, and need none of the states between their parts.
fn plain_line(bytes: &[u8]) -> Option<usize> {
    let name = token_run(bytes);
    if name == 0 || Framing::may_begin(name) || bytes.get(name) != Some(&b':') {
        return None;
    }
    let value = name + 1;
    let end = value + text_run(&bytes[value..]);
    bytes[end..].starts_with(b"\r\n").then_some(end + 2)
}

#[cfg(test)]
mod agree;
#[cfg(test)]
mod tests;
