//! Counters: they go on, whatever ends the process that counted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::harness::{EXUVIA, Exuvia, eventually, is_alive};
use super::traffic::{Client, get};
use super::upstream::{Upstream, settings};

const OBSERVED: &str = "workers = 2\n[admin]\naddress = \"127.0.0.1:0\"\n";

/// What `/metrics` says at a moment.
struct Page(BTreeMap<String, f64>);

impl Page {
    #[track_caller]
    fn of(exuvia: &Exuvia) -> Page {
        let admin: SocketAddr = exuvia.status()["admin"].as_str().unwrap().parse().unwrap();
        let answer = get(admin, "/metrics").unwrap();
        assert_eq!(answer.status, 200);
        let text = String::from_utf8(answer.body).unwrap();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        Page(
            samples
                .map(|line| line.rsplit_once(' ').unwrap())
                .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
                .collect(),
        )
    }

    /// The sum of the series of this name that have all of these in their labels.
    fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let is_meant = |series: &&String| {
            let of_name =
                series.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
            of_name && labels.iter().all(|label| series.contains(label))
        };
        self.0.keys().filter(is_meant).map(|series| self.0[series]).sum()
    }

    fn answered(&self) -> f64 {
        self.sum("exuvia_requests_ended_total", &["end=\"answered\""])
    }

    /// Whatever began is there, or has ended.
    #[track_caller]
    fn expect_balance(&self) {
        for (began, open, ended) in [
            ("exuvia_requests_total", "exuvia_requests_in_flight", "exuvia_requests_ended_total"),
            ("exuvia_connections_total", "exuvia_connections_open", "exuvia_connections_ended_total"),
            ("exuvia_tunnels_total", "exuvia_tunnels_open", "exuvia_tunnels_ended_total"),
        ] {
            for kind in ["http1", "http2", "tunnel", "handshake"] {
                let [began, open, ended] = [began, open, ended].map(|name| self.sum(name, &[kind]));
                assert_eq!(began, open + ended, "{kind}: {:#?}", self.0);
            }
        }
    }
}

#[test]
fn nothing_that_was_counted_is_lost_at_upgrades_and_sigkill() {
    let exuvia = Exuvia::start(&format!("{OBSERVED}[restart]\nprobation = \"0s\"\n"));
    let mut requests = 0.0;
    for _ in 0..3 {
        for _ in 0..10 {
            assert_eq!(get(exuvia.address(), "/").unwrap().status, 200);
            requests += 1.0;
        }
        exuvia.upgrade();
        assert_eq!(Page::of(&exuvia).answered(), requests);
    }
    // A process that drains, with a request in flight, is killed.
    let mut client = Client::connect(exuvia.address()).unwrap();
    client.ask("/slow?ms=60000").unwrap();
    eventually("it is in flight", || {
        (Page::of(&exuvia).sum("exuvia_requests_in_flight", &[]) == 1.0).then_some(())
    });
    let old = exuvia.pid();
    exuvia.upgrade();
    let page = Page::of(&exuvia);
    assert_eq!(page.sum("exuvia_generations", &["\"draining\""]), 1.0);
    assert_eq!(page.sum("exuvia_generation_requests_in_flight", &["generation=\"4\""]), 1.0);
    let left = page.sum("exuvia_generation_drain_seconds_left", &["generation=\"4\""]);
    assert!((1.0..=30.0).contains(&left), "{left}");
    kill(Pid::from_raw(old), Signal::SIGKILL).unwrap();
    assert!(client.response().is_err());
    let page = eventually("the death is in the books", || {
        let page = Page::of(&exuvia);
        (page.sum("exuvia_generations", &["\"draining\""]) == 0.0).then_some(page)
    });
    assert_eq!(page.answered(), requests);
    assert_eq!(page.sum("exuvia_requests_ended_total", &["end=\"crashed\""]), 1.0);
    assert_eq!(page.sum("exuvia_connections_ended_total", &["end=\"crashed\"", "http1"]), 1.0);
    assert_eq!(page.sum("exuvia_upgrades_total", &["committed"]), 4.0);
    page.expect_balance();
    // It stays so.
    exuvia.upgrade();
    let page = Page::of(&exuvia);
    assert_eq!(page.sum("exuvia_requests_ended_total", &["end=\"crashed\""]), 1.0);
    assert_eq!(page.answered(), requests);
    page.expect_balance();
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn what_a_new_process_answered_before_it_was_taken_back_counts() {
    let exuvia = Exuvia::start(&format!("{OBSERVED}[restart]\nprobation = \"60s\"\n"));
    for (ending, verdict) in [("rollback", "rolled_back"), ("kill", "failed")] {
        let before = Page::of(&exuvia).answered();
        assert_eq!(exuvia.ask(&["upgrade", "--until", "ready"]).code, 0);
        let child = exuvia.generations().last().unwrap().1;
        for _ in 0..7 {
            assert_eq!(get(exuvia.address(), "/").unwrap().status, 200);
        }
        match ending {
            "rollback" => assert_eq!(exuvia.ask(&["rollback"]).code, 0),
            _ => kill(Pid::from_raw(child), Signal::SIGKILL).unwrap(),
        }
        eventually("the new process is gone", || (!is_alive(child)).then_some(()));
        eventually("the old one serves", || (exuvia.phase() == "serving").then_some(()));
        let page = Page::of(&exuvia);
        assert_eq!(page.answered(), before + 7.0, "{ending}");
        assert_eq!(page.sum("exuvia_upgrades_total", &[verdict]), 1.0);
        page.expect_balance();
    }
    assert_eq!(exuvia.stop(), 0);
}

/// One that had been rolled back took over from an owner that was newer than itself, and knew nothing of its counts:
/// every counter ran backwards by what that owner had counted.
#[test]
fn one_that_was_rolled_back_takes_over_with_the_counts_of_those_after_it() {
    let settings = |probation: &str| format!("{OBSERVED}[restart]\nprobation = \"{probation}\"\n");
    let exuvia = Exuvia::start(&settings("60s"));
    let requests = |count: u32| {
        for _ in 0..count {
            assert_eq!(get(exuvia.address(), "/").unwrap().status, 200);
        }
    };
    requests(3);
    assert_eq!(exuvia.ask(&["upgrade", "--until", "ready"]).code, 0);
    // A request holds the one that is rolled back.
    let mut held = Client::connect(exuvia.address()).unwrap();
    held.ask("/slow?ms=60000").unwrap();
    eventually("it is in flight", || {
        (Page::of(&exuvia).sum("exuvia_requests_in_flight", &[]) == 1.0).then_some(())
    });
    let rolled_back = exuvia.pid_of(2);
    assert_eq!(exuvia.ask(&["rollback"]).code, 0);
    exuvia.wait_phase("serving");
    let first = exuvia.pid();
    // Two that come after it: one is the owner for a while, and drains; the other is the last owner.
    for generation in [3, 4] {
        assert_eq!(exuvia.ask(&["upgrade", "--until", "ready"]).code, 0);
        requests(5);
        // The settings of the first have a probation of a minute; what takes over by its death is the owner, too.
        let owner = exuvia.pid();
        kill(Pid::from_raw(owner), Signal::SIGKILL).unwrap();
        eventually("the next one is the owner", || {
            (exuvia.try_status()?["generation"] == generation).then_some(())
        });
        requests(7);
    }
    assert!(!is_alive(first));
    let before = Page::of(&exuvia);
    assert_eq!(before.answered(), 27.0);
    kill(Pid::from_raw(exuvia.pid()), Signal::SIGKILL).unwrap();
    eventually("the one that was rolled back is the owner", || {
        (exuvia.pid_now()? == rolled_back).then_some(())
    });
    let page = eventually("the death is in the books", || {
        let page = Page::of(&exuvia);
        (page.sum("exuvia_generations", &[]) == 1.0).then_some(page)
    });
    assert_eq!(page.answered(), before.answered());
    assert_eq!(page.sum("exuvia_requests_ended_total", &["end=\"crashed\""]), 0.0);
    page.expect_balance();
    requests(1);
    assert_eq!(Page::of(&exuvia).answered(), before.answered() + 1.0);
    assert_eq!(exuvia.ask(&["stop", "--now"]).code, 0);
}

/// A descriptor store may hold what a broken version left there.
#[test]
fn counters_that_cannot_be_read_are_left_out_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"LISTEN_PID=$$ exec "$0" run --supervise=never 3</etc/passwd"#;
    let control = folder.path().join("control.sock");
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let mut process = Command::new("sh")
        .args(["-c", script, EXUVIA])
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "exuvia-segment-0123456789abcdef")
        .env("EXUVIA__CONTROL__SOCKET", &control)
        .env("EXUVIA__LISTENERS__WEB__ADDRESS", "127.0.0.1:0")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let ask = |what: &str| {
        Command::new(EXUVIA).arg(what).arg("--control").arg(&control).output().unwrap().status.success()
    };
    eventually("it serves", || ask("status").then_some(()));
    let log = eventually("it tells of them", || {
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
        log.contains("counters of another generation cannot be read").then_some(log)
    });
    assert!(log.contains("it is no shared memory"), "{log}");
    assert!(ask("stop"));
    assert!(process.wait().unwrap().success());
}

/// The series of every address that a server ever had were carried for ever.
#[test]
fn what_is_counted_of_a_server_goes_when_it_has_left_the_settings() {
    let servers = [0, 1].map(|_| Upstream::start(|peer| peer.answer_all("ok")));
    let of = |servers: &[&Upstream]| {
        let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address()).collect();
        format!("{OBSERVED}[restart]\nprobation = \"0s\"\n{}", settings(&addresses))
    };
    let [gone, stays] = &servers;
    let label = |server: &Upstream| format!("upstream=\"{}\"", server.address());
    let series = |page: &Page, server: &Upstream| -> Vec<String> {
        page.0.keys().filter(|series| series.contains(&label(server))).cloned().collect()
    };
    let requests = |page: &Page, server| page.sum("exuvia_upstream_requests_total", &[&label(server)]);
    let serve =
        |exuvia: &Exuvia| (0..20).for_each(|_| assert_eq!(get(exuvia.address(), "/").unwrap().status, 200));

    let exuvia = Exuvia::start(&of(&[gone, stays]));
    serve(&exuvia);
    let first = Page::of(&exuvia);
    assert_eq!(requests(&first, gone) + requests(&first, stays), 20.0);
    assert!(requests(&first, gone) > 0.0);

    // As long as a process that drains knows it, it is there as a whole.
    let mut held = Client::connect(exuvia.address()).unwrap();
    held.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\n").unwrap();
    eventually("it is in flight", || {
        (Page::of(&exuvia).sum("exuvia_requests_in_flight", &[]) == 1.0).then_some(())
    });
    exuvia.set(&of(&[stays]));
    exuvia.upgrade();
    serve(&exuvia);
    let draining = Page::of(&exuvia);
    assert!(requests(&draining, gone) >= requests(&first, gone));
    assert!(requests(&draining, stays) >= requests(&first, stays) + 20.0);

    held.send(b"x").unwrap();
    assert_eq!(held.response().unwrap().status, 200);
    drop(held);
    let after = eventually("it is gone", || {
        let page = Page::of(&exuvia);
        assert!(requests(&page, stays) >= requests(&draining, stays));
        series(&page, gone).is_empty().then_some(page)
    });
    assert_eq!(requests(&after, gone) + requests(&after, stays), requests(&after, stays));

    // It is back, and begins at 0; nothing else has ever run backwards.
    exuvia.set(&of(&[gone, stays]));
    exuvia.upgrade();
    let back = Page::of(&exuvia);
    assert_eq!(requests(&back, gone), 0.0);
    assert!(requests(&back, stays) >= requests(&after, stays));
    serve(&exuvia);
    assert!(requests(&Page::of(&exuvia), gone) > 0.0);
    assert_eq!(exuvia.stop(), 0);
}
