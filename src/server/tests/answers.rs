//! What clients are told when this proxy answers by itself.

use super::*;

/// A server in front of nothing, as it is outside tests.
async fn brief(down: SocketAddr) -> Edge {
    let mut setup = Setup::new(&[down]);
    setup.proxy.detailed_errors = false;
    setup.start().await
}

/// Clients used to get `502 Bad Gateway: upstream 127.0.0.1:9000: connection refused`.
#[test]
fn a_client_is_not_told_the_topology() {
    run(async {
        let (down, _socket) = nobody();
        let edge = brief(down).await;
        let mut client = edge.connect().await;
        let answers = [client.get("/").await, client.get("/").await];
        for answer in &answers {
            answer.expect("HTTP/1.1 502 Bad Gateway\r\n").without(&down.to_string());
            assert_eq!(answer.error(), "502 Bad Gateway");
        }
        assert_ne!(answers[0].field("x-request-id"), answers[1].field("x-request-id"));
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.head().await.expect("502 Bad Gateway").expect("x-request-id: ");
        // What is wrong with its own request it may know.
        client.send("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n").await;
        assert_eq!(client.message().await.error(), "400 Bad Request: the request's host is not valid");
        client.send("GET / HTTP/1.1\r\nHost : a\r\n\r\n").await;
        assert_eq!(client.message().await.error(), "400 Bad Request: there is space before a field's colon");
    });
}

#[test]
fn a_call_of_grpc_gets_a_trailers_only_answer() {
    run(async {
        let (down, _socket) = nobody();
        let edge = brief(down).await;
        let mut client = edge.connect().await;
        for (asked, answered) in [
            ("application/grpc", "application/grpc"),
            ("application/grpc+proto", "application/grpc"),
            ("application/grpc-web+proto", "application/grpc-web+proto"),
            ("application/grpc-web-text", "application/grpc-web-text"),
        ] {
            client
                .send(&format!(
                    "POST /a HTTP/1.1\r\nHost: a\r\nContent-Type: {asked}\r\nContent-Length: 0\r\n\r\n"
                ))
                .await;
            let answer = client.message().await;
            answer.expect("HTTP/1.1 200 OK\r\n").expect("content-length: 0\r\n");
            answer.expect(&format!("content-type: {answered}\r\n")).expect("grpc-status: 14\r\n");
            let id = answer.field("x-request-id").unwrap();
            answer.expect(&format!("grpc-message: 502 Bad Gateway (request {id})\r\n"));
        }
        client
            .send(
                "POST /a HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpcx\r\nContent-Length: 0\r\n\r\n",
            )
            .await;
        client.message().await.expect("HTTP/1.1 502 Bad Gateway").without("grpc-status");
    });
}

#[test]
fn a_servers_request_id_is_the_logs_where_that_is_asked_for() {
    run(async {
        let (address, mut requests) = recorder().await;
        let ask = "GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: theirs\r\n\r\n";
        for sends in [false, true] {
            let mut setup = Setup::new(&[address]);
            setup.proxy.request_id = sends;
            let mut client = setup.start().await.connect().await;
            for _ in 0..2 {
                client.send(ask).await;
                client.message().await.expect("HTTP/1.1 200 OK").without("x-request-id");
                let request = requests.recv().await.unwrap();
                let ids: Vec<&str> =
                    request.head.lines().filter(|line| line.starts_with("x-request-id: ")).collect();
                match sends {
                    false => assert_eq!(ids, ["x-request-id: theirs"]),
                    true => assert!(ids.len() == 1 && ids[0].len() == "x-request-id: ".len() + 32, "{ids:?}"),
                }
            }
        }
    });
}
