//! `exuvia status --watch`, as a script and a person use it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::harness::{Alone, Answer, Exuvia, eventually, signal};

const FAST: &str = "[restart]\nprobation = \"0s\"\n";

#[test]
fn a_script_reads_a_document_a_line_over_an_upgrade() {
    let exuvia = Exuvia::start(FAST);
    let mut watching =
        Alone(exuvia.command(&["status", "--watch", "--json"]).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(watching.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut until = |generation: u64| -> Value {
        let documents = lines.by_ref().map(|line| serde_json::from_str::<Value>(&line).unwrap());
        documents.into_iter().find(|one| one["generation"] == generation).unwrap()
    };
    assert_eq!(until(1)["phase"], "serving");
    exuvia.upgrade();
    let second = until(2);
    assert_eq!(second["upgrades"][0]["result"], "committed", "{second}");
    signal(watching.0.id() as i32, Signal::SIGINT);
    assert_eq!(watching.wait(), 130);

    // Who has read enough is no reason to go on, nor one to complain.
    let mut watching = exuvia.command(&["status", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(watching.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("generation 2 serving"), "{line}");
    assert_eq!(eventually("it has ended", || watching.try_wait().unwrap()).code(), Some(0));
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_terminal_is_given_back_as_it_was() {
    let exuvia = Exuvia::start(FAST);
    // Not openpty(3): a process that another test starts meanwhile would get its ends, too.
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let (mut options, path) = (File::options(), ptsname_r(&master).unwrap());
    let slave = options.read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(path).unwrap();
    let master = OwnedFd::from(master);
    let watching = Alone(
        exuvia
            .command(&["status", "--watch"])
            .env("TERM", "xterm")
            .stdout(slave.try_clone().unwrap())
            .stderr(slave)
            .spawn()
            .unwrap(),
    );
    let shown: Arc<Mutex<String>> = Arc::default();
    let reading = std::thread::spawn({
        let (mut master, shown) = (File::from(master), shown.clone());
        move || {
            let mut block = [0; 4096];
            // EIO when nobody has the terminal open any more.
            while let Ok(n @ 1..) = master.read(&mut block) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&block[..n]));
            }
        }
    });
    let shows = |what: &str| {
        eventually(&format!("the terminal shows {what:?}"), || {
            shown.lock().unwrap().contains(what).then_some(())
        });
    };
    shows("generation 1 ");
    exuvia.upgrade();
    shows("generation 2 ");
    shows("committed");
    signal(watching.0.id() as i32, Signal::SIGINT);
    assert_eq!(watching.wait(), 130);
    reading.join().unwrap();
    let shown = shown.lock().unwrap();
    assert!(
        shown.starts_with("\x1b[?1049h\x1b[?25l") && shown.ends_with("\x1b[?25h\x1b[?1049l"),
        "{shown:?}"
    );
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn there_must_be_somebody_to_watch() {
    let exuvia = Exuvia::start(FAST);
    let folder = tempfile::tempdir().unwrap();
    let nobody = folder.path().join("control.sock");
    let mut command = super::harness::exuvia(&["status", "--watch", "--control"]);
    let answer = Answer::from(command.arg(nobody).output().unwrap());
    assert_eq!(answer.code, 4);
    answer.failed_with(&["there is no control socket at"]);
    assert_eq!(exuvia.stop(), 0);
}
