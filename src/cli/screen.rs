//! What a command prints: lines for people and for pipes, and on a terminal one line that changes, or all of them.

use std::fmt::{self, Display};
use std::io::{self, IsTerminal, Write};

use terminal_size::{Height, Width, terminal_size};

/// Standard output and standard error. That nobody reads them is no reason to stop.
#[derive(Debug)]
pub(super) struct Screen {
    /// Whether standard output can show a line that changes.
    lively: bool,
    /// Whether such a line is shown now.
    live: bool,
    /// Whether the whole terminal is taken.
    whole: bool,
}

/// How a part of a line looks on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Bold,
    Faint,
    Red,
    Green,
    Yellow,
    Blue,
    Magenta,
    /// To be seen at once.
    Alarm,
}

/// A line in parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line(Vec<(Style, String)>);

impl Line {
    pub(super) fn of(style: Style, text: impl Display) -> Line {
        let mut line = Line::default();
        line.push(style, text);
        line
    }

    pub(super) fn push(&mut self, style: Style, text: impl Display) {
        let text = text.to_string();
        match self.0.last_mut() {
            Some((last, before)) if *last == style => before.push_str(&text),
            _ => self.0.push((style, text)),
        }
    }

    /// Without style.
    pub(super) fn plain(&self) -> String {
        let text: String = self.0.iter().map(|(_, text)| text.as_str()).collect();
        harmless(text.trim_end())
    }

    /// What of it is at most so wide, cut between two words, with a sign that there was more.
    pub(super) fn cut(&self, width: usize) -> Line {
        let all: Vec<(Style, char)> =
            self.0.iter().flat_map(|(style, text)| text.chars().map(|char| (*style, char))).collect();
        let end = all.iter().rposition(|(_, char)| *char != ' ').map_or(0, |last| last + 1);
        if end <= width {
            return self.clone();
        }
        let room = width.saturating_sub(1);
        let is_gap = |at: &usize| all[*at].1 == ' ';
        // A word that fills all of it is cut after all.
        let end = (0..=room).rev().find(is_gap).filter(|at| all[..*at].iter().any(|(_, char)| *char != ' '));
        let mut line = Line::default();
        all[..end.unwrap_or(room)].iter().for_each(|(style, char)| line.push(*style, char));
        line.push(Style::Faint, if width > 0 { "…" } else { "" });
        line
    }

    /// With the terminal's codes (ECMA-48, section 8.3.117), at most so wide.
    fn styled(&self, width: usize) -> String {
        let mut room = width;
        let mut line = String::new();
        for (style, text) in &self.0 {
            let text: String = harmless(text).chars().filter(|char| *char != '\n').take(room).collect();
            room -= text.chars().count();
            line.push_str(&format!("{style}{text}"));
        }
        line + "\x1b[0m"
    }
}

impl Display for Style {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Style::Plain => "\x1b[0m",
            Style::Bold => "\x1b[0;1m",
            Style::Faint => "\x1b[0;2m",
            Style::Red => "\x1b[0;31m",
            Style::Green => "\x1b[0;32m",
            Style::Yellow => "\x1b[0;33m",
            Style::Blue => "\x1b[0;34m",
            Style::Magenta => "\x1b[0;35m",
            Style::Alarm => "\x1b[0;1;37;41m",
        })
    }
}

impl Screen {
    pub(super) fn new() -> Self {
        let smart = std::env::var_os("TERM").is_some_and(|terminal| terminal != "dumb");
        let lively = smart && io::stdout().is_terminal();
        Screen { lively, live: false, whole: false }
    }

    /// Prints a line, or several.
    pub(super) fn line(&mut self, text: &str) {
        self.clear();
        writeln!(io::stdout(), "{}", harmless(text)).ok();
    }

    /// Prints to standard error.
    pub(super) fn error(&mut self, text: &str) {
        self.clear();
        writeln!(io::stderr(), "{}", harmless(text)).ok();
    }

    /// Prints what is for programs, as it is. An error says that nobody reads it.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout();
        // Whole, and at once: the reader may act on it.
        stdout.write_all(bytes).and_then(|()| stdout.flush())
    }

    /// Whether there is a terminal that can show what changes.
    pub(super) fn is_lively(&self) -> bool {
        self.lively
    }

    /// How wide and how high it is.
    pub(super) fn size(&self) -> (usize, usize) {
        terminal_size().map_or((80, 24), |(Width(width), Height(height))| (width.into(), height.into()))
    }

    /// Takes the whole terminal, its other screen (xterm's 1049), and shows these lines on it.
    pub(super) fn frame(&mut self, lines: &[Line]) {
        let (width, height) = self.size();
        let mut text = String::new();
        if !std::mem::replace(&mut self.whole, true) {
            text.push_str("\x1b[?1049h\x1b[?25l");
        }
        text.push_str("\x1b[H");
        let lines: Vec<String> =
            lines.iter().take(height).map(|line| line.styled(width) + "\x1b[K").collect();
        text.push_str(&lines.join("\r\n"));
        text.push_str("\x1b[J");
        let mut stdout = io::stdout();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).ok();
    }

    /// Gives the terminal back as it was.
    pub(super) fn leave(&mut self) {
        if std::mem::take(&mut self.whole) {
            let mut stdout = io::stdout();
            write!(stdout, "\x1b[?25h\x1b[?1049l").and_then(|()| stdout.flush()).ok();
        }
    }

    /// On a terminal, shows a line until something else is printed.
    pub(super) fn live(&mut self, text: &str) {
        if self.lively {
            let mut stdout = io::stdout();
            // A line that is longer than the terminal is wide could not be taken back.
            let shown: String = harmless(text).chars().take(79).collect();
            write!(stdout, "\r\x1b[2K{shown}").and_then(|()| stdout.flush()).ok();
            self.live = true;
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.live) {
            let mut stdout = io::stdout();
            write!(stdout, "\r\x1b[2K").and_then(|()| stdout.flush()).ok();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
        self.clear();
    }
}

/// A text without what would move a terminal's cursor, colour it, or worse: it may have come from another
/// program's standard error.
fn harmless(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\n' | '\t' => clean.push(char),
            // A control sequence (ECMA-48, section 5.4): up to its final byte.
            '\x1b' if chars.next_if_eq(&'[').is_some() => {
                while chars.next_if(|char| !('\x40'..='\x7e').contains(char) && *char != '\n').is_some() {}
                chars.next_if(|char| *char != '\n');
            }
            char if char.is_control() => {}
            char => clean.push(char),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_played_with() {
        assert_eq!(harmless("\x1b[31mERROR\x1b[0m no\tfile\r\n"), "ERROR no\tfile\n");
        assert_eq!(harmless("a\x1b]0;title\x07b"), "a]0;titleb");
        assert_eq!(harmless("\x1b[31"), "");
        assert_eq!(harmless("\x1b[31\nnext"), "\nnext");
        assert_eq!(harmless("\u{9b}31mé"), "31mé");
    }

    #[test]
    fn a_line_is_cut_between_words() {
        let mut line = Line::of(Style::Green, "serving and");
        line.push(Style::Plain, " watching   ");
        let cut = |width| line.cut(width).plain();
        assert_eq!(cut(20), "serving and watching");
        assert_eq!(cut(19), "serving and…");
        assert_eq!(cut(12), "serving and…");
        assert_eq!(cut(11), "serving…");
        assert_eq!(cut(4), "ser…");
        assert_eq!((cut(1).as_str(), cut(0).as_str()), ("…", ""));
    }

    #[test]
    fn a_line_is_cut_where_the_terminal_ends_and_its_style_with_it() {
        let mut line = Line::of(Style::Green, "ser\x1b[2Jving");
        line.push(Style::Green, "!");
        line.push(Style::Plain, " for ever ");
        assert_eq!(line.plain(), "serving! for ever");
        assert_eq!(line.styled(10), "\x1b[0;32mserving!\x1b[0m f\x1b[0m");
    }
}
