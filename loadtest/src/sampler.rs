//! What processes take while there is load: CPU time and memory, from /proc.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::results::Usage;
use crate::stage::processes::Process;

/// How often memory is measured: it takes the kernel longer than CPU time does.
const MEMORY_EVERY: Duration = Duration::from_millis(500);

/// Gives the processes that belong to a group now.
pub type Source = Box<dyn FnMut() -> Vec<Pid> + Send>;

/// Watches groups of processes from its making on.
pub struct Sampler {
    began: Instant,
    last: Instant,
    memory_at: Option<Instant>,
    slice: Duration,
    ticks_per_second: f64,
    groups: Vec<Watched>,
}

struct Watched {
    source: Source,
    /// What was there when it began has used CPU time before.
    first: bool,
    /// Each process that was ever seen, by its id and its start, and what it had used when it was seen last: since
    /// nothing is taken away, what one had used that is gone counts on.
    seen: BTreeMap<(Pid, u64), u64>,
    usage: Usage,
}

impl Sampler {
    /// Begins now, without groups. `slice` is the length of the pieces into which the run is cut.
    #[must_use]
    pub fn new(slice: Duration) -> Sampler {
        let now = Instant::now();
        // 100 everywhere, but the kernel says so.
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
        let slice = slice.max(Duration::from_millis(1));
        let ticks_per_second = ticks as f64;
        Sampler { began: now, last: now, memory_at: None, slice, ticks_per_second, groups: Vec::new() }
    }

    /// Watches one more group. What its processes have used before the first sample does not count.
    pub fn watch(&mut self, name: &str, source: impl FnMut() -> Vec<Pid> + Send + 'static) {
        let usage = Usage { name: name.to_owned(), ..Usage::default() };
        let seen = BTreeMap::new();
        self.groups.push(Watched { source: Box::new(source), first: true, seen, usage });
    }

    /// Looks at all of them. To be called every 100 ms or so: what a process uses between the last look and its end
    /// is not known.
    pub fn sample(&mut self) {
        let now = Instant::now();
        let memory = self.memory_at.is_none_or(|at| now >= at);
        if memory {
            self.memory_at = Some(now + MEMORY_EVERY);
        }
        let (from, to) = (self.last - self.began, now - self.began);
        for group in &mut self.groups {
            let pids = (group.source)();
            let used = group.used(&pids) as f64 / self.ticks_per_second;
            group.usage.cpu_seconds += used;
            spread(&mut group.usage.cpu_by_slice, self.slice, from, to, used);
            if memory {
                let bytes = pids.iter().map(|pid| memory_of(*pid)).sum();
                group.usage.peak_memory_bytes = group.usage.peak_memory_bytes.max(bytes);
            }
        }
        self.last = now;
    }

    /// Looks once more, and gives what each group took. Use for each exchange is left 0, for whoever knows how many
    /// there were.
    #[must_use]
    pub fn finish(mut self) -> Vec<Usage> {
        self.sample();
        let seconds = self.slice.as_secs_f64();
        let usage = self.groups.into_iter().map(|group| group.usage);
        usage
            .map(|mut usage| {
                usage.cpu_by_slice.iter_mut().for_each(|used| *used /= seconds);
                usage
            })
            .collect()
    }
}

impl Watched {
    /// What was used since the last look, in clock ticks.
    fn used(&mut self, pids: &[Pid]) -> u64 {
        let mut used = 0;
        for process in pids.iter().filter_map(|pid| Process::read(*pid)) {
            let before = self.seen.insert((process.pid, process.started_ticks), process.cpu_ticks);
            let before = before.unwrap_or(if self.first { process.cpu_ticks } else { 0 });
            used += process.cpu_ticks.saturating_sub(before);
        }
        self.first = false;
        used
    }
}

/// Adds what was used in a span of time to the slices that it touches, each its part.
fn spread(slices: &mut Vec<f64>, slice: Duration, from: Duration, to: Duration, used: f64) {
    let (slice, from, to) = (slice.as_secs_f64(), from.as_secs_f64(), to.as_secs_f64());
    let last = (to / slice) as usize;
    if slices.len() <= last {
        slices.resize(last + 1, 0.0);
    }
    if to <= from {
        slices[last] += used;
        return;
    }
    for (at, sum) in slices.iter_mut().enumerate().skip((from / slice) as usize) {
        let (begin, end) = (at as f64 * slice, (at + 1) as f64 * slice);
        let part = (end.min(to) - begin.max(from)).max(0.0);
        *sum += used * part / (to - from);
    }
}

/// A process's memory in bytes: its proportional set size (proc_pid_smaps(5)), or where that cannot be read its
/// resident set. 0 if it is gone.
fn memory_of(pid: Pid) -> u64 {
    let read = |file: &str, field: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        kibibytes(&text, field)
    };
    read("smaps_rollup", "Pss:").or_else(|| read("status", "VmRSS:")).map_or(0, |number| number * 1024)
}

fn kibibytes(text: &str, field: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn what_is_used_belongs_to_the_slices_that_it_touches() {
        let mut slices = Vec::new();
        spread(&mut slices, seconds(0.5), seconds(0.25), seconds(1.25), 1.0);
        assert_eq!(slices, [0.25, 0.5, 0.25]);
        spread(&mut slices, seconds(0.5), seconds(1.25), seconds(1.25), 1.0);
        assert_eq!(slices, [0.25, 0.5, 1.25]);
        spread(&mut slices, seconds(0.5), seconds(1.5), seconds(2.0), 1.0);
        assert_eq!(slices, [0.25, 0.5, 1.25, 1.0, 0.0]);
    }

    #[test]
    fn a_field_is_found_by_its_name() {
        let text = "00400000-7ff rollup\nRss:    12 kB\nPss:     7 kB\nPss_Dirty:  3 kB\n";
        assert_eq!(kibibytes(text, "Pss:"), Some(7));
        assert_eq!(kibibytes(text, "VmRSS:"), None);
        assert!(memory_of(Pid::this()) > 100 * 1024);
    }

    /// A process that takes what it gets, ended whatever becomes of the test.
    struct Spinning(Child);

    impl Spinning {
        fn end(&mut self) {
            self.0.kill().ok();
            self.0.wait().unwrap();
        }
    }

    impl Drop for Spinning {
        fn drop(&mut self) {
            self.end();
        }
    }

    #[test]
    fn the_time_of_a_process_that_is_gone_is_not_lost() {
        let spin = || {
            let mut command = Command::new("sh");
            Spinning(command.args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().unwrap())
        };
        let mut child = spin();
        let pid = Pid::from_raw(child.0.id().cast_signed());
        let mut sampler = Sampler::new(Duration::from_millis(200));
        sampler.watch("proxy", move || vec![pid]);
        sampler.watch("witness", || vec![Pid::this()]);
        // The first look sets the mark; until it has used so much, on a machine however busy.
        sampler.sample();
        let give_up = Instant::now() + Duration::from_secs(60);
        while sampler.groups[0].usage.cpu_seconds < 0.2 {
            assert!(Instant::now() < give_up, "it does not run");
            std::thread::sleep(Duration::from_millis(20));
            sampler.sample();
        }
        child.end();
        sampler.sample();
        let usage = sampler.finish();
        assert_eq!((usage[0].name.as_str(), usage[1].name.as_str()), ("proxy", "witness"));
        assert!(usage[0].cpu_seconds >= 0.2, "{usage:?}");
        assert!(usage.iter().all(|one| one.peak_memory_bytes > 0), "{usage:?}");
        let sum: f64 = usage[0].cpu_by_slice.iter().sum::<f64>() * 0.2;
        assert!((sum - usage[0].cpu_seconds).abs() < 1e-6, "{usage:?}");
    }
}
