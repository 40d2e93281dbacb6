//! The command line as a person or a deployment uses it: what it prints, and how it exits.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use super::harness::{Alone, Answer, Asking, EXUVIA, Exuvia, children, eventually, exuvia, signal};
use super::traffic::{Client, get};

fn answer(command: &mut Command) -> Answer {
    Asking::begin(command).answer()
}

fn files(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_second_instance_is_refused_with_the_pid_of_the_first() {
    let first = Exuvia::start("");
    let config = first.folder().join("exuvia.toml");
    for arguments in [&["run", "--supervise=never"][..], &["run", "--supervise=always"], &[]] {
        let second = answer(exuvia(arguments).arg("--config").arg(&config));
        assert_eq!(second.code, 1, "{second:?}");
        let socket = first.control().display().to_string();
        second.failed_with(&[
            "already running",
            &format!("pid {}, generation 1", first.pid()),
            &socket,
            "`exuvia upgrade`",
        ]);
    }
    assert_eq!(get(first.address(), "/").unwrap().generation(), 1);
    assert_eq!(first.stop(), 0);
}

#[test]
fn an_address_that_is_taken_is_named_with_its_key_and_a_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let run = |key: &str, other: Option<(&str, &str)>| {
        let mut command = exuvia(&["run", "--supervise=never"]);
        command.env("EXUVIA__CONTROL__SOCKET", folder.path().join("control.sock")).env(key, &address);
        answer(command.envs(other))
    };
    let web = run("EXUVIA__LISTENERS__WEB__ADDRESS", None);
    assert_eq!(web.code, 1);
    web.failed_with(&[&address, "in use", "listeners.web.address", "ss -ltnp"]);
    let admin = run("EXUVIA__ADMIN__ADDRESS", Some(("EXUVIA__LISTENERS__WEB__ADDRESS", "127.0.0.1:0")));
    assert_eq!(admin.code, 1);
    admin.failed_with(&[&address, "in use", "admin.address"]);
    assert_eq!(files(folder.path()), [""; 0], "the control socket of a start that failed is taken away");
}

#[test]
fn check_tells_every_mistake_at_once_and_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let bad = "workrs = 2\npid = 1\n[listeners.web]\naddress = \"localhost\"\n[restart]\nprobation = 5\n";
    fs::write(folder.path().join("bad.toml"), bad).unwrap();
    let good = "[listeners.web]\naddress = \"unix:$/web.sock\"\n[restart]\npid_file = \"$/pid\"\n\
        [control]\nsocket = \"$/run/control.sock\"\n";
    let good = good.replace('$', &folder.path().display().to_string());
    fs::write(folder.path().join("good.toml"), good).unwrap();
    let before = files(folder.path());

    let check = |file: &str| answer(exuvia(&["check", "-c", file]).current_dir(folder.path()));
    let found = check("bad.toml");
    assert_eq!((found.code, found.out.as_str()), (1, ""));
    let mistakes =
        ["workrs = 2", "pid = 1", "listeners.web.address = \"localhost\"", "restart.probation = 5"];
    for mistake in mistakes {
        let line =
            found.err.lines().find(|line| line.trim_start().starts_with(&format!("bad.toml: {mistake}: ")));
        assert!(line.is_some(), "{mistake:?} has no line of its own in {}", found.err);
    }
    assert_eq!(found.err.lines().count(), 1 + mistakes.len(), "{}", found.err);
    let missing = check("missing.toml");
    assert_eq!(missing.code, 1);
    missing.failed_with(&["missing.toml", "No such file"]);
    let found = check("good.toml");
    assert_eq!((found.code, found.out.as_str(), found.err.as_str()), (0, "good.toml: good\n", ""));
    assert_eq!(files(folder.path()), before);
}

#[test]
fn what_check_prints_is_a_configuration_that_means_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("exuvia.toml");
    fs::write(&file, "[restart]\nprobation = \"7s\"\n[log]\nlevel = \"warn\"\n").unwrap();
    // The environment is over the file.
    let first = answer(
        exuvia(&["check", "--print", "-c"])
            .arg(&file)
            .env("EXUVIA__RESTART__PROBATION", "250ms")
            .env("EXUVIA__UPSTREAM__SERVERS", "127.0.0.1:9001,unix:/run/app.sock"),
    );
    assert_eq!(first.code, 0, "{first:?}");
    for setting in [
        "probation = \"250ms\"",
        "level = \"warn\"",
        "servers = [\"127.0.0.1:9001\", \"unix:/run/app.sock\"]",
    ] {
        assert!(first.out.contains(setting), "{setting} is not in {}", first.out);
    }
    let printed = folder.path().join("printed.toml");
    fs::write(&printed, &first.out).unwrap();
    // Named by a variable this time.
    let second = answer(exuvia(&["check", "--print"]).env("EXUVIA_CONFIG", &printed));
    assert_eq!((second.code, second.out), (0, first.out));

    let full = exuvia(&["check", "--print"]).stdout(fs::File::create("/dev/full").unwrap()).output().unwrap();
    assert_eq!(full.status.code(), Some(1), "half a configuration file is no success");
    let slip = answer(exuvia(&["check"]).env("EXUVIA__RESTRT__PROBATION", "1s"));
    assert_eq!(slip.code, 1);
    slip.failed_with(&["EXUVIA__RESTRT__PROBATION", "did you mean EXUVIA__RESTART__PROBATION?"]);
}

#[test]
fn every_outcome_has_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("control.sock");
    for command in ["upgrade", "rollback", "status", "stop"] {
        let nobody = answer(exuvia(&[command, "--control"]).arg(&nowhere));
        assert_eq!(nobody.code, 4, "{nobody:?}");
        nobody.failed_with(&["no control socket", &nowhere.display().to_string(), "--control SOCKET"]);
        assert_eq!(answer(&mut exuvia(&[command, "--no-such-option"])).code, 2);
    }
    for command in ["run", "check", "upgrade", "rollback", "status", "stop", "completions"] {
        let help = answer(&mut exuvia(&[command, "--help"]));
        assert_eq!((help.code, help.err.as_str()), (0, ""), "{command}");
        assert!(help.out.contains("Usage: exuvia "), "{help:?}");
    }
    assert_eq!(answer(&mut exuvia(&["start"])).code, 2);
    assert_eq!(answer(&mut exuvia(&["upgrade", "--until", "never"])).code, 2);

    let exuvia = Exuvia::start("[restart]\nexecutable = \"next\"\n");
    exuvia.script("next", "echo no good >&2; exit 1");
    let failed = exuvia.ask(&["upgrade"]);
    assert_eq!(failed.code, 1, "{failed:?}");
    failed.failed_with(&["no good", "the old process serves on"]);
    let refused = exuvia.ask(&["rollback"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    assert_eq!(exuvia.ask(&["status"]).code, 0);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn without_a_command_it_runs_and_says_what_to_try() {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("run/control.sock");
    let mut command = exuvia(&[]);
    command
        .current_dir(folder.path())
        .env("EXUVIA__LISTENERS__WEB__ADDRESS", "127.0.0.1:0")
        .env("EXUVIA__CONTROL__SOCKET", &control)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut alone = Alone(command.spawn().unwrap());
    let mut lines = BufReader::new(alone.0.stdout.take().unwrap()).lines();
    let mut banner = String::new();
    while !banner.contains("exuvia stop") {
        let line = lines.next().unwrap_or_else(|| panic!("the banner breaks off: {banner}"));
        banner.push_str(&line.unwrap());
        banner.push('\n');
    }
    assert!(banner.starts_with(&format!("exuvia {}, pid {}\n", env!("CARGO_PKG_VERSION"), alone.0.id())));
    for word in ["no upstream is configured", "exuvia upgrade", "exuvia status"] {
        assert!(banner.contains(word), "{word:?} is not in {banner}");
    }
    // It is not on the PATH.
    assert!(banner.contains(&format!("\n  {EXUVIA} upgrade ")), "{banner}");
    // What it says to try works word for word.
    let address = banner.split("curl http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    let address: SocketAddr = address.parse().unwrap();
    assert_ne!(address.port(), 0);
    assert_eq!(get(address, "/").unwrap().generation(), 1);
    let page = banner.split("status page: http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    assert_eq!(get(page.parse().unwrap(), "/livez").unwrap().status, 200);
    let stopped = answer(exuvia(&["stop", "--control"]).arg(&control));
    assert_eq!(stopped.code, 0, "{stopped:?}");
    assert_eq!(alone.wait(), 0);
    assert_eq!(files(&folder.path().join("run")), [""; 0]);
}

#[test]
fn the_status_shows_who_serves_who_drains_and_where() {
    let settings = "[restart]\nprobation = \"0s\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
        [listeners.web]\naddress = \"127.0.0.1:0\"\n[listeners.a-rather-long-name.of-a-listener]\n"
        .replace("a-rather-long-name.of-a-listener", "\"a-rather-long-name.of-a-listener\"");
    let exuvia = Exuvia::start(&format!("{settings}address = \"127.0.0.1:0\"\n"));
    let (old, mut client) = (exuvia.pid(), Client::connect(exuvia.address()).unwrap());
    client.ask("/slow?ms=60000").unwrap();
    eventually("the request is in flight", || {
        exuvia.ask(&["status"]).out.contains("http1 1 open, 1 active").then_some(())
    });
    let first = exuvia.ask(&["status"]).out;
    assert!(!first.contains("last upgrade"), "{first}");
    exuvia.upgrade();

    let (new, report) = (exuvia.pid(), exuvia.status());
    let page = exuvia.ask(&["status"]);
    assert_eq!((page.code, page.err.as_str()), (0, ""));
    let page = page.out;
    let row = |begins: &[&str]| {
        let mut lines = page.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        assert!(lines.any(|words| words.starts_with(begins)), "no line {begins:?} in\n{page}");
    };
    let version = env!("CARGO_PKG_VERSION");
    assert!(page.starts_with(&format!("exuvia {version}: generation 2 serves (pid {new})\n")), "{page}");
    row(&["executable"]);
    row(&["configuration", &exuvia.folder().join("exuvia.toml").display().to_string()]);
    row(&["control", &exuvia.control().display().to_string()]);
    row(&["admin", &format!("http://{}", report["admin"].as_str().unwrap())]);
    // The new process knows how it came to be.
    row(&["last", "upgrade", "committed;", "generation", "1"]);
    row(&["1", &old.to_string(), version, "draining"]);
    row(&["2", &new.to_string(), version, "serving"]);
    row(&["web", &exuvia.address().to_string()]);
    row(&["a-rather-long-name.of-a-listener", &exuvia.listener("a-rather-long-name.of-a-listener")]);
    assert_eq!(exuvia.ask(&["stop", "--now"]).code, 0);
}

#[test]
fn an_interrupted_upgrade_goes_on() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"60s\"\n");
    let mut command = exuvia.command(&["upgrade"]);
    let mut asking = Alone(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    exuvia.wait_phase("probation");
    signal(asking.0.id() as i32, Signal::SIGINT);
    let mut words = String::new();
    asking.0.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    assert!(words.contains("the upgrade goes on") && words.contains("`exuvia rollback`"), "{words}");
    assert_eq!(asking.wait(), 130);
    assert_eq!(exuvia.phase(), "probation");
    assert_eq!(exuvia.ask(&["rollback"]).code, 0);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn nobody_needs_to_read_what_it_prints() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"0s\"\n");
    let control = exuvia.control().display().to_string();
    for command in ["status", "upgrade", "status --json", "upgrade --json"] {
        let script = format!("exec '{EXUVIA}' {command} --control '{control}' >&- 2>&-");
        let status = Command::new("sh").args(["-c", &script]).status().unwrap();
        assert_eq!(status.code(), Some(0), "{command}");
    }
    // The reader goes before it is told anything.
    let mut gone = exuvia.command(&["upgrade"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(gone.stdout.take());
    assert_eq!(Alone(gone).wait(), 0);
    assert_eq!(exuvia.generation(), 4);
    assert_eq!(exuvia.stop(), 0);
}

/// A hangup reaches the supervisor, as it does from whoever knows its pid alone.
#[test]
fn a_hangup_of_the_supervisor_is_an_upgrade() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"0s\"\n");
    signal(exuvia.supervisor_pid(), Signal::SIGHUP);
    eventually("generation 2 serves", || (exuvia.try_status()?["generation"] == 2).then_some(()));
    eventually("one process is left", || (children(exuvia.supervisor_pid()).len() == 1).then_some(()));
    assert_eq!(exuvia.stop(), 0);
}
