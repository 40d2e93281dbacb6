//! What a line looks like beside what tracing makes of an event: the priority for the journal, and how many lines of
//! its kind were suppressed before it.

use std::fmt::{self, Write};
use std::sync::Arc;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::Style;
use super::journal::prefix;
use super::thinning::Thinning;

/// Formats an event, unless its kind is to be thinned.
pub(super) struct Lines<F> {
    pub(super) format: F,
    pub(super) thinning: Arc<Thinning>,
    pub(super) style: Style,
}

impl<S, N, F> FormatEvent<S, N> for Lines<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(suppressed) = self.thinning.admit(event) else { return Ok(()) };
        if suppressed == 0 && !self.style.journal {
            return self.format.format_event(context, writer, event);
        }
        let mut text = String::new();
        self.format.format_event(context, Writer::new(&mut text), event)?;
        if suppressed > 0 {
            add_suppressed(&mut text, suppressed, self.style.json)?;
        }
        write_lines(&mut writer, &text, *event.metadata().level(), self.style)
    }
}

/// Adds one more field at the end of a line.
fn add_suppressed(line: &mut String, suppressed: u64, json: bool) -> fmt::Result {
    line.truncate(line.trim_end().len());
    if json && line.ends_with('}') {
        line.pop();
        write!(line, ",\"suppressed\":{suppressed}}}")
    } else {
        write!(line, " suppressed={suppressed}")
    }
}

/// Writes a text of one line or more; in the journal each has the priority.
pub(super) fn write_lines(writer: &mut impl Write, text: &str, level: Level, style: Style) -> fmt::Result {
    let prefix = if style.journal { prefix(level) } else { "" };
    text.lines().try_for_each(|line| writeln!(writer, "{prefix}{line}"))
}

/// The message alone behind a name, for what a person reads on a terminal.
pub(super) struct Plain {
    pub(super) name: &'static str,
}

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "{}: ", self.name)?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: Style = Style { json: false, journal: false, ansi: false };

    #[test]
    fn each_line_of_a_text_has_its_priority_in_the_journal() {
        let written = |style, level| {
            let mut text = String::new();
            write_lines(&mut text, "one\ntwo\n", level, style).unwrap();
            text
        };
        let journal = Style { journal: true, ..TEXT };
        assert_eq!(written(TEXT, Level::WARN), "one\ntwo\n");
        assert_eq!(written(journal, Level::ERROR), "<3>one\n<3>two\n");
        assert_eq!(written(journal, Level::WARN), "<4>one\n<4>two\n");
        assert_eq!(written(journal, Level::INFO), "<6>one\n<6>two\n");
        assert_eq!(written(journal, Level::TRACE), "<7>one\n<7>two\n");
    }

    #[test]
    fn a_line_says_how_many_were_suppressed_before_it() {
        let added = |line: &str, json| {
            let mut line = line.to_owned();
            add_suppressed(&mut line, 17, json).unwrap();
            line
        };
        assert_eq!(added("WARN it failed server=a\n", false), "WARN it failed server=a suppressed=17");
        assert_eq!(added("{\"level\":\"WARN\"}\n", true), "{\"level\":\"WARN\",\"suppressed\":17}");
    }
}
