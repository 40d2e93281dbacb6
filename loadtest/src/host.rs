//! The machine: what it is, and how many connections it allows.

use std::fs;
use std::thread::available_parallelism;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::utsname::uname;
use nix::unistd::Pid;

use crate::scenario::Scenario;

/// Descriptors that a thread and the program need beside connections.
const BESIDE: u64 = 100;

/// The kernel's name and release: `Linux 6.1.0`.
#[must_use]
pub fn kernel() -> String {
    uname().map_or_else(
        |_| String::new(),
        |name| format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy()),
    )
}

/// The processor's name; empty where the kernel does not tell it (proc_cpuinfo(5)).
#[must_use]
pub fn cpu() -> String {
    field("/proc/cpuinfo", "model name").unwrap_or_default()
}

/// How many processors this process may use.
#[must_use]
pub fn cpus() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// The main memory in bytes; 0 if it is not known (proc_meminfo(5)).
#[must_use]
pub fn memory_bytes() -> u64 {
    let text = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let kibibytes = text.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
    kibibytes.map_or(0, |number| number * 1024)
}

/// The value of the first line `name: value` of a file.
fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let (_, value) =
        text.lines().find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == name))?;
    Some(value.trim().to_owned())
}

/// Leaves the last of the processors that this process may use to somebody else: from now on it, and what it starts,
/// uses the others. Gives it; `None` if there is only one, so that all must share it, or the kernel refuses.
#[must_use]
pub fn leave_a_cpu() -> Option<usize> {
    let allowed = sched_getaffinity(Pid::this()).ok()?;
    let allowed: Vec<usize> = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu) == Ok(true)).collect();
    let (last, others) = allowed.split_last().filter(|(_, others)| !others.is_empty())?;
    let mut set = CpuSet::new();
    others.iter().try_for_each(|cpu| set.set(*cpu)).ok()?;
    sched_setaffinity(Pid::this(), &set).ok()?;
    Some(*last)
}

/// Allows this process, and those that it starts, as many descriptors as the system does. Gives how many.
///
/// # Errors
///
/// The kernel refuses.
pub fn allow_descriptors() -> Result<u64, String> {
    let (_, most) =
        getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| format!("no limit is known: {error}"))?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)
        .map_err(|error| format!("cannot raise the limit of open files to {most}: {error}"))?;
    Ok(most)
}

/// The same, and says if a scenario needs more.
///
/// # Errors
///
/// That, with the way out.
pub fn allow_connections(scenario: &Scenario) -> Result<(), String> {
    let most = allow_descriptors()?;
    let connections: u64 = scenario.traffic.iter().map(|traffic| traffic.connections as u64).sum();
    if connections + BESIDE > most {
        return Err(format!(
            "the scenario has {connections} connections, and a process here may open {most} files; raise the \
             limit (ulimit -Hn, LimitNOFILE=) or take fewer connections"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_known() {
        assert!(kernel().starts_with("Linux "), "{}", kernel());
        assert!(cpus() > 0 && memory_bytes() > 64 << 20);
        assert_eq!(field("/proc/meminfo", "no such field"), None);
        assert_eq!(field("/nonexistent", "x"), None);
    }

    #[test]
    fn too_many_connections_are_told_before_they_fail() {
        let text = "[[traffic]]\nkind = \"http1\"\nconnections = 100000\n";
        let many: String = (0..200).map(|at| format!("{text}name = \"n{at}\"\n")).collect();
        let error = allow_connections(&Scenario::parse(&many).unwrap()).unwrap_err();
        assert!(error.starts_with("the scenario has 20000000 connections"), "{error}");
        assert_eq!(allow_connections(&Scenario::parse(text).unwrap()).is_err(), {
            getrlimit(Resource::RLIMIT_NOFILE).unwrap().1 < 100_100
        });
    }
}
