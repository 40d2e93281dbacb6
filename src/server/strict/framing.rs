//! What a head says of the length of its body (RFC 9112, section 6.3), and what makes that ambiguous.

use super::bytes::Word;
use super::refusal::Refusal;

/// What the fields so far say.
#[derive(Debug, Default)]
pub(super) struct Framing {
    pub(super) http_10: bool,
    connect: bool,
    length: Option<u64>,
    chunked: bool,
}

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    None,
    Length(u64),
    Chunked,
    /// None: what follows may belong to a tunnel.
    Tunnel,
}

/// The field that is being read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field {
    Other,
    Length(Length),
    Coding(Coding),
}

impl Framing {
    /// That of a request with this method, before its first field.
    pub(super) fn of(method: &Word) -> Self {
        Framing { connect: method.as_bytes() == b"CONNECT", ..Framing::default() }
    }

    /// Whether a field of a head whose name is so long may say something of the body.
    pub(super) fn may_begin(length: usize) -> bool {
        matches!(length, 14 | 17)
    }

    /// Begins the field `name`.
    pub(super) fn begin(&self, name: &Word, in_trailers: bool) -> Result<Field, Refusal> {
        let is = |field: &[u8]| name.as_bytes().eq_ignore_ascii_case(field);
        // The length sorts out nearly every name.
        match name.as_bytes().len() {
            14 if is(b"content-length") => match self.length {
                _ if in_trailers => Err(Refusal::TrailerName),
                Some(_) => Err(Refusal::LengthRepeated),
                None => Ok(Field::Length(Length::default())),
            },
            17 if is(b"transfer-encoding") => match self.chunked {
                _ if in_trailers => Err(Refusal::TrailerName),
                _ if self.http_10 => Err(Refusal::CodingInHttp10),
                true => Err(Refusal::CodingRepeated),
                false => Ok(Field::Coding(Coding::default())),
            },
            4 if in_trailers && is(b"host") => Err(Refusal::TrailerName),
            _ => Ok(Field::Other),
        }
    }

    /// Ends the field that was begun last.
    pub(super) fn end(&mut self, field: Field) -> Result<(), Refusal> {
        match field {
            Field::Other => {}
            Field::Length(length) => self.length = Some(length.value()?),
            Field::Coding(coding) => {
                coding.check()?;
                self.chunked = true;
            }
        }
        if self.chunked && self.length.is_some() {
            return Err(Refusal::LengthAndCoding);
        }
        Ok(())
    }

    /// The body of a request that has no more fields.
    pub(super) fn body(&self) -> Result<Body, Refusal> {
        match (self.length, self.chunked) {
            // It would be the beginning of the tunnel for some (RFC 9110, section 9.3.6).
            (Some(_), _) | (_, true) if self.connect => Err(Refusal::ConnectBody),
            _ if self.connect => Ok(Body::Tunnel),
            (_, true) => Ok(Body::Chunked),
            (None | Some(0), _) => Ok(Body::None),
            (Some(n), _) => Ok(Body::Length(n)),
        }
    }
}

/// `1*DIGIT` with optional white space around it (RFC 9110, section 8.6), below what is negative for servers
/// that count with a sign.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Length {
    value: u64,
    at: At,
    bad: bool,
    listed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Before,
    In,
    Behind,
}

impl Length {
    pub(super) fn push(&mut self, text: &[u8]) {
        for byte in text {
            match byte {
                b' ' | b'\t' if self.at == At::Before => {}
                b' ' | b'\t' => self.at = At::Behind,
                b'0'..=b'9' if self.at != At::Behind => {
                    // Some take what begins with a zero for octal.
                    self.bad |= self.at == At::In && self.value == 0;
                    self.at = At::In;
                    let digit = u64::from(byte - b'0');
                    let value = self.value.checked_mul(10).and_then(|value| value.checked_add(digit));
                    match value {
                        Some(value) if value <= i64::MAX as u64 => self.value = value,
                        _ => self.bad = true,
                    }
                }
                _ => (self.bad, self.listed) = (true, self.listed || *byte == b','),
            }
        }
    }

    fn value(self) -> Result<u64, Refusal> {
        match self {
            Length { listed: true, .. } => Err(Refusal::LengthRepeated),
            Length { bad: false, at: At::In | At::Behind, value, .. } => Ok(value),
            _ => Err(Refusal::Length),
        }
    }
}

/// The value of `Transfer-Encoding`, of which only `chunked` is understood, alone and once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Coding {
    /// So much of the member that is being read is that of `chunked`.
    matched: usize,
    at: At,
    /// Whether the member is another, and so cannot match any more.
    other: bool,
    /// How many members have ended.
    before: u8,
    /// Whether one of these was empty, or `chunked`, behind which nothing may come.
    bad: bool,
}

const CHUNKED: &[u8; 7] = b"chunked";

impl Coding {
    pub(super) fn push(&mut self, text: &[u8]) {
        for byte in text {
            match byte {
                b',' => {
                    *self = Coding {
                        before: self.before.saturating_add(1),
                        bad: self.bad || self.at == At::Before || self.is_chunked(),
                        ..Coding::default()
                    };
                }
                b' ' | b'\t' if self.at == At::Before => {}
                b' ' | b'\t' => self.at = At::Behind,
                _ => {
                    let expected = CHUNKED.get(self.matched);
                    let matches = self.at != At::Behind && expected == Some(&byte.to_ascii_lowercase());
                    self.other |= !matches;
                    self.matched += usize::from(matches);
                    self.at = if self.at == At::Behind { At::Behind } else { At::In };
                }
            }
        }
    }

    fn is_chunked(&self) -> bool {
        !self.other && self.matched == CHUNKED.len()
    }

    fn check(self) -> Result<(), Refusal> {
        match (self.is_chunked(), self.before) {
            (true, 0) => Ok(()),
            // It could be read if the other were understood (RFC 9112, section 6.1): that is 501.
            (true, _) if !self.bad => Err(Refusal::CodingUnknown),
            _ => Err(Refusal::Coding),
        }
    }
}
