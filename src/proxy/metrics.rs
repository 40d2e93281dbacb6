//! What is counted of requests: each begins once and ends in one place, whatever becomes of it.

use std::cell::Cell;
use std::rc::Rc;

use http::{Method, StatusCode, Version};
use tokio::time::Instant;

use super::error::{BodyError, Error};
use super::identity::{RequestIdentity, log_request};
use super::upstream;
use crate::metrics::{Family, NANOSECONDS, ONE, Source};
use crate::restart::{Histogram, Loss, Milestone, Plan, Shard, Slot, Work};

/// The one route that there is.
const ROUTE: &str = "default";

const PROTOCOLS: [&str; 2] = ["http1", "http2"];

/// Every method that has a name of its own in the metrics; a client may send any word.
const METHODS: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::PATCH,
    Method::OPTIONS,
    Method::CONNECT,
    Method::TRACE,
];
const OTHER: &str = "other";

pub(super) const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The upper bounds of durations in nanoseconds, from 0.5 ms to a minute.
pub(super) const DURATIONS: [u64; 14] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
    20_000_000_000,
    60_000_000_000,
];

/// The place of a status in [`CLASSES`].
pub(super) fn class_of(status: StatusCode) -> usize {
    usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1
}

/// How a request ends without a whole answer.
#[derive(Clone, Copy, Debug)]
enum Unanswered {
    /// The client has gone, or has given it up.
    ClientGone,
    /// The answer could not be finished: the server broke it off.
    BrokenOff,
    /// The process cut it, at its deadline or when it was told to, and no answer had begun.
    DroppedBeforeAnswer,
    /// The same, in the middle of the answer.
    DroppedInAnswer,
    /// The process died. Never counted by the process itself.
    Crashed,
}

impl Unanswered {
    const ALL: [Unanswered; 5] = [
        Unanswered::ClientGone,
        Unanswered::BrokenOff,
        Unanswered::DroppedBeforeAnswer,
        Unanswered::DroppedInAnswer,
        Unanswered::Crashed,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Unanswered::ClientGone => "client_gone",
            Unanswered::BrokenOff => "broken_off",
            Unanswered::DroppedBeforeAnswer => "dropped_before_answer",
            Unanswered::DroppedInAnswer => "dropped_in_answer",
            Unanswered::Crashed => "crashed",
        }
    }
}

/// The requests that a process did not finish.
pub const LOST_REQUESTS: Loss = Loss {
    what: "requests",
    series: "requests_ended_total",
    ends: &["dropped_before_answer", "dropped_in_answer", "crashed"],
};

/// The metrics of requests.
pub const FAMILIES: &[Family] = &[
    Family {
        name: "requests_total",
        help: "Requests that began: their head was read and was good.",
        source: Source::Counter("requests_total", ONE),
    },
    Family {
        name: "requests_ended_total",
        help: "Requests that ended, by method and class of status if they were answered in full, else by why not. \
               Began = in flight + ended, whatever happens to a process.",
        source: Source::Counter("requests_ended_total", ONE),
    },
    Family {
        name: "requests_in_flight",
        help: "Requests that have begun and not ended.",
        source: Source::Open("requests_total"),
    },
    Family {
        name: "generation_requests_in_flight",
        help: "Requests that have begun and not ended, of each generation that is alive.",
        source: Source::OpenByGeneration("requests_total"),
    },
    Family {
        name: "request_duration_seconds",
        help: "From the head of a request to the end of its answer.",
        source: Source::Histogram("request_duration", NANOSECONDS),
    },
    Family {
        name: "request_body_bytes_total",
        help: "Bytes of requests' bodies that were passed on.",
        source: Source::Counter("request_body_bytes_total", ONE),
    },
    Family {
        name: "response_body_bytes_total",
        help: "Bytes of answers' bodies that were passed on.",
        source: Source::Counter("response_body_bytes_total", ONE),
    },
    Family {
        name: "request_errors_total",
        help: "Requests that this proxy answered with an error of its own, by why.",
        source: Source::Counter("request_errors_total", ONE),
    },
];

/// What this proxy does: it answers requests.
pub const WORK: Work = Work { series: "requests_ended_total", label: "status" };

/// The places of the series of requests.
#[derive(Clone, Debug)]
pub struct Columns {
    protocols: [ProtocolColumns; PROTOCOLS.len()],
    errors: Vec<(&'static str, Slot)>,
    /// In the order of the servers in the settings.
    servers: Vec<upstream::Columns>,
}

#[derive(Clone, Debug)]
struct ProtocolColumns {
    began: Slot,
    /// By method, then by class; the last method is every other one.
    answered: Vec<[Slot; CLASSES.len()]>,
    unanswered: [Slot; Unanswered::ALL.len()],
    duration: Histogram,
    request_bytes: Slot,
    response_bytes: Slot,
}

impl Columns {
    /// Plans them, with these names for the servers, in the order of [`Config::servers`](super::Config::servers).
    pub fn plan(plan: &mut Plan, servers: &[String]) -> Columns {
        let servers = servers.iter().map(|name| upstream::Columns::plan(plan, name)).collect();
        let errors = Error::LABELS
            .iter()
            .map(|label| (*label, plan.counter("request_errors_total", &[("error", label)])))
            .collect();
        let protocols = PROTOCOLS.map(|protocol| {
            let common = [("route", ROUTE), ("protocol", protocol)];
            let began = plan.counter("requests_total", &common);
            let mut ended = |method: &str, status: &str, end: &str| {
                let labels = [common[0], common[1], ("method", method), ("status", status), ("end", end)];
                plan.end("requests_ended_total", &labels, began)
            };
            let mut answered = |method: &str| CLASSES.map(|class| ended(method, class, "answered"));
            let answered = METHODS.iter().map(Method::as_str).chain([OTHER]).map(&mut answered).collect();
            let unanswered = Unanswered::ALL.map(|end| ended("", "", end.as_str()));
            plan.lost(began, unanswered[Unanswered::Crashed as usize]);
            ProtocolColumns {
                began,
                answered,
                unanswered,
                duration: plan.histogram("request_duration", &common, &DURATIONS),
                request_bytes: plan.counter("request_body_bytes_total", &common),
                response_bytes: plan.counter("response_body_bytes_total", &common),
            }
        });
        Columns { protocols, errors, servers }
    }
}

/// Where a worker counts its requests.
#[derive(Debug)]
pub struct Metrics {
    columns: Columns,
    shard: Shard,
    /// Whether what ends from now on does so because the process cuts it.
    cutting: Cell<bool>,
    /// Who may wait for a number of answers.
    milestone: Option<Milestone>,
}

impl Metrics {
    /// For the thread of this shard.
    pub fn new(columns: Columns, shard: Shard) -> Rc<Self> {
        Rc::new(Metrics { columns, shard, cutting: Cell::new(false), milestone: None })
    }

    /// The same, where each answer is said to have been given.
    pub fn with_milestone(columns: Columns, shard: Shard, milestone: Milestone) -> Rc<Self> {
        Rc::new(Metrics { columns, shard, cutting: Cell::new(false), milestone: Some(milestone) })
    }

    /// Without anything around it, and the segment in which it counts.
    #[cfg(test)]
    pub(crate) fn alone() -> (Rc<Self>, crate::restart::Segment) {
        let mut plan = Plan::default();
        let columns = Columns::plan(&mut plan, &vec!["test".to_owned(); 8]);
        let segment = crate::restart::Segment::alone(&plan);
        let shard = segment.seat(0).take();
        (Metrics::new(columns, shard), segment)
    }

    /// Where this worker counts what it has to do with the server at this place in the settings.
    pub(super) fn of_server(&self, place: usize) -> Rc<upstream::Metrics> {
        let columns = self.columns.servers[place].clone();
        upstream::Metrics::new(columns, self.shard.clone())
    }

    /// What is not answered by now never will be.
    pub(super) fn cut(&self) {
        self.cutting.set(true);
    }

    /// Counts an answer of our own.
    pub(super) fn error(&self, label: &str) {
        let known = self.columns.errors.iter().find(|(known, _)| *known == label);
        debug_assert!(known.is_some(), "Error::LABELS has no {label:?}");
        if let Some((_, slot)) = known.or(self.columns.errors.last()) {
            self.shard.add(*slot, 1);
        }
    }

    /// Counts bytes of a request's body.
    pub(super) fn receive(&self, is_http2: bool, bytes: usize) {
        self.shard.add(self.columns.protocols[usize::from(is_http2)].request_bytes, bytes as u64);
    }

    /// Begins a request.
    pub(super) fn begin(
        self: &Rc<Self>,
        version: Version,
        method: &Method,
        identity: &Rc<RequestIdentity>,
    ) -> Flight {
        let protocol = usize::from(version == Version::HTTP_2);
        let method = METHODS.iter().position(|known| known == method).unwrap_or(METHODS.len());
        self.shard.add(self.columns.protocols[protocol].began, 1);
        let (metrics, since) = (self.clone(), Instant::now());
        Flight {
            metrics,
            identity: identity.clone(),
            is_tunnel: false,
            protocol,
            method,
            since,
            answering: false,
            end: Unanswered::ClientGone,
            ended: false,
        }
    }
}

/// A request from its head to its end. Dropped without a word, it was not answered.
#[derive(Debug)]
pub(super) struct Flight {
    metrics: Rc<Metrics>,
    identity: Rc<RequestIdentity>,
    is_tunnel: bool,
    protocol: usize,
    method: usize,
    since: Instant,
    answering: bool,
    end: Unanswered,
    ended: bool,
}

impl Flight {
    fn columns(&self) -> &ProtocolColumns {
        &self.metrics.columns.protocols[self.protocol]
    }

    /// Counts bytes of the answer's body.
    pub(super) fn send(&self, bytes: usize) {
        self.metrics.shard.add(self.columns().response_bytes, bytes as u64);
    }

    /// The answer begins.
    pub(super) fn answers(&mut self) {
        self.answering = true;
    }

    /// The rest of the answer is not to be had.
    pub(super) fn break_off(&mut self, error: &BodyError) {
        self.end = Unanswered::BrokenOff;
        let cause = std::error::Error::source(error).map(tracing::field::display);
        log_request!(warn, self.identity, cause, "an answer was broken off: {error}");
    }

    /// It has been answered, and its connection goes on as a tunnel, which is counted by itself.
    pub(super) fn became_tunnel(&mut self, status: StatusCode) {
        self.answered(status);
        self.is_tunnel = true;
    }

    /// It has been answered in full.
    pub(super) fn answered(&mut self, status: StatusCode) {
        if !std::mem::replace(&mut self.ended, true) {
            self.finish(self.columns().answered[self.method][class_of(status)]);
            self.metrics.milestone.iter().for_each(Milestone::count);
        }
    }

    fn finish(&self, slot: Slot) {
        self.metrics.shard.add(slot, 1);
        self.metrics.shard.observe_since(&self.columns().duration, self.since);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.ended {
            let end = match (self.metrics.cutting.get(), self.answering) {
                (false, _) => self.end,
                (true, false) => Unanswered::DroppedBeforeAnswer,
                (true, true) => Unanswered::DroppedInAnswer,
            };
            self.finish(self.columns().unanswered[end as usize]);
            if self.metrics.cutting.get() {
                let age_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
                let end = end.as_str();
                log_request!(each warn, self.identity, end, age_ms, "a request was cut: its process ends");
            }
        }
        // A connection of HTTP/1 would keep its buffer while it rests.
        if !self.is_tunnel && PROTOCOLS[self.protocol] == "http1" {
            self.identity.end();
        }
    }
}
