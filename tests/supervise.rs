//! The supervisor, as a terminal and as a container meet it: `exuvia run` on a pseudoterminal, and as the
//! first process of a PID namespace.
#![cfg(feature = "proxy")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

#[path = "supervise/crossing.rs"]
mod crossing;

const EXUVIA: &str = env!("CARGO_BIN_EXE_exuvia");
const CTRL_C: &[u8] = b"\x03";
/// Far more than anything here takes, so that it is reached only by what hangs.
const DEADLINE: Duration = Duration::from_secs(20);

/// Looks again and again until there is something.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {DEADLINE:?} in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A process in `/proc`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    name: String,
    zombie: bool,
}

fn children(of: i32) -> Vec<Process> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let (state, parent) = (fields.next()?, fields.next()?);
        (parent == of.to_string()).then(|| Process { pid, name: name.to_owned(), zombie: state == "Z" })
    });
    processes.collect()
}

/// An upstream that answers when it is told to.
struct Upstream(TcpListener);

impl Upstream {
    fn new() -> Upstream {
        Upstream(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// The next request, read to the end of its head.
    fn request(&self) -> TcpStream {
        self.0.set_nonblocking(true).unwrap();
        let mut stream = wait_for("a request at the upstream", || self.0.accept().ok()).0;
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        stream
    }
}

fn answer(mut stream: TcpStream) {
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbody").unwrap();
}

/// Everything that a test starts.
struct Service {
    /// The supervisor, or unshare(1) before it.
    process: Child,
    /// The supervisor.
    supervisor: i32,
    /// Our end of the terminal, if it runs on one and that is open.
    terminal: Option<File>,
    upstream: Upstream,
    folder: tempfile::TempDir,
}

impl Service {
    /// `command` with `run`, the settings, and nothing else of ours in its environment.
    fn start(command: &[&str], terminal: Option<(File, OwnedFd)>) -> Service {
        let folder = tempfile::tempdir().unwrap();
        let upstream = Upstream::new();
        let settings = format!(
            "workers = 1\nupstream.servers = ['{}']\n[listeners.web]\naddress = '127.0.0.1:0'\n\
             [restart]\nprobation = '100ms'\npid_file = '{}'\n[control]\nsocket = '{}'\n",
            upstream.0.local_addr().unwrap(),
            folder.path().join("pid").display(),
            folder.path().join("control.sock").display(),
        );
        let file = folder.path().join("exuvia.toml");
        fs::write(&file, settings).unwrap();
        let mut full = Command::new(command[0]);
        full.args(&command[1..]).arg("-c").arg(&file);
        for variable in ["NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            full.env_remove(variable);
        }
        let output = File::create(folder.path().join("output")).unwrap();
        let terminal = match terminal {
            Some((ours, theirs)) => {
                full.stdin(theirs);
                Some(ours)
            }
            None => {
                full.stdin(Stdio::null());
                None
            }
        };
        full.stdout(output.try_clone().unwrap()).stderr(output);
        let process = full.spawn().unwrap();
        let supervisor = i32::try_from(process.id()).unwrap();
        Service { process, supervisor, terminal, upstream, folder }
    }

    /// On a terminal that controls it, as the foreground job.
    fn on_terminal() -> Service {
        // Whoever runs this test under nohup(1) has SIGHUP ignored, and that is inherited.
        Service::on_terminal_by(&["env", "--default-signal=HUP"])
    }

    /// The same, executed by a command before it.
    fn on_terminal_by(starter: &[&str]) -> Service {
        // Not openpty(3): until its ends are close-on-exec, a process that another test starts gets them too, and
        // while that lives the terminal does not close.
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let (mut options, path) = (File::options(), ptsname_r(&master).unwrap());
        let slave = options.read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(path).unwrap();
        let master = OwnedFd::from(master);
        let command = [&["setsid", "--ctty"], starter, &[EXUVIA, "run", "--supervise=always"]].concat();
        let service = Service::start(&command, Some((master.into(), slave.into())));
        service.until_generation(1);
        service
    }

    /// As PID 1 of a namespace, with an orphan from before its time. `None` where that is not allowed.
    fn as_init() -> Option<Service> {
        let rootless = ["--user", "--map-root-user"];
        let namespace = ["--pid", "--fork", "--mount-proc", "--kill-child"];
        let options = [&[][..], &rootless[..]].map(|first| [first, &namespace[..]].concat());
        let may = |options: &Vec<&str>| {
            let tried = Command::new("unshare").args(options).arg("true").stderr(Stdio::null()).status();
            tried.is_ok_and(|status| status.success())
        };
        let options = options.into_iter().find(may)?;
        let script = format!("(sleep 1000 &) ; exec {EXUVIA} run \"$@\"");
        let command = [&["unshare"][..], &options[..], &["sh", "-c", &script, "sh"]].concat();
        let mut service = Service::start(&command, None);
        let unshare = service.supervisor;
        service.supervisor =
            wait_for("a process in the namespace", || children(unshare).first().map(|process| process.pid));
        service.until_generation(1);
        Some(service)
    }

    fn control_socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    fn status(&self) -> Option<Value> {
        let mut command = Command::new(EXUVIA);
        command.args(["status", "--json"]).env("EXUVIA__CONTROL__SOCKET", self.control_socket());
        serde_json::from_slice(&command.output().unwrap().stdout).ok()
    }

    fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("{what}; {}", self.output()), || self.status().filter(&holds))
    }

    /// Waits until this generation is the owner and the one before has nothing to do with it any more.
    fn until_generation(&self, generation: u64) -> Value {
        self.until(&format!("generation {generation} serves"), |status| {
            status["generation"] == generation && status["phase"] == "serving"
        })
    }

    fn upgrade_to(&self, generation: u64) {
        self.signal(self.supervisor, Signal::SIGHUP);
        self.until_generation(generation);
    }

    /// The generations, as the kernel knows them.
    fn generations(&self) -> Vec<Process> {
        children(self.supervisor).into_iter().filter(|process| process.name.starts_with("exuvia")).collect()
    }

    fn signal(&self, pid: i32, signal: Signal) {
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Waits until the supervisor has read a SIGHUP that was sent to it.
    fn until_hangup_is_read(&self) {
        let path = format!("/proc/{}/status", self.supervisor);
        wait_for("the supervisor to read SIGHUP", || {
            let status = fs::read_to_string(&path).unwrap();
            let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
            (u64::from_str_radix(pending.trim(), 16).unwrap() & 1 == 0).then_some(())
        });
    }

    fn type_in(&mut self, keys: &[u8]) {
        self.terminal.as_mut().unwrap().write_all(keys).unwrap();
    }

    /// A request that has been passed on, and its upstream's end.
    fn request(&self) -> (TcpStream, TcpStream) {
        let status = self.status().unwrap();
        let listeners = status["listeners"].as_array().unwrap();
        let web = listeners.iter().find(|listener| listener["name"] == "web").unwrap();
        let mut client = TcpStream::connect(web["address"].as_str().unwrap()).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
        (client, self.upstream.request())
    }

    fn until_said(&self, words: &str) {
        wait_for(words, || self.output().contains(words).then_some(()));
    }

    fn output(&self) -> String {
        fs::read_to_string(self.folder.path().join("output")).unwrap_or_default()
    }

    fn ended(&mut self) -> ExitStatus {
        let process = &mut self.process;
        let status = wait_for("the end of the supervisor", || process.try_wait().unwrap());
        assert_eq!(children(self.supervisor), [], "it left children behind");
        status
    }

    /// The exit status, which is to be that of a command that did what it should.
    fn ended_well(&mut self) {
        let status = self.ended();
        assert_eq!(status.code(), Some(0), "{status}: {}", self.output());
        for file in ["pid", "control.sock"] {
            assert!(!self.folder.path().join(file).exists(), "{file} is left behind: {}", self.output());
        }
    }
}

impl Drop for Service {
    /// Leaves nothing running, whatever failed.
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(Some(_))) {
            return;
        }
        let generations = children(self.supervisor);
        self.process.kill().ok();
        self.process.wait().ok();
        for process in generations {
            kill(Pid::from_raw(process.pid), Signal::SIGKILL).ok();
        }
    }
}

#[test]
fn a_person_upgrades_and_ctrl_c_ends_all_of_it() {
    let mut service = Service::on_terminal();
    let (mut client, upstream) = service.request();
    for generation in 2..=4 {
        service.upgrade_to(generation);
        assert!(service.process.try_wait().unwrap().is_none(), "the one that was started is gone");
    }
    // The first one, whose request is not answered yet, and the one that serves.
    wait_for("idle generations to end", || (service.generations().len() == 2).then_some(()));

    service.type_in(CTRL_C);
    // It has nothing to finish, and waits for the first.
    service.until("the main process drains", |status| status["phase"] == "draining");
    assert_eq!(service.generations().len(), 2);
    answer(upstream);
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("body"), "{text}");
    service.ended_well();
}

#[test]
fn the_second_ctrl_c_cuts_what_is_left() {
    let mut service = Service::on_terminal();
    let (mut old_client, _old_upstream) = service.request();
    service.upgrade_to(2);
    let (mut client, _upstream) = service.request();
    service.type_in(CTRL_C);
    service.until("the main process drains", |status| status["phase"] == "draining");
    assert_eq!(service.generations().len(), 2);

    service.type_in(CTRL_C);
    service.ended_well();
    for client in [&mut old_client, &mut client] {
        let mut text = Vec::new();
        // Closed or reset, but not left open: that would be a timeout.
        let read = client.read_to_end(&mut text).err().map(|error| error.kind());
        assert!(matches!(read, None | Some(ErrorKind::ConnectionReset)), "{read:?}");
        assert!(!text.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&text));
    }
}

#[test]
fn a_terminal_that_closes_is_a_graceful_stop() {
    let mut service = Service::on_terminal();
    service.upgrade_to(2);
    let (mut client, upstream) = service.request();
    drop(service.terminal.take());
    let status = service.until("the main process drains", |status| status["phase"] == "draining");
    assert_eq!(status["generation"], 2, "it took the hang-up for an upgrade");

    answer(upstream);
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("body"), "{text}");
    service.ended_well();
}

/// Who ran the tests by nohup(1) saw the one above fail: nobody was told of the terminal that closed.
#[test]
fn under_nohup_a_terminal_that_closes_is_nothing() {
    let mut service = Service::on_terminal_by(&["nohup"]);
    drop(service.terminal.take());
    service.until_hangup_is_read();
    // Had it been taken for a stop, or for an upgrade, this would be refused.
    let mut upgrade = Command::new(EXUVIA);
    let upgrade = upgrade.arg("upgrade").env("EXUVIA__CONTROL__SOCKET", service.control_socket());
    let answer = upgrade.output().unwrap();
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    service.until_generation(2);
    service.signal(service.supervisor, Signal::SIGTERM);
    service.ended_well();
}

#[test]
fn the_main_process_dies_in_probation_and_its_successor_is_supervised() {
    let mut service = Service::on_terminal();
    let main = service.generations()[0].pid;
    service.signal(service.supervisor, Signal::SIGHUP);
    service.until("a probation or its end", |status| {
        status["phase"] == "probation" || status["generation"] == 2
    });
    // It may be gone already, if this machine is slow; then its successor was named before.
    kill(Pid::from_raw(main), Signal::SIGKILL).ok();
    service.until_generation(2);
    service.upgrade_to(3);
    service.signal(service.supervisor, Signal::SIGTERM);
    service.ended_well();
}

#[test]
fn pid_1_survives_upgrades_reaps_orphans_and_exits_as_the_main_process_did() {
    let Some(mut service) = Service::as_init() else {
        eprintln!("SKIPPED: unshare(1) may not make a PID namespace here; PID 1 is NOT TESTED");
        return;
    };
    for generation in 2..=4 {
        service.upgrade_to(generation);
    }
    let orphan = children(service.supervisor).into_iter().find(|process| process.name == "sleep").unwrap();
    service.signal(orphan.pid, Signal::SIGKILL);
    wait_for("PID 1 to reap an orphan and every old generation", || {
        let children = children(service.supervisor);
        (children.len() == 1 && !children[0].zombie).then_some(())
    });
    service.signal(service.supervisor, Signal::SIGTERM);
    service.ended_well();

    let mut service = Service::as_init().unwrap();
    service.signal(service.generations()[0].pid, Signal::SIGKILL);
    assert_eq!(service.ended().code(), Some(128 + 9), "{}", service.output());
}

/// On a terminal there was a new prompt, exit status 137, and not a word.
#[test]
fn a_main_process_that_is_killed_is_told_of() {
    let mut service = Service::on_terminal();
    let main = service.generations()[0].pid;
    service.signal(main, Signal::SIGKILL);
    assert_eq!(service.ended().code(), Some(128 + 9));
    let (output, said) = (service.output(), format!("the main process ({main}) was killed by SIGKILL"));
    assert!(output.contains(&said) && output.contains("nothing serves"), "{output}");
}

#[test]
fn a_program_that_is_not_there_is_said() {
    let script = format!("exec -a /nowhere/exuvia {EXUVIA} run --supervise=always");
    let mut command = Command::new("timeout");
    command.args(["20", "bash", "-c", &script]);
    let output = command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot execute \"/nowhere/exuvia\": No such file"), "{text}");
}
