//! What is counted of each server.

use std::rc::Rc;

use http::StatusCode;
use tokio::time::Instant;

use crate::metrics::{Family, NANOSECONDS, ONE, Source};
use crate::proxy::metrics::{CLASSES, DURATIONS, class_of};
use crate::restart::{Histogram, Plan, Shard, Slot};

/// The metrics of servers.
pub const FAMILIES: &[Family] = &[
    Family {
        name: "upstream_connections_total",
        help: "Connections to servers that were made, TLS included.",
        source: Source::Counter("upstream_connections_total", ONE),
    },
    Family {
        name: "upstream_connections_open",
        help: "Connections to servers that are open, tunnels included.",
        source: Source::Open("upstream_connections_total"),
    },
    Family {
        name: "upstream_connect_failures_total",
        help: "Connections to servers that could not be made, or not in time.",
        source: Source::Counter("upstream_connect_failures_total", ONE),
    },
    Family {
        name: "upstream_connect_duration_seconds",
        help: "How long connecting to servers took, TLS included.",
        source: Source::Histogram("upstream_connect_duration", NANOSECONDS),
    },
    Family {
        name: "upstream_requests_total",
        help: "Requests that were sent to servers, on a new connection or on a kept one; each attempt is one.",
        source: Source::Counter("upstream_requests_total", ONE),
    },
    Family {
        name: "upstream_responses_total",
        help: "Answers of servers, by class of status.",
        source: Source::Counter("upstream_responses_total", ONE),
    },
    Family {
        name: "upstream_response_duration_seconds",
        help: "From sending a request to a server to the head of its answer; the client's time to send the body is in it.",
        source: Source::Histogram("upstream_response_duration", NANOSECONDS),
    },
    Family {
        name: "upstream_retries_total",
        help: "Requests that are sent again: nothing of them had left (unsent), a kept connection ended with them \
               (lost), or the server said that it had not processed them (refused).",
        source: Source::Counter("upstream_retries_total", ONE),
    },
];

/// Why a request is sent again.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) enum Retry {
    /// Nothing of it has left.
    Unsent,
    /// A kept connection has ended with it.
    Lost,
    /// The server has said that it has not processed it.
    Refused,
}

/// The places of the series of one server.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Columns {
    connections: Slot,
    ended: Slot,
    connect_failures: Slot,
    connect_duration: Histogram,
    /// On new connections, and on kept ones.
    requests: [Slot; 2],
    responses: [Slot; CLASSES.len()],
    response_duration: Histogram,
    retries: [Slot; 3],
}

impl Columns {
    /// `name` stands for the server in every one of them.
    pub(in crate::proxy) fn plan(plan: &mut Plan, name: &str) -> Columns {
        plan.passing("upstream");
        let server = ("upstream", name);
        let connections = plan.counter("upstream_connections_total", &[server]);
        let mut ended =
            |end| plan.end("upstream_connections_ended_total", &[server, ("end", end)], connections);
        let (closed, crashed) = (ended("closed"), ended("crashed"));
        plan.lost(connections, crashed);
        Columns {
            connections,
            ended: closed,
            connect_failures: plan.counter("upstream_connect_failures_total", &[server]),
            connect_duration: plan.histogram("upstream_connect_duration", &[server], &DURATIONS),
            requests: ["new", "kept"]
                .map(|kept| plan.counter("upstream_requests_total", &[server, ("connection", kept)])),
            responses: CLASSES
                .map(|class| plan.counter("upstream_responses_total", &[server, ("status", class)])),
            response_duration: plan.histogram("upstream_response_duration", &[server], &DURATIONS),
            retries: ["unsent", "lost", "refused"]
                .map(|reason| plan.counter("upstream_retries_total", &[server, ("reason", reason)])),
        }
    }
}

/// Where a worker counts what it has to do with one server.
#[derive(Debug)]
pub(in crate::proxy) struct Metrics {
    columns: Columns,
    shard: Shard,
}

impl Metrics {
    pub(in crate::proxy) fn new(columns: Columns, shard: Shard) -> Rc<Self> {
        Rc::new(Metrics { columns, shard })
    }

    /// Without anything around it.
    #[cfg(test)]
    pub(super) fn alone() -> Rc<Self> {
        let mut plan = Plan::default();
        let columns = Columns::plan(&mut plan, "test");
        Metrics::new(columns, crate::restart::Segment::alone(&plan).seat(0).take())
    }

    /// A connection was made.
    pub(super) fn connected(self: &Rc<Self>, since: Instant) -> Open {
        self.shard.add(self.columns.connections, 1);
        self.shard.observe_since(&self.columns.connect_duration, since);
        Open(self.clone())
    }

    pub(super) fn not_connected(&self) {
        self.shard.add(self.columns.connect_failures, 1);
    }

    /// A request goes out.
    pub(in crate::proxy) fn sent(&self, is_kept: bool) {
        self.shard.add(self.columns.requests[usize::from(is_kept)], 1);
    }

    /// The head of an answer has come.
    pub(in crate::proxy) fn answered(&self, status: StatusCode, since: Instant) {
        self.shard.add(self.columns.responses[class_of(status)], 1);
        self.shard.observe_since(&self.columns.response_duration, since);
    }

    pub(in crate::proxy) fn retry(&self, why: Retry) {
        self.shard.add(self.columns.retries[why as usize], 1);
    }
}

/// A connection in the books, for as long as this lives.
#[derive(Debug)]
pub(in crate::proxy) struct Open(Rc<Metrics>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.shard.add(self.0.columns.ended, 1);
    }
}
