//! The kernel's table of processes, as far as `/proc/PID/stat` tells it (proc_pid_stat(5)).

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// A process at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: Pid,
    /// Its parent's id.
    pub parent: Pid,
    /// Its process group.
    pub group: Pid,
    /// Its session.
    pub session: Pid,
    /// Whether it is dead and only waits to be reaped.
    pub dead: bool,
    /// CPU time of all its threads, the ended ones too, user and system, in clock ticks.
    pub cpu_ticks: u64,
    /// When it was started, in clock ticks since the boot: with the pid it names one process for ever.
    pub started_ticks: u64,
}

impl Process {
    /// What the kernel says of one process; `None` if there is none.
    #[must_use]
    pub fn read(pid: Pid) -> Option<Process> {
        parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Every process that can be seen.
    #[must_use]
    pub fn all() -> Vec<Process> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter_map(|pid| Process::read(Pid::from_raw(pid))).collect()
    }
}

/// Whether a process is there and not dead.
#[must_use]
pub fn is_alive(pid: Pid) -> bool {
    Process::read(pid).is_some_and(|process| !process.dead)
}

/// The children of a process that are not dead.
#[must_use]
pub fn children(parent: Pid) -> Vec<Pid> {
    let children = Process::all().into_iter().filter(|process| process.parent == parent && !process.dead);
    children.map(|process| process.pid).collect()
}

/// The process whose id is in a file; `None` if there is no id in it.
#[must_use]
pub fn read_pid(path: &Path) -> Option<Pid> {
    // Not 0 and not below: that would be a whole process group.
    let pid = fs::read_to_string(path).ok()?.trim().parse().ok().filter(|pid| *pid > 0)?;
    Some(Pid::from_raw(pid))
}

/// How a process calls itself: its arguments, or the title that it has given itself. Empty if it is gone.
#[must_use]
pub fn title(pid: Pid) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').replace('\0', " ")
}

/// Whether a process has a handler for a signal and lets it through, so that what is sent now is heard.
#[must_use]
pub fn hears(pid: Pid, signal: Signal) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let has = |field: &str| {
        let mask = text.lines().find_map(|line| line.strip_prefix(field));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask >> (signal as i32 - 1) & 1 == 1)
    };
    has("SigCgt:") && !has("SigBlk:")
}

/// A line of `stat`. The name stands in parentheses and may hold anything, parentheses too: what counts is behind
/// the last one.
fn parse(line: &str) -> Option<Process> {
    let pid = line.split(' ').next()?.parse().ok()?;
    let fields: Vec<&str> = line[line.rfind(')')? + 1..].split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let id = |at: usize| Some(Pid::from_raw(fields.get(at)?.parse().ok()?));
    Some(Process {
        pid: Pid::from_raw(pid),
        parent: id(1)?,
        group: id(2)?,
        session: id(3)?,
        dead: matches!(*fields.first()?, "Z" | "X" | "x"),
        cpu_ticks: number(11)? + number(12)?,
        started_ticks: number(19)?,
    })
}

#[cfg(test)]
mod tests {
    use nix::unistd::{getpgrp, getppid, getsid};

    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let line = "42 (a) Z 1 (b) S 7 42 40 0 -1 4194560 1 0 0 0 12 30 0 0 20 0 1 0 9876 1 2 3";
        let process = parse(line).unwrap();
        let pid = Pid::from_raw;
        assert_eq!((process.pid, process.parent), (pid(42), pid(7)));
        assert_eq!((process.group, process.session), (pid(42), pid(40)));
        assert_eq!((process.cpu_ticks, process.started_ticks, process.dead), (42, 9876, false));
        assert!(parse(&line.replace(") S 7", ") Z 7")).unwrap().dead);
        for bad in ["", "42", "42 (x", "42 (x) S 7", "x (x) S 7 42 40"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn this_process_is_found() {
        let me = Process::read(Pid::this()).unwrap();
        assert_eq!((me.parent, me.group, me.session), (getppid(), getpgrp(), getsid(None).unwrap()));
        assert!(Process::all().iter().any(|process| process.pid == me.pid));
        assert!(is_alive(Pid::this()) && !title(Pid::this()).is_empty());
        // Rust's own, for stack overflows.
        assert!(hears(Pid::this(), Signal::SIGSEGV) && !hears(Pid::this(), Signal::SIGURG));
    }
}
