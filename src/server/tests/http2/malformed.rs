//! Requests that are none.

use super::*;

/// What HTTP/2's frames can say and HTTP/1's lines cannot never reaches the upstream.
#[test]
fn malformed_requests_go_nowhere() {
    run(async {
        let (address, mut requests) = recorder().await;
        let edge = edge(address).await;
        let get = |changes: &[(usize, (&'static str, &'static str))]| {
            let mut fields = GET.to_vec();
            for (at, field) in changes {
                if *at < fields.len() { fields[*at] = *field } else { fields.push(*field) }
            }
            fields
        };
        let mut without_path = GET.to_vec();
        without_path.remove(2);
        let late = usize::MAX;
        let table = [
            without_path,
            get(&[(2, (":path", ""))]),
            get(&[(2, (":path", "a"))]),
            get(&[(2, (":path", "*"))]),
            get(&[(2, (":path", "/a b"))]),
            get(&[(2, (":path", "/ HTTP/1.1\r\nX: y"))]),
            get(&[(2, (":path", "/\0"))]),
            get(&[(0, (":method", "GE T"))]),
            get(&[(0, (":method", "GET / HTTP/1.1\r\nX: y\r\n\r\nGET"))]),
            get(&[(3, (":authority", "a b"))]),
            get(&[(3, (":authority", "a\r\nx: y"))]),
            get(&[(3, (":authority", "user@test"))]),
            get(&[(late, ("host", "other"))]),
            get(&[(late, ("host", "test")), (late, ("host", "test"))]),
            get(&[(late, ("connection", "close"))]),
            get(&[(late, ("transfer-encoding", "chunked"))]),
            get(&[(late, ("upgrade", "h2c"))]),
            get(&[(late, ("keep-alive", "1"))]),
            get(&[(late, ("te", "gzip"))]),
            get(&[(late, ("X-Upper", "1"))]),
            get(&[(late, ("x y", "1"))]),
            get(&[(late, ("x\r\ny", "1"))]),
            get(&[(late, ("", "1"))]),
            get(&[(late, ("x", "1\r\ny: 2"))]),
            get(&[(late, ("x", "1\n"))]),
            get(&[(late, ("x", "\0"))]),
            get(&[(late, ("x", " 1"))]),
            get(&[(late, ("x", "1\t"))]),
            get(&[(late, ("content-length", "1"))]),
            get(&[(late, ("content-length", ""))]),
            get(&[(late, ("content-length", "+0"))]),
            get(&[(late, ("content-length", "0")), (late, ("content-length", "1"))]),
            get(&[(late, (":path", "/again"))]),
            get(&[(late, ("x", "1")), (late, (":path", "/late"))]),
            get(&[(late, (":status", "200"))]),
            get(&[(late, (":unknown", "1"))]),
            get(&[(late, (":protocol", "websocket"))]),
        ];
        for fields in table {
            let mut client = edge.connect().await;
            client.open_h2().await;
            client.send_bytes(&frame(1, 5, 1, &block(&fields))).await;
            // A good one behind it shows whether the connection lives, and that nothing else came before it.
            client.send_bytes(&frame(1, 5, 3, &block(&GET))).await;
            while let Some(frame) = client.frame().await {
                match frame {
                    // Of all that can be said of the first stream, only this would be no refusal: the recorder's
                    // answer.
                    frame if frame.kind == 0 && frame.payload == b"ok" => {
                        assert_eq!(frame.stream, 3, "{fields:?}");
                        requests.recv().await.unwrap().expect("GET / HTTP/1.1\r\nhost: test\r\n");
                        break;
                    }
                    frame if frame.kind == RST_STREAM => assert_eq!(frame.payload[3], 1, "{fields:?}"),
                    _ => {}
                }
            }
            requests.try_recv().unwrap_err();
        }
    });
}

/// A request is malformed by what comes behind its head, too, and no server may see it as a good one (RFC 9113, section
/// 8.1.1). One with `content-length: 0` and then DATA was forwarded before that was found out, and so was one with a
/// byte more than it had said; a pseudo-header in trailers was dropped without a word.
#[test]
fn what_makes_a_request_malformed_behind_its_head() {
    run(async {
        let (whole, mut requests) = mpsc::unbounded_channel();
        let address = upstream(move |mut peer| {
            let whole = whole.clone();
            async move {
                loop {
                    let mut request = String::new();
                    while !request.ends_with("\r\n\r\n") {
                        if peer.buffer.is_empty() && !peer.more().await {
                            return;
                        }
                        request.push(char::from(peer.buffer.remove(0)));
                    }
                    let length =
                        request.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
                    let length = length.map_or(0, |length| length.parse().unwrap());
                    let is_chunked = request.contains("transfer-encoding: chunked");
                    let mut body = String::new();
                    while if is_chunked { !body.ends_with("0\r\n\r\n") } else { body.len() < length } {
                        if peer.buffer.is_empty() && !peer.more().await {
                            return;
                        }
                        body.push(char::from(peer.buffer.remove(0)));
                    }
                    whole.send(request + &body).unwrap();
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
            }
        })
        .await;
        let edge = edge(address).await;
        let of_length = |length| block(&[&GET[..], &[("content-length", length)]].concat());
        let chunked = block(&GET);
        let (data, end) = (|flags, payload: &[u8]| frame(0, flags, 1, payload), 1);
        let trailers = |fields: &[u8]| frame(1, 5, 1, fields);
        let padded = [&[3][..], &block(&[(":path", "/")]), &[0; 3]].concat();
        let pseudo = block(&[("x", "1"), (":path", "/")]);
        let table = [
            (of_length("0"), vec![data(end, b"a")]),
            (of_length("0"), vec![data(0, b"a")]),
            (of_length("0"), vec![trailers(&pseudo)]),
            (of_length("5"), vec![data(0, b"hello"), data(end, b"!")]),
            (of_length("5"), vec![data(0, b"hell"), data(0, b"o!")]),
            (of_length("5"), vec![data(0, b"hello"), data(0, b"!")]),
            (of_length("5"), vec![data(0, b"hell"), data(end, b"")]),
            (of_length("5"), vec![data(0, b"hell"), trailers(&block(&[("x", "1")]))]),
            (of_length("5"), vec![data(0, b"hello"), trailers(&pseudo)]),
            (chunked.clone(), vec![data(0, b"hello"), trailers(&pseudo)]),
            (chunked.clone(), vec![data(0, b"hello"), frame(1, 13, 1, &padded)]),
            // Of the static table: `:path: /`.
            (chunked.clone(), vec![data(0, b"hello"), trailers(&[0x84])]),
            (
                chunked.clone(),
                vec![data(0, b"hello"), frame(1, 1, 1, &pseudo[..3]), frame(9, 4, 1, &pseudo[3..])],
            ),
        ];
        for (head, frames) in table {
            let mut client = edge.connect().await;
            client.open_h2().await;
            client.send_bytes(&frame(1, 4, 1, &head)).await;
            // The head is on its way before what follows.
            turns().await;
            for frame in &frames {
                client.send_bytes(frame).await;
                turns().await;
            }
            let reset = client.frame_of(RST_STREAM).await;
            assert_eq!((reset.stream, reset.payload[3]), (1, 1), "{frames:x?}");
            client.send_bytes(&frame(1, 5, 3, &block(&GET))).await;
            assert_eq!(client.frame_of(0).await.payload, b"ok", "{frames:x?}");
            let seen = requests.recv().await.unwrap();
            assert!(!seen.contains("content-length") && !seen.contains("chunked"), "{frames:x?}: {seen}");
            requests.try_recv().unwrap_err();
        }
        for (head, frames) in [
            (of_length("0"), vec![data(end, b"")]),
            (of_length("0"), vec![data(0, b""), trailers(&block(&[("x", "1")]))]),
            (of_length("5"), vec![data(0, b"hello"), data(end, b"")]),
            (of_length("5"), vec![data(0, b"hello"), trailers(&block(&[("x", "1")]))]),
            (chunked, vec![data(0, b"hello"), trailers(&block(&[("x", "1"), ("x", "2"), ("y", "3")]))]),
        ] {
            let mut client = edge.connect().await;
            client.open_h2().await;
            client.send_bytes(&frame(1, 4, 1, &head)).await;
            for frame in &frames {
                client.send_bytes(frame).await;
                turns().await;
            }
            assert_eq!(client.frame_of(0).await.payload, b"ok", "{frames:x?}");
            requests.recv().await.unwrap();
        }
    });
}

/// The rule of HTTP/1 holds: here it was refused what there is taken for the same (RFC 9113, section 8.3.1).
#[test]
fn a_host_that_says_the_same_in_other_words() {
    run(async {
        let (address, mut requests) = recorder().await;
        let edge = edge(address).await;
        for host in ["test", "TEST", "test:80", "test:"] {
            let mut client = edge.connect().await;
            client.open_h2().await;
            let fields = [&GET[..], &[("host", host)]].concat();
            client.send_bytes(&frame(1, 5, 1, &block(&fields))).await;
            assert_eq!(client.frame_of(0).await.payload, b"ok", "{host}");
            requests.recv().await.unwrap().expect("GET / HTTP/1.1\r\nhost: test\r\n");
        }
        let mut client = edge.connect().await;
        client.open_h2().await;
        client.send_bytes(&frame(1, 5, 1, &block(&[&GET[..], &[("host", "test:443")]].concat()))).await;
        let text = client.frame_of(0).await.payload;
        let text = str::from_utf8(&text).unwrap();
        let (words, id) = text.split_once("\nrequest ").unwrap();
        assert_eq!(words, "400 Bad Request: the request's target and its Host disagree");
        assert_eq!(id.trim_end().len(), 32, "{text}");
    });
}

#[test]
fn heads_that_are_too_large() {
    run(async {
        let (address, mut requests) = recorder().await;
        let mut setup = Setup::new(&[address]);
        setup.server.max_head_bytes = 8 * 1024;
        let edge = setup.start().await;
        let mut client = edge.h2().await;
        let mut many = get("/");
        for n in 0..120 {
            many.headers_mut().append("x", n.into());
        }
        let long = Request::get("http://test/").header("x", "x".repeat(10_000)).body(()).unwrap();
        for request in [many, long] {
            let (response, _) = client.begin(request, true).await;
            let status = timeout(LONG, response).await.unwrap().map(|response| response.status().as_u16());
            assert_eq!(status.unwrap(), 431);
        }
        assert_eq!(client.get("/").await.body, b"ok");
        requests.recv().await.unwrap();
        requests.try_recv().unwrap_err();
    });
}
