//! Signals that come before a process is ready.
//!
//! SIGHUP that came 1 to 60 ms after the start killed the process, and `pkill -HUP exuvia` in an upgrade the new one:
//! until the driver had its handlers, the kernel's default ended it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use super::harness::{Alone, EXUVIA, Exuvia, Starter, eventually, exuvia, is_alive, signal};

/// A process that is held in the middle of its start: its settings are a FIFO, which it is reading.
struct Starting {
    process: Alone,
    folder: TempDir,
    settings: PathBuf,
    gate: Option<File>,
}

impl Starting {
    fn new() -> Starting {
        let folder = tempfile::tempdir().unwrap();
        let settings = folder.path().join("exuvia.toml");
        mkfifo(&settings, Mode::S_IRWXU).unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let mut command = exuvia(&["run", "--supervise=never", "-c", settings.to_str().unwrap()]);
        let process = Alone(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let gate = Some(gate(&settings));
        Starting { process, folder, settings, gate }
    }

    fn pid(&self) -> i32 {
        self.process.0.id() as i32
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn text(&self) -> String {
        let folder = self.folder.path().display();
        format!(
            "[log]\nlevel = 'debug'\n[restart]\nprobation = '0s'\n[listeners.web]\naddress = '127.0.0.1:0'\n\
             [control]\nsocket = '{folder}/control.sock'\n"
        )
    }

    /// Gives it its settings.
    fn let_go(&mut self) {
        let text = self.text();
        self.gate.take().unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn until_said(&self, words: &str) {
        eventually(&format!("the log has {words:?}"), || self.log().contains(words).then_some(()));
    }
}

/// The writing end of a FIFO. It can be opened once somebody has it open for reading (fifo(7)).
fn gate(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(OFlag::O_NONBLOCK.bits());
    eventually("the settings are being read", || options.open(path).ok())
}

#[test]
fn an_upgrade_that_is_asked_for_too_early_is_made_when_it_can_be() {
    for wish in [Signal::SIGHUP, Signal::SIGUSR2] {
        let mut starting = Starting::new();
        signal(starting.pid(), wish);
        signal(starting.pid(), Signal::SIGUSR1);
        starting.let_go();
        starting.until_said("a new process is starting");
        let mut gate = gate(&starting.settings);
        gate.write_all(starting.text().as_bytes()).unwrap();
        drop(gate);
        starting.until_said("the upgrade is committed");
        starting.until_said("SIGUSR1 changes nothing");
        let control = starting.folder.path().join("control.sock");
        let control = control.to_str().unwrap();
        let new = eventually("generation 2 serves", || {
            let status = exuvia(&["status", "--json", "--control", control]).output().unwrap();
            let status: serde_json::Value = serde_json::from_slice(&status.stdout).ok()?;
            (status["generation"] == 2).then(|| status["pid"].as_i64().unwrap() as i32)
        });
        assert_eq!(starting.process.wait(), 0);
        signal(new, Signal::SIGTERM);
        eventually("generation 2 is gone", || (!is_alive(new)).then_some(()));
    }
}

#[test]
fn a_stop_that_comes_early_is_orderly() {
    for stop in [Signal::SIGTERM, Signal::SIGINT] {
        let mut starting = Starting::new();
        signal(starting.pid(), stop);
        starting.let_go();
        let socket = starting.folder.path().join("control.sock");
        let Starting { process, folder, .. } = starting;
        assert_eq!(process.wait(), 0, "{}", fs::read_to_string(folder.path().join("log")).unwrap());
        assert!(!socket.exists(), "a file is left behind");
    }
}

/// Between execve and `main` a process has no say of its own: it is born with these signals held back. Here a program
/// that sends them to itself stands for that moment; not a shell, since some take all of them at their start.
#[test]
fn a_new_process_is_born_with_signals_held_back() {
    let exuvia = Starter::new("");
    let program = exuvia.folder().join("early");
    let body = format!(
        "#!/usr/bin/env python3\nimport os, signal, sys\n\
         for name in ('SIGHUP', 'SIGUSR1', 'SIGUSR2'):\n    os.kill(os.getpid(), getattr(signal, name))\n\
         open('{}/here', 'w')\nos.execv('{EXUVIA}', sys.argv)\n",
        exuvia.folder().display()
    );
    fs::write(&program, body).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let settings = format!("[restart]\nprobation = '50ms'\nexecutable = '{}'\n", program.display());
    let exuvia = exuvia.settings(&settings).start();
    exuvia.upgrade();
    assert!(exuvia.folder().join("here").exists());
    // What is asked of a process that is being watched is refused, and it is not ended.
    eventually("the wish is refused", || {
        exuvia.log().contains("its predecessor has not let go").then_some(())
    });
    assert_eq!(exuvia.generation(), 2);
    assert_eq!(exuvia.stop(), 0);
}

/// A program that is not ours can still be ended by those who ask it to.
#[test]
fn what_asks_for_the_end_is_not_held_back_in_a_program_that_is_not_ours() {
    let exuvia = Starter::new("");
    let program = super::harness::script(&exuvia.folder().join("other"), "exec sleep 1000");
    let settings = format!("[restart]\nexecutable = '{}'\n", program.display());
    let exuvia = exuvia.settings(&settings).start();
    let upgrade = exuvia.begin(&["upgrade"]);
    let other = exuvia.pid_of(2);
    signal(other, Signal::SIGTERM);
    upgrade.answer().failed_with(&["killed by SIGTERM"]);
    assert_eq!(exuvia.stop(), 0);
}

/// `pkill -HUP exuvia`, over and over, while an upgrade is made.
#[test]
fn a_storm_of_signals_changes_no_upgrade() {
    let exuvia = Exuvia::start("[restart]\nprobation = '100ms'\n");
    for generation in 2..=6 {
        let upgrade = exuvia.begin(&["upgrade", "--until", "ready"]);
        let new = exuvia.pid_of(generation);
        eventually("the new process is ready", || {
            signal(new, Signal::SIGHUP);
            signal(new, Signal::SIGUSR1);
            let phases = exuvia.generations();
            phases.iter().any(|one| (one.0, &*one.2) == (generation, "candidate")).then_some(())
        });
        assert_eq!(upgrade.answer().code, 0, "{}", exuvia.log());
        eventually("it serves", || (exuvia.try_status()?["generation"] == generation).then_some(()));
        exuvia.wait_phase("serving");
    }
    assert_eq!(exuvia.stop(), 0);
}
