//! What a run does: the traffic, the disturbers, the seed. Checked; with every default written out.
//!
//! A scenario is a TOML file ([`Scenario::parse`]), or the built-in one with shares of one's own
//! ([`Scenario::by_shares`]). `exuvia-loadtest scenario` prints the one that a run would use, as a file to begin with.

mod check;
mod print;
mod raw;
mod text;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use check::Problem;

/// The built-in scenario, about 30 seconds of everything.
pub const DEFAULT: &str = include_str!("../scenarios/default.toml");

/// What a run does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    /// From which everything random is drawn: the same seed, the same plan.
    pub seed: u64,
    /// How long load is applied.
    #[serde(with = "text::duration")]
    pub duration: Duration,
    /// For how long, at the begin, latency goes into no sum: when all connect at once it is not the proxy's daily life.
    /// Failures count from the first moment.
    #[serde(with = "text::duration")]
    pub warm_up: Duration,
    /// How long an exchange may take, from its intended time; slow ones get the time that they are to last on top.
    #[serde(with = "text::duration")]
    pub timeout: Duration,
    /// How many threads generate load.
    pub threads: usize,
    /// What is done to the proxy meanwhile.
    pub disturb: Disturb,
    /// The kinds of traffic, at least one.
    pub traffic: Vec<Traffic>,
}

/// One kind of traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// What it is.
    pub kind: Kind,
    /// How it is called in tables: the kind's name, unless the scenario says otherwise.
    pub name: String,
    /// How many connections it has at once.
    pub connections: usize,
    /// Exchanges a second, of all its connections together, begun at their intended times whether or not those before
    /// have ended (open loop). 0: each begins when the one before it has ended (closed loop).
    pub rate: f64,
    /// The time between two exchanges of a connection, between two bounds: for [`Kind::Idle`] from begin to begin, in
    /// closed loop from end to begin.
    #[serde(with = "text::durations")]
    pub pause: (Duration, Duration),
    /// How large bodies and messages are, between two bounds.
    pub bytes: (usize, usize),
    /// Streams at once on each connection, of HTTP/2 and gRPC.
    pub streams: usize,
    /// Messages in each WebSocket or call, before it is closed and another opened.
    pub messages: u32,
    /// How long a slow upload, a slow download or a streamed answer takes.
    #[serde(with = "text::duration")]
    pub lasts: Duration,
    /// What a slow upload, a slow download or a streamed answer is carried by.
    pub over: Carrier,
}

impl Traffic {
    /// How many do something at once: connections, or streams on them.
    #[must_use]
    pub fn users(&self) -> usize {
        self.connections * if self.carrier() == Carrier::Http2 { self.streams } else { 1 }
    }

    /// Whether its exchanges last on purpose, so that how long they take says little.
    #[must_use]
    pub fn is_paced(&self) -> bool {
        !self.lasts.is_zero()
    }

    /// What its exchanges are carried by.
    #[must_use]
    pub fn carrier(&self) -> Carrier {
        match self.kind {
            Kind::Http1 | Kind::Http1New | Kind::Idle | Kind::WebSocket => Carrier::Http1,
            Kind::Http1Tls | Kind::WebSocketTls => Carrier::Http1Tls,
            Kind::Http2 | Kind::Grpc => Carrier::Http2,
            Kind::Upload | Kind::Download | Kind::Streamed => self.over,
        }
    }
}

/// The kinds of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// HTTP/1.1 on kept connections.
    Http1,
    /// HTTP/1.1, a connection for each request.
    Http1New,
    /// HTTP/1.1 on kept connections that rest long between two requests.
    Idle,
    /// HTTP/1.1 over TLS, on kept connections.
    Http1Tls,
    /// HTTP/2 over TLS.
    Http2,
    /// A request body in slow motion; the server answers with its checksum.
    Upload,
    /// An answer that is read in slow motion, every byte compared.
    Download,
    /// An answer that the server sends piece by piece.
    Streamed,
    /// WebSocket: messages that come back.
    #[serde(rename = "websocket")]
    WebSocket,
    /// The same over TLS.
    #[serde(rename = "websocket-tls")]
    WebSocketTls,
    /// gRPC calls with messages both ways, over HTTP/2 and TLS.
    Grpc,
}

impl Kind {
    /// All, in the order in which they are shown.
    pub const ALL: [Kind; 11] = [
        Kind::Http1,
        Kind::Http1New,
        Kind::Idle,
        Kind::Http1Tls,
        Kind::Http2,
        Kind::Upload,
        Kind::Download,
        Kind::Streamed,
        Kind::WebSocket,
        Kind::WebSocketTls,
        Kind::Grpc,
    ];

    /// As a scenario names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Http1 => "http1",
            Kind::Http1New => "http1-new",
            Kind::Idle => "idle",
            Kind::Http1Tls => "http1-tls",
            Kind::Http2 => "http2",
            Kind::Upload => "upload",
            Kind::Download => "download",
            Kind::Streamed => "streamed",
            Kind::WebSocket => "websocket",
            Kind::WebSocketTls => "websocket-tls",
            Kind::Grpc => "grpc",
        }
    }
}

/// What carries an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carrier {
    /// HTTP/1.1.
    Http1,
    /// HTTP/1.1 over TLS.
    Http1Tls,
    /// HTTP/2 over TLS.
    Http2,
}

/// What is done to the proxy while there is load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Disturb {
    /// When the first upgrade begins: what is before it shows how the proxy is without one.
    #[serde(with = "text::duration")]
    pub first: Duration,
    /// The time between the begins of two upgrades; zero: none at all.
    #[serde(with = "text::duration")]
    pub every: Duration,
    /// How many upgrades at most; 0: as long as the load lasts.
    pub upgrades: u32,
    /// How an upgrade is asked for.
    pub by: Way,
    /// Each so-manieth upgrade is to a program that cannot serve; 0: none.
    pub bad_every: u32,
    /// At each so-manieth upgrade, if it is no bad one, a process is killed with SIGKILL; 0: never.
    pub kill_every: u32,
    /// Which.
    pub kill: Victim,
    /// Each so-manieth upgrade, if it is neither, comes with another configuration: a listener more or less, a worker
    /// more or less; 0: none.
    pub change_every: u32,
    /// Where nothing tells when the old process is gone: how long after the upgrade it counts as draining.
    #[serde(with = "text::duration")]
    pub settle: Duration,
}

impl Disturb {
    /// Whose turn the upgrade of this number is, counted from 1.
    #[must_use]
    pub fn turn(&self, number: u32) -> Turn {
        let is = |every: u32| every > 0 && number.is_multiple_of(every);
        if is(self.bad_every) {
            Turn::Bad
        } else if is(self.kill_every) {
            Turn::Kill
        } else if is(self.change_every) {
            Turn::Change
        } else {
            Turn::Upgrade
        }
    }

    /// How many upgrades are due in a run that lasts so long.
    #[must_use]
    pub fn due(&self, duration: Duration) -> u32 {
        let room = duration.saturating_sub(self.first);
        if self.every.is_zero() || room.is_zero() {
            return 0;
        }
        // One that is due at the end is none.
        let fit = (room.as_nanos() - 1) / self.every.as_nanos() + 1;
        let fit = u32::try_from(fit).unwrap_or(u32::MAX);
        if self.upgrades == 0 { fit } else { fit.min(self.upgrades) }
    }
}

/// What an upgrade is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing but an upgrade.
    Upgrade,
    /// One to a program that cannot serve.
    Bad,
    /// One in which a process is killed.
    Kill,
    /// One with another configuration.
    Change,
}

/// How an upgrade is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// By exuvia's control socket; the path, or the one of the exuvia that is started here.
    Control(Option<PathBuf>),
    /// By a signal to the process whose id is in a file: `HUP`, `USR2`.
    Signal {
        /// Its name, without SIG.
        signal: String,
        /// The file with the process's id, or the one of the exuvia that is started here.
        pid_file: Option<PathBuf>,
    },
    /// By a command, run by `sh -c`; it has succeeded when it exits with 0.
    Command(String),
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Victim {
    /// The process that was started for the upgrade.
    New,
    /// The process that was there before.
    Old,
    /// One of the two, by chance.
    Either,
}
