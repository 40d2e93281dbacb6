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
