//! What is kept of a failure: whether a client that retries would have seen it, whether it is excused, in which phase it
//! was.

use std::process::Command;

use loadtest::now::Moment;
use loadtest::results::Deed;
use loadtest::witness::{Class, Phase, Unit};
use nix::unistd::Pid;
use tokio::time::Instant;

use crate::faulty::{Fault, Faulty, How, Plan, Tamper, Then, What};
use crate::found::{found, found_at, scenario};
use crate::harness::{Server, over};

const RESET: How = How::Bytes(|_| (Vec::new(), Then::Reset));

#[test]
fn what_a_retry_mends_and_what_not() {
    use Class::{ClosedBeforeAnswer as Closed, Ok, Reset};
    let server = Server::start();
    let close: Tamper = |_| (Vec::new(), Then::Close);
    let reset: Tamper = |_| (Vec::new(), Then::Reset);
    let reset_in_answer: Tamper = |answer| (answer[..20].to_vec(), Then::Reset);
    let resting: &[usize] = &[3];
    // A second attempt is an answer as well, with the next number.
    type Row = (&'static str, &'static str, &'static [usize], Tamper, Class, Option<Class>);
    let rows: &[Row] = &[
        ("a retry mends it", "http1", resting, reset, Reset, Some(Ok)),
        ("a retry mends it, under TLS", "http1-tls", resting, close, Closed, Some(Ok)),
        ("a retry fails as well", "http1", &[3, 4], reset, Reset, Some(Reset)),
        ("a retry fails as well", "http1", &[3, 4], close, Closed, Some(Closed)),
        ("the connection was new", "http1", &[1], reset, Reset, None),
        ("every connection is new", "http1-new", resting, reset, Reset, None),
        ("the answer had begun", "http1", resting, reset_in_answer, Reset, None),
        ("to send it twice may do harm", "upload", resting, reset, Reset, None),
    ];
    for &(name, kind, numbers, tamper, class, second) in rows {
        let plan = Plan::one(What::Answer, numbers, How::Bytes(tamper), 10);
        let more = if kind == "upload" { "lasts = \"1ms\"\nbytes = [100, 200]" } else { "" };
        let found = found(name, &server, &scenario(kind, &format!("connections = 1\n{more}")), plan);
        assert_eq!(found.planted.len(), numbers.len(), "{name}: {found:#?}");
        // The second attempt is not counted.
        found.only(&[(Unit::Request, class, 1)]);
        assert_eq!(found.seconds(), [second], "{name}: {found:#?}");
        let mended = u64::from(second == Some(Ok));
        assert_eq!((found.row.mended_by_retry, found.with_retry), (mended, 1 - mended), "{name}: {found:#?}");
        let attempted = 1 + u64::from(kind != "http1-new");
        assert!(found.row.connections.attempted >= attempted, "{name}: {found:#?}");
        assert_eq!(found.failures[0].reused, numbers != [1] && kind != "http1-new", "{name}: {found:#?}");
    }
}

/// Four requests are inside when the process dies; a fifth fails later by a fault of its own.
#[test]
fn a_kill_excuses_what_was_inside_and_nothing_else() {
    let server = Server::start();
    let silence: Tamper = |_| (Vec::new(), Then::Hang);
    for killed in [true, false] {
        let inside = Fault { of: What::Answer, numbers: &[5, 6, 7, 8], how: How::Bytes(silence) };
        let later = Fault { of: What::Answer, numbers: &[30], how: RESET };
        let plan = Plan { faults: vec![inside, later], ..Plan::none((What::Answer, 40)) };
        let proxy = Faulty::start(&server, plan);
        let (book, mut count) = (proxy.book.clone(), proxy.book.count());
        let found =
            found_at("a kill", &proxy, &scenario("http1", "connections = 4"), |now, orders| async move {
                count.wait_for(|planted| *planted == 4).await.unwrap();
                let at = Instant::now();
                if killed {
                    // Somebody must die, so that what was inside is excused.
                    let mut victim = Command::new("sleep").arg("60").spawn().unwrap();
                    assert!(now.kill(Pid::from_raw(victim.id().cast_signed()), now.begun(), Some(at)));
                    victim.wait().unwrap();
                    now.bury();
                }
                book.die();
                over(orders).await;
                Vec::<Deed>::new()
            });
        found.all_planted(Unit::Request, Class::Reset, 5);
        let excused: Vec<_> = found.failures.iter().map(|failure| failure.excused).collect();
        assert_eq!(excused, [killed, killed, killed, killed, false], "{found:#?}");
        assert_eq!(found.row.excused, if killed { 4 } else { 0 }, "{found:#?}");
    }
}

#[test]
fn a_failure_has_the_phase_in_which_it_ended() {
    let server = Server::start();
    let silence: Tamper = |_| (Vec::new(), Then::Hang);
    for (upgrade, phase) in (0..).zip([Phase::Steady, Phase::Starting, Phase::Probation, Phase::Draining]) {
        let plan = Plan::one(What::Answer, &[5], How::Bytes(silence), 10);
        let proxy = Faulty::start(&server, plan);
        let (book, mut count) = (proxy.book.clone(), proxy.book.count());
        let found =
            found_at("a phase", &proxy, &scenario("http1", "connections = 1"), |now, orders| async move {
                count.wait_for(|planted| *planted == 1).await.unwrap();
                now.set(Moment { phase, upgrade, ready: upgrade });
                book.die();
                over(orders).await;
                Vec::<Deed>::new()
            });
        found.all_planted(Unit::Request, Class::Reset, 1);
        let failure = &found.failures[0];
        assert_eq!((failure.phase, failure.upgrade), (phase, upgrade), "{found:#?}");
        assert!(failure.reused && failure.kind == "http1", "{found:#?}");
    }
}
