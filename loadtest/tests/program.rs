//! The program as people run it: what it prints and writes, how it exits, and that it leaves nothing behind.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

#[path = "program/started.rs"]
mod started;

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use loadtest::compare::Comparison;
use loadtest::results::{DeedKind, Results};
use loadtest::scenario::{Kind, Scenario};
use loadtest::stage::exuvia::find;
use loadtest::witness::{Class, Phase};
use nix::sys::signal::Signal;
use started::{Started, upstream, wait_until_there};

/// Built once for all tests.
static EXUVIA: LazyLock<PathBuf> = LazyLock::new(|| find(None).unwrap());

/// Every kind, lightly, so that a debug build on a busy machine keeps up.
fn light(extra: &str) -> String {
    let mut text = format!("{extra}\n");
    for kind in Kind::ALL {
        text.push_str(&format!("[[traffic]]\nkind = \"{}\"\nconnections = 2\n", kind.name()));
        text.push_str(match kind {
            Kind::Idle => "pause = [\"200ms\", \"800ms\"]\n",
            Kind::Upload | Kind::Download | Kind::Streamed => "lasts = \"700ms\"\nbytes = [1000, 50000]\n",
            Kind::WebSocket | Kind::WebSocketTls | Kind::Grpc => "rate = 20\nmessages = 10\n",
            _ => "rate = 20\n",
        });
    }
    text
}

#[test]
fn a_run_of_everything_passes_and_is_written_down() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("mine.toml"), folder.path().join("out"));
    let disturb = "duration = \"20s\"\n[disturb]\nevery = \"1500ms\"\nupgrades = 6\nbad_every = 3\nkill_every = 4\nchange_every = 5";
    std::fs::write(&file, light(disturb)).unwrap();
    let exuvia = EXUVIA.display();
    let (file, folder) = (file.display(), out.display());
    let started = Started::line(&format!(
        "--scenario {file} --exuvia {exuvia} -o {folder} --format json --probation 300ms"
    ));
    let ended = started.end();
    let results: Results = serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("{ended:?}"));
    assert_eq!(
        results.verdict.reasons,
        Vec::<String>::new(),
        "{:#?} {:#?}",
        results.verdict,
        results.failures
    );
    assert_eq!((ended.code, results.verdict.passed, results.verdict.failures), (Some(0), true, 0));
    let done: Vec<DeedKind> = results.disturbers.iter().map(|deed| deed.deed).collect();
    let (upgrade, bad) = (DeedKind::Upgrade, DeedKind::BadUpgrade);
    assert_eq!(done[..3], [upgrade, upgrade, bad], "{done:?}");
    assert!(matches!(done[3], DeedKind::KillNew | DeedKind::KillOld), "{done:?}");
    assert_eq!(done[4..], [DeedKind::Change, bad], "{done:?}");
    assert!(results.disturbers.iter().all(|deed| !deed.phases.is_empty()), "{:#?}", results.disturbers);
    assert!(results.kinds.iter().all(|row| row.in_class(Class::Ok) > 0));
    let names: Vec<&str> = results.processes.iter().map(|usage| usage.name.as_str()).collect();
    assert_eq!(names, ["witness", "proxy", "upstream"]);
    assert!(results.processes.iter().all(|usage| usage.peak_memory_bytes > 0), "{:#?}", results.processes);
    // What is in the file is what was printed, and the page holds the same.
    assert_eq!(std::fs::read_to_string(out.join("results.json")).unwrap(), ended.out);
    assert!(std::fs::read_to_string(out.join("report.html")).unwrap().starts_with("<!doctype html>"));
    assert!(ended.err.contains("starting exuvia"), "{ended:?}");
}

#[test]
fn upgrades_are_asked_for_by_signal() {
    let exuvia = EXUVIA.display();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().display();
    let ended = Started::line(&format!(
        "--exuvia {exuvia} -o {out} --format json --shares http1,http2 --rate 40 --connections \
             8 -d 20s --upgrade-every 1s --upgrades 2 --probation 200ms \
         --upgrade-signal HUP"
    ))
    .end();
    let results: Results = serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("{ended:?}"));
    assert_eq!(ended.code, Some(0), "{:#?} {:#?}", results.verdict, results.disturbers);
    let done: Vec<DeedKind> = results.disturbers.iter().map(|deed| deed.deed).collect();
    assert_eq!(done, [DeedKind::Upgrade, DeedKind::Upgrade]);
    assert!(results.disturbers[1].detail.contains("its place was taken"), "{results:#?}");
}

#[test]
fn ctrl_c_ends_it_with_what_was_seen() {
    let exuvia = EXUVIA.display();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().display();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut started = Started::line(&format!(
            "--exuvia {exuvia} -o {out} --format json -d 1h --shares http1,download --connections \
             8 --rate 50"
        ));
        started.wait_for("0/3600 s");
        started.signal(signal);
        let ended = started.end();
        assert_eq!(ended.code, Some(130), "{ended:?}");
        let results: Results = serde_json::from_str(&ended.out).unwrap();
        assert!(results.verdict.interrupted && !results.verdict.passed);
        assert_eq!(results.verdict.reasons, ["it was ended before its time"]);
        assert!(results.seconds < 3000.0, "{}", results.seconds);
        assert!(folder.path().join("report.html").is_file());
    }
}

/// An upgrade that hangs kept a run that was interrupted from its end.
#[test]
fn ctrl_c_does_not_wait_for_a_command_that_hangs() {
    let (_upstream, address) = upstream();
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let command = format!("echo > {}; sleep 3600", mark.display());
    let started = Started::new(&[
        "--plain",
        &address,
        "-o",
        folder.path().to_str().unwrap(),
        "--format",
        "json",
        "-d",
        "1h",
        "--shares",
        "http1",
        "--connections",
        "2",
        "--rate",
        "20",
        "--upgrade-every",
        "100ms",
        "--upgrade-command",
        &command,
    ]);
    wait_until_there(&mark);
    started.signal(Signal::SIGINT);
    let ended = started.end();
    let results: Results = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((ended.code, results.disturbers.len()), (Some(130), 1), "{ended:?}");
    let deed = &results.disturbers[0];
    assert!(deed.as_expected && deed.detail.contains("cut off in the middle"), "{deed:?}");
}

#[test]
fn ctrl_c_before_there_is_load_ends_it_as_well() {
    // Whoever connects to it gets no answer, so that the load does not begin.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().display();
    let mut started = Started::line(&format!("--plain {address} -o {out} --shares http1 --upgrade-every 0s"));
    started.wait_for("asking the proxy");
    started.signal(Signal::SIGINT);
    let ended = started.end();
    assert_eq!(ended.code, Some(130), "{ended:?}");
    assert!(ended.err.contains("interrupted before there was any load"), "{ended:?}");
    assert!(!folder.path().join("results.json").exists(), "there is nothing to tell");
}

#[test]
fn a_proxy_that_runs_already_is_tried_and_upgraded_by_a_command() {
    let (_upstream, address) = upstream();
    let folder = tempfile::tempdir().unwrap();
    let (out, mark) = (folder.path().join("out"), folder.path().join("mark"));
    let common =
        ["--plain", &address, "-o", out.to_str().unwrap(), "-d", "3s", "--shares", "http1,websocket"];
    let with = |more: &[&str]| {
        let options = [&common[..], &["--rate", "40", "--connections", "4"], more].concat();
        Started::new(&options).end()
    };
    let command = format!("echo upgraded >> {}", mark.display());
    let ended = with(&["--upgrade-every", "300ms", "--upgrades", "3", "--upgrade-command", &command]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.contains("passed: ") && ended.out.contains("over 3 upgrades"), "{ended:?}");
    assert_eq!(std::fs::read_to_string(&mark).unwrap(), "upgraded\n".repeat(3));

    let no = "echo 'no way' >&2; exit 3";
    let ended = with(&["--upgrade-every", "1s", "--upgrades", "1", "--upgrade-command", no]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.out.contains("1 of 1 upgrade did not go as expected"), "{ended:?}");
    assert!(ended.out.contains("no way"), "{ended:?}");

    let ended = with(&["--upgrade-every", "0s"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.contains("without any upgrade"), "{ended:?}");
}

/// As nginx's master does at HUP: the id stays, and nothing tells. The phase went on as draining to the end of the run,
/// and the upgrade counted as done.
#[test]
fn a_signal_that_nobody_answers_is_remarked_and_drains_no_longer_than_is_said() {
    let (_upstream, address) = upstream();
    let folder = tempfile::tempdir().unwrap();
    let (ready, file) = (folder.path().join("ready"), folder.path().join("pid"));
    let script = format!("trap : HUP; echo > {}; while :; do sleep 0.05; done", ready.display());
    let mut hears = Command::new("sh").args(["-c", &script]).spawn().unwrap();
    std::fs::write(&file, hears.id().to_string()).unwrap();
    wait_until_there(&ready);
    let scenario = format!(
        "duration = \"5s\"\n[disturb]\nfirst = \"500ms\"\nevery = \"1s\"\nupgrades = 1\nsettle = \"300ms\"\n\
         signal = \"HUP\"\npid_file = {:?}\n[[traffic]]\nkind = \"http1\"\nrate = 20\n",
        file.display().to_string()
    );
    let mine = folder.path().join("mine.toml");
    std::fs::write(&mine, scenario).unwrap();
    let (out, mine) = (folder.path().display(), mine.display());
    let ended = Started::line(&format!("--plain {address} -o {out} --format json -s {mine}")).end();
    hears.kill().unwrap();
    hears.wait().unwrap();
    let results: Results = serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("{ended:?}"));
    assert_eq!(ended.code, Some(0), "{:#?}", results.verdict);
    assert!(results.verdict.remarks[0].starts_with("of 1 out of 1 upgrade nothing told"), "{results:#?}");
    let drain = results.disturbers[0].phases.iter().find(|band| band.phase == Phase::Draining).unwrap();
    assert!(drain.to < results.seconds - 1.0, "{:#?}", results.disturbers);
}

#[test]
fn a_proxy_that_dies_under_load_has_not_passed() {
    let (server, address) = upstream();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().display();
    let mut started = Started::line(&format!(
        "--plain {address} -o {out} -d 3s --shares http1,http1-new --rate 100 --upgrade-every \
             0s --format json"
    ));
    started.wait_for("0/3 s");
    server.signal(Signal::SIGKILL);
    let ended = started.end();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let results: Results = serde_json::from_str(&ended.out).unwrap();
    assert!(results.verdict.failures > 100 && results.total.in_class(Class::Refused) > 100);
    assert_eq!(results.verdict.failures, results.total.failures(), "nothing is excused");
}

#[test]
fn what_is_wrong_is_said_with_the_way_out() {
    let (_upstream, address) = upstream();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = silent.local_addr().unwrap().to_string();
    drop(silent);
    let file = tempfile::NamedTempFile::new().unwrap();
    let file = file.path().to_str().unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["--plain", &address], "nothing says how this proxy is upgraded"),
        (&["--plain", &address, "--kill-every", "2"], "only for the exuvia that is started here"),
        (&["--plain", &address, "--upgrade-every", "0s"], "no address with TLS is known; give --tls ADDRESS"),
        (&["--plain", &nobody, "--upgrade-every", "0s", "--shares", "http1"], "Connection refused"),
        (&["--plain", "nowhere"], "--plain <ADDRESS>"),
        (&["--upgrade-command", "true"], "is the one that is upgraded"),
        (&["--control", "/nonexistent"], "is the one that is upgraded"),
        (&["--upgrade-signal", "HUP", "--kill-every", "2"], "only the control socket tells"),
        (&["--name", "localhost"], "--plain <ADDRESS>"),
        (&["--rate", "nan", "--shares", "http1"], "--rate <N>"),
        (&["-d", "1s"], "disturb.first = "),
        (&["--upgrade-every", "0s", "-o", "/dev/null/x"], "cannot make the folder /dev/null/x"),
        (&["--tls", &address, "--upgrade-every", "0s", "--ca", file], "there is no certificate in it"),
        (&["--exuvia", "/nonexistent"], "there is no program exuvia at /nonexistent"),
        (&["--shares", "http7"], "one of http1, http1-new"),
        (&["--scenario", "/nonexistent"], "cannot read /nonexistent"),
        (&["--duration", "never"], "a duration with its unit"),
        (&["upstream", "--plain", &address], "cannot listen on"),
        (&["upstream", "--tls", "127.0.0.1:0"], "--chain"),
        (&["compare", "--peers", "apache"], "one of nginx, nginx-reload"),
        (&["compare", "--kill-every", "2"], "not the same thing for other proxies"),
        (&["--no-such-option"], "--no-such-option"),
    ];
    for (options, said) in cases {
        let ended = Started::new(options).end();
        assert_eq!(ended.code, Some(2), "{options:?}: {ended:?}");
        assert!(ended.err.contains(said), "{options:?}: {ended:?}");
        assert_eq!(ended.out, "", "{options:?}");
    }
}

#[test]
fn another_server_than_the_upstream_is_found_out_before_the_load() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        use std::io::Read;
        let (mut stream, _) = listener.accept().unwrap();
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").unwrap();
    });
    let ended = Started::new(&["--plain", &address, "--upgrade-every", "0s", "--shares", "http1"]).end();
    server.join().unwrap();
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.err.contains("does not lead to the upstream of exuvia-loadtest"), "{ended:?}");
    assert!(ended.err.contains("exuvia-loadtest upstream"), "{ended:?}");
}

#[test]
fn the_scenario_that_is_printed_can_be_run() {
    let ended =
        Started::new(&["scenario", "--shares", "http1=3,grpc", "--duration", "1m", "--kill-every", "2"])
            .end();
    assert_eq!(ended.code, Some(0));
    let scenario = Scenario::parse(&ended.out).unwrap();
    assert_eq!((scenario.traffic.len(), scenario.disturb.kill_every), (2, 2));
    let ended = Started::new(&["--help"]).end();
    assert!(ended.out.contains("Examples:") && ended.out.contains("Exit status:"), "{ended:?}");
}

#[test]
fn peers_are_put_under_the_same_load_in_turn() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().display();
    let exuvia = EXUVIA.display();
    let ended = Started::line(&format!(
        "compare --exuvia {exuvia} -o {out} --rounds 1 -d 4s --upgrade-every 1500ms \
             --drain-timeout 1s --shares http1,http1-new,http2 --rate 60 --connections 8"
    ))
    .end();
    let text = std::fs::read_to_string(folder.path().join("compare.json")).unwrap();
    let comparison: Comparison = serde_json::from_str(&text).unwrap();
    let names: Vec<&str> = comparison.proxies.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["exuvia", "nginx-reload", "nginx-binary", "haproxy"]);
    for one in &comparison.proxies {
        assert!(ended.out.contains(&format!("{}: ", one.name)), "{ended:?}");
        if let Some(why) = &one.missing {
            assert!(why.contains("is not installed"), "{why}");
            assert!(ended.out.contains(&format!("{}: MISSING: ", one.name)), "{ended:?}");
            assert!(!matches!(std::env::var("CI").as_deref(), Ok("true" | "1")), "{why}");
            // Past the capture of the test harness: who runs the tests shall know what was not tested.
            let line = format!("SKIPPED: {} in a comparison: {why}\n", one.name);
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            continue;
        }
        let round = &one.rounds[0];
        assert!(round.exchanges > 200 && round.upgrades == 2, "{one:#?}");
        assert!(round.peak_memory_bytes > 1 << 20, "{one:#?}");
        assert!(one.version.starts_with(one.name.split('-').next().unwrap()), "{one:#?}");
        assert!(folder.path().join(format!("{}-1/report.html", one.name)).is_file());
    }
    // What the others do to the traffic is theirs; the exit status is about ours.
    let ours = &comparison.proxies[0].rounds[0];
    assert_eq!((ours.failures, ended.code), (0, Some(0)), "{ended:?}");
}
