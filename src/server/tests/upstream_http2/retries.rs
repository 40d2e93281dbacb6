//! Upstreams that break off, refuse and go away; what is sent again, and what is not.

use super::*;

/// One HTTP/2 server's side in raw frames.
struct Frames(TcpStream);

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

impl Frames {
    async fn begin(mut stream: TcpStream) -> Self {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        let mut frames = Frames(stream);
        frames.send(SETTINGS, 0, &[]).await;
        frames
    }

    async fn send(&mut self, kind: u8, stream: u32, payload: &[u8]) {
        self.send_flagged(kind, 0, stream, payload).await;
    }

    async fn send_flagged(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).await.unwrap();
    }

    /// Reads frames up to one of this kind, and returns its stream.
    async fn until(&mut self, kind: u8) -> u32 {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.0.read_exact(&mut payload).await.unwrap();
            if head[3] == kind {
                return u32::from_be_bytes(head[5..9].try_into().unwrap());
            }
        }
    }
}

/// Refuses the first `refusals` connections' requests by `refuse`, and answers the rest.
async fn refusing<R>(
    refusals: usize,
    refuse: impl Fn(Frames, u32) -> R + Clone + 'static,
) -> (SocketAddr, Rc<Seen>)
where
    R: Future<Output = Frames> + 'static,
{
    upstream_raw(move |number, stream, seen| {
        let refuse = refuse.clone();
        async move {
            if number > refusals {
                return accept_all(h2::server::handshake(stream).await.unwrap(), &seen, ok).await;
            }
            let mut frames = Frames::begin(stream).await;
            let stream = frames.until(HEADERS).await;
            seen.requests.borrow_mut().push(Request::new(()));
            let mut frames = refuse(frames, stream).await;
            // Until the other side has heard it.
            while frames.0.read(&mut [0; 1024]).await.is_ok_and(|n| n > 0) {}
        }
    })
    .await
}

async fn refused_stream(mut frames: Frames, stream: u32) -> Frames {
    frames.send(RST_STREAM, stream, &u32::from(Reason::REFUSED_STREAM).to_be_bytes()).await;
    frames
}

async fn gone_away(mut frames: Frames, _: u32) -> Frames {
    frames.send(GOAWAY, 0, &[0; 8]).await;
    frames
}

#[test]
fn what_was_not_processed_is_sent_again_on_another_connection() {
    run(async {
        for goes_away in [false, true] {
            for (refusals, status) in [(1, "200 OK"), (2, "200 OK"), (9, "503 Service Unavailable")] {
                let (address, seen) = match goes_away {
                    true => refusing(refusals, gone_away).await,
                    false => refusing(refusals, refused_stream).await,
                };
                let mut client = edge_h2(address).await.connect().await;
                client.get("/").await.expect(status);
                let attempts = (refusals + 1).min(3);
                assert_eq!(seen.counts(), (attempts, attempts), "GOAWAY: {goes_away}");
            }
        }
    });
}

/// The client has said what it had to say: it cannot be asked again.
#[test]
fn a_body_that_was_taken_is_not_sent_again() {
    run(async {
        const DATA: u8 = 0;
        let refuse = |mut frames: Frames, stream| async move {
            frames.until(DATA).await;
            refused_stream(frames, stream).await
        };
        let (address, seen) = refusing(1, refuse).await;
        let mut client = edge_h2(address).await.connect().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").await;
        let answer = client.message().await;
        answer.expect("503 Service Unavailable");
        assert!(answer.text().contains("does not take the request now"), "{}", answer.text());
        assert_eq!(seen.counts(), (1, 1));
    });
}

/// Nothing of it has been taken: the client has not sent it yet.
#[test]
fn a_body_that_has_not_come_can_wait_for_the_second_attempt() {
    run(async {
        let (address, seen) = refusing(1, refused_stream).await;
        let mut client = edge_h2(address).await.connect().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n").await;
        until(|| seen.counts() == (2, 2)).await;
        client.send("abc").await;
        assert_eq!(client.message().await.text(), "ok");
    });
}

#[test]
fn what_may_have_been_processed_is_not_sent_again() {
    run(async {
        let cut = |frames: Frames, _| async move {
            // With what is unread the close is a reset.
            frames.0.set_zero_linger().unwrap();
            let (other, _) = tokio::join!(
                async {
                    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                    TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()
                },
                async { drop(frames) }
            );
            Frames(other)
        };
        let (address, seen) = refusing(1, cut).await;
        let mut client = edge_h2(address).await.connect().await;
        let answer = client.get("/").await;
        answer.expect("502 Bad Gateway");
        assert!(answer.text().contains("closed the connection before it answered"), "{}", answer.text());
        assert_eq!(seen.counts(), (1, 1));

        let reset = |mut frames: Frames, stream| async move {
            frames.send(RST_STREAM, stream, &u32::from(Reason::INTERNAL_ERROR).to_be_bytes()).await;
            frames
        };
        let (address, seen) = refusing(1, reset).await;
        let mut client = edge_h2(address).await.connect().await;
        let answer = client.get("/").await;
        answer.expect("502 Bad Gateway");
        assert!(answer.text().contains("reset the request before it answered"), "{}", answer.text());
        assert_eq!(seen.counts(), (1, 1));
    });
}

/// A server closes a connection that is idle, without a word, and the next request is there before that is known.
#[test]
fn a_dead_idle_connection_costs_no_request() {
    run(async {
        let (address, seen) = upstream_raw(|_, stream, seen| async move {
            let mut frames = Frames::begin(stream).await;
            let stream = frames.until(HEADERS).await;
            seen.requests.borrow_mut().push(Request::new(()));
            // END_STREAM and END_HEADERS, and the static table's ":status: 200".
            frames.send_flagged(HEADERS, 0x5, stream, &[0x88]).await;
        })
        .await;
        let mut client = edge_h2(address).await.connect().await;
        for _ in 0..30 {
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await;
            client.message().await.expect("200 OK");
        }
        assert_eq!(seen.counts(), (30, 30));
    });
}

/// A request that was begun on a connection whose end had come, and was not read yet: the end is read before anything
/// is written.
#[test]
fn what_has_not_left_is_sent_again() {
    run(async {
        let last = Rc::new(RefCell::new(None));
        let keeper = last.clone();
        let (address, seen) = upstream_raw(move |_, stream, seen| {
            let keeper = keeper.clone();
            async move {
                let mut frames = Frames::begin(stream).await;
                let stream = frames.until(HEADERS).await;
                seen.requests.borrow_mut().push(Request::new(()));
                frames.send_flagged(HEADERS, 0x5, stream, &[0x88]).await;
                keeper.replace(Some(frames));
            }
        })
        .await;
        let mut client = edge_h2(address).await.connect().await;
        client.get("/").await.expect("200 OK");
        for n in 2..=30 {
            until(|| last.borrow().is_some()).await;
            // Both are there before anybody else has a turn, the request first.
            assert_eq!(client.stream.try_write(GET.as_bytes()).unwrap(), GET.len());
            drop(last.take());
            client.message().await.expect("200 OK");
            assert_eq!(seen.counts(), (n, n));
        }
    });
}

#[test]
fn a_server_that_goes_away_finishes_its_streams() {
    run(async {
        let (go, gate) = tokio::sync::watch::channel(false);
        let (address, seen) = upstream_raw(move |number, stream, seen| {
            let mut gate = gate.clone();
            async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                if number > 1 {
                    return accept_all(connection, &seen, ok).await;
                }
                let (request, mut respond) = connection.accept().await.unwrap().unwrap();
                note(&seen, &request);
                connection.graceful_shutdown();
                spawn_local(async move {
                    gate.wait_for(|open| *open).await.unwrap();
                    answer(&mut respond, "late");
                });
                // Serves what is open, and nothing more comes.
                assert!(connection.accept().await.is_none());
            }
        })
        .await;
        let edge = edge_h2(address).await;
        let mut early = edge.connect().await;
        early.send(GET).await;
        until(|| seen.counts().1 == 1).await;
        let mut others = 0;
        while seen.counts().0 == 1 {
            // The word may still be on its way; a request that comes before it is answered elsewhere all the same.
            assert_eq!(edge.connect().await.get("/").await.text(), "ok");
            others += 1;
        }
        assert!(others > 0);
        go.send(true).unwrap();
        assert_eq!(early.message().await.text(), "late");
        assert_eq!(seen.counts().0, 2);
    });
}

/// How a server says, at once or a moment later, that a connection is not for use.
async fn unusable(kind: &str, mut stream: TcpStream) {
    const HEADER: [u8; 9] = [0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];
    match kind {
        // In one piece, so that both are read together.
        "at once" | "at once, and closed" => {
            let goaway = [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            stream.write_all(&[&HEADER[..], &goaway].concat()).await.unwrap();
            if kind == "at once, and closed" {
                stream.shutdown().await.unwrap();
            }
        }
        _ => {
            let mut frames = Frames(stream);
            // SETTINGS_MAX_CONCURRENT_STREAMS is 0: so nobody tries.
            frames.send(SETTINGS, 0, &[0, 3, 0, 0, 0, 0]).await;
            frames.0.read_exact(&mut [0; 24]).await.unwrap();
            for _ in 0..2 {
                // The other side's own, and that it has read ours.
                frames.until(SETTINGS).await;
            }
            frames.send(GOAWAY, 0, &[0; 8]).await;
            stream = frames.0;
        }
    }
    while stream.read(&mut [0; 1024]).await.is_ok_and(|n| n > 0) {}
}

/// Such a server was connected to again and again, as fast as it could be, for as long as anybody waited.
#[test]
fn a_server_that_goes_away_before_it_is_used() {
    run(async {
        for kind in ["at once", "at once, and closed", "later"] {
            for (bad, status) in [(2, "200 OK"), (usize::MAX, "502 Bad Gateway")] {
                let (address, seen) = upstream_raw(move |number, stream, seen| async move {
                    if number <= bad {
                        return unusable(kind, stream).await;
                    }
                    accept_all(h2::server::handshake(stream).await.unwrap(), &seen, ok).await;
                })
                .await;
                let mut setup = setup(address);
                setup.proxy.connections.connect_timeout = LONG;
                let edge = setup.start().await;
                let mut clients = Vec::new();
                for _ in 0..5 {
                    let mut client = edge.connect().await;
                    client.send(GET).await;
                    clients.push(client);
                }
                for client in &mut clients {
                    client.message().await.expect(status);
                }
                let made = seen.connections.get();
                assert!(made == 3 || bad > 2 && made % 3 == 0 && made <= 15, "{kind}: {made} connections");
            }
        }
    });
}

/// An answer that was broken off does not look whole, to either kind of client; the reason goes along.
#[test]
fn an_answer_that_is_reset() {
    run(async {
        let (address, seen) = upstream_h2(h2::server::Builder::new(), |_, mut respond| async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            send_all(&mut stream, Bytes::from_static(b"hello"), false).await;
            // Not before it was sent.
            tokio::time::sleep(Duration::from_millis(20)).await;
            stream.send_reset(Reason::ENHANCE_YOUR_CALM);
        })
        .await;
        let edge = edge_h2(address).await;
        let mut client = edge.connect().await;
        client.send(GET).await;
        let all = client.rest().await;
        assert!(all.starts_with("HTTP/1.1 200 OK") && !all.ends_with("0\r\n\r\n"), "{all}");

        let mut client = h2_client(&edge).await;
        let (answer, _) = client.send_request(Request::get("http://a/").body(()).unwrap(), true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        let error = loop {
            match body.data().await.unwrap() {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
        assert_eq!(seen.counts(), (1, 2));
    });
}

/// The server has answered in full, and asks for no more of the request.
#[test]
fn an_answer_before_the_request_has_ended() {
    run(async {
        let (address, seen) = upstream_h2(h2::server::Builder::new(), |request, mut respond| async move {
            answer(&mut respond, "no more");
            // h2 resets the stream with NO_ERROR, as the body is dropped unread.
            drop(request);
        })
        .await;
        let edge = edge_h2(address).await;
        for _ in 0..10 {
            let mut client = edge.connect().await;
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc").await;
            assert_eq!(client.message().await.text(), "no more");
        }
        assert_eq!(seen.counts(), (1, 10));
    });
}

#[test]
fn a_server_that_speaks_no_http2() {
    run(async {
        for sent in
            ["HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "", "nonsense nonsense nonsense"]
        {
            let address = upstream(move |mut peer| async move {
                peer.until("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
                peer.send(sent).await;
            })
            .await;
            let answer = edge_h2(address).await.connect().await.get("/").await;
            answer.expect("502 Bad Gateway");
            assert!(answer.text().contains(&format!("upstream {address}: ")), "{}", answer.text());
        }
        // One that says nothing at all.
        let address = upstream(|mut peer| async move { while peer.more().await {} }).await;
        let mut setup = setup(address);
        setup.proxy.connections.connect_timeout = Duration::from_millis(50);
        let answer = setup.start().await.connect().await.get("/").await;
        answer.expect("504 Gateway Timeout");
        assert!(answer.text().contains("no connection in time"), "{}", answer.text());
    });
}

#[test]
fn a_server_that_does_not_answer() {
    run(async {
        let (address, _) = upstream_h2(h2::server::Builder::new(), |_, respond| async move {
            std::future::pending::<()>().await;
            drop(respond);
        })
        .await;
        let mut setup = setup(address);
        setup.proxy.response_timeout = Duration::from_millis(50);
        let answer = setup.start().await.connect().await.get("/").await;
        answer.expect("504 Gateway Timeout");
        assert!(answer.text().contains("no answer in time"), "{}", answer.text());
    });
}

/// The machine is gone, without a word: pings find it out.
#[test]
fn a_server_that_is_dead() {
    run(async {
        let (address, seen) = refusing(1, |frames: Frames, _| async move { frames }).await;
        let edge = edge_h2(address).await;
        let mut client = edge.connect().await;
        client.send(GET).await;
        until(|| seen.counts() == (1, 1)).await;
        // A part of the silence first: what the client waits for is no longer than that.
        tokio::time::pause();
        tokio::time::advance(LONG / 2).await;
        let answer = client.message().await;
        answer.expect("502 Bad Gateway");
        assert!(answer.text().contains("closed the connection before it answered"), "{}", answer.text());
    });
}
