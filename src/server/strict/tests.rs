use super::*;

const LIMITS: Limits = Limits { trailer_bytes: 1000, trailers: 10 };

/// Scans `input` whole, in single bytes and in two pieces of every size, which must all come to the same.
#[track_caller]
fn scan(input: &[u8]) -> Scanned {
    let whole = Scanner::new(LIMITS).scan(input);
    assert_eq!(whole.refused.is_none(), whole.passed == input.len(), "{whole:?}");
    assert_eq!(in_pieces(input, input.chunks(1)), whole, "in single bytes: {}", input.escape_ascii());
    for at in 0..input.len() {
        let (first, second) = input.split_at(at);
        assert_eq!(in_pieces(input, [first, second]), whole, "split at {at}: {}", input.escape_ascii());
    }
    whole
}

fn in_pieces<'i>(input: &[u8], pieces: impl IntoIterator<Item = &'i [u8]>) -> Scanned {
    let mut scanner = Scanner::new(LIMITS);
    let mut all = Scanned { passed: 0, heads: 0, refused: None };
    for piece in pieces {
        let Scanned { passed, heads, refused } = scanner.scan(piece);
        assert!(all.refused.is_none() || (passed, heads) == (0, 0), "more after a refusal");
        all = Scanned {
            passed: all.passed + passed,
            heads: all.heads + heads,
            refused: refused.or(all.refused),
        };
    }
    assert!(all.passed <= input.len());
    all
}

#[track_caller]
fn passes(input: &str, heads: u64) {
    let scanned = scan(input.as_bytes());
    assert_eq!(scanned, Scanned { passed: input.len(), heads, refused: None }, "{input:?}");
}

/// `input` is refused at its byte `passed`.
#[track_caller]
fn refuses_at(input: &[u8], passed: usize, refusal: Refusal, in_body: bool) {
    let scanned = scan(input);
    let refused = Some(Refused { refusal, in_body });
    let text = input.escape_ascii();
    assert_eq!((scanned.passed, scanned.refused), (passed, refused), "{text}");
}

/// A head that is refused before its end, whatever comes behind.
#[track_caller]
fn refuses(head: &str, refusal: Refusal) {
    let scanned = scan(head.as_bytes());
    assert_eq!(scanned.refused, Some(Refused { refusal, in_body: false }), "{head:?}");
    assert_eq!(scanned.heads, 0, "{head:?}");
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn what_is_good() {
    for (input, heads) in [
        ("", 0),
        ("\r\n\r\n", 0),
        ("\r\nGET / HTTP/1.1\r\n\r\n", 1),
        ("GET / HTTP/1.0\r\n\r\n", 1),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        ("M-SEARCH http://a:80/x?y=%20{|}^` HTTP/1.1\r\nA:\r\nB: \t x \t\r\nC:\u{fc} \"~\r\n\r\n", 1),
        ("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n", 2),
        ("POST / HTTP/1.1\r\ncontent-LENGTH:\t5 \r\n\r\nhelloGET / HTTP/1.1\r\n\r\n", 2),
        ("POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n\r\n\r\n", 1),
        ("POST / HTTP/1.1\r\nContent-Length: 9223372036854775807\r\n\r\n\0\n\r", 1),
        ("POST / HTTP/1.1\r\nTransfer-Encoding:  Chunked \r\n\r\n0\r\n\r\n", 1),
        ("GET / HTTP/1.1\r\nX: Content-Length: 5\r\n\r\nGET / HTTP/1.1\r\n\r\n", 2),
        ("GET / HTTP/1.1\r\nX-Content-Length: 5\r\nContent-Length-X: 5\r\n\r\nGET / HTTP/1.1\r\n\r\n", 2),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 1),
        ("connect / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", 2),
    ] {
        passes(input, heads);
    }
    for body in [
        "0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "000A\r\n0123\r\n6789\r\n00000\r\n\r\n",
        "1;name=value;x=\"y\"\r\nx\r\n0;last\r\n\r\n",
        "1",
        "0\r\nX-Sum: 1\r\nY: \r\n\r\n",
    ] {
        passes(&format!("{CHUNKED}{body}"), 1);
    }
    passes(&format!("{CHUNKED}3\r\nGET\r\n0\r\nA: b\r\n\r\n{GET}\r\n{CHUNKED}0\r\n\r\n\r\n{GET}\r\n"), 4);
}

#[test]
fn request_lines() {
    for line in [
        "GET  / HTTP/1.1\r\n\r\n",
        "GET /  HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1 \r\n\r\n",
        " GET / HTTP/1.1\r\n\r\n",
        "GET\t/ HTTP/1.1\r\n\r\n",
        "GET /\tHTTP/1.1\r\n\r\n",
        "GET /\r\n\r\n",
        "GET\r\n\r\n",
        "GET HTTP/1.1\r\n\r\n",
        "GET / http/1.1\r\n\r\n",
        "GET / HTTP/1.1x\r\n\r\n",
        "GET / HTTP/1.11\r\n\r\n",
        "GET / HTTP/x\r\n\r\n",
        "GET / HTTP/1\r\n\r\n",
        "GET / ICY/1.1\r\n\r\n",
        "GET / x HTTP/1.1\r\n\r\n",
        "G(T / HTTP/1.1\r\n\r\n",
        ": / HTTP/1.1\r\n\r\n",
        "\u{fc} / HTTP/1.1\r\n\r\n",
        "\x16\x03\x01\x02\0\x01",
        "\r\n\0\r\n",
    ] {
        refuses(line, Refusal::RequestLine);
    }
    for line in
        ["GET / HTTP/2.0\r\n\r\n", "GET / HTTP/1.2\r\n\r\n", "GET / HTTP/0.9\r\n\r\n", "PRI * HTTP/2.0\r\n"]
    {
        refuses(line, Refusal::Version);
    }
    for target in ["/\0", "/\x7f", "/\u{fc}", "/a#b", "#"] {
        refuses(&format!("GET {target} HTTP/1.1\r\n\r\n"), Refusal::Target);
    }
    for lines in [
        "\n",
        "\rGET / HTTP/1.1\r\n\r\n",
        "\r\r\n",
        "GET / HTTP/1.1\n\n",
        "GET / HTTP/1.1\rX: y\r\n\r\n",
        "GET / HTTP/1.1\r\rX: y\r\n\r\n",
    ] {
        refuses(lines, Refusal::LineEnd);
    }
}

#[test]
fn fields() {
    for (lines, refusal) in [
        ("X: a\n\r\n", Refusal::LineEnd),
        ("X: a\rY: b\r\n\r\n", Refusal::LineEnd),
        ("X: a\r\r\n\r\n", Refusal::LineEnd),
        ("\n", Refusal::LineEnd),
        ("\rX: a\r\n\r\n", Refusal::LineEnd),
        ("X\n: a\r\n\r\n", Refusal::LineEnd),
        ("X: a\r\n b\r\n\r\n", Refusal::Folded),
        ("X: a\r\n\tb\r\n\r\n", Refusal::Folded),
        (" \r\n\r\n", Refusal::Folded),
        ("X : a\r\n\r\n", Refusal::FieldSpace),
        ("X\t: a\r\n\r\n", Refusal::FieldSpace),
        ("X Y: a\r\n\r\n", Refusal::FieldSpace),
        (": a\r\n\r\n", Refusal::FieldName),
        ("X\r\n\r\n", Refusal::FieldName),
        ("X\0: a\r\n\r\n", Refusal::FieldName),
        ("X\x0b: a\r\n\r\n", Refusal::FieldName),
        ("X(: a\r\n\r\n", Refusal::FieldName),
        ("\u{fc}: a\r\n\r\n", Refusal::FieldName),
        ("X: a\0b\r\n\r\n", Refusal::Control),
        ("X: \x01\r\n\r\n", Refusal::Control),
        ("X: a\x7f\r\n\r\n", Refusal::Control),
        ("Transfer-Encoding: \x0bchunked\r\n\r\n", Refusal::Control),
        ("Content-Length: 5\x0c\r\n\r\n", Refusal::Control),
    ] {
        refuses(&format!("{GET}{lines}"), refusal);
    }
}

#[test]
fn lengths() {
    for value in [
        "",
        "+5",
        "-5",
        "05",
        "00",
        "0 5",
        "0x5",
        "5 5",
        "5.",
        "five",
        "5;",
        "\u{664}",
        "9223372036854775808",
        "99999999999999999999",
    ] {
        refuses(&format!("{GET}Content-Length: {value}\r\n\r\n"), Refusal::Length);
    }
    for lines in [
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nX: y\r\ncontent-length: 6",
        "Content-Length: 5, 5",
        "Content-Length: 5,6",
        "Content-Length: ,5",
    ] {
        refuses(&format!("{GET}{lines}\r\n\r\n"), Refusal::LengthRepeated);
    }
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
        "transfer-encoding: chunked\r\nX: y\r\ncontent-length: 5",
    ] {
        refuses(&format!("{GET}{lines}\r\n\r\n"), Refusal::LengthAndCoding);
    }
}

#[test]
fn codings() {
    for (value, refusal) in [
        ("gzip, chunked", Refusal::CodingUnknown),
        ("gzip;q=1 ,\tchunked", Refusal::CodingUnknown),
        ("", Refusal::Coding),
        ("xchunked", Refusal::Coding),
        ("chunkedx", Refusal::Coding),
        ("chunke", Refusal::Coding),
        ("chun ked", Refusal::Coding),
        ("\"chunked\"", Refusal::Coding),
        ("chunked;a=b", Refusal::Coding),
        ("chunked, chunked", Refusal::Coding),
        ("chunked, gzip, chunked", Refusal::Coding),
        ("chunked, identity", Refusal::Coding),
        ("identity", Refusal::Coding),
        ("gzip", Refusal::Coding),
        ("chunked,", Refusal::Coding),
        (", chunked", Refusal::Coding),
    ] {
        refuses(&format!("{GET}Transfer-Encoding: {value}\r\n\r\n"), refusal);
    }
    refuses(
        &format!("{GET}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n"),
        Refusal::CodingRepeated,
    );
    refuses("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Refusal::CodingInHttp10);
}

#[test]
fn connect() {
    let head = "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n";
    refuses_at(format!("{head}\x16").as_bytes(), head.len(), Refusal::AfterConnect, false);
    let mut scanner = Scanner::new(LIMITS);
    assert_eq!(scanner.scan(head.as_bytes()).heads, 1);
    scanner.answered();
    assert_eq!(scanner.scan(GET.as_bytes()).refused, None, "a client that waited, and got no tunnel");
    scanner.answered();
    assert_eq!(scanner.scan(b"\r\n").heads, 1);
    refuses("CONNECT a:443 HTTP/1.1\r\nContent-Length: 0\r\n\r\n", Refusal::ConnectBody);
    refuses("CONNECT a:443 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", Refusal::ConnectBody);
}

#[test]
fn chunks() {
    let long = "x".repeat(MAX_EXTENSION_BYTES);
    for (body, passed, refusal) in [
        ("\r\n", 0, Refusal::ChunkSize),
        (" 1\r\n", 0, Refusal::ChunkSize),
        ("+1\r\n", 0, Refusal::ChunkSize),
        ("-1\r\n", 0, Refusal::ChunkSize),
        ("0x1\r\n", 1, Refusal::ChunkSize),
        ("1 \r\n", 1, Refusal::ChunkSize),
        ("1\t;a\r\n", 1, Refusal::ChunkSize),
        ("1_0\r\n", 1, Refusal::ChunkSize),
        ("g\r\n", 0, Refusal::ChunkSize),
        (";\r\n", 0, Refusal::ChunkSize),
        ("\u{664}\r\n", 0, Refusal::ChunkSize),
        ("1\n", 1, Refusal::LineEnd),
        ("8000000000000000\r\n", 15, Refusal::ChunkSize),
        ("ffffffffffffffff\r\n", 15, Refusal::ChunkSize),
        ("00000000000000001\r\n", 16, Refusal::ChunkSize),
        ("1\rx", 2, Refusal::LineEnd),
        ("1;a\nb\r\n", 3, Refusal::LineEnd),
        ("1;a\rb\r\n", 4, Refusal::LineEnd),
        ("1;a\0\r\n", 3, Refusal::ChunkExtension),
        ("1\r\nxx\r\n", 4, Refusal::ChunkEnd),
        ("1\r\nx\n", 4, Refusal::ChunkEnd),
        ("1\r\nx\rx", 5, Refusal::ChunkEnd),
        ("1\r\nx0\r\n\r\n", 4, Refusal::ChunkEnd),
        ("0\r\nX : a\r\n\r\n", 4, Refusal::FieldSpace),
        ("0\r\nX: a\n\r\n", 7, Refusal::LineEnd),
        ("0\r\nX: a\r\n b\r\n\r\n", 9, Refusal::Folded),
        ("0\r\n\n", 3, Refusal::LineEnd),
        ("0\r\n\rX", 4, Refusal::LineEnd),
        ("0\r\nGET / HTTP/1.1\r\n\r\n", 6, Refusal::FieldSpace),
        ("0\r\nContent-Length: 5\r\n\r\n", 17, Refusal::TrailerName),
        ("0\r\ntransfer-encoding: chunked\r\n\r\n", 20, Refusal::TrailerName),
        ("0\r\nHost: a\r\n\r\n", 7, Refusal::TrailerName),
    ] {
        refuses_at(format!("{CHUNKED}{body}").as_bytes(), CHUNKED.len() + passed, refusal, true);
    }
    let extended = format!("{CHUNKED}1;{long}");
    let scanned = Scanner::new(LIMITS).scan(extended.as_bytes());
    assert_eq!(scanned.refused, None, "the whole limit");
    let scanned = Scanner::new(LIMITS).scan(format!("{extended}x").as_bytes());
    let refusal = Refusal::ChunkExtension;
    assert_eq!((scanned.passed, scanned.refused), (extended.len(), Some(Refused { refusal, in_body: true })));
}

#[test]
fn trailers_have_limits() {
    let lines = |n: usize| format!("{CHUNKED}0\r\n{}\r\n", "X: y\r\n".repeat(n));
    passes(&lines(LIMITS.trailers), 1);
    let at = CHUNKED.len() + 3 + 6 * LIMITS.trailers;
    refuses_at(lines(LIMITS.trailers + 1).as_bytes(), at, Refusal::Trailers, true);
    let long = |n: usize| format!("{CHUNKED}0\r\nX: {}\r\n\r\n", "y".repeat(n - 7));
    passes(&long(LIMITS.trailer_bytes), 1);
    let at = CHUNKED.len() + 3 + LIMITS.trailer_bytes;
    refuses_at(long(LIMITS.trailer_bytes + 1).as_bytes(), at, Refusal::Trailers, true);
}

#[test]
fn limits_are_of_one_body() {
    let body = format!("1;{}\r\nx\r\n0\r\n{}\r\n", "e".repeat(1500), "X: y\r\n".repeat(9));
    let input = format!("{CHUNKED}{body}").repeat(4);
    assert_eq!(Scanner::new(LIMITS).scan(input.as_bytes()).refused, None);
}

#[test]
fn a_refusal_behind_good_requests_spares_them() {
    let good = format!("{GET}\r\n{CHUNKED}1\r\nx\r\n0\r\n\r\n");
    let scanned = scan(format!("{good}GET / HTTP/1.1\r\nX: a\nb\r\n\r\n{good}").as_bytes());
    assert_eq!(scanned.heads, 2);
    assert_eq!(scanned.refused, Some(Refused { refusal: Refusal::LineEnd, in_body: false }));
    assert_eq!(scanned.passed, good.len() + "GET / HTTP/1.1\r\nX: a".len());
}

#[test]
fn an_answer_is_whole() {
    for refusal in [Refusal::RequestLine, Refusal::Version, Refusal::CodingUnknown] {
        let id = crate::proxy::RequestId::default();
        let answer = refusal.answer(id);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{answer}");
        assert!(
            body.starts_with(&head[9..15]) && body.ends_with(&format!(": {refusal}\nrequest {id}\n")),
            "{answer}"
        );
        assert!(head.contains(&format!("x-request-id: {id}\r\n")), "{answer}");
    }
}
