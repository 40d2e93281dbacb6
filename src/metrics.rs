//! What all generations count, as Prometheus reads it.
//!
//! ```text
//! segments of all generations ─► totals by series ─► families, by the tables of those who count ─► text
//! ```
//!
//! A module that counts has a table of [`Family`]s beside its code: the name, what it means, and how the series of the
//! segments become it. A series that is in no table, such as one of another version, is added up and carried all the
//! same; it is just not shown.

mod openmetrics;
mod process;

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Registry, TextEncoder};

use crate::restart::{Books, BooksViewer, Segment, Series, Totals};

pub use process::ALL as PROCESSES;

/// What stands before every name.
const PREFIX: &str = "exuvia";

/// One metric: its name without the prefix, its help, and where its values come from.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The name by the conventions of Prometheus.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Where the values come from.
    pub source: Source,
}

/// How series of the segments become a metric: their name, and how many of what they count make one of the metric's
/// unit.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// The sum of counters over all processes, the dead included.
    Counter(&'static str, f64),
    /// The sum of gauges over the processes that are alive.
    Gauge(&'static str),
    /// The gauges of the process that answers.
    Own(&'static str, f64),
    /// The highest of the gauges of the processes that are alive, such as the time of what was last.
    Highest(&'static str, f64),
    /// What began, is counted in counters of this name, and has not ended.
    Open(&'static str),
    /// The same for each generation that is alive.
    OpenByGeneration(&'static str),
    /// Gauges of each generation that is alive.
    ByGeneration(&'static str),
    /// For each generation that has set the gauge, a time in milliseconds since the Unix epoch, how many seconds are left
    /// until then.
    Until(&'static str),
    /// A histogram.
    Histogram(&'static str, f64),
}

/// A second.
pub const NANOSECONDS: f64 = 1e9;
/// A second.
pub const MILLISECONDS: f64 = 1e3;
/// What is counted is what is shown.
pub const ONE: f64 = 1.0;

/// A text format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The text format of Prometheus, version 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What a client wants that sends this `Accept`.
    pub fn wanted(accept: &str) -> Format {
        let wants = |part: &str| {
            let (kind, parameters) = part.split_once(';').unwrap_or((part, ""));
            let refused = parameters.split(';').any(|parameter| parameter.trim() == "q=0");
            kind.trim().eq_ignore_ascii_case("application/openmetrics-text") && !refused
        };
        if accept.split(',').any(wants) { Format::OpenMetrics } else { Format::Text }
    }

    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Turns what is counted into text. Cheap to clone, and may be used on any thread.
#[derive(Clone, Debug)]
pub struct Exposition {
    registry: Registry,
}

impl Exposition {
    /// Of all that is in `books`, by the tables in `families`. An error is a name that is none, or is there twice.
    pub fn new(
        books: BooksViewer,
        families: impl IntoIterator<Item = Family>,
        version: &str,
    ) -> prometheus::Result<Exposition> {
        let registry = Registry::new_custom(Some(PREFIX.to_owned()), None)?;
        let families: Vec<Family> = families.into_iter().collect();
        let describe = |family: &Family| {
            Desc::new(family.name.into(), family.help.into(), Vec::new(), Default::default())
        };
        let descriptions = families.iter().map(describe).collect::<prometheus::Result<Vec<Desc>>>()?;
        registry.register(Box::new(Segments { books: books.clone(), families, descriptions }))?;
        registry.register(Box::new(process::Processes::new(books, version)?))?;
        Ok(Exposition { registry })
    }

    /// All metrics as they are now.
    pub fn render(&self, format: Format) -> prometheus::Result<String> {
        let families = self.registry.gather();
        match format {
            Format::Text => TextEncoder::new().encode_to_string(&families),
            Format::OpenMetrics => Ok(openmetrics::encode(&families)),
        }
    }
}

/// The segments of all generations as a collector.
struct Segments {
    books: BooksViewer,
    families: Vec<Family>,
    descriptions: Vec<Desc>,
}

impl Collector for Segments {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let books = self.books.borrow().clone();
        let snapshot = Snapshot {
            totals: books.totals(),
            own: books.own().map(|own| Books::only(own).totals()).unwrap_or_default(),
            alive: books
                .alive()
                .map(|segment| (generation_of(segment), Books::only(segment).totals()))
                .collect(),
            now_ms: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as f64,
        };
        self.families.iter().filter_map(|family| snapshot.family(family)).collect()
    }
}

fn generation_of(segment: &Segment) -> String {
    segment.table().generation.to_string()
}

/// All values at one moment.
struct Snapshot {
    totals: Totals,
    own: Totals,
    alive: Vec<(String, Totals)>,
    now_ms: f64,
}

impl Snapshot {
    /// `None` if there is nothing of it.
    fn family(&self, family: &Family) -> Option<MetricFamily> {
        let gauges = |totals: &Totals, name: &str, generation: Option<&str>, per: f64| -> Vec<Metric> {
            let values = totals.named(name).map(|(series, total)| (series, total.value.cast_signed()));
            values.map(|(series, value)| gauge(labels(series, generation), value as f64 / per)).collect()
        };
        let open = |totals: &Totals, name: &str, generation: Option<&str>| -> Vec<Metric> {
            let open = totals.open(name);
            // The parts are not read in one moment: what ends meanwhile must not make less than nothing.
            open.iter()
                .map(|(series, value)| gauge(labels(series, generation), (*value).max(0) as f64))
                .collect()
        };
        let by_generation = |metrics: &dyn Fn(&str, &Totals) -> Vec<Metric>| -> Vec<Metric> {
            self.alive.iter().flat_map(|(generation, totals)| metrics(generation, totals)).collect()
        };
        let (kind, metrics) = match family.source {
            Source::Counter(name, per) => (
                MetricType::COUNTER,
                self.totals
                    .named(name)
                    .map(|(series, total)| counter(labels(series, None), total.value as f64 / per))
                    .collect(),
            ),
            Source::Gauge(name) => (MetricType::GAUGE, gauges(&self.totals, name, None, ONE)),
            Source::Own(name, per) => (MetricType::GAUGE, gauges(&self.own, name, None, per)),
            Source::Highest(name, per) => {
                let all = self.alive.iter().flat_map(|(_, totals)| totals.named(name));
                let highest = all.max_by_key(|(_, total)| total.value).filter(|(_, total)| total.value > 0);
                let metric = highest.map(|(series, total)| {
                    gauge(labels(series, None), total.value.cast_signed() as f64 / per)
                });
                (MetricType::GAUGE, metric.into_iter().collect())
            }
            Source::Open(name) => (MetricType::GAUGE, open(&self.totals, name, None)),
            Source::OpenByGeneration(name) => {
                (MetricType::GAUGE, by_generation(&|generation, totals| open(totals, name, Some(generation))))
            }
            Source::ByGeneration(name) => (
                MetricType::GAUGE,
                by_generation(&|generation, totals| gauges(totals, name, Some(generation), ONE)),
            ),
            Source::Until(name) => (
                MetricType::GAUGE,
                by_generation(&|generation, totals| {
                    let due = totals.named(name).filter(|(_, total)| total.value > 0);
                    let left = |due: u64| ((due as f64 - self.now_ms) / MILLISECONDS).max(0.0);
                    due.map(|(series, total)| gauge(labels(series, Some(generation)), left(total.value)))
                        .collect()
                }),
            ),
            Source::Histogram(name, per) => (MetricType::HISTOGRAM, histograms(&self.totals, name, per)),
        };
        (!metrics.is_empty()).then(|| named(family.name, family.help, kind, metrics))
    }
}

fn named(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn labels(series: &Series, generation: Option<&str>) -> Vec<LabelPair> {
    let generation = generation.map(|generation| ("generation", generation));
    // To Prometheus a label without a value is none.
    let labels = series.labels().chain(generation).filter(|(_, value)| !value.is_empty());
    labels.map(|(name, value)| label(name, value)).collect()
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

fn counter(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

fn gauge(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}

/// Puts the parts together again; see `Plan::histogram`.
fn histograms(totals: &Totals, name: &str, per: f64) -> Vec<Metric> {
    #[derive(Default)]
    struct Parts {
        /// By upper bound, in what is counted.
        buckets: BTreeMap<u64, u64>,
        above: u64,
        sum: u64,
    }
    let mut parts: BTreeMap<Vec<(&str, &str)>, Parts> = BTreeMap::new();
    let (bucket_name, sum_name) = (format!("{name}_bucket"), format!("{name}_sum"));
    for (series, total) in totals.named(&bucket_name) {
        let labels = series.labels().filter(|(name, _)| *name != "le").collect();
        let parts = parts.entry(labels).or_default();
        match series.label("le").and_then(|bound| bound.parse().ok()) {
            Some(bound) => *parts.buckets.entry(bound).or_default() += total.value,
            None => parts.above += total.value,
        }
    }
    for (series, total) in totals.named(&sum_name) {
        parts.entry(series.labels().collect()).or_default().sum += total.value;
    }
    let metric = |(labels, parts): (Vec<(&str, &str)>, Parts)| {
        let mut count = 0;
        let mut buckets = Vec::new();
        for (bound, n) in parts.buckets {
            count += n;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound as f64 / per);
            bucket.set_cumulative_count(count);
            buckets.push(bucket);
        }
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(count + parts.above);
        histogram.set_sample_sum(parts.sum as f64 / per);
        let mut metric =
            Metric::from_label(labels.into_iter().map(|(name, value)| label(name, value)).collect());
        metric.set_histogram(histogram);
        metric
    };
    parts.into_iter().map(metric).collect()
}

/// What the core counts.
pub const CORE: &[Family] = &[
    Family {
        name: "connections_total",
        help: "Connections that began, by kind. One that goes on as another kind begins anew as that.",
        source: Source::Counter("connections_total", ONE),
    },
    Family {
        name: "connections_ended_total",
        help: "Connections that ended, by kind and how. Began = open + ended, whatever happens to a process.",
        source: Source::Counter("connections_ended_total", ONE),
    },
    Family {
        name: "connections_open",
        help: "Connections that are open, by kind.",
        source: Source::Open("connections_total"),
    },
    Family {
        name: "connections_active",
        help: "Of the open connections, those with something in flight.",
        source: Source::Gauge("connections_active"),
    },
    Family {
        name: "generation_connections_open",
        help: "Open connections of each generation that is alive.",
        source: Source::OpenByGeneration("connections_total"),
    },
    Family {
        name: "generation_connections_active",
        help: "Of the open connections of each generation that is alive, those with something in flight.",
        source: Source::ByGeneration("connections_active"),
    },
    Family {
        name: "accept_errors_total",
        help: "Times that accepting failed for want of descriptors or memory.",
        source: Source::Counter("accept_errors_total", ONE),
    },
    Family {
        name: "accept_pauses_total",
        help: "Times that accepting paused because a worker had as many connections as it may have.",
        source: Source::Counter("accept_pauses_total", ONE),
    },
    Family {
        name: "upgrades_total",
        help: "Upgrades by how they ended, and the step at which they failed.",
        source: Source::Counter("upgrades_total", ONE),
    },
    Family {
        name: "upgrade_duration_seconds",
        help: "From the request to the new process being ready (ready), from the end of its probation to its being \
               the owner (commit), and from the request to the commit (all).",
        source: Source::Histogram("upgrade_duration", NANOSECONDS),
    },
    Family {
        name: "drain_duration_seconds",
        help: "How long generations drained that are gone.",
        source: Source::Histogram("drain_duration", NANOSECONDS),
    },
    Family {
        name: "generation",
        help: "The number of the generation that answers.",
        source: Source::Own("generation", ONE),
    },
    Family {
        name: "owner_since_timestamp_seconds",
        help: "When the generation that serves became the owner: the time of the start or of the last upgrade that \
               succeeded.",
        source: Source::Highest("owner_since_ms", MILLISECONDS),
    },
    Family {
        name: "generations",
        help: "Generations that are alive, by what they are doing.",
        source: Source::Gauge("generations"),
    },
    Family {
        name: "generation_drain_seconds_left",
        help: "Until what is left of a generation that drains is cut.",
        source: Source::Until("drain_deadline_ms"),
    },
];

#[cfg(test)]
mod tests;
