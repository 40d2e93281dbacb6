//! What is shown while it goes on, on standard error: a bar on a terminal, a line now and then elsewhere.

use std::io::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use loadtest::now::Now;
use loadtest::run::Tick;
use loadtest::table::text::{count, sensible};
use loadtest::witness::Phase;

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Over which time the rate is measured.
const RATE_OVER: Duration = Duration::from_secs(1);

/// What is shown.
pub(super) struct Screen {
    bar: ProgressBar,
    title: String,
    quiet: bool,
    duration: Duration,
    /// When the next line is due.
    next_line: Duration,
    /// Exchanges at some moments, the last second of them.
    counted: Vec<(Duration, u64)>,
}

impl Screen {
    pub(super) fn new(duration: Duration, quiet: bool) -> Screen {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if !quiet {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        let style =
            ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        Screen { bar, title: String::new(), quiet, duration, next_line: Duration::ZERO, counted: Vec::new() }
    }

    /// The same, with something before each line.
    pub(super) fn with_title(self, title: String) -> Screen {
        Screen { title, ..self }
    }

    /// What is being done before or after the load.
    pub(super) fn step(&mut self, step: &str) {
        let text = format!("{}{step}", self.title);
        if self.bar.is_hidden() {
            self.line(&text);
        }
        self.bar.set_message(text);
    }

    /// How the load goes.
    pub(super) fn tick(&mut self, tick: Tick, now: &Now) {
        if self.bar.length().is_none() {
            let template = "{bar:20} {msg}";
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            self.bar.set_style(style.progress_chars("━━─"));
            self.bar.set_length(millis(self.duration));
        }
        let text = self.text(tick, now);
        self.bar.set_position(millis(tick.elapsed.min(self.duration)));
        if self.bar.is_hidden() && tick.load && tick.elapsed >= self.next_line {
            self.next_line = tick.elapsed + LINE_EVERY;
            self.line(&text);
        }
        self.bar.set_message(text);
    }

    /// Takes it away.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    fn text(&mut self, tick: Tick, now: &Now) -> String {
        let so_far = tick.so_far;
        let done = so_far.ok + so_far.failed;
        self.counted.push((tick.elapsed, done));
        let recent = self.counted.iter().position(|(at, _)| *at + RATE_OVER >= tick.elapsed).unwrap_or(0);
        self.counted.drain(..recent);
        let (since, before) = self.counted.first().copied().unwrap_or_default();
        let seconds = (tick.elapsed - since).as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "shown with a few digits")]
        let rate = if seconds > 0.0 { (done - before) as f64 / seconds } else { 0.0 };
        let moment = now.moment();
        let phase = match moment.phase {
            Phase::Steady => String::new(),
            phase => format!(" {}", phase.label()),
        };
        let time = format!("{:.0}/{:.0} s", tick.elapsed.as_secs_f64(), self.duration.as_secs_f64());
        let end = if tick.load { "" } else { ", finishing what is under way" };
        format!(
            "{}{time}  upgrade {}{phase}  {}/s  p50 {} p99 {} ms  {} failed, {} disturbed{end}",
            self.title,
            moment.upgrade,
            sensible(rate),
            sensible(so_far.p50),
            sensible(so_far.p99),
            count(so_far.failed),
            count(so_far.disturbances),
        )
    }

    fn line(&self, text: &str) {
        if !self.quiet {
            // Nobody reads it: nothing to be done.
            writeln!(std::io::stderr(), "{text}").ok();
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
