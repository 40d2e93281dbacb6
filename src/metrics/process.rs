//! What the kernel knows of each process that is alive (proc_pid_stat(5)).

use std::fs;

use nix::unistd::{SysconfVar, sysconf};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{LabelPair, MetricFamily, MetricType};

use super::{counter, gauge, generation_of, label, named};
use crate::restart::BooksViewer;

const BUILD: (&str, &str) = ("build_info", "Always 1; the version of the program that answers.");
const STARTED: (&str, &str) =
    ("process_start_time_seconds", "When each generation that is alive was started, since the Unix epoch.");
const CPU: (&str, &str) =
    ("process_cpu_seconds_total", "Time on a CPU, user and system, of each generation that is alive.");
const MEMORY: (&str, &str) =
    ("process_resident_memory_bytes", "Resident memory of each generation that is alive.");
const DESCRIPTORS: (&str, &str) = ("process_open_fds", "Open descriptors of each generation that is alive.");
const THREADS: (&str, &str) = ("process_threads", "Threads of each generation that is alive.");

/// The name and the help of each of these metrics.
pub const ALL: [(&str, &str); 6] = [BUILD, STARTED, CPU, MEMORY, DESCRIPTORS, THREADS];

/// The processes of the generations that are alive.
pub(super) struct Processes {
    books: BooksViewer,
    version: String,
    descriptions: Vec<Desc>,
    ticks_per_second: f64,
    page_bytes: f64,
}

/// What is read of one.
struct Figures {
    cpu_seconds: f64,
    resident_bytes: f64,
    threads: f64,
}

impl Processes {
    pub(super) fn new(books: BooksViewer, version: &str) -> prometheus::Result<Processes> {
        let describe =
            |(name, help): (&str, &str)| Desc::new(name.into(), help.into(), Vec::new(), Default::default());
        let descriptions = ALL.into_iter().map(describe).collect::<prometheus::Result<Vec<Desc>>>()?;
        let system = |name, default| sysconf(name).ok().flatten().map_or(default, |value| value as f64);
        Ok(Processes {
            books,
            version: version.to_owned(),
            descriptions,
            ticks_per_second: system(SysconfVar::CLK_TCK, 100.0),
            page_bytes: system(SysconfVar::PAGE_SIZE, 4096.0),
        })
    }

    fn read(&self, pid: u32) -> Option<Figures> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the name, which may hold anything: field 3 and those after.
        let fields: Vec<f64> =
            text.rsplit_once(')')?.1.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect();
        Some(Figures {
            cpu_seconds: (fields.get(11)? + fields.get(12)?) / self.ticks_per_second,
            threads: *fields.get(17)?,
            resident_bytes: fields.get(21)? * self.page_bytes,
        })
    }
}

impl Collector for Processes {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let books = self.books.borrow().clone();
        let build = gauge(vec![label("version", &self.version)], 1.0);
        let mut families = vec![named(BUILD.0, BUILD.1, MetricType::GAUGE, vec![build])];
        let [mut started, mut cpu, mut memory, mut descriptors, mut threads] = [const { Vec::new() }; 5];
        for segment in books.alive() {
            let labels = || -> Vec<LabelPair> { vec![label("generation", &generation_of(segment))] };
            started.push(gauge(labels(), segment.table().started_ms as f64 / super::MILLISECONDS));
            // One that has died meanwhile has no more to tell.
            if let Some(figures) = self.read(segment.table().pid) {
                cpu.push(counter(labels(), figures.cpu_seconds));
                memory.push(gauge(labels(), figures.resident_bytes));
                threads.push(gauge(labels(), figures.threads));
            }
            if let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", segment.table().pid)) {
                descriptors.push(gauge(labels(), entries.count() as f64));
            }
        }
        let all = [
            (STARTED, MetricType::GAUGE, started),
            (CPU, MetricType::COUNTER, cpu),
            (MEMORY, MetricType::GAUGE, memory),
            (DESCRIPTORS, MetricType::GAUGE, descriptors),
            (THREADS, MetricType::GAUGE, threads),
        ];
        let there = all.into_iter().filter(|(_, _, metrics)| !metrics.is_empty());
        families.extend(there.map(|((name, help), kind, metrics)| named(name, help, kind, metrics)));
        families
    }
}
