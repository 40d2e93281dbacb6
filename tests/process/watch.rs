//! `exuvia status --watch`, as a script and a person use it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::harness::{Alone, Answer, Exuvia, children, eventually, signal};

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
    assert!(line.starts_with("generation 2 serves"), "{line}");
    assert_eq!(eventually("it has ended", || watching.try_wait().unwrap()).code(), Some(0));
    assert_eq!(exuvia.stop(), 0);
}

/// A terminal with `status --watch` on it.
struct Terminal {
    shell: Alone,
    /// Where the shell writes how the terminal was before and after.
    folder: TempDir,
    master: File,
    shown: Arc<Mutex<String>>,
    reading: JoinHandle<()>,
}

impl Terminal {
    fn open(exuvia: &Exuvia, columns: u16) -> Terminal {
        // Not openpty(3): a process that another test starts meanwhile would get its ends, too.
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let (mut options, path) = (File::options(), ptsname_r(&master).unwrap());
        let slave = options.read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(&path).unwrap();
        // A session of its own, whose terminal this is, with a shell that outlives what it runs, as a person's does.
        let folder = tempfile::tempdir().unwrap();
        let script = "trap : INT QUIT HUP; stty cols $COLUMNS rows 24; stty -g >before; \"$@\"; code=$?; \
            stty -g >after; exit $code";
        let mut command = Command::new("setsid");
        let status = exuvia.command(&["status", "--watch"]);
        command.args(["--ctty", "sh", "-c", script, "sh"]).arg(status.get_program()).args(status.get_args());
        command.env("TERM", "xterm").env("COLUMNS", columns.to_string()).current_dir(folder.path());
        command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap());
        let shell = Alone(command.stderr(slave).spawn().unwrap());
        let shown: Arc<Mutex<String>> = Arc::default();
        let master = File::from(OwnedFd::from(master));
        let reading = std::thread::spawn({
            let (mut master, shown) = (master.try_clone().unwrap(), shown.clone());
            move || {
                let mut block = [0; 4096];
                // EIO when nobody has the terminal open any more.
                while let Ok(n @ 1..) = master.read(&mut block) {
                    shown.lock().unwrap().push_str(&String::from_utf8_lossy(&block[..n]));
                }
            }
        });
        Terminal { shell, folder, master, shown, reading }
    }

    fn shows(&self, what: &str) {
        eventually(&format!("the terminal shows {what:?}"), || {
            self.shown.lock().unwrap().contains(what).then_some(())
        });
    }

    fn press(&mut self, keys: &[u8]) {
        self.master.write_all(keys).unwrap();
    }

    /// Waits for the end, with the terminal as it was, and these words on it: its exit code, and all of the words.
    fn end(self, words: &str) -> (i32, String) {
        let code = self.shell.wait();
        let state = |name: &str| std::fs::read_to_string(self.folder.path().join(name)).unwrap();
        assert_eq!(state("after"), state("before"));
        self.reading.join().unwrap();
        let shown = self.shown.lock().unwrap().clone();
        let (on_it, after) = shown.rsplit_once("\x1b[?25h\x1b[?1049l").unwrap_or_else(|| panic!("{shown:?}"));
        assert!(on_it.starts_with("\x1b[?1049h\x1b[?25l"), "{shown:?}");
        // What ended it is said on the terminal's own screen.
        assert!(after.contains(words), "{after:?}");
        (code, after.to_owned())
    }
}

#[test]
fn a_terminal_is_given_back_as_it_was_by_every_end() {
    let exuvia = Exuvia::start(FAST);
    let ends: [(&str, &[u8], i32); 4] =
        [("q", b"xq", 0), ("Q", b"Q", 0), ("Ctrl-C", b"\x03", 130), ("Ctrl-\\", b"\x1c", 130)];
    for (name, keys, expected) in ends {
        let mut terminal = Terminal::open(&exuvia, 100);
        terminal.shows("generation 1 ");
        terminal.shows("q or Ctrl-C: end");
        terminal.press(keys);
        assert_eq!(terminal.end("").0, expected, "{name}");
    }
    // Nobody at the keyboard ends it.
    for asked in [Signal::SIGTERM, Signal::SIGHUP] {
        let terminal = Terminal::open(&exuvia, 100);
        terminal.shows("generation 1 ");
        let watching = eventually("it is there", || children(terminal.shell.0.id() as i32).pop());
        signal(watching, asked);
        assert_eq!(terminal.end("").0, 130, "{asked}");
    }
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn it_goes_on_over_an_upgrade() {
    let exuvia = Exuvia::start(FAST);
    let mut terminal = Terminal::open(&exuvia, 100);
    terminal.shows("generation 1 ");
    exuvia.upgrade();
    terminal.shows("generation 2 ");
    terminal.shows("committed");
    terminal.press(b"q");
    assert_eq!(terminal.end("").0, 0);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn the_terminal_is_given_back_when_nobody_answers_any_more() {
    let exuvia = Exuvia::start(FAST);
    let terminal = Terminal::open(&exuvia, 40);
    terminal.shows("generation 1 ");
    terminal.shows("CONNECTIONS");
    assert_eq!(exuvia.stop(), 0);
    let (code, shown) = terminal.end("--control SOCKET");
    assert_eq!(code, 4);
    assert!(shown.contains("there is no control socket at"), "{shown}");
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
