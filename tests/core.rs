//! The core as a library: `examples/echo.rs`, run and upgraded.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(30);

/// The echo server; its later generations are children of this process too.
struct Echo {
    output: BufReader<ChildStdout>,
    generations: Vec<Pid>,
    address: SocketAddr,
    _first: Child,
}

impl Echo {
    fn start() -> Echo {
        let program = std::env::current_exe().unwrap();
        let program: PathBuf = program.parent().unwrap().parent().unwrap().join("examples/echo");
        let mut first = Command::new(&program).arg("127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(first.stdout.take().unwrap());
        let mut echo =
            Echo { output, generations: Vec::new(), address: "127.0.0.1:1".parse().unwrap(), _first: first };
        echo.next_generation();
        echo
    }

    /// Reads the line that a new generation prints.
    fn next_generation(&mut self) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["generation", number, "(pid", pid, "on", address] = words[..] else { panic!("{line:?}") };
        self.generations.push(Pid::from_raw(pid.trim_end_matches(')').parse().unwrap()));
        assert_eq!(number, self.generations.len().to_string());
        self.address = address.parse().unwrap();
    }

    fn upgrade(&mut self) {
        kill(*self.generations.last().unwrap(), Signal::SIGHUP).unwrap();
        self.next_generation();
    }

    /// A connection, and the generation that accepted it.
    fn connect(&self) -> (TcpStream, usize) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut greeting = Vec::new();
        while greeting.last() != Some(&b'\n') {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            greeting.push(byte[0]);
        }
        let greeting = String::from_utf8(greeting).unwrap();
        (stream, greeting.trim().strip_prefix("generation ").unwrap().parse().unwrap())
    }

    /// A connection that this generation has accepted. Until it does the one before may.
    fn connect_to(&self, generation: usize) -> TcpStream {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.connect() {
                (stream, from) if from == generation => return stream,
                _ => assert!(Instant::now() < deadline, "generation {generation} does not accept"),
            }
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // One that has been waited for is no child any more, and its number may be another's.
        let alive = |pid: &&Pid| waitpid(**pid, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive);
        for pid in self.generations.iter().filter(alive) {
            kill(*pid, Signal::SIGKILL).ok();
            waitpid(*pid, None).ok();
        }
    }
}

fn says_back(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, text.as_bytes());
}

/// Waits until a process has exited; its status.
fn ended(pid: Pid) -> WaitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)).unwrap() {
            WaitStatus::StillAlive => assert!(Instant::now() < deadline, "{pid} does not end"),
            status => return status,
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_echo_server_upgrades_itself_and_no_connection_notices() {
    let mut echo = Echo::start();
    let (address, mut old) = (echo.address, echo.connect_to(1));
    says_back(&mut old, "one");

    echo.upgrade();
    assert_eq!(echo.address, address);
    says_back(&mut old, "two");
    let mut new = echo.connect_to(2);
    says_back(&mut new, "three");
    // The connection holds the first generation, which is gone when it ends.
    let first = echo.generations[0];
    assert_eq!(waitpid(first, Some(WaitPidFlag::WNOHANG)).unwrap(), WaitStatus::StillAlive);
    says_back(&mut old, "four");
    drop(old);
    assert_eq!(ended(first), WaitStatus::Exited(first, 0));

    says_back(&mut new, "five");
    drop(new);
    let second = echo.generations[1];
    kill(second, Signal::SIGTERM).unwrap();
    assert_eq!(ended(second), WaitStatus::Exited(second, 0));
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn a_process_that_dies_in_probation_gives_the_traffic_back() {
    let mut echo = Echo::start();
    echo.upgrade();
    drop(echo.connect_to(2));
    let second = echo.generations[1];
    kill(second, Signal::SIGKILL).unwrap();
    let mut client = echo.connect_to(1);
    says_back(&mut client, "still there");
    assert_eq!(ended(second), WaitStatus::Signaled(second, Signal::SIGKILL, false));
}
