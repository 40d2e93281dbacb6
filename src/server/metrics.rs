//! What is counted of clients before a request of theirs is a request.

use std::cell::Cell;
use std::rc::Rc;

use http::StatusCode;
use rustls::{HandshakeKind, ProtocolVersion, ServerConnection};
use tokio::time::Instant;

use super::strict::Refusal;
use super::tunnel::Over;
use crate::metrics::{Family, NANOSECONDS, ONE, Source};
use crate::proxy::{RequestIdentity, log_request};
use crate::restart::{Histogram, Loss, Plan, Shard, Slot};

/// The tunnels that a process did not finish.
pub const LOST_TUNNELS: Loss =
    Loss { what: "tunnels", series: "tunnels_ended_total", ends: &["dropped", "crashed"] };

/// The metrics of clients.
pub const FAMILIES: &[Family] = &[
    Family {
        name: "tls_handshakes_total",
        help: "TLS handshakes with clients, by version, and whether a session was resumed.",
        source: Source::Counter("tls_handshakes_total", ONE),
    },
    Family {
        name: "tls_handshake_failures_total",
        help: "TLS handshakes with clients that failed: the client broke it off (client), broke the protocol (protocol), \
               took too long (timeout), or speaks no TLS (not_tls).",
        source: Source::Counter("tls_handshake_failures_total", ONE),
    },
    Family {
        name: "tls_handshake_duration_seconds",
        help: "How long TLS handshakes with clients took, from their first byte.",
        source: Source::Histogram("tls_handshake_duration", NANOSECONDS),
    },
    Family {
        name: "tunnels_total",
        help: "Tunnels that began, by what the client speaks: WebSockets, CONNECT and what else is allowed.",
        source: Source::Counter("tunnels_total", ONE),
    },
    Family {
        name: "tunnels_ended_total",
        help: "Tunnels that ended, and how. Began = open + ended, whatever happens to a process.",
        source: Source::Counter("tunnels_ended_total", ONE),
    },
    Family { name: "tunnels_open", help: "Tunnels that are open.", source: Source::Open("tunnels_total") },
    Family {
        name: "requests_refused_total",
        help: "What came in place of a request and was refused, by protocol and why; not among the requests.",
        source: Source::Counter("requests_refused_total", ONE),
    },
];

/// The upper bounds of durations in nanoseconds, from 0.25 ms to 10 s.
const DURATIONS: [u64; 10] = [
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    50_000_000,
    250_000_000,
    1_000_000_000,
    10_000_000_000,
];

/// Why a TLS handshake fails.
#[derive(Clone, Copy, Debug)]
pub(super) enum HandshakeFailure {
    Client,
    Protocol,
    Timeout,
    NotTls,
}

/// Why what came is no request, beside what [`Refusal`] says of HTTP/1.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refused {
    /// HTTP/1 that is none, or ends in the middle.
    Malformed,
    /// A body that is framed wrong.
    Body,
    /// A head that does not come in time.
    TooSlow,
    /// HTTP/2 that breaks its rules.
    Http2Malformed,
    /// An HTTP/2 request with a head that is too long, or with something that is not done here.
    Http2Answered(StatusCode),
    /// HTTP/2 with more of something than is allowed.
    Http2Flood,
}

/// How a tunnel ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum TunnelEnd {
    /// Both sides have said so.
    Ended,
    /// The client has failed, or has gone with its connection.
    ClientGone,
    ServerFailed,
    /// Nothing has moved for too long.
    Silent,
    /// The process cut it, at its deadline or when it was told to.
    Dropped,
    /// The process died. Never counted by the process itself.
    Crashed,
}

impl TunnelEnd {
    const WORDS: [&str; 6] = ["ended", "client_gone", "server_failed", "silent", "dropped", "crashed"];
}

impl From<&Over> for TunnelEnd {
    fn from(over: &Over) -> TunnelEnd {
        match over {
            Over::Ended { .. } => TunnelEnd::Ended,
            Over::ClientFailed(_) => TunnelEnd::ClientGone,
            Over::ServerFailed(_) => TunnelEnd::ServerFailed,
            Over::Silent => TunnelEnd::Silent,
        }
    }
}

/// The places of the series of tunnels whose clients speak one protocol.
#[derive(Clone, Copy, Debug)]
struct TunnelColumns {
    began: Slot,
    ended: [Slot; TunnelEnd::WORDS.len()],
}

impl TunnelColumns {
    fn plan(plan: &mut Plan, protocol: &str) -> TunnelColumns {
        let protocol = ("protocol", protocol);
        let began = plan.counter("tunnels_total", &[protocol]);
        let ended =
            TunnelEnd::WORDS.map(|end| plan.end("tunnels_ended_total", &[protocol, ("end", end)], began));
        plan.lost(began, ended[TunnelEnd::Crashed as usize]);
        TunnelColumns { began, ended }
    }
}

/// The places of the series.
#[derive(Clone, Debug)]
pub struct Columns {
    /// By HTTP/1 and by HTTP/2.
    tunnels: [TunnelColumns; 2],
    /// TLS 1.2 and 1.3, each full and resumed.
    handshakes: [[Slot; 2]; 2],
    failures: [Slot; 4],
    duration: Histogram,
    refusals: Vec<(Refusal, Slot)>,
    malformed: Slot,
    body: Slot,
    too_slow: Slot,
    http2_malformed: Slot,
    http2_too_large: Slot,
    http2_other: Slot,
    http2_flood: Slot,
}

impl Columns {
    /// Plans them.
    pub fn plan(plan: &mut Plan) -> Columns {
        let handshakes = ["1.2", "1.3"].map(|version| {
            ["false", "true"].map(|resumed| {
                plan.counter("tls_handshakes_total", &[("version", version), ("resumed", resumed)])
            })
        });
        let failures = ["client", "protocol", "timeout", "not_tls"]
            .map(|reason| plan.counter("tls_handshake_failures_total", &[("reason", reason)]));
        let duration = plan.histogram("tls_handshake_duration", &[], &DURATIONS);
        let tunnels = ["http1", "http2"].map(|protocol| TunnelColumns::plan(plan, protocol));
        let mut refused = |protocol: &str, reason: &str| {
            plan.counter("requests_refused_total", &[("protocol", protocol), ("reason", reason)])
        };
        Columns {
            tunnels,
            handshakes,
            failures,
            duration,
            refusals: Refusal::ALL.map(|refusal| (refusal, refused("http1", refusal.label()))).into(),
            malformed: refused("http1", "malformed"),
            body: refused("http1", "body"),
            too_slow: refused("http1", "too_slow"),
            http2_malformed: refused("http2", "malformed"),
            http2_too_large: refused("http2", "too_large"),
            http2_other: refused("http2", "other"),
            http2_flood: refused("http2", "flood"),
        }
    }
}

/// Where a worker counts its clients.
#[derive(Debug)]
pub struct Metrics {
    columns: Columns,
    shard: Shard,
    /// Whether what ends from now on does so because the process cuts it.
    cutting: Cell<bool>,
}

impl Metrics {
    /// For the thread of this shard.
    pub fn new(columns: Columns, shard: Shard) -> Rc<Self> {
        Rc::new(Metrics { columns, shard, cutting: Cell::new(false) })
    }

    /// Without anything around it.
    #[cfg(test)]
    pub(super) fn alone() -> Rc<Self> {
        let mut plan = Plan::default();
        let columns = Columns::plan(&mut plan);
        Metrics::new(columns, crate::restart::Segment::alone(&plan).seat(0).take())
    }

    /// What has not ended by now is cut.
    pub fn cut(&self) {
        self.cutting.set(true);
    }

    /// Begins a tunnel.
    pub(super) fn tunnel(self: &Rc<Self>, is_http2: bool, request: &Rc<RequestIdentity>) -> Carried {
        let columns = self.columns.tunnels[usize::from(is_http2)];
        self.shard.add(columns.began, 1);
        Carried { metrics: self.clone(), columns, request: request.clone(), since: Instant::now(), end: None }
    }

    pub(super) fn shaken(&self, session: &ServerConnection, since: Instant) {
        let version = usize::from(session.protocol_version() == Some(ProtocolVersion::TLSv1_3));
        let resumed = usize::from(session.handshake_kind() == Some(HandshakeKind::Resumed));
        self.shard.add(self.columns.handshakes[version][resumed], 1);
        self.shard.observe_since(&self.columns.duration, since);
    }

    pub(super) fn not_shaken(&self, why: HandshakeFailure) {
        self.shard.add(self.columns.failures[why as usize], 1);
    }

    pub(super) fn refused_by_rule(&self, why: Refusal) {
        if let Some((_, slot)) = self.columns.refusals.iter().find(|(refusal, _)| *refusal == why) {
            self.shard.add(*slot, 1);
        }
    }

    pub(super) fn refused(&self, why: Refused) {
        let columns = &self.columns;
        let slot = match why {
            Refused::Malformed => columns.malformed,
            Refused::Body => columns.body,
            Refused::TooSlow => columns.too_slow,
            Refused::Http2Malformed => columns.http2_malformed,
            Refused::Http2Answered(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) => columns.http2_too_large,
            Refused::Http2Answered(_) => columns.http2_other,
            Refused::Http2Flood => columns.http2_flood,
        };
        self.shard.add(slot, 1);
    }
}

/// A tunnel that is open. Dropped without a word, it has ended with its connection, or was cut.
#[derive(Debug)]
pub(super) struct Carried {
    metrics: Rc<Metrics>,
    columns: TunnelColumns,
    request: Rc<RequestIdentity>,
    since: Instant,
    end: Option<TunnelEnd>,
}

impl Carried {
    pub(super) fn end(mut self, end: TunnelEnd) {
        self.end = Some(end);
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        let cut = self.metrics.cutting.get();
        let end = self.end.unwrap_or(if cut { TunnelEnd::Dropped } else { TunnelEnd::ClientGone });
        self.metrics.shard.add(self.columns.ended[end as usize], 1);
        if let TunnelEnd::Dropped = end {
            let age_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            log_request!(each warn, self.request, age_ms, "a tunnel was cut: its process ends");
        }
    }
}
