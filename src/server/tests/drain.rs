//! Connections while the process drains.

use super::*;

const SHORT: Duration = Duration::from_millis(200);

/// A client that is about to send its next request gets an answer, and the word that it is the last.
#[test]
fn an_idle_connection_may_bring_one_more_request() {
    run(async {
        let (address, _requests) = recorder().await;
        let edge = edge(address).await;
        let (mut fresh, mut used) = (edge.connect().await, edge.connect().await);
        used.get("/").await.without("connection: close");
        edge.drain(LONG);
        for client in [&mut used, &mut fresh] {
            let answer = client.get("/").await;
            answer.expect("200 OK").expect("connection: close\r\n");
            assert_eq!(answer.text(), "ok");
        }
        assert_eq!(used.rest().await, "");
        assert_eq!(fresh.rest().await, "");
        assert_eq!(edge.ends().await, [(End::Closed, 2)]);
    });
}

#[test]
fn an_idle_connection_is_closed_when_its_grace_ends() {
    run(async {
        let (address, _requests) = recorder().await;
        let edge = edge(address).await;
        let (fresh, mut used) = (edge.connect().await, edge.connect().await);
        used.get("/").await;
        let begun = Instant::now();
        edge.drain(SHORT);
        assert_eq!(used.rest().await, "");
        assert_eq!(fresh.rest().await, "");
        assert!(begun.elapsed() >= SHORT, "closed after {:?}", begun.elapsed());
        assert_eq!(edge.ends().await, [(End::Closed, 2)]);
    });
}

#[test]
fn an_answer_in_flight_is_finished() {
    run(async {
        let (go, gate) = tokio::sync::watch::channel(0);
        let address = upstream(move |mut peer| {
            let mut gate = gate.clone();
            async move {
                peer.message().await;
                gate.wait_for(|step| *step > 0).await.unwrap();
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab").await;
                gate.wait_for(|step| *step > 1).await.unwrap();
                peer.send("cd").await;
            }
        })
        .await;
        let edge = edge(address).await;
        let (mut before_head, mut in_body) = (edge.connect().await, edge.connect().await);
        in_body.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        edge.until_active(1).await;
        go.send(1).unwrap();
        in_body.until("ab").await;
        go.send(0).unwrap();
        before_head.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        edge.until_active(2).await;

        edge.drain(Duration::ZERO);
        go.send(2).unwrap();
        // Its head was out before the drain began; it may bring another request, or be closed at rest.
        assert_eq!(in_body.rest().await, "cd");
        let answer = before_head.message().await;
        answer.expect("connection: close\r\n");
        assert_eq!(answer.text(), "abcd");
        assert_eq!(before_head.rest().await, "");
        assert_eq!(edge.ends().await, [(End::Closed, 2)]);
    });
}

/// Half a request lies in hyper's buffer when the grace ends. It is not lost: the stream is taken apart and
/// served again with what was read.
#[test]
fn half_a_request_at_the_end_of_the_grace_is_not_lost() {
    run(async {
        let (address, mut requests) = recorder().await;
        for before in 0..2 {
            let edge = edge(address).await;
            let (mut client, witness) = (edge.connect().await, edge.connect().await);
            for _ in 0..before {
                client.get("/first").await;
                requests.recv().await.unwrap();
            }
            client.send("GET /half HTTP/1.1\r\nHo").await;
            edge.drain(SHORT);
            // The grace has ended when this one is closed.
            assert_eq!(witness.rest().await, "");
            client.send("st: a\r\n\r\n").await;
            client.message().await.expect("200 OK").expect("connection: close\r\n");
            requests.recv().await.unwrap().expect("GET /half HTTP/1.1");
            assert_eq!(client.rest().await, "");
            edge.ends().await;
        }
    });
}

/// The same half, but it came together with the request before it, so that nothing tells the driver of it.
#[test]
fn half_a_request_behind_another_is_not_lost() {
    run(async {
        let (address, mut requests) = recorder().await;
        let edge = edge(address).await;
        let (mut client, witness) = (edge.connect().await, edge.connect().await);
        client.send("GET /whole HTTP/1.1\r\nHost: a\r\n\r\nGET /half HTTP/1.1\r\nHo").await;
        client.message().await.expect("200 OK").without("connection: close");
        requests.recv().await.unwrap();
        edge.drain(SHORT);
        assert_eq!(witness.rest().await, "");
        client.send("st: a\r\n\r\n").await;
        client.message().await.expect("200 OK").expect("connection: close\r\n");
        requests.recv().await.unwrap().expect("GET /half HTTP/1.1");
        assert_eq!(client.rest().await, "");
        edge.ends().await;
    });
}

/// A request that arrives at the instant at which the grace ends is in the socket, where hyper has not seen it.
#[test]
fn a_request_that_meets_the_end_of_the_grace_is_answered() {
    run(async {
        let (address, _requests) = recorder().await;
        for _ in 0..30 {
            let edge = edge(address).await;
            let mut client = edge.connect().await;
            client.get("/").await;
            edge.drain_since(Duration::from_secs(2), Duration::from_secs(1));
            // Not one turn of the loop in between: the bytes are there when the driver wakes, and the runtime
            // does not know yet.
            assert_eq!(client.stream.try_write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap(), 27);
            client.message().await.expect("200 OK").expect("connection: close\r\n");
            assert_eq!(client.rest().await, "");
            assert_eq!(edge.ends().await, [(End::Closed, 1)]);
        }
    });
}

#[test]
fn pipelined_requests_behind_the_last_answer_stay_unanswered() {
    run(async {
        let (address, mut requests) = recorder().await;
        let edge = edge(address).await;
        edge.drain(LONG);
        let mut client = edge.connect().await;
        client.send(&"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3)).await;
        client.message().await.expect("connection: close\r\n");
        assert_eq!(client.rest().await, "");
        requests.recv().await.unwrap();
        requests.try_recv().unwrap_err();
    });
}

/// A process that was rolled back, and then got the traffic back, serves on as if nothing had been.
#[test]
fn a_drain_can_be_called_off() {
    run(async {
        let (address, _requests) = recorder().await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        client.get("/").await;
        edge.set_phase(Phase::RolledBack, Some(Drain::begin(Instant::now(), SHORT, LONG)));
        tokio::task::yield_now().await;
        edge.set_phase(Phase::Serving, None);
        let mut other = edge.connect().await;
        other.get("/").await;
        // What would have been closed is not.
        tokio::time::sleep(2 * SHORT).await;
        client.get("/").await.expect("200 OK").without("connection: close");
        client.get("/").await.expect("200 OK");
    });
}

/// It came out of an accept queue that nobody else serves, after the grace of the others.
#[test]
fn a_connection_that_is_late_gets_its_own_grace() {
    run(async {
        let (address, _requests) = recorder().await;
        let edge = edge(address).await;
        edge.drain_since(Duration::from_secs(9), Duration::from_secs(5));
        let mut client = edge.connect().await;
        // Long enough for it to be closed, were it to share the grace that has ended.
        tokio::time::sleep(SHORT).await;
        client.get("/").await.expect("200 OK").expect("connection: close\r\n");
    });
}

#[test]
fn http_1_0_keep_alive_ends_too() {
    run(async {
        let (address, _requests) = recorder().await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        edge.drain(LONG);
        client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        client.message().await.expect("connection: close\r\n").without("keep-alive");
        assert_eq!(client.rest().await, "");
    });
}
