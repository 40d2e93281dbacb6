//! The witness's words: how an exchange ended, what is only a disturbance, and what is kept of each failure.
//!
//! An **exchange** is what a client asked for and waits for: a request and its answer, a stream of gRPC, the opening of
//! a tunnel, a message that is to come back. Each ends in exactly one [`Class`]. What a client would notice without
//! losing anything is a [`Disturbance`].

mod frames;
mod wire;

use serde::{Deserialize, Serialize};

pub use wire::{End, Log, Wire};

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Answered in full, with the expected status and the expected bytes.
    Ok,
    /// The connection it needed was refused (ECONNREFUSED).
    Refused,
    /// The connection was reset (ECONNRESET, EPIPE), or the stream (RST_STREAM).
    Reset,
    /// The connection ended before a byte of the answer.
    ClosedBeforeAnswer,
    /// The connection ended in the middle of the answer.
    ClosedInAnswer,
    /// There was no whole answer in the time allowed.
    Timeout,
    /// The answer was whole and had other bytes than it should.
    WrongBytes,
    /// The answer had another status than it should; its body was not judged.
    WrongStatus,
    /// The stream was refused by GOAWAY or REFUSED_STREAM, so that the peer did nothing for it (RFC 9113, 8.7).
    RefusedStream,
    /// What came was not the protocol: a malformed answer, a TLS alert.
    Malformed,
    /// The witness itself could not: no descriptor, no port. Not the proxy's doing, but the run proves nothing.
    Local,
    /// Still under way when the witness was told to end.
    Unfinished,
}

impl Class {
    /// All, in the order in which they are shown.
    pub const ALL: [Class; 12] = [
        Class::Ok,
        Class::Refused,
        Class::Reset,
        Class::ClosedBeforeAnswer,
        Class::ClosedInAnswer,
        Class::Timeout,
        Class::WrongBytes,
        Class::WrongStatus,
        Class::RefusedStream,
        Class::Malformed,
        Class::Local,
        Class::Unfinished,
    ];

    /// Whether something that a client asked for went wrong.
    #[must_use]
    pub fn is_failure(self) -> bool {
        !matches!(self, Class::Ok | Class::Unfinished)
    }

    /// As people read it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Class::Ok => "ok",
            Class::Refused => "refused",
            Class::Reset => "reset",
            Class::ClosedBeforeAnswer => "closed before the answer",
            Class::ClosedInAnswer => "closed in mid-answer",
            Class::Timeout => "timeout",
            Class::WrongBytes => "wrong bytes",
            Class::WrongStatus => "wrong status",
            Class::RefusedStream => "refused stream",
            Class::Malformed => "malformed",
            Class::Local => "witness's own",
            Class::Unfinished => "unfinished",
        }
    }
}

/// What is counted as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A request on HTTP/1.
    Request,
    /// A request on HTTP/2, or a whole call of gRPC.
    Stream,
    /// The opening of a WebSocket.
    Tunnel,
    /// A message in a WebSocket or a gRPC call, and its echo.
    Message,
}

/// What a client noticed and lost nothing by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disturbance {
    /// A connection at rest was closed by the proxy without a word. A client that wrote at that moment would have
    /// failed.
    ClosedIdle,
    /// An answer said `Connection: close` though the client had not asked for it.
    AnnouncedClose,
    /// A GOAWAY on an HTTP/2 connection.
    GoAway,
    /// A connection that had to be made anew, for whatever of the above.
    Reconnect,
    /// A WebSocket that ended though neither end had closed it.
    LostWebSocket,
    /// A full TLS handshake although the client had a session to resume.
    FullHandshake,
}

impl Disturbance {
    /// All, in the order in which they are shown.
    pub const ALL: [Disturbance; 6] = [
        Disturbance::ClosedIdle,
        Disturbance::AnnouncedClose,
        Disturbance::GoAway,
        Disturbance::Reconnect,
        Disturbance::LostWebSocket,
        Disturbance::FullHandshake,
    ];

    /// As people read it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Disturbance::ClosedIdle => "closed while idle",
            Disturbance::AnnouncedClose => "Connection: close",
            Disturbance::GoAway => "GOAWAY",
            Disturbance::Reconnect => "reconnect",
            Disturbance::LostWebSocket => "lost WebSocket",
            Disturbance::FullHandshake => "full handshake, could be resumed",
        }
    }
}

/// Where the proxy was in its upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// No upgrade under way, nothing drains.
    Steady,
    /// Asked for; the new process is not ready.
    Starting,
    /// The new process accepts, the old one stands by.
    Probation,
    /// The new process owns; the old one finishes. Where nothing tells of it, a while after the upgrade's end.
    Draining,
}

impl Phase {
    /// As people read it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Phase::Steady => "steady",
            Phase::Starting => "starting",
            Phase::Probation => "probation",
            Phase::Draining => "draining",
        }
    }
}

/// What is kept of an exchange that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// When it ended, in seconds since the run began.
    pub at: f64,
    /// The kind of traffic, as the scenario names it.
    pub kind: String,
    /// What it was.
    pub unit: Unit,
    /// How it ended.
    pub class: Class,
    /// The phase of the upgrade in which it ended.
    pub phase: Phase,
    /// How many upgrades had begun.
    pub upgrade: u32,
    /// The client's port, by which the proxy's log can be searched; 0 if there was no connection.
    pub local_port: u16,
    /// Whether the connection had carried an exchange before: a browser sends again what failed so.
    pub reused: bool,
    /// Bytes of the answer that were seen.
    pub bytes_seen: u64,
    /// How long it had taken, in milliseconds since its intended time.
    pub after_ms: f64,
    /// Whether it was inside a process that was killed on purpose: see [`crate::now::Now::excused`].
    pub excused: bool,
    /// How it went when it was sent once more on a new connection, if a browser would have done so. Counted nowhere
    /// else.
    pub second: Option<Class>,
    /// What was seen, in words.
    pub detail: String,
}
