//! The program as a child process.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use loadtest::upstream::Ready;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long anything may take on a machine however busy.
const DEADLINE: Duration = Duration::from_secs(120);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// It runs, or did.
pub(crate) struct Started {
    child: Child,
    out: Option<ChildStdout>,
    err: Receiver<String>,
    seen: String,
    reader: JoinHandle<()>,
    /// A variable that all have that it starts.
    mark: String,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Started {
    pub(crate) fn new(options: &[&str]) -> Started {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mark = format!("LOADTEST_MARK={}-{number}", std::process::id());
        let (name, value) = mark.split_once('=').unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_exuvia-loadtest"))
            .args(options)
            .env(name, value)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (said, err) = channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                said.send(line).ok();
            }
        });
        let out = child.stdout.take();
        Started { child, out, err, seen: String::new(), reader, mark }
    }

    /// Waits until it has said this on standard error.
    pub(crate) fn wait_for(&mut self, text: &str) {
        while !self.seen.contains(text) {
            let line = self.err.recv_timeout(DEADLINE);
            let line = line.unwrap_or_else(|error| panic!("no {text:?} ({error}), only: {}", self.seen));
            self.seen.push_str(&line);
            self.seen.push('\n');
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Waits for its end, after which nothing may be left of it.
    pub(crate) fn end(mut self) -> Ended {
        let mut out = String::new();
        self.out.take().unwrap().read_to_string(&mut out).unwrap();
        self.reader.join().unwrap();
        let code = self.child.wait().unwrap().code();
        let left = with_mark(&self.mark);
        assert!(left.is_empty(), "left running: {left:?}");
        let rest: String = self.err.iter().map(|line| line + "\n").collect();
        Ended { code, out, err: self.seen + &rest }
    }
}

/// The command lines of live processes that have this in their environment.
fn with_mark(mark: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let marked = entries.filter(|entry| {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    });
    let line = |path: std::path::PathBuf| fs::read(path.join("cmdline")).unwrap_or_default();
    marked.map(|entry| String::from_utf8_lossy(&line(entry.path())).replace('\0', " ")).collect()
}

/// An upstream as a program of its own.
pub(crate) struct Upstream(Child);

impl Upstream {
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.0.wait().unwrap();
        if !std::thread::panicking() {
            // Told to end it ends well; a test may have killed it.
            use std::os::unix::process::ExitStatusExt;
            assert!(status.success() || status.signal() == Some(9), "{status}");
        }
    }
}

/// Starts one, on a free port.
pub(crate) fn upstream() -> (Upstream, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_exuvia-loadtest"));
    command.args(["upstream", "--plain", "127.0.0.1:0"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: Ready = serde_json::from_str(&line).unwrap();
    (Upstream(child), ready.plain.to_string())
}
