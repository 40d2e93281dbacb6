//! How everything is logged, so that no log line can stop a worker or the control thread.
//!
//! ```text
//! tracing event ─► thinning ─► formatted ─┐
//! what a child wrote ─────────────────────┼─► bounded queue ─► writer thread ─► standard error
//! why the process ends ───────────────────┘
//! ```
//!
//! Whoever logs puts a line into a bounded [`Queue`] and goes on; a thread of its own writes. Lines that do not fit are
//! dropped and counted, and the log says how many as soon as there is room again. Lines of the same kind are
//! [thinned](thinning): a dead server is worth one line a second, not one for each request.
//!
//! **Invariant**: apart from the writer's thread, nothing in a process that serves writes to its standard output or
//! standard error.
//!
//! The order of lines is kept within a process. What is queued is written before the process ends, for at most
//! [`FLUSH_TIMEOUT`]: see [`Log::finish`].

mod journal;
mod lines;
mod output;
mod queue;
mod thinning;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic;
use std::sync::Arc;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::format::{DefaultFields, Format, JsonFields};
use tracing_subscriber::fmt::{FormatEvent, FormatFields, Layer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry};

use crate::metrics::{Family, ONE, Source};
use crate::restart::{Driver, Plan, Slot, StandardError};
use lines::{Lines, Plain};
use output::{Mover, Output};
use queue::{Queue, Writer};
use thinning::Thinning;

/// How long the end of a process waits for its queued lines to be written. Whoever does not read standard error must
/// not keep a process alive.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The metrics of the log.
pub const FAMILIES: &[Family] = &[
    Family {
        name: "log_lines_dropped_total",
        help: "Log lines that were not written, because standard error was not read fast enough or failed.",
        source: Source::Counter("log_lines_dropped_total", ONE),
    },
    Family {
        name: "log_lines_suppressed_total",
        help: "Log lines that were left out because another one of the same kind was written less than a second before.",
        source: Source::Counter("log_lines_suppressed_total", ONE),
    },
];

/// The places of the log's counters.
#[derive(Debug)]
pub struct Columns {
    dropped: Slot,
    suppressed: Slot,
}

impl Columns {
    /// Plans them.
    pub fn plan(plan: &mut Plan) -> Columns {
        Columns {
            dropped: plan.counter("log_lines_dropped_total", &[]),
            suppressed: plan.counter("log_lines_suppressed_total", &[]),
        }
    }
}

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// One JSON document a line.
    pub json: bool,
    /// For the journal of systemd: each line has its priority, and no time, which the journal adds itself.
    pub journal: bool,
    /// With colours.
    pub ansi: bool,
}

/// The log of this process.
#[derive(Debug)]
pub struct Log {
    queue: Queue,
    thinning: Arc<Thinning>,
    mover: RefCell<Option<Mover>>,
    journal: bool,
}

impl Log {
    /// Starts the thread that writes. `lasting` is where the process will write to in the end. Until a driver says so
    /// ([`Log::serve`]) it writes to its standard error, which for a new generation is a pipe to the one before.
    pub fn start(lasting: &OwnedFd) -> io::Result<Log> {
        let (output, mover) = Output::new(io::stderr().as_fd().try_clone_to_owned()?)?;
        let thinning = Arc::new(Thinning::default());
        let (queue, items) = Queue::new();
        Writer::start(items, queue.shared(), output, thinning.clone())?;
        Ok(Log {
            queue,
            thinning,
            mover: RefCell::new(Some(mover)),
            journal: journal::is_journal(lasting.as_fd()),
        })
    }

    /// The style for a person or a collector, whichever reads `lasting`.
    pub fn style(&self, json: bool, ansi: bool) -> Style {
        Style { json, journal: self.journal, ansi: ansi && !self.journal }
    }

    /// From now on events go into this log, and panics too. `level` is a filter as `log.level` takes it.
    pub fn subscribe(&self, level: &str, style: Style) -> Result<(), String> {
        let filter = EnvFilter::try_new(level).map_err(|error| error.to_string())?;
        let text = Format::default().with_ansi(style.ansi);
        let json = Format::default().json().flatten_event(true);
        match (style.json, style.journal) {
            (false, false) => self.install(filter, DefaultFields::new(), text, style),
            (false, true) => self.install(filter, DefaultFields::new(), text.without_time(), style),
            (true, false) => self.install(filter, JsonFields::new(), json, style),
            (true, true) => self.install(filter, JsonFields::new(), json.without_time(), style),
        }?;
        log_panics();
        Ok(())
    }

    /// From now on events go into this log as messages that begin with `name`.
    pub fn subscribe_plain(&self, name: &'static str) -> Result<(), String> {
        let style = Style { json: false, journal: self.journal, ansi: false };
        self.install(LevelFilter::INFO, DefaultFields::new(), Plain { name }, style)?;
        log_panics();
        Ok(())
    }

    fn install<N, F, L>(&self, filter: L, fields: N, format: F, style: Style) -> Result<(), String>
    where
        N: for<'a> FormatFields<'a> + Send + Sync + 'static,
        F: FormatEvent<Filtered<L>, N> + Send + Sync + 'static,
        L: tracing_subscriber::Layer<Registry> + Send + Sync + 'static,
        Filtered<L>: for<'a> LookupSpan<'a>,
    {
        let lines = Lines { format, thinning: self.thinning.clone(), style };
        // A standard error that nobody reads any more is no reason to fail.
        let layer = Layer::default()
            .fmt_fields(fields)
            .event_format(lines)
            .with_ansi(style.ansi)
            .with_writer(self.queue.clone())
            .log_internal_errors(false);
        tracing_subscriber::registry().with(filter).with(layer).try_init().map_err(|error| error.to_string())
    }

    /// Logs a text that is no event, such as why the process ends.
    pub fn say(&self, text: &str) {
        let style = Style { json: false, journal: self.journal, ansi: false };
        let mut lines = String::new();
        lines::write_lines(&mut lines, text, tracing::Level::ERROR, style).ok();
        self.queue.offer(lines.into_bytes());
    }

    /// Shows a text on standard output, after what was logged before. It is lost if nobody reads standard output at
    /// that moment.
    pub fn show(&self, text: String) {
        self.queue.show(text.into_bytes());
    }

    /// What `driver` has to say of the standard error goes into this log, and what the log counts into its counters.
    pub fn serve(&self, driver: &mut Driver, columns: &Columns) {
        self.queue.count_in(driver.tally(columns.dropped));
        self.thinning.count_in(driver.tally(columns.suppressed));
        driver.set_standard_error(Relay { queue: self.queue.clone(), mover: self.mover.take().into() });
    }

    /// Writes what is queued, for at most [`FLUSH_TIMEOUT`]. The end of the log: what is logged after it is lost.
    pub fn finish(self) {
        drop(self);
    }
}

impl Drop for Log {
    /// A control thread that panics has something to say, too.
    fn drop(&mut self) {
        self.queue.finish(FLUSH_TIMEOUT);
    }
}

type Filtered<L> = tracing_subscriber::layer::Layered<L, Registry>;

/// A panic is logged as everything else is: to write to standard error at once could block the thread for ever, and
/// nobody would learn that it has died.
fn log_panics() {
    panic::set_hook(Box::new(|info| {
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| format!("\n{backtrace}"));
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("?");
        tracing::error!(thread, "{info}{}", backtrace.unwrap_or_default());
    }));
}

/// The log, as the driver sees it.
struct Relay {
    queue: Queue,
    mover: RefCell<Option<Mover>>,
}

impl StandardError for Relay {
    fn pass_on(&self, text: &[u8]) {
        self.queue.offer(text.to_vec());
    }

    fn release(&self, to: OwnedFd, unread: OwnedFd) {
        if let Some(mover) = self.mover.take() {
            mover.move_to(to, unread);
            self.queue.wake();
        }
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").finish_non_exhaustive()
    }
}
