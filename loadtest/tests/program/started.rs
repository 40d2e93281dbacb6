//! The program as a child process.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use loadtest::upstream::Ready;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long anything may take on a machine however busy.
const DEADLINE: Duration = Duration::from_secs(120);

/// It runs, or did. What runs still when this is dropped is ended.
pub(crate) struct Started {
    child: Child,
    out: Receiver<String>,
    err: Receiver<String>,
    seen: String,
    /// Where it has its files, and whoever it starts.
    folder: TempDir,
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
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_exuvia-loadtest"))
            .args(options)
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (said, err) = channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(said.send(line))));
        let (printed, out) = channel();
        let mut pipe = child.stdout.take().unwrap();
        thread::spawn(move || {
            let mut text = String::new();
            drop(pipe.read_to_string(&mut text));
            drop(printed.send(text));
        });
        Started { child, out, err, seen: String::new(), folder }
    }

    /// The same, with options that have no spaces.
    pub(crate) fn line(options: &str) -> Started {
        Started::new(&options.split_whitespace().collect::<Vec<_>>())
    }

    /// Waits until it has said this on standard error.
    pub(crate) fn wait_for(&mut self, text: &str) {
        let give_up = Instant::now() + DEADLINE;
        while !self.seen.contains(text) {
            let line = self.err.recv_timeout(give_up.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|error| panic!("no {text:?} ({error}), only: {}", self.seen));
            self.seen.push_str(&line);
            self.seen.push('\n');
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(pid_of(&self.child), signal).unwrap();
    }

    /// Waits for its end, after which nothing may be left of it.
    pub(crate) fn end(mut self) -> Ended {
        let out = self.out.recv_timeout(DEADLINE);
        let out = out.unwrap_or_else(|error| panic!("it does not end ({error}); it said: {}", self.seen));
        let code = self.child.wait().unwrap().code();
        let left = users_of(self.folder.path());
        assert!(left.is_empty(), "left running: {left:?}");
        let files: Vec<_> = fs::read_dir(self.folder.path()).unwrap().collect();
        assert!(files.is_empty(), "left behind: {files:?}");
        // The pipe is closed, so that this ends.
        let rest: String = self.err.iter().map(|line| line + "\n").collect();
        Ended { code, out, err: self.seen.clone() + &rest }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // After `end` it is reaped, and its id may be another's.
        if let Ok(None) = self.child.try_wait() {
            // What it has started ends with it.
            kill(pid_of(&self.child), Signal::SIGKILL).ok();
            self.child.wait().ok();
        }
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// The command lines of live processes that have something open below a folder, or name it.
fn users_of(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let line = |path: &Path| fs::read(path.join("cmdline")).unwrap_or_default();
    let uses = |path: &Path| {
        let open = fs::read_dir(path.join("fd")).into_iter().flatten().filter_map(Result::ok);
        let mut open = open.filter_map(|fd| fs::read_link(fd.path()).ok());
        let named = String::from_utf8_lossy(&line(path)).contains(&*folder.to_string_lossy());
        open.any(|file| file.starts_with(folder)) || named
    };
    let users = entries.map(|entry| entry.path()).filter(|path| uses(path));
    users.map(|path| String::from_utf8_lossy(&line(&path)).replace('\0', " ")).collect()
}

/// Waits until somebody has made a file.
pub(crate) fn wait_until_there(file: &Path) {
    let give_up = Instant::now() + DEADLINE;
    while !file.exists() {
        assert!(Instant::now() < give_up, "nobody makes {}", file.display());
        thread::sleep(Duration::from_millis(10));
    }
}

/// An upstream as a program of its own.
pub(crate) struct Upstream(Child);

impl Upstream {
    pub(crate) fn signal(&self, signal: Signal) {
        kill(pid_of(&self.0), signal).unwrap();
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.0.wait().unwrap();
        if !thread::panicking() {
            // Told to end it ends well; a test may have killed it.
            assert!(status.success() || status.signal() == Some(Signal::SIGKILL as i32), "{status}");
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
