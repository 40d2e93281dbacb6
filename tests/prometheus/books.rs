//! What must be so of the counters, as Prometheus has them.

use super::load::Both;
use super::samples::Samples;
use super::server::{JOB, Prometheus};

/// Per generation by its label, so it begins anew with each.
const NO_SUM: &str = "exuvia_process_cpu_seconds_total";

/// Longer than a run.
const RUN: &str = "[10m]";

/// What was killed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Crashed {
    pub http1_requests: u64,
    pub http2_requests: u64,
    pub http1_connections: u64,
    pub http2_connections: u64,
}

/// No counter has ever gone back, and none was missing in any scrape; nor was any scrape.
#[track_caller]
pub fn never_reset(prometheus: &Prometheus) {
    let ups = prometheus.number(&format!("count_over_time(up{{job=\"{JOB}\"}}{RUN})"));
    assert!(ups >= 20.0, "only {ups} scrapes");
    assert_eq!(
        prometheus.number(&format!("min_over_time(up{{job=\"{JOB}\"}}{RUN})")),
        1.0,
        "a scrape failed"
    );
    let all =
        prometheus.query(&format!("{{job=\"{JOB}\",__name__=~\"exuvia_.*_(total|bucket|count|sum)\"}}"));
    let names = all.names();
    assert!(names.len() > 15, "{names:?}");
    for name in names.into_iter().filter(|name| *name != NO_SUM) {
        let series = prometheus.query(name).0.len() as f64;
        // A series that came or went in between would be one more.
        assert_eq!(prometheus.number(&format!("count(count_over_time({name}{RUN}))")), series, "{name}");
        assert_eq!(prometheus.number(&format!("sum(resets({name}{RUN}))")), 0.0, "{name} was reset");
        for edge in ["min", "max"] {
            let seen = prometheus.number(&format!("{edge}(count_over_time({name}{RUN}))"));
            assert_eq!(seen, ups, "{name} was missing in a scrape");
        }
    }
}

/// The time of the last upgrade is that of an upgrade, whoever answers. A new process that was not the owner yet said that
/// it had become that in 1970: each upgrade looked like two, and one that failed looked like one.
#[track_caller]
pub fn owners(prometheus: &Prometheus, upgrades: u64) {
    let since = format!("exuvia_owner_since_timestamp_seconds{{job=\"{JOB}\"}}{RUN}");
    assert!(prometheus.number(&format!("min_over_time({since})")) > 1e9);
    // One that was the owner for less than the time between two scrapes may be missing.
    let changes = prometheus.number(&format!("changes({since})")) as u64;
    assert!((upgrades / 2..=upgrades).contains(&changes), "{changes} owners in {upgrades} upgrades");
}

/// The sums are those of the clients, to the unit, when nobody asks anything any more.
#[track_caller]
pub fn add_up(now: &Samples, made: Both, crashed: Crashed) {
    let requests =
        [("http1", made.http1, crashed.http1_requests), ("http2", made.http2, crashed.http2_requests)];
    for (protocol, made, crashed) in requests {
        let ended = |end| now.sum("exuvia_requests_ended_total", &[("protocol", protocol), ("end", end)]);
        let told = |name| now.sum(name, &[("protocol", protocol)]);
        assert_eq!(ended("answered"), made.answered, "requests by {protocol} that were answered");
        assert_eq!(ended("crashed"), crashed, "requests by {protocol} whose process was killed");
        for end in now.label("exuvia_requests_ended_total", "end") {
            let is_known = ["answered", "crashed"].contains(&end);
            assert!(is_known || ended(end) == 0, "requests by {protocol}: {end}");
        }
        assert_eq!(told("exuvia_request_duration_seconds_count"), made.answered, "{protocol}");
        assert_eq!(told("exuvia_requests_in_flight"), 0, "{protocol}");
    }
    let connections =
        [("http1", made.http1, crashed.http1_connections), ("http2", made.http2, crashed.http2_connections)];
    // A connection that turns out to be of HTTP/2 has begun as one of HTTP/1, and switched.
    let all: u64 = connections.iter().map(|(_, made, _)| made.connections).sum();
    for (kind, made, crashed) in connections {
        let ended = |end| now.sum("exuvia_connections_ended_total", &[("kind", kind), ("end", end)]);
        let began = if kind == "http1" { all } else { made.connections };
        assert_eq!(now.sum("exuvia_connections_total", &[("kind", kind)]), began, "{kind}");
        assert_eq!(ended("crashed"), crashed, "connections of {kind} whose process was killed");
        assert_eq!(ended("switched"), began - made.connections, "{kind}");
    }
    for end in now.label("exuvia_connections_ended_total", "end") {
        if end.starts_with("dropped") || end == "lost" {
            assert_eq!(now.sum("exuvia_connections_ended_total", &[("end", end)]), 0, "{end}");
        }
    }
    balance(now);
}

/// Whatever began is open or has ended.
#[track_caller]
pub fn balance(now: &Samples) {
    for (label, began, open, ended) in [
        ("kind", "exuvia_connections_total", "exuvia_connections_open", "exuvia_connections_ended_total"),
        ("protocol", "exuvia_requests_total", "exuvia_requests_in_flight", "exuvia_requests_ended_total"),
    ] {
        let kinds = now.label(began, label);
        assert!(kinds.len() > 1, "{began} by {label}: {kinds:?}");
        for kind in kinds {
            let sum = |name| now.sum(name, &[(label, kind)]);
            assert_eq!(sum(began), sum(open) + sum(ended), "{began} of {kind}");
        }
    }
}
