//! The run: twenty upgrades under load, and two generations that are killed.

use std::net::SocketAddr;
use std::time::SystemTime;

use nix::sys::signal::Signal;

use super::books::{self, Crashed};
use super::dashboard;
use super::harness::{Exuvia, eventually, is_alive, signal};
use super::held::{self, Held};
use super::load::{Both, Load};
use super::queries;
use super::rules;
use super::samples::Samples;
use super::server::Prometheus;
use super::tool::lint;
use super::traffic::{Client, get};

const UPGRADES: u64 = 20;

/// Which generation is killed while it drains.
const DRAINS_AND_DIES: u64 = 10;

/// A scrape falls into each probation, and finds another process than the one before.
const PROBATION: &str = "1s";
/// Long enough for something to be done in it, however slow the machine is.
const LONG_PROBATION: &str = "10s";

fn settings(probation: &str) -> String {
    format!(
        "workers = 2\n[restart]\nprobation = \"{probation}\"\nmax_generations = 64\n\
         [drain]\ntimeout = \"10m\"\nidle_grace = \"10m\"\n[admin]\naddress = \"127.0.0.1:0\"\n"
    )
}

/// Each of the two who were killed had these.
fn crashed(deaths: u64) -> Crashed {
    Crashed {
        http1_requests: deaths * held::REQUESTS,
        http2_requests: deaths * held::STREAMS,
        http1_connections: deaths * (held::REQUESTS + held::IDLE),
        http2_connections: deaths,
    }
}

/// An exuvia that is scraped, and what its clients have done.
struct Run {
    exuvia: Exuvia,
    admin: SocketAddr,
    prometheus: Prometheus,
    made: Both,
}

pub fn twenty_upgrades_and_two_deaths() {
    let exuvia = Exuvia::start(&settings(PROBATION));
    let admin = exuvia.status()["admin"].as_str().unwrap().parse().unwrap();
    let (prometheus, begun) = (Prometheus::start(admin), SystemTime::now());
    let mut run = Run { exuvia, admin, prometheus, made: Both::default() };

    let mut load = Load::start(run.exuvia.address());
    for generation in 2..=UPGRADES {
        if generation == DRAINS_AND_DIES + 1 {
            run.dies_while_it_drains(generation, &load);
            continue;
        }
        if generation == UPGRADES {
            // For the next ones.
            run.exuvia.set(&settings(LONG_PROBATION));
        }
        run.exuvia.upgrade();
        load.reaches(generation);
    }
    run.made += load.finish();
    run.dies_in_probation();

    load = Load::start(run.exuvia.address());
    run.exuvia.upgrade();
    // The number of the one that died is not given again.
    assert_eq!(run.exuvia.generation(), UPGRADES + 2);
    load.reaches(UPGRADES + 2);
    run.made += load.finish();

    run.ends_of_every_kind();
    let now = run.quiet();
    books::never_reset(&run.prometheus);
    books::add_up(&now, run.made, crashed(2));
    run.both_formats_say_the_same();
    run.dies_under_load(&now);
    books::never_reset(&run.prometheus);
    books::owners(&run.prometheus, UPGRADES);
    rules::were_evaluated(&run.prometheus);
    dashboard::shows_something_everywhere(&run.prometheus, begun);
    queries::give_something(&run.prometheus, begun, &queries::of_the_page());
    assert_eq!(run.exuvia.stop(), 0);
}

impl Run {
    fn page(&self) -> String {
        String::from_utf8(get(self.admin, "/metrics").unwrap().body).unwrap()
    }

    #[track_caller]
    fn kill(&self, pid: i32) {
        signal(pid, Signal::SIGKILL);
        eventually("the killed process is gone", || (!is_alive(pid)).then_some(()));
    }

    /// Opens connections and waits until everything on them is in flight, and nothing else of their generation.
    fn hold(&mut self) -> Held {
        let (held, made) = Held::open(self.exuvia.address());
        self.made += made;
        held
    }

    /// Waits until a generation has these connections only.
    #[track_caller]
    fn wait_only(&self, held: &Held) {
        let generation = held.generation().to_string();
        let mine = |page: &Samples, name: &str, label: (&str, &str)| {
            page.sum(name, &[("generation", &*generation), label])
        };
        eventually("it has nothing but what is held", || {
            let page = Samples::of_page(&self.page());
            let open = |kind| mine(&page, "exuvia_generation_connections_open", ("kind", kind));
            let asked =
                |protocol| mine(&page, "exuvia_generation_requests_in_flight", ("protocol", protocol));
            let as_held = (open("http1"), open("http2")) == (held::REQUESTS + held::IDLE, 1)
                && (asked("http1"), asked("http2")) == (held::REQUESTS, held::STREAMS);
            as_held.then_some(())
        });
    }

    /// A generation drains, and is killed with connections that it still has.
    fn dies_while_it_drains(&mut self, next: u64, load: &Load) {
        let held = self.hold();
        let pid = self.exuvia.pid();
        assert_eq!(held.generation(), next - 1);
        self.exuvia.upgrade();
        load.reaches(next);
        self.wait_only(&held);
        lint(&self.page());
        // Those that wait for the answer see its end.
        self.prometheus.wait_scrape();
        self.kill(pid);
        held.have_failed();
        eventually("its successor knows it", || (self.exuvia.generations().len() == 1).then_some(()));
    }

    /// A new generation is killed in its probation. What it had was of those who are held alone.
    fn dies_in_probation(&mut self) {
        let owner = self.exuvia.pid();
        let upgrade = self.exuvia.begin(&["upgrade"]);
        self.exuvia.wait_phase("probation");
        let held = self.hold();
        let child = self.exuvia.pid_of(held.generation());
        assert_ne!(child, owner);
        self.wait_only(&held);
        lint(&self.page());
        // So that no scrape is asking it when it dies.
        self.prometheus.wait_scrape();
        self.kill(child);
        upgrade.answer().failed_with(&["probation"]);
        held.have_failed();
        assert_eq!(self.exuvia.pid(), owner);
    }

    /// Answers that are no 200, for whoever shows them.
    fn ends_of_every_kind(&mut self) {
        let mut client = Client::connect(self.exuvia.address()).unwrap();
        for status in [204, 302, 404, 503] {
            assert_eq!(client.get(&format!("/status?code={status}")).unwrap().status, status);
            self.made.http1.answered += 1;
        }
        self.made.http1.connections += 1;
    }

    /// The counters when all clients have gone.
    #[track_caller]
    fn quiet(&self) -> Samples {
        eventually("every connection has ended", || {
            let page = Samples::of_page(&self.page());
            (page.sum("exuvia_connections_open", &[]) == 0).then_some(())
        });
        self.prometheus.wait_fresh();
        self.prometheus.query("{__name__=~\"exuvia_.*\"}")
    }

    /// Prometheus asks for OpenMetrics; others read the older format.
    fn both_formats_say_the_same(&self) {
        let metadata = self.prometheus.ask("targets/metadata", &[]).unwrap();
        let families: Vec<&str> =
            metadata.as_array().unwrap().iter().filter_map(|one| one["metric"].as_str()).collect();
        // OpenMetrics alone names a counter's family so.
        assert!(families.contains(&"exuvia_requests"), "{families:?}");
        let stable = |page: &str| -> Samples {
            let mut samples = Samples::of_page(page);
            samples.0.retain(|sample| !sample.name.starts_with("exuvia_process_"));
            for sample in &mut samples.0 {
                // 1 and 1.0 are the same bound.
                if let Some(bound) = sample.labels.get_mut("le") {
                    *bound = format!("{:?}", bound.parse::<f64>().unwrap());
                }
            }
            samples.0.sort_by_key(|sample| format!("{sample:?}"));
            samples
        };
        let request = "GET /metrics HTTP/1.1\r\nHost: test\r\nAccept: application/openmetrics-text\r\n\r\n";
        // The workers look at their lag twice a second: what was the same before and after was so in between.
        let (text, open) = eventually("nothing moves between the pages", || {
            let (before, mut client) = (self.page(), Client::connect(self.admin).unwrap());
            client.send(request.as_bytes()).unwrap();
            let open = String::from_utf8(client.response().unwrap().body).unwrap();
            (stable(&self.page()) == stable(&before)).then_some((before, open))
        });
        assert!(open.ends_with("# EOF\n") && !text.contains("# EOF"));
        assert_eq!(stable(&open), stable(&text));
    }

    /// The same in the middle of everything: who was being answered at that moment is not known to the unit, but no more
    /// can be in doubt than have failed.
    fn dies_under_load(&mut self, before: &Samples) {
        let old = Load::start(self.exuvia.address());
        let upgrade = self.exuvia.begin(&["upgrade"]);
        self.exuvia.wait_phase("probation");
        let newest = self.exuvia.generations().into_iter().max().unwrap();
        // Who has a connection to the old generation keeps it.
        let new = Load::start(self.exuvia.address());
        new.reaches(newest.0);
        self.prometheus.wait_scrape();
        self.kill(newest.1);
        upgrade.answer().failed_with(&["probation"]);
        let mut failures = Vec::new();
        for load in [old, new] {
            let (made, failed) = load.end();
            self.made += made;
            failures.extend(failed);
        }
        let now = self.quiet();
        books::balance(&now);
        let ended = |samples: &Samples, end| samples.sum("exuvia_requests_ended_total", &[("end", end)]);
        let crashed = ended(&now, "crashed") - ended(before, "crashed");
        // An answer may have been given, and not have arrived.
        let lost = ended(&now, "answered") - self.made.http1.answered - self.made.http2.answered;
        assert!(crashed + lost <= failures.len() as u64, "{crashed} + {lost}, {failures:#?}");
        let gone = now.sum("exuvia_connections_ended_total", &[("end", "crashed")]);
        assert!(gone >= before.sum("exuvia_connections_ended_total", &[("end", "crashed")]));
        let all = now.sum("exuvia_requests_ended_total", &[]);
        assert_eq!(all, ended(&now, "answered") + ended(&now, "crashed"), "there are other ends");
    }
}
