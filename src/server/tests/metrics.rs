//! What is counted: each thing once, in one place.

use super::*;
use crate::restart::EntryKind;

impl Edge {
    /// What is not zero of the series of this name, as `a=1,b=2` without the labels that are the same everywhere.
    pub(super) fn counted(&self, name: &str) -> Vec<(String, u64)> {
        let segment = self.counts.segment();
        let entries =
            segment.table().entries.iter().enumerate().filter(|(_, entry)| entry.series.name() == name);
        let told =
            |(label, value): &(&str, &str)| !matches!(*label, "route" | "upstream") && !value.is_empty();
        let shown = entries.map(|(place, entry)| {
            let labels = entry.series.labels().filter(told).map(|(label, value)| format!("{label}={value}"));
            (labels.collect::<Vec<_>>().join(","), segment.value(place))
        });
        shown.filter(|(_, value)| *value > 0).collect()
    }

    #[track_caller]
    pub(super) fn expect(&self, name: &str, expected: &[(&str, u64)]) {
        let counted = self.counted(name);
        let counted: Vec<_> = counted.iter().map(|(labels, value)| (&**labels, *value)).collect();
        assert_eq!(counted, expected, "{name}");
    }

    /// Whatever began has ended, once.
    #[track_caller]
    fn expect_balance(&self) {
        let segment = self.counts.segment();
        let entries = &segment.table().entries;
        let began = entries.iter().zip(segment.open()).filter(|(entry, _)| entry.kind == EntryKind::Counter);
        let mut ends = 0;
        for (entry, open) in began.filter(|(entry, _)| entry.link.is_some()) {
            if entry.series.name() != "upstream_connections_total" {
                assert_eq!(open, 0, "{:?}", entry.series);
                ends += 1;
            }
        }
        assert!(ends > 2, "there is nothing that begins");
    }
}

#[test]
fn a_request_ends_once_however_it_ends() {
    run(async {
        let address = upstream(|mut peer| async move {
            while !peer.buffer.is_empty() || peer.more().await {
                let head = peer.message().await.head;
                let target = head.split(' ').nth(1).unwrap();
                match target {
                    "/cut" => return peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await,
                    "/never" => {
                        while peer.more().await {}
                        return;
                    }
                    _ if head.starts_with("HEAD") => {
                        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n").await;
                    }
                    _ => {
                        let status = &target[1..];
                        peer.send(&format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok")).await;
                    }
                }
            }
        })
        .await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        for status in ["200", "200", "301", "404", "503"] {
            client.get(&format!("/{status}")).await.expect(status);
        }
        client.send("HEAD /200 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.head().await.expect("200");
        client.send("POST /201 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
        client.message().await.expect("201");
        client.send("BREW /200 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.message().await.expect("200");
        // Refused by a rule: it is no request. Refused by the proxy: it is one.
        for refused in ["Host : a", "Host: a b"] {
            let mut other = edge.connect().await;
            other.send(&format!("GET / HTTP/1.1\r\n{refused}\r\n\r\n")).await;
            other.message().await.expect("400");
        }
        // The server breaks the answer off; the client goes before it begins.
        let mut other = edge.connect().await;
        other.send("GET /cut HTTP/1.1\r\nHost: a\r\n\r\n").await;
        other.rest().await;
        let mut other = edge.connect().await;
        other.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n").await;
        edge.until_active(1).await;
        drop(other);
        drop(client);
        edge.ends().await;

        edge.expect("requests_total", &[("protocol=http1", 11)]);
        let ended = |method, status| format!("protocol=http1,method={method},status={status},end=answered");
        let expected = [
            (&*ended("GET", "2xx"), 2),
            (&*ended("GET", "3xx"), 1),
            (&*ended("GET", "4xx"), 2),
            (&*ended("GET", "5xx"), 1),
            (&*ended("HEAD", "2xx"), 1),
            (&*ended("POST", "2xx"), 1),
            (&*ended("other", "2xx"), 1),
            ("protocol=http1,end=client_gone", 1),
            ("protocol=http1,end=broken_off", 1),
        ];
        edge.expect("requests_ended_total", &expected);
        edge.expect("request_errors_total", &[("error=host_invalid", 1)]);
        edge.expect("requests_refused_total", &[("protocol=http1,reason=field_space", 1)]);
        edge.expect("request_body_bytes_total", &[("protocol=http1", 5)]);
        let text = "400 Bad Request: the request's host is not valid\nrequest \n".len() as u64 + 32;
        edge.expect("response_body_bytes_total", &[("protocol=http1", 7 * 2 + text + 5)]);
        edge.expect_balance();
        let observed: u64 = edge.counted("request_duration_bucket").iter().map(|(_, count)| count).sum();
        assert_eq!(observed, 11);
    });
}

#[test]
fn what_is_had_to_do_with_a_server_is_counted_under_its_name() {
    run(async {
        let (address, _requests) = recorder().await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        for _ in 0..3 {
            client.get("/").await;
        }
        edge.expect("upstream_connections_total", &[("", 1)]);
        edge.expect("upstream_requests_total", &[("connection=new", 1), ("connection=kept", 2)]);
        edge.expect("upstream_responses_total", &[("status=2xx", 3)]);
        edge.expect("upstream_connect_failures_total", &[]);

        let (down, _held) = nobody();
        let edge = super::edge(down).await;
        let mut client = edge.connect().await;
        client.get("/").await.expect("502");
        edge.expect("upstream_connect_failures_total", &[("", 1)]);
        edge.expect("upstream_connections_total", &[]);
        edge.expect("request_errors_total", &[("error=upstream_unreachable", 1)]);
        drop(client);
        edge.ends().await;
        edge.expect_balance();
    });
}

/// Every word that an error may give must have its place.
#[test]
fn what_is_too_slow_or_no_http_is_counted() {
    run(async {
        let (address, _requests) = recorder().await;
        let mut setup = Setup::new(&[address]);
        setup.server.header_timeout = Duration::from_millis(20);
        let edge = setup.start().await;
        let mut client = edge.connect().await;
        client.send("GET / HTTP/1.1\r\nHo").await;
        assert!(client.rest().await.starts_with("HTTP/1.1 408"));
        let mut client = edge.connect().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n").await;
        client.rest().await;
        let mut client = edge.connect().await;
        client.send(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(100_000))).await;
        assert!(client.rest().await.starts_with("HTTP/1.1 431"));
        edge.ends().await;
        let expected = [
            ("protocol=http1,reason=malformed", 1),
            ("protocol=http1,reason=body", 1),
            ("protocol=http1,reason=too_slow", 1),
        ];
        edge.expect("requests_refused_total", &expected);
        edge.expect_balance();
    });
}

#[test]
fn a_tunnel_ends_once_however_it_ends() {
    const GRANT: &str =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    run(async {
        let address = upstream(|mut peer| async move {
            let is_broken = peer.head().await.head.contains("/broken");
            peer.send(GRANT).await;
            match is_broken {
                true => peer.stream.set_zero_linger().unwrap(),
                false => while peer.more().await {},
            }
        })
        .await;
        let edge = edge(address).await;
        for target in ["/whole", "/broken", "/left"] {
            let mut client = edge.connect().await;
            let ask = "Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            client.send(&format!("GET {target} HTTP/1.1\r\n{ask}")).await;
            client.head().await.expect("101");
            match target {
                "/whole" => client.stream.shutdown().await.unwrap(),
                "/left" => client.stream.set_zero_linger().unwrap(),
                _ => {}
            }
            if target != "/left" {
                while matches!(client.stream.read_buf(&mut client.buffer).await, Ok(1..)) {}
            }
        }
        edge.ends().await;
        edge.expect("tunnels_total", &[("protocol=http1", 3)]);
        let ended =
            ["ended", "client_gone", "server_failed"].map(|end| (format!("protocol=http1,end={end}"), 1));
        edge.expect("tunnels_ended_total", &ended.each_ref().map(|(labels, count)| (&**labels, *count)));
        edge.expect_balance();
    });
}

/// hyper asks for nothing behind trailers: such an answer was held to be broken off by its client, and its connection
/// to the server was not kept.
#[test]
fn an_answer_with_trailers_is_whole() {
    run(async {
        let trailers = "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n";
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n";
        let answer: &'static str = Box::leak(format!("{answer}{trailers}").into());
        let (address, _requests) = recorder_with(answer).await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n").await;
            assert!(client.message().await.trailers.contains("x-sum: 1"));
        }
        edge.expect("requests_ended_total", &[("protocol=http1,method=GET,status=2xx,end=answered", 2)]);
        edge.expect("upstream_requests_total", &[("connection=new", 1), ("connection=kept", 1)]);
    });
}
