//! Servers with a host name: its addresses, their time to live, and name servers that fail.

use std::net::SocketAddr;

use super::dns::{Dns, Reply};
use super::harness::{Exuvia, eventually};
use super::servers::body;
use super::traffic::{Client, get};
use super::upstream::{Hole, telling};

fn lookups(exuvia: &Exuvia, result: &str) -> u64 {
    let admin: SocketAddr = exuvia.listener("exuvia-admin").parse().unwrap();
    let text = String::from_utf8(get(admin, "/metrics").unwrap().body).unwrap();
    let name = format!("exuvia_name_lookups_total{{result=\"{result}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |value| value.parse().unwrap())
}

/// One `connect_timeout` covered all addresses of a name, one after the other: the first, which dropped SYNs, ate it
/// all, and the second was never tried.
#[test]
fn an_address_that_drops_what_is_sent_to_it_does_not_keep_a_request_from_the_next() {
    let (port, _server) = telling(&["127.0.0.2"]);
    let hole = SocketAddr::from(([127, 0, 0, 3], port));
    let _hole = Hole::at(hole);
    let dns = Dns::start(&[("app.test", Reply::addresses(&["127.0.0.3", "127.0.0.2"], 3600))]);
    // Between two addresses it is less than 250 ms here.
    for limit in ["3s", "150ms"] {
        let settings = dns.settings(&[format!("app.test:{port}")]);
        let exuvia = Exuvia::start(&format!("workers = 1\n{settings}connect_timeout = \"{limit}\"\n"));
        for _ in 0..10 {
            assert_eq!(body(&exuvia), "127.0.0.2");
        }
        assert_eq!(exuvia.stop(), 0);
    }
}

#[test]
fn both_families_are_tried() {
    for listening in ["127.0.0.1", "::1"] {
        let (port, _server) = telling(&[listening]);
        let dns = Dns::start(&[("app.test", Reply::addresses(&["127.0.0.1", "::1"], 3600))]);
        let exuvia = Exuvia::start(&dns.settings(&[format!("app.test:{port}")]));
        for _ in 0..4 {
            assert_eq!(body(&exuvia), listening);
        }
        assert_eq!(exuvia.stop(), 0);
    }
}

/// Names were looked up for each connection, by a thread that was blocked as long as it took.
#[test]
fn a_name_is_looked_up_once_however_many_ask_and_all_its_addresses_are_used() {
    let (port, _servers) = telling(&["127.0.0.2", "127.0.0.3"]);
    let dns = Dns::start(&[("app.test", Reply::addresses(&["127.0.0.2", "127.0.0.3"], 3600))]);
    let exuvia = Exuvia::start(&dns.settings(&[format!("app.test:{port}")]));
    let mut seen: Vec<String> = (0..50).map(|_| body(&exuvia)).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["127.0.0.2", "127.0.0.3"]);
    assert_eq!(dns.asked("app.test"), 1);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_new_address_is_taken_up_when_the_time_of_the_old_one_is_over() {
    let (port, _servers) = telling(&["127.0.0.2", "127.0.0.3"]);
    let dns = Dns::start(&[("app.test", Reply::addresses(&["127.0.0.2"], 1))]);
    let exuvia = Exuvia::start(&dns.settings(&[format!("app.test:{port}")]));
    assert_eq!(body(&exuvia), "127.0.0.2");
    dns.set("app.test", Reply::addresses(&["127.0.0.3"], 1));
    eventually("the new address is used", || (body(&exuvia) == "127.0.0.3").then_some(()));
    assert_eq!(exuvia.generation(), 1);
    assert_eq!(exuvia.stop(), 0);
}

/// Not even an upgrade loses them: a new process that has never had an answer has those of the one before.
#[test]
fn addresses_outlive_their_time_while_no_name_server_answers() {
    let (port, _server) = telling(&["127.0.0.2"]);
    for failure in [Reply::Silence, Reply::Broken] {
        let dns = Dns::start(&[("app.test", Reply::addresses(&["127.0.0.2"], 1))]);
        let settings = dns.settings(&[format!("app.test:{port}")]);
        let exuvia = Exuvia::start(&format!(
            "{settings}[admin]\naddress = \"127.0.0.1:0\"\n[restart]\nprobation = \"0s\"\n"
        ));
        assert_eq!(body(&exuvia), "127.0.0.2");
        dns.set("app.test", failure);
        eventually("look-ups fail", || (lookups(&exuvia, "failed") > 0).then_some(()));
        assert_eq!(body(&exuvia), "127.0.0.2");
        exuvia.upgrade();
        assert_eq!(body(&exuvia), "127.0.0.2");
        let log = exuvia.log();
        assert!(log.contains("its last addresses stay in use"), "{log}");
        assert_eq!(exuvia.stop(), 0);
    }
}

#[test]
fn stale_addresses_are_not_used_for_ever() {
    let (port, _server) = telling(&["127.0.0.2"]);
    let dns = Dns::start(&[("app.test", Reply::addresses(&["127.0.0.2"], 1))]);
    let settings = dns.settings(&[format!("app.test:{port}")]);
    let settings = settings.replacen("[upstream]", "max_stale = \"0s\"\n[upstream]", 1);
    let exuvia = Exuvia::start(&settings);
    assert_eq!(body(&exuvia), "127.0.0.2");
    dns.set("app.test", Reply::Broken);
    eventually("they are no longer used", || {
        (get(exuvia.address(), "/").unwrap().status == 502).then_some(())
    });
    dns.set("app.test", Reply::addresses(&["127.0.0.2"], 1));
    eventually("a new answer is", || (get(exuvia.address(), "/").unwrap().status == 200).then_some(()));
    assert_eq!(exuvia.stop(), 0);
}

/// Readiness does not wait for a name server, and a request only as long as for a connect.
#[test]
fn a_name_server_that_is_silent_keeps_no_process_from_its_start() {
    let (port, _server) = telling(&["127.0.0.2"]);
    let dns = Dns::start(&[("app.test", Reply::Silence)]);
    let settings = dns.settings(&[format!("app.test:{port}")]);
    let exuvia = Exuvia::start(&format!("{settings}connect_timeout = \"200ms\"\n"));
    dns.wait_asked("app.test", 1);
    assert_eq!(get(exuvia.address(), "/").unwrap().status, 504);
    dns.set("app.test", Reply::addresses(&["127.0.0.2"], 1));
    eventually("the name is known", || (get(exuvia.address(), "/").unwrap().status == 200).then_some(()));
    assert_eq!(exuvia.stop(), 0);
}

/// Some name servers never answer for IPv6.
#[test]
fn one_family_does_not_wait_for_the_other() {
    let (port, _server) = telling(&["127.0.0.2"]);
    let reply = Reply::SilentForIpv6(vec![[127, 0, 0, 2].into()], 3600);
    let dns = Dns::start(&[("app.test", reply)]);
    let settings = dns.settings(&[format!("app.test:{port}")]);
    // Less than the time of one question.
    let exuvia = Exuvia::start(&format!("{settings}connect_timeout = \"1500ms\"\n"));
    dns.wait_asked("app.test", 1);
    assert_eq!(body(&exuvia), "127.0.0.2");
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_name_that_there_is_not_is_told_and_the_next_server_is_used() {
    let (port, _server) = telling(&["127.0.0.2"]);
    let dns = Dns::start(&[("good.test", Reply::addresses(&["127.0.0.2"], 3600))]);
    let both = [format!("bad.test:{port}"), format!("good.test:{port}")];
    let exuvia = Exuvia::start(&format!("workers = 1\n{}", dns.settings(&both)));
    let mut client = Client::connect(exuvia.address()).unwrap();
    for _ in 0..10 {
        assert_eq!(client.get("/").unwrap().status, 200);
    }
    drop(client);
    let log = exuvia.log();
    for words in ["the name cannot be looked up", "bad.test", "it has no address"] {
        assert!(log.contains(words), "{words:?} is not in {log}");
    }
    assert_eq!(exuvia.stop(), 0);
}
