//! A systemd of the test's own, with exuvia's units from `docs/systemd.md`.

use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::harness::{Answer, EXUVIA, PATIENCE, children, eventually, is_alive};

const SYSTEMD: &str = "/lib/systemd/systemd";
const DOCS: &str = include_str!("../../docs/systemd.md");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/systemd/manager.sh");

/// A user whom every system has.
const USER: &str = "nobody";

/// A unit file as the documentation shows it.
pub fn documented(unit: &str) -> String {
    let first = format!("```ini\n# /etc/systemd/system/{unit}\n");
    let begin = DOCS.find(&first).unwrap_or_else(|| panic!("docs/systemd.md does not show {unit}"));
    DOCS[begin + "```ini\n".len()..].split("```").next().unwrap().to_owned()
}

/// Says on the standard error of the whole run that a test did not test.
pub fn skipped(why: &str) {
    // Not `eprintln`, which the test harness hides when a test passes.
    writeln!(io::stderr(), "SKIPPED: {}: {why}", std::thread::current().name().unwrap_or("a test")).ok();
}

/// The version of the systemd that is installed.
pub fn version() -> Option<u32> {
    let answer = Answer::from(Command::new(SYSTEMD).arg("--version").output().ok()?);
    answer.out.split_whitespace().nth(1)?.parse().ok()
}

/// A folder with everything that a manager needs, before it runs.
pub struct Setup {
    folder: TempDir,
    /// Where `web` listens, or the socket unit does.
    pub address: SocketAddr,
    service: String,
    socket: Option<String>,
}

impl Setup {
    /// The documented service, with the settings that every test needs and `more`; `None`, said aloud, where
    /// no systemd can run.
    pub fn new(more: &str) -> Option<Setup> {
        let folder = tempfile::Builder::new().prefix("exuvia-systemd-").tempdir().unwrap();
        if let Err(why) = can_run(folder.path()) {
            skipped(&format!("systemd cannot run here: {why}"));
            return None;
        }
        // The service is not root.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(EXUVIA, folder.path().join("exuvia.good")).unwrap();
        // The kernel's choice, free for a moment: the socket unit and the settings must agree on one.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let setup = Setup { folder, address, service: documented("exuvia.service"), socket: None };
        let service = setup.substituted(&setup.service);
        setup.use_program("exuvia.good");
        setup.set(more);
        Some(Setup { service, ..setup })
    }

    /// The service with a line in the place of another.
    pub fn with(mut self, line: &str, other: &str) -> Setup {
        assert!(self.service.contains(line), "{line:?} is not in {}", self.service);
        self.service = self.service.replace(line, other);
        self
    }

    /// The documented socket beside it, with a line in the place of another.
    pub fn socket(mut self, line: &str, other: &str) -> Setup {
        let unit = documented("exuvia.socket");
        assert!(unit.contains(line), "{line:?} is not in {unit}");
        let unit = unit.replace(line, other).replace("0.0.0.0:80", &self.address.to_string());
        self.socket = Some(unit);
        self
    }

    /// A text of the documentation with the test's paths and user.
    pub fn substituted(&self, text: &str) -> String {
        let path = |name: &str| self.path(name).display().to_string();
        text.replace("/usr/local/bin/exuvia", &path("exuvia"))
            .replace("/etc/exuvia.toml", &path("exuvia.toml"))
            .replace("User=exuvia", &format!("User={USER}"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the settings.
    pub fn set(&self, more: &str) {
        let listeners = match more.contains("[listeners") {
            true => String::new(),
            false => format!("[listeners.web]\naddress = \"{}\"\n", self.address),
        };
        let text =
            format!("workers = 2\n{more}\n{listeners}[control]\nsocket = \"/run/exuvia/control.sock\"\n");
        fs::write(self.path("exuvia.toml"), text).unwrap();
    }

    /// Puts a program of the folder in the place of exuvia.
    pub fn use_program(&self, name: &str) {
        let new = self.path("exuvia.new");
        std::os::unix::fs::symlink(name, &new).unwrap();
        fs::rename(new, self.path("exuvia")).unwrap();
    }

    /// Puts a shell script in its place.
    pub fn use_script(&self, body: &str) {
        super::harness::script(&self.path("exuvia.script"), body);
        self.use_program("exuvia.script");
    }

    /// Starts systemd, with nothing started yet.
    pub fn boot(self) -> Manager {
        let units = self.path("units");
        let settings = units.join("exuvia.service.d");
        fs::create_dir_all(&settings).unwrap();
        fs::write(units.join("test.target"), "[Unit]\nDefaultDependencies=no\n").unwrap();
        fs::write(units.join("exuvia.service"), &self.service).unwrap();
        let log = self.path("log");
        fs::write(&log, "").unwrap();
        fs::set_permissions(&log, fs::Permissions::from_mode(0o666)).unwrap();
        let output = format!("append:{}", log.display());
        let own = format!(
            "[Unit]\nDefaultDependencies=no\nStartLimitIntervalSec=0\n\
             [Service]\nStandardOutput={output}\nStandardError={output}\nReadWritePaths={}\n",
            log.display()
        );
        fs::write(settings.join("test.conf"), own).unwrap();
        if let Some(socket) = &self.socket {
            let socket = format!("{socket}\n[Unit]\nDefaultDependencies=no\n");
            fs::write(units.join("exuvia.socket"), socket).unwrap();
        }

        let console = fs::File::create(self.path("console")).unwrap();
        let process = in_namespace("boot", self.folder.path())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .unwrap();
        let mut manager = Manager { setup: self, process, systemd: 0 };
        manager.systemd = eventually("systemd is there", || {
            let ended = manager.process.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}\n{}", manager.read("console"));
            // Before that it has others, the commands of the script.
            children(manager.process.id() as i32).into_iter().find(|pid| is_called(*pid, "systemd"))
        });
        eventually("systemd answers", || {
            let state = manager.systemctl(&["is-active", "test.target"]);
            (state.out.trim() == "active").then_some(())
        });
        manager
    }
}

fn in_namespace(what: &str, folder: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", SCRIPT, what]).arg(folder).stdin(Stdio::null());
    command
}

fn can_run(folder: &Path) -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("the test does not run as root".into());
    }
    if version().is_none() {
        return Err(format!("there is no {SYSTEMD}; its package is `systemd`"));
    }
    let probe = in_namespace("probe", folder).output().map_err(|error| format!("unshare: {error}"))?;
    remove_control_groups(folder);
    let probe = Answer::from(probe);
    (probe.code == 0).then_some(()).ok_or_else(|| format!("namespaces: {}", probe.err.trim()))
}

fn remove_control_groups(folder: &Path) -> bool {
    in_namespace("clean", folder).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// A systemd that runs.
pub struct Manager {
    pub setup: Setup,
    process: Child,
    /// Its pid as seen from here.
    systemd: i32,
}

impl Manager {
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.setup.path(name)).unwrap_or_default()
    }

    /// What the service has written.
    pub fn log(&self) -> String {
        self.read("log")
    }

    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.systemd.to_string(), "-m", "-p"]).stdin(Stdio::null());
        command
    }

    pub fn systemctl(&self, arguments: &[&str]) -> Answer {
        Answer::from(self.enter().arg("systemctl").args(arguments).output().unwrap())
    }

    /// A command of systemd's that must succeed.
    #[track_caller]
    pub fn must(&self, arguments: &[&str]) {
        let answer = self.systemctl(arguments);
        assert_eq!(answer.code, 0, "systemctl {arguments:?}: {answer:?}\n{}", self.log());
    }

    /// Begins a command of systemd's.
    pub fn begin(&self, arguments: &[&str]) -> Child {
        self.enter().arg("systemctl").args(arguments).spawn().unwrap()
    }

    #[track_caller]
    pub fn property(&self, unit: &str, name: &str) -> String {
        let answer = self.systemctl(&["show", "--property", name, "--value", unit]);
        assert_eq!(answer.code, 0, "{answer:?}");
        answer.out.trim().to_owned()
    }

    #[track_caller]
    pub fn status_text(&self) -> String {
        self.property("exuvia.service", "StatusText")
    }

    #[track_caller]
    pub fn is_active(&self) {
        assert_eq!(self.property("exuvia.service", "ActiveState"), "active", "{}", self.log());
    }

    /// The main process, as its own namespace numbers it.
    #[track_caller]
    pub fn main_pid(&self) -> u64 {
        self.property("exuvia.service", "MainPID").parse().unwrap()
    }

    /// A command of exuvia's against the service.
    pub fn exuvia(&self, arguments: &[&str]) -> Answer {
        let mut command = self.enter();
        command.arg(self.setup.path("exuvia.good")).args(arguments);
        Answer::from(command.args(["--control", "/run/exuvia/control.sock"]).output().unwrap())
    }

    #[track_caller]
    pub fn status(&self) -> Value {
        let answer = self.exuvia(&["status", "--json"]);
        assert_eq!(answer.code, 0, "{answer:?}\n{}", self.log());
        serde_json::from_str(&answer.out).unwrap()
    }

    /// The generation that serves. It must be systemd's main process.
    #[track_caller]
    pub fn generation(&self) -> u64 {
        let status = self.status();
        assert_eq!(status["pid"].as_u64().unwrap(), self.main_pid(), "{status}");
        status["generation"].as_u64().unwrap()
    }

    /// A signal to a process of the namespace.
    #[track_caller]
    pub fn signal(&self, signal: &str, pid: u64) {
        let answer = self.enter().args(["kill", "-s", signal, &pid.to_string()]).output().unwrap();
        assert!(answer.status.success(), "{answer:?}");
    }

    /// Whether no thread of a process of the namespace runs any more (proc_pid_status(5)).
    pub fn is_frozen(&self, pid: u64) -> bool {
        let states = format!("sed -n 's/^State:.//p' /proc/{pid}/task/*/status");
        let answer = Answer::from(self.enter().args(["sh", "-c", &states]).output().unwrap());
        !answer.out.is_empty() && answer.out.lines().all(|state| state.starts_with('T'))
    }

    /// The unit has stopped as it should, and nothing of it is left.
    #[track_caller]
    pub fn is_stopped(&self) {
        self.is_gone();
        let found = ["ActiveState", "SubState", "Result"].map(|name| self.property("exuvia.service", name));
        assert_eq!(found, ["inactive", "dead", "success"], "{}", self.log());
    }

    /// No process of the unit is left.
    #[track_caller]
    pub fn is_gone(&self) {
        let left: Vec<i32> =
            children(self.systemd).into_iter().filter(|pid| is_called(*pid, "exuvia")).collect();
        assert!(left.is_empty(), "{left:?} are left\n{}", self.log());
    }
}

fn is_called(pid: i32, name: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name)
}

impl Drop for Manager {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("── what exuvia wrote ──\n{}", self.log());
            eprintln!("── what systemd wrote ──\n{}", self.read("console"));
        }
        // With unshare(1) dies the first process of its namespace, and with that every other.
        self.process.kill().ok();
        self.process.wait().ok();
        let folder = self.setup.folder.path();
        let is_clean = || !is_alive(self.systemd) && remove_control_groups(folder);
        let deadline = Instant::now() + PATIENCE;
        while !is_clean() {
            if Instant::now() > deadline {
                // A second panic would end every test.
                writeln!(io::stderr(), "systemd ({}) or its control groups are still there", self.systemd)
                    .ok();
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
