//! Starts exuvia, asks it, and makes sure that nothing of it remains.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take before a test gives up: far more than it needs on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The program under test.
pub const EXUVIA: &str = env!("CARGO_BIN_EXE_exuvia");

/// Waits until `check` gives something; fails loudly, with what it was about, when it never does.
#[track_caller]
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A running exuvia under its supervisor, in a folder of its own.
pub struct Exuvia {
    folder: TempDir,
    supervisor: Child,
    ended: bool,
}

/// How one is started.
pub struct Starter {
    folder: TempDir,
    settings: String,
    environment: Vec<(String, String)>,
    program: PathBuf,
    directory: Option<PathBuf>,
    descriptors: Option<u64>,
    output: Option<(Stdio, Stdio)>,
}

impl Starter {
    /// With these settings beside the ones that every test needs: `[restart]` and what follows may be given,
    /// the listener is `web` on a port that the kernel chooses unless `settings` names listeners.
    pub fn new(settings: &str) -> Starter {
        let folder = tempfile::Builder::new().prefix("exuvia-test-").tempdir().unwrap();
        let program = folder.path().join("exuvia");
        std::os::unix::fs::symlink(EXUVIA, &program).unwrap();
        Starter {
            folder,
            settings: settings.to_owned(),
            environment: Vec::new(),
            program,
            directory: None,
            descriptors: None,
            output: None,
        }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Other settings, for which the folder had to be known.
    pub fn settings(mut self, settings: &str) -> Starter {
        self.settings = settings.to_owned();
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Starter {
        self.environment.push((name.to_owned(), value.as_ref().to_str().unwrap().to_owned()));
        self
    }

    /// The first argument, as given; relative ones begin at `directory`.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Starter {
        self.program = program.into();
        self
    }

    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Starter {
        self.directory = Some(directory.into());
        self
    }

    /// Under this limit of descriptors (`RLIMIT_NOFILE`), soft and hard.
    pub fn descriptors(mut self, limit: u64) -> Starter {
        self.descriptors = Some(limit);
        self
    }

    /// With this standard output and standard error. Then [`Exuvia::log`] has nothing.
    pub fn output(mut self, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Starter {
        self.output = Some((stdout.into(), stderr.into()));
        self
    }

    /// Starts it and waits until it serves.
    pub fn start(self) -> Exuvia {
        let mut exuvia = self.launch();
        eventually("exuvia serves", || {
            if let Some(status) = exuvia.supervisor.try_wait().unwrap() {
                panic!("exuvia ended with {status}:\n{}", exuvia.log());
            }
            exuvia.try_status()
        });
        exuvia
    }

    /// Starts it.
    pub fn launch(self) -> Exuvia {
        let settings = write_settings(self.folder.path(), &self.settings);
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let mut command = match self.descriptors {
            None => Command::new(&self.program),
            Some(limit) => {
                let mut command = Command::new("sh");
                command.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\"")]).arg(&self.program);
                command
            }
        };
        command
            .args(["run", "--supervise=always", "--config"])
            .arg(&settings)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env_remove("NOTIFY_SOCKET")
            .current_dir(self.directory.as_deref().unwrap_or(self.folder.path()))
            .stdin(Stdio::null());
        match self.output {
            Some((stdout, stderr)) => command.stdout(stdout).stderr(stderr),
            None => command.stdout(log.try_clone().unwrap()).stderr(log),
        };
        let supervisor = command.spawn().unwrap();
        Exuvia { folder: self.folder, supervisor, ended: false }
    }
}

impl Exuvia {
    /// Starts one with these settings and waits until it serves.
    pub fn start(settings: &str) -> Exuvia {
        Starter::new(settings).start()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn supervisor_pid(&self) -> i32 {
        self.supervisor.id() as i32
    }

    /// Everything that it has written.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Waits until it has written a line with these words, which it does on a thread of its own; gives the first one.
    #[track_caller]
    pub fn says(&self, words: &str) -> String {
        eventually(&format!("exuvia says {words:?}"), || {
            self.log().lines().find(|line| line.contains(words)).map(str::to_owned)
        })
    }

    /// Its control socket.
    pub fn control(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    /// A command of the program, such as `upgrade`, against this one.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(EXUVIA);
        command.args(arguments).arg("--control").arg(self.control()).stdin(Stdio::null());
        command
    }

    pub fn ask(&self, arguments: &[&str]) -> Answer {
        Answer::from(self.command(arguments).output().unwrap())
    }

    /// Begins a command; [`Asking::answer`] waits for its end.
    pub fn begin(&self, arguments: &[&str]) -> Asking {
        Asking::begin(&mut self.command(arguments))
    }

    /// A good upgrade: it must be committed.
    #[track_caller]
    pub fn upgrade(&self) -> Answer {
        let answer = self.ask(&["upgrade"]);
        assert_eq!(answer.code, 0, "{answer:?}\n{}", self.log());
        answer
    }

    pub fn try_status(&self) -> Option<Value> {
        let answer = self.ask(&["status", "--json"]);
        (answer.code == 0).then(|| serde_json::from_str(&answer.out).unwrap())
    }

    #[track_caller]
    pub fn status(&self) -> Value {
        let answer = self.ask(&["status", "--json"]);
        assert_eq!(answer.code, 0, "{answer:?}\n{}", self.log());
        serde_json::from_str(&answer.out).unwrap()
    }

    #[track_caller]
    pub fn generation(&self) -> u64 {
        self.status()["generation"].as_u64().unwrap()
    }

    /// The owner's pid.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        self.status()["pid"].as_i64().unwrap() as i32
    }

    /// The owner's pid, while there is one.
    pub fn pid_now(&self) -> Option<i32> {
        Some(self.try_status()?["pid"].as_i64()? as i32)
    }

    pub fn phase(&self) -> String {
        self.try_status().and_then(|status| status["phase"].as_str().map(str::to_owned)).unwrap_or_default()
    }

    #[track_caller]
    pub fn wait_phase(&self, phase: &str) {
        eventually(&format!("the owner is in phase {phase}"), || (self.phase() == phase).then_some(()));
    }

    /// The generations alive, as (generation, pid, phase).
    pub fn generations(&self) -> Vec<(u64, i32, String)> {
        let status = self.status();
        let all = status["generations"].as_array().unwrap();
        all.iter()
            .map(|one| {
                let phase = one["phase"].as_str().unwrap_or("?").to_owned();
                (one["generation"].as_u64().unwrap(), one["pid"].as_i64().unwrap() as i32, phase)
            })
            .collect()
    }

    /// The pid of a generation that is alive.
    #[track_caller]
    pub fn pid_of(&self, generation: u64) -> i32 {
        eventually(&format!("generation {generation} is there"), || {
            self.generations().into_iter().find(|one| one.0 == generation).map(|one| one.1)
        })
    }

    /// Where a listener is.
    #[track_caller]
    pub fn listener(&self, name: &str) -> String {
        let status = self.status();
        let all = status["listeners"].as_array().unwrap();
        let found = all.iter().find(|one| one["name"] == name);
        found.unwrap_or_else(|| panic!("no listener {name} in {status}"))["address"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Where the listener `web` is.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        self.listener("web").parse().unwrap()
    }

    /// Changes the settings for the next generation.
    pub fn set(&self, settings: &str) {
        write_settings(self.folder.path(), settings);
    }

    /// A program in this folder, for `restart.executable`.
    pub fn script(&self, name: &str, body: &str) -> PathBuf {
        script(&self.folder.path().join(name), body)
    }

    /// Stops it gracefully and waits for the end; the supervisor's exit code.
    #[track_caller]
    pub fn stop(mut self) -> i32 {
        let answer = self.ask(&["stop"]);
        assert_eq!(answer.code, 0, "{answer:?}\n{}", self.log());
        self.wait()
    }

    /// Waits for the end; the supervisor's exit code.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        let status = eventually("exuvia has ended", || self.supervisor.try_wait().unwrap());
        self.ended = true;
        status.code().unwrap_or(-1)
    }
}

impl Drop for Exuvia {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("── what exuvia wrote ──\n{}", self.log());
        }
        if self.ended {
            return;
        }
        // All of them are children of the supervisor, and of nobody else once it is dead.
        let children = children(self.supervisor_pid());
        for pid in children.into_iter().chain([self.supervisor_pid()]) {
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
        self.supervisor.wait().ok();
    }
}

/// Writes the settings of a test, and beside them what every test needs unless it has it: a listener `web`
/// on a port that the kernel chooses, and the control socket in the folder.
fn write_settings(folder: &Path, settings: &str) -> PathBuf {
    let path = folder.join("exuvia.toml");
    let mut text = format!("{settings}\n");
    if !settings.contains("[listeners") {
        text.push_str("[listeners.web]\naddress = \"127.0.0.1:0\"\n");
    }
    if !settings.contains("[control]") {
        text.push_str(&format!("[control]\nsocket = \"{}/control.sock\"\n", folder.display()));
    }
    fs::write(&path, text).unwrap();
    path
}

/// A program that is a shell script.
pub fn script(path: &Path, body: &str) -> PathBuf {
    // By rename, so that a file that is being executed is not written to.
    let new = path.with_extension("new");
    fs::write(&new, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&new, path).unwrap();
    path.to_owned()
}

/// The children of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if stat(child).is_some_and(|(parent, _)| parent == pid) {
            found.push(child);
        }
    }
    found
}

/// The parent and the state of a process (proc_pid_stat(5)).
pub fn stat(pid: i32) -> Option<(i32, char)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text[text.rfind(')')? + 2..].split(' ');
    let state = fields.next()?.chars().next()?;
    Some((fields.next()?.parse().ok()?, state))
}

/// Whether a process is there, and no zombie.
pub fn is_alive(pid: i32) -> bool {
    stat(pid).is_some_and(|(_, state)| state != 'Z')
}

pub fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// A process of its own without a supervisor, which ends with the test.
pub struct Alone(pub Child);

impl Alone {
    #[track_caller]
    pub fn wait(mut self) -> i32 {
        let status = eventually("the process has ended", || self.0.try_wait().unwrap());
        status.code().unwrap_or(-1)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The program with these arguments, not on a terminal and with no settings from outside.
pub fn exuvia(arguments: &[&str]) -> Command {
    let mut command = Command::new(EXUVIA);
    command.args(arguments).env_remove("EXUVIA_CONFIG").env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
    command
}

/// Whether this is root. What takes root to be tried is told loudly where it cannot be.
pub fn is_root() -> bool {
    let root = geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: only root can act as another user, or have a network of its own");
    }
    root
}

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Answer {
    /// Everything that it printed.
    pub fn text(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    /// Fails unless the command failed and said all of `words`.
    #[track_caller]
    pub fn failed_with(&self, words: &[&str]) {
        assert_ne!(self.code, 0, "{self:?}");
        for word in words {
            assert!(self.text().contains(word), "{word:?} is not in {self:?}");
        }
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Answer {
        Answer {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A command that is running.
pub struct Asking(Child);

impl Asking {
    pub fn begin(command: &mut Command) -> Asking {
        Asking(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    #[track_caller]
    pub fn answer(mut self) -> Answer {
        let status = eventually("the command has ended", || self.0.try_wait().unwrap());
        let (mut out, mut err) = (String::new(), String::new());
        self.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        Answer { code: status.code().unwrap_or(-1), out, err }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
