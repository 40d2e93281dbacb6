//! HTTPS under upgrades, with a client that takes an end without a word of TLS for the truncation that it may be.

use std::io::Write;
use std::net::TcpStream;

use rustls::{ClientConnection, NamedGroup, StreamOwned};

use super::harness::{PATIENCE, eventually};
use super::tls::start;
use super::traffic::{Client, Target, Traffic};

#[test]
fn twelve_upgrades_under_https_and_no_request_fails() {
    let (exuvia, authority) = start("");
    let target = Target::tls(exuvia.address(), &authority.trusting(), "site.test");
    let traffic = Traffic::to(&target, 4, 4);
    for generation in 2..=13 {
        exuvia.upgrade();
        traffic.reaches(generation);
        traffic.flows();
    }
    traffic.finish();
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn the_hybrid_key_exchange_is_the_first() {
    let (exuvia, authority) = start("");
    let target = Target::tls(exuvia.address(), &authority.trusting(), "site.test");
    let mut client = Client::to(&target).unwrap();
    assert_eq!(client.get("/bytes?n=10").unwrap().status, 200);
    let group = client.session().negotiated_key_exchange_group().map(|group| group.name());
    assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
    drop(client);
    assert_eq!(exuvia.stop(), 0);
}

/// Its owner may think that it is open, and send on it: it must have been told.
#[test]
fn a_connection_at_rest_is_closed_with_a_word_of_tls() {
    let (exuvia, authority) = start("[drain]\nidle_grace = \"1s\"\ntimeout = \"2s\"\n");
    let target = Target::tls(exuvia.address(), &authority.trusting(), "site.test");
    let mut fresh = Client::to(&target).unwrap();
    let mut used = Client::to(&target).unwrap();
    assert_eq!(used.get("/bytes?n=10").unwrap().generation(), 1);
    exuvia.upgrade();
    assert!(fresh.at_end().unwrap() && used.at_end().unwrap());
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_connection_at_rest_gets_one_more_answer_from_the_old_process() {
    let (exuvia, authority) = start("[drain]\nidle_grace = \"20s\"\n");
    let target = Target::tls(exuvia.address(), &authority.trusting(), "site.test");
    let mut clients: Vec<Client> = (0..20).map(|_| Client::to(&target).unwrap()).collect();
    for client in clients.iter_mut().take(10) {
        assert_eq!(client.get("/bytes?n=20000").unwrap().body.len(), 20_000);
    }
    exuvia.upgrade();
    for client in &mut clients {
        let answer = client.get("/bytes?n=20000").unwrap();
        assert_eq!((answer.generation(), answer.closes()), (1, true));
        assert!(client.at_end().unwrap());
    }
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_handshake_in_flight_is_finished_by_the_process_that_began_it() {
    let (exuvia, authority) = start("");
    let mut session = ClientConnection::new(authority.trusting(), "site.test".try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    let (half, rest) = hello.split_at(hello.len() / 2);
    let mut stream = TcpStream::connect(exuvia.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(half).unwrap();
    eventually("the handshake is under way", || {
        let status = exuvia.status();
        let kinds = status["generations"][0]["connections"].as_array()?.iter();
        kinds.clone().find(|kind| kind["kind"] == "handshake" && kind["active"] == 1).map(drop)
    });
    exuvia.upgrade();
    stream.write_all(rest).unwrap();
    let mut stream = StreamOwned::new(session, stream);
    stream.write_all(b"GET /bytes?n=10 HTTP/1.1\r\nHost: site.test\r\n\r\n").unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nxxxxxxxxxx"), "{answer}");
    assert!(answer.contains("x-exuvia-generation: 1\r\n"), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!(exuvia.stop(), 0);
}

/// The header of a record is the beginning of a request, if only TLS can see it.
#[test]
fn half_a_record_is_half_a_request() {
    let (exuvia, authority) = start("[timeouts]\nheader = \"1s\"\n");
    let target = Target::tls(exuvia.address(), &authority.trusting(), "site.test");
    let mut client = Client::to(&target).unwrap();
    assert_eq!(client.get("/bytes?n=10").unwrap().status, 200);
    client.stream().write_all(&[23, 3, 3]).unwrap();
    assert_eq!(client.response().unwrap().status, 408);
    assert!(client.at_end().unwrap());
    // And what is no record at all is the end, with an alert.
    let mut client = Client::to(&target).unwrap();
    assert_eq!(client.get("/bytes?n=10").unwrap().status, 200);
    client.stream().write_all(&[23, 3, 3, 0, 5, 1, 2, 3, 4, 5]).unwrap();
    let error = client.at_end().unwrap_err().to_string();
    assert!(error.contains("alert: BadRecordMac"), "{error}");
    assert_eq!(exuvia.stop(), 0);
}
