//! Starts the programs that play clients and servers, and hears what they say (`peer.py` has the words).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::harness::eventually;

/// Whether the test must do without what it needs, which it says loudly. Under `CI=true` that is a failure.
#[must_use]
pub fn skipped(needs: &[Need]) -> bool {
    for need in needs {
        if let Err(missing) = need.check() {
            let (test, ci) = (std::thread::current(), std::env::var("CI"));
            assert!(!matches!(ci.as_deref(), Ok("true" | "1")), "{missing}");
            // Past the capture of the test harness: who runs the tests shall know what was not tested.
            let line = format!("SKIPPED: {}: {missing}\n", test.name().unwrap_or("?"));
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return true;
        }
    }
    false
}

/// What a test needs beside the build.
pub enum Need {
    /// A program, and the package of Debian that has it.
    Program(&'static str, &'static str),
    /// A library of Python.
    Python(&'static str),
}

impl Need {
    fn check(&self) -> Result<(), String> {
        match self {
            Need::Program(name, package) => on_path(name)
                .then_some(())
                .ok_or_else(|| format!("{name} is not installed (apt-get install {package})")),
            Need::Python(library) => {
                let (python, import) = (python(), format!("import {library}"));
                let ended = Command::new(&python).args(["-c", &import]).stderr(Stdio::null()).status();
                ended.is_ok_and(|status| status.success()).then_some(()).ok_or_else(|| {
                    format!(
                        "{library} is not installed for {} (python3 -m venv target/ci/venv && \
                         target/ci/venv/bin/pip install -r tests/peers/requirements.txt)",
                        python.display()
                    )
                })
            }
        }
    }
}

fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// The Python that has the libraries: `EXUVIA_TEST_PYTHON`, or the one that CI makes.
pub fn python() -> PathBuf {
    let ours = || above("target/ci/venv/bin/python");
    std::env::var_os("EXUVIA_TEST_PYTHON").map_or_else(ours, PathBuf::from)
}

/// A path below the package's folder or, where there is none, one of those above: a member of the workspace has its
/// tests elsewhere.
fn above(path: &str) -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = package.ancestors().map(|folder| folder.join(path)).find(|path| path.exists());
    found.unwrap_or_else(|| package.join(path))
}

/// A program that runs. It ends with the test.
pub struct Program {
    name: String,
    process: Child,
    stdin: Option<ChildStdin>,
    said: Arc<Said>,
    reading: Vec<JoinHandle<()>>,
}

/// What a program has said so far.
#[derive(Default)]
struct Said {
    port: AtomicU16,
    done: AtomicU64,
    summary: Mutex<Value>,
    errors: Mutex<String>,
}

impl Said {
    fn hear(&self, line: &str) {
        match line.split_once(' ') {
            Some(("done", number)) => {
                self.done.fetch_max(number.parse().unwrap_or(0), Ordering::Relaxed);
            }
            Some(("summary", json)) => {
                *self.summary.lock().unwrap_or_else(PoisonError::into_inner) =
                    serde_json::from_str(json).unwrap_or_default();
            }
            Some(("listening", rest)) => {
                let port = rest.trim_start_matches("on ").parse().unwrap_or(0);
                self.port.store(port, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

impl Program {
    /// Starts a script of this folder.
    pub fn start(script: &str, arguments: &[&str]) -> Program {
        let folder = above("tests/peers");
        let mut process = Command::new(python())
            // Nothing is to be left in the source folder.
            .args(["-B", "-u"])
            .arg(folder.join(script))
            .args(arguments)
            .env("GRPC_VERBOSITY", "NONE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (out, mut err) = (process.stdout.take().unwrap(), process.stderr.take().unwrap());
        let said = Arc::new(Said::default());
        let (hears, keeps) = (said.clone(), said.clone());
        let reading = vec![
            std::thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    hears.hear(&line);
                }
            }),
            std::thread::spawn(move || {
                let mut block = [0; 4096];
                while let Ok(n @ 1..) = err.read(&mut block) {
                    let mut errors = keeps.errors.lock().unwrap_or_else(PoisonError::into_inner);
                    errors.push_str(&String::from_utf8_lossy(&block[..n]));
                }
            }),
        ];
        Program { name: script.to_owned(), stdin: process.stdin.take(), process, said, reading }
    }

    /// Starts a client of a server at this address.
    pub fn client(script: &str, address: SocketAddr, arguments: &[&str]) -> Program {
        let port = address.port().to_string();
        Program::start(script, &[&["--port", &port], arguments].concat())
    }

    /// Starts a server, and waits until it listens.
    pub fn server(script: &str, arguments: &[&str]) -> Program {
        let mut server = Program::start(script, arguments);
        server.wait_until("listens", |said| said.port.load(Ordering::Relaxed) > 0);
        server
    }

    /// Where a server listens.
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.said.port.load(Ordering::Relaxed)).into()
    }

    /// What it has written to standard error.
    pub fn errors(&self) -> String {
        self.said.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How much it has done.
    pub fn done(&self) -> u64 {
        self.said.done.load(Ordering::Relaxed)
    }

    #[track_caller]
    fn wait_until(&mut self, what: &str, is_so: impl Fn(&Said) -> bool) {
        let what = format!("{} {what}", self.name);
        eventually(&what, || {
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("{} ended with {status}:\n{}", self.name, self.errors());
            }
            is_so(&self.said).then_some(())
        });
    }

    /// Waits until it has done more.
    #[track_caller]
    pub fn flows(&mut self, more: u64) {
        self.reaches(self.done() + more);
    }

    /// Waits until it has done so much.
    #[track_caller]
    pub fn reaches(&mut self, enough: u64) {
        self.wait_until("goes on", |said| said.done.load(Ordering::Relaxed) >= enough);
    }

    /// Has it finish what it has begun, and waits for its end: nothing may have failed. Its summary.
    #[track_caller]
    pub fn finish(mut self) -> Value {
        drop(self.stdin.take());
        self.end()
    }

    /// Waits for the end of one that ends by itself: nothing may have failed.
    #[track_caller]
    pub fn end(mut self) -> Value {
        let name = self.name.clone();
        let status = eventually(&format!("{name} has ended"), || self.process.try_wait().unwrap());
        for thread in self.reading.drain(..) {
            thread.join().unwrap();
        }
        assert!(status.success(), "{name} ended with {status}:\n{}", self.errors());
        self.said.summary.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Program {
    /// Waits for the end of one that must fail, without having been told to finish. What it complained of.
    #[track_caller]
    pub fn fails(mut self) -> String {
        let name = self.name.clone();
        let status = eventually(&format!("{name} has failed"), || self.process.try_wait().unwrap());
        for thread in self.reading.drain(..) {
            thread.join().unwrap();
        }
        assert!(!status.success(), "{name} has not failed");
        self.errors()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have started programs itself, and ends them at the end of its input.
        drop(self.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline && matches!(self.process.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.process.kill().ok();
        self.process.wait().ok();
        if std::thread::panicking() {
            eprintln!("── what {} wrote ──\n{}", self.name, self.errors());
        }
    }
}
