//! Nobody reads standard error, or not fast enough: everything goes on all the same, and what is lost is counted.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write, pipe};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::channel;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;

use super::harness::{Exuvia, PATIENCE, Starter, eventually, is_alive, signal, stat};
use super::traffic::{Client, get};
use super::upstream::settings;

/// An address where nobody listens: its port is taken for as long as the connection is there that has it.
fn nobody() -> (SocketAddr, (TcpListener, TcpStream)) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let holder = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (holder.local_addr().unwrap(), (listener, holder))
}

/// A pipe that is full already, and will be until somebody reads it.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    let flags = |flags| fcntl(&writer, FcntlArg::F_SETFL(flags)).unwrap();
    flags(OFlag::O_NONBLOCK);
    while (&writer).write(b"before\n").is_ok() {}
    while (&writer).write(b"\n").is_ok() {}
    flags(OFlag::empty());
    writer.flush().unwrap();
    (reader, writer)
}

/// Requests on kept connections; each must be answered with this status.
#[track_caller]
fn ask(address: SocketAddr, requests: usize, status: u16) {
    let mut clients: Vec<Client> = (0..8).map(|_| Client::connect(address).unwrap()).collect();
    for n in 0..requests {
        let client = &mut clients[n % 8];
        assert_eq!(client.get("/").unwrap().status, status, "request {n}");
    }
}

/// Requests that are refused, each of which leaves a line at DEBUG, where nothing is thinned.
#[track_caller]
fn ask_in_vain(address: SocketAddr, requests: usize) {
    let mut client = Client::connect(address).unwrap();
    for n in 0..requests {
        client.send(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(client.response().unwrap().status, 400, "request {n}");
    }
}

/// One value on the page of metrics.
fn metric(exuvia: &Exuvia, name: &str) -> u64 {
    let admin = exuvia.status()["admin"].as_str().unwrap().parse().unwrap();
    let page = String::from_utf8(get(admin, "/metrics").unwrap().body).unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
}

fn number_behind(line: &str, word: &str) -> u64 {
    let digits = line.split(word).nth(1).unwrap_or_else(|| panic!("no {word} in {line}"));
    digits.split(|letter: char| !letter.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// Standard error was a pipe that nobody read, and the upstream was down, so that each request logged a warning: after
/// 351 requests the worker hung in a write, and new connections with it, while `status` said that all is well. Now the
/// pipe is full before the start, standard output too, and more is logged than there is room for.
#[test]
fn a_standard_error_that_nobody_reads_stops_nothing() {
    let (down, _held) = nobody();
    let ((stderr, errors), (_stdout, output)) = (full_pipe(), full_pipe());
    let more = "workers = 2\n[log]\nlevel = \"debug\"\n[admin]\naddress = \"127.0.0.1:0\"\n[restart]\nprobation = \"0s\"\n";
    let exuvia = Starter::new(&format!("{more}{}", settings(&[down]))).output(output, errors).start();
    let address = exuvia.address();
    let mut dropped = 0;
    for generation in 1..=2 {
        let before = dropped;
        while dropped == before {
            ask_in_vain(address, 1000);
            dropped = metric(&exuvia, "exuvia_log_lines_dropped_total");
        }
        ask(address, 1000, 502);
        if generation == 1 {
            exuvia.upgrade();
            assert_eq!(exuvia.generation(), 2);
        }
    }

    // Somebody begins to read.
    let (lines_in, lines) = channel();
    let reading = std::thread::spawn(move || {
        BufReader::new(stderr).lines().for_each(|line| lines_in.send(line.unwrap()).unwrap());
    });
    let next = || lines.recv_timeout(PATIENCE).expect("it goes on to write");
    let told = loop {
        let line = next();
        if line.contains("log lines were dropped") {
            break line;
        }
    };
    let told = number_behind(&told, "dropped=");
    assert!(told > 0);
    assert_eq!(exuvia.stop(), 0);
    while !next().contains("ended generation=2") {}
    reading.join().unwrap();
}

/// An end that waited for a reader of its last lines would never come.
#[test]
fn a_standard_error_that_nobody_reads_keeps_no_process_alive() {
    let (mut stderr, errors) = full_pipe();
    let exuvia =
        Starter::new("[restart]\nprobation = \"0s\"\n").output(errors.try_clone().unwrap(), errors).start();
    let old = exuvia.pid();
    exuvia.upgrade();
    eventually("the old process is gone", || (!is_alive(old)).then_some(()));
    assert_eq!(exuvia.stop(), 0);
    let mut text = String::new();
    stderr.read_to_string(&mut text).unwrap();
    assert!(text.lines().all(|line| line.is_empty() || line == "before"), "{text}");
}

/// The same for one that cannot even start, whose last words nobody reads.
#[test]
fn a_start_that_fails_ends_though_nobody_reads_why() {
    let (_stderr, errors) = full_pipe();
    let mut exuvia =
        Starter::new("[log]\nlevel = \"loud\"\n").output(errors.try_clone().unwrap(), errors).launch();
    assert_eq!(exuvia.wait(), 1);
}

/// The supervisor said that the main process is dead, hung in that, and passed on no signal any more.
#[test]
fn a_supervisor_that_nobody_reads_still_passes_signals_on() {
    let (_stderr, errors) = full_pipe();
    let mut exuvia =
        Starter::new("[restart]\nprobation = \"600s\"\n").output(errors.try_clone().unwrap(), errors).start();
    let old = exuvia.pid();
    assert_eq!(exuvia.ask(&["upgrade", "--until", "ready"]).code, 0);
    signal(old, Signal::SIGKILL);
    eventually("the new one serves", || (exuvia.try_status()?["generation"] == 2).then_some(()));
    signal(exuvia.supervisor_pid(), Signal::SIGTERM);
    assert_eq!(exuvia.wait(), 0);
}

/// A new process writes into a pipe to its parent until it is on its own. It hung when that was full because its parent
/// had been stopped; and when such a parent dies, what is in the pipe must not be lost.
#[test]
fn a_new_process_does_not_depend_on_a_parent_that_reads_what_it_writes() {
    let more = "workers = 1\n[log]\nlevel = \"debug\"\n[restart]\nprobation = \"600s\"\n";
    let exuvia = Exuvia::start(more);
    let (address, old) = (exuvia.address(), exuvia.pid());
    assert_eq!(exuvia.ask(&["upgrade", "--until", "ready"]).code, 0);
    signal(old, Signal::SIGSTOP);
    eventually("the old process is stopped", || (stat(old)?.1 == 'T').then_some(()));
    let before = exuvia.log().len();
    // Far more than a pipe holds.
    ask_in_vain(address, 2000);
    assert_eq!(exuvia.log().len(), before, "nobody passes on what the new process writes");
    signal(old, Signal::SIGKILL);
    eventually("the new one serves", || (exuvia.try_status()?["generation"] == 2).then_some(()));
    exuvia.says("generation=2 from=\"candidate\" to=\"serving\"");
    let log = exuvia.log();
    let times: Vec<&str> =
        log[before..].lines().filter(|line| line.contains("exuvia::proxy")).map(|line| &line[..27]).collect();
    assert_eq!(times.len(), 2000);
    assert!(times.is_sorted(), "out of order");
    assert_eq!(exuvia.stop(), 0);
}

/// A dead server wrote thousands of lines a second that all said the same.
#[test]
fn lines_of_the_same_kind_are_thinned_and_none_is_lost_from_the_count() {
    let ((one, _held), (other, _held_too)) = (nobody(), nobody());
    let more = "workers = 2\n[admin]\naddress = \"127.0.0.1:0\"\n";
    let exuvia = Exuvia::start(&format!("{more}{}", settings(&[one, other])));
    let begun = std::time::Instant::now();
    ask(exuvia.address(), 3000, 502);
    let suppressed = metric(&exuvia, "exuvia_log_lines_suppressed_total");
    let folder = exuvia.folder().join("log");
    let kept = std::fs::File::open(folder).unwrap();
    assert_eq!(exuvia.stop(), 0);
    let mut log = String::new();
    (&kept).read_to_string(&mut log).unwrap();

    let written: Vec<&str> = log.lines().filter(|line| line.contains("exuvia::proxy::error")).collect();
    let seconds = begun.elapsed().as_secs() as usize + 1;
    // Of each of two servers, and what else may be the matter with one.
    assert!(written.len() <= 4 * seconds, "{} in {seconds} seconds: {log}", written.len());
    let said = |words: &str| -> u64 {
        let lines = log.lines().filter(|line| line.contains(words) && line.contains("suppressed="));
        lines.map(|line| number_behind(line, "suppressed=")).sum()
    };
    assert_eq!(said(""), suppressed, "{log}");
    assert_eq!(written.len() as u64 + said("label=\"upstream_"), 3000, "{log}");
}

/// An upgrade left fourteen lines, many of them about zeros.
#[test]
fn an_upgrade_leaves_two_lines_that_say_it_all() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"200ms\"\n");
    exuvia.says("ready generation=1");
    let (old, before) = (exuvia.pid(), exuvia.log().len());
    exuvia.upgrade();
    let new = exuvia.pid();
    eventually("the old process is gone", || (!is_alive(old)).then_some(()));
    let log = exuvia.log();
    let lines: Vec<&str> = log[before..].lines().collect();
    let [committed, ended] = *lines else { panic!("{} lines: {log}", lines.len()) };
    let words =
        ["INFO", "the upgrade is committed", "generation=2", &format!("pid={new}"), "version=\"", "from=1"];
    for word in words {
        assert!(committed.contains(word), "no {word} in {committed}");
    }
    let [ready, probation, took] =
        ["ready_ms=", "probation_ms=", "took_ms="].map(|word| number_behind(committed, word));
    assert!(probation >= 200 && took >= ready + 200, "{committed}");
    assert!(ended.contains("INFO") && ended.contains("ended generation=1"), "{ended}");
    assert_eq!(exuvia.stop(), 0);
}

/// The same for one that fails, with why.
#[test]
fn an_upgrade_that_fails_leaves_one_line_at_its_level() {
    let exuvia = Exuvia::start("");
    exuvia.says("ready generation=1");
    let before = exuvia.log().len();
    exuvia.set("[log]\nlevel = \"loud\"\n");
    assert_eq!(exuvia.ask(&["upgrade"]).code, 1);
    exuvia.says("the upgrade failed");
    let log = exuvia.log();
    let ours: Vec<&str> = log[before..].lines().filter(|line| line.starts_with("20")).collect();
    let [failed] = *ours else { panic!("{} lines: {log}", ours.len()) };
    for word in ["ERROR", "generation=2", "from=1", "pid=", "step=configuration", "loud"] {
        assert!(failed.contains(word), "no {word} in {failed}");
    }
    assert_eq!(exuvia.stop(), 0);
}

/// The journal took every line for an INFO, and had two times in each.
#[test]
fn lines_for_the_journal_have_their_priority_and_no_time() {
    let (down, _held) = nobody();
    let (mut stderr, errors) = pipe().unwrap();
    let stream = nix::sys::stat::fstat(&errors).unwrap();
    let more = "[restart]\nprobation = \"0s\"\n";
    let exuvia = Starter::new(&format!("{more}{}", settings(&[down])))
        .env("JOURNAL_STREAM", format!("{}:{}", stream.st_dev, stream.st_ino))
        .output(std::process::Stdio::null(), errors)
        .start();
    ask(exuvia.address(), 8, 502);
    // The new one writes through a pipe to the old one at first, which is no journal.
    exuvia.upgrade();
    ask(exuvia.address(), 8, 502);
    exuvia.set("[log]\nlevel = \"loud\"\nformat = \"strange\"\n");
    assert_eq!(exuvia.ask(&["upgrade"]).code, 1);
    assert_eq!(exuvia.stop(), 0);
    let mut text = String::new();
    stderr.read_to_string(&mut text).unwrap();
    let has = |priority: &str, words: &str| {
        let found = text.lines().any(|line| line.starts_with(priority) && line.contains(words));
        assert!(found, "no line {priority} with {words}: {text}");
    };
    has("<6> INFO ", "ready generation=1");
    has("<4> WARN ", &down.to_string());
    has("<6> INFO ", "the upgrade is committed");
    has("<3>ERROR ", "the upgrade failed");
    // What the process that failed had to say, in several lines.
    has("<3>exuvia: configuration:", "");
    has("<3>", "log.format");
    for line in text.lines() {
        let rest = line.strip_prefix('<').unwrap_or_else(|| panic!("no priority: {line}\n{text}"));
        assert!(rest[1..].starts_with('>') && !rest[2..].trim_start().starts_with("20"), "{line}");
    }
}

/// `JOURNAL_STREAM` is inherited by whoever a service starts, and says nothing of a file to which that writes.
#[test]
fn lines_for_a_file_have_no_priority() {
    let stderr = nix::sys::stat::fstat(std::io::stderr()).unwrap();
    let stream = format!("{}:{}", stderr.st_dev, stderr.st_ino.wrapping_add(1));
    let exuvia = Starter::new("").env("JOURNAL_STREAM", stream).start();
    let ready = exuvia.says("ready generation=1");
    assert!(ready.starts_with("20"), "{ready}");
    assert_eq!(exuvia.stop(), 0);
}
