//! What a client is told when no server answers, and what the log says of it.

use std::net::{SocketAddr, TcpListener, TcpStream};

use super::curl::curl;
use super::harness::{Exuvia, eventually};
use super::traffic::{Client, get};
use super::upstream::{Upstream, settings};

/// An address where nobody listens, for as long as what has it is kept.
fn nobody() -> (SocketAddr, (TcpListener, TcpStream)) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let holder = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (holder.local_addr().unwrap(), (listener, holder))
}

/// The line of the log that has all of these.
#[track_caller]
fn line(exuvia: &Exuvia, parts: &[&str]) -> String {
    let find = || {
        let log = exuvia.log();
        log.lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
    };
    eventually(&format!("{parts:?} is in the log:\n{}", exuvia.log()), find)
}

/// Clients used to read `502 Bad Gateway: upstream 127.0.0.1:9000: connection refused`, and the log had that, and neither
/// who had asked nor for what.
#[test]
fn the_client_is_told_the_id_by_which_the_log_has_the_rest() {
    let (down, _held) = nobody();
    let exuvia = Exuvia::start(&settings(&[down]));
    let answer = get(exuvia.address(), "/a/b?token=secret").unwrap();
    assert_eq!(answer.status, 502);
    let id = answer.header("x-request-id").unwrap().to_owned();
    let told = format!("{:?} {}", answer.headers, String::from_utf8_lossy(&answer.body));
    assert!(!told.contains("127.0.0.1") && !told.contains(&down.port().to_string()), "{told}");
    assert_eq!(String::from_utf8(answer.body).unwrap(), format!("502 Bad Gateway\nrequest {id}\n"));
    let line = line(&exuvia, &["WARN", &id]);
    let server = format!("server={down}");
    let refused = format!("upstream {down}: connection refused");
    for part in
        ["method=GET", "host=", "path=/a/b ", "client=127.0.0.1:", "listener=\"web\"", &server, &refused]
    {
        assert!(line.contains(part), "no {part} in {line}");
    }
    assert!(!exuvia.log().contains("secret"), "{}", exuvia.log());

    // In development, both may say more.
    exuvia.set(&format!("errors = \"detailed\"\n{}[log]\nquery = true\n", settings(&[down])));
    exuvia.upgrade();
    let answer = get(exuvia.address(), "/a/b?token=secret").unwrap();
    let id = answer.header("x-request-id").unwrap().to_owned();
    let text = String::from_utf8(answer.body).unwrap();
    assert_eq!(text, format!("502 Bad Gateway: {refused}\nrequest {id}\n"));
    self::line(&exuvia, &["WARN", &id, "path=/a/b?token=secret "]);
    assert_eq!(exuvia.stop(), 0);
}

/// An answer that was broken off was a line that told the cause alone, on HTTP/1 as on HTTP/2.
#[test]
fn an_answer_that_is_broken_off_names_its_request() {
    let upstream = Upstream::start(|mut peer| {
        peer.request();
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").unwrap();
    });
    let exuvia = Exuvia::start(&upstream.settings());
    let mut client = Client::connect(exuvia.address()).unwrap();
    assert!(client.get("/by-http1").is_err());
    line(
        &exuvia,
        &["WARN", "an answer was broken off", "method=GET", "path=/by-http1 ", "client=127.0.0.1:"],
    );
    assert_eq!(exuvia.stop(), 0);

    // A second one, because of lines of one kind only one is written in a second.
    let exuvia = Exuvia::start(&upstream.settings());
    let url = format!("http://{}/by-http2", exuvia.address());
    let said =
        ["--http2-prior-knowledge", "--write-out", "%{http_version} %{errormsg}", "--output", "/dev/null"];
    let mut command = std::process::Command::new("curl");
    let failed = command.args(["--silent", "--max-time", "30"]).args(said).arg(&url).output().unwrap();
    assert!(!failed.status.success(), "{failed:?}");
    line(&exuvia, &["WARN", "an answer was broken off", "path=/by-http2 ", "listener=\"web\""]);
    assert_eq!(exuvia.stop(), 0);
}

/// Of what the deadline of a drain cuts, only a count at the end of the log told.
#[test]
fn what_the_deadline_cuts_is_told_one_by_one() {
    let upstream = Upstream::start(|mut peer| {
        let Some(request) = peer.request() else { return };
        if request.header("upgrade").is_some() {
            peer.send(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            )
            .unwrap();
        }
        peer.until_closed();
    });
    let drain = "[restart]\nprobation = \"0s\"\n[drain]\ntimeout = \"500ms\"\n";
    let exuvia = Exuvia::start(&format!("{}{drain}", upstream.settings()));
    let mut first = Client::connect(exuvia.address()).unwrap();
    first.ask("/held-by-http1?q=1").unwrap();
    let url = format!("http://{}/held-by-http2", exuvia.address());
    let second = std::thread::spawn(move || {
        let mut command = std::process::Command::new("curl");
        command.args(["--silent", "--max-time", "30", "--http2-prior-knowledge"]).arg(&url).output().unwrap()
    });
    let mut tunnel = Client::connect(exuvia.address()).unwrap();
    tunnel
        .send(b"GET /chat HTTP/1.1\r\nHost: chat.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .unwrap();
    assert_eq!(tunnel.head().unwrap().status, 101);
    eventually("both requests are in flight", || {
        let kinds = exuvia.status()["generations"][0]["connections"].as_array()?.clone();
        let is_active = |kind: &str| kinds.iter().any(|row| row["kind"] == *kind && row["active"] == 1);
        (is_active("http1") && is_active("http2")).then_some(())
    });
    exuvia.upgrade();
    line(&exuvia, &["WARN", "a request was cut", "end=\"dropped_before_answer\"", "path=/held-by-http1 "]);
    line(&exuvia, &["WARN", "a request was cut", "path=/held-by-http2 ", "method=GET", "client=127.0.0.1:"]);
    line(&exuvia, &["WARN", "a tunnel was cut", "path=/chat ", "host=chat.test ", "listener=\"web\""]);
    assert!(!second.join().unwrap().status.success());
    assert!(first.response().is_err());
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn the_demonstration_says_what_is_wrong() {
    let exuvia = Exuvia::start("");
    let url = format!("http://{}/", exuvia.address());
    let text = curl(&["--header", "Host: a/b", &url]);
    assert!(text.starts_with("400 Bad Request: the request's host is not valid\nrequest "), "{text}");
    assert_eq!(exuvia.stop(), 0);
}
